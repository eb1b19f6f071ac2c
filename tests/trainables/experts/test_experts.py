"""The contract of every expert: frozen, its view from one record alone, named features, an identity, ONNX."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.trainables.experts.whole_records import SIGNAL, records_of
from trainables.experts.expert import Expert
from trainables.experts.table import EXPERTS, AnyExpertConfig, build_expert, check_experts
from trainables.onnx_export import serialise

PARSE = TypeAdapter[Any](AnyExpertConfig)
SMALL: dict[str, dict[str, Any]] = {
    "ecg_fm": {"features": ("embeddings", "logits")},
    "moment": {},
    "tempo": {"features": ("forecast", "embeddings"), "leads": ("V5",)},
    "dlinear": {"leads": ("II", "V5"), "horizon": 3},
    "timesnet": {"size": "tiny", "features": ("forecast", "embeddings")},
    "hubert_ecg": {},
}
KINDS = pytest.mark.parametrize("kind", SMALL)
ONE_LEAD = pytest.mark.parametrize("kind", ["tempo", "dlinear", "timesnet"])


def config_of(kind: str, **params: Any) -> Any:
    return PARSE.validate_python({"kind": kind, **SMALL[kind], **params})


@pytest.fixture(scope="module")
def experts() -> dict[str, Expert]:
    return {kind: build_expert(config_of(kind), SIGNAL) for kind in SMALL}


def test_the_table_has_a_config_a_kind_documented_with_defaults_for_all_but_a_trained_model() -> None:
    kinds = {each.model_fields["kind"].default: each for each in EXPERTS}
    assert set(kinds) == {*SMALL, "trained"}
    for kind, config_type in kinds.items():
        required = {name for name, info in config_type.model_fields.items() if info.is_required()}
        assert required == ({"weights"} if kind == "trained" else set())
        for name, info in config_type.model_fields.items():
            assert name == "kind" or (info.description or "").endswith("."), (kind, name)
    with pytest.raises(ValidationError, match="forecast, embeddings, each once, but got logits"):
        PARSE.validate_python({"kind": "dlinear", "features": ["logits"]})


@KINDS
def test_its_features_follow_from_the_record_alone_whatever_stands_beside_it(
    kind: str, experts: dict[str, Expert]
) -> None:
    """Fault 1 of the original, whose experts saw different records of one batch."""
    expert, ecg_BLT = experts[kind], records_of()
    features_BD = expert(ecg_BLT)
    assert features_BD.shape == (3, expert.n_features) and features_BD.isfinite().all()
    for row in range(3):
        torch.testing.assert_close(expert(ecg_BLT[row : row + 1])[0], features_BD[row], rtol=1e-3, atol=1e-4)
    assert (features_BD[0] - features_BD[2]).abs().max() > 1e-4


@KINDS
def test_padding_behind_a_record_changes_nothing(kind: str, experts: dict[str, Expert]) -> None:
    longer = replace(SIGNAL, n_timesteps=1_600)
    ecg_BLT = torch.nn.functional.pad(records_of(), (0, 600))
    torch.testing.assert_close(
        build_expert(config_of(kind), longer)(ecg_BLT), experts[kind](records_of()), rtol=1e-3, atol=1e-4
    )


@ONE_LEAD
def test_it_reads_the_same_lead_of_every_record_and_no_other(kind: str, experts: dict[str, Expert]) -> None:
    """Faults 4 and 5 of the original: a lead by the record's number, and none at all of its decomposition."""
    read = {"tempo": ["V5"], "dlinear": ["II", "V5"], "timesnet": ["II"]}[kind]
    ecg_BLT = records_of()
    features_BD = experts[kind](ecg_BLT)
    others = ecg_BLT.clone()
    others[:, [row for row, name in enumerate(SIGNAL.lead_names) if name not in read]] *= -3
    torch.testing.assert_close(experts[kind](others), features_BD)
    for name in read:
        changed = ecg_BLT.clone()
        changed[:, SIGNAL.lead_names.index(name)] *= ecg_BLT[:, 0]
        assert (experts[kind](changed) - features_BD).abs().amax(dim=1).min() > 1e-4


@KINDS
def test_it_is_frozen_and_always_evaluates(kind: str, experts: dict[str, Expert]) -> None:
    expert = experts[kind]
    assert not any(parameter.requires_grad for parameter in expert.parameters())
    expert.train()
    assert not any(module.training for module in expert.modules())
    assert list(expert.widths) == list(config_of(kind).features)


@KINDS
def test_its_identity_follows_from_weights_configuration_and_signal(kind: str, experts: dict[str, Expert]) -> None:
    identity = experts[kind].identity
    assert build_expert(config_of(kind), SIGNAL).identity == identity
    others = [
        build_expert(config_of(kind, weights_seed=1), SIGNAL),
        build_expert(config_of(kind), replace(SIGNAL, n_timesteps=900)),
        build_expert(config_of(kind), replace(SIGNAL, lead_names=SIGNAL.lead_names[::-1])),
    ]
    assert len({identity, *(other.identity for other in others)}) == 4


@KINDS
def test_random_weights_leave_the_random_numbers_of_the_trial_alone(kind: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_expert(config_of(kind), SIGNAL)
    assert torch.equal(torch.rand(1), expected)


@KINDS
def test_it_can_be_counted_without_memory(kind: str, experts: dict[str, Expert]) -> None:
    with torch.device("meta"):
        counted = build_expert(config_of(kind), SIGNAL)
    assert {name: each.shape for name, each in counted.state_dict().items()} == {
        name: each.shape for name, each in experts[kind].state_dict().items()
    }


@KINDS
def test_it_goes_to_onnx_where_it_says_that_it_can(kind: str, experts: dict[str, Expert]) -> None:
    expert = experts[kind]
    if expert.not_exported_since is not None:
        with pytest.raises(ValueError, match="can't go to ONNX, since HuBERT-ECG's filters"):
            serialise(expert, SIGNAL)
        return
    session = onnxruntime.InferenceSession(serialise(expert, SIGNAL), providers=["CPUExecutionProvider"])
    ecg_BLT = records_of(lengths=(1_000, 640))
    (found,) = session.run(None, {"ecg": ecg_BLT.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expert(ecg_BLT), rtol=1e-3, atol=1e-4)


def test_what_can_not_be_had_is_said_before_a_sweep_starts(tmp_path: Path) -> None:
    check_experts([config_of("moment"), config_of("moment")], SIGNAL)
    with pytest.raises(ValueError, match="is no file or folder here"):
        check_experts([config_of("moment", weights="nowhere.safetensors")], SIGNAL)
    with pytest.raises(ValueError, match="bundled has no tempo of size tiny"):
        check_experts([config_of("tempo", weights="bundled")], SIGNAL)
    with pytest.raises(ValueError, match="public of moment are of size small, base, large, but got size: tiny"):
        check_experts([config_of("moment", weights="public")], SIGNAL)
    with pytest.raises(ValueError, match="the expert reads II, but"):
        check_experts([config_of("timesnet")], replace(SIGNAL, lead_names=("V1", "V2")))


def test_the_worked_example_of_an_own_expert_works(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[3] / "docs" / "experts.md").read_text(encoding="utf-8")
    module = types.ModuleType("trainables.experts.spread")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # pydantic resolves annotations there
    exec(text.partition("```python\n")[2].partition("```")[0], module.__dict__)
    expert = module.Spread(module.SpreadConfig(), SIGNAL)
    ecg_BLT = records_of(lengths=(1_000,))
    halves = torch.stack([ecg_BLT[:, :2, :500].std(dim=2), ecg_BLT[:, :2, 500:].std(dim=2)])
    torch.testing.assert_close(expert(ecg_BLT), halves.mean(dim=0))
