"""How much arithmetic SwiftVR asks for; a multiplication with an addition counts as two.

What the architecture defines is counted: rewrites that save arithmetic do not lower the count, so they show as speed.
"""

from dataclasses import dataclass

from seedvr2_ray.models.swiftvr.config import ReAEConfig, TransformerConfig
from seedvr2_ray.models.swiftvr.windows import GridTHW, make_tables


@dataclass(frozen=True, slots=True)
class CodecFlops:
    """Of the autoencoder, per frame."""

    encode: float
    decode: float


def transformer_flops(config: TransformerConfig, grid_THW: GridTHW) -> int:
    """Count one pass over a chunk; what timestep and prompt amount to is constant and not counted."""
    frames, height, width = grid_THW
    tokens = frames * height * width
    # Queries, keys, values and output among windows; queries and output for the prompt; the MLP.
    products = 2 * tokens * config.width * (6 * config.width + 2 * config.ffn_width)
    prompt = 4 * tokens * config.prompt_tokens * config.width
    total = config.num_layers * (products + prompt)
    for layer in range(config.num_layers):
        num_windows = make_tables(grid_THW, config.window, shifted=layer % 2 == 1).num_windows
        window_tokens = frames * min(config.window[0], height) * min(config.window[1], width)
        total += 4 * config.width * num_windows * window_tokens**2
    patches = 2 * config.patch**2 * config.latent_channels
    return total + 2 * tokens * config.width * patches


def reae_flops(config: ReAEConfig, height: int, width: int) -> CodecFlops:
    """Count encoding and decoding of one frame of a long stream, sides padded."""
    squares = 3 * config.patch**2
    c = config.encoder_width
    half = squares * c * 9 + c * c  # Per pixel at half the size: the first layer, and its pooling to half the rate.
    encode = half / 4 + (_down(c) + c * c) / 16 / 2 + (_down(c) + c * c) / 64 / 4
    encode += (_down(c) + config.latent_channels * c * 9) / 256 / 4
    a, b, d, e = config.decoder_widths
    decode = (config.latent_channels * a * 9 + _blocks(a)) / 256 / 4
    decode += (a * a + a * b * 9 + _blocks(b)) / 64 / 4
    decode += (3 * b * b + b * d * 9 + _blocks(d)) / 16 / 2
    decode += (3 * d * d + d * e * 9 + e * squares * 9) / 4
    pixels = height * width
    return CodecFlops(2 * encode * pixels, 2 * decode * pixels)


def _down(channels: int) -> int:
    """Per pixel after it: a convolution with a stride, and three blocks."""
    return channels * channels * 9 + _blocks(channels)


def _blocks(channels: int) -> int:
    return 3 * (2 + 1 + 1) * channels * channels * 9
