"""Scores of yes/no labels against scikit-learn, and the Challenge's score against its definition, loop by loop."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from data.dataset import LabelSet
from data.snomed import scoring_weights
from trainables.evaluation import Evaluation
from trainables.metrics import Scores
from trainables.multilabel_scores import (
    Flags,
    Floats,
    challenge_score,
    f_beta,
    g_beta,
    macro,
    score_multilabel,
    validation_names,
    validation_scores,
)

EXACT = 1e-12


def answers(n: int = 400, k: int = 5) -> tuple[Floats, Flags, Floats]:
    """Draw answers with ties and with records that have no label or all of them."""
    rng = np.random.default_rng(1)
    truth_NK = rng.random((n, k)) < rng.uniform(0.1, 0.6, k)
    truth_NK[:3], truth_NK[3:6] = False, True
    probability_NK = np.round(np.clip(rng.normal(0.3 + 0.3 * truth_NK, 0.25), 0.001, 0.999), 2)
    return probability_NK, truth_NK, rng.uniform(0.2, 0.7, k)


def test_scores_of_each_label_are_scikit_learns() -> None:
    probability_NK, truth_NK, thresholds_K = answers()
    scores, called_NK = score_multilabel(probability_NK, truth_NK, thresholds_K), probability_NK >= thresholds_K
    expected = {
        "auroc_K": sklearn.metrics.roc_auc_score(truth_NK, probability_NK, average=None),
        "ap_K": sklearn.metrics.average_precision_score(truth_NK, probability_NK, average=None),
        "f1_K": sklearn.metrics.f1_score(truth_NK, called_NK, average=None),
        "f_beta_K": sklearn.metrics.fbeta_score(truth_NK, called_NK, beta=2, average=None),
    }
    for name, values_K in expected.items():
        np.testing.assert_allclose(getattr(scores, name), values_K, rtol=0, atol=EXACT)
    macro_auroc = sklearn.metrics.roc_auc_score(truth_NK, probability_NK, average="macro")
    assert macro(scores.auroc_K) == pytest.approx(macro_auroc, abs=EXACT)


def test_scores_of_whole_records_are_scikit_learns() -> None:
    probability_NK, truth_NK, thresholds_K = answers()
    scores, called_NK = score_multilabel(probability_NK, truth_NK, thresholds_K), probability_NK >= thresholds_K
    expected = {
        "ranking_loss": sklearn.metrics.label_ranking_loss(truth_NK, probability_NK),
        "coverage_error": sklearn.metrics.coverage_error(truth_NK, probability_NK),
        "hamming_loss": sklearn.metrics.hamming_loss(truth_NK, called_NK),
        "subset_accuracy": sklearn.metrics.accuracy_score(truth_NK, called_NK),
        "loss": np.mean([sklearn.metrics.log_loss(truth_NK[:, k], probability_NK[:, k]) for k in range(5)]),
    }
    for name, value in expected.items():
        assert getattr(scores, name) == pytest.approx(value, abs=EXACT), name


def test_ranking_loss_and_coverage_follow_their_definitions() -> None:
    probability_NK = np.array([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3]])
    truth_NK = np.array([[True, False, True], [True, False, False]])
    scores = score_multilabel(probability_NK, truth_NK, np.full(3, 0.5))
    assert scores.ranking_loss == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert scores.coverage_error == pytest.approx((3 + 3) / 2)


def test_g_beta_is_the_ratio_of_counts() -> None:
    truth_NK = np.array([[1, 1, 1, 0, 0, 0, 0]], bool).T
    called_NK = np.array([[1, 1, 0, 1, 0, 0, 0]], bool).T
    assert g_beta(called_NK, truth_NK, 2.0)[0] == pytest.approx(2 / (2 + 1 + 2 * 1))
    assert f_beta(called_NK, truth_NK, 2.0)[0] == pytest.approx(10 / (10 + 1 + 4))


def test_labels_without_contrast_have_no_score_and_are_left_out_of_means() -> None:
    """The original divides by zero for a label that no test record has."""
    probability_NK, truth_NK, thresholds_K = answers()
    truth_NK[:, 1], truth_NK[:, 2] = False, True
    scores = score_multilabel(probability_NK, truth_NK, thresholds_K)
    for values_K in (scores.auroc_K, scores.ap_K, scores.f1_K, scores.f_beta_K, scores.g_beta_K):
        assert np.isnan(values_K).tolist() == [False, True, True, False, False]
        assert macro(values_K) == pytest.approx(np.nanmean(values_K))
    assert np.isnan(macro(np.array([np.nan])))


def test_thresholding_leaves_the_answers_as_they_are() -> None:
    """The original writes its decisions over them."""
    probability_NK, truth_NK, thresholds_K = answers()
    before = probability_NK.copy()
    score_multilabel(probability_NK, truth_NK, thresholds_K)
    np.testing.assert_array_equal(probability_NK, before)


def test_one_label_is_scored_too() -> None:
    probability_NK, truth_NK, thresholds_K = (part[..., :1] for part in answers())
    scores = score_multilabel(probability_NK, truth_NK, thresholds_K)
    assert (scores.ranking_loss, scores.coverage_error) == (0.0, truth_NK.mean())


def test_validation_has_them_where_labels_are_yes_or_no() -> None:
    probability_NK, truth_NK, thresholds_K = answers()
    expected = score_multilabel(probability_NK, truth_NK, thresholds_K)
    evaluation = Evaluation(Scores({}, {}), thresholds_K, probability_NK, truth_NK.astype(np.float32))
    found = validation_scores(evaluation, LabelSet("some", "multilabel", tuple("abcde")))
    assert set(found) == validation_names("multilabel") == validation_names("binary")
    assert found["g_beta"] == macro(expected.g_beta_K)
    assert found["ranking_loss"] == expected.ranking_loss
    assert validation_scores(evaluation, LabelSet("some", "multiclass", tuple("abcde"))) == {}
    evaluation = Evaluation(Scores({}, {}), thresholds_K, probability_NK, np.ones_like(evaluation.labels_NK))
    found = validation_scores(evaluation, LabelSet("some", "multilabel", tuple("abcde")))
    assert set(found) == validation_names("multilabel") - {"g_beta"}


# ------------------------------------------------------------------ the Challenge's score


def confusion(truth_NC: Flags, called_NC: Flags) -> Floats:
    """Spread each record over its pairs, as the Challenge defines it."""
    n_classes = truth_NC.shape[1]
    pairs = np.zeros((n_classes, n_classes))
    for truth_C, called_C in zip(truth_NC, called_NC, strict=True):
        weight = 1 / max(1, sum(t or c for t, c in zip(truth_C, called_C, strict=True)))
        for j in range(n_classes):
            for k in range(n_classes):
                pairs[j, k] += weight * (truth_C[j] and called_C[k])
    return pairs


def test_the_challenges_score_follows_its_definition() -> None:
    weights = scoring_weights()
    rng = np.random.default_rng(2)
    truth_NC, called_NC = rng.random((30, 26)) < 0.1, rng.random((30, 26)) < 0.1
    normal_NC = np.zeros_like(truth_NC)
    normal_NC[:, weights.normal] = True
    observed, best, least = (
        (weights.weights_CC * confusion(truth_NC, each)).sum() for each in (called_NC, truth_NC, normal_NC)
    )
    found = challenge_score(called_NC, truth_NC, weights.weights_CC, weights.normal)
    assert found == pytest.approx((observed - least) / (best - least), abs=EXACT)


def test_everything_right_scores_one_and_always_normal_nothing() -> None:
    weights = scoring_weights()
    truth_NC = np.random.default_rng(3).random((30, 26)) < 0.2
    normal_NC = np.zeros_like(truth_NC)
    normal_NC[:, weights.normal] = True
    assert challenge_score(truth_NC, truth_NC, weights.weights_CC, weights.normal) == 1
    assert challenge_score(normal_NC, truth_NC, weights.weights_CC, weights.normal) == 0
    assert challenge_score(normal_NC, normal_NC, weights.weights_CC, weights.normal) == 0
