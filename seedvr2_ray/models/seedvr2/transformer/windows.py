"""Cutting a token grid into attention windows.

There is no cyclic shift and no mask: odd layers move the cuts by half a window, which leaves
smaller windows at the border. Axes: T latent frames, Y and X patched rows and columns.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

from seedvr2_ray.models.seedvr2.config import WindowGrid

Span = tuple[range, range, range]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """All windows of one token grid."""

    size_TYX: tuple[int, int, int]
    spans: tuple[Span, ...]
    """Per window the tokens it holds along T, Y and X. Their order is a convention (X slowest, T
    fastest) and decides nothing."""


def window_size(size_TYX: tuple[int, int, int], grid: WindowGrid) -> tuple[int, int, int]:
    """Return the size of a full window in tokens.

    The picture is scaled in thought to the grid's reference area and cut into ``grid.counts``; so
    larger pictures of one shape get more windows, not larger ones. Rounding is half to even,
    as the released weights were trained.
    """
    frames, height, width = size_TYX
    num_t, num_y, num_x = grid.counts
    scale = math.sqrt(grid.reference_tokens / (height * width))
    return (
        math.ceil(min(frames, grid.max_frames) / num_t),
        math.ceil(round(height * scale) / num_y),
        math.ceil(round(width * scale) / num_x),
    )


@lru_cache(maxsize=256)
def plan_windows(size_TYX: tuple[int, int, int], grid: WindowGrid, *, shifted: bool) -> WindowPlan:
    """Cut a token grid into windows that hold every token exactly once."""
    cut = _cut_shifted if shifted else _cut
    t_ranges, y_ranges, x_ranges = (
        cut(length, window) for length, window in zip(size_TYX, window_size(size_TYX, grid), strict=True)
    )
    spans = tuple((t, y, x) for x, y, t in product(x_ranges, y_ranges, t_ranges))
    return WindowPlan(size_TYX, spans)


def _cut(length: int, window: int) -> tuple[range, ...]:
    return tuple(range(start, min(start + window, length)) for start in range(0, length, window))


def _cut_shifted(length: int, window: int) -> tuple[range, ...]:
    """Cut at half windows; an axis that fits into one window is left whole."""
    if window >= length:
        return (range(length),)
    num_cuts = length // window + 1
    cuts = [0, *((2 * k - 1) * window // 2 for k in range(1, num_cuts + 1)), length]
    clipped = [min(cut, length) for cut in cuts]
    return tuple(range(a, b) for a, b in pairwise(clipped) if a < b)
