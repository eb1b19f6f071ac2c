"""Reading one WFDB record: the format of PhysioNet, in all the header styles of its challenges."""

from __future__ import annotations

import numpy as np
import wfdb

from data.record_reader import UNREADABLE, RawRecord


def read_wfdb(path: str) -> RawRecord:
    """Read the record at `path` (without a suffix) in mV.

    Raises:
        ValueError: it can't be read, or its units or gains are not those of an ECG.
    """
    try:
        record = wfdb.rdrecord(path)
    except UNREADABLE as error:
        raise ValueError(f"can't be read as a WFDB record ({error}); download it anew") from error
    scale = {"mv": 1.0, "uv": 1e-3, "v": 1e3}
    unknown = [unit for unit in record.units if unit.lower() not in scale]
    if unknown:
        raise ValueError(f"a lead is in {unknown[0]!r}; mV, uV and V are known")
    factor_L = np.array([scale[unit.lower()] for unit in record.units])
    return RawRecord((record.p_signal * factor_L).T, float(record.fs), tuple(record.sig_name))
