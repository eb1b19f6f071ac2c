"""Reading all that a reader has, in this process."""

from __future__ import annotations

from data.reader import Reader, RecordBlock, join_blocks


def read_whole(reader: Reader) -> RecordBlock:
    """Return the records of all chunks in one block."""
    return join_blocks([reader.read(chunk) for chunk in reader.chunks()])
