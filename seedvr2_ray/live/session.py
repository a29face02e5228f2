"""One live stream from end to end: three threads that hand frames on through bounded channels.

Reading, restoring and writing go on at the same time. Whichever side ends first, the others end after it: when the
source is over, every frame that came in goes out; when nobody takes the output any more, nothing is read further.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from seedvr2_ray.errors import CapacityError, MediaError, TargetError
from seedvr2_ray.frames import Frames
from seedvr2_ray.live.channel import Channel, Policy
from seedvr2_ray.live.endless import EndlessRestorer, measure_rate
from seedvr2_ray.live.events import Tell, chunk_event, notice_event, plan_event
from seedvr2_ray.live.output import Bytes, Kind, LiveOutput, measure_encoding
from seedvr2_ray.live.pictures import BatchReader, describe_live, plan_live_master
from seedvr2_ray.live.source import Connected, LiveSource, Picture, Sound
from seedvr2_ray.media.info import VideoInfo
from seedvr2_ray.media.output.master import MasterFormat
from seedvr2_ray.restoration.planning.geometry import Geometry, parse_resolution, plan_geometry

_MOST_RESTORED = 16
"""Batches that wait for the encoder."""
_MOST_SOUNDS = 20_000
_DROPPED_SECONDS = 1.0
"""Between two reports of dropped frames."""
_LISTEN_SECONDS = 0.1


class Target(Protocol):
    """Opens the output when the first picture tells what it must hold."""

    def __call__(self) -> Bytes | str:
        """Open it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRules:
    """What is done when a stream is faster than its restoration."""

    policy: Policy = "drop"
    least_factor: float = 0.0
    """Real-time factor below which the stream is refused; 0 measures and refuses nothing below it."""
    measures: bool = True
    """Whether the factor is measured before the stream begins, which takes a few chunks' time."""
    queue_chunks: int = 3
    """Chunks of frames that may wait."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveOutcome:
    """What became of a stream."""

    frames_in: int
    frames_out: int
    dropped: int
    jumps: int
    """How often the source's clock started anew."""
    seconds: float


@dataclass(slots=True)
class _Counts:
    frames_in: int = 0
    frames_out: int = 0
    told_dropped: int = 0
    arrived: dict[int, float] = field(default_factory=dict)
    """By the time of the picture on the output's clock."""


class LiveSession:
    """Runs one stream; the thread that calls :meth:`run` restores."""

    def __init__(
        self,
        source: LiveSource,
        endless: EndlessRestorer,
        open_target: Target,
        kind: Kind,
        rules: LiveRules,
        tell: Tell = lambda event: None,
    ) -> None:
        """Put the parts together; nothing is opened before :meth:`run`."""
        self._source = source
        self._endless = endless
        self._open_target = open_target
        self._kind = kind
        self._rules = rules
        self._tell = tell
        room = max(endless.frames_at_once, 4) * rules.queue_chunks
        self._pictures: Channel[Picture] = Channel(room, rules.policy)
        self._sounds: Channel[Sound] = Channel(_MOST_SOUNDS, "drop")
        self._restored: Channel[Frames] = Channel(_MOST_RESTORED)
        self._connected: list[Connected] = []
        self._counts = _Counts()
        self._failures: list[BaseException] = []
        self._stopped = threading.Event()

    @property
    def num_dropped(self) -> int:
        """Frames that came too fast to be restored."""
        return self._pictures.num_dropped

    @property
    def num_out(self) -> int:
        """Frames that have been written."""
        return self._counts.frames_out

    def stop(self) -> None:
        """End the stream: what has come in goes out. May be called by any thread."""
        self._source.stop()
        self._pictures.close()

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """End the stream in order when the process is asked to end; at once when it is asked twice."""

        def end(number: int, frame: object) -> None:
            signal.signal(number, signal.default_int_handler)
            self.stop()

        previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def run(self) -> LiveOutcome:
        """Restore until the stream is over.

        Raises:
            MediaError: what comes in cannot be restored.
            CapacityError: this machine is too slow for it, by the rules.
            TargetError: the output does not take it.
        """
        began = time.monotonic()
        reader = threading.Thread(target=self._read, name="live-reader", daemon=True)
        reader.start()
        try:
            self._restore()
        finally:
            self._source.stop()
            self._pictures.abandon()
            self._sounds.close()
        if self._failures:
            raise self._failures[0]
        outcome = LiveOutcome(
            frames_in=self._counts.frames_in,
            frames_out=self._counts.frames_out,
            dropped=self._pictures.num_dropped,
            jumps=self._source.clock.num_jumps,
            seconds=time.monotonic() - began,
        )
        self._tell({"event": "end", **{name: getattr(outcome, name) for name in LiveOutcome.__slots__}})
        return outcome

    def _read(self) -> None:
        told_at = 0.0
        try:
            for item in self._source.items():
                if isinstance(item, Picture):
                    self._counts.frames_in += 1
                    self._pictures.put(item)
                    if time.monotonic() - told_at >= _DROPPED_SECONDS and self._tell_dropped():
                        told_at = time.monotonic()
                elif isinstance(item, Sound):
                    self._sounds.put(item)
                else:
                    self._connected.append(item)
            self._tell_dropped()
        except BaseException as error:  # noqa: BLE001  # Told by the thread that waits for this one.
            self._failures.append(error)
        finally:
            self._pictures.close()

    def _tell_dropped(self) -> bool:
        """Say how many frames were dropped since this was said, if any."""
        dropped, told = self._pictures.num_dropped, self._counts.told_dropped
        if dropped > told:
            self._counts.told_dropped = dropped
            self._tell({"event": "dropped", "frames": dropped - told, "dropped": dropped})
        return dropped > told

    def _restore(self) -> None:
        first = self._pictures.take(1)
        if not first:
            if not self._failures:
                raise MediaError("the stream ended before its first picture; check what is sent")
            return
        video, geometry = self._look_at(first[0])
        reader = BatchReader(video)
        head = reader.batch(first)
        master = plan_live_master(video, geometry, self._endless.settings)
        self._plan(video, geometry, head, master)
        early = self._sounds.take(_MOST_SOUNDS, timeout=0.0)
        output = LiveOutput(self._open_target(), self._kind, master, self._connected[0].sound, early)
        writer = threading.Thread(target=self._write, args=(output,), name="live-writer", daemon=True)
        writer.start()
        try:
            for frames in self._endless.restore(self._batches(first, head, reader), geometry):
                self._restored.put(frames)
                if self._stopped.is_set():
                    break
        finally:
            self._restored.close()
            # Whoever is asked twice to end waits for nobody: who takes the output may never take the rest of it.
            if not isinstance(sys.exception(), KeyboardInterrupt):
                writer.join()

    def _look_at(self, first: Picture) -> tuple[VideoInfo, Geometry]:
        source, settings = self._connected[0], self._endless.settings
        video = describe_live(first, source.rate, source.aspect, allows_fields=settings.deinterlace == "off")
        resolution = parse_resolution(settings.resolution)
        return video, plan_geometry(video.width, video.height, video.sample_aspect, resolution, even=True)

    def _plan(self, video: VideoInfo, geometry: Geometry, sample: Frames, master: MasterFormat) -> None:
        if not self._rules.measures:
            return
        rate, restored = measure_rate(self._endless, sample, geometry)
        # Both go on at the same time; the slower one is what a stream waits for.
        factor = min(rate, measure_encoding(master, restored)) / float(video.frame_rate)
        size, source_size = (geometry.width, geometry.height), (video.width, video.height)
        model = self._endless.restorer.identity.name
        self._tell(plan_event(model, source_size, size, float(video.frame_rate), factor))
        what = (
            f"{model} restores {source_size[0]}x{source_size[1]} to {size[0]}x{size[1]} at {factor:.2f} times real "
            f"time here"
        )
        if factor < self._rules.least_factor:
            raise CapacityError(
                f"{what}, and {self._rules.least_factor:g} is the least for this stream; choose a smaller resolution "
                "or a faster model"
            )
        if factor < 1 and self._rules.policy == "drop":
            self._tell(notice_event(f"{what}: about {100 * (1 - factor):.0f} % of the frames will be dropped"))
        elif factor < 1:
            self._tell(notice_event(f"{what}: the sender is slowed down to that"))

    def _batches(self, first: list[Picture], head: Frames, reader: BatchReader) -> Iterator[Frames]:
        self._note(first, head)
        yield head
        # As many as are there, so that a filter may use all cores; never waiting for more than the next one.
        while not self._stopped.is_set() and (pictures := self._pictures.take(self._endless.frames_at_once)):
            for start in range(0, len(pictures), 4):
                some = pictures[start : start + 4]
                alike = reader.alike(some)
                if alike:
                    batch = reader.batch(alike)
                    self._note(alike, batch)
                    yield batch
                if len(alike) < len(some):
                    # What came before still goes out.
                    self._failures.insert(0, reader.why_not(some[len(alike)]))
                    return

    def _note(self, pictures: Sequence[Picture], frames: Frames) -> None:
        for picture, pts in zip(pictures, frames.pts, strict=True):
            self._counts.arrived[pts] = picture.arrived

    def _write(self, output: LiveOutput) -> None:
        latencies: list[float] = []
        num_chunks = 0
        try:
            while not self._restored.is_over:
                batches = self._restored.take(1, timeout=_LISTEN_SECONDS)
                output.hear(self._sounds.take(_MOST_SOUNDS, timeout=0.0))
                for frames in batches:
                    output.write(frames)
                    now = time.monotonic()
                    self._counts.frames_out += len(frames)
                    latencies += [now - self._counts.arrived.pop(pts) for pts in frames.pts]
                if len(latencies) >= self._endless.frames_at_once:
                    self._tell_chunk(num_chunks, latencies)
                    num_chunks, latencies = num_chunks + 1, []
            if latencies:
                self._tell_chunk(num_chunks, latencies)
            output.hear(self._sounds.take(_MOST_SOUNDS, timeout=0.0))
            output.finish()
        except BaseException as error:  # noqa: BLE001  # Told by the thread that waits for this one.
            self._failures.append(_out_of_reach(error))
            self._stopped.set()
            self._source.stop()
            self._restored.abandon()
            self._pictures.abandon()
            _close_quietly(output)

    def _tell_chunk(self, index: int, latencies: list[float]) -> None:
        self._tell(chunk_event(index, len(latencies), latencies, self._pictures.num_dropped, len(self._pictures)))


def _out_of_reach(error: BaseException) -> BaseException:
    if isinstance(error, BrokenPipeError) or not isinstance(error, OSError):
        return error
    return TargetError(f"the output takes no more: {error.strerror or error}")


def _close_quietly(output: LiveOutput) -> None:
    # Whatever broke it has been told.
    with suppress(Exception):
        output.close()
