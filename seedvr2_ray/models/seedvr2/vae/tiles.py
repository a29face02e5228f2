"""Approximate encoding and decoding in overlapping tiles, for frames that fit in no exact way.

Shapes: B clips, C channels, T frames or latents, H height, W width.

Each tile sees norm statistics and attention of its own pixels only, so tiles are not what the whole
frame gives, whatever their overlap. ``VAEOptions.bands`` and ``frames_in_flight`` save memory
without changing the picture; turn those first.

Each tile runs through the whole clip before the next begins, so the device holds what one tile
remembers of the past; the frames may lie in host memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.seedvr2.vae.config import VAEOptions
from seedvr2_ray.models.seedvr2.vae.video_vae import Posterior, VideoVAE


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """Size and overlap of tiles in pixels."""

    height: int = 1024
    width: int = 1024
    overlap_height: int = 128
    overlap_width: int = 128

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or min(self.overlap_height, self.overlap_width) < 0:
            raise SettingsError(
                f"tiles need a size of at least 1 pixel and an overlap of at least 0, got {self.width}x{self.height} "
                f"with {self.overlap_width}x{self.overlap_height}"
            )

    @classmethod
    def square(cls, side: int) -> Self:
        """Tiles of one side that share an eighth of it with each neighbour."""
        return cls(height=side, width=side, overlap_height=side // 8, overlap_width=side // 8)


@dataclass(frozen=True, slots=True)
class Span:
    """A tile along one axis, in latents."""

    start: int
    stop: int
    is_last: bool
    """Whether it reaches the frame's far edge, where nothing follows to fade into."""


def plan_spans(num_latents: int, tile_pixels: int, overlap_pixels: int, stride: int) -> tuple[Span, ...]:
    """Cut one axis into overlapping tiles; a last one that only repeats its neighbour's overlap is left out."""
    length = max(1, tile_pixels // stride)
    overlap = min(max(overlap_pixels // stride, 0), length - 1)
    spans = []
    for start in range(0, num_latents, length - overlap):
        stop = min(start + length, num_latents)
        if start == 0 or stop - start > overlap:
            spans.append(Span(start, stop, stop == num_latents))
    return tuple(spans)


def fade_weights(span: Span, length: int, overlap: int) -> Tensor:
    """One tile's weights along one axis: a raised cosine up and down wherever it has a neighbour."""
    steps = torch.arange(overlap, dtype=torch.float32) / max(overlap - 1, 1)
    ramp = 0.5 - 0.5 * torch.cos(math.pi * steps)
    ramp = ramp[: min(overlap, length - 1)]
    weights = torch.ones(length)
    if len(ramp) and span.start > 0:
        weights[: len(ramp)] = ramp
    if len(ramp) and not span.is_last:
        weights[length - len(ramp) :] = 1 - ramp
    return weights


def encode_tiled(
    vae: VideoVAE,
    frames_BCTHW: Tensor,
    tiling: Tiling,
    *,
    slice_frames: int | None = None,
    options: VAEOptions | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Posterior:
    """Encode a clip tile by tile; what is blended are the moments.

    Args:
        vae: the network.
        frames_BCTHW: as :meth:`VideoVAE.encode` takes them, on its device or in host memory.
        tiling: sizes in pixels; frames that fit into one tile are encoded whole.
        slice_frames: see :meth:`VideoVAE.encode`.
        options: how to compute; None takes the network's own.
        check_cancelled: called before every slice of every tile; raises to stop.

    Returns:
        The posterior, on the network's device.
    """
    height, width = frames_BCTHW.shape[3:]
    stride = vae.config.spatial_stride
    device = vae.encoder.conv_in.weight.device

    def encode(clip_BCTHW: Tensor) -> Tensor:
        # The raw log variance is needed to blend; the posterior clamps it after.
        return vae.encode_moments(
            clip_BCTHW.to(device), slice_frames=slice_frames, options=options, check_cancelled=check_cancelled
        )

    if height <= tiling.height and width <= tiling.width:
        return Posterior.from_moments(encode(frames_BCTHW))

    def encode_tile(rows: Span, columns: Span) -> Tensor:
        return encode(
            frames_BCTHW[
                :, :, :, rows.start * stride : rows.stop * stride, columns.start * stride : columns.stop * stride
            ]
        )

    size = (-(-height // stride), -(-width // stride))
    overlap = (tiling.overlap_height // stride, tiling.overlap_width // stride)
    return Posterior.from_moments(_blend(_plan_grid(size, tiling, stride), encode_tile, size, 1, overlap))


def decode_tiled(
    vae: VideoVAE,
    latents_BCTHW: Tensor,
    tiling: Tiling,
    *,
    slice_latents: int | None = None,
    keep_on: torch.device | None = None,
    options: VAEOptions | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Tensor:
    """Decode a clip of unscaled latents tile by tile.

    Args:
        vae: the network.
        latents_BCTHW: as :meth:`VideoVAE.decode` takes them.
        tiling: sizes in pixels; frames that fit into one tile are decoded whole.
        slice_latents: see :meth:`VideoVAE.decode`.
        keep_on: where the frames are put together; None takes the network's device.
        check_cancelled: called before every slice of every tile; raises to stop.
    """
    stride = vae.config.spatial_stride
    height, width = latents_BCTHW.shape[3:]

    def decode(clip_BCTHW: Tensor) -> Tensor:
        frames_BCTHW = vae.decode(
            clip_BCTHW, slice_latents=slice_latents, options=options, check_cancelled=check_cancelled
        )
        return frames_BCTHW if keep_on is None else frames_BCTHW.to(keep_on)

    if height <= max(1, tiling.height // stride) and width <= max(1, tiling.width // stride):
        return decode(latents_BCTHW)

    def decode_tile(rows: Span, columns: Span) -> Tensor:
        return decode(latents_BCTHW[:, :, :, rows.start : rows.stop, columns.start : columns.stop])

    overlap = (tiling.overlap_height, tiling.overlap_width)
    return _blend(_plan_grid((height, width), tiling, stride), decode_tile, (height, width), stride, overlap)


def _plan_grid(size: tuple[int, int], tiling: Tiling, stride: int) -> Iterator[tuple[Span, Span]]:
    columns = plan_spans(size[1], tiling.width, tiling.overlap_width, stride)
    for row in plan_spans(size[0], tiling.height, tiling.overlap_height, stride):
        for column in columns:
            yield row, column


def _blend(
    grid: Iterator[tuple[Span, Span]],
    run_tile: Callable[[Span, Span], Tensor],
    size: tuple[int, int],
    scale: int,
    overlap: tuple[int, int],
) -> Tensor:
    """Add up weighted tiles and divide by the weights.

    Args:
        grid: the tiles, in latents.
        run_tile: what a tile becomes, ``scale`` samples per latent.
        size: height and width of the whole in latents.
        scale: samples of the result per latent.
        overlap: how far tiles fade along height and width, in samples of the result.
    """
    total_BCTHW: Tensor | None = None
    weight_HW = torch.zeros(size[0] * scale, size[1] * scale)
    for rows, columns in grid:
        tile_BCTHW = run_tile(rows, columns)
        height, width = tile_BCTHW.shape[3:]
        if total_BCTHW is None:
            # fp32 sums: in bf16 the blend itself would show.
            shape = (*tile_BCTHW.shape[:3], *weight_HW.shape)
            total_BCTHW = tile_BCTHW.new_zeros(shape, dtype=torch.promote_types(tile_BCTHW.dtype, torch.float32))
            weight_HW = weight_HW.to(tile_BCTHW.device)
        fade_HW = fade_weights(rows, height, overlap[0])[:, None] * fade_weights(columns, width, overlap[1])
        fade_HW = fade_HW.to(tile_BCTHW.device)
        top, left = rows.start * scale, columns.start * scale
        total_BCTHW[..., top : top + height, left : left + width] += tile_BCTHW * fade_HW
        weight_HW[top : top + height, left : left + width] += fade_HW
    assert total_BCTHW is not None
    return total_BCTHW.div_(weight_HW.clamp_min(1e-6))
