"""What is known about a source before any of its frames is restored."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.bitstream.entry_points import Stretches
from seedvr2_ray.media.container.clock import ClockChange
from seedvr2_ray.media.picture.hdr import NO_HDR, StaticHdr

Chroma = Literal["420", "422", "444", "440", "411", "410", "rgb", "grey"]
Rotation = Literal[0, 90, 180, 270]
StreamKind = Literal["audio", "subtitle", "attachment", "data", "cover"]
Ranges = tuple[tuple[int, int], ...]
"""Of frame numbers, increasing: [start, stop)."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One line of the preflight: what will happen to something found in the source."""

    outcome: Literal["kept", "converted", "left_out", "refused"]
    """``refused`` stops the job before anything is spent."""
    subject: str
    """What it is about: ``rotation``, ``interlacing``, ``subtitle stream 3`` ..."""
    reason: str
    """One sentence for a person, with the way out where there is one."""


def merge_notices(foretold: Iterable[Notice], decided: Iterable[Notice]) -> tuple[Notice, ...]:
    """Say everything once: of something that was decided since, what was foretold is not said any more."""
    decided = tuple(decided)
    subjects = {notice.subject for notice in decided if notice.outcome != "left_out"}
    still_true = (notice for notice in foretold if notice.outcome != "left_out" or notice.subject not in subjects)
    return tuple(dict.fromkeys((*still_true, *decided)))


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """The pictures of a source: of its first video stream that is no cover art, or of a still image."""

    stream_index: int
    codec: str
    """FFmpeg's name of the codec: ``h264``, ``prores`` ...; of a still image its kind: ``png``, ``jpeg2000`` ..."""
    pixel_format: str
    width: int
    """Of the frames :func:`~seedvr2_ray.media.reading.decode.decode_span` gives: rotation applied, pixels as stored."""
    height: int
    sample_aspect: Fraction
    """Width over height of one pixel, after rotation; 1 when the source does not say."""
    rotation: Rotation
    """Degrees clockwise that the stored picture is turned for display."""
    mirrored: bool
    """Whether the stored picture is also flipped left to right before it is turned (EXIF)."""
    bit_depth: int
    chroma: Chroma
    has_alpha: bool
    colour: ColourTags
    """As tagged, with untagged values filled in by the usual rule (SD, HD, RGB); see ``guessed_colour``."""
    guessed_colour: bool
    time_base: Fraction
    """Seconds per tick of every pts."""
    frame_rate: Fraction
    """Exact rate when constant, mean rate when variable; 1 for a still image."""
    is_variable_rate: bool
    num_frames: int
    field_order: Literal["progressive", "interlaced", "telecined"]
    first_field: Literal["", "top", "bottom"] = ""
    """Which field of interlaced frames comes first, where they are not flagged and only the pictures tell."""
    timestamps: Literal["pts", "dts", "counted"] = "pts"
    """How the decoder recognises a frame: by its presentation time; by the decoding time of the packet
    that made the decoder give it (AVI stores no other); or only by counting from the beginning."""
    hdr: StaticHdr = NO_HDR
    """HDR10's static metadata, of PQ and HLG only."""
    has_captions: bool = False
    """Whether closed captions travel inside the pictures in a form that new pictures can carry."""
    closed: Stretches = ()
    """Stretches of those times in which decoding must not begin, as the key frames there lack parameter sets."""
    suspect: tuple[tuple[int, int], ...] = ()
    """Ranges [start, stop) of frames whose bytes are not those that were written, as a checksum says; the
    decoder may not notice."""
    is_still: bool = False
    """A still image: read by :mod:`seedvr2_ray.media.stills.reader`, not by libav's demuxers."""
    clock: tuple[ClockChange, ...] = ()
    """Where the file's own clock starts anew. All times given here are of one clock that goes on."""
    last_ticks: int = 0
    """How long the last frame is shown, where that is not as long as a frame usually is; else 0."""

    @property
    def display_aspect(self) -> Fraction:
        """Width over height of the picture as a viewer sees it."""
        return Fraction(self.width, self.height) * self.sample_aspect


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamInfo:
    """A stream that is copied rather than restored."""

    index: int
    kind: StreamKind
    codec: str
    language: str
    title: str
    description: str
    """For a person: ``aac, 48000 Hz, stereo``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """A named stretch of the source."""

    start_seconds: Fraction
    end_seconds: Fraction
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaInfo:
    """Everything the plan needs to know about a source. Made by :func:`~seedvr2_ray.media.probe.probe`."""

    path: str
    size_bytes: int
    container: str
    """FFmpeg's name of the demuxer: ``mov,mp4,m4a,3gp,3g2,mj2``, ``matroska,webm`` ...
    Of a still image its kind: ``png``, ``heif`` ..."""
    kind: Literal["video", "image"]
    video: VideoInfo
    frame_pts: "array[int]"
    """Presentation time of every frame in display order, in ticks of ``video.time_base``."""
    damaged_frames: tuple[tuple[int, int], ...]
    """Ranges [start, stop) of frame numbers that the container lists and the decoder is known not to give."""
    streams: tuple[StreamInfo, ...]
    chapters: tuple[Chapter, ...]
    metadata: dict[str, str]
    preflight: tuple[Notice, ...]

    @property
    def duration_seconds(self) -> Fraction:
        """From the first frame to the end of the last one."""
        ticks = self.frame_pts[-1] - self.frame_pts[0] + self.video.last_ticks
        usual = Fraction(0) if self.video.last_ticks else 1 / self.video.frame_rate
        return ticks * self.video.time_base + usual


def ranges_of(numbers: Iterable[int]) -> Ranges:
    """Return increasing numbers as ranges [start, stop)."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return tuple(ranges)
