"""Augmentation of training batches: pure functions of the records and of seeds.

B: records, L: leads, T: timesteps, K: outputs.

From its length on a record is padding, zero, and stays so: nothing is added there, and a record is augmented alike
with and without it. Crops lie within a record that is long enough. Only CutMix counts padding as signal: it knows
areas, not lengths.

What happens to one record alone is drawn from (trial's seed, epoch, position of the record in its split), so
it depends neither on the batch the record came in nor on the process that loaded it. Mixup and CutMix pair
records of one process's share of a batch: their draws are seeded by (seed, epoch, batch, rank), and a trial on
several workers pairs other records than one on a single worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from data.dataset import Batch
from trainables.config import TrainConfig
from trainables.seeds import Use, derive_key, derive_seed

Array = NDArray[np.float32]
Positions = NDArray[np.int64]  # of records in their split
Lengths = NDArray[np.int32]  # timesteps of records before their padding

WANDER_HZ = (0.05, 0.5)  # respiration and movement of electrodes
WANDER_WAVES = 3


class Stream(IntEnum):
    """Each augmentation has its own stream of a record, so that switching one on leaves the others as they are."""

    CROP = 0
    SCALE = 1
    LEADS = 2
    NOISE = 3
    WANDER = 4


@dataclass(frozen=True)
class RecordSeeds:
    """The random streams of the records of one epoch, by position in the split."""

    key: NDArray[np.uint64]

    @staticmethod
    def of_epoch(seed: int, epoch: int) -> RecordSeeds:
        return RecordSeeds(derive_key(Use.AUGMENT, seed, epoch))

    def generator(self, stream: Stream, index: int) -> np.random.Generator:
        """Return a generator for one record; Philox counts up in the lowest word, the others tell streams apart."""
        counter = np.array([0, 0, stream, index], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=self.key))


def augment_records(batch: Batch, config: TrainConfig, fs_hz: float, seeds: RecordSeeds) -> Array:
    """Return ecg_BLT of the batch, each record cropped and augmented as `config` says."""
    ecg_BLT, length_B = batch.ecg_BLT, batch.length_B
    if config.crop_timesteps is not None:
        ecg_BLT = crop(ecg_BLT, length_B, batch.index_B, config.crop_timesteps, seeds)
        length_B = np.minimum(length_B, np.int32(config.crop_timesteps))
    if config.amplitude_scale:
        ecg_BLT = scale_amplitude(ecg_BLT, batch.index_B, config.amplitude_scale, seeds)
    if config.baseline_wander_mv:
        ecg_BLT = add_baseline_wander(ecg_BLT, length_B, batch.index_B, config.baseline_wander_mv, fs_hz, seeds)
    if config.noise_mv:
        ecg_BLT = add_noise(ecg_BLT, length_B, batch.index_B, config.noise_mv, seeds)
    if config.lead_dropout:  # last, so that a lost lead is flat
        ecg_BLT = drop_leads(ecg_BLT, batch.index_B, config.lead_dropout, seeds)
    return ecg_BLT


def crop(ecg_BLT: Array, length_B: Lengths, index_B: Positions, n_timesteps: int, seeds: RecordSeeds) -> Array:
    """Cut a window of `n_timesteps` from each record; every start, the last one included, is equally likely.

    A record shorter than the window gives its beginning, all of it, and padding.
    """
    out = np.empty((*ecg_BLT.shape[:2], n_timesteps), dtype=np.float32)
    for row, (index, length) in enumerate(zip(index_B.tolist(), length_B.tolist(), strict=True)):
        start = seeds.generator(Stream.CROP, index).integers(max(0, length - n_timesteps) + 1)
        out[row] = ecg_BLT[row, :, start : start + n_timesteps]
    return out


def scale_amplitude(ecg_BLT: Array, index_B: Positions, scale: float, seeds: RecordSeeds) -> Array:
    """Multiply each record by a factor from [1 - scale, 1 + scale]."""
    out = np.empty_like(ecg_BLT)
    for row, index in enumerate(index_B):
        factor = seeds.generator(Stream.SCALE, int(index)).uniform(1 - scale, 1 + scale)
        np.multiply(ecg_BLT[row], np.float32(factor), out=out[row])
    return out


def drop_leads(ecg_BLT: Array, index_B: Positions, chance: float, seeds: RecordSeeds) -> Array:
    """Set each lead to 0 with `chance`; the lead with the highest draw stays, so that no record becomes empty."""
    n_leads = ecg_BLT.shape[1]
    draws_BL = np.empty((len(index_B), n_leads))
    for row, index in enumerate(index_B):
        draws_BL[row] = seeds.generator(Stream.LEADS, int(index)).random(n_leads)
    dropped_BL = (draws_BL < chance) & (draws_BL < draws_BL.max(axis=1, keepdims=True))
    out = ecg_BLT.copy()
    out[dropped_BL] = 0.0
    return out


def add_noise(ecg_BLT: Array, length_B: Lengths, index_B: Positions, noise_mv: float, seeds: RecordSeeds) -> Array:
    """Add white noise of standard deviation `noise_mv`."""
    out = ecg_BLT.copy()
    for row, (index, length) in enumerate(zip(index_B.tolist(), length_B.tolist(), strict=True)):
        shape = (ecg_BLT.shape[1], length)
        noise_LT = seeds.generator(Stream.NOISE, index).standard_normal(shape, dtype=np.float32)
        np.multiply(noise_LT, np.float32(noise_mv), out=noise_LT)
        out[row, :, :length] += noise_LT
    return out


def add_baseline_wander(
    ecg_BLT: Array, length_B: Lengths, index_B: Positions, amplitude_mv: float, fs_hz: float, seeds: RecordSeeds
) -> Array:
    """Add slow waves, the same in every lead up to a gain from [-1, 1]; their sum stays within `amplitude_mv`."""
    n_leads, n_timesteps = ecg_BLT.shape[1:]
    time_s = np.arange(n_timesteps) / fs_hz
    out = ecg_BLT.copy()
    for row, (index, length) in enumerate(zip(index_B.tolist(), length_B.tolist(), strict=True)):
        rng = seeds.generator(Stream.WANDER, index)
        frequency_hz = rng.uniform(*WANDER_HZ, size=(WANDER_WAVES, 1))
        phase = rng.uniform(0, 2 * np.pi, size=(WANDER_WAVES, 1))
        gain_L1 = rng.uniform(-1, 1, size=(n_leads, 1))
        wave_T = np.sin(2 * np.pi * frequency_hz * time_s[:length] + phase).mean(axis=0)
        out[row, :, :length] += (amplitude_mv * gain_L1 * wave_T).astype(np.float32)
    return out


def mix_records(
    ecg_BLT: Array, targets_BK: Array, config: TrainConfig, seed: int, epoch: int, batch: int, rank: int
) -> tuple[Array, Array]:
    """Mix the records of a batch in pairs by mixup, CutMix or, where both are on, one of them per batch."""
    rng = np.random.default_rng(derive_seed(Use.MIX, seed, epoch, batch, rank))
    if len(ecg_BLT) < 2 or not (config.mixup_alpha or config.cutmix_alpha):
        return ecg_BLT, targets_BK
    partner_B = rng.permutation(len(ecg_BLT))
    if config.mixup_alpha and (not config.cutmix_alpha or rng.random() < 0.5):
        return mixup(ecg_BLT, targets_BK, partner_B, config.mixup_alpha, rng)
    return cutmix(ecg_BLT, targets_BK, partner_B, config.cutmix_alpha, rng)


def mixup(
    ecg_BLT: Array, targets_BK: Array, partner_B: NDArray[np.int64], alpha: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Blend each record and its targets with its partner's (Zhang et al. 2018, arXiv:1710.09412)."""
    share_B = rng.beta(alpha, alpha, size=len(ecg_BLT)).astype(np.float32)
    mixed_BLT = _blend(ecg_BLT, ecg_BLT[partner_B], share_B[:, None, None])
    return mixed_BLT, _blend(targets_BK, targets_BK[partner_B], share_B[:, None])


def cutmix(
    ecg_BLT: Array, targets_BK: Array, partner_B: NDArray[np.int64], alpha: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Replace a box of leads x time by the partner's; targets mix by area (Yun et al. 2019, arXiv:1905.04899).

    A Beta(alpha, alpha) share of the area stays. The box takes some leads (any, since leads have no order)
    over one span of time, in equal proportion as far as whole leads allow.
    """
    n_leads, n_timesteps = ecg_BLT.shape[1:]
    mixed_BLT = ecg_BLT.copy()
    kept_B = np.empty(len(ecg_BLT), dtype=np.float32)
    for row, partner in enumerate(partner_B):
        leads, start, stop = _box(1 - rng.beta(alpha, alpha), n_leads, n_timesteps, rng)
        mixed_BLT[row, leads, start:stop] = ecg_BLT[partner, leads, start:stop]
        kept_B[row] = 1 - len(leads) * (stop - start) / (n_leads * n_timesteps)
    return mixed_BLT, _blend(targets_BK, targets_BK[partner_B], kept_B[:, None])


def _box(area: float, n_leads: int, n_timesteps: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], int, int]:
    n_cut = max(1, round(n_leads * area**0.5))
    length = min(n_timesteps, round(area * n_leads / n_cut * n_timesteps))
    start = int(rng.integers(n_timesteps - length + 1))
    return rng.choice(n_leads, size=n_cut, replace=False), start, start + length


def _blend(first: Array, second: Array, share: Array) -> Array:
    return share * first + (1 - share) * second
