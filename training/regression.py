"""The second part of the start: the best linear restoration, by least squares.

The decoder's first convolution sees a neighbourhood of latents and can hand on all 24 Haar coefficients of a block
of pixels. Which weights do that best is a ridge regression, solved exactly from one pass over some batches.
It costs seconds, and gradient descent is left with what is not linear.

Shapes: B clips, C channels, T frames or latents, H height, W width, N positions, F features.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.initialise import COEFFICIENTS, LATENT_GAINS, OPPONENT, haar_filters
from training.network import Nano, match_colours

RIDGE = 1e-4
"""Added to the diagonal, as a share of its mean."""
_FLOOR = 0.01


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
def fit_linear_restoration(nano: Nano, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Make the decoder's first convolution predict the coefficients of the clean clip from the input's latents.

    Args:
        batches: inputs and targets, B x 3 x T x H x W in -1..1.
    """
    conv: Any = nano.vae.decoder.conv_in
    equations, count = NormalEquations(), len(COEFFICIENTS)
    for inputs_BCTHW, targets_BCTHW in batches:
        # Clips with a small error count as much as clips with a large one.
        error_B = (inputs_BCTHW - targets_BCTHW).square().flatten(1).mean(dim=1)
        root_B11 = (error_B + _FLOOR**2).rsqrt()[:, None, None]
        rows_BNF = neighbourhoods(nano.vae.encode(inputs_BCTHW).mode)
        rows_BNF = torch.cat((rows_BNF, torch.ones_like(rows_BNF[..., :1])), dim=-1)
        # The low band will be the input's, so it is not worth predicting.
        wanted_BCTHW = to_coefficients(match_colours(targets_BCTHW, inputs_BCTHW))
        wanted_BNC = wanted_BCTHW.flatten(2).transpose(1, 2) * LATENT_GAINS
        equations.add((rows_BNF * root_B11).flatten(0, 1), (wanted_BNC * root_B11).flatten(0, 1))
    solution_FC = equations.solve()
    conv.weight[:count] = solution_FC[:-1].T.reshape(count, *conv.weight.shape[1:])
    conv.bias[:count] = solution_FC[-1]


def to_coefficients(clip_BCTHW: Tensor) -> Tensor:
    """Return the Haar coefficients of every latent; the first stands for the first frame twice."""
    doubled = torch.cat((clip_BCTHW[:, :, :1], clip_BCTHW), dim=2)
    return F.conv3d(torch.einsum("oc,bcthw->bothw", OPPONENT, doubled), haar_filters(), stride=2)


def neighbourhoods(x_BCTHW: Tensor) -> Tensor:
    """Return what a causal 3 x 3 x 3 convolution reads at every position of a whole clip, [B, N, 27 C]."""
    extended = torch.cat((x_BCTHW[:, :, :1].expand(-1, -1, 2, -1, -1), x_BCTHW), dim=2)
    windows = F.pad(extended, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    return windows.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(1, 3)
