"""Which latents of a segment go through the transformer together: a function over integers."""

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Chunk:
    """Latents ``start`` to ``stop`` of a segment, restored at once."""

    start: int
    stop: int
    fade_start: int
    """First latent whose result this chunk contributes to; those before it are context only."""
    fade_stop: int
    """First latent that is this chunk's alone, until the next chunk fades in."""

    def __len__(self) -> int:
        return self.stop - self.start


def latents_for_frames(num_frames: int, temporal_stride: int) -> int:
    """Return how many latents a clip becomes once it is filled up to ``stride * n + 1`` frames."""
    return -(-(num_frames - 1) // temporal_stride) + 1


def frames_for_latents(num_latents: int, temporal_stride: int) -> int:
    """Return how many frames a clip of so many latents decodes to."""
    return (num_latents - 1) * temporal_stride + 1


def frames_behind(start: int, stop: int, temporal_stride: int) -> range:
    """Return the frames that latents ``start`` to ``stop`` of a segment stand for, the fill at its end included."""
    first = 0 if start == 0 else frames_for_latents(start, temporal_stride)
    return range(first, frames_for_latents(stop, temporal_stride))


@lru_cache(maxsize=256)
def plan_chunks(num_latents: int, chunk_latents: int, overlap: int) -> tuple[Chunk, ...]:
    """Cut a segment into chunks of one length.

    All have the same length because the transformer's attention windows in time depend on it: a shorter last
    chunk would be restored in another style than the others. So the last one reaches further back, and what
    it repeats beyond the overlap is context only: fading over more than the overlap would soften it.

    Args:
        num_latents: of the segment, at least 1.
        chunk_latents: longest chunk, at least 1. A segment that is shorter becomes one chunk.
        overlap: latents over which neighbours fade into each other, less than ``chunk_latents``.

    Returns:
        Chunks in order; every latent belongs to at least one.
    """
    if num_latents < 1 or chunk_latents < 1 or not 0 <= overlap < chunk_latents:
        raise ValueError(f"cannot cut {num_latents} latents into chunks of {chunk_latents} that share {overlap}")
    if num_latents <= chunk_latents:
        return (Chunk(0, num_latents, 0, 0),)
    chunks = [Chunk(0, chunk_latents, 0, 0)]
    while (fade_stop := chunks[-1].stop) < num_latents:
        start = min(fade_stop - overlap, num_latents - chunk_latents)
        chunks.append(Chunk(start, start + chunk_latents, fade_stop - overlap, fade_stop))
    return tuple(chunks)
