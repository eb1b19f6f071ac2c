"""What must be true after any fault, once the sweep has come to its end: one checker for all of them."""

from __future__ import annotations

from collections import Counter

import ray
from mlflow import MlflowClient
from ray.util import placement_group_table

from platform.sweeps.journal import ENDED, TrialRecord
from platform.tracking import CURSOR_NAME
from tests.sweeps.workplace import Workplace, wait_until

STATUS = {"COMPLETED": "FINISHED", "STOPPED": "FINISHED", "FAILED": "FAILED"}
FREE_S = 30.0


def check_aftermath(place: Workplace, name: str = "tiny-001") -> None:
    """Check journal, MLflow and disk of a sweep that has ended, and Ray's resources where this process has a Ray."""
    check_ended_once(place, name)
    check_mlflow(place, name)
    check_no_half_written_file(place, name)
    if ray.is_initialized():
        check_all_is_free()


def check_ended_once(place: Workplace, name: str = "tiny-001") -> None:
    """Check that each trial has one end, which nothing follows, and every epoch of its life once."""
    record = place.record(name)
    for trial in record.trials.values():
        own = [e for e in place.events(name) if e.trial == trial.trial and e.kind not in ("tested", "measured")]
        assert Counter(event.kind for event in own)["ended"] == 1, f"{trial.trial}: one end"
        assert own[-1].kind == "ended", f"{trial.trial}: nothing follows its end"
        assert trial.state in ENDED
        assert sorted(trial.reports) == list(range(1, trial.epochs + 1)), f"{trial.trial}: every epoch, none twice"


def check_mlflow(place: Workplace, name: str = "tiny-001") -> None:
    """Check that MLflow has what the journal has: a run a trial, its end, and its last metrics."""
    record, runs = place.record(name), place.mlflow_runs(name)
    started = {trial.trial: trial for trial in record.trials.values() if trial.started_s is not None}
    assert sorted(set(runs) - {""} - set(record.repeats)) == sorted(
        trial.trial for trial in record.trials.values() if trial.state != "PROPOSED"
    )
    client = MlflowClient(tracking_uri=place.tracking_uri)
    for trial in started.values():
        run = runs[trial.trial]
        assert run.info.status == STATUS[trial.state], f"{trial.trial}: {run.info.status}"
        _check_history(client, run.info.run_id, trial)


def _check_history(client: MlflowClient, run_id: str, trial: TrialRecord) -> None:
    history = client.get_metric_history(run_id, "val/auroc")
    assert {metric.step for metric in history} >= set(trial.reports), f"{trial.trial}: every epoch is there"
    newest = {metric.step: metric.value for metric in sorted(history, key=lambda metric: metric.timestamp)}
    for epoch, metrics in trial.reports.items():
        assert newest[epoch] == metrics["val/auroc"], f"{trial.trial}, epoch {epoch}"


def check_no_half_written_file(place: Workplace, name: str = "tiny-001") -> None:
    """Check that nothing lies in the sweep's folder that a write or Ray has left there."""
    left = [path for path in (place.runs / name).rglob("*") if path.suffix in (".tmp", ".new", ".partial")]
    assert left == []
    assert not (place.runs / name / ".tune").exists()
    assert (place.runs / name / CURSOR_NAME).exists()


def check_all_is_free() -> None:
    """Check that no placement group is left, and that all of the cluster's resources are there again."""

    def taken() -> dict[str, tuple[float, float]]:
        total, available = ray.cluster_resources(), ray.available_resources()
        names = [name for name in ("CPU", "GPU", "node:__internal_head__") if name in total]
        return {name: (available.get(name, 0), total[name]) for name in names if available.get(name, 0) != total[name]}

    assert wait_until(lambda: not taken(), FREE_S), taken()
    groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    assert groups == []
