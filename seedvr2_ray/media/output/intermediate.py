"""Restored segments on disk: FFV1 in Matroska, every sample as it was handed in."""

from collections.abc import Iterator
from dataclasses import replace

import av

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.container.file_url import file_url
from seedvr2_ray.media.output.codecs import ffv1_slices
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


def read_intermediate(path: str, start: int, stop: int) -> Iterator[av.VideoFrame]:
    """Yield frames ``start`` to ``stop`` of an intermediate, with exactly the samples that were written.

    Every frame is coded by itself, so what comes before ``start`` is read but not decoded.

    Raises:
        StorageError: the file is damaged, or holds fewer frames.
    """
    position = start
    try:
        with av.open(file_url(path)) as container:
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
