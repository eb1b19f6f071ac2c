"""The loss of AdaGrad-Fusion: each of its terms, the auxiliary head's target, the gate, and the teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.dataset import Dataset, LabelSet, Signal, Task
from data.leads import LEADS_12
from tests.trainables.tiny_dataset import TinySplit, tiny_dataset
from trainables.abnormality import Abnormality, resolve_threshold
from trainables.augmentation import cutmix
from trainables.checkpoint import save_weights
from trainables.fusion_network import Answers, NetworkConfig, build_network
from trainables.fusion_objective import Objective, ObjectiveConfig, Targets, build_objective
from trainables.losses import build_criterion

LOGITS_BK = torch.tensor([[2.0, -1.0], [0.5, 0.3], [-3.0, 1.0]])
LABELS_BK = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.0]])
AUXILIARY_B = torch.tensor([1.0, -2.0, 0.1])
ABNORMAL_B = torch.tensor([1.0, 1.0, 0.3])
TEACHER_BK = torch.tensor([[1.0, 1.0], [-1.0, 4.0], [0.0, -2.0]])


def objective(task: Task = "multilabel", dataset: Dataset | None = None, **params: Any) -> Objective:
    config, dataset = ObjectiveConfig(**params), dataset or tiny_dataset(task)
    criterion = build_criterion(config, dataset.label_set, dataset.train.labels_NK)
    return build_objective(config, criterion, dataset, "cpu")


def mean(of: Objective, answers: Answers, targets: Targets) -> Tensor:
    return of.total(answers, targets) / of.weight(targets)


def test_without_auxiliary_head_and_teacher_it_is_the_criterions_mean() -> None:
    found = mean(objective(), Answers(LOGITS_BK, None), Targets(LABELS_BK))
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(LOGITS_BK, LABELS_BK))


def test_the_auxiliary_term_is_a_mean_over_records_times_its_weight() -> None:
    answers, targets = Answers(LOGITS_BK, AUXILIARY_B), Targets(LABELS_BK, ABNORMAL_B)
    expected = F.binary_cross_entropy_with_logits(LOGITS_BK, LABELS_BK)
    expected = expected + 0.8 * F.binary_cross_entropy_with_logits(AUXILIARY_B, ABNORMAL_B)
    torch.testing.assert_close(mean(objective(aux_weight=0.8), answers, targets), expected)


def test_pieces_of_a_batch_add_up_to_the_whole() -> None:
    whole = objective(aux_weight=0.8)
    answers, targets = Answers(LOGITS_BK, AUXILIARY_B), Targets(LABELS_BK, ABNORMAL_B, TEACHER_BK)
    rows = [slice(0, 1), slice(1, 3), slice(3, 3)]
    pieces = [whole.total(Answers(LOGITS_BK[each], AUXILIARY_B[each]), targets[each]) for each in rows]
    assert [len(targets[each]) for each in rows] == [1, 2, 0]
    torch.testing.assert_close(torch.stack(pieces).sum(), whole.total(answers, targets))
    torch.testing.assert_close(sum(whole.weight(targets[each]) for each in rows), whole.weight(targets))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_teachers_term_is_the_loss_against_its_softened_answers(temperature: float, tmp_path: Path) -> None:
    """At temperature 1 with both weights 1 it is the original's: BCE(labels) + BCE(sigmoid(teacher))."""
    params = {"teacher": teacher_folder(tmp_path), "temperature": temperature, "soft_weight": 0.7, "hard_weight": 0.2}
    found = mean(objective(**params), Answers(LOGITS_BK, None), Targets(LABELS_BK, None, TEACHER_BK))
    soft = F.binary_cross_entropy_with_logits(LOGITS_BK / temperature, (TEACHER_BK / temperature).sigmoid())
    hard = F.binary_cross_entropy_with_logits(LOGITS_BK, LABELS_BK)
    torch.testing.assert_close(found, 0.2 * hard + 0.7 * temperature**2 * soft)


def test_for_classes_it_is_the_divergence_of_softmaxes_up_to_a_constant(tmp_path: Path) -> None:
    """Kullback-Leibler's divergence has the same gradient (Hinton et al. 2015)."""
    of = objective("multiclass", teacher=teacher_folder(tmp_path, "multiclass"), temperature=2.0, hard_weight=0.0)
    logits_BK, teacher_BK = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    mean(of, Answers(logits_BK, None), Targets(torch.eye(3)[[0, 1, 2, 0]], None, teacher_BK)).backward()
    found, logits_BK.grad = logits_BK.grad, None
    student, teacher = F.log_softmax(logits_BK / 2, dim=1), F.log_softmax(teacher_BK / 2, dim=1)
    (4 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")).backward()
    torch.testing.assert_close(found, logits_BK.grad)


# ------------------------------------------------------------------ the gate


def test_the_gate_keeps_values_and_blocks_the_labels_gradient_of_records_called_normal() -> None:
    gated = objective(aux_weight=0.8, gate=True, positive_threshold=0.5)
    logits_BK, auxiliary_B = LOGITS_BK.clone().requires_grad_(), AUXILIARY_B.clone().requires_grad_()
    targets = Targets(LABELS_BK, ABNORMAL_B)
    loss = mean(gated, Answers(logits_BK, auxiliary_B), targets)
    torch.testing.assert_close(loss, mean(objective(aux_weight=0.8), Answers(LOGITS_BK, AUXILIARY_B), targets))
    loss.backward()
    assert logits_BK.grad is not None and auxiliary_B.grad is not None
    assert logits_BK.grad.any(dim=1).tolist() == [True, False, True]  # sigmoid(-2) is below a half
    assert auxiliary_B.grad.all()


def test_prevalence_is_the_share_of_abnormal_training_records() -> None:
    assert resolve_threshold("prevalence", np.array([1, 0, 0, 1, 1], np.float32)) == pytest.approx(0.6)
    assert resolve_threshold(0.08, np.array([1, 0], np.float32)) == 0.08
    dataset = tiny_dataset("multilabel")
    share = dataset.train.labels_NK.any(axis=1).mean()
    gated = objective(aux_weight=1.0, gate=True)
    for logit, is_open in ((share + 0.01, True), (share - 0.01, False)):
        logits_BK = torch.zeros(1, 2, requires_grad=True)
        answers = Answers(logits_BK, torch.tensor([float(np.log(logit / (1 - logit)))]))
        gated.total(answers, Targets(torch.ones(1, 2), torch.ones(1))).backward()
        assert logits_BK.grad is not None
        assert bool(logits_BK.grad.any()) is is_open


# ------------------------------------------------------------------ the auxiliary target


def test_a_record_is_abnormal_where_it_has_a_label_that_is_not_normal() -> None:
    """The original's target is 1 for each of these but the last, which it drops."""
    label_set = LabelSet("some", "multilabel", ("AF", "NSR", "LBBB"))
    labels_NK = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]], np.float32)
    assert Abnormality.of(label_set).of_labels(labels_NK).tolist() == [0, 1, 1, 0]
    assert Abnormality.of(label_set, ("AF", "NSR")).of_labels(labels_NK).tolist() == [0, 0, 1, 0]
    assert Abnormality.of(label_set, ()).of_labels(labels_NK).tolist() == [1, 1, 1, 0]


def test_classes_have_a_normal_one() -> None:
    label_set = LabelSet("rhythm", "multiclass", ("sinus", "af", "pvc"))
    assert Abnormality.of(label_set).of_labels(np.array([[0], [2], [1]], np.float32)).tolist() == [0, 1, 1]


def test_a_target_that_is_constant_is_refused() -> None:
    label_set = LabelSet("some", "multilabel", ("AF", "NSR"))
    with pytest.raises(
        ValueError, match=r"all 2 are abnormal with normal_labels: NSR; name the normal ones of AF, NSR"
    ):
        Abnormality.of(label_set).check(np.array([[1, 1], [1, 0]], np.float32))
    with pytest.raises(ValueError, match=r"all 2 are normal with normal_labels: NSR"):
        Abnormality.of(label_set).check(np.array([[0, 1], [0, 0]], np.float32))
    with pytest.raises(ValueError, match=r"normal_labels must be among the labels AF, NSR, but got 'SR'"):
        Abnormality.of(label_set, ("SR",))
    with pytest.raises(ValueError, match=r"aux_weight works with classes"):
        objective("regression", aux_weight=0.5)


def test_cutmix_mixes_the_auxiliary_target_by_area() -> None:
    dataset = tiny_dataset("multilabel")
    helped = objective(aux_weight=1.0)
    targets_BK = dataset.train.labels_NK[:20]
    columns_BJ = helped.with_columns(targets_BK)
    np.testing.assert_array_equal(columns_BJ[:, 2], targets_BK.any(axis=1))
    rng = np.random.default_rng(0)
    ecg_BLT = rng.normal(size=(20, 3, 64)).astype(np.float32)
    partner_B = rng.permutation(20)
    mixed_BLT, mixed_BJ = cutmix(ecg_BLT, columns_BJ, partner_B, 0.75, rng)
    kept_B = (mixed_BLT == ecg_BLT).mean(axis=(1, 2))
    targets = helped.targets(torch.from_numpy(mixed_BLT), torch.from_numpy(mixed_BJ))
    assert targets.labels_BK.shape == (20, 2) and targets.abnormal_B is not None
    expected = kept_B * columns_BJ[:, 2] + (1 - kept_B) * columns_BJ[partner_B, 2]
    moved = partner_B != np.arange(20)
    np.testing.assert_allclose(targets.abnormal_B.numpy()[moved], expected[moved], atol=1e-6)


def test_without_auxiliary_head_there_is_no_column() -> None:
    targets_BK = np.ones((3, 2), np.float32)
    assert objective().with_columns(targets_BK) is targets_BK


@pytest.mark.parametrize(
    ("params", "need"),
    [
        ({"gate": True}, "gate works only with aux_weight above 0"),
        ({"aux_weight": 1.0, "positive_threshold": 0.1}, "positive_threshold works only with gate: true"),
        ({"normal_labels": ("NSR",)}, "normal_labels works only with aux_weight above 0"),
        ({"temperature": 2.0}, "temperature works only with teacher"),
        ({"soft_weight": 0.5}, "soft_weight works only with teacher"),
        ({"hard_weight": 0.5}, "hard_weight works only with teacher"),
        ({"teacher": "x", "hard_weight": 0.0, "soft_weight": 0.0}, "hard_weight or soft_weight must be above 0"),
    ],
)
def test_parameters_that_would_do_nothing_are_refused(params: dict[str, Any], need: str) -> None:
    with pytest.raises(ValueError, match=need):
        ObjectiveConfig(**params)


# ------------------------------------------------------------------ the teacher


def teacher_folder(folder: Path, task: Task = "multilabel", **changes: Any) -> str:
    """Write what a sweep leaves in best/: an untrained network of size nano."""
    dataset = tiny_dataset(task)
    config = NetworkConfig(size="nano", causal=False, head="mlp", aux_weight=0.5)
    torch.manual_seed(3)
    network = build_network(config, dataset.signal, dataset.label_set)
    save_weights(folder / "model.safetensors", network.state_dict())
    data = {"signal": vars(dataset.signal), "label_set": vars(dataset.label_set)}
    card = {"method": "adagrad_fusion", "params": config.model_dump(mode="json"), "data": data, **changes}
    (folder / "config.json").write_text(json.dumps(card))
    return str(folder)


def test_the_teacher_answers_as_it_was_trained_to_and_is_frozen(tmp_path: Path) -> None:
    dataset = tiny_dataset("multilabel")
    torch.manual_seed(3)
    config = NetworkConfig(size="nano", causal=False, head="mlp", aux_weight=0.5)
    teacher = build_network(config, dataset.signal, dataset.label_set).eval()
    ecg_BLT = torch.randn(4, 3, 64)
    for place in (teacher_folder(tmp_path), f"{tmp_path}/model.safetensors"):
        targets = objective(teacher=place).targets(ecg_BLT, torch.zeros(4, 2))
        assert targets.teacher_BK is not None
        assert not targets.teacher_BK.requires_grad
        torch.testing.assert_close(targets.teacher_BK, teacher(ecg_BLT))


def test_the_teacher_of_a_student_with_fewer_leads_sees_all_of_them(tmp_path: Path) -> None:
    signal, label_set = Signal(LEADS_12, 50.0, 64), LabelSet("tiny", "multilabel", ("fast", "tall"))
    torch.manual_seed(0)
    teacher = build_network(NetworkConfig(size="nano"), signal, label_set).eval()
    save_weights(tmp_path / "model.safetensors", teacher.state_dict())
    data = {"signal": vars(signal), "label_set": vars(label_set)}
    card = {"method": "adagrad_fusion", "params": NetworkConfig(size="nano").model_dump(mode="json"), "data": data}
    (tmp_path / "config.json").write_text(json.dumps(card))
    split = TinySplit(np.zeros((2, 12, 64), np.float32), np.eye(2, dtype=np.float32))
    dataset = Dataset(signal, label_set, split, split)
    ecg_BLT = torch.randn(2, 12, 64)
    targets = objective(dataset=dataset, teacher=str(tmp_path), leads=1).targets(ecg_BLT, torch.zeros(2, 2))
    torch.testing.assert_close(targets.teacher_BK, teacher(ecg_BLT))


def test_a_teacher_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher: nowhere/x has no config\.json beside its weights"):
        objective(teacher="nowhere/x")
    folder = teacher_folder(tmp_path)
    dataset = tiny_dataset("multilabel")
    swapped = replace(dataset, label_set=replace(dataset.label_set, names=("tall", "fast")))
    with pytest.raises(ValueError, match=r"has the labels \('fast', 'tall'\), but the student's data have \('tall',"):
        objective(dataset=swapped, teacher=folder)
    faster = replace(dataset, signal=replace(dataset.signal, fs_hz=100.0))
    with pytest.raises(ValueError, match=r"has the fs_hz 50\.0, but the student's data have 100\.0"):
        objective(dataset=faster, teacher=folder)
    with pytest.raises(ValueError, match=r"is of method 'supervised'"):
        objective(teacher=teacher_folder(tmp_path, method="supervised"))
