"""Targets end a search when one trial meets all, and what they mean follows from their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from platform.specs.spec import Spec
from platform.specs.targets import Target, are_met, miss_lines, parse_targets, relative_miss
from platform.sweeps.journal import read_events, replay
from tests.platform.simulated_sweep import Disk, Killed, Session, rebuilt_study
from tests.platform.small_spec import make_spec, search

KIB = 1024.0


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def rising(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
    """Reach the drop-out itself at epoch 4, and stay there."""
    return {"val/auroc": params["dropout"] * min(epoch, 4) / 4}


def sizes(params: Mapping[str, Any]) -> dict[str, float]:
    return {"parameters": 1.0, "onnx_bytes": KIB * 100 * params["dropout"]}


def spec_of(dropouts: list[float], stop_when: dict[str, float] | None = None, **sections: Any) -> Spec:
    return make_spec(
        {"dropout": {"choice": dropouts}},
        search=search(sampler="grid"),
        budget={"trials": 9, "epochs": 6},
        stop_when={"min_metric": 0.7, "onnx_kib": 80} if stop_when is None else stop_when,
        **sections,
    )


def session_of(spec: Spec, disk: Disk, **options: Any) -> Session:
    return Session(spec, disk, curve=rising, static_quantities=sizes, **options)


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "quantity", "direction", "scale"),
    [
        ("min_metric", "val/auroc", ">=", 1),
        ("f1", "val/f1", ">=", 1),
        ("val/specificity", "val/specificity", ">=", 1),
        ("val/loss", "val/loss", "<=", 1),
        ("mae", "val/mae", "<=", 1),
        ("onnx_kib", "onnx_bytes", "<=", 1024),
        ("peak_memory_bytes", "peak_memory_bytes", "<=", 1),
        ("parameters", "parameters", "<=", 1),
        ("latency_ms", "latency_ms", "<=", 1),
    ],
)
def test_a_name_says_the_quantity_its_unit_and_which_way_is_better(
    name: str, quantity: str, direction: str, scale: float
) -> None:
    target = Target.of(name, 3.0, "val/auroc")
    assert (target.quantity, target.direction, target.scale) == (quantity, direction, scale)


def test_a_miss_is_in_the_unit_of_the_name_and_nothing_where_the_target_is_met() -> None:
    targets = parse_targets({"min_metric": 0.95, "onnx_kib": 60.0}, "val/auroc")
    assert not are_met(targets, {"val/auroc": 0.95, "onnx_bytes": 60 * KIB + 1})
    assert are_met(targets, {"val/auroc": 0.95, "onnx_bytes": 60 * KIB})
    quantities = {"val/auroc": 0.93, "onnx_bytes": 84 * KIB}
    assert [target.miss(quantities) for target in targets] == pytest.approx([0.02, 24])
    assert relative_miss(targets, quantities) == pytest.approx(0.02 / 0.95 + 24 / 60)
    assert list(miss_lines(targets, quantities)) == [
        "min_metric >= 0.95: 0.93, misses by 0.02",
        "onnx_kib <= 60: 84, misses by 24",
    ]
    assert list(miss_lines(targets[:1], {})) == ["min_metric >= 0.95: unknown, misses by inf"]


def test_no_target_is_never_met() -> None:
    assert not are_met((), {"val/auroc": 1.0})


# ------------------------------------------------------------------ the end of a search


def test_the_search_ends_with_the_first_trial_that_meets_all(disk: Disk) -> None:
    session = session_of(spec_of([0.6, 0.9, 0.75, 0.7]), disk).run()  # 0.9 is too large, 0.6 too weak
    assert [trial.state for trial in session.record.trials.values()] == ["COMPLETED", "COMPLETED", "STOPPED"]
    last = session.record.trials["t0002"]
    assert (last.epochs, last.stopped_by, session.study.met_by) == (4, "target", "t0002")
    assert session.study.propose() is None
    assert session.study.failure == ""


def test_trials_that_run_beside_it_are_stopped_at_their_next_report(disk: Disk) -> None:
    session = session_of(spec_of([0.1, 0.75]), disk)
    tasks = [task for task in (session.study.propose(), session.study.propose()) if task is not None]
    for task in tasks:
        session.study.on_start(task["trial"])
    assert [session.report(tasks[0], 1), *(session.report(tasks[1], epoch) for epoch in (1, 2, 3))] == ["continue"] * 4
    assert session.report(tasks[1], 4) == "stop"
    assert session.report(tasks[0], 2) == "stop"
    for task in tasks:
        session.study.on_message(task["trial"], {"outcome": "STOPPED", "error": ""})
    reasons = {event.trial: event.body["reason"] for event in read_events(disk.folder) if event.kind == "ended"}
    assert reasons == {"t0000": "target", "t0001": "target"}


def test_a_search_that_met_its_targets_stays_ended_after_a_kill(disk: Disk) -> None:
    spec = spec_of([0.75, 0.8])
    with pytest.raises(Killed):
        session_of(spec, disk, kill_after=5).run()  # a proposal and four reports
    session = session_of(spec, disk)
    assert session.study.propose() is None
    (trial,) = session.record.trials.values()
    assert (trial.state, trial.stopped_by) == ("STOPPED", "target")


def test_a_resume_with_higher_targets_goes_on(disk: Disk) -> None:
    session_of(spec_of([0.75, 0.79]), disk).run()
    session = session_of(spec_of([0.75, 0.79], {"min_metric": 0.78}), disk).run()
    assert len(session.record.trials) == 2


def test_a_trial_that_breaks_a_constraint_ends_nothing(disk: Disk) -> None:
    session = session_of(spec_of([0.75, 0.72], constraints=["onnx_bytes <= 75000"]), disk).run()
    assert session.study.met_by == "t0001"
    assert len(session.record.infeasible) == 1


def test_optuna_is_told_that_trials_stopped_by_a_target_were_stopped(disk: Disk) -> None:
    session = session_of(spec_of([0.75]), disk).run()
    (trial,) = rebuilt_study(spec_of([0.75]), replay(read_events(disk.folder))).trials
    assert trial.state.name == "PRUNED"
    assert session.study.optuna_study.trials[0].state.name == "PRUNED"


# ------------------------------------------------------------------ the spec


def test_the_targets_that_choose_are_those_that_stop_unless_given() -> None:
    assert [t.text for t in spec_of([0.1]).choosing_targets] == ["min_metric >= 0.7", "onnx_kib <= 80"]
    assert [t.text for t in spec_of([0.1], targets={"latency_ms": 5}).choosing_targets] == ["latency_ms <= 5"]


@pytest.mark.parametrize(
    ("sections", "rule"),
    [
        ({"stop_when": {"latency_ms": 5}}, r"is measured after the search; name it in targets or constraints"),
        ({"stop_when": {"min_metric": float("nan")}}, "finite"),
        ({"stop_when": {"onnx_kib": "60"}}, "valid number"),
        (
            {"stop_when": {"min_metric": 0.1}, "search": {"metric": "val/loss", "mode": "min", "scheduler": "none"}},
            "val/loss is the better the smaller; name that metric instead",
        ),
    ],
)
def test_a_target_that_could_not_be_met_is_refused(sections: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        make_spec(**sections)


def test_a_target_that_no_trial_reports_is_refused_before_the_sweep() -> None:
    with pytest.raises(ValueError, match=r"target f2 >= 0\.9: supervised reports no 'val/f2'"):
        spec_of([0.1], {"f2": 0.9}).check_quantities("binary")
    spec_of([0.1], {"specificity": 0.9}, targets={"latency_ms": 5}).check_quantities("binary")


def test_a_bound_on_latency_is_taken_and_filters_no_proposal(disk: Disk) -> None:
    spec = spec_of([0.6, 0.5], {}, constraints=["latency_ms <= 5"])
    spec.check_quantities("binary")
    session = session_of(spec, disk).run()
    assert [trial.state for trial in session.record.trials.values()] == ["COMPLETED"] * 2
    assert all(trial.constraints == {} for trial in session.record.trials.values())


def test_the_page_on_targets_shows_a_spec_that_works() -> None:
    page = (Path(__file__).parents[3] / "docs" / "targets.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```\n", page, flags=re.MULTILINE | re.DOTALL)
    spec = make_spec(**YAML(typ="safe", pure=True).load(example))
    spec.check_quantities("binary")
    assert [target.text for target in spec.stopping_targets] == ["min_metric >= 0.95", "onnx_kib <= 60"]
    assert spec.choosing_targets[-1].text == "latency_ms <= 2"
