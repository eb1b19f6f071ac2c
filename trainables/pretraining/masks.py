"""Which tokens of a record are masked: drawn from (trial's seed, epoch, position of the record), never padding.

So a resumed trial draws the same masks, and so do several workers. B: records, E: tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.pretraining.config import TokenPretrainConfig
from trainables.seeds import Use, derive_key


@dataclass(frozen=True)
class RecordStreams:
    """The random streams of the records of one epoch, by position in the split."""

    key: NDArray[np.uint64]

    @staticmethod
    def of_epoch(seed: int, epoch: int) -> RecordStreams:
        return RecordStreams(derive_key(Use.MASK, seed, epoch))

    def generator(self, index: int, stream: int = 0) -> np.random.Generator:
        """Return a generator for one record; streams of one record are apart."""
        counter = np.array([0, 0, stream, index], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=self.key))


def draw_masks(
    valid_BE: NDArray[np.bool_], index_B: NDArray[np.int64], config: TokenPretrainConfig, streams: RecordStreams
) -> NDArray[np.bool_]:
    """Draw mask_BE: max(min_masks, round(mask_prob * n / mask_span)) spans of a record with n valid tokens.

    Spans start at different tokens, all of a span's tokens are valid, and one token at least stays unmasked.

    Args:
        index_B: positions of the records in their split.
    """
    masks = [
        _draw_mask(valid_E, config, streams.generator(int(i))) for valid_E, i in zip(valid_BE, index_B, strict=True)
    ]
    return np.stack(masks) if masks else np.zeros_like(valid_BE)


def _draw_mask(valid_E: NDArray[np.bool_], config: TokenPretrainConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    span = config.mask_span
    n_valid, n_tokens = int(valid_E.sum()), len(valid_E)
    mask_E = np.zeros(n_tokens, bool)
    if n_valid < 2:
        return mask_E
    starts = _span_starts(valid_E, span)
    if not len(starts):  # the signal is shorter than a span
        starts, span = np.flatnonzero(valid_E), 1
    n_spans = min(len(starts), max(config.min_masks, round(config.mask_prob * n_valid / span)))
    order = rng.permutation(starts)[:n_spans]
    mask_E[order[:, None] + np.arange(span)] = True
    if mask_E[valid_E].all():
        mask_E[order[-1]] = False
    return mask_E


def _span_starts(valid_E: NDArray[np.bool_], span: int) -> NDArray[np.intp]:
    """Return the tokens from which `span` tokens are valid."""
    if span > len(valid_E):
        return np.empty(0, np.intp)
    n_before_E = np.concatenate([[0], np.cumsum(valid_E)])
    return np.flatnonzero(n_before_E[span:] - n_before_E[:-span] == span)
