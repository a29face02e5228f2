"""A stream that is read as it comes: pictures decoded, sound as packets or samples, all on one clock."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

from seedvr2_ray.errors import MediaError
from seedvr2_ray.live.clock import StreamClock
from seedvr2_ray.live.events import Tell, notice_event
from seedvr2_ray.live.fields import FieldMerger

_MOST_HELD = 2000
"""Packets of sound that wait for the first picture."""
_MOST_DAMAGED = 200
"""Packets one after another that no decoder takes: what comes is no video."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded frame."""

    frame: av.VideoFrame
    at: Fraction
    """Seconds on the output's clock."""
    arrived: float
    """By :func:`time.monotonic`."""


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """What a track of sound is; outlives the container it was found in."""

    codec: str
    sample_rate: int
    channels: int
    setup: bytes
    """The codec's own description of itself, empty where every packet has one."""
    template: Any
    """A stream to make others after, of a container that nothing is ever written to."""
    keeper: Any

    @property
    def kind(self) -> tuple[str, int, int]:
        """What must stay the same for packets to be copied."""
        return self.codec, self.sample_rate, self.channels


@dataclass(frozen=True, slots=True)
class SoundPacket:
    """Coded sound, with what a muxer must know."""

    data: bytes
    time_base: Fraction
    duration: int
    format: SoundFormat


@dataclass(frozen=True, slots=True)
class Sound:
    """A packet that is copied, or decoded samples that are encoded anew."""

    data: SoundPacket | av.AudioFrame
    at: Fraction
    """Seconds on the output's clock."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A source was opened, for the first time or once more."""

    rate: Fraction
    """Frames per second, as well as the container knows."""
    aspect: Fraction
    """Width over height of a pixel."""
    sound: SoundFormat | None


Heard = Picture | Sound | Connected
Opener = Callable[[], InputContainer | None]
"""Opens the source, again after a break; None when it is over for good."""


class LiveSource:
    """Reads one source until it ends for good, however often it breaks off."""

    def __init__(
        self,
        opener: Opener,
        *,
        copies_sound: Callable[[str], bool],
        merges_fields: bool = False,
        tell: Tell = lambda event: None,
        clock: StreamClock | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            copies_sound: whether packets of a codec can go into the output as they are.
            merges_fields: make interlaced pictures progressive.
            tell: about interruptions and damage.
            clock: another one than of its own, to look at.
        """
        self._opener = opener
        self._copies_sound = copies_sound
        self._merges_fields = merges_fields
        self._tell = tell
        self.clock = clock or StreamClock()
        self._stopped = threading.Event()
        self._num_damaged = 0

    def stop(self) -> None:
        """End at the next packet."""
        self._stopped.set()

    def items(self) -> Iterator[Heard]:
        """Yield what comes, in the order in which it comes.

        Raises:
            MediaError: what comes is no video.
        """
        num_connections = 0
        while not self._stopped.is_set() and (container := self._opener()) is not None:
            if num_connections:
                self.clock.begin_anew()
                self._tell({"event": "resumed", "connection": num_connections + 1})
            num_connections += 1
            with container:
                yield from self._read(container)

    def _read(self, container: InputContainer) -> Iterator[Heard]:
        video = next(iter(container.streams.video), None)
        if video is None:
            raise MediaError("the stream has no video; send one with pictures")
        sound = next(iter(container.streams.audio), None)
        video.thread_type = "SLICE"  # Threads over frames would hold back as many frames as there are threads.
        described = None if sound is None else _describe_sound(sound)
        yield Connected(_rate_of(video), Fraction(video.sample_aspect_ratio or 1), described)
        held: list[Any] | None = []
        merger = FieldMerger() if self._merges_fields else None
        streams = [video] if sound is None else [video, sound]
        for packet in self._packets(container, streams):
            if self._stopped.is_set():
                return
            if packet.stream is video:
                for frame in self._decoded(packet):
                    picture = self._picture(frame, video)
                    yield from [picture] if merger is None else merger.take(picture)
                    # Sound before the first picture has nothing to be in step with.
                    if held is not None:
                        waiting, held = held, None
                        for each in waiting:
                            yield from self._sounds(each, described)
            elif held is not None:
                held.append(packet)
                del held[:-_MOST_HELD]
            else:
                yield from self._sounds(packet, described)
        if merger is not None:
            yield from merger.flush()

    def _packets(self, container: InputContainer, streams: list[Any]) -> Iterator[Any]:
        packets = container.demux(streams)
        num_errors = 0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.InvalidDataError as error:
                num_errors += 1
                if num_errors > _MOST_DAMAGED:
                    raise MediaError(f"the stream is damaged beyond reading ({error.strerror})") from error
                # The generator has ended with its error; the demuxer finds the next packet.
                packets = container.demux(streams)
                continue
            except (av.FFmpegError, OSError):
                # A peer that went away, or silence: what was in the decoders still comes.
                for stream in streams:
                    yield from _flush_packets(stream)
                return
            num_errors = 0
            yield packet

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = packet.decode()
        except av.FFmpegError:
            self._num_damaged += 1
            if self._num_damaged == 1:
                self._tell(notice_event("packets of the stream are damaged or have no key frame before them"))
            return []
        return frames

    def _picture(self, frame: av.VideoFrame, video: av.VideoStream) -> Picture:
        base = frame.time_base or video.time_base or Fraction(1, 90000)
        duration = frame.duration * base if frame.duration else 1 / _rate_of(video)
        at = None if frame.pts is None else frame.pts * base
        return Picture(frame, self.clock.place("video", at, Fraction(duration)), time.monotonic())

    def _sounds(self, packet: Any, described: SoundFormat | None) -> Iterator[Sound]:
        assert described is not None
        if self._copies_sound(described.codec):
            if packet.size and packet.pts is not None:
                base = packet.time_base
                seconds = packet.duration * base if packet.duration else Fraction(1024, described.sample_rate)
                data = SoundPacket(bytes(packet), base, packet.duration or 0, described)
                yield Sound(data, self.clock.place("sound", packet.pts * base, Fraction(seconds)))
            return
        for frame in self._decoded(packet):
            at = None if frame.pts is None else frame.pts * frame.time_base
            yield Sound(frame, self.clock.place("sound", at, Fraction(frame.samples, frame.sample_rate)))


def _rate_of(video: av.VideoStream) -> Fraction:
    """Containers without a rate of their own give their clock's instead."""
    rate = Fraction(video.average_rate or video.guessed_rate or 25)
    return rate if 1 <= rate <= 240 else Fraction(25)


def _describe_sound(stream: av.AudioStream) -> SoundFormat:
    context = stream.codec_context
    # A stream made after one whose container is closed would read memory that is gone.
    keeper = av.open(io.BytesIO(), "w", format="nut")
    return SoundFormat(
        codec=context.name,
        sample_rate=context.sample_rate,
        channels=context.layout.nb_channels,
        setup=bytes(context.extradata or b""),
        template=keeper.add_stream_from_template(stream),
        keeper=keeper,
    )


def _flush_packets(stream: Any) -> Iterator[Any]:
    packet = av.Packet(0)
    packet.stream = stream
    with suppress(av.FFmpegError):
        yield packet
