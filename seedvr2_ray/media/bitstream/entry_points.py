"""At which key frames decoding may begin: only those that bring along the parameter sets they are coded with.

A key frame is complete for a decoder that has seen everything before it. One that jumps there has the
sets of the stream's header and those in the packets from there on; where a set was replaced in-band and
is not sent again, it would decode wrong pictures without a word.
"""

import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seedvr2_ray.media.bitstream.nal_units import (
    SYNTAXES,
    ParameterSet,
    SetKey,
    Syntax,
    header_units,
    length_size_of,
    split_units,
)

if TYPE_CHECKING:
    import av

Stretches = tuple[tuple[int, int], ...]
"""Ranges [start, stop) of times, increasing."""

_HEAD_BYTES = 65536
"""Of a packet that are looked at: parameter sets stand before its first slice."""
_END = sys.maxsize


@dataclass(frozen=True, slots=True)
class _InForce:
    """A parameter set at one point of the stream."""

    content: ParameterSet
    sent_with: int
    """Number of the key frame with or after which it was sent last; -1 before the first."""


@dataclass(slots=True)
class _Key:
    pts: int | None
    dts: int | None
    is_entry: bool = True


class EntryPoints:
    """Watches the packets of one stream go by, in the order of the file."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        """Begin with what the container says of the stream.

        Args:
            codec: FFmpeg's name. Streams of other codecs than H.264, HEVC and VVC may be entered at every key frame.
            extradata: what a fresh decoder is given before the first packet.
        """
        self._syntax = SYNTAXES.get(codec)
        self._keys: list[_Key] = []
        self._sets: dict[SetKey, _InForce] = {}
        self._header: dict[SetKey, bytes] = {}
        self._num_checked: dict[SetKey, int] = {}
        self._length_size = 0
        if self._syntax is not None:
            self._begin(self._syntax, extradata, sent_with=-1)
            self._header = {key: held.content.content for key, held in self._sets.items()}

    def watch(self, packet: "av.Packet[av.VideoStream]") -> None:
        """Take the next packet."""
        if packet.is_keyframe:
            self._keys.append(_Key(packet.pts, packet.dts))
        syntax = self._syntax
        if syntax is None:
            return
        if packet.has_sidedata("new_extradata"):
            # Another description of the stream begins (several in one MP4): its header comes with the packet.
            self._begin(syntax, bytes(packet.get_sidedata("new_extradata")), sent_with=len(self._keys) - 1)
        for unit in split_units(bytes(memoryview(packet)[:_HEAD_BYTES]), self._length_size):
            kind = syntax.type_of(unit)
            if kind in syntax.set_kinds:
                self._note(syntax, unit, sent_with=len(self._keys) - 1)
            elif kind in syntax.picture_types:
                self._use(syntax.pps_of(unit))
                return

    def closed(self, *, by_dts: bool) -> Stretches:
        """Return the times whose last key frame is no entry, by presentation or by decoding times."""
        stretches: list[tuple[int, int]] = []
        start: int | None = None
        for key in self._keys:
            stamp = key.dts if by_dts else key.pts
            if stamp is None:
                continue
            if not key.is_entry and start is None:
                start = stamp
            elif key.is_entry and start is not None:
                stretches.append((start, stamp))
                start = None
        if start is not None:
            stretches.append((start, _END))
        # Where a clock starts anew there is no jumping by times; what is left must be searchable.
        tidy: list[tuple[int, int]] = []
        for begin, end in stretches:
            if begin < end and (not tidy or begin >= tidy[-1][1]):
                tidy.append((begin, end))
        return tuple(tidy)

    def _begin(self, syntax: Syntax, extradata: bytes | None, *, sent_with: int) -> None:
        self._length_size = length_size_of(syntax.codec, extradata)
        for unit in header_units(syntax.codec, extradata):
            self._note(syntax, unit, sent_with=sent_with)

    def _note(self, syntax: Syntax, unit: bytes, *, sent_with: int) -> None:
        if syntax.type_of(unit) not in syntax.set_kinds:
            return
        found = syntax.read_set(unit)
        if found is not None:
            self._sets[found.key] = _InForce(found, sent_with)
            self._num_checked.pop(found.key, None)

    def _use(self, pps: int | None) -> None:
        """A picture is coded with a PPS: key frames since it was sent must find the same in the header."""
        key: SetKey | None = None if pps is None else ("pps", pps)
        while key is not None:
            held = self._sets.get(key)
            if held is None:
                return
            if self._header.get(key) != held.content.content:
                first = max(held.sent_with + 1, self._num_checked.get(key, 0))
                for entry in self._keys[first:]:
                    entry.is_entry = False
                self._num_checked[key] = len(self._keys)
            key = held.content.refers_to


def before_closed(stretches: Stretches, stamp: int) -> int:
    """Return the time itself, or the last one before a stretch in which decoding must not begin."""
    while is_closed(stretches, stamp):
        stamp = _find(stretches, stamp)[0] - 1
    return stamp


def is_closed(stretches: Stretches, stamp: int | None) -> bool:
    """Say whether a time lies where decoding must not begin."""
    if not stretches or stamp is None:
        return False
    start, stop = _find(stretches, stamp)
    return start <= stamp < stop


def _find(stretches: Sequence[tuple[int, int]], stamp: int) -> tuple[int, int]:
    index = bisect_right(stretches, (stamp, _END + 1)) - 1
    return stretches[index] if index >= 0 else (stamp + 1, stamp + 1)
