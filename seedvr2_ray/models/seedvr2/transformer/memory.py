"""What the transformer holds at its fullest, walked as :mod:`block` walks over tensors.

Units: tokens, and bytes beyond the weights. L tokens of the chunk, b of a band.
"""

from functools import lru_cache

from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.ranks.assignment import assign_windows
from seedvr2_ray.models.seedvr2.transformer.ranks.choice import cheaper_strategy
from seedvr2_ray.models.seedvr2.transformer.windows import window_size

_FLOAT = 4
_INDEX = 8
_TEXT_TOKENS = 64


@lru_cache(maxsize=1024)
def transform_bytes(
    config: DiTConfig, size_THW: tuple[int, int, int], *, band_tokens: int, item_bytes: int, num_ranks: int = 1
) -> int:
    """Return what one evaluation takes at its fullest.

    Args:
        size_THW: of the latent chunk.
        band_tokens: as :class:`~seedvr2_ray.models.seedvr2.transformer.execution.Execution` has them.
        num_ranks: processes that share the tokens, by whichever strategy is the cheaper.
    """
    grid = config.patched(size_THW)
    window = window_size(grid, config.windows)
    window_tokens = window[0] * window[1] * window[2]
    total = grid[0] * grid[1] * grid[2]
    exchanges_heads = num_ranks > 1 and cheaper_strategy(config, grid, _TEXT_TOKENS, num_ranks) == "ulysses"
    tokens, band = total, max(band_tokens, window_tokens)
    if exchanges_heads:
        tokens = -(-total // num_ranks)
    elif num_ranks > 1:
        tokens = max(max(kind.loads) for kind in assign_windows(grid, config.windows, num_ranks))
    band, window_tokens = min(tokens, band), min(tokens, window_tokens)
    stream, band_stream = tokens * config.width, band * config.width
    heads = band * config.inner_width
    rotations = band * config.head_dim * _FLOAT // item_bytes
    text_share = _TEXT_TOKENS / window_tokens
    # Two of q, k, v normed, one of them turned in float32; or all three and the result with the text beside them.
    # Where heads are exchanged: stacked, cut into pieces, received, joined and put in order.
    projecting = (15 if exchanges_heads else 9) * heads + band_stream
    attending = (8 + 4 * text_share) * heads
    attention = stream + (stream - band_stream) + rotations + max(projecting, attending)
    # The last band's heads stay while the stream before, the change and the stream after it exist.
    kept = 4 * heads + rotations
    joining = (4 if tokens > band else 3) * stream + kept
    mlp = 3 * stream + (stream - band_stream) + band_stream + 2 * band * config.mlp_width + kept
    joined = 5 * stream + kept
    activations = max(attention, joining, mlp, joined) * item_bytes
    # Of latents every rank has all, and of the result first each rank's, then joined, then in order.
    latent_pixels = total * config.patch**2
    joined_squares = 0 if num_ranks == 1 else 3 * latent_pixels * config.latent_channels * item_bytes
    latents = latent_pixels * (6 * config.latent_channels * _FLOAT + 2 * config.in_channels * item_bytes)
    return round(activations + joined_squares + latents + 2 * 3 * _INDEX * total)
