"""The report is one file that shows the sweep, needs no network and lets nothing from data through unescaped."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import optuna
import pytest
from sklearn.metrics import roc_auc_score

from platform.evaluation.test_result import TestResult
from platform.outcomes.report import ReportInput, best_trial, render_report, write_report
from platform.pages import figures
from platform.pages.figures import Objectives
from platform.sweeps.journal import Event, SweepRecord, replay
from platform.sweeps.study_db import frozen_trials
from tests.platform.journals import START_S, finished_sweep

ONE: Objectives = [("val/auroc", "max")]
TWO: Objectives = [("val/auroc", "max"), ("onnx_bytes", "min")]
EVIL = "<script>alert('x')</script>"


def study_of(record: SweepRecord, objectives: Objectives) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize" if mode == "max" else "minimize" for _, mode in objectives])
    study.add_trials(list(frozen_trials(record, objectives)))
    return study


def content(n_trials: int = 60, objectives: Objectives = ONE, test: TestResult | None = None) -> ReportInput:
    record = replay(finished_sweep(n_trials))
    return ReportInput(
        record=record,
        study=study_of(record, objectives),
        objectives=objectives,
        most_epochs=27 * n_trials,
        title=f"quick {EVIL}",
        command=f"python -m platform.sweep {EVIL}",
        header={"method": "supervised", EVIL: EVIL},
        spec_text=f"name: {EVIL}",
        test=test,
        notes=[f"12 records {EVIL} without a label were dropped."],
    )


def classification(n_records: int = 400) -> TestResult:
    generator = np.random.default_rng(18)
    labels_NK = (generator.random((n_records, 3)) < [0.4, 0.2, 0.1]).astype(np.int64)
    probabilities_NK = 1 / (1 + np.exp(1 - 2 * labels_NK - generator.normal(size=labels_NK.shape)))
    metrics, intervals = {"f1": 0.7, "accuracy": 0.8, "auroc": 0.912}, {"auroc": (0.9, 0.921)}
    return TestResult(labels_NK, probabilities_NK, ["NORM", "MI", EVIL], metrics, intervals)


class Page(HTMLParser):
    """The headings, the visible text, and what the page would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.fetched: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self._tag = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            self.scripts.append(data)
        elif self._tag != "style":
            self.text += data
        if self._tag in ("h1", "h2") and data.strip():
            self.headings.append(data)


def test_the_page_has_every_section_and_fetches_nothing() -> None:
    page = Page(render_report(content(objectives=TWO, test=classification())))
    assert page.fetched == []
    assert page.headings[1:] == [
        "Optimisation history", "Learning curves", "Parallel coordinates", "Parameter importance", "Pareto front",
        "ROC on test", "Test metrics", "Leaderboard", "Failed trials", "Notes", "Spec",
    ]  # fmt: skip


def test_nothing_from_data_is_taken_for_markup() -> None:
    html = render_report(content(test=classification()))
    assert EVIL not in html
    page = Page(html)
    assert page.headings[0] == f"quick {EVIL}"
    assert "RuntimeError: <b>size</b> 12 vs 8" in page.text


def test_the_summary_tells_the_best_trial_the_test_metrics_the_states_and_the_epochs() -> None:
    given = content(test=classification())
    text = " ".join(Page(render_report(given)).text.split())
    best = best_trial(given.record, "val/auroc", "max")
    assert best is not None
    states = [trial.state for trial in given.record.trials.values()]
    assert f"{best.best('val/auroc', maximise=True):.4f}" in text
    assert "test/auroc0.9120" in text
    assert "0.9000 to 0.9210" in text
    assert f"{states.count('COMPLETED')} completed, {states.count('STOPPED')} stopped, 6 failed" in text
    assert f"{given.record.epochs:,}" in text
    assert "of at most 1,620" in text


def test_the_learning_rate_that_sets_the_result_is_the_most_important_parameter() -> None:
    for objectives in (ONE, TWO):
        html = render_report(content(200, objectives))
        order = re.search(r'"y":\["model","dropout","lr"\]|"y":\["dropout","model","lr"\]', html)
        assert order is not None


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([Event("opened", START_S)], "Needs 10 completed trials, and there are 0."),
        (finished_sweep(2), "Needs 10 completed trials"),
    ],
)
def test_a_picture_that_needs_more_trials_says_so(events: list[Event], reason: str) -> None:
    record = replay(events)
    given = ReportInput(record, study_of(record, ONE), ONE, 27, "quick", "", {}, "")
    assert reason in Page(render_report(given)).text


def test_a_sweep_whose_trials_all_failed_has_a_report_too(tmp_path: Path) -> None:
    events = [event for event in finished_sweep(7) if event.trial in ("", "t0006")]
    record = replay(events)
    write_report(tmp_path / "report.html", ReportInput(record, None, TWO, 27, "quick", "", {}, ""))
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "no trial that keeps the constraints completed or was stopped" in text
    assert "Needs two numbers in which completed or stopped trials differ." in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_legend_of_the_roc_curves_gives_the_area_under_them() -> None:
    test = classification()
    figure = figures.roc_curves(test.labels_NK, test.probabilities_NK, test.label_names)
    for k, trace in enumerate(figure.data[1:]):
        area = roc_auc_score(test.labels_NK[:, k], test.probabilities_NK[:, k])
        assert trace.name.endswith(f"{area:.3f}")
        assert np.trapezoid(trace.y, trace.x) == pytest.approx(area, abs=2e-3)


def test_labels_without_positives_have_no_roc_curve_and_the_page_says_so() -> None:
    test = classification()
    test.labels_NK[:, 1] = 0
    assert figures.labels_with_roc(test.labels_NK) == [0, 2]
    assert "1 labels without both classes, or rare, are left out" in Page(render_report(content(test=test))).text


def test_a_regression_shows_predictions_in_place_of_roc_curves() -> None:
    targets_NK = np.linspace(400, 1200, 50).reshape(50, 1)
    test = TestResult(targets_NK, targets_NK + 10, ["rr_interval"], {"mae": 10.0})
    page = Page(render_report(content(test=test)))
    assert "Predictions on test" in page.headings
    assert "ROC on test" not in page.headings


def test_a_test_result_of_other_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(records, labels\) = \(5, 2\), but got \(5, 3\) and \(5, 2\)"):
        TestResult(np.zeros((5, 3)), np.zeros((5, 2)), ["a", "b"], {})


def test_a_conditional_parameter_has_a_place_of_its_own_for_trials_without_it() -> None:
    record = replay(finished_sweep(60))
    figure = figures.parallel_coordinates(record, "val/auroc", "max", ["lr", "channels"])
    assert figure is not None
    lr, channels, objective = figure.data[0].dimensions
    assert list(channels.ticktext) == ["16", "32", "64", figures.NOT_SET]
    assert min(lr.values) >= -4
    assert len(objective.values) == sum(trial.state != "FAILED" for trial in record.trials.values())


def test_a_thousand_trials_take_seconds_and_megabytes(tmp_path: Path) -> None:
    given = content(1000, test=classification(3000))
    begin_s = time.process_time()
    write_report(tmp_path / "report.html", given)
    assert time.process_time() - begin_s < 20
    assert (tmp_path / "report.html").stat().st_size < 8e6
