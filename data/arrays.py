"""Preprocessing of arrays, as in a notebook: what a sweep does to the records of a store, done to one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from data import preprocessing
from data.dataset import Signal
from data.leads import LEADS_12
from data.preprocessing import Step, Steps
from data.presets import PresetName

_STEPS: TypeAdapter[tuple[Step, ...]] = TypeAdapter(Steps)


def preprocess(
    ecg: ArrayLike,
    *,
    fs_hz: float,
    preset: PresetName | None = None,
    steps: Sequence[Mapping[str, Any]] | None = None,
    target_length: int | None = None,
    downsampling_factor: int | None = None,
    normalize: bool | None = None,
    lead_names: Sequence[str] = LEADS_12,
    nan: str | None = None,
) -> NDArray[np.float32]:
    """Preprocess one record, or several of one length: by a preset, by steps, or as HuBERT-ECG's guide does.

    Without `preset` and `steps` the guide's chain: FIR band-pass 0.05-47 Hz, resampling to 500 Hz, each lead scaled to
    [-1, 1], cropped or padded with zeros at the end, decimated.

    Args:
        ecg: (L, T), or (N, L, T), in mV.
        preset: adagrad_fusion, hubert_ecg, ecg_fm, enecg or iesd; see `data.presets`.
        steps: as in the `data.preprocess` of a spec: `[{"bandpass": {"low_hz": 0.5, "high_hz": 40}}]`.
        target_length: the guide's; timesteps at 500 Hz; 5,000 unless given.
        downsampling_factor: the guide's; 5 unless given, which leaves 100 Hz; 1: none.
        normalize: the guide's; whether leads are scaled; true unless given.
        lead_names: of the L leads.
        nan: what becomes of values that are not finite: `zero`, `interpolate`, `mean` (of the lead) or `refuse`.
            None: what the chain says, else refuse.

    Returns:
        float32, with as many axes as `ecg`.

    Raises:
        ValueError: the shape does not fit `lead_names`, e.g. transposed; a step can't be applied; or options that
            exclude each other.
    """
    guide = {"target_length": target_length, "downsampling_factor": downsampling_factor, "normalize": normalize}
    _check_one_way({"preset": preset, "steps": steps, **guide})
    if preset is not None:
        steps = [{"preset": preset}]
    chain = _parse(_guide_steps(target_length, downsampling_factor, normalize) if steps is None else steps)
    if nan is not None or not any(step.nan for step in chain):
        chain = (*_parse([{"nan": {"policy": nan or "refuse"}}]), *chain)
    _check_no_late(chain)
    ecg_NLT = _records(ecg, lead_names)
    done_NLT = preprocessing.preprocess(ecg_NLT, chain, Signal(tuple(lead_names), fs_hz, ecg_NLT.shape[2]))
    return done_NLT if np.ndim(ecg) == 3 else done_NLT[0]


def _check_one_way(options: Mapping[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1 and {"preset", "steps"} & set(given):
        raise ValueError(
            f"give a preset, or steps, or the options of HuBERT-ECG's guide, got {', '.join(given)}; "
            "a preset may stand among steps: steps=[{'preset': 'ecg_fm'}, ...]"
        )


def _parse(written: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    try:
        return _STEPS.validate_python(written)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"step {place}: {first['msg']}; got {first['input']!r}; see docs/spec.md") from None


def _guide_steps(
    target_length: int | None, downsampling_factor: int | None, normalize: bool | None
) -> list[dict[str, Any]]:
    factor = 5 if downsampling_factor is None else downsampling_factor
    return [
        {"fir_bandpass": {"low_hz": 0.05, "high_hz": 47}},
        {"resample": {"fs_hz": 500}},
        *([] if normalize is False else [{"minmax": {}}]),
        {"crop_or_pad": {"n_timesteps": 5000 if target_length is None else target_length}},
        *([] if factor == 1 else [{"decimate": {"factor": factor}}]),
    ]


def _check_no_late(chain: Sequence[Step]) -> None:
    late = [step.zscore.per for step in chain if step.zscore is not None and step.zscore.is_late]
    if late:
        raise ValueError(f"zscore per {late[0]} needs a training run; an array can be standardised per lead or record")


def _records(ecg: ArrayLike, lead_names: Sequence[str]) -> NDArray[np.float32]:
    """Return ecg_NLT."""
    array, n_leads = np.asarray(ecg, np.float32), len(lead_names)
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f"ecg must have the shape (leads, timesteps), or (records, leads, timesteps), got {array.shape}"
        )
    if array.shape[-2] != n_leads and array.shape[-1] == n_leads:
        raise ValueError(
            f"ecg looks transposed: leads come before timesteps, got {array.shape}; pass np.swapaxes(ecg, -1, -2)"
        )
    if array.shape[-2] != n_leads:
        raise ValueError(
            f"ecg has {array.shape[-2]} leads, but {n_leads} are named; name them in order: lead_names=['I', ...]"
        )
    return array.reshape(-1, *array.shape[-2:])
