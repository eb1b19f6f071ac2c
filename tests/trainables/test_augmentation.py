"""Augmentation: what each does, and that a record's fate depends on nothing but seed, epoch and record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import Batch
from trainables.augmentation import (
    RecordSeeds,
    add_baseline_wander,
    add_noise,
    augment_records,
    crop,
    cutmix,
    drop_leads,
    mix_records,
    mixup,
    scale_amplitude,
)
from trainables.config import TrainConfig

SEEDS = RecordSeeds.of_epoch(seed=7, epoch=1)
RNG = np.random.default_rng(0)
ECG = RNG.normal(size=(40, 4, 50)).astype(np.float32)
INDEX = np.arange(100, 140)


def whole(n_records: int, n_timesteps: int) -> np.ndarray:
    return np.full(n_records, n_timesteps, np.int32)


EVERYTHING: dict[str, Any] = {
    "crop_timesteps": 20,
    "amplitude_scale": 0.2,
    "lead_dropout": 0.3,
    "noise_mv": 0.1,
    "baseline_wander_mv": 0.2,
}


def batch(rows: Any) -> Batch:
    return Batch(
        ECG[rows].copy(),
        np.zeros((len(ECG[rows]), 1), dtype=np.float32),
        INDEX[rows],
        whole(len(ECG[rows]), ECG.shape[2]),
    )


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.integers(0, 8))
def test_a_record_is_augmented_the_same_in_every_batch_and_rank(order: list[int], cut: int) -> None:
    config = TrainConfig(**EVERYTHING)
    together = augment_records(batch(slice(0, 8)), config, 100.0, SEEDS)
    for rows in (order[:cut], order[cut:]):
        assert np.array_equal(augment_records(batch(rows), config, 100.0, SEEDS), together[rows])


def test_another_epoch_and_another_seed_augment_otherwise() -> None:
    config = TrainConfig(noise_mv=0.1)
    first = augment_records(batch(slice(0, 8)), config, 100.0, SEEDS)
    for seeds in (RecordSeeds.of_epoch(7, 2), RecordSeeds.of_epoch(8, 1)):
        assert not np.allclose(first, augment_records(batch(slice(0, 8)), config, 100.0, seeds))


def test_switching_one_augmentation_on_leaves_the_others_as_they_are() -> None:
    plain = augment_records(batch(slice(0, 8)), TrainConfig(crop_timesteps=20), 100.0, SEEDS)
    scaled = augment_records(batch(slice(0, 8)), TrainConfig(crop_timesteps=20, amplitude_scale=0.5), 100.0, SEEDS)
    factor = scaled[:, :1, :1] / plain[:, :1, :1]
    assert np.allclose(plain * factor, scaled, rtol=1e-5)


def test_nothing_on_leaves_records_untouched() -> None:
    assert np.array_equal(augment_records(batch(slice(0, 8)), TrainConfig(), 100.0, SEEDS), ECG[:8])


def test_a_crop_takes_every_start_the_last_one_included() -> None:
    ramp = np.broadcast_to(np.arange(5, dtype=np.float32), (400, 1, 5))
    starts = crop(ramp, whole(400, 5), np.arange(400), 3, SEEDS)[:, 0, 0]
    assert np.bincount(starts.astype(int)).tolist() == pytest.approx([133, 133, 133], abs=30)


def test_a_crop_lies_within_its_record_where_that_is_long_enough() -> None:
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32), (400, 1, 9))
    starts = crop(ramp, whole(400, 6), np.arange(400), 4, SEEDS)[:, 0, 0]
    assert np.bincount(starts.astype(int)).tolist() == pytest.approx([133, 133, 133], abs=30)
    assert not crop(ramp, whole(400, 3), np.arange(400), 4, SEEDS)[:, 0, 0].any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 50))
def test_a_padded_record_is_augmented_as_the_bare_one_and_its_padding_stays_zero(
    lengths: list[int], n_timesteps: int
) -> None:
    config = TrainConfig(**{**EVERYTHING, "crop_timesteps": n_timesteps})
    padded = batch(slice(0, len(lengths)))._replace(length_B=np.array(lengths, np.int32))
    for row, length in enumerate(lengths):
        padded.ecg_BLT[row, :, length:] = 0
    together = augment_records(padded, config, 100.0, SEEDS)
    for row, length in enumerate(lengths):
        size = min(length, n_timesteps)
        alone = Batch(
            padded.ecg_BLT[row : row + 1, :, :length],
            padded.labels_BK[row : row + 1],
            padded.index_B[row : row + 1],
            whole(1, length),
        )
        bare = augment_records(alone, config.model_copy(update={"crop_timesteps": size}), 100.0, SEEDS)
        assert np.array_equal(together[row, :, :size], bare[0])
        assert not together[row, :, size:].any()


def test_amplitude_stays_within_its_range() -> None:
    factors = scale_amplitude(np.ones((500, 1, 2), np.float32), np.arange(500), 0.2, SEEDS)[:, 0, 0]
    assert factors.min() == pytest.approx(0.8, abs=0.01)
    assert factors.max() == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize("n_leads", [1, 4])
def test_lead_dropout_keeps_one_lead_at_least(n_leads: int) -> None:
    kept = drop_leads(np.ones((500, n_leads, 2), np.float32), np.arange(500), 0.9, SEEDS)[:, :, 0].sum(axis=1)
    assert kept.min() == 1
    assert n_leads == 1 or kept.mean() < 1.5


def test_noise_has_its_deviation() -> None:
    noise = add_noise(np.zeros_like(ECG), whole(40, 50), INDEX, 0.3, SEEDS)
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    assert abs(noise.mean()) < 0.02


def test_baseline_wander_is_slow_and_bounded() -> None:
    flat = np.zeros((50, 2, 1000), np.float32)
    wander = add_baseline_wander(flat, whole(50, 1000), np.arange(50), 0.5, 100.0, SEEDS)
    assert np.abs(wander).max() <= 0.5
    power = np.abs(np.fft.rfft(wander, axis=2)) ** 2  # 0.1 Hz a bin
    assert power[:, :, :15].sum() / power.sum() > 0.95


def test_mixup_blends_records_and_targets_by_the_same_share() -> None:
    targets = np.eye(40, dtype=np.float32)
    partner = RNG.permutation(40)
    mixed, mixed_targets = mixup(ECG, targets, partner, 0.4, np.random.default_rng(1))
    assert np.allclose(mixed, np.einsum("bk,klt->blt", mixed_targets, ECG), atol=1e-5)
    assert np.allclose(mixed_targets.sum(axis=1), 1)


@pytest.mark.parametrize("n_leads", [1, 4, 12])
def test_cutmix_mixes_targets_by_the_area_it_replaced(n_leads: int) -> None:
    marks = np.broadcast_to(np.arange(30, dtype=np.float32)[:, None, None], (30, n_leads, 40)).copy()
    partner = np.roll(np.arange(30), 1)
    mixed, targets = cutmix(marks, np.eye(30, dtype=np.float32), partner, 1.0, np.random.default_rng(1))
    own_share = (mixed == marks).mean(axis=(1, 2))
    assert np.allclose(np.diag(targets), own_share, atol=1e-5)
    assert 0.3 < own_share.mean() < 0.7


def test_mixing_depends_on_the_batch_and_is_repeatable() -> None:
    config = TrainConfig(mixup_alpha=0.3, cutmix_alpha=1.0)
    targets = np.eye(40, dtype=np.float32)
    first = mix_records(ECG, targets, config, seed=1, epoch=1, batch=0, rank=0)
    again = mix_records(ECG, targets, config, seed=1, epoch=1, batch=0, rank=0)
    other = mix_records(ECG, targets, config, seed=1, epoch=1, batch=1, rank=0)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("n_records", [0, 1])
def test_too_few_records_to_mix_stay_as_they_are(n_records: int) -> None:
    targets = np.ones((n_records, 1), dtype=np.float32)
    mixed, _ = mix_records(ECG[:n_records], targets, TrainConfig(mixup_alpha=1.0), 1, 1, 0, 0)
    assert np.array_equal(mixed, ECG[:n_records])
