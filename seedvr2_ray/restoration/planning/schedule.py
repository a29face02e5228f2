"""In which order a segment's slices and chunks run, and what the VAE remembers meanwhile: a function over integers.

The stages pull from one another, so which memories exist side by side follows from the lengths of slices and chunks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from seedvr2_ray.restoration.planning.chunks import plan_chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a stage; the finishing of a decoded slice belongs to its step."""

    stage: Literal["encode", "transform", "decode"]
    num_latents: int
    starts_clip: bool
    encoder_remembers: bool
    """Whether slices were encoded before and their memory is kept, during this step of another stage or of its own."""
    decoder_remembers: bool
    is_last: bool = False
    """Of decoding: whether nothing comes after it, for which it would have to be remembered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """What decides the order."""

    num_latents: int
    slice_latents: int
    """Of all slices but the first, which has one more."""
    chunk_latents: int
    chunk_overlap: int
    encode_first: bool
    decode_last: bool
    """Whether all chunks are restored before the first slice is decoded."""

    @property
    def is_one_slice(self) -> bool:
        """Whether nothing needs to be remembered at all."""
        return self.num_latents <= 1 + self.slice_latents

    def slices(self) -> Iterator[int]:
        """Yield the latents of each slice; the last may be shorter."""
        left, length = self.num_latents, 1 + self.slice_latents
        while left > 0:
            yield min(length, left)
            left, length = left - length, self.slice_latents


@lru_cache(maxsize=4096)
def distinct_steps(lengths: Lengths) -> frozenset[Step]:
    """Return every step that differs from the others in what it needs."""
    return frozenset(_steps(lengths))


def _steps(lengths: Lengths) -> Iterator[Step]:
    chunks = plan_chunks(lengths.num_latents, lengths.chunk_latents, lengths.chunk_overlap)
    # A later chunk fades into the end of the one before, which is therefore final only then.
    final_after = [*(chunk.fade_start for chunk in chunks[1:]), lengths.num_latents]
    to_encode = lengths.slices()
    encoded = restored = decoded = chunks_done = 0
    while decoded < lengths.num_latents:
        length = min(lengths.slice_latents + (decoded == 0), lengths.num_latents - decoded)
        wanted = lengths.num_latents if lengths.decode_last else decoded + length
        while restored < wanted:
            chunk = chunks[chunks_done]
            while encoded < (lengths.num_latents if lengths.encode_first else chunk.stop):
                slice_latents = next(to_encode)
                yield Step(
                    stage="encode",
                    num_latents=slice_latents,
                    starts_clip=encoded == 0,
                    encoder_remembers=encoded > 0,
                    decoder_remembers=decoded > 0,
                )
                encoded += slice_latents
            yield Step(
                stage="transform",
                num_latents=len(chunk),
                starts_clip=chunks_done == 0,
                encoder_remembers=encoded < lengths.num_latents,
                decoder_remembers=decoded > 0,
            )
            restored, chunks_done = final_after[chunks_done], chunks_done + 1
        yield Step(
            stage="decode",
            num_latents=length,
            starts_clip=decoded == 0,
            encoder_remembers=encoded < lengths.num_latents,
            decoder_remembers=decoded > 0,
            is_last=decoded + length == lengths.num_latents,
        )
        decoded += length
