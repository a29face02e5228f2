"""A small picture of a file before and after, for lists of many files.

For people who look for a file, or for one that went wrong: colours are what a plain player shows, and HDR is not
mapped. No tensor is made here.
"""

import io
import logging
from fractions import Fraction

import av
from PIL import Image

from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.media.container.still_kinds import still_kind
from seedvr2_ray.media.info import MediaInfo
from seedvr2_ray.media.stills.reader import read_still

BOX = (160, 90)
"""Pixels that one of the two pictures fits into."""

_GAP = 2
_JPEG_QUALITY = 80
_MOST_DECODED = 600
"""Frames behind a key frame that are decoded to come to the one that is wanted; beyond them a nearby one will do."""

_log = logging.getLogger(__name__)


def thumbnail(source: str, media: MediaInfo, master: str, size: tuple[int, int], number: int) -> bytes | None:
    """Show a frame of a source and of its master beside each other.

    Args:
        source: its file on this machine.
        media: what is known of it.
        master: a file on this machine: a video, or the image that was made of this frame.
        size: of the master's frames, which gives both their shape.
        number: of the frame.

    Returns:
        A JPEG file of a few kilobytes; None where one of the two cannot be shown, which is no reason to fail: the
        master is verified by others.
    """
    video = media.video
    seconds = (media.frame_pts[number] - media.frame_pts[0]) * video.time_base
    scale = min(BOX[0] / size[0], BOX[1] / size[1])
    shown = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    try:
        before = _frame_at(source, seconds, video.stream_index)
        after = _frame_at(master, seconds, None)
        turned = shown if video.rotation % 180 == 0 else shown[::-1]
        small = _small(before, turned)
    except (SeedVR2Error, OSError, ValueError, av.FFmpegError) as error:
        _log.info("no small picture of %s: %s", master, error)
        return None
    small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if video.mirrored else small
    both = Image.new("RGB", (2 * shown[0] + _GAP, shown[1]), "white")
    both.paste(small.rotate(-video.rotation, expand=True), (0, 0))  # Pillow turns anticlockwise.
    both.paste(_small(after, shown), (shown[0] + _GAP, 0))
    file = io.BytesIO()
    both.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _small(frame: av.VideoFrame, size: tuple[int, int]) -> Image.Image:
    picture: Image.Image = frame.reformat(*size, format="rgb24").to_image()  # type: ignore[no-untyped-call]
    return picture


def _frame_at(path: str, seconds: Fraction, stream_index: int | None) -> av.VideoFrame:
    """Decode the frame that is shown so long after the first, or one near it."""
    if still_kind(path) is not None:
        return read_still(path, salvage=True).frame
    with av.open(path) as container:
        stream = container.streams.video[0] if stream_index is None else container.streams[stream_index]
        assert isinstance(stream, av.VideoStream) and stream.time_base is not None
        wanted = (stream.start_time or 0) + round(seconds / stream.time_base)
        if seconds:
            container.seek(wanted, stream=stream)
        nearest: av.VideoFrame | None = None
        for count, frame in enumerate(container.decode(stream)):
            if nearest is None or _distance(frame, wanted) < _distance(nearest, wanted):
                nearest = frame
            if count >= _MOST_DECODED or (frame.pts or 0) >= wanted:
                break
    if nearest is None:
        raise ValueError("no frame is decoded there")
    return nearest


def _distance(frame: av.VideoFrame, wanted: int) -> int:
    return abs((frame.pts or 0) - wanted)
