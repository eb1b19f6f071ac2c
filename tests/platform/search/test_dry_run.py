from __future__ import annotations

import os
from pathlib import Path

import pytest

from platform.search.dry_run import dry_run_text
from platform.specs.spec import Spec, parse_spec
from tests.platform.small_spec import make_spec, search

ROOT = Path(__file__).parents[3]


def asha(epochs: int, **keys: float) -> Spec:
    section = {"metric": "val/auroc", "mode": "max", "scheduler": "asha", **keys}
    return make_spec(search=section, budget={"trials": 20, "epochs": epochs})


def test_the_rungs_are_those_of_rays_float_logarithm() -> None:
    assert "\n  1, 3, 9, 27, 81 (epochs)\n" in dry_run_text(asha(243, grace_period=1))
    assert "\n  3, 9, 27 (epochs)\n" in dry_run_text(asha(27))


def test_each_bracket_starts_one_rung_later() -> None:
    text = dry_run_text(asha(27, brackets=2))
    assert "bracket 0: 3, 9, 27 (epochs)" in text
    assert "bracket 1: 9, 27 (epochs)" in text


def test_three_configurations_are_sampled_and_the_seed_decides_them() -> None:
    first, again = dry_run_text(asha(9)), dry_run_text(asha(9))
    assert first == again
    block = first.split("sampled configurations\n")[1].split("\n\n")[0]
    assert sum(line.startswith("  lr: ") for line in block.splitlines()) == 3
    other = make_spec(seed=4)
    assert block not in dry_run_text(other)


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        ({"trials": 20, "epochs": 9}, "at most 180 epochs: 20 trials x 9 epochs\n"),
        ({"trials": 20, "epochs": 9, "total_epochs": 100}, "at most 100 epochs: 20 trials x 9 epochs, bounded by"),
        ({"trials": 20, "epochs": 9, "total_epochs": 1000}, "at most 180 epochs: 20 trials x 9 epochs\n"),
    ],
)
def test_the_most_epochs_that_the_budget_can_cost_are_given(budget: dict[str, int], line: str) -> None:
    assert line in dry_run_text(make_spec(budget=budget, search=search()))


def test_a_plain_run_says_that_it_is_one() -> None:
    text = dry_run_text(make_spec({"model": "cnn"}))
    assert "no verb in params: one plain training run" in text
    assert "at most 9 epochs: 1 trial x 9 epochs" in text
    assert "none: one trial of 9 epochs" in text


def test_the_resolved_spec_in_the_text_reads_back(tmp_path: Path) -> None:
    spec = parse_spec(ROOT / "searchspaces/quickstart.yaml")
    block = dry_run_text(spec).split("\n\n")[0].split("\n", 1)[1]
    path = tmp_path / "resolved.yaml"
    path.write_text("\n".join(line[2:] for line in block.splitlines()), encoding="utf-8")
    assert parse_spec(path) == spec


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse_spec(ROOT / "searchspaces/quickstart.yaml")
    monkeypatch.chdir(tmp_path)
    text = dry_run_text(spec)
    assert os.listdir(tmp_path) == []
    assert "stores/synthetic_rhythm will be made at first use: 2,000 synthetic records" in text


def test_the_records_and_folds_of_a_store_are_given(tmp_path: Path) -> None:
    from data.ingest import ingest_serially
    from data.synthetic import SyntheticReader

    data = {"store": str(tmp_path / "beats"), "synthetic": {"task": "beats", "n_records": 200}}
    spec = make_spec(data=data)
    assert spec.data.synthetic is not None
    ingest_serially(SyntheticReader(spec.data.synthetic), Path(spec.data.store))
    text = dry_run_text(spec)
    assert "(folds 1, 2, 3, 4, 5, 6, 7, 8)" in text
    assert "(fold 9)" in text
    assert "1 leads x 600 timesteps" not in text
    assert "1 lead x 600 timesteps" in text


def test_a_store_that_is_missing_is_named_with_the_way_out(tmp_path: Path) -> None:
    spec = make_spec(data={"store": str(tmp_path / "nowhere")})
    assert "nowhere does not exist; write it with python -m platform.ingest" in dry_run_text(spec)
