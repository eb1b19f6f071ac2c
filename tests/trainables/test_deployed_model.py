"""A deployed model takes mV, and answers as the run's own preprocessing and network do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from data.preprocessing import preprocess
from tests.trainables.small_predictor import small_predictor
from trainables.deployed_model import DeployedModel, cut_chain
from trainables.deployed_onnx import DeployedOnnx, check_deployed, ecg_like, export_deployed
from trainables.predictor import Predictor, cut

BANDPASS = {"bandpass": {"low_hz": 0.5, "high_hz": 40}}
LEAD = {"zscore": {"per": "lead"}}


def deployed(predictor: Predictor) -> DeployedModel:
    return DeployedModel(predictor.network, predictor.config, predictor.data).eval()


def answers(predictor: Predictor, ecg_BLT: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        result_BK: NDArray[np.float32] = deployed(predictor)(torch.from_numpy(ecg_BLT)).numpy()
    return result_BK


def names(steps: Any) -> list[str]:
    return [next(iter(step.model_dump())) for step in steps]


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [LEAD],
        [{"zscore": {"per": "record"}}],
        [{"zscore": {"per": "segment"}}],
        [{"zscore": {"per": "global"}}],
        [{"minmax": {}}],
        [{"nan": {"policy": "zero"}}, LEAD],
        [{"leads": {"names": ["III", "I"]}}, LEAD],
        [{"leads": {"names": ["II", "V1"], "missing": "zero"}}, {"minmax": {}}],
        [{"derive_limb_leads": {}}, {"zscore": {"per": "record"}}],
        [{"constant_leads": {}}, LEAD],
        [{"crop_or_pad": {"n_timesteps": 90}}, LEAD],
        [{"crop_or_pad": {"n_timesteps": 90, "keep": "centre"}}, LEAD],
        [LEAD, {"crop_or_pad": {"n_timesteps": 250}}],
        [{"crop_or_pad": {"n_timesteps": 250}}, {"zscore": {"per": "record"}}, {"crop_or_pad": {"n_timesteps": 70}}],
        [BANDPASS, LEAD],
        [LEAD, {"resample": {"fs_hz": 50}}, {"crop_or_pad": {"n_timesteps": 64}}],
        [{"preset": "hubert_ecg"}],
    ],
    ids=lambda steps: "+".join("".join(map(str, step)) for step in steps),
)
@pytest.mark.parametrize("windows", [{}, {"crop_timesteps": 40, "window_stride": 15, "window_pooling": "max"}])
def test_it_answers_as_the_runs_preprocessing_does_at_any_length(steps: Any, windows: Any) -> None:
    predictor = small_predictor(steps, **windows)
    before, signal = cut_chain(predictor.data.preprocess).before, predictor.data.input_signal
    records = [ecg_LT[:, :n] for ecg_LT, n in zip(ecg_like(signal, 4), (200, 199, 131, 30), strict=True)]
    pieces = cut(records, signal)
    ecg_NLT = preprocess(pieces.ecg_PLT, before, signal, pieces.length_P)
    np.testing.assert_allclose(answers(predictor, ecg_NLT), predictor.predict(records), atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass", "regression"])
def test_windows_are_pooled_as_in_evaluation(task: Any, pooling: str) -> None:
    pooling = "mean" if task == "regression" else pooling
    predictor = small_predictor([LEAD], task, crop_timesteps=60, window_pooling=pooling)
    records = list(ecg_like(predictor.data.input_signal, 3))
    np.testing.assert_allclose(answers(predictor, np.stack(records)), predictor.predict(records), atol=2e-6)


def test_a_flat_lead_becomes_zero_and_not_a_number_out_of_nothing() -> None:
    for steps in ([LEAD], [{"minmax": {}}], [{"zscore": {"per": "record"}}]):
        predictor = small_predictor(steps)
        (ecg_LT,) = ecg_like(predictor.data.input_signal, 1)
        ecg_LT[1] = 0.25
        np.testing.assert_allclose(answers(predictor, ecg_LT[np.newaxis]), predictor.predict([ecg_LT]), atol=2e-6)


@pytest.mark.parametrize("policy", ["zero", "mean"])
def test_gaps_are_filled_inside(policy: str) -> None:
    predictor = small_predictor([{"nan": {"policy": policy}}, LEAD])
    (ecg_LT,) = ecg_like(predictor.data.input_signal, 1)
    ecg_LT[0, 20:60], ecg_LT[2] = np.nan, np.inf
    answered = answers(predictor, ecg_LT[np.newaxis])
    assert np.isfinite(answered).all()
    np.testing.assert_allclose(answered, predictor.predict([ecg_LT]), atol=2e-6)


def test_the_chain_is_cut_behind_its_last_filter() -> None:
    def halves(*steps: Any) -> tuple[list[str], list[str]]:
        chain = cut_chain(small_predictor(steps).data.preprocess)
        return names(chain.before), names(chain.inside)

    assert halves(LEAD) == ([], ["zscore"])
    assert halves(BANDPASS, LEAD) == (["bandpass"], ["zscore"])
    assert halves(LEAD, BANDPASS) == (["zscore", "bandpass"], [])
    assert halves({"nan": {"policy": "interpolate"}}, LEAD) == (["nan"], ["zscore"])
    assert halves({"preset": "enecg"}) == (["nan", "zscore", "resample"], ["crop_or_pad"])


@pytest.mark.parametrize(
    ("steps", "params"),
    [
        ([BANDPASS, LEAD], {}),
        ([{"nan": {"policy": "mean"}}, {"minmax": {}}], {"crop_timesteps": 50, "window_pooling": "max"}),
        ([{"derive_limb_leads": {}}, {"crop_or_pad": {"n_timesteps": 150, "keep": "centre"}}], {}),
        ([{"zscore": {"per": "global"}}, ], {"crop_timesteps": 64, "precision": "bf16"}),
        ([{"zscore": {"per": "segment"}}], {"crop_timesteps": 64}),
    ],
)  # fmt: skip
def test_the_onnx_file_answers_as_pytorch_does(tmp_path: Path, steps: Any, params: Any) -> None:
    predictor = small_predictor(steps, **params)
    export_deployed(predictor, {}, tmp_path / "model.onnx")
    difference = check_deployed(predictor, tmp_path / "model.onnx")
    assert difference.largest < 1e-5 < difference.allowed
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)


def test_a_wrong_file_would_be_noticed(tmp_path: Path) -> None:
    export_deployed(small_predictor([{"minmax": {}}]), {}, tmp_path / "model.onnx")
    difference = check_deployed(small_predictor([LEAD]), tmp_path / "model.onnx")
    assert difference.largest > difference.allowed


def test_the_file_says_what_it_takes_what_it_answers_and_what_is_not_in_it(tmp_path: Path) -> None:
    predictor = small_predictor([BANDPASS, {"resample": {"fs_hz": 50}}, LEAD], fs_hz=100)
    export_deployed(predictor, {"thresholds": '{"a": 0.5}'}, tmp_path / "model.onnx")
    file = DeployedOnnx(tmp_path / "model.onnx")
    known = dict(file.metadata)
    assert json.loads(known["lead_names"]) == ["I", "II", "III"]
    assert (json.loads(known["fs_hz"]), json.loads(known["n_timesteps"])) == (50, 100)
    assert json.loads(known["label_names"]) == ["a", "b", "c"]
    assert json.loads(known["thresholds"]) == {"a": 0.5}
    assert [next(iter(step)) for step in json.loads(known["steps_before"])] == ["bandpass", "resample"]
    assert [next(iter(step)) for step in json.loads(known["steps_inside"])] == ["zscore"]
    assert "steps_before" in known["usage"]
    assert (file.signal.fs_hz, file.signal.n_timesteps) == (50, 100)
