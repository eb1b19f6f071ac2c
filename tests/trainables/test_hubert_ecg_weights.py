"""Weights of HuBERT-ECG from every kind of file; nothing of a file but tensors is ever made."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trainables.backbones.architecture import build_network
from trainables.backbones.weights import load_network
from trainables.hubert_ecg_encoder import hubert_ecg_architecture
from trainables.hubert_ecg_weights import find_weights, is_published, load_encoder, read_tensors

ARCHITECTURE = hubert_ecg_architecture("tiny", 100.0)


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    return build_network(ARCHITECTURE)


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict as older torch wrote it."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    return {_replace(name, names): tensor for name, tensor in state.items()}


def _replace(name: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        name = name.replace(new, old)
    return name


class Config:
    """Stands for the configuration object in a published file; it must never be made."""

    made = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, ()


def _make() -> Config:
    Config.made = True
    return Config()


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def written(kind: str, folder: Path) -> Path:
    state = network(1).state_dict()
    heads = {"final_proj.0.weight": torch.zeros(3, 3), "label_embedding.0.weight": torch.zeros(5, 3)}
    if kind == "our run":
        save_file({**{f"hubert.{name}": each for name, each in state.items()}, **heads}, folder / "model.safetensors")
        return folder
    if kind == "safetensors":
        save_file(old_names(state), folder / "weights.safetensors")
        return folder / "weights.safetensors"
    inner = {**old_names({f"hubert_ecg.{name}": each for name, each in state.items()}), **heads}
    content = {"global_step": 7, "model_config": Config(), "model_state_dict": inner, "best_val_loss": 0.5}
    path = folder / "checkpoint.pt"
    torch.save(content, path, _use_new_zipfile_serialization=kind == "pt")
    return path


@pytest.mark.parametrize("kind", ["our run", "safetensors", "pt", "legacy pt"])
def test_both_names_of_the_weight_normed_convolution_are_read_whatever_the_file(kind: str, tmp_path: Path) -> None:
    expected, found = network(1), network(2)
    load_encoder(found, str(written(kind, tmp_path)), "tiny")
    for name, tensor in expected.state_dict().items():
        assert found.state_dict()[name].equal(tensor), name
    assert not Config.made


def test_a_pretrainings_best_folder_is_read_by_the_generic_backbones_too(tmp_path: Path) -> None:
    found = network(2)
    state = {f"hubert.{name}": each for name, each in network(1).state_dict().items()}
    save_file({**state, "projector.0.project.weight": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    load_network(found, tmp_path / "model.safetensors", ARCHITECTURE)
    assert found.feature_projection.projection.weight.equal(network(1).feature_projection.projection.weight)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model_state_dict": {"a": torch.ones(2)}, "model_config": Harm()}
    torch.save(content, tmp_path / "harm.pt", _use_new_zipfile_serialization=zipped)
    assert read_tensors(tmp_path / "harm.pt")["a"].tolist() == [1, 1]
    assert not (tmp_path / "harm").exists()


def test_what_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt can't be read as weights"):
        read_tensors(tmp_path / "text.pt")
    (tmp_path / "other.pt").write_bytes(pickle.dumps({"model_state_dict": {}}))
    with pytest.raises(ValueError, match=r"can't be read as weights|no state dict"):
        read_tensors(tmp_path / "other.pt")


def test_weights_of_another_size_or_place_are_refused(tmp_path: Path) -> None:
    state = network(1).state_dict()
    state.pop("encoder.layer_norm.weight")
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"not of HuBERT-ECG tiny .*encoder\.layer_norm\.weight is missing"):
        load_encoder(network(2), str(tmp_path / "part.safetensors"), "tiny")
    with pytest.raises(ValueError, match="weights: hubert_ecg_base are not of size tiny; set size: base"):
        find_weights("hubert_ecg_base", "tiny")
    with pytest.raises(ValueError, match="nowhere is no file or folder here"):
        find_weights("nowhere", "tiny")
    with pytest.raises(ValueError, match="has neither"):
        find_weights(str(tmp_path), "tiny")


def test_the_bundled_encoder_is_taken_at_its_rate_and_refused_at_others() -> None:
    fitting = build_network(hubert_ecg_architecture("tiny", 500.0))
    before = fitting.encoder.layers[0].attention.k_proj.weight.clone()
    load_encoder(fitting, "bundled", "tiny")
    assert not torch.equal(fitting.encoder.layers[0].attention.k_proj.weight, before)
    with pytest.raises(ValueError, match=r"choose size and data\.preprocess \(bundled: 500 Hz"):
        load_encoder(build_network(hubert_ecg_architecture("tiny", 100.0)), "bundled", "tiny")
    with pytest.raises(ValueError, match="bundled has no hubert of size base"):
        find_weights("bundled", "base")


def test_published_weights_are_known_with_their_licence() -> None:
    assert is_published("hubert_ecg_base") and is_published("Edoardo-BS/hubert-ecg-large")
    assert not is_published("random")
