"""What the conversions of this installation make of a few small pictures, as one hash.

Restored pictures depend on how a decoder's numbers become R'G'B' and how R'G'B' becomes the master's format. Both are
libav's work, and a version of it, or a build for another processor, may round otherwise. Two intermediates belong into
one master only if the same conversions made them; versions say neither that they are the same nor that they differ.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.info import Chroma, VideoInfo
from seedvr2_ray.media.output.encode import FrameConverter
from seedvr2_ray.media.output.master import MasterFormat
from seedvr2_ray.media.picture.pixels import PixelReader, natural_depth
from seedvr2_ray.media.reading.deinterlace import deinterlaced
from seedvr2_ray.media.reading.seek import Found

# Not multiples of what vector code takes at a time, so that its ends count too.
_WIDTH, _HEIGHT = 70, 22

_BT709 = ColourTags(matrix="bt709", primaries="bt709", transfer="bt709", full_range=False)
_BT601 = ColourTags(matrix="smpte170m", primaries="smpte170m", transfer="smpte170m", full_range=False)
_BT2020 = ColourTags(matrix="bt2020nc", primaries="bt2020", transfer="smpte2084", full_range=False)
_RGB = ColourTags(matrix="rgb", primaries="bt709", transfer="bt709", full_range=True)

_SOURCES: tuple[tuple[str, Chroma, int, ColourTags, bool], ...] = (
    ("yuv420p", "420", 8, _BT709, False),
    ("yuv420p", "420", 8, _BT601, False),
    ("yuvj420p", "420", 8, replace(_BT601, full_range=True), False),
    ("yuv422p10le", "422", 10, _BT709, False),
    ("yuv420p10le", "420", 10, _BT2020, False),
    ("yuv444p12le", "444", 12, _BT709, False),
    ("yuva420p", "420", 8, _BT709, True),
    ("rgb24", "rgb", 8, _RGB, False),
    ("rgba64le", "rgb", 16, _RGB, True),
    ("pal8", "rgb", 8, _RGB, True),
    ("gray", "grey", 8, replace(_BT709, full_range=True), False),
)
"""Pixel format, chroma, bits, colour and alpha of sources."""

_MASTERS: tuple[tuple[str, ColourTags], ...] = (
    ("yuv420p", _BT709),
    ("yuv420p", _BT601),
    ("yuv420p10le", _BT709),
    ("yuv420p10le", _BT2020),
    ("yuv422p10le", _BT709),
    ("yuv444p10le", _BT709),
    ("yuva444p10le", _BT709),
    ("yuvj420p", replace(_BT601, full_range=True)),
    ("gray", replace(_BT709, full_range=True)),
    ("bgr0", _RGB),
    ("gbrp16le", _RGB),
)


@cache
def conversions_fingerprint() -> str:
    """Return a hash that is the same as long as no conversion gives other pictures."""
    digest = hashlib.sha256()
    for part in (*_read_pictures(), *_converted_pictures(), *_merged_fields()):
        digest.update(part)
    return digest.hexdigest()[:32]


def _read_pictures() -> Iterator[bytes]:
    """From decoders' formats to R'G'B', siting included."""
    for pixel_format, chroma, bits, colour, has_alpha in _SOURCES:
        video = _video(pixel_format, chroma, bits, colour, has_alpha=has_alpha)
        yield from (_read(_frame(pixel_format), video, depth) for depth in sorted({natural_depth(video), 16}))


def _read(frame: av.VideoFrame, video: VideoInfo, depth: int) -> bytes:
    reader = PixelReader(video, 8 if depth == 8 else 16, num_threads=1)
    target_CHW = np.empty((reader.num_channels, _HEIGHT, _WIDTH), np.uint8 if depth == 8 else np.uint16)
    reader.write(frame, target_CHW)
    return target_CHW.tobytes()


def _converted_pictures() -> Iterator[bytes]:
    """From R'G'B' to the formats of masters."""
    for pixel_format, colour in _MASTERS:
        converter = FrameConverter(_master(pixel_format, colour), num_threads=1)
        yield from _planes(converter.convert_codes(_noise((3, _HEIGHT, _WIDTH), 16)))


def _merged_fields() -> Iterator[bytes]:
    """Two fields to one frame."""
    for pixel_format in ("yuv420p", "yuv422p10le"):
        frames = [_frame(pixel_format, seed) for seed in range(4)]
        for frame in frames:
            frame.time_base = Fraction(1, 25)
        found = (Found(number, frame, is_neighbour=False) for number, frame in enumerate(frames))
        for frame in deinterlaced(found):
            yield from _planes(frame)


def _noise(shape: tuple[int, ...], bits: int, seed: int = 0) -> NDArray[Any]:
    """Return codes over the whole range from a generator that is only arithmetic, so that it is the same anywhere."""
    state = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed * 1_000_003 + 1)
    state = (state * np.uint64(0x9E3779B97F4A7C15)) ^ (state << np.uint64(21))
    codes = (state >> np.uint64(64 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    return codes.reshape(shape)


def _frame(pixel_format: str, seed: int = 0) -> av.VideoFrame:
    frame = av.VideoFrame(_WIDTH, _HEIGHT, pixel_format)
    bits = frame.format.components[0].bits
    for number, plane in enumerate(frame.planes):
        dtype = np.uint8 if bits == 8 else np.uint16
        row_codes = plane.line_size // np.dtype(dtype).itemsize
        codes = _noise((plane.height, row_codes), bits, seed + 7 * number)
        if pixel_format == "pal8" and number == 1:
            plane.update(_noise((plane.buffer_size,), 8, 1).tobytes())
            continue
        plane.update(codes.tobytes().ljust(plane.buffer_size, b"\0")[: plane.buffer_size])
    return frame


def _planes(frame: av.VideoFrame) -> Iterator[bytes]:
    """Yield the samples of a frame without what pads its rows."""
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height]
        bits = frame.format.components[0].bits
        packed = {"bgr0": 4}.get(frame.format.name, 1)
        yield rows[:, : plane.width * packed * (1 if bits == 8 else 2)].tobytes()


def _video(pixel_format: str, chroma: Chroma, bits: int, colour: ColourTags, *, has_alpha: bool) -> VideoInfo:
    return VideoInfo(
        stream_index=0,
        codec="ffv1",
        pixel_format=pixel_format,
        width=_WIDTH,
        height=_HEIGHT,
        sample_aspect=Fraction(1),
        rotation=0,
        mirrored=False,
        bit_depth=bits,
        chroma=chroma,
        has_alpha=has_alpha,
        colour=colour,
        guessed_colour=False,
        time_base=Fraction(1, 25),
        frame_rate=Fraction(25),
        is_variable_rate=False,
        num_frames=1,
        field_order="progressive",
    )


def _master(pixel_format: str, colour: ColourTags) -> MasterFormat:
    return MasterFormat(
        kind="video",
        container="mkv",
        codec="ffv1",
        pixel_format=pixel_format,
        options=(),
        width=_WIDTH,
        height=_HEIGHT,
        sample_aspect=Fraction(1),
        frame_rate=Fraction(25),
        time_base=Fraction(1, 25),
        colour=colour,
        source_colour=_RGB,
    )
