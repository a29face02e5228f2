"""Which rank attends to which windows: a function over integers.

A rank holds the tokens of its windows. Layers with shifted windows cut elsewhere, so between two layers those tokens
move whose two windows belong to different ranks. Windows are dealt out in runs along one order of the axes, for
regular and shifted ones alike, so that a rank's two regions lie over one another and little moves.

Axes: T latent frames, Y and X patched rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import torch
from torch import Tensor

from seedvr2_ray.models.seedvr2.config import WindowGrid
from seedvr2_ray.models.seedvr2.transformer.windows import Span, plan_windows

_WORK_OF_A_TOKEN = 20
"""A token's share of a layer takes about so many times as long as handing it on; ``benchmarks/gang.py`` counts both."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who attends to what in layers of one kind."""

    spans: tuple[Span, ...]
    owners: tuple[int, ...]
    """Rank of each window."""
    num_ranks: int

    @property
    def loads(self) -> tuple[int, ...]:
        """Tokens of each rank."""
        loads = [0] * self.num_ranks
        for span, owner in zip(self.spans, self.owners, strict=True):
            loads[owner] += _tokens(span)
        return tuple(loads)

    def of(self, rank: int) -> tuple[Span, ...]:
        """Return the windows of one rank."""
        return tuple(span for span, owner in zip(self.spans, self.owners, strict=True) if owner == rank)

    def owner_map(self, size_TYX: tuple[int, int, int]) -> Tensor:
        """Return the rank of every token, in the order of tokens."""
        owner_TYX = torch.empty(size_TYX, dtype=torch.int64)
        for (t, y, x), owner in zip(self.spans, self.owners, strict=True):
            owner_TYX[t.start : t.stop, y.start : y.stop, x.start : x.stop] = owner
        return owner_TYX.flatten()


@lru_cache(maxsize=64)
def assign_windows(size_TYX: tuple[int, int, int], grid: WindowGrid, num_ranks: int) -> tuple[Assignment, Assignment]:
    """Deal regular and shifted windows out to ranks: evenly by tokens, and so that few of them move.

    There may be fewer windows than ranks; then some ranks hold none.
    """
    best: tuple[float, tuple[Assignment, Assignment]] | None = None
    for order in permutations(range(3)):
        candidates = []
        for shifted in (False, True):
            spans = tuple(sorted(plan_windows(size_TYX, grid, shifted=shifted).spans, key=lambda s: _place(s, order)))
            tokens = [_tokens(span) for span in spans]
            dealt = {_deal_by_share(tokens, num_ranks), _deal_by_limit(tokens, num_ranks)}
            candidates.append([Assignment(spans, owners, num_ranks) for owners in sorted(dealt)])
        maps = [[assignment.owner_map(size_TYX) for assignment in kind] for kind in candidates]
        for i, j in product(range(len(candidates[0])), range(len(candidates[1]))):
            pair = (candidates[0][i], candidates[1][j])
            num_moved = int((maps[0][i] != maps[1][j]).sum())
            cost = _WORK_OF_A_TOKEN * sum(max(assignment.loads) for assignment in pair) + 2 * num_moved / num_ranks
            if best is None or cost < best[0]:
                best = (cost, pair)
    assert best is not None
    return best[1]


def _place(span: Span, order: Sequence[int]) -> tuple[int, ...]:
    return tuple(span[axis].start for axis in order)


def _tokens(span: Span) -> int:
    return len(span[0]) * len(span[1]) * len(span[2])


def _deal_by_share(tokens: Sequence[int], num_ranks: int) -> tuple[int, ...]:
    """Give each window to the rank in whose equal share of all tokens its middle lies."""
    total, before, owners = sum(tokens), 0, []
    for count in tokens:
        owners.append(num_ranks * (2 * before + count) // (2 * total))
        before += count
    return tuple(owners)


def _deal_by_limit(tokens: Sequence[int], num_ranks: int) -> tuple[int, ...]:
    """Cut into runs of which the longest is as short as runs can be."""
    low, high = max(max(tokens), -(-sum(tokens) // num_ranks)), sum(tokens)
    while low < high:
        limit = (low + high) // 2
        if _fill(tokens, limit)[-1] < num_ranks:
            high = limit
        else:
            low = limit + 1
    return _fill(tokens, low)


def _fill(tokens: Sequence[int], limit: int) -> tuple[int, ...]:
    rank, room, owners = 0, limit, []
    for count in tokens:
        if count > room:
            rank, room = rank + 1, limit
        room -= count
        owners.append(rank)
    return tuple(owners)
