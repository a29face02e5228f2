"""The causal VAE's upsampler: by its equation, and as one transposed convolution.

Shapes: B clips, C channels (I in, M between, O out), T frames, H height, W width; Z, X, Y are the
offsets in time, rows and columns of the samples that one sample becomes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d
from seedvr2_ray.models.seedvr2.vae.layout import layout_of
from seedvr2_ray.models.seedvr2.vae.state import SlicePass
from seedvr2_ray.models.seedvr2.vae.steps import band_edges, causal_step


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
        self.has_idle_conv = False
        """Whether the smoothing convolution is known to change nothing and is not computed."""
        self.merged: tuple[CausalConv3d, ...] = ()
        """At most one convolution of single positions, which follows and which the expansion does as well."""
        # Derived by fuse(), never part of the checkpoint.
        for name in ("fused_kernel", "fused_bias", "image_kernel", "image_bias"):
            self.register_buffer(name, None, persistent=False)

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        if self.has_idle_conv:
            # Nothing is remembered here.
            return self._expand_merged(x_BCTHW, starts_clip=run.num_seen == 0)
        if run.options.fused_upsampler and self.fused_kernel is not None:
            return self._forward_fused(x_BCTHW, run)
        starts_clip = run.load() is None
        return causal_step(self.conv, self.expand(x_BCTHW, run, starts_clip=starts_clip), run)

    def expand(self, x_BCTHW: Tensor, run: SlicePass, *, starts_clip: bool) -> Tensor:
        """The upsampled frames before the smoothing convolution."""
        drops_copy = starts_clip and self.time_factor == 2
        if drops_copy and x_BCTHW.shape[2] == 1 and run.options.image_conv2d:
            # Do not compute what would be dropped.
            weight, bias = (_without_second_copy(p) for p in (self.upscale_conv.weight, self.upscale_conv.bias))
            return shuffle_pixels(F.conv3d(x_BCTHW, weight, bias), 1)
        upsampled_BCTHW = shuffle_pixels(self.upscale_conv.convolve(x_BCTHW), self.time_factor)
        if drops_copy:
            return torch.cat([upsampled_BCTHW[:, :, :1], upsampled_BCTHW[:, :, 2:]], dim=2)
        return upsampled_BCTHW

    def _expand_merged(self, x_BCTHW: Tensor, *, starts_clip: bool) -> Tensor:
        """The upsampled frames where nothing smooths them, and at once what ``merged`` makes of them."""
        weight: Tensor = self.upscale_conv.weight[..., 0, 0, 0]
        bias: Tensor = self.upscale_conv.bias
        for conv in self.merged:
            kernel_OI = conv.weight[..., 0, 0, 0]
            parts_ZMI = torch.unflatten(weight, 0, (4 * self.time_factor, -1))
            weight = (kernel_OI @ parts_ZMI).flatten(0, 1)
            bias = (torch.unflatten(bias, 0, (4 * self.time_factor, -1)) @ kernel_OI.T + conv.bias).flatten()
        expanded_BCTHW = F.conv3d(x_BCTHW, weight[..., None, None, None], bias)
        upsampled_BCTHW = shuffle_pixels(expanded_BCTHW, self.time_factor)
        if starts_clip and self.time_factor == 2:
            return torch.cat([upsampled_BCTHW[:, :, :1], upsampled_BCTHW[:, :, 2:]], dim=2)
        return upsampled_BCTHW

    def leave_out_zeros(self) -> None:
        """Pass over the smoothing convolution from now on if it returns its input."""
        self.conv.leave_out_zeros()
        kernel_OI = self.conv.weight[:, :, -1, 1, 1]
        returns_input = torch.equal(kernel_OI, torch.eye(len(kernel_OI)).to(kernel_OI)) and not self.conv.bias.any()
        self.has_idle_conv = self.conv.is_pointwise and returns_input

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

    def unfuse(self) -> None:
        """Forget what :meth:`fuse` derived."""
        self.fused_kernel = self.fused_bias = self.image_kernel = self.image_bias = None

    def _forward_fused(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """The fused convolution remembers low-resolution frames: one if it doubles time, else two."""
        remembered = 3 - self.time_factor
        cache = run.load()
        if cache is None and x_BCTHW.shape[2] == 1 and run.options.image_conv2d:
            run.store(x_BCTHW.expand(-1, -1, remembered, -1, -1))
            return self._transpose_image(x_BCTHW)
        if cache is None and self.time_factor == 1:
            cache = self.conv.repeat_first(x_BCTHW)
        known_BCTHW = x_BCTHW if cache is None else torch.cat([cache, x_BCTHW], dim=2)
        run.store(known_BCTHW[:, :, -remembered:])
        if self.time_factor == 1 or (cache is not None and run.num_seen > 1):
            return self._upsample_regular(known_BCTHW, run)
        # The frames that read across the clip's beginning, where one copy was dropped, are those
        # of the first two low-resolution frames: they take the plain way.
        opening_BCTHW = self._upsample_opening(known_BCTHW[:, :, :2], run)
        if cache is not None:
            opening_BCTHW = opening_BCTHW[:, :, 1:]
        if known_BCTHW.shape[2] <= 2:
            return opening_BCTHW
        return torch.cat([opening_BCTHW, self._upsample_regular(known_BCTHW[:, :, 1:], run)], dim=2)

    def _upsample_opening(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        opening = SlicePass.whole_clip(run.options)
        return causal_step(self.conv, self.expand(x_BCTHW, opening, starts_clip=True), opening)

    def _upsample_regular(self, known_BCTHW: Tensor, run: SlicePass) -> Tensor:
        height = known_BCTHW.shape[3]
        edges = band_edges(height, run.options.bands)
        if len(edges) == 1:
            return self._transpose(known_BCTHW, at_top=True, at_bottom=True)
        bands = []
        for start, stop in edges:
            first, last = max(start - 1, 0), min(stop + 1, height)
            band_BCTHW = self._transpose(known_BCTHW[:, :, :, first:last], at_top=first == 0, at_bottom=last == height)
            bands.append(band_BCTHW[:, :, :, 2 * (start - first) : 2 * (stop - first)])
        return torch.cat(bands, dim=3)

    def _transpose(self, known_BCTHW: Tensor, *, at_top: bool, at_bottom: bool) -> Tensor:
        assert self.fused_kernel is not None and self.fused_bias is not None
        stride = (self.time_factor, 2, 2)
        out_BOTHW = F.conv_transpose3d(known_BCTHW, self.fused_kernel, stride=stride, padding=(2, 1, 1))
        add_bias_with_edges(out_BOTHW, self.fused_bias, at_top=at_top, at_bottom=at_bottom)
        return out_BOTHW

    def _transpose_image(self, x_BCTHW: Tensor) -> Tensor:
        assert self.image_kernel is not None and self.image_bias is not None
        kernel_IOHW = self.image_kernel[:, :, 0]
        out_BOTHW = F.conv_transpose2d(x_BCTHW[:, :, 0], kernel_IOHW, stride=2, padding=1).unsqueeze(2)
        add_bias_with_edges(out_BOTHW, self.image_bias, at_top=True, at_bottom=True)
        return out_BOTHW


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
