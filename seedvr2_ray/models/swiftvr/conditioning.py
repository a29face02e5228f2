"""What the transformer is told besides the picture: a timestep and a text, both the same for ever.

Shapes: B samples, L text tokens, C channels of the stored text, D model width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.swiftvr.config import TransformerConfig


class TimeEmbedder(nn.Module):
    """Two layers on top of the timestep's sinusoid."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.time_channels, config.width)
        self.linear_2 = nn.Linear(config.width, config.width)

    def forward(self, wave_BC: Tensor) -> Tensor:
        """Return [B, D]."""
        out_BD: Tensor = self.linear_2(F.silu(self.linear_1(wave_BC)))
        return out_BD


class TextEmbedder(nn.Module):
    """Two layers on top of the stored text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.text_dim, config.width)
        self.linear_2 = nn.Linear(config.width, config.width)

    def forward(self, text_LC: Tensor) -> Tensor:
        """Return [L, D]; padding tokens count like the others."""
        out_LD: Tensor = self.linear_2(F.gelu(self.linear_1(text_LC), approximate="tanh"))
        return out_LD


class ConditionEmbedder(nn.Module):
    """Everything that is needed once, to make the constants of a loaded model."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.time_channels = config.time_channels
        self.time_embedder = TimeEmbedder(config)
        self.time_proj = nn.Linear(config.width, 6 * config.width)
        self.text_embedder = TextEmbedder(config)

    def embed_time(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding [B, D], and what it adds to the modulation of every layer [B, 6, D]."""
        wave_BC = time_sinusoid(timestep_B, self.time_channels).to(self.time_proj.weight.dtype)
        embedded_BD = self.time_embedder(wave_BC)
        return embedded_BD, self.time_proj(F.silu(embedded_BD)).unflatten(-1, (6, -1))


def time_sinusoid(timestep_B: Tensor, num_channels: int) -> Tensor:
    """Return [B, num_channels] float32: cosines, then sines, of frequencies from 1 down to 1/10000."""
    half = num_channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep_B.device)
    frequencies = torch.exp(-math.log(10_000.0) * steps / half)
    angles = timestep_B.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
