"""``plan``: from a probed source and settings to segments, by rules that know nothing of workers.

Everything here is a pure function of the probe, the settings and the installed conversion libraries, so that any
machine with the same ones plans the same segments with the same addresses, and resume, retry and "already done" are
one look into a store.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from seedvr2_ray.errors import InputError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.conversions import conversions_fingerprint
from seedvr2_ray.media.info import MediaInfo, Notice, VideoInfo
from seedvr2_ray.media.output.libraries import library_versions
from seedvr2_ray.media.output.master import MasterFormat, plan_master
from seedvr2_ray.media.reading.proof import Proof, SpanProof
from seedvr2_ray.restoration.planning.excerpt import Excerpt, excerpted, find_excerpt
from seedvr2_ray.restoration.planning.geometry import Geometry, parse_resolution, plan_geometry, say_size
from seedvr2_ray.restoration.planning.reference_size import reference_geometry
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import digest_of
from seedvr2_ray.storage.faults import printable

PIPELINE_VERSION = 2
"""Raised when a change of code changes restored pictures: older intermediates are then not reused."""

ALIGNMENT = 4
"""Segments of one shot start whole latents apart (4 frames at most): frames they share draw the same noise."""

# What a caller chooses that changes the restored frames themselves. Everything else (codec, quality,
# container, where it is cut) may change without restoring again.
_PICTURE_SETTINGS = (
    "seed",
    "colour_match",
    "sample_steps",
    "cfg_scale",
    "cfg_rescale",
    "chunk_frames",
    "chunk_overlap",
    "padding",
    "vae_tile",
    "reference",
    "deinterlace",
    "salvage",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What all segments of one source share: small, picklable, enough for a worker."""

    source: str
    """Path or URL, as the caller gave it."""
    fingerprint: str
    """Identifies the source's bytes."""
    video: VideoInfo
    settings: RestoreSettings
    geometry: Geometry
    master: MasterFormat
    restorer: RestorerIdentity


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Frames that are restored in one go: a shot, or part of a long one."""

    index: int
    shot: int
    span: FrameSpan
    """All frames to restore, the overlap with the predecessor first."""
    overlap: int
    """Leading frames that the predecessor restores too; 0 at the start of a shot."""
    part_frames: int
    """Leading frames that the finished part holds; the rest is the successor's overlap."""
    address: str
    """Of the restored, lossless intermediate."""
    part_address: str
    """Of the finished part: blended with the predecessor's overlap and encoded."""
    proof: SpanProof | None = None
    """What its source pictures are, where somebody has looked."""
    num_skipped: int = 0
    """Leading frames of the part that an excerpt leaves out."""
    num_dropped: int = 0
    """Trailing ones."""

    @property
    def num_frames(self) -> int:
        """Frames that are restored, overlap included."""
        return len(self.span)

    @property
    def encoded(self) -> range:
        """Frames of the finished part, counted from the segment's first."""
        return range(self.num_skipped, self.part_frames - self.num_dropped)

    @property
    def has_part(self) -> bool:
        """Whether it gives the master frames of its own. Before an excerpt that begins in an overlap lies a segment
        that is only blended with."""
        return len(self.encoded) > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How one source becomes one master."""

    recipe: Recipe
    media: MediaInfo
    """The source; of an excerpt, as if it were all there is: its frames, its length."""
    shots: tuple[int, ...]
    """Number of the first frame of every shot."""
    segments: tuple[Segment, ...]
    notices: tuple[Notice, ...]
    """The preflight: what is kept, converted and left out. Nothing refused is among them."""
    excerpt: Excerpt | None = None
    """Which frames are restored, where they are not all."""

    @property
    def first_frame(self) -> int:
        """Number in the source of the first frame of the master."""
        return 0 if self.excerpt is None else self.excerpt.start

    @property
    def restored_frames(self) -> int:
        """Frames that go through the restorer: those of the source and the overlaps."""
        return sum(segment.num_frames for segment in self.segments)

    @property
    def restored_megapixels(self) -> float:
        """Output megapixels of all frames that go through the restorer."""
        return self.restored_frames * self.recipe.geometry.width * self.recipe.geometry.height / 1e6

    def summary(self) -> dict[str, Any]:
        """Return the plan in a few plain values, for a person, a report or a program."""
        recipe, video = self.recipe, self.media.video
        return {
            "source": printable(recipe.source),
            "frames": video.num_frames,
            "frame_rate": str(video.frame_rate),
            "duration_seconds": float(self.media.duration_seconds),
            "source_size": f"{video.width}x{video.height}",
            "size": f"{recipe.geometry.width}x{recipe.geometry.height}",
            "model": recipe.restorer.name,
            "shots": len(self.shots),
            "segments": len(self.segments),
            "frames_to_restore": self.restored_frames,
            "megapixels_to_restore": round(self.restored_megapixels, 3),
            "container": recipe.master.container,
            "codec": recipe.master.codec,
            "pixel_format": recipe.master.pixel_format,
            **({} if self.excerpt is None else {"excerpt": self.excerpt.summary()}),
        }


def plan_video(
    media: MediaInfo,
    settings: RestoreSettings,
    *,
    source: str,
    fingerprint: str,
    shots: Sequence[int],
    restorer: RestorerIdentity,
    target: str,
    max_pixels: int,
    proof: Proof | None = None,
) -> Plan:
    """Decide everything about one restoration before anything is spent.

    Args:
        media: the probed source.
        settings: what the caller chose.
        source: where the source lies, for people and for workers.
        fingerprint: identifies its bytes; part of every address.
        shots: first frames of the shots; starts with 0.
        restorer: who will restore.
        target: name of the output; its suffix may choose the container.
        max_pixels: limit of this deployment on the output's width x height.
        proof: what the source's pictures are; every segment carries its share.

    Raises:
        InputError: the source or the settings are refused; the message says why and the way out.
    """
    notices = _settle(media.preflight, settings)
    geometry = _plan_sizes(media, settings, max_pixels)
    size_notices = say_size(geometry, media.video.sample_aspect, parse_resolution(settings.resolution))
    master, master_notices = plan_master(media, settings, width=geometry.width, height=geometry.height, target=target)
    recipe = Recipe(
        source=source,
        fingerprint=fingerprint,
        video=media.video,
        settings=settings,
        geometry=geometry,
        master=master,
        restorer=restorer,
    )
    longest = max(ALIGNMENT, round(settings.segment_seconds * media.video.frame_rate))
    if settings.reference:  # The published script takes the whole clip as one sequence.
        shots, longest = (0,), media.video.num_frames
    cuts = cut_segments(shots, media.video.num_frames, longest=longest, overlap=settings.segment_overlap)
    whole = Plan(
        recipe=recipe,
        media=media,
        shots=tuple(shots),
        segments=_address_segments(recipe, media, cuts, proof),
        notices=(*notices, *size_notices, *master_notices),
    )
    return whole if not settings.excerpt else take_excerpt(whole, settings.excerpt)


def take_excerpt(whole: Plan, text: str) -> Plan:
    """Leave of a plan what an excerpt needs; every segment keeps its address, and every untrimmed part too.

    Raises:
        InputError: the excerpt does not lie in the video.
    """
    excerpt = find_excerpt(whole.media, text, whole_restored_frames=whole.restored_frames)
    return replace(
        whole,
        media=excerpted(whole.media, excerpt),
        shots=tuple(
            first
            for first, stop in zip(whole.shots, (*whole.shots[1:], excerpt.of_frames), strict=True)
            if first < excerpt.stop and stop > excerpt.start
        ),
        segments=_excerpted_segments(whole.segments, excerpt),
        notices=(*whole.notices, excerpt.notice),
        excerpt=excerpt,
    )


def publication_key(
    source: str, target: str, settings: RestoreSettings, restorer: RestorerIdentity, **limits: object
) -> str:
    """Address what somebody asks for, before its source is even probed.

    Args:
        source: what identifies the source to whoever asks: its place, or its content.
        target: what identifies the output: its place, or only the ending that chooses its container.
        limits: of the deployment, where they are part of the question.
    """
    # Wholes keep the addresses that they had before there were excerpts.
    asked = {name: value for name, value in settings.to_mapping().items() if name != "excerpt" or value}
    return digest_of(
        {
            "source": source,
            "target": target,
            "settings": asked,
            "restorer": restorer.digest,
            "pipeline": PIPELINE_VERSION,
            **limits,
        }
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """Frame numbers of one segment."""

    shot: int
    start: int
    stop: int
    overlap: int
    """Leading frames shared with the predecessor."""


def cut_segments(shots: Sequence[int], num_frames: int, *, longest: int, overlap: int) -> tuple[Cut, ...]:
    """Cut a video into segments: one for a short shot, several of about equal length for a long one.

    Args:
        shots: first frame of every shot, increasing, the first is 0.
        num_frames: length of the video.
        longest: frames in the longest segment, overlap included (a little more after alignment).
        overlap: frames that neighbouring segments of one shot share.

    Returns:
        Segments in order. Inside a shot each starts a multiple of :data:`ALIGNMENT` frames after the
        shot does, and shares exactly ``overlap`` frames with the one before it; across a cut nothing
        is shared. Without their overlaps they cover every frame once.
    """
    cuts: list[Cut] = []
    for shot, (first, stop) in enumerate(zip(shots, [*shots[1:], num_frames], strict=True)):
        starts = _starts_within_shot(stop - first, longest, overlap)
        for here, (start, successor) in enumerate(zip(starts, [*starts[1:], None], strict=True)):
            end = stop if successor is None else first + successor + overlap
            cuts.append(Cut(shot, first + start, end, overlap if here else 0))
    return tuple(cuts)


def _starts_within_shot(length: int, longest: int, overlap: int) -> list[int]:
    if length <= longest:
        return [0]
    shortest = max(ALIGNMENT, overlap)
    num = ceil((length - overlap) / max(shortest, longest - overlap))
    aligned = [round(index * (length - overlap) / num / ALIGNMENT) * ALIGNMENT for index in range(num)]
    starts = [0]
    for start in aligned[1:]:
        # A frame is shared by two segments at most, and every segment has frames of its own.
        if start - starts[-1] >= shortest and start + overlap < length:
            starts.append(start)
    return starts


def _plan_sizes(media: MediaInfo, settings: RestoreSettings, max_pixels: int) -> Geometry:
    video = media.video
    if settings.reference:
        return reference_geometry(video.width, video.height, settings.resolution)
    return plan_geometry(
        video.width,
        video.height,
        video.sample_aspect,
        parse_resolution(settings.resolution),
        even=media.kind == "video",
        max_pixels=max_pixels,
    )


def _settle(preflight: Sequence[Notice], settings: RestoreSettings) -> tuple[Notice, ...]:
    """Apply what the caller decided to the preflight; refuse what is left refused."""
    decided: list[Notice] = []
    for notice in preflight:
        is_refused = notice.outcome == "refused"
        if is_refused and notice.subject in ("interlacing", "telecine") and settings.deinterlace != "refuse":
            if settings.deinterlace == "off":
                decided.append(Notice("kept", notice.subject, "frames are restored as they are, fields and all"))
            else:
                decided.append(Notice("converted", notice.subject, f"deinterlaced with {settings.deinterlace}"))
        elif is_refused:
            raise InputError(f"{notice.subject}: {notice.reason}")
        else:
            decided.append(notice)
    return tuple(decided)


def _address_segments(
    recipe: Recipe, media: MediaInfo, cuts: Sequence[Cut], proof: Proof | None
) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    picture = {name: getattr(recipe.settings, name) for name in _PICTURE_SETTINGS}
    shared: dict[str, Any] = {
        "pipeline": PIPELINE_VERSION,
        "source": recipe.fingerprint,
        "picture": picture,
        "geometry": recipe.geometry,
        "pixel_format": recipe.master.pixel_format,
        "colour": recipe.master.colour,
        "source_colour": recipe.master.source_colour,
        "restorer": recipe.restorer.digest,
        # Where a libav of another version or build rounds differently, its pictures do not mix with the old ones.
        "conversions": conversions_fingerprint(),
    }
    if media.video.first_field:
        shared["first_field"] = media.video.first_field
    encoder = {"master": recipe.master, "libraries": library_versions()}
    for index, cut in enumerate(cuts):
        successor = cuts[index + 1] if index + 1 < len(cuts) else None
        part_stop = successor.start if successor and successor.overlap else cut.stop
        address = digest_of({**shared, "frames": (cut.start, cut.stop)})
        blended = segments[-1].address if cut.overlap else None
        part = {"restored": address, "blended": blended, "overlap": cut.overlap, "frames": part_stop - cut.start}
        segments.append(
            Segment(
                index=index,
                shot=cut.shot,
                span=FrameSpan(cut.start, tuple(media.frame_pts[cut.start : cut.stop])),
                overlap=cut.overlap,
                part_frames=part_stop - cut.start,
                address=address,
                part_address=digest_of({**part, **encoder}),
                proof=None if proof is None else proof.of_span(cut.start, cut.stop),
            )
        )
    return tuple(segments)


def _excerpted_segments(segments: Sequence[Segment], excerpt: Excerpt) -> tuple[Segment, ...]:
    """Choose the segments that an excerpt needs, trim the parts at its ends, and number them anew."""
    chosen: list[Segment] = []
    for segment in segments:
        first = segment.span.start
        skipped = max(0, excerpt.start - first)
        dropped = max(0, first + segment.part_frames - excerpt.stop)
        if skipped + dropped >= segment.part_frames:
            continue
        overlap = segment.overlap
        if not chosen and overlap and skipped < overlap:
            # What both have restored is blended: without the segment before, these frames would be others.
            before = segments[segment.index - 1]
            chosen.append(replace(before, index=0, overlap=0, num_skipped=before.part_frames, part_address=""))
        elif not chosen:
            overlap = 0
        trimmed = replace(segment, index=len(chosen), overlap=overlap, num_skipped=skipped, num_dropped=dropped)
        if skipped or dropped:
            kept = [skipped, segment.part_frames - dropped]
            trimmed = replace(trimmed, part_address=digest_of({"part": segment.part_address, "kept": kept}))
        chosen.append(trimmed)
    return tuple(chosen)
