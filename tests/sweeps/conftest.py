"""Stores and an MLflow database, made once a session, for tests of whole sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from data.loading import DataConfig, make_store
from platform import tracking
from tests.sweeps.scripted_method import SCRIPTED
from tests.sweeps.tally import Tally
from tests.sweeps.workplace import ONE_LEAD, TWELVE_LEADS, Workplace
from trainables.methods import METHODS


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two stores and an MLflow database."""
    folder = tmp_path_factory.mktemp("sweeps")
    for name, synthetic in {"one_lead": ONE_LEAD, "twelve_leads": TWELVE_LEADS}.items():
        make_store(DataConfig.model_validate({"store": str(folder / name), "synthetic": synthetic}))
    tracking.prepare_mlflow()
    MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let warnings be warnings here: a trial's boundary would turn a third party's into a FAILED trial."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


def make_workplace(base: Path, name: str) -> Workplace:
    folder = base / name
    folder.mkdir()
    return Workplace(folder, base, base / "mlflow.db")


@pytest.fixture
def offline(base: Path, request: pytest.FixtureRequest) -> Iterator[Workplace]:
    """Return a place of the test's own, without Ray; what a failed test has left running is ended, by process id."""
    place = make_workplace(base, "".join(c if c.isalnum() else "_" for c in request.node.name))
    yield place
    for process in place.processes():
        process.kill()


@pytest.fixture
def place(offline: Workplace, ray_cluster: None) -> Workplace:
    """Return a place of the test's own, for sweeps on the session's cluster."""
    return offline


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Return what counts the faults that a test injects."""
    return Tally(record_property)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the method `scripted`, whose trials report and fail as their parameters say."""
    monkeypatch.setitem(METHODS, "scripted", SCRIPTED)


@pytest.fixture(scope="session")
def finished(base: Path, ray_cluster: None) -> Workplace:
    """Return the place of a finished sweep, `runs/tiny-001`, of four trials on twelve leads; do not change it."""
    place = make_workplace(base, "finished")
    data = {
        "store": str(base / "twelve_leads"),
        "preprocess": [{"bandpass": {"low_hz": 0.5, "high_hz": 20}}, {"zscore": {"per": "lead"}}],
    }
    code = place.sweep(
        data=data,
        budget={"trials": 4, "epochs": 3},
        resources={"concurrency": 2},
        search={"metric": "val/auroc", "mode": "max", "try_first": [{"lr": 1e-2}, {"lr": 1e-3}]},
    )
    assert code == 0
    return place
