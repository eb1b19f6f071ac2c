"""A sweep that is killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

from platform.search.scheduler import Rule, build_rule
from platform.specs.spec import parse_spec
from platform.sweeps.journal import FILE_NAME, Event
from platform.sweeps.study_db import STATES
from tests.sweeps.tally import Tally
from tests.sweeps.workplace import Workplace, states, wait_until

START_TIMEOUT_S = 240


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("n_kills", "workers"),
    [
        (2, 0),
        pytest.param(10, 0, marks=[pytest.mark.slow, pytest.mark.faults]),
        pytest.param(2, 2, marks=[pytest.mark.slow, pytest.mark.faults]),
    ],
)
def test_a_sweep_killed_at_random_moments_ends_as_if_it_had_not_been(
    place: Workplace, tally: Tally, n_kills: int, workers: int
) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10_000)))
    print(f"KILL_SEED={seed}")
    moments = random.Random(seed)
    spec = place.write(
        budget={"trials": 2 * n_kills, "epochs": 4},
        resources={"concurrency": 1 if workers else 2, "workers": workers},
        search=ASHA,
        seed=seed,
    )
    run_ids: dict[str, str] = {}
    for kill in range(n_kills):
        arguments = ("--resume",) if (place.runs / "tiny-001" / FILE_NAME).exists() else ()
        process = place.start(spec, *arguments)
        try:
            _wait_for_moment(place, process, n_lines=moments.randint(1, 8), delay_s=moments.uniform(0, 0.5))
        finally:
            process.kill()
            process.wait()
        assert wait_until(lambda: not place.processes(), 30), place.processes()
        _keep_or_compare(run_ids, place)
        if kill == 0:
            _tear_last_line(place.runs / "tiny-001" / FILE_NAME)
    assert place.main(spec, "--resume") == 0
    check_whole(place, spec, n_trials=2 * n_kills)
    _keep_or_compare(run_ids, place)
    tally.check("kill -9 of the driver", place, n_kills)


ASHA = {"metric": "val/auroc", "mode": "max", "sampler": "random", "grace_period": 1, "reduction_factor": 2}


def _n_lines(place: Workplace) -> int:
    path = place.runs / "tiny-001" / FILE_NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait_for_moment(place: Workplace, process: subprocess.Popen[str], n_lines: int, delay_s: float) -> None:
    """Wait until the journal has `n_lines` more, and then `delay_s`; a sweep that ends before is as good."""
    wanted = _n_lines(place) + n_lines
    assert wait_until(lambda: _n_lines(place) >= wanted or process.poll() is not None, START_TIMEOUT_S), place.output
    assert process.poll() in (None, 0), place.output
    time.sleep(delay_s)


def _tear_last_line(journal: Path) -> None:
    with journal.open("ab") as file:
        file.write(b'{"event":"reported","time_s":17')


def _keep_or_compare(run_ids: dict[str, str], place: Workplace) -> None:
    """Check that MLflow's runs are those that were seen before, and remember the new ones."""
    found = {trial: run.info.run_id for trial, run in place.mlflow_runs().items()}
    assert {trial: found[trial] for trial in run_ids} == run_ids
    run_ids |= found


def check_whole(place: Workplace, spec_file: Path, n_trials: int) -> None:
    """Check that no trial is lost, ended twice or run again, and that every view agrees with the journal."""
    events, record = place.events(), place.record()
    assert [trial.number for trial in record.trials.values()] == list(range(n_trials))
    assert set(states(record).values()) <= {"COMPLETED", "STOPPED"}
    for name, trial in record.trials.items():
        own = [event for event in events if event.trial == name and event.kind not in ("tested", "measured")]
        assert Counter(event.kind for event in own)["ended"] == 1
        assert own[-1].kind == "ended", "nothing follows a trial's end"
        epochs = [event.body["epoch"] for event in own if event.kind == "reported"]
        assert epochs == list(range(1, len(epochs) + 1)), "every epoch once, in order"
        assert (trial.state == "COMPLETED") == (trial.epochs == 4)
    _check_verdicts(events, spec_file)
    runs = place.mlflow_runs()
    assert sorted(runs) == ["", *record.trials]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    study = optuna.load_study(study_name="tiny-001", storage=f"sqlite:///{place.runs / 'tiny-001' / 'study.db'}")
    for ours, theirs in zip(record.trials.values(), study.trials, strict=True):
        assert (theirs.params, theirs.state) == (ours.sampled, STATES[ours.state])
        assert theirs.intermediate_values == {epoch: m["val/auroc"] for epoch, m in ours.reports.items()}


def _check_verdicts(events: list[Event], spec_file: Path) -> None:
    """Replay the whole journal through one new ASHA: it stops just the trials that were stopped, where they were."""
    spec = parse_spec(spec_file)
    rule = Rule(build_rule(spec), spec.budget.epochs, seed=0)
    stops = {}
    for event in events:
        if event.kind == "reported" and rule.judge(event.trial, event.body["epoch"], event.body["metrics"]):
            stops[event.trial] = event.body["epoch"]
    ended = {event.trial: event.body["state"] for event in events if event.kind == "ended"}
    assert {trial for trial, state in ended.items() if state == "STOPPED"} == set(stops)
    for trial, epoch in stops.items():
        assert max(e.body["epoch"] for e in events if e.trial == trial and e.kind == "reported") == epoch


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_of_rays(offline: Workplace) -> None:
    process = offline.start(offline.write())
    assert wait_until(lambda: _n_lines(offline) > 2, START_TIMEOUT_S), offline.output
    assert len(offline.processes()) > 3
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not offline.processes(), 30), offline.processes()
