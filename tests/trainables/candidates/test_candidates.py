"""The candidate table against the published figures of the ECM search, and the size that is known before training."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from data.dataset import LabelSet, Signal
from trainables.atml import ATML, AtmlConfig, build_model
from trainables.candidates import CANDIDATES
from trainables.candidates.candidate import Sizes, TwoClassLinear
from trainables.onnx_export import export_onnx, static_quantities

SIGNAL = Signal(("ECG",), 250.0, 1250)
AF = LabelSet("af", "binary", ("AFIB",))
LARGE = {"ResNet18", "ResNet384", "TorchShuffleNetV2", "SimpleResNet"}
SMALL = sorted(set(CANDIDATES) - LARGE)


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("AFNet", 19_688), ("OptimizedAFNet", 2_962), ("ContestAFNet", 10_299), ("ShuffleNetV2", 36_394)],
)
def test_a_candidate_has_the_published_parameters(name: str, expected: int) -> None:
    """The baseline is published as 10.3 k, the ShuffleNet variant's 36.4 k and the older net's 96 k are inferred."""
    assert n_parameters(build_model(AtmlConfig(model=name), SIGNAL, AF)) == expected


@pytest.mark.parametrize(("name", "kib"), [("AFNet", 84.91), ("OptimizedAFNet", 15.09), ("ShuffleNetV2", 161.24)])
def test_a_candidates_file_is_within_a_tenth_of_the_published_size(name: str, kib: float) -> None:
    config = AtmlConfig(model=name)
    assert static_quantities(ATML, config, SIGNAL, AF)["onnx_bytes"] / 1024 == pytest.approx(kib, rel=0.1)


def test_afnet_halves_time_as_published() -> None:
    """1250 -> 623 -> 310 -> 154 -> 76 -> 37."""
    network = build_model(AtmlConfig(), SIGNAL, AF)[0]  # type: ignore[index]
    lengths, x_BCT = [], torch.zeros(2, 1, 1250)
    for layer in list(network)[:5]:
        x_BCT = layer(x_BCT)
        lengths.append(x_BCT.shape[2])
    assert lengths == [623, 310, 154, 76, 37]


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_answers_for_one_lead_and_for_three(name: str) -> None:
    for n_leads, label_set, n_outputs in (
        (1, AF, 1),
        (3, LabelSet("three", "multiclass", ("a", "b", "c")), 3),
    ):
        signal = Signal(tuple(f"lead{k}" for k in range(n_leads)), 250.0, 500)
        model = build_model(AtmlConfig(model=name), signal, label_set).eval()
        with torch.inference_mode():
            assert model(torch.zeros(2, n_leads, 500)).shape == (2, n_outputs)


@pytest.mark.parametrize("name", SMALL)
def test_a_candidates_size_is_known_before_training_at_every_factor(name: str, tmp_path: Path) -> None:
    """The size model is held to 1 % by the issue; with weights that all differ it is exact."""
    for factor in (1, 5):
        factors = {"channel_factor": factor} if CANDIDATES[name].channels else {}
        factors |= {"fc_factor": factor} if CANDIDATES[name].fc_width else {}
        config = AtmlConfig.model_validate({"model": name, "widths": "factors", **factors})
        model = build_model(config, SIGNAL, AF)
        _differ(model)
        export_onnx(model, SIGNAL, tmp_path / "model.onnx")
        known = static_quantities(ATML, config, SIGNAL, AF)
        n_bytes = (tmp_path / "model.onnx").stat().st_size
        size = n_parameters(model)
        assert known == {"parameters": size, "trainable_parameters": size, "onnx_bytes": n_bytes}


@torch.no_grad()
def _differ(model: nn.Module) -> None:
    """Training leaves no two tensors equal; equal ones are stored once."""
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.2, generator=generator)


def test_the_sizes_of_the_second_phase_are_those_of_the_original() -> None:
    """KiB by (s, f), from about 4 bytes a weight and 7.4 KiB: 60 KiB hold s = 1, s = 2 with f up to 3, and (3, 1)."""
    expected = {
        1: (15, 21, 27, 33, 39), 2: (27, 39, 50, 62, 74), 3: (43, 60, 77, 95, 112), 4: (62, 85, 108, 131, 154),
        5: (84, 113, 142, 171, 200),
    }  # fmt: skip
    for s, sizes_kib in expected.items():
        for f, kib in enumerate(sizes_kib, start=1):
            config = AtmlConfig(widths="factors", channel_factor=s, fc_factor=f)
            size_bytes = static_quantities(ATML, config, SIGNAL, AF)["onnx_bytes"]
            assert size_bytes / 1024 == pytest.approx(kib, abs=0.75)


def test_the_file_holds_one_row_of_the_two_class_output(tmp_path: Path) -> None:
    model = build_model(AtmlConfig(model="LinearBinaryClassifier"), SIGNAL, AF)
    assert export_onnx(model, SIGNAL, tmp_path / "model.onnx") < 1e-4
    shapes = [tuple(tensor.dims) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert sorted(shapes) == [(1,), (1, 1250)]


def test_the_two_class_output_trains_as_cross_entropy_of_two_logits() -> None:
    torch.manual_seed(0)
    layer, features_BF = TwoClassLinear(5), torch.randn(7, 5)
    target_B = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    found = nn.functional.binary_cross_entropy_with_logits(layer(features_BF)[:, 0], target_B)
    both_B2 = nn.functional.linear(features_BF, layer.weight, layer.bias)
    assert found.item() == pytest.approx(nn.functional.cross_entropy(both_B2, target_B.long()).item(), rel=1e-6)


def test_records_too_short_for_convolutions_without_padding_are_refused() -> None:
    afnet = CANDIDATES["AFNet"]
    with pytest.raises(ValueError, match="need longer records, but got 40 timesteps"):
        afnet(Sizes(1, 40, 1, afnet.channels, afnet.fc_width, 0.5))


def test_dropping_out_is_the_configs() -> None:
    rates = [m.p for m in build_model(AtmlConfig(dropout=0.25), SIGNAL, AF).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.25]
