"""What the repeats of the best trial have brought: each tested once, and their spread in the output and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from data.dataset import LabelSet
from platform.evaluation.held_out import PREDICTIONS_FILE, HeldOut
from platform.models.trained_model import read_trained_model
from platform.pages.page import Cell, Table
from platform.specs.quantities import Mode
from platform.sweeps.journal import SweepRecord, TrialRecord
from platform.sweeps.leaderboard import best_epoch
from platform.sweeps.spread import Spread
from trainables.evaluation import evaluate
from trainables.fold_metrics import split_by_fold

REPEATS_FOLDER, REPEATS_FILE = "repeats", "repeats.csv"


@dataclass(frozen=True)
class Repeated:
    """A repeat that ended well: what it reported at its best epoch, and its test, empty without a test fold."""

    trial: TrialRecord
    epoch: int
    val: Mapping[str, float]
    test: Mapping[str, float]

    @property
    def numbers(self) -> dict[str, float]:
        """Everything under its full name, `val/auroc` and `test/auroc`."""
        return {**self.val, **{f"test/{name}": value for name, value in self.test.items()}}


@dataclass(frozen=True)
class RepeatResult:
    """The repeats of one trial.

    Attributes:
        metric: the first objective.
        chosen: the numbers of the trial that is repeated; its own value is no part of any mean, since it was chosen
            by it.
        n_failed: repeats that did not end well.
    """

    trial: str
    metric: str
    chosen: Mapping[str, float]
    repeats: Sequence[Repeated]
    n_failed: int

    @property
    def spreads(self) -> dict[str, Spread]:
        """Return the spread of every number that all repeats have; empty for fewer than two repeats."""
        if len(self.repeats) < 2:
            return {}
        numbers = [repeat.numbers for repeat in self.repeats]
        common = [name for name in numbers[0] if all(name in each for each in numbers)]
        return {name: Spread.of([each[name] for each in numbers]) for name in common}

    def lines(self) -> list[str]:
        """Return the lines that end a sweep's output."""
        spreads, own = self.spreads, self.metric.rpartition("/")[2]
        shown = [name for name in (self.metric, f"test/{own}") if name in spreads]
        lines = [f"{name} {spreads[name].text}" for name in shown]
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        return [f"{self.trial} again with {len(self.repeats)} other seeds{failed}", *(f"  {line}" for line in lines)]

    def metrics(self) -> dict[str, float]:
        """Return what stands beside the sweep in MLflow: `repeats/val/auroc/mean` and so on."""
        return {
            f"repeats/{name}/{part}": getattr(spread, part)
            for name, spread in self.spreads.items()
            for part in ("mean", "sd", "low", "high")
        }

    def table(self) -> Table:
        """Return the section of the report."""
        failed = f"; {self.n_failed} failed" if self.n_failed else ""
        caption = (
            f"{self.trial} trained again with {len(self.repeats)} other seeds{failed}; its own value, by which it was "
            "chosen, is no part of the mean; 95 % interval of the mean by Student's t; each run is in repeats.csv"
        )
        columns = ("", f"{self.trial} itself", "mean", "deviation", "95 % interval")
        return Table("Repeats", caption, columns, [[Cell(text) for text in row] for row in self._rows()])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for name, spread in self.spreads.items():
            own = f"{self.chosen[name]:.4f}" if name in self.chosen else ""
            interval = f"{spread.low:.4f} to {spread.high:.4f}"
            yield name, own, f"{spread.mean:.4f}", f"{spread.sd:.4f}", interval

    def write(self, path: Path) -> None:
        """Write a row a repeat as CSV."""
        rows = [
            {"repeat": each.trial.trial, "seed": each.trial.seed, "best_epoch": each.epoch, **each.numbers}
            for each in self.repeats
        ]
        fresh = path.with_name(f".{path.name}.new")
        pd.DataFrame(rows, columns=None if rows else ["repeat", "seed", "best_epoch"]).to_csv(fresh, index=False)
        fresh.replace(path)


@dataclass(frozen=True)
class RepeatTests:
    """Tests the repeats of a trial whose search has ended.

    Attributes:
        folder: the sweep's.
        held_out: the test fold; None where there is none.
        device: where models answer.
    """

    folder: Path
    record: SweepRecord
    held_out: HeldOut | None
    label_set: LabelSet
    device: str
    metric: str
    mode: Mode

    def conclude(self, trial: TrialRecord, seeds: int, test: Mapping[str, float]) -> RepeatResult:
        """Test each repeat of `trial` that has not been tested, and write `repeats.csv`.

        Args:
            seeds: how many repeats count, should an earlier process have made more.
            test: the metrics of the trial's own test.
        """
        repeats = self.record.repeats_of(trial.trial)[:seeds]
        well = [each for each in repeats if each.state == "COMPLETED"]
        chosen = {**self._validation(trial), **{f"test/{name}": value for name, value in test.items()}}
        result = RepeatResult(
            trial=trial.trial,
            metric=self.metric,
            chosen=chosen,
            repeats=[self._conclude_one(each) for each in well],
            n_failed=len(repeats) - len(well),
        )
        result.write(self.folder / REPEATS_FILE)
        return result

    def _conclude_one(self, repeat: TrialRecord) -> Repeated:
        epoch = best_epoch(repeat, self.metric, self.mode)
        assert epoch is not None, "a repeat that ended well has reported"
        test = {} if self.held_out is None else self._test(self.held_out, repeat.trial)["metrics"]
        return Repeated(repeat, epoch, self._validation(repeat), test)

    def _validation(self, trial: TrialRecord) -> dict[str, float]:
        epoch = best_epoch(trial, self.metric, self.mode)
        own, _ = split_by_fold(trial.reports[epoch] if epoch is not None else {})
        return {
            name: value for name, value in own.items() if name.startswith("val/") and name != "val/classes_left_out"
        }

    def _test(self, held_out: HeldOut, repeat: str) -> Mapping[str, Any]:
        folder = self.folder / REPEATS_FOLDER / repeat
        looks = [event.body["repeat"] for event in self.record.tested if "repeat" in event.body]
        earlier = next((look for look in looks if look["trial"] == repeat), None)
        if earlier is not None and (folder / PREDICTIONS_FILE).exists():
            known: Mapping[str, Any] = earlier
            return known
        folder.mkdir(parents=True, exist_ok=True)
        trained = read_trained_model(self.folder, repeat)
        judge = partial(
            evaluate,
            trained.model,
            config=trained.config,
            label_set=self.label_set,
            thresholds_K=trained.card.thresholds_K,
            device=self.device,
        )
        look = {"trial": repeat, **held_out.test(judge, trained.config.threshold_beta, folder)}
        held_out.count(repeat=look)
        return look
