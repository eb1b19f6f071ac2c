"""Neighbourhood pruning: what lies near a learning rate that failed is not tried again, and that survives a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from platform.search.avoidance import Avoidance, AvoidFiles, avoided_at_start, new_avoided, read_avoided
from platform.specs.sections import AvoidSpec
from platform.specs.spec import Spec
from platform.sweeps.journal import Event, Journal, SweepRecord, replay
from tests.platform.simulated_sweep import Disk, Session, facts, objectives_of, run_killed_every
from tests.platform.small_spec import make_spec, search

AVOID = {"unless": "val/auroc >= 0.6", "radius": 1e-3}
PUBLISHED = {"low": {"quniform": [0.0015, 0.005, 0.0005]}, "one": {"quniform": [0.001, 0.005, 0.0005]}}


def spec_of(lr: dict[str, Any], models: list[str] | None = None, **keys: Any) -> Spec:
    keys = {"avoid": AVOID, "sampler": "grid", **keys}
    params = {"model": {"choice": models or ["cnn"]}, "lr": lr}
    return make_spec(params, search=search(**keys), budget={"trials": 60, "epochs": 2})


def bad(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
    return {"val/auroc": 0.5}


def tried(session: Session, model: str = "cnn") -> list[float]:
    return [trial.params["lr"] for trial in session.record.trials.values() if trial.params["model"] == model]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def no_sizes(params: Mapping[str, Any]) -> dict[str, float]:
    return {}


def run(spec: Spec, disk: Disk, curve: Any = bad, **options: Any) -> Session:
    return Session(spec, disk, curve=curve, static_quantities=no_sizes, **options).run()


# ------------------------------------------------------------------ grid


@pytest.mark.parametrize(
    ("grid", "visited"),
    [(PUBLISHED["low"], [0.0015, 0.003, 0.0045]), (PUBLISHED["one"], [0.001, 0.0025, 0.004])],
)
def test_repeated_failure_walks_the_published_grids_in_the_published_steps(
    grid: dict[str, Any], visited: list[float], disk: Disk
) -> None:
    session = run(spec_of(grid), disk)
    assert tried(session) == visited
    assert len(session.record.infeasible) == len(spec_of(grid).space.grid()) - 3
    assert session.study.failure == ""


def test_success_advances_too_and_no_rate_is_tried_twice(disk: Disk) -> None:
    session = run(spec_of(PUBLISHED["low"]), disk, curve=lambda params, epoch: {"val/auroc": 0.9})
    assert tried(session) == [0.0015, 0.002, 0.0025, 0.003, 0.0035, 0.004, 0.0045, 0.005]
    assert session.record.infeasible == []


def test_one_architectures_failure_says_nothing_about_another(disk: Disk) -> None:
    def curve(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
        return {"val/auroc": 0.5 if params["model"] == "cnn" else 0.9}

    session = run(spec_of(PUBLISHED["low"], ["cnn", "fcn_wang"]), disk, curve)
    assert tried(session) == [0.0015, 0.003, 0.0045]
    assert len(tried(session, "fcn_wang")) == 8


def test_without_a_group_a_failure_counts_for_all(disk: Disk) -> None:
    spec = spec_of(PUBLISHED["low"], ["cnn", "fcn_wang"], avoid={**AVOID, "per": None})
    session = run(spec, disk)
    assert tried(session) == [0.0015, 0.003, 0.0045]
    assert tried(session, "fcn_wang") == []


def test_a_proposal_that_is_avoided_is_in_the_journal_with_its_reason_and_was_never_built(disk: Disk) -> None:
    built = []

    def sizes(params: Mapping[str, Any]) -> dict[str, float]:
        built.append(params["lr"])
        return {}

    session = Session(spec_of(PUBLISHED["low"]), disk, curve=bad, static_quantities=sizes).run()
    assert built == tried(session)
    reasons = {key for event in session.record.infeasible for key in event.body["constraints"]}
    assert reasons == {"lr more than 0.001 from one that failed"}


# ------------------------------------------------------------------ TPE


def test_tpe_proposes_no_trial_within_the_radius_on_a_log_scale(disk: Disk) -> None:
    def curve(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
        return {"val/auroc": 0.9 - 0.2 * abs(math.log10(params["lr"]) + 2)}  # at least 0.6 from 10^-3.5 to 10^-0.5

    avoid = {**AVOID, "radius": 0.3, "scale": "log"}
    spec = spec_of({"loguniform": [1e-6, 1e-1]}, sampler="tpe", n_startup_trials=5, avoid=avoid)
    session = run(spec, disk, curve)
    rates = tried(session)
    assert len(rates) == 60
    for number, rate in enumerate(rates):
        failed = [earlier for earlier in rates[:number] if curve({"lr": earlier}, 1)["val/auroc"] < 0.6]
        assert all(abs(math.log10(rate / earlier)) > 0.3 for earlier in failed)
    assert session.record.infeasible
    assert sum(curve({"lr": rate}, 1)["val/auroc"] < 0.6 for rate in rates) <= 9  # 2.5 decades hold no more


def test_a_search_whose_whole_range_failed_ends_and_says_why(disk: Disk) -> None:
    avoid = {**AVOID, "radius": 9, "scale": "log"}
    session = run(spec_of({"loguniform": [1e-4, 1e-2]}, sampler="random", avoid=avoid), disk)
    assert len(session.record.trials) == 1
    assert "break the constraints lr more than 9 decades from one that failed" in session.study.failure


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
@pytest.mark.parametrize("k", [1, 3])
def test_what_failed_survives_a_kill(sampler: str, k: int, tmp_path: Path) -> None:
    keys = {"sampler": sampler, **({"n_startup_trials": 4} if sampler == "tpe" else {})}
    params = {"model": {"choice": ["cnn", "fcn_wang"]}, "lr": PUBLISHED["low"]}
    spec = make_spec(params, search=search(avoid=AVOID, **keys), budget={"trials": 6, "epochs": 1})
    disks = [Disk(tmp_path / "unbroken"), Disk(tmp_path / "killed")]
    for one in disks:
        one.folder.mkdir()
    first = Session(spec, disks[0], curve=bad, static_quantities=no_sizes).run()
    second = run_killed_every(k, spec, disks[1], curve=bad, static_quantities=no_sizes)
    assert facts(second.study.optuna_study) == facts(first.study.optuna_study)
    assert first.record.infeasible


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_a_sampler_that_would_propose_the_same_again_is_refused(sampler: str) -> None:
    with pytest.raises(ValidationError, match=r"does not take search\.avoid"):
        make_spec({"lr": {"loguniform": [1e-4, 1e-1]}}, search=search(sampler=sampler, avoid=AVOID))


# ------------------------------------------------------------------ what has failed


def ended(state: str, auroc: float = 0.5, lr: float = 0.01, **body: Any) -> SweepRecord:
    proposal = {"number": 0, "params": {"lr": lr, "model": "cnn"}, "sampled": {}, "distributions": {}}
    return replay(
        [
            Event("opened", 0),
            Event("proposed", 0, "t0000", proposal),
            Event("reported", 0, "t0000", {"epoch": 1, "metrics": {"val/auroc": auroc}}),
            Event("ended", 0, "t0000", {"state": state, **body}),
        ]
    )


def values_of(record: SweepRecord) -> dict[str, list[float]]:
    return Avoidance(AvoidSpec.model_validate(AVOID), [("val/auroc", "max")], record).values


@pytest.mark.parametrize(
    ("state", "auroc", "body", "has_failed"),
    [
        ("COMPLETED", 0.59, {}, True),
        ("COMPLETED", 0.6, {}, False),
        ("STOPPED", 0.5, {"reason": "scheduler"}, True),
        ("STOPPED", 0.5, {"reason": "budget"}, False),  # it might have come to something
        ("STOPPED", 0.5, {"reason": "target"}, False),
        ("FAILED", 0.9, {"error": "Traceback\nFloatingPointError: train/loss is nan after epoch 2"}, True),
        ("FAILED", 0.5, {"error": "Traceback\nMemoryError"}, False),
    ],
)
def test_what_counts_as_failed(state: str, auroc: float, body: dict[str, Any], has_failed: bool) -> None:
    assert values_of(ended(state, auroc, **body)) == ({"cnn": [0.01]} if has_failed else {})


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.floats(1e-4, 3.0), st.sampled_from(["linear", "log"]))
def test_the_excess_is_positive_within_the_radius_alone(rate: float, failed: float, radius: float, scale: str) -> None:
    avoid = AvoidSpec.model_validate({**AVOID, "radius": radius, "scale": scale})
    avoidance = Avoidance(avoid, [("val/auroc", "max")], ended("COMPLETED", lr=failed))
    (excess,) = avoidance.excess({"lr": rate, "model": "cnn"}).values()
    distance = abs(math.log10(rate) - math.log10(failed)) if scale == "log" else abs(rate - failed)
    if abs(distance - radius) > 1e-6 * radius:
        assert (excess > 0) == (distance < radius)
    assert avoidance.excess({"lr": rate, "model": "fcn_wang"}) == {}


# ------------------------------------------------------------------ the files


def test_the_files_hold_one_rate_a_line_and_are_read_again(tmp_path: Path) -> None:
    spec, observers = spec_of(PUBLISHED["low"], ["cnn", "fcn_wang"]), list[Callable[[Event], None]]()

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    session = Session(spec, Disk(tmp_path), curve=bad, static_quantities=no_sizes, observers=[observe])
    assert spec.search.avoid is not None
    observers.append(AvoidFiles(tmp_path, spec.search.avoid, objectives_of(spec), session.record).on_event)
    session.run()
    assert (tmp_path / "avoid" / "cnn" / "avoid.txt").read_text() == "0.0015\n0.003\n0.0045\n"
    rates = [0.0015, 0.003, 0.0045]
    assert read_avoided(tmp_path / "avoid") == {"cnn": rates, "fcn_wang": rates}


def test_a_file_of_the_original_is_read_though_a_blank_line_breaks_the_originals_parser(tmp_path: Path) -> None:
    (tmp_path / "avoid.txt").write_text("\n0.0025\n0.004  # too fast\n\n")
    assert read_avoided(tmp_path / "avoid.txt") == {"": [0.0025, 0.004]}


def test_what_the_file_holds_is_written_into_the_journal_once_and_avoided_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "avoid.txt").write_text("0.0025\n")
    spec = spec_of(PUBLISHED["low"], avoid={**AVOID, "read": str(tmp_path / "avoid.txt")})
    journal, record = Journal(tmp_path), SweepRecord()
    for _ in range(2):
        for event in new_avoided(avoided_at_start(spec.search.avoid), record, journal):
            record.apply(event)
    journal.close()
    (tmp_path / "avoid.txt").unlink()
    assert [event.body for event in record.avoided] == [{"group": "", "values": [0.0025]}]
    session = run(spec, Disk(tmp_path), curve=lambda params, epoch: {"val/auroc": 0.9})
    assert tried(session) == [0.004, 0.0045, 0.005]


@pytest.mark.parametrize(("text", "line"), [("0.001\nfast\n", 2), ("nan\n", 1), ("0.1 0.2\n", 1)])
def test_a_line_that_is_no_number_is_named(text: str, line: int, tmp_path: Path) -> None:
    (tmp_path / "avoid.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"avoid.txt:{line}: must be one finite number a line"):
        read_avoided(tmp_path / "avoid.txt")


def test_a_place_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"search\.avoid\.read: .*nothing is not there; name a file"):
        read_avoided(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"has no <group>/avoid\.txt"):
        read_avoided(tmp_path)


# ------------------------------------------------------------------ the spec


@pytest.mark.parametrize(
    ("keys", "params", "rule"),
    [
        ({}, {"lr": 1e-3, "dropout": {"uniform": [0, 0.5]}}, "must be searched, or nothing can be avoided; got .lr."),
        ({"param": "dropout", "scale": "log"}, {"dropout": {"uniform": [0, 0.5]}}, "log needs values above 0"),
        ({"param": "model"}, {"model": {"choice": ["cnn", "fcn_wang"]}}, "must be a number, but model may be 'cnn'"),
        ({"per": "modle"}, {"lr": {"uniform": [0.1, 0.2]}}, "must be a parameter of the method"),
        ({"radius": 0}, {"lr": {"uniform": [0.1, 0.2]}}, "greater than 0"),
        ({"unless": "val/auroc = 1"}, {"lr": {"uniform": [0.1, 0.2]}}, "must be `name <= number`"),
    ],
)
def test_a_section_that_could_not_work_is_refused(keys: dict[str, Any], params: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        make_spec(params, search=search(sampler="random", avoid={**AVOID, **keys}))


def test_a_threshold_on_a_number_that_no_trial_reports_is_refused_before_the_sweep() -> None:
    spec = spec_of(PUBLISHED["low"], avoid={**AVOID, "unless": "val/aurocc >= 0.6"})
    with pytest.raises(ValueError, match=r"search\.avoid\.unless: supervised reports no 'val/aurocc'.*did you mean"):
        spec.check_quantities("binary")
