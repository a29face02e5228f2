"""How many bytes a rank sends in one forward pass, by arithmetic; the exchanges count what they really send."""

from collections import Counter
from functools import lru_cache

import torch

from seedvr2_ray.models.seedvr2.config import DiTConfig, WindowGrid
from seedvr2_ray.models.seedvr2.transformer.packing import Size
from seedvr2_ray.models.seedvr2.transformer.ranks.assignment import assign_windows
from seedvr2_ray.models.seedvr2.transformer.ranks.by_heads import HEADS, token_counts
from seedvr2_ray.models.seedvr2.transformer.ranks.by_windows import JOINED, MOVED, TEXT

_SUM_BYTES = 4
"""Of a number in the text's sums, which are float32."""


def moved_tokens(config: DiTConfig, grid: Size, num_ranks: int, rank: int) -> tuple[int, int]:
    """Return how many tokens leave a rank on the way into a layer of shifted windows, and into one of regular ones."""
    regular, shifted = assign_windows(grid, config.windows, num_ranks)
    kept = _kept_tokens(grid, config.windows, num_ranks)[rank]
    return regular.loads[rank] - kept, shifted.loads[rank] - kept


@lru_cache(maxsize=64)
def _kept_tokens(grid: Size, windows: WindowGrid, num_ranks: int) -> tuple[int, ...]:
    """Return how many tokens each rank holds in layers of both kinds."""
    before, after = (kind.owner_map(grid) for kind in assign_windows(grid, windows, num_ranks))
    return tuple(torch.bincount(before[before == after], minlength=num_ranks).tolist())


def window_bytes(
    config: DiTConfig, grid: Size, text_length: int, num_ranks: int, rank: int, item_bytes: int
) -> Counter[str]:
    """Return what a rank sends per kind where windows are shared out, all layers together.

    Args:
        item_bytes: of a number in activations.
    """
    leaving = moved_tokens(config, grid, num_ranks, rank)
    num_moves = [sum(1 for layer in range(1, config.num_layers) if layer % 2 != kind) for kind in (0, 1)]
    num_tokens = sum(count * tokens for count, tokens in zip(num_moves, leaving, strict=True))
    last = assign_windows(grid, config.windows, num_ranks)[(config.num_layers - 1) % 2].loads[rank]
    numbers = text_length * config.inner_width
    own = numbers // num_ranks + (rank < numbers % num_ranks)
    return Counter(
        {
            MOVED: num_tokens * config.width * item_bytes,
            TEXT: (config.num_layers - 1) * (numbers - own + (num_ranks - 1) * own) * _SUM_BYTES,
            JOINED: (num_ranks - 1) * last * _square(config) * item_bytes,
        }
    )


def head_bytes(
    config: DiTConfig, grid: Size, text_length: int, num_ranks: int, rank: int, item_bytes: int
) -> Counter[str]:
    """Return the same where heads are shared out."""
    total, own = grid[0] * grid[1] * grid[2], token_counts(grid, num_ranks)[rank]
    part = config.inner_width // num_ranks
    per_layer = 3 * own * (config.inner_width - part) + (total - own) * part
    return Counter(
        {
            HEADS: config.num_layers * per_layer * item_bytes,
            TEXT: (config.num_layers - 1) * (num_ranks - 1) * text_length * part * _SUM_BYTES,
            JOINED: (num_ranks - 1) * own * _square(config) * item_bytes,
        }
    )


def _square(config: DiTConfig) -> int:
    return config.patch**2 * config.latent_channels
