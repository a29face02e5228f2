"""Attention windows of full size that need no mask: the last one is moved inwards instead of being filled up.

Windows may therefore overlap, and of a token's several results one counts. Which tokens a window takes and whose
result a token takes are index tables that depend on the grid alone.

Shapes: L tokens in T, H, W order, W windows, G tokens of a window, P rotated pairs of channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from seedvr2_ray.models.seedvr2.transformer.rope import rotation_table
from seedvr2_ray.models.swiftvr.config import TransformerConfig
from seedvr2_ray.models.swiftvr.rope import token_angles

GridTHW = tuple[int, int, int]
"""Tokens of a chunk along time, height and width."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowTables:
    """How the tokens of one grid go into windows and come back; on the device."""

    num_windows: int
    gather_L: Tensor
    """Token numbers, window after window, each in T, H, W order."""
    owner_L: Tensor
    """For every token the place of its result among the gathered ones."""

    def to(self, device: torch.device) -> "WindowTables":
        """Return the tables on a device."""
        return replace(self, gather_L=self.gather_L.to(device), owner_L=self.owner_L.to(device))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GridPlan:
    """What all layers need to know about one grid."""

    tables: tuple[WindowTables, WindowTables]
    """Of even and odd layers, counted from 0."""
    rotations_LP2: Tensor
    """Cosines and sines of every token's position in the chunk. Only differences of positions matter, and no
    window reaches beyond the chunk, so neither its place in the stream nor the window's place in it takes part."""


def window_starts(size: int, window: int, *, shifted: bool) -> tuple[int, ...]:
    """Return where windows begin on one axis.

    Args:
        size: tokens on the axis.
        window: tokens of a window; not more than ``size`` are used.
        shifted: begin half a window earlier, as odd layers do.
    """
    if size <= window:
        return (0,)
    furthest, shift = size - window, window // 2 if shifted else 0
    candidates = sorted({min(max(k * window - shift, 0), furthest) for k in range(-(-size // window) + 2)})
    # A window between two that abut or overlap already adds nothing.
    return tuple(
        start
        for i, start in enumerate(candidates)
        if i in (0, len(candidates) - 1) or candidates[i + 1] > candidates[i - 1] + window
    )


def window_owners(starts: Sequence[int], size: int, window: int, *, shifted: bool) -> tuple[int, ...]:
    """Return for every position which of the windows that cover it counts: the first, or the last if shifted."""
    order = list(enumerate(starts))
    owners = []
    for position in range(size):
        covering = [i for i, start in order if start <= position < start + window]
        owners.append(covering[-1] if shifted else covering[0])
    return tuple(owners)


def make_tables(grid_THW: GridTHW, window_HW: tuple[int, int], *, shifted: bool) -> WindowTables:
    """Build the index tables of one grid, on the CPU."""
    frames, height, width = grid_THW
    rows, columns = min(window_HW[0], height), min(window_HW[1], width)
    tops = window_starts(height, rows, shifted=shifted)
    lefts = window_starts(width, columns, shifted=shifted)
    tokens_THW = torch.arange(frames * height * width).view(grid_THW)
    windows = [tokens_THW[:, y : y + rows, x : x + columns].reshape(-1) for y in tops for x in lefts]

    row_owner_H = torch.tensor(window_owners(tops, height, rows, shifted=shifted))
    column_owner_W = torch.tensor(window_owners(lefts, width, columns, shifted=shifted))
    local_row_H = torch.arange(height) - torch.tensor(tops)[row_owner_H]
    local_column_W = torch.arange(width) - torch.tensor(lefts)[column_owner_W]
    window_HW_ = row_owner_H[:, None] * len(lefts) + column_owner_W
    local_HW = local_row_H[:, None] * columns + local_column_W
    local_THW = torch.arange(frames)[:, None, None] * (rows * columns) + local_HW
    owner_THW = window_HW_ * (frames * rows * columns) + local_THW
    return WindowTables(num_windows=len(windows), gather_L=torch.cat(windows), owner_L=owner_THW.reshape(-1))


@lru_cache(maxsize=16)
def plan_grid(config: TransformerConfig, grid_THW: GridTHW, device: torch.device) -> GridPlan:
    """Return the tables of a grid on a device; a stream needs three of them over and over."""

    # A plan outlives the call that made it and may later meet autograd, which refuses inference tensors.
    with torch.inference_mode(False), torch.device("cpu"):
        even, odd = (make_tables(grid_THW, config.window, shifted=shifted) for shifted in (False, True))
        rotations_LP2 = rotation_table(token_angles(grid_THW, config.head_dim)).float()
        return GridPlan(tables=(even.to(device), odd.to(device)), rotations_LP2=rotations_LP2.to(device))
