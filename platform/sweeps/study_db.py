"""Optuna's study in `study.db`: a view of the journal that the sampler reads and `optuna-dashboard` opens."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    check_distribution_compatibility,
    json_to_distribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event as sqlalchemy_event

from platform.sweeps.journal import Event, SweepRecord, TrialRecord
from trainables.degeneracy import eligible_epochs

FILE_NAME = "study.db"
STATES = {
    "PROPOSED": TrialState.RUNNING,
    "RUNNING": TrialState.RUNNING,
    "COMPLETED": TrialState.COMPLETE,
    "STOPPED": TrialState.PRUNED,
    "FAILED": TrialState.FAIL,
}

Objectives = Sequence[tuple[str, Literal["max", "min"]]]
"""(metric, "max" or "min"), the first of which the scheduler acts on."""


def write_study(
    path: Path,
    name: str,
    objectives: Objectives,
    record: SweepRecord,
    space: Mapping[str, BaseDistribution] = MappingProxyType({}),
) -> optuna.Study:
    """Write the study of `record` anew beside `path`, put it in place of what was there, and open it.

    Args:
        space: the distributions that the next proposals are drawn from, where they may have changed since.
    """
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _open_storage(fresh)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=["maximize" if mode == "max" else "minimize" for _, mode in objectives],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([metric for metric, _ in objectives])
    for trial in frozen_trials(record, objectives):
        study.add_trial(_moved_to(space, trial))
    storage.engine.dispose()
    fresh.replace(path)
    return optuna.load_study(study_name=name, storage=_open_storage(path))


def _open_storage(path: Path) -> RDBStorage:
    storage = RDBStorage(f"sqlite:///{path}", skip_compatibility_check=path.exists())

    @sqlalchemy_event.listens_for(storage.engine, "connect")
    def _relax(connection: Any, _: Any) -> None:
        # The journal is the truth and the file is written anew on resume, so SQLite need not wait for the disk.
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA journal_mode=MEMORY")

    storage.engine.dispose()  # the connection that RDBStorage opened knows nothing of the above
    return storage


def frozen_trials(record: SweepRecord, objectives: Objectives) -> Iterator[FrozenTrial]:
    """Yield Optuna's trials in order of their numbers, those that were infeasible included."""
    proposals: dict[int, TrialRecord | Event] = {trial.number: trial for trial in record.trials.values()}
    proposals |= {event.body["number"]: event for event in record.infeasible}
    for number in sorted(proposals):
        proposal = proposals[number]
        yield _infeasible(proposal) if isinstance(proposal, Event) else _frozen(proposal, objectives)


def _moved_to(space: Mapping[str, BaseDistribution], trial: FrozenTrial) -> FrozenTrial:
    """Express a trial in a space that has changed since: Optuna refuses other categories under the same name.

    A value that the new space can't hold, such as a category that is gone, is left out.
    """
    distributions = {}
    for name, old in trial.distributions.items():
        new = space.get(name, old)
        if new == old or _holds(new, trial.params[name]):
            distributions[name] = new
        elif _is_compatible(old, new):
            distributions[name] = old
    trial.params = {name: trial.params[name] for name in distributions}
    trial.distributions = distributions
    return trial


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution._contains(float(value))


def _is_compatible(old: BaseDistribution, new: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(old, new)
    except ValueError:
        return False
    return True


def _infeasible(event: Event) -> FrozenTrial:
    body = event.body
    return _create(
        TrialState.PRUNED, body["sampled"], body["distributions"], body["system_attrs"], event.time_s, event.time_s,
        constraints=body["constraints"],
    )  # fmt: skip


def _frozen(trial: TrialRecord, objectives: Objectives) -> FrozenTrial:
    state = STATES[trial.state]
    intermediate = {}
    if len(objectives) == 1:  # Optuna keeps no intermediate values of several objectives
        metric = objectives[0][0]
        intermediate = {epoch: metrics[metric] for epoch, metrics in sorted(trial.reports.items())}
    values = None
    if state == TrialState.COMPLETE:
        values = outcome_values(trial, objectives)
    elif state == TrialState.PRUNED and intermediate:
        values = [intermediate[max(intermediate)]]  # as `Study.tell` does
    return _create(
        state, trial.sampled, trial.distributions, trial.system_attrs, trial.proposed_s, trial.ended_s,
        values=values, intermediate_values=intermediate, constraints=trial.constraints,
        user_attrs={"trial": trial.trial},
    )  # fmt: skip


def _create(
    state: TrialState,
    params: Mapping[str, Any],
    distributions: Mapping[str, str],
    system_attrs: Mapping[str, Any],
    start_s: float,
    end_s: float | None,
    **fields: Any,
) -> FrozenTrial:
    trial = create_trial(
        state=state,
        params=dict(params),
        distributions={name: json_to_distribution(text) for name, text in distributions.items()},
        system_attrs=dict(system_attrs),
        **fields,
    )
    trial.datetime_start = datetime.datetime.fromtimestamp(start_s)
    trial.datetime_complete = datetime.datetime.fromtimestamp(end_s or start_s) if state.is_finished() else None
    return trial


def outcome_values(trial: TrialRecord, objectives: Objectives) -> list[float]:
    """Return a trial's objectives at its best epoch by the first of them: those of the checkpoint that is kept.

    Raises:
        ValueError: the trial did not report one of them.
    """
    quantities = outcome_quantities(trial, objectives)
    missing = [metric for metric, _ in objectives if metric not in quantities]
    if missing:
        raise ValueError(f"search.metric names {missing[0]!r}, which the trial does not report: {sorted(quantities)}")
    return [quantities[metric] for metric, _ in objectives]


def outcome_quantities(trial: TrialRecord, objectives: Objectives) -> dict[str, float]:
    """Return every number that a trial reported at its best epoch, and those known before training."""
    if not trial.reports:
        return {**trial.static, **trial.measured}
    metric, mode = objectives[0]
    sign = 1.0 if mode == "max" else -1.0
    # The first of equals: the epoch whose weights were kept.
    best_epoch = max(eligible_epochs(trial.reports), key=lambda epoch: sign * trial.reports[epoch][metric])
    # Memory grows: its peak is in the last report.
    return {**trial.static, **trial.measured, **trial.last, **trial.reports[best_epoch]}
