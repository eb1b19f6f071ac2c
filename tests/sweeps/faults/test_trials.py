"""Faults that hit one trial: its process, its memory, its checkpoint, its numbers, its time."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.faults.faulty_method import FAULTY
from tests.sweeps.tally import Tally
from tests.sweeps.workplace import Workplace, states
from trainables.methods import METHODS

GRID = {"metric": "val/auroc", "mode": "max", "sampler": "grid", "scheduler": "none"}
ENDS = {
    "killed": "COMPLETED",
    "cut": "COMPLETED",
    "none": "COMPLETED",
    "hang": "FAILED",
    "memory": "FAILED",
    "nan": "FAILED",
    "raise": "FAILED",
}
"""How a trial ends that met the fault: what the machine did is tried again, what the method did is not."""

RANDOM = [pytest.param(None, id=f"random-{n}", marks=[pytest.mark.faults, pytest.mark.slow]) for n in range(10)]


@pytest.fixture(autouse=True)
def _faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "faulty", FAULTY)


def moments(seed: int | None) -> random.Random:
    """Return the random moments of a test: of a fixed seed, or of one that is printed."""
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(10_000))) if seed is None else seed
    print(f"FAULT_SEED={seed}")
    return random.Random(seed)


def sections(place: Workplace, faults: list[str], at: int, **resources: Any) -> dict[str, Any]:
    marks = place.folder / "marks"
    marks.mkdir(exist_ok=True)
    timeout_s = 4 if "hang" in faults else 60  # short where it is waited for, and of no consequence elsewhere
    return {
        "method": "faulty",
        "params": {"machine": {"choice": faults}, "at": at, "marks": str(marks), "epoch_s": 0.02},
        "search": GRID,
        "budget": {"trials": len(faults), "epochs": 4},
        "resources": {"concurrency": 2, "report_timeout_s": timeout_s, **resources},
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [7, *RANDOM])
def test_a_fault_of_the_machine_costs_no_trial_and_a_fault_of_the_method_costs_its_own(
    place: Workplace, tally: Tally, seed: int | None
) -> None:
    chance = moments(seed)
    faults = chance.sample(list(ENDS), len(ENDS))
    at = chance.randint(2, 4)
    assert place.sweep(**sections(place, faults, at)) == 0
    record = place.record()
    assert states(record) == {f"t{n:04d}": ENDS[fault] for n, fault in enumerate(faults)}
    for trial, fault in zip(record.trials.values(), faults, strict=True):
        assert trial.losses == (fault in ("killed", "cut")), f"{fault}: {trial.error}"
        assert trial.attempts == 1 + trial.losses
    hung = record.trials[f"t{faults.index('hang'):04d}"]
    assert "report_timeout_s = 4 s" in hung.error
    for fault in faults:
        if fault != "none":
            tally.check(f"trial: {fault}", place)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [7, *RANDOM])
def test_a_disk_that_is_full_under_the_checkpoints_interrupts_the_sweep_which_goes_on_later(
    place: Workplace, tally: Tally, seed: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = moments(seed)
    spec = place.write(**sections(place, chance.sample(["full", "none"], 2), at=chance.randint(1, 4)))
    assert place.main(spec) == 130
    error = capsys.readouterr().err.splitlines()[-1]
    assert "can't be written" in error
    assert f"make room, and go on with:  python -m platform.sweep {spec} --resume {place.runs / 'tiny-001'}" in error
    assert "FAILED" not in states(place.record()).values()
    assert place.main(spec, "--resume") == 0
    assert set(states(place.record()).values()) == {"COMPLETED"}
    tally.check("disk full under the checkpoints", place)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["killed", "cut", "full", "raise"])
@pytest.mark.parametrize("seed", RANDOM)
def test_a_fault_in_one_process_of_a_worker_group_is_one_of_the_trial(
    place: Workplace, tally: Tally, fault: str, seed: int | None
) -> None:
    at = moments(seed).randint(2, 4)
    spec = place.write(**sections(place, [fault], at, workers=2, concurrency=1))
    code = place.main(spec)
    if fault == "full":
        assert code == 130
        code = place.main(spec, "--resume")
    ends = "FAILED" if fault == "raise" else "COMPLETED"
    assert code == (1 if fault == "raise" else 0)
    assert states(place.record()) == {"t0000": ends}
    tally.check(f"worker group: {fault}", place)


def test_every_fault_has_a_row_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [fault for fault in (*ENDS, "full") if fault != "none" and f"`{fault}`" not in text] == []
