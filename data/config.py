"""The `data:` section of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.dataset import FEATURES_BYTES
from data.folds import rotated_roles
from data.preprocessing import Steps
from data.synthetic import SyntheticConfig

KEEPS_UNLABELLED: Final = frozenset({"hubert_ecg"})  # presets whose system trains on records without any label


class FoldsConfig(BaseModel):
    """Which folds of the store are for training, validation and test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: tuple[int, ...] = Field(min_length=1, description="folds to train on")
    val: tuple[int, ...] = Field(min_length=1, description="folds to select on")
    test: tuple[int, ...] = Field((), description="folds to evaluate the best trial on, once; may be empty")

    @model_validator(mode="after")
    def _check_disjoint(self) -> FoldsConfig:
        folds = [*self.train, *self.val, *self.test]
        twice = sorted({fold for fold in folds if folds.count(fold) > 1})
        if twice:
            raise ValueError(
                f"a fold may be given once only, but fold {twice[0]} is given {folds.count(twice[0])} times"
            )
        return self

    def by_role(self) -> Mapping[str, tuple[int, ...]]:
        """Return role -> folds."""
        return {"train": self.train, "val": self.val, "test": self.test}


class KFoldConfig(BaseModel):
    """Folds made anew when the data are loaded: stratified by the label set, every patient in one fold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(ge=3, le=100, description="how many folds, numbered from 1")
    fold: int | None = Field(
        None,
        ge=1,
        description="the test fold; the next is for validation, the rest for training; null: `data.folds` says which",
    )

    @model_validator(mode="after")
    def _check_fold(self) -> KFoldConfig:
        if self.fold is not None and self.fold > self.k:
            raise ValueError(f"fold must be one of 1 to k = {self.k}, got {self.fold}")
        return self


class DataConfig(BaseModel):
    """Which data a sweep trains on, and how it is prepared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(min_length=1, description="folder that `python -m platform.ingest` wrote")
    synthetic: SyntheticConfig | None = Field(
        None, description="make the store at first use with these synthetic records"
    )
    labels: str | None = Field(
        None,
        description="label set, in the store's or the PTB-XL benchmark's spelling; may be left out where there is one; "
        "none: pretraining, which takes every record and looks at no label",
    )
    preprocess: Steps = Field((), description="steps in order, each a mapping of its name to its parameters")
    drop_unlabelled: bool = Field(
        True,
        description="leave out records without any label in the label set; with the preset hubert_ecg they are kept "
        "unless this says otherwise, as HuBERT-ECG does",
    )
    skip_bad_records: bool = Field(False, description="go on without the records of corrupt shards, and report them")
    folds: FoldsConfig | None = Field(None, description="folds by role, instead of the store's own")
    k_fold: KFoldConfig | None = Field(
        None,
        description="stratified folds made at loading, instead of the store's own. AdaGrad-Fusion's 8 / 2 / 90 % is "
        "`k: 50` with four folds for training, one for validation and 45 for test in `folds`",
    )
    finetune_label_ratio: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the training folds' patients (records, where patients are unknown) to train on, "
        "stratified by the label set; validation and test stay whole",
    )
    seed: int = Field(
        18, ge=0, le=2**32 - 1, description="of `k_fold` and `finetune_label_ratio`: the same records in every sweep"
    )
    fingerprint: str | None = Field(
        None, min_length=8, description="the store's expected fingerprint, or its beginning; another one is refused"
    )
    memory_bytes: int | None = Field(
        None,
        ge=0,
        description="most that the prepared signal may take in memory, the rest streams from disk; null: 80 % of the "
        "available object store",
        json_schema_extra={"unit": "bytes"},
    )
    features_bytes: int = Field(
        FEATURES_BYTES,
        ge=0,
        description="most that STORE.features may take on disk, where methods keep what frozen networks make of the "
        "records; what was used longest ago goes first",
        json_schema_extra={"unit": "bytes"},
    )

    @model_validator(mode="before")
    @classmethod
    def _let_preset_decide(cls, values: Any) -> Any:
        """Keep unlabelled records where the preset's system does."""
        steps = values.get("preprocess") if isinstance(values, Mapping) else None
        presets = {step.get("preset") for step in steps or () if isinstance(step, Mapping)}
        return {"drop_unlabelled": False, **values} if presets & KEEPS_UNLABELLED else values

    @model_validator(mode="after")
    def _check_k_fold(self) -> DataConfig:
        if self.k_fold is None:
            return self
        if (self.k_fold.fold is None) == (self.folds is None):
            raise ValueError("k_fold needs its fold, or data.folds with the folds of each role, and not both")
        numbers = [] if self.folds is None else [number for folds in self.folds.by_role().values() for number in folds]
        unknown = sorted(set(numbers) - set(range(1, self.k_fold.k + 1)))
        if unknown:
            raise ValueError(f"folds must be among 1 to k_fold.k = {self.k_fold.k}, got {unknown[0]}")
        return self

    def roles(self, stored: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
        """Return role -> folds, given the store's own."""
        if self.folds is not None:
            return self.folds.by_role()
        if self.k_fold is not None and self.k_fold.fold is not None:
            return rotated_roles(self.k_fold.k, self.k_fold.fold)
        return stored
