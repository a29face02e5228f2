"""Ulysses (Jacobs et al., 2023, arXiv:2309.14509): a rank holds some tokens and attends to all with some heads.

Before attention every rank hands every other one its tokens' share of that one's heads; after it they are handed back.
Everything else is done token by token. All ranks have the same work whatever the windows, for four times the tokens on
the way.

Shapes: L tokens, N heads, E head width, X any channels.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.attention import Heads
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.packing import BandPlan, BandRanks, PackingPlan, Size, plan_packing
from seedvr2_ray.models.seedvr2.transformer.ranks.by_windows import JOINED, TEXT
from seedvr2_ray.models.seedvr2.transformer.ranks.exchange import Exchange, Whole

HEADS = "transformer/heads"


class HeadShares:
    """Heads to ranks; their number must be divisible by that of ranks."""

    def __init__(self, parallel: SequenceParallel) -> None:
        self._parallel = parallel

    def begin(
        self, config: DiTConfig, grid: Size, text_length: int, *, band_tokens: int, device: torch.device
    ) -> Exchange:
        """See :class:`~seedvr2_ray.models.seedvr2.transformer.ranks.exchange.Sharing`."""
        require_divisible_heads(config.num_heads, self._parallel.size)
        rank, size = self._parallel.rank, self._parallel.size
        plans = [
            _plan_rank(config, grid, text_length, shifted, band_tokens, device, rank, size) for shifted in (False, True)
        ]
        return _HeadExchange(plans, self._parallel, token_counts(grid, size))


def require_divisible_heads(num_heads: int, num_ranks: int) -> None:
    """Check that heads can be dealt out evenly.

    Raises:
        SettingsError: says which numbers of ranks can.
    """
    if num_heads % num_ranks:
        fitting = ", ".join(str(number) for number in range(2, num_heads + 1) if num_heads % number == 0)
        raise SettingsError(
            f"sp_strategy 'ulysses' cannot deal {num_heads} heads out evenly to {num_ranks} ranks, only to {fitting}; "
            "'windows' takes any number"
        )


def token_counts(grid: Size, num_ranks: int) -> tuple[int, ...]:
    """Return how many tokens each rank holds."""
    total = grid[0] * grid[1] * grid[2]
    edges = [total * rank // num_ranks for rank in range(num_ranks + 1)]
    return tuple(stop - start for start, stop in pairwise(edges))


class _HeadExchange(Whole):
    def __init__(self, plans: list[PackingPlan], parallel: SequenceParallel, counts: tuple[int, ...]) -> None:
        super().__init__(plans)
        self._parallel = parallel
        self._counts = counts

    def take(self, all_LX: Tensor) -> Tensor:
        return torch.split(all_LX, list(self._counts))[self._parallel.rank]

    def before(self, heads: Heads, band: BandPlan) -> Heads:
        ranks, size = _ranks_of(band), self._parallel.size
        mine_3LNE = torch.stack(heads)
        pieces = [piece.contiguous() for piece in mine_3LNE.chunk(size, dim=2)]
        shapes = [(3, count, *piece.shape[2:]) for count, piece in zip(ranks.counts, pieces, strict=True)]
        joined_3LNE = torch.cat(self._parallel.all_to_all(pieces, shapes, HEADS), dim=1)
        return Heads(*joined_3LNE.index_select(1, ranks.places_L))

    def after(self, out_LNE: Tensor, band: BandPlan) -> Tensor:
        ranks, size = _ranks_of(band), self._parallel.size
        pieces = torch.split(out_LNE.index_select(0, ranks.order_L), list(ranks.counts))
        shapes = [(len(pieces[self._parallel.rank]), *out_LNE.shape[1:])] * size
        return torch.cat(self._parallel.all_to_all(pieces, shapes, HEADS), dim=1)

    def before_text(self, heads: Heads) -> Heads:
        rank, size = self._parallel.rank, self._parallel.size
        return Heads(*(part_LNE.chunk(size, dim=1)[rank] for part_LNE in heads))

    def after_text(self, sum_LNE: Tensor) -> Tensor:
        return torch.cat(self._parallel.all_gather(sum_LNE, kind=TEXT), dim=1)

    def join(self, mine_LX: Tensor) -> Tensor:
        return torch.cat(self._parallel.all_gather(mine_LX, self._counts, kind=JOINED))


def _ranks_of(band: BandPlan) -> BandRanks:
    assert band.ranks is not None, "planned by HeadShares"
    return band.ranks


@lru_cache(maxsize=32)
def _plan_rank(
    config: DiTConfig,
    grid: Size,
    text_length: int,
    shifted: bool,
    band_tokens: int,
    device: torch.device,
    rank: int,
    size: int,
) -> PackingPlan:
    """Plan the whole clip's windows; each band holds this rank's tokens of it."""
    plan = plan_packing(config, grid, text_length, shifted=shifted, band_tokens=band_tokens, device=device)
    counts = token_counts(grid, size)
    with torch.inference_mode(False):
        ends = torch.tensor(counts, device=device).cumsum(0)
        bands = []
        for band in plan.bands:
            owners_L = torch.bucketize(band.rows_L, ends, right=True)
            order_L, mine_L = owners_L.argsort(stable=True), owners_L == rank
            ranks = BandRanks(
                counts=tuple(int((owners_L == other).sum()) for other in range(size)),
                order_L=order_L,
                places_L=order_L.argsort(),
            )
            rows_L = band.rows_L[mine_L] - sum(counts[:rank])
            bands.append(replace(band, rows_L=rows_L, rotation_rows_L=band.rotation_rows_L[mine_L], ranks=ranks))
        return replace(plan, bands=tuple(bands), inverse_L=torch.cat([band.rows_L for band in bands]).argsort())
