"""The second part of the start: the decoder's residual branches by least squares, one after the other.

The decoder's low level carries all 24 Haar coefficients of a block of pixels, so restoring is predicting
what each of them lacks. A branch whose first convolution is random, and whose channels are brought to
one spread before it, computes random features of a neighbourhood; the best second convolution on
top of them is a ridge regression, solved exactly from one pass over some batches (Huang et al., 2006,
"Extreme learning machine"). Each branch fits what the ones before it left. That costs two minutes
on a CPU core and gains more than the first thousand steps of gradient descent.

Shapes: B clips, C channels, T frames or latents, H height, W width, N positions, F features.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_ray.models.seedvr2.vae_blocks import ResnetBlock
from seedvr2_ray.models.seedvr2.vae_config import PLAIN
from seedvr2_ray.models.seedvr2.vae_layers import CausalConv3d
from seedvr2_ray.models.seedvr2.vae_state import SlicePass
from training.initialise import COEFFICIENTS, OPPONENT, haar_filters
from training.network import Nano, match_colours

RIDGE = 3e-4
"""Added to the diagonal, as a share of its mean."""
_FLOOR = 0.01
_NUM_COLOURS = 3
_PIXEL_SHARE = 4
_ACTIVE_COEFFICIENTS = [3, 4, 5, 8, 9, 10]
"""Luma details whose size is predicted along with them, into channels that are free: what is strong there is
structure, what is weak is noise, and the next branch can tell them apart."""
_THRESHOLD = 1.5
"""Features switch on at values up to so many spreads from the mean."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One batch on its way through the decoder."""

    stream_BCTHW: Tensor
    wanted_BCTHW: Tensor
    """What the first channels of the stream should be."""
    weights_B: Tensor
    """Clips with a small error count as much as clips with a large one."""


class NormalEquations:
    """Sums that a ridge regression needs, over any number of batches."""

    def __init__(self) -> None:
        self._gram_FF: Tensor | None = None
        self._moments_FC: Tensor | None = None

    def add(self, features_NF: Tensor, wanted_NC: Tensor) -> None:
        """Take in weighted rows; a column of the weights' roots is expected to stand in for ones."""
        gram, moments = features_NF.T @ features_NF, features_NF.T @ wanted_NC
        self._gram_FF = gram.double() if self._gram_FF is None else self._gram_FF + gram
        self._moments_FC = moments.double() if self._moments_FC is None else self._moments_FC + moments

    def solve(self) -> Tensor:
        """Return the coefficients, [F, C]."""
        assert self._gram_FF is not None and self._moments_FC is not None, "there were no batches"
        ridge = RIDGE * self._gram_FF.diagonal().mean()
        regular = self._gram_FF + ridge * torch.eye(len(self._gram_FF), dtype=torch.float64)
        solution_FC: Tensor = torch.linalg.solve(regular, self._moments_FC)
        return solution_FC.float()


@torch.no_grad()
def fit_decoder(
    nano: Nano,
    batches: Iterable[tuple[Tensor, Tensor]],
    report: Callable[[str], None] = print,
    *,
    seed: int = 0,
) -> None:
    """Fit the decoder's input convolution and its branches, in the order in which they run.

    Args:
        batches: inputs and targets, B x 3 x T x H x W in -1..1; their streams are held in memory.
        seed: decides the random features.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = list(batches)
    decoder: Any = nano.vae.decoder
    low = [_low_sample(nano, inputs, targets) for inputs, targets in pairs]
    num_outputs = len(COEFFICIENTS) + len(_ACTIVE_COEFFICIENTS)
    fit_convolution(decoder.conv_in, low, num_outputs=num_outputs)
    low = [replace(sample, stream_BCTHW=causal(decoder.conv_in, sample.stream_BCTHW)) for sample in low]
    for block in [*decoder.mid_block.resnets, *decoder.up_blocks[0].resnets]:
        draw_features(block, low, generator)
        before = fit_branch(block, low, num_outputs)
        low = [replace(sample, stream_BCTHW=run_block(block, sample.stream_BCTHW)) for sample in low]
        report(f"{before:.3f} of the input's squared error is left before a branch of the decoder")
    # At full resolution there are eight times as many positions and fewer features: a part of the clips is enough.
    kept = slice(0, max(1, len(low) // _PIXEL_SHARE))
    pixels = [
        _pixel_sample(nano, sample, inputs, targets)
        for sample, (inputs, targets) in zip(low[kept], pairs[kept], strict=True)
    ]
    for block in decoder.up_blocks[1].resnets:
        draw_features(block, pixels, generator)
        before = fit_branch(block, pixels, _NUM_COLOURS)
        _mirror_outputs(block.conv2, _NUM_COLOURS)
        pixels = [replace(sample, stream_BCTHW=run_block(block, sample.stream_BCTHW)) for sample in pixels]
        report(f"{before:.3f} is left before a branch at full resolution")


def _low_sample(nano: Nano, inputs_BCTHW: Tensor, targets_BCTHW: Tensor) -> Sample:
    error_B = (inputs_BCTHW - targets_BCTHW).square().flatten(1).mean(dim=1)
    # The low band will be the input's, so it is not worth predicting.
    wanted = to_coefficients(match_colours(targets_BCTHW, inputs_BCTHW))
    wanted = torch.cat((wanted, wanted[:, _ACTIVE_COEFFICIENTS].abs()), dim=1)
    return Sample(nano.vae.encode(inputs_BCTHW).mode, wanted, 1 / (error_B + _FLOOR**2))


def _pixel_sample(nano: Nano, sample: Sample, inputs_BCTHW: Tensor, targets_BCTHW: Tensor) -> Sample:
    decoder: Any = nano.vae.decoder
    upsampled = decoder.up_blocks[0].upsamplers[0](sample.stream_BCTHW, SlicePass.whole_clip(PLAIN))
    return Sample(upsampled, match_colours(targets_BCTHW, inputs_BCTHW), sample.weights_B)


def to_coefficients(clip_BCTHW: Tensor) -> Tensor:
    """Return the Haar coefficients of every latent; the first stands for the first frame twice."""
    doubled = torch.cat((clip_BCTHW[:, :, :1], clip_BCTHW), dim=2)
    return F.conv3d(torch.einsum("oc,bcthw->bothw", OPPONENT, doubled), haar_filters(), stride=2)


def causal(conv: CausalConv3d, x_BCTHW: Tensor) -> Tensor:
    """Convolve a whole clip."""
    return conv.convolve(_extend(x_BCTHW))


def _extend(x_BCTHW: Tensor) -> Tensor:
    return torch.cat((x_BCTHW[:, :, :1].expand(-1, -1, 2, -1, -1), x_BCTHW), dim=2)


def hidden_features(block: ResnetBlock, x_BCTHW: Tensor) -> Tensor:
    """Return what a block's second convolution reads."""
    return F.silu(block.norm2(causal(block.conv1, F.silu(block.norm1(x_BCTHW)))))


def run_block(block: ResnetBlock, x_BCTHW: Tensor) -> Tensor:
    """Run a block over a whole clip."""
    shortcut = block.conv_shortcut.convolve(x_BCTHW) if block.has_shortcut else x_BCTHW
    return causal(block.conv2, hidden_features(block, x_BCTHW)) + shortcut


def neighbourhoods(x_BCTHW: Tensor) -> Tensor:
    """Return what a causal 3 x 3 x 3 convolution reads at every position, [B, N, 27 C]."""
    extended = F.pad(_extend(x_BCTHW), (1, 1, 1, 1))
    windows = extended.unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    return windows.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(1, 3)


def _add_rows(equations: NormalEquations, features_BCTHW: Tensor, missing_BCTHW: Tensor, weights_B: Tensor) -> None:
    rows_BNF = neighbourhoods(features_BCTHW)
    root_B = (weights_B / missing_BCTHW[0, 0].numel()).sqrt()[:, None, None]
    rows_BNF = torch.cat((rows_BNF, torch.ones_like(rows_BNF[..., :1])), dim=-1) * root_B
    wanted_BNC = missing_BCTHW.flatten(2).transpose(1, 2) * root_B
    equations.add(rows_BNF.flatten(0, 1), wanted_BNC.flatten(0, 1))


def fit_convolution(conv: CausalConv3d, samples: list[Sample], *, num_outputs: int) -> None:
    """Replace the first outputs of a convolution by the best linear prediction of what is wanted."""
    equations = NormalEquations()
    for sample in samples:
        _add_rows(equations, sample.stream_BCTHW, sample.wanted_BCTHW, sample.weights_B)
    _store(conv, equations.solve(), num_outputs)


def fit_branch(block: ResnetBlock, samples: list[Sample], num_outputs: int) -> float:
    """Make a block's second convolution add what the first channels of its stream lack.

    Returns:
        The squared error that was left before, relative to the input's.
    """
    equations, left = NormalEquations(), 0.0
    for sample in samples:
        stream = sample.stream_BCTHW
        carried = block.conv_shortcut.convolve(stream) if block.has_shortcut else stream
        missing = sample.wanted_BCTHW - carried[:, :num_outputs]
        _add_rows(equations, hidden_features(block, stream), missing, sample.weights_B)
        left += float((missing[:, : len(COEFFICIENTS)].square().flatten(1).mean(1) * sample.weights_B).mean())
    _store(block.conv2, equations.solve(), num_outputs)
    return left / len(samples)


def _store(conv: CausalConv3d, solution_FC: Tensor, num_outputs: int) -> None:
    conv.weight[:num_outputs] = solution_FC[:-1].T.reshape(num_outputs, *conv.weight.shape[1:])
    conv.bias[:num_outputs] = solution_FC[-1]


def _mirror_outputs(conv: CausalConv3d, count: int) -> None:
    """Let the negatives of the first outputs, which stand right behind them, follow."""
    conv.weight[count : 2 * count] = -conv.weight[:count]
    conv.bias[count : 2 * count] = -conv.bias[:count]


def draw_features(block: ResnetBlock, samples: list[Sample], generator: torch.Generator) -> None:
    """Make the first half of a branch a set of random features that are worth regressing on.

    The norm scales and shifts each channel so that all enter alike. Each feature looks at one to three
    channels, some only at the position itself, so that it can act on a coefficient by its size as
    wavelet shrinkage does (Donoho and Johnstone, 1994), and switches on at a threshold of its own.
    """
    totals, squares = torch.zeros(()), torch.zeros(())
    for sample in samples:
        normed = F.group_norm(sample.stream_BCTHW.transpose(1, 2).flatten(0, 1), 1, eps=block.norm1.eps)
        totals = totals + normed.mean(dim=(0, 2, 3))
        squares = squares + normed.square().mean(dim=(0, 2, 3))
    mean_C = totals / len(samples)
    spread_C = (squares / len(samples) - mean_C.square()).clamp_min(0).sqrt()
    constant = spread_C < 0.05 * mean_C.abs()
    block.norm1.weight.copy_(torch.where(constant, 0.25, 1 / spread_C.clamp_min(1e-3)))
    block.norm1.bias.copy_(torch.where(constant, 0.0, -mean_C * block.norm1.weight))
    varying = (~constant).nonzero().flatten()
    block.conv1.weight.zero_()
    for weight in block.conv1.weight:
        number = int(torch.randint(1, 4, (), generator=generator))
        for channel in varying[torch.randperm(len(varying), generator=generator)[:number]]:
            if torch.rand((), generator=generator) < 0.4:
                weight[channel, 2, 1, 1] = torch.randn((), generator=generator)
            else:
                weight[channel] = torch.randn(3, 3, 3, generator=generator)
        weight /= weight.norm()
    block.conv1.bias.zero_()
    block.norm2.weight.fill_(_THRESHOLD)
    block.norm2.bias.uniform_(-_THRESHOLD, _THRESHOLD, generator=generator)
