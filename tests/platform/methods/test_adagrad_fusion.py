"""What a sweep of AdaGrad-Fusion writes for its users: the original's file, and ours beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.dataset import LabelSet
from platform.methods.adagrad_fusion import HeldOutScores, write_scores

KEYS = {
    "auc_roc_macro", "auc_roc_macro_class", "ranking", "Coverage", "Map_value", "map_class", "hamming", "acc",
    "F1score_b", "Gscore_b", "F1score_b_class", "Gscore_b_class", "F1score", "F1score_class", "yloss", "threshold",
}  # fmt: skip


def scored(names: tuple[str, ...] = ("AF", "NSR", "LBBB"), name: str = "adagrad_fusion") -> HeldOutScores:
    rng = np.random.default_rng(0)
    truth_NK = rng.random((80, len(names))) < 0.3
    probability_NK = np.clip(rng.normal(0.3 + 0.3 * truth_NK, 0.2), 0.01, 0.99)
    label_set = LabelSet(name, "multilabel", names)
    return HeldOutScores.of(label_set, probability_NK, truth_NK.astype(np.float32), np.full(len(names), 0.4))


def test_the_originals_file_is_an_object_array_of_one_dict_with_its_keys(tmp_path: Path) -> None:
    test = scored()
    write_scores(test, tmp_path, "chapman")
    array = np.load(tmp_path / "chapman.npy", allow_pickle=True)
    assert array.shape == (1,)
    (result,) = array.tolist()
    assert set(result) == KEYS
    assert result["Map_value"] == pytest.approx(100 * test.scores.ap_K.mean())
    assert 0 <= result["auc_roc_macro"] <= 1
    assert 1 <= result["Map_value"] <= 100
    for key in KEYS:
        is_list = key.endswith("_class") or key == "threshold"
        assert len(np.atleast_1d(result[key])) == (3 if is_list else 1), key


def test_its_users_read_it_without_this_project(tmp_path: Path) -> None:
    write_scores(scored(), tmp_path, "chapman")
    script = "import numpy as np; r = np.load('chapman.npy', allow_pickle=True).tolist(); print(r[0]['F1score_b'])"
    printed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 0 < float(printed.stdout) < 1


def test_ours_say_the_same_in_json_and_csv(tmp_path: Path) -> None:
    test = scored()
    write_scores(test, tmp_path, "chapman")
    fields = json.loads((tmp_path / "chapman.json").read_text())
    assert fields["test"] == pytest.approx(test.macro())
    table = pd.read_csv(tmp_path / "chapman.csv")
    assert table["label"].tolist() == ["AF", "NSR", "LBBB"]
    np.testing.assert_allclose(table["g_beta"], test.scores.g_beta_K)
    assert {path.name for path in tmp_path.iterdir()} == {"chapman.npy", "chapman.json", "chapman.csv"}


def test_the_challenges_score_is_of_its_classes_alone() -> None:
    assert "challenge_score" in scored().macro()
    assert "challenge_score" not in scored(name="rhythm").macro()
    assert "challenge_score" not in scored(("AF", "sinus")).macro()


def test_labels_that_are_one_class_there_count_once() -> None:
    """CLBBB and LBBB are merged: calling either where a record has the other is right."""
    label_set = LabelSet("adagrad_fusion", "multilabel", ("CLBBB", "LBBB", "NSR"))
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    called = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], np.float64)
    assert HeldOutScores.of(label_set, called, truth, np.full(3, 0.5)).challenge == 1


def test_a_label_that_no_test_record_has_is_left_empty(tmp_path: Path) -> None:
    label_set = LabelSet("some", "multilabel", ("a", "b"))
    truth = np.array([[1, 0], [0, 0]], np.float32)
    test = HeldOutScores.of(label_set, np.array([[0.9, 0.1], [0.2, 0.3]]), truth, np.full(2, 0.5))
    write_scores(test, tmp_path, "some")
    assert test.macro()["auroc"] == 1
    assert pd.read_csv(tmp_path / "some.csv")["auroc"].isna().tolist() == [False, True]
    (result,) = np.load(tmp_path / "some.npy", allow_pickle=True)
    assert np.isnan(result["auc_roc_macro_class"]).tolist() == [False, True]
