"""The patients of the synthetic tasks: what each task asks of the generator, and the labels that follow.

Every number is drawn for a patient and moved a little for each record, so that a patient's records
resemble each other. No label is written into a signal: a label is a threshold on a parameter or a count
of generated beats. Parameters of the classes overlap, and noise hides small ones, as in the clinic.

Legend: N records, P patients, K label columns, B beats, 3 the dipole's x (left), y (down), z (back).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri  # the normal distribution and its inverse

from data.dataset import LabelSet
from data.ecg_generator import ATRIAL_BEAT, SINUS_BEAT, VENTRICULAR_BEAT, Beats, Physiology, draw_beats
from data.ecg_noise import Floats, Noise

TaskName = Literal["rhythm", "morphology", "af_segments", "beats", "multitask"]
Labels = Mapping[str, NDArray[np.float32]]

RECORDS_A_PATIENT: Final = (0.40, 0.25, 0.15, 0.12, 0.08)
"""Chances of 1, 2, ... 5 records."""

RHYTHMS: Final = ("sinus", "bradycardia", "tachycardia", "af", "pvc")
REPORTS: Final = (*RHYTHMS, "first_degree_av_block", "pac")

# prevalence, and loadings on shared causes: ischaemia, hypertension, conduction disease, scar or effusion
_FINDINGS: Final = {
    "st_elevation": (0.08, (0.35, 0.0, 0.0, 0.55)),
    "st_depression": (0.20, (0.60, 0.45, 0.15, 0.0)),
    "t_inversion": (0.35, (0.50, 0.40, 0.20, 0.30)),
    "wide_qrs": (0.15, (0.0, 0.15, 0.75, 0.15)),
    "lv_hypertrophy": (0.25, (0.0, 0.75, 0.10, -0.20)),
    "long_qt": (0.18, (0.20, 0.15, 0.40, 0.0)),
    "q_wave": (0.12, (0.25, 0.0, 0.10, 0.65)),
    "low_voltage": (0.06, (0.0, -0.35, 0.0, 0.40)),
}
FINDINGS: Final = tuple(_FINDINGS)


@dataclass(frozen=True)
class PatientDraw:
    """Standard normal numbers that a patient's records share in part.

    Attributes:
        patient_N: (N,) the patient (0 to P - 1) of each record.
    """

    rng: np.random.Generator
    patient_N: NDArray[np.intp]
    n_patients: int

    def normal(self, share: float, *shape: int) -> Floats:
        """Return (N, *shape) standard normal numbers; `share` of their variance is the patient's."""
        patient = self.rng.standard_normal((self.n_patients, *shape))[self.patient_N]
        record = self.rng.standard_normal((len(self.patient_N), *shape))
        return np.asarray(np.sqrt(share) * patient + np.sqrt(1.0 - share) * record)

    def between(self, low: float, high: float, share: float) -> Floats:
        """Return (N,) numbers, uniform from `low` to `high`."""
        return np.asarray(low + (high - low) * ndtr(self.normal(share)))

    def lognormal(self, median: float, sigma: float, share: float, *shape: int) -> Floats:
        """Return (N, *shape) positive numbers; `sigma` is the standard deviation of their logarithm."""
        return np.asarray(median * np.exp(sigma * self.normal(share, *shape)))


@dataclass(frozen=True)
class People:
    """Who the records come from. Arrays are (N,)."""

    age_y: Floats
    female: NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """N records before they are drawn: what the generator needs, and the labels that follow."""

    physiology: Physiology
    noise: Noise
    beats: Beats
    labels: Labels


@dataclass(frozen=True)
class SyntheticTask:
    """One row of `TASKS`: what a task's records are like by default, its label sets, and who gets what."""

    n_leads: Literal[1, 12]
    fs_hz: float
    duration_s: float
    label_sets: tuple[LabelSet, ...]
    draw: Callable[[PatientDraw, People, float], Case]
    """(draw, people, duration_s) -> case"""


def draw_people(draw: PatientDraw) -> People:
    """Draw ages (18 to 95 years) and sexes, one of each a patient."""
    return People(age_y=np.clip(58.0 + 17.0 * draw.normal(1.0), 18.0, 95.0), female=draw.normal(1.0) > 0)


def draw_healthy(draw: PatientDraw, people: People) -> Physiology:
    """Draw hearts without disease, as age and sex change them."""
    n_records = len(people.age_y)
    decades = (people.age_y - 58.0) / 10.0
    female = people.female.astype(np.float64)
    zeros, zeros_N3 = np.zeros(n_records), np.zeros((n_records, 3))
    return Physiology(
        rate_bpm=np.clip(draw.lognormal(71.0, 0.15, 0.6) + 2.0 * female, 45.0, 130.0),
        respiration_hz=np.clip(draw.lognormal(0.25, 0.18, 0.5), 0.12, 0.45),
        respiratory_variability=draw.lognormal(0.030, 0.45, 0.6) * np.exp(-0.16 * decades),
        mayer_variability=draw.lognormal(0.020, 0.45, 0.6) * np.exp(-0.10 * decades),
        jitter=draw.lognormal(0.008, 0.3, 0.5),
        fibrillating=np.zeros(n_records, dtype=np.bool_),
        fibrillatory_cv=np.full(n_records, 0.2),
        fibrillatory_mv=zeros,
        fibrillatory_hz=draw.between(4.5, 8.0, 0.7),
        atrial_ectopy=np.full(n_records, 0.004),
        ventricular_ectopy=zeros,
        coupling=draw.between(0.58, 0.82, 0.7),
        fusion=np.ones(n_records),
        focus_N3=_draw_focus(draw),
        p_gain=draw.lognormal(1.0, 0.25, 0.8),
        pr_s=np.clip(0.158 + 0.005 * decades + 0.016 * draw.normal(0.9), 0.11, 0.30),
        voltage=draw.lognormal(1.0, 0.17, 0.9) * np.exp(-0.04 * decades - 0.16 * female),
        axis_deg=-9.0 * decades + 14.0 * draw.normal(0.9),
        rotation_deg=12.0 * draw.normal(0.8),
        qrs_stretch=draw.lognormal(1.0, 0.07, 0.9) * np.exp(-0.05 * female),
        right_block=zeros,
        left_block=zeros,
        q_dipole_N3=zeros_N3,
        st_dipole_N3=zeros_N3 + _ST_NORMAL_3 * np.exp(0.3 * draw.normal(0.8) - 0.5 * female)[:, None],
        t_gain=draw.lognormal(1.0, 0.22, 0.8) * np.exp(-0.09 * decades - 0.18 * female),
        t_width=draw.lognormal(1.0, 0.08, 0.8),
        qtc_s=0.405 + 0.016 * female + 0.003 * decades + 0.012 * draw.normal(0.8),
        overall_gain=draw.lognormal(1.0, 0.12, 0.8),
        lead_gain_N8=draw.lognormal(1.0, 0.13, 0.7, 8),
    )


def _draw_noise_levels(draw: PatientDraw, respiration_hz: Floats, level: float = 1.0) -> Noise:
    """Draw how disturbed each record is; `level` 1 is a resting ECG, 2 an ambulatory one."""
    return Noise(
        respiration_hz=respiration_hz,
        wander_mv=draw.lognormal(0.050 * level, 0.60, 0.2),
        muscle_mv=draw.lognormal(0.014 * level, 0.55, 0.3),
        tremor_mv=draw.lognormal(0.008 * level, 0.80, 0.6),
        tremor_hz=draw.between(4.0, 9.0, 0.9),
        motion_mv=draw.lognormal(0.060 * level, 0.60, 0.2),
        motion_per_s=draw.lognormal(0.12 * level, 0.60, 0.3),
        mains_mv=draw.lognormal(0.006 * level, 0.80, 0.4),
        mains_hz=np.where(draw.normal(1.0) > 0, 50.0, 60.0),
    )


_ST_NORMAL_3: Final = np.array([0.020, 0.015, -0.030])
_FOCI_43: Final = np.array([[1.3, -0.9, 0.8], [1.2, 1.0, 0.7], [-1.0, 0.9, -0.9], [-0.8, -1.0, -1.0]])
"""Right ventricular apex and outflow tract, left ventricular base and apex, mV."""


def _draw_focus(draw: PatientDraw) -> Floats:
    """Draw (N, 3) ventricular foci: one of four sites a patient, moved a little."""
    site_N = np.minimum(draw.between(0.0, 4.0, 1.0).astype(np.intp), 3)
    return np.asarray(_FOCI_43[site_N] * draw.lognormal(1.0, 0.2, 0.9)[:, None] + 0.2 * draw.normal(0.9, 3))


# --- rhythm -------------------------------------------------------------------------------------------


def _draw_rhythm(draw: PatientDraw, people: People, duration_s: float) -> Case:
    physiology, underlying_bpm = _with_rhythms(draw, draw_healthy(draw, people), af=0.20, pvc=0.24)
    beats = draw_beats(draw.rng, physiology, duration_s)
    rhythm_N = _rhythm_index(physiology, beats, underlying_bpm, duration_s)
    noise = _draw_noise_levels(draw, physiology.respiration_hz, 1.6)
    return Case(physiology, noise, beats, {"rhythm": rhythm_N[:, None]})


def _with_rhythms(draw: PatientDraw, healthy: Physiology, *, af: float, pvc: float) -> tuple[Physiology, Floats]:
    """Give shares `af` and `pvc` of the records fibrillation and ventricular beats, and all of them wide rates.

    Returns also the (N,) underlying rates, bpm: a record of seconds catches the heart a little faster or slower.
    """
    liability = draw.normal(0.8)
    fibrillating, ectopic = liability < ndtri(af), liability > ndtri(1.0 - pvc)
    underlying_bpm = draw.lognormal(76.0, 0.28, 0.7) * np.where(fibrillating, 1.1, 1.0)
    physiology = replace(
        _with_fibrillation(draw, healthy, fibrillating),
        rate_bpm=np.clip(underlying_bpm * draw.lognormal(1.0, 0.18, 0.0), 38.0, 150.0),
        ventricular_ectopy=np.where(ectopic, draw.between(0.04, 0.18, 0.5), 0.0),
        fusion=draw.between(0.03, 0.40, 0.3),
        atrial_ectopy=np.where(draw.normal(0.7) > 0.7, draw.between(0.02, 0.20, 0.5), 0.004),
        coupling=draw.between(0.80, 1.0, 0.4),
    )
    return physiology, underlying_bpm


def _with_fibrillation(draw: PatientDraw, healthy: Physiology, fibrillating: NDArray[np.bool_]) -> Physiology:
    """Fibrillate some records, irregular and coarse by degrees; give the others irregular RR and small P by degrees."""
    return replace(
        healthy,
        fibrillating=fibrillating,
        fibrillatory_cv=draw.lognormal(0.090, 0.50, 0.6),
        fibrillatory_mv=np.where(fibrillating, draw.lognormal(0.014, 0.6, 0.7), 0.0),
        respiratory_variability=healthy.respiratory_variability * draw.lognormal(1.3, 0.6, 0.7),
        jitter=healthy.jitter * draw.lognormal(3.2, 0.9, 0.5),
        p_gain=healthy.p_gain * draw.lognormal(0.25, 0.9, 0.8),
    )


def _rhythm_index(
    physiology: Physiology, beats: Beats, underlying_bpm: Floats, duration_s: float
) -> NDArray[np.float32]:
    """Return each record's index in `RHYTHMS`: fibrillation, else a ventricular beat in it, else by underlying rate."""
    names_N = np.select(
        [
            physiology.fibrillating,
            _has_beat(beats, VENTRICULAR_BEAT, duration_s),
            underlying_bpm < 60.0,
            underlying_bpm > 100.0,
        ],
        [RHYTHMS.index(name) for name in ("af", "pvc", "bradycardia", "tachycardia")],
        default=RHYTHMS.index("sinus"),
    )
    return names_N.astype(np.float32)


def _has_beat(beats: Beats, origin: int, duration_s: float) -> NDArray[np.bool_]:
    return np.asarray(((beats.origin_NB == origin) & beats.inside_NB(duration_s)).any(axis=1))


def _draw_af_segments(draw: PatientDraw, people: People, duration_s: float) -> Case:
    fibrillating = draw.normal(0.8) > ndtri(0.6)
    physiology = _with_fibrillation(draw, draw_healthy(draw, people), fibrillating)
    rate_bpm = draw.lognormal(80.0, 0.22, 0.7)
    physiology = replace(
        physiology,
        rate_bpm=np.clip(np.where(fibrillating, rate_bpm * 1.06, rate_bpm), 42.0, 150.0),
        atrial_ectopy=np.where(draw.normal(0.7) > 0.5, draw.between(0.02, 0.25, 0.5), 0.004),
    )
    beats = draw_beats(draw.rng, physiology, duration_s)
    noise = _draw_noise_levels(draw, physiology.respiration_hz, 2.0)
    return Case(physiology, noise, beats, {"af": fibrillating.astype(np.float32)[:, None]})


# --- beats --------------------------------------------------------------------------------------------


def _draw_beat_windows(draw: PatientDraw, people: People, duration_s: float) -> Case:
    """Put one beat in the middle: abnormal when ventricular or atrial and premature, by degrees."""
    liability = draw.normal(0.5)
    ventricular, atrial = liability > ndtri(0.78), liability < ndtri(0.10)
    centre = np.select([ventricular, atrial], [VENTRICULAR_BEAT, ATRIAL_BEAT], SINUS_BEAT).astype(np.int8)
    healthy = draw_healthy(draw, people)
    physiology = replace(
        healthy,
        rate_bpm=np.clip(draw.lognormal(76.0, 0.2, 0.7), 45.0, 130.0),
        fusion=draw.between(0.03, 0.35, 0.3),
        coupling=draw.between(0.82, 1.0, 0.3),
        qrs_stretch=healthy.qrs_stretch * draw.lognormal(1.0, 0.12, 0.8),
        jitter=healthy.jitter * draw.lognormal(5.0, 0.6, 0.5),
        p_gain=healthy.p_gain * draw.lognormal(0.6, 0.6, 0.8),
    )
    beats = draw_beats(draw.rng, physiology, duration_s, centre)
    noise = _draw_noise_levels(draw, physiology.respiration_hz, 2.0)
    return Case(physiology, noise, beats, {"label": (centre != SINUS_BEAT).astype(np.float32)[:, None]})


# --- morphology ---------------------------------------------------------------------------------------


def draw_liabilities(draw: PatientDraw) -> Floats:
    """Draw (N, K) correlated standard normal liabilities of `FINDINGS`, minus their thresholds: present above 0."""
    prevalence_K = np.array([row[0] for row in _FINDINGS.values()])
    loading_KC = np.array([row[1] for row in _FINDINGS.values()])
    own_K = np.sqrt(1.0 - (loading_KC**2).sum(axis=1))
    shared_NK = draw.normal(0.85, loading_KC.shape[1]) @ loading_KC.T
    return np.asarray(shared_NK + own_K * draw.normal(0.7, len(FINDINGS)) + ndtri(prevalence_K))


def _severity(excess_N: Floats) -> Floats:
    """Map a liability to a degree of disease: near 0 well below the threshold, 0.5 at it, then linear."""
    return np.asarray(np.logaddexp(0.0, 3.0 * (excess_N + 0.4)) / 3.0)


def _draw_morphology(draw: PatientDraw, people: People, duration_s: float) -> Case:
    excess_NK = draw_liabilities(draw)
    physiology = _with_findings(draw, draw_healthy(draw, people), excess_NK)
    beats = draw_beats(draw.rng, physiology, duration_s)
    noise = _draw_noise_levels(draw, physiology.respiration_hz)
    return Case(physiology, noise, beats, {"morphology": (excess_NK > 0).astype(np.float32)})


_ANTERIOR_3: Final = np.array([0.30, 0.00, -0.90])
_INFERIOR_3: Final = np.array([-0.10, 0.95, 0.00])
_LATERAL_3: Final = np.array([0.80, 0.35, -0.10])


def _with_findings(draw: PatientDraw, healthy: Physiology, excess_NK: Floats) -> Physiology:
    """Turn degrees of disease into ST, T, QRS and QT. Hypertrophy brings strain, infarction the same site's ST."""
    degree = {name: _severity(excess_NK[:, column]) for column, name in enumerate(FINDINGS)}
    anterior_N1 = (draw.normal(1.0) > 0)[:, None]
    site_N3 = np.where(anterior_N1, _ANTERIOR_3, _INFERIOR_3)
    right_N = draw.normal(1.0) > 0
    block_N = np.clip(degree["wide_qrs"] * 0.55, 0.0, 1.0)
    hypertrophy_N = degree["lv_hypertrophy"]
    depression_N = 0.11 * degree["st_depression"] + 0.02 * hypertrophy_N
    st_N3 = 0.12 * degree["st_elevation"][:, None] * site_N3 - depression_N[:, None] * _LATERAL_3
    return replace(
        healthy,
        st_dipole_N3=healthy.st_dipole_N3 + st_N3 + 0.025 * draw.normal(0.6, 3),
        t_gain=healthy.t_gain * (1.15 - 1.1 * np.minimum(degree["t_inversion"], 1.7) - 0.08 * hypertrophy_N),
        right_block=np.where(right_N, block_N, 0.0),
        left_block=np.where(right_N, 0.0, block_N),
        qrs_stretch=healthy.qrs_stretch * (1.0 + 0.25 * block_N),
        voltage=healthy.voltage * (0.95 + 0.28 * np.minimum(hypertrophy_N, 2.5)),
        rotation_deg=healthy.rotation_deg + 6.0 * np.minimum(hypertrophy_N, 2.5),
        qtc_s=healthy.qtc_s + 0.032 * np.minimum(degree["long_qt"], 2.5),
        q_dipole_N3=-0.45 * np.minimum(degree["q_wave"], 2.0)[:, None] * site_N3,
        overall_gain=healthy.overall_gain * (1.05 - 0.40 * np.minimum(degree["low_voltage"], 1.6)),
    )


# --- multitask ----------------------------------------------------------------------------------------

POTASSIUM_MMOL: Final = (3.5, 5.2)
"""Normal blood potassium, mmol/l; `flag` is 1 outside."""


def _draw_multitask(draw: PatientDraw, people: People, duration_s: float) -> Case:
    healthy = draw_healthy(draw, people)
    physiology, underlying_bpm = _with_rhythms(draw, healthy, af=0.14, pvc=0.16)
    physiology = replace(
        physiology,
        p_gain=0.45 * healthy.p_gain,  # PR and premature P are among the findings
        pr_s=physiology.pr_s + np.where(draw.normal(0.9) > 1.1, 0.055, 0.0),
        fusion=draw.between(0.04, 0.40, 0.3),
    )
    potassium_N = 4.35 + 0.75 * draw.normal(0.5)
    physiology = _with_potassium(physiology, potassium_N)
    beats = draw_beats(draw.rng, physiology, duration_s)
    low, high = POTASSIUM_MMOL
    columns = {
        "rr_interval": 1000.0 * beats.mean_rr_s(duration_s),
        "age": people.age_y,
        "gender": people.female,
        "flag": (potassium_N < low) | (potassium_N > high),
        "report_label": _report_index(physiology, beats, underlying_bpm, duration_s),
    }
    noise = _draw_noise_levels(draw, physiology.respiration_hz)
    labels = {name: column.astype(np.float32)[:, None] for name, column in columns.items()}
    return Case(physiology, noise, beats, labels)


def _with_potassium(physiology: Physiology, potassium_N: Floats) -> Physiology:
    """Change waves with blood potassium: high, tall narrow T, small P, wide QRS; low, flat T, long QT, low ST."""
    high_N = np.maximum(potassium_N - 4.6, 0.0)
    low_N = np.maximum(4.1 - potassium_N, 0.0)
    return replace(
        physiology,
        t_gain=physiology.t_gain * np.exp(0.65 * high_N - 1.3 * low_N),
        t_width=physiology.t_width * np.exp(-0.20 * high_N + 0.1 * low_N),
        p_gain=physiology.p_gain * np.exp(-0.3 * high_N),
        qrs_stretch=physiology.qrs_stretch * (1.0 + 0.10 * high_N),
        qtc_s=physiology.qtc_s + 0.025 * low_N,
        st_dipole_N3=physiology.st_dipole_N3 - 0.07 * low_N[:, None] * _LATERAL_3,
    )


def _report_index(
    physiology: Physiology, beats: Beats, underlying_bpm: Floats, duration_s: float
) -> NDArray[np.float32]:
    """Return each record's index in `REPORTS`: its rhythm; if that is sinus, a premature beat or a PR over 200 ms."""
    rhythm_N = _rhythm_index(physiology, beats, underlying_bpm, duration_s)
    sinus_N = rhythm_N == RHYTHMS.index("sinus")
    findings = [sinus_N & _has_beat(beats, ATRIAL_BEAT, duration_s), sinus_N & (physiology.pr_s > 0.200)]
    numbers = [REPORTS.index("pac"), REPORTS.index("first_degree_av_block")]
    return np.select(findings, numbers, rhythm_N).astype(np.float32)


TASKS: Final[Mapping[TaskName, SyntheticTask]] = {
    "rhythm": SyntheticTask(12, 100.0, 10.0, (LabelSet("rhythm", "multiclass", RHYTHMS),), _draw_rhythm),
    "morphology": SyntheticTask(12, 100.0, 10.0, (LabelSet("morphology", "multilabel", FINDINGS),), _draw_morphology),
    "af_segments": SyntheticTask(1, 250.0, 5.0, (LabelSet("af", "binary", ("af",)),), _draw_af_segments),
    "beats": SyntheticTask(1, 360.0, 600 / 360, (LabelSet("label", "binary", ("abnormal",)),), _draw_beat_windows),
    "multitask": SyntheticTask(
        12,
        100.0,
        10.0,
        (
            LabelSet("rr_interval", "regression", ("rr_interval",), ("ms",)),
            LabelSet("age", "regression", ("age",), ("years",)),
            LabelSet("gender", "binary", ("female",)),
            LabelSet("flag", "binary", ("abnormal_potassium",)),
            LabelSet("report_label", "multiclass", REPORTS),
        ),
        _draw_multitask,
    ),
}
