"""A start from which the untrained model already returns its input: linear maps laid into the networks.

The encoder begins as a Haar transform of 2 x 2 x 2 pixels that keeps sixteen of its 24 coefficients,
the decoder as its inverse, and the transformer as v = noise - condition, whose one-step result is the
condition. What is added to that, the residual branches, starts small. Training is then
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

from seedvr2_ray.models.seedvr2.transformer.block import Block
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE

NEARLY_ZERO = 0.001
"""Size of weights that shall learn and not disturb yet, as a share of the usual size of random ones."""
CONSTANT = 64.0
"""In the pair of constant channels of the low level."""
PIXEL_CONSTANT = 32.0
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
    *product((0,), (_LOW, _HIGH), (_LOW, _HIGH), (_LOW, _HIGH)),
    *product((1, 2), (_LOW, _HIGH), (_LOW,), (_LOW,)),
    *product((1, 2), (_LOW,), (_LOW,), (_HIGH,)),
    *product((1, 2), (_LOW,), (_HIGH,), (_LOW,)),
]
_ALL_COEFFICIENTS = list(product(range(3), (_LOW, _HIGH), (_LOW, _HIGH), (_LOW, _HIGH)))
COEFFICIENTS = _FIRST_COEFFICIENTS + [one for one in _ALL_COEFFICIENTS if one not in _FIRST_COEFFICIENTS]
"""All 24 of a block of 2 x 2 x 2 pixels. The first sixteen, which the latents keep, are all of the luma and of
the colour its changes along one direction at a time: more than 4:2:0 video holds."""
NUM_KEPT = 16
LATENT_GAINS = torch.tensor([0.5, 4.0, 4.0, 6.0, 2.0, 4.0, 4.0, 6.0, 1.5, 5.0, 2.0, 5.0, 6.0] + 11 * [6.0])
"""Bring the coefficients of ordinary clips to a spread of about one."""


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
    if (
        config.latent_channels != NUM_KEPT
        or pixel_width < NUM_KEPT
        or low_width < 2 * NUM_KEPT + 2
        or config.norm_groups != 1
        or not config.is_light
    ):
        raise ValueError(
            f"this start needs a light network of {NUM_KEPT} latents, widths of {NUM_KEPT} and {2 * NUM_KEPT + 2}, "
            "and one norm group"
        )
    _initialise_encoder(vae.encoder)
    _initialise_decoder(vae.decoder)


def _initialise_encoder(encoder: Any) -> None:  # Lists of modules tell the type checker nothing about their members.
    encoder.conv_in.weight.zero_()
    encoder.conv_in.weight[:3, :, 0, 0, 0] = OPPONENT
    down = encoder.down_blocks[0].downsamplers[0].conv
    width = down.weight.shape[1]
    transform = down.weight[:NUM_KEPT] * NEARLY_ZERO
    transform[:, :3, 1:, :2, :2] = haar_filters()[:NUM_KEPT]
    # Every channel with the spread of its latent, so that the branches see them alike.
    gains = torch.diag(LATENT_GAINS[:NUM_KEPT])
    mixed = torch.empty(len(down.weight) - 2 * NUM_KEPT, NUM_KEPT).uniform_(-1, 1) * (3 / width) ** 0.5
    mixed *= LATENT_GAINS[:NUM_KEPT]
    mixed[-2:] = 0
    down.weight.copy_(torch.einsum("oi,icthw->octhw", torch.cat([gains, -gains, mixed]), transform))
    down.bias[-2:] = torch.tensor([CONSTANT, -CONSTANT])
    _steady_gain(encoder.conv_norm_out, CONSTANT)
    out = encoder.conv_out
    out.weight.mul_(NEARLY_ZERO)
    out.weight[NUM_KEPT:] = 0
    out.weight[:, -2:] = 0
    _copy_pairs(out, NUM_KEPT)
    out.bias[NUM_KEPT:] = -6.0


def _initialise_decoder(decoder: Any) -> None:
    conv_in = decoder.conv_in
    conv_in.weight[: len(COEFFICIENTS)] *= NEARLY_ZERO
    for latent in range(NUM_KEPT):
        conv_in.weight[latent, latent, 2, 1, 1] = 1
    conv_in.weight[-2:] = 0
    conv_in.bias[-2:] = torch.tensor([CONSTANT, -CONSTANT])
    low, pixels = decoder.up_blocks
    for block in [*decoder.mid_block.resnets, *low.resnets]:
        _start_branch(block, CONSTANT)
    _initialise_upsampler(low.upsamplers[0])
    _start_branch(pixels.resnets[0], PIXEL_CONSTANT)
    _steady_gain(decoder.conv_norm_out, PIXEL_CONSTANT)
    out = decoder.conv_out
    out.weight.mul_(NEARLY_ZERO)
    out.weight[:, -2:] = 0
    _copy_pairs(out, 3)


def _initialise_upsampler(upsampler: Any) -> None:
    width = upsampler.upscale_conv.weight.shape[1]
    # Output channel of the expansion is ((row * 2 + column) * 2 + time) * channels + channel.
    expand = upsampler.upscale_conv.weight.view(2, 2, 2, -1, width)
    synthesis = haar_filters() / LATENT_GAINS[:, None, None, None, None]
    expand[..., :3, len(COEFFICIENTS) :] *= NEARLY_ZERO
    expand[..., :3, : len(COEFFICIENTS)] = torch.einsum("cr,kcthw->hwtrk", OPPONENT, synthesis)
    expand[..., 3:6, :] = -expand[..., :3, :]
    expand[..., -2:, :] = 0
    expand[..., -2:] = 0
    upsampler.upscale_conv.bias.view(8, -1)[:, -2:] = torch.tensor([PIXEL_CONSTANT, -PIXEL_CONSTANT])


def _start_branch(block: Any, constant: float) -> None:
    """Make a residual block add little and see steadily scaled channels."""
    _steady_gain(block.norm1, constant)
    block.conv2.weight.mul_(NEARLY_ZERO)


def _copy_pairs(out: Any, count: int) -> None:
    """Return the first channels, which stand there as plus and minus, through the SiLU before this convolution."""
    for channel in range(count):
        out.weight[channel, [channel, count + channel]] = 0
        out.weight[channel, channel, 0, 1, 1] = 1
        out.weight[channel, count + channel, 0, 1, 1] = -1


def carries_signal(name: str) -> bool:
    """Whether a parameter, by its name in :class:`~training.network.Nano`, lies on the path that copies.

    These are trained more slowly: an error there hits every pixel at once, while the residual branches
    have all to learn.
    """
    parts = ("conv_in.", "conv_out.", "conv_norm_out.", "conv_shortcut.", "samplers.", "vid_in.", "vid_out.")
    return any(part in name for part in parts)


def _steady_gain(norm: nn.Module, constant: float) -> None:
    """Make a norm over channels that end in the constant pair return its other channels nearly as they came."""
    weight = norm.weight
    assert isinstance(weight, Tensor)
    weight.fill_(math.sqrt(2 * constant**2 / len(weight)))
    weight[-2:] = 0.25


@torch.no_grad()
def initialise_transformer(transformer: SeedVR2Transformer, generator: torch.Generator) -> None:
    """Make the one-step result the condition itself: the gates of all layers are closed, and open in training.

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
            parameter.fill_(1.0 if "scale" in name else 0.0)
        # The noise in the stream is nothing to learn from.
        block.attn.proj_qkv.video.weight[:, :token] = 0
        block.mlp.video.get_parameter("proj_in.weight")[:, :token] = 0
