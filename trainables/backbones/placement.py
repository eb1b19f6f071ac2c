"""How the leads of a record become what a backbone reads.

B: records, L: leads, T: timesteps, V: views (what a backbone reads at once), C: a backbone's inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.dataset import Signal
from data.leads import LEADS_12
from trainables.backbones.architecture import ECG_FM_LEADS
from trainables.backbones.config import BackboneConfig, LeadPlacement

assert len(LEADS_12) == ECG_FM_LEADS


class Placement(nn.Module):
    """Interpolate a record and lay its leads out: ecg_BLT -> wave_BVCT'.

    Attributes:
        n_views, n_timesteps: V and T'.
    """

    def __init__(self, config: BackboneConfig, signal: Signal) -> None:
        super().__init__()
        self.kind = resolve_placement(config)
        self._n_resampled = round(signal.n_timesteps * config.resample_factor)
        self._resamples = self._n_resampled != signal.n_timesteps
        self._source_VC = _sources(self.kind, config, signal)
        self.n_views = len(self._source_VC)
        self.n_timesteps = self._n_resampled * (len(signal.lead_names) if self.kind == "concatenate" else 1)

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        if self._resamples:
            ecg_BLT = nn.functional.interpolate(ecg_BLT, size=self._n_resampled, mode="linear", align_corners=False)
        if self.kind == "concatenate":
            return ecg_BLT.flatten(1)[:, None, None]
        if self.kind == "mean":
            ecg_BLT = ecg_BLT.mean(dim=1, keepdim=True)
        views = [torch.stack([_lead(ecg_BLT, source) for source in source_C], dim=1) for source_C in self._source_VC]
        return torch.stack(views, dim=1)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self._source_VC}, to {self.n_timesteps} timesteps"


def resolve_placement(config: BackboneConfig) -> LeadPlacement:
    """Return the placement that `config.lead_placement` means.

    Raises:
        ValueError: the backbone has no such placement.
    """
    is_ecg_fm = config.backbone == "ecg_fm"
    if config.lead_placement == "auto":
        return "slots" if is_ecg_fm else "concatenate"
    if config.lead_placement == "concatenate" and is_ecg_fm:
        raise ValueError("lead_placement: concatenate is not for ecg_fm, which reads twelve leads at once; use slots")
    if config.lead_placement == "slots" and not is_ecg_fm:
        raise ValueError(
            f"lead_placement: slots is for ecg_fm, but {config.backbone} reads one sequence; use concatenate or each"
        )
    return config.lead_placement


def _lead(ecg_BLT: Tensor, source: int | None) -> Tensor:
    return torch.zeros_like(ecg_BLT[:, 0]) if source is None else ecg_BLT[:, source]


def _sources(kind: LeadPlacement, config: BackboneConfig, signal: Signal) -> list[list[int | None]]:
    """Return for each view and input the lead that it takes, None for zeros."""
    n_leads = len(signal.lead_names)
    if config.backbone != "ecg_fm":
        chosen = {"one": [_index(config.lead, signal)], "each": list(range(n_leads))} if kind in ("one", "each") else {}
        return [[source] for source in chosen.get(kind, [0])]
    if kind == "mean":
        return [_slots({_slot(config.lead): 0})]
    slots = _slots_of_leads(config, signal)
    if kind == "one":
        index = _index(config.lead, signal)
        return [_slots({slots[index]: index})]
    if kind == "each":
        return [_slots({slots[index]: index}) for index in range(n_leads)]
    return [_slots({slot: index for index, slot in enumerate(slots)})]


def _index(lead: str, signal: Signal) -> int:
    names = [name.lower() for name in signal.lead_names]
    if lead.lower() in names:
        return names.index(lead.lower())
    if len(names) == 1:
        return 0
    raise ValueError(f"lead must be one of {', '.join(signal.lead_names)}, but got {lead!r}")


def _slots_of_leads(config: BackboneConfig, signal: Signal) -> list[int]:
    """Return the input of ecg_fm that each lead goes to."""
    known = [name.lower() for name in LEADS_12]
    if len(signal.lead_names) == 1 and signal.lead_names[0].lower() not in known:
        return [_slot(config.lead)]
    strange = [name for name in signal.lead_names if name.lower() not in known]
    if strange:
        raise ValueError(
            f"ecg_fm has an input for each of {', '.join(LEADS_12)}, but the records have a lead {strange[0]!r}; "
            "choose leads with `leads` in data.preprocess, or lead_placement: mean"
        )
    return [known.index(name.lower()) for name in signal.lead_names]


def _slot(lead: str) -> int:
    known = [name.lower() for name in LEADS_12]
    if lead.lower() not in known:
        raise ValueError(f"lead must name one of ecg_fm's inputs, {', '.join(LEADS_12)}, but got {lead!r}")
    return known.index(lead.lower())


def _slots(source_of: dict[int, int]) -> list[int | None]:
    return [source_of.get(slot) for slot in range(ECG_FM_LEADS)]
