"""Rotary position embedding inside one attention window (Su et al., 2021, arXiv:2104.09864).

Positions are local to the window. Angles are computed in float32 from the formulas and never
read from a checkpoint: half-precision files hold frequencies that are wrong by up to 1.4 rad.

Shapes: G tokens of a window, L tokens, N heads, E head width, P = E / 2 rotated pairs.
"""

import math

import torch
from torch import Tensor

from seedvr2_ray.models.seedvr2.config import DiTConfig

_THETA = 10_000.0
_MAX_PIXEL_FREQUENCY = 128.0


def rope_frequencies(config: DiTConfig) -> Tensor:
    """Return the angular frequencies of one axis, float32 on the CPU; all three axes share them."""
    if config.rope == "video_and_text":
        axis_dim = config.head_dim // 3
        exponents = torch.arange(0, 2 * (axis_dim // 2), 2, dtype=torch.float32) / axis_dim
        return 1.0 / _THETA**exponents
    axis_dim = config.head_dim // 2 // 3
    return torch.linspace(1.0, _MAX_PIXEL_FREQUENCY, axis_dim // 2, dtype=torch.float32) * math.pi


def video_angles(config: DiTConfig, window_TYX: tuple[int, int, int], text_length: int) -> Tensor:
    """Return the angles of a window's tokens, [G, P]; channels without a frequency get angle zero.

    Args:
        text_length: tokens of the sample's text. Where text is rotated it comes first in time.
    """
    frequencies = rope_frequencies(config)
    if config.rope == "video_and_text":
        starts = (text_length, 0, 0)
        axes = [
            torch.arange(start, start + n, dtype=torch.float32) for start, n in zip(starts, window_TYX, strict=True)
        ]
    else:
        axes = [torch.linspace(-1.0, 1.0, n, dtype=torch.float32) for n in window_TYX]
    grids = torch.meshgrid(*axes, indexing="ij")
    angles = torch.cat([grid.reshape(-1, 1) * frequencies for grid in grids], dim=1)
    return _pad_pairs(angles, config)


def text_angles(config: DiTConfig, text_length: int) -> Tensor:
    """Return the angles of a text, [L, P]; all zero where text is not rotated."""
    if config.rope == "video":
        return torch.zeros(text_length, config.head_dim // 2)
    positions = torch.arange(text_length, dtype=torch.float32)
    return _pad_pairs((positions[:, None] * rope_frequencies(config)).repeat(1, 3), config)


def rotation_table(angles_LP: Tensor) -> Tensor:
    """Return cosines and sines, [L, P, 2] float32."""
    return torch.stack((angles_LP.cos(), angles_LP.sin()), dim=-1)


def rotate(heads_LNE: Tensor, rotations_LP2: Tensor) -> Tensor:
    """Turn adjacent channel pairs by the token's angles, in float32; the result has the dtype of ``heads_LNE``."""
    rotations_L1P2 = rotations_LP2[:, None]
    pairs = torch.unflatten(heads_LNE.float(), -1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic and falls back on complex
        (a, b), (cos, sin) = pairs.unbind(-1), rotations_L1P2.unbind(-1)
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:  # one pass over memory instead of six
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotations_L1P2))
    return turned.flatten(-2).to(heads_LNE.dtype)


def _pad_pairs(angles: Tensor, config: DiTConfig) -> Tensor:
    """Give the trailing channels, which pass through, the angle zero."""
    return torch.nn.functional.pad(angles, (0, config.head_dim // 2 - angles.shape[1]))
