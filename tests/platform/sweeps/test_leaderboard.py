"""The leaderboard ranks what finished, and the front is what nothing dominates."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from platform.specs.quantities import Mode
from platform.sweeps.checkpoints import rank
from platform.sweeps.journal import Event, SweepRecord, replay
from platform.sweeps.leaderboard import leaderboard, pareto_front, write_leaderboard
from platform.sweeps.study_db import outcome_quantities
from tests.platform.journals import START_S, finished_sweep


@pytest.fixture(scope="module")
def record() -> SweepRecord:
    return replay(finished_sweep(30))


@pytest.mark.parametrize(("metric", "mode"), [("val/auroc", "max"), ("train/loss", "min")])
def test_trials_are_ranked_by_their_best_value_and_failed_ones_come_last(
    record: SweepRecord, metric: str, mode: Mode
) -> None:
    table = leaderboard(record, metric, mode)
    assert len(table) == 30
    ranked = table[table["rank"].notna()]
    values = ranked[metric].tolist()
    assert values == sorted(values, reverse=mode == "max")
    assert ranked["rank"].tolist() == list(range(1, len(ranked) + 1))
    assert set(ranked["state"]) == {"COMPLETED", "STOPPED"}
    assert set(table["state"].tail(3)) == {"FAILED"}
    for trial, epoch in zip(ranked["trial"], ranked["best_epoch"], strict=True):
        reports = record.trials[trial].reports
        best = (max if mode == "max" else min)(report[metric] for report in reports.values())
        assert reports[epoch][metric] == best


def test_a_row_tells_the_sizes_the_duration_and_the_parameters(record: SweepRecord) -> None:
    row = leaderboard(record, "val/auroc", "max").set_index("trial").loc["t0003"]
    trial = record.trials["t0003"]
    assert row["onnx_bytes"] == trial.static["onnx_bytes"]
    assert row["peak_memory_bytes"] == trial.last["peak_memory_bytes"]
    assert row["duration_s"] == pytest.approx(trial.duration_s)
    assert row["params.lr"] == trial.params["lr"]
    assert row["params.batch_size"] == 64


def test_trials_that_break_a_constraint_rank_behind_those_that_keep_all() -> None:
    events = finished_sweep(10)
    first = leaderboard(replay(events), "val/auroc", "max")["trial"].iloc[0]
    broken = [
        Event(e.kind, e.time_s, e.trial, {**e.body, "constraints": {"onnx_bytes <= 1": 1.0}})
        if e.kind == "ended" and e.trial == first
        else e
        for e in events
    ]
    table = leaderboard(replay(broken), "val/auroc", "max")
    ranked = table[table["rank"].notna()]
    assert ranked["trial"].iloc[-1] == first
    assert not ranked["feasible"].iloc[-1]


def test_a_degenerate_classifier_is_never_the_best_whatever_its_metric() -> None:
    """Neither a trial that is nothing else, nor a degenerate epoch of another one."""
    events = finished_sweep(10)
    first, second = leaderboard(replay(events), "val/auroc", "max")["trial"].iloc[:2]
    marked = [_marked(e, {first: range(1, 99), second: [2]}) for e in events]
    record = replay(marked)
    ranked = [trial.trial for trial in rank(record, [("val/auroc", "max")])]
    assert first not in ranked
    assert ranked[0] == second
    table = leaderboard(record, "val/auroc", "max").set_index("trial")
    assert not table.loc[first, "feasible"]
    assert table.loc[second, "best_epoch"] != 2
    reports = record.trials[second].reports
    sound = max(report["val/auroc"] for epoch, report in reports.items() if epoch != 2)
    assert record.trials[second].best("val/auroc", maximise=True) == sound
    assert outcome_quantities(record.trials[second], [("val/auroc", "max")])["val/auroc"] == sound


def _marked(event: Event, degenerate: Mapping[str, Container[int]]) -> Event:
    """Say of every epoch whether it is degenerate; those that are have a perfect metric."""
    if event.kind != "reported":
        return event
    metrics = dict(event.body["metrics"])
    if event.body["epoch"] in degenerate.get(event.trial, ()):
        metrics |= {"val/auroc": 1.0, "val/degenerate": 1.0}
    return Event(event.kind, event.time_s, event.trial, {**event.body, "metrics": metrics})


def test_a_sweep_without_trials_has_an_empty_leaderboard() -> None:
    table = leaderboard(replay([Event("opened", START_S)]), "val/auroc", "max")
    assert table.empty
    assert list(table.columns[:3]) == ["rank", "trial", "state"]


def test_the_file_reads_back_and_leaves_nothing_beside_it(record: SweepRecord, tmp_path: Path) -> None:
    table = leaderboard(record, "val/auroc", "max")
    write_leaderboard(tmp_path / "leaderboard.csv", table)
    assert [path.name for path in tmp_path.iterdir()] == ["leaderboard.csv"]
    back = pd.read_csv(tmp_path / "leaderboard.csv")
    assert back["trial"].tolist() == table["trial"].tolist()
    np.testing.assert_allclose(back["val/auroc"], table["val/auroc"])


# Few distinct values, so that ties and equal points are common.
points_NM = st.tuples(st.integers(0, 14), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float))
)


@given(points_NM, st.data())
def test_the_front_is_what_no_other_point_dominates(values_NM: NDArray[np.float64], data: st.DataObject) -> None:
    n_objectives = values_NM.shape[1]
    directions: list[Mode] = data.draw(
        st.lists(st.sampled_from(["max", "min"]), min_size=n_objectives, max_size=n_objectives)
    )

    def dominates(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
        gains = [x - y if mode == "max" else y - x for x, y, mode in zip(a, b, directions, strict=True)]
        return bool(min(gains) >= 0 and max(gains) > 0)

    expected = [not any(dominates(other, point) for other in values_NM) for point in values_NM]
    assert pareto_front(values_NM, directions).tolist() == expected


@pytest.mark.parametrize(
    ("values_NM", "match"),
    [
        (np.zeros((3, 3)), r"must be \(points, 2 objectives\), but got shape \(3, 3\)"),
        (np.array([[1.0, np.nan]]), "must be finite"),
    ],
)
def test_values_that_do_not_fit_are_refused(values_NM: NDArray[np.float64], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pareto_front(values_NM, ["max", "min"])
