"""Memory layouts of video tensors ``[B, C, T, H, W]``."""

import torch
from torch import Tensor


def layout_of(x_BCTHW: Tensor) -> torch.memory_format:
    """Channels last where the channels of a position lie next to each other."""
    is_last = x_BCTHW.shape[1] > 1 and x_BCTHW.stride(1) == 1
    return torch.channels_last_3d if is_last else torch.contiguous_format


def empty_frames(like_BCTHW: Tensor, *, frames: int | None = None, height: int | None = None) -> Tensor:
    """Memory for frames like some others, more or taller ones."""
    batch, channels, own_frames, own_height, width = like_BCTHW.shape
    shape = (batch, channels, frames or own_frames, height or own_height, width)
    layout = layout_of(like_BCTHW)
    return torch.empty(shape, dtype=like_BCTHW.dtype, device=like_BCTHW.device, memory_format=layout)
