"""AdaGrad-Fusion as a whole: it learns what LoRA with back-propagation learns, where zeroth order alone does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.trainables.tiny_dataset import LABEL_SETS, tiny_dataset
from trainables.adagrad_fusion import ADAGRAD_FUSION, AdagradFusionConfig, build_model, train
from trainables.onnx_export import export_onnx
from trainables.plain_trial import PlainTrial

DATASET = tiny_dataset("multilabel", n_train=192, n_val=192, n_timesteps=256)
LABEL_SET = LABEL_SETS["multilabel"]
PARAMS: dict[str, Any] = {"size": "nano", "rank": 4, "batch_size": 32, "cutmix_alpha": 0.0, "epochs": 6, "lr": 1e-2}


def auroc(**params: Any) -> float:
    trial = PlainTrial(3)
    train(AdagradFusionConfig(**{**PARAMS, **params}), DATASET, trial)
    return trial.reports[PARAMS["epochs"]]["val/auroc"]


def test_an_exported_model_has_its_updates_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {}
    for tuning, rank in (("full", {}), ("lora", {"rank": 8})):
        network = build_model(AdagradFusionConfig(size="nano", tuning=tuning, **rank), DATASET.signal, LABEL_SET)
        with torch.no_grad():
            for parameter in network.parameters():  # none alike: the exporter stores equal tensors once
                parameter.normal_(std=0.1)
        finished, path = ADAGRAD_FUSION.finish(network.eval()), tmp_path / f"{tuning}.onnx"
        ecg_BLT = torch.randn(5, len(DATASET.signal.lead_names), DATASET.signal.n_timesteps)
        torch.testing.assert_close(finished(ecg_BLT), network(ecg_BLT), rtol=1e-4, atol=1e-4)
        assert export_onnx(finished, DATASET.signal, path) < 1e-4
        sizes[tuning] = path.stat().st_size
    assert sizes["lora"] == sizes["full"]


def test_fused_training_comes_within_a_hundredth_of_lora_where_zeroth_order_falls_behind() -> None:
    lora, fused, zeroth = auroc(tuning="lora"), auroc(bp_batch=8), auroc(tuning="zo")
    assert fused > lora - 0.01
    assert zeroth < fused - 0.05
