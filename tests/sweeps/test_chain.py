"""Whole chains: a teacher's sweep, a data step, a student from the teacher's weights; killed and resumed anywhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from platform import sweep
from platform.models.artefacts import content_hash
from platform.models.trained_model import read_trained_model
from platform.sweeps.journal import FILE_NAME, SweepRecord, read_events, replay
from tests.platform import counting_step
from tests.platform.counting_step import COUNTING
from tests.platform.simulated_sweep import Killed
from tests.sweeps.workplace import TINY_CNN, Workplace, wait_until
from trainables.checkpoint import load_weights, save_weights
from trainables.data_steps import DATA_STEPS

START_TIMEOUT_S = 240


def write_chain(place: Workplace, with_step: bool = True, **changes: Any) -> Path:
    """Write a chain of tiny stages."""
    step = {
        "counts": {
            "step": "counting",
            "params": {"n_files": {"choice": [3, 2]}, "source": {"from": "teacher.best.weights"}},
            "select": {"metric": "total", "mode": "min"},
        }
    }
    weights = {"from": "teacher.best.weights"}
    values = {
        "name": "chain",
        "seed": 3,
        "data": {"store": str(place.stores / "one_lead"), "preprocess": [{"zscore": {"per": "lead"}}]},
        "search": {"metric": "val/auroc", "mode": "max"},
        "budget": {"epochs": 1},
        "resources": {"concurrency": 1},
        "tracking": {"uri": place.tracking_uri, "experiment": place.folder.name},
        "stages": {
            "teacher": {
                "method": "supervised",
                "params": {**TINY_CNN, "lr": {"choice": [1e-2, 1e-4]}},
                "search": {"sampler": "grid"},
                "budget": {"trials": 2},
            },
            **(step if with_step else {}),
            "student": {"from": "teacher.best", "params": {"lr": 1e-3, "weights": weights}, "budget": {"epochs": 2}},
        },
        **changes,
    }
    path = place.folder / "chain.yaml"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return path


def record(place: Workplace, stage: str = "") -> SweepRecord:
    return replay(read_events(place.runs / "chain-001" / stage))


def mlflow_runs(place: Workplace) -> dict[str, Run]:
    client = MlflowClient(tracking_uri=place.tracking_uri)
    experiment = client.get_experiment_by_name(place.folder.name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    names = [f"{run.data.tags['sweep']} {run.data.tags.get('trial', '')}".strip() for run in found]
    assert len(names) == len(set(names)), "a run each"
    return dict(zip(names, found, strict=True))


def check_whole(place: Workplace, stages: dict[str, int]) -> None:
    """Check that every stage came to its end once, on what the earlier ones left, in one MLflow tree.

    Args:
        stages: name -> number of trials.
    """
    folder = place.runs / "chain-001"
    chain = record(place)
    assert chain.is_done and [path.name for path in place.runs.iterdir()] == ["chain-001"]
    for name, n_trials in stages.items():
        own = record(place, name)
        assert own.is_done, name
        assert [trial.state for trial in own.trials.values()] == ["COMPLETED"] * n_trials
        ended = [event.trial for event in read_events(folder / name) if event.kind == "ended"]
        assert len(ended) == len(set(ended)), "no trial ended twice"
    teacher, student = read_trained_model(folder / "teacher"), read_trained_model(folder / "student")
    weights = folder / "teacher" / "best" / "model.safetensors"
    assert student.config.weights == str(weights.absolute())
    assert (student.config.channels, student.config.depth) == (teacher.config.channels, teacher.config.depth)
    inputs = {key: text for key, text in record(place, "student").opened[-1].body["spec"].items() if "inputs." in key}
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert inputs["inputs.params.weights"] == f"teacher.best.weights sha256:{digest}"
    assert inputs["inputs.from"] == f"teacher.best sha256:{content_hash(folder / 'teacher' / 'best')}"
    runs = mlflow_runs(place)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    chain_id = runs["chain-001"].info.run_id
    for name in stages:
        parent = runs[f"chain-001/{name}"]
        assert parent.data.tags["mlflow.parentRunId"] == chain_id
        assert runs[f"chain-001/{name} t0000"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert len(runs) == 1 + len(stages) + sum(stages.values())
    report = (folder / "report.html").read_text()
    assert all(f'href="{name}/report.html"' in report for name in ("teacher", "student"))
    assert f"teacher.best.weights {digest[:12]}" in report
    assert re.search(r"test/auroc 0\.\d{4} \(0\.\d{4} to [01]\.\d{4}\)", report)


@pytest.fixture
def _counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_STEPS, "counting", COUNTING)


THREE = {"teacher": 2, "counts": 2, "student": 1}


@pytest.mark.usefixtures("_counting")
def test_a_chain_killed_in_a_step_and_between_stages_goes_on_and_a_whole_one_is_left_as_it_is(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = write_chain(place), place.runs / "chain-001"
    n_slept = 0

    def sleep(duration_s: float) -> None:
        nonlocal n_slept
        n_slept += 1
        if n_slept == 3:  # the first point's third file
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(counting_step, "sleep", sleep)
        with pytest.raises(Killed):
            place.main(path)
    written = {file: file.read_text() for file in (folder / "counts").rglob("*.txt")}
    assert len(written) == 2
    assert not (folder / "student").exists()

    run_stage = sweep._run_stage

    def killed_at_student(runs: Path, address: str, spec: Any, stage: Any) -> int:
        if stage.name == "student":
            raise Killed
        return run_stage(runs, address, spec, stage)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_run_stage", killed_at_student)
        with pytest.raises(Killed):
            place.main(path, "--resume")
    assert {file: file.read_text() for file in written} == written, "a step goes on from its files"
    assert record(place, "counts").is_done and not record(place).is_done

    assert place.main(path, "--resume") == 0
    check_whole(place, THREE)
    kept = json.loads((folder / "counts" / "artefacts.json").read_text())
    assert kept == {"labels": "trials/t0001/labels"}, "the point with the smallest total"
    (first, *_) = (folder / "counts" / "trials" / "t0001" / "labels").iterdir()
    assert first.read_text().split()[0] == str((folder / "teacher/best/model.safetensors").stat().st_size)

    before = {name: (folder / name / FILE_NAME).read_bytes() for name in THREE}
    capsys.readouterr()
    assert place.main(path, "--resume") == 0
    assert {name: (folder / name / FILE_NAME).read_bytes() for name in THREE} == before
    assert "stage student is done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stage_runs_alone_on_what_the_chain_has_or_on_what_is_given(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = write_chain(place, with_step=False), place.runs / "chain-001"
    assert place.main(path, "--stage", "student") == 2
    assert "--stage student needs teacher.best; add --resume runs/NAME" in capsys.readouterr().err
    assert not place.runs.exists()

    assert place.main(path, "--stage", "teacher") == 0
    assert record(place, "teacher").is_done and not (folder / "student").exists()
    assert not record(place).is_done
    assert place.main(path, "--resume", "--stage", "student") == 0
    check_whole(place, {"teacher": 2, "student": 1})

    weights = folder / "teacher" / "best" / "model.safetensors"
    given = {"from": "null", "method": "supervised", "params": json.dumps({**TINY_CNN, "weights": str(weights)})}
    overrides = [part for key, value in given.items() for part in ("--set", f"stages.student.{key}={value}")]
    assert place.main(path, "--stage", "student", *overrides) == 0
    alone = place.runs / "chain-002"
    assert read_trained_model(alone / "student").config.weights == str(weights)
    assert not (alone / "teacher").exists()

    save_weights(weights, {name: 0 * tensor for name, tensor in load_weights(weights).items()})
    assert place.main(path, "--resume", str(folder)) == 2
    assert "inputs.params.weights: teacher.best.weights sha256:" in capsys.readouterr().err


@pytest.mark.usefixtures("_counting")
def test_a_step_that_fails_ends_the_chain_with_its_error(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {"broken": {"step": "counting", "params": {"fault": True}}}
    assert place.main(write_chain(place, stages=stages)) == 1
    assert "stage broken: no point completed: RuntimeError: the counter is broken" in capsys.readouterr().out
    assert mlflow_runs(place)["chain-001/broken t0000"].info.status == "FAILED"
    assert mlflow_runs(place)["chain-001"].info.status == "FAILED"


def test_a_chain_that_is_wrong_starts_nothing(offline: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    before = offline.listing()
    path = write_chain(offline, with_step=False)
    assert offline.main(path, "--set", "stages.student.params.weights.from=teacher.best.wieghts") == 2
    assert "did you mean 'best.weights'?" in capsys.readouterr().err
    assert offline.main(path, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "===== stage teacher" in printed and "===== stage student" in printed
    assert offline.listing() == [*before, "chain.yaml"]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", ["in teacher", "between", "in student"])
def test_a_chain_killed_at_any_point_goes_on(place: Workplace, moment: str) -> None:
    path, folder = write_chain(place, with_step=False), place.runs / "chain-001"

    def has_come() -> bool:
        if moment == "between":
            return any(event.body["state"] == "ended" for event in record(place).stages)
        return any(event.kind == "started" for event in read_events(folder / moment.removeprefix("in ")))

    process = place.start(path)
    try:
        assert wait_until(lambda: has_come() or process.poll() is not None, START_TIMEOUT_S), place.output
        assert process.poll() is None, place.output
    finally:
        process.kill()
        process.wait()
    assert wait_until(lambda: not place.processes(), 30), place.processes()
    assert place.main(path, "--resume") == 0
    check_whole(place, {"teacher": 2, "student": 1})
