"""Published checkpoints, in the layout of their authors, give our network their answers; what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from data.dataset import LabelSet, Signal
from data.leads import LEADS_12
from tests.trainables.published_network import Stored, answer, lora_only, lora_pairs, published_weights
from trainables.checkpoint import save_weights
from trainables.fusion_network import FusionNetwork, build_network
from trainables.lora import add_lora
from trainables.pretrained_backbone import HUB_ID, PretrainedConfig, load_pretrained

SIGNAL = Signal(LEADS_12, 100.0, 256)
LABELS = LabelSet("code", "multilabel", ("1dAVb", "RBBB", "LBBB", "SB", "AF", "ST"))
ECG_BLT = torch.randn(3, 12, 256, generator=torch.Generator().manual_seed(0))


def loaded(signal: Signal = SIGNAL, labels: LabelSet = LABELS, **params: Any) -> FusionNetwork:
    torch.manual_seed(1)
    config = PretrainedConfig(**{"size": "nano", **params})
    network = build_network(config, signal, labels)
    load_pretrained(network, config)
    return network.eval()


def saved(path: Path, stored: Stored) -> str:
    torch.save(stored, path)
    return str(path)


@pytest.mark.parametrize(("size", "width"), [("nano", 16), ("tinylight", 64)])
def test_a_published_checkpoint_answers_as_it_did(size: str, width: int, tmp_path: Path) -> None:
    stored = published_weights(width)
    network = loaded(size=size, weights=saved(tmp_path / "a.pkl", stored), weights_head=True)
    torch.testing.assert_close(network(ECG_BLT), answer(stored, ECG_BLT), rtol=1e-4, atol=1e-4)
    norm = network.state_dict()["body.0.blocks.0.norm1.num_batches_tracked"]
    assert int(norm) == 7


def test_one_saved_by_several_processes_is_the_same(tmp_path: Path) -> None:
    stored = published_weights()
    parallel = {f"module.{name}": tensor for name, tensor in stored.items()}
    paths = (saved(tmp_path / "a.pkl", stored), saved(tmp_path / "b.pkl", parallel))
    one, other = (loaded(weights=path, weights_head=True) for path in paths)
    assert torch.equal(one(ECG_BLT), other(ECG_BLT))


def test_updates_of_lora_are_merged(tmp_path: Path) -> None:
    stored = published_weights()
    stored |= lora_pairs(stored, rank=4)
    network = loaded(weights=saved(tmp_path / "a.pkl", stored), weights_head=True)
    torch.testing.assert_close(network(ECG_BLT), answer(stored, ECG_BLT), rtol=1e-4, atol=1e-4)


def test_a_lora_only_checkpoint_needs_its_backbone_and_answers_as_it_did(tmp_path: Path) -> None:
    backbone = published_weights()
    tuned = {**published_weights(n_outputs=6), **lora_pairs(backbone, rank=2)}
    for name in lora_only(tuned):
        if "self_attention.bias" not in name and "running" not in name and tuned[name].is_floating_point():
            tuned[name] = tuned[name] + 0.1
    kept = lora_only(tuned)
    assert not any(name.endswith("fc1.weight") for name in kept)
    paths = {
        "weights": saved(tmp_path / "base.pkl", backbone),
        "weights_lora": saved(tmp_path / "lora.pkl", kept),
    }
    network = loaded(**paths, weights_head=True)
    torch.testing.assert_close(network(ECG_BLT), answer({**backbone, **kept}, ECG_BLT), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"lora\.pkl lacks blocks\.0\.conv1\.weight and \d+ more; a LoRA-only"):
        loaded(weights=paths["weights_lora"])


def test_biases_of_an_auxiliary_head_without_its_weights_are_not_taken(tmp_path: Path) -> None:
    """The original's LoRA-only files have them; a reload there gives another network than was trained."""
    stored = published_weights()
    stored["auxiliary_classifier.0.bias"] = torch.full((8,), 9.0)
    stored["auxiliary_classifier.2.bias"] = torch.full((1,), 9.0)
    network = loaded(weights=saved(tmp_path / "a.pkl", stored), aux_weight=1.0)
    assert network.head.auxiliary_out.bias.item() != 9
    stored["auxiliary_classifier.0.weight"] = torch.full((8, 16), 9.0)
    stored["auxiliary_classifier.2.weight"] = torch.full((1, 8), 9.0)
    network = loaded(weights=saved(tmp_path / "b.pkl", stored), aux_weight=1.0)
    assert network.head.auxiliary_out.bias.item() == 9


def test_the_last_layer_is_new_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pkl", published_weights())
    three = LabelSet("three", "multilabel", ("a", "b", "c"))
    assert loaded(labels=three, weights=path)(ECG_BLT).shape == (3, 3)
    with pytest.raises(ValueError, match=r"head\.classes\.weight has the shape \(6, 16\), .* weights_head to false"):
        loaded(labels=three, weights=path, weights_head=True)


@pytest.mark.parametrize("with_lora", [False, True])
def test_weights_of_an_earlier_run_are_taken_whole_or_merged(with_lora: bool, tmp_path: Path) -> None:
    torch.manual_seed(5)
    earlier = build_network(PretrainedConfig(size="nano", leads=3, aux_weight=1.0), SIGNAL, LABELS)
    if with_lora:
        add_lora(earlier, 2, 2.0, {"*.ffn1": 1, "*.qkv": 3, "*.conv2": 1})
        for name, parameter in earlier.named_parameters():
            if name.endswith("lora_b"):
                torch.nn.init.normal_(parameter, std=0.1)
    save_weights(tmp_path / "model.safetensors", earlier.state_dict())
    network = loaded(weights=str(tmp_path), weights_head=True, leads=3, aux_weight=1.0)
    torch.testing.assert_close(network(ECG_BLT), earlier.eval()(ECG_BLT), rtol=1e-4, atol=1e-5)


def test_a_wrong_size_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pkl", published_weights(64))
    with pytest.raises(ValueError, match=r"width 64 with 1 layers \(size: tinylight\), but .* width 16 with 1 layers"):
        loaded(weights=path)


def test_other_leads_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pkl", published_weights())
    with pytest.raises(ValueError, match=r"conv1\.weight has the shape \(16, 12, 9\).*another number of leads"):
        loaded(signal=Signal(("I", "II"), 100.0, 256), weights=path)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    class Sneaky:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("run",))

    torch.save({"classifier.1.weight": Sneaky()}, tmp_path / "code.pkl")
    with pytest.raises(ValueError, match=r"code\.pkl can't be read as data alone"):
        loaded(weights=str(tmp_path / "code.pkl"))
    with pytest.raises(ValueError, match=r"list\.pkl is not a state dict"):
        loaded(weights=saved(tmp_path / "list.pkl", {"epoch": 3}))  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"other\.pkl has 'fc\.weight', which is no part of"):
        loaded(weights=saved(tmp_path / "other.pkl", {"fc.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"there are no weights at .*nowhere\.pkl; give a file"):
        loaded(weights=str(tmp_path / "nowhere.pkl"))


def test_without_a_way_to_the_hub_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*arguments: object, **more: object) -> str:
        raise LocalEntryNotFoundError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    file = "CODE_testmediumbias_full_checkpoint.pkl"
    with pytest.raises(ValueError, match=rf"{HUB_ID} can't be reached, .*hf download {HUB_ID}"):
        loaded(weights=HUB_ID, weights_file=file)
    path = tmp_path / "x.pkl"
    torch.save(published_weights(), path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda hub_id, name: str(path))
    assert loaded(weights=HUB_ID, weights_file=file)(ECG_BLT).shape == (3, 6)


@pytest.mark.parametrize(
    "params",
    [
        {"weights_file": "a.pkl"},
        {"weights_lora": "a.pkl"},
        {"weights_head": True},
        {"weights": HUB_ID},
        {"weights": "weights/a.pkl", "weights_file": "a.pkl"},
    ],
)
def test_keys_that_would_do_nothing_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"works only with weights|names the file in a repository"):
        PretrainedConfig(**params)
