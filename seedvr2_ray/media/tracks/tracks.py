"""The ways of a stream from the source to the output: copied, or translated where the container forces it."""

from __future__ import annotations  # av.Packet is generic for type checkers only

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.container.clock import TrackClock
from seedvr2_ray.media.container.inventory import codec_name, is_cover
from seedvr2_ray.media.container.source import open_container, path_of
from seedvr2_ray.media.info import Notice, VideoInfo
from seedvr2_ray.media.tracks.captions import ERASE
from seedvr2_ray.media.tracks.sound import described_for
from seedvr2_ray.media.tracks.stream_plan import StreamPlan
from seedvr2_ray.media.tracks.trim import Trim

_COVER_NAMES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_EMPTY_CAPTION = b"\0\0"
_HEAD_PACKETS = 4
_MOST_READ_PACKETS, _MOST_READ_BYTES = 4000, 64 * 2**20
"""Streams that have not begun by then, as subtitles may, are judged by their headers."""
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

    def remarks(self) -> list[Notice]:
        """Say what of the stream did not come through as planned, when all is written."""


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
        return _CopiedTrack(output, stream, plan)
    return _AudioTrack(output, stream, plan) if stream.type == "audio" else _TextTrack(output, stream, plan.codec)


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

    def __init__(self, output: av.container.OutputContainer, stream: Any, plan: StreamPlan) -> None:
        self._is_cover = is_cover(stream)
        with described_for(output, stream) as template:
            self._copy = output.add_stream_from_template(template, opaque=True)
        self._copy.time_base = stream.time_base
        if plan.layout:
            self._copy.codec_context.layout = plan.layout
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
            if not self._is_cover:
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

    def remarks(self) -> list[Notice]:
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
        self._subject = f"subtitle stream {stream.index}"
        self._source = stream
        self._is_bare_text = codec_name(stream) not in ("mov_text", "eia_608")
        # Line 21 has no end of a caption but the next one's beginning: its decoder alone knows the times.
        self._is_line_21 = codec_name(stream) == "eia_608"
        self._end: tuple[Fraction, Fraction] | None = None
        self._num_guessed = self._num_lost = 0
        self._copy = _add_encoder(output, codec)
        stream.codec_context.open(strict=False)
        self._copy.codec_context.subtitle_header = stream.codec_context.subtitle_header or _EMPTY_STYLES
        self._copy.codec_context.time_base = Fraction(1, 1000)
        self._copy.time_base = Fraction(1, 1000)
        copy_description(stream, self._copy)

    def accept(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        if packet.pts is None or not packet.size:
            return []
        self._end = ((packet.pts + (packet.duration or 0)) * packet.time_base, packet.time_base)
        try:
            text = self._translate(packet)
        except (ValueError, av.FFmpegError):
            self._num_lost += 1
            return []
        if text is None or not text.size:
            return []
        text.stream = self._copy
        text.is_keyframe = True
        return [text]

    def _translate(self, packet: av.Packet[Any]) -> av.Packet[Any] | None:
        subtitles = self._source.codec_context.decode2(self._in_utf8(packet))
        if subtitles is None or not len(subtitles):
            return None
        start, duration, tick = packet.pts, packet.duration, packet.time_base
        if self._is_line_21:
            start, duration, tick = subtitles.pts // 1000, subtitles.end_display_time, Fraction(1, 1000)
        subtitles.start_display_time = 0
        text: av.Packet[Any] = self._copy.codec_context.encode_subtitle(subtitles)
        text.pts = text.dts = start
        text.duration = duration
        text.time_base = tick
        return text

    def _in_utf8(self, packet: av.Packet[Any]) -> av.Packet[Any]:
        """Rewrite a line in the old Western encoding, which is what is found where it should be UTF-8."""
        if not self._is_bare_text:
            return packet
        data = bytes(packet)
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            self._num_guessed += 1
            rewritten: av.Packet[Any] = av.Packet(_from_windows_1252(data).encode("utf-8"))
            rewritten.pts, rewritten.dts, rewritten.duration = packet.pts, packet.dts, packet.duration
            rewritten.time_base = packet.time_base
            return rewritten
        return packet

    def finish(self) -> list[av.Packet[Any]]:
        if not self._is_line_21 or self._end is None:
            return []
        seconds, tick = self._end
        last: av.Packet[Any] = av.Packet(ERASE)
        last.pts, last.dts, last.time_base = round(seconds / tick), round(seconds / tick), tick
        return self.accept(last)

    def remarks(self) -> list[Notice]:
        found = []
        if self._num_guessed:
            reason = f"{self._num_guessed} lines are not in UTF-8 and were read as Windows-1252 (Western European)"
            found.append(Notice("converted", self._subject, reason))
        if self._num_lost:
            found.append(Notice("left_out", self._subject, f"{self._num_lost} lines that cannot be read are missing"))
        return found


def _from_windows_1252(data: bytes) -> str:
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # Five codes have no letter in Windows-1252.


class _AudioTrack:
    """Encodes sound anew, for a container that cannot hold what the source has."""

    def __init__(self, output: av.container.OutputContainer, stream: Any, plan: StreamPlan) -> None:
        self._subject = f"audio stream {stream.index}"
        self._source = stream
        self._num_lost = 0
        self._copy = _add_encoder(output, plan.codec, plan.rate)
        context = self._copy.codec_context
        context.layout = plan.layout
        context.time_base = Fraction(1, plan.rate)
        copy_description(stream, self._copy)
        self._resampler: av.AudioResampler | None = None
        self._resampled_from: tuple[str, str, int] | None = None
        self._next_sample: int | None = None

    def accept(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        try:
            frames = self._source.codec_context.decode(packet)
        except av.FFmpegError:
            self._num_lost += 1
            return []  # A damaged stretch is silence, as in any player.
        return self._encode(frames)

    def finish(self) -> list[av.Packet[Any]]:
        try:
            frames = self._source.codec_context.decode(None)
        except av.FFmpegError:
            frames = []
        return [*self._encode(frames), *self._drained(), *self._copy.encode(None)]

    def remarks(self) -> list[Notice]:
        if not self._num_lost:
            return []
        reason = f"{self._num_lost} packets of sound cannot be decoded; there is silence in their place"
        return [Notice("left_out", self._subject, reason)]

    def _encode(self, frames: Any) -> list[av.Packet[Any]]:
        packets: list[av.Packet[Any]] = []
        for frame in frames:
            self._stamp(frame)
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            if form != self._resampled_from:  # Broadcasts change from stereo to 5.1 and back.
                packets += self._drained()
                context = self._copy.codec_context
                self._resampler = av.AudioResampler(context.format, context.layout, context.sample_rate)
                self._resampled_from = form
            assert self._resampler is not None
            packets += self._packets_of(self._resampler.resample(frame))
        return packets

    def _drained(self) -> list[av.Packet[Any]]:
        return [] if self._resampler is None else self._packets_of(self._resampler.resample(None))

    def _packets_of(self, frames: Any) -> list[av.Packet[Any]]:
        return [packet for frame in frames for packet in self._copy.encode(frame)]

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
    source: av.container.InputContainer,
    tracks: dict[int, Track],
    video: VideoInfo,
    *,
    only_heads: bool = False,
    trim: Trim | None = None,
) -> Iterator[av.Packet[Any]]:
    """Yield the packets to write for all copied and converted streams, in the source's order.

    Args:
        video: the restored pictures; where their clock starts anew, so does that of the others.
        only_heads: end after the first few packets of every stream.
        trim: what an excerpt keeps of them.

    Raises:
        MediaError: the source cannot be read.
    """
    if not tracks:
        return
    # The first packets are all of the first clock.
    clock = TrackClock(video.clock, video.stream_index) if video.clock and not only_heads else None
    wanted = [*tracks, video.stream_index] if clock is not None else [*tracks]
    packets = head_packets(source, tracks) if only_heads else source.demux([source.streams[i] for i in wanted])
    while True:
        try:
            packet = next(packets, None)
        except (OSError, av.FFmpegError) as error:
            raise MediaError(f"{path_of(source)} can no longer be read: {error}") from error
        if packet is None:
            break
        if packet.size and (clock is None or clock.place(packet)) and (trim is None or trim.keep(packet)):
            yield from tracks[packet.stream_index].accept(packet)
    for track in tracks.values():
        yield from track.finish()


def head_packets(source: av.container.InputContainer, indices: Collection[int]) -> Iterator[av.Packet[Any]]:
    """Yield the first packets of some streams, reading so much of the file and no more."""
    num_missing = dict.fromkeys(indices, _HEAD_PACKETS)
    num_read = num_bytes = 0
    for packet in source.demux():
        num_read, num_bytes = num_read + 1, num_bytes + packet.size
        if packet.size and num_missing.get(packet.stream_index, 0) > 0:
            num_missing[packet.stream_index] -= 1
            yield packet
        if not any(num_missing.values()) or num_read > _MOST_READ_PACKETS or num_bytes > _MOST_READ_BYTES:
            return


def _add_encoder(output: av.container.OutputContainer, codec: str, rate: int | None = None) -> Any:
    return output.add_stream(codec, rate=rate)
