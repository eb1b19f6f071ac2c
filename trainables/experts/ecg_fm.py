"""ECG-FM (McKeen et al. 2024, arXiv:2408.05178) as an expert: what its encoder or its fine-tuned head says.

R: windows, L: leads, T: timesteps, D: features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.dataset import Signal
from data.leads import LEADS_12
from trainables.backbones.architecture import Size
from trainables.backbones.backbone import Backbone
from trainables.backbones.config import BackboneConfig
from trainables.backbones.weights import find_weights, load_pretrained
from trainables.experts.config import ExpertConfig
from trainables.experts.expert import ExpertInput
from trainables.experts.window_expert import WindowExpert
from trainables.weight_files import read_state

HEAD = "proj"  # of a fine-tuned checkpoint, outside its encoder
INPUT = ExpertInput(LEADS_12, 500.0, 2_500, "lead", resampling="linear", missing="zero")
BUNDLED_INPUT = ExpertInput(LEADS_12, 250.0, 1_250, "lead", missing="zero")  # of what 0.5 to 40 Hz leave


class EcgFmConfig(ExpertConfig):
    """ECG-FM: 5 s of twelve leads, each standardised over the record, as it was trained; 500 Hz, bundled 250 Hz."""

    available: ClassVar[tuple[str, ...]] = ("embeddings", "logits")

    kind: Literal["ecg_fm"] = "ecg_fm"
    size: Size = Field("tiny", description="Width and depth; base is the published one.")
    features: tuple[str, ...] = Field(
        ("embeddings",),
        strict=False,
        min_length=1,
        description="embeddings: the mean token; logits: of the labels that the checkpoint was fine-tuned on.",
    )
    n_labels: int = Field(
        26,
        ge=1,
        description="logits: how many the checkpoint has: 26 of wanglab/ecg-fm-preprint/physionet_finetuned.pt, 17 of "
        "wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt.",
    )


class EcgFm(WindowExpert):
    """embeddings: hidden size; logits: `config.n_labels`."""

    config: EcgFmConfig

    def __init__(self, config: EcgFmConfig, signal: Signal) -> None:
        self._backbone_config = BackboneConfig(backbone="ecg_fm", size=config.size, weights=config.weights)
        wanted = BUNDLED_INPUT if config.weights == "bundled" else INPUT
        window = Signal(wanted.lead_names, wanted.fs_hz, wanted.n_timesteps)
        backbone = Backbone(self._backbone_config, window)
        widths = {"embeddings": backbone.hidden_size, "logits": config.n_labels}
        super().__init__(config, signal, widths, wanted)
        self.backbone = backbone
        self.head = nn.Linear(backbone.hidden_size, config.n_labels) if "logits" in config.features else None

    def load(self) -> None:
        load_pretrained(self.backbone, self._backbone_config)
        if self.head is not None and self.config.weights != "random":
            self._load_head(self.head)

    def encode(self, ecg_RLT: Tensor, is_signal_RT: Tensor) -> Mapping[str, Tensor]:
        embedding_RD = self.backbone(ecg_RLT)
        return {"embeddings": embedding_RD} | ({} if self.head is None else {"logits": self.head(embedding_RD)})

    def _load_head(self, head: nn.Linear) -> None:
        path = find_weights(self._backbone_config)
        state = read_state(path)
        tensors = state.get("model", state)
        if f"{HEAD}.weight" not in tensors:
            raise ValueError(
                f"weights: {path} has no {HEAD}.weight, so it is not fine-tuned and has no logits; give a fine-tuned "
                "checkpoint, or features: [embeddings]"
            )
        weight = tensors[f"{HEAD}.weight"]
        if weight.shape != head.weight.shape:
            raise ValueError(f"weights: {path} has {len(weight)} labels, but n_labels is {len(head.weight)}; set it")
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(tensors[f"{HEAD}.bias"])
