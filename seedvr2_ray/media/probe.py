"""Everything the plan needs to know about a file, found out before anything is spent on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NoReturn

from av import VideoStream

from seedvr2_ray.errors import DamagedMediaError, MediaError
from seedvr2_ray.media.bitstream.encryption import is_encrypted
from seedvr2_ray.media.container.frame_rates import STANDARD_RATES, constant_rate, mean_rate
from seedvr2_ray.media.container.index import FrameIndex, build_index
from seedvr2_ray.media.container.inventory import codec_name, describe_chapters, describe_streams, is_cover, is_unknown
from seedvr2_ray.media.container.preflight import preflight
from seedvr2_ray.media.container.samples import Samples, take_samples
from seedvr2_ray.media.container.source import Source, open_source, require_file
from seedvr2_ray.media.container.still_kinds import still_kind
from seedvr2_ray.media.info import MediaInfo, Notice, VideoInfo
from seedvr2_ray.media.picture.colour import HDR_TRANSFERS, fill_in, is_complete
from seedvr2_ray.media.picture.hdr import NO_HDR
from seedvr2_ray.media.picture.pixel_formats import bit_depth_of, chroma_of
from seedvr2_ray.media.stills.reader import describe_still
from seedvr2_ray.media.tracks.sound_check import DamagedSound, damaged_sound


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeLimits:
    """What a deployment accepts. Pictures are measured before one of them is decoded."""

    max_width: int = 16384
    max_height: int = 16384
    max_pixels: int = 16384 * 8704
    """Per frame; 16K in 16:9 and a little more."""
    max_frames: int = 5_000_000


def probe(path: str, *, limits: ProbeLimits = ProbeLimits(), salvage: bool = False) -> MediaInfo:
    """Find out what a local file holds: a video, or a still image.

    Reads all packets of the pictures; decodes only the beginning, the end and a few frames between,
    unless the container's word on its frames cannot be trusted.

    Args:
        limits: what is accepted here.
        salvage: describe a damaged file instead of refusing it; what cannot be read is then named in
            :attr:`MediaInfo.damaged_frames`.

    Raises:
        MediaError: the file cannot be used; the message says why.
        DamagedMediaError: a part of it can, and ``salvage`` is off.
    """
    require_file(path)
    if still_kind(path) is not None:
        return describe_still(
            path, require_size=lambda width, height: _require_size(path, width, height, limits), salvage=salvage
        )
    try:
        return _probe_video(path, limits, salvage=salvage)
    except MediaError as error:
        if is_encrypted(path):
            raise MediaError(f"{path} is encrypted; only unprotected files can be restored") from error
        raise


def _probe_video(path: str, limits: ProbeLimits, *, salvage: bool) -> MediaInfo:
    with open_source(path) as source:
        _require_size(path, source.stream.width, source.stream.height, limits)
        stream_index = source.stream.index
    index = build_index(path, stream_index, max_frames=limits.max_frames)
    sound = damaged_sound(path)
    if not salvage:
        _require_intact(path, index, sound)
    samples = take_samples(path, stream_index, index)
    with open_source(path, stream_index) as source:
        return _describe(source, index, samples, sound)


def _require_size(path: str, width: int, height: int, limits: ProbeLimits) -> None:
    if width < 1 or height < 1:
        raise MediaError(f"{path} names no picture size: its header is damaged or its pictures are missing")
    if width > limits.max_width or height > limits.max_height or width * height > limits.max_pixels:
        raise MediaError(
            f"{path} is {width}x{height} and the limit here is {limits.max_width}x{limits.max_height} "
            f"with {limits.max_pixels} pixels; scale it down or raise the limit"
        )


def _require_intact(path: str, index: FrameIndex, sound: Sequence[DamagedSound]) -> None:
    if index.lost or index.missing_bytes:
        _refuse_damaged_pictures(path, index)
    if sound:
        raise DamagedMediaError(
            f"{path} has damaged sound: stream {sound[0].stream_index} {sound[0].reason}; "
            "pass --salvage to restore the pictures and keep the sound as it is"
        )
    if index.witness:
        raise DamagedMediaError(
            f"{path} is damaged outside of its pictures, in sound, subtitles or times ({index.witness}); "
            "pass --salvage to restore the pictures and keep the rest as it is"
        )


def _refuse_damaged_pictures(path: str, index: FrameIndex) -> NoReturn:
    num_lost = sum(stop - start for start, stop in index.lost)
    ranges = ", ".join(str(start) if stop == start + 1 else f"{start}-{stop - 1}" for start, stop in index.lost[:5])
    more = ", ..." if len(index.lost) > 5 else ""
    cut = f" and its last {index.missing_bytes} bytes are missing" if index.missing_bytes else ""
    witness = f", by {index.witness}" if index.suspect else ""
    which = f" (not: {ranges}{more}{witness})" if index.lost else ""
    raise DamagedMediaError(
        f"{path} is damaged: {len(index.pts) - num_lost} of {len(index.pts)} frames can be read{which}{cut}; "
        "pass --salvage to restore what can be read"
    )


def _describe(source: Source, index: FrameIndex, samples: Samples, sound: Sequence[DamagedSound]) -> MediaInfo:
    container = source.container
    video = _describe_video(source, index, samples)
    return MediaInfo(
        path=source.path,
        size_bytes=container.size,
        container=container.format.name,
        kind="video",
        video=video,
        frame_pts=index.pts,
        damaged_frames=index.lost,
        streams=describe_streams(container),
        chapters=describe_chapters(container),
        metadata=dict(container.metadata),
        preflight=(
            *preflight(video, samples, index, is_image=False, further_videos=_further_videos(source)),
            *(Notice("kept", f"sound stream {each.stream_index}", f"damaged {each.reason}") for each in sound),
        ),
    )


def _describe_video(source: Source, index: FrameIndex, samples: Samples) -> VideoInfo:
    stream = source.stream
    time_base = stream.time_base or Fraction(1, 25)
    chroma = chroma_of(samples.pixel_format)
    turned = samples.rotation % 180 != 0
    size = (samples.height, samples.width) if turned else (samples.width, samples.height)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    rate, is_variable = _rate(source, index.pts, time_base)
    colour = fill_in(
        samples.colour,
        kind="video",
        width=samples.width,
        height=samples.height,
        is_rgb=chroma == "rgb",
    )
    return VideoInfo(
        stream_index=stream.index,
        codec=codec_name(stream),
        pixel_format=samples.pixel_format,
        width=size[0],
        height=size[1],
        sample_aspect=1 / aspect if turned else aspect,
        rotation=samples.rotation,
        mirrored=samples.mirrored,
        bit_depth=bit_depth_of(samples.pixel_format),
        chroma=chroma,
        has_alpha=samples.has_alpha,
        colour=colour,
        guessed_colour=not is_complete(samples.colour),
        time_base=time_base,
        frame_rate=rate,
        is_variable_rate=is_variable,
        num_frames=len(index.pts),
        field_order=_field_order(samples),
        first_field=samples.first_field,
        timestamps=index.timestamps,
        hdr=index.picture_data.hdr if colour.transfer in HDR_TRANSFERS else NO_HDR,
        has_captions=index.picture_data.num_captioned > 0,
        closed=index.closed,
        suspect=index.suspect,
        clock=index.clock,
        last_ticks=_last_ticks(index, 1 / (rate * time_base)),
    )


def _rate(source: Source, pts: Sequence[int], time_base: Fraction) -> tuple[Fraction, bool]:
    """The exact rate if it is constant, else the mean one; and whether it varies."""
    stream = source.stream
    named = [rate for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    if len(pts) == 1:
        return (named or [Fraction(25)])[0], False
    mean = mean_rate(pts, time_base)
    # The rate in use that comes closest goes before what a container with coarse ticks works out.
    in_use = sorted((rate for rate in STANDARD_RATES if abs(rate / mean - 1) < 0.01), key=lambda rate: abs(rate - mean))
    candidates = [*(rate for rate in named if rate in STANDARD_RATES), *in_use, *named, mean]
    constant = constant_rate(pts, time_base, candidates)
    return (constant, False) if constant is not None else (mean, True)


def _last_ticks(index: FrameIndex, usual: Fraction) -> int:
    """How long the last frame is shown, unless that is a frame's usual time as a container rounds it."""
    return index.last_ticks if abs(index.last_ticks - usual) > 1 else 0


def _field_order(samples: Samples) -> Literal["progressive", "interlaced", "telecined"]:
    if samples.is_telecined:
        return "telecined"
    return "interlaced" if samples.is_interlaced else "progressive"


def _further_videos(source: Source) -> tuple[tuple[int, str], ...]:
    """Video streams that are not restored, and why each is not."""
    return tuple(
        (stream.index, _why_not_restored(stream, source))
        for stream in source.container.streams.video
        if stream.index != source.stream.index and not is_cover(stream)
    )


def _why_not_restored(stream: VideoStream, source: Source) -> str:
    if is_unknown(stream):
        return "its codec is unknown here"
    # The first with pictures is chosen, so those before it have none.
    return "it holds no pictures" if stream.index < source.stream.index else "only the first video is restored"
