"""`results/xx-yy/`: the best model so far, in the layout that users of the ECM search know.

xx and yy are the largest and the smallest of F1, accuracy, precision and recall on validation, in whole percent.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from platform.models.trained_model import WEIGHTS_NAME, TrainedModel
from platform.models.trained_onnx import ONNX_NAME
from platform.sweeps.folder import SCORES_FOLDER
from trainables.checkpoint import save_weights
from trainables.onnx_export import export_onnx
from trainables.windows import window_signal

METRICS_NAME: Final = "evaluation_metrics.txt"
FOUR: Final = {"f1": "F1", "accuracy": "Accuracy", "precision": "Precision", "recall": "Recall"}


def write_score_folder(folder: Path, trained: TrainedModel) -> Path | None:
    """Put a model in the place of the best so far: weights, ONNX and `evaluation_metrics.txt`; whole or not at all.

    Returns:
        The folder; None where the labels are regressed, which have none of the four metrics.
    """
    name = score_name(trained.card.val)
    if not name:
        return None
    results = folder / SCORES_FOLDER
    fresh = results / ".new"
    shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
    fresh.mkdir(parents=True)
    save_weights(fresh / WEIGHTS_NAME, trained.model.state_dict(), {"card": trained.card.model_dump_json()})
    export_onnx(trained.model, window_signal(trained.config, trained.card.data.signal), fresh / ONNX_NAME)
    size_bytes = (fresh / ONNX_NAME).stat().st_size
    lines = [f"{key}: {value}" for key, value in _metrics(trained, size_bytes)]
    (fresh / METRICS_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for old in results.iterdir():
        if re.fullmatch(r"\d+-\d+", old.name):
            shutil.rmtree(old)
    return fresh.rename(results / name)


def score_name(val: Mapping[str, float]) -> str:
    """Return `xx-yy`, rounded down; empty where none of the four metrics is known."""
    four = [val[name] for name in FOUR if name in val]
    # 0.29 * 100 is 28.999999999999996
    return f"{_percent(max(four))}-{_percent(min(four))}" if four else ""


def _percent(share: float) -> int:
    return math.floor(100 * share + 1e-9)


def append_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Add `Name: value` lines to the metrics of a score folder."""
    with (folder / METRICS_NAME).open("a", encoding="utf-8") as file:
        file.writelines(f"{name}: {value:.4f}\n" for name, value in metrics.items())


def _metrics(trained: TrainedModel, size_bytes: int) -> Iterator[tuple[str, str]]:
    card = trained.card
    yield "Model", str(card.params.get("model", card.method))
    yield "Trial", card.trial
    yield "Learning Rate", repr(card.params["lr"])
    for name, label in FOUR.items():
        if name in card.val:
            yield label, f"{card.val[name]:.4f}"
    yield "ONNX Size (KiB)", f"{size_bytes / 1024:.2f}"
    yield "Parameters", str(sum(parameter.numel() for parameter in trained.model.parameters()))
    for name, value in sorted(card.val.items()):
        if name not in FOUR:
            yield f"val/{name}", f"{value:.4f}"
