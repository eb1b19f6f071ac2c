"""The training step of AdaGrad-Fusion: back-propagation of a few records, perturbation for the whole batch.

The body's gradient fuses both; activations are stored for `bp_batch` records alone, and all other passes run without
gradient, `zo_chunk` records at a time. The head sees the whole batch through features that were found without gradient
(H-Tuning: Zhou et al. 2025, PMLR 267:79548-79569). Full fine-tuning, LoRA with back-propagation, pure zeroth order and
linear probes are the same step with parts left out.

B: records, L: leads, T: timesteps, C: width, K: outputs, J: columns of targets, Q: directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from trainables.batch_norm import WholeBatchNorm, fitting, frozen, in_chunks, norms_of
from trainables.config import Governed, TrainConfig
from trainables.fusion_coefficient import FusionCoefficient, Rule, fuse
from trainables.fusion_network import FusionNetwork
from trainables.fusion_objective import Objective, Targets
from trainables.ranks import sum_over_ranks
from trainables.seeds import Use, derive_seed
from trainables.sparsity import Score, draw_masks, measure_input_norms
from trainables.step import Step
from trainables.trial import State, Trial
from trainables.zeroth_order import Direction, gradient, predicted_slopes, slopes

Tuning = Literal["full", "lora", "zo", "fused", "probe"]

_LORA = ("tuning", frozenset({"lora", "zo", "fused"}))
_BACKWARD = ("tuning", frozenset({"full", "lora", "fused"}))
_ZEROTH = ("tuning", frozenset({"zo", "fused"}))
_FUSED = ("tuning", frozenset({"fused"}))


class StepConfig(TrainConfig):
    """What is trained, and from which gradients."""

    governed: ClassVar[Governed] = {
        **TrainConfig.governed,
        "accumulate_steps": _BACKWARD,
        "rank": _LORA,
        "alpha": _LORA,
        "zo_eps": _ZEROTH,
        "zo_sides": _ZEROTH,
        "zo_queries": _ZEROTH,
        "zo_statistics": _ZEROTH,
        "zo_chunk": ("tuning", frozenset({"zo", "fused", "probe"})),
        "bp_batch": _FUSED,
        "head_gradient": _FUSED,
        "coef": _FUSED,
        "coef_rule": _FUSED,
        "gradient_sparsity": _ZEROTH,
        "sparsity_mask": _ZEROTH,
        "sparsity_score": _ZEROTH,
    }

    tuning: Tuning = Field(
        "fused",
        description="fused: LoRA with fused gradients; lora: with back-propagation; zo: with zeroth-order gradients; "
        "full: every weight with back-propagation; probe: the head alone.",
    )
    rank: int = Field(16, ge=1, le=1024, description="Rank of LoRA's updates.")
    alpha: Annotated[float, Field(gt=0)] | None = Field(
        None, description="LoRA's updates are scaled by alpha / rank; null: by 1."
    )
    zo_eps: float = Field(1e-3, gt=0, description="Length of a zeroth-order step, in deviations of its direction.")
    zo_sides: Literal[1, 2] = Field(
        2, description="2: the loss at both ends of a perturbation; 1: at one of them, and at rest."
    )
    zo_queries: int = Field(1, ge=1, description="Directions a step.", json_schema_extra={"unit": "directions"})
    zo_chunk: int = Field(
        16, ge=1, description="Records of a pass without gradient.", json_schema_extra={"unit": "records"}
    )
    zo_statistics: Literal["batch", "frozen"] = Field(
        "batch",
        description="Batch norm in zeroth-order passes: the whole batch's statistics, which then move the running ones "
        "(several passes where the batch takes more than one chunk), or the running ones as they are.",
    )
    bp_batch: int = Field(
        8, ge=1, description="Records of a batch that are back-propagated.", json_schema_extra={"unit": "records"}
    )
    head_gradient: Literal["batch", "bp_batch"] = Field(
        "batch", description="Records that the head learns from: the whole batch, through features without gradient."
    )
    coef: float = Field(0.9, ge=0, le=1, description="Share of the first-order part in a fused gradient.")
    coef_rule: Rule = Field(
        "constant",
        description="constant: coef; time: 0.99 for the first fifth of the steps, then coef; cosine, variance: from "
        "coef (the two gradients do not agree) to 1 (fully), as measured.",
    )
    gradient_sparsity: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Share of each tensor's entries that zeroth-order gradients leave out; null: none."
    )
    sparsity_mask: Literal["fixed", "redrawn"] = Field(
        "fixed", description="Entries left out: the same ones in every step, or chosen anew."
    )
    sparsity_score: Score = Field(
        "uniform",
        description="Entries that stay: random ones, those of the largest weights, or of the largest weight times the "
        "norm of its input.",
    )

    @model_validator(mode="after")
    def _step_consistent(self) -> StepConfig:
        if self.coef_rule == "variance" and self.zo_queries < 2:
            raise ValueError(
                f"coef_rule: variance needs at least 2 zo_queries to have one, but got {self.zo_queries}; "
                "coef_rule: cosine takes 1"
            )
        for name in ("sparsity_mask", "sparsity_score"):
            value = getattr(self, name)
            if self.gradient_sparsity is None and value != type(self).model_fields[name].default:
                raise ValueError(f"{name} works only with gradient_sparsity; got {name}={value!r}; leave it out")
        if self.tuning == "fused" and self.bp_batch > self.batch_size:
            raise ValueError(
                f"bp_batch must not exceed batch_size, but got {self.bp_batch} of {self.batch_size} records; "
                "tuning: lora back-propagates the whole batch"
            )
        return self


class Share(NamedTuple):
    """A rank's share of a batch, or of the first records of one.

    Attributes:
        weight: of all ranks' shares: what their sums of losses are divided by.
    """

    ecg_BLT: Tensor
    targets: Targets
    weight: Tensor


class Slopes(NamedTuple):
    """What the zeroth-order passes of a step have found."""

    loss: Tensor  # sum over this rank's records, mean over the passes
    p_Q: Tensor
    directions: Sequence[Direction]


class FusedStep(Step):
    """Ranks draw the same directions and add up their losses, so they follow one gradient."""

    def __init__(
        self, network: FusionNetwork, objective: Objective, config: StepConfig, n_steps: int, trial: Trial
    ) -> None:
        self.network, self.objective, self.config = network, objective, config
        self.body = [parameter for parameter in network.body.parameters() if parameter.requires_grad]
        self.head = [parameter for parameter in network.head.parameters() if parameter.requires_grad]
        self.coefficient = FusionCoefficient(config.coef, config.coef_rule, n_steps)
        self._seed, self._rank, self._world_size = trial.seed, trial.rank, trial.world_size
        self._norms = norms_of(network)
        self._whole_norm = WholeBatchNorm(self._norms, config.zo_chunk, trial.world_size)
        self._masks: list[Tensor] | None = None  # fixed ones
        self._used: list[float] = []  # coefficients of the epoch's steps

    def targets(self, targets_BK: NDArray[np.float32], index_B: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.objective.with_columns(targets_BK)

    def gradient(self, ecg_BLT: Tensor, targets_BJ: Tensor, number: int) -> Tensor:
        batch = self._share(ecg_BLT, self.objective.targets(ecg_BLT, targets_BJ))
        if self.config.tuning in ("full", "lora"):
            self.network.train()
            loss, coef = self._back_propagate(batch, [*self.body, *self.head]), 1.0
        elif self.config.tuning == "probe":
            loss, coef = self._probe(batch), 1.0
        elif self.config.tuning == "zo":
            loss, coef = self._perturb(batch, number), 0.0
        else:
            loss, coef = self._fuse(batch, number)
        self._used.append(coef)
        return torch.stack([loss, self.objective.weight(batch.targets)])

    # ------------------------------------------------------------------ kinds of steps

    def _fuse(self, batch: Share, number: int) -> tuple[Tensor, float]:
        found = self._slopes(batch, number)
        few = self._first(batch, self.config.bp_batch)
        learners = self.body if self.config.head_gradient == "batch" else [*self.body, *self.head]
        self.network.train()
        with frozen(self._norms):
            self._back_propagate(few, learners)
        first = [_grad(parameter) for parameter in self.body]
        if self.coefficient.measures:
            predicted_Q = predicted_slopes(first, found.directions)
            self.coefficient.measure(found.p_Q, predicted_Q, _norm(first, found.directions[0].masks))
        coef = self.coefficient.at(number)
        zeroth = gradient(self.body, found.directions, found.p_Q)
        for parameter, g_fo, g_zo in zip(self.body, first, zeroth, strict=True):
            parameter.grad = fuse(g_fo, g_zo, coef)
        return found.loss, coef

    def _perturb(self, batch: Share, number: int) -> Tensor:
        found = self._slopes(batch, number)
        for parameter, g_zo in zip(self.body, gradient(self.body, found.directions, found.p_Q), strict=True):
            parameter.grad = g_zo
        return found.loss

    def _probe(self, batch: Share) -> Tensor:
        self.network.eval()
        with torch.no_grad():
            features_BC = in_chunks(self._body, batch.ecg_BLT, self.config.zo_chunk)
        loss = self._head_loss(features_BC, batch, share=1.0)
        self._add_up(self.head)
        return loss

    # ------------------------------------------------------------------ first order

    def _back_propagate(self, batch: Share, learners: Sequence[nn.Parameter]) -> Tensor:
        """Put the gradient of the mean loss into `.grad` of `learners`; return the sum of this rank's losses.

        Goes in `accumulate_steps` pieces, on every rank alike, since batch norm over GPUs waits for all of them.
        """
        loss = torch.zeros((), device=batch.ecg_BLT.device)
        for rows in _pieces(len(batch.ecg_BLT), self.config.accumulate_steps):
            with fitting(self.network, rows.stop - rows.start):
                with self._autocast():
                    answers = self.network.head(self.network.body(batch.ecg_BLT[rows]))
                total = self.objective.total(answers, batch.targets[rows])
                (total / batch.weight).backward(inputs=learners)  # type: ignore[no-untyped-call]
            loss += total.detach()
        self._add_up(learners)
        return loss

    # ------------------------------------------------------------------ zeroth order

    def _slopes(self, batch: Share, number: int) -> Slopes:
        """Find the loss's slopes along the step's directions; the head's gradient comes with them."""
        self.network.eval()
        masks = self._masks_of(batch, number)
        directions = [
            Direction(derive_seed(Use.DIRECTION, self._seed, number, query), masks)
            for query in range(self.config.zo_queries)
        ]
        n_passes = len(directions) * 2 if self.config.zo_sides == 2 else len(directions) + 1
        losses = []

        def evaluate() -> Tensor:
            features_BC = self._features(batch.ecg_BLT)
            losses.append(self._head_loss(features_BC, batch, share=1 / n_passes))
            return sum_over_ranks(losses[-1], self._world_size) / batch.weight

        p_Q = slopes(evaluate, self.body, directions, self.config.zo_eps, two_sided=self.config.zo_sides == 2)
        self._whole_norm.end_step()
        if self._learns_head_here:
            self._add_up(self.head)
        return Slopes(torch.stack(losses).mean(), p_Q, directions)

    @property
    def _learns_head_here(self) -> bool:
        """Whether the head learns from features without gradient."""
        return self.config.tuning != "fused" or self.config.head_gradient == "batch"

    def _features(self, ecg_BLT: Tensor) -> Tensor:
        if self.config.zo_statistics == "batch":
            return self._whole_norm.evaluate(self._body, ecg_BLT)
        return in_chunks(self._body, ecg_BLT, self.config.zo_chunk)

    def _body(self, ecg_BLT: Tensor) -> Tensor:
        with self._autocast():
            features_BC: Tensor = self.network.body(ecg_BLT)
        return features_BC.float()

    def _head_loss(self, features_BC: Tensor, batch: Share, share: float) -> Tensor:
        """Return the sum of this rank's losses; add `share` of their mean's gradient to the head's."""
        with torch.set_grad_enabled(self._learns_head_here):
            with self._autocast():
                answers = self.network.head(features_BC)
            total = self.objective.total(answers, batch.targets)
            if self._learns_head_here:
                (total * (share / batch.weight)).backward(inputs=self.head)  # type: ignore[no-untyped-call]
        return total.detach()

    def _masks_of(self, batch: Share, number: int) -> list[Tensor] | None:
        """Return the step's sparsity masks of the body."""
        config = self.config
        if config.gradient_sparsity is None or self._masks is not None:
            return self._masks
        norms = None
        if config.sparsity_score == "activation":
            ecg_BLT = self._first(batch, config.zo_chunk).ecg_BLT
            with torch.no_grad():
                norms = measure_input_norms(self.network, self.body, lambda: self._body(ecg_BLT), self._world_size)
        drawn_at = (number,) if config.sparsity_mask == "redrawn" else ()
        generator = torch.Generator(batch.ecg_BLT.device)
        generator.manual_seed(derive_seed(Use.SPARSITY, self._seed, *drawn_at))
        masks = draw_masks(self.body, config.gradient_sparsity, config.sparsity_score, generator, norms)
        if config.sparsity_mask == "fixed":
            self._masks = masks
        return masks

    # ------------------------------------------------------------------ shares and ranks

    def _share(self, ecg_BLT: Tensor, targets: Targets) -> Share:
        weight = sum_over_ranks(self.objective.weight(targets), self._world_size)
        return Share(ecg_BLT, targets, weight.clamp(min=1e-12))

    def _first(self, batch: Share, n_records: int) -> Share:
        """Return what of the batch's first records over all ranks is this rank's."""
        n_R = torch.zeros(self._world_size, dtype=torch.int64, device=batch.ecg_BLT.device)
        n_R[self._rank] = len(batch.ecg_BLT)
        n_R = sum_over_ranks(n_R, self._world_size)
        before = int(n_R[: self._rank].sum()) if self._rank else 0
        rows = slice(0, max(0, n_records - before))
        return self._share(batch.ecg_BLT[rows], batch.targets[rows])

    def _add_up(self, learners: Sequence[nn.Parameter]) -> None:
        for parameter in learners:
            parameter.grad = sum_over_ranks(_grad(parameter), self._world_size)

    def _autocast(self) -> torch.autocast:
        device = self.body[0].device if self.body else self.head[0].device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    # ------------------------------------------------------------------ reports and checkpoints

    def metrics(self) -> Mapping[str, float]:
        used, self._used = self._used, []
        return {"coef": float(np.mean(used))}

    def state(self) -> State:
        return {"coefficient": self.coefficient.state(), "masks": self._masks}

    def load(self, state: State) -> None:
        self.coefficient.load(state["coefficient"])
        if state["masks"] is not None:
            self._masks = [mask.to(each.device) for mask, each in zip(state["masks"], self.body, strict=True)]


METRICS = frozenset({"coef"})
"""What `FusedStep` adds to reports: the epoch's mean coefficient (1: first order alone)."""


def _pieces(n_records: int, n_pieces: int) -> Iterator[slice]:
    ends = [n_records * number // n_pieces for number in range(n_pieces + 1)]
    return (slice(start, stop) for start, stop in pairwise(ends))


def _grad(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _norm(gradients: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
    """Return the norm of what the masks leave of several gradients."""
    if masks is not None:
        gradients = [each * mask for each, mask in zip(gradients, masks, strict=True)]
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
    return norm
