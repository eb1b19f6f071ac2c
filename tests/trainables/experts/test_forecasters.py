"""DLinear and TimesNet: their numbers, what they are trained on, and the experts that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from data.dataset import NO_LABELS, Batch, Dataset, Signal
from tests.trainables.experts.whole_records import SIGNAL, records_of
from tests.trainables.tiny_dataset import TinySplit
from trainables.checkpoint import save_weights
from trainables.experts.dlinear import DLinear
from trainables.experts.forecasters import DLinearConfig, TimesNetConfig
from trainables.experts.table import build_expert
from trainables.experts.timesnet import SHAPES, Inception, TimesNet
from trainables.forecasting_pretrain import Cuts, Forecasting, ForecastingPretrainConfig, build_model, train
from trainables.plain_trial import PlainTrial
from trainables.pretraining.masks import RecordStreams

AT_50_HZ = Signal(("I", "II"), 50.0, 600)


def waves(n_records: int, seed: int, n_timesteps: int = 600) -> TinySplit:
    """Records whose two leads are sine waves of 5 Hz, whatever comes before."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(n_timesteps) / 50
    phase = rng.uniform(0, 2 * np.pi, (n_records, 2, 1))
    ecg_NLT = np.sin(2 * np.pi * 5 * time_s + phase) + rng.normal(0, 0.02, (n_records, 2, n_timesteps))
    return TinySplit(ecg_NLT.astype(np.float32), np.zeros((n_records, 0), np.float32))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset(AT_50_HZ, NO_LABELS, waves(32, 0), waves(16, 1))


def test_dlinear_is_two_linear_layers_on_a_moving_average_of_1001_and_on_what_it_leaves() -> None:
    network, series_ST = DLinear(4), records_of()[:, 1, :500]
    weights = {name: each.detach().double().numpy() for name, each in network.named_parameters()}
    series = series_ST.double().numpy()
    padded = np.concatenate([np.repeat(series[:, :1], 500, 1), series, np.repeat(series[:, -1:], 500, 1)], axis=1)
    average = np.stack([np.convolve(each, np.ones(1001) / 1001, "valid") for each in padded])
    trend = average @ weights["trend.weight"].T + weights["trend.bias"]
    season = (series - average) @ weights["season.weight"].T + weights["season.bias"]
    found = network(series_ST)
    np.testing.assert_allclose(found.forecast_SF.detach(), trend + season, atol=1e-4)
    np.testing.assert_allclose(found.embedding_SD.detach(), np.concatenate([trend, season], axis=1), atol=1e-4)


def test_a_layer_of_timesnet_is_the_mean_of_its_convolutions() -> None:
    layer, image_SCRP = Inception(3, 5, 4), torch.randn(2, 3, 9, 11)
    nn.init.normal_(layer.bias)
    each = [
        nn.functional.conv2d(image_SCRP, kernel, layer.bias, padding=half) for half, kernel in enumerate(layer.kernels)
    ]
    torch.testing.assert_close(layer(image_SCRP), torch.stack(each).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_timesnet_has_the_published_sizes() -> None:
    full = SHAPES["full"]
    assert (full.d_model, full.d_ff, full.n_kernels, full.top_k, full.n_layers) == (16, 32, 6, 3, 3)
    with torch.device("meta"):
        network = TimesNet(1, "full", 0.3)
    kernels = sum((2 * half + 1) ** 2 for half in range(6))
    block = 2 * 16 * 32 * kernels + 32 + 16  # the original has a bias a kernel, whose mean is ours
    expected = 3 * 16 + 500 * 501 + 501 + 3 * block + 2 * 16 + 17
    assert sum(each.numel() for each in network.parameters()) == expected


def test_timesnet_finds_the_periods_of_its_training_records() -> None:
    network = TimesNet(1, "tiny", 0.0)
    time_T = torch.arange(500) / 500
    wave = torch.sin(2 * torch.pi * 7 * time_T) + 2 * torch.sin(2 * torch.pi * 40 * time_T)
    network.fit(torch.stack([wave, wave * 3 + 1]))
    assert network.frequencies_K.tolist() == [40, 7]


def test_timesnet_reads_a_series_folded_at_its_periods() -> None:
    """One block against the steps written out: pad, fold, convolve, cut, and weigh by amplitude."""
    torch.manual_seed(0)
    network = TimesNet(1, "tiny", 0.0).eval()
    block, hidden_STN = network.blocks[0], torch.randn(2, 501, 4)
    images, amplitudes = [], []
    for frequency in (3, 40):
        period = 500 // frequency
        n_rows = -(-501 // period)
        padded = torch.cat([hidden_STN, torch.zeros(2, n_rows * period - 501, 4)], dim=1)
        image = padded.reshape(2, n_rows, period, 4).permute(0, 3, 1, 2)
        images.append(block.read(image).permute(0, 2, 3, 1).reshape(2, -1, 4)[:, :501])  # type: ignore[operator]
        amplitudes.append(torch.fft.rfft(hidden_STN, dim=1)[:, frequency].abs().mean(dim=1))
    share = torch.stack(amplitudes, dim=1).softmax(dim=1)
    expected = share[:, :1, None] * images[0] + share[:, 1:, None] * images[1] + hidden_STN
    torch.testing.assert_close(block(hidden_STN, [3, 40]), expected, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------ training


def cut(length: int, epoch: int, horizon: int = 2) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut a record of two leads that counts its timesteps; returns context_LT and target_LF."""
    ecg_BLT = np.tile(np.arange(600, dtype=np.float32), (1, 2, 1))
    batch = Batch(ecg_BLT, np.zeros((1, 0), np.float32), np.arange(1), np.array([length], np.int32))
    context, target = Cuts(horizon)(batch, "train", RecordStreams.of_epoch(1, epoch)).inputs
    assert context is not None and target is not None
    return context[0].numpy(), target[0].numpy()


@pytest.mark.parametrize("epoch", range(5))
def test_a_cut_has_the_500_timesteps_before_what_is_forecast(epoch: int) -> None:
    context_LT, target_LF = cut(600, epoch)
    assert (np.diff(context_LT) == 1).all() and (np.diff(target_LF) == 1).all()
    assert (target_LF[:, 0] == context_LT[:, -1] + 1).all()


def test_in_a_record_that_is_too_short_the_first_timestep_stands_for_what_is_missing() -> None:
    context_LT, target_LF = cut(300, epoch=1)
    end = int(target_LF[0, 0])
    np.testing.assert_array_equal(context_LT[0], [*[0] * (500 - end), *range(end)])
    assert 148 <= end <= 298


def test_cuts_move_from_epoch_to_epoch_and_come_again_on_resuming() -> None:
    ends = [int(cut(600, epoch)[1][0, 0]) for epoch in range(60)]
    assert min(ends) >= 500 and max(ends) <= 598 and len(set(ends)) > 30
    assert ends == [int(cut(600, epoch)[1][0, 0]) for epoch in range(60)]


@pytest.mark.parametrize(
    ("params", "config"),
    [
        ({"network": "dlinear"}, DLinearConfig(leads=("II", "I"), features=("forecast", "embeddings"))),
        ({"network": "timesnet", "size": "tiny", "dropout": 0.0}, TimesNetConfig(size="tiny", leads=("II", "I"))),
    ],
    ids=["dlinear", "timesnet"],
)
def test_a_pretrained_network_forecasts_better_than_the_last_timestep_and_becomes_an_expert(
    params: dict[str, object], config: DLinearConfig | TimesNetConfig, dataset: Dataset, tmp_path: Path
) -> None:
    trial = PlainTrial(3, tmp_path)
    pretrain = ForecastingPretrainConfig.model_validate({**params, "epochs": 8, "batch_size": 8, "lr": 3e-3})
    train(pretrain, dataset, trial)
    assert trial.reports[8]["val/mse"] < 0.5 * trial.reports[8]["val/persistence_mse"]
    state = trial.restore()
    assert state is not None
    save_weights(tmp_path / "model.safetensors", state["model"])

    expert = build_expert(config.model_copy(update={"weights": str(tmp_path)}), AT_50_HZ)
    model = build_model(pretrain, AT_50_HZ, NO_LABELS)
    model.load_state_dict(state["model"])
    ecg_BLT = torch.from_numpy(dataset.val.batches(4).__next__().ecg_BLT)
    ecg_BLT = (ecg_BLT - ecg_BLT.mean(dim=2, keepdim=True)) / ecg_BLT.std(dim=2, keepdim=True, correction=0)
    assert isinstance(model, Forecasting)
    with torch.inference_mode():
        windows = torch.stack([model.eval()(ecg_BLT[:, :, :500]), model(ecg_BLT[:, :, 100:])]).mean(dim=0)
    torch.testing.assert_close(expert(ecg_BLT)[:, :2], windows.flip(1), rtol=1e-3, atol=1e-3)  # II before I


def test_records_of_another_rate_or_too_short_and_weights_of_another_network_are_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = ForecastingPretrainConfig(epochs=1)
    with pytest.raises(ValueError, match="at 50 Hz, but these have 100"):
        build_model(config, SIGNAL, NO_LABELS)
    short = Dataset(AT_50_HZ, NO_LABELS, waves(4, 0, 5), waves(4, 1, 5))
    with pytest.raises(ValueError, match="below the shortest record's 5 timesteps, but got 9"):
        train(config.model_copy(update={"horizon": 9}), short, PlainTrial(3))
    save_weights(tmp_path / "other.safetensors", DLinear(1).state_dict())
    with pytest.raises(ValueError, match="is of another network"):
        train(config.model_copy(update={"weights": str(tmp_path / "other.safetensors")}), dataset, PlainTrial(3))
    with pytest.raises(ValueError, match="size works only with network: timesnet"):
        ForecastingPretrainConfig(size="tiny")
