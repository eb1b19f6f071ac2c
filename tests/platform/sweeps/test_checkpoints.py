from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.bucket import COPIES, path_of, send, sizes
from platform.sweeps.checkpoints import KEPT_TRIALS, CheckpointKeeper, rank
from platform.sweeps.journal import Event, SweepRecord, replay
from platform.sweeps.study_db import Objectives
from trainables.tune_trial import BEST_FILE, LAST_FILE

ONE: Objectives = [("val/auroc", "max")]
TWO: Objectives = [("val/auroc", "max"), ("val/loss", "min")]
BEST_BYTES, LAST_BYTES = 100, 300


class Folder:
    """A sweep's folder whose trials write checkpoints of known size."""

    def __init__(self, root: Path, objectives: Objectives = ONE, disk_bytes: float | None = None) -> None:
        self.root, self.trials, self.objectives = root, root / "trials", objectives
        self.record = SweepRecord()
        self.apply(Event("opened", 0))
        self.keeper = self.new_keeper(disk_bytes)

    def new_keeper(self, disk_bytes: float | None = None) -> CheckpointKeeper:
        return CheckpointKeeper(self.root, self.trials, self.record, self.objectives, disk_bytes)

    def apply(self, event: Event) -> None:
        self.record.apply(event)

    def start(self, number: int, auroc: float = 0.5) -> str:
        trial = f"t{number:04d}"
        body = {"number": number, "params": {}, "sampled": {}, "distributions": {}}
        self.apply(Event("proposed", number, trial, body))
        metrics = {"val/auroc": auroc, "val/loss": auroc}
        self.apply(Event("reported", number, trial, {"epoch": 1, "metrics": metrics}))
        folder = self.trials / trial
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BEST_FILE).write_bytes(bytes(BEST_BYTES))
        (folder / LAST_FILE).write_bytes(bytes(LAST_BYTES))
        return trial

    def end(self, trial: str, state: str = "COMPLETED", excess: float = 0.0) -> None:
        event = Event("ended", 1, trial, {"state": state, "constraints": {"rule": excess}})
        self.apply(event)
        self.keeper.on_event(event)

    @property
    def files(self) -> dict[str, set[str]]:
        return {folder.name: {path.name for path in folder.iterdir()} for folder in self.trials.iterdir()}

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


def test_the_best_ten_trials_keep_their_best_weights_and_live_ones_everything(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    live = folder.start(99)
    for number in range(15):
        folder.end(folder.start(number, auroc=0.5 + 0.01 * number), "STOPPED" if number % 2 else "COMPLETED")
    kept = {f"t{number:04d}": {BEST_FILE} for number in range(5, 15)}
    assert len(kept) == KEPT_TRIALS
    assert folder.files == {**kept, live: {BEST_FILE, LAST_FILE}}


@pytest.mark.parametrize(("state", "excess"), [("FAILED", 0.0), ("COMPLETED", 1.0)])
def test_failed_and_infeasible_trials_keep_nothing(tmp_path: Path, state: str, excess: float) -> None:
    folder = Folder(tmp_path)
    folder.end(folder.start(0, auroc=0.99), state, excess)
    folder.end(folder.start(1, auroc=0.6))
    assert set(folder.files) == {"t0001"}


@settings(max_examples=25, deadline=None)
@given(
    aurocs=st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8]), min_size=1, max_size=14),
    disk_bytes=st.sampled_from([None, 1, 1500]),
)
def test_the_best_trial_is_never_removed(
    aurocs: list[float], disk_bytes: float | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Folder(tmp_path_factory.mktemp("sweep"), disk_bytes=disk_bytes)
    for number, auroc in enumerate(aurocs):
        folder.end(folder.start(number, auroc))
        folder.keeper.shortage()
        assert BEST_FILE in folder.files[rank(folder.record, ONE)[0].trial]


def test_of_equal_trials_the_earliest_is_the_best(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for number in range(3):
        folder.end(folder.start(number, auroc=0.7))
    assert [trial.trial for trial in rank(folder.record, ONE)] == ["t0000", "t0001", "t0002"]


def test_trials_of_several_objectives_all_stay_since_any_may_be_on_the_front(tmp_path: Path) -> None:
    folder = Folder(tmp_path, TWO)
    for number in range(15):
        folder.end(folder.start(number, auroc=0.5 + 0.01 * number))
    assert len(folder.files) == 15


def test_what_a_kill_left_behind_is_tidied_at_the_next_start_and_a_resume_finds_what_it_needs(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    ended, running = folder.start(0, auroc=0.6), folder.start(1)
    (folder.trials / ended / ".last.ckpt.123.tmp").write_bytes(b"torn")
    folder.apply(Event("ended", 1, ended, {"state": "STOPPED"}))  # and killed before the keeper heard of it
    folder.new_keeper()
    assert folder.files == {ended: {BEST_FILE}, running: {BEST_FILE, LAST_FILE}}


# ------------------------------------------------------------------ the disk


def test_without_a_bound_there_is_always_room(tmp_path: Path) -> None:
    assert Folder(tmp_path).keeper.shortage() == ""


def test_the_worst_kept_weights_go_where_one_more_trial_needs_the_room(tmp_path: Path) -> None:
    """Each ended trial takes 100 bytes and a live one 400: of 900 bytes five trials may stay."""
    folder = Folder(tmp_path, disk_bytes=900)
    for number in range(9):
        assert folder.keeper.shortage() == ""
        folder.end(folder.start(number, auroc=0.5 + 0.01 * number))
    assert folder.keeper.shortage() == ""
    assert set(folder.files) == {f"t{number:04d}" for number in range(4, 9)}


def test_a_sweep_that_asks_before_each_trial_never_exceeds_its_disk(tmp_path: Path) -> None:
    bound = 1500
    folder = Folder(tmp_path, disk_bytes=bound)
    live: list[str] = []
    for number in range(30):
        if len(live) == 2:
            folder.end(live.pop(0))
        if folder.keeper.shortage() == "":
            live.append(folder.start(number, auroc=0.5 + 0.001 * number))
        assert folder.size <= bound
    assert len(folder.record.trials) == 30


def test_trials_under_way_that_have_saved_nothing_yet_count_in_full(tmp_path: Path) -> None:
    folder = Folder(tmp_path, disk_bytes=1000)
    folder.end(folder.start(0))  # 400 at its largest
    body = {"number": 1, "params": {}, "sampled": {}, "distributions": {}}
    folder.apply(Event("proposed", 1, "t0001", body))
    assert folder.keeper.shortage() == ""  # 100 + 400 + 400
    folder.apply(Event("proposed", 2, "t0002", {**body, "number": 2}))
    assert folder.keeper.shortage() != ""


def test_files_that_are_no_checkpoints_count_too_and_the_shortage_names_the_way_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path, disk_bytes=900)
    folder.end(folder.start(0))
    (tmp_path / "journal.jsonl").write_bytes(bytes(500))
    assert folder.keeper.shortage() == (
        f"budget.disk_bytes: {tmp_path} would take 1,000 bytes with one more trial, more than 900; resume "
        "with a higher budget.disk_bytes"
    )


def test_a_bucket_keeps_what_a_folder_would_and_the_kept_weights_come_here(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COPIES, str(tmp_path / "nodes"))
    root = path_of(f"s3://{bucket}/tiny-001")
    folder = Folder(root)
    for number in range(KEPT_TRIALS + 2):
        trial = folder.start(number, auroc=number / 100)
        send(root / "trials" / trial)
        shutil.rmtree(root / "trials" / trial)  # it was trained on another node
        folder.end(trial)
    live = folder.start(99)
    send(root / "trials" / live)
    kept = {f"t{number:04d}": {BEST_FILE} for number in range(2, KEPT_TRIALS + 2)}
    assert folder.files == {**kept, live: {BEST_FILE, LAST_FILE}}
    assert {path.relative_to(root / "trials").as_posix() for path in sizes(root)} == {
        *(f"{trial}/{BEST_FILE}" for trial in kept), f"{live}/{BEST_FILE}", f"{live}/{LAST_FILE}",
    }  # fmt: skip


def test_an_empty_record_of_a_resume_replays(tmp_path: Path) -> None:
    assert CheckpointKeeper(tmp_path, tmp_path / "trials", replay([]), ONE, 1e9).shortage() == ""


def test_the_best_trial_of_every_cell_keeps_its_weights_whatever_the_disk(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    bests = {"a": folder.start(0, auroc=0.2), "b": folder.start(1, auroc=0.1)}
    others = [folder.start(number, auroc=0.5 + number / 100) for number in range(2, 15)]
    cells = {trial: cell for cell, trial in bests.items()}
    for trial in [*bests.values(), *others]:
        folder.record.trials[trial].params["cell"] = cells.get(trial, "c")
    folder.keeper = CheckpointKeeper(tmp_path, folder.trials, folder.record, ONE, 1.0, lambda params: params["cell"])
    for trial in [*bests.values(), *others]:
        folder.end(trial)
    assert set(folder.files) == {*bests.values(), *others[-KEPT_TRIALS:]}
    assert "resume with a higher budget.disk_bytes" in folder.keeper.shortage()
    assert set(folder.files) == {*bests.values(), others[-1]}
