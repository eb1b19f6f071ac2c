"""ECG-FM as an expert: 5 s windows of the standardised record, as it was trained, and a fine-tuned file's logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.leads import LEADS_12
from data.preprocessing import Step, preprocess
from data.presets import ECG_FM
from data.resampling import Resample
from data.scaling import Zscore
from tests.trainables.backbones.fairseq_ecg_fm import state_of
from tests.trainables.experts.whole_records import SIGNAL, records_of
from trainables.backbones.architecture import architecture_of
from trainables.experts.ecg_fm import EcgFm, EcgFmConfig
from trainables.experts.table import build_expert
from trainables.weight_files import BUNDLED


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    pretrained = state_of(architecture_of("ecg_fm", "tiny"))
    heads = ("quantizer", "project_q", "final_proj", "mask_emb")
    encoder = {f"encoder.{name}": each for name, each in pretrained.items() if not name.startswith(heads)}
    return encoder | {"proj.weight": torch.randn(5, 96), "proj.bias": torch.randn(5)}


def test_it_sees_five_seconds_of_each_lead_standardised_over_the_record_and_averages_them(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    """Fault 5 of the original, which gave it ten seconds, and one deviation to all leads."""
    torch.save({"model": state}, tmp_path / "finetuned.pt")
    config = EcgFmConfig(weights=str(tmp_path / "finetuned.pt"), features=("logits", "embeddings"), n_labels=5)
    expert = build_expert(config, SIGNAL)
    assert isinstance(expert, EcgFm)
    ecg_BLT = records_of(lengths=(1_000, 1_000))
    prepared = torch.from_numpy(preprocess(ecg_BLT.numpy(), [Step.of(each) for each in ECG_FM], SIGNAL))
    assert prepared.shape == (2, 12, 5_000)
    halves = torch.stack([expert.backbone(prepared[:, :, :2_500]), expert.backbone(prepared[:, :, 2_500:])])
    embedding_BD = halves.mean(dim=0)
    logits_BK = embedding_BD @ state["proj.weight"].T + state["proj.bias"]
    torch.testing.assert_close(expert(ecg_BLT), torch.cat([logits_BK, embedding_BD], dim=1), rtol=2e-3, atol=2e-3)
    assert expert.input.lead_names == LEADS_12


def test_logits_need_a_fine_tuned_file_of_as_many_labels(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": state}, tmp_path / "finetuned.pt")
    with pytest.raises(ValueError, match="has 5 labels, but n_labels is 26; set it"):
        build_expert(EcgFmConfig(weights=str(tmp_path / "finetuned.pt"), features=("logits",)), SIGNAL)
    bare = {name: each for name, each in state.items() if not name.startswith("proj.")}
    torch.save({"model": bare}, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"has no proj\.weight, so it is not fine-tuned"):
        build_expert(EcgFmConfig(weights=str(tmp_path / "bare.pt"), features=("logits",)), SIGNAL)


def test_the_bundled_one_reads_250_hz_as_it_was_pretrained() -> None:
    expert = build_expert(EcgFmConfig(weights="bundled"), SIGNAL)
    assert isinstance(expert, EcgFm)
    card = json.loads((BUNDLED / "ecg_fm_tiny.json").read_text(encoding="utf-8"))
    assert expert.input.fs_hz == card["fs_hz"]
    assert card["seen"][-1]["preprocess"][-1]["zscore"]["per"] == expert.input.normalisation
    ecg_BLT = records_of(lengths=(1_000, 1_000))
    steps = [Step.of(Resample(fs_hz=250)), Step.of(Zscore(per="lead"))]
    prepared = torch.from_numpy(preprocess(ecg_BLT.numpy(), steps, SIGNAL))
    halves = torch.stack([expert.backbone(prepared[:, :, :1_250]), expert.backbone(prepared[:, :, 1_250:])])
    torch.testing.assert_close(expert(ecg_BLT), halves.mean(dim=0), rtol=5e-3, atol=5e-3)
