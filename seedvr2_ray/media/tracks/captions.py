"""Closed captions inside coded pictures: read picture by picture, and put into the new pictures.

They belong to a frame, not to a time, so every frame of the master gets those of its own.
"""

from __future__ import annotations  # av.Packet is generic for type checkers only

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.media.bitstream.nal_units import length_size_of
from seedvr2_ray.media.bitstream.payloads import with_t35
from seedvr2_ray.media.container.caption_data import captions_of, t35_payload
from seedvr2_ray.media.container.clock import ClockChange, shifts_in_ticks
from seedvr2_ray.media.container.source import demux_video, open_source
from seedvr2_ray.media.tracks.trim import Trim

CARRIERS = {"libx264": "h264", "libx265": "hevc"}
"""Encoders to codecs of masters that captions are put into."""

ERASE = bytes([0xFC, 0x94, 0x2C])
"""EIA-608's "erase displayed memory", with which the last caption ends when the video does."""


class FrameCaptions:
    """The captions of every frame of a source, in a few bytes each."""

    def __init__(self, num_frames: int) -> None:
        """Begin without any."""
        self._data = bytearray()
        self._starts = array("q", bytes(8 * num_frames))
        self._sizes = array("H", bytes(2 * num_frames))

    def add(self, frame: int, captions: bytes) -> None:
        """Give a frame its captions; a frame of two fields may get them in two packets."""
        known = self.of_frame(frame)
        self._starts[frame], self._sizes[frame] = len(self._data), len(known) + len(captions)
        self._data += known + captions

    def of_frame(self, frame: int) -> bytes:
        """Return the captions of a frame, three bytes each."""
        start = self._starts[frame]
        return bytes(self._data[start : start + self._sizes[frame]])

    @property
    def num_frames(self) -> int:
        """Frames that have captions."""
        return sum(size > 0 for size in self._sizes)


def read_captions(
    path: str,
    stream_index: int,
    frame_pts: Sequence[int],
    clock: Sequence[ClockChange] = (),
    *,
    within: Trim | None = None,
) -> tuple[FrameCaptions, int]:
    """Read the captions of all frames from their packets, without decoding.

    Args:
        frame_pts: of all frames, increasing.
        clock: where the file's own clock starts anew; ``frame_pts`` are of one clock.
        within: the stretch of the video that they are all frames of; what lies outside is not missed.

    Returns:
        The captions, and how many packets with captions belong to none of the frames.

    Raises:
        MediaError: the source cannot be read.
    """
    captions, num_lost = FrameCaptions(len(frame_pts)), 0
    with open_source(path, stream_index) as source:
        codec = source.stream.codec_context.codec.canonical_name
        time_base = source.stream.time_base or Fraction(1, 25)
        position: int | None = None
        for packet in demux_video(source):
            position = packet.pos if packet.pos is not None else position
            found = captions_of(codec, bytes(packet))
            if not found or packet.pts is None:
                num_lost += bool(found)
                continue
            pts = packet.pts + shifts_in_ticks(clock, [position], time_base)[0]
            frame = bisect_left(frame_pts, pts)
            if frame < len(frame_pts) and frame_pts[frame] == pts:
                captions.add(frame, found)
            elif within is None or within.holds(pts * time_base):
                num_lost += 1
    return captions, num_lost


class CaptionWriter:
    """Puts the captions of the source into the packets of a master."""

    def __init__(self, captions: FrameCaptions, stream: Any, encoder: str) -> None:
        """Write into packets of a stream of parts.

        Args:
            stream: of a part; says how its units are told apart.
            encoder: of the master, one of :data:`CARRIERS`.
        """
        self._captions = captions
        self._codec = CARRIERS[encoder]
        self._length_size = length_size_of(self._codec, stream.codec_context.extradata)

    def captioned(self, packet: av.Packet[Any], frame: int) -> av.Packet[Any]:
        """Return the packet of a frame with the frame's captions, or as it is where there are none."""
        captions = self._captions.of_frame(frame)
        if not captions:
            return packet
        data = with_t35(self._codec, bytes(packet), t35_payload(captions), self._length_size)
        written: av.Packet[Any] = av.Packet(data)
        written.is_keyframe = packet.is_keyframe
        return written
