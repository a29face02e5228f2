"""A look at a few decoded frames: what containers do not say, or say wrongly."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import Literal

import av
from av.filter import Graph

from seedvr2_ray.errors import MediaError
from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.bitstream.matroska import read_tracks
from seedvr2_ray.media.container.index import FrameIndex
from seedvr2_ray.media.container.side_data import SideDataFinder, display_matrix
from seedvr2_ray.media.container.source import (
    BACKTRACK_SECONDS,
    Source,
    decode_packets,
    demux_video,
    open_source,
    ticks,
)
from seedvr2_ray.media.container.views import has_second_view
from seedvr2_ray.media.info import Rotation
from seedvr2_ray.media.picture.colour import tags_from_codes
from seedvr2_ray.media.picture.fields import FieldCounts, FieldReader
from seedvr2_ray.media.picture.pixel_formats import may_have_alpha

_FRAMES_PER_SAMPLE = 20
_QUARTERS: tuple[Rotation, ...] = (0, 90, 180, 270)
SIDE_DATA_KINDS = (
    *("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "DYNAMIC_HDR_PLUS", "DOVI_METADATA", "DYNAMIC_HDR_VIVID"),
    *("SPHERICAL", "STEREO3D", "A53_CC", "ICC_PROFILE"),
)
"""What may travel with frames and is worth a word in the preflight, by FFmpeg's names."""
_NUM_FURTHER_PLACES = 4
_MIN_COMBED_SHARE = 0.4
"""Of the places that tell: from so many on, a video without flags is interlaced."""
_MIN_TELECINE_SHARE = 0.25
"""3:2 pulldown repeats a field in two of five frames; noise hides some of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """What was seen in the first frames and in some from further on."""

    pixel_format: str
    width: int
    """As stored, before rotation."""
    height: int
    colour: ColourTags
    """As tagged."""
    rotation: Rotation
    mirrored: bool
    is_askew: bool
    """The display matrix asks for something other than quarter turns and mirroring."""
    has_alpha: bool
    is_interlaced: bool
    first_field: Literal["", "top", "bottom"]
    """Of interlaced frames that are not flagged so: the order that the pictures themselves show."""
    num_combed_places: int
    """Of the places looked at, those that are interlaced in a video that as a whole is not."""
    is_telecined: bool
    """Interlaced, with fields repeated in the rhythm of video shown at 30 frames."""
    is_soft_telecined: bool
    """Progressive frames with flags that ask the player to repeat fields."""
    has_second_view: bool
    """Another view for the other eye, inside the same stream."""
    crop: tuple[tuple[str, int], ...]
    """Sides that a Matroska file wants cut off, and by how many pixels."""
    side_data: frozenset[str]
    """Names of what travels with the frames: HDR metadata, closed captions ..."""


def take_samples(path: str, stream_index: int, index: FrameIndex) -> Samples:
    """Decode the first frames and a few from places further on.

    Raises:
        MediaError: not even the first frame can be decoded.
    """
    head = _look(path, stream_index, None, index)
    if head is None:
        raise MediaError(f"{path}: its pictures cannot be decoded; the file is damaged")
    looks = [head, *_further_looks(path, stream_index, index)]
    tracks = read_tracks(path)
    with open_source(path, stream_index) as source:
        second_view = has_second_view(source)
    with open_source(path, stream_index) as source:
        field_order = source.stream.codec_context.field_order
        is_soft_telecined = source.stream.codec_context.name == "mpeg2video" and _repeats_fields(source)
    fields = _judge_fields(looks, field_order=field_order)
    first = head.first
    rotation, mirrored, is_askew = _display_turn(first)
    return Samples(
        pixel_format=first.format.name,
        width=first.width,
        height=first.height,
        colour=_tags(first),
        rotation=rotation,
        mirrored=mirrored,
        is_askew=is_askew,
        has_alpha=may_have_alpha(first.format.name),
        is_interlaced=fields.is_interlaced,
        first_field=fields.first_field,
        num_combed_places=fields.num_combed_places,
        is_telecined=fields.is_telecined,
        is_soft_telecined=is_soft_telecined and not fields.is_interlaced,
        has_second_view=second_view,
        crop=tracks[stream_index].crop if stream_index < len(tracks) else (),
        side_data=frozenset().union(*(look.side_data for look in looks)),
    )


def _further_looks(path: str, stream_index: int, index: FrameIndex) -> list["_Look"]:
    """Look at places spread over the video: openings are not what videos are made of."""
    if index.timestamps == "counted":
        return []
    num_places = min(_NUM_FURTHER_PLACES, len(index.pts) // _FRAMES_PER_SAMPLE - 1)
    places = (len(index.pts) * place // (num_places + 1) for place in range(1, num_places + 1))
    looks = (_look(path, stream_index, index.pts[place], index) for place in places)
    return [look for look in looks if look is not None]


@dataclass(frozen=True, slots=True)
class _Fields:
    """What a video is made of, by its flags and by its pictures."""

    is_interlaced: bool
    is_telecined: bool
    first_field: Literal["", "top", "bottom"]
    num_combed_places: int


def _judge_fields(looks: list["_Look"], *, field_order: int) -> _Fields:
    """Believe the flags where there are any, and the pictures where there are none.

    Args:
        field_order: as the container says (MOV's fiel box) where the codec has no flag for it; interlaced from 2 on.
    """
    num_frames, num_flagged = sum(look.num_frames for look in looks), sum(look.num_interlaced for look in looks)
    # A video of many sources is flagged in some of its parts only; pictures that show no comb outweigh that.
    flagged = [look for look in looks if 2 * look.num_interlaced > look.num_frames]
    by_flags = (
        2 * num_flagged > num_frames
        or any(look.fields.verdict != "progressive" for look in flagged)
        or (field_order > 1 and not num_flagged)
    )
    verdicts = [look.fields.verdict for look in looks if look not in flagged]
    num_combed = sum(verdict in ("interlaced", "telecined") for verdict in verdicts)
    num_certain = sum(verdict != "unknown" for verdict in verdicts)
    by_pictures = num_combed > 0 and num_combed >= _MIN_COMBED_SHARE * num_certain
    is_interlaced = by_flags or by_pictures
    repeats = max(look.repeated_share for look in looks) >= _MIN_TELECINE_SHARE
    is_telecined = is_interlaced and (repeats or (not by_flags and 2 * verdicts.count("telecined") >= num_combed))
    first_field: Literal["", "top", "bottom"] = ""
    if by_pictures and not by_flags:
        top, bottom = (sum(getattr(look.fields, name) for look in looks) for name in ("top_first", "bottom_first"))
        first_field = "top" if top >= bottom else "bottom"
    return _Fields(is_interlaced, is_telecined, first_field, 0 if is_interlaced else num_combed)


@dataclass(frozen=True, slots=True)
class _Look:
    """A few consecutive frames."""

    first: av.VideoFrame
    num_frames: int
    num_interlaced: int
    repeated_share: float
    """How many of them show a field again that the frame before showed."""
    side_data: frozenset[str]
    fields: FieldCounts
    """What the pictures say, whatever the flags do."""


def _look(path: str, stream_index: int, near: int | None, index: FrameIndex) -> _Look | None:
    for seconds in (None,) if near is None else BACKTRACK_SECONDS:
        with open_source(path, stream_index) as source:
            seek_to = None if near is None or seconds is None else near - ticks(seconds, source)
            by_dts = index.timestamps == "dts"
            decoded = decode_packets(source, seek_to=seek_to, num_threads=0, closed=index.closed, by_dts=by_dts)
            look = _summary(item.frame for item in islice(decoded, _FRAMES_PER_SAMPLE))
        if look is not None:
            return look
    return None


def _summary(frames: Iterator[av.VideoFrame]) -> _Look | None:
    """Look at frames one by one: of large ones only a few fit into memory."""
    first = next(frames, None)
    if first is None:
        return None
    graph = _field_detector(first) if first.interlaced_frame else None
    num_frames = num_interlaced = num_repeated = 0
    side_data: set[str] = set()
    finder = SideDataFinder(SIDE_DATA_KINDS)
    fields = FieldReader()
    for frame in chain((first,), frames):
        num_frames += 1
        num_interlaced += frame.interlaced_frame
        side_data |= finder.kinds_on(frame)
        fields.accept(frame)
        if graph is not None:
            graph.vpush(frame)
            num_repeated += _count_repeated(graph)
    if graph is not None:
        graph.vpush(None)
        num_repeated += _count_repeated(graph)
    share = num_repeated / num_frames if num_frames == _FRAMES_PER_SAMPLE else 0.0
    return _Look(first, num_frames, num_interlaced, share, frozenset(side_data), fields.counts)


def _field_detector(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    graph.link_nodes(source, graph.add("idet"), graph.add("buffersink")).configure()
    return graph


def _count_repeated(graph: Graph) -> int:
    count = 0
    while True:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return count
        count += frame.metadata.get("lavfi.idet.repeated.current_frame") in ("top", "bottom")


def _tags(frame: av.VideoFrame) -> ColourTags:
    is_full = frame.color_range == 2 or frame.format.name.startswith("yuvj")
    return tags_from_codes(
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        matrix=frame.colorspace,
        colour_range=2 if is_full else frame.color_range,
    )


def _display_turn(frame: av.VideoFrame) -> tuple[Rotation, bool, bool]:
    """Split a display matrix into a flip, quarter turns, and whether anything is left over."""
    matrix = display_matrix(frame)
    if matrix is None:
        return 0, False, False
    a, b, _, c, d, *_ = matrix
    mirrored = a * d - b * c < 0
    sign = -1 if mirrored else 1
    # The matrix maps a point (x, y), y down, to (a x + c y, b x + d y): its first row is where
    # "right" goes, which the flip has turned around.
    degrees = math.degrees(math.atan2(sign * b, sign * a)) % 360
    quarters = round(degrees / 90)
    return _QUARTERS[quarters % 4], mirrored, abs(degrees - 90 * quarters) > 1


def _repeats_fields(source: Source) -> bool:
    """Whether MPEG-2 pictures ask for a field to be shown again (ISO 13818-2, 6.2.3.1)."""
    return any(_asks_for_repeat(bytes(packet)) for packet in islice(demux_video(source), _FRAMES_PER_SAMPLE))


def _asks_for_repeat(data: bytes) -> bool:
    at = data.find(b"\0\0\1\xb5")
    while at >= 0:
        # Extension 8 describes the picture; 27 bits further on is repeat_first_field.
        if at + 7 < len(data) and data[at + 4] >> 4 == 8:
            return bool(data[at + 7] & 2)
        at = data.find(b"\0\0\1\xb5", at + 4)
    return False
