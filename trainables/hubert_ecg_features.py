"""The step `hubert_ecg_features`: token features of the signal or of an encoder's layer, beside the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.config import DataConfig
from data.feature_store import MANIFEST_NAME, FeatureStore, feature_folder, grid_of_signal, write_features
from data.loading import describe
from data.mfcc import MfccConfig
from data.token_features import Extract, FeatureConfig, TokenFeatures, extract_features
from data.tokens import TokenGrid
from trainables.backbones.architecture import build_network
from trainables.data_step import DataStep, StepResult, StepRun
from trainables.hubert_ecg_encoder import SHAPES, HubertEcgSize, hubert_ecg_architecture
from trainables.hubert_ecg_weights import file_hash, load_encoder
from trainables.token_encoder import conv_features, hidden_states, lay_out
from trainables.weight_files import locate

FOLDER = "features"


class HubertEcgFeaturesConfig(BaseModel):
    """The parameters of `step: hubert_ecg_features`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_type: Literal["time_freq", "mfcc", "mixed", "latents"] = Field(
        "mfcc",
        description="time_freq: 16 statistics of the frame and its periodogram; mfcc: cepstra with their first and "
        "second differences, 39 by default; mixed: the 16 and the cepstra, 29 by default; latents: hidden states of "
        "an encoder that was pretrained before, for later iterations.",
    )
    mfcc: MfccConfig = Field(default_factory=MfccConfig, description="How cepstra are computed.")
    encoder: str | None = Field(
        None, min_length=1, description="latents: the encoder's weights, as `weights` of hubert_ecg names them."
    )
    size: HubertEcgSize = Field("tiny", description="latents: the encoder's size.")
    layer: int = Field(
        8,
        ge=0,
        description="latents: the transformer layer whose output is taken, from 1; 0: what enters the first.",
        json_schema_extra={"unit": "layers"},
    )

    @model_validator(mode="after")
    def _encoder_fits(self) -> HubertEcgFeaturesConfig:
        if (self.encoder is not None) != (self.feature_type == "latents"):
            raise ValueError(
                f"encoder and feature_type: latents go together, but got {self.encoder!r} and {self.feature_type}"
            )
        if self.feature_type == "latents" and self.layer > SHAPES[self.size].n_layers:
            raise ValueError(
                f"layer must not exceed the {SHAPES[self.size].n_layers} layers of {self.size}, but got {self.layer}"
            )
        return self

    @property
    def made_by(self) -> dict[str, Any]:
        """What decides the numbers, in JSON's types; an encoder by the hash of its file."""
        if self.feature_type != "latents":
            return FeatureConfig(feature_type=self.feature_type, mfcc=self.mfcc).model_dump(mode="json")
        assert self.encoder is not None
        sha256 = file_hash(locate(self.encoder))
        return {"feature_type": "latents", "encoder_sha256": sha256, "size": self.size, "layer": self.layer}


@dataclass(frozen=True)
class Latents:
    """Extracts the hidden states of one layer; travels to workers as its parameters, and builds the encoder there."""

    weights: str
    size: HubertEcgSize
    layer: int
    grid: TokenGrid
    _built: dict[str, Any] = field(default_factory=dict, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_built": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __call__(self, ecg_NLT: NDArray[np.float32], length_N: NDArray[np.int32]) -> TokenFeatures:
        architecture, valid_NF = hubert_ecg_architecture(self.size, self.grid.fs_hz), self.grid.valid_NF(length_N)
        with torch.inference_mode():
            feature_NEC = conv_features(self._network, lay_out(torch.from_numpy(ecg_NLT), architecture))
            valid_NE = None if valid_NF.all() else torch.from_numpy(valid_NF)
            for number, hidden_NEH in enumerate(hidden_states(self._network, feature_NEC, valid_NE)):
                if number == self.layer:
                    return TokenFeatures(hidden_NEH.numpy(), valid_NF)
        raise AssertionError("the configuration has checked the layer")

    @property
    def _network(self) -> Any:
        if "network" not in self._built:
            torch.set_num_threads(1)  # a task has one CPU
            network = build_network(hubert_ecg_architecture(self.size, self.grid.fs_hz))
            load_encoder(network, self.weights, self.size)
            self._built["network"] = network.eval()
        return self._built["network"]


def run(config: HubertEcgFeaturesConfig, data: DataConfig, run: StepRun) -> StepResult:
    """Compute the features unless the store has them already; the run's folder gets a link to them.

    Raises:
        ValueError: as `data.feature_store.write_features`; the encoder's weights are not there or do not fit.
    """
    made_by = config.made_by
    folder = feature_folder(data, made_by)
    if not (folder / MANIFEST_NAME).exists():
        write_features(data, build_extract(config, data), made_by, folder, progress=run.progress)
    features = FeatureStore.open(folder)
    link = run.folder / FOLDER
    if not link.is_symlink():
        link.symlink_to(folder.absolute(), target_is_directory=True)
    manifest = features.manifest
    n_records = manifest.n_records("train") + manifest.n_records("val")
    measures = {"features": manifest.n_features, "tokens": n_records * manifest.grid.n_tokens, "records": n_records}
    return StepResult({FOLDER: link}, {name: float(value) for name, value in measures.items()})


def build_extract(config: HubertEcgFeaturesConfig, data: DataConfig) -> Extract:
    """Return what turns a store's preprocessed records into features.

    Raises:
        ValueError: as `data.loading.describe`; the sampling rate has no tokens.
    """
    signal = describe(data).signal
    grid = grid_of_signal(signal.lead_names, signal.n_timesteps, signal.fs_hz)
    if config.feature_type == "latents":
        assert config.encoder is not None
        return Latents(config.encoder, config.size, config.layer, grid)
    options = FeatureConfig(feature_type=config.feature_type, mfcc=config.mfcc)
    return partial(extract_features, grid=grid, config=options)


HUBERT_ECG_FEATURES = DataStep(
    "hubert_ecg_features", HubertEcgFeaturesConfig, (FOLDER,), frozenset({"features", "tokens", "records"}), run
)
