"""MIMIC-IV-ECG by EnECG's JSONL: real WFDB files in the published folders, written here."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from pydantic import ValidationError

from data.kinds.mimic_iv_ecg import REPORTS, MimicIvEcgConfig, build_reader
from data.record_reader import RecordReader
from tests.data.whole import read_whole

LEADS = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]  # in the set's own order
N_PATIENTS = 12


def line_of(record: int) -> dict[str, object]:
    patient = 10_000_000 + record // 2
    return {
        "subject_id": patient,
        "study_id": 40_000_000 + record,
        "ecg_path": f"files/p1000/p{patient}/s{40_000_000 + record}/{40_000_000 + record}",
        "rr_interval": 29999 if record == 1 else 800 + record,
        "age": None if record == 2 else 40.5 + record,
        "gender": record // 2 % 2,
        "flag": record % 3 == 0,
        "report_label": record % 15,
        "report_0": "Sinus rhythm",
    }


def signal_of(record: int) -> np.ndarray:
    """Return signal_TL in steps of 5 uV, as the set's files have them."""
    return np.round(np.random.default_rng(record).normal(0, 60, (5000, 12))) / 200


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `root`, with 24 recordings of 12 patients, and `ecg.jsonl` beside it."""
    folder = tmp_path_factory.mktemp("mimic")
    records = [line_of(record) for record in range(2 * N_PATIENTS)]
    for record, line in enumerate(records):
        path = folder / "root" / str(line["ecg_path"])
        path.parent.mkdir(parents=True)
        signal_TL = signal_of(record)
        if record == 5:
            signal_TL[100:103, 4] = np.nan
        wfdb.wrsamp(
            path.name, fs=500, units=["mV"] * 12, sig_name=LEADS, p_signal=signal_TL, fmt=["16"] * 12,
            adc_gain=[200] * 12, baseline=[0] * 12, write_dir=str(path.parent),
        )  # fmt: skip
    write(folder / "ecg.jsonl", *map(json.dumps, records))
    return folder


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def reader(published: Path, source: Path | None = None, **options: object) -> RecordReader:
    fields = {"source": str(source or published / "ecg.jsonl"), "root": str(published / "root"), **options}
    return build_reader(MimicIvEcgConfig.model_validate(fields))


def test_signals_are_the_files_own_with_the_leads_put_in_order(published: Path) -> None:
    source = reader(published)
    block = read_whole(source)
    assert block.ecg_NLT.shape == (24, 12, 5000) and block.quarantined == ()
    for row, name in enumerate(source.header.lead_names):
        np.testing.assert_allclose(block.ecg_NLT[7, row], signal_of(7)[:, LEADS.index(name)], atol=1e-6)
    assert block.record_ids[7] == "40000007" and block.patient_ids[7] == "10000003"


def test_gaps_are_interpolated_unless_another_policy_is_asked(published: Path) -> None:
    avf = reader(published).header.lead_names.index("aVF")
    before, after = signal_of(5)[[99, 103], 4]
    gap_T = read_whole(reader(published)).ecg_NLT[5, avf, 100:103]
    np.testing.assert_allclose(gap_T, np.linspace(before, after, 5)[1:-1], atol=1e-6)
    assert not read_whole(reader(published, nan="zero")).ecg_NLT[5, avf, 100:103].any()
    [bad] = read_whole(reader(published, nan="quarantine")).quarantined
    assert bad.record_id == "40000005" and "3 values are not finite" in bad.reason


def test_all_five_tasks_are_label_sets_and_missing_values_are_nan(published: Path) -> None:
    source = reader(published)
    block = read_whole(source)
    tasks = {name: (each.task, each.units) for name, each in source.header.label_sets.items()}
    assert tasks == {
        "rr_interval": ("regression", ("ms",)),
        "age": ("regression", ("years",)),
        "gender": ("binary", ()),
        "flag": ("binary", ()),
        "report_label": ("multiclass", ()),
    }
    assert source.header.label_sets["report_label"].names == REPORTS and len(REPORTS) == 15
    np.testing.assert_array_equal(block.labels["rr_interval"][:3, 0], [800, np.nan, 802])
    np.testing.assert_array_equal(block.labels["age"][:3, 0], [40.5, 41.5, np.nan])
    assert block.labels["gender"][:6, 0].tolist() == [0, 0, 1, 1, 0, 0]
    assert block.labels["flag"][:4, 0].tolist() == [1, 0, 0, 1]
    assert block.labels["report_label"][14:17, 0].tolist() == [14, 0, 1]
    np.testing.assert_array_equal(block.meta["age"], block.labels["age"][:, 0])
    np.testing.assert_array_equal(block.meta["sex"], block.labels["gender"][:, 0])


def test_folds_are_disjoint_by_patient(published: Path) -> None:
    block = read_whole(reader(published))
    by_patient = pd.DataFrame({"patient": block.patient_ids, "fold": block.folds}).groupby("patient").fold.nunique()
    assert len(by_patient) == N_PATIENTS and (by_patient == 1).all()
    assert set(block.folds.tolist()) == set(range(1, 11))


def test_patients_and_records_can_be_limited_to_the_first(published: Path) -> None:
    block = read_whole(reader(published, max_patients=10))
    assert len(block.record_ids) == 20 and len(set(block.patient_ids.tolist())) == 10
    block = read_whole(reader(published, max_patients=11, first_record_per_patient=True))
    assert block.record_ids.tolist() == [str(40_000_000 + record) for record in range(0, 22, 2)]


def test_words_and_texts_stand_for_numbers_too(published: Path, tmp_path: Path) -> None:
    lines = [line_of(record) for record in range(24)]
    lines[0] |= {"subject_id": "10000000", "gender": "F", "flag": "abnormal", "rr_interval": "812", "age": ""}
    lines[0]["age"] = None
    lines[1] |= {"gender": "M", "flag": None}
    del lines[2]["flag"], lines[2]["study_id"]
    block = read_whole(reader(published, write(tmp_path / "a.jsonl", *map(json.dumps, lines), "")))
    assert block.labels["gender"][:2, 0].tolist() == [1, 0]
    np.testing.assert_array_equal(block.labels["flag"][:3, 0], [1, np.nan, np.nan])
    assert block.labels["rr_interval"][0, 0] == 812
    assert block.patient_ids[0] == block.patient_ids[1]
    assert block.record_ids[2] == "40000002"  # the path's last part


def test_a_task_that_no_line_has_is_left_out_and_said_so(published: Path, tmp_path: Path) -> None:
    lines = [{key: line_of(record)[key] for key in ("subject_id", "ecg_path", "age")} for record in range(24)]
    header = reader(published, write(tmp_path / "a.jsonl", *map(json.dumps, lines))).header
    assert list(header.label_sets) == ["age"]
    assert "label set flag is left out, as no line has a value" in header.notes
    for line in lines:
        del line["age"]
    with pytest.raises(ValueError, match="has none of rr_interval, age, gender, flag, report_label in any line"):
        reader(published, write(tmp_path / "b.jsonl", *map(json.dumps, lines)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json", "line 3: Invalid JSON"),
        ("[1, 2]", r"line 3: Input should be an object"),
        ('{"ecg_path": "a"}', "line 3: subject_id: Field required; correct it"),
        ('{"subject_id": 1, "ecg_path": ""}', "line 3: ecg_path: String should have at least 1 character"),
        ('{"subject_id": 1, "ecg_path": "/a/b"}', "line 3: ecg_path must be relative to --root and inside it"),
        ('{"subject_id": 1, "ecg_path": "../b"}', "line 3: ecg_path must be relative to --root and inside it"),
        (
            '{"subject_id": 1, "ecg_path": "a", "report_label": 15}',
            "report_label: Input should be less than 15, got 15",
        ),
        ('{"subject_id": 1, "ecg_path": "a", "gender": 2}', "line 3: gender: must be one of 0, 1, .* or null, got 2"),
        ('{"subject_id": 1, "ecg_path": "a", "age": "old"}', "line 3: age: Input should be a valid number.*got 'old'"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(published: Path, tmp_path: Path, text: str, message: str) -> None:
    first = json.dumps(line_of(0))
    with pytest.raises(ValueError, match=message):
        reader(published, write(tmp_path / "a.jsonl", first, "", text))


def test_a_record_that_occurs_twice_is_refused(published: Path, tmp_path: Path) -> None:
    lines = [json.dumps(line_of(record)) for record in (0, 1, 2, 1)]
    with pytest.raises(ValueError, match="line 4: record 40000001 is in line 2 already; remove one"):
        reader(published, write(tmp_path / "a.jsonl", *lines))


def test_a_root_without_the_records_is_refused_before_any_is_read(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the first record, files/.*40000000.hea, is not in .*; --root must be"):
        reader(published, root=str(tmp_path))
    with pytest.raises(ValueError, match=r"--root must be a folder, but .*nowhere is none"):
        reader(published, root=str(tmp_path / "nowhere"))
    with pytest.raises(ValidationError, match="root"):
        MimicIvEcgConfig.model_validate({"source": "a.jsonl"})


def test_a_file_that_is_missing_or_empty_is_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.jsonl can't be read \(No such file"):
        reader(published, tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="has no lines"):
        reader(published, write(tmp_path / "empty.jsonl"))


def test_a_record_that_is_not_on_disk_is_quarantined(published: Path, tmp_path: Path) -> None:
    lines = [line_of(record) for record in range(24)]
    lines[9]["ecg_path"] = "files/nowhere"
    block = read_whole(reader(published, write(tmp_path / "a.jsonl", *map(json.dumps, lines))))
    [bad] = block.quarantined
    assert bad.record_id == "40000009" and bad.reason.startswith("can't be read as a WFDB record")
    assert len(block.record_ids) == 23
