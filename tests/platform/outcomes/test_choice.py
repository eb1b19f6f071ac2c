"""The model a sweep comes out with: the front measured once, the targets met by the smallest or missed by least."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from platform.methods.finished_sweep import Findings
from platform.methods.outcomes import METHOD_OUTCOMES, MethodOutcome
from platform.outcomes.choice import Choice, choose
from platform.specs.spec import Spec
from platform.sweeps.journal import Event, Journal, SweepRecord, TrialRecord, read_events, replay
from platform.sweeps.pareto import front_axes, front_of
from tests.platform.small_spec import make_spec, search
from trainables.tune_trial import BEST_FILE

KIB = 1024.0
AUROC = [("val/auroc", "max")]


class Sweep:
    """A sweep's folder whose trials have ended, with models that take a known time to answer."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder, self.record = folder, SweepRecord()
        self.journal = Journal(folder)
        self.spec: Spec = make_spec(search=search(), **sections)
        self.latencies: dict[str, float] = {}
        self.measured: list[str] = []
        self.record.apply(self.journal.append("opened", resumed=False))

    def trial(self, auroc: float, kib: float, latency: float = 1.0, *, kept: bool = True, **metrics: float) -> str:
        name = f"t{len(self.record.trials):04d}"
        static = {"onnx_bytes": kib * KIB, "parameters": 1.0}
        body = {"number": 0, "params": {}, "sampled": {}, "distributions": {}, "static": static}
        report = {"val/auroc": auroc, **{f"val/{key}": value for key, value in metrics.items()}}
        for event in (
            self.journal.append("proposed", name, **body),
            self.journal.append("reported", name, epoch=1, metrics=report),
            self.journal.append("ended", name, state="COMPLETED", constraints={}),
        ):
            self.record.apply(event)
        self.latencies[name] = latency
        if kept:
            (self.folder / "trials" / name).mkdir(parents=True)
            (self.folder / "trials" / name / BEST_FILE).touch()
        return name

    def choose(self) -> Choice | None:
        return choose(self.spec, self.folder, self.record, self.journal, self._measure)

    def _measure(self, trial: TrialRecord) -> float:
        self.measured.append(trial.trial)
        return self.latencies[trial.trial]


def names(choice: Choice | None) -> tuple[str, list[str]]:
    assert choice is not None
    return choice.chosen.trial, [trial.trial for trial in choice.front]


# ------------------------------------------------------------------ the front


def test_the_front_is_in_the_plane_of_the_objective_and_the_size_and_is_measured_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.trial(0.9, 80)
    sweep.trial(0.8, 90)  # dominated by t0000
    sweep.trial(0.7, 20)
    assert names(sweep.choose()) == ("t0000", ["t0000", "t0002"])
    assert sweep.measured == ["t0000", "t0002"]
    again = Sweep(tmp_path)
    again.record, again.latencies = replay(read_events(tmp_path)), sweep.latencies
    assert names(again.choose()) == ("t0000", ["t0000", "t0002"])
    assert again.measured == []
    assert again.record.trials["t0002"].measured == {"latency_ms": 1.0}


def test_of_equal_models_the_smaller_is_chosen(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.trial(0.9, 80)
    sweep.trial(0.9, 40)
    assert names(sweep.choose()) == ("t0001", ["t0001"])


def test_a_trial_without_a_checkpoint_is_no_candidate(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.trial(0.9, 80, kept=False)
    sweep.trial(0.8, 90)
    assert names(sweep.choose()) == ("t0001", ["t0001"])


def test_a_sweep_without_a_feasible_trial_comes_out_with_none(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    assert sweep.choose() is None
    assert sweep.measured == []


def test_what_the_targets_name_is_an_axis_so_that_whatever_meets_them_is_on_the_front(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, targets={"specificity": 0.9, "onnx_kib": 60})
    sweep.trial(0.9, 50, specificity=0.5)
    sweep.trial(0.8, 55, specificity=0.95)
    assert names(sweep.choose()) == ("t0001", ["t0000", "t0001"])
    assert [name for name, _ in front_axes(sweep.spec)] == ["val/auroc", "val/specificity", "onnx_bytes"]


def test_an_axis_of_which_no_trial_knows_the_number_does_not_count(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.trial(0.9, 50)
    assert [t.trial for t in front_of(list(sweep.record.trials.values()), [("depth", "max")], AUROC)] == []
    both = front_of(list(sweep.record.trials.values()), [("depth", "max"), ("onnx_bytes", "min")], AUROC)
    assert [trial.trial for trial in both] == ["t0000"]


# ------------------------------------------------------------------ targets


def test_the_smallest_model_that_meets_every_target_is_chosen(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, stop_when={"min_metric": 0.8, "onnx_kib": 60})
    sweep.trial(0.95, 84)
    sweep.trial(0.9, 59)
    sweep.trial(0.81, 30)
    sweep.trial(0.6, 10)
    choice = sweep.choose()
    assert names(choice)[0] == "t0002"
    assert choice is not None
    assert choice.is_met
    assert "chosen: t0002, the smallest that meets every target" in "\n".join(choice.lines())


def test_where_none_meets_the_targets_the_nearest_says_by_how_much_it_misses(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, stop_when={"min_metric": 0.95, "onnx_kib": 60})
    sweep.trial(0.96, 120)  # misses by the whole bound
    sweep.trial(0.93, 50)  # by 2 %
    sweep.trial(0.5, 10)
    choice = sweep.choose()
    assert names(choice)[0] == "t0001"
    assert choice is not None
    assert not choice.is_met
    text = "\n".join(choice.lines())
    assert "no model meets every target, and it is the nearest" in text
    assert "min_metric >= 0.95: 0.93, misses by 0.02" in text
    assert "onnx_kib <= 60: 50, met" in text
    row = choice.table().rows[names(choice)[1].index("t0001")]
    assert [cell.text for cell in row[-2:]] == ["misses by 0.02", "met"]


# ------------------------------------------------------------------ latency


def test_the_best_of_every_cell_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = MethodOutcome(lambda finished: Findings(), lambda params: params.get("model", "other"))
    monkeypatch.setitem(METHOD_OUTCOMES, "supervised", own)
    sweep = Sweep(tmp_path)
    for auroc, kib in ((0.9, 10), (0.8, 20), (0.7, 30)):
        sweep.trial(auroc, kib)
    sweep.record.trials["t0000"].params["model"] = "AFNet"
    sweep.choose()
    assert sweep.measured == ["t0000", "t0001"]


def test_a_target_of_latency_chooses_among_measured_models(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, targets={"min_metric": 0.7, "latency_ms": 2})
    sweep.trial(0.9, 80, 5.0)
    sweep.trial(0.75, 20, 1.0)
    assert names(sweep.choose())[0] == "t0001"


def test_a_bound_on_latency_takes_models_off_the_front_and_brings_others_onto_it(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, constraints=["latency_ms <= 2"])
    sweep.trial(0.9, 80, 5.0)
    sweep.trial(0.8, 90, 1.5)  # dominated, until t0000 is too slow
    sweep.trial(0.7, 95, 1.0)
    assert names(sweep.choose()) == ("t0001", ["t0001"])
    assert sweep.measured == ["t0000", "t0001"]
    slow = sweep.record.trials["t0000"]
    assert slow.measured_constraints == {"latency_ms <= 2": 3.0}
    assert not slow.is_feasible
    assert slow.constraints == {}  # what the sampler hears


def test_where_every_model_is_too_slow_there_is_none(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, constraints=["latency_ms <= 2"])
    sweep.trial(0.9, 80, 5.0)
    sweep.trial(0.8, 90, 4.0)
    assert sweep.choose() is None
    assert sweep.measured == ["t0000", "t0001"]


def test_a_measured_event_survives_in_the_journal(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.trial(0.9, 80, 0.25)
    sweep.choose()
    (event,) = [event for event in read_events(tmp_path) if event.kind == "measured"]
    assert event == Event("measured", event.time_s, "t0000", {"quantities": {"latency_ms": 0.25}, "constraints": {}})
