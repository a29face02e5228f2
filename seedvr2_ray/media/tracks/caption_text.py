"""Closed captions as a subtitle track, for masters whose pictures cannot carry them."""

from __future__ import annotations  # av.Packet is generic for type checkers only

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.media.tracks.captions import ERASE, FrameCaptions

TEXT_CODECS = {"mp4": "mov_text", "mov": "mov_text", "mkv": "subrip", "webm": "webvtt"}
"""Containers to the notation of their text."""

_MICROSECOND, _MILLISECOND = Fraction(1, 1_000_000), Fraction(1, 1000)


@dataclass(frozen=True, slots=True)
class CaptionLine:
    """A caption as it stood on the screen."""

    start: Fraction
    """Seconds, as is ``duration``."""
    duration: Fraction
    text: Any
    """libav's subtitle, styled."""


class CaptionText:
    """What EIA-608 captions say, and when: a subtitle track of the master."""

    def __init__(self, captions: FrameCaptions, times: Sequence[Fraction], end: Fraction) -> None:
        """Decode the captions.

        Args:
            times: when every frame is shown, in seconds.
            end: when the last one ends.
        """
        # By its own account libav's decoder is told the clock of the packets; without it no text has a time.
        decoder: Any = av.CodecContext.create("cc_dec", "r")
        decoder.options = {"pkt_timebase": "1/1000000"}
        decoder.open(strict=False)
        self.header: bytes = decoder.subtitle_header
        self.lines: list[CaptionLine] = []
        for frame, time in enumerate(times):
            data = captions.of_frame(frame)
            if data:
                self._decode(decoder, data, time)
        self._decode(decoder, ERASE, end)

    def _decode(self, decoder: Any, data: bytes, time: Fraction) -> None:
        packet: av.Packet[Any] = av.Packet(data)
        packet.pts = packet.dts = round(time / _MICROSECOND)
        packet.time_base = _MICROSECOND
        text = decoder.decode2(packet)
        if text is None or not any(rect.dialogue for rect in text):
            return
        duration = text.end_display_time * _MILLISECOND
        self.lines.append(CaptionLine(text.pts * _MICROSECOND, duration, text))

    def add_to(self, output: av.container.OutputContainer, container: str) -> Iterator[av.Packet[Any]]:
        """Add the track to a master; the packets are then to be written among the others."""
        stream: Any = output.add_stream(TEXT_CODECS[container])
        context = stream.codec_context
        context.subtitle_header = self.header
        context.time_base = stream.time_base = _MILLISECOND
        stream.metadata["title"] = "Closed captions"
        if container in ("mp4", "mov"):
            stream.metadata["handler_name"] = "Closed captions"
        return self._packets(stream)

    def _packets(self, stream: Any) -> Iterator[av.Packet[Any]]:
        for line in self.lines:
            line.text.start_display_time = 0
            packet = stream.codec_context.encode_subtitle(line.text)
            packet.stream, packet.time_base, packet.is_keyframe = stream, _MILLISECOND, True
            packet.pts = packet.dts = round(line.start / _MILLISECOND)
            packet.duration = round(line.duration / _MILLISECOND)
            yield packet
