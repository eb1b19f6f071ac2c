"""Masks: how many, where, and that they are the same again."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.pretraining.config import TokenPretrainConfig
from trainables.pretraining.masks import RecordStreams, draw_masks

STREAMS = RecordStreams.of_epoch(3, 1)
INDEX = np.arange(50)


@pytest.mark.parametrize("mask_prob", [0.15, 0.33, 0.65])
def test_single_tokens_are_masked_at_their_share(mask_prob: float) -> None:
    mask_BE = draw_masks(np.ones((50, 93), bool), INDEX, TokenPretrainConfig(mask_prob=mask_prob), STREAMS)
    assert (mask_BE.sum(axis=1) == round(93 * mask_prob)).all()
    assert mask_BE.any(axis=0).all()


def test_two_spans_are_masked_at_least() -> None:
    mask_BE = draw_masks(np.ones((50, 20), bool), INDEX, TokenPretrainConfig(mask_prob=0.01), STREAMS)
    assert (mask_BE.sum(axis=1) == 2).all()


def test_padding_is_never_masked_and_spans_stay_inside() -> None:
    valid_BE = np.arange(93) < 40
    mask_BE = draw_masks(np.tile(valid_BE, (50, 1)), INDEX, TokenPretrainConfig(mask_prob=0.65, mask_span=10), STREAMS)
    assert not mask_BE[:, ~valid_BE].any()
    lengths = [np.diff(np.flatnonzero(np.diff(np.r_[0, mask_E, 0])))[::2].min() for mask_E in mask_BE.astype(int)]
    assert min(lengths) >= 10


def test_one_token_stays_to_be_read() -> None:
    valid_BE = np.tile(np.arange(93) < 3, (50, 1))
    mask_BE = draw_masks(valid_BE, INDEX, TokenPretrainConfig(mask_prob=0.9, min_masks=5), STREAMS)
    assert (mask_BE.sum(axis=1) == 2).all()


def test_a_records_mask_follows_from_seed_epoch_and_position_alone() -> None:
    valid_BE = np.ones((50, 93), bool)
    whole = draw_masks(valid_BE, INDEX, TokenPretrainConfig(), STREAMS)
    part = draw_masks(valid_BE[:7], INDEX[20:27], TokenPretrainConfig(), RecordStreams.of_epoch(3, 1))
    np.testing.assert_array_equal(part, whole[20:27])
    assert (draw_masks(valid_BE, INDEX, TokenPretrainConfig(), RecordStreams.of_epoch(3, 2)) != whole).any()
