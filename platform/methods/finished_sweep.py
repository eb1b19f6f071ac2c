"""A sweep whose trials have ended, as a method's own outcome sees it: `platform.methods.outcomes`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.dataset import Split
from data.loading import Description, SharedDataset
from platform.evaluation.held_out import PREDICTIONS_FILE, HeldOut
from platform.evaluation.test_result import TestResult
from platform.models.trained_model import BEST_FOLDER, read_trained_model
from platform.pages.page import Picture, Table
from platform.specs.spec import Spec
from platform.sweeps.folder import RESULT_FOLDER
from platform.sweeps.journal import SweepRecord, TrialRecord
from trainables.evaluation import Evaluation, evaluate


@dataclass(frozen=True)
class Findings:
    """What a method adds to what every sweep leaves.

    Attributes:
        lines: at the end of the sweep's output, before its commands.
        tables: sections of `report.html`, behind the test.
        notes: sentences that a reader of the report must know.
        pictures: behind the tables.
    """

    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class FinishedSweep:
    """All that a method's outcome may draw on. It writes its files into `result`.

    Attributes:
        folder: the sweep's.
        ranked: the trials that ended well and keep the constraints, best first; at least one. The checkpoints of the
            first ones are there, and those of the cells' bests.
        held_out: the test fold; None where there is none.
        best_test: the test of the best trial.
        device: where models answer.
    """

    spec: Spec
    folder: Path
    record: SweepRecord
    description: Description
    dataset: SharedDataset
    ranked: Sequence[TrialRecord]
    held_out: HeldOut | None
    best_test: TestResult | None
    device: str

    @property
    def result(self) -> Path:
        """The folder of the method's own files; made at first use."""
        folder = self.folder / RESULT_FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    def test(self, trial: TrialRecord, name: str) -> TestResult | None:
        """Test a trial whose checkpoint was kept, and keep its predictions in `tested_folder(name)`.

        One look at the test fold; none where the last one by this name was at this very trial, as after a resume, nor
        for the best trial, whose test the sweep has.
        """
        if trial.trial == self.ranked[0].trial and self.held_out is not None:
            folder = self._new_tested_folder(name)
            shutil.copyfile(self.folder / BEST_FOLDER / PREDICTIONS_FILE, folder / PREDICTIONS_FILE)
            return self.best_test
        return self.test_model(name, trial.trial, partial(self._judge, trial.trial))

    def test_model(
        self, name: str, trial: str, judge: Callable[[Split], tuple[Evaluation, float]]
    ) -> TestResult | None:
        """Test a model that follows from a trial, as `test` does.

        Args:
            judge: the test fold -> the model's evaluation, and beta of f_beta.
        """
        if self.held_out is None:
            return None
        folder = self._new_tested_folder(name)
        earlier = self._earlier_look(trial, name)
        return self.held_out.result(folder, earlier or self._look(self.held_out, trial, name, judge))

    def _new_tested_folder(self, name: str) -> Path:
        folder = self.tested_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def tested_folder(self, name: str) -> Path:
        """Return where `test` keeps the predictions."""
        return self.result / "tested" / name

    def _earlier_look(self, trial: str, name: str) -> Mapping[str, Any] | None:
        looks = [event.body["finding"] for event in self.record.tested if "finding" in event.body]
        own = [look for look in looks if look["name"] == name]
        there = (self.tested_folder(name) / PREDICTIONS_FILE).exists()
        return own[-1] if own and there and own[-1]["trial"] == trial else None

    def _judge(self, trial: str, split: Split) -> tuple[Evaluation, float]:
        trained = read_trained_model(self.folder, trial)
        evaluation = evaluate(
            trained.model,
            split,
            trained.config,
            self.dataset.label_set,
            trained.card.thresholds_K,
            self.device,
        )
        return evaluation, trained.config.threshold_beta

    def _look(
        self, held_out: HeldOut, trial: str, name: str, judge: Callable[[Split], tuple[Evaluation, float]]
    ) -> Mapping[str, Any]:
        evaluation, beta = judge(held_out.split)
        numbers = held_out.test(lambda split: evaluation, beta, self.tested_folder(name))
        finding = {"name": name, "trial": trial, **numbers}
        held_out.count(finding=finding)
        return finding
