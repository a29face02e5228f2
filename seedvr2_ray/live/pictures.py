"""Between decoded frames, the numbers a restorer works on, and frames for an encoder."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import takewhile

import av
import torch

from seedvr2_ray.errors import MediaError
from seedvr2_ray.frames import ColourTags, Frames
from seedvr2_ray.live.source import Picture
from seedvr2_ray.media.info import Rotation, VideoInfo
from seedvr2_ray.media.output.master import MasterFormat
from seedvr2_ray.media.picture.colour import HDR_TRANSFERS, LUMA_WEIGHTS, fill_in, tags_from_codes
from seedvr2_ray.media.picture.pixel_formats import bit_depth_of, chroma_of
from seedvr2_ray.media.picture.pixels import PixelReader
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.settings import RestoreSettings

TICK = Fraction(1, 90000)
"""The output's time base: MPEG-TS has no other."""
KEY_FRAME_SECONDS = 2
_HD_MIN_HEIGHT = 720
_CRF = 20
_PRESET = "veryfast"


def describe_live(
    picture: Picture, rate: Fraction, aspect: Fraction = Fraction(1), *, allows_fields: bool = False
) -> VideoInfo:
    """Say what the pictures of a stream are, from the first of them.

    Args:
        rate: frames per second, as well as it is known by now.
        aspect: width over height of a pixel as stored.
        allows_fields: take interlaced frames as they are; those whose fields are merged are none any more.

    Raises:
        MediaError: they are of a kind that cannot be restored live.
    """
    frame = picture.frame
    pixel_format = frame.format.name
    chroma = chroma_of(pixel_format)
    tags = tags_from_codes(
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        matrix=int(frame.colorspace),
        colour_range=2 if pixel_format.startswith("yuvj") else int(frame.color_range),
    )
    colour = fill_in(tags, kind="video", width=frame.width, height=frame.height, is_rgb=chroma == "rgb")
    if colour.transfer in HDR_TRANSFERS:
        raise MediaError(
            f"the stream is HDR ({colour.transfer}) and live output has 8 bits; send it in SDR, or restore a recording"
        )
    if colour.matrix not in (*LUMA_WEIGHTS, "rgb"):
        raise MediaError(f"the stream's colours are coded by {colour.matrix}, which cannot be decoded; send BT.709")
    if frame.interlaced_frame and not allows_fields:
        raise MediaError(
            "the stream is interlaced: every frame holds two moments; set deinterlace to bwdif to merge them, or to "
            "off to take the frames as they are"
        )
    rotation = _rotation(frame)
    turned = rotation % 180 != 0
    return VideoInfo(
        stream_index=0,
        codec="",
        pixel_format=pixel_format,
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        sample_aspect=1 / aspect if turned else aspect,
        rotation=rotation,
        mirrored=False,
        bit_depth=bit_depth_of(pixel_format),
        chroma=chroma,
        # Nobody sends transparency live, and no output of a stream would hold it.
        has_alpha=False,
        colour=colour,
        guessed_colour=False,
        time_base=TICK,
        frame_rate=rate,
        is_variable_rate=True,
        num_frames=0,
        field_order="progressive",
    )


def plan_live_master(video: VideoInfo, geometry: Geometry, settings: RestoreSettings) -> MasterFormat:
    """Choose how restored pictures are coded: H.264 without a frame of delay, which every player takes."""
    colour = _output_colour(video, geometry)
    crf = _CRF if settings.crf < 0 else min(51, settings.crf)
    preset = _PRESET if settings.preset == "auto" else settings.preset
    key_frames = max(1, round(video.frame_rate * KEY_FRAME_SECONDS))
    return MasterFormat(
        kind="video",
        container="mp4",
        codec="libx264",
        pixel_format="yuv420p",
        options=(
            ("crf", str(crf)),
            ("preset", preset),
            ("tune", "zerolatency"),
            ("g", str(key_frames)),
            ("bf", "0"),
        ),
        width=geometry.width,
        height=geometry.height,
        sample_aspect=Fraction(1),
        frame_rate=video.frame_rate,
        time_base=TICK,
        colour=colour,
        source_colour=replace(video.colour, matrix="rgb", full_range=True),
    )


class BatchReader:
    """Turns decoded pictures of one kind into batches for a restorer."""

    def __init__(self, video: VideoInfo) -> None:
        self._video = video
        self._pixels = PixelReader(video, 8, num_threads=0)
        self._last_pts = -1

    def batch(self, pictures: Sequence[Picture]) -> Frames:
        """Convert pictures that are :meth:`alike`; times that are not later than the one before become so."""
        video = self._video
        target_TCHW = torch.empty((len(pictures), 3, video.height, video.width), dtype=torch.uint8)
        codes_TCHW = target_TCHW.numpy()
        pts = []
        for picture, codes_CHW in zip(pictures, codes_TCHW, strict=True):
            self._pixels.write(picture.frame, codes_CHW)
            self._last_pts = max(round(picture.at / TICK), self._last_pts + 1)
            pts.append(self._last_pts)
        return Frames(target_TCHW, tuple(pts), TICK)

    def alike(self, pictures: Sequence[Picture]) -> Sequence[Picture]:
        """Return the pictures up to the first that is not of the size and kind that the stream began with."""
        kind = (*self._stored_size, self._video.pixel_format)
        fits = ((each.frame.width, each.frame.height, each.frame.format.name) == kind for each in pictures)
        return [picture for picture, _ in zip(pictures, takewhile(bool, fits), strict=False)]

    def why_not(self, picture: Picture) -> MediaError:
        """Say what is wrong with the picture after those."""
        (width, height), frame = self._stored_size, picture.frame
        if (frame.width, frame.height) != (width, height):
            return MediaError(
                f"the picture changed from {width}x{height} to {frame.width}x{frame.height} in mid-stream, and a live "
                "stream keeps one size; start a new stream for the new size"
            )
        return MediaError(
            f"the pixel format changed from {self._video.pixel_format} to {frame.format.name} in mid-stream; "
            "start a new stream for the new one"
        )

    @property
    def _stored_size(self) -> tuple[int, int]:
        video = self._video
        turned = video.rotation % 180 != 0
        return (video.height, video.width) if turned else (video.width, video.height)


def _rotation(frame: av.VideoFrame) -> Rotation:
    # libav counts anticlockwise.
    turns = round(-frame.rotation / 90) % 4
    return (0, 90, 180, 270)[turns]


def _output_colour(video: VideoInfo, geometry: Geometry) -> ColourTags:
    """HD players take BT.709 for granted, so what becomes HD gets its matrix."""
    colour = replace(video.colour, full_range=False)
    if colour.matrix == "rgb" or max(geometry.height, geometry.width * 9 // 16) >= _HD_MIN_HEIGHT:
        transfer = "bt709" if colour.transfer == "smpte170m" else colour.transfer
        return replace(colour, matrix="bt709" if colour.primaries != "bt2020" else "bt2020nc", transfer=transfer)
    return colour
