"""Frames spread over ranks by rows: a rank runs the whole network on its rows and asks others only for what it must.

A convolution reads a row beyond its own from each neighbour. A norm needs the statistics of whole frames, which are
made of those of the parts. The attention in the middle needs all keys and values. Everything else stays within a
position, so that the numbers are those of whole frames up to rounding, and each rank has its share of activations and
of the state.

Ranks are given whole rows of latents, so that strides divide their rows at every level. They need not have as many.

Shapes: B clips, C channels, G groups of channels, T frames, H height, W width, N positions of a frame.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.parallel import SequenceParallel

HALO = "vae/rows"
NORM = "vae/norm"
ATTENTION = "vae/attention"


class RowShares:
    """Which rows of every frame each rank holds."""

    def __init__(self, parallel: SequenceParallel, latent_rows: Sequence[int]) -> None:
        """Describe a spread.

        Args:
            latent_rows: of each rank, from the top of the frame down.
        """
        self.parallel = parallel
        self.latent_rows = tuple(latent_rows)

    @property
    def is_first(self) -> bool:
        """Whether the top of the frame is here."""
        return self.parallel.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether the bottom of the frame is here."""
        return self.parallel.rank == self.parallel.size - 1

    def swap(self, up: Tensor | None, down: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Hand the first and the last row to the neighbours, and return theirs, above and below; None at edges."""
        return self.parallel.exchange_halo(up, down, HALO)

    def extend(self, x_BCTHW: Tensor, above: int, below: int) -> Tensor:
        """Return rows with those beyond them that a kernel reads; outside of the frame they are zero.

        Args:
            above, below: 0 or 1.
        """
        first, last = x_BCTHW[:, :, :, :1], x_BCTHW[:, :, :, -1:]
        over, under = self.swap(first if below else None, last if above else None)
        top = [torch.zeros_like(first) if over is None else over] * above
        bottom = [torch.zeros_like(last) if under is None else under] * below
        return torch.cat([*top, x_BCTHW, *bottom], dim=3) if top or bottom else x_BCTHW

    def merge(self, mean_BGT: Tensor, var_BGT: Tensor) -> tuple[Tensor, Tensor]:
        """From mean and biased variance of this rank's rows to those of whole frames (Chan, Golub and LeVeque, 1979).

        Added up in the order of ranks, so that all of them normalise with the same bits.
        """
        parts = self.parallel.all_gather(torch.stack([mean_BGT, var_BGT]), kind=NORM)
        total = sum(self.latent_rows)
        shares = [rows / total for rows in self.latent_rows]
        mean_BGT = _sum([part[0] * share for part, share in zip(parts, shares, strict=True)])
        spreads = [(part[1] + (part[0] - mean_BGT).square()) * share for part, share in zip(parts, shares, strict=True)]
        return mean_BGT, _sum(spreads)

    def gather_positions(self, k_BTNC: Tensor, v_BTNC: Tensor) -> tuple[Tensor, Tensor]:
        """From the keys and values of this rank's positions to those of whole frames."""
        width = k_BTNC.shape[2] // self.latent_rows[self.parallel.rank]
        lengths = [rows * width for rows in self.latent_rows]
        parts = self.parallel.all_gather(torch.stack([k_BTNC, v_BTNC]), lengths, dim=3, kind=ATTENTION)
        k_BTNC, v_BTNC = torch.cat(parts, dim=3)
        return k_BTNC, v_BTNC


def split_rows(latent_rows: int, num_ranks: int) -> tuple[int, ...]:
    """Deal rows of latents out as evenly as they can be.

    Raises:
        SettingsError: there are fewer rows than ranks.
    """
    require_rows(latent_rows, num_ranks)
    edges = [latent_rows * rank // num_ranks for rank in range(num_ranks + 1)]
    return tuple(stop - start for start, stop in pairwise(edges))


def require_rows(latent_rows: int, num_ranks: int) -> None:
    """Refuse a picture that has fewer rows of latents than there are ranks.

    Raises:
        SettingsError: says how many can share it.
    """
    if latent_rows < num_ranks:
        raise SettingsError(
            f"a picture of {latent_rows} rows of latents cannot be spread over {num_ranks} ranks, each of which needs "
            f"one; use at most {latent_rows} GPUs for it, or a larger size"
        )


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total
