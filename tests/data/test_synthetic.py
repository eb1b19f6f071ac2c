"""Synthetic data sets: reproducible, patient-disjoint, labelled by their own parameters, learnable but not trivial."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import r2_score, roc_auc_score
from torch import nn

from data.dataset import LabelSet
from data.ecg_generator import VENTRICULAR_BEAT
from data.ecg_population import FINDINGS, POTASSIUM_MMOL, RHYTHMS, TaskName
from data.reader import Reader, RecordBlock
from data.synthetic import BlockRange, SyntheticConfig, SyntheticReader
from tests.data.whole import read_whole

TASK_NAMES = get_args(TaskName)


def read_all(config: SyntheticConfig, blocks_a_chunk: int = 4) -> RecordBlock:
    return read_whole(SyntheticReader(config, blocks_a_chunk))


def assert_same(one: RecordBlock, other: RecordBlock) -> None:
    np.testing.assert_array_equal(one.ecg_NLT, other.ecg_NLT)
    np.testing.assert_array_equal(one.record_ids, other.record_ids)
    np.testing.assert_array_equal(one.patient_ids, other.patient_ids)
    np.testing.assert_array_equal(one.folds, other.folds)
    for name in one.labels:
        np.testing.assert_array_equal(one.labels[name], other.labels[name])
    for name in one.meta:
        np.testing.assert_array_equal(one.meta[name], other.meta[name])


# --- configuration ------------------------------------------------------------------------------------


def test_what_is_left_out_follows_from_the_task() -> None:
    beats, segments = SyntheticConfig(task="beats"), SyntheticConfig(task="af_segments")
    assert (beats.n_leads, beats.fs_hz, beats.n_timesteps) == (1, 360.0, 600)
    assert (segments.n_leads, segments.fs_hz, segments.n_timesteps) == (1, 250.0, 1250)
    assert SyntheticConfig(task="rhythm").n_timesteps == 1000
    assert SyntheticConfig(task="rhythm", n_leads=1, duration_s=5).n_timesteps == 500


def test_a_configuration_survives_json() -> None:
    config = SyntheticConfig(task="beats", seed=3)
    assert SyntheticConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"task": "beats", "n_leads": 12}, "task 'beats' has 1 lead, but got n_leads=12"),
        ({"task": "af_segments", "n_leads": 12}, "task 'af_segments' has 1 lead"),
        ({"task": "beats", "fs_hz": 250}, "task 'beats' has 600 timesteps"),
        ({"task": "rythm"}, "rhythm"),
        ({"task": "rhythm", "n_records": 49}, "greater than or equal to 50"),
        ({"task": "rhythm", "n_leads": 3}, "1 or 12"),
        ({"task": "rhythm", "fs_hz": 20}, "greater than or equal to 50"),
        ({"task": "rhythm", "difficulty": 2}, "Extra inputs are not permitted"),
    ],
)
def test_a_contradictory_configuration_is_refused(values: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        SyntheticConfig.model_validate(values)


def test_a_chunk_of_another_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 <= first < stop <= 1` must hold"):
        SyntheticReader(SyntheticConfig(task="beats", n_records=50)).read(BlockRange(1, 2))


# --- records ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from(TASK_NAMES),
    n_records=st.integers(50, 260),
    seed=st.integers(0, 2**40),
    n_leads=st.sampled_from([1, 12]),
    fs_hz=st.sampled_from([100.0, 125.0, 257.0]),
    duration_s=st.sampled_from([1.0, 2.5, 4.0]),
)
def test_every_data_set_has_the_asked_shape_and_whole_patients(
    task: TaskName, n_records: int, seed: int, n_leads: int, fs_hz: float, duration_s: float
) -> None:
    shape = {} if task in ("beats", "af_segments") else {"n_leads": n_leads, "fs_hz": fs_hz, "duration_s": duration_s}
    config = SyntheticConfig.model_validate({"task": task, "n_records": n_records, "seed": seed, **shape})
    header, block = SyntheticReader(config).header, read_all(config)
    assert block.ecg_NLT.shape == (n_records, config.n_leads, config.n_timesteps)
    assert block.ecg_NLT.dtype == np.float32
    assert np.isfinite(block.ecg_NLT).all()
    assert len(header.lead_names) == config.n_leads
    assert len(set(block.record_ids)) == n_records
    assert np.unique(block.patient_ids, return_counts=True)[1].max() <= 5
    fold_of = {(patient, fold) for patient, fold in zip(block.patient_ids, block.folds, strict=True)}
    assert len(fold_of) == len(set(block.patient_ids)), "a patient lies in one fold"
    assert set(block.folds) == set(range(1, 11))
    assert set(block.labels) == set(header.label_sets)
    for name, label_set in header.label_sets.items():
        n_columns = label_set.n_outputs if label_set.task == "multilabel" else 1
        assert block.labels[name].shape == (n_records, n_columns)
        assert block.labels[name].dtype == np.float32


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_same_seed_makes_the_same_bytes_in_any_chunks(task: TaskName) -> None:
    config = SyntheticConfig(task=task, n_records=300, seed=7)
    assert_same(read_all(config, blocks_a_chunk=1), read_all(config, blocks_a_chunk=3))


def test_more_records_do_not_change_the_first_ones() -> None:
    few = read_all(SyntheticConfig(task="beats", n_records=130))
    many = read_all(SyntheticConfig(task="beats", n_records=400))
    np.testing.assert_array_equal(few.ecg_NLT, many.ecg_NLT[:130])
    np.testing.assert_array_equal(few.labels["label"], many.labels["label"][:130])


def test_another_seed_or_task_makes_other_records() -> None:
    first = read_all(SyntheticConfig(task="beats", n_records=60, seed=0))
    assert not np.array_equal(first.ecg_NLT, read_all(SyntheticConfig(task="beats", n_records=60, seed=1)).ecg_NLT)


def test_the_reader_is_a_reader_and_says_that_its_records_are_synthetic() -> None:
    reader: Reader = SyntheticReader(SyntheticConfig(task="rhythm"))
    assert reader.header.notes == ("the records are synthetic",)
    assert reader.header.patients_known
    assert reader.header.folds == {"train": tuple(range(1, 9)), "val": (9,), "test": (10,)}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_amplitudes_are_those_of_an_ecg(task: TaskName) -> None:
    block = read_all(SyntheticConfig(task=task, n_records=150))
    range_NL = np.ptp(block.ecg_NLT, axis=2)
    assert 0.4 < np.median(range_NL) < 3.0
    assert range_NL.max() < 15.0


def test_patients_have_an_age_a_sex_and_one_to_five_records_alike() -> None:
    block = read_all(SyntheticConfig(task="rhythm", n_records=600))
    _, first, index, count = np.unique(block.patient_ids, return_index=True, return_inverse=True, return_counts=True)
    assert set(count) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(block.meta["age"], block.meta["age"][first][index])
    np.testing.assert_array_equal(block.meta["sex"], block.meta["sex"][first][index])
    assert 18 <= block.meta["age"].min() < 30 < 80 < block.meta["age"].max() <= 95
    assert set(block.meta["sex"]) == {0.0, 1.0}
    height_N = np.log(block.ecg_NLT[:, 10].max(axis=1))
    repeated = count[index] > 1
    within = np.mean([height_N[index == patient].var() for patient in np.flatnonzero(count > 1)])
    assert within < 0.5 * height_N[repeated].var(), "a patient's records resemble each other"


# --- labels -------------------------------------------------------------------------------------------


def test_rhythm_classes_are_all_common_enough_to_learn() -> None:
    labels_NK = read_all(SyntheticConfig(task="rhythm", n_records=1500)).labels["rhythm"]
    share = np.bincount(labels_NK[:, 0].astype(int), minlength=len(RHYTHMS)) / len(labels_NK)
    assert share.min() > 0.06
    assert share.max() < 0.5


def test_morphology_labels_are_correlated_and_2_to_50_percent_common() -> None:
    labels_NK = np.concatenate(
        [
            SyntheticReader(SyntheticConfig(task="morphology")).draw_case(block).labels["morphology"]
            for block in range(20)
        ]
    )
    correlation = np.corrcoef(labels_NK.T)
    at = {name: column for column, name in enumerate(FINDINGS)}
    assert labels_NK.mean(axis=0).min() > 0.02
    assert labels_NK.mean(axis=0).max() < 0.50
    assert correlation[at["st_elevation"], at["q_wave"]] > 0.15
    assert correlation[at["lv_hypertrophy"], at["st_depression"]] > 0.15
    assert correlation[at["lv_hypertrophy"], at["low_voltage"]] < 0.0


def test_rhythm_labels_follow_from_rates_and_beats() -> None:
    case = SyntheticReader(SyntheticConfig(task="rhythm")).draw_case(0)
    label = case.labels["rhythm"][:, 0].astype(int)
    ectopic = (case.beats.inside_NB(10.0) & (case.beats.origin_NB == VENTRICULAR_BEAT)).any(axis=1)
    rate_bpm = 60.0 / case.beats.mean_rr_s(10.0)
    np.testing.assert_array_equal(label == RHYTHMS.index("af"), case.physiology.fibrillating)
    np.testing.assert_array_equal(label == RHYTHMS.index("pvc"), ectopic & ~case.physiology.fibrillating)
    medians = [np.median(rate_bpm[label == RHYTHMS.index(name)]) for name in ("bradycardia", "sinus", "tachycardia")]
    assert medians[0] < 60 < medians[1] < 100 < medians[2]


def test_the_rr_interval_label_is_the_mean_of_the_drawn_intervals() -> None:
    case = SyntheticReader(SyntheticConfig(task="multitask")).draw_case(0)
    for row in range(20):
        time_B = case.beats.r_time_s_NB[row]
        inside = np.flatnonzero((time_B >= 0) & (time_B < 10))
        intervals_ms = 1000 * np.diff(time_B)[inside - 1]
        assert case.labels["rr_interval"][row, 0] == pytest.approx(intervals_ms.mean(), rel=1e-5)


def test_multitask_labels_say_who_and_what() -> None:
    block = read_all(SyntheticConfig(task="multitask", n_records=600))
    np.testing.assert_array_equal(block.labels["age"][:, 0], block.meta["age"])
    np.testing.assert_array_equal(block.labels["gender"][:, 0], block.meta["sex"])
    assert 0.1 < block.labels["flag"].mean() < 0.4
    assert 350 < block.labels["rr_interval"].min() < 1000 < block.labels["rr_interval"].max() < 2000
    assert POTASSIUM_MMOL == (3.5, 5.2)


def test_binary_labels_are_neither_rare_nor_the_rule() -> None:
    for task, name in (("af_segments", "af"), ("beats", "label")):
        labels_NK = SyntheticReader(SyntheticConfig(task=task)).draw_case(0).labels[name]
        assert 0.2 < labels_NK.mean() < 0.55


# --- difficulty ---------------------------------------------------------------------------------------


class PlainCnn(nn.Module):
    """Five strided convolutions, mean and maximum over time, one linear layer."""

    def __init__(self, n_leads: int, n_outputs: int) -> None:
        super().__init__()
        widths = [n_leads, 32, 32, 64, 64, 64]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            convolution = nn.Conv1d(n_in, n_out, 7, stride=2, padding=3, bias=False)
            layers += [convolution, nn.BatchNorm1d(n_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * widths[-1], n_outputs)

    def forward(self, ecg_BLT: torch.Tensor) -> torch.Tensor:
        maps_BCT = self.body(ecg_BLT)
        logits_BK: torch.Tensor = self.head(torch.cat([maps_BCT.mean(-1), maps_BCT.amax(-1)], dim=1))
        return logits_BK


LOSSES = {
    "binary": nn.functional.binary_cross_entropy_with_logits,
    "multilabel": nn.functional.binary_cross_entropy_with_logits,
    "multiclass": nn.functional.cross_entropy,
    "regression": nn.functional.mse_loss,
}


def targets_of(labels_NK: np.ndarray, label_set: LabelSet) -> torch.Tensor:
    if label_set.task == "multiclass":
        return torch.tensor(labels_NK[:, 0]).long()
    if label_set.task == "regression":
        return torch.tensor((labels_NK - labels_NK.mean(axis=0)) / labels_NK.std(axis=0))
    return torch.tensor(labels_NK)


def score(logits_BK: torch.Tensor, target: torch.Tensor, label_set: LabelSet) -> float:
    """Return the macro AUROC; for regression R2."""
    if label_set.task == "regression":
        return float(r2_score(target.numpy(), logits_BK.numpy()))
    if label_set.task == "multiclass":
        target = nn.functional.one_hot(target, label_set.n_outputs)
        logits_BK = logits_BK.softmax(dim=1)
    return float(roc_auc_score(target.numpy(), logits_BK.numpy(), average="macro"))


def train_and_test(block: RecordBlock, label_set: LabelSet, *, seed: int, epochs: int) -> float:
    """Train a plain CNN on folds 1-8 and return its score on fold 10."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    ecg_NLT = torch.tensor((block.ecg_NLT - block.ecg_NLT.mean(axis=2, keepdims=True)) / 0.3)
    target = targets_of(block.labels[label_set.name], label_set)
    train, test = np.flatnonzero(block.folds <= 8), np.flatnonzero(block.folds == 10)
    model, n_steps = PlainCnn(ecg_NLT.shape[1], label_set.n_outputs), epochs * (len(train) // 64)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=n_steps)
    order = np.concatenate([rng.permutation(train)[: len(train) // 64 * 64] for _ in range(epochs)])
    for batch in order.reshape(-1, 64):
        optimiser.zero_grad()
        LOSSES[label_set.task](model(ecg_NLT[batch]), target[batch]).backward()
        optimiser.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return score(model(ecg_NLT[test]), target[test], label_set)


def test_a_plain_cnn_learns_something_of_few_beats_in_seconds() -> None:
    config = SyntheticConfig(task="beats", n_records=1500)
    label_set = SyntheticReader(config).header.label_sets["label"]
    assert 0.70 < train_and_test(read_all(config), label_set, seed=0, epochs=5) < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_plain_cnn_reaches_an_auroc_of_80_to_97_percent_on_the_test_fold(task: TaskName) -> None:
    config = SyntheticConfig(task=task)
    block = read_all(config)
    scores = {
        name: train_and_test(block, label_set, seed=0, epochs=10)
        for name, label_set in SyntheticReader(config).header.label_sets.items()
    }
    assert 0.90 < scores.pop("rr_interval", 0.95) < 1.0  # R2; the sum of what can be read off the record
    assert 0.30 < scores.pop("age", 0.5) < 0.80
    assert all(0.80 < value < 0.97 for value in scores.values()), scores
