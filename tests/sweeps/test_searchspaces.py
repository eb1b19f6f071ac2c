"""Every shipped search space runs end to end with a tiny budget; `tests/platform` checks what needs no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from platform.chains.stages import parse_chain
from platform.specs.spec import parse_spec
from platform.sweeps.journal import read_events, replay
from tests.searchspaces import BENCHMARK, CHAINS, OF_SEVERAL_STORES, SPACES, ingest_ptbxl, names
from tests.sweeps.workplace import Workplace, states

STANDS_IN: dict[str, dict[str, Any]] = {  # synthetic records in place of stores that a user ingests
    **{
        f"adagrad_fusion_{name}": {"task": "morphology", "fs_hz": 100, "duration_s": 10}
        for name in ("chapman", "g12ec", "ningbo", "ptbxl", "pretrain")
    },
    "bundled_ecg_fm": {"task": "multitask", "fs_hz": 250},
    "bundled_wav2vec2": {"task": "multitask", "fs_hz": 250},
    "ptbxl": {"task": "morphology", "fs_hz": 100, "duration_s": 10},
    **{
        f"enecg_{task}": {"task": "multitask", "fs_hz": 100, "duration_s": 10}
        for task in ("rr_interval", "age", "gender", "flag", "report_label")
    },
    "segments": {"task": "beats"},
}

TINY_EXPERTS = (
    "[{kind: moment}, {kind: dlinear, weights: {from: dlinear.best.weights}},"
    " {kind: timesnet, size: tiny, weights: {from: timesnet.best.weights}}]"
)
ADAPTED: dict[str, dict[str, Any]] = {
    "atml": {  # after three epochs the smallest networks still answer alike for all records
        "stages.phase2.budget.epochs": 15, "stages.phase2.params.lr": 1e-2,
    },
    **{  # what needs a GPU and published weights
        name: {
            "params.size": "nano", "params.weights": "random", "params.weights_file": "null",
            "params.batch_size": 32, "data.k_fold": "null", "data.drop_unlabelled": "false",
        }
        for name in STANDS_IN if name.startswith("adagrad_fusion_")
    },
    **{
        name: {
            "resources.gpus": 0, "stages.timesnet.params.size": "tiny", "stages.ensemble.params.experts": TINY_EXPERTS,
        }
        for name in STANDS_IN if name.startswith("enecg_")
    },
}  # fmt: skip
DOWNLOADED = {"peft_base"}  # their weights are fetched from a hub, and want a GPU


def slow_unless(name: str, path: Path) -> Any:
    """Run one search space by default, all of them in `make test-all`."""
    return pytest.param(path, id=path.stem, marks=[] if path.stem == name else [pytest.mark.slow])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "path",
    [slow_unless("quickstart", path) for path in SPACES if path.stem not in BENCHMARK and path.stem not in DOWNLOADED],
)
def test_a_shipped_search_space_runs(path: Path, place: Workplace) -> None:
    spec = parse_spec(path)
    labels = "none" if spec.data.labels == "none" else "null"  # pretraining looks at no label
    data = {"store": place.folder / "store", "labels": labels, "folds": "null"}
    synthetic = STANDS_IN.get(path.stem)
    if synthetic is None:
        assert spec.data.synthetic is not None
        synthetic = spec.data.synthetic.model_dump(mode="json")
    tiny = {
        **{f"data.{key}": value for key, value in data.items()},
        "data.synthetic": json.dumps({**synthetic, "n_records": 300}),
        "budget.trials": 2,
        "budget.epochs": 3,  # warm-up may take two
        **ADAPTED.get(path.stem, {}),
    }
    assert run(path, place, tiny) == 0
    assert set(states(place.record(f"{spec.name}-001")).values()) <= {"COMPLETED", "STOPPED"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", [path for path in CHAINS if path.stem not in OF_SEVERAL_STORES], ids=names)
def test_a_shipped_chain_runs(path: Path, place: Workplace) -> None:
    chain = parse_chain(path)
    sections = {f"stages.{name}.": stage for name, stage in chain.file.values["stages"].items()}
    overrides: dict[str, Any] = {}
    for prefix, section in {"": chain.file.values, **sections}.items():
        if "store" in section.get("data", {}):
            synthetic = STANDS_IN.get(path.stem) or section["data"]["synthetic"]
            overrides[f"{prefix}data.store"] = place.folder / Path(section["data"]["store"]).name
            overrides[f"{prefix}data.synthetic"] = json.dumps({**synthetic, "n_records": 300})
        if prefix and "step" not in section:  # a step has no trials
            overrides |= {f"{prefix}budget.trials": 2, f"{prefix}budget.epochs": 3}
    assert run(path, place, overrides | ADAPTED.get(path.stem, {})) == 0
    for stage in chain.stages:
        assert replay(read_events(place.runs / f"{chain.name}-001" / stage.name)).is_done


def run(path: Path, place: Workplace, overrides: dict[str, Any]) -> int:
    tracking = {"tracking.uri": place.tracking_uri, "tracking.experiment": place.folder.name}
    arguments = [f"{key}={value}" for key, value in {**overrides, **tracking}.items()]
    return place.main(path, *(part for argument in arguments for part in ("--set", argument)))


@pytest.fixture(scope="module")
def ptbxl_store(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingest_ptbxl(recordings, tmp_path_factory.mktemp("ptbxl") / "store")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "path", [slow_unless("ptbxl_diag_superclass", path) for path in SPACES if path.stem in BENCHMARK]
)
def test_a_search_space_of_the_benchmark_runs(path: Path, place: Workplace, ptbxl_store: Path) -> None:
    overrides = {"data.store": ptbxl_store, "params.model": BENCHMARK[path.stem], "budget.epochs": 1}
    assert run(path, place, overrides) == 0
    assert set(states(place.record(f"{path.stem}-001")).values()) == {"COMPLETED"}
