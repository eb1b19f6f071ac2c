"""A small data set whose every value is known: record r has the constant slope of its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from data.dataset import LabelSet
from data.folds import ROLES
from data.reader import Header, Quarantined, RecordBlock

LABEL_SETS = {
    "rhythm": LabelSet("rhythm", "multilabel", ("AF", "PVC", "SR")),
    "sex": LabelSet("sex", "binary", ("female",)),
    "kind": LabelSet("kind", "multiclass", ("a", "b", "c")),
    "rr": LabelSet("rr", "regression", ("rr_interval",), ("ms",)),
}
LEADS = ("I", "II", "V1")


@dataclass(frozen=True)
class ToyReader:
    """`n_records` records of 3 leads, two a patient, in chunks of `chunk_records`; record r of fold r // 2 % 10 + 1."""

    n_records: int = 60
    chunk_records: int = 16
    n_timesteps: int = 50
    bad_record: int | None = None
    patients_cross_folds: bool = False
    same_ids: bool = False
    unreadable: tuple[int, ...] = ()
    copies: Mapping[int, int] = field(default_factory=dict)  # record -> the one whose signal it has

    @property
    def header(self) -> Header:
        return Header(
            kind="toy",
            source="toy",
            options={"n_records": self.n_records},
            lead_names=LEADS,
            fs_hz=100.0,
            n_timesteps=self.n_timesteps,
            label_sets=LABEL_SETS,
            folds=ROLES,
            patients_known=True,
            notes=("made up",),
        )

    def chunks(self) -> Sequence[range]:
        starts = range(0, self.n_records, self.chunk_records)
        return [range(start, min(start + self.chunk_records, self.n_records)) for start in starts]

    def read(self, chunk: range) -> RecordBlock:
        number_N = np.array([record for record in chunk if record not in self.unreadable], np.int64)
        numbers = [self.copies.get(record, record) for record in number_N.tolist()]
        ecg_NLT = np.array([toy_ecg(record, self.n_timesteps) for record in numbers], np.float32)
        ecg_NLT = ecg_NLT.reshape(len(number_N), len(LEADS), self.n_timesteps)
        if self.bad_record in chunk:
            ecg_NLT[number_N == self.bad_record, 1, 3] = np.nan
        return RecordBlock(
            ecg_NLT=ecg_NLT,
            length_N=np.full(len(number_N), self.n_timesteps, np.int32),
            labels={
                "rhythm": np.stack([number_N % 4 == label for label in range(3)], axis=1).astype(np.float32),
                "sex": (number_N[:, np.newaxis] % 2).astype(np.float32),
                "kind": (number_N[:, np.newaxis] % 3).astype(np.float32),
                "rr": np.where(number_N % 5 == 0, np.nan, 800.0 + number_N)[:, np.newaxis].astype(np.float32),
            },
            record_ids=np.array([f"r{0 if self.same_ids else record:03d}-é" for record in number_N]),
            patient_ids=np.array([f"p{record // 2}" for record in number_N]),
            folds=((number_N if self.patients_cross_folds else number_N // 2) % 10 + 1).astype(np.int16),
            meta={"age": number_N.astype(np.float32)},
            quarantined=tuple(
                Quarantined(f"r{record:03d}-é", "the file is torn") for record in chunk if record in self.unreadable
            ),
        )


def toy_ecg(record: int, n_timesteps: int) -> np.ndarray:
    """Return ecg_LT: exact in float16, different in every record and lead."""
    return np.float32((record + np.arange(3)[:, np.newaxis]) * 0.25 + (np.arange(n_timesteps) % 8) * 0.125)


class UnlabelledReader(ToyReader):
    """The same records without any label set."""

    @property
    def header(self) -> Header:
        return replace(super().header, label_sets={})

    def read(self, chunk: range) -> RecordBlock:
        return replace(super().read(chunk), labels={})
