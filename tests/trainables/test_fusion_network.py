"""The networks of AdaGrad-Fusion: their sizes, what they see, and what goes to ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.dataset import LabelSet, Signal
from data.leads import LEADS_12
from trainables.conv_transformer import SIZES, ConvTransformer, Size, TransformerLayer, sinusoids
from trainables.fusion_network import FusionNetwork, NetworkConfig, build_network
from trainables.onnx_export import export_onnx

SIGNAL = Signal(LEADS_12, 500.0, 6144)
SHORT = Signal(LEADS_12, 100.0, 300)  # not a multiple of 64


def labels(n: int) -> LabelSet:
    return LabelSet("some", "multilabel", tuple(f"label{i}" for i in range(n)))


def network(size: Size = "nano", signal: Signal = SHORT, n_labels: int = 3, **params: object) -> FusionNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(size=size, **params), signal, labels(n_labels)).eval()  # type: ignore[arg-type]


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


MILLIONS: dict[Size, float] = {
    "tinylight": 0.257,
    "tiny": 1.60,
    "light": 2.39,
    "base": 9.51,
    "mediumv2": 37.9,
    "medium": 50.5,
    "large": 113.5,
}


@pytest.mark.parametrize(("size", "millions"), MILLIONS.items(), ids=MILLIONS)
def test_a_named_size_has_the_originals_number_of_parameters(size: Size, millions: float) -> None:
    with torch.device("meta"):
        count = n_parameters(network(size, SIGNAL, n_labels=25))
    digits = len(str(millions).split(".")[1])
    assert round(count / 1e6, digits) == millions


def test_a_student_with_six_labels_has_as_many_numbers_as_the_published_one() -> None:
    """Its file has 278,866 of 4 bytes: parameters, statistics of six batch norms (each with an 8-byte counter), 200
    positions of 64, and a mask of 96 x 96; the last two are not stored here."""
    student = network("tinylight", SIGNAL, n_labels=6)
    stored = sum(tensor.nbytes // 4 for tensor in student.state_dict().values())
    assert stored + 200 * 64 + 96 * 96 == 278_866


@pytest.mark.parametrize(("size", "count"), [("medium", 131_600), ("tinylight", 2_100)])
def test_the_auxiliary_head_is_small(size: Size, count: int) -> None:
    with torch.device("meta"):
        added = n_parameters(network(size, aux_weight=1.0)) - n_parameters(network(size))
    assert added == pytest.approx(count, abs=60)


def test_a_record_of_6144_timesteps_has_96_tokens() -> None:
    assert ConvTransformer("nano", 12, 6144).positions_NC.shape == (96, 16)
    assert ConvTransformer("nano", 12, 6145).positions_NC.shape == (97, 16)


def test_positions_are_sines_and_cosines_of_falling_frequency() -> None:
    positions = sinusoids(5, 6).double().numpy()
    for token in range(5):
        for pair in range(3):
            angle = token / 10_000 ** (2 * pair / 6)
            np.testing.assert_allclose(
                positions[token, 2 * pair : 2 * pair + 2], [np.sin(angle), np.cos(angle)], atol=1e-6
            )


def test_attention_is_that_of_the_formula() -> None:
    """softmax(Q K' / sqrt(D) + mask) V for each head, and the output layer."""
    torch.manual_seed(0)
    layer = TransformerLayer(8, 2, causal=True)
    tokens_BNC = torch.randn(3, 5, 8)
    q, k, v = (part.reshape(3, 5, 2, 4).transpose(1, 2) for part in layer.qkv(tokens_BNC).split(8, dim=2))
    scores = q @ k.transpose(2, 3) / 2 + torch.full((5, 5), float("-inf")).triu(1)
    expected = layer.out((scores.softmax(dim=3) @ v).transpose(1, 2).reshape(3, 5, 8))
    torch.testing.assert_close(layer._attend(tokens_BNC), expected)


@pytest.mark.parametrize("causal", [True, False])
def test_only_without_the_causal_mask_does_a_token_see_later_ones(causal: bool) -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(16, 4, causal)
    tokens_BNC = torch.randn(1, 6, 16)
    other_BNC = tokens_BNC.clone()
    other_BNC[:, 4:] *= -1
    same = torch.allclose(layer(tokens_BNC)[:, :4], layer(other_BNC)[:, :4])
    assert same is causal


def test_the_linear_head_is_one_linear_map_and_the_mlp_is_not() -> None:
    """A linear map of the mean is the mean of the maps."""
    pair = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    for kind, is_linear in (("linear", True), ("mlp", False)):
        head = network(head=kind).head
        middle = head.classify(pair.mean(dim=0, keepdim=True))
        assert torch.allclose(middle, head.classify(pair).mean(dim=0, keepdim=True), atol=1e-5) is is_linear


@pytest.mark.parametrize(("leads", "seen"), [(12, set(LEADS_12)), (3, {"II", "V1", "V5"}), (1, {"I"})])
def test_a_student_sees_its_leads_alone(leads: int, seen: set[str]) -> None:
    student = network(leads=leads)
    ecg_BLT = torch.randn(1, 12, 300, generator=torch.Generator().manual_seed(2))
    before = student(ecg_BLT)
    for index, name in enumerate(LEADS_12):
        changed = ecg_BLT.clone()
        changed[:, index] += 1
        assert torch.equal(student(changed), before) is (name not in seen)


def test_leads_that_the_signal_lacks_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"leads: 3 looks at II, V1, V5, but of these the signal lacks V1; it has I, II, V5"
    ):
        network(signal=Signal(("I", "II", "V5"), 100.0, 300), leads=3)


def test_the_answer_does_not_depend_on_the_auxiliary_head_and_onnx_lacks_it(tmp_path: Path) -> None:
    plain, helped = network(), network(aux_weight=0.8)
    helped.load_state_dict(plain.state_dict(), strict=False)
    ecg_BLT = torch.randn(2, 12, 300)
    assert torch.equal(plain(ecg_BLT), helped(ecg_BLT))
    sizes = []
    for name, each in (("plain", plain), ("helped", helped)):
        assert export_onnx(each, SHORT, tmp_path / name) < 1e-5
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[0] == sizes[1]


def test_both_heads_answer_in_training() -> None:
    answers = network(aux_weight=0.8).head(torch.zeros(2, 16))
    assert answers.logits_BK.shape == (2, 3)
    assert answers.auxiliary_B is not None
    assert answers.auxiliary_B.shape == (2,)
    assert network().head(torch.zeros(2, 16)).auxiliary_B is None


def test_every_size_has_heads_that_divide_its_width() -> None:
    assert all(width % n_heads == 0 for width, _, n_heads in SIZES.values())
