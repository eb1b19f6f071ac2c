"""What sweeps of HuBERT-ECG say at their end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from platform.methods.hubert_ecg import CONTRAST, conclude_contrast, conclude_fine_tuning, conclude_pretraining
from platform.methods.outcomes import METHOD_OUTCOMES


def trial(name: str, weights: str, **reports: Any) -> Any:
    return SimpleNamespace(trial=name, params={"weights": weights}, reports={1: {}, 2: reports})


REPORT = {
    "val/masked_accuracy": 0.31, "val/unmasked_accuracy": 0.4, "val/chance": 0.05, "val/masked_loss": 2.5,
    "train/masked_loss": 2.4,
}  # fmt: skip


def test_masked_accuracy_stands_beside_chance() -> None:
    sweep: Any = SimpleNamespace(ranked=[trial("t0003", "random", **REPORT), trial("t0001", "random", **REPORT)])
    findings = conclude_pretraining(sweep)
    assert findings.lines == ["masked accuracy 0.3100, chance 0.0500"]
    (table,) = findings.tables
    assert [row[0].text for row in table.rows] == ["t0003", "t0001"]
    assert table.rows[0][3].text == "0.0500"
    assert not findings.notes


def test_contrast_stands_beside_guesses_among_the_codes_that_differ() -> None:
    report = dict(zip(CONTRAST, (0.62, 0.08, 1.2, 1.3, 0.4, 0.9), strict=True))
    sweep: Any = SimpleNamespace(ranked=[trial("t0002", "random", **report)])
    findings = conclude_contrast(sweep)
    assert findings.lines == ["masked accuracy 0.6200, chance 0.0800"]
    (table,) = findings.tables
    assert [cell.text for cell in table.rows[0]][:4] == ["t0002", "0.6200", "0.0800", "1.2000"]


def test_the_licence_of_published_weights_is_stated_where_they_are_used() -> None:
    free: Any = SimpleNamespace(ranked=[trial("t0000", "runs/x/best")])
    assert conclude_fine_tuning(free).notes == []
    bound: Any = SimpleNamespace(ranked=[trial("t0000", "hubert_ecg_base"), trial("t0001", "random")])
    (note,) = conclude_fine_tuning(bound).notes
    assert note.startswith("weights hubert_ecg_base are licensed under CC BY-NC 4.0 (non-commercial), and so is")
    assert conclude_fine_tuning(bound).lines == [note]


def test_all_methods_have_their_outcome() -> None:
    assert {"contrastive_pretrain", "hubert_ecg", "hubert_ecg_pretrain"} <= METHOD_OUTCOMES.keys()
