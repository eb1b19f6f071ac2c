"""A trained model as one network that takes mV: the last preprocessing steps, windows and pooling are inside.

Steps that work on one record with plain arithmetic go in. Filters and resampling stay outside: they run forwards and
backwards over the record, in float64, with an extension at its ends that depends on its length; a convolution in their
place would give other numbers. So do `nan` by interpolation, and `nan` as an error. The chain is cut behind its last
outside step: what comes before is the caller's, and named in the file.

B: records, L: leads, T: timesteps, W: windows of a record, K: outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.card import DataCard
from data.crop import CropOrPad
from data.dataset import Signal
from data.gaps import Nan
from data.leads import MIN_SD_MV, ConstantLeads, DeriveLimbLeads, Leads, limb_lead_shares
from data.operation import Operation
from data.preprocessing import Step, output_signal, without_padding
from data.scaling import MinMax, Statistics, Zscore
from trainables.config import TrainConfig
from trainables.standardise import before_padding
from trainables.windows import count_windows, cut_windows, window_timesteps


class Padded(NamedTuple):
    """Records of which `ecg_BLT` is zero from `length_B11` on."""

    ecg_BLT: Tensor
    length_B11: Tensor

    @property
    def is_signal_B1T(self) -> Tensor:
        return torch.arange(self.ecg_BLT.shape[2], device=self.ecg_BLT.device) < self.length_B11

    def with_signal(self, ecg_BLT: Tensor) -> Padded:
        """Return the same records with other values; padding stays zero."""
        return Padded(ecg_BLT.masked_fill(~self.is_signal_B1T, 0), self.length_B11)


class Chain(NamedTuple):
    """A preprocessing chain, cut in two."""

    before: tuple[Step, ...]  # the caller's
    inside: tuple[Step, ...]


def cut_chain(steps: Sequence[Step]) -> Chain:
    """Cut a chain behind its last step that can't be part of a network."""
    outside = [number for number, step in enumerate(steps, start=1) if not _can_be_inside(step.operation)]
    end = max(outside, default=0)
    return Chain(tuple(steps[:end]), tuple(steps[end:]))


class DeployedModel(nn.Module):
    """Maps records in mV, after the steps `chain.before`, to probabilities_BK, or to values_BK in the targets' units.

    Records shorter than `signal` end in zeros: timesteps at the end that are zero in all leads are padding.

    Args:
        network: ecg_BLT, preprocessed windows, -> logits_BK.
    """

    def __init__(self, network: nn.Module, config: TrainConfig, data: DataCard) -> None:
        super().__init__()
        self.network = network
        self.chain = cut_chain(data.preprocess)
        self.signal = output_signal(self.chain.before, data.input_signal)
        self.task, self.pooling = data.label_set.task, config.window_pooling
        self._n_timesteps = data.signal.n_timesteps
        self._n_padded = self._n_timesteps - _unpadded(self.chain.inside, self.signal)
        self._window = window_timesteps(config, data.signal) if config.crop_timesteps is not None else None
        self._stride = config.window_stride or max(1, (self._window or 1) // 2)
        self._steps = _build_steps(self.chain.inside, self.signal, data.statistics)

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        length_B11 = before_padding(ecg_BLT).sum(dim=2, keepdim=True).long()
        records = Padded(ecg_BLT, length_B11)
        for step in self._steps:
            records = step(records)
        if self._n_padded:
            padding_BLT = torch.zeros_like(records.ecg_BLT[:, :, :1]).expand(-1, -1, self._n_padded)
            records = Padded(torch.cat([records.ecg_BLT, padding_BLT], dim=2), records.length_B11)
        if self._window is None:
            return self._answer(self.network(records.ecg_BLT))
        return self._pool(*self._answer_windows(records, self._window))

    def _answer(self, logits_RK: Tensor) -> Tensor:
        if self.task == "regression":
            return logits_RK
        return torch.softmax(logits_RK, dim=1) if self.task == "multiclass" else torch.sigmoid(logits_RK)

    def _answer_windows(self, records: Padded, window: int) -> tuple[Tensor, Tensor]:
        """Return answers_BWK of the windows of `trainables.windows`, and is_there_BW1."""
        n_windows = count_windows(self._n_timesteps, window, self._stride)
        windows_BWLC, _, is_there_BW = cut_windows(
            records.ecg_BLT, records.length_B11[:, :, 0], window, self._stride, n_windows
        )
        answers_RK = self._answer(self.network(windows_BWLC.flatten(0, 1)))
        return answers_RK.reshape(-1, n_windows, answers_RK.shape[1]), is_there_BW[:, :, None]

    def _pool(self, answers_BWK: Tensor, is_there_BW1: Tensor) -> Tensor:
        """Pool as `trainables.evaluation.pool_windows` does, but probabilities themselves."""
        there_BWK = answers_BWK * is_there_BW1.to(answers_BWK.dtype)
        if self.pooling == "mean" or self.task == "regression":
            return there_BWK.sum(dim=1) / is_there_BW1.sum(dim=1)
        pooled_BK = there_BWK.amax(dim=1)
        return pooled_BK / pooled_BK.sum(dim=1, keepdim=True) if self.task == "multiclass" else pooled_BK


# ---------------------------------------------------------------------- steps

_Apply = Callable[[Padded], Padded]


def _can_be_inside(operation: Operation) -> bool:
    if isinstance(operation, Nan):
        return operation.policy in ("zero", "mean")
    return type(operation) in _BUILDERS or isinstance(operation, Zscore)


def _build_steps(steps: Sequence[Step], signal: Signal, statistics: Statistics | None) -> list[_Apply]:
    built = []
    for step in steps:
        operation = step.operation
        if isinstance(operation, Zscore):
            built.append(_zscore(operation, statistics))
        else:
            built.append(_BUILDERS[type(operation)](operation, signal))
        signal = without_padding(step, signal)
    return built


def _unpadded(steps: Sequence[Step], signal: Signal) -> int:
    """Return the timesteps behind the last step, before padding."""
    for step in steps:
        signal = without_padding(step, signal)
    return signal.n_timesteps


def _zscore(step: Zscore, statistics: Statistics | None) -> _Apply:
    if step.per == "segment":
        return lambda records: records  # inside the network: `trainables.standardise`
    if step.per == "global":
        assert statistics is not None
        mean, scale = statistics.mean, 1 / statistics.sd if statistics.sd > MIN_SD_MV else 0.0
        return lambda records: records.with_signal((records.ecg_BLT - mean) * scale)
    return _standardise_leads if step.per == "lead" else _standardise_records


def _standardise_leads(records: Padded) -> Padded:
    centred, sd_BL1 = _centre(records, over=(2,))
    return records.with_signal(centred.ecg_BLT * _inverse(sd_BL1, 1.0))


def _standardise_records(records: Padded) -> Padded:
    centred, sd_B11 = _centre(records, over=(1, 2))
    return records.with_signal(centred.ecg_BLT * _inverse(sd_B11, 1.0))


def _centre(records: Padded, over: tuple[int, ...]) -> tuple[Padded, Tensor]:
    """Subtract the mean over `over`; returns the standard deviation too."""
    n_leads = records.ecg_BLT.shape[1] if 1 in over else 1
    n_B11 = records.length_B11.clamp(min=1) * n_leads
    centred = records.with_signal(records.ecg_BLT - records.ecg_BLT.sum(dim=over, keepdim=True) / n_B11)
    return centred, (centred.ecg_BLT.square().sum(dim=over, keepdim=True) / n_B11).sqrt()


def _inverse(spread: Tensor, numerator: float, eps: float = 0.0) -> Tensor:
    """Return numerator / (spread + eps), 0 for what is constant."""
    is_constant = spread <= MIN_SD_MV
    return torch.where(is_constant, torch.zeros_like(spread), numerator / (spread + eps + is_constant))


def _min_max(step: MinMax, signal: Signal) -> _Apply:
    def apply(records: Padded) -> Padded:
        low_BL1 = records.ecg_BLT.masked_fill(~records.is_signal_B1T, float("inf")).amin(dim=2, keepdim=True)
        high_BL1 = records.ecg_BLT.masked_fill(~records.is_signal_B1T, float("-inf")).amax(dim=2, keepdim=True)
        scale_BL1 = _inverse(high_BL1 - low_BL1, 2.0, step.eps)
        scaled_BLT = (records.ecg_BLT - low_BL1) * scale_BL1 - 1
        return records.with_signal(torch.where(scale_BL1 > 0, scaled_BLT, torch.zeros_like(scaled_BLT)))

    return apply


def _leads(step: Leads, signal: Signal) -> _Apply:
    known = {name.lower(): index for index, name in enumerate(signal.lead_names)}
    rows = [known.get(name.lower()) for name in step.names]
    return lambda records: Padded(
        torch.stack(
            [torch.zeros_like(records.ecg_BLT[:, 0]) if row is None else records.ecg_BLT[:, row] for row in rows],
            dim=1,
        ),
        records.length_B11,
    )


def _derive_limb_leads(step: DeriveLimbLeads, signal: Signal) -> _Apply:
    known = {name.lower(): index for index, name in enumerate(signal.lead_names)}
    order = step.output_signal(signal).lead_names

    def lead(ecg_BLT: Tensor, name: str) -> Tensor:
        if name.lower() in known:
            return ecg_BLT[:, known[name.lower()]]
        first, second = limb_lead_shares(name)
        return ecg_BLT[:, known["i"]] * first + ecg_BLT[:, known["ii"]] * second

    return lambda records: Padded(
        torch.stack([lead(records.ecg_BLT, name) for name in order], dim=1), records.length_B11
    )


def _constant_leads(step: ConstantLeads, signal: Signal) -> _Apply:
    def apply(records: Padded) -> Padded:
        _, sd_BL1 = _centre(records, over=(2,))
        return records.with_signal(records.ecg_BLT * (sd_BL1 >= step.min_sd_mv).to(records.ecg_BLT.dtype))

    return apply


def _fill_gaps(step: Nan, signal: Signal) -> _Apply:
    def apply(records: Padded) -> Padded:
        is_finite_BLT = torch.isfinite(records.ecg_BLT)
        zeroed_BLT = torch.where(is_finite_BLT, records.ecg_BLT, torch.zeros_like(records.ecg_BLT))
        if step.policy == "zero":
            return records.with_signal(zeroed_BLT)
        n_BL1 = (is_finite_BLT & records.is_signal_B1T).sum(dim=2, keepdim=True).clamp(min=1)
        mean_BL1 = zeroed_BLT.sum(dim=2, keepdim=True) / n_BL1
        return records.with_signal(torch.where(is_finite_BLT, records.ecg_BLT, mean_BL1))

    return apply


def _crop(step: CropOrPad, signal: Signal) -> _Apply:
    """Crop only: padding is added behind the last step."""

    def apply(records: Padded) -> Padded:
        ecg_BLT, length_B11 = records
        if signal.n_timesteps <= step.n_timesteps:
            return records
        kept_T = torch.arange(step.n_timesteps, device=ecg_BLT.device)
        if step.keep == "start":
            ecg_BLT = ecg_BLT[:, :, : step.n_timesteps]
        else:
            surplus_B11 = (length_B11 - step.n_timesteps).clamp(min=0)
            index_B1T = torch.div(surplus_B11, 2, rounding_mode="floor") + kept_T
            ecg_BLT = torch.gather(ecg_BLT, 2, index_B1T.expand(-1, ecg_BLT.shape[1], -1))
        return Padded(ecg_BLT, length_B11.clamp(max=step.n_timesteps))

    return apply


_BUILDERS: Mapping[type[Operation], Callable[[Any, Signal], _Apply]] = {
    MinMax: _min_max,
    Leads: _leads,
    DeriveLimbLeads: _derive_limb_leads,
    ConstantLeads: _constant_leads,
    Nan: _fill_gaps,
    CropOrPad: _crop,
}
