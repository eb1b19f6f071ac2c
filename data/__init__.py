"""Data sets: readers, folds, preprocessing, the shard store, and loading through Ray Data."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from data.arrays import preprocess

__all__ = ["READERS", "ReaderEntry", "preprocess"]


class ReaderEntry(NamedTuple):
    """Where one kind's configuration and reader live; imported when the kind is used."""

    module: str
    config: str
    reader: str

    def config_type(self) -> Any:
        """Import the kind's pydantic model: its first field is the source, the others are its options."""
        return getattr(import_module(self.module), self.config)

    def reader_builder(self) -> Any:
        """Import what makes the kind's `data.reader.Reader` from the configuration: its class, or a function."""
        return getattr(import_module(self.module), self.reader)


# A data set is one file and one line here. The names are strings because every Ray worker imports this
# module, and none of them needs pandas, scikit-learn and wfdb at once.
READERS: dict[str, ReaderEntry] = {
    "segments_csv": ReaderEntry("data.kinds.segments_csv", "SegmentsCsvConfig", "SegmentsCsvReader"),
    "ptbxl": ReaderEntry("data.kinds.ptbxl", "PtbxlConfig", "build_reader"),
    "challenge2021": ReaderEntry("data.kinds.challenge2021", "Challenge2021Config", "build_reader"),
    "challenge2017": ReaderEntry("data.kinds.challenge2017", "Challenge2017Config", "build_reader"),
    "sph": ReaderEntry("data.kinds.sph", "SphConfig", "build_reader"),
    "hefei": ReaderEntry("data.kinds.hefei", "HefeiConfig", "build_reader"),
    "hubert_csv": ReaderEntry("data.kinds.hubert_csv", "HubertCsvConfig", "build_reader"),
    "iesd": ReaderEntry("data.kinds.iesd", "IesdConfig", "build_reader"),
    "joined": ReaderEntry("data.kinds.joined", "JoinedConfig", "build_reader"),
    "numpy_dir": ReaderEntry("data.kinds.numpy_dir", "NumpyDirConfig", "build_reader"),
    "synthetic": ReaderEntry("data.synthetic", "SyntheticConfig", "SyntheticReader"),
    "code15": ReaderEntry("data.kinds.code15", "Code15Config", "build_reader"),
    "code_hdf5": ReaderEntry("data.kinds.code_hdf5", "CodeHdf5Config", "build_reader"),
    "mitdb": ReaderEntry("data.kinds.mitdb", "MitdbConfig", "build_reader"),
    "mimic_iv_ecg": ReaderEntry("data.kinds.mimic_iv_ecg", "MimicIvEcgConfig", "build_reader"),
}


def __getattr__(name: str) -> Any:
    """Import `data.preprocess` at its first use, for the same reason."""
    if name == "preprocess":
        return import_module("data.arrays").preprocess
    raise AttributeError(f"module 'data' has no attribute {name!r}")
