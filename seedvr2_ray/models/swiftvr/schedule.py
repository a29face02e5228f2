"""Which frames of a stream go through the model together: decided as they come, without knowing how many will.

A stream is one FIRST chunk of ``clip_frames + 4`` frames, MIDDLE ones of ``clip_frames``, and a LAST one of what is
left. The codec looks three frames ahead, so after FIRST a frame comes out three frames after it went in, and LAST
ends with repeats of the last frame. No frame is lost: where the rest has not the length that a chunk needs, it is
filled up with repeats too, and what is decoded beyond the last real frame is to be cut off.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from seedvr2_ray.models.swiftvr.config import NUM_LEADING_FRAMES, TIME_STRIDE

Item = TypeVar("Item")
Kind = Literal["first", "middle", "last"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Frames that go through the model together: numbers only."""

    kind: Kind
    index: int
    """Number of the chunk in its stream."""
    start: int
    """Number of its first frame in the stream."""
    count: int
    """Frames of the stream that it holds; possibly none at the end of a stream."""
    clip_latents: int
    """Of a chunk in the middle."""

    @property
    def is_first(self) -> bool:
        """Whether the stream begins here, so that the decoder's first frames stand for nothing."""
        return self.index == 0

    @property
    def num_latents(self) -> int:
        """Latents that it becomes."""
        if self.kind == "last":
            return -(-(self.count + NUM_LEADING_FRAMES) // TIME_STRIDE)
        return self.clip_latents + (self.kind == "first")

    @property
    def num_repeats(self) -> int:
        """Copies of the stream's last frame that fill it up."""
        return TIME_STRIDE * self.num_latents - self.count

    @property
    def front_latents(self) -> int:
        """Earlier latents that the transformer sees in front of a LAST chunk, so that it is as long as FIRST."""
        return self.clip_latents + 1 - self.num_latents if self.kind == "last" else 0

    @property
    def num_decoded(self) -> int:
        """Frames that come out, those for repeats included."""
        return TIME_STRIDE * self.num_latents - (NUM_LEADING_FRAMES if self.is_first else 0)


@dataclass(frozen=True, slots=True)
class ReadyChunk(Generic[Item]):
    """A chunk and its frames, the repeats included."""

    chunk: Chunk
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Intake(Generic[Item]):
    """Frames of a stream that wait until there are enough for a chunk. Values in, values out."""

    clip_frames: int
    waiting: tuple[Item, ...] = ()
    num_taken: int = 0
    """Frames that chunks were made of already."""
    num_chunks: int = 0
    last: tuple[Item, ...] = ()
    """The latest frame that came in, if any."""

    def take(self, items: Sequence[Item]) -> "tuple[list[ReadyChunk[Item]], Intake[Item]]":
        """Let frames in, and return the chunks that are complete now. How frames are split over calls is no matter."""
        intake = replace(self, waiting=(*self.waiting, *items), last=tuple(items[-1:]) or self.last)
        ready = []
        while len(intake.waiting) >= intake._wanted:
            chunk, intake = intake._cut("middle" if intake.num_chunks else "first", intake._wanted)
            ready.append(chunk)
        return ready, intake

    def finish(self) -> list[ReadyChunk[Item]]:
        """End the stream, also in the middle of a chunk; return what is left of it. Nothing if nothing came in."""
        if not self.last:
            return []
        ready, intake = [], self
        longest = self.clip_frames + 1 if self.num_chunks == 0 else self.clip_frames - NUM_LEADING_FRAMES
        if len(self.waiting) > longest:
            chunk, intake = self._cut("middle" if self.num_chunks else "first", len(self.waiting))
            ready.append(chunk)
        chunk, _ = intake._cut("last", len(intake.waiting))
        return [*ready, chunk]

    @property
    def _wanted(self) -> int:
        return self.clip_frames + (0 if self.num_chunks else TIME_STRIDE)

    def _cut(self, kind: Kind, count: int) -> "tuple[ReadyChunk[Item], Intake[Item]]":
        chunk = Chunk(
            kind=kind,
            index=self.num_chunks,
            start=self.num_taken,
            count=count,
            clip_latents=self.clip_frames // TIME_STRIDE,
        )
        items = (*self.waiting[:count], *self.last * chunk.num_repeats)
        rest = replace(
            self, waiting=self.waiting[count:], num_taken=self.num_taken + count, num_chunks=self.num_chunks + 1
        )
        return ReadyChunk(chunk, items), rest


def plan_schedule(num_frames: int, clip_frames: int) -> tuple[Chunk, ...]:
    """Return the chunks of a stream whose length is known."""
    empty: Intake[int] = Intake(clip_frames=clip_frames)
    ready, intake = empty.take(range(num_frames))
    return tuple(each.chunk for each in [*ready, *intake.finish()])
