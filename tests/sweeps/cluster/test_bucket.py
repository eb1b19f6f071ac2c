"""A sweep whose root is a bucket: the node that it ran on is lost with its disk, and another one goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from data.bucket import COPIES, fetch, folders, path_of, read, send, sizes
from platform.sweeps.journal import FILE_NAME
from tests.sweeps.aftermath import check_aftermath
from tests.sweeps.workplace import MARK, ROOT, TINY_CNN, Workplace, states, wait_until

SLOW = {**TINY_CNN, "batch_size": 1, "lr": {"loguniform": [1e-4, 1e-2]}}


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_sweep_in_a_bucket_outlives_the_node_that_it_runs_on(
    offline: Workplace, bucket: str, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    place, root = offline, f"s3://{bucket}/lab"
    monkeypatch.setenv(COPIES, str(place.folder / "first"))
    store = path_of(root) / "stores/one_lead"
    shutil.copytree(place.stores / "one_lead", store)
    send(store)
    spec = place.write(
        params=SLOW,
        storage=root,
        data={**place.spec()["data"], "store": "stores/one_lead"},
        budget={"trials": 4, "epochs": 5},
        resources={"concurrency": 1 if workers else 2, "workers": workers},
    )
    process = start(place, spec)
    runs = path_of(root) / "runs"
    try:
        # Sent, so more than the journal's first lines: what the loss of the node leaves is not the beginning.
        assert wait_until(lambda: b'"reported"' in read(runs / "tiny-001" / FILE_NAME), 240, step_s=1), place.output
    finally:
        for each in place.processes():
            each.kill()
        process.wait()
    shutil.rmtree(place.folder / "first")

    monkeypatch.setenv(COPIES, str(place.folder / "second"))
    folder = path_of(root) / "runs/tiny-001"
    resumed = start(place, spec, "--resume", f"{root}/runs/tiny-001", "--accept-changes")  # other copies: another path
    assert resumed.wait(600) == 0, place.output
    assert sorted(path.relative_to(folder).as_posix() for path in sizes(folder / "trials")) == [
        f"trials/t{number:04d}/best.safetensors" for number in range(4)
    ]
    assert folders(folder) == ["best", "trials"], "nothing of Ray's is left"
    fetch(folder)
    shutil.copytree(folder, place.runs / "tiny-001")
    record = place.record()
    assert len(record.sessions) == 2
    assert set(states(record).values()) <= {"COMPLETED", "STOPPED"}
    check_aftermath(place)
    assert wait_until(lambda: not place.processes(), 60), place.processes()


def start(place: Workplace, spec: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a sweep whose folder is where its spec says."""
    command = [*place.command(spec, *arguments)[:-2]]
    environment = {**os.environ, MARK: str(place.folder), "RAY_ADDRESS": "local"}
    with (place.folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True, text=True, stdout=output, stderr=output
        )
