"""Norm, activation, convolution and residual, some rows of a frame at a time: the same numbers in less memory.

Shapes: B clips, C channels, T frames, H height, W width.

Statistics are those of whole frames and every band is given the rows beyond the cut that its kernel reads, so the cut
does not show. What exists whole is what must: a block's input and what its second norm measures. A residual is added
band by band into memory that is there already.

How tall a band is follows from numbers alone, so that a plan can ask beforehand; see :func:`rows_at_once`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d, FrameNorm
from seedvr2_ray.models.seedvr2.vae.layout import empty_frames, layout_of
from seedvr2_ray.models.seedvr2.vae.state import SlicePass

MOST_ELEMENTS = 2**31 - 1
"""Of one convolution's input or output: what kernels with 32-bit indices can count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvSize:
    """What a convolution reads and writes per row of its input."""

    row_in: int
    """Elements of one row of its input, all channels and frames."""
    row_out: int
    """Elements of one row of its output."""
    above: int
    below: int
    """Rows beyond a band that its kernel reads."""
    stride: int
    """Input rows per output row."""
    growth: int = 1
    """Output rows per input row, where there are more."""


def rows_at_once(size: ConvSize, most_elements: int) -> int:
    """Return how many input rows may be convolved at once: at least those of one output row."""
    by_input = most_elements // size.row_in - size.above - size.below
    # An upsampling also makes rows of those beyond the band, which are cut off.
    by_output = most_elements // (size.row_out * size.growth) * size.stride - size.above - size.below
    return max(min(by_input, by_output) // size.stride, 1) * size.stride


def band_edges(height: int, rows: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Cut rows into runs of at most ``rows``, nearly equal in height, each a multiple of some rows."""
    units = height // multiple
    bands = max(1, -(-units // max(rows // multiple, 1)))
    edges = [units * band // bands * multiple for band in range(bands)] + [height]
    return list(pairwise(edges))


def conv_size(conv: CausalConv3d, frames_in: int, width: int) -> ConvSize:
    """Describe a convolution of frames that begin with those its kernel reaches back to."""
    channels_out, channels_in, taps = conv.weight.shape[:3]
    above, below = conv.reach
    frames_out = (frames_in - taps) // conv.stride[0] + 1
    return ConvSize(
        row_in=channels_in * frames_in * (width + 2 * above + (below - above)),
        row_out=channels_out * frames_out * (width // conv.stride[2]),
        above=above,
        below=below,
        stride=conv.stride[1],
    )


def banded_step(
    conv: CausalConv3d,
    x_BCTHW: Tensor,
    run: SlicePass,
    norm: FrameNorm | None = None,
    *,
    fp32: bool = False,
    out: Tensor | None = None,
    residual: Callable[[slice], Tensor] | None = None,
) -> Tensor:
    """Norm and SiLU, where there is a norm, then a causal convolution, one band after another.

    Args:
        fp32: compute the convolution in fp32, and return that, whatever the input's type.
        out: where the result goes if there is more than one band. It may be ``x_BCTHW`` itself, of which each band
            keeps the rows that the next one reads.
        residual: what is added to some rows of the result.
    """
    most = run.options.conv_elements
    assert most is not None
    cache = run.load() if conv.num_remembered else None
    is_image = run.options.image_conv2d and x_BCTHW.shape[2] == 1 and cache is None and conv.weight.shape[2] > 1
    head = 0 if is_image else conv.head_length(cache)
    size = conv_size(conv, max(head + x_BCTHW.shape[2], conv.weight.shape[2]), x_BCTHW.shape[4])
    edges = band_edges(x_BCTHW.shape[3], rows_at_once(size, most), size.stride)
    factors = None if norm is None else norm.affine(x_BCTHW, run.options.rows)
    beyond = _rows_beyond(conv, x_BCTHW, run, factors, cache, head)
    target = run.claim(x_BCTHW, conv.num_remembered) if conv.num_remembered else None
    carried: Tensor | None = None
    for start, stop in edges:
        rows_read = (start - size.above, stop + size.below)
        band_BCTHW = _fill(x_BCTHW, factors, cache, head, rows_read, carried, beyond)
        if target is not None:
            own_rows = slice(size.above, size.above + stop - start)
            target[:, :, :, start:stop] = band_BCTHW[:, :, -conv.num_remembered :, own_rows]
        if len(edges) > 1 and size.above + size.below:
            carried = band_BCTHW[:, :, :, stop - start :].clone()
        if is_image:
            piece_BCTHW = conv.convolve_image(band_BCTHW[:, :, 0], rows_given=True, fp32=fp32).unsqueeze(2)
        else:
            piece_BCTHW = conv.convolve(band_BCTHW, rows_given=True, fp32=fp32)
        del band_BCTHW
        rows = slice(start // size.stride, stop // size.stride)
        if residual is not None:
            piece_BCTHW.add_(residual(rows))
        if len(edges) == 1:
            return piece_BCTHW
        if out is None:
            out = empty_frames(piece_BCTHW, height=x_BCTHW.shape[3] // size.stride)
        out[:, :, :, rows] = piece_BCTHW
        del piece_BCTHW
    assert out is not None
    return out


def write_affine_silu(x_BCTHW: Tensor, scale_BCT11: Tensor, shift_BCT11: Tensor, out_BCTHW: Tensor) -> None:
    """``silu(x * scale + shift)`` into memory that is there already; it may be of a smaller type than the factors."""
    torch.addcmul(shift_BCT11, x_BCTHW, scale_BCT11, out=out_BCTHW)
    F.silu(out_BCTHW, inplace=True)


_Beyond = tuple[Tensor | None, Tensor | None]


def _rows_beyond(
    conv: CausalConv3d,
    x_BCTHW: Tensor,
    run: SlicePass,
    factors: tuple[Tensor, Tensor] | None,
    cache: Tensor | None,
    head: int,
) -> _Beyond:
    """The rows of the convolution's input above and below those that are here, where other devices hold them."""
    if run.options.rows is None:
        return None, None
    height, (above, below) = x_BCTHW.shape[3], conv.reach
    first = _fill(x_BCTHW, factors, cache, head, (0, 1)) if below else None
    last = _fill(x_BCTHW, factors, cache, head, (height - 1, height)) if above else None
    return run.options.rows.swap(first, last)


def _fill(
    x_BCTHW: Tensor,
    factors: tuple[Tensor, Tensor] | None,
    cache: Tensor | None,
    head: int,
    rows: tuple[int, int],
    carried: Tensor | None = None,
    beyond: _Beyond = (None, None),
) -> Tensor:
    """One band of the convolution's input, ``head`` frames before its own, and the rows beyond the cut.

    Args:
        rows: of those that are here, and beyond the cut; what lies outside the frame is zero.
        carried: the first of these rows as the band before had them: since then they may have been written over.
        beyond: the rows right above and below those that are here.
    """
    height = x_BCTHW.shape[3]
    first, last = max(rows[0], 0), min(rows[1], height)
    num_rows, num_carried = rows[1] - rows[0], 0 if carried is None else carried.shape[3]
    shape = (*x_BCTHW.shape[:2], head + x_BCTHW.shape[2], num_rows, x_BCTHW.shape[4])
    band_BCTHW = torch.empty(shape, dtype=x_BCTHW.dtype, device=x_BCTHW.device, memory_format=layout_of(x_BCTHW))
    over, under = beyond
    band_BCTHW[:, :, :, : first - rows[0]] = 0 if over is None else over
    band_BCTHW[:, :, :, last - rows[0] :] = 0 if under is None else under
    if carried is not None:
        band_BCTHW[:, :, :, :num_carried] = carried
        first += num_carried
    if first >= last:
        return band_BCTHW
    inside_BCTHW = band_BCTHW[:, :, :, first - rows[0] : last - rows[0]]
    if factors is None:
        inside_BCTHW[:, :, head:] = x_BCTHW[:, :, :, first:last]
    else:
        write_affine_silu(x_BCTHW[:, :, :, first:last], *factors, inside_BCTHW[:, :, head:])
    if head:
        inside_BCTHW[:, :, :head] = inside_BCTHW[:, :, head : head + 1] if cache is None else cache[:, :, :, first:last]
    return band_BCTHW
