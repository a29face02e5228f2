"""The step that the causal VAE repeats (norm, SiLU, convolution), plain and in its exact faster forms.

Shapes: B clips, C channels, T frames, H height, W width.

Each form leaves the same cache, so that one may follow another within a clip.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d, FrameNorm, as_frames, from_frames
from seedvr2_ray.models.seedvr2.vae.layout import layout_of
from seedvr2_ray.models.seedvr2.vae.state import SlicePass


def causal_step(conv: CausalConv3d, x_BCTHW: Tensor, run: SlicePass, norm: FrameNorm | None = None) -> Tensor:
    """Norm and SiLU, where there is a norm, then a causal convolution, in the form the pass asks for."""
    if conv.is_framewise and run.options.bands == 1 and not conv.fp32_output:
        return _framewise_step(conv, x_BCTHW, norm)
    if run.options.image_conv2d and x_BCTHW.shape[2] == 1 and run.load() is None:
        return _image_step(conv, x_BCTHW, run, norm)
    if run.options.bands > 1:
        return _banded_step(conv, x_BCTHW, run, norm)
    if norm is None:
        return conv.forward(x_BCTHW, run)
    if run.options.direct_norm:
        return _direct_step(conv, x_BCTHW, run, norm)
    return conv.forward(_silu(norm.forward(x_BCTHW)), run)


def _silu(fresh: Tensor) -> Tensor:
    return F.silu(fresh, inplace=not torch.is_grad_enabled())


def _framewise_step(conv: CausalConv3d, x_BCTHW: Tensor, norm: FrameNorm | None) -> Tensor:
    """Frames that do not see each other, as a batch of pictures: nothing before them to remember or to join."""
    if norm is not None:
        x_BCTHW = _silu(norm.forward(x_BCTHW))
    return from_frames(conv.convolve_frames(as_frames(x_BCTHW)), x_BCTHW.shape[2])


def _image_step(conv: CausalConv3d, x_BCTHW: Tensor, run: SlicePass, norm: FrameNorm | None) -> Tensor:
    """The first frame of a clip, if it comes alone: a 2-D convolution and a third of the work."""
    if norm is not None:
        x_BCTHW = _silu(norm.forward(x_BCTHW))
    if conv.num_remembered > 0:
        run.store(x_BCTHW.expand(-1, -1, conv.num_remembered, -1, -1))
    return conv.convolve_image(x_BCTHW[:, :, 0]).unsqueeze(2)


def _direct_step(conv: CausalConv3d, x_BCTHW: Tensor, run: SlicePass, norm: FrameNorm) -> Tensor:
    """Write norm and activation right behind the cached frames: no concatenation, no copy of the input."""
    head = conv.weight.shape[2] - 1 if run.load() is None else conv.num_remembered
    extended_BCTHW = _empty_like(x_BCTHW, x_BCTHW.shape[1], head + x_BCTHW.shape[2], x_BCTHW.shape[3])
    _write_normed(norm, x_BCTHW, extended_BCTHW[:, :, head:])
    cache = run.load()
    extended_BCTHW[:, :, :head] = conv.repeat_first(extended_BCTHW[:, :, head:]) if cache is None else cache
    run.store(extended_BCTHW[:, :, -conv.num_remembered :])
    return conv.convolve(extended_BCTHW)


def _write_normed(norm: FrameNorm, x_BCTHW: Tensor, out_BCTHW: Tensor) -> None:
    if x_BCTHW.is_cpu:
        torch.ops.aten.silu.out(norm.forward(x_BCTHW), out=out_BCTHW)
    else:
        write_affine_silu(x_BCTHW, *norm.affine(x_BCTHW), out_BCTHW)


def write_affine_silu(x_BCTHW: Tensor, scale_BCT11: Tensor, shift_BCT11: Tensor, out_BCTHW: Tensor) -> None:
    """``silu(x * scale + shift)`` into memory that is there already; it may be of a smaller type than the factors."""
    torch.addcmul(shift_BCT11, x_BCTHW, scale_BCT11, out=out_BCTHW)
    F.silu(out_BCTHW, inplace=True)


def _banded_step(conv: CausalConv3d, x_BCTHW: Tensor, run: SlicePass, norm: FrameNorm | None) -> Tensor:
    """Norm, activate and convolve some rows at a time, with the rows beyond the cut that the kernel reads.

    Statistics are those of whole frames, so the cut does not show; only one band of activated
    frames exists at a time.
    """
    stride = conv.stride[1]
    above, below = {"both": (1, 1), "end": (0, 1), "none": (0, 0)}[conv.padding]
    factors = None if norm is None else norm.affine(x_BCTHW)
    cache = run.load() if conv.num_remembered else None
    target = run.claim(x_BCTHW, conv.num_remembered) if conv.num_remembered else None
    out_BCTHW: Tensor | None = None
    # Rows of the cache that the next band still needs from above, before this one writes over them.
    above_head: Tensor | None = None
    for start, stop in band_edges(x_BCTHW.shape[3], run.options.bands, stride):
        band_BCTHW, head = _fill_band(conv, x_BCTHW, factors, cache, (start - above, stop + below))
        if above_head is not None and head:
            band_BCTHW[:, :, :head, :above] = above_head
        above_head = band_BCTHW[:, :, :head, stop - start : stop - start + above].clone()
        if target is not None:
            own_BCTHW = band_BCTHW[:, :, -conv.num_remembered :, above : above + stop - start]
            target[:, :, :, start:stop] = own_BCTHW
        piece_BCTHW = conv.convolve(band_BCTHW, rows_given=True)
        if out_BCTHW is None:
            channels, frames = piece_BCTHW.shape[1:3]
            height, dtype = x_BCTHW.shape[3] // stride, piece_BCTHW.dtype
            out_BCTHW = _empty_like(x_BCTHW, channels, frames, height, stride=stride, dtype=dtype)
        out_BCTHW[:, :, :, start // stride : stop // stride] = piece_BCTHW
    assert out_BCTHW is not None
    return out_BCTHW


def _fill_band(
    conv: CausalConv3d,
    x_BCTHW: Tensor,
    factors: tuple[Tensor, Tensor] | None,
    cache: Tensor | None,
    rows: tuple[int, int],
) -> tuple[Tensor, int]:
    """One band of the convolution's input, head frames included, and how many those are."""
    height = x_BCTHW.shape[3]
    first, last = max(rows[0], 0), min(rows[1], height)
    head = conv.weight.shape[2] - 1 if cache is None else conv.num_remembered
    band_BCTHW = _empty_like(x_BCTHW, x_BCTHW.shape[1], head + x_BCTHW.shape[2], rows[1] - rows[0])
    band_BCTHW[:, :, :, : first - rows[0]] = 0
    band_BCTHW[:, :, :, last - rows[0] :] = 0
    inside_BCTHW = band_BCTHW[:, :, :, first - rows[0] : last - rows[0]]
    if factors is None:
        inside_BCTHW[:, :, head:] = x_BCTHW[:, :, :, first:last]
    else:
        write_affine_silu(x_BCTHW[:, :, :, first:last], *factors, inside_BCTHW[:, :, head:])
    if head:
        before = conv.repeat_first(inside_BCTHW[:, :, head:]) if cache is None else cache[:, :, :, first:last]
        inside_BCTHW[:, :, :head] = before
    return band_BCTHW, head


def band_edges(height: int, bands: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Cut rows into at most ``bands`` runs of nearly equal height, each a multiple of some rows."""
    units = height // multiple
    bands = min(bands, units)
    edges = [units * band // bands * multiple for band in range(bands)] + [height]
    return list(pairwise(edges))


def _empty_like(
    x_BCTHW: Tensor, channels: int, frames: int, height: int, *, stride: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    shape = (x_BCTHW.shape[0], channels, frames, height, x_BCTHW.shape[4] // stride)
    layout = layout_of(x_BCTHW)
    return torch.empty(shape, dtype=dtype or x_BCTHW.dtype, device=x_BCTHW.device, memory_format=layout)
