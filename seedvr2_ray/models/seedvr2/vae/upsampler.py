"""The causal VAE's upsampler: by its equation, and as one transposed convolution.

Shapes: B clips, C channels (I in, M between, O out), T frames, H height, W width; Z, X, Y are the
offsets in time, rows and columns of the samples that one sample becomes.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_ray.models.seedvr2.vae.bands import ConvSize, band_edges, rows_at_once
from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d
from seedvr2_ray.models.seedvr2.vae.layout import empty_frames, layout_of
from seedvr2_ray.models.seedvr2.vae.ranks.rows import RowShares
from seedvr2_ray.models.seedvr2.vae.state import SlicePass
from seedvr2_ray.models.seedvr2.vae.steps import causal_step


class Upsampler(nn.Module):
    """Doubles height and width, and time where asked, by expanding channels and smoothing the result.

    The first frame of a clip stays one frame: its second copy in time is dropped.
    """

    fused_kernel: Tensor | None
    fused_bias: Tensor | None
    image_kernel: Tensor | None
    image_bias: Tensor | None

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.time_factor = 2 if time else 1
        self.upscale_conv = CausalConv3d(channels, 4 * self.time_factor * channels, (1, 1, 1), padding="none")
        self.conv = CausalConv3d(channels, channels)
        # Derived by fuse(), never part of the checkpoint.
        for name in ("fused_kernel", "fused_bias", "image_kernel", "image_bias"):
            self.register_buffer(name, None, persistent=False)

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        if run.options.fused_upsampler:
            return self._forward_fused(x_BCTHW, run)
        starts_clip = run.load() is None

        def expand(first: int, last: int, *, at_top: bool, at_bottom: bool) -> Tensor:
            return self.expand(x_BCTHW[:, :, :, first:last], run, starts_clip=starts_clip)

        expanded_BCTHW = self._join_bands(_KnownFrames(None, x_BCTHW), opening_size(x_BCTHW), run, expand)
        return causal_step(self.conv, expanded_BCTHW, run)

    def expand(self, x_BCTHW: Tensor, run: SlicePass, *, starts_clip: bool) -> Tensor:
        """The upsampled frames before the smoothing convolution."""
        return _expanded(self.upscale_conv, x_BCTHW, run, time_factor=self.time_factor, starts_clip=starts_clip)

    def fuse(self) -> None:
        """Multiply both convolutions into one, in fp32; to be repeated when the weights change."""
        dtype = self.conv.weight.dtype
        layout = layout_of(self.conv.weight)
        wide = torch.promote_types(dtype, torch.float32)
        expansion_ZMI, smoothing_OMT = self._expansion(wide), self.conv.weight.to(wide)
        kernel, bias = compose(expansion_ZMI, smoothing_OMT, self.conv.bias.to(wide), self.time_factor)
        self.fused_kernel, self.fused_bias = kernel.to(dtype).contiguous(memory_format=layout), bias.to(dtype)
        # A clip's first frame alone: the taps in time meet copies of it, and its second copy is dropped.
        first_ZMI = torch.unflatten(expansion_ZMI, 0, (4, self.time_factor, -1))[:, 0].flatten(0, 1)
        image_OMT = smoothing_OMT.sum(2, keepdim=True)
        kernel, bias = compose(first_ZMI, image_OMT, self.conv.bias.to(wide), 1)
        self.image_kernel, self.image_bias = kernel.to(dtype).contiguous(memory_format=layout), bias.to(dtype)

    def _expansion(self, dtype: torch.dtype) -> Tensor:
        # A bias is the weight of one more input channel that is 1 everywhere inside the frame.
        weight, bias = self.upscale_conv.weight, self.upscale_conv.bias
        return torch.cat([weight[..., 0, 0, 0], bias[:, None]], dim=1).to(dtype)

    def _forward_fused(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """The fused convolution remembers low-resolution frames: one if it doubles time, else two."""
        remembered = 3 - self.time_factor
        cache = run.load()
        if cache is None and x_BCTHW.shape[2] == 1 and run.options.image_conv2d:
            run.store(x_BCTHW.expand(-1, -1, remembered, -1, -1))
            known = _KnownFrames.of(None, x_BCTHW, run.options.rows)
            return self._join_bands(known, upsampling_size(x_BCTHW, 1, 1), run, partial(self._transpose_image, known))
        if cache is None and self.time_factor == 1:
            cache = self.conv.repeat_first(x_BCTHW)
        known = _KnownFrames.of(cache, x_BCTHW, run.options.rows)
        out_BCTHW = self._upsample(known, run)
        # Last: the new memory may take the place of the old one.
        run.remember(x_BCTHW, cache, remembered)
        return out_BCTHW

    def _upsample(self, known: "_KnownFrames", run: SlicePass) -> Tensor:
        has_past = known.past_BCTHW is not None
        if self.time_factor == 1 or (has_past and run.num_seen > 1):
            return self._upsample_regular(known, slice(None), run)
        # The frames that read across the clip's beginning, where one copy was dropped, are those
        # of the first two low-resolution frames: they take the plain way.
        opening_BCTHW = self._upsample_opening(known, run, num_done=int(has_past))
        if known.num_frames <= 2:
            return opening_BCTHW
        return torch.cat([opening_BCTHW, self._upsample_regular(known, slice(1, None), run)], dim=2)

    def _upsample_opening(self, known: "_KnownFrames", run: SlicePass, *, num_done: int) -> Tensor:
        # Each band by itself: what it makes of its outermost rows is cut off, or they are the frame's.
        opening = replace(run.options, conv_elements=None, rows=None)

        def upsample(first: int, last: int, *, at_top: bool, at_bottom: bool) -> Tensor:
            x_BCTHW = known.rows(first, last, slice(2))
            expanded_BCTHW = self.expand(x_BCTHW, SlicePass.whole_clip(opening), starts_clip=True)
            return causal_step(self.conv, expanded_BCTHW, SlicePass.whole_clip(opening))[:, :, num_done:]

        return self._join_bands(known, opening_size(known.rows(0, 1, slice(2))), run, upsample)

    def _upsample_regular(self, known: "_KnownFrames", frames: slice, run: SlicePass) -> Tensor:
        def upsample(first: int, last: int, *, at_top: bool, at_bottom: bool) -> Tensor:
            return self._transpose(known.rows(first, last, frames), at_top=at_top, at_bottom=at_bottom)

        num_frames = len(range(known.num_frames)[frames])
        size = upsampling_size(known.new_BCTHW, num_frames, self.time_factor)
        return self._join_bands(known, size, run, upsample)

    def _join_bands(self, known: "_KnownFrames", size: ConvSize, run: SlicePass, upsample: "_UpsampleRows") -> Tensor:
        """Upsample rows with one more above and below, and cut off what those become."""
        height, most = known.new_BCTHW.shape[3], run.options.conv_elements
        edges = band_edges(height, height if most is None else rows_at_once(size, most))
        top, bottom = known.first_row, known.last_row
        if len(edges) == 1 and (top, bottom) == (0, height):
            return upsample(0, height, at_top=True, at_bottom=True)
        out_BCTHW: Tensor | None = None
        for start, stop in edges:
            first, last = max(start - 1, top), min(stop + 1, bottom)
            band_BCTHW = upsample(first, last, at_top=first == start, at_bottom=last == stop)
            if out_BCTHW is None:
                out_BCTHW = empty_frames(band_BCTHW, height=2 * height)
            out_BCTHW[:, :, :, 2 * start : 2 * stop] = band_BCTHW[:, :, :, 2 * (start - first) : 2 * (stop - first)]
            del band_BCTHW
        assert out_BCTHW is not None
        return out_BCTHW

    def _transpose(self, known_BCTHW: Tensor, *, at_top: bool, at_bottom: bool) -> Tensor:
        assert self.fused_kernel is not None and self.fused_bias is not None
        stride = (self.time_factor, 2, 2)
        out_BOTHW = F.conv_transpose3d(known_BCTHW, self.fused_kernel, stride=stride, padding=(2, 1, 1))
        add_bias_with_edges(out_BOTHW, self.fused_bias, at_top=at_top, at_bottom=at_bottom)
        return out_BOTHW

    def _transpose_image(
        self, known: "_KnownFrames", first: int, last: int, *, at_top: bool, at_bottom: bool
    ) -> Tensor:
        assert self.image_kernel is not None and self.image_bias is not None
        kernel_IOHW = self.image_kernel[:, :, 0]
        out_BOTHW = F.conv_transpose2d(
            known.rows(first, last, slice(None))[:, :, 0], kernel_IOHW, stride=2, padding=1
        ).unsqueeze(2)
        add_bias_with_edges(out_BOTHW, self.image_bias, at_top=at_top, at_bottom=at_bottom)
        return out_BOTHW


class _UpsampleRows(Protocol):
    """Upsamples some rows of a tensor it knows, of which the outermost may be those of the frame."""

    def __call__(self, first: int, last: int, *, at_top: bool, at_bottom: bool) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class _KnownFrames:
    """Remembered and new frames, and the rows right beyond them, joined only as far as they are asked for."""

    past_BCTHW: Tensor | None
    new_BCTHW: Tensor
    above_BCTHW: Tensor | None = None
    """A row of all these frames that another device holds; None at the top of the frame."""
    below_BCTHW: Tensor | None = None

    @classmethod
    def of(cls, past_BCTHW: Tensor | None, new_BCTHW: Tensor, rows: RowShares | None) -> Self:
        """Ask for the rows beyond these where other devices hold some."""
        known, height = cls(past_BCTHW, new_BCTHW), new_BCTHW.shape[3]
        if rows is None:
            return known
        beyond = rows.swap(known.rows(0, 1, slice(None)), known.rows(height - 1, height, slice(None)))
        return cls(past_BCTHW, new_BCTHW, *beyond)

    @property
    def num_frames(self) -> int:
        return self.new_BCTHW.shape[2] + (0 if self.past_BCTHW is None else self.past_BCTHW.shape[2])

    @property
    def first_row(self) -> int:
        """The row beyond these has the number -1."""
        return 0 if self.above_BCTHW is None else -1

    @property
    def last_row(self) -> int:
        """One more than the number of the last row that is known."""
        return self.new_BCTHW.shape[3] + (0 if self.below_BCTHW is None else 1)

    def rows(self, first: int, last: int, frames: slice) -> Tensor:
        """Rows ``first`` to ``last`` of some frames."""
        height = self.new_BCTHW.shape[3]
        parts = [self._own_rows(slice(max(first, 0), min(last, height)), frames)]
        if first < 0:
            assert self.above_BCTHW is not None
            parts.insert(0, self.above_BCTHW[:, :, frames])
        if last > height:
            assert self.below_BCTHW is not None
            parts.append(self.below_BCTHW[:, :, frames])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)

    def _own_rows(self, rows: slice, frames: slice) -> Tensor:
        new_BCTHW = self.new_BCTHW[:, :, :, rows]
        if self.past_BCTHW is None:
            return new_BCTHW[:, :, frames]
        past = self.past_BCTHW.shape[2]
        wanted = range(self.num_frames)[frames]
        if wanted.start >= past:
            return new_BCTHW[:, :, wanted.start - past : wanted.stop - past]
        past_BCTHW = self.past_BCTHW[:, :, wanted.start :, rows]
        return torch.cat([past_BCTHW, new_BCTHW[:, :, : wanted.stop - past]], dim=2)


def upsampling_size(x_BCTHW: Tensor, num_frames: int, time_factor: int) -> ConvSize:
    """Describe the fused convolution of so many frames, remembered ones included."""
    row = x_BCTHW.shape[1] * num_frames * x_BCTHW.shape[4]
    return ConvSize(row_in=row, row_out=2 * time_factor * row, above=1, below=1, stride=1, growth=2)


def opening_size(x_BCTHW: Tensor) -> ConvSize:
    """Describe the plain way of upsampling a clip's first frames; the smoothing reads the most."""
    row = x_BCTHW.shape[1] * x_BCTHW.shape[4]
    expanded = 4 * row * (2 * x_BCTHW.shape[2] + 1)
    return ConvSize(row_in=expanded, row_out=expanded, above=1, below=1, stride=1)


class LightUpsampler(nn.Module):
    """Doubles height and width, and time where asked, by expanding channels and no more; remembers nothing."""

    def __init__(self, channels: int, channels_out: int, *, time: bool) -> None:
        super().__init__()
        self.time_factor = 2 if time else 1
        self.upscale_conv = CausalConv3d(channels, 4 * self.time_factor * channels_out, (1, 1, 1), padding="none")

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        starts_clip = run.num_seen == 0
        return _expanded(self.upscale_conv, x_BCTHW, run, time_factor=self.time_factor, starts_clip=starts_clip)


def _expanded(conv: CausalConv3d, x_BCTHW: Tensor, run: SlicePass, *, time_factor: int, starts_clip: bool) -> Tensor:
    """The upsampled frames; of a clip's first one the second copy in time is dropped."""
    drops_copy = starts_clip and time_factor == 2
    if drops_copy and x_BCTHW.shape[2] == 1 and run.options.image_conv2d:
        # Do not compute what would be dropped.
        weight, bias = (_without_second_copy(p) for p in (conv.weight, conv.bias))
        return shuffle_pixels(F.conv3d(x_BCTHW, weight, bias), 1)
    upsampled_BCTHW = shuffle_pixels(conv.convolve(x_BCTHW), time_factor)
    if drops_copy:
        return torch.cat([upsampled_BCTHW[:, :, :1], upsampled_BCTHW[:, :, 2:]], dim=2)
    return upsampled_BCTHW


def _without_second_copy(expanded: Tensor) -> Tensor:
    """The rows of the expansion, of its weight or bias, that make the first of two frames."""
    return torch.unflatten(expanded, 0, (4, 2, -1))[:, 0].flatten(0, 1)


def shuffle_pixels(expanded_BCTHW: Tensor, time_factor: int) -> Tensor:
    """Spread groups of channels over rows, columns and frames: row offset slowest, channel fastest."""
    split = torch.unflatten(expanded_BCTHW, 1, (2, 2, time_factor, -1))
    if layout_of(expanded_BCTHW) is torch.channels_last_3d:
        # Channels lie innermost: copy whole runs of them and keep it so.
        batch, row, column, time, channel, frames, height, width = range(8)
        moved = split.permute(batch, frames, time, height, row, width, column, channel)
        return moved.flatten(1, 2).flatten(2, 3).flatten(3, 4).permute(0, 4, 1, 2, 3)
    return split.permute(0, 4, 5, 3, 6, 1, 7, 2).flatten(2, 3).flatten(3, 4).flatten(4, 5)


def compose(expansion_ZMI: Tensor, smoothing_OMT: Tensor, bias_O: Tensor, time_factor: int) -> tuple[Tensor, Tensor]:
    """Compose expansion, shuffle and smoothing into one transposed convolution.

    Expansion and shuffle are a transposed convolution without overlap. Smoothing its result makes
    a transposed convolution again: the flipped tap a at offset z lands on place z + a of the product.

    Args:
        expansion_ZMI: weight ``[4 * time_factor * M, I + 1]``, rows in the order of
            :func:`shuffle_pixels`, the bias as the last column.
        smoothing_OMT: weight ``[O, M, taps, 3, 3]``.
        bias_O: the smoothing convolution's.
        time_factor: frames that one frame becomes.

    Returns:
        The kernel ``[I, O, taps + time_factor - 1, 4, 4]``, and the bias of every kind of output
        sample ``[O, Z, 6, 6]``: zero padding makes the outermost rows and columns differ from the
        inner ones, which alternate.
    """
    expansion_XYZMI = torch.unflatten(expansion_ZMI, 0, (2, 2, time_factor, -1))
    flipped_OMT = smoothing_OMT.flip(2, 3, 4)
    taps = smoothing_OMT.shape[2]
    kernel_IOT = expansion_ZMI.new_zeros(expansion_ZMI.shape[1], smoothing_OMT.shape[0], taps + time_factor - 1, 4, 4)
    for x in range(2):
        for y in range(2):
            for z in range(time_factor):
                part_IOT = torch.tensordot(expansion_XYZMI[x, y, z], flipped_OMT, dims=([0], [1]))
                kernel_IOT[:, :, z : z + taps, x : x + 3, y : y + 3] += part_IOT
    # Frames as far as the kernel reaches back, and of three rows and columns, show all that can
    # happen: edge, inside, edge.
    ones_CTHW = kernel_IOT.new_ones(1, (taps - 1) // time_factor + 1, 3, 3)
    stride, padding = (time_factor, 2, 2), (taps - 1, 1, 1)
    bias_OZHW = F.conv_transpose3d(ones_CTHW[None], kernel_IOT[-1:], stride=stride, padding=padding)[0]
    return kernel_IOT[:-1], bias_OZHW + bias_O[:, None, None, None]


def add_bias_with_edges(out_BOTHW: Tensor, bias_OZHW: Tensor, *, at_top: bool, at_bottom: bool) -> None:
    """Add :func:`compose`'s bias in place to whole frames, or to some rows of them.

    Inner samples repeat every two rows and columns, so that no map of a frame's size is needed.
    """
    frames_BOTZHW = torch.unflatten(out_BOTHW, 2, (-1, bias_OZHW.shape[1]))
    height, width = out_BOTHW.shape[3:]
    pairs = torch.unflatten(torch.unflatten(frames_BOTZHW, 5, (-1, 2)), 4, (-1, 2))
    pairs.add_(bias_OZHW[:, None, :, None, 2:4, None, 2:4])
    columns = torch.arange(width, device=out_BOTHW.device) % 2 + 2
    edged_columns = columns.clone()
    edged_columns[0], edged_columns[-1] = 0, 5
    for is_edge, row, kind, inner_kind in ((at_top, 0, 0, 2), (at_bottom, -1, 5, 3)):
        if is_edge:
            change_OZW = bias_OZHW[:, :, kind, edged_columns] - bias_OZHW[:, :, inner_kind, columns]
            frames_BOTZHW[..., row, :].add_(change_OZW[:, None])
    inner = slice(int(at_top), height - int(at_bottom))
    rows = torch.arange(height, device=out_BOTHW.device)[inner] % 2 + 2
    for column, kind, inner_kind in ((0, 0, 2), (-1, 5, 3)):
        change_OZH = bias_OZHW[:, :, rows, kind] - bias_OZHW[:, :, rows, inner_kind]
        frames_BOTZHW[..., inner, column].add_(change_OZH[:, None])
