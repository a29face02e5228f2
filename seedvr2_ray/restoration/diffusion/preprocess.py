"""From decoded codes to the frames a VAE sees: scaled to the output's size, clamped, in -1..1.

Shape letters: T frames, C channels, H height, W width.
"""

import torch
from torch import Tensor

from seedvr2_ray.restoration.planning.reference_size import ReferenceSize
from seedvr2_ray.restoration.resize import resize_frames


def to_model_range(frames_TCHW: Tensor) -> Tensor:
    """Clamp to 0..1 what the kernel overshot, and map to -1..1."""
    return frames_TCHW.clamp(0.0, 1.0).sub_(0.5).div_(0.5)


def from_model_range(frames_TCHW: Tensor) -> Tensor:
    """Clamp to -1..1 and map to 0..1, in float32."""
    return frames_TCHW.to(torch.float32).clamp(-1.0, 1.0).mul_(0.5).add_(0.5)


def preprocess_reference(frames_TCHW: Tensor, size: ReferenceSize) -> Tensor:
    """Resize, clamp, cut out the centre and map to -1..1, in the order of the published script.

    Args:
        frames_TCHW: float32 in 0..1.
    """
    resized_TCHW = resize_frames(frames_TCHW, size.resized_height, size.resized_width)
    return to_model_range(resized_TCHW[..., size.top : size.top + size.height, size.left : size.left + size.width])
