"""The layer of a stacking learns from records that are new to the heads below it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.dataset import LabelSet
from data.memory import MemorySplit
from trainables.config import TrainConfig
from trainables.enecg_loss import EnsembleCriterion
from trainables.enecg_mixing import Stacking
from trainables.enecg_network import Mixture
from trainables.enecg_stacking import N_MEMBERS, StackingCriterion, deal_parts
from trainables.losses import build_criterion

LABELS = LabelSet("tiny", "binary", ("fast",))
N, WIDTH = 100, 80


@pytest.fixture
def labels_N1() -> Tensor:
    return (torch.rand(N, 1, generator=torch.Generator().manual_seed(0)) < 0.5).float()


@pytest.fixture
def features_NF(labels_N1: Tensor) -> Tensor:
    """Return noise that a head can learn by heart, and a column that tells something of the label."""
    generator = torch.Generator().manual_seed(1)
    noise_NF = torch.randn(N, WIDTH, generator=generator)
    return torch.cat([noise_NF, labels_N1 + torch.randn(N, 1, generator=generator)], dim=1)


def mixture(n_members: int) -> Mixture:
    torch.manual_seed(2)
    heads = [nn.Linear(width, 1) for _ in range(n_members) for width in (WIDTH, 1)]
    return Mixture((WIDTH, 1), heads, Stacking(2, 1), 0, 0, LABELS)


def rows_of(network: Mixture, features_BF: Tensor) -> Tensor:
    return torch.cat([each.packed() for each in network.members(features_BF, None)], dim=1)


def criterion(n_members: int = N_MEMBERS) -> StackingCriterion | EnsembleCriterion:
    plain = build_criterion(TrainConfig(), LABELS, np.zeros((1, 1), np.float32))
    if n_members == 1:
        return EnsembleCriterion(plain, 2, 1, aux_weight=1.0, balance_weight=0.0)
    return StackingCriterion(plain, 2, 1, aux_weight=1.0)


def parts_of(n_records: int) -> Tensor:
    return torch.eye(N_MEMBERS)[torch.arange(n_records) % N_MEMBERS]


def test_parts_have_whole_patients_and_every_label_alike() -> None:
    rng = np.random.default_rng(0)
    patient_ids = np.repeat(np.array([f"p{number}" for number in range(50)]), 3)
    labels_N1 = np.repeat(np.arange(50) % 2, 3).astype(np.float32)[:, None]
    order = rng.permutation(150)
    split = MemorySplit(
        np.zeros((150, 1, 1), np.float32), np.ones(150, np.int32), labels_N1[order],
        np.arange(150).astype(str), patient_ids[order],
    )  # fmt: skip
    part_NM = deal_parts(split, LABELS, seed=2**63)
    assert part_NM.shape == (150, N_MEMBERS) and (part_NM.sum(axis=1) == 1).all()
    for patient in np.unique(patient_ids):
        assert len(np.unique(part_NM[split.patient_ids == patient], axis=0)) == 1
    positive_M = part_NM[split.labels_NK[:, 0] == 1].sum(axis=0)
    assert positive_M.tolist() == [15] * N_MEMBERS
    np.testing.assert_array_equal(deal_parts(split, LABELS, seed=2**63), part_NM)


def test_a_record_teaches_the_layer_of_one_member_and_the_heads_of_the_others(
    features_NF: Tensor, labels_N1: Tensor
) -> None:
    network = mixture(N_MEMBERS)
    of_part_B = parts_of(N)[:, 3] == 1
    x, targets = features_NF[of_part_B], torch.cat([labels_N1, parts_of(N)], dim=1)[of_part_B]
    criterion().total(rows_of(network, x), targets).backward()
    for number, head in enumerate(network.heads):
        assert head.weight.grad is not None
        assert head.weight.grad.any() == (number // 2 != 3)
    stacking = network.mixing
    assert isinstance(stacking, Stacking)
    found = stacking.linear.weight.grad
    stacking.linear.weight.grad = None
    alone_B1 = network.members(x, None)[3].mixed_BK
    nn.functional.binary_cross_entropy_with_logits(alone_B1, labels_N1[of_part_B], reduction="sum").backward()
    torch.testing.assert_close(stacking.linear.weight.grad, found)


def test_a_record_weighs_as_much_as_in_an_ensemble_without_members(features_NF: Tensor, labels_N1: Tensor) -> None:
    """Where all members are alike, the loss is that of one."""
    one, many = mixture(1), mixture(N_MEMBERS)
    for number, head in enumerate(many.heads):
        head.load_state_dict(one.heads[number % 2].state_dict())
    targets = torch.cat([labels_N1, parts_of(N)], dim=1)
    expected = criterion(1).total(rows_of(one, features_NF), labels_N1)
    torch.testing.assert_close(criterion().total(rows_of(many, features_NF), targets), expected)
    assert criterion().weight(targets) == N


def test_the_loss_of_a_batch_is_the_sum_of_its_pieces_however_small(features_NF: Tensor, labels_N1: Tensor) -> None:
    network, targets = mixture(N_MEMBERS), torch.cat([labels_N1, parts_of(N)], dim=1)
    pieces = [(0, 2), (2, 2), (2, 60), (60, N)]  # of some no member's part is, and one is empty
    total = sum(criterion().total(rows_of(network, features_NF[a:b]), targets[a:b]) for a, b in pieces)
    torch.testing.assert_close(total, criterion().total(rows_of(network, features_NF), targets))


def test_a_mixture_of_two_parts_is_new_to_no_member(features_NF: Tensor, labels_N1: Tensor) -> None:
    network, part_BM = mixture(N_MEMBERS), torch.zeros(N, N_MEMBERS)
    part_BM[:, :2] = 0.5
    criterion().total(rows_of(network, features_NF), torch.cat([labels_N1, part_BM], dim=1)).backward()
    stacking = network.mixing
    assert isinstance(stacking, Stacking)
    assert stacking.linear.weight.grad is None or not stacking.linear.weight.grad.any()
    learns = [bool(head.weight.grad is not None and head.weight.grad.any()) for head in network.heads]
    assert learns == [False] * 4 + [True] * 6


def trust_in_noise(n_members: int, features_NF: Tensor, labels_N1: Tensor) -> float:
    """Train to the end, and return the weight of the expert whose features are noise."""
    network, loss = mixture(n_members), criterion(n_members)
    targets = labels_N1 if n_members == 1 else torch.cat([labels_N1, parts_of(N)], dim=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss.total(rows_of(network, features_NF), targets).backward()
        optimizer.step()
    return float(network.members(features_NF, None)[0].weights.weight_BE[0, 0].detach())


def test_it_does_not_trust_an_expert_that_has_learnt_by_heart(features_NF: Tensor, labels_N1: Tensor) -> None:
    """What is known of the training records alone is worth nothing, but looks best where heads and layer share them."""
    assert trust_in_noise(1, features_NF, labels_N1) > 0.5
    assert trust_in_noise(N_MEMBERS, features_NF, labels_N1) < 0.1
