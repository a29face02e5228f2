"""Fragmented MP4 as it leaves the muxer: cut into what a player is given first, and what follows piece by piece."""

from dataclasses import dataclass, field
from typing import Literal

_HEAD = 8
_MOST_BOX_BYTES = 1 << 31
_SOUND_NAMES = {b"mp4a": "mp4a.40.2", b"Opus": "opus", b"fLaC": "flac", b"ac-3": "ac-3", b"ec-3": "ec-3"}


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece that can be appended to a player's buffer."""

    kind: Literal["init", "media"]
    data: bytes
    starts_with_key_frame: bool = False


@dataclass(slots=True)
class FragmentCutter:
    """Takes bytes in any pieces and gives whole fragments."""

    _bytes: bytearray = field(default_factory=bytearray)
    _boxes: list[tuple[bytes, bytes]] = field(default_factory=list)

    def take(self, data: bytes) -> list[Fragment]:
        """Take more bytes; return the fragments that they complete."""
        self._bytes += data
        ready: list[Fragment] = []
        while (box := self._next_box()) is not None:
            self._boxes.append(box)
            if box[0] == b"moov":
                ready.append(self._cut("init"))
            elif box[0] == b"mdat":
                ready.append(self._cut("media"))
        return ready

    def _next_box(self) -> tuple[bytes, bytes] | None:
        if len(self._bytes) < _HEAD:
            return None
        size = int.from_bytes(self._bytes[:4], "big")
        name = bytes(self._bytes[4:8])
        if not _HEAD <= size < _MOST_BOX_BYTES:
            raise ValueError(f"box {name!r} claims {size} bytes")
        if len(self._bytes) < size:
            return None
        content = bytes(self._bytes[:size])
        del self._bytes[:size]
        return name, content

    def _cut(self, kind: Literal["init", "media"]) -> Fragment:
        data = b"".join(content for _, content in self._boxes)
        moof = next((content for name, content in self._boxes if name == b"moof"), b"")
        self._boxes.clear()
        return Fragment(kind, data, _has_key_frame_first(moof))


def codecs_of(init: bytes) -> str:
    """Return the codecs of an initialisation segment as a browser wants them named: ``avc1.64001f,mp4a.40.2``."""
    names = []
    at = init.find(b"avcC")
    if at >= 0:
        names.append(f"avc1.{init[at + 5 : at + 8].hex()}")
    names += [name for box, name in _SOUND_NAMES.items() if box in init]
    return ",".join(names)


def _has_key_frame_first(moof: bytes) -> bool:
    """Whether the first sample of the first run is one that decoding can begin at."""
    at = moof.find(b"trun")
    if at < 0:
        return False
    flags = int.from_bytes(moof[at + 5 : at + 8], "big")
    place = at + 12 + (4 if flags & 1 else 0)
    if flags & 4:
        return not int.from_bytes(moof[place : place + 4], "big") & 0x10000
    if flags & 0x400:
        place += (4 if flags & 0x100 else 0) + (4 if flags & 0x200 else 0)
        return not int.from_bytes(moof[place : place + 4], "big") & 0x10000
    head = moof.find(b"tfhd")
    head_flags = int.from_bytes(moof[head + 5 : head + 8], "big")
    place = head + 12 + sum(size for bit, size in ((1, 8), (2, 4), (8, 4), (16, 4)) if head_flags & bit)
    return bool(head_flags & 0x20) and not int.from_bytes(moof[place : place + 4], "big") & 0x10000
