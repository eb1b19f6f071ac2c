"""Where the tokens of records lie: counts of the published stacks, and frames that lose nothing but lead ends."""

from __future__ import annotations

import numpy as np
import pytest

from data.tokens import CONV_STACKS, TokenGrid


@pytest.mark.parametrize(("fs_hz", "hop", "frame"), [(50, 32, 32), (100, 64, 64), (500, 320, 322)])
def test_five_seconds_of_twelve_leads_are_93_tokens_at_every_rate(fs_hz: float, hop: int, frame: int) -> None:
    grid = TokenGrid(12, int(5 * fs_hz), fs_hz)
    assert grid.n_tokens == 93
    assert grid.frame_timesteps == frame
    assert CONV_STACKS[fs_hz].hop == hop


@pytest.mark.parametrize(("fs_hz", "kept"), [(50, (1, 1, 1, 1)), (100, (2, 2, 2, 2)), (500, (2, 2, 2, 3))])
def test_lead_ends_are_trimmed_as_published(fs_hz: float, kept: tuple[int, ...]) -> None:
    """Timesteps off the start and end of even and of odd leads; the three rates of the published code."""
    grid = TokenGrid(12, int(5 * fs_hz), fs_hz)
    even, odd = grid.lead_slices[:2]
    assert (even.start, grid.n_timesteps - even.stop, odd.start, grid.n_timesteps - odd.stop) == kept


@pytest.mark.parametrize(("n_leads", "n_timesteps"), [(1, 1250), (2, 777), (12, 1000)])
def test_frames_are_the_records_in_order_whatever_their_shape(n_leads: int, n_timesteps: int) -> None:
    grid = TokenGrid(n_leads, n_timesteps, 100.0)
    numbers_NLT = np.arange(n_leads * n_timesteps, dtype=np.float32).reshape(1, n_leads, n_timesteps)
    flat = grid.frames(numbers_NLT).reshape(-1)
    assert (np.diff(flat) > 0).all()
    assert len(flat) == grid.n_tokens * grid.frame_timesteps
    assert n_leads * n_timesteps - len(flat) < grid.n_tokens


def test_a_token_of_padding_is_not_valid() -> None:
    grid = TokenGrid(1, 1000, 100.0)
    valid_NF = grid.valid_NF(np.array([1000, 500], np.int32))
    assert valid_NF[0].all()
    assert valid_NF[1].sum() == round(grid.n_tokens / 2)
    assert not valid_NF[1, -1]


def test_another_rate_or_a_record_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match=r"50, 100, 500 Hz, but the records have 250 Hz; .*resample"):
        TokenGrid(12, 1250, 250.0)
    with pytest.raises(ValueError, match="as long as one token"):
        TokenGrid(1, 80, 100.0)
