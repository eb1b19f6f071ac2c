"""The `data:` section of a spec."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.preprocess import Step
from data.synthetic import SyntheticConfig


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


class DataConfig(BaseModel):
    """Which data a sweep trains on, and how it is prepared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(min_length=1, description="folder that `python -m platform.ingest` wrote")
    synthetic: SyntheticConfig | None = Field(
        None, description="make the store at first use with these synthetic records"
    )
    labels: str | None = Field(None, description="label set; may be left out where the store has one only")
    preprocess: tuple[Step, ...] = Field((), description="steps in order, each a mapping of its name to its parameters")
    drop_unlabelled: bool = Field(True, description="leave out records without any label in the label set")
    skip_bad_records: bool = Field(False, description="go on without the records of corrupt shards, and report them")
    folds: FoldsConfig | None = Field(None, description="folds by role, instead of the store's own")
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
