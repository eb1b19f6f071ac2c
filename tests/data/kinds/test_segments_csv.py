"""The df_segment2.csv layout: what is read, and what is refused with its row and column."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from data.kinds import segments_csv
from data.kinds.segments_csv import SegmentsCsvConfig, SegmentsCsvReader

RNG = np.random.default_rng(18)
ECG_NT = np.round(RNG.normal(size=(40, 6)), 4).astype(np.float32)
LABELS_N = np.arange(40) % 3 == 0


def lines() -> list[str]:
    rows = zip(ECG_NT.tolist(), LABELS_N.astype(int).tolist(), strict=True)
    return [",".join(f"{value:.4f}" for value in ecg) + f",{label}" for ecg, label in rows]


def write(folder: Path, rows: list[str], name: str = "segments.csv", end: str = "\n") -> Path:
    path = folder / name
    text = (end.join(rows) + end).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def reader(path: Path, **options: object) -> SegmentsCsvReader:
    return SegmentsCsvReader(SegmentsCsvConfig.model_validate({"source": str(path), "fs_hz": 360, **options}))


def assert_all_read(source: SegmentsCsvReader) -> None:
    blocks = [source.read(chunk) for chunk in source.chunks()]
    np.testing.assert_array_equal(np.concatenate([block.ecg_NLT for block in blocks])[:, 0], ECG_NT)
    np.testing.assert_array_equal(np.concatenate([block.labels["label"] for block in blocks])[:, 0], LABELS_N)
    assert len(set(np.concatenate([block.record_ids for block in blocks]))) == 40


HEADERS = {
    "names": [",".join([*(f"t{column}" for column in range(6)), "label"])],
    "pandas_numbers": ["0,1,2,3,4,5,6"],
    "numbers_and_label": ["0,1,2,3,4,5,label"],
    "quoted": ['"a","b","c","d","e","f","y"'],
    "none": [],
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
@pytest.mark.parametrize("name", ["segments.csv", "segments.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_row_is_read_whatever_the_header_line_end_and_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: list[str], name: str, end: str
) -> None:
    monkeypatch.setattr(segments_csv, "CHUNK_ROWS", 7)
    source = reader(write(tmp_path, header + lines(), name, end))
    assert len(source.chunks()) == 6
    assert source.header.n_timesteps == 6
    assert_all_read(source)


def test_a_last_line_without_its_end_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, ["\ufeff" + HEADERS["names"][0], *lines()])
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert_all_read(reader(path))


@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("cell", ["x", "", "nan", "inf", "1_000", "0x1", "1e99"])
def test_a_cell_that_is_no_number_is_refused_with_its_row_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str, has_header: bool
) -> None:
    monkeypatch.setattr(segments_csv, "CHUNK_ROWS", 7)
    rows = HEADERS["names"] * has_header + lines()
    rows[20] = ",".join([*rows[20].split(",")[:2], cell, *rows[20].split(",")[3:]])
    source = reader(write(tmp_path, rows))
    message = "row 21, column 3" if cell != "1e99" else "overflows"
    with pytest.raises(ValueError, match=message):
        assert_all_read(source)


def test_one_word_in_the_first_row_is_a_bad_cell_and_no_header(tmp_path: Path) -> None:
    rows = lines()
    rows[0] = "x" + rows[0]
    with pytest.raises(ValueError, match=r"row 1, column 1: 'x.*' is not a number"):
        assert_all_read(reader(write(tmp_path, rows)))


@pytest.mark.parametrize("label", ["2", "N", "", "-1", "0.5", "nan"])
def test_a_label_other_than_0_and_1_is_refused_with_its_row(tmp_path: Path, label: str) -> None:
    rows = lines()
    rows[4] = rows[4].rsplit(",", 1)[0] + f",{label}"
    with pytest.raises(ValueError, match=rf"row 5: the label \(last column\) must be 0 or 1, got '{label}'"):
        reader(write(tmp_path, rows))


def test_labels_may_be_written_as_decimals(tmp_path: Path) -> None:
    assert_all_read(reader(write(tmp_path, [f"{row}.0" for row in lines()])))


@pytest.mark.parametrize("row", ["1,2,3,0", "1,2,3,4,5,6,7,0", ""])
def test_a_row_of_another_length_is_refused(tmp_path: Path, row: str) -> None:
    rows = lines()
    rows.insert(9, row)
    with pytest.raises(ValueError, match=r"row 10 has \d columns?, but row 1 has 7"):
        reader(write(tmp_path, rows))


def test_files_that_can_not_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.csv can't be read"):
        reader(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"a .csv or .csv.gz file is needed"):
        reader(write(tmp_path, lines(), "segments.txt"))
    with pytest.raises(ValueError, match="has no data rows"):
        reader(write(tmp_path, HEADERS["names"]))
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress("\n".join(lines()).encode())[:-30])
    with pytest.raises(ValueError, match="is no whole gzip file"):
        reader(tmp_path / "torn.csv.gz")
    (tmp_path / "plain.csv.gz").write_text("1,2,0\n")
    with pytest.raises(ValueError, match="can't be read"):
        reader(tmp_path / "plain.csv.gz")


def test_record_ids_make_folds_disjoint_by_patient(tmp_path: Path) -> None:
    ids = np.repeat([f"p{number}" for number in range(10)], 4)
    records = write(tmp_path, ["record", *ids], "records.csv")
    source = reader(write(tmp_path, lines()), records=str(records))
    (block,) = [source.read(chunk) for chunk in source.chunks()]
    assert source.header.patients_known
    assert source.header.notes == ()
    np.testing.assert_array_equal(block.patient_ids, ids)
    assert all(len(set(block.folds[block.patient_ids == patient])) == 1 for patient in ids)


def test_without_record_ids_the_notes_say_that_patients_may_leak(tmp_path: Path) -> None:
    header = reader(write(tmp_path, lines())).header
    assert not header.patients_known
    assert "windows of one patient may be in several folds" in header.notes[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["record", *"ab"], "has 2 record ids, but the data has 40 rows"),
        ([*"ab"], "row 1 must be the header `record`, got 'a'"),
        (["record", "a", "", "b"], "row 3 is empty"),
    ],
)
def test_record_ids_that_do_not_fit_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    records = write(tmp_path, rows, "records.csv")
    with pytest.raises(ValueError, match=message):
        reader(write(tmp_path, lines()), records=str(records))


def test_the_real_segments_are_read(recordings: Path) -> None:
    folder = recordings / "segments"
    source = reader(
        folder / "df_segment_mitdb_ds1.csv.gz", records=str(folder / "df_segment_mitdb_ds1_record.csv"), seed=18
    )
    block = source.read(source.chunks()[0])
    assert block.ecg_NLT.shape == (8000, 1, 600)
    assert block.labels["label"].sum() == 3000
    assert block.ecg_NLT[0, 0, :3] == pytest.approx([-0.335, -0.36, -0.36])
    for fold in (9, 10):  # both labels, from several patients
        mask = block.folds == fold
        assert 0.1 < block.labels["label"][mask].mean() < 0.9
        assert len(set(block.patient_ids[mask])) >= 2
