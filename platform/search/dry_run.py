"""What `--dry-run` prints: a sweep as it would run. Starts nothing, writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from data.loading import describe
from platform.models.artefacts import StageSpec
from platform.search.samplers import STATIC_QUANTITIES
from platform.search.scheduler import rungs
from platform.specs.spec import Spec

N_SAMPLED: Final = 3


def dry_run_text(spec: Spec) -> str:
    """Return the resolved spec, some sampled configurations, the rungs, the most the budget can cost, and the data.

    Raises:
        ValueError: the store exists, but does not fit the spec.
    """
    return _written(_sections(spec)) + _NOTHING


def chain_dry_run_text(specs: Mapping[str, StageSpec]) -> str:
    """Return the stages of a chain as they would run; what an earlier stage has yet to find stands in.

    Raises:
        ValueError: a store exists, but does not fit its stage.
    """
    parts = [f"===== stage {name}\n\n{_written(_stage_sections(spec))}" for name, spec in specs.items()]
    return "\n\n".join(parts) + _NOTHING


_NOTHING: Final = "\n\nnothing was started, nothing was written\n"


def _stage_sections(spec: StageSpec) -> dict[str, list[str]]:
    if isinstance(spec, Spec):
        return _sections(spec)
    points = [", ".join(f"{name}: {_text(value)}" for name, value in point.items()) for point in spec.points]
    return {"resolved spec": spec.to_yaml().splitlines(), "points": [point or "one" for point in points]}


def _written(sections: Mapping[str, Sequence[str]]) -> str:
    blocks = (f"{title}\n" + "\n".join(f"  {line}" for line in lines) for title, lines in sections.items())
    return "\n\n".join(blocks)


def _sections(spec: Spec) -> dict[str, list[str]]:
    return {
        "resolved spec": spec.to_yaml().splitlines(),
        "sampled configurations": list(_configuration_lines(spec)),
        "rungs": list(_rung_lines(spec)),
        "budget": list(_budget_lines(spec)),
        "data": list(_data_lines(spec)),
    }


def _configuration_lines(spec: Spec) -> Iterator[str]:
    if not spec.space.parameters:
        yield "no verb in params: one plain training run"
        return
    rng = np.random.default_rng(spec.seed)
    for _ in range(N_SAMPLED):
        yield ", ".join(f"{name}: {_text(value)}" for name, value in spec.space.sample(rng).items())
    yield "(drawn at random; where a parameter is missing, its condition does not hold)"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rung_lines(spec: Spec) -> Iterator[str]:
    search, max_epochs = spec.search, spec.budget.epochs
    if not spec.space.parameters:
        yield f"none: one trial of {max_epochs} epochs, with no other to compare it with"
        return
    if search.scheduler == "none":
        yield f"none: every trial trains up to {max_epochs} epochs"
        return
    grace_period = search.resolved_grace_period(max_epochs)
    if search.scheduler == "median":
        yield f"none: from epoch {grace_period} on, a trial below the median of the others' averages is stopped"
        return
    ladder = rungs(grace_period, max_epochs, search.reduction_factor)
    for bracket in range(search.brackets):
        name = f"bracket {bracket}: " if search.brackets > 1 else ""
        yield f"{name}{', '.join(map(str, ladder[bracket:]))} (epochs)"
    yield f"at a rung, a trial goes on if it is among the best one in {search.reduction_factor:g} that came so far"
    yield f"at epoch {max_epochs} a trial has completed"


def _budget_lines(spec: Spec) -> Iterator[str]:
    budget, search = spec.budget, spec.search
    product = budget.trials * budget.epochs
    plural = "" if budget.trials == 1 else "s"
    most = min(product, budget.total_epochs or product)
    yield f"at most {most:,} epochs: {budget.trials:,} trial{plural} x {budget.epochs:,} epochs" + (
        f", bounded by total_epochs {budget.total_epochs:,}" if most < product else ""
    )
    if spec.folds is not None:
        yield f"an epoch is one of all {spec.folds.k} folds' models"
    if spec.repeats is not None:
        n_repeats = spec.repeats.seeds
        yield f"then {n_repeats} repeats of the best configuration: at most {n_repeats * budget.epochs:,} epochs more"
    if budget.wall_time_s is not None:
        yield f"at most {budget.wall_time_s:g} s"
    if budget.disk_bytes is not None:
        yield f"at most {budget.disk_bytes:,.0f} bytes in the sweep's folder"
    if spec.space.parameters and search.n_startup_trials is not None:
        yield f"the first {search.n_startup_trials} of {budget.trials} proposals are drawn at random"
    static = [constraint.text for constraint in spec.parsed_constraints if constraint.quantity in STATIC_QUANTITIES]
    if static:
        yield f"proposals that break {', '.join(static)} cost no epoch: they never become trials"
    if search.avoid is not None:
        yield f"proposals keep {search.avoid.text} ({search.avoid.unless}); those that do not cost no epoch"
    if spec.stop_when:
        yield f"ends when one trial meets {', '.join(target.text for target in spec.stopping_targets)}"


def _data_lines(spec: Spec) -> Iterator[str]:
    made = Path(spec.data.store).exists()
    if not made and spec.data.synthetic is None:
        yield f"{spec.data.store} does not exist; write it with python -m platform.ingest"
        return
    description = describe(spec.data)
    spec.check_quantities(description.label_set.task)
    signal, label_set = description.signal, description.label_set
    n_leads = len(signal.lead_names)
    leads = f"{n_leads} lead{'' if n_leads == 1 else 's'}"
    yield f"{leads} x {signal.n_timesteps:,} timesteps at {signal.fs_hz:g} Hz, after preprocessing"
    yield f"label set {label_set.name} ({label_set.task}): {', '.join(label_set.names)}"
    if description.manifest is None:
        assert spec.data.synthetic is not None
        yield f"{spec.data.store} will be made at first use: {spec.data.synthetic.n_records:,} synthetic records"
        return
    for role, counts in description.counts.items():
        folds = ", ".join(map(str, spec.data.roles(description.manifest.folds)[role]))
        yield f"{role}: {counts.n_records:,} records (fold{'s' if ',' in folds else ''} {folds})"
    yield f"fingerprint {description.manifest.fingerprint[:12]}"
