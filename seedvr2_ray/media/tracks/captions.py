"""Closed captions inside coded pictures: found, read picture by picture, and put into the new pictures.

EIA-608 and CTA-708 captions travel as ATSC's ``GA94`` user data (ATSC A/53 part 4, 6.2.3), which MPEG-2, H.264 and
HEVC all carry. They belong to a frame, not to a time, so every frame of the master gets those of its own. AV1 has a
place for them too, but readers differ in which of a packet's frames, hidden ones included, they take it for.
"""

from __future__ import annotations  # av.Packet is generic for type checkers only

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.media.bitstream.nal_units import length_size_of, unescaped
from seedvr2_ray.media.bitstream.payloads import with_t35
from seedvr2_ray.media.container.clock import ClockChange, shifts_in_ticks
from seedvr2_ray.media.container.source import demux_video, open_source
from seedvr2_ray.media.tracks.trim import Trim

CARRIERS = {"libx264": "h264", "libx265": "hevc"}
"""Encoders to codecs of masters that captions are put into."""

ERASE = bytes([0xFC, 0x94, 0x2C])
"""EIA-608's "erase displayed memory", with which the last caption ends when the video does."""

_IN_T35 = b"\xb5\x00\x31GA94\x03"
_IN_MPEG2 = b"\x00\x00\x01\xb2GA94\x03"
_SIGNS = {"h264": _IN_T35, "hevc": _IN_T35, "vvc": _IN_T35, "mpeg2video": _IN_MPEG2}
_OTHER_FORMS = {b"\x00\x00\x01\xb2CC\x01": "DVD", b"\x00\x00\x01\xb2\x03": "SCTE-20"}
_LONGEST = 3 * 31
_HAS_CAPTIONS, _COUNT, _IS_VALID, _IS_708 = 0x40, 0x1F, 4, 2


def can_carry(codec: str) -> bool:
    """Whether captions can be read from a codec's pictures."""
    return codec in _SIGNS


def captions_of(codec: str, data: bytes) -> bytes:
    """Return the caption data of a packet: three bytes each, padding included; empty where there is none."""
    sign = _SIGNS[codec]
    found = b""
    at = data.find(sign)
    while at >= 0:
        body = data[at + len(sign) : at + len(sign) + 2 * _LONGEST]
        if codec != "mpeg2video":
            body = unescaped(body)
        if len(body) > 2 and body[0] & _HAS_CAPTIONS:
            found += body[2 : 2 + 3 * (body[0] & _COUNT)]
        at = data.find(sign, at + len(sign))
    return found[: len(found) // 3 * 3]


def says_something(captions: bytes) -> bool:
    """Whether there is more than padding, which many encoders write into every picture."""
    for at in range(0, len(captions), 3):
        head, first, second = captions[at : at + 3]
        if head & _IS_VALID and (head & _IS_708 or (first | second) & 0x7F):
            return True
    return False


def other_form(codec: str, data: bytes) -> str:
    """Name captions in a form that is not carried over; empty where there are none."""
    if codec == "av1" and _IN_T35 in data:
        return "AV1"
    if codec != "mpeg2video":
        return ""
    return next((name for sign, name in _OTHER_FORMS.items() if sign in data), "")


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
        captions = self._captions.of_frame(frame)[:_LONGEST]
        if not captions:
            return packet
        payload = _IN_T35 + bytes([0x80 | _HAS_CAPTIONS | len(captions) // 3, 0xFF]) + captions + b"\xff"
        written: av.Packet[Any] = av.Packet(with_t35(self._codec, bytes(packet), payload, self._length_size))
        written.is_keyframe = packet.is_keyframe
        return written
