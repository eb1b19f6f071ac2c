"""Weights of backbones: where they come from, what is read and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from data.dataset import Signal
from data.leads import LEADS_12
from tests.trainables.backbones.fairseq_ecg_fm import OriginalAttention, encode, state_of
from trainables.backbones.architecture import Family, architecture_of, build_network, network_config
from trainables.backbones.backbone import Backbone, build_backbone
from trainables.backbones.config import BackboneConfig
from trainables.backbones.fairseq import from_fairseq
from trainables.backbones.weights import check_weights, load_pretrained
from trainables.weight_files import BUNDLED

SIGNAL = Signal(LEADS_12, 500.0, 320)
TINY = architecture_of("ecg_fm", "tiny")


def config_of(weights: str | Path, backbone: Family = "ecg_fm", **params: Any) -> BackboneConfig:
    return BackboneConfig.model_validate({"backbone": backbone, "weights": str(weights), **params})


def loaded(weights: str | Path, backbone: Family = "ecg_fm") -> Backbone:
    config = config_of(weights, backbone)
    network = build_backbone(config, SIGNAL).eval()
    load_pretrained(network, config)
    return network


def hidden_of(backbone: Backbone, ecg_BLT: Tensor) -> Tensor:
    states_BVKED = backbone.run(ecg_BLT, 0, backbone.n_stages - 2)
    return states_BVKED[:, 0, 0]


@pytest.fixture
def fairseq_file(tmp_path: Path) -> Path:
    """A pretrained checkpoint of fairseq-signals, as a training leaves it."""
    torch.manual_seed(0)
    model = state_of(TINY)
    rest = {"args": None, "cfg": {"model": {"_name": "wav2vec2_cmsc"}}, "criterion": {}, "last_optimizer_state": {}}
    torch.save({**rest, "model": model}, tmp_path / "pretrained.pt")
    return tmp_path / "pretrained.pt"


# ------------------------------------------------------------------ ECG-FM


def test_the_published_ecg_fm_has_our_names_and_shapes_and_90_374_016_weights() -> None:
    architecture = architecture_of("ecg_fm", "base")
    with torch.device("meta"):
        found, wanted = from_fairseq(state_of(architecture)), build_network(architecture).state_dict()
    assert {key: tensor.shape for key, tensor in found.items()} == {key: t.shape for key, t in wanted.items()}
    assert sum(tensor.numel() for tensor in found.values()) == 90_374_016


def test_a_fairseq_checkpoint_of_ecg_fm_answers_as_in_fairseq(fairseq_file: Path) -> None:
    state = torch.load(fairseq_file, weights_only=True)["model"]
    ecg_BLT = torch.randn(2, 12, 320)
    with torch.inference_mode():
        torch.testing.assert_close(
            hidden_of(loaded(fairseq_file), ecg_BLT), encode(state, TINY, ecg_BLT), rtol=1e-4, atol=1e-4
        )


def test_fine_tuned_and_older_and_bare_checkpoints_load_too(fairseq_file: Path, tmp_path: Path) -> None:
    expected = loaded(fairseq_file).network.state_dict()
    state = torch.load(fairseq_file, weights_only=True)["model"]
    backbone_only = {key: t for key, t in state.items() if not key.startswith(("quantizer", "project_q", "final_proj"))}
    head = {"proj.weight": torch.ones(17, 96), "proj.bias": torch.ones(17)}
    finetuned = {f"encoder.{key}": tensor for key, tensor in backbone_only.items() if key != "mask_emb"} | head
    torch.save({"cfg": {}, "model": finetuned}, tmp_path / "finetuned.pt")
    older = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for key, tensor in state.items()
    }
    torch.save({"cfg": {}, "model": older}, tmp_path / "older.pt")
    save_file(state, tmp_path / "bare.safetensors")
    for name in ("finetuned.pt", "older.pt", "bare.safetensors"):
        found = loaded(tmp_path / name).network.state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name


def test_lora_has_no_effect_on_the_original_attention_but_has_on_ours() -> None:
    """The original reads `.weight` inside a functional call: what `peft` puts around a projection is never called."""
    hidden_BED = torch.randn(2, 20, 96)
    original = OriginalAttention(96, 4).eval()
    change, gradient = lora_effect(original, lambda: original(hidden_BED))
    assert change < 1e-5  # rounding
    assert gradient is None
    ours = build_backbone(config_of("random"), SIGNAL).eval()
    change, gradient = lora_effect(ours.network, lambda: hidden_of(ours, torch.ones(2, 12, 320).cumsum(dim=2)))
    assert change > 1e-3
    assert gradient is not None and gradient > 0


def lora_effect(module: nn.Module, run: Any) -> tuple[float, float | None]:
    """Return by how much LoRA with random weights on q and v changes the output, and its gradient."""
    before = run()
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    inject_adapter_in_model(config, module)  # type: ignore[no-untyped-call]
    after = run()
    if after.requires_grad:
        after.square().sum().backward()
    gradients = [p.grad for name, p in module.named_parameters() if "lora_" in name]
    norm = None if gradients[0] is None else min(float(g.norm()) for g in gradients if g is not None)
    return float((after - before).detach().abs().max()), norm


# ------------------------------------------------------------------ files of transformers


def weights_of(backbone: Family, prefix: str = "") -> dict[str, Tensor]:
    torch.manual_seed(7)
    network = build_network(architecture_of(backbone, "tiny"))
    return {f"{prefix}{key}": tensor.clone() for key, tensor in network.state_dict().items()}


@pytest.mark.parametrize("backbone", ["wav2vec2", "hubert"])
def test_a_file_a_folder_and_a_model_with_a_head_give_the_same_backbone(backbone: Family, tmp_path: Path) -> None:
    expected = weights_of(backbone)
    save_file(expected, tmp_path / "model.safetensors")
    head = {"lm_head.weight": torch.ones(32, 96), "quantizer.codevectors": torch.ones(1, 8, 2)}
    torch.save({**weights_of(backbone, f"{backbone}."), **head}, tmp_path / "with_head.bin")
    signal = Signal(LEADS_12, 500.0, 320)
    for weights in (tmp_path, tmp_path / "model.safetensors", tmp_path / "with_head.bin"):
        config = config_of(weights, backbone)
        check_weights(config)
        network = build_backbone(config, signal)
        load_pretrained(network, config)
        found = network.network.state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in found), weights


def test_random_weights_stay_as_they_are() -> None:
    torch.manual_seed(3)
    expected = build_backbone(config_of("random"), SIGNAL).state_dict()
    torch.manual_seed(3)
    found = loaded("random").state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


# ------------------------------------------------------------------ what is refused


def test_bundled_weights_that_are_not_there_are_one_clear_error() -> None:
    with pytest.raises(
        ValueError, match=r"bundled has no wav2vec2 of size base \(there: .*\); give .* weights: random"
    ):
        check_weights(config_of("bundled", "wav2vec2", size="base"))
    assert BUNDLED.parent.is_dir()


def test_a_mistyped_path_is_no_hub_id() -> None:
    with pytest.raises(ValueError, match=r"nope/model\.safetensors is no file or folder here, nor the id"):
        check_weights(config_of("nope/model.safetensors"))


def test_a_mistyped_path_below_a_folder_that_is_there_is_no_file_of_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"runs/teacher/best/model\.safetensors is no file or folder here"):
        check_weights(config_of("runs/teacher/best/model.safetensors"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has neither model\.safetensors nor pytorch_model\.bin; name the file"):
        check_weights(config_of(tmp_path))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, which may not use the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_id_that_cannot_be_had_offline_is_one_line_with_the_ways_out() -> None:
    with pytest.raises(ValueError, match=r"can't be reached.*hf download facebook/wav2vec2-base") as caught:
        check_weights(config_of("facebook/wav2vec2-base", "wav2vec2", size="base"))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("backbone", "repository"),
    [("wav2vec2", "facebook/wav2vec2-base"), ("hubert", "facebook/hubert-base-ls960"), ("ecg_fm", "wanglab/ecg-fm")],
)
def test_public_weights_are_the_published_ones_of_each_backbone(backbone: Family, repository: str) -> None:
    with pytest.raises(ValueError, match=f"weights: {repository} can't be reached"):
        check_weights(config_of("public", backbone, size="base"))
    with pytest.raises(ValueError, match="weights: public are of size base, but got size: tiny"):
        check_weights(config_of("public", backbone))


def test_a_hub_id_in_the_local_cache_needs_no_network(hub_cache: Path) -> None:
    repository = hub_cache / "models--someone--hubert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(weights_of("hubert"), repository / "snapshots" / "abc" / "model.safetensors")
    check_weights(config_of("someone/hubert", "hubert"))
    check_weights(config_of("someone/hubert/model.safetensors", "hubert"))
    with pytest.raises(ValueError, match="someone/hubert can't be reached"):
        check_weights(config_of("someone/hubert/other.safetensors", "hubert"))


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_holds_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"model": Attack(tmp_path / "ran")}, tmp_path / "attack.pt")
    with pytest.raises(ValueError, match=r"can't be read as data alone .*; where you trust it"):
        check_weights(config_of(tmp_path / "attack.pt"))
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.pt"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ValueError, match=name):
            check_weights(config_of(tmp_path / name))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: w.pop("encoder.layer_norm.bias"), "encoder.layer_norm.bias is missing"),
        (lambda w: w.update(extra=torch.ones(1)), "extra has no place"),
        (lambda w: w.update({"encoder.layer_norm.bias": torch.ones(7)}), r"has the shape \(7,\), not \(96,\)"),
    ],
)
def test_weights_of_another_network_are_refused(change: Any, fault: str, tmp_path: Path) -> None:
    weights = weights_of("wav2vec2")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"another network: .*{fault}; choose backbone and size"):
        check_weights(config_of(tmp_path, "wav2vec2"))


def test_what_shapes_do_not_show_is_compared_where_a_config_lies_beside(tmp_path: Path) -> None:
    save_file(weights_of("wav2vec2"), tmp_path / "model.safetensors")
    fields = network_config(architecture_of("wav2vec2", "tiny")).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(fields))
    check_weights(config_of(tmp_path, "wav2vec2"))
    (tmp_path / "config.json").write_text(json.dumps({**fields, "conv_stride": [5, 2, 2, 2, 2, 2, 1]}))
    with pytest.raises(ValueError, match=r"conv_stride is \[5, 2, 2, 2, 2, 2, 1\], not"):
        check_weights(config_of(tmp_path, "wav2vec2"))


def test_masking_needs_the_vector_that_masks(tmp_path: Path) -> None:
    weights = weights_of("wav2vec2")
    del weights["masked_spec_embed"]
    save_file(weights, tmp_path / "model.safetensors")
    config = config_of(tmp_path, "wav2vec2", mask_prob=0.2)
    with pytest.raises(ValueError, match="masked_spec_embed is missing"):
        load_pretrained(build_backbone(config, SIGNAL), config)
