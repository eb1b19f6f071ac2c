"""A pretraining sweep on records without labels: what it leaves, and bundling its encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.config import DataConfig
from data.loading import load
from data.record_hashes import hash_records
from platform.bundle import BundledCard, bundle
from tests.sweeps.workplace import Workplace, states
from trainables.backbones.architecture import architecture_of, build_network
from trainables.backbones.weights import load_network

PARAMS = {
    "backbone": "ecg_fm", "size": "tiny", "mask_span": 2, "n_negatives": 5, "code_size": 32, "codes_a_group": 20,
    "lr": 1e-3,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_encoder_is_pretrained_and_bundled_with_all_that_it_has_seen(place: Workplace, tmp_path: Path) -> None:
    data = {"store": str(place.stores / "twelve_leads"), "labels": "none", "preprocess": [{"zscore": {"per": "lead"}}]}
    sections = {
        "method": "contrastive_pretrain",
        "data": data,
        "params": PARAMS,
        "search": {"metric": "val/contrastive", "mode": "min"},
        "budget": {"epochs": 2},
    }
    assert place.sweep(**sections) == 0
    run = place.runs / "tiny-001"
    assert set(states(place.record("tiny-001")).values()) == {"COMPLETED"}
    assert (run / "best" / "model.onnx").exists() and (run / "report.html").exists()
    assert not (run / "best" / "mlflow_model").exists()
    assert not place.record("tiny-001").tested

    bundle([run], "ecg_fm_tiny", tmp_path)
    architecture = architecture_of("ecg_fm", "tiny")
    load_network(build_network(architecture), tmp_path / "ecg_fm_tiny.safetensors", architecture)
    dataset = load(DataConfig(store=data["store"], labels="none"))
    seen = (tmp_path / "ecg_fm_tiny.records").read_text(encoding="utf-8").split()
    expected = [*dataset.train.record_ids.tolist(), *dataset.val.record_ids.tolist()]
    assert seen == hash_records("synthetic", expected)
    card = BundledCard.model_validate_json((tmp_path / "ecg_fm_tiny.json").read_bytes())
    assert [{kind: each.n_records for kind, each in run.kinds.items()} for run in card.seen] == [
        {"synthetic": len(seen)}
    ]
