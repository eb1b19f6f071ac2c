"""What a node is asked before a sweep begins; `tests/sweeps/cluster` asks real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data import node_check
from data.ingest import ingest_serially
from data.node_check import PROBE_NAME, check_nodes, node_fault
from data.store import read_manifest
from data.synthetic import SyntheticConfig, SyntheticReader


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "store"
    ingest_serially(SyntheticReader(SyntheticConfig(task="af_segments", n_records=50, fs_hz=50, duration_s=4)), path)
    return path


def test_a_node_that_sees_store_and_folder_lacks_nothing(store: Path, tmp_path: Path) -> None:
    (tmp_path / PROBE_NAME).write_text("token", encoding="utf-8")
    assert node_fault(store, read_manifest(store).fingerprint, tmp_path / PROBE_NAME, "token") == ""


def test_a_node_says_what_it_lacks(store: Path, tmp_path: Path) -> None:
    probe, known = tmp_path / PROBE_NAME, read_manifest(store).fingerprint
    assert node_fault(tmp_path / "none", known, probe, "token") == f"no store at {tmp_path / 'none'}"
    assert "is another one" in node_fault(store, "f" * 64, probe, "token")
    assert "is not the one that the driver writes to" in node_fault(store, known, probe, "token")
    probe.write_text("of another sweep", encoding="utf-8")
    assert "is not the one that the driver writes to" in node_fault(store, known, probe, "token")


def node(port: int, alive: bool = True) -> dict[str, Any]:
    return {"NodeManagerAddress": "10.0.0.1", "NodeManagerPort": port, "Alive": alive, "NodeID": "f" * 56}


def test_one_living_node_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(node_check.ray, "nodes", lambda: [node(1), node(2, alive=False)])
    check_nodes(tmp_path / "none", "f" * 64, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_error_names_a_node_and_the_way_out_and_leaves_no_probe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(node_check.ray, "nodes", lambda: [node(1), node(2), node(3)])
    monkeypatch.setattr(node_check, "_ask", lambda *_: {"10.0.0.1:2": "no store at /x", "10.0.0.1:3": "no store at /x"})
    rule = r"node 10\.0\.0\.1:2 \(and 1 more of 3 nodes\): no store at /x; .* --set storage=/that/folder"
    with pytest.raises(ValueError, match=rule):
        check_nodes(Path("/x"), "f" * 64, tmp_path)
    assert list(tmp_path.iterdir()) == []
