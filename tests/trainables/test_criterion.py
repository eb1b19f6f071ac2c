"""`min_of`: how it is written, what it is called, and what it is worth."""

from __future__ import annotations

import pytest

from trainables.criterion import criterion_name, parts_of, with_criteria

FOUR = "min_of(f1, accuracy, precision, recall)"
NAME = "val/min_of-f1-accuracy-precision-recall"


@pytest.mark.parametrize("text", [FOUR, " min_of(val/f1,val/accuracy, precision,recall)", NAME])
def test_the_criterion_has_one_name_however_it_is_written(text: str) -> None:
    assert criterion_name(text.strip() if text == NAME else text) == NAME


def test_other_metrics_keep_their_names() -> None:
    assert criterion_name("val/auroc") == "val/auroc"
    assert parts_of("val/auroc") == ()


@pytest.mark.parametrize("text", ["min_of()", "min_of(f1)", "min_of(f1, f1)", "min_of(f1, test/recall)", "min_of(f1,)"])
def test_what_is_no_list_of_metrics_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="two or more different validation metrics"):
        criterion_name(text)


def test_its_value_is_that_of_the_smallest() -> None:
    """The stored result 96-91: F1 .9369, accuracy .9284, precision .9101, recall .9653."""
    report = {"val/f1": 0.9369, "val/accuracy": 0.9284, "val/precision": 0.9101, "val/recall": 0.9653}
    assert with_criteria(report, [NAME, "val/f1"]) == {**report, NAME: 0.9101}


def test_it_is_absent_where_one_of_its_metrics_is() -> None:
    assert with_criteria({"val/accuracy": 0.9}, [NAME]) == {"val/accuracy": 0.9}
