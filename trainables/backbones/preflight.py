"""What can be known of backbones before a sweep starts."""

from __future__ import annotations

from collections.abc import Sequence

from data.dataset import LabelSet, Signal
from trainables.backbones.backbone import count_tokens
from trainables.backbones.config import BackboneConfig
from trainables.backbones.weights import check_weights


def check_backbones(configs: Sequence[BackboneConfig], signal: Signal, label_set: LabelSet) -> None:
    """Refuse what no trial could run: a signal that does not suit the backbone, weights that can't be had.

    Weights of the hub are fetched to its cache.

    Raises:
        ValueError: the first that is wrong; one line, with the ways out.
    """
    for config in configs:
        count_tokens(config, signal)
    wanted = {(each.backbone, each.size, each.weights, each.mask_prob > 0): each for each in configs}
    for config in wanted.values():
        check_weights(config)
