"""From a `DataConfig` to the data set of a trial.

`describe` checks everything that can be checked without reading the signal; `load` prepares the data in this process;
`materialise` prepares it once through Ray Data for all trials of a cluster.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data.config import DataConfig, FoldsConfig
from data.counts import add_labels, label_counts
from data.dataset import NO_LABELS, Dataset, LabelSet, Signal, Split
from data.ingest import Progress, ingest
from data.memory import MemorySplit
from data.preprocessing import is_global, output_lengths, output_signal
from data.reader import RecordTable
from data.scaling import Statistics, record_sums, statistics
from data.selection import Plan, Selection, decode, refold, select, stored_signal
from data.sharing import SharedDataset, build_dataset
from data.store import MANIFEST_NAME, CorruptShard, Manifest, read_manifest, read_table, verify_shard
from data.synthetic import SyntheticReader, stored_options

__all__ = [
    "DataConfig",
    "Description",
    "FoldsConfig",
    "LoadedDataset",
    "MemorySplit",
    "Role",
    "RoleCounts",
    "SharedDataset",
    "describe",
    "load",
    "make_store",
    "materialise",
    "read_dataset",
]

Role = Literal["train", "val", "test"]

LABEL_SET_SPELLINGS = {"diagnostic": "diag", "subdiagnostic": "diag_subclass", "superdiagnostic": "diag_superclass"}
"""What the PTB-XL benchmark's code calls its tasks, and what the store calls them; `data.labels` takes either."""


class RoleCounts(NamedTuple):
    """Records of a role, after unlabelled ones are dropped, and records by label."""

    n_records: int
    labels: tuple[int, ...]


class Description(NamedTuple):
    """What is known of the data before its signal is read. `manifest` is None, and `counts` empty, where a synthetic
    store is yet to be made (`make_store`)."""

    manifest: Manifest | None
    signal: Signal
    label_set: LabelSet
    counts: Mapping[str, RoleCounts]


@dataclass(frozen=True)
class LoadedDataset:
    """A data set in this process; fields as in `data.sharing.SharedDataset`."""

    dataset: Dataset
    statistics: Statistics | None
    n_bad_records: int
    bad_shards: tuple[str, ...]


@dataclass(frozen=True)
class CheckedTables:
    """The tables of the good shards by index, and what is bad."""

    tables: Mapping[int, RecordTable]
    n_bad_records: int
    bad_shards: tuple[str, ...]


def describe(config: DataConfig) -> Description:
    """Check the config against its store, without reading any signal, and say what the data will be.

    Raises:
        ValueError: there is no store; its fingerprint or synthetic source differs; no such label set; a step can't be
            applied; a fold is empty, or the training folds lack labels. One line, with the way out.
    """
    if config.synthetic is not None and not _is_made(config):
        header = SyntheticReader(config.synthetic).header
        signal = output_signal(config.preprocess, Signal(header.lead_names, header.fs_hz, header.n_timesteps))
        return Description(None, signal, _find_label_set(config, header.label_sets), {})
    manifest = read_manifest(Path(config.store))
    _check_source(config, manifest)
    label_set = _find_label_set(config, manifest.label_sets)
    signal = output_signal(config.preprocess, stored_signal(manifest))
    roles = config.roles(manifest.folds)
    if config.k_fold is None and config.finetune_label_ratio == 1:
        counts: Mapping[str, RoleCounts] = {
            role: _count(config, manifest, label_set, folds) for role, folds in roles.items()
        }
    else:
        counts = _count_tables(config, manifest, label_set)
    _check_counts(config, roles, label_set, counts)
    return Description(manifest, signal, label_set, counts)


def make_store(config: DataConfig, progress: Progress | None = None) -> None:
    """Make the synthetic store that `config` names, unless it is there.

    Raises:
        ValueError: the folder has something else in it.
    """
    if config.synthetic is not None and not _is_made(config):
        ingest(SyntheticReader(config.synthetic), Path(config.store), progress=progress)


def load(config: DataConfig, roles: Sequence[Role] = ("train", "val")) -> Dataset:
    """Prepare the data in this process, all of it in memory, without Ray; see `read_dataset` for what was left out."""
    return read_dataset(config, roles).dataset


def read_dataset(config: DataConfig, roles: Sequence[Role] = ("train", "val")) -> LoadedDataset:
    """Prepare the data in this process, all of it in memory, without Ray.

    Raises:
        ValueError: as `describe`.
        CorruptShard: a shard is damaged, and `skip_bad_records` is not set.
    """
    plan = build_plan(config)
    checked = check_shards(config, plan, (shard_error(plan, index) for index in range(len(plan.shards))))
    selections = {role: select_role(plan, checked, role) for role in roles}
    # A global z-score needs the training records, asked for or not.
    needed = {**selections, "train": select_role(plan, checked, "train")} if is_global(plan.steps) else selections
    arrays = {role: _decode_all(plan, selection) for role, selection in needed.items()}
    stats = None
    lengths = {
        role: output_lengths(plan.steps, plan.stored_signal, selection.length_N) for role, selection in needed.items()
    }
    if is_global(plan.steps):
        stats = statistics(record_sums(arrays["train"]), int(lengths["train"].sum()) * len(plan.signal.lead_names))
        for role in selections:
            stats.standardise(arrays[role], lengths[role])
    splits: dict[str, Split] = {
        role: MemorySplit(arrays[role], lengths[role], selection.labels_NK, selection.record_ids, selection.patient_ids)
        for role, selection in selections.items()
    }
    return LoadedDataset(build_dataset(plan, splits, stats), stats, checked.n_bad_records, checked.bad_shards)


def materialise(config: DataConfig, roles: Sequence[Role] = ("train", "val")) -> SharedDataset:
    """Prepare the data once through Ray Data, for all processes of the running cluster.

    Every shard is decoded, checked and preprocessed once. What fits in memory (`DataConfig.memory_bytes`), smallest
    role first, becomes one array a role in the object store; the rest streams from the shards.

    Raises:
        ValueError: as `describe`.
        CorruptShard: a shard is damaged, and `skip_bad_records` is not set.
        RuntimeError: Ray is not running.
    """
    from data.materialisation import materialise_plan

    plan = build_plan(config)
    return materialise_plan(plan, roles, config.memory_bytes, lambda errors: check_shards(config, plan, errors))


def build_plan(config: DataConfig) -> Plan:
    """Resolve the config against its store; raises as `describe`."""
    description = describe(config)
    manifest = description.manifest
    if manifest is None:
        raise ValueError(f"{config.store} is not made yet; make the synthetic store first (data.loading.make_store)")
    return _plan(config, manifest, description.label_set)


def check_shards(config: DataConfig, plan: Plan, errors: Iterable[str]) -> CheckedTables:
    """Read the tables of the good shards, given each shard's error (empty: none) in the order of the store.

    Raises:
        CorruptShard: a shard is bad, and `skip_bad_records` is not set; or all are.
    """
    bad = {index: error for index, error in enumerate(errors) if error}
    n_bad = sum(plan.shards[index].n_records for index in bad)
    if bad and not config.skip_bad_records:
        raise CorruptShard(
            f"{next(iter(bad.values()))}; ingest the data set anew, or go on without the {n_bad} records "
            "of bad shards with skip_bad_records: true"
        )
    if len(bad) == len(plan.shards):
        raise CorruptShard(f"{plan.store}: all {len(bad)} shards are bad; ingest the data set anew")
    good = (index for index in range(len(plan.shards)) if index not in bad)
    tables = {index: read_table(plan.store, plan.shards[index]) for index in good}
    bad_shards = tuple(plan.shards[index].file for index in bad)
    return CheckedTables(_refolded(config, plan.label_set, tables), n_bad, bad_shards)


def select_role(plan: Plan, checked: CheckedTables, role: str) -> Selection:
    """Select the records of a role.

    Raises:
        ValueError: none is left.
    """
    selection = select(plan, checked.tables, role)
    if not len(selection):
        folds = ", ".join(map(str, plan.folds[role])) or "none"
        raise ValueError(f"{plan.store}: role {role} (folds {folds}) has no records; choose other folds in data.folds")
    return selection


def shard_error(plan: Plan, index: int) -> str:
    """Say what is wrong with a shard's file; empty: nothing."""
    try:
        verify_shard(plan.store, plan.shards[index])
    except CorruptShard as error:
        return str(error)
    return ""


def _table_error(plan: Plan, index: int) -> str:
    try:
        read_table(plan.store, plan.shards[index])
    except CorruptShard as error:
        return str(error)
    return ""


def _decode_all(plan: Plan, selection: Selection) -> np.ndarray:
    parts = []
    for shard in np.unique(selection.shard_N):
        mask = selection.shard_N == shard
        parts.append(decode(plan, int(shard), selection.row_N[mask], selection.length_N[mask]))
    return np.concatenate(parts)


def _is_made(config: DataConfig) -> bool:
    return (Path(config.store) / MANIFEST_NAME).is_file()


def _plan(config: DataConfig, manifest: Manifest, label_set: LabelSet) -> Plan:
    return Plan(
        store=Path(config.store).absolute(),
        fingerprint=manifest.fingerprint,
        shards=manifest.shards,
        stored_signal=stored_signal(manifest),
        steps=config.preprocess,
        label_set=label_set,
        folds=config.roles(manifest.folds),
        drop_unlabelled=config.drop_unlabelled,
        finetune_label_ratio=config.finetune_label_ratio,
        seed=config.seed,
        features_bytes=config.features_bytes,
    )


def _refolded(config: DataConfig, label_set: LabelSet, tables: Mapping[int, RecordTable]) -> Mapping[int, RecordTable]:
    return tables if config.k_fold is None else refold(tables, label_set, config.k_fold.k, config.seed)


def _check_source(config: DataConfig, manifest: Manifest) -> None:
    if config.fingerprint is not None and not manifest.fingerprint.startswith(config.fingerprint):
        raise ValueError(
            f"{config.store} has the fingerprint {manifest.fingerprint[:12]}..., but data.fingerprint asks for "
            f"{config.fingerprint[:12]}...; name the store that was meant, or correct data.fingerprint"
        )
    if config.synthetic is None:
        return
    asked = stored_options(config.synthetic)
    if manifest.kind != "synthetic" or manifest.options != asked:
        raise ValueError(
            f"{config.store} was made from {manifest.kind} {manifest.options}, not from data.synthetic "
            f"{asked}; name another data.store, or remove that folder"
        )


def _find_label_set(config: DataConfig, label_sets: Mapping[str, LabelSet]) -> LabelSet:
    if config.labels == NO_LABELS.name:
        return NO_LABELS
    names = ", ".join(label_sets)
    if not label_sets:
        raise ValueError(
            f"{config.store} has no labels, so nothing can be learned from it; ingest it with --labels, or pretrain on "
            "it with data.labels: none"
        )
    if config.labels is None:
        if len(label_sets) > 1:
            raise ValueError(f"{config.store} has several label sets; name one in data.labels: {names}")
        return next(iter(label_sets.values()))
    spelt = {spelling: label_sets[name] for spelling, name in LABEL_SET_SPELLINGS.items() if name in label_sets}
    known = {**spelt, **label_sets}
    if config.labels not in known:
        near = difflib.get_close_matches(config.labels, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{config.store} has no label set {config.labels!r}; {hint}It has: {names}")
    return known[config.labels]


def _count(config: DataConfig, manifest: Manifest, label_set: LabelSet, folds: Sequence[int]) -> RoleCounts:
    counts = manifest.counts
    if label_set.task == "unlabelled":
        return RoleCounts(sum(counts.records.get(fold, 0) for fold in folds), ())
    records = counts.labelled[label_set.name] if config.drop_unlabelled else counts.records
    labels = counts.labels[label_set.name]
    return RoleCounts(
        n_records=sum(records.get(fold, 0) for fold in folds),
        labels=add_labels(labels.get(fold, ()) for fold in folds) or (0,) * label_set.n_outputs,
    )


def _count_tables(config: DataConfig, manifest: Manifest, label_set: LabelSet) -> Mapping[str, RoleCounts]:
    """Count what the manifest can't: roles that are made at loading. Shards that can't be read count as skipped."""
    plan = _plan(config, manifest, label_set)
    checked = check_shards(config, plan, (_table_error(plan, index) for index in range(len(plan.shards))))
    selections = {role: select(plan, checked.tables, role) for role in plan.folds}
    return {role: RoleCounts(len(each), label_counts(each.labels_NK, label_set)) for role, each in selections.items()}


def _check_counts(
    config: DataConfig, folds: Mapping[str, tuple[int, ...]], label_set: LabelSet, counts: Mapping[str, RoleCounts]
) -> None:
    for role, (n_records, _) in counts.items():
        # Folds may be given without test ones; the other roles, and folds that are given, need records.
        if not n_records and (folds[role] or role != "test"):
            numbers = ", ".join(map(str, folds[role]))
            raise ValueError(
                f"{config.store}: role {role} (folds {numbers}) has no records with labels of {label_set.name!r}; "
                "choose other folds in data.folds, or another label set"
            )
    problem = _label_problem(label_set, counts["train"])
    if problem:
        raise ValueError(
            f"{config.store}: label set {label_set.name!r} has {problem} in its training folds, so nothing can be "
            "learned; choose another label set in data.labels, or other folds in data.folds"
        )


def _label_problem(label_set: LabelSet, train: RoleCounts) -> str:
    if label_set.task == "unlabelled":
        return ""
    if not any(train.labels):
        return "no known values" if label_set.task == "regression" else "no positives"
    if label_set.task == "binary" and train.labels[0] == train.n_records:
        return "no negatives"
    if label_set.task == "multiclass" and sum(count > 0 for count in train.labels) == 1:
        return "a single class"
    return ""
