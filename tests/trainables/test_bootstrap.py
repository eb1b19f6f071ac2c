"""Bootstrap intervals: the weighted metrics are held to `metrics.score` and scikit-learn, the intervals to theory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from data.dataset import LabelSet, Task
from trainables import bootstrap
from trainables.bootstrap import bootstrap_intervals, resampled_scores
from trainables.evaluation import Evaluation
from trainables.metrics import score

NAMES = ("a", "b", "c")
BETA = 2.0


def label_set(task: Task, n_outputs: int = 3) -> LabelSet:
    return LabelSet("made", task, tuple(f"l{k}" for k in range(n_outputs)))


def made(task: Task, n: int, n_outputs: int = 3, seed: int = 0, decimals: int = 2) -> tuple[Evaluation, LabelSet]:
    """Make an evaluation with ties (answers are rounded) and, for regression, missing labels."""
    rng = np.random.default_rng(seed)
    labels = label_set(task, n_outputs)
    if task == "multiclass":
        labels_NK = rng.integers(n_outputs, size=(n, 1)).astype(np.float32)
        logits_NK = rng.normal(size=(n, n_outputs)) + 2 * np.eye(n_outputs)[labels_NK[:, 0].astype(int)]
        predicted_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    elif task == "regression":
        labels_NK = rng.normal(800, 50, size=(n, n_outputs)).astype(np.float32)
        predicted_NK = labels_NK + rng.normal(0, 30, size=(n, n_outputs))
        labels_NK[rng.random((n, n_outputs)) < 0.1] = np.nan
    else:
        labels_NK = (rng.random((n, n_outputs)) < 0.4).astype(np.float32)
        predicted_NK = np.round(1 / (1 + np.exp(-rng.normal(2 * labels_NK - 1, 1.5))), decimals)
    return evaluation(predicted_NK, labels_NK, labels), labels


def evaluation(predicted_NK: NDArray[Any], labels_NK: NDArray[Any], labels: LabelSet) -> Evaluation:
    thresholds_K = np.full(labels.n_outputs, 0.5)
    predicted_NK, labels_NK = predicted_NK.astype(np.float64), labels_NK.astype(np.float32)
    return Evaluation(score(predicted_NK, labels_NK, labels, thresholds_K, BETA), thresholds_K, predicted_NK, labels_NK)


# ------------------------------------------------------------------ the metrics of a resample


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass", "regression"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(2, 40))
def test_weights_give_the_scores_of_the_records_drawn(task: Task, seed: int, n: int) -> None:
    whole, labels = made(task, n, 1 if task == "binary" else 3, seed, decimals=1)
    index = np.random.default_rng(seed).integers(n, size=n)
    weights_RN = np.bincount(index, minlength=n)[None].astype(np.float64)
    expected = score(whole.predicted_NK[index], whole.labels_NK[index], labels, whole.thresholds_K, BETA)
    found = resampled_scores(whole, labels, BETA, weights_RN)
    scores = {name: float(values[0]) for name, values in found.macro.items()}
    assert {name for name, value in scores.items() if np.isfinite(value)} == set(expected.macro)
    for name, value in expected.macro.items():
        assert scores[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    for k, label in enumerate(labels.names):
        own = {name: float(values[0, k]) for name, values in found.per_class.items()}
        known = {name: value for name, value in own.items() if np.isfinite(value)}
        assert known == pytest.approx(dict(expected.per_class.get(label, {})), rel=1e-9, abs=1e-12)


def test_ranking_metrics_are_scikit_learns_with_weights() -> None:
    whole, labels = made("binary", 60, 1, decimals=1)
    weights_RN = np.random.default_rng(1).integers(0, 4, size=(5, 60)).astype(np.float64)
    scores = resampled_scores(whole, labels, BETA, weights_RN).macro
    truth, answers = whole.labels_NK[:, 0], whole.predicted_NK[:, 0]
    for r, weights_N in enumerate(weights_RN):
        assert scores["auroc"][r] == pytest.approx(roc_auc_score(truth, answers, sample_weight=weights_N))
        assert scores["map"][r] == pytest.approx(average_precision_score(truth, answers, sample_weight=weights_N))


def test_r2_is_scikit_learns_for_targets_far_from_zero() -> None:
    rng = np.random.default_rng(2)
    labels_NK = (1e5 + rng.normal(0, 1, size=(80, 1))).astype(np.float32)
    whole = evaluation(labels_NK + rng.normal(0, 0.5, size=(80, 1)), labels_NK, label_set("regression", 1))
    weights_N = rng.integers(0, 3, size=80).astype(np.float64)
    scores = resampled_scores(whole, label_set("regression", 1), BETA, weights_N[None]).macro
    assert scores["r2"][0] == pytest.approx(r2_score(labels_NK, whole.predicted_NK, sample_weight=weights_N), abs=1e-9)


# ------------------------------------------------------------------ the intervals


def test_the_interval_of_a_mean_is_the_closed_form() -> None:
    """Accuracy is a mean of 0s and 1s: the percentile interval is the quantile of a binomial over n."""
    n, p = 1000, 0.8
    right_N = np.arange(n) < p * n
    predicted_NK = np.where(np.arange(n) % 2 == 0, right_N, ~right_N)[:, None] * 1.0
    labels_NK = (np.arange(n) % 2 == 0)[:, None] * 1.0
    whole = evaluation(predicted_NK, labels_NK, label_set("binary", 1))
    ids = np.array([str(i) for i in range(n)])
    low, high = bootstrap_intervals(whole, label_set("binary", 1), BETA, ids, seed=3, n_resamples=4000)["accuracy"]
    half_width = 1.96 * np.sqrt(p * (1 - p) / n)
    assert (low, high) == (pytest.approx(p - half_width, abs=0.002), pytest.approx(p + half_width, abs=0.002))


def test_intervals_cover_the_true_auroc_about_as_often_as_they_say() -> None:
    """Two normals a standard deviation and a bit apart have AUROC 0.8; 95 % of 150 intervals is 142 +- 2.7."""
    rng = np.random.default_rng(4)
    labels, ids, hits = label_set("binary", 1), np.array([str(i) for i in range(200)]), 0
    for seed in range(150):
        labels_NK = (np.arange(200) < 100)[:, None].astype(np.float32)
        predicted_NK = rng.normal(size=(200, 1)) + labels_NK * 0.8416 * np.sqrt(2)
        whole = evaluation(1 / (1 + np.exp(-predicted_NK)), labels_NK, labels)
        low, high = bootstrap_intervals(whole, labels, BETA, ids, seed)["auroc"]
        hits += low <= 0.8 <= high
    assert 131 <= hits <= 149


def test_records_of_one_patient_are_drawn_together() -> None:
    """Ten copies of each record tell no more than one: the interval stays as wide."""
    single, labels = made("binary", 100, 1)
    copies = evaluation(np.repeat(single.predicted_NK, 10, axis=0), np.repeat(single.labels_NK, 10, axis=0), labels)
    ids = np.array([f"p{i:03d}" for i in range(100)])
    alone = bootstrap_intervals(single, labels, BETA, ids, seed=5)
    together = bootstrap_intervals(copies, labels, BETA, np.repeat(ids, 10), seed=5)
    apart = bootstrap_intervals(copies, labels, BETA, np.arange(1000).astype(str), seed=5)
    assert together["auroc"] == pytest.approx(alone["auroc"], abs=1e-9)
    assert np.diff(apart["auroc"]) < 0.5 * np.diff(alone["auroc"])


def test_a_seed_gives_one_interval_and_the_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, labels = made("multilabel", 80)
    ids = np.arange(80).astype(str)
    first = bootstrap_intervals(whole, labels, BETA, ids, seed=6)
    monkeypatch.setattr(bootstrap, "BLOCK_WEIGHTS", 80 * 7)
    assert bootstrap_intervals(whole, labels, BETA, ids, seed=6) == first
    assert bootstrap_intervals(whole, labels, BETA, ids, seed=7) != first


def test_intervals_hold_the_estimate_and_stand_for_every_macro_metric() -> None:
    for task in ("binary", "multilabel", "multiclass", "regression"):
        whole, labels = made(task, 300, 1 if task == "binary" else 3)  # type: ignore[arg-type]
        intervals = bootstrap_intervals(whole, labels, BETA, np.arange(300).astype(str), seed=8)
        assert intervals.keys() == whole.scores.macro.keys()
        for name, (low, high) in intervals.items():
            assert low <= whole.scores.macro[name] <= high, (task, name)


# ------------------------------------------------------------------ degenerate


def test_a_rare_class_is_in_every_resample() -> None:
    """One positive in 50: a plain draw misses it in 36 of 100, and its AUROC would then be missing."""
    labels_NK = (np.arange(50) == 7)[:, None].astype(np.float32)
    whole = evaluation(np.linspace(0.1, 0.9, 50)[:, None], labels_NK, label_set("binary", 1))
    ids = np.arange(50).astype(str)
    weights_RN = np.concatenate(list(bootstrap.draw_weights(whole, label_set("binary", 1), ids, 9, 200)))
    assert (weights_RN[:, 7] > 0).all()
    assert (weights_RN.sum(axis=1) == 50).all()


def test_a_class_without_contrast_in_the_split_is_left_out_of_the_macro_means() -> None:
    whole, labels = made("multilabel", 60)
    whole.labels_NK[:, 1] = 0
    flat = evaluation(whole.predicted_NK, whole.labels_NK, labels)
    two = evaluation(whole.predicted_NK[:, [0, 2]], whole.labels_NK[:, [0, 2]], label_set("multilabel", 2))
    ids = np.arange(60).astype(str)
    intervals = bootstrap_intervals(flat, labels, BETA, ids, seed=10)
    assert flat.scores.left_out == ("l1",)
    expected = bootstrap_intervals(two, label_set("multilabel", 2), BETA, ids, seed=10)
    assert intervals["auroc"] == pytest.approx(expected["auroc"])


def test_without_any_contrast_only_accuracy_has_an_interval() -> None:
    labels_NK = np.zeros((30, 1), dtype=np.float32)
    whole = evaluation(np.linspace(0, 1, 30)[:, None], labels_NK, label_set("binary", 1))
    intervals = bootstrap_intervals(whole, label_set("binary", 1), BETA, np.arange(30).astype(str), seed=11)
    assert set(intervals) == {"accuracy"}


def test_when_no_draw_has_every_class_the_resample_is_scored_with_those_it_has() -> None:
    """Two patients, one positive in each of two labels: a resample with both labels needs both patients."""
    labels_NK = np.array([[1, 0], [0, 0], [0, 1], [0, 0]], dtype=np.float32)
    whole = evaluation(
        np.array([[0.9, 0.2], [0.1, 0.3], [0.4, 0.8], [0.2, 0.1]]), labels_NK, label_set("multilabel", 2)
    )
    weights_RN = np.array([[2.0, 2.0, 0.0, 0.0]])
    scores = resampled_scores(whole, label_set("multilabel", 2), BETA, weights_RN).macro
    assert scores["auroc"].tolist() == [1.0]
