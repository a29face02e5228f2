"""How many bytes a rank sends for one clip in one piece, by arithmetic; the rows count what they really send."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seedvr2_ray.models.seedvr2.vae.config import VAEConfig
from seedvr2_ray.models.seedvr2.vae.ranks.rows import ATTENTION, HALO, NORM

_STATISTICS_BYTES = 8
"""Of the mean and variance of one group of one frame, float32."""


@dataclass(frozen=True, slots=True)
class _Clip:
    """What a level of the network sees of a clip, and what stands beside the rank that is counted for."""

    frames: int
    width: int
    folds_images: bool
    """Whether a single frame is convolved without the copies that stand before it."""

    def halo(self, channels: int, taps: int, neighbours: int) -> Counter[str]:
        """Rows that a convolution needs beyond those that are here."""
        head = 0 if self.folds_images and self.frames == 1 else taps - 1
        return Counter({HALO: neighbours * channels * (self.frames + head) * self.width})


def encode_bytes(
    config: VAEConfig,
    frames: int,
    width: int,
    latent_rows: Sequence[int],
    rank: int,
    *,
    item_bytes: int,
    folds_images: bool = False,
) -> Counter[str]:
    """Return what encoding a clip of so many frames sends per kind; for networks that are not light.

    Args:
        width: of a frame in pixels.
        latent_rows: of each rank.
        item_bytes: of a number in activations.
        folds_images: see :attr:`VAEOptions.image_conv2d`.
    """
    parts = list(_encode(config, _Clip(frames, width, folds_images), latent_rows, rank))
    return _in_bytes(config, parts, len(latent_rows), item_bytes)


def decode_bytes(
    config: VAEConfig,
    latents: int,
    width: int,
    latent_rows: Sequence[int],
    rank: int,
    *,
    item_bytes: int,
    folds_images: bool = False,
    fused_upsampler: bool = False,
) -> Counter[str]:
    """Return the same for decoding so many latents; ``width`` is in pixels here, too."""
    clip = _Clip(latents, width // config.spatial_stride, folds_images)
    parts = list(_decode(config, clip, latent_rows, rank, fused=fused_upsampler))
    return _in_bytes(config, parts, len(latent_rows), item_bytes)


def _encode(config: VAEConfig, clip: _Clip, latent_rows: Sequence[int], rank: int) -> Iterator[Counter[str]]:
    widths, both = config.block_out_channels, _neighbours(latent_rows, rank)
    yield clip.halo(config.image_channels, 3, both)
    for level, channels in enumerate(widths):
        yield from _resnets(clip, config.encoder_inputs(level), channels, both)
        if level < config.num_levels - 1:
            # Only the rank before reads this one's first row.
            yield clip.halo(channels, 3 if config.downsamples_time(level) else 1, int(rank > 0))
            frames = (clip.frames + 1) // 2 if config.downsamples_time(level) else clip.frames
            clip = _Clip(frames, clip.width // 2, clip.folds_images)
    yield from _middle(config, clip, latent_rows, rank)
    yield Counter({NORM: clip.frames}) + clip.halo(widths[-1], 3, both)


def _decode(
    config: VAEConfig, clip: _Clip, latent_rows: Sequence[int], rank: int, *, fused: bool
) -> Iterator[Counter[str]]:
    widths, both = config.block_out_channels[::-1], _neighbours(latent_rows, rank)
    yield clip.halo(config.latent_channels, 3, both)
    yield from _middle(config, clip, latent_rows, rank)
    for level, channels in enumerate(widths):
        yield from _resnets(clip, config.decoder_inputs(level), channels, both)
        if level < config.num_levels - 1:
            time = config.upsamples_time(level)
            if fused:
                yield clip.halo(channels, 1 if time else 3, both)
            clip = _Clip(2 * clip.frames - 1 if time else clip.frames, 2 * clip.width, clip.folds_images)
            if not fused:
                yield clip.halo(channels, 3, both)
    yield Counter({NORM: clip.frames}) + clip.halo(widths[-1], 3, both)


def _resnets(clip: _Clip, inputs: Sequence[int], channels: int, neighbours: int) -> Iterator[Counter[str]]:
    for channels_in in inputs:
        for channels_read in (channels_in, channels):
            yield Counter({NORM: clip.frames}) + clip.halo(channels_read, 3, neighbours)


def _middle(config: VAEConfig, clip: _Clip, latent_rows: Sequence[int], rank: int) -> Iterator[Counter[str]]:
    channels = config.block_out_channels[-1]
    yield from _resnets(clip, [channels, channels], channels, _neighbours(latent_rows, rank))
    if config.mid_attention:
        keys_and_values = 2 * channels * clip.frames * latent_rows[rank] * clip.width
        yield Counter({NORM: clip.frames, ATTENTION: (len(latent_rows) - 1) * keys_and_values})


def _neighbours(latent_rows: Sequence[int], rank: int) -> int:
    return int(rank > 0) + int(rank < len(latent_rows) - 1)


def _in_bytes(config: VAEConfig, parts: Sequence[Counter[str]], num_ranks: int, item_bytes: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    norm_bytes = (num_ranks - 1) * config.norm_groups * _STATISTICS_BYTES
    sizes = {HALO: item_bytes, ATTENTION: item_bytes, NORM: norm_bytes}
    return Counter({kind: count * sizes[kind] for kind, count in total.items()})
