"""Restored segments on disk: FFV1 in Matroska, every sample as it was handed in."""

import io
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import av

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.codecs import ffv1_slices
from seedvr2_ray.media.container.file_url import file_url
from seedvr2_ray.media.output.encode import PartWriter
from seedvr2_ray.media.output.master import MasterFormat

FFV1_OPTIONS = (
    # Golomb-Rice coding without the larger context model: at 1080p half the time of the range coder
    # for the same size, because restored pictures are smooth where it would help and noisy where not.
    ("coder", "rice"),
    ("context", "0"),
    ("g", "1"),
    ("level", "3"),
    ("slicecrc", "1"),
)


class IntermediateWriter(PartWriter):
    """Writes one restored segment losslessly, in the master's pixel format and colour."""

    def __init__(self, path: str, master: MasterFormat, *, num_threads: int = 0) -> None:
        super().__init__(path, intermediate_format(master), num_threads=num_threads)


def intermediate_format(master: MasterFormat) -> MasterFormat:
    """Return the lossless format of a master's intermediates: the same numbers, coded by FFV1."""
    options = (*FFV1_OPTIONS, ("slices", str(ffv1_slices(master.width, master.height, master.pixel_format))))
    return replace(master, kind="video", container="mkv", codec="ffv1", options=options)


class _Slice(io.RawIOBase):
    """Some bytes of a file, as a file of its own."""

    def __init__(self, path: str, start: int, stop: int) -> None:
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115  # Closed with this object.
        self._start, self._stop, self._position = start, stop, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stop - self._start}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._stop - self._start - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if size < 0 else min(size, left)) or b""
        self._position += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def read_intermediate(
    path: str, start: int, stop: int, *, within: tuple[int, int] | None = None
) -> Iterator[av.VideoFrame]:
    """Yield frames ``start`` to ``stop`` of an intermediate, with exactly the samples that were written.

    Every frame is coded by itself, so what comes before ``start`` is read but not decoded.

    Args:
        within: where in the file the intermediate lies, if it is not all of it.

    Raises:
        StorageError: the file is damaged, or holds fewer frames.
    """
    position = start
    try:
        with _Slice(path, *within) if within else nullcontext(file_url(path)) as file, av.open(file, "r") as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            wanted = (packet for number, packet in enumerate(container.demux(stream)) if number >= start)
            for packet in wanted:
                for frame in packet.decode():
                    if position == stop:
                        return
                    position += 1
                    yield frame
    except (OSError, av.FFmpegError, IndexError) as error:
        raise StorageError(
            f"intermediate {path} cannot be read back at frame {position}: {error}; restore it again"
        ) from error
    if position < stop:
        raise StorageError(f"intermediate {path} holds {position} frames where {stop} were expected; restore it again")
