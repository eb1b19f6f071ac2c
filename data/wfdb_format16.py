"""WFDB records in format 16, the one of PTB-XL and of PhysioNet's challenges, read without wfdb's tables.

wfdb 4.3 looks every field of a header up in a pandas table, which takes 3 of the 3.5 ms of a record of 12 x 1,000.
Here its own patterns split the header and numpy reads the samples, in 0.15 ms. What is not plain (several segments or
files, skewed leads, several samples a frame, other formats, damaged files) is left to wfdb.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from wfdb.io.header import parse_header_content, rx_record, rx_signal

MISSING = -(2**15)  # format 16's mark of a sample that is not there
MOST_IN_SEGMENTS = 2**27  # samples: a GiB of wfdb's float64
COMPRESSED = ("508", "516", "524")
DEFAULT_GAIN = 200.0  # where a header has none, or 0


class PhysicalSignal(NamedTuple):
    """A record in the units of its header."""

    ecg_LT: NDArray[np.float64]
    units: tuple[str, ...]
    fs_hz: float
    lead_names: tuple[str, ...]


class _Lead(NamedTuple):
    """One signal line of a header, in wfdb's order and as text; empty where it is not given."""

    file_name: str
    fmt: str
    samps_per_frame: str
    skew: str
    byte_offset: str
    adc_gain: str
    baseline: str
    units: str
    adc_res: str
    adc_zero: str
    init_value: str
    checksum: str
    block_size: str
    sig_name: str

    @property
    def gain(self) -> float:
        return float(self.adc_gain or 0) or DEFAULT_GAIN

    @property
    def zero(self) -> int:
        return int(self.baseline or self.adc_zero or 0)

    @property
    def layout(self) -> tuple[str, ...]:
        """What must be the same in all leads."""
        return (self.file_name, self.fmt, self.samps_per_frame or "1", self.skew or "0", self.byte_offset or "0")


def read_format16(path: str) -> PhysicalSignal | None:
    """Read the record at `path` (without a suffix), exactly as `wfdb.rdrecord` does; None where that has to.

    Raises:
        OSError: there is no header.
    """
    text = Path(f"{path}.hea").read_text(encoding="ascii", errors="ignore")
    lines, _ = parse_header_content(text)
    record = rx_record.match(lines[0]) if lines else None
    matches = [rx_signal.match(line) for line in lines[1:]]
    if record is None or not all(matches):
        return None
    leads = [_Lead(*match.groups()) for match in matches if match]
    _, n_segments, n_leads, fs, _, _, n_timesteps, _, _ = record.groups()
    plain = not n_segments and fs and int(n_timesteps or 0) and int(n_leads) == len(leads) and _are_plain(leads)
    return _read(path, leads, float(fs), int(n_timesteps)) if plain else None


def check_promise(path: str) -> None:
    """Refuse a header that promises more than there is, before memory is taken for it.

    That is: another number of leads or segments than it has lines, more samples in a file than that has bytes (of the
    formats only the compressed ones have less than a byte a sample; they carry their own length), or more samples in
    segments, between which there may be gaps, than fit in memory.

    Raises:
        ValueError: it does.
        OSError: there is no header.
    """
    text = Path(f"{path}.hea").read_text(encoding="ascii", errors="ignore")
    lines, _ = parse_header_content(text)
    record = rx_record.match(lines[0]) if lines else None
    n_leads, n_segments, n_timesteps = (int((record and record[name]) or 0) for name in ("n_sig", "n_seg", "sig_len"))
    if (n_segments or n_leads) != len(lines) - 1:
        raise ValueError(f"its header names {n_segments or n_leads:,} leads or segments in {len(lines) - 1:,} lines")
    if n_segments and n_leads * n_timesteps > MOST_IN_SEGMENTS:
        raise ValueError(f"{n_leads:,} x {n_timesteps:,} samples in segments, at most {MOST_IN_SEGMENTS:,} are read")
    leads = [_Lead(*match.groups()) for match in map(rx_signal.match, lines[1:]) if match]
    counts = Counter(lead.file_name for lead in leads if lead.fmt not in COMPRESSED)
    for name, n_here in counts.items():
        file = Path(path).with_name(name) if name else Path(path)
        n_bytes = file.stat().st_size if file.is_file() else 0
        if n_here * n_timesteps > n_bytes:
            raise ValueError(f"{name or 'a signal file'} has {n_bytes:,} bytes for {n_here} x {n_timesteps:,} samples")


def _are_plain(leads: list[_Lead]) -> bool:
    _, fmt, samps_per_frame, skew, _ = leads[0].layout
    one_layout = len({lead.layout for lead in leads}) == 1
    return one_layout and (fmt, samps_per_frame, skew) == ("16", "1", "0") and all(lead.sig_name for lead in leads)


def _read(path: str, leads: list[_Lead], fs_hz: float, n_timesteps: int) -> PhysicalSignal | None:
    file_name, *_, offset = leads[0].layout
    n_values = len(leads) * n_timesteps
    file = Path(path).with_name(file_name)
    if file.stat().st_size < int(offset) + 2 * n_values:
        return None  # before memory is taken for what a header promises
    raw: NDArray[Any] = np.fromfile(file, "<i2", n_values, offset=int(offset))
    raw_LT = np.ascontiguousarray(raw.reshape(n_timesteps, len(leads)).T)
    ecg_LT = raw_LT.astype(np.float64)
    ecg_LT -= np.array([[lead.zero] for lead in leads])
    ecg_LT /= np.array([[lead.gain] for lead in leads])
    ecg_LT[raw_LT == MISSING] = np.nan
    units = tuple(lead.units or "mV" for lead in leads)
    return PhysicalSignal(ecg_LT, units, fs_hz, tuple(lead.sig_name for lead in leads))
