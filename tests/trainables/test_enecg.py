"""The ensemble: every expert and the label see one record, all new layers learn, features kept change no number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from data.cross_validation import FoldedDataset
from data.dataset import Dataset, LabelSet, Signal, Source, Task
from tests.trainables.tiny_dataset import TinySplit, tiny_dataset
from trainables.cross_validation import MeanModel, cross_validated
from trainables.enecg import ENECG, EnecgConfig, build_model, frozen_expert
from trainables.enecg_answers import answer_split, mean_weights, readable, subset_logits
from trainables.enecg_mixing import Stacking
from trainables.evaluation import predict
from trainables.expert_features import with_expert_features
from trainables.onnx_export import export_onnx, static_quantities, why_not_exportable
from trainables.plain_trial import PlainTrial

CPU = torch.device("cpu")
TWO = ({"kind": "dlinear", "features": ["embeddings"]}, {"kind": "dlinear", "weights_seed": 1})
SMALL: Mapping[str, Any] = {
    "experts": TWO,
    "head_width": 16,
    "epochs": 2,
    "batch_size": 16,
    "lr": 3e-3,
}
LABELS = LabelSet("tiny", "binary", ("fast",))


def config(**params: Any) -> EnecgConfig:
    return EnecgConfig.model_validate({**SMALL, **params})


def stored(folder: Path, task: Task = "binary", **sizes: int) -> Dataset:
    return replace(tiny_dataset(task, **sizes), source=Source(folder / "tiny", "fingerprint", "preprocessing"))


def trained(dataset: Dataset, **params: Any) -> tuple[PlainTrial, dict[str, Tensor]]:
    """Return the trial, and the state that it would leave."""
    trial, states = PlainTrial(3), []
    report = trial.report

    def keep(epoch: int, metrics: Mapping[str, float], state: Any) -> None:
        states.append({name: tensor.clone() for name, tensor in state()["model"].items()})
        report(epoch, metrics, state)

    trial.report = keep  # type: ignore[method-assign]
    ENECG.train(config(**params), dataset, trial)
    return trial, states[-1]


def metrics_of(trial: PlainTrial) -> dict[str, float]:
    return {name: value for name, value in trial.reports[2].items() if name.startswith(("val/", "train/"))}


# ------------------------------------------------------------------ one record


def test_all_views_and_the_label_of_a_shuffled_batch_are_one_records(tmp_path: Path) -> None:
    """EnECG zips three loaders that are shuffled each for itself."""
    dataset = stored(tmp_path)
    model = build_model(config(gate_leads=["III", "I"]), dataset.signal, dataset.label_set)
    (whole,) = dataset.train.batches(96)
    features_NF, lead_NGT = model.read(torch.from_numpy(whole.ecg_BLT))
    assert lead_NGT is not None
    packed = with_expert_features(model, ["dlinear", "dlinear"], "fp32", dataset, CPU).train
    seen = []
    for batch in packed.batches(10, shuffle_seed=5, rank=1, world_size=2):
        features_BF, lead_BGT = model.read(torch.from_numpy(batch.ecg_BLT))
        np.testing.assert_allclose(features_BF, features_NF[batch.index_B], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(lead_BGT, lead_NGT[batch.index_B])
        np.testing.assert_array_equal(lead_BGT, whole.ecg_BLT[batch.index_B][:, [2, 0]])
        np.testing.assert_array_equal(batch.labels_BK, dataset.train.labels_NK[batch.index_B])
        seen += batch.index_B.tolist()
    assert seen != sorted(seen) and len(seen) == len(set(seen)) == 48


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_kept_features_change_no_number(task: Task, tmp_path: Path) -> None:
    anew, _ = trained(stored(tmp_path, task), feature_cache="off")
    kept, _ = trained(stored(tmp_path, task))
    assert (tmp_path / "tiny.features").is_dir()
    assert metrics_of(kept) == pytest.approx(metrics_of(anew), rel=1e-4)


def test_an_expert_more_or_less_computes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, asked = stored(tmp_path), []
    for each in config().experts:
        expert = frozen_expert(each, dataset.signal)
        own = expert.forward

        def counted(ecg_BLT: Tensor, own: Any = own, seed: int = each.weights_seed) -> Tensor:
            asked.append((seed, len(ecg_BLT)))
            features_BD: Tensor = own(ecg_BLT)
            return features_BD

        monkeypatch.setattr(expert, "forward", counted)
    trained(dataset)
    n_asked = {seed: sum(n for own, n in asked if own == seed) for seed in (0, 1)}
    assert n_asked == {0: 96 + 48, 1: 96 + 48}
    asked.clear()
    trained(dataset, experts=TWO[:1], head_width=8)
    trained(dataset, experts=TWO[::-1], mixing="static")
    assert asked == []


def test_augmented_records_go_through_the_experts_anew(tmp_path: Path) -> None:
    trial, _ = trained(stored(tmp_path), noise_mv=0.05, crop_timesteps=48)
    assert not (tmp_path / "tiny.features").exists()
    assert trial.reports[2]["train/loss"] < trial.reports[1]["train/loss"]


# ------------------------------------------------------------------ what learns


def changed(dataset: Dataset, **params: Any) -> dict[str, bool]:
    """Return which tensors a training leaves otherwise than they were."""
    torch.manual_seed(0)
    _, before = trained(dataset, **params, lr=1e-30, weight_decay=0.0)
    _, after = trained(dataset, **params, lr=1e-2)
    return {name: not torch.equal(before[name], after[name]) for name in before if name != "frozen_digest"}


@pytest.mark.parametrize("mixing", ["gate", "static", "stacking"])
def test_every_new_layer_learns_and_no_expert(mixing: str) -> None:
    """EnECG's LoRA leaves the last layer of every head as it was drawn."""
    learns = changed(tiny_dataset(), mixing=mixing)
    new = {name for name in learns if not name.startswith("experts.") and ".scale." not in name}
    assert new and all(learns[name] for name in new), learns
    assert not any(learns[name] for name in set(learns) - new)


@pytest.mark.parametrize("mixing", ["static", "stacking"])
def test_what_mixes_the_experts_keeps_pace_with_their_heads(mixing: str) -> None:
    """At the heads' rate the experts' shares would hardly leave those they start from within a trial."""
    _, state = trained(tiny_dataset(), mixing=mixing, lr=1e-3, epochs=2, weight_decay=0.0, schedule="constant")
    furthest = 2 * (96 // 16) * 1e-3  # that Adam goes at the heads' rate
    mixed = {name: tensor for name, tensor in state.items() if name.startswith("mixture.mixing.")}
    assert mixed and all((tensor - start_of(name)).abs().max() > furthest for name, tensor in mixed.items())


def start_of(name: str) -> float:
    return 0.5 if name.endswith("linear.weight") else 0.0  # the mean of two experts


def test_lora_trains_updates_and_the_last_layers_whole() -> None:
    learns = changed(tiny_dataset(), lora="both", rank=2)
    new = {name for name in learns if name.startswith("mixture.") and not name.endswith("lora_scale")}
    frozen = {name for name in new - {name for name in learns if ".scale." in name} if not learns[name]}
    hidden = {f"mixture.heads.{head}.{layer}.weight" for head in (0, 1) for layer in (0, 3)}
    assert frozen == hidden | {"mixture.mixing.weighing.layers.0.weight"}


def test_a_finished_model_has_its_updates_merged_and_is_whole() -> None:
    dataset = tiny_dataset()
    _, state = trained(dataset, lora="both", rank=2)
    assert not any(name.startswith("experts.0.network") for name in state)
    model = build_model(config(lora="both", rank=2), dataset.signal, dataset.label_set).eval()
    model.load_state_dict(state)
    (batch,) = dataset.val.batches(48)
    before = model(torch.from_numpy(batch.ecg_BLT))
    finished = ENECG.finish(model)
    assert not any("lora" in name for name in finished.state_dict())
    assert any(name.startswith("experts.0.network") for name in finished.state_dict())
    assert torch.allclose(finished(torch.from_numpy(batch.ecg_BLT)), before, atol=1e-5)


def test_a_checkpoint_is_refused_beside_other_experts() -> None:
    dataset = tiny_dataset()
    _, state = trained(dataset)
    others = [{**TWO[0], "weights_seed": 5}, TWO[1]]
    model = build_model(config(experts=others), dataset.signal, dataset.label_set)
    with pytest.raises(ValueError, match="was trained on other frozen weights than dlinear_1: random"):
        model.load_state_dict(state)


def test_experts_evaluate_while_the_rest_trains() -> None:
    model = build_model(config(), tiny_dataset().signal, LABELS).train()
    assert not any(module.training for expert in model.experts for module in expert.modules())
    assert all(head.training for head in model.mixture.heads)


def test_a_balanced_gate_of_one_spreads_the_records() -> None:
    dataset = tiny_dataset()

    def largest_share(**params: Any) -> float:
        _, state = trained(dataset, top_k=1, epochs=2, lr=1e-2, **params)
        model = build_model(config(top_k=1), dataset.signal, dataset.label_set)
        model.load_state_dict(state)
        (answers,) = answer_split(model, dataset.train, config(), "binary", CPU)
        return float(answers.weight_NE.mean(dim=0).max())

    assert largest_share(balance_weight=10.0, aux_weight=0.0) < 0.75


def test_targets_of_a_regression_are_standardised_by_the_training_records(tmp_path: Path) -> None:
    dataset = stored(tmp_path, "regression")
    _, state = trained(dataset)
    known = dataset.train.labels_NK.astype(np.float64)
    assert state["mixture.units.location_K"].item() == pytest.approx(known.mean(), rel=1e-5)
    assert state["mixture.units.scale_K"].item() == pytest.approx(known.std(), rel=1e-5)


def test_features_are_standardised_by_the_training_records(tmp_path: Path) -> None:
    dataset = stored(tmp_path)
    _, state = trained(dataset)
    model = build_model(config(), dataset.signal, dataset.label_set)
    (whole,) = dataset.train.batches(96)
    features_NF = model.read(torch.from_numpy(whole.ecg_BLT))[0].numpy()
    np.testing.assert_allclose(state["mixture.scale.location_F"], features_NF.mean(axis=0), rtol=1e-3, atol=1e-5)
    varies_F = features_NF.std(axis=0) > 1e-6
    scale_F = state["mixture.scale.scale_F"].numpy()
    np.testing.assert_allclose(scale_F[varies_F], 1 / features_NF.std(axis=0)[varies_F], rtol=1e-3)


# ------------------------------------------------------------------ folds


def folded(dataset: Dataset, k: int = 3) -> FoldedDataset:
    """Deal the training records to k folds by turns."""
    (whole,) = dataset.train.batches(dataset.train.n_records)

    def part(rows: np.ndarray[Any, Any]) -> TinySplit:
        return TinySplit(whole.ecg_BLT[rows], whole.labels_BK[rows])

    number = np.arange(dataset.train.n_records) % k
    folds = tuple(
        Dataset(dataset.signal, dataset.label_set, part(number != fold), part(number == fold)) for fold in range(k)
    )
    return FoldedDataset(dataset.signal, dataset.label_set, dataset.train, dataset.val, folds=folds)


def test_every_fold_has_a_fresh_model() -> None:
    """EnECG carries one model through its folds, which so trains on the test records of all but the first."""
    states = []

    class Trial(PlainTrial):
        def report(self, epoch: int, metrics: Mapping[str, float], state: Any) -> None:
            states.append(state()["model"])

    dataset = tiny_dataset()
    cross_validated(ENECG, 3).train(config(epochs=1, lr=1e-30, weight_decay=0.0), folded(dataset), Trial(3))
    last = [states[-1][f"models.{fold}.mixture.heads.0.6.weight"] for fold in range(3)]
    assert not any(torch.equal(last[a], last[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    for fold, weight in enumerate(last):  # no fold has learnt: each is as its own seed drew it
        assert weight.abs().max() <= 1 / 4, fold  # torch's bound: 1 / sqrt(16)


# ------------------------------------------------------------------ answers


def test_the_whole_is_the_subset_of_all_experts() -> None:
    dataset = tiny_dataset()
    own = config(mixing="gate")
    model = build_model(own, dataset.signal, dataset.label_set).eval()
    answers = answer_split(model, readable(model, own, dataset.val, dataset, CPU), own, "binary", CPU)
    logits_NK = predict(model, dataset.val, own, dataset.label_set)
    np.testing.assert_allclose(subset_logits(answers, (0, 1), own, "binary"), logits_NK, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean_weights(answers).sum(axis=1), 1.0, rtol=1e-5)
    alone_NK = subset_logits(answers, (1,), own, "binary")
    np.testing.assert_allclose(alone_NK, answers[0].expert_NEK[:, 1], rtol=1e-4, atol=1e-5)


def test_of_the_experts_behind_a_stacking_those_that_stay_have_the_shares_of_its_layer() -> None:
    dataset, own = tiny_dataset(), config(mixing="stacking")
    model = build_model(own, dataset.signal, dataset.label_set).eval()
    stacking = model.mixture.mixing
    assert isinstance(stacking, Stacking)
    with torch.no_grad():
        stacking.linear.weight.copy_(torch.tensor([[3.0, -1.0]]))
    answers = answer_split(model, dataset.val, own, "binary", CPU)
    np.testing.assert_allclose(mean_weights(answers), np.full((48, 2), [0.75, 0.25]), rtol=1e-6)
    expected_NK = torch.logit((torch.sigmoid(answers[0].expert_NEK) * torch.tensor([[[0.75], [0.25]]])).sum(dim=1))
    np.testing.assert_allclose(subset_logits(answers, (0, 1), own, "binary"), expected_NK, rtol=1e-4, atol=1e-5)


def test_the_folds_answers_are_averaged_as_their_model_does() -> None:
    dataset, own = tiny_dataset(), config()
    models = [build_model(own, dataset.signal, dataset.label_set).eval() for _ in range(2)]
    whole = MeanModel(models, "binary").eval()
    answers = answer_split(whole, dataset.val, own, "binary", CPU)
    logits_NK = predict(whole, dataset.val, own, dataset.label_set)
    np.testing.assert_allclose(subset_logits(answers, (0, 1), own, "binary"), logits_NK, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"top_k": 3}, "top_k must not exceed the number of experts, but got top_k=3 of 2"),
        ({"mixing": "stacking", "aux_weight": 0}, "aux_weight must be above 0, but got 0"),
        ({"mixing": "static", "lora": "gate"}, "lora: gate needs mixing: gate, but got mixing: static"),
        ({"mixing": "uniform", "gate_leads": ["I"]}, "gate_leads works only with mixing: gate"),
        ({"experts": [TWO[0], TWO[0]]}, "experts must differ, but one is named twice"),
        ({"rank": 4}, "rank works only with lora: both, gate, heads"),
        ({"experts": [{"kind": "resnet"}]}, "'resnet' found using 'kind' does not match"),
    ],
)
def test_what_does_not_fit_together_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**params)


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("binary", {"gate_leads": ["V9"]}, "gate_leads must be among the records' leads I, II, III, but got 'V9'"),
        ("regression", {"loss": "cross_entropy"}, "loss for regression labels must be one of auto, mse"),
        ("multiclass", {"loss": "mse"}, "loss for multiclass labels must be one of auto, cross_entropy"),
        ("regression", {"average": "logits"}, "average has no meaning for regression labels"),
        ("regression", {"class_weights": "balanced"}, "class_weights has no meaning for regression labels"),
    ],
)
def test_a_key_that_contradicts_the_labels_is_refused_before_a_sweep(
    task: Task, params: dict[str, Any], message: str
) -> None:
    dataset = tiny_dataset(task)
    with pytest.raises(ValueError, match=message):
        ENECG.check([config(**params)], dataset.signal, dataset.label_set)


def test_records_that_are_standardised_by_window_are_refused() -> None:
    signal = replace(tiny_dataset().signal, standardise_windows=True)
    with pytest.raises(ValueError, match=r"leave `zscore: \{per: segment\}` out of data\.preprocess"):
        ENECG.check([config()], signal, LABELS)


@pytest.mark.parametrize("params", [{"mixing": "uniform"}, {"mixing": "static"}, {"mixing": "stacking"}, {"top_k": 1}])
def test_every_mixing_goes_to_onnx_with_the_size_foretold(params: dict[str, Any], tmp_path: Path) -> None:
    dataset = tiny_dataset("multiclass")
    own = config(experts=[{"kind": "moment"}, TWO[0]], **params)  # two of a kind have tensors that are stored once
    model = ENECG.finish(build_model(own, dataset.signal, dataset.label_set))
    path = tmp_path / "model.onnx"
    assert export_onnx(model, dataset.signal, path) < 1e-5
    foretold = static_quantities(ENECG, own, dataset.signal, dataset.label_set)["onnx_bytes"]
    assert path.stat().st_size == pytest.approx(foretold, rel=0.05)


def test_an_expert_that_cannot_be_exported_says_why_and_has_no_size() -> None:
    signal = Signal(("I", "II", "V1"), 100.0, 1_000)
    own = config(experts=[{"kind": "hubert_ecg"}])
    reason = "HuBERT-ECG's filters run forwards and backwards over a whole record"
    assert why_not_exportable(ENECG, own, signal, LABELS) == reason
    assert set(static_quantities(ENECG, own, signal, LABELS)) == {"parameters", "trainable_parameters"}


def test_a_variant_leaves_out_what_it_has_no_use_for() -> None:
    own = config(top_k=2, balance_weight=0.5, lora="both", rank=4, gate_leads="all")
    alone = own.variant(own.experts[:1], "uniform")
    assert (alone.mixing, alone.lora, alone.rank, alone.balance_weight) == ("uniform", "heads", 4, 0.0)
    assert own.variant(own.experts[:1], "gate").top_k == 1
    assert own.variant(own.experts, "gate") == own
