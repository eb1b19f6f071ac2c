"""Backbones: shapes against counts from the publications, tokens, stages, and how a signal meets them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from data.dataset import LabelSet, Signal
from data.leads import LEADS_12
from trainables.backbones.architecture import Family, architecture_of, build_network, network_config
from trainables.backbones.backbone import Backbone, build_backbone
from trainables.backbones.classifier import BackboneClassifier
from trainables.backbones.config import BackboneConfig
from trainables.backbones.spec_augment import draw_mask, fit_span

FAMILIES: tuple[Family, ...] = ("wav2vec2", "hubert", "ecg_fm")
SIGNAL = Signal(("I", "II", "V1"), 100.0, 300)
ROW = Signal(("II",), 100.0, 600)  # of df_segment2.csv


def config_of(backbone: Family = "wav2vec2", **params: Any) -> BackboneConfig:
    return BackboneConfig.model_validate({"backbone": backbone, "resample_factor": 16.0, **params})


def seeded(backbone: Family = "wav2vec2", signal: Signal = SIGNAL, **params: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(config_of(backbone, **params), signal).eval()


def records(n: int = 2, signal: Signal = SIGNAL) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, len(signal.lead_names), signal.n_timesteps, generator=generator)


# ------------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    ("family", "total"), [("wav2vec2", 94_371_712), ("hubert", 94_371_712), ("ecg_fm", 90_374_016)]
)
def test_a_base_backbone_has_as_many_parameters_as_the_published_one(family: Family, total: int) -> None:
    with torch.device("meta"):
        network = build_network(architecture_of(family, "base"))
    assert sum(parameter.numel() for parameter in network.parameters()) == total


@pytest.mark.parametrize(
    ("family", "n_timesteps", "n_tokens"),
    [
        *(("wav2vec2", n, tokens) for n, tokens in [(600, 1), (1200, 3), (2400, 7), (4800, 14), (6000, 18)]),
        *(("hubert", n, tokens) for n, tokens in [(399, 0), (400, 1), (9600, 29), (16000, 49)]),
        *(("ecg_fm", n, tokens) for n, tokens in [(600, 37), (2500, 156), (5000, 312)]),
    ],
)
def test_tokens_are_counted_as_the_network_makes_them(family: Family, n_timesteps: int, n_tokens: int) -> None:
    architecture = architecture_of(family, "tiny")
    assert architecture.n_tokens(n_timesteps) == n_tokens
    assert architecture_of(family, "base").n_tokens(n_timesteps) == n_tokens
    if n_tokens:
        x_BCT = torch.zeros(1, architecture.n_inputs, n_timesteps)
        for layer in build_network(architecture).feature_extractor.conv_layers:
            x_BCT = layer(x_BCT)
        assert x_BCT.shape[2] == n_tokens


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_speech_backbone_gives_what_transformers_own_model_gives(family: Family) -> None:
    signal = Signal(("II",), 100.0, 3000)
    backbone = seeded(family, signal, resample_factor=1.0)
    ecg_BLT = records(2, signal)
    with torch.inference_mode():
        expected_BD = backbone.network(ecg_BLT[:, 0]).last_hidden_state.mean(dim=1)
        torch.testing.assert_close(backbone(ecg_BLT), expected_BD)


# ------------------------------------------------------------------ how a signal meets a backbone


def test_a_row_of_600_timesteps_is_one_token_and_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"makes 1 token of 600 timesteps.*resample_factor: 16 makes 29 tokens"):
        build_backbone(config_of(resample_factor=1.0), ROW)
    assert build_backbone(config_of(resample_factor=16.0), ROW).n_tokens == 29


def test_the_remedy_names_concatenation_where_there_are_leads() -> None:
    with pytest.raises(ValueError, match="lead_placement: concatenate puts all leads in one sequence"):
        build_backbone(config_of(resample_factor=1.0, lead_placement="each"), SIGNAL)


def test_a_crop_is_what_the_backbone_sees() -> None:
    with pytest.raises(ValueError, match="makes 1 token of 480 timesteps"):
        build_backbone(config_of(crop_timesteps=10), SIGNAL)


def test_a_small_input_trains_though_masked_spans_of_ten_tokens_would_not_fit() -> None:
    """`transformers` raises here: its SpecAugment asks for spans of 10 tokens."""
    backbone = seeded("ecg_fm", Signal(("II",), 100.0, 80), resample_factor=1.0, mask_prob=0.3).train()
    assert backbone.n_tokens == 5
    assert backbone(torch.ones(2, 1, 80)).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["auto", "one", "mean", "each"])
@pytest.mark.parametrize("pooling", ["mean", "attention", "layer_sum"])
def test_every_placement_and_pooling_gives_features(family: Family, placement: str, pooling: str) -> None:
    backbone = seeded(family, lead_placement=placement, pooling=pooling)
    assert backbone(records()).shape == (2, backbone.hidden_size)


def wave(ecg_BLT: Tensor, signal: Signal, backbone: Family, **params: Any) -> Tensor:
    wave_BVCT: Tensor = seeded(backbone, signal, **params).placement(ecg_BLT)
    return wave_BVCT


def test_concatenated_leads_follow_one_another() -> None:
    ecg_BLT = records()
    wave_BVCT = wave(ecg_BLT, SIGNAL, "wav2vec2", resample_factor=8.0)
    upsampled_BLT = nn.functional.interpolate(ecg_BLT, scale_factor=8, mode="linear")
    torch.testing.assert_close(wave_BVCT[:, 0, 0], torch.cat(list(upsampled_BLT.unbind(dim=1)), dim=1))


def test_leads_go_to_their_own_slots_of_ecg_fm_and_zeros_to_the_others() -> None:
    ecg_BLT = records()
    wave_BVCT = wave(ecg_BLT, SIGNAL, "ecg_fm", resample_factor=1.0)
    slots = [LEADS_12.index(name) for name in SIGNAL.lead_names]
    assert torch.equal(wave_BVCT[:, 0, slots], ecg_BLT)
    assert not wave_BVCT[:, 0, [slot for slot in range(12) if slot not in slots]].any()


def test_a_lead_of_another_name_takes_the_slot_that_is_named() -> None:
    signal = Signal(("MLII",), 360.0, 600)
    wave_BVCT = wave(torch.ones(1, 1, 600), signal, "ecg_fm", resample_factor=1.0, lead="V2")
    assert wave_BVCT.sum(dim=3).flatten().nonzero().item() == LEADS_12.index("V2")


def test_leads_that_ecg_fm_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a lead 'MLII'; choose leads"):
        build_backbone(config_of("ecg_fm"), Signal(("MLII", "V1"), 360.0, 600))


def test_each_lead_alone_is_the_mean_of_records_of_one_lead() -> None:
    ecg_BLT = records()
    together_BD = seeded(lead_placement="each")(ecg_BLT)
    alone = seeded(signal=Signal(("II",), 100.0, 300))
    alone_BD = torch.stack([alone(ecg_BLT[:, lead : lead + 1]) for lead in range(3)]).mean(dim=0)
    torch.testing.assert_close(together_BD, alone_BD)


@pytest.mark.parametrize(
    ("backbone", "placement", "message"),
    [("ecg_fm", "concatenate", "is not for ecg_fm"), ("hubert", "slots", "is for ecg_fm, but hubert reads one")],
)
def test_a_placement_that_a_backbone_does_not_have_is_refused(backbone: Family, placement: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(config_of(backbone, lead_placement=placement), SIGNAL)


def test_an_unknown_lead_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"lead must be one of I, II, V1, but got 'V9'"):
        build_backbone(config_of(lead_placement="one", lead="V9"), SIGNAL)


def test_parameters_that_do_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="lead_pooling works only with lead_placement: each"):
        config_of(lead_pooling="max")


# ------------------------------------------------------------------ pooling


def test_learned_poolings_start_as_the_mean() -> None:
    ecg_BLT = records()
    backbone = seeded(pooling="attention")
    torch.testing.assert_close(backbone(ecg_BLT), seeded()(ecg_BLT))
    layers = seeded(pooling="layer_sum")
    states_BVKED = layers.run(ecg_BLT, 0, layers.n_stages - 2)
    assert states_BVKED.shape[2] == layers.n_layers + 1
    torch.testing.assert_close(layers(ecg_BLT), states_BVKED.mean(dim=(1, 2, 3)))


# ------------------------------------------------------------------ SpecAugment


@pytest.mark.parametrize(("n_tokens", "span"), [(4, 1), (29, 2), (49, 4), (312, 10)])
def test_masked_spans_fit_the_tokens(n_tokens: int, span: int) -> None:
    assert fit_span(None, n_tokens) == span


def test_a_span_longer_than_the_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed the 44 tokens of a window, but got 50"):
        build_backbone(config_of(mask_prob=0.1, mask_span=50), SIGNAL)


def test_spans_cover_the_share_that_is_asked_for_but_for_overlaps() -> None:
    torch.manual_seed(0)
    mask_SE = draw_mask(500, 100, prob=0.2, span=5, device=torch.device("cpu"))
    n_masked_S = mask_SE.sum(dim=1)
    assert n_masked_S.max() <= 20
    assert n_masked_S.min() >= 8  # 4 different starts, at their closest
    assert 16 < n_masked_S.float().mean() <= 20


def test_masking_happens_in_training_alone() -> None:
    backbone = seeded(mask_prob=0.5, encoder_dropout=0.0)
    ecg_BLT = records()
    assert torch.equal(backbone(ecg_BLT), backbone(ecg_BLT))
    backbone.train()
    assert not torch.allclose(backbone(ecg_BLT), backbone(ecg_BLT))


def test_without_masking_there_is_no_parameter_that_takes_part_in_nothing() -> None:
    backbone = seeded(pooling="layer_sum").train()
    backbone(records()).sum().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


# ------------------------------------------------------------------ stages


def test_stages_one_after_another_are_the_whole() -> None:
    backbone = seeded("ecg_fm", pooling="layer_sum")
    x = ecg_BLT = records()
    for stage in range(backbone.n_stages):
        x = backbone.run(x, stage, stage + 1)
        assert len(x) == len(ecg_BLT)
    assert torch.equal(x, backbone(ecg_BLT))
    assert len(backbone.stage_names) == backbone.n_stages


def freeze(backbone: Backbone) -> Backbone:
    return backbone.requires_grad_(False)


def test_the_split_is_at_the_first_stage_that_is_trained_or_random() -> None:
    assert seeded().split_at() == 0
    backbone = freeze(seeded())
    assert backbone.split_at() == backbone.n_stages
    backbone.layers[1].attention.q_proj.bias.requires_grad_(True)  # type: ignore[union-attr, operator]
    assert backbone.stage_names[backbone.split_at()] == "layer1"
    assert backbone.stage_names[freeze(seeded(mask_prob=0.1)).split_at()] == "embed"
    attention = freeze(seeded(pooling="attention"))
    attention.pool.requires_grad_(True)
    assert attention.stage_names[attention.split_at()] == "pool"


def test_what_is_frozen_has_no_dropout_in_training() -> None:
    backbone = freeze(seeded(encoder_dropout=0.5)).train()
    assert torch.equal(backbone(records()), backbone.eval()(records()))
    backbone.layers[2].requires_grad_(True)
    backbone.train()
    hidden = backbone.run(records(), 0, backbone.n_stages - 3)
    assert torch.equal(hidden, backbone.eval().run(records(), 0, backbone.n_stages - 3))
    backbone.train()
    assert not torch.equal(backbone(records()), backbone(records()))


def test_a_worker_without_records_still_has_gradients() -> None:
    backbone = seeded()
    model = BackboneClassifier(backbone, nn.Linear(96, 2), SIGNAL, LabelSet("x", "multilabel", ("a", "b")))
    model(records(0)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_it_builds_on_the_meta_device_without_warnings() -> None:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        backbone = build_backbone(config_of("hubert", size="base"), SIGNAL)
    assert all(parameter.is_meta for parameter in backbone.parameters())


def test_sizes_differ_in_width_alone_so_tokens_stay() -> None:
    for family in FAMILIES:
        shapes = {
            (a.conv_kernels, a.conv_strides) for a in (architecture_of(family, size) for size in ("tiny", "base"))
        }
        assert len(shapes) == 1
        assert network_config(architecture_of(family, "base")).num_attention_heads == 12
