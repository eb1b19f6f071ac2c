"""ECG as a sum of Gaussian waves along the heart's electrical axis.

McSharry et al. (IEEE Trans. Biomed. Eng. 50(3), 2003) let five Gaussian attractors P, Q, R, S, T pull a
trajectory round the unit circle. Their equation for z is linear, so we skip the integration: every beat
is the closed-form sum of its Gaussians in time, and every wave is a dipole in space (x left, y down,
z back). Leads are projections of the dipole by the matrix of Dower et al. (1980), which gives I, II and
V1-V6; the others follow from Einthoven's and Goldberger's laws.

Legend: N records, F of them fibrillating, B beats, W waves, E beats that show a wave, L leads, T timesteps,
3 the dipole's x, y, z. Voltages in mV, times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from data.ecg_noise import Floats, Noise, Signals, add_gaussians, draw_noise, oscillation

LEADS_12: Final = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
LEADS_1: Final = ("II",)

SINUS_BEAT, ATRIAL_BEAT, VENTRICULAR_BEAT = 0, 1, 2
"""Where a beat begins: `Beats.origin_NB`."""

# name: offset from R (s), rise and fall (s, Gaussian widths), dipole (mV) of a healthy adult at 60 bpm
_WAVES: Final = {
    "p_right": (-0.160, 0.020, 0.020, (0.060, 0.090, -0.050)),
    "p_left": (-0.130, 0.020, 0.022, (0.070, 0.060, 0.030)),
    "q": (-0.020, 0.009, 0.010, (-0.200, -0.060, -0.280)),
    "r": (0.000, 0.011, 0.011, (1.300, 0.850, 0.050)),
    "s": (0.028, 0.011, 0.012, (-0.300, -0.140, 0.620)),
    "late": (0.062, 0.018, 0.020, (0.0, 0.0, 0.0)),  # bundle branch block alone
    "st": (0.125, 0.045, 0.065, (0.0, 0.0, 0.0)),  # injury current alone
    "t": (0.285, 0.060, 0.040, (0.280, 0.200, -0.170)),
    "v": (0.005, 0.026, 0.030, (1.0, 1.0, 1.0)),  # ventricular beats: QRS, its notch and its T; the unit
    "v_notch": (0.075, 0.024, 0.036, (-0.35, -0.35, -0.35)),  # dipole is multiplied by the focus
    "v_t": (0.330, 0.075, 0.055, (-0.34, -0.34, -0.34)),
}
WAVE_NAMES: Final = tuple(_WAVES)
_P_RIGHT, _P_LEFT, _Q, _R, _S, _LATE, _ST, _T, _V, _V_NOTCH, _V_T = range(len(_WAVES))
_P_WAVES, _QRS_WAVES, _V_WAVES = [_P_RIGHT, _P_LEFT], [_Q, _R, _S], [_V, _V_NOTCH, _V_T]
_REPOLARISATION = {_ST, _T, _V_T}

# rows I, II, V1-V6 of Dower's matrix; columns x (left), y (down), z (back)
_DOWER_83: Final = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
_FIBRILLATION_3: Final = np.array([-0.50, 0.55, -0.70])  # largest in V1, then the inferior leads
_RIGHT_BLOCK_3: Final = np.array([-0.75, 0.00, -0.65])
_LEFT_BLOCK_3: Final = np.array([0.75, -0.10, 0.55])
_PAD_S: Final = 0.9  # beats this far outside the record still reach into it (T before, P after)
_SHORTEST_RR_S: Final = 0.30


@dataclass(frozen=True)
class Physiology:
    """What the generator is told of N records. Arrays are (N,) unless the name says otherwise."""

    rate_bpm: Floats
    respiration_hz: Floats
    respiratory_variability: Floats  # amplitude, fraction of RR, at `respiration_hz`
    mayer_variability: Floats  # amplitude, fraction of RR, at 0.1 Hz
    jitter: Floats  # standard deviation, fraction of RR, white
    fibrillating: NDArray[np.bool_]  # atrial fibrillation: no P, independent RR, f-waves
    fibrillatory_cv: Floats  # coefficient of variation of RR under fibrillation
    fibrillatory_mv: Floats
    fibrillatory_hz: Floats
    atrial_ectopy: Floats  # chance that a beat is premature
    ventricular_ectopy: Floats
    coupling: Floats  # a premature beat's RR, fraction of the RR before
    fusion: Floats  # share of a ventricular beat that the focus, not the sinus node, depolarises
    focus_N3: Floats  # dipole of the ventricular focus, mV
    p_gain: Floats
    pr_s: Floats  # PR interval
    voltage: Floats  # gain of the QRS dipole
    axis_deg: Floats  # rotation of the heart in the frontal plane, positive clockwise (down)
    rotation_deg: Floats  # rotation in the horizontal plane, positive towards the back
    qrs_stretch: Floats  # width of the QRS relative to normal
    right_block: Floats  # 0 none to 1 complete
    left_block: Floats
    q_dipole_N3: Floats  # added to the initial vector, mV
    st_dipole_N3: Floats  # injury current, mV
    t_gain: Floats  # negative: inverted
    t_width: Floats
    qtc_s: Floats
    overall_gain: Floats  # of the heart's signal (habitus, effusion), noise excepted
    lead_gain_N8: Floats  # electrode placement: I, II, V1-V6

    def __post_init__(self) -> None:
        shapes = {name: array.shape[0] for name, array in vars(self).items()}
        assert len(set(shapes.values())) == 1, shapes


@dataclass(frozen=True)
class Beats:
    """When the beats of N records come, from 0 at each record's start, and from where; many lie outside the record."""

    r_time_s_NB: Floats
    rr_s_NB: Floats  # interval before each R
    origin_NB: NDArray[np.int8]
    gain_NB: Floats  # respiration moves the heart

    def inside_NB(self, duration_s: float) -> NDArray[np.bool_]:
        """Return which beats have their R peak within the record."""
        return (self.r_time_s_NB >= 0) & (self.r_time_s_NB < duration_s)

    def mean_rr_s(self, duration_s: float) -> Floats:
        """Return each record's mean RR: of the intervals that end in it, or of the one that spans it. Shape (N,)."""
        counted_NB = self.inside_NB(duration_s)
        counted_NB[np.arange(len(counted_NB)), np.argmax(self.r_time_s_NB >= 0, axis=1)] = True
        return np.asarray(self.rr_s_NB.mean(axis=1, where=counted_NB))


@dataclass(frozen=True)
class Waves:
    """The Gaussians of one ordinary beat at RR = 1 s, for N records."""

    dipole_NW3: Floats
    offset_s_NW: Floats
    rise_s_NW: Floats
    fall_s_NW: Floats


def draw_beats(
    rng: np.random.Generator,
    physiology: Physiology,
    duration_s: float,
    centre_origin: NDArray[np.int8] | None = None,
) -> Beats:
    """Draw RR intervals and ectopic beats.

    Sinus RR are McSharry's two rhythms (respiration and Mayer waves) plus white jitter; under
    fibrillation they are independent gamma draws. A ventricular beat is followed by a full
    compensatory pause, an atrial one resets the sinus node.

    Args:
        centre_origin: (N,) origin of the beat that lies in the middle of each record (R at
            `duration_s / 2`); without it, records begin anywhere in a beat.
    """
    n_beats = int((duration_s + 2 * _PAD_S + 2.0) / _SHORTEST_RR_S) + 4
    origin_NB = _draw_origins(rng, physiology, n_beats)
    centre = n_beats // 2
    if centre_origin is not None:
        origin_NB[:, centre] = centre_origin
        origin_NB[:, [centre - 1, centre + 1]] = SINUS_BEAT
    rr_s_NB = _shift_premature(_draw_rr(rng, physiology, n_beats), origin_NB, physiology.coupling)
    r_time_s_NB = np.cumsum(rr_s_NB, axis=1) - rr_s_NB[:, :1]
    if centre_origin is None:
        start_N = -_PAD_S - rng.random(len(rr_s_NB)) / physiology.rate_bpm * 60.0
    else:
        start_N = duration_s / 2 - r_time_s_NB[:, centre]
    r_time_s_NB = r_time_s_NB + start_N[:, None]
    assert r_time_s_NB[:, 0].max() <= -_PAD_S, "beats begin too late"
    assert r_time_s_NB[:, -1].min() > duration_s, "too few beats were drawn"
    breath_NB = np.sin(2 * np.pi * physiology.respiration_hz[:, None] * r_time_s_NB)
    return Beats(r_time_s_NB, rr_s_NB, origin_NB, 1.0 + 0.05 * breath_NB)


def _draw_origins(rng: np.random.Generator, physiology: Physiology, n_beats: int) -> NDArray[np.int8]:
    chance_NB = rng.random((len(physiology.rate_bpm), n_beats))
    ventricular_N1 = physiology.ventricular_ectopy[:, None]
    atrial_N1 = np.where(physiology.fibrillating, 0.0, physiology.atrial_ectopy)[:, None]
    origin_NB = np.full(chance_NB.shape, SINUS_BEAT, dtype=np.int8)
    origin_NB[chance_NB < ventricular_N1 + atrial_N1] = ATRIAL_BEAT
    origin_NB[chance_NB < ventricular_N1] = VENTRICULAR_BEAT
    for beat in range(1, n_beats):  # no couplets: the pause belongs to one premature beat
        origin_NB[origin_NB[:, beat - 1] != SINUS_BEAT, beat] = SINUS_BEAT
    return origin_NB


def _draw_rr(rng: np.random.Generator, physiology: Physiology, n_beats: int) -> Floats:
    mean_N1 = 60.0 / physiology.rate_bpm[:, None]
    time_NB = mean_N1 * np.arange(n_beats)  # the modulation's phase at the mean rate
    phase_2N1 = 2 * np.pi * rng.random((2, len(mean_N1), 1))
    breath_NB = np.sin(2 * np.pi * physiology.respiration_hz[:, None] * time_NB + phase_2N1[0])
    mayer_NB = np.sin(2 * np.pi * 0.1 * time_NB + phase_2N1[1])
    relative_NB = 1.0 + physiology.respiratory_variability[:, None] * breath_NB
    relative_NB += physiology.mayer_variability[:, None] * mayer_NB
    relative_NB += physiology.jitter[:, None] * rng.standard_normal(time_NB.shape)
    shape_N1 = physiology.fibrillatory_cv[:, None] ** -2.0
    irregular_NB = rng.gamma(np.broadcast_to(shape_N1, time_NB.shape)) / shape_N1
    relative_NB = np.where(physiology.fibrillating[:, None], irregular_NB, relative_NB)
    return np.asarray(np.maximum(mean_N1 * relative_NB, _SHORTEST_RR_S))


def _shift_premature(rr_s_NB: Floats, origin_NB: NDArray[np.int8], coupling_N: Floats) -> Floats:
    """Shorten the interval before each premature beat; lengthen the one after a ventricular beat by as much."""
    early_NB = np.where(origin_NB != SINUS_BEAT, rr_s_NB * (1.0 - coupling_N[:, None]), 0.0)
    pause_NB = np.where(origin_NB == VENTRICULAR_BEAT, early_NB, 0.0)
    shifted_NB = np.maximum(rr_s_NB - early_NB, _SHORTEST_RR_S)
    shifted_NB[:, 1:] += pause_NB[:, :-1]
    return np.asarray(shifted_NB)


def shape_waves(physiology: Physiology) -> Waves:
    """Turn physiology into the Gaussians of an ordinary beat."""
    n_records = len(physiology.rate_bpm)
    table = list(_WAVES.values())
    offset_s_NW = np.tile([row[0] for row in table], (n_records, 1))
    rise_s_NW = np.tile([row[1] for row in table], (n_records, 1))
    fall_s_NW = np.tile([row[2] for row in table], (n_records, 1))
    stretch_N1 = physiology.qrs_stretch[:, None]
    qrs = [*_QRS_WAVES, _LATE]
    for array_NW in (offset_s_NW, rise_s_NW, fall_s_NW):
        array_NW[:, qrs] *= stretch_N1
    q_width_N = 1.0 + 1.2 * np.tanh(2.0 * np.linalg.norm(physiology.q_dipole_N3, axis=1))
    rise_s_NW[:, _Q] *= q_width_N
    offset_s_NW[:, _P_WAVES] -= (physiology.pr_s - 0.16)[:, None]
    offset_s_NW[:, _T] = physiology.qtc_s - 0.125  # T's end lies 2.3 falls after its peak, Q 35 ms before R
    rise_s_NW[:, _T] *= physiology.t_width
    fall_s_NW[:, _T] *= physiology.t_width
    return Waves(_shape_dipoles(physiology), offset_s_NW, rise_s_NW, fall_s_NW)


def _shape_dipoles(physiology: Physiology) -> Floats:
    dipole_NW3 = np.tile(np.array([row[3] for row in _WAVES.values()]), (len(physiology.rate_bpm), 1, 1))
    right_N1, left_N1 = physiology.right_block[:, None], physiology.left_block[:, None]
    dipole_NW3[:, _P_WAVES] *= physiology.p_gain[:, None, None]
    dipole_NW3[:, _QRS_WAVES] *= physiology.voltage[:, None, None]
    dipole_NW3[:, _Q] *= 1.0 - left_N1  # a left block takes the septal vector away
    dipole_NW3[:, _Q] += physiology.q_dipole_N3
    block_N3 = right_N1 * _RIGHT_BLOCK_3 + left_N1 * _LEFT_BLOCK_3
    dipole_NW3[:, _LATE] = block_N3 * physiology.voltage[:, None]
    dipole_NW3[:, _ST] = physiology.st_dipole_N3
    dipole_NW3[:, _T] *= physiology.t_gain[:, None]
    dipole_NW3[:, _T] -= 0.35 * block_N3  # repolarisation against a blocked bundle's late vector
    dipole_NW3[:, _V_WAVES] *= physiology.focus_N3[:, None, :]
    turned_NW3 = np.einsum("nij,nwj->nwi", _rotations(physiology), dipole_NW3)
    return np.asarray(turned_NW3 * physiology.overall_gain[:, None, None])


def _rotations(physiology: Physiology) -> Floats:
    """Return (N, 3, 3) matrices: first in the frontal plane (x, y), then in the horizontal (x, z)."""
    frontal_N, horizontal_N = np.radians(physiology.axis_deg), np.radians(physiology.rotation_deg)
    frontal_N33, horizontal_N33 = (np.tile(np.eye(3), (len(frontal_N), 1, 1)) for _ in range(2))
    for matrix_N33, angle_N, second in ((frontal_N33, frontal_N, 1), (horizontal_N33, horizontal_N, 2)):
        matrix_N33[:, 0, 0] = matrix_N33[:, second, second] = np.cos(angle_N)
        matrix_N33[:, 0, second] = -np.sin(angle_N)
        matrix_N33[:, second, 0] = np.sin(angle_N)
    return np.asarray(horizontal_N33 @ frontal_N33)


def sum_waves(waves: Waves, beats: Beats, physiology: Physiology, fs_hz: float, n_timesteps: int) -> Signals:
    """Sum every wave's Gaussians over its beats, in units of the wave's dipole. Shape (N, W, T).

    Repolarisation follows the RR interval with Fridericia's cube root, mostly that of the record, partly
    that of the interval before (QT lags behind RR). Only the support of each Gaussian is evaluated.
    """
    n_records = len(beats.rr_s_NB)
    sources_NWT = np.zeros((n_records, len(WAVE_NAMES), n_timesteps), dtype=np.float32)
    gain_WNB = _beat_gains(beats, physiology)
    record_rr_N1 = 60.0 / physiology.rate_bpm[:, None]
    reaches_NB = (beats.r_time_s_NB > -_PAD_S) & (beats.r_time_s_NB < n_timesteps / fs_hz + _PAD_S)
    qt_scale_NB = np.cbrt(0.7 * record_rr_N1 + 0.3 * beats.rr_s_NB)
    for wave in range(len(WAVE_NAMES)):
        record_E, beat_E = np.nonzero((gain_WNB[wave] != 0) & reaches_NB)
        if not len(record_E) or not waves.dipole_NW3[:, wave].any():
            continue
        scale_E = qt_scale_NB[record_E, beat_E] if wave in _REPOLARISATION else np.ones(len(record_E))
        centre_E = beats.r_time_s_NB[record_E, beat_E] + scale_E * waves.offset_s_NW[record_E, wave]
        add_gaussians(
            sources_NWT[:, wave],
            record_E,
            centre_E * fs_hz,
            scale_E * waves.rise_s_NW[record_E, wave] * fs_hz,
            scale_E * waves.fall_s_NW[record_E, wave] * fs_hz,
            gain_WNB[wave, record_E, beat_E],
        )
    return sources_NWT


def _beat_gains(beats: Beats, physiology: Physiology) -> Floats:
    """Return (W, N, B): how strongly each beat shows each wave."""
    ventricular_NB = beats.origin_NB == VENTRICULAR_BEAT
    focus_NB = np.where(ventricular_NB, physiology.fusion[:, None], 0.0)
    gain_WNB = np.repeat(((1.0 - focus_NB) * beats.gain_NB)[None], len(WAVE_NAMES), axis=0)
    gain_WNB[_V_WAVES] = focus_NB * beats.gain_NB
    atrial_NB = beats.origin_NB == ATRIAL_BEAT
    gain_WNB[_P_RIGHT] *= np.where(atrial_NB, 0.6, 1.0)  # an ectopic P is smaller and reversed in part
    gain_WNB[_P_LEFT] *= np.where(atrial_NB, -0.4, 1.0)
    gain_WNB[_P_WAVES] *= ~physiology.fibrillating[:, None]
    return gain_WNB


def draw_ecg(
    rng: np.random.Generator,
    physiology: Physiology,
    noise: Noise,
    beats: Beats,
    *,
    fs_hz: float,
    n_timesteps: int,
    n_leads: Literal[1, 12],
) -> Signals:
    """Draw N records of 12 leads (`LEADS_12`) or one (`LEADS_1`). Shape (N, L, T), float32, mV."""
    base = slice(None) if n_leads == 12 else slice(1, 2)
    field_NL3 = _DOWER_83[base] * physiology.lead_gain_N8[:, base, None]
    waves = shape_waves(physiology)
    heart_NLW = np.einsum("nlx,nwx->nlw", field_NL3, waves.dipole_NW3).astype(np.float32)
    ecg_NLT = heart_NLW @ sum_waves(waves, beats, physiology, fs_hz, n_timesteps)
    rows = np.flatnonzero(physiology.fibrillating)
    atria_FL = field_NL3[rows] @ _FIBRILLATION_3 * physiology.fibrillatory_mv[rows, None]
    wave_FT = oscillation(rng, physiology.fibrillatory_hz[rows], np.arange(n_timesteps) / fs_hz)
    ecg_NLT[rows] += atria_FL.astype(np.float32)[:, :, None] * wave_FT[:, None]
    ecg_NLT += draw_noise(rng, noise, ecg_NLT.shape[1], n_timesteps, fs_hz)
    return _derive_limb_leads(ecg_NLT) if n_leads == 12 else np.asarray(ecg_NLT)


def _derive_limb_leads(base_N8T: Signals) -> Signals:
    """Complete I, II, V1-V6 to `LEADS_12`: III = II - I (Einthoven), aVR, aVL, aVF (Goldberger)."""
    ecg_NLT = np.empty((len(base_N8T), 12, base_N8T.shape[2]), dtype=np.float32)
    one_NT, two_NT = base_N8T[:, 0], base_N8T[:, 1]
    ecg_NLT[:, 0], ecg_NLT[:, 1], ecg_NLT[:, 6:] = one_NT, two_NT, base_N8T[:, 2:]
    ecg_NLT[:, 2] = two_NT - one_NT
    ecg_NLT[:, 3] = (one_NT + two_NT) * np.float32(-0.5)
    ecg_NLT[:, 4] = one_NT - two_NT * np.float32(0.5)
    ecg_NLT[:, 5] = two_NT - one_NT * np.float32(0.5)
    return ecg_NLT
