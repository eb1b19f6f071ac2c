"""What is said of an ensemble's experts: who knows a record best, what an ensemble with fewer of them costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data.dataset import LabelSet, Task
from platform.methods.enecg.figures import cost_figure, weights_figure
from platform.methods.enecg.outcome import groups_by_label, record_losses
from platform.methods.enecg.subsets import Subset, as_good_as, cheapest
from trainables.evaluation import Evaluation
from trainables.metrics import Scores


def evaluation(predicted_NK: list[list[float]], labels_NK: list[list[float]]) -> Evaluation:
    predicted = np.array(predicted_NK, np.float64)
    return Evaluation(Scores({}, {}), np.full(predicted.shape[1], 0.5), predicted, np.array(labels_NK, np.float32))


@pytest.mark.parametrize(
    ("task", "predicted_NK", "labels_NK", "expected"),
    [
        ("binary", [[0.9], [0.9]], [[1], [0]], [-np.log(0.9), -np.log(0.1)]),
        ("multilabel", [[0.9, 0.2], [0.5, 0.5]], [[1, 0], [0, 1]], [-np.log(0.9 * 0.8), -np.log(0.25)]),
        ("multiclass", [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0], [1]], [-np.log(0.7), -np.log(0.1)]),
        ("regression", [[800.0, 1.0], [700.0, 2.0]], [[790.0, 3.0], [710.0, np.nan]], [6.0, 5.0]),
    ],
)
def test_an_expert_is_as_wrong_about_a_record_as_its_labels_are_improbable_or_far(
    task: Task, predicted_NK: list[list[float]], labels_NK: list[list[float]], expected: list[float]
) -> None:
    names = tuple(f"x{k}" for k in range(len(predicted_NK[0])))
    losses_N = record_losses(evaluation(predicted_NK, labels_NK), LabelSet("x", task, names))
    np.testing.assert_allclose(losses_N, expected, rtol=1e-6)


WHOLE = Subset(("a", "b", "c"), 0.900, 30.0)
SUBSETS = [WHOLE, Subset(("a", "b"), 0.892, 20.0), Subset(("a",), 0.880, 10.0), Subset(("b",), 0.893, 12.0)]


def test_the_cheapest_ensemble_is_within_a_hundredth_of_the_whole() -> None:
    assert cheapest(SUBSETS, sign=1.0).name == "b"
    assert cheapest([WHOLE, SUBSETS[2]], sign=1.0) is WHOLE
    errors = [Subset(("a", "b"), 76.0, 20.0), Subset(("a",), 76.7, 10.0), Subset(("b",), 77.0, 5.0)]
    assert cheapest(errors, sign=-1.0).name == "a"


def test_it_is_named_with_its_cost() -> None:
    sentence = SUBSETS[3].sentence(WHOLE, "auroc")
    assert sentence == (
        "cheapest ensemble within 1% of the whole: b, 12.00 ms a record and val/auroc 0.8930, "
        "against 30.00 ms and 0.9000"
    )


def weights(**labels: list[float]) -> pd.DataFrame:
    columns = {f"label/{name}": values for name, values in labels.items()}
    return pd.DataFrame({**columns, "weight/a": np.linspace(0, 1, len(next(iter(labels.values()))))})


def test_records_are_grouped_by_class_by_label_or_by_quarter() -> None:
    classes = LabelSet("report", "multiclass", ("sinus", "af", "other"))
    assert {k: len(v) for k, v in groups_by_label(weights(report=[0, 0, 1]), classes).items()} == {"sinus": 2, "af": 1}
    binary = LabelSet("gender", "binary", ("female",))
    assert {k: len(v) for k, v in groups_by_label(weights(female=[0, 1, 1]), binary).items()} == {
        "female": 2, "not female": 1
    }  # fmt: skip
    values = LabelSet("age", "regression", ("age",), ("years",))
    groups = groups_by_label(weights(age=[20.0, 30, 40, 50, 60, 70, 80, 90]), values)
    assert [len(each) for each in groups.values()] == [2, 2, 2, 2]
    assert list(groups)[-1] == "age 72.5 to 90.0 years"


def test_pictures_have_a_bar_for_each_expert_and_a_point_for_each_ensemble() -> None:
    assert len(weights_figure(["a", "b"], {"sinus (2)": [0.3, 0.7]}).data) == 2
    figure = cost_figure(SUBSETS, "auroc", as_good_as(WHOLE, 1.0))
    assert list(figure.data[0].x) == [10.0, 12.0, 20.0, 30.0]
    assert list(figure.data[0].text) == ["a", "b", "2", "3"]
    assert figure.layout.shapes[0].y0 == pytest.approx(0.891)
