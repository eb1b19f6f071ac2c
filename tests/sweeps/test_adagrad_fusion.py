"""A teacher's sweep, and its student's: what they leave, and what the student takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from platform.models.trained_model import read_trained_model
from tests.sweeps.conftest import make_workplace
from tests.sweeps.workplace import Workplace, states

PARAMS: dict[str, Any] = {"size": "nano", "batch_size": 32, "zo_chunk": 32, "rank": 4, "aux_weight": 0.2, "lr": 1e-2}


def sections(place: Workplace, name: str, **params: Any) -> dict[str, Any]:
    data = {
        "store": str(place.stores / "twelve_leads"),
        "preprocess": [{"zscore": {"per": "lead"}}],
        "drop_unlabelled": False,
        "finetune_label_ratio": 0.5,
    }
    budget = {"trials": 1, "epochs": 2}
    return {"name": name, "method": "adagrad_fusion", "data": data, "params": {**PARAMS, **params}, "budget": budget}


@pytest.fixture(scope="module")
def teacher(base: Path, ray_cluster: None) -> Workplace:
    place = make_workplace(base, "fusion")
    assert place.sweep(**sections(place, "teacher")) == 0
    return place


def test_a_sweep_leaves_the_originals_result_file(teacher: Workplace) -> None:
    folder = teacher.runs / "teacher-001"
    (result,) = np.load(folder / "result" / "twelve_leads.npy", allow_pickle=True)
    (look,) = teacher.record("teacher-001").tested
    assert result["auc_roc_macro"] == pytest.approx(look.body["metrics"]["auroc"])
    assert result["Map_value"] == pytest.approx(100 * look.body["metrics"]["map"])
    assert result["F1score_b"] == pytest.approx(look.body["metrics"]["f_beta"])
    thresholds = read_trained_model(folder).card.thresholds_K
    np.testing.assert_allclose(result["threshold"], thresholds)
    assert "Test scores of AdaGrad-Fusion" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_student_of_one_lead_learns_from_the_sweeps_best_folder(teacher: Workplace) -> None:
    student = {"tuning": "full", "teacher": str(teacher.runs / "teacher-001" / "best"), "temperature": 2.0, "leads": 1}
    params = {key: value for key, value in PARAMS.items() if key not in ("zo_chunk", "rank")} | student
    values = sections(teacher, "student")
    assert teacher.sweep(**{**values, "params": params}) == 0
    assert states(teacher.record("student-001")) == {"t0000": "COMPLETED"}
    session = onnxruntime.InferenceSession(teacher.runs / "student-001" / "best" / "model.onnx")
    signal = read_trained_model(teacher.runs / "student-001").card.data.signal
    ecg_BLT = np.random.default_rng(0).standard_normal((2, 12, signal.n_timesteps), np.float32)
    others_BLT = ecg_BLT.copy()
    others_BLT[:, 1:] = 0
    (answer,), (same,) = (session.run(None, {"ecg": each}) for each in (ecg_BLT, others_BLT))
    np.testing.assert_array_equal(answer, same)


@pytest.mark.slow
def test_a_trial_without_its_teacher_says_so(teacher: Workplace) -> None:
    params = {"size": "nano", "tuning": "full", "teacher": "nowhere/best", "batch_size": 32}
    values = sections(teacher, "orphan")
    assert teacher.sweep(**{**values, "params": params}) == 1
    (trial,) = teacher.record("orphan-001").trials.values()
    assert trial.state == "FAILED"
    assert "nowhere/best has no config.json beside its weights" in str(trial.error)
