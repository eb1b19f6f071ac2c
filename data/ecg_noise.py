"""What disturbs an ECG on its way to the recorder: wander, muscle, tremor, movement, mains.

Noise is drawn for the electrodes behind I, II and V1-V6 alone; the other limb leads follow from them.

Legend: N records, L leads, K sine waves, E events, T timesteps. Voltages in mV, times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Signals = NDArray[np.float32]

_N_WANDER: Final = 3
_N_MOTION: Final = 2
_SUPPORT: Final = 4.0  # a Gaussian is cut where it has fallen to exp(-8), 0.5 uV of an R wave


@dataclass(frozen=True)
class Noise:
    """The disturbances of N records; arrays are (N,), voltages root mean squares over leads of their height."""

    respiration_hz: Floats
    wander_mv: Floats  # electrodes drifting with respiration, and slower
    muscle_mv: Floats  # white, weighted to high frequencies
    tremor_mv: Floats  # 4 to 9 Hz, as a patient's trembling or cold
    tremor_hz: Floats
    motion_mv: Floats  # bumps of 40 to 300 ms
    motion_per_s: Floats
    mains_mv: Floats
    mains_hz: Floats


def draw_noise(rng: np.random.Generator, noise: Noise, n_leads: int, n_timesteps: int, fs_hz: float) -> Signals:
    """Draw noise of shape (N, `n_leads`, T)."""
    time_T = np.arange(n_timesteps) / fs_hz
    parts = [
        (noise.wander_mv, _wander(rng, noise.respiration_hz, time_T)),
        (noise.tremor_mv, oscillation(rng, noise.tremor_hz, time_T)[:, None]),
        (noise.motion_mv, _motion(rng, noise.motion_per_s, n_timesteps, fs_hz)),
        (noise.mains_mv, _mains(rng, noise.mains_hz, time_T, fs_hz)),
    ]
    height_NS = np.concatenate([np.repeat(mv_N[:, None], source.shape[1], axis=1) for mv_N, source in parts], axis=1)
    weight_NLS = rng.standard_normal((len(height_NS), n_leads, height_NS.shape[1])) * height_NS[:, None]
    noise_NLT = weight_NLS.astype(np.float32) @ np.concatenate([source for _, source in parts], axis=1)
    noise_NLT += _muscle(rng, noise.muscle_mv, noise_NLT.shape)
    return np.asarray(noise_NLT)


def oscillation(rng: np.random.Generator, hz_N: Floats, time_T: Floats) -> Signals:
    """Return (N, T): a sawtooth-like wave of height about 1 whose frequency and height drift."""
    phase_3N1 = rng.random((3, len(hz_N), 1))
    turns_NT = hz_N[:, None] * time_T + 0.25 * _sine(0.35 * time_T + phase_3N1[1]) + phase_3N1[0]
    height_NT = 1 + np.float32(0.5) * _sine(0.8 * time_T + phase_3N1[2])
    return np.asarray(height_NT * (_sine(turns_NT) + np.float32(0.35) * _sine(2 * turns_NT)))


def _sine(turns: Floats) -> Signals:
    """Return the sine of an angle in whole turns; single precision is twice as fast."""
    return np.asarray(np.sin((2 * np.pi * turns).astype(np.float32)))


def _wander(rng: np.random.Generator, respiration_hz: Floats, time_T: Floats) -> Signals:
    """Return (N, 2K, T): sine and cosine at respiration and at slower drifts."""
    hz_NK = rng.uniform(0.03, 0.25, (len(respiration_hz), _N_WANDER))
    hz_NK[:, 0] = respiration_hz
    turns_NKT = hz_NK[:, :, None] * time_T
    pairs_NST = np.concatenate([_sine(turns_NKT), _sine(turns_NKT + 0.25)], axis=1)
    return np.asarray(pairs_NST / np.float32(np.sqrt(_N_WANDER)))


def _motion(rng: np.random.Generator, per_s_N: Floats, n_timesteps: int, fs_hz: float) -> Signals:
    """Return (N, K, T): bumps at random times, each in one of K combinations of electrodes."""
    bumps_NKT = np.zeros((len(per_s_N), _N_MOTION, n_timesteps), dtype=np.float32)
    count_NK = rng.poisson(per_s_N[:, None] / _N_MOTION * n_timesteps / fs_hz, (len(per_s_N), _N_MOTION))
    row_E = np.repeat(np.arange(count_NK.size), count_NK.ravel())
    if len(row_E):
        centre_E = rng.uniform(0, n_timesteps, len(row_E))
        rise_E, fall_E = fs_hz * np.exp(rng.uniform(np.log(0.010), np.log(0.075), (2, len(row_E))))
        gain_E = rng.standard_normal(len(row_E))
        add_gaussians(bumps_NKT.reshape(-1, n_timesteps), row_E, centre_E, rise_E, fall_E, gain_E)
    return bumps_NKT


def _mains(rng: np.random.Generator, mains_hz: Floats, time_T: Floats, fs_hz: float) -> Signals:
    """Return (N, 2, T): sine and cosine of the mains; zero where it nears the Nyquist frequency, as filters make it."""
    hz_N11 = (mains_hz + 0.02 * rng.standard_normal(len(mains_hz)))[:, None, None]
    audible_N11 = mains_hz[:, None, None] < 0.48 * fs_hz
    if not audible_N11.any():
        return np.zeros((len(hz_N11), 2, len(time_T)), dtype=np.float32)
    turns_N1T = hz_N11 * time_T
    pair_N2T = np.concatenate([_sine(turns_N1T), _sine(turns_N1T + 0.25)], axis=1)
    return np.asarray(pair_N2T * audible_N11.astype(np.float32))


def _muscle(rng: np.random.Generator, muscle_mv: Floats, shape: tuple[int, ...]) -> Signals:
    """Return (N, L, T) noise weighted to high frequencies, as surface EMG is."""
    white_NLT = rng.standard_normal((*shape[:2], shape[2] + 1), dtype=np.float32)
    slope = np.float32(0.5)
    muscle_NLT = white_NLT[:, :, 1:] - slope * white_NLT[:, :, :-1]
    muscle_NLT *= (muscle_mv / np.sqrt(1 + slope**2)).astype(np.float32)[:, None, None]
    return np.asarray(muscle_NLT)


def add_gaussians(
    out_RT: Signals, row_E: NDArray[np.intp], centre_E: Floats, rise_E: Floats, fall_E: Floats, gain_E: Floats
) -> None:
    """Add E asymmetric Gaussians (centre and widths in timesteps) to rows of `out_RT`, on their support alone."""
    reach = int(np.ceil(_SUPPORT * max(rise_E.max(), fall_E.max())))
    step_EK = np.rint(centre_E).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    distance_EK = (step_EK - centre_E[:, None]).astype(np.float32)
    width_EK = np.where(distance_EK < 0, rise_E[:, None], fall_E[:, None]).astype(np.float32)
    value_EK = gain_E[:, None].astype(np.float32) * np.exp(np.float32(-0.5) * (distance_EK / width_EK) ** 2)
    row_EK = np.broadcast_to(row_E[:, None], step_EK.shape)
    within_EK = (step_EK >= 0) & (step_EK < out_RT.shape[1])
    np.add.at(out_RT, (row_EK[within_EK], step_EK[within_EK]), value_EK[within_EK])
