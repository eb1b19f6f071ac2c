"""Repeats without Ray: the best configuration with other seeds, journalled and resumed, and no part of the search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from platform.outcomes.repeat_result import RepeatTests
from platform.search.repeats import Repeats
from platform.sweeps.journal import Event, Journal, SweepRecord, read_events, replay
from platform.sweeps.leaderboard import leaderboard
from platform.sweeps.spread import Spread
from platform.sweeps.study_db import frozen_trials
from tests.platform.journals import finished_sweep, write_journal
from tests.platform.simulated_sweep import PROGRESS, Killed
from tests.platform.small_spec import make_spec
from trainables.decisions import Verdict

N_SEEDS = 3
BEST = "t0003"
VALUES = {1: 0.90, 2: 0.93, 3: 0.91}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_journal(tmp_path, finished_sweep(10))
    return tmp_path


class Process:
    """A process that takes up the repeats of a sweep.

    Args:
        kill_after: raise `Killed` after so many events that get the repeats on.
        saved: what outlives a process: repeat -> last epoch with a checkpoint.
    """

    def __init__(self, folder: Path, saved: dict[str, int], seeds: int = N_SEEDS, kill_after: int = -1) -> None:
        spec = make_spec(repeats={"seeds": seeds}, budget={"trials": 10, "epochs": 27})
        self.record, self.saved, self.kill_after = replay(read_events(folder)), saved, kill_after
        self.journal = Journal(folder)
        self.record.apply(self.journal.append("opened", resumed=True))
        self.verdicts: dict[tuple[str, int], Verdict] = {}
        self.repeats = Repeats(spec, self.journal, self.record, self.record.trials[BEST], self._post, [self._observe])

    def _post(self, trial: str, epoch: int, verdict: Verdict) -> None:
        self.verdicts[trial, epoch] = verdict

    def _observe(self, event: Event) -> None:
        self.kill_after -= event.kind in PROGRESS
        if self.kill_after == 0 and event.kind in PROGRESS:
            raise Killed

    def run(self) -> list[dict[str, Any]]:
        tasks = []
        while (task := self.repeats.propose()) is not None:
            tasks.append(task)
            self.train(task)
        self.journal.close()
        return tasks

    def train(self, task: dict[str, Any]) -> None:
        name, value = task["trial"], VALUES[int(task["trial"][-1])]
        self.repeats.on_start(name)
        for epoch in range(self.saved.get(name, 0) + 1, task["params"]["epochs"] + 1):
            self.saved[name] = epoch
            metrics = {"val/auroc": value - 0.1 * (epoch != 20), "val/f1": value / 2}
            self.repeats.on_message(name, {"epoch": epoch, **{f"metrics/{key}": v for key, v in metrics.items()}})
            if self.verdicts[name, epoch] != "continue":
                self.repeats.on_message(name, {"outcome": "INTERRUPTED", "error": ""})
                return
        self.repeats.on_message(name, {"outcome": "COMPLETED", "error": ""})
        self.repeats.on_gone(name, error=None)


def check_whole(record: SweepRecord) -> None:
    repeats = record.repeats_of(BEST)
    assert [each.trial for each in repeats] == [f"{BEST}-r{n}" for n in (1, 2, 3)]
    for each in repeats:
        assert (each.state, each.epochs, each.params) == ("COMPLETED", 27, record.trials[BEST].params)


def test_the_best_configuration_is_trained_with_other_seeds_outside_the_search(folder: Path) -> None:
    before = replay(read_events(folder))
    tasks = Process(folder, {}).run()
    record = replay(read_events(folder))
    check_whole(record)
    assert len({task["seed"] for task in tasks}) == N_SEEDS
    assert (record.n_proposals, record.epochs, list(record.trials)) == (
        before.n_proposals,
        before.epochs,
        list(before.trials),
    )
    objectives = [("val/auroc", "max")]
    assert len(list(frozen_trials(record, objectives))) == len(list(frozen_trials(before, objectives)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kill_after", [2, 5, 30])
def test_repeats_that_are_killed_go_on_where_they_were(folder: Path, kill_after: int) -> None:
    saved: dict[str, int] = {}
    for _ in range(200):
        process = Process(folder, saved, kill_after=kill_after)
        try:
            process.run()
        except Killed:
            continue
        break
    record = replay(read_events(folder))
    check_whole(record)
    ended = [event.trial for event in read_events(folder) if event.kind == "ended" and event.trial in record.repeats]
    assert len(ended) == len(set(ended)) == N_SEEDS
    fresh = Process(folder, {}, seeds=6)
    assert [task["trial"][-1] for task in iter(fresh.repeats.propose, None)] == ["4", "5", "6"]
    assert len({each.seed for each in fresh.record.repeats.values()}) == 6


def test_an_interrupt_ends_a_repeat_at_its_next_report_and_a_resume_finishes_it(folder: Path) -> None:
    saved: dict[str, int] = {}
    process = Process(folder, saved)
    task = process.repeats.propose()
    assert task is not None
    process.repeats.interrupt()
    process.train(task)
    assert process.repeats.propose() is None
    assert process.record.repeats[task["trial"]].epochs == 1
    process.journal.close()
    assert Process(folder, saved).run()[0]["epochs_reported"] == 1
    check_whole(replay(read_events(folder)))


def test_more_seeds_train_only_what_is_missing(folder: Path) -> None:
    Process(folder, {}, seeds=2).run()
    assert [task["trial"] for task in Process(folder, {}, seeds=3).run()] == [f"{BEST}-r3"]


def test_a_full_disk_trains_no_repeat_and_says_why(folder: Path) -> None:
    process = Process(folder, {})
    process.repeats._shortage = lambda: "budget.disk_bytes: no room"
    assert process.repeats.propose() is None
    assert process.repeats.failure == "budget.disk_bytes: no room"
    assert not process.repeats.is_done


def test_the_spread_of_the_repeats_stands_in_leaderboard_table_and_file(folder: Path) -> None:
    Process(folder, {}).run()
    journal, record = Journal(folder), replay(read_events(folder))
    for number, value in VALUES.items():
        look = {"trial": f"{BEST}-r{number}", "metrics": {"auroc": value - 0.01}}
        record.apply(journal.append("tested", repeat=look))
    journal.close()
    val, test = Spread.of(list(VALUES.values())), Spread.of([value - 0.01 for value in VALUES.values()])
    row = leaderboard(record, "val/auroc", "max").set_index("trial").loc[BEST]
    assert row["repeats.mean"] == pytest.approx(val.mean)
    assert row["repeats.sd"] == pytest.approx(val.sd)
    assert (row["repeats.test.low"], row["repeats.test.high"]) == pytest.approx((test.low, test.high))
    label_set: Any = None
    tests = RepeatTests(folder, record, None, label_set, "cpu", "val/auroc", "max")
    result = tests.conclude(record.trials[BEST], N_SEEDS, {})
    assert result.spreads["val/auroc"] == val
    assert result.metrics()["repeats/val/auroc/high"] == val.high
    assert val.text in "\n".join(result.lines())
    own = record.trials[BEST].best("val/auroc", maximise=True)
    assert tuple(cell.text for cell in result.table().rows[0][:3]) == ("val/auroc", f"{own:.4f}", f"{val.mean:.4f}")
    assert (folder / "repeats.csv").read_text().splitlines()[0].startswith("repeat,seed,best_epoch,val/auroc")
