"""What a store holds, beyond its manifest: lengths, doubtful records, what was left out and what occurs twice.

Everything is read once, shard by shard. A flag is a hint to look at a record, not a verdict.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet
from data.ecg_paper import PaperRecord
from data.ingest import DUPLICATES_NAME, QUARANTINE_NAME
from data.leads import MIN_SD_MV
from data.reader import RecordBlock
from data.store import Manifest, Shard, read_ecg, read_manifest, read_shard, read_table, verify_shard

CLIPPED_S = 0.02  # so long at its extreme: a QRS peak is sharper
CLIPPED_MV = 0.5  # so far from the median: a quiet stretch of coarse steps is not clipped
LARGE_MV, SMALL_MV = 10.0, 0.05  # largest distance from a lead's median that is believed, and smallest
SLAB_RECORDS = 128  # as many as a row group of Parquet has; 30 MB of 12 x 5,000
N_EXAMPLES = 3

FLAGS: Mapping[str, str] = {
    "flat lead": f"a lead varies by less than {MIN_SD_MV:g} mV",
    "clipped": f"a lead stays at its extreme, over {CLIPPED_MV:g} mV off its median, for {CLIPPED_S * 1000:g} ms",
    "too large": f"a lead goes over {LARGE_MV:g} mV off its median",
    "too small": f"no lead goes over {SMALL_MV:g} mV off its median: other units than mV?",
    "padded": "shorter than the store's records, so zeros follow",
}


@dataclass(frozen=True)
class Flagged:
    """Records with one flag of `FLAGS`: how many, and the first ones."""

    n_records: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Duplicates:
    """Records that have exactly the signal of another one."""

    n_records: int
    n_groups: int
    n_across_folds: int  # groups


@dataclass(frozen=True)
class Inspection:
    """What one pass over a store finds.

    Attributes:
        lengths: timesteps -> records.
        reasons: why records were left out, the most frequent first: an example -> records. Reasons that differ in
            their numbers only count as one.
    """

    manifest: Manifest
    lengths: Mapping[int, int]
    flagged: Mapping[str, Flagged]
    reasons: Mapping[str, int]
    duplicates: Duplicates


def inspect_store(store: Path) -> Inspection:
    """Read a whole store, and compare its shards with their checksums.

    Raises:
        ValueError: there is no store.
        CorruptShard: a shard is damaged.
    """
    manifest = read_manifest(store)
    lengths: Counter[int] = Counter()
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {flag: [] for flag in FLAGS}
    for shard in manifest.shards:
        verify_shard(store, shard)
        table = read_table(store, shard)
        lengths.update(table.length_N.tolist())
        for flag, mask_N in _flag_shard(store, shard, table.length_N, manifest.fs_hz).items():
            counts[flag] += int(mask_N.sum())
            examples[flag] += table.record_ids[mask_N].tolist()[: N_EXAMPLES - len(examples[flag])]
    return Inspection(
        manifest=manifest,
        lengths=dict(sorted(lengths.items())),
        flagged={flag: Flagged(counts[flag], tuple(examples[flag])) for flag in FLAGS},
        reasons=_count_reasons(store / QUARANTINE_NAME),
        duplicates=_count_duplicates(store / DUPLICATES_NAME),
    )


def flag_records(
    ecg_NLT: NDArray[np.float32], length_N: NDArray[np.int32], fs_hz: float
) -> dict[str, NDArray[np.bool_]]:
    """Return, for each of `FLAGS`, which records have it. Padding is not looked at."""
    flags_N = {flag: np.zeros(len(length_N), np.bool_) for flag in FLAGS}
    for row, (ecg_LT, length) in enumerate(zip(ecg_NLT, length_N.tolist(), strict=True)):
        distance_LT = ecg_LT[:, :length] - np.median(ecg_LT[:, :length], axis=1, keepdims=True)
        largest_mv = float(np.abs(distance_LT).max())
        flags_N["flat lead"][row] = (distance_LT.std(axis=1, dtype=np.float64) < MIN_SD_MV).any()
        flags_N["clipped"][row] = is_clipped(distance_LT, max(2, round(CLIPPED_S * fs_hz)))
        flags_N["too large"][row] = largest_mv > LARGE_MV
        flags_N["too small"][row] = largest_mv < SMALL_MV
        flags_N["padded"][row] = length < ecg_LT.shape[1]
    return flags_N


def is_clipped(distance_LT: NDArray[np.float32], n_equal: int) -> bool:
    """Tell whether a lead, given by its distance from the median, has `n_equal` values in a row at an extreme."""
    for extreme_L in (distance_LT.max(axis=1), distance_LT.min(axis=1)):
        far_L = np.abs(extreme_L) > CLIPPED_MV
        at_LT = distance_LT[far_L] == extreme_L[far_L, np.newaxis]
        n_before_LT = np.cumsum(np.pad(at_LT, ((0, 0), (1, 0))), axis=1)
        if (n_before_LT[:, n_equal:] - n_before_LT[:, :-n_equal] == n_equal).any():
            return True
    return False


def sample_records(store: Path, n_records: int) -> list[PaperRecord]:
    """Read some records, evenly spread over the store, to be drawn.

    Raises:
        ValueError: there is no store.
        CorruptShard: a shard is damaged.
    """
    manifest = read_manifest(store)
    starts = np.cumsum([0, *(shard.n_records for shard in manifest.shards)])
    n_all = int(starts[-1])
    picked = []
    for number in np.unique(np.linspace(0, n_all - 1, min(n_records, n_all)).round().astype(int)).tolist():
        index = int(np.searchsorted(starts, number, side="right")) - 1
        row = number - int(starts[index])
        picked.append(_paper_record(read_shard(store, manifest.shards[index], slice(row, row + 1)), manifest))
    return picked


def _flag_shard(store: Path, shard: Shard, length_N: NDArray[np.int32], fs_hz: float) -> dict[str, NDArray[np.bool_]]:
    slabs = [slice(start, start + SLAB_RECORDS) for start in range(0, shard.n_records, SLAB_RECORDS)]
    parts = [flag_records(read_ecg(store, shard, rows), length_N[rows], fs_hz) for rows in slabs]
    return {flag: np.concatenate([part[flag] for part in parts]) for flag in FLAGS}


def _paper_record(block: RecordBlock, manifest: Manifest) -> PaperRecord:
    length = int(block.length_N[0])
    labels = [label_text(block.labels[name][0], label_set) for name, label_set in manifest.label_sets.items()]
    title = f"{block.record_ids[0]}   fold {block.folds[0]}   {labels[0] if labels else 'unlabelled'}"
    return PaperRecord(block.ecg_NLT[0, :, :length], manifest.lead_names, manifest.fs_hz, title)


def label_text(labels_K: NDArray[np.float32], label_set: LabelSet) -> str:
    """Say what a record's labels in one set are. A picture's fonts lack Chinese: such names become numbers from 1."""
    shown = [name if name.isascii() else f"label {number}" for number, name in enumerate(label_set.names, start=1)]
    if label_set.task == "regression":
        return ", ".join(f"{name} {value:.3g}" for name, value in zip(shown, labels_K, strict=True))
    if label_set.task == "multiclass":
        return shown[int(labels_K[0])] if np.isfinite(labels_K[0]) else "unknown"
    names = [name for name, value in zip(shown, labels_K, strict=True) if value > 0]
    return ", ".join(names) or (f"not {shown[0]}" if label_set.task == "binary" else f"no {label_set.name}")


def _count_reasons(path: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for row in _read_rows(path):
        pattern = re.sub(r"\d[\d,.]*", "#", row["reason"])
        counts[pattern] += 1
        examples.setdefault(pattern, row["reason"])
    return {examples[pattern]: number for pattern, number in counts.most_common()}


def _count_duplicates(path: Path) -> Duplicates:
    folds: dict[str, list[str]] = {}
    for row in _read_rows(path):
        folds.setdefault(row["group"], []).append(row["fold"])
    across = sum(len(set(group)) > 1 for group in folds.values())
    return Duplicates(sum(map(len, folds.values())), len(folds), across)


def _read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table beside the shards; nothing where ingestion had no reason to write it."""
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
