"""Targets and neighbourhoods through Ray: a sweep ends when its targets are met, and keeps away from what failed."""

from __future__ import annotations

from platform.search.avoidance import read_avoided
from platform.sweeps.journal import read_events
from tests.sweeps.workplace import TINY_CNN, Workplace, states


def test_a_sweep_ends_when_one_trial_meets_its_targets(place: Workplace) -> None:
    code = place.sweep(
        search={"metric": "val/auroc", "mode": "max", "scheduler": "none"},
        budget={"trials": 5, "epochs": 4},
        stop_when={"min_metric": 0.01, "onnx_kib": 500},
        targets={"min_metric": 0.01, "latency_ms": 1000},
    )
    record = place.record()
    assert code == 0
    assert states(record) == {"t0000": "STOPPED"}
    assert (record.trials["t0000"].stopped_by, record.trials["t0000"].epochs) == ("target", 1)
    assert [event.body["reason"] for event in record.closed] == ["target"]
    assert record.tested[0].trial == "t0000"
    assert 0 < record.trials["t0000"].measured["latency_ms"] < 1000
    report = (place.runs / "tiny-001" / "report.html").read_text(encoding="utf-8")
    assert "chosen: t0000, the smallest that meets every target" in report


def test_a_sweep_keeps_away_from_what_failed_and_says_so_in_files(place: Workplace) -> None:
    code = place.sweep(
        params={**TINY_CNN, "lr": {"quniform": [0.001, 0.005, 0.001]}},
        search={
            "metric": "val/auroc", "mode": "max", "scheduler": "none", "sampler": "grid",
            "avoid": {"unless": "val/auroc >= 1", "radius": 0.001},
        },
        budget={"trials": 5, "epochs": 1},
    )  # fmt: skip
    folder = place.runs / "tiny-001"
    assert code == 0
    assert [trial.params["lr"] for trial in place.record().trials.values()] == [0.001, 0.003, 0.005]
    assert read_avoided(folder / "avoid") == {"cnn": [0.001, 0.003, 0.005]}
    assert sum(event.kind == "infeasible" for event in read_events(folder)) == 2
