"""What the benchmark of ATML says of two fronts, and that its program runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import atml
from benchmarks.atml import CRITERION, EXHAUSTIVE, KIB, Searched, front_worth, measured, size_limits
from platform.specs.spec import parse_spec
from platform.sweeps.journal import Event, SweepRecord, replay


def record(*models: tuple[float, float], epochs: int = 2) -> SweepRecord:
    """Return a sweep of trials with these (criterion, KiB)."""
    events = [Event("opened", 0)]
    for number, (criterion, kib) in enumerate(models):
        name = f"t{number:04d}"
        static = {"onnx_bytes": kib * KIB}
        proposal: dict[str, Any] = {"number": number, "params": {}, "sampled": {}, "distributions": {}}
        events.append(Event("proposed", 0, name, {**proposal, "static": static}))
        for epoch in range(1, epochs + 1):
            events.append(Event("reported", 0, name, {"epoch": epoch, "metrics": {CRITERION: criterion}}))
        events.append(Event("ended", 0, name, {"state": "COMPLETED"}))
    return replay(events)


def test_a_front_is_worth_the_best_criterion_within_each_size() -> None:
    searched = Searched(record((0.9, 64), (0.5, 80)), record((0.8, 16)))
    assert [(trial.static["onnx_bytes"] / KIB) for trial in searched.front] == [64, 16]
    limits = size_limits(searched.front, n_limits=3)
    assert limits == pytest.approx([16 * KIB, 32 * KIB, 64 * KIB])
    assert front_worth(searched.front, [16 * KIB, 32 * KIB, 65 * KIB]) == pytest.approx((0.8 + 0.8 + 0.9) / 3)
    assert front_worth(searched.front, [8 * KIB]) == 0.0


def test_equal_fronts_are_worth_the_same_and_epochs_are_those_of_both_phases() -> None:
    models = (0.9, 64.0), (0.8, 16.0)
    ours, theirs = Searched(record(models[0]), record(models[1])), Searched(record(*models, epochs=4), record(*models))
    figures = {figure.name: figure.median for figure in measured(ours, theirs)}
    assert (figures["epochs, search"], figures["epochs, exhaustive"]) == (4, 12)
    assert figures["exhaustive / search"] == 3.0
    assert figures["front: search / exhaustive"] == 1.0


def test_the_exhaustive_order_has_the_originals_points() -> None:
    for phase, changes, n_points in ((1, EXHAUSTIVE.phase1, 24), (2, EXHAUSTIVE.phase2, 25)):
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        spec = parse_spec(atml.ROOT / "searchspaces" / f"atml_phase{phase}.yaml", overrides)
        assert len(spec.space.grid()) == spec.budget.trials == n_points
        assert (spec.search.scheduler, spec.search.avoid, spec.constraints) == ("none", None, ())
        assert spec.stopping_targets == ()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_benchmark_runs(recordings: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    source = recordings / "af_segments" / "af_segments.zip"
    assert atml.main([str(source), "--folder", str(tmp_path), "--epochs", "3", "--json", str(file)]) == 0
    names = [figure["name"] for figure in json.loads(file.read_text())["figures"]]
    assert "exhaustive / search" in names
