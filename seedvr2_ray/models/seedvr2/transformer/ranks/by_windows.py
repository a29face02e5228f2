"""Window parallelism: a rank holds the tokens of its windows, and attends to them without asking anyone.

Only between two layers, where the windows are cut elsewhere, some tokens change hands. The sums over
windows that become the text's result are added up over ranks.

Shapes: L tokens, D model width, N heads, E head width, X any channels.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.packing import PackingPlan, Size, pack_windows
from seedvr2_ray.models.seedvr2.transformer.ranks.assignment import Assignment, assign_windows
from seedvr2_ray.models.seedvr2.transformer.ranks.exchange import Exchange, Whole
from seedvr2_ray.models.seedvr2.transformer.windows import WindowPlan

MOVED = "transformer/tokens"
TEXT = "transformer/text"
JOINED = "transformer/result"


class WindowShares:
    """Whole windows to ranks; any number of ranks."""

    def __init__(self, parallel: SequenceParallel) -> None:
        self._parallel = parallel

    def begin(
        self, config: DiTConfig, grid: Size, text_length: int, *, band_tokens: int, device: torch.device
    ) -> Exchange:
        """See :class:`~seedvr2_ray.models.seedvr2.transformer.ranks.exchange.Sharing`."""
        rank, size = self._parallel.rank, self._parallel.size
        held = _plan_rank(config, grid, text_length, band_tokens, device, rank, size)
        return _WindowExchange(held, self._parallel, config.num_layers)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """What one rank holds in layers of one kind, and how its tokens come from layers of the other kind."""

    plan: PackingPlan
    loads: tuple[int, ...]
    """Tokens of each rank."""
    rows_L: Tensor
    """Its tokens among all, in order."""
    order_L: Tensor
    """All tokens, as ranks hold them one after the other."""
    leaving: tuple[Tensor, ...]
    """For each rank, which rows of what is held before go there."""
    coming: tuple[int, ...]
    """Tokens that each rank hands over."""
    places_L: Tensor
    """For each of its tokens, where it is among those handed over, rank by rank."""


class _WindowExchange(Whole):
    def __init__(self, held: tuple[_Held, _Held], parallel: SequenceParallel, num_layers: int) -> None:
        super().__init__([one.plan for one in held])
        self._held = held
        self._parallel = parallel
        self._last = held[(num_layers - 1) % 2]

    def take(self, all_LX: Tensor) -> Tensor:
        return all_LX.index_select(0, self._held[0].rows_L)

    def enter(self, video_LD: Tensor, layer: int) -> Tensor:
        if layer == 0:
            return video_LD
        held = self._held[layer % 2]
        pieces = [video_LD.index_select(0, rows_L) for rows_L in held.leaving]
        shapes = [(count, *video_LD.shape[1:]) for count in held.coming]
        return torch.cat(self._parallel.all_to_all(pieces, shapes, MOVED)).index_select(0, held.places_L)

    def after_text(self, sum_LNE: Tensor) -> Tensor:
        return self._parallel.all_reduce(sum_LNE, TEXT)

    def join(self, mine_LX: Tensor) -> Tensor:
        parts = self._parallel.all_gather(mine_LX, self._last.loads, kind=JOINED)
        all_LX = torch.empty(sum(self._last.loads), *mine_LX.shape[1:], dtype=mine_LX.dtype, device=mine_LX.device)
        return all_LX.index_copy_(0, self._last.order_L, torch.cat(parts))


@lru_cache(maxsize=16)
def _plan_rank(
    config: DiTConfig, grid: Size, text_length: int, band_tokens: int, device: torch.device, rank: int, size: int
) -> tuple[_Held, _Held]:
    assignments = assign_windows(grid, config.windows, size)
    # A plan outlives the call that made it and may later meet autograd, which refuses inference tensors.
    with torch.inference_mode(False):
        maps = [assignment.owner_map(grid) for assignment in assignments]
        plans = [_pack(config, grid, text_length, band_tokens, device, one, rank) for one in assignments]
        regular, shifted = (
            _hold(plan, assignment.loads, before_L, after_L, rank, device)
            for plan, assignment, before_L, after_L in zip(plans, assignments, maps[::-1], maps, strict=True)
        )
    return regular, shifted


def _pack(
    config: DiTConfig,
    grid: Size,
    text_length: int,
    band_tokens: int,
    device: torch.device,
    assignment: Assignment,
    rank: int,
) -> PackingPlan:
    """Plan a rank's windows; rows are counted among its own tokens."""
    mine = WindowPlan(grid, assignment.of(rank))
    plan = pack_windows(config, mine, text_length, band_tokens=band_tokens, device=device)
    rows_L = torch.cat([band.rows_L for band in plan.bands])
    local_L = torch.zeros(grid[0] * grid[1] * grid[2], dtype=torch.int64, device=device)
    local_L[rows_L.sort().values] = torch.arange(len(rows_L), device=device)
    bands = tuple(replace(band, rows_L=local_L[band.rows_L]) for band in plan.bands)
    return replace(
        plan,
        bands=bands,
        inverse_L=local_L[rows_L].argsort(),
        text_windows_L=torch.full_like(plan.text_windows_L, float(len(assignment.spans))),
    )


def _hold(
    plan: PackingPlan, loads: tuple[int, ...], before_L: Tensor, after_L: Tensor, rank: int, device: torch.device
) -> _Held:
    """Work out what moves, from the rank of every token in the layer before and in this one."""
    size = len(loads)
    next_ranks_L, past_ranks_L = after_L[before_L == rank], before_L[after_L == rank]
    return _Held(
        plan=plan,
        loads=loads,
        rows_L=(after_L == rank).nonzero()[:, 0].to(device),
        order_L=after_L.argsort(stable=True).to(device),
        leaving=tuple((next_ranks_L == other).nonzero()[:, 0].to(device) for other in range(size)),
        coming=tuple(int((past_ranks_L == other).sum()) for other in range(size)),
        places_L=past_ranks_L.argsort(stable=True).argsort().to(device),
    )
