"""Preprocessing steps that no graph holds, such as filters that run backwards: on the CPU, record by record.

B: records, L: leads, T: timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data.dataset import Signal
from data.preprocessing import Step, output_lengths
from data.scaling import Statistics
from trainables.predictor import preprocess_with
from trainables.standardise import before_padding


def apply_outside(
    steps: Sequence[Step], statistics: Statistics | None, ecg_BLT: Tensor, signal: Signal
) -> tuple[Tensor, Tensor]:
    """Return the prepared records on the device that they came from, and length_B11.

    Args:
        statistics: of the training records, where the steps end with a z-score over all of them.
        ecg_BLT: zero behind a record's end.

    Raises:
        ValueError: a graph is being traced, which would take the prepared records for numbers of its own.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        names = ", ".join(next(iter(step.model_dump())) for step in steps)
        raise ValueError(f"the steps {names} run outside of a graph, so the expert has no ONNX file; leave it out")
    # A record of zeros alone is taken for one timestep, which every step can work on.
    length_B = before_padding(ecg_BLT).sum(dim=(1, 2)).int().clamp(min=1).cpu().numpy()
    done_BLT = preprocess_with(steps, statistics, ecg_BLT.cpu().numpy(), signal, length_B)
    done_length_B = torch.from_numpy(output_lengths(steps, signal, length_B)).long()
    return torch.from_numpy(done_BLT).to(ecg_BLT), done_length_B[:, None, None].to(ecg_BLT.device)
