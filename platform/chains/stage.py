"""What a stage knows of its chain: where it lies, what it was given, and how it is taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platform.mlflow_views.mirror import run_identity
from platform.sweeps.journal import FILE_NAME as JOURNAL_NAME


@dataclass(frozen=True)
class StageOfChain:
    """One stage, about to run.

    Attributes:
        folder: the stage's, in the chain's.
        spec: the chain's file; overrides: those of the chain.
        inputs: `inputs.params.weights` -> `teacher.best.weights sha256:...`; a part of the stage's identity.
        opened_s: when the chain began.
    """

    name: str
    folder: Path
    spec: Path
    overrides: tuple[str, ...]
    inputs: Mapping[str, str]
    opened_s: float
    accept_changes: bool = False

    @property
    def begun(self) -> Path | None:
        """The folder, where an earlier process has begun the stage."""
        return self.folder if (self.folder / JOURNAL_NAME).exists() else None

    @property
    def run_name(self) -> str:
        """The stage's name in MLflow and in the study: its folder below `runs/`."""
        return f"{self.folder.parent.name}/{self.name}"

    @property
    def run_tags(self) -> dict[str, str]:
        """The tags by which the chain's own MLflow run is found."""
        return run_identity(self.folder.parent.name, self.opened_s)

    @property
    def key(self) -> str:
        """What stands before the stage's keys in `--set`."""
        return f"stages.{self.name}."

    @property
    def command(self) -> str:
        overrides = "".join(f" --set {override}" for override in self.overrides)
        return f"python -m platform.sweep {self.spec}{overrides}"

    @property
    def resume_command(self) -> str:
        return f"python -m platform.sweep {self.spec} --resume {self.folder.parent}"
