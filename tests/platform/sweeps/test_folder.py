from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform import sweep
from platform.sweep_request import read_request
from platform.sweeps import folder as sweep_folder
from platform.sweeps.folder import (
    ROOT,
    Identity,
    code_hash,
    git_commit,
    locked,
    new_folder,
    newest_folder,
    read_identity,
    size_bytes,
    versions,
)
from platform.sweeps.journal import Journal

IDENTITY = Identity(
    spec={"seed": 3, "params.lr": {"loguniform": [1e-4, 1e-1]}, "budget.trials": 10, "budget.epochs": 9},
    fingerprint="abc",
    code="123",
)


def open_sweep(folder: Path, identity: Identity = IDENTITY) -> Path:
    journal = Journal(folder)
    journal.append(
        "opened",
        spec=identity.spec,
        fingerprint=identity.fingerprint,
        code=identity.code,
        overrides=("budget.trials=10",),
    )
    journal.close()
    return folder


# ------------------------------------------------------------------ names


def test_a_new_sweep_takes_the_next_number_and_never_a_folder_that_exists(tmp_path: Path) -> None:
    made = [new_folder(tmp_path / "runs", "tiny") for _ in range(3)]
    assert [folder.name for folder in made] == ["tiny-001", "tiny-002", "tiny-003"]
    made[0].rmdir()
    assert new_folder(tmp_path / "runs", "tiny").name == "tiny-004"  # the newest has the highest number


def test_sweeps_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_folder(tmp_path, "tiny"), range(24)))
    assert len(set(made)) == 24


def test_the_newest_sweep_is_the_highest_number_that_has_a_journal(tmp_path: Path) -> None:
    for name in ("tiny-001", "tiny-002", "tiny-1000", "tiny-1001"):
        (tmp_path / name).mkdir()
    for name in ("tiny-001", "tiny-002", "tiny-1000"):
        open_sweep(tmp_path / name)
    assert newest_folder(tmp_path, "tiny").name == "tiny-1000"


def test_a_spec_whose_name_begins_with_anothers_is_another_spec(tmp_path: Path) -> None:
    for name in ("tiny-001", "tiny-wide-005", "tiny-001-009", "tiny-007x"):
        (tmp_path / name).mkdir()
        open_sweep(tmp_path / name)
    assert newest_folder(tmp_path, "tiny").name == "tiny-001"
    assert new_folder(tmp_path, "tiny").name == "tiny-002"
    assert newest_folder(tmp_path, "tiny-001").name == "tiny-001-009"


def test_a_resume_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no sweep of 'tiny' under .*; start one without --resume"):
        newest_folder(tmp_path, "tiny")
    with pytest.raises(ValueError, match="not a sweep's folder, it has no journal"):
        read_identity(tmp_path)


# ------------------------------------------------------------------ the lock


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds the lock of `tmp_path` until it is killed."""
    code = (
        "import sys; from pathlib import Path; from platform.sweeps.folder import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(ValueError, match="another process runs this sweep; wait for its end or stop it"),
        locked(tmp_path),
    ):
        pass
    holder.kill()  # SIGKILL: nothing of the process' own could free the lock
    holder.wait()
    with locked(tmp_path):
        pass


def test_a_lock_is_freed_with_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            pass


# ------------------------------------------------------------------ identity


def test_an_identity_survives_the_journal(tmp_path: Path) -> None:
    assert read_identity(open_sweep(tmp_path)) == (IDENTITY, ("budget.trials=10",))


def test_what_was_last_accepted_counts(tmp_path: Path) -> None:
    open_sweep(tmp_path)
    open_sweep(tmp_path, replace(IDENTITY, code="456"))
    assert read_identity(tmp_path)[0].code == "456"


def test_nothing_has_changed_where_nothing_has() -> None:
    assert IDENTITY.changes_from(IDENTITY) == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"seed": 4}, "seed: 3 -> 4"),
        ({"params.lr": 0.1}, "params.lr: {'loguniform': [0.0001, 0.1]} -> 0.1"),
        ({"params.dropout": 0.5}, "params.dropout: not set -> 0.5"),
        ({"budget.epochs": 10}, "budget.epochs: 9 -> 10"),  # the rungs are made for it
    ],
)
def test_a_changed_space_is_printed_key_by_key(changed: dict[str, object], line: str) -> None:
    assert replace(IDENTITY, spec={**IDENTITY.spec, **changed}).changes_from(IDENTITY) == [line]


def test_changed_data_and_code_are_printed() -> None:
    changes = replace(IDENTITY, fingerprint="def", code="456").changes_from(IDENTITY)
    assert changes == ["data set: fingerprint abc -> def", "code: 123 -> 456"]


@given(
    key=st.sampled_from(
        ["budget.trials", "budget.total_epochs", "budget.wall_time_s", "budget.disk_bytes", "resources.workers",
         "resources.gpus", "tracking.uri", "tracking.experiment"]
    ),
    value=st.integers(1, 100),
)  # fmt: skip
def test_budget_resources_and_tracking_may_change(key: str, value: int) -> None:
    assert replace(IDENTITY, spec={**IDENTITY.spec, key: value}).changes_from(IDENTITY) == []


SPEC_TEXT = """
name: tiny
method: supervised
data: {store: stores/tiny, synthetic: {task: beats, n_records: 200}}
params: {lr: {loguniform: [1e-4, 1e-1]}}
search: {metric: val/auroc, mode: max, sampler: SAMPLER, scheduler: none}
budget: {trials: 9, epochs: 2}
"""


def resumed(tmp_path: Path, sampler: str, *overrides: str) -> list[str]:
    """Begin a sweep of 9 trials, resume it with `overrides`, and return what has changed."""
    spec_file, folder = tmp_path / "tiny.yaml", tmp_path / "tiny-001"
    spec_file.write_text(SPEC_TEXT.replace("SAMPLER", sampler))
    folder.mkdir()
    first, _ = read_request(sweep._parse_arguments([str(spec_file)]))
    journal = Journal(folder)
    journal.append("opened", spec=first.flat(), fingerprint="", code="", overrides=())
    journal.close()
    flags = [flag for override in overrides for flag in ("--set", override)]
    spec, request = read_request(sweep._parse_arguments([str(spec_file), "--resume", str(folder), *flags]))
    assert request.overrides == overrides
    return Identity(spec.flat(), "", "").changes_from(read_identity(folder)[0])


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsgaii"])
def test_more_trials_do_not_change_the_samplers_defaults_that_the_first_budget_gave(
    tmp_path: Path, sampler: str
) -> None:
    assert resumed(tmp_path, sampler, "budget.trials=90", "budget.wall_time_s=5") == []


def test_a_samplers_option_that_is_set_on_a_resume_is_a_change(tmp_path: Path) -> None:
    changes = resumed(tmp_path, "tpe", "budget.trials=90", "search.n_startup_trials=5")
    assert changes == ["search.n_startup_trials: 3 -> 5"]


def test_the_codes_hash_is_stable_and_hears_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_hash() == code_hash()
    monkeypatch.setattr(sweep_folder, "ROOT", tmp_path)
    hashes = {code_hash()}
    for name in ("platform/a.py", "trainables/a.py", "data/a.py", "data/deep/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
        hashes.add(code_hash())
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/a.py").write_text("x = 1\n")
    assert len(hashes) == 5
    assert code_hash() in hashes


def test_the_commit_and_the_versions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"torch {version('torch')}" in versions()
    monkeypatch.setattr(sweep_folder, "ROOT", tmp_path)  # an export without .git
    assert git_commit() == "unknown"


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a").write_bytes(bytes(100))
    (tmp_path / "b").write_bytes(bytes(10))
    (tmp_path / "link").symlink_to(tmp_path / "deep/a")
    assert size_bytes(tmp_path) == 110
    assert size_bytes(tmp_path / "nowhere") == 0
