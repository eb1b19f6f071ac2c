"""A store in words: what ingestion and inspection print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from rich.cells import cell_len  # a Chinese letter takes the place of two

from data.counts import add_labels
from data.dataset import LabelSet
from data.inspection import FLAGS, Flagged, Inspection
from data.store import Manifest

MOST_LENGTHS = 6  # more different ones are given by their quantiles
MOST_REASONS = 8


def summary_text(manifest: Manifest, out: Path) -> str:
    """Say what a store holds: counts, prevalence by fold, fingerprint and notes."""
    counts = manifest.counts
    patients = "patients unknown" if counts.n_patients is None else f"{counts.n_patients:,} patients"
    lines = [
        f"{out}: {counts.n_records:,} records, {patients}, {len(manifest.shards)} {manifest.format} shards",
        f"signal: {len(manifest.lead_names)} leads x {manifest.n_timesteps} timesteps at {manifest.fs_hz:g} Hz",
        f"folds: {_fold_text(manifest.folds)}",
    ]
    for label_set in manifest.label_sets.values():
        lines += _label_lines(label_set, manifest)
    if not manifest.label_sets:
        lines.append("no label set: for pretraining")
    lines.append(f"fingerprint: {manifest.fingerprint}")
    return "\n".join([*lines, *(f"note: {note}" for note in manifest.notes)])


def inspection_text(inspection: Inspection, store: Path) -> str:
    """Say what `data.inspection` found: the summary, lengths, quality flags, what was left out, duplicates."""
    manifest = inspection.manifest
    return "\n".join(
        [
            summary_text(manifest, store),
            f"checksums: all {len(manifest.shards)} shards are whole",
            f"records by fold: {', '.join(f'{fold}: {n:,}' for fold, n in manifest.counts.records.items())}",
            _length_text(inspection.lengths, manifest.fs_hz),
            *_flag_lines(inspection.flagged, manifest.counts.n_records),
            _nan_text(manifest),
            *_quarantine_lines(inspection),
            _duplicates_text(inspection),
        ]
    )


def _label_lines(label_set: LabelSet, manifest: Manifest) -> list[str]:
    """Say how often each label occurs: over all, then by fold."""
    counts, by_fold = manifest.counts, manifest.counts.labels[label_set.name]
    what = "known values" if label_set.task == "regression" else "prevalence"
    width = max(map(cell_len, (*label_set.names, label_set.name)))
    head = " ".join(f"{f'fold {fold}':>7}" for fold in counts.records)
    lines = [f"{what} of {label_set.name} ({label_set.task})", f"  {'':<{width}} {'all':>7} {head}"]
    for index, (name, total) in enumerate(zip(label_set.names, add_labels(by_fold.values()), strict=True)):
        shares = [_share(by_fold[fold][index], counts.records[fold]) for fold in counts.records]
        lines.append(f"  {name}{' ' * (width - cell_len(name))} {_share(total, counts.n_records)} {' '.join(shares)}")
    return lines


def _fold_text(folds: Mapping[str, tuple[int, ...]]) -> str:
    return "; ".join(f"{role} {', '.join(map(str, numbers)) or 'none'}" for role, numbers in folds.items())


def _share(count: int, n_records: int) -> str:
    return f"{count / n_records if n_records else 0:>7.1%}"


def _length_text(lengths: Mapping[int, int], fs_hz: float) -> str:
    if len(lengths) <= MOST_LENGTHS:
        return "lengths: " + ", ".join(f"{length / fs_hz:g} s: {number:,}" for length, number in lengths.items())
    quantiles = {"shortest": 0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1}
    values = np.fromiter(lengths, float) / fs_hz
    ranks = np.cumsum([*lengths.values()])
    at = {name: values[np.searchsorted(ranks, max(1, share * ranks[-1]))] for name, share in quantiles.items()}
    return "lengths: " + ", ".join(f"{name} {seconds:.4g} s" for name, seconds in at.items())


def _flag_lines(flagged: Mapping[str, Flagged], n_records: int) -> Iterator[str]:
    yield "quality flags (records to look at)"
    width = max(map(len, FLAGS))
    for flag, rule in FLAGS.items():
        each = flagged[flag]
        examples = f"; first: {', '.join(each.examples)}" if each.examples else ""
        yield f"  {flag:<{width}} {each.n_records:>8,} {_share(each.n_records, n_records)}  {rule}{examples}"


def _nan_text(manifest: Manifest) -> str:
    policies = {"quarantine": "records with some are left out", "zero": "set to zero", "interpolate": "interpolated"}
    return f"values that are not finite: {policies.get(str(manifest.options.get('nan')), 'refused by this kind')}"


def _quarantine_lines(inspection: Inspection) -> Iterator[str]:
    yield f"left out: {inspection.manifest.counts.n_quarantined:,} records"
    for reason, number in list(inspection.reasons.items())[:MOST_REASONS]:
        yield f"  {number:>8,}  {reason}"
    others = [*inspection.reasons.values()][MOST_REASONS:]
    if others:
        yield f"  {sum(others):>8,}  {len(others)} other reasons"


def _duplicates_text(inspection: Inspection) -> str:
    found = inspection.duplicates
    if not found.n_groups:
        return "duplicates: none"
    return (
        f"duplicates: {found.n_records:,} records in {found.n_groups:,} groups, {found.n_across_folds:,} across folds"
    )
