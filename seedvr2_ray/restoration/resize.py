"""Scaling pictures by the kernel of the published script.

Shape letters: T frames, C channels, H height, W width.
"""

import torch
from torch import Tensor


def resize_frames(frames_TCHW: Tensor, height: int, width: int) -> Tensor:
    """Scale frames with a bicubic kernel that widens when the picture shrinks; not clamped.

    Args:
        frames_TCHW: float32.
    """
    if frames_TCHW.shape[-2:] == (height, width):
        return frames_TCHW
    return torch.nn.functional.interpolate(
        frames_TCHW, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
