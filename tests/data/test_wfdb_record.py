"""WFDB records: every header style of the Challenges gives the same millivolts, on disk and in an archive."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.wfdb_record import ZippedRecord, read_wfdb, read_zipped_wfdb
from tests.data.wfdb_files import random_values, write_record


@pytest.mark.parametrize(
    ("fmt", "gain", "scale", "baseline"),
    [
        ("16+24", "1000/mV", 1e-3, 0),  # Challenge 2021, v1.0.2
        ("16+24", "1000/mv", 1e-3, 0),  # its PTB and PTB-XL
        ("16x1+24", "1000.0(0)/mV", 1e-3, 0),  # v1.0.3
        ("16x1+24", "4880.0(-7)/mV", 1 / 4880, -7),
        ("16+24", "2(5)/uV", 1e-3 / 2, 5),
        ("16+24", "1e6/V", 1e-3, 0),
    ],
)
def test_every_style_of_format_and_gain_gives_millivolts(
    tmp_path: Path, fmt: str, gain: str, scale: float, baseline: int
) -> None:
    values_LT = random_values(0)
    write_record(tmp_path / "A0001", values_LT, fmt=fmt, gain=gain)
    record = read_wfdb(str(tmp_path / "A0001"))
    np.testing.assert_allclose(record.ecg_LT, (values_LT.astype(float) - baseline) * scale, rtol=1e-12)
    assert record.fs_hz == 500
    assert record.lead_names[:4] == ("I", "II", "III", "aVR")


def test_a_unit_that_is_no_voltage_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path / "A0001", random_values(0), gain="1000/mmHg")
    with pytest.raises(ValueError, match="a lead is in 'mmHg'; mV, uV and V are known"):
        read_wfdb(str(tmp_path / "A0001"))


def test_a_header_without_its_signal_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path / "A0001", random_values(0))
    (tmp_path / "A0001.mat").unlink()
    with pytest.raises(ValueError, match=r"can't be read as a WFDB record .*A0001\.mat"):
        read_wfdb(str(tmp_path / "A0001"))


def zipped(folder: Path) -> Path:
    write_record(folder / "A0001", random_values(0))
    archive = folder / "records.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for suffix in (".hea", ".mat"):
            file.write(folder / f"A0001{suffix}", f"training/A0001{suffix}")
    return archive


def test_a_record_in_an_archive_is_that_on_disk(tmp_path: Path) -> None:
    record = read_zipped_wfdb(ZippedRecord(str(zipped(tmp_path)), "training/A0001", ".mat"))
    np.testing.assert_array_equal(record.ecg_LT, read_wfdb(str(tmp_path / "A0001")).ecg_LT)


def test_a_damaged_archive_is_refused_at_the_record(tmp_path: Path) -> None:
    archive = zipped(tmp_path)
    content = bytearray(archive.read_bytes())
    place = content.index(b"val\x00") + 100
    content[place] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"can't be read from .*records\.zip \(Bad CRC-32"):
        read_zipped_wfdb(ZippedRecord(str(archive), "training/A0001", ".mat"))
    with pytest.raises(ValueError, match=r"can't be read from .*A0002\.hea"):
        read_zipped_wfdb(ZippedRecord(str(archive), "training/A0002", ".mat"))
