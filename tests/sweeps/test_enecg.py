"""A sweep of an ensemble: features through Ray Data, trials on them, and the table of experts and mixings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from data.config import DataConfig
from data.ingest import ingest_serially
from data.kinds.mimic_iv_ecg import MimicIvEcgConfig, build_reader
from data.loading import make_store, materialise
from platform.models.trained_model import read_trained_model
from tests.sweeps.mimic_layout import write_mimic
from tests.sweeps.workplace import TINY_CNN, Workplace, states
from trainables.enecg import EnecgConfig, frozen_expert
from trainables.expert_features import expert_function
from trainables.expert_pass import ExpertPass, Tasks
from trainables.features import FeatureCache

EXPERTS = [
    {"kind": "dlinear", "features": ["embeddings"]},
    {"kind": "dlinear", "leads": ["I", "V5"]},
    {"kind": "timesnet", "size": "tiny", "features": ["embeddings"]},
]
CPU = torch.device("cpu")


def store(folder: Path, labels: str) -> dict[str, Any]:
    task = "morphology" if labels == "morphology" else "multitask"
    synthetic = {"task": task, "n_records": 300, "fs_hz": 100, "duration_s": 5}
    return {"store": str(folder / task), "synthetic": synthetic, "labels": labels}


@pytest.mark.usefixtures("ray_cluster")
def test_a_pass_through_ray_data_gives_what_one_process_does(tmp_path: Path) -> None:
    config = DataConfig.model_validate(store(tmp_path, "gender"))
    make_store(config)
    shared = materialise(config)
    dataset = shared.open()
    assert dataset.source is not None
    (expert,) = EnecgConfig.model_validate({"experts": EXPERTS[:1]}).experts
    function = expert_function("dlinear", frozen_expert(expert, dataset.signal), "fp32", CPU)
    tasks = ExpertPass(expert, "fp32", shared, "train", Tasks(2, cpus=1, gpus=0))
    rows = np.arange(dataset.train.n_records)
    here = FeatureCache(tmp_path / "here", 10**9).get(function, dataset.train, dataset.source).take(rows)
    through_ray = FeatureCache(tmp_path / "ray", 10**9).get(function, dataset.train, dataset.source, tasks).take(rows)
    np.testing.assert_allclose(through_ray, here, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("labels", "metric", "mode", "folds"),
    [
        ("report_label", "val/macro_f1", "max", None),
        ("rr_interval", "val/mae", "min", None),
        ("gender", "val/auroc", "max", {"k": 3}),
        ("morphology", "val/auroc", "max", None),
    ],
)
def test_a_sweep_compares_experts_mixings_and_oracle(
    labels: str, metric: str, mode: str, folds: dict[str, int] | None, place: Workplace
) -> None:
    sections: dict[str, Any] = {
        "method": "enecg",
        "data": store(place.folder, labels),
        "params": {"experts": EXPERTS, "mixing": {"choice": ["gate", "static"]}, "head_width": 16, "lr": 1e-3},
        "search": {"metric": metric, "mode": mode, "sampler": "grid", "scheduler": "none"},
        "budget": {"trials": 2, "epochs": 2},
    }
    assert place.sweep(**sections, **({} if folds is None else {"folds": folds})) == 0
    run = place.runs / "tiny-001"
    assert set(states(place.record("tiny-001")).values()) == {"COMPLETED"}
    table = pd.read_csv(run / "result" / "experts.csv")
    names = table["ensemble"].tolist()
    assert names[:3] == ["dlinear_1", "dlinear_2", "timesnet"]
    assert names[-1] == "oracle"
    assert sum(name.endswith("(best trial)") for name in names) == 1 and len(names) == 3 + 4 + 1
    headline = "mae" if mode == "min" else "accuracy"
    alone, oracle = table[headline][:3], table[headline].iloc[-1]
    assert oracle < alone.min() if mode == "min" else oracle > alone.max()
    assert (table[f"{headline} low"] <= table[headline]).all() and (table[headline] <= table[f"{headline} high"]).all()
    weights = pd.read_parquet(run / "result" / "weights.parquet")
    each = weights[[column for column in weights if column.startswith("weight/")]]
    np.testing.assert_allclose(each.sum(axis=1), 1.0, rtol=1e-4)
    assert weights["record_id"].is_unique and set(weights["split"]) == {"val", "test"}
    costs = pd.read_csv(run / "result" / "costs.csv")
    assert costs["experts"].str.count(r"\+").tolist() == [2, 1, 0, 0, 0]
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Experts and mixings" in report and "weights by label" in report and "cheapest ensemble within" in report
    assert (run / "best" / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_jsonl_of_mimic_iv_ecg_becomes_a_store_whose_labels_name_the_task(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_mimic(place.folder, n_records=300)
    store = place.folder / "mimic"
    options = MimicIvEcgConfig(source=str(source), root=str(place.folder / "root"), fs_hz=100)
    ingest_serially(build_reader(options), store)
    sections: dict[str, Any] = {
        "method": "enecg",
        "params": {"experts": EXPERTS[:2], "head_width": 16},
        "budget": {"epochs": 2},
    }
    data = {"store": str(store), "labels": "rr_interval"}
    assert place.sweep(**sections, data=data, search={"metric": "val/macro_f1", "mode": "max"}) == 2
    assert "enecg reports no 'val/macro_f1' where the labels are regression" in capsys.readouterr().err
    assert place.sweep(**sections, data=data, search={"metric": "val/mae", "mode": "min"}) == 0
    table = pd.read_csv(place.runs / "tiny-001" / "result" / "experts.csv")
    assert {"mae", "mse"} <= set(table)
    weights = pd.read_parquet(place.runs / "tiny-001" / "result" / "weights.parquet")
    assert weights["label/rr_interval"].between(200, 3000).all()  # no 29999, which is missing


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_ensemble_that_cannot_be_exported_says_so_and_works(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    sections: dict[str, Any] = {
        "method": "enecg",
        "data": store(place.folder, "gender"),
        "params": {"experts": [{"kind": "hubert_ecg"}, EXPERTS[0]], "head_width": 16},
        "search": {"metric": "val/auroc", "mode": "max"},
        "budget": {"epochs": 2},
    }
    assert place.sweep(**sections) == 0
    run = place.runs / "tiny-001"
    assert "no ONNX file, since HuBERT-ECG's filters run forwards and backwards" in capsys.readouterr().out
    assert not (run / "best" / "model.onnx").exists() and (run / "best" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_winner_of_another_methods_search_becomes_an_expert(place: Workplace) -> None:
    chain = {
        "name": "chain",
        "seed": 3,
        "data": store(place.folder, "gender"),
        "search": {"metric": "val/auroc", "mode": "max"},
        "budget": {"trials": 2, "epochs": 2},
        "tracking": {"uri": place.tracking_uri, "experiment": place.folder.name},
        "stages": {
            "cnn": {"method": "supervised", "params": {**TINY_CNN, "lr": {"choice": [1e-2, 1e-4]}}},
            "ensemble": {
                "method": "enecg",
                "params": {
                    "experts": [{"kind": "trained", "weights": {"from": "cnn.best"}}, EXPERTS[0]],
                    "mixing": {"choice": ["gate", "stacking"]},
                    "head_width": 16,
                },
            },
        },
    }
    path = place.folder / "chain.yaml"
    path.write_text(json.dumps(chain), encoding="utf-8")
    assert place.main(path) == 0
    ensemble = place.runs / "chain-001" / "ensemble"
    names = pd.read_csv(ensemble / "result" / "experts.csv")["ensemble"].tolist()
    assert names[:2] == ["trained", "dlinear"]
    winner = place.runs / "chain-001" / "cnn" / "best"
    config = read_trained_model(ensemble).config
    assert isinstance(config, EnecgConfig) and config.experts[0].weights == str(winner.absolute())
    assert (ensemble / "best" / "model.onnx").exists()
