"""A trial of a sweep without Ray: messages go to a list, verdicts come from a dictionary."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from data.bucket import COPIES, path_of, sizes
from tests.trainables.tiny_dataset import tiny_dataset
from trainables import tune_trial
from trainables.checkpoint import CheckpointNotWritten, load_checkpoint, load_weights
from trainables.decisions import Verdict
from trainables.method import Method, nest
from trainables.tune_trial import (
    BEST_FILE,
    LAST_FILE,
    PREVIOUS_FILE,
    TrialSetup,
    TrialTask,
    TuneTrial,
    bring,
    check_metrics,
    train,
)

Train = Callable[[Any, Any, Any], None]


class Killed(BaseException):
    """Ends an attempt where `kill -9` would."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = 3
    raises: str = ""


def climb(config: Config, dataset: Any, trial: TuneTrial) -> None:
    """Report the epoch over 10 as AUROC, with a model whose weight is the epoch."""
    state = trial.restore()
    for epoch in range(1 + (state["epoch"] if state else 0), config.epochs + 1):
        if config.raises:
            raise RuntimeError(config.raises)
        trial.report(epoch, {"val/auroc": epoch / 10}, lambda e=epoch: state_of(e))  # type: ignore[misc]


def state_of(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.tensor([float(epoch)])}}


class Sweep:
    """The outside of a trial: what it sent, and what it is answered."""

    def __init__(self, folder: Path, method: Train = climb) -> None:
        self.sent: list[dict[str, Any]] = []
        self.verdicts: dict[int, Verdict] = {}
        self.kill_at_send: int | None = None
        # On the way through Ray a question is a reference, and `ray.get` (here the identity) its answer.
        actor: Any = SimpleNamespace(answer=SimpleNamespace(remote=self._answer))
        dataset: Any = SimpleNamespace(open=lambda: tiny_dataset(n_train=4, n_val=2))
        row = Method(
            "climb",
            Config,
            lambda config, signal, label_set: nn.Identity(),
            method,
            lambda task: frozenset({"val/auroc"}),
        )
        self.setup = TrialSetup("s-001", row, dataset, actor, str(folder), "val/auroc", True, 0, 1.0, 0.0)

    def _answer(self, trial: str, epoch: int) -> Verdict:
        assert self.sent[-1]["epoch"] == epoch, "asked after it was told"
        return self.verdicts.get(epoch, "continue")

    def send(self, payload: dict[str, Any]) -> None:
        if "epoch" in payload and payload["epoch"] == self.kill_at_send:
            raise Killed
        self.sent.append(payload)

    def attempt(self, epochs_reported: int = 0, **params: Any) -> dict[str, str]:
        task = TrialTask("t0000", 7, params, epochs_reported)
        return train(self.setup, task, TuneTrial(self.setup, task, self.send))


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tune_trial.ray, "get", lambda answer: answer)
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def epochs(sweep: Sweep) -> list[int]:
    return [payload["epoch"] for payload in sweep.sent]


# ------------------------------------------------------------------ outcomes


def test_a_trial_that_trains_to_its_end_is_completed(sweep: Sweep) -> None:
    assert sweep.attempt() == {"outcome": "COMPLETED", "error": ""}
    assert epochs(sweep) == [1, 2, 3]


@pytest.mark.parametrize(("verdict", "outcome"), [("stop", "STOPPED"), ("interrupt", "INTERRUPTED")])
def test_a_verdict_ends_the_trial_after_the_report_it_answers(sweep: Sweep, verdict: Verdict, outcome: str) -> None:
    sweep.verdicts[2] = verdict
    assert sweep.attempt() == {"outcome": outcome, "error": ""}
    assert epochs(sweep) == [1, 2]


def test_what_a_method_raises_ends_its_trial_with_the_traceback(sweep: Sweep) -> None:
    outcome = sweep.attempt(raises="CUDA out of memory")
    assert outcome["outcome"] == "FAILED"
    assert "RuntimeError: CUDA out of memory" in outcome["error"]
    assert "in climb" in outcome["error"]


def test_a_configuration_that_the_method_refuses_ends_the_trial(sweep: Sweep) -> None:
    outcome = sweep.attempt(epoch=3)
    assert outcome["outcome"] == "FAILED"
    assert "epoch\n  Extra inputs are not permitted" in outcome["error"]


def test_a_kill_is_no_outcome(sweep: Sweep) -> None:
    sweep.kill_at_send = 1
    with pytest.raises(Killed):
        sweep.attempt()


# ------------------------------------------------------------------ reports


def test_a_report_carries_the_best_value_and_its_epoch(tmp_path: Path) -> None:
    def hill(config: Config, dataset: Any, trial: TuneTrial) -> None:
        for epoch, value in enumerate([0.5, 0.9, 0.7, 0.9], start=1):
            trial.report(epoch, {"val/auroc": value, "lr": 1}, lambda e=epoch: state_of(e))  # type: ignore[misc]

    sweep = Sweep(tmp_path, hill)
    sweep.attempt()
    best = [(p["metrics"]["best/val/auroc"], p["metrics"]["best_epoch"]) for p in sweep.sent]
    assert best == [(0.5, 1), (0.9, 2), (0.9, 2), (0.9, 2)]  # of equals the first
    assert load_weights(tmp_path / "t0000" / BEST_FILE)["weight"].item() == 2.0
    assert load_checkpoint(tmp_path / "t0000" / LAST_FILE)["state"]["epoch"] == 4


def test_the_smallest_value_is_the_best_where_less_is_better(tmp_path: Path) -> None:
    def valley(config: Config, dataset: Any, trial: TuneTrial) -> None:
        for epoch, value in enumerate([0.5, 0.3, 0.4], start=1):
            trial.report(epoch, {"val/loss": value}, lambda e=epoch: state_of(e))  # type: ignore[misc]

    sweep = Sweep(tmp_path, valley)
    sweep.setup = TrialSetup(**{**vars(sweep.setup), "metric": "val/loss", "maximise": False})
    sweep.attempt()
    assert sweep.sent[-1]["metrics"]["best/val/loss"] == 0.3


def test_a_degenerate_epoch_is_the_best_only_until_there_is_another(tmp_path: Path) -> None:
    def wander(config: Config, dataset: Any, trial: TuneTrial) -> None:
        for epoch, (value, degenerate) in enumerate([(0.9, 1.0), (0.5, 0.0), (0.95, 1.0), (0.6, 0.0)], start=1):
            metrics = {"val/auroc": value, "val/degenerate": degenerate}
            trial.report(epoch, metrics, lambda e=epoch: state_of(e))  # type: ignore[misc]

    sweep = Sweep(tmp_path, wander)
    sweep.attempt()
    assert [payload["metrics"]["best_epoch"] for payload in sweep.sent] == [1, 2, 2, 4]
    assert load_weights(tmp_path / "t0000" / BEST_FILE)["weight"].item() == 4.0


def test_a_criterion_of_several_metrics_is_reported_and_decides_the_best_epoch(tmp_path: Path) -> None:
    def trade(config: Config, dataset: Any, trial: TuneTrial) -> None:
        for epoch, (precision, recall) in enumerate([(0.9, 0.2), (0.5, 0.6), (0.1, 1.0)], start=1):
            metrics = {"val/precision": precision, "val/recall": recall}
            trial.report(epoch, metrics, lambda e=epoch: state_of(e))  # type: ignore[misc]

    criterion = "val/min_of-precision-recall"
    sweep = Sweep(tmp_path, trade)
    sweep.setup = TrialSetup(**{**vars(sweep.setup), "metric": criterion, "criteria": (criterion,)})
    assert sweep.attempt()["outcome"] == "COMPLETED"
    assert [payload["metrics"][criterion] for payload in sweep.sent] == [0.2, 0.5, 0.1]
    assert sweep.sent[-1]["metrics"]["best_epoch"] == 2


def test_a_checkpoint_is_on_disk_before_its_report_is_told(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    on_disk: list[tuple[int, float]] = []

    def look(payload: dict[str, Any]) -> None:
        sweep.sent.append(payload)
        last = load_checkpoint(tmp_path / "t0000" / LAST_FILE)["state"]["epoch"]
        on_disk.append((last, load_weights(tmp_path / "t0000" / BEST_FILE)["weight"].item()))

    task = TrialTask("t0000", 7, {}, 0)
    train(sweep.setup, task, TuneTrial(sweep.setup, task, look))
    assert on_disk == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_metric_that_is_not_finite_fails_the_trial_and_is_never_sent(tmp_path: Path) -> None:
    def diverge(config: Config, dataset: Any, trial: TuneTrial) -> None:
        trial.report(1, {"val/auroc": 0.5}, lambda: state_of(1))
        trial.report(2, {"val/auroc": 0.5, "train/loss": float("nan")}, lambda: state_of(2))

    sweep = Sweep(tmp_path, diverge)
    outcome = sweep.attempt()
    assert outcome["outcome"] == "FAILED"
    assert "FloatingPointError: train/loss is nan after epoch 2" in outcome["error"]
    assert epochs(sweep) == [1]
    assert load_checkpoint(tmp_path / "t0000" / LAST_FILE)["state"]["epoch"] == 1


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_metrics_must_be_finite(value: float) -> None:
    with pytest.raises(FloatingPointError, match=r"val/auroc is -?(inf|nan) after epoch 4"):
        check_metrics(4, {"val/auroc": value}, "val/auroc")


def test_a_missing_objective_is_named_with_what_is_reported_and_the_nearest() -> None:
    rule = r"^search.metric names 'val/auc', but the trial reports train/loss, val/auroc; did you mean 'val/auroc'\?$"
    with pytest.raises(ValueError, match=rule):
        check_metrics(1, {"val/auroc": 0.5, "train/loss": 1.0}, "val/auc")
    with pytest.raises(ValueError, match=r"reports train/loss$"):
        check_metrics(1, {"train/loss": 1.0}, "val/auc")


def test_only_rank_0_saves_and_speaks(tmp_path: Path) -> None:
    sweep, task = Sweep(tmp_path), TrialTask("t0000", 7, {}, 0)
    trial = TuneTrial(sweep.setup, task, sweep.send, rank=1, world_size=2, share=lambda verdict: "stop")
    outcome = train(sweep.setup, task, trial)
    assert outcome["outcome"] == "STOPPED"
    assert sweep.sent == [{}]
    assert not (tmp_path / "t0000").exists()


# ------------------------------------------------------------------ resuming


def test_a_resumed_trial_goes_on_after_its_last_report(sweep: Sweep) -> None:
    sweep.verdicts[2] = "interrupt"
    sweep.attempt(epochs=4)
    sweep.verdicts.clear()
    assert sweep.attempt(epochs_reported=2, epochs=4)["outcome"] == "COMPLETED"
    assert epochs(sweep) == [1, 2, 3, 4]
    assert sweep.sent[-1]["metrics"]["best_epoch"] == 4


def test_a_trial_killed_between_saving_and_telling_tells_first(sweep: Sweep) -> None:
    sweep.kill_at_send = 2
    with pytest.raises(Killed):
        sweep.attempt()
    sweep.kill_at_send = None
    assert sweep.attempt(epochs_reported=1)["outcome"] == "COMPLETED"
    assert epochs(sweep) == [1, 2, 3]
    assert sweep.sent[1]["metrics"] == {"val/auroc": 0.2, "best/val/auroc": 0.2, "best_epoch": 2}


def test_a_trial_that_tells_late_still_obeys(sweep: Sweep) -> None:
    sweep.kill_at_send = 2
    with pytest.raises(Killed):
        sweep.attempt()
    sweep.kill_at_send, sweep.verdicts[2] = None, "stop"
    assert sweep.attempt(epochs_reported=1)["outcome"] == "STOPPED"
    assert epochs(sweep) == [1, 2]


def test_a_trial_killed_between_its_checkpoint_and_its_best_weights_has_both_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, real = Sweep(tmp_path), tune_trial.save_weights

    def killed(path: Path, weights: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        if weights["weight"].item() == 2.0:
            raise Killed
        real(path, weights, notes)

    monkeypatch.setattr(tune_trial, "save_weights", killed)
    with pytest.raises(Killed):
        sweep.attempt()
    monkeypatch.setattr(tune_trial, "save_weights", real)
    sweep.verdicts[2] = "stop"
    sweep.attempt(epochs_reported=1)
    assert sweep.sent[-1]["metrics"]["best_epoch"] == 2
    assert load_weights(tmp_path / "t0000" / BEST_FILE)["weight"].item() == 2.0


def test_a_trial_killed_after_its_last_report_completes_without_another(sweep: Sweep) -> None:
    sweep.attempt()
    assert sweep.attempt(epochs_reported=3)["outcome"] == "COMPLETED"
    assert epochs(sweep) == [1, 2, 3]


def test_a_trial_whose_last_checkpoint_is_missing_goes_on_from_the_one_before(sweep: Sweep, tmp_path: Path) -> None:
    sweep.verdicts[2] = "interrupt"
    sweep.attempt()
    (tmp_path / "t0000" / LAST_FILE).unlink()
    sweep.verdicts.clear()
    assert sweep.attempt(epochs_reported=2)["outcome"] == "COMPLETED"
    assert epochs(sweep) == [1, 2, 2, 3]


@pytest.mark.parametrize("content", [b"not a checkpoint", None])
def test_a_trial_that_has_lost_all_its_checkpoints_starts_over(
    sweep: Sweep, tmp_path: Path, content: bytes | None
) -> None:
    sweep.verdicts[2] = "interrupt"
    sweep.attempt()
    for name in (LAST_FILE, PREVIOUS_FILE):
        path = tmp_path / "t0000" / name
        path.unlink() if content is None else path.write_bytes(content)
    sweep.verdicts.clear()
    assert sweep.attempt(epochs_reported=2)["outcome"] == "COMPLETED"
    assert epochs(sweep) == [1, 2, 1, 2, 3]


def test_a_checkpoint_that_the_journal_does_not_know_of_is_left_aside(sweep: Sweep) -> None:
    sweep.attempt()
    assert sweep.attempt(epochs_reported=1)["outcome"] == "COMPLETED"
    assert epochs(sweep) == [1, 2, 3, 1, 2, 3], "the reports between were lost with the driver's node: trained anew"


def test_a_trial_goes_on_where_it_was_on_another_node_and_comes_back(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(tmp_path)

    def attempt_on(node: str, epochs_reported: int) -> Path:
        monkeypatch.setenv(COPIES, str(tmp_path / node))
        trials = path_of(f"s3://{bucket}/runs/s-001/trials")
        sweep.setup = TrialSetup(**{**vars(sweep.setup), "folder": str(trials)})
        bring(sweep.setup, TrialTask("t0000", 7, {}, epochs_reported))
        assert sweep.attempt(epochs_reported, epochs=4)["error"] == ""
        return trials / "t0000"

    for epoch, node in enumerate(["first", "second", "first"], start=1):
        sweep.verdicts = {epoch: "interrupt"}
        folder = attempt_on(node, epoch - 1)
        assert load_checkpoint(folder / LAST_FILE)["state"]["epoch"] == epoch
        os.utime(folder / LAST_FILE, (1, 1))  # as if attempts were seconds apart
    sweep.verdicts.clear()
    folder = attempt_on("third", 3)
    assert epochs(sweep) == [1, 2, 3, 4]
    assert {path.name for path in sizes(folder)} == {LAST_FILE, BEST_FILE}
    assert load_weights(folder / BEST_FILE)["weight"].item() == 4.0


def test_a_bucket_that_takes_no_checkpoint_interrupts_the_sweep(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError("AWS Error ACCESS_DENIED")

    monkeypatch.setattr(tune_trial, "send", refuse)
    outcome = sweep.attempt()
    assert outcome["outcome"] == "UNSAVED"
    assert outcome["error"].endswith("last.ckpt can't be written: AWS Error ACCESS_DENIED")


# ------------------------------------------------------------------ surroundings


@pytest.mark.parametrize(("cpus", "n_threads"), [(0.5, 1), (1.0, 1), (2.0, 2)])
def test_a_trial_has_as_many_threads_as_cpus(tmp_path: Path, cpus: float, n_threads: int) -> None:
    seen = []
    sweep = Sweep(tmp_path, lambda config, dataset, trial: seen.append(torch.get_num_threads()))
    sweep.setup = TrialSetup(**{**vars(sweep.setup), "cpus": cpus})
    sweep.attempt()
    assert seen == [n_threads]


def test_a_trial_knows_its_seed_rank_and_device(sweep: Sweep) -> None:
    trial = TuneTrial(sweep.setup, TrialTask("t0000", 7, {}, 0), sweep.send, rank=1, world_size=2)
    assert (trial.seed, trial.rank, trial.world_size) == (7, 1, 2)
    assert trial.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("flat", "tree"),
    [
        ({}, {}),
        ({"lr": 1e-3}, {"lr": 1e-3}),
        (
            {"optimiser.name": "adam", "optimiser.lr": 1, "epochs": 2},
            {"optimiser": {"name": "adam", "lr": 1}, "epochs": 2},
        ),
        ({"a.b.c": {}, "a.b.d": None}, {"a": {"b": {"c": {}, "d": None}}}),
    ],
)
def test_dotted_keys_become_nested_dictionaries(flat: dict[str, Any], tree: dict[str, Any]) -> None:
    assert nest(flat) == tree


# ------------------------------------------------------------------ what a disk does


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_checkpoint_cut_short_is_not_used_but_the_one_before(sweep: Sweep, damage: str) -> None:
    sweep.verdicts[2] = "interrupt"
    sweep.attempt()
    path = Path(sweep.setup.folder) / "t0000" / "last.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    sweep.verdicts.clear()
    assert sweep.attempt(epochs_reported=2)["outcome"] == "COMPLETED"
    assert epochs(sweep) == [1, 2, 2, 3], "epoch 2 again, from the state after epoch 1"


def test_a_checkpoint_that_the_disk_does_not_take_is_no_failure_of_the_method(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, state: dict[str, Any]) -> None:
        raise CheckpointNotWritten(f"{path} can't be written: no space left on device")

    monkeypatch.setattr(tune_trial, "save_checkpoint", full)
    outcome = sweep.attempt()
    assert outcome["outcome"] == "UNSAVED"
    assert "no space left" in outcome["error"]
    assert epochs(sweep) == []
