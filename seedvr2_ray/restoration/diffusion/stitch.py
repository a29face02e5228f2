"""Joining the results of chunks in latent space, where a cross-fade neither softens nor shows.

Shape letters: T latent frames, H and W of the latent grid, C channels.
"""

import torch
from torch import Tensor

from seedvr2_ray.restoration.planning.chunks import Chunk


def fade_weights(num_latents: int) -> Tensor:
    """Return the weights of the chunk that fades in, for every shared latent.

    Linear, neither 0 nor 1 at the ends: a weight of 0 or 1 would spend a shared latent on nothing. Read
    backwards they are the weights of the chunk that fades out, and both sum to one.
    """
    return (torch.arange(num_latents, dtype=torch.float32) + 0.5) / num_latents


def stitch_chunk(
    tail_THWC: Tensor | None, chunk: Chunk, restored_THWC: Tensor, next_chunk: Chunk | None
) -> tuple[Tensor, Tensor]:
    """Fade a restored chunk into the one before and hand out what no later chunk will touch.

    Args:
        tail_THWC: what the previous call returned, None for the first chunk.
        chunk: the place of the restored latents in the segment.
        restored_THWC: float32, ``len(chunk)`` latents.
        next_chunk: None after the last one.

    Returns:
        The latents that are final now, and the tail into which the next chunk will fade: no more than the
        overlap is ever kept.
    """
    if len(restored_THWC) != len(chunk):
        raise ValueError(f"the chunk has {len(chunk)} latents, got {len(restored_THWC)}")
    joined_THWC = restored_THWC[chunk.fade_start - chunk.start :]
    num_shared = chunk.fade_stop - chunk.fade_start
    if num_shared:
        if tail_THWC is None or len(tail_THWC) != num_shared:
            raise ValueError(f"the chunk fades into {num_shared} latents, which the chunk before must have left")
        weights_T111 = fade_weights(num_shared).to(joined_THWC).reshape(-1, 1, 1, 1)
        faded_THWC = tail_THWC + (joined_THWC[:num_shared] - tail_THWC) * weights_T111
        joined_THWC = torch.cat([faded_THWC, joined_THWC[num_shared:]])
    num_final = (chunk.stop if next_chunk is None else next_chunk.fade_start) - chunk.fade_start
    # A copy, so that a view of two latents does not keep the chunk alive.
    return joined_THWC[:num_final], joined_THWC[num_final:].clone()
