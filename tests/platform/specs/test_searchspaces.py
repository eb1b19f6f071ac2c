"""Every shipped search space validates, and those of the PTB-XL benchmark follow its protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.loading import load
from platform import sweep
from platform.chains.stages import parse_chain
from platform.project import ROOT
from platform.specs.spec import parse_spec
from tests.searchspaces import ALL, BENCHMARK, OF_SEVERAL_STORES, SPACES, ingest_ptbxl, names
from trainables.data_steps import DATA_STEPS
from trainables.methods import METHODS
from trainables.plain_trial import PlainTrial
from trainables.supervised import SupervisedConfig


def test_there_are_search_spaces() -> None:
    assert SPACES


@pytest.mark.parametrize("path", [path for path in ALL if path.stem not in OF_SEVERAL_STORES], ids=names)
def test_a_shipped_search_space_validates(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([str(path), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "sampled configurations" in output or "points" in output  # of data steps


@pytest.mark.parametrize("name", sorted(OF_SEVERAL_STORES))
def test_a_shipped_chain_of_several_stores_is_one_whose_stages_have_known_parameters(name: str) -> None:
    for stage in parse_chain(ROOT / "searchspaces" / f"{name}.yaml").stages:
        values = stage.values
        fields = (DATA_STEPS[values["step"]] if "step" in values else METHODS[values["method"]]).config.model_fields
        assert values["params"].keys() <= fields.keys()


def test_every_task_of_the_benchmark_has_its_search_space() -> None:
    assert {path.stem for path in SPACES if path.stem.startswith("ptbxl_")} == set(BENCHMARK)


@pytest.mark.parametrize("name", BENCHMARK)
def test_a_search_space_of_the_benchmark_follows_its_protocol_with_every_model(name: str) -> None:
    spec = parse_spec(SPACES[0].with_name(f"{name}.yaml"))
    grid = {point.pop("model"): point for point in spec.space.grid()}
    assert grid == {
        "xresnet1d101": {"lr": 1e-2},
        "inception1d": {"lr": 1e-2},
        "resnet1d_wang": {"lr": 1e-2},
        "fcn_wang": {"lr": 1e-2},
        "lstm_bidir": {"clip_norm": 0.25},
    }
    assert SupervisedConfig().lr == 1e-3  # the LSTM's
    assert spec.budget.trials == len(grid)
    fixed = {**spec.space.fixed, "epochs": spec.budget.epochs}
    assert fixed == {
        "epochs": 50, "batch_size": 128, "optimizer": "adamw", "weight_decay": 1e-2, "schedule": "one_cycle",
        "dropout": 0.5, "loss": "bce", "crop_timesteps": 250, "window_stride": 125, "window_pooling": "max",
    }  # fmt: skip
    assert [step.model_dump() for step in spec.data.preprocess] == [{"zscore": {"per": "global"}}]


@pytest.fixture(scope="module")
def ptbxl_store(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingest_ptbxl(recordings, tmp_path_factory.mktemp("ptbxl") / "store")


@pytest.mark.parametrize(("name", "model"), BENCHMARK.items(), ids=BENCHMARK)
def test_a_search_space_of_the_benchmark_trains(name: str, model: str, ptbxl_store: Path) -> None:
    spec = parse_spec(SPACES[0].with_name(f"{name}.yaml"))
    method = METHODS[spec.method]
    (point,) = (point for point in spec.space.grid() if point["model"] == model)
    dataset = load(spec.data.model_copy(update={"store": str(ptbxl_store)}))
    trial = PlainTrial(spec.seed)
    method.train(method.parse_config({**spec.space.fixed, **point, "epochs": 1}), dataset, trial)
    assert set(trial.reports[1]) == method.reports("multilabel")
    assert f"_{dataset.label_set.name}" == name.removeprefix("ptbxl")
