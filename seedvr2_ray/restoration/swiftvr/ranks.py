"""One rank's part in restoring a segment with SwiftVR: whole chunks, in turn, from their frames to their pictures.

The transformer remembers nothing, and what the autoencoder remembers is a value. So chunk follows chunk from rank to
rank, and a rank hands the next one that value as soon as it has it: while one rank transforms and decodes, the next
encodes. A chunk is made of what one device makes it of, and so are its pictures. Rank 0 collects and yields them.

All ranks read all frames, and stop or go on in the same *places*: between the reading of one chunk and the next. What
is handed over at a place is taken at the same one, or is pictures, which rank 0 takes before it leaves. So whoever
stops at a place leaves no message behind that the next segment could take for its own.

Shape letters: T frames or latents, C channels, H height, W width.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from seedvr2_ray.frames import Frames
from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.parallel import Handed, SequenceParallel
from seedvr2_ray.models.swiftvr.config import SPACE_STRIDE
from seedvr2_ray.models.swiftvr.reae import Memories, memory_shapes
from seedvr2_ray.models.swiftvr.schedule import Chunk, ReadyChunk
from seedvr2_ray.models.swiftvr.stream import EncoderState, SwiftVR, front_of
from seedvr2_ray.restoration.diffusion.finish import FinishStage
from seedvr2_ray.restoration.diffusion.finite import FiniteChecks
from seedvr2_ray.restoration.diffusion.frame_stream import SourceFrame
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.swiftvr.restorer import SwiftVRPlan, SwiftVRRestorer

_ENCODER, _DECODER, _PICTURES = 1, 2, 3
"""Tags, so that what is handed over for one thing is never taken for another."""


@dataclass(slots=True)
class _Encoded:
    """A chunk of this rank that is encoded, and what was remembered before and after it."""

    chunk: Chunk
    degraded_TCHW: Tensor
    before: EncoderState
    after: EncoderState


@dataclass(slots=True)
class _Segment:
    """Where a rank is in a segment."""

    plan: SwiftVRPlan
    waiting: deque[SourceFrame] = field(default_factory=deque)
    """Source frames whose pictures no chunk has made yet."""
    num_pictures: int = 0
    """Made by the chunks before, those for repeats included."""
    encoded: _Encoded | None = None
    """This rank's chunk of the place before."""
    decoder_past: Memories | None = None
    """What the decoder remembers of this rank's chunk of two places before."""
    owed: deque[tuple[int, list[SourceFrame]]] = field(default_factory=deque)
    """Pictures that rank 0 has not taken yet: whose, and of which frames."""


class SwiftVRRank(SwiftVRRestorer):
    """One process of a gang; rank 0 yields all frames and the others none."""

    def __init__(
        self,
        model: SwiftVR,
        identity: RestorerIdentity,
        *,
        device: torch.device,
        parallel: SequenceParallel,
        attention: AttentionBackend = "sdpa",
    ) -> None:
        """Take over networks that are folded and on the device; see :class:`SwiftVRRestorer`."""
        super().__init__(model, identity, device=device, attention=attention)
        self._parallel = parallel
        self._handed: dict[int, Handed] = {}

    @property
    def frames_ahead(self) -> int:
        """Frames that one rank may have read and another not, so that none waits for the frames of its next chunk."""
        return (self._parallel.size + 1) * self._model.config.clip_frames

    def _available_bytes(self) -> int:
        """Of the rank that has least, so that all of them make the same plan."""
        return min(self._parallel.agree(super()._available_bytes()))

    def _run(self, plan: SwiftVRPlan, source: Iterable[SourceFrame]) -> Iterator[Frames]:
        segment = _Segment(plan)
        before: Chunk | None = None
        for ready in chain(self._places(segment, source), [None]):
            if before is not None:
                self._hand_on(segment, before, ready)
                yield from self._finish(segment, before)
            if ready is not None:
                segment.waiting.extend(ready.items[: ready.chunk.count])
                if self._is_mine(ready.chunk):
                    segment.encoded = self._encoded(segment, ready)
            before = None if ready is None else ready.chunk
        yield from self._owed(segment)
        self._settle(segment)

    def _places(self, segment: _Segment, source: Iterable[SourceFrame]) -> Iterator[ReadyChunk[SourceFrame]]:
        """Yield every chunk of the segment, on all ranks, as long as nobody stops it."""
        chunks = self._chunks(source)
        while True:
            try:
                ready = next(chunks, None)
                if ready is None:
                    return
                segment.plan.task.check_cancelled()
            except BaseException:
                self._settle(segment)
                raise
            yield ready

    def _is_mine(self, chunk: Chunk) -> bool:
        return chunk.index % self._parallel.size == self._parallel.rank

    def _encoded(self, segment: _Segment, ready: ReadyChunk[SourceFrame]) -> _Encoded:
        before = EncoderState() if ready.chunk.is_first else self._take_encoder(segment.plan)
        with self.watch("encode"):
            degraded_TCHW, after = self._encode(segment.plan, ready, before)
        return _Encoded(ready.chunk, degraded_TCHW, before, after)

    def _hand_on(self, segment: _Segment, before: Chunk, ready: ReadyChunk[SourceFrame] | None) -> None:
        """Hand on what the chunks before this place left behind, to those that go on from there."""
        if segment.decoder_past is not None:
            self._hand(_DECODER, _packed(segment.decoder_past), before.index)
            segment.decoder_past = None
        if segment.encoded is not None and ready is not None:
            after = segment.encoded.after
            assert after.memories is not None and after.recent_TCHW is not None
            self._hand(_ENCODER, _packed([*after.memories, after.recent_TCHW]), ready.chunk.index)

    def _finish(self, segment: _Segment, chunk: Chunk) -> Iterator[Frames]:
        """Bring the chunk before this place to its end, if it is this rank's; otherwise note who does."""
        num_frames = min(chunk.num_decoded, len(segment.waiting))
        batch = [segment.waiting.popleft() for _ in range(num_frames)]
        if segment.encoded is None:
            if self._parallel.rank == 0 and batch:
                segment.owed.append((chunk.index % self._parallel.size, batch))
        elif self._parallel.rank == 0:
            yield from self._owed(segment)
            yield from self._pictures(segment, segment.encoded, batch)
        else:
            made = [frames.data_TCHW for frames in self._pictures(segment, segment.encoded, batch)]
            if made:
                self._hand(_PICTURES, torch.cat(made), 0)
        segment.encoded = None
        segment.num_pictures += chunk.num_decoded

    def _pictures(self, segment: _Segment, encoded: _Encoded, batch: Sequence[SourceFrame]) -> Iterator[Frames]:
        plan, first = segment.plan, segment.num_pictures
        # Frames are numbered from the chunk's first picture.
        checks = FiniteChecks(plan.task.first_frame + first, len(batch), plain_path=plan.task.plain_path)
        stage = FinishStage(self, plan, checks, deque(batch))
        yield from stage.run(self._decoded_chunk(segment, encoded, checks))

    def _decoded_chunk(self, segment: _Segment, encoded: _Encoded, checks: FiniteChecks) -> Iterator[Tensor]:
        plan, chunk = segment.plan, encoded.chunk
        everything = range(chunk.num_decoded)
        checks.ask("encode", everything, encoded.degraded_TCHW)
        front = front_of(chunk, encoded.before, self._model.config)
        with self.watch("transform"):
            restored_TCHW = self._transform(plan, encoded.degraded_TCHW, encoded.before, front)
        checks.ask("transform", everything, restored_TCHW)
        memories = None if chunk.is_first else self._take_decoder(plan)
        first = 0
        for piece_TCHW in torch.split(restored_TCHW, plan.memory.latents_at_once):
            with self.watch("decode"):
                pictures_TCHW, memories = self._decode(plan, piece_TCHW, memories)
            checks.ask("decode", range(first, first + len(pictures_TCHW)), pictures_TCHW)
            first += len(pictures_TCHW)
            yield pictures_TCHW
        segment.decoder_past = memories

    def _owed(self, segment: _Segment) -> Iterator[Frames]:
        """Yield what other ranks have made, in the order of frames; waits for it."""
        while segment.owed:
            rank, batch = segment.owed.popleft()
            yield Frames(
                self._take_pictures(segment.plan, rank, batch),
                tuple(frame.pts for frame in batch),
                batch[0].time_base,
            )

    def _settle(self, segment: _Segment) -> None:
        """Leave no message behind: rank 0 takes what nobody wants any more, the others wait until it has."""
        while segment.owed:
            self._take_pictures(segment.plan, *segment.owed.popleft())
        for handed in self._handed.values():
            handed.wait()
        self._handed.clear()

    def _hand(self, tag: int, made: Tensor, index: int) -> None:
        """Hand the rank of a chunk something, once it has what was handed over for the same thing before."""
        if tag in self._handed:
            self._handed.pop(tag).wait()
        self._handed[tag] = self._parallel.hand(made, index % self._parallel.size, tag=tag)

    def _take_encoder(self, plan: SwiftVRPlan) -> EncoderState:
        shapes, _ = memory_shapes(self._model.config.reae, plan.padded_height, plan.padded_width)
        latents = (plan.padded_height // SPACE_STRIDE, plan.padded_width // SPACE_STRIDE)
        config = self._model.config
        *memories, recent_TCHW = self._take(
            _ENCODER, [*shapes, (config.clip_latents, config.reae.latent_channels, *latents)]
        )
        return EncoderState(tuple(memories), recent_TCHW)

    def _take_decoder(self, plan: SwiftVRPlan) -> Memories:
        _, shapes = memory_shapes(self._model.config.reae, plan.padded_height, plan.padded_width)
        return tuple(self._take(_DECODER, shapes))

    def _take(self, tag: int, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        sizes = [torch.Size(shape).numel() for shape in shapes]
        source = (self._parallel.rank - 1) % self._parallel.size
        packed = self._parallel.take((sum(sizes),), self._model.reae.dtype, source, tag=tag).to(self.device)
        return [part.view(shape) for part, shape in zip(torch.split(packed, sizes), shapes, strict=True)]

    def _take_pictures(self, plan: SwiftVRPlan, rank: int, batch: Sequence[SourceFrame]) -> Tensor:
        channels, geometry = batch[0].codes_CHW.shape[0], plan.task.geometry
        dtype = torch.uint8 if plan.task.output_depth == 8 else torch.uint16
        shape = (len(batch), channels, geometry.height, geometry.width)
        return self._parallel.take(shape, dtype, rank, tag=_PICTURES)


def _packed(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])
