"""`storage` is the root of a cluster's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.bucket import COPIES
from platform.specs.spec import Spec
from platform.specs.storage import JOB, runs_folder
from tests.platform.small_spec import make_spec


def test_a_relative_store_lies_below_the_root_and_an_absolute_one_where_it_is() -> None:
    data = {"synthetic": {"task": "beats", "n_records": 200}}
    assert make_spec(storage="/mnt/ecg", data={"store": "stores/a", **data}).data.store == "/mnt/ecg/stores/a"
    assert make_spec(storage="/mnt/ecg", data={"store": "/scratch/a", **data}).data.store == "/scratch/a"
    assert make_spec(data={"store": "stores/a", **data}).data.store == "stores/a"


def test_mlflows_file_lies_below_the_root_and_a_server_is_where_it_is() -> None:
    assert make_spec(storage="/mnt/ecg").tracking.uri == "sqlite:////mnt/ecg/mlflow.db"
    for uri in ("sqlite:////scratch/a.db", "http://127.0.0.1:5000"):
        assert make_spec(storage="/mnt/ecg", tracking={"uri": uri}).tracking.uri == uri
    assert make_spec().tracking.uri == "sqlite:///mlflow.db"


def test_a_resolved_spec_resolves_to_itself() -> None:
    spec = make_spec(storage="/mnt/ecg")
    again = Spec.model_validate({**spec.model_dump(exclude_unset=True), "storage": "/mnt/ecg"})
    assert (again.data.store, again.tracking.uri) == (spec.data.store, spec.tracking.uri)


@pytest.mark.parametrize("storage", ["ecg", "file:///ecg", "s3://", "s3://b/../etc/x y", "s3://Bucket", "gs://bucket"])
def test_a_root_that_is_neither_an_absolute_path_nor_a_bucket_is_refused(storage: str) -> None:
    with pytest.raises(ValueError, match=r"must be the absolute path of a folder that every node has.* or a bucket"):
        make_spec(storage=storage)


def test_below_a_bucket_a_store_is_a_copy_and_mlflow_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COPIES, "/copies")
    data = {"store": "stores/a", "synthetic": {"task": "beats", "n_records": 200}}
    server = {"uri": "http://127.0.0.1:5000"}
    spec = make_spec(storage="s3://bucket/ecg", data=data, tracking=server)
    assert spec.data.store == "/copies/ecg-sweep/bucket/ecg/stores/a"
    with pytest.raises(ValueError, match=r"a database can't lie in a bucket; name MLflow's server.* got 'sqlite:///a'"):
        make_spec(storage="s3://bucket/ecg", data=data, tracking={"uri": "sqlite:///a"})


def written(folder: Path, storage: str = "") -> Path:
    path = folder / "spec.yaml"
    path.write_text(f"name: a\nstorage: {storage}\n" if storage else "name: a\n", encoding="utf-8")
    return path


def test_sweeps_lie_below_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB, raising=False)
    assert runs_folder(written(tmp_path, "/mnt/ecg"), (), Path("runs")) == Path("/mnt/ecg/runs")
    assert runs_folder(written(tmp_path), ("storage=/mnt/b",), Path("runs")) == Path("/mnt/b/runs")
    assert runs_folder(written(tmp_path, "/mnt/ecg"), (), Path("/scratch")) == Path("/scratch")
    assert runs_folder(written(tmp_path), (), Path("runs")) == Path("runs")
    monkeypatch.setenv(COPIES, "/copies")
    assert runs_folder(written(tmp_path, "s3://bucket/ecg"), (), Path("runs")) == Path(
        "/copies/ecg-sweep/bucket/ecg/runs"
    )


def test_a_job_without_a_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB, "{}")
    with pytest.raises(ValueError, match=r"a job's folder disappears with the job; .* --set storage="):
        runs_folder(written(tmp_path), (), Path("runs"))
