"""Data sets: readers, folds, preprocessing, the shard store, and loading through Ray Data."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


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
    "segments_csv": ReaderEntry("data.segments_csv", "SegmentsCsvConfig", "SegmentsCsvReader"),
    "ptbxl": ReaderEntry("data.ptbxl", "PtbxlConfig", "build_reader"),
    "synthetic": ReaderEntry("data.synthetic", "SyntheticConfig", "SyntheticReader"),
}
