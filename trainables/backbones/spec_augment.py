"""SpecAugment over time (Park et al. 2019, arXiv:1904.08779): spans of tokens give way to a learned vector.

S: sequences, E: tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST_FITTED = 10  # tokens; what wav2vec2 was fine-tuned with


def fit_span(mask_span: int | None, n_tokens: int) -> int:
    """Return the length of a masked span.

    Raises:
        ValueError: a span of the given length does not fit.
    """
    if mask_span is None:
        return max(1, min(LONGEST_FITTED, n_tokens // 10))
    if mask_span > n_tokens:
        raise ValueError(
            f"mask_span must not exceed the {n_tokens} tokens of a window, but got {mask_span}; null fits it to them"
        )
    return mask_span


def draw_mask(n_sequences: int, n_tokens: int, prob: float, span: int, device: torch.device) -> Tensor:
    """Draw mask_SE: at least one span a sequence, round(prob * E / span) that may overlap, at different starts."""
    n_starts = n_tokens - span + 1
    n_spans = min(n_starts, max(1, round(prob * n_tokens / span)))
    start_SM = torch.rand(n_sequences, n_starts, device=device).argsort(dim=1)[:, :n_spans]
    token_SM = (start_SM[:, :, None] + torch.arange(span, device=device)).flatten(1)
    return torch.zeros(n_sequences, n_tokens, dtype=torch.bool, device=device).scatter_(1, token_SM, True)
