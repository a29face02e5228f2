"""Tiny test clips, written with PyAV, in which every frame says its own number.

The upper half of every picture is a grid of black and white blocks that spell the frame's number
in binary, at positions relative to the size, so that :func:`read_frame_number` still reads it after
lossy coding, chroma subsampling, enlarging and rotation. The lower half is a coloured scene with
something that moves.

Not a test module: tests take what they need with ``from tests.media.clips import make_clip``.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.output.scheduling import scheduling_kept
from seedvr2_ray.media.picture.colour import MATRICES, PRIMARIES, TRANSFERS

# SVT-AV1 prints its settings to the terminal unless its environment says not to.
os.environ.setdefault("SVT_LOG", "1")

NUM_BITS = 12
_BIT_ROWS, _BIT_COLUMNS = 2, 6
_DARK, _BRIGHT = 0.08, 0.92

ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "mpeg2": "mpeg2video",
    "mpeg4": "mpeg4",
    "prores": "prores_ks",
    "ffv1": "ffv1",
    "mjpeg": "mjpeg",
}
"""Short names of the codecs in the matrix to FFmpeg's encoders."""

AUDIO_CODECS = {".webm": "libopus", ".mkv": "flac", ".avi": "pcm_s16le", ".mov": "pcm_s16le", ".vob": "mp2"}
"""What sound is coded in by the container's ending; AAC elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a generated file is known to hold."""

    path: str
    num_frames: int
    size: tuple[int, int]
    """Width and height as displayed: rotation applied."""
    times: tuple[Fraction, ...]
    """When each frame was meant to be shown, in seconds, before the container rounded it."""
    rate: Fraction


def draw_frame(number: int, size: tuple[int, int], *, scene: int = 0) -> np.ndarray[Any, Any]:
    """Draw one picture as float32 R'G'B' in 0..1, height x width x 3."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = columns / max(width - 1, 1), rows / max(height - 1, 1)
    hues = ((0.9, 0.3, 0.2), (0.15, 0.75, 0.35), (0.2, 0.35, 0.9), (0.85, 0.8, 0.15), (0.6, 0.6, 0.6))
    picture = np.empty((height, width, 3), np.float32)
    for channel, level in enumerate(hues[scene % len(hues)]):
        picture[..., channel] = 0.15 + 0.7 * level * (0.4 + 0.6 * (u if channel != 1 else 1 - v))
    centre = 0.1 + 0.8 * ((number % 24) / 24)
    inside = (np.abs(u - centre) < 0.08) & (np.abs(v - 0.8) < 0.1)
    picture[inside] = (0.9, 0.9, 0.2)
    _stamp(picture, number)
    return picture


def _stamp(picture: np.ndarray[Any, Any], number: int) -> None:
    for bit in range(NUM_BITS):
        picture[_block(picture.shape[:2], bit)] = _BRIGHT if number >> bit & 1 else _DARK


def _block(size: tuple[int, ...], bit: int, inset: float = 0.0) -> tuple[slice, slice]:
    """Rows and columns of one bit, relative to the size; ``inset`` trims that share of each edge."""
    height, width = size
    row, column = divmod(bit, _BIT_COLUMNS)
    step_y, step_x = height / 2 / _BIT_ROWS, width / _BIT_COLUMNS
    top, left = (row + inset) * step_y, (column + inset) * step_x
    bottom, right = (row + 1 - inset) * step_y, (column + 1 - inset) * step_x
    return slice(round(top), round(bottom)), slice(round(left), round(right))


def read_frame_number(rgb_CHW: Any) -> int:
    """Read the number out of a picture of any size and depth (numpy array or tensor, 3 or 4 channels).

    Raises:
        ValueError: the blocks are neither black nor white: this is no frame of a test clip.
    """
    array = np.asarray(rgb_CHW)
    picture = array[:3].astype(np.float32).mean(axis=0) / np.iinfo(array.dtype).max
    number = 0
    for bit in range(NUM_BITS):
        level = float(picture[_block(picture.shape, bit, inset=0.3)].mean())
        if 0.35 < level < 0.65:
            raise ValueError(f"bit {bit} is neither black nor white: {level:.2f}")
        number |= int(level > 0.5) << bit
    return number


def make_clip(
    path: str | Path,
    *,
    codec: str = "h264",
    pixel_format: str = "yuv420p",
    num_frames: int = 24,
    size: tuple[int, int] = (96, 64),
    rate: Fraction | int = 24,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    start_offset: Fraction | int = 0,
    gop: int = 8,
    bframes: int = 0,
    open_gop: bool = False,
    interlaced: bool = False,
    colour: ColourTags | None = None,
    sample_aspect: Fraction | int = 1,
    rotation: int = 0,
    mirrored: bool = False,
    cuts: Sequence[int] = (),
    audio_tracks: int = 0,
    audio_offset: Fraction | int = 0,
    subtitles: Sequence[str] = (),
    chapters: Sequence[tuple[float, float, str]] = (),
    attachments: Sequence[tuple[str, str, bytes]] = (),
    metadata: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    first_number: int = 0,
) -> Clip:
    """Write a clip whose frames are numbered ``first_number``, ``first_number`` + 1, ...

    Args:
        path: the ending chooses the container unless ``container_format`` does.
        codec: a key of :data:`ENCODERS` or the name of an FFmpeg encoder.
        size: width and height as displayed; a rotated clip is stored turned.
        pts: display times in units of ``time_base`` for a variable rate; 0, 1, 2 ... otherwise.
        time_base: of ``pts``; one tick per frame when not given.
        start_offset: seconds added to every time, sound included. Below zero in MP4 and MOV the
            muxer writes an edit list that hides what comes before zero.
        interlaced: weave two fields of different pictures and flag them (h264, mpeg2, prores).
        colour: tags to write and to code by; the matrix also decides the arithmetic. Untagged when
            not given, coded as BT.601 limited range.
        rotation: clockwise turn the player must apply, 0, 90, 180 or 270.
        mirrored: whether it must also flip the picture left to right before that.
        cuts: numbers of frames at which another scene begins.
        audio_offset: further seconds added to the sound only.
        subtitles: languages, one text track each (SRT in Matroska, mov_text in MP4 and MOV).
        chapters: start, end (seconds), title.
        attachments: file name, MIME type, content (Matroska only).
        options: further encoder options.
    """
    path = str(path)
    rate = Fraction(rate)
    tick = time_base or 1 / rate
    ticks = tuple(pts) if pts is not None else tuple(range(num_frames))
    if len(ticks) != num_frames:
        raise ValueError(f"got {len(ticks)} times for {num_frames} frames")
    shift = Fraction(start_offset)
    times = tuple(t * tick + shift for t in ticks)

    with av.open(path, "w", format=container_format, options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = _add_video(container, codec, pixel_format, size, rotation, rate, tick, gop, bframes)
        stream.codec_context.options = _encoder_options(
            stream.codec_context.name, gop=gop, bframes=bframes, open_gop=open_gop, interlaced=interlaced
        ) | (options or {})
        if sample_aspect != 1:
            stream.codec_context.sample_aspect_ratio = Fraction(sample_aspect)
        _tag(stream.codec_context, colour)
        with scheduling_kept():
            stream.codec_context.open()
        if mirrored:
            stream.set_display_rotation(rotation, hflip=True)
        elif rotation:
            stream.set_display_rotation(-rotation)  # libav counts anticlockwise
        sound = [_add_audio(container, path, track) for track in range(audio_tracks)]
        text = [_add_subtitles(container, path, language) for language in subtitles]
        for name, mime, data in attachments:
            container.add_attachment(name, mime, data)
        if chapters:
            container.set_chapters(
                [
                    {
                        "id": index,
                        "start": round(start * 1000),
                        "end": round(end * 1000),
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": title},
                    }
                    for index, (start, end, title) in enumerate(chapters)
                ]
            )
        offset_ticks = shift / tick
        if offset_ticks.denominator != 1:
            raise ValueError(f"start_offset {shift} is no multiple of the tick {tick}")
        packets: list[av.Packet] = []
        for index in range(num_frames):
            frame = _encode_picture(
                index + first_number, size, rotation, mirrored, pixel_format, colour, cuts, interlaced
            )
            frame.pts = ticks[index] + int(offset_ticks)
            frame.time_base = tick
            packets += stream.encode(frame)
        packets += stream.encode(None)
        seconds = float(times[-1] - times[0] + 1 / rate)
        for track in sound:
            packets += _tone(track, seconds, shift + Fraction(audio_offset))
        for index, track in enumerate(text):
            packets += _captions(track, index, seconds, shift)
        packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        for packet in packets:
            container.mux(packet)
    return Clip(path=path, num_frames=num_frames, size=size, times=times, rate=rate)


def _add_video(
    container: av.container.OutputContainer,
    codec: str,
    pixel_format: str,
    size: tuple[int, int],
    rotation: int,
    rate: Fraction,
    tick: Fraction,
    gop: int,
    bframes: int,
) -> av.VideoStream:
    stream = container.add_stream(ENCODERS.get(codec, codec), rate=rate)
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    stored = size if rotation % 180 == 0 else size[::-1]
    context.width, context.height = stored
    context.pix_fmt = pixel_format
    context.time_base = tick
    context.framerate = rate
    context.gop_size = gop
    context.max_b_frames = bframes
    context.thread_count = 1
    if container.format.name in ("mp4", "mov", "matroska", "webm"):
        stream.time_base = tick
    return stream


def _encoder_options(encoder: str, *, gop: int, bframes: int, open_gop: bool, interlaced: bool) -> dict[str, str]:
    if encoder in ("libx264", "libx265"):
        params = f"keyint={gop}:min-keyint={gop}:bframes={bframes}:b-adapt=0:scenecut=0:open-gop={int(open_gop)}"
        if encoder == "libx265":
            # A single thread: these clips are smaller than what starting a pool costs.
            return {"x265-params": f"{params}:log-level=none:pools=1:frame-threads=1", "preset": "ultrafast"}
        interlacing = ":tff=1" if interlaced else ""
        # Else x264 chooses differently from run to run with AVX-512, and damage hits other frames each time.
        return {"x264-params": f"{params}:cpu-independent=1{interlacing}", "preset": "veryfast", "crf": "18"}
    if encoder == "libvpx-vp9":
        return {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}
    if encoder == "libsvtav1":
        return {"preset": "12", "crf": "20", "svtav1-params": f"keyint={gop}:lp=1"}
    if encoder in ("mpeg2video", "mpeg4"):
        flags = ("" if open_gop else "+cgop") + ("+ildct+ilme" if interlaced else "")
        return {"b": "2M"} | ({"flags": flags} if flags else {}) | {"sc_threshold": "1000000000"}
    if encoder == "prores_ks" and interlaced:
        return {"flags": "+ildct"}
    return {"q": "3"} if encoder == "mjpeg" else {}


def _tag(context: av.VideoCodecContext, colour: ColourTags | None) -> None:
    if colour is None:
        return
    context.color_primaries = PRIMARIES[colour.primaries]
    context.color_trc = TRANSFERS[colour.transfer]
    context.colorspace = MATRICES[colour.matrix]
    context.color_range = 2 if colour.full_range else 1


def _encode_picture(
    number: int,
    size: tuple[int, int],
    rotation: int,
    mirrored: bool,
    pixel_format: str,
    colour: ColourTags | None,
    cuts: Sequence[int],
    interlaced: bool,
) -> av.VideoFrame:
    scene = sum(number >= cut for cut in cuts)
    picture = draw_frame(number, size, scene=scene)
    if interlaced:
        picture[1::2] = np.roll(picture, size[0] // 12, axis=1)[1::2]
        _stamp(picture, number)
    # The player turns clockwise what is stored, so it is stored turned the other way.
    picture = np.rot90(picture, rotation // 90)
    if mirrored:
        picture = picture[:, ::-1]
    return to_pixel_format(picture, pixel_format, colour or ColourTags())


def to_pixel_format(picture: np.ndarray[Any, Any], pixel_format: str, colour: ColourTags) -> av.VideoFrame:
    """Convert float R'G'B'(A) in 0..1 to a libav frame in the given format, matrix and range."""
    codes = np.ascontiguousarray(np.round(picture * 65535).astype(np.uint16))
    rgb = av.VideoFrame.from_ndarray(codes, format="rgba64le" if codes.shape[2] == 4 else "rgb48le")
    rgb.color_range = 2
    matrix = colour.matrix if colour.matrix not in ("unknown", "rgb") else "smpte170m"
    # The reformatter names matrices by swscale's numbers, where BT.601 of either line count is 5.
    number = {"smpte170m": 5, "bt470bg": 5}.get(matrix, MATRICES[matrix])
    frame = rgb.reformat(
        format=pixel_format,
        dst_colorspace=number,
        dst_color_range=2 if colour.full_range or pixel_format.startswith("yuvj") else 1,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
        threads=1,
    )
    frame.color_primaries = PRIMARIES[colour.primaries]
    frame.color_trc = TRANSFERS[colour.transfer]
    if frame.format.is_rgb:
        frame.colorspace = 0
    return frame


def _add_audio(container: av.container.OutputContainer, path: str, track: int) -> av.AudioStream:
    name = AUDIO_CODECS.get(Path(path).suffix, "aac")
    stream = container.add_stream(name, rate=48000, layout="stereo")
    assert isinstance(stream, av.AudioStream)
    stream.metadata["language"] = ("eng", "deu", "fra", "jpn")[track % 4]
    stream.metadata["title"] = f"Track {track + 1}"
    return stream


def _tone(stream: av.AudioStream, seconds: float, shift: Fraction) -> list[av.Packet]:
    num_samples = round(seconds * 48000)
    wave = np.sin(np.arange(num_samples) * (2 * np.pi * (440 + 110 * stream.index) / 48000)) * 8000
    packets: list[av.Packet] = []
    for start in range(0, num_samples, 1024):
        part = wave[start : start + 1024].astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(part, 2)[None], format="s16", layout="stereo")
        frame.sample_rate = 48000
        frame.pts = start + round(shift * 48000)
        frame.time_base = Fraction(1, 48000)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _add_subtitles(container: av.container.OutputContainer, path: str, language: str) -> Any:
    stream = container.add_mux_stream("mov_text" if _is_iso(path) else "subrip")
    stream.metadata["language"] = language
    stream.time_base = Fraction(1, 1000)
    return stream


def _captions(stream: Any, track: int, seconds: float, shift: Fraction) -> list[av.Packet]:
    text = f"Caption of track {track + 1}".encode()
    if _is_iso(stream.container.name):
        text = len(text).to_bytes(2, "big") + text
    packet: av.Packet = av.Packet(text)
    packet.stream = stream
    packet.time_base = Fraction(1, 1000)
    packet.pts = packet.dts = round(shift * 1000) + round(seconds * 250)
    packet.duration = round(seconds * 500)
    packet.is_keyframe = True
    return [packet]


def _is_iso(path: str) -> bool:
    return Path(path).suffix in (".mp4", ".mov")


def make_image(
    path: str | Path,
    *,
    pixel_format: str,
    codec: str,
    size: tuple[int, int] = (96, 64),
    orientation: int = 1,
    number: int = 5,
    colour: ColourTags | None = None,
) -> np.ndarray[Any, Any]:
    """Write a still image and return the picture in it as float R'G'B'(A) in 0..1, upright.

    Args:
        codec: FFmpeg's encoder: ``png``, ``mjpeg``, ``libwebp``, ``tiff``, ``bmp``.
        orientation: EXIF value 1 to 8; the picture is stored so that it comes out upright. Added to JPEG only.
    """
    picture = draw_frame(number, size)
    if pixel_format.startswith(("gray", "ya")):
        picture[:] = picture[..., 1:2]
    if av.VideoFormat(pixel_format).components[-1].is_alpha:
        ramp = np.linspace(0.1, 1.0, size[0], dtype=np.float32)
        picture = np.dstack([picture, np.broadcast_to(ramp, size[::-1])])
    stored = _as_stored(picture, orientation)
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream(codec, rate=1)
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.width, context.height = stored.shape[1], stored.shape[0]
        context.pix_fmt = pixel_format
        context.options = {"libwebp": {"lossless": "1"}, "mjpeg": {"q": "2"}}.get(codec, {})
        container.mux(stream.encode(_still_frame(stored, pixel_format, colour or ColourTags())))
        container.mux(stream.encode(None))
    if orientation != 1:
        _insert_exif(Path(path), orientation)
    return picture


def _still_frame(picture: np.ndarray[Any, Any], pixel_format: str, colour: ColourTags) -> av.VideoFrame:
    if not pixel_format.startswith("gray"):
        return to_pixel_format(picture, pixel_format, colour)
    peak, dtype = (65535, np.uint16) if "16" in pixel_format else (255, np.uint8)
    return av.VideoFrame.from_ndarray(np.round(picture[..., 0] * peak).astype(dtype), format=pixel_format)


def _as_stored(picture: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """Undo what a viewer does for an orientation (EXIF 2.32, 4.6.4 A)."""
    stored = picture.swapaxes(0, 1) if orientation > 4 else picture
    stored = stored[::-1] if orientation in (3, 4, 6, 7) else stored
    stored = stored[:, ::-1] if orientation in (2, 3, 7, 8) else stored
    return np.ascontiguousarray(stored)


def _insert_exif(path: Path, orientation: int) -> None:
    """Put an APP1 segment with the one tag right after the start of a JPEG."""
    entry = (274).to_bytes(2, "big") + (3).to_bytes(2, "big") + (1).to_bytes(4, "big") + bytes([0, orientation, 0, 0])
    tiff = b"MM\0*" + (8).to_bytes(4, "big") + (1).to_bytes(2, "big") + entry + bytes(4)
    body = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:])
