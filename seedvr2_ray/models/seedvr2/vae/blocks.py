"""The blocks of the causal video VAE, by their equations.

Shapes: B clips, C channels, T frames, H height, W width, N positions of a frame.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_ray.models.seedvr2.vae.bands import banded_step
from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d, FrameNorm
from seedvr2_ray.models.seedvr2.vae.state import SlicePass
from seedvr2_ray.models.seedvr2.vae.steps import causal_step


class ResnetBlock(nn.Module):
    """Two convolutions, each behind norm and SiLU, added to the input."""

    def __init__(
        self, channels_in: int, channels_out: int, groups: int, eps: float, *, taps: tuple[int, int] = (3, 3)
    ) -> None:
        """Build a block whose convolutions see so many frames each."""
        super().__init__()
        self.norm1 = FrameNorm(channels_in, groups, eps)
        self.conv1 = CausalConv3d(channels_in, channels_out, (taps[0], 3, 3))
        self.norm2 = FrameNorm(channels_out, groups, eps)
        self.conv2 = CausalConv3d(channels_out, channels_out, (taps[1], 3, 3))
        self.has_shortcut = channels_in != channels_out
        if self.has_shortcut:
            self.conv_shortcut = CausalConv3d(channels_in, channels_out, (1, 1, 1), padding="none")

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        if run.options.conv_elements is not None:
            return self._forward_in_bands(x_BCTHW, run)
        hidden_BCTHW = causal_step(self.conv1, x_BCTHW, run, self.norm1)
        hidden_BCTHW = causal_step(self.conv2, hidden_BCTHW, run, self.norm2)
        # In place: a convolution's output is its own, and its gradient does not need it.
        return hidden_BCTHW.add_(self.conv_shortcut.convolve(x_BCTHW) if self.has_shortcut else x_BCTHW)

    def _forward_in_bands(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """Write over the input where it has as many channels as the output: it is the layer's before, read no more."""

        def shortcut(rows: slice) -> Tensor:
            band_BCTHW = x_BCTHW[:, :, :, rows]
            return self.conv_shortcut.convolve(band_BCTHW) if self.has_shortcut else band_BCTHW

        hidden_BCTHW = banded_step(self.conv1, x_BCTHW, run, self.norm1)
        out_BCTHW = hidden_BCTHW if self.has_shortcut else x_BCTHW
        return banded_step(self.conv2, hidden_BCTHW, run, self.norm2, out=out_BCTHW, residual=shortcut)


class FrameAttention(nn.Module):
    """One attention head over all positions of each frame; frames do not mix."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = FrameNorm(channels, groups, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        # The checkpoint calls the projection to_out.0: a list that once had a dropout behind it.
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        batch, channels, frames, height, width = x_BCTHW.shape
        tokens_BTHWC = self.group_norm.forward(x_BCTHW, run.options.rows).permute(0, 2, 3, 4, 1)
        tokens_BTNC = tokens_BTHWC.reshape(batch, frames, height * width, channels)
        k_BTNC, v_BTNC = self.to_k(tokens_BTNC), self.to_v(tokens_BTNC)
        if run.options.rows is not None:
            k_BTNC, v_BTNC = run.options.rows.gather_positions(k_BTNC, v_BTNC)
        attended_BTNC = attend(self.to_q(tokens_BTNC), k_BTNC, v_BTNC, run.options.attention_scores)
        out_BTHWC = torch.unflatten(self.to_out[0](attended_BTNC), 2, (height, width))
        return x_BCTHW + out_BTHWC.permute(0, 4, 1, 2, 3)


def attend(q_BTNC: Tensor, k_BTNC: Tensor, v_BTNC: Tensor, most_scores: int | None) -> Tensor:
    """Softmax attention within each frame, a block of queries at a time where scores are limited.

    Heads of 512 channels are beyond the flash kernels. Where the fallback holds all N x N scores,
    a block of rows bounds them; every row is still normalised over all of its keys.
    """
    if most_scores is None:
        return F.scaled_dot_product_attention(q_BTNC, k_BTNC, v_BTNC)
    rows = max(1, most_scores // k_BTNC.shape[2])
    out_BTNC = torch.empty_like(q_BTNC)
    for clip in range(q_BTNC.shape[0]):
        for frame in range(q_BTNC.shape[1]):
            # Kept four-dimensional: with fewer dimensions no kernel but the fallback is considered.
            place = (slice(clip, clip + 1), slice(frame, frame + 1))
            for start in range(0, q_BTNC.shape[2], rows):
                block = (*place, slice(start, start + rows))
                out_BTNC[block] = F.scaled_dot_product_attention(q_BTNC[block], k_BTNC[place], v_BTNC[place])
    return out_BTNC


class MidBlock(nn.Module):
    """The lowest level: a residual block before and after the attention, where there are any."""

    def __init__(
        self,
        channels: int,
        groups: int,
        eps: float,
        *,
        attention: bool,
        num_resnets: int = 2,
        taps: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__()
        resnets = [ResnetBlock(channels, channels, groups, eps, taps=taps) for _ in range(num_resnets)]
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList([FrameAttention(channels, groups, eps)] if attention else [])

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        for layer in self.layers():
            x_BCTHW = layer(x_BCTHW, run)
        return x_BCTHW

    def layers(self) -> list[nn.Module]:
        """The parts in order."""
        return [*self.resnets[:1], *self.attentions, *self.resnets[1:]]


class Downsampler(nn.Module):
    """Halves height and width, and time where asked."""

    def __init__(self, channels: int, channels_out: int | None = None, *, time: bool) -> None:
        super().__init__()
        kernel, stride = ((3, 3, 3), (2, 2, 2)) if time else ((1, 3, 3), (1, 2, 2))
        self.conv = CausalConv3d(channels, channels_out or channels, kernel, stride, padding="end")

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        return causal_step(self.conv, x_BCTHW, run)
