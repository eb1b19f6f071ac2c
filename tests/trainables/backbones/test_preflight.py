"""What is wrong with every trial is said before the first one starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.dataset import LabelSet, Signal
from trainables.backbones.config import BackboneConfig
from trainables.backbones.preflight import check_backbones

ROW = Signal(("II",), 100.0, 600)
LABELS = LabelSet("beats", "binary", ("abnormal",))


def test_one_configuration_that_sees_too_few_tokens_is_enough_to_refuse() -> None:
    fitting = [BackboneConfig(resample_factor=16.0), BackboneConfig(backbone="ecg_fm")]
    check_backbones(fitting, ROW, LABELS)
    with pytest.raises(ValueError, match=r"makes 3 tokens of 1200 timesteps.*resample_factor: 16"):
        check_backbones([*fitting, BackboneConfig(resample_factor=2.0)], ROW, LABELS)


def test_weights_that_cannot_be_had_are_named_before_trials_fail_one_by_one(tmp_path: Path) -> None:
    random = BackboneConfig(resample_factor=16.0)
    absent = BackboneConfig(resample_factor=16.0, weights=str(tmp_path / "weights.pt"))
    with pytest.raises(ValueError, match=r"weights\.pt is no file or folder here"):
        check_backbones([random, absent], ROW, LABELS)
    torch.save({"weight": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="holds the weights of another network"):
        check_backbones([random, absent], ROW, LABELS)
