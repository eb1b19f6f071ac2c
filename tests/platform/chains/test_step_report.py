"""The report of a data step, from its journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from platform.chains.step_report import render_step_report, write_step_report
from platform.sweeps.journal import Journal


def write_step(folder: Path, points: list[tuple[dict[str, Any], dict[str, float]]]) -> Path:
    folder.mkdir()
    journal = Journal(folder)
    journal.append("opened", name="clusters", spec={}, fingerprint="abc", code="x", overrides=[], command="python -m x",
                   notes=[], n_bad_records=0, git_commit="", versions="", resumed=False)  # fmt: skip
    for number, (params, measures) in enumerate(points):
        trial = f"t{number:04d}"
        journal.append("proposed", trial, number=number, params=params, sampled=params, distributions={}, static={},
                       system_attrs={})  # fmt: skip
        journal.append("started", trial, attempt=1)
        journal.append("reported", trial, epoch=1, metrics=measures)
        journal.append("ended", trial, state="COMPLETED", error="", constraints={})
    journal.append("closed", reason="done", metrics={})
    journal.close()
    (folder / "spec.yaml").write_text("step: x\n", encoding="utf-8")
    return folder


def test_it_has_the_elbow_and_every_point(tmp_path: Path) -> None:
    points = [
        ({"features": f"/runs/a-001/{kind}/trials/t0000/features", "num_clusters": number, "n_init": 20},
         {"inertia": 1 / number, "davies_bouldin": 1.2})
        for kind in ("mfcc", "mixed") for number in (50, 100)
    ]  # fmt: skip
    html = render_step_report(write_step(tmp_path / "clusters", points))
    assert "inertia over num_clusters" in html and "davies_bouldin over num_clusters" in html
    assert "features mfcc" in html and "features mixed" in html
    assert html.count("<td>t000") == 4
    assert "n_init" not in html.split("<h2>Points</h2>")[1].split("</table>")[0]


def test_a_step_without_a_search_has_a_table_alone(tmp_path: Path) -> None:
    folder = write_step(tmp_path / "features", [({"feature_type": "mfcc"}, {"features": 39.0})])
    write_step_report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "39" in html and " over " not in html.split("<h2>Points</h2>")[0].split("</style>")[1].split("<script>")[0]
