"""What a stage of a chain leaves for later ones: names, paths and content hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from platform.models.ensemble_card import ENSEMBLE_FOLDER
from platform.models.ensemble_card import ONNX_FILE as ENSEMBLE_ONNX
from platform.models.trained_model import BEST_FOLDER, CARD_NAME, WEIGHTS_NAME
from platform.models.trained_onnx import ONNX_NAME
from platform.specs.spec import Spec
from platform.specs.step import StepSpec

StageSpec = Spec | StepSpec

ARTEFACTS_FILE: Final = "artefacts.json"  # of a data step: name -> path in the stage's folder
OF_SWEEPS: Final = {
    "best": BEST_FOLDER,
    "best.weights": f"{BEST_FOLDER}/{WEIGHTS_NAME}",
    "best.onnx": f"{BEST_FOLDER}/{ONNX_NAME}",
    "best.config": f"{BEST_FOLDER}/{CARD_NAME}",
    "leaderboard": "leaderboard.csv",
}
OF_ENSEMBLES: Final = {"ensemble.onnx": f"{ENSEMBLE_FOLDER}/{ENSEMBLE_ONNX}"}


def artefact_names(spec: StageSpec) -> list[str]:
    """Return the names of what a stage will leave."""
    if isinstance(spec, StepSpec):
        return list(spec.data_step.artefacts)
    return [*OF_SWEEPS, *(OF_ENSEMBLES if spec.ensemble else ())]


def artefact_paths(folder: Path) -> dict[str, Path]:
    """Return what a stage has left in its folder: name -> absolute path."""
    kept = folder / ARTEFACTS_FILE
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {**OF_SWEEPS, **OF_ENSEMBLES}
    paths = {name: (folder / place).absolute() for name, place in known.items()}
    return {name: path for name, path in paths.items() if path.exists()}


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files.

    Of a sweep's `best/` what makes the model counts alone: a later look at test changes nothing of it.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for each in _content(path):
        digest.update(f"{each.relative_to(path).as_posix()} {content_hash(each)}\n".encode())
    return digest.hexdigest()


def _content(folder: Path) -> Iterator[Path]:
    if (folder / CARD_NAME).exists() and (folder / WEIGHTS_NAME).exists():
        yield from (folder / CARD_NAME, folder / WEIGHTS_NAME)
    else:
        yield from sorted(path for path in folder.rglob("*") if path.is_file())
