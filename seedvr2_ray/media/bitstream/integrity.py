"""Checksums in containers and codecs: what says of its own bytes that they are not what was written.

Only verdicts count. What a decoder prints is none: sound streams make it complain, and wrong pictures
come without a word.
"""

from array import array
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import av

from seedvr2_ray.media.bitstream.ffv1_slices import has_intact_slices
from seedvr2_ray.media.bitstream.matroska import damaged_clusters
from seedvr2_ray.media.bitstream.transport_errors import TransportUnit, is_damaged

_UNKNOWN = -(1 << 63)
_END = 1 << 63
_NEAR = range(-1, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the checksums of a file say."""

    witness: str = ""
    """Which checksum found damage, for a person; empty when none did."""
    damaged_pts: frozenset[int] = frozenset()
    """Presentation times of the pictures that are damaged, or may build on one that is."""
    damaged_positions: frozenset[int] = frozenset()
    """Where in the file their packets begin."""
    elsewhere: tuple[tuple[int, int], ...] = ()
    """Byte ranges [start, stop) that are damaged without harm to a picture: sound, subtitles, times."""


class IntegrityCheck:
    """Watches the packets of one stream go by, in the order of the file."""

    def __init__(self, container: str, codec: str) -> None:
        """Choose what can be checked.

        Args:
            container: FFmpeg's name of the demuxer.
            codec: FFmpeg's name of the codec.
        """
        self._container = container
        self._is_ffv1 = codec == "ffv1"
        self._pts, self._dts, self._positions = array("q"), array("q"), array("q")
        self._keys = bytearray()
        self._marked: list[int] = []
        self._failed: list[int] = []

    def watch(self, packet: "av.Packet[av.VideoStream]") -> None:
        """Take the next packet."""
        number = len(self._pts)
        self._pts.append(_UNKNOWN if packet.pts is None else packet.pts)
        self._dts.append(_UNKNOWN if packet.dts is None else packet.dts)
        self._positions.append(-1 if packet.pos is None else packet.pos)
        self._keys.append(packet.is_keyframe)
        if packet.is_corrupt:
            self._marked.append(number)
        if self._is_ffv1 and not has_intact_slices(bytes(packet)):
            self._failed.append(number)

    def verdict(self, path: str, *, size: int, tick: float) -> Verdict:
        """Return what is known after the last packet.

        Args:
            size: of the file, in bytes.
            tick: seconds of a tick of the stream.
        """
        if self._container == "mpegts":
            return self._against(self._transport_errors(path, size, tick), "MPEG transport errors")
        # Whether an FFV1 stream carries checksums stands in a range-coded header. It is simpler to believe
        # the first packet that passes: by chance one in four thousand million does.
        answers_for_itself = self._is_ffv1 and len(self._failed) < len(self._pts)
        failed = self._failed if answers_for_itself else []
        clusters = damaged_clusters(path) if self._container == "matroska,webm" else ()
        if not answers_for_itself:
            failed = [number for number in range(len(self._pts)) if self._lies_in(number, clusters)] if clusters else []
        inside = (number for number in failed if self._lies_in(number, clusters))
        hit = {bisect_right(clusters, (self._positions[number], _END)) - 1 for number in inside}
        quiet = tuple(span for index, span in enumerate(clusters) if index not in hit)
        witness = "FFV1 slice CRC" if answers_for_itself and failed else "Matroska CRC-32"
        return self._against(failed, witness, quiet)

    def _against(self, failed: Collection[int], witness: str, elsewhere: tuple[tuple[int, int], ...] = ()) -> Verdict:
        if not failed and not elsewhere:
            return Verdict()
        damaged = self._with_dependents(frozenset(failed))
        return Verdict(
            witness=witness,
            damaged_pts=frozenset(self._pts[number] for number in damaged) - {_UNKNOWN},
            damaged_positions=frozenset(self._positions[number] for number in damaged) - {-1},
            elsewhere=elsewhere,
        )

    def _with_dependents(self, failed: frozenset[int]) -> list[int]:
        """Add what may be predicted from damage: all up to the next key frame, and what that one is shown after."""
        damaged: list[int] = []
        is_broken, leading_until = False, _UNKNOWN
        for number, (pts, is_key) in enumerate(zip(self._pts, self._keys, strict=True)):
            if is_key:
                leading_until = pts if is_broken else _UNKNOWN
                is_broken = False
            is_broken |= number in failed
            if is_broken or (not is_key and pts < leading_until):
                damaged.append(number)
        return damaged

    def _lies_in(self, number: int, spans: Sequence[tuple[int, int]]) -> bool:
        # Spans are in the order of the file, and a file may have many.
        at = bisect_right(spans, (self._positions[number], _END)) - 1
        return at >= 0 and self._positions[number] < spans[at][1]

    def _transport_errors(self, path: str, size: int, tick: float) -> list[int]:
        # libav marks what it is about to hand out, which may be two packets before the one that is meant.
        near = sorted({number + step for number in self._marked for step in _NEAR} & set(range(len(self._pts))))
        return [number for number in near if is_damaged(path, self._unit(number, size, tick))]

    def _unit(self, number: int, size: int, tick: float) -> TransportUnit:
        after = number + 1
        is_last = after == len(self._pts)
        is_timed = not is_last and _UNKNOWN not in (self._dts[number], self._dts[after])
        return TransportUnit(
            position=self._positions[number],
            next_position=size if is_last else self._positions[after],
            seconds_to_next=(self._dts[after] - self._dts[number]) * tick if is_timed else None,
            next_is_key=not is_last and bool(self._keys[after]),
        )
