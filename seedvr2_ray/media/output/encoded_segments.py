"""Finished parts read back as one stream of packets on the video's own timeline."""

from __future__ import annotations  # av.Packet is generic for type checkers only

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.container.file_url import file_url
from seedvr2_ray.media.output.timeline import Timeline
from seedvr2_ray.media.picture.hdr import StaticHdr, described_part
from seedvr2_ray.media.tracks.captions import CaptionWriter

_HEAD_BYTES = 8 * 2**20
"""Of a part: its header and so much of its packets that libav knows the stream."""


@contextmanager
def described(part: av.container.InputContainer, path: str, hdr: StaticHdr) -> Iterator[Any]:
    """Yield the stream that a master's pictures are described by: a part's own, with what is known of its light.

    PyAV cannot give a stream such metadata; a header that says it can.
    """
    if hdr.is_empty:
        yield part.streams.video[0]
        return
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    with av.open(io.BytesIO(described_part(head, hdr))) as template:
        yield template.streams.video[0]


@contextmanager
def open_part(path: str) -> Iterator[av.container.InputContainer]:
    """Open a part written by :class:`~seedvr2_ray.media.output.encode.PartWriter`.

    Raises:
        StorageError: it is missing or damaged.
    """
    try:
        container = av.open(file_url(path))
    except (OSError, av.FFmpegError) as error:
        raise StorageError(f"part {path} cannot be read back: {error}; restore it again") from error
    with container:
        yield container


def part_packets(
    parts: Sequence[str],
    video: Any,
    *,
    rate: Fraction,
    timeline: Timeline,
    step: int,
    captions: CaptionWriter | None = None,
) -> Iterator[av.Packet[Any]]:
    """Yield the parts' packets in decoding order, stamped for the whole video.

    A part's own stamps count its frames, so they say each packet's place in display order. Decoding
    times are the display times ``delay`` frames late: they increase, and never lie after the display
    time as long as no packet is decoded more than ``delay`` places before it is shown, which is what
    the parameter sets promise.

    Args:
        parts: in order; all with the parameters of the first.
        video: the stream the packets are written to.
        rate: at which the parts count, see :func:`~seedvr2_ray.media.output.encoders.stamp_rate`.
        step: ticks a frame lasts nominally.
        captions: those of the source's frames, to be put into the pictures.

    Raises:
        StorageError: the parts hold other frames than planned, or do not fit together.
    """
    pts = timeline.pts
    base = 0
    first: tuple[bytes | None, int] | None = None
    for path in parts:
        with open_part(path) as part:
            stream = part.streams.video[0]
            parameters = (stream.codec_context.extradata, stream.codec_context.reorder_depth)
            first = first or parameters
            if parameters != first:
                raise StorageError(f"part {path} was encoded with other parameters than the first; restore it again")
            delay = first[1]
            count = 0
            for packet in _packets(part, path):
                place, order = base + round(packet.pts * packet.time_base * rate), base + count
                if max(place, order) >= len(pts):
                    raise StorageError(f"the parts hold more than the {len(pts)} frames planned; restore them again")
                if order - place > delay:
                    raise StorageError(f"part {path} has pictures in an impossible order; restore it again")
                if captions is not None:
                    packet = captions.captioned(packet, place)
                packet.pts = pts[place]
                packet.dts = pts[order - delay] if order >= delay else pts[0] - (delay - order) * step
                packet.duration = pts[place + 1] - pts[place] if place + 1 < len(pts) else timeline.last_ticks or step
                packet.time_base = timeline.time_base
                packet.stream = video
                count += 1
                yield packet
            base += count
    if base != len(pts):
        raise StorageError(f"the parts hold {base} frames where {len(pts)} were planned; restore them again")


def _packets(part: av.container.InputContainer, path: str) -> Iterator[Any]:
    try:
        for packet in part.demux(part.streams.video[0]):
            if packet.size and packet.pts is not None:
                yield packet
    except (OSError, av.FFmpegError) as error:
        raise StorageError(f"part {path} cannot be read back: {error}; restore it again") from error
