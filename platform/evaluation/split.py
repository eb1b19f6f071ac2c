"""The records of a store on which a trained model is judged, prepared as its training records were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.card import DataCard
from data.config import DataConfig
from data.dataset import LabelSet, Signal
from data.leads import Leads
from data.loading import LABEL_SET_SPELLINGS, Role, check_shards
from data.preprocessing import Step, output_signal
from data.reader import RecordTable
from data.selection import Plan, Selection, select, stored_signal
from data.store import CorruptShard, Manifest, read_manifest, verify_shard
from data.streaming import StreamedSplit
from platform.models.trained_model import TrainedModel


@dataclass(frozen=True)
class EvaluationSplit:
    """N records that stream from the store's shards, batch by batch, without Ray.

    Attributes:
        split: the model's labels, in the model's order.
        meta: what else the store knows of each record, values_N by name.
        label_set: the store's, from which the labels were taken.
        is_own: whether this is the store of the model's own sweep, with the same folds.
    """

    split: StreamedSplit
    meta: Mapping[str, NDArray[np.float32]]
    manifest: Manifest
    role: Role
    folds: tuple[int, ...]
    label_set: LabelSet
    is_own: bool
    n_bad_records: int


def open_evaluation_split(trained: TrainedModel, store: Path, role: Role, labels: str | None = None) -> EvaluationSplit:
    """Select the records of `role`, by the sweep's folds in its own store and by the store's own in any other.

    Args:
        labels: the store's label set; None: the one of the model's name, or the only one.

    Raises:
        ValueError: leads, rate, length or labels do not fit the model, or no record is left; one line.
        CorruptShard: a shard is damaged, and the sweep's `skip_bad_records` is not set.
    """
    manifest, data = read_manifest(store), trained.card.data
    is_own = manifest.fingerprint == data.fingerprint
    label_set = _find_label_set(data.label_set, manifest, labels, store)
    place_K = _places(data.label_set, label_set, store)
    plan = Plan(
        store=store.absolute(),
        fingerprint=manifest.fingerprint,
        shards=manifest.shards,
        stored_signal=stored_signal(manifest),
        steps=_fitting_steps(trained, stored_signal(manifest), store),
        # Folds made at loading are stratified by the label set of the training, whichever is looked at.
        label_set=data.label_set if is_own else label_set,
        folds=dict(data.folds if is_own else manifest.folds),
        drop_unlabelled=data.config.drop_unlabelled,
        finetune_label_ratio=data.config.finetune_label_ratio if is_own else 1.0,
        seed=data.config.seed,
    )
    checked = check_shards(_config(data, store, is_own), plan, _shard_errors(plan))
    selection = _select(replace(plan, label_set=label_set), checked.tables, role)
    meta = _meta(selection, checked.tables)
    selection = replace(selection, labels_NK=_in_order(selection.labels_NK, label_set, place_K))
    split = StreamedSplit(plan, selection, data.statistics)
    return EvaluationSplit(split, meta, manifest, role, plan.folds[role], label_set, is_own, checked.n_bad_records)


def _config(data: DataCard, store: Path, is_own: bool) -> DataConfig:
    return data.config.model_copy(update={"store": str(store)}) if is_own else DataConfig(store=str(store))


def _shard_errors(plan: Plan) -> Iterator[str]:
    for shard in plan.shards:
        try:
            verify_shard(plan.store, shard)
        except CorruptShard as error:
            yield str(error)
        else:
            yield ""


def _select(plan: Plan, tables: Mapping[int, RecordTable], role: Role) -> Selection:
    selection = select(plan, tables, role) if plan.folds.get(role) else None
    if selection is None or not len(selection):
        folds = ", ".join(map(str, plan.folds.get(role, ()))) or "none"
        raise ValueError(
            f"{plan.store}: the split {role} (folds {folds}) has no records with labels of {plan.label_set.name!r}; "
            "choose another --split"
        )
    return selection


def _meta(selection: Selection, tables: Mapping[int, RecordTable]) -> dict[str, NDArray[np.float32]]:
    shards = np.unique(selection.shard_N).tolist()
    names = tables[shards[0]].meta
    rows = {shard: selection.row_N[selection.shard_N == shard] for shard in shards}
    # A selection is in the order of the store: shard by shard.
    return {name: np.concatenate([tables[shard].meta[name][rows[shard]] for shard in shards]) for name in names}


# ---------------------------------------------------------------------- signal


def _fitting_steps(trained: TrainedModel, stored: Signal, store: Path) -> tuple[Step, ...]:
    """Return the run's own steps, behind one that puts the store's leads in the order of the run's.

    Raises:
        ValueError: they make another signal of the store's records than the model takes.
    """
    data = trained.card.data
    steps, wanted = data.preprocess, data.input_signal.lead_names
    known = {name.lower() for name in stored.lead_names}
    if stored.lead_names != wanted and {name.lower() for name in wanted} <= known:
        steps = (Step.of(Leads(names=wanted)), *steps)
    try:
        made = output_signal(steps, stored)
    except ValueError as error:
        raise ValueError(f"{store} does not fit the model's preprocessing: {error}") from None
    problem = _mismatch(made, data.signal, trained.config.crop_timesteps)
    if problem:
        raise ValueError(f"{store} does not fit the model of {trained.weights}: {problem}")
    return steps


def _mismatch(made: Signal, wanted: Signal, window: int | None) -> str:
    lacking = [name for name in wanted.lead_names if name.lower() not in {each.lower() for each in made.lead_names}]
    if lacking:
        return f"it lacks the leads {', '.join(lacking)}; it has {', '.join(made.lead_names)}"
    if [name.lower() for name in made.lead_names] != [name.lower() for name in wanted.lead_names]:
        return f"its leads are {', '.join(made.lead_names)}, but the model takes {', '.join(wanted.lead_names)}"
    if made.fs_hz != wanted.fs_hz:
        return f"after preprocessing its rate is {made.fs_hz:g} Hz, but the model takes {wanted.fs_hz:g} Hz"
    if window is None and made.n_timesteps != wanted.n_timesteps:
        return (
            f"after preprocessing its records have {made.n_timesteps} timesteps, "
            f"but the model takes {wanted.n_timesteps}"
        )
    if window is not None and made.n_timesteps < window:
        return f"its records have {made.n_timesteps} timesteps, fewer than the model's window of {window}"
    return ""


# ---------------------------------------------------------------------- labels


def _find_label_set(wanted: LabelSet, manifest: Manifest, labels: str | None, store: Path) -> LabelSet:
    known = manifest.label_sets
    name = wanted.name if labels is None else labels
    if name not in known:
        name = LABEL_SET_SPELLINGS.get(name, name)
    if name not in known and labels is None and len(known) == 1:
        name = next(iter(known))
    if name not in known:
        raise ValueError(
            f"{store} has no label set {name!r}; name one with --labels: {', '.join(known) or 'it has none'}"
        )
    return known[name]


def _places(wanted: LabelSet, known: LabelSet, store: Path) -> list[int]:
    """Return where each of the model's labels is among the store's."""
    if known.task != wanted.task:
        raise ValueError(
            f"{store}: the label set {known.name!r} is {known.task}, but the model answers {wanted.task} labels; "
            "name another with --labels"
        )
    lacking = [name for name in wanted.names if name not in known.names]
    extra = [name for name in known.names if name not in wanted.names] if wanted.task == "multiclass" else []
    if lacking or extra:
        verb, names = ("lacks", lacking) if lacking else ("also has", extra)
        raise ValueError(
            f"{store}: the label set {known.name!r} {verb} {', '.join(map(repr, names))}, "
            f"but the model answers {', '.join(wanted.names)}; name another with --labels"
        )
    places = [known.names.index(name) for name in wanted.names]
    units = tuple(known.units[place] for place in places) if known.units else ()
    if units != wanted.units:
        raise ValueError(f"{store}: the units of {known.name!r} are {units}, but the model answers in {wanted.units}")
    return places


def _in_order(labels_NK: NDArray[np.float32], known: LabelSet, place_K: Sequence[int]) -> NDArray[np.float32]:
    """Return the stored labels as the model has them: its columns, or the numbers of its classes."""
    if known.task != "multiclass":
        return labels_NK[:, place_K]
    number_of = np.argsort(place_K).astype(np.float32)  # of each of the store's classes
    return number_of[labels_NK.astype(np.int64)]
