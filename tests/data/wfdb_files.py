"""Writing WFDB records as the PhysioNet/CinC Challenges ship them: a header, and a Matlab 4 file of 16-bit values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import io as scipy_io

from data.leads import LEADS_12


def write_record(
    path: Path,
    values_LT: NDArray[np.int16],
    comments: Sequence[str] = (),
    *,
    leads: Sequence[str] = LEADS_12,
    fs_hz: int = 500,
    fmt: str = "16+24",
    gain: str = "1000/mV",
) -> None:
    """Write `path`.hea and `path`.mat; the values are before gain and baseline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{path.name} {len(leads)} {fs_hz} {values_LT.shape[1]} 12-May-2020 12:33:59"]
    for values, lead in zip(values_LT, leads, strict=True):
        lines.append(f"{path.name}.mat {fmt} {gain} 16 0 {values[0]} 0 0 {lead}")
    path.with_name(f"{path.name}.hea").write_text("\n".join([*lines, *comments]) + "\n")
    scipy_io.savemat(path.with_name(f"{path.name}.mat"), {"val": values_LT.astype(np.int16)}, format="4")


def random_values(seed: int, n_leads: int = 12, n_timesteps: int = 1000) -> NDArray[np.int16]:
    """Return values_LT that no other seed gives."""
    return np.random.default_rng(seed).integers(-800, 800, (n_leads, n_timesteps)).astype(np.int16)
