"""The criteria against their formulas, and what the published code gets wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.codebook import PADDING, Codebook
from data.dataset import NO_LABELS, Batch, Signal
from data.leads import LEADS_12
from trainables.backbones.architecture import architecture_of
from trainables.contrastive_pretrain import ContrastivePretrainConfig
from trainables.contrastive_pretrain import build_model as build_contrastive
from trainables.hubert_ecg_pretrain import HubertEcgPretrainConfig, build_model
from trainables.pretraining.config import PretrainConfig
from trainables.pretraining.contrastive import Contrastive, ContrastiveBatches, draw_negatives, halves
from trainables.pretraining.masked_prediction import LabelledTokens, MaskedPrediction, chance
from trainables.pretraining.masks import RecordStreams
from trainables.pretraining.regularisation import Regularisation

SIGNAL = Signal(LEADS_12, 100.0, 500)
STREAMS = RecordStreams.of_epoch(0, 1)


def batch_of(n_records: int = 4) -> Batch:
    rng = np.random.default_rng(0)
    ecg_BLT = rng.normal(size=(n_records, 12, 500)).astype(np.float32)
    length_B = np.full(n_records, 500, np.int32)
    return Batch(ecg_BLT, np.empty((n_records, 0), np.float32), np.arange(n_records), length_B)


@pytest.fixture
def codebooks(tmp_path: Path) -> tuple[str, str]:
    """Codebooks of 5 and of 7 clusters."""
    paths = (tmp_path / "five.safetensors", tmp_path / "seven.safetensors")
    for path, number in zip(paths, (5, 7), strict=True):
        Codebook(np.zeros((number, 3), np.float32), {}).save(path)
    return str(paths[0]), str(paths[1])


def labels(n_records: int = 4) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([rng.integers(0, 5, (n_records, 93)), rng.integers(0, 7, (n_records, 93))], axis=2).astype(np.int16)


def test_masked_prediction_is_cross_entropy_of_cosines_over_a_tenth_summed_over_codebooks(
    codebooks: tuple[str, str],
) -> None:
    config = HubertEcgPretrainConfig(codebooks=codebooks, dropout=0.0)
    torch.manual_seed(0)
    model = build_model(config, SIGNAL, NO_LABELS).eval()
    assert isinstance(model, MaskedPrediction)
    batch, labels_NEJ = batch_of(), labels()
    prepared = LabelledTokens(config, {"val": labels_NEJ}, 0.0)(batch, "val", STREAMS)
    with torch.no_grad():
        sums = dict(zip((part.name for part in model.criterion), model.parts(*prepared.inputs).tolist(), strict=True))
        mask_BE = prepared.inputs[1]
        assert mask_BE is not None
        hidden_BEH = model.hubert(torch.from_numpy(batch.ecg_BLT).flatten(1), mask_time_indices=mask_BE)[0]
        expected = {True: 0.0, False: 0.0}
        for codebook, head in enumerate(model.projector):
            token_BED = head.project(hidden_BEH)  # type: ignore[operator]
            logits = nn.functional.cosine_similarity(token_BED[:, :, None], head.embedding_VD[None, None], dim=3) / 0.1
            loss_BE = nn.functional.cross_entropy(
                logits.transpose(1, 2), torch.from_numpy(labels_NEJ[:, :, codebook]).long(), reduction="none"
            )
            for masked in expected:
                expected[masked] += float(loss_BE[mask_BE == masked].sum())
    assert sums["masked_loss"] == pytest.approx(expected[True], rel=1e-4)
    assert sums["unmasked_loss"] == pytest.approx(expected[False], rel=1e-4)


def test_counts_are_tokens_and_padding_is_none_of_them() -> None:
    config = HubertEcgPretrainConfig(mask_prob=0.33)
    labels_NEJ = labels()
    labels_NEJ[1, 60:] = PADDING
    prepared = LabelledTokens(config, {"train": labels_NEJ}, 0.5)(batch_of(), "train", STREAMS)
    n_masked, n_unmasked, *_ = prepared.counts_P.tolist()
    assert n_masked == 3 * round(93 * 0.33) + round(60 * 0.33)
    assert n_masked + n_unmasked == prepared.n_tokens == 3 * 93 + 60
    mask_BE, valid_BE = prepared.inputs[1], prepared.inputs[3]
    assert mask_BE is not None and valid_BE is not None
    assert not mask_BE[1, 60:].any() and not valid_BE[1, 60:].any()


def test_codebooks_that_are_not_there_or_of_another_size_are_refused(
    codebooks: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"codebooks is required: .*hubert_ecg_clusters\.yaml"):
        build_model(HubertEcgPretrainConfig(), SIGNAL, NO_LABELS)
    with pytest.raises(ValueError, match="is no codebook"):
        build_model(HubertEcgPretrainConfig(codebooks=str(tmp_path)), SIGNAL, NO_LABELS)
    with pytest.raises(ValueError, match="has 5 clusters, but num_clusters is 7; leave it out"):
        build_model(HubertEcgPretrainConfig(codebooks=codebooks[0], num_clusters=7), SIGNAL, NO_LABELS)


def test_chance_is_the_share_of_the_most_frequent_cluster() -> None:
    labels_NEJ = np.array([[[0], [0], [1], [PADDING]]], np.int16)
    assert chance(labels_NEJ) == pytest.approx(2 / 3)


def test_weights_that_learn_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="must not both be 0"):
        HubertEcgPretrainConfig(masked_weight=0.0, unmasked_weight=0.0)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("guide", {"epochs": 100, "batch_size": 32, "lr": 1e-4, "mask_prob": 0.15, "num_clusters": 100}),
        ("paper", {"batch_size": 448, "lr": 5e-5, "mask_prob": 0.33, "beta2": 0.98, "adam_eps": 1e-9,
                   "weight_decay": 0.01, "masked_weight": 1.0, "unmasked_weight": 0.0}),
    ],
)  # fmt: skip
def test_presets_have_the_published_values_and_give_way_to_what_is_given(
    preset: str, expected: dict[str, object]
) -> None:
    config = HubertEcgPretrainConfig.model_validate({"preset": preset})
    assert {name: getattr(config, name) for name in expected} == expected
    assert HubertEcgPretrainConfig.model_validate({"preset": preset, "lr": 3e-4}).lr == 3e-4
    assert HubertEcgPretrainConfig.model_validate(config.model_dump()) == config


def test_regularisation_tightens_while_the_loss_stands_still_and_loosens_on_improvement() -> None:
    config = PretrainConfig(dynamic_regularisation=True, early_stopping="plateau", patience=4, min_delta=1e-3)
    regularisation = Regularisation(config)
    seen = []
    for loss in (1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.4, 0.3):
        regularisation.end_epoch(loss)
        seen.append((round(regularisation.weight_decay / config.weight_decay), round(regularisation.dropout, 2)))
    assert seen == [(1, 0.1), (1, 0.1), (5, 0.15), (5, 0.15), (25, 0.2), (5, 0.15), (1, 0.1), (1, 0.1)]


# ---------------------------------------------------------------- contrast


def test_negatives_are_other_masked_tokens_of_the_same_record() -> None:
    torch.manual_seed(0)
    mask_BE = torch.rand(6, 40) < 0.5
    mask_BE[2] = False
    mask_BE[2, 7] = True  # a record with a single masked token has no other
    other_MN, is_other_MN = draw_negatives(mask_BE, 200)
    record_M = mask_BE.nonzero()[:, 0]
    alone_M = record_M == 2
    assert (record_M[other_MN][~alone_M] == record_M[~alone_M][:, None]).all()
    assert (other_MN[~alone_M] != torch.arange(len(record_M))[~alone_M][:, None]).all()
    assert is_other_MN[~alone_M].all() and not is_other_MN[alone_M].any()
    first = (record_M == 0).sum()
    assert set(other_MN[0].tolist()) == set(range(1, int(first)))  # all of them come


def contrastive(**params: object) -> tuple[ContrastivePretrainConfig, Contrastive]:
    options = {"backbone": "ecg_fm", "n_negatives": 5, "code_size": 32, "codes_a_group": 20, "mask_span": 4}
    config = ContrastivePretrainConfig.model_validate({**options, **params})
    torch.manual_seed(0)
    model = build_contrastive(config, SIGNAL, NO_LABELS)
    assert isinstance(model, Contrastive)
    return config, model


def test_the_halves_of_a_record_find_each_other_as_infonce_says() -> None:
    config, model = contrastive(cmsc_weight=1.0)
    hidden_BEH = torch.randn(8, 15, 96)
    loss, _ = model._match_halves(hidden_BEH, None)
    mean = nn.functional.normalize(hidden_BEH.mean(dim=1), dim=1)
    similarity = torch.exp(mean[:4] @ mean[4:].T / 0.1)
    expected = -torch.log(similarity.diag() / similarity.sum(dim=1)) - torch.log(
        similarity.diag() / similarity.sum(dim=0)
    )
    assert float(loss) == pytest.approx(float(expected.sum()) / 2, rel=1e-4)
    assert config.cmsc_weight == 1.0


def test_a_guess_is_right_once_among_the_codes_that_differ_and_always_where_all_are_one() -> None:
    _, model = contrastive()
    mask_BE = torch.ones(1, 6, dtype=torch.bool)
    token_MD, code_MD = torch.randn(6, 32), torch.randn(6, 32)
    *_, guesses = model._contrast(token_MD, code_MD, mask_BE)
    assert float(guesses) == pytest.approx(6 / (1 + 5))  # each token against five draws of other codes
    loss, hits, guesses = model._contrast(token_MD, code_MD[:1].expand(6, 32), mask_BE)
    assert (float(loss), float(hits), float(guesses)) == (0.0, 6.0, 6.0)


def test_adjacent_halves_are_segments_of_their_own_and_leads_are_masked_at_their_share() -> None:
    config, model = contrastive(cmsc_weight=1.0, lead_mask_prob=0.5)
    batch = batch_of(64)
    prepare = ContrastiveBatches(config, model.architecture, model.n_tokens)
    trained, checked = (prepare(batch, role, STREAMS) for role in ("train", "val"))
    first, second = halves(torch.from_numpy(batch.ecg_BLT))
    segments = checked.inputs[0]
    assert segments is not None and trained.inputs[0] is not None
    torch.testing.assert_close(segments, torch.cat([first, second]))
    lost_BL = (trained.inputs[0] == 0).all(dim=2)
    assert float(lost_BL.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert not lost_BL.all(dim=1).any()
    assert trained.counts_P[3] == 64  # pairs


def test_the_codes_temperature_falls_to_its_least() -> None:
    _, model = contrastive()
    temperatures = []
    for step in (0, 100_000, 1_000_000):
        model.begin_step(step)
        temperatures.append(model.quantizer.temperature)
    assert temperatures == pytest.approx([2.0, 2 * 0.999995**100_000, 0.5])


def test_the_convolutions_get_a_tenth_of_the_gradient() -> None:
    grads = []
    for scale in (1.0, 0.1):
        config, model = contrastive(feature_grad_scale=scale, feature_penalty=0.0, dropout=0.0, feature_dropout=0.0)
        prepared = ContrastiveBatches(config, model.architecture, model.n_tokens)(batch_of(), "val", STREAMS)
        torch.manual_seed(1)
        model.eval().parts(*prepared.inputs)[0].backward()
        grads.append(model.wav2vec2.feature_extractor.conv_layers[1].conv.weight.grad)
    torch.testing.assert_close(grads[1], 0.1 * grads[0])


def test_ecg_fms_settings_are_the_published_ones_on_its_network() -> None:
    config = ContrastivePretrainConfig.model_validate({"preset": "ecg_fm"})
    assert (config.mask_prob, config.mask_span, config.n_negatives, config.code_groups, config.codes_a_group) == (
        0.65, 10, 100, 2, 320,
    )  # fmt: skip
    assert (config.cmsc_weight, config.lead_mask_prob, config.feature_penalty, config.lr) == (1.0, 0.5, 10.0, 5e-5)
    with torch.device("meta"):
        model = build_contrastive(config, Signal(LEADS_12, 500.0, 5000), NO_LABELS)
    assert isinstance(model, Contrastive)
    assert sum(parameter.numel() for parameter in model.wav2vec2.parameters()) == 90_374_016
    assert sum(parameter.numel() for parameter in model.parameters()) == 90_883_072
    assert model.n_tokens == 156
    assert architecture_of("ecg_fm", "base").n_inputs == 12
