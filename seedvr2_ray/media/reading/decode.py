"""Any frames of a source, exactly those, as R'G'B' tensors in bounded memory.

A frame is recognised by its timestamp (:attr:`VideoInfo.timestamps`), never by how many came before
it, so that a worker on another machine finds the same frames without having seen the rest.

torch is imported where frames become tensors: who only looks at them, as planning does, takes them as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from seedvr2_ray.errors import MediaError
from seedvr2_ray.frames import Frames, FrameSpan
from seedvr2_ray.media.container.source import size_changes
from seedvr2_ray.media.info import VideoInfo
from seedvr2_ray.media.picture.pixels import PixelReader, describe, natural_depth
from seedvr2_ray.media.picture.tone import tone_map
from seedvr2_ray.media.reading.deinterlace import deinterlaced
from seedvr2_ray.media.reading.proof import SpanProof
from seedvr2_ray.media.reading.seek import Found, find_frames


def decode_span(
    path: str,
    video: VideoInfo,
    span: FrameSpan,
    *,
    batch_frames: int = 8,
    depth: Literal[8, 16] | None = None,
    deinterlace: Literal["refuse", "bwdif", "off"] = "refuse",
    salvage: bool = False,
    num_threads: int = 0,
    on_missing: Callable[[int], None] | None = None,
    proof: SpanProof | None = None,
) -> Iterator[Frames]:
    """Decode exactly the frames of a span.

    Args:
        path: the file that was probed.
        video: what the probe found.
        batch_frames: frames per tensor; the last batch may be shorter. Besides one batch, a few
            pictures inside the decoder are all the memory it takes.
        depth: bits of the codes; what holds the source without loss when not given.
        deinterlace: ``bwdif`` makes one progressive frame of every interlaced one, ``off`` takes them as they are.
        salvage: let the last frame before stand in for one that cannot be decoded.
        num_threads: of the decoder and of the conversion, 0 for as many as the machine has cores. Changes no pixel.
        on_missing: told the number of every frame whose picture is not the source's own.
        proof: what the pictures are, as they come from the file; others are not given.

    Yields:
        Batches of frames in order: 3 channels, or 4 where the source has alpha, upright.

    Raises:
        DamagedMediaError: frames cannot be decoded and ``salvage`` is off.
        MediaError: the material is interlaced and ``deinterlace`` refuses, or the file is no longer
            what was probed.
        StorageError: the pictures are not those of the proof, however early decoding begins.
    """
    if batch_frames < 1:
        raise ValueError(f"batch_frames must be at least 1, got {batch_frames}")
    pictures = _pictures(
        path,
        video,
        span,
        deinterlace=deinterlace,
        salvage=salvage,
        num_threads=num_threads,
        on_missing=on_missing,
        proof=proof,
    )
    with closing(pictures):
        yield from _batched(pictures, video, span, batch_frames, depth or natural_depth(video), num_threads)


def decode_codes(
    path: str,
    video: VideoInfo,
    span: FrameSpan,
    *,
    salvage: bool = False,
    on_missing: Callable[[int], None] | None = None,
) -> Iterator[NDArray[Any]]:
    """Decode frames one by one for whoever only looks at their codes, C x H x W; see :func:`decode_span`."""
    reader = PixelReader(video, natural_depth(video))
    shape = (reader.num_channels, video.height, video.width)
    pictures = _pictures(path, video, span, deinterlace="refuse", salvage=salvage, on_missing=on_missing)
    with closing(pictures):
        for picture in pictures:
            codes_CHW: NDArray[Any] = np.empty(shape, np.uint8 if natural_depth(video) == 8 else np.uint16)
            reader.write(picture, codes_CHW)
            yield codes_CHW


def _pictures(
    path: str,
    video: VideoInfo,
    span: FrameSpan,
    *,
    deinterlace: Literal["refuse", "bwdif", "off"],
    salvage: bool,
    num_threads: int = 0,
    on_missing: Callable[[int], None] | None = None,
    proof: SpanProof | None = None,
) -> Generator[av.VideoFrame, None, None]:
    if video.field_order != "progressive" and deinterlace == "refuse":
        raise MediaError(
            f"{path} is {video.field_order}: a frame holds two moments; pass --deinterlace bwdif to merge them"
        )
    use_bwdif = deinterlace == "bwdif" and video.field_order != "progressive"
    found = find_frames(
        path,
        video,
        span,
        salvage=salvage,
        num_threads=num_threads,
        on_missing=on_missing,
        with_neighbours=use_bwdif,
        proof=proof,
    )
    with closing(found):
        same_size = _of_one_size(found, video, path)
        yield from deinterlaced(same_size, video.first_field) if use_bwdif else (item.frame for item in same_size)


def _of_one_size(found: Iterator[Found], video: VideoInfo, path: str) -> Iterator[Found]:
    """Refuse pictures of another size than the probe found, before anything is made of them."""
    stored = (video.width, video.height) if video.rotation % 180 == 0 else (video.height, video.width)
    for item in found:
        size = item.frame.width, item.frame.height
        if size != stored:
            raise size_changes(path, stored, size, item.number)
        yield item


def _batched(
    pictures: Iterator[av.VideoFrame],
    video: VideoInfo,
    span: FrameSpan,
    batch_frames: int,
    depth: Literal[8, 16],
    num_threads: int,
) -> Iterator[Frames]:
    import torch

    reader = PixelReader(video, depth, num_threads=num_threads)
    dtype = torch.uint8 if depth == 8 else torch.uint16
    start = 0
    while start < len(span):
        count = min(batch_frames, len(span) - start)
        batch_TCHW = torch.empty((count, reader.num_channels, video.height, video.width), dtype=dtype)
        target_TCHW = batch_TCHW.numpy()
        for offset in range(count):
            picture = next(pictures)
            reader.write(picture, target_TCHW[offset])
        yield Frames(batch_TCHW, span.pts[start : start + count], video.time_base)
        start += count


def decode_thumbnails(
    path: str,
    video: VideoInfo,
    frame_pts: Sequence[int],
    *,
    width: int = 256,
    salvage: bool = False,
    num_threads: int = 0,
    on_missing: Callable[[int], None] | None = None,
    on_picture: Callable[[Found], None] | None = None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode all frames, small: enough to see where shots change, as fast as the decoder goes.

    Colours are approximate, HDR ones are brought to those of ordinary video, and the picture is as stored, not
    turned upright.

    Args:
        frame_pts: of all frames, as the probe lists them.
        width: of the thumbnails in pixels; smaller sources keep their size.
        on_picture: shown every frame as it comes from the file, in order.

    Yields:
        The number of each frame and its picture, height x width x 3.

    Raises:
        DamagedMediaError: frames cannot be decoded and ``salvage`` is off.
        MediaError: the pictures change their size.
    """
    whole = FrameSpan(0, tuple(frame_pts))
    reformatter = VideoReformatter()
    found = find_frames(path, video, whole, salvage=salvage, num_threads=num_threads, on_missing=on_missing)
    with closing(found):
        for item in _of_one_size(found, video, path):
            if on_picture is not None:
                on_picture(item)
            yield item.number, _thumbnail(item, video, width, reformatter)


def _thumbnail(item: Found, video: VideoInfo, width: int, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    frame = item.frame
    describe(frame, video)
    ratio = min(1.0, width / frame.width)
    tone = tone_map(video.colour.transfer, video.colour.primaries)
    small = reformatter.reformat(
        frame,
        width=max(1, round(frame.width * ratio)),
        height=max(1, round(frame.height * ratio)),
        format="rgb24" if tone is None else "rgb48le",
        interpolation=Interpolation.FAST_BILINEAR,
        threads=1,
    )
    picture: NDArray[Any] = small.to_ndarray()
    return picture if tone is None else tone(picture)
