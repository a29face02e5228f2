"""A folder with a low-latency HLS stream: fragments as they come, and a playlist that names them."""

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seedvr2_ray.errors import TargetError
from seedvr2_ray.live.fragments import Fragment, FragmentCutter

PLAYLIST = "live.m3u8"
_INIT = "init.mp4"
_NUM_SEGMENTS = 8
"""That the playlist names; older ones are deleted a while later."""
_SPARE_SEGMENTS = 4


@dataclass(slots=True)
class _Segment:
    number: int
    parts: list[tuple[float, bool]] = field(default_factory=list)
    """Seconds of each, and whether a player can begin there."""

    @property
    def seconds(self) -> float:
        return sum(seconds for seconds, _ in self.parts)

    def part_name(self, index: int) -> str:
        return f"segment{self.number:06d}.{index}.m4s"

    @property
    def name(self) -> str:
        return f"segment{self.number:06d}.m4s"


class HlsFolder:
    """Writes bytes of fragmented MP4 as parts and segments. A file that the playlist names is whole."""

    def __init__(self, folder: str, part_seconds: float, segment_seconds: float) -> None:
        """Make the folder.

        Raises:
            TargetError: it cannot be made.
        """
        self._folder = Path(folder)
        self._part_seconds = part_seconds
        self._segment_seconds = segment_seconds
        self._cutter = FragmentCutter()
        self._segments: deque[_Segment] = deque()
        self._next_number = 0
        self._seconds = deque[float]()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TargetError(
                f"the folder {folder} cannot be made ({error.strerror}); choose another OUTPUT"
            ) from error

    def write(self, data: bytes) -> int:
        """Take bytes of the muxer."""
        for fragment in self._cutter.take(bytes(data)):
            if fragment.kind == "init":
                self._save(_INIT, fragment.data)
            else:
                self._add(fragment)
        return len(data)

    def close(self) -> None:
        """End the playlist: players stop asking for more."""
        self._finish_segment()
        self._write_playlist(is_over=True)

    def _add(self, fragment: Fragment) -> None:
        current = self._segments[-1] if self._segments else None
        long_enough = current is None or current.seconds >= self._segment_seconds - self._part_seconds / 2
        if current is None or (fragment.starts_with_key_frame and long_enough):
            self._finish_segment()
            current = _Segment(self._next_number)
            self._next_number += 1
            self._segments.append(current)
        seconds = duration_of(fragment.data)
        self._save(current.part_name(len(current.parts)), fragment.data)
        current.parts.append((seconds, fragment.starts_with_key_frame))
        self._write_playlist(is_over=False)

    def _finish_segment(self) -> None:
        """The same bytes once more as one file, for players that know no parts."""
        if not self._segments:
            return
        done = self._segments[-1]
        parts = [self._folder / done.part_name(index) for index in range(len(done.parts))]
        self._save(done.name, b"".join(part.read_bytes() for part in parts))
        while len(self._segments) > _NUM_SEGMENTS + _SPARE_SEGMENTS:
            old = self._segments.popleft()
            for name in [old.name, *(old.part_name(index) for index in range(len(old.parts)))]:
                (self._folder / name).unlink(missing_ok=True)

    def _write_playlist(self, *, is_over: bool) -> None:
        named = list(self._segments)[-_NUM_SEGMENTS:]
        longest = max((segment.seconds for segment in self._segments), default=self._segment_seconds)
        longest_part = max((part for segment in self._segments for part, _ in segment.parts), default=0.0)
        lines: list[Any] = [
            "#EXTM3U",
            "#EXT-X-VERSION:9",
            f"#EXT-X-TARGETDURATION:{max(1, -int(-longest // 1))}",
            f"#EXT-X-SERVER-CONTROL:PART-HOLD-BACK={3 * max(longest_part, self._part_seconds):.3f}",
            f"#EXT-X-PART-INF:PART-TARGET={max(longest_part, self._part_seconds):.5f}",
            f"#EXT-X-MEDIA-SEQUENCE:{named[0].number if named else 0}",
            f'#EXT-X-MAP:URI="{_INIT}"',
        ]
        for segment in named:
            is_open = segment is named[-1] and not is_over
            # Parts of what is long past only make the list longer.
            if segment in named[-3:]:
                for index, (seconds, has_key) in enumerate(segment.parts):
                    independent = ",INDEPENDENT=YES" if has_key else ""
                    lines.append(f'#EXT-X-PART:DURATION={seconds:.5f},URI="{segment.part_name(index)}"{independent}')
            if not is_open:
                lines += [f"#EXTINF:{segment.seconds:.5f},", segment.name]
        if is_over:
            lines.append("#EXT-X-ENDLIST")
        elif named:
            lines.append(f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="{named[-1].part_name(len(named[-1].parts))}"')
        self._save(PLAYLIST, "\n".join([*lines, ""]).encode())

    def _save(self, name: str, data: bytes) -> None:
        part = self._folder / f".{name}.part"
        part.write_bytes(data)
        os.replace(part, self._folder / name)


def duration_of(fragment: bytes) -> float:
    """Return how many seconds of pictures a fragment holds: of its first track, in ticks of 1/90000."""
    at = fragment.find(b"trun")
    head = fragment.find(b"tfhd")
    if at < 0 or head < 0:
        return 0.0
    flags = int.from_bytes(fragment[at + 5 : at + 8], "big")
    count = int.from_bytes(fragment[at + 8 : at + 12], "big")
    place = at + 12 + (4 if flags & 1 else 0) + (4 if flags & 4 else 0)
    if flags & 0x100:
        step = 4 * sum(bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800))
        starts = range(place, place + count * step, step)
        return sum(int.from_bytes(fragment[start : start + 4], "big") for start in starts) / 90000
    head_flags = int.from_bytes(fragment[head + 5 : head + 8], "big")
    place = head + 12 + sum(size for bit, size in ((1, 8), (2, 4)) if head_flags & bit)
    ticks = int.from_bytes(fragment[place : place + 4], "big") if head_flags & 8 else 0
    return count * ticks / 90000
