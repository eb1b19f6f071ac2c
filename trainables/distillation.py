"""The teacher of a distillation: the best model of an earlier sweep of the same method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.dataset import LabelSet, Signal
from trainables.fusion_network import FusionNetwork, NetworkConfig, build_network
from trainables.pretrained_backbone import PretrainedConfig, fill, read_weights

CARD_NAME = "config.json"  # what a sweep writes beside its best model's weights


def load_teacher(place: str, config: NetworkConfig, signal: Signal, label_set: LabelSet) -> FusionNetwork:
    """Build the teacher from a sweep's best/ folder (or the weights in it), LoRA merged, frozen, in evaluation mode.

    Args:
        config: the student's, whose windows the teacher is shown.

    Raises:
        ValueError: there is none, it is of another method, or it answers other labels or takes other signals.
    """
    folder = Path(place) if Path(place).is_dir() else Path(place).parent
    card = _read_card(folder, place)
    _check_fit(card["data"], signal, label_set, folder)
    params = {name: card["params"][name] for name in NetworkConfig.model_fields if name in card["params"]}
    params |= {"crop_timesteps": config.crop_timesteps, "window_stride": None}
    teacher_config = PretrainedConfig.model_validate({**params, "weights": str(folder), "weights_head": True})
    teacher = build_network(teacher_config, signal, label_set)
    fill(teacher, read_weights(folder), teacher_config, str(folder), whole=True)
    return teacher.eval().requires_grad_(False)


def _read_card(folder: Path, place: str) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((folder / CARD_NAME).read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"teacher: {place} has no {CARD_NAME} beside its weights; give the best/ folder of an adagrad_fusion sweep"
        ) from None
    if card["method"] != "adagrad_fusion":
        raise ValueError(f"teacher: {folder} is of method {card['method']!r}; give one of adagrad_fusion")
    return card


def _check_fit(data: dict[str, Any], signal: Signal, label_set: LabelSet, folder: Path) -> None:
    known, taken = data["label_set"], data["signal"]
    pairs = {
        "labels": (tuple(known["names"]), label_set.names),
        "task": (known["task"], label_set.task),
        "leads": (tuple(taken["lead_names"]), signal.lead_names),
        "fs_hz": (taken["fs_hz"], signal.fs_hz),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ValueError(f"teacher: {folder} has the {what} {theirs}, but the student's data have {ours}")
    if label_set.task == "regression":
        raise ValueError("a teacher works with classes, but the labels are regression; leave teacher out")
