"""The step that the causal VAE repeats: norm, SiLU, convolution.

Shapes: B clips, C channels, T frames, H height, W width.

A convolution sees the frames of its slice and before them its head: the frames remembered from the slice before, or
copies of the first one where the clip begins. Head and frames are convolved whole or in bands of rows;
either leaves the same cache, so that one may follow the other within a clip.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_ray.models.seedvr2.vae.bands import banded_step, write_affine_silu
from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d, FrameNorm
from seedvr2_ray.models.seedvr2.vae.layout import empty_frames
from seedvr2_ray.models.seedvr2.vae.ranks.rows import RowShares
from seedvr2_ray.models.seedvr2.vae.state import SlicePass


def causal_step(
    conv: CausalConv3d, x_BCTHW: Tensor, run: SlicePass, norm: FrameNorm | None = None, *, fp32: bool = False
) -> Tensor:
    """Norm and SiLU, where there is a norm, then a causal convolution.

    Args:
        fp32: compute the convolution in fp32, and return that, whatever the input's type.
    """
    if run.options.conv_elements is not None:
        return banded_step(conv, x_BCTHW, run, norm, fp32=fp32)
    rows = run.options.rows
    if run.options.image_conv2d and x_BCTHW.shape[2] == 1 and run.load() is None:
        # All of the head is this frame: the taps in time may be summed up before.
        own_BCTHW = _activated(x_BCTHW, norm, rows)
        if conv.num_remembered > 0:
            run.store(own_BCTHW.expand(-1, -1, conv.num_remembered, -1, -1))
        if rows is not None:
            own_BCTHW = rows.extend(own_BCTHW, *conv.reach)
        return conv.convolve_image(own_BCTHW[:, :, 0], rows_given=rows is not None, fp32=fp32).unsqueeze(2)
    extended_BCTHW = _extended(conv, x_BCTHW, run, norm)
    if rows is not None:
        extended_BCTHW = rows.extend(extended_BCTHW, *conv.reach)
    return conv.convolve(extended_BCTHW, rows_given=rows is not None, fp32=fp32)


def _extended(conv: CausalConv3d, x_BCTHW: Tensor, run: SlicePass, norm: FrameNorm | None) -> Tensor:
    """The head, and behind it the frames, normed and activated where there is a norm; the cache is left behind."""
    if conv.num_remembered == 0:
        return _activated(x_BCTHW, norm, run.options.rows)
    cache = run.load()
    if norm is not None and run.options.direct_norm:
        # Written right behind the head: no concatenation, no copy of the input.
        length = conv.head_length(cache)
        extended_BCTHW = empty_frames(x_BCTHW, frames=length + x_BCTHW.shape[2])
        own_BCTHW = extended_BCTHW[:, :, length:]
        _write_normed(norm, x_BCTHW, own_BCTHW, run.options.rows)
        extended_BCTHW[:, :, :length] = conv.head(cache, own_BCTHW)
    else:
        own_BCTHW = _activated(x_BCTHW, norm, run.options.rows)
        extended_BCTHW = torch.cat([conv.head(cache, own_BCTHW), own_BCTHW], dim=2)
    run.store(extended_BCTHW[:, :, -conv.num_remembered :])
    return extended_BCTHW


def _activated(x_BCTHW: Tensor, norm: FrameNorm | None, rows: RowShares | None) -> Tensor:
    if norm is None:
        return x_BCTHW
    return F.silu(norm.forward(x_BCTHW, rows), inplace=not torch.is_grad_enabled())


def _write_normed(norm: FrameNorm, x_BCTHW: Tensor, out_BCTHW: Tensor, rows: RowShares | None) -> None:
    if rows is None and x_BCTHW.is_cpu:
        torch.ops.aten.silu.out(norm.forward(x_BCTHW), out=out_BCTHW)
    else:
        write_affine_silu(x_BCTHW, *norm.affine(x_BCTHW, rows), out_BCTHW)
