"""The Pareto page has every number in which trials differ, and opens with the objective over what it costs."""

from __future__ import annotations

import json
import re

from platform.outcomes.report import ReportInput, render_report
from platform.pages.pareto_page import pareto_page
from platform.sweeps.journal import replay
from tests.platform.journals import finished_sweep

RECORD = replay(finished_sweep(30))


def test_the_page_opens_with_the_objective_over_the_size() -> None:
    page = pareto_page(RECORD, [("val/auroc", "max")], "t0003")
    assert page is not None
    assert page.start == ("onnx_bytes", "val/auroc", "")
    assert dict(page.axes) == {
        "val/auroc": "max", "onnx_bytes": "min", "parameters": "min", "duration_s": "min", "epochs": "min",
        "peak_memory_bytes": "min",
    }  # fmt: skip


def test_two_objectives_are_its_first_two_axes_and_three_make_it_a_space() -> None:
    two = pareto_page(RECORD, [("val/auroc", "max"), ("parameters", "min")], "")
    three = pareto_page(RECORD, [("val/auroc", "max"), ("parameters", "min"), ("onnx_bytes", "min")], "")
    assert two is not None
    assert three is not None
    assert two.start == ("parameters", "val/auroc", "")
    assert three.start == ("parameters", "val/auroc", "onnx_bytes")


def test_every_ranked_trial_is_a_point_with_the_numbers_of_its_best_epoch() -> None:
    page = pareto_page(RECORD, [("val/auroc", "max")], "")
    assert page is not None
    ranked = [trial for trial in RECORD.trials.values() if trial.state in ("COMPLETED", "STOPPED")]
    assert [point["trial"] for point in page.points] == [trial.trial for trial in ranked]
    for point, trial in zip(page.points, ranked, strict=True):
        best = trial.best("val/auroc", maximise=True)
        assert best is not None
        assert abs(point["values"]["val/auroc"] - best) < 1e-5
        assert point["values"]["onnx_bytes"] == trial.static["onnx_bytes"]


def test_a_sweep_whose_trials_do_not_differ_has_no_page() -> None:
    assert pareto_page(replay(finished_sweep(1)), [("val/auroc", "max")], "") is None


def test_the_report_holds_the_points_and_a_place_to_open_for_each() -> None:
    html = render_report(ReportInput(RECORD, None, [("val/auroc", "max")], 99, "quick", "", {}, "", choice="t0003"))
    found = re.search(r'<script type="application/json" id="pareto-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert data["chosen"] == "t0003"
    rows = set(re.findall(r'<tr id="trial-(t\d+)">', html))
    assert {point["trial"] for point in data["points"]} <= rows == set(RECORD.trials)
