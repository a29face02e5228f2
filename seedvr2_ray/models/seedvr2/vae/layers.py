"""The two primitives of the causal video VAE: convolution and norm.

Shapes: B clips, C channels, G groups of channels, T frames, H height, W width.

Nothing here looks into the future, and statistics never cross frames. So a clip may be cut into
slices anywhere, if every convolution is given the last input frames of the slice before.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_ray.models.seedvr2.vae.layout import layout_of
from seedvr2_ray.models.seedvr2.vae.ranks.rows import RowShares

FP32_ROWS = 256
"""Rows per step where the last convolution runs in fp32: its input is twice as large there."""


class CausalConv3d(nn.Module):
    """A 3-D convolution whose last temporal tap meets the current frame; applied by ``causal_step``.

    Time is padded with the frames before the slice, or with copies of the clip's first frame,
    never with zeros. Height and width are padded with zeros on ``both`` sides, at the ``end`` only
    (below and to the right), or on ``none``.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        *,
        padding: Literal["both", "end", "none"] = "both",
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *kernel))
        self.bias = nn.Parameter(torch.empty(channels_out))
        self.stride = stride
        self.padding = padding
        self.num_remembered = kernel[0] - stride[0] if kernel[0] > 1 else 0
        """Input frames that the next slice must be given."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights of a size that keeps the variance of what passes through."""
        bound = math.sqrt(3 / self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        channels_out, channels_in, *kernel = self.weight.shape
        return f"{channels_in}, {channels_out}, kernel={tuple(kernel)}, stride={self.stride}, padding={self.padding}"

    def head(self, cache_BCTHW: Tensor | None, own_BCTHW: Tensor) -> Tensor:
        """The frames that stand before a slice's own: what was remembered, or copies where the clip begins."""
        return self.repeat_first(own_BCTHW) if cache_BCTHW is None else cache_BCTHW

    def head_length(self, cache_BCTHW: Tensor | None) -> int:
        """How many frames :meth:`head` has."""
        return self.weight.shape[2] - 1 if cache_BCTHW is None else self.num_remembered

    def repeat_first(self, x_BCTHW: Tensor) -> Tensor:
        """What stands before the first frame of a clip: copies of it, one less than temporal taps."""
        copies_BCTHW = x_BCTHW[:, :, :1].expand(-1, -1, self.weight.shape[2] - 1, -1, -1)
        return copies_BCTHW.contiguous(memory_format=layout_of(x_BCTHW))

    def convolve(self, extended_BCTHW: Tensor, *, rows_given: bool = False, fp32: bool = False) -> Tensor:
        """Convolve frames that already begin with those the kernel reaches back to.

        Args:
            rows_given: the rows beyond the upper and lower edge are there, too.
            fp32: compute and return fp32 whatever the input's type.
        """
        pad_rows, pad_columns = 0 if rows_given or self.padding != "both" else 1, int(self.padding == "both")
        if self.padding == "end":
            extended_BCTHW = F.pad(extended_BCTHW, (0, 1, 0, 0 if rows_given else 1))
        if fp32 and extended_BCTHW.dtype in (torch.bfloat16, torch.float16):
            return self._convolve_in_fp32(F.pad(extended_BCTHW, (0, 0, pad_rows, pad_rows)), pad_columns)
        if self.is_framewise:
            # Frames that do not see each other are a batch of pictures, for which kernels are faster.
            frames_NCHW = F.conv2d(as_frames(extended_BCTHW), self.weight[:, :, 0], self.bias, padding=(pad_rows, 1))
            return from_frames(frames_NCHW, extended_BCTHW.shape[2])
        return F.conv3d(extended_BCTHW, self.weight, self.bias, self.stride, (0, pad_rows, pad_columns))

    @property
    def reach(self) -> tuple[int, int]:
        """Rows above and below a position that the kernel reads, apart from those that a stride steps over."""
        return {"both": (1, 1), "end": (0, 1), "none": (0, 0)}[self.padding]

    @property
    def is_framewise(self) -> bool:
        """Whether frames are convolved by themselves, and keep their size."""
        return self.weight.shape[2] == 1 and self.padding == "both" and self.stride == (1, 1, 1)

    def _convolve_in_fp32(self, extended_BCTHW: Tensor, pad_columns: int) -> Tensor:
        # A frame and some rows at a time, so that the fp32 copies stay small.
        weight, bias, taps = self.weight.float(), self.bias.float(), self.weight.shape[2]
        frames = []
        for t in range(extended_BCTHW.shape[2] - taps + 1):
            bands = [
                F.conv3d(
                    extended_BCTHW[:, :, t : t + taps, row : row + FP32_ROWS + 2].float(),
                    weight,
                    bias,
                    padding=(0, 0, pad_columns),
                )
                for row in range(0, extended_BCTHW.shape[3] - 2, FP32_ROWS)
            ]
            frames.append(torch.cat(bands, dim=3))
        return torch.cat(frames, dim=2)

    def convolve_image(self, frame_BCHW: Tensor, *, rows_given: bool = False, fp32: bool = False) -> Tensor:
        """Convolve a clip's first frame: all temporal taps meet copies of it, so their sum does the same.

        ``rows_given`` says that the rows beyond the upper and lower edge are there, too.
        """
        weight = self.weight.sum(2, dtype=torch.promote_types(self.weight.dtype, torch.float32))
        dtype = torch.float32 if fp32 and frame_BCHW.dtype != torch.float64 else frame_BCHW.dtype
        pad_both = int(self.padding == "both")
        if self.padding == "end":
            frame_BCHW = F.pad(frame_BCHW, (0, 1, 0, 0 if rows_given else 1))
        if frame_BCHW.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)
        padding = (0 if rows_given else pad_both, pad_both)
        return F.conv2d(frame_BCHW.to(dtype), weight.to(dtype), self.bias.to(dtype), self.stride[1:], padding)


class FrameNorm(nn.Module):
    """Group norm with statistics of each frame by itself, which is what makes slicing exact."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = groups
        self.eps = eps

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, groups={self.groups}, eps={self.eps}"

    def forward(self, x_BCTHW: Tensor, rows: RowShares | None = None) -> Tensor:
        if rows is not None or not x_BCTHW.is_cpu:
            scale_BCT11, shift_BCT11 = self.affine(x_BCTHW, rows)
            return torch.addcmul(shift_BCT11, x_BCTHW, scale_BCT11).to(x_BCTHW.dtype)
        # The CPU's own kernel keeps fp32 statistics if its factors are fp32, reads either layout,
        # and is several times faster. CUDA's would copy to another layout and round the statistics.
        factor_dtype = torch.promote_types(x_BCTHW.dtype, torch.float32)
        weight, bias = self.weight.to(factor_dtype), self.bias.to(factor_dtype)
        normed_NCHW = F.group_norm(as_frames(x_BCTHW), self.groups, weight, bias, self.eps)
        return from_frames(normed_NCHW, x_BCTHW.shape[2])

    def affine(self, x_BCTHW: Tensor, rows: RowShares | None = None) -> tuple[Tensor, Tensor]:
        """Statistics and learned factors as one multiplication and one addition per channel and frame.

        Args:
            rows: which of a frame's these are; None where they are all.
        """
        mean_BGT, var_BGT = frame_statistics(x_BCTHW, self.groups)
        if rows is not None:
            mean_BGT, var_BGT = rows.merge(mean_BGT, var_BGT)
        rstd_BGT = torch.rsqrt(var_BGT + self.eps)
        weight_GC = self.weight.to(rstd_BGT.dtype).view(self.groups, -1)
        bias_GC = self.bias.to(rstd_BGT.dtype).view(self.groups, -1)
        scale_BGCT = rstd_BGT[:, :, None] * weight_GC[:, :, None]
        shift_BGCT = bias_GC[:, :, None] - mean_BGT[:, :, None] * scale_BGCT
        return scale_BGCT.flatten(1, 2)[..., None, None], shift_BGCT.flatten(1, 2)[..., None, None]


def as_frames(x_BCTHW: Tensor) -> Tensor:
    """The frames of all clips, one after the other, [B T, C, H, W]; shares memory where the layout allows it."""
    # Joining dimensions of length one would leave strides that no kernel takes for a known layout.
    if x_BCTHW.shape[2] == 1:
        return x_BCTHW[:, :, 0]
    if x_BCTHW.shape[0] == 1:
        return x_BCTHW[0].transpose(0, 1)
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def from_frames(frames_NCHW: Tensor, num_frames: int) -> Tensor:
    """The opposite of :func:`as_frames`, for clips of so many frames."""
    return torch.unflatten(frames_NCHW, 0, (-1, num_frames)).transpose(1, 2)


def frame_statistics(x_BCTHW: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each clip, group and frame ``[B, G, T]``, in fp32 or better."""
    grouped_BGCTHW = torch.unflatten(x_BCTHW, 1, (groups, -1))
    if x_BCTHW.dtype in (torch.float32, torch.float64):
        var_BGT, mean_BGT = torch.var_mean(grouped_BGCTHW, dim=(2, 4, 5), correction=0)
        return mean_BGT, var_BGT
    # var_mean would round its results to the half-precision type. The sum of squares loses digits
    # only where |mean| exceeds the spread by more than such a type resolves anyway.
    mean_BGT = grouped_BGCTHW.mean(dim=(2, 4, 5), dtype=torch.float32)
    norm_BGT = torch.linalg.vector_norm(grouped_BGCTHW, dim=(2, 4, 5), dtype=torch.float32)
    count = grouped_BGCTHW[0, 0, :, 0].numel()
    return mean_BGT, (norm_BGT.square() / count - mean_BGT.square()).clamp_min(0)
