"""A start from which the untrained model already returns its input: linear maps laid into the networks.

The encoder begins as a Haar transform of 2 x 2 x 2 pixels that keeps twelve of its 24 coefficients,
the decoder as its inverse, and the transformer as v = noise - condition, whose one-step result is the
condition. What is added to that, the residual branches, starts small. A few minutes on a CPU are then
spent on restoring instead of on learning to copy.

Group norms and SiLU stand in the way of copying. A pair of large constant channels holds a norm's
statistics steady, and a signal that travels as a plus/minus pair survives SiLU exactly:
silu(h) - silu(-h) = h.
"""

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from seedvr2_ray.models.seedvr2.block import Block
from seedvr2_ray.models.seedvr2.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae import VideoVAE

RESIDUAL_SCALE = 0.01
CONSTANT = 16.0
"""In the pair of constant channels of the low level."""
PIXEL_CONSTANT = 8.0
"""The same where the decoder ends in pixels."""
NOISE_SHARE = 0.25
"""How strongly the transformer's stream carries noise - condition: weakly, since nothing can be learned from noise."""

OPPONENT = (
    torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]) / torch.tensor([[3.0], [2.0], [6.0]]).sqrt()
)
"""An orthonormal luma and two colour differences from R'G'B'."""

_LOW, _HIGH = (1.0, 1.0), (-1.0, 1.0)
# Of each coefficient: the opponent channel, and the filters along time, height and width.
_FIRST_COEFFICIENTS = [
    (0, _LOW, _LOW, _LOW),
    (1, _LOW, _LOW, _LOW),
    (2, _LOW, _LOW, _LOW),
    (0, _HIGH, _LOW, _LOW),
    (0, _LOW, _HIGH, _LOW),
    (0, _LOW, _LOW, _HIGH),
    (1, _HIGH, _LOW, _LOW),
    (2, _HIGH, _LOW, _LOW),
]
_ALL_COEFFICIENTS = list(product(range(3), (_LOW, _HIGH), (_LOW, _HIGH), (_LOW, _HIGH)))
COEFFICIENTS = _FIRST_COEFFICIENTS + [one for one in _ALL_COEFFICIENTS if one not in _FIRST_COEFFICIENTS]
"""All 24 of a block of 2 x 2 x 2 pixels. The first twelve, which the latents keep, are all of the luma and
the colour at half resolution: as much as 4:2:0 video holds."""
NUM_KEPT = 12
LATENT_GAINS = torch.tensor([0.5, 1.5, 2.0, 2.0, 4.0, 4.0, 5.0, 5.0, 6.0, 4.0, 4.0, 6.0])
"""Bring the latents of ordinary clips to a spread of about one."""


def haar_filters() -> Tensor:
    """Return the analysis filters over opponent channels, [24, 3, 2, 2, 2], an orthonormal set."""
    filters = torch.zeros(len(COEFFICIENTS), 3, 2, 2, 2)
    for row, (channel, time, height, width) in enumerate(COEFFICIENTS):
        t, h, w = (torch.tensor(taps) for taps in (time, height, width))
        filters[row, channel] = t[:, None, None] * h[:, None] * w / math.sqrt(8)
    return filters


@torch.no_grad()
def initialise_vae(vae: VideoVAE) -> None:
    """Lay the Haar transform and its inverse into a VAE of the nano shape.

    Raises:
        ValueError: the VAE has another shape.
    """
    config = vae.config
    pixel_width, low_width = config.block_out_channels
    kept = NUM_KEPT
    if (
        config.latent_channels != kept
        or pixel_width < kept
        or low_width < len(COEFFICIENTS) + 2
        or config.norm_groups != 1
    ):
        raise ValueError(
            f"this start needs {kept} latents, widths of {kept} and {len(COEFFICIENTS) + 2}, and one norm group"
        )
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            module.weight.mul_(RESIDUAL_SCALE)
    _initialise_encoder(vae, kept)
    _initialise_decoder(vae, kept)


def _initialise_encoder(vae: VideoVAE, kept: int) -> None:
    encoder: Any = vae.encoder  # Lists of modules tell the type checker nothing about their members.
    encoder.conv_in.weight[:3] = 0
    encoder.conv_in.weight[:3, :, 2, 1, 1] = OPPONENT
    first, last = encoder.down_blocks
    down = first.downsamplers[0].conv
    down.weight.mul_(RESIDUAL_SCALE)
    down.weight[:kept] = 0
    down.weight[:kept, :3, 1:, :2, :2] = haar_filters()[:kept]
    shortcut = last.resnets[0].conv_shortcut
    shortcut.weight.mul_(RESIDUAL_SCALE)
    shortcut.weight[: 2 * kept] = 0
    eye = torch.eye(kept)[..., None, None, None]
    shortcut.weight[:kept, :kept] = eye
    shortcut.weight[kept : 2 * kept, :kept] = -eye
    shortcut.weight[-2:] = 0
    shortcut.bias[-2:] = torch.tensor([CONSTANT, -CONSTANT])
    _steady_norms(vae.encoder.mid_block, CONSTANT)
    gain = _steady_gain(encoder.conv_norm_out, CONSTANT)
    out = encoder.conv_out
    out.weight.mul_(RESIDUAL_SCALE)
    out.weight[:, :, :] = torch.where(
        torch.arange(out.weight.shape[0])[:, None, None, None, None] < kept, out.weight, 0
    )
    for latent in range(kept):
        out.weight[latent, [latent, kept + latent]] = 0
        out.weight[latent, latent, 2, 1, 1] = LATENT_GAINS[latent] / gain
        out.weight[latent, kept + latent, 2, 1, 1] = -LATENT_GAINS[latent] / gain
    out.weight[:, -2:] = 0
    out.bias[kept:] = -6.0


def _initialise_decoder(vae: VideoVAE, kept: int) -> None:
    decoder: Any = vae.decoder
    conv_in = decoder.conv_in
    conv_in.weight[: len(COEFFICIENTS)] = 0
    for latent in range(kept):
        conv_in.weight[latent, latent, 2, 1, 1] = 1 / LATENT_GAINS[latent]
    conv_in.weight[-2:] = 0
    conv_in.bias[-2:] = torch.tensor([CONSTANT, -CONSTANT])
    low, pixels = decoder.up_blocks
    _steady_norms(decoder.mid_block, CONSTANT)
    _steady_norms(low.resnets, CONSTANT)
    upsampler = low.upsamplers[0]
    width = upsampler.conv.weight.shape[0]
    # Output channel of the expansion is ((row * 2 + column) * 2 + time) * width + channel.
    expand = upsampler.upscale_conv.weight.view(2, 2, 2, width, width)
    expand[..., -2:] = 0
    expand[:, :, :, :3] = 0
    # Only the kept coefficients hold something yet; the others are there for what the decoder adds.
    expand[:, :, :, :3, : len(COEFFICIENTS)] = haar_filters().permute(3, 4, 2, 1, 0)
    upsampler.conv.weight[:3] = 0
    for channel in range(3):
        upsampler.conv.weight[channel, channel, 2, 1, 1] = 1
    upsampler.conv.weight[-2:] = 0
    upsampler.conv.bias[-2:] = torch.tensor([CONSTANT, -CONSTANT])
    shortcut = pixels.resnets[0].conv_shortcut
    shortcut.weight.mul_(0.3)
    shortcut.weight[:6] = 0
    shortcut.weight[-2:] = 0
    shortcut.weight[:, -2:] = 0
    shortcut.weight[:3, :3, 0, 0, 0] = OPPONENT.T
    shortcut.weight[3:6, :3, 0, 0, 0] = -OPPONENT.T
    shortcut.bias[-2:] = torch.tensor([PIXEL_CONSTANT, -PIXEL_CONSTANT])
    _steady_gain(pixels.resnets[0].norm1, CONSTANT)
    _steady_gain(pixels.resnets[1].norm1, PIXEL_CONSTANT)
    gain = _steady_gain(decoder.conv_norm_out, PIXEL_CONSTANT)
    decoder.conv_out.weight.zero_()
    for channel in range(3):
        decoder.conv_out.weight[channel, channel, 2, 1, 1] = 1 / gain
        decoder.conv_out.weight[channel, 3 + channel, 2, 1, 1] = -1 / gain


def carries_signal(name: str) -> bool:
    """Whether a parameter, by its name in :class:`~training.network.Nano`, lies on the path that copies.

    These are trained more slowly: an error there hits every pixel at once, while the residual branches
    have all to learn.
    """
    parts = ("conv_in.", "conv_out.", "conv_norm_out.", "conv_shortcut.", "samplers.", "vid_in.", "vid_out.")
    return any(part in name for part in parts)


def _steady_norms(blocks: nn.Module, constant: float) -> None:
    for name, module in blocks.named_modules():
        if name.endswith("norm1"):
            _steady_gain(module, constant)


def _steady_gain(norm: nn.Module, constant: float) -> float:
    """Make a norm over channels that end in the constant pair return its other channels nearly as they came.

    Returns:
        What is left of a signal: its size after the norm for size one before.
    """
    weight = norm.weight
    assert isinstance(weight, Tensor)
    spread = math.sqrt(2 * constant**2 / len(weight))
    weight.fill_(spread)
    weight[-2:] = 0.25
    return 1.0


@torch.no_grad()
def initialise_transformer(transformer: SeedVR2Transformer, generator: torch.Generator) -> None:
    """Make the one-step result the condition itself, with layers that change it little.

    Raises:
        ValueError: the width does not hold a token's noise - condition and its condition side by side.
    """
    config = transformer.config
    channels, squares = config.latent_channels, config.patch**2
    token = channels * squares
    if config.width != 2 * token:
        raise ValueError(f"this start needs a width of {2 * token}, got {config.width}")
    for parameter in transformer.parameters():
        if parameter.ndim == 2:
            parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    transformer.vid_in.proj.weight.zero_()
    transformer.vid_in.proj.bias.zero_()
    transformer.vid_out.proj.weight.zero_()
    transformer.vid_out.proj.bias.zero_()
    for square in range(squares):
        for channel in range(channels):
            dim = square * channels + channel
            noise = square * config.in_channels + channel
            transformer.vid_in.proj.weight[dim, noise] = NOISE_SHARE
            transformer.vid_in.proj.weight[dim, noise + channels] = -NOISE_SHARE
            transformer.vid_in.proj.weight[token + dim, noise + channels] = 1.0
            transformer.vid_out.proj.weight[dim, dim] = 1 / NOISE_SHARE
    assert transformer.emb_in is not None
    transformer.emb_in.proj_out.weight.zero_()
    transformer.emb_in.proj_out.bias.zero_()
    for block in transformer.blocks:
        assert isinstance(block, Block)
        for name, parameter in block.ada.named_parameters():
            parameter.fill_(1.0 if "scale" in name else 0.0003 if "gate" in name else 0.0)
