"""HuBERT-ECG (Coppola et al. 2024, github.com/Edoar-do/HuBERT-ECG) as an expert: the mean token of its encoder.

B: records, R: windows, L: leads, T: timesteps, E: tokens, D: width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import Field
from torch import Tensor, nn

from data.dataset import Signal
from data.leads import LEADS_12, Leads
from data.preprocessing import Step, output_signal
from data.presets import HUBERT_ECG
from trainables.backbones.architecture import build_network
from trainables.experts.config import ExpertConfig
from trainables.experts.expert import Expert, ExpertInput
from trainables.experts.outside_steps import apply_outside
from trainables.experts.view import View, Windows, cut_side_by_side
from trainables.hubert_ecg_encoder import HubertEcgSize, hubert_ecg_architecture
from trainables.hubert_ecg_weights import load_encoder
from trainables.token_encoder import conv_features, count_tokens, encode, lay_out, mean_of_tokens, valid_tokens

INPUT: Final = ExpertInput(LEADS_12, 100.0, 500, "none", missing="zero")  # of what the steps leave
STEPS: Final = tuple(map(Step.of, (Leads(names=LEADS_12, missing="zero"), *HUBERT_ECG)))
BUNDLED_INPUT: Final = ExpertInput(LEADS_12, 500.0, 2_500, "minmax", missing="zero")  # of what 0.5 to 40 Hz leave


class HubertEcgExpertConfig(ExpertConfig):
    """HuBERT-ECG: 5 s of twelve leads, scaled to [-1, 1] over the record; 100 Hz, filtered first, bundled 500 Hz."""

    available: ClassVar[tuple[str, ...]] = ("embeddings",)

    kind: Literal["hubert_ecg"] = "hubert_ecg"
    size: HubertEcgSize = Field("tiny", description="Width and depth; tiny is for a CPU, the others are published.")
    weights: str = Field(
        "random",
        min_length=1,
        description="What the encoder is: random; bundled (this repository's, where there is one); a pretraining's "
        "best/ folder; a file; hubert_ecg_small, _base or _large, the published ones (CC BY-NC 4.0); or the id of a "
        "repository on Hugging Face.",
    )
    features: tuple[str, ...] = Field(
        ("embeddings",), strict=False, min_length=1, description="embeddings: the mean token."
    )


class FilteredView(nn.Module):
    """ecg_BLT of `signal` -> windows of what the steps leave.

    The filters among them run forwards and backwards over the whole record, outside of any graph.
    """

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal, self._n_stored = signal, output_signal(STEPS, signal).n_timesteps

    def forward(self, ecg_BLT: Tensor) -> Windows:
        ecg_BLT, length_B11 = apply_outside(STEPS, None, ecg_BLT, self._signal)
        return cut_side_by_side(ecg_BLT, length_B11, self._n_stored, INPUT.n_timesteps)


class HubertEcgExpert(Expert):
    """embeddings: hidden size."""

    config: HubertEcgExpertConfig

    def __init__(self, config: HubertEcgExpertConfig, signal: Signal) -> None:
        wanted = BUNDLED_INPUT if config.weights == "bundled" else INPUT
        architecture = hubert_ecg_architecture(config.size, wanted.fs_hz)
        super().__init__(config, signal, {"embeddings": architecture.hidden_size}, wanted)
        self.view = View(wanted, signal) if config.weights == "bundled" else FilteredView(signal)
        self._architecture = architecture
        self._n_tokens = count_tokens(architecture, len(LEADS_12), wanted.n_timesteps)
        self.network: Any = build_network(architecture, masks=False)

    def load(self) -> None:
        load_encoder(self.network, self.config.weights, self.config.size)

    @property
    def preparation(self) -> object:
        return STEPS if isinstance(self.view, FilteredView) else None

    @property
    def not_exported_since(self) -> str | None:
        is_filtered = isinstance(self.view, FilteredView)
        return "HuBERT-ECG's filters run forwards and backwards over a whole record" if is_filtered else None

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        windows: Windows = self.view(ecg_BLT)
        return windows.mean(self._encode(windows.ecg_RLT))

    def _encode(self, ecg_RLT: Tensor) -> Tensor:
        valid_RE = valid_tokens(ecg_RLT, self._architecture, self._n_tokens)
        feature_REC = conv_features(self.network, lay_out(ecg_RLT, self._architecture))
        return mean_of_tokens(encode(self.network, feature_REC, None, valid_RE), valid_RE)
