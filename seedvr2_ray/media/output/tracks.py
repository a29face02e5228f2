"""The ways of a stream from the source to the output: copied, or translated where the container forces it."""

from __future__ import annotations  # av.Packet is generic for type checkers only

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.container.clock import TrackClock
from seedvr2_ray.media.container.info import VideoInfo
from seedvr2_ray.media.container.inventory import is_cover
from seedvr2_ray.media.container.source import open_container, path_of
from seedvr2_ray.media.output.streams import StreamPlan

_COVER_NAMES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_OPUS_RATE = 48000
_EMPTY_CAPTION = b"\0\0"
_SMALLEST_GAP = Fraction(1, 20)
"""Seconds by which sound may be off its own count before the difference is taken for a gap."""
_QUICKTIME_LANGUAGES = {
    "deu": "ger",
    "nld": "dut",
    "ell": "gre",
    "isl": "ice",
    "zho": "chi",
    "hye": "arm",
    "kat": "geo",
    "mkd": "mac",
    "msa": "may",
    "fas": "per",
    "sqi": "alb",
    "eus": "baq",
    "cym": "wel",
    "bod": "tib",
    "mya": "bur",
}
"""FFmpeg's table for QuickTime has these languages by their bibliographic codes only (ISO 639-2/B), and others not."""

_OF_THE_OLD_PICTURES = frozenset({"encoder", "rotate", "alpha_mode"})
"""Tags that described the stream before it was restored."""
_STATISTICS = ("BPS", "DURATION", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "_STATISTICS")
"""Tags some Matroska muxers write about a stream's packets: untrue of a stream that was encoded anew."""

_EMPTY_STYLES = (
    b"[Script Info]\r\nScriptType: v4.00+\r\nPlayResX: 384\r\nPlayResY: 288\r\n\r\n[V4+ Styles]\r\n"
    b"Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, "
    b"Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, "
    b"MarginR, MarginV, Encoding\r\nStyle: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,"
    b"10,10,10,1\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)


class Track(Protocol):
    """One stream on its way from the source to the output."""

    def accept(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        """Return the packets to write for one packet of the source."""

    def finish(self) -> list[av.Packet[Any]]:
        """Return what is left when the source has ended."""


def open_track(output: av.container.OutputContainer, stream: Any, plan: StreamPlan) -> Track | None:
    """Add a planned stream to the output; attachments travel in its header and need no track."""
    if plan.action == "attach" and stream.type == "video":
        name, mime = _COVER_NAMES.get(stream.codec_context.name, ("cover", "application/octet-stream"))
        output.add_attachment(name, mime, _cover_bytes(stream))
        return None
    if plan.action == "attach":
        copy_description(stream, output.add_stream_from_template(stream))
        return None
    if plan.action == "copy":
        return _CopiedTrack(output, stream)
    return _AudioTrack(output, stream, plan.codec) if stream.type == "audio" else _TextTrack(output, stream, plan.codec)


def stream_metadata(stream: Any, *, restored: bool) -> dict[str, str]:
    """Return a stream's tags; statistics that no longer hold are dropped from a restored one."""
    return {
        key: value
        for key, value in stream.metadata.items()
        if not restored or not (key.startswith(_STATISTICS) or key.lower() in _OF_THE_OLD_PICTURES)
    }


def copy_description(stream: Any, copy: Any, *, restored: bool = False) -> None:
    """Give a stream of the output the tags and the disposition of the source's."""
    tags = stream_metadata(stream, restored=restored)
    muxer = copy.container.format.name
    if muxer in ("mp4", "mov") and "title" in tags:
        # Their tracks have no title; players show the handler's name instead.
        tags["handler_name"] = tags["title"]
    if muxer == "mov" and "language" in tags:
        tags["language"] = _QUICKTIME_LANGUAGES.get(tags["language"], tags["language"])
    copy.metadata.update(tags)
    copy.disposition = stream.disposition


def _cover_bytes(stream: Any) -> bytes:
    with open_container(path_of(stream.container)) as again:
        for packet in again.demux(again.streams[stream.index]):
            if packet.size:
                return bytes(packet)
    return b""


class _CopiedTrack:
    """Copies packets, byte for byte, and keeps their decoding times in order."""

    def __init__(self, output: av.container.OutputContainer, stream: Any) -> None:
        self._copy = output.add_stream_from_template(stream, opaque=True)
        self._copy.time_base = stream.time_base
        copy_description(stream, self._copy)
        self._clock = _sample_clock(stream)
        self._last_dts: int | None = None
        # Matroska lets packets share a millisecond; the other muxers refuse two at one time.
        self._least_step = 0 if output.format.name in ("matroska", "webm") else 1
        # MP4's text fills gaps with empty captions. Its muxer writes them anew: copied as well, they would double.
        self._drops_gaps = stream.codec_context is not None and stream.codec_context.name == "mov_text"

    def accept(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        if self._drops_gaps and bytes(packet) == _EMPTY_CAPTION:
            return []
        if packet.pts is None and packet.dts is None:
            if not is_cover(packet.stream):
                return []
            packet.pts = 0
        if self._clock is not None:
            self._clock.stamp(packet)
        dts = packet.dts if packet.dts is not None else packet.pts
        assert dts is not None
        if self._last_dts is not None and dts < self._last_dts + self._least_step:
            dts = self._last_dts + self._least_step
            packet.pts = None if packet.pts is None else max(packet.pts, dts)
        packet.dts = self._last_dts = dts
        packet.stream = self._copy
        return [packet]

    def finish(self) -> list[av.Packet[Any]]:
        return []


@dataclass(slots=True)
class _SampleClock:
    """Gives audio packets sample-exact times back that a container has rounded to its own tick."""

    rate: int
    frame_size: int
    tolerance: Fraction
    """One tick of the source, in samples."""
    next_sample: int | None = None

    def stamp(self, packet: av.Packet[Any]) -> None:
        stored = Fraction(packet.pts if packet.pts is not None else packet.dts or 0) * packet.time_base * self.rate
        sample = round(stored)
        if self.next_sample is not None and abs(stored - self.next_sample) <= self.tolerance:
            sample = self.next_sample
        self.next_sample = sample + self.frame_size
        packet.time_base = Fraction(1, self.rate)
        packet.pts = packet.dts = sample
        packet.duration = self.frame_size


def _sample_clock(stream: Any) -> _SampleClock | None:
    if stream.type != "audio" or stream.codec_context is None:
        return None
    rate, frame_size = stream.codec_context.sample_rate, stream.codec_context.frame_size
    tick = (stream.time_base or Fraction(0)) * rate
    if frame_size <= 0 or tick <= 1:
        return None
    return _SampleClock(rate, frame_size, tick)


class _TextTrack:
    """Translates text subtitles from one notation to another."""

    def __init__(self, output: av.container.OutputContainer, stream: Any, codec: str) -> None:
        self._source = stream
        self._copy = _add_encoder(output, codec)
        stream.codec_context.open(strict=False)
        self._copy.codec_context.subtitle_header = stream.codec_context.subtitle_header or _EMPTY_STYLES
        self._copy.codec_context.time_base = Fraction(1, 1000)
        self._copy.time_base = Fraction(1, 1000)
        copy_description(stream, self._copy)

    def accept(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        subtitles = self._source.codec_context.decode2(packet) if packet.size else None
        if subtitles is None or not len(subtitles) or packet.pts is None:
            return []
        subtitles.start_display_time = 0
        text = self._copy.codec_context.encode_subtitle(subtitles)
        text.stream = self._copy
        text.time_base = packet.time_base
        text.pts = text.dts = packet.pts
        text.duration = packet.duration
        text.is_keyframe = True
        return [text] if text.size else []

    def finish(self) -> list[av.Packet[Any]]:
        return []


class _AudioTrack:
    """Encodes sound anew, for a container that cannot hold what the source has."""

    def __init__(self, output: av.container.OutputContainer, stream: Any, codec: str) -> None:
        self._source = stream
        rate = _OPUS_RATE if codec == "libopus" else stream.codec_context.sample_rate
        self._copy = _add_encoder(output, codec, rate)
        context = self._copy.codec_context
        context.layout = stream.codec_context.layout
        context.time_base = Fraction(1, rate)
        copy_description(stream, self._copy)

        self._next_sample: int | None = None

    def accept(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        try:
            return self._encode(packet.decode())
        except av.error.InvalidDataError:
            return []  # A damaged stretch is silence, as in any player.

    def finish(self) -> list[av.Packet[Any]]:
        return self._encode(self._source.decode(None)) + list(self._copy.encode(None))

    def _encode(self, frames: Any) -> list[av.Packet[Any]]:
        packets: list[av.Packet[Any]] = []
        for frame in frames:
            self._stamp(frame)
            packets += self._copy.encode(frame)  # Resampled and cut to the encoder's size on the way.
        return packets

    def _stamp(self, frame: Any) -> None:
        """Count samples, so that a container's rounding leaves no gaps; only a real gap moves the count."""
        if frame.pts is not None and frame.time_base:
            stored = round(frame.pts * frame.time_base * frame.sample_rate)
            if self._next_sample is None or abs(stored - self._next_sample) > frame.sample_rate * _SMALLEST_GAP:
                self._next_sample = stored
        self._next_sample = self._next_sample or 0
        frame.pts, frame.time_base = self._next_sample, Fraction(1, frame.sample_rate)
        self._next_sample += frame.samples


def demux_tracks(
    source: av.container.InputContainer, tracks: dict[int, Track], video: VideoInfo
) -> Iterator[av.Packet[Any]]:
    """Yield the packets to write for all copied and converted streams, in the source's order.

    Args:
        video: the restored pictures; where their clock starts anew, so does that of the others.

    Raises:
        MediaError: the source cannot be read.
    """
    if not tracks:
        return
    clock = TrackClock(video.clock, video.stream_index) if video.clock else None
    wanted = [*tracks, video.stream_index] if clock is not None else [*tracks]
    packets = source.demux([source.streams[index] for index in wanted])
    while True:
        try:
            packet = next(packets, None)
        except (OSError, av.FFmpegError) as error:
            raise MediaError(f"{path_of(source)} can no longer be read: {error}") from error
        if packet is None:
            break
        if packet.size and (clock is None or clock.place(packet)):
            yield from tracks[packet.stream_index].accept(packet)
    for track in tracks.values():
        yield from track.finish()


def _add_encoder(output: av.container.OutputContainer, codec: str, rate: int | None = None) -> Any:
    return output.add_stream(codec, rate=rate)
