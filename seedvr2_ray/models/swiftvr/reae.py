"""The restoration-aware autoencoder: two stacks of plain convolutions, with one frame per block carried along.

What a stream remembers goes in and comes out as a value, so any cut of a stream gives the same numbers as the whole.

Shapes: T frames or latents, C channels, H and W pixels at the level at hand.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.swiftvr.config import TIME_STRIDE, ReAEConfig

Memories = tuple[Tensor, ...]
"""The last frame that each memory block saw, 1 x C x H x W, in the blocks' order."""


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


class MemoryBlock(nn.Module):
    """A residual block that sees each frame beside the one before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
        )

    def forward(self, x_TCHW: Tensor, before_1CHW: Tensor | None) -> Tensor:
        """Map all frames at once.

        Args:
            before_1CHW: the frame before the first; None at the start of a stream, where it is black.
        """
        channels = x_TCHW.shape[1]
        pairs_TCHW = x_TCHW.new_empty(len(x_TCHW), 2 * channels, *x_TCHW.shape[2:])
        pairs_TCHW[:, :channels] = x_TCHW
        pairs_TCHW[1:, channels:] = x_TCHW[:-1]
        pairs_TCHW[0, channels:] = 0.0 if before_1CHW is None else before_1CHW[0]
        change_TCHW: Tensor = self.conv(pairs_TCHW)
        return change_TCHW.add_(x_TCHW).relu_()


class TemporalPool(nn.Module):
    """Mix groups of consecutive frames into one each."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(stride * width, width, 1, bias=False)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        """Return a ``stride``-th of the frames."""
        frames, channels, height, width = x_TCHW.shape
        pooled: Tensor = self.conv(x_TCHW.reshape(frames // self.stride, self.stride * channels, height, width))
        return pooled


class Grow(nn.Module):
    """Mix channels and double the picture's size. Mixing comes first: it commutes with repeating pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        """Return as many frames, twice as high and wide."""
        return _double_size(self.proj(x_TCHW))


class GrowInTime(nn.Module):
    """Make two frames of each and double the picture's size.

    Defined as three taps in time over a frame that was repeated, with nothing around the pair: of the first copy's
    taps the last two meet the frame, of the second's the first two. So each copy is one mix of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(width, width, (3, 1, 1), bias=False)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        """Return twice as many frames, twice as high and wide."""
        frames, channels, height, width = x_TCHW.shape
        earliest, middle, latest = self.conv3d.weight[..., 0, 0].unbind(2)
        taps = torch.cat([middle + latest, earliest + middle])[..., None, None]
        pairs_TCHW = F.conv2d(x_TCHW, taps).reshape(2 * frames, channels, height, width)
        return _double_size(pairs_TCHW)


class SoftClamp(nn.Module):
    """Keep latents within -3..3."""

    def forward(self, x_TCHW: Tensor) -> Tensor:
        """Bend what is near the limits."""
        return torch.tanh(x_TCHW / 3.0).mul_(3.0)


class ReAE(nn.Module):
    """Encoder and decoder; names and shapes of parameters are those of the released checkpoint."""

    def __init__(self, config: ReAEConfig) -> None:
        super().__init__()
        self.config = config
        pixels = 3 * config.patch**2
        self.encoder = nn.ModuleList(_encoder_layers(config, pixels))
        self.decoder = nn.ModuleList(_decoder_layers(config, pixels))

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return next(self.parameters()).dtype

    def encode(self, frames_TCHW: Tensor, before: Memories | None) -> tuple[Tensor, Memories]:
        """Encode the next frames of a stream.

        Args:
            frames_TCHW: in 0..1, a multiple of 4 of them, padded to a multiple of 16 pixels.
            before: what the previous call returned; None at the start of a stream.

        Returns:
            A latent per four frames, a sixteenth as high and wide, and what the next call needs.
        """
        if len(frames_TCHW) % TIME_STRIDE or not len(frames_TCHW):
            raise ValueError(f"frames are encoded in groups of {TIME_STRIDE}, got {len(frames_TCHW)}")
        return run_layers(self.encoder, F.pixel_unshuffle(frames_TCHW, self.config.patch), before)

    def decode(self, latents_TCHW: Tensor, before: Memories | None) -> tuple[Tensor, Memories]:
        """Decode the next latents of a stream; the first three frames of a stream stand for nothing.

        Returns:
            Four frames per latent, in about 0..1 and not clamped, because who looks for infinity must do so before;
            and what the next call needs.
        """
        squares_TCHW, after = run_layers(self.decoder, latents_TCHW, before)
        return F.pixel_shuffle(squares_TCHW, self.config.patch), after


def memory_shapes(
    config: ReAEConfig, height: int, width: int
) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int, int]]]:
    """Return the shapes of what encoder and decoder remember of a stream of padded frames."""
    sixteenth, eighth, quarter, _ = config.decoder_widths
    encoder = [(4, config.encoder_width), (8, config.encoder_width), (16, config.encoder_width)]
    decoder = [(16, sixteenth), (8, eighth), (4, quarter)]
    return (
        [(1, channels, height // stride, width // stride) for stride, channels in encoder for _ in range(3)],
        [(1, channels, height // stride, width // stride) for stride, channels in decoder for _ in range(3)],
    )


def run_layers(layers: Iterable[nn.Module], x_TCHW: Tensor, before: Memories | None) -> tuple[Tensor, Memories]:
    """Run a stack, handing every memory block its last frame of the previous call.

    Returns:
        The result, and the last frame that every memory block saw: copies, so that they keep nothing else alive.
    """
    after: list[Tensor] = []
    for layer in layers:
        if isinstance(layer, MemoryBlock):
            past = None if before is None else before[len(after)]
            after.append(x_TCHW[-1:].clone())
            x_TCHW = layer(x_TCHW, past)
        else:
            x_TCHW = layer(x_TCHW)
    return x_TCHW, tuple(after)


def _double_size(x_TCHW: Tensor) -> Tensor:
    return F.interpolate(x_TCHW, scale_factor=2.0, mode="nearest")


def _memory_blocks(width: int) -> list[nn.Module]:
    return [MemoryBlock(width) for _ in range(3)]


def _encoder_layers(config: ReAEConfig, pixels: int) -> list[nn.Module]:
    width = config.encoder_width
    layers: list[nn.Module] = [_conv(pixels, width), nn.ReLU(inplace=True)]
    for stride in (2, 2, 1):
        layers += [TemporalPool(width, stride), _conv(width, width, stride=2, bias=False), *_memory_blocks(width)]
    return [*layers, _conv(width, config.latent_channels)]


def _decoder_layers(config: ReAEConfig, pixels: int) -> list[nn.Module]:
    sixteenth, eighth, quarter, half = config.decoder_widths
    layers: list[nn.Module] = [SoftClamp(), _conv(config.latent_channels, sixteenth), nn.ReLU(inplace=True)]
    # The identities hold the places of the checkpoint's upsampling layers, which the growing ones do as well.
    for width, narrower, grow in (
        (sixteenth, eighth, Grow(sixteenth)),
        (eighth, quarter, GrowInTime(eighth)),
        (quarter, half, GrowInTime(quarter)),
    ):
        layers += [*_memory_blocks(width), nn.Identity(), grow, _conv(width, narrower, bias=False)]
    return [*layers, nn.ReLU(inplace=True), _conv(half, pixels)]
