"""wav2vec2's criterion (Baevski et al. 2020, arXiv:2006.11477), and what ECG-FM adds to it: CMSC and lead masking.

loss = contrastive + diversity_weight * diversity + feature_penalty * penalty + cmsc_weight * cmsc, where
contrastive: -log softmax over (the masked token's own code, `n_negatives` codes of other masked tokens of its record)
of the cosines / 0.1 (eq. 3); diversity: 1 - perplexity / number of codes (eq. 4); penalty: the mean square of the
convolutions' output; cmsc (Kiyasseh et al. 2021, arXiv:2005.13249): the mean tokens of a record's two halves find each
other among those of the batch, in both directions, temperature 0.1. Lead masking: each lead is zeroed by chance.

B: records, L: leads, T: timesteps, E: tokens, H: hidden size, C: channels of the convolutions, D: code size,
M: masked tokens, N: negatives.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.dataset import Batch
from trainables.backbones.architecture import Architecture, build_network
from trainables.pretraining.config import TokenPretrainConfig
from trainables.pretraining.masks import RecordStreams, draw_masks
from trainables.pretraining.trainer import Part, Prepared, Role
from trainables.token_encoder import (
    conv_features,
    encode_projected,
    lay_out,
    mean_of_tokens,
    set_dropout,
    valid_tokens,
)

TEMPERATURE = 0.1
CMSC_TEMPERATURE = 0.1
PART_NAMES = ("contrastive", "diversity", "feature_penalty", "cmsc", "masked_accuracy", "cmsc_accuracy")
LEAD_STREAM = 1  # of a record's random numbers; stream 0 masks tokens


class ContrastiveConfig(TokenPretrainConfig):
    """What the contrastive criterion is told; a method's own config names the network."""

    n_negatives: int = Field(100, ge=1, description="Codes of other masked tokens that a token is told its own from.")
    code_groups: int = Field(2, ge=1, description="Groups of codes; a token has one of each.")
    codes_a_group: int = Field(320, ge=2, description="Codes of a group.")
    code_size: int = Field(256, ge=1, description="Width in which tokens are compared with codes.")
    gumbel_start: float = Field(2.0, gt=0, description="Temperature of the choice of codes at first.")
    gumbel_end: float = Field(0.5, gt=0, description="Its least temperature.")
    gumbel_decay: float = Field(0.999995, gt=0, le=1, description="What a step multiplies the temperature by.")
    diversity_weight: float = Field(0.1, ge=0, description="Weight of the loss that keeps all codes in use.")
    feature_penalty: float = Field(10.0, ge=0, description="Weight of the mean square of the convolutions' output.")
    feature_grad_scale: float = Field(0.1, gt=0, le=1, description="What the convolutions' gradient is multiplied by.")
    feature_dropout: float = Field(
        0.1, ge=0, lt=1, description="Dropout of what enters the transformer, and of what the codes are chosen from."
    )
    cmsc_weight: float = Field(
        0.0,
        ge=0,
        description="ECG-FM: weight of the loss by which a record's two halves find each other in the batch; with it "
        "records go through the network as two segments; 0: off.",
    )
    lead_mask_prob: float = Field(
        0.0, ge=0, lt=1, description="ECG-FM: chance that a lead is zeroed in training; one always stays; 0: off."
    )

    @model_validator(mode="after")
    def _codes_divide(self) -> Self:
        if self.code_size % self.code_groups:
            raise ValueError(
                f"code_size must be a multiple of code_groups, but got {self.code_size} and {self.code_groups}"
            )
        return self


class Quantiser(nn.Module):
    """feature_MC -> (codes_MD, diversity): one code of each group a token, chosen with Gumbel noise in training.

    Written with one matrix product a group, where `transformers`' own makes a tensor of tokens x codes x size.
    """

    def __init__(self, n_channels: int, config: ContrastiveConfig) -> None:
        super().__init__()
        self.n_groups, self.n_codes = config.code_groups, config.codes_a_group
        self.temperature = config.gumbel_start
        self.weight_proj = nn.Linear(n_channels, self.n_groups * self.n_codes)
        self.codevectors = nn.Parameter(torch.rand(self.n_groups, self.n_codes, config.code_size // self.n_groups))
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)

    def forward(self, feature_MC: Tensor) -> tuple[Tensor, Tensor]:
        logits_MGV = self.weight_proj(feature_MC).float().reshape(-1, self.n_groups, self.n_codes)
        soft_MGV = logits_MGV.softmax(dim=2)
        if self.training:
            hard_MGV = nn.functional.gumbel_softmax(logits_MGV, tau=self.temperature, hard=True, dim=2)
        else:
            hard_MGV = nn.functional.one_hot(logits_MGV.argmax(dim=2), self.n_codes).float()
        codes_MD = torch.einsum("mgv,gvd->mgd", hard_MGV, self.codevectors.float()).flatten(1)
        used_GV = (soft_MGV if self.training else hard_MGV).sum(dim=0) / max(1, len(feature_MC))
        perplexity_G = torch.exp(-torch.xlogy(used_GV, used_GV).sum(dim=1))
        return codes_MD, 1 - perplexity_G.sum() / (self.n_groups * self.n_codes)


class Contrastive(nn.Module):
    """An encoder with a quantiser; a `trainables.pretraining.trainer.PretrainModel`.

    Args:
        n_tokens: of what the network reads at once: a record, or with CMSC its half.
    """

    def __init__(self, architecture: Architecture, n_tokens: int, config: ContrastiveConfig) -> None:
        super().__init__()
        self.architecture, self.n_tokens, self.config = architecture, n_tokens, config
        self.wav2vec2: Any = build_network(architecture, config.dropout)
        self.quantizer = Quantiser(architecture.conv_channels, config)
        self.project_q = nn.Linear(config.code_size, config.code_size)
        self.project_hid = nn.Linear(architecture.hidden_size, config.code_size)
        self.input_dropout, self.feature_dropout = (nn.Dropout(config.feature_dropout) for _ in range(2))
        weights = (1.0, config.diversity_weight, config.feature_penalty, config.cmsc_weight, 0.0, 0.0)
        self.criterion = [Part(name, weight) for name, weight in zip(PART_NAMES, weights, strict=True)]

    @property
    def network(self) -> Any:
        return self.wav2vec2

    @property
    def pairs(self) -> bool:
        """Whether a record's two halves go through the network apart."""
        return self.config.cmsc_weight > 0

    def begin_step(self, step: int) -> None:
        config = self.config
        self.quantizer.temperature = max(config.gumbel_start * config.gumbel_decay**step, config.gumbel_end)

    def set_dropout(self, dropout: float) -> None:
        set_dropout(self.wav2vec2, dropout)

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        """Return the mean over the tokens of unmasked records (of both halves), embeddings_BH."""
        if not self.pairs:
            return self._embed(ecg_BLT)
        first, second = halves(ecg_BLT)
        return (self._embed(first) + self._embed(second)) / 2

    def _embed(self, ecg_BLT: Tensor) -> Tensor:
        valid_BE = valid_tokens(ecg_BLT, self.architecture, self.n_tokens)
        hidden_BEH = self._project(conv_features(self.wav2vec2, lay_out(ecg_BLT, self.architecture)))[0]
        return mean_of_tokens(encode_projected(self.wav2vec2, hidden_BEH, valid_BE=valid_BE), valid_BE)

    def _project(self, feature_BEC: Tensor) -> tuple[Tensor, Tensor]:
        projected: tuple[Tensor, Tensor] = self.wav2vec2.feature_projection(feature_BEC)
        return projected

    def parts(self, *inputs: Tensor | None) -> Tensor:
        """Return the sums of `PART_NAMES`: over masked tokens, but for the penalty (tokens) and CMSC (records).

        Args:
            inputs: ecg_BLT (with CMSC the first halves and then the second), mask_BE, valid_BE (None: no padding).
        """
        ecg_BLT, mask_BE, valid_BE = inputs
        assert ecg_BLT is not None and mask_BE is not None
        feature_BEC = conv_features(self.wav2vec2, lay_out(ecg_BLT, self.architecture))
        feature_BEC = _scale_gradient(feature_BEC, self.config.feature_grad_scale)
        signal_BE = torch.ones_like(mask_BE) if valid_BE is None else valid_BE
        penalty = feature_BEC.float().square().mean(dim=2)[signal_BE].sum()
        projected_BEH, normal_BEC = self._project(feature_BEC)
        hidden_BEH = encode_projected(
            self.wav2vec2, self.input_dropout(projected_BEH), mask_BE, valid_BE, self.config.layerdrop
        )
        codes_MD, diversity = self.quantizer(self.feature_dropout(normal_BEC[mask_BE]))
        token_MD, code_MD = self.project_hid(hidden_BEH[mask_BE]), self.project_q(codes_MD)
        contrastive, hits = self._contrast(token_MD, code_MD, mask_BE)
        cmsc, pair_hits = self._match_halves(hidden_BEH, valid_BE)
        return torch.stack([contrastive, diversity * len(token_MD), penalty, cmsc, hits, pair_hits])

    def _contrast(self, token_MD: Tensor, code_MD: Tensor, mask_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses over masked tokens, and of those that find their own code."""
        if len(token_MD) == 0:
            nothing = token_MD.sum().float()
            return nothing, nothing.detach()
        other_MN, is_other_MN = draw_negatives(mask_BE, self.config.n_negatives)
        token_MD, code_MD = (nn.functional.normalize(each.float(), dim=1) for each in (token_MD, code_MD))
        own_M1 = (token_MD * code_MD).sum(dim=1, keepdim=True)
        others_MN = torch.einsum("md,mnd->mn", token_MD, code_MD[other_MN])
        same_MN = (code_MD[other_MN] == code_MD[:, None]).all(dim=2)  # the same code is no negative
        others_MN = others_MN.masked_fill(same_MN | ~is_other_MN, float("-inf"))
        logits = torch.cat([own_M1, others_MN], dim=1) / TEMPERATURE
        first_M = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        loss = nn.functional.cross_entropy(logits, first_M, reduction="sum")
        return loss, (logits.argmax(dim=1) == 0).sum().float()

    def _match_halves(self, hidden_BEH: Tensor, valid_BE: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sum of both directions' losses over records, halved, and of the halves that find each other."""
        if not self.pairs:
            nothing = hidden_BEH.new_zeros((), dtype=torch.float32)
            return nothing, nothing
        mean_BH = nn.functional.normalize(mean_of_tokens(hidden_BEH, valid_BE).float(), dim=1)
        first, second = mean_BH.chunk(2)
        logits_PP = first @ second.T / CMSC_TEMPERATURE
        pair_P = torch.arange(len(first), device=logits_PP.device)
        both = [nn.functional.cross_entropy(each, pair_P, reduction="sum") for each in (logits_PP, logits_PP.T)]
        return (both[0] + both[1]) / 2, (logits_PP.argmax(dim=1) == pair_P).sum().float()


def halves(ecg_BLT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two adjacent halves of every record; an odd timestep at the end is left out."""
    half = ecg_BLT.shape[2] // 2
    return ecg_BLT[:, :, :half], ecg_BLT[:, :, half : 2 * half]


def draw_negatives(mask_BE: Tensor, n_negatives: int) -> tuple[Tensor, Tensor]:
    """Draw other masked tokens of each masked token's record, with replacement.

    Returns:
        other_MN: their places among the batch's masked tokens; is_other_MN: false where the record has no other.
    """
    count_B = mask_BE.sum(dim=1)
    record_M = mask_BE.nonzero()[:, 0]
    first_B = torch.cumsum(count_B, dim=0) - count_B
    own_M1 = (torch.arange(len(record_M), device=mask_BE.device) - first_B[record_M])[:, None]
    n_others_M1 = (count_B[record_M] - 1)[:, None]
    draw_MN = (torch.rand(len(record_M), n_negatives, device=mask_BE.device) * n_others_M1).long()
    draw_MN = torch.minimum(draw_MN, (n_others_M1 - 1).clamp(min=0))
    other_MN = first_B[record_M][:, None] + draw_MN + (draw_MN >= own_M1) * (n_others_M1 > 0)
    return other_MN, (n_others_M1 > 0).expand_as(other_MN)


class ContrastiveBatches:
    """Prepares batches for `Contrastive`: halves of records where they are paired, masked tokens and leads."""

    def __init__(self, config: ContrastiveConfig, architecture: Architecture, n_tokens: int) -> None:
        self._config, self._architecture, self._n_tokens = config, architecture, n_tokens

    def __call__(self, batch: Batch, role: Role, streams: RecordStreams) -> Prepared:
        ecg_BLT = torch.from_numpy(batch.ecg_BLT)
        n_records, n_parts = len(ecg_BLT), 1
        if self._config.cmsc_weight > 0:
            ecg_BLT, n_parts = torch.cat(halves(ecg_BLT)), 2
        valid_BE = valid_tokens(ecg_BLT, self._architecture, self._n_tokens).numpy()
        # a record's two halves have numbers of their own
        number_B = np.concatenate([batch.index_B * n_parts + part for part in range(n_parts)])
        mask_BE = draw_masks(valid_BE, number_B, self._config, streams)
        if role == "train" and self._config.lead_mask_prob:
            kept_BL = _kept_leads(number_B, ecg_BLT.shape[1], self._config.lead_mask_prob, streams)
            ecg_BLT = ecg_BLT * torch.from_numpy(kept_BL)[:, :, None]
        n_masked, n_valid = int(mask_BE.sum()), int(valid_BE.sum())
        n_pairs = n_records if n_parts == 2 else 0
        counts = torch.tensor([n_masked, n_masked, n_valid, n_pairs, n_masked, n_pairs], dtype=torch.float32)
        inputs = (ecg_BLT, torch.from_numpy(mask_BE), None if valid_BE.all() else torch.from_numpy(valid_BE))
        return Prepared(inputs, counts, n_valid)


def _kept_leads(number_B: NDArray[np.int64], n_leads: int, prob: float, streams: RecordStreams) -> NDArray[np.float32]:
    """Draw which leads stay, kept_BL; one lead always does."""
    kept_BL = np.ones((len(number_B), n_leads), np.float32)
    for row, number in enumerate(number_B.tolist()):
        draw_L = streams.generator(number, LEAD_STREAM).random(n_leads)
        kept_BL[row] = (draw_L >= prob) | (draw_L == draw_L.max())
    return kept_BL


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, scale: float) -> Tensor:
        context.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.scale, None


def _scale_gradient(values: Tensor, scale: float) -> Tensor:
    """Return `values`, whose gradient is multiplied by `scale` on its way back."""
    scaled: Tensor = _ScaledGradient.apply(values, scale)  # type: ignore[no-untyped-call]
    return scaled
