"""An intermediate in two pieces of one file: its own frames, and those that the next segment is blended with.

Whoever finishes the next segment needs a few frames of this one, and reads them without the rest.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av

from seedvr2_ray.media.output.intermediate import IntermediateWriter, read_intermediate
from seedvr2_ray.media.output.master import MasterFormat
from seedvr2_ray.restoration.planning.plan import Segment
from seedvr2_ray.restoration.report.joins import REACH
from seedvr2_ray.restoration.work.remaining import RESTORED
from seedvr2_ray.storage.commits import CommitStore, Piece
from seedvr2_ray.storage.local_backend import LocalBackend
from seedvr2_ray.storage.records import Commit

_COPY_BYTES = 4 << 20


class SplitWriter:
    """Writes a segment's frames; those around its join with the next one come into a piece of their own as well.

    Use as a context manager; when the body fails, no file is left.
    """

    def __init__(self, path: Path, master: MasterFormat, segment: Segment) -> None:
        """Begin to write.

        Args:
            path: of the file with both pieces.
        """
        self.path = path
        self.pieces: list[dict[str, Any]] = []
        """When all is written: first frame, frames, and bytes of each piece; for the commit's record."""
        self._tail_path = path.with_suffix(".tail")
        self._num_frames = 0
        self._own_stop = segment.part_frames
        self._tail_start = max(0, segment.part_frames - REACH)
        self._num_expected = segment.num_frames
        is_joined = segment.part_frames < segment.num_frames
        self._own = IntermediateWriter(str(path), master)
        self._tail = IntermediateWriter(str(self._tail_path), master) if is_joined else None

    def write(self, frame: av.VideoFrame) -> None:
        """Encode the next frame."""
        number = self._num_frames
        self._num_frames += 1
        if number < self._own_stop:
            self._own.write(frame)
        if self._tail is not None and number >= self._tail_start:
            self._tail.write(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own.__exit__(kind, error, trace)
        if self._tail is not None:
            self._tail.__exit__(kind, error, trace)
        if error is None:
            self._join()

    def _join(self) -> None:
        own_bytes = self.path.stat().st_size
        own_hash = LocalBackend().sha256(str(self.path))
        self.pieces.append({"frames": [0, self._own_stop], "bytes": [0, own_bytes], "sha256": own_hash})
        if self._tail is None:
            return
        with self.path.open("ab") as file, self._tail_path.open("rb") as tail:
            while block := tail.read(_COPY_BYTES):
                file.write(block)
        span = [own_bytes, self.path.stat().st_size]
        tail_hash = LocalBackend().sha256(str(self._tail_path))
        self.pieces.append({"frames": [self._tail_start, self._num_expected], "bytes": span, "sha256": tail_hash})
        self._tail_path.unlink()


def read_frames(
    segment: Segment, start: int, stop: int, store: CommitStore, commit: Commit, workspace: Path
) -> Iterator[av.VideoFrame]:
    """Yield frames of a committed intermediate; of a remote one only the piece that they are in is fetched.

    Raises:
        StorageError: its payload is gone or damaged.
    """
    for piece in commit.record.get("pieces", ()):
        first, last = piece["frames"]
        if first <= start and stop <= last:
            wanted = _bytes_of(piece)
            path, place = store.fetch_piece(RESTORED, segment.address, wanted, workspace, known=commit)
            within = (place.start, place.stop)
            yield from read_intermediate(str(path), start - first, stop - first, within=within)
            return
    # An intermediate of an earlier version, in one piece.
    path = store.fetch_payload(RESTORED, segment.address, workspace, known=commit)
    yield from read_intermediate(str(path), start, stop)


def _bytes_of(piece: Mapping[str, Any]) -> Piece:
    start, stop = piece["bytes"]
    return Piece(start, stop, piece["sha256"])


def extract_own_frames(segment: Segment, store: CommitStore, commit: Commit, workspace: Path) -> Path:
    """Return a file with the frames of an intermediate that are not another segment's too, to be read like any video.

    Raises:
        StorageError: its payload is gone or damaged.
    """
    for piece in commit.record.get("pieces", ())[:1]:
        wanted = _bytes_of(piece)
        path, place = store.fetch_piece(RESTORED, segment.address, wanted, workspace, known=commit)
        if place.stop - place.start == path.stat().st_size:
            return path
        own = workspace / f"{segment.address}.own.mkv"
        with path.open("rb") as file, own.open("wb") as copy:
            left = place.stop - place.start
            while left and (block := file.read(min(left, _COPY_BYTES))):
                copy.write(block)
                left -= len(block)
        return own
    return store.fetch_payload(RESTORED, segment.address, workspace, known=commit)
