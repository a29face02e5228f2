"""Rotary position embedding over time, height and width (Su et al., 2021, arXiv:2104.09864).

Shapes: L tokens in T, H, W order, P = half a head's rotated pairs of channels.
"""

import torch
from torch import Tensor

_THETA = 10_000.0


def split_head(head_dim: int) -> tuple[int, int, int]:
    """Return how many channels of a head stand for time, height and width."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def axis_angles(positions: Tensor, num_channels: int) -> Tensor:
    """Return the angles of positions on one axis, float64 [positions, num_channels / 2]."""
    exponents = torch.arange(0, num_channels, 2, dtype=torch.float64, device=positions.device) / num_channels
    return positions.double()[:, None] * _THETA**-exponents


def token_angles(grid_THW: tuple[int, int, int], head_dim: int, first_frame: int = 0) -> Tensor:
    """Return the angles of every token of a chunk, float64 [L, P]: time first, then height, then width.

    Args:
        first_frame: position of the chunk's first latent in time; attention does not depend on it.
    """
    frames, height, width = grid_THW
    axes = (torch.arange(first_frame, first_frame + frames), torch.arange(height), torch.arange(width))
    t, h, w = (axis_angles(axis, size) for axis, size in zip(axes, split_head(head_dim), strict=True))
    full = (frames, height, width, -1)
    angles = (t[:, None, None].expand(full), h[:, None].expand(full), w.expand(full))
    return torch.cat(angles, dim=-1).flatten(0, 2)
