"""Memory layouts of video tensors ``[B, C, T, H, W]``."""

import torch
from torch import Tensor


def layout_of(x_BCTHW: Tensor) -> torch.memory_format:
    """Channels last where the channels of a position lie next to each other."""
    is_last = x_BCTHW.shape[1] > 1 and x_BCTHW.stride(1) == 1
    return torch.channels_last_3d if is_last else torch.contiguous_format
