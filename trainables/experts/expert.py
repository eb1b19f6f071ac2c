"""The contract of experts: frozen networks that make features of records, each from its own view of them.

B: records, W: windows of a record, R: windows of a batch, L: leads, T: timesteps, D: features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn

from data.dataset import Signal
from trainables.experts.config import ExpertConfig
from trainables.features import digest_of

Normalisation = Literal["none", "lead", "record", "minmax"]
Resampling = Literal["linear", "polyphase"]


@dataclass(frozen=True)
class ExpertInput:
    """What an expert reads.

    Attributes:
        lead_names: in its order; see `missing`.
        n_timesteps: of one window, at `fs_hz`.
        normalisation: before windows are cut, over a record's own length: lead: mean 0 and deviation 1 of each lead;
            record: of all leads together; minmax: each lead from -1 to 1; none: mV.
        missing: a lead that the records lack: an error, or zeros.
    """

    lead_names: tuple[str, ...]
    fs_hz: float
    n_timesteps: int
    normalisation: Normalisation
    resampling: Resampling = "polyphase"
    missing: Literal["refuse", "zero"] = "refuse"


class Expert(nn.Module, ABC):
    """ecg_BLT, in mV with the leads and the rate of `signal`, zero behind a record's end, -> features_BD.

    Nothing of it is trained: it always evaluates, no parameter wants a gradient, and what it makes of a record follows
    from that record alone. `trainables.experts.table.build_expert` builds it with its weights.

    Attributes:
        config: of its kind.
        signal: of the records that it was built for.
        widths: feature -> how many of the D columns it has, in their order.
        input: what its network reads.
    """

    def __init__(self, config: ExpertConfig, signal: Signal, widths: Mapping[str, int], wanted: ExpertInput) -> None:
        super().__init__()
        self.config, self.signal, self.input = config, signal, wanted
        self.widths = {name: widths[name] for name in config.features}

    @abstractmethod
    def forward(self, ecg_BLT: Tensor) -> Tensor:
        """Return features_BD."""

    @abstractmethod
    def load(self) -> None:
        """Take up the weights that `config` names; random ones are there already.

        Raises:
            ValueError: they can't be had, or are of another network; one line, with the way out.
        """

    @property
    def n_features(self) -> int:
        """D."""
        return sum(self.widths.values())

    @property
    def identity(self) -> str:
        """The sha256 of all that its answers follow from but the records: weights, configuration, view, signal."""
        facts = self.config.model_dump(exclude={"weights", "weights_seed"})
        return digest_of([self], type(self).__name__, facts, self.input, self.signal, self.preparation)

    @property
    def preparation(self) -> object:
        """What `identity` must know of a view that is neither in `config` nor in `input` nor a tensor."""
        return None

    @property
    def not_exported_since(self) -> str | None:
        """Why it can't be part of an ONNX file; None: it can."""
        return None

    def freeze(self) -> Self:
        """Let nothing of it be trained any more."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)
