"""Whether ranks share out windows or heads: by what a layer would take, counted for each clip.

Windows send a quarter or less of what heads do and take any number of ranks, but a small picture has few of them, so
that some ranks wait for the busiest. Heads are always even.
"""

from functools import lru_cache
from typing import Literal

import torch

from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.packing import Size
from seedvr2_ray.models.seedvr2.transformer.ranks.assignment import assign_windows
from seedvr2_ray.models.seedvr2.transformer.ranks.by_heads import HeadShares, require_divisible_heads, token_counts
from seedvr2_ray.models.seedvr2.transformer.ranks.by_windows import WindowShares
from seedvr2_ray.models.seedvr2.transformer.ranks.exchange import Exchange, OneDevice, Sharing
from seedvr2_ray.models.seedvr2.transformer.ranks.traffic import head_bytes, window_bytes

SpStrategy = Literal["auto", "windows", "ulysses"]
OPERATIONS_PER_SECOND = 4e14
"""Of one GPU in bfloat16: what an H100 reaches in large products."""
BYTES_PER_SECOND = 3e11
"""From one GPU to the others of its node by NVLink 4, one way: two thirds of the nominal 450 GB/s."""
SECONDS_PER_EXCHANGE = 2e-5
"""Before the first byte arrives."""
_ITEM_BYTES = 2


def share_tokens(parallel: SequenceParallel, strategy: SpStrategy, config: DiTConfig) -> Sharing:
    """Return how a transformer's clips are spread over ranks.

    Raises:
        SettingsError: the strategy cannot be used with so many ranks.
    """
    if parallel.size == 1:
        return OneDevice()
    if strategy == "windows":
        return WindowShares(parallel)
    if strategy == "ulysses":
        require_divisible_heads(config.num_heads, parallel.size)
        return HeadShares(parallel)
    return CheaperShares(parallel)


class CheaperShares:
    """For each clip what takes less time."""

    def __init__(self, parallel: SequenceParallel) -> None:
        self._size = parallel.size
        self._sharings: dict[str, Sharing] = {"windows": WindowShares(parallel), "ulysses": HeadShares(parallel)}

    def begin(
        self, config: DiTConfig, grid: Size, text_length: int, *, band_tokens: int, device: torch.device
    ) -> Exchange:
        """See :class:`~seedvr2_ray.models.seedvr2.transformer.ranks.exchange.Sharing`."""
        sharing = self._sharings[cheaper_strategy(config, grid, text_length, self._size)]
        return sharing.begin(config, grid, text_length, band_tokens=band_tokens, device=device)


@lru_cache(maxsize=64)
def cheaper_strategy(config: DiTConfig, grid: Size, text_length: int, num_ranks: int) -> Literal["windows", "ulysses"]:
    """Return what takes less time for one clip; every rank finds the same."""
    if config.num_heads % num_ranks:
        return "windows"
    by_windows, by_heads = (
        predict_seconds(config, grid, text_length, num_ranks, strategy) for strategy in ("windows", "ulysses")
    )
    return "windows" if by_windows <= by_heads else "ulysses"


def predict_seconds(
    config: DiTConfig,
    grid: Size,
    text_length: int,
    num_ranks: int,
    strategy: str,
    *,
    bytes_per_second: float = BYTES_PER_SECOND,
) -> float:
    """Return what a forward pass is predicted to take: the busiest rank's work, then what it sends."""
    if strategy == "windows":
        regular, shifted = assign_windows(grid, config.windows, num_ranks)
        tokens = (max(regular.loads) + max(shifted.loads)) / 2
        count, exchanges = window_bytes, 3  # tokens; the text's sums twice
    else:
        tokens = max(token_counts(grid, num_ranks))
        count, exchanges = head_bytes, 3  # to heads and back; the text
    sent = 0
    if num_ranks > 1:
        sent = max(sum(count(config, grid, text_length, num_ranks, r, _ITEM_BYTES).values()) for r in range(num_ranks))
    work = config.num_layers * tokens * operations_per_token(config, grid, text_length) / OPERATIONS_PER_SECOND
    waits = config.num_layers * exchanges * SECONDS_PER_EXCHANGE if num_ranks > 1 else 0.0
    return work + sent / bytes_per_second + waits


def operations_per_token(config: DiTConfig, grid: Size, text_length: int) -> float:
    """Return the operations of one layer per video token, attention over a mean window included."""
    (regular, _), total = assign_windows(grid, config.windows, 1), grid[0] * grid[1] * grid[2]
    keys = total / len(regular.spans) + text_length
    products = 4 * config.width * config.inner_width + (3 if config.mlp == "swiglu" else 2) * (
        config.width * config.mlp_width
    )
    return 2.0 * products + 4.0 * keys * config.inner_width
