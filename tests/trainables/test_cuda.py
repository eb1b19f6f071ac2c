"""Training on a GPU, where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.trainables.tiny_dataset import tiny_dataset
from trainables.plain_trial import PlainTrial
from trainables.supervised import SupervisedConfig, train
from trainables.trial import TrialStopped

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PARAMS: dict[str, Any] = {"model": "cnn", "channels": 16, "depth": 3, "epochs": 3, "batch_size": 16, "lr": 1e-2}


def run(trial: PlainTrial, **params: Any) -> dict[int, dict[str, float]]:
    train(SupervisedConfig(**{**PARAMS, **params}), tiny_dataset(), trial)
    return trial.reports


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "sgd"])
def test_a_gpu_learns_a_trivial_task(precision: str, optimizer: str) -> None:
    lr = 0.1 if optimizer == "sgd" else 1e-2
    report = run(PlainTrial(3, device="cuda"), precision=precision, optimizer=optimizer, lr=lr)[3]
    assert report["val/auroc"] > 0.95
    assert report["peak_memory_bytes"] > 4 * report["parameters"]


def test_a_gpu_agrees_with_the_cpu() -> None:
    exact = {"norm": "layer", "dropout": 0.0, "epochs": 1, "optimizer": "sgd"}
    on_cpu, on_gpu = run(PlainTrial(3), **exact)[1], run(PlainTrial(3, device="cuda"), **exact)[1]
    assert on_gpu["train/loss"] == pytest.approx(on_cpu["train/loss"], rel=1e-3)  # TF32 in cuDNN


def test_a_trial_resumes_on_a_gpu(tmp_path: Path) -> None:
    whole = run(PlainTrial(3, device="cuda"))
    with pytest.raises(TrialStopped):
        run(PlainTrial(3, tmp_path, device="cuda", stop_after=1))
    rest = run(PlainTrial(3, tmp_path, device="cuda"))
    assert rest[3]["train/loss"] == pytest.approx(whole[3]["train/loss"], rel=1e-3)  # cuDNN adds in any order


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_batch_norm_is_synchronised_over_gpus(tmp_path: Path) -> None:
    alone = run(PlainTrial(3, device="cuda"), dropout=0.0, epochs=1)[1]
    torch.multiprocessing.spawn(_train_rank, args=(tmp_path,), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    together = torch.load(tmp_path / "report.pt", weights_only=True)
    assert together["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-3)


def _train_rank(rank: int, folder: Path) -> None:
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    reports = run(PlainTrial(3, device=f"cuda:{rank}", rank=rank, world_size=2), dropout=0.0, epochs=1)
    if rank == 0:
        torch.save(reports[1], folder / "report.pt")
    dist.destroy_process_group()
