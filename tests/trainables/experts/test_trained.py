"""A trained model as an expert: it predicts what `predict` says, whatever stands before and inside its graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from data.dataset import Signal
from data.leads import LEADS_12
from platform.models.trained_model import read_trained_model
from tests.platform.small_run import SmallRun, make_run, make_store
from tests.trainables.experts.whole_records import records_of
from trainables.experts.table import AnyExpertConfig, build_expert
from trainables.experts.trained import TrainedConfig
from trainables.predictor import Predictor

SIGNAL = Signal(LEADS_12, 50.0, 150)
FILTERED = [{"bandpass": {"low_hz": 0.5, "high_hz": 20}}, {"zscore": {"per": "lead"}}]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    folder = tmp_path_factory.mktemp("filtered")
    return make_run(folder, make_store(folder), FILTERED, epochs=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    folder = tmp_path_factory.mktemp("plain")
    return make_run(folder, make_store(folder), [{"zscore": {"per": "record"}}], epochs=1)


@pytest.mark.parametrize("name", ["filtered", "plain"])
@pytest.mark.parametrize("place", ["", "best"])
def test_it_predicts_what_the_platform_predicts(name: str, place: str, request: pytest.FixtureRequest) -> None:
    run: SmallRun = request.getfixturevalue(name)
    trained = read_trained_model(run.folder)
    ecg_BLT = records_of(SIGNAL, (150, 110, 150))
    records = [ecg_BLT[row, :, :length].numpy() for row, length in enumerate((150, 110, 150))]
    expected = Predictor(trained.model, trained.config, trained.card.data).predict(records)
    expert = build_expert(TrainedConfig(weights=str(run.folder / place)), SIGNAL)
    np.testing.assert_allclose(expert(ecg_BLT).numpy(), expected, atol=1e-4)
    assert expert.widths == {"predictions": trained.card.data.label_set.n_outputs}
    assert (expert.not_exported_since is None) == (name == "plain")


def test_longer_records_of_another_rate_are_windows_of_its_own(plain: SmallRun) -> None:
    signal = Signal(("V9", *LEADS_12), 100.0, 600)
    expert = build_expert(TrainedConfig(weights=str(plain.folder)), signal)
    ecg_BLT = records_of(signal, (600, 600))
    whole = build_expert(TrainedConfig(weights=str(plain.folder)), replace(SIGNAL, n_timesteps=300))
    at_50_hz = expert.view(ecg_BLT).ecg_RLT.unflatten(0, (2, 2)).transpose(1, 2).flatten(2)  # type: ignore[operator]
    torch.testing.assert_close(expert(ecg_BLT), whole(at_50_hz), rtol=1e-4, atol=1e-4)


def test_its_identity_follows_from_its_weights_and_not_from_its_place(plain: SmallRun, filtered: SmallRun) -> None:
    identities = {
        build_expert(TrainedConfig(weights=str(place)), SIGNAL).identity
        for place in (plain.folder, plain.folder / "best", filtered.folder)
    }
    assert len(identities) == 2


def test_what_is_no_trained_model_is_refused(tmp_path: Path, plain: SmallRun) -> None:
    with pytest.raises(ValueError, match="is not there; give the folder of a sweep that has ended, or its best/"):
        build_expert(TrainedConfig(weights=str(tmp_path)), SIGNAL)
    with pytest.raises(ValueError, match="without I"):
        build_expert(TrainedConfig(weights=str(plain.folder)), replace(SIGNAL, lead_names=("V1", "V2")))
    parse: Any = TypeAdapter(AnyExpertConfig).validate_python
    with pytest.raises(ValueError, match="weights"):
        parse({"kind": "trained"})
