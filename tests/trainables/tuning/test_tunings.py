"""Every way to tune a backbone, by one contract: what is trained, kept, merged and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from data.dataset import LabelSet, Signal
from trainables.backbones.architecture import architecture_of, build_network
from trainables.backbones.classifier import BackboneClassifier
from trainables.onnx_export import export_onnx
from trainables.peft_method import (
    ADAPTERS,
    PEFT,
    PeftConfig,
    Tuning,
    _n_trained,
    build_model,
    finish,
    resolve_width,
)
from trainables.tuning.bottleneck import Behind, Beside, Bottleneck
from trainables.tuning.peft_types import PEFT_TYPES
from trainables.tuning.selections import SELECTIONS

SIGNAL = Signal(("II",), 100.0, 600)
LABELS = LabelSet("beats", "binary", ("abnormal",))
TUNINGS: tuple[Tuning, ...] = get_args(Tuning)
STARTS_OFF = {"unilora": 1e-3, "vblora": 1e-2}  # by design: small random numbers
EXPORTED = {"lora", "dora", "vera", "houlsby", "parallel", "lily"}  # the others in `make test-all`


def config(tuning: str, **params: Any) -> PeftConfig:
    return PeftConfig.model_validate({"backbone": "ecg_fm", "tuning": tuning, **params})


def build(tuning: str, seed: int = 1, **params: Any) -> BackboneClassifier:
    torch.manual_seed(seed)
    return build_model(config(tuning, **params), SIGNAL, LABELS).eval()


def trained(model: BackboneClassifier) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def moved(model: BackboneClassifier) -> BackboneClassifier:
    """Return `model` after something like training."""
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def ecg_BLT() -> Tensor:
    return torch.randn(3, 1, 600, generator=torch.Generator().manual_seed(0))


def test_a_spec_can_name_every_tuning_there_is() -> None:
    assert set(TUNINGS) == {*PEFT_TYPES, *ADAPTERS, *SELECTIONS}


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_tuning_starts_from_the_backbone_keeps_what_it_trains_and_merges(tuning: str, ecg_BLT: Tensor) -> None:
    plain, model = build("linear_probe"), build(tuning)
    with torch.no_grad():
        difference = (model.backbone(ecg_BLT) - plain.backbone(ecg_BLT)).abs().max()
    assert difference <= STARTS_OFF.get(tuning, 1e-5)
    model(ecg_BLT).square().mean().backward()
    assert all(parameter.grad is not None for parameter in trained(model).values())
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    assert {"head.1.weight", "head.1.bias"} <= trained(model).keys()  # never left at random values

    state = {name: tensor.clone() for name, tensor in moved(model).state_dict().items()}
    frozen_of_backbone = {name for name, _ in plain.named_parameters() if "network" in name} - trained(model).keys()
    assert not frozen_of_backbone & state.keys()
    other = build(tuning, seed=2)
    other.load_state_dict(state)
    with torch.no_grad():
        expected_BK = model(ecg_BLT)
        assert torch.equal(other(ecg_BLT), expected_BK)
        torch.testing.assert_close(finish(other)(ecg_BLT), expected_BK, atol=1e-5, rtol=1e-5)
    if tuning in PEFT_TYPES and PEFT_TYPES[tuning].merges:
        names = {name for name, _ in build("full").named_parameters()}
        assert {name for name, _ in other.named_parameters()} == names


@pytest.mark.parametrize(
    "tuning", [pytest.param(name, marks=[] if name in EXPORTED else [pytest.mark.slow]) for name in TUNINGS]
)
def test_a_finished_model_goes_to_onnx(tuning: str, tmp_path: Path) -> None:
    assert export_onnx(finish(moved(build(tuning))), SIGNAL, tmp_path / "model.onnx") < 1e-4


BASE_COUNTS: list[tuple[dict[str, Any], int]] = [  # facts of peft 0.21 on wav2vec2-base; adapters in closed form
    ({"tuning": "lora", "rank": 8}, 294_912),
    ({"tuning": "lora", "rank": 8, "target_modules": "all"}, 1_327_104),
    ({"tuning": "dora", "rank": 8}, 313_344),
    ({"tuning": "adalora", "rank": 8}, 442_656),
    ({"tuning": "ia3"}, 55_296),
    ({"tuning": "vera", "rank": 256}, 24_576),
    ({"tuning": "oft", "block_size": 32}, 285_696),
    ({"tuning": "houlsby", "bottleneck": 32}, 1_198_848),
    ({"tuning": "houlsby", "bottleneck": 64}, 2_379_264),
    ({"tuning": "pfeiffer", "bottleneck": 32}, 599_424),
    ({"tuning": "parallel", "bottleneck": 64}, 1_189_632),
    ({"tuning": "ln_tuning"}, 40_448 - 2 * 512 - 2 * 512),  # without the norms before the transformer
    ({"tuning": "linear_probe"}, 0),
]


@pytest.mark.parametrize(("params", "count"), BASE_COUNTS)
def test_base_sizes_train_as_many_parameters_as_published(params: dict[str, Any], count: int) -> None:
    assert _n_trained(PeftConfig.model_validate({"backbone": "wav2vec2", "size": "base", **params})) == count


def test_the_adapters_that_transformers_has_are_ignored_by_post_norm_backbones_and_ours_are_not() -> None:
    """Why `trainables.tuning.bottleneck` is there: `adapter_attn_dim` adds nothing, without a word."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    sizes = {
        dim: sum(p.numel() for p in Wav2Vec2Model(Wav2Vec2Config(**shape, adapter_attn_dim=dim)).parameters())
        for dim in (None, 16)
    }
    assert sizes[None] == sizes[16]
    assert len(trained(build("houlsby"))) > len(trained(build("linear_probe")))


def test_bottlenecks_add_up_act_down_behind_or_beside_a_layer() -> None:
    hidden_SED, adapter = torch.randn(2, 5, 8), Bottleneck(8, 3, "relu", 0.0)
    assert torch.equal(Behind(adapter)(hidden_SED), hidden_SED)
    torch.nn.init.normal_(adapter.up.weight)
    down = torch.relu(hidden_SED @ adapter.down.weight.T + adapter.down.bias)
    change_SED = down @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(Behind(adapter)(hidden_SED), hidden_SED + change_SED)
    sublayer = torch.nn.Linear(8, 8)
    torch.testing.assert_close(Beside(sublayer, adapter)(hidden_SED), sublayer(hidden_SED) + change_SED)


def test_houlsby_stands_before_both_residuals() -> None:
    """The layer, written out: norm(x + adapter(attention(x))), and the same for the feed-forward part."""
    model = moved(build("houlsby"))
    layer: Any = model.backbone.layers[0]
    x_SED = torch.randn(2, 6, model.backbone.hidden_size)
    with torch.no_grad():
        attended_SED = layer.dropout.adapted(layer.attention(x_SED)[0])
        middle_SED = layer.layer_norm(x_SED + attended_SED)
        fed_SED = layer.feed_forward.adapted(layer.feed_forward.sublayer(middle_SED))
        expected_SED = layer.final_layer_norm(middle_SED + fed_SED)
        found = layer(x_SED)
    torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, expected_SED)


# ------------------------------------------------------------------ equal sizes


@pytest.mark.parametrize("tuning", ["lora", "dora", "vera", "gralora", "houlsby", "pfeiffer", "fourierft"])
def test_a_budget_picks_the_largest_width_within_it(tuning: str) -> None:
    resolved = resolve_width(config(tuning, parameter_budget=5000))
    row = PEFT_TYPES.get(tuning)
    width = "bottleneck" if row is None else next(iter(row.widths))
    n_trained, step = _n_trained(resolved), 1 if row is None else row.step
    assert n_trained <= 5000
    wider = resolved.model_copy(update={width: getattr(resolved, width) + step})
    assert _n_trained(wider) > 5000 or getattr(wider, width) > 96  # vera and fourierft end below it
    model = build(tuning, parameter_budget=5000)
    assert sum(p.numel() for name, p in trained(model).items() if name.startswith("backbone.network")) == n_trained


def test_a_budget_below_the_smallest_width_is_refused() -> None:
    with pytest.raises(ValueError, match="parameter_budget=100 is too small: lora with rank=1 trains 1152 parameters"):
        build("lora", parameter_budget=100)


def test_a_budget_and_a_width_are_not_given_together() -> None:
    with pytest.raises(
        ValidationError, match="parameter_budget picks rank itself, but got parameter_budget=5000 and rank=4"
    ):
        config("lora", parameter_budget=5000, rank=4)


def test_a_parameter_that_the_tuning_does_not_use_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"rank works only with tuning: .*; got rank=4 and tuning='houlsby'"):
        config("houlsby", rank=4)


def test_more_last_layers_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="n_layers must be at most 3, the layers of the backbone, but got 4"):
        build("last_layers", n_layers=4)


# ------------------------------------------------------------------ the backbone's weights


def test_random_weights_follow_from_their_own_seed_alone() -> None:
    first, other, third = build("lora", seed=1), build("lora", seed=2), build("lora", seed=1, weights_seed=1)
    name = "backbone.network.feature_projection.projection.weight"
    weights = [dict(model.named_parameters())[name] for model in (first, other, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_checkpoint_is_refused_by_another_backbone() -> None:
    state = build("lora").state_dict()
    with pytest.raises(ValueError, match="trained on other frozen weights than weights: random, weights_seed: 1 gives"):
        build("lora", weights_seed=1).load_state_dict(state)


def test_the_network_of_the_budget_is_the_network_of_the_model() -> None:
    with torch.device("meta"):
        network = build_network(architecture_of("ecg_fm", "tiny"))
    own = {name for name, _ in build("full").backbone.network.named_parameters()}
    assert own <= {name for name, _ in network.named_parameters()}


def test_the_method_merges_where_it_is_used() -> None:
    assert PEFT.finish is finish
