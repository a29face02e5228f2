"""What travels inside the coded pictures besides pictures, looked for in every packet without decoding one."""

from __future__ import annotations  # av.Packet is generic for type checkers only

from dataclasses import dataclass
from typing import Any

import av

from seedvr2_ray.media.bitstream.nal_units import (
    DOLBY_VISION_UNIT,
    SYNTAXES,
    length_size_of,
    unit_spans,
)
from seedvr2_ray.media.bitstream.payloads import has_messages, messages
from seedvr2_ray.media.container.caption_data import can_carry, captions_of, other_form, says_something
from seedvr2_ray.media.picture.hdr import NO_HDR, StaticHdr, hdr_of_container, hdr_of_header, hdr_of_packet

_DYNAMIC_SIGNS = {
    b"\xb5\x00\x3c\x00\x01\x04": "HDR10+",
    b"\x26\x00\x04\x00\x05": "HDR Vivid",
    b"\xb5\x00\x3b\x00\x00\x08\x00": "Dolby Vision",
}
"""How the T.35 messages of each begin: country, provider, and what of the provider's."""
_FIRST_PACKETS = 16
"""In which metadata of all frames is looked for, besides every key frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureData:
    """What travels inside the pictures of one stream."""

    hdr: StaticHdr = NO_HDR
    dynamic_hdr: frozenset[str] = frozenset()
    """``HDR10+``, ``Dolby Vision``, ``HDR Vivid``: metadata that changes from scene to scene."""
    num_captioned: int = 0
    """Packets whose captions say something."""
    other_captions: frozenset[str] = frozenset()
    """Forms of captions that are not carried over."""


NOTHING_INSIDE = PictureData()


class PictureDataScan:
    """Looks at packets one by one; about as fast as memory is read."""

    def __init__(self, stream: av.VideoStream) -> None:
        """Look at what the container says of the stream."""
        self._codec = stream.codec_context.codec.canonical_name
        extradata = stream.codec_context.extradata
        self._length_size = length_size_of(self._codec, extradata)
        self._hdr, has_dolby_vision = hdr_of_container(stream)
        self._dynamic = {"Dolby Vision"} if has_dolby_vision else set()
        self._num_packets = self._num_captioned = 0
        self._other_captions: set[str] = set()
        if self._codec in SYNTAXES:
            self._hdr = hdr_of_header(self._codec, extradata).filled_from(self._hdr)

    def look(self, packet: av.Packet[Any]) -> None:
        """Take one packet of the pictures into account."""
        self._num_packets += 1
        if not can_carry(self._codec) and not has_messages(self._codec):
            return
        data = bytes(packet)
        if can_carry(self._codec):
            self._num_captioned += says_something(captions_of(self._codec, data))
        if self._codec in ("mpeg2video", "av1"):
            form = other_form(self._codec, data)
            if form:
                self._other_captions.add(form)
        if has_messages(self._codec) and (packet.is_keyframe or self._num_packets <= _FIRST_PACKETS):
            self._look_for_hdr(data)

    def _look_for_hdr(self, data: bytes) -> None:
        if self._hdr.mastering is None or not self._hdr.max_cll:
            self._hdr = hdr_of_packet(self._codec, data, self._length_size).filled_from(self._hdr)
        for _, payload in messages(self._codec, data, self._length_size):
            self._dynamic.update(name for sign, name in _DYNAMIC_SIGNS.items() if payload.startswith(sign))
        if self._codec == "hevc" and "Dolby Vision" not in self._dynamic:
            syntax = SYNTAXES["hevc"]
            kinds = (syntax.type_of(data, start) for start, _ in unit_spans(data, self._length_size))
            if DOLBY_VISION_UNIT in kinds:
                self._dynamic.add("Dolby Vision")

    def found(self) -> PictureData:
        """Return what was found so far."""
        return PictureData(
            hdr=self._hdr,
            dynamic_hdr=frozenset(self._dynamic),
            num_captioned=self._num_captioned,
            other_captions=frozenset(self._other_captions),
        )
