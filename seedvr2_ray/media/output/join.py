"""Joining finished parts into the master by copying packets, together with all the source has besides pictures."""

from __future__ import annotations  # av.Packet is generic for type checkers only

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.media.codecs import MUXERS
from seedvr2_ray.media.container.file_url import file_url
from seedvr2_ray.media.container.inventory import is_cover
from seedvr2_ray.media.container.source import open_container, path_of
from seedvr2_ray.media.info import MediaInfo, Notice
from seedvr2_ray.media.output.encoded_segments import described, open_part, part_packets
from seedvr2_ray.media.output.encoders import BITEXACT, stamp_rate
from seedvr2_ray.media.output.image_files import join_images
from seedvr2_ray.media.output.master import MasterFormat, has_a_way
from seedvr2_ray.media.output.timeline import Timeline, plan_timeline
from seedvr2_ray.media.output.verify import verify_master
from seedvr2_ray.media.output.write_errors import whole_file_or_none
from seedvr2_ray.media.stills.reader import read_tags
from seedvr2_ray.media.tracks.caption_text import CaptionText
from seedvr2_ray.media.tracks.captions import CARRIERS, CaptionWriter, FrameCaptions, read_captions
from seedvr2_ray.media.tracks.stream_plan import StreamPlan
from seedvr2_ray.media.tracks.streams import plan_streams
from seedvr2_ray.media.tracks.tracks import Track, copy_description, demux_tracks, open_track
from seedvr2_ray.media.tracks.trim import Trim, trim_to

_ISO_TAGS = frozenset(
    (
        *("title", "artist", "album_artist", "composer", "album", "date", "encoder", "comment", "genre", "copyright"),
        *("grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords"),
        *("episode_sort", "season_number", "media_type", "hd_video", "gapless_playback", "compilation", "track"),
        *("disc", "rating", "location", "creation_time", "timecode"),
    )
)
"""Tags that MP4 and MOV have a place of their own for; others need Apple's list of free keys."""
_COARSEST_MOVIE_TIMESCALE = 1000
_DEMUXER_TAGS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "ENCODER"})
"""Tags that describe the source's file, not its content."""


@dataclass(frozen=True, slots=True)
class JoinReport:
    """What :func:`join_parts` wrote, and what became of the rest of the source."""

    num_frames: int
    outputs: tuple[str, ...]
    """The files written: one, or every image of a sequence."""
    notices: tuple[Notice, ...]

    @property
    def copied(self) -> tuple[Notice, ...]:
        """What is in the output exactly as it was."""
        return tuple(notice for notice in self.notices if notice.outcome == "kept")

    @property
    def converted(self) -> tuple[Notice, ...]:
        """What is in the output in another form."""
        return tuple(notice for notice in self.notices if notice.outcome == "converted")

    @property
    def left_out(self) -> tuple[Notice, ...]:
        """What the output cannot hold."""
        return tuple(notice for notice in self.notices if notice.outcome == "left_out")


def join_parts(
    parts: Sequence[str],
    *,
    master: MasterFormat,
    source_path: str,
    media: MediaInfo,
    frame_pts: Sequence[int],
    target_path: str,
    first_frame: int | None = None,
) -> JoinReport:
    """Write the master: the packets of all parts on one timeline, and the source's other streams beside them.

    Nothing is decoded, except streams the container cannot hold as they are. Memory does not grow
    with the length. The file written is read back: every frame must be there, at its time.

    Args:
        parts: the finished parts in order, written by :class:`~seedvr2_ray.media.output.encode.PartWriter`.
        frame_pts: when each frame is shown, in ticks of ``master.time_base``, increasing.
        target_path: where to write; for an image sequence a folder or a printf pattern.
        first_frame: of an excerpt, the number in the source of its first frame: everything else is cut where the
            pictures begin and end. None where all frames are there.

    Raises:
        StorageError: the parts do not hold these frames, or were not made for one master.
        CapacityError: the disk is full.
        TargetError: the target cannot be written.
        MediaError: the source's other streams cannot be read.
    """
    if master.kind != "video":
        tags = read_tags(source_path) if media.video.is_still else None
        outputs, notices = join_images(
            parts, master=master, num_frames=len(frame_pts), target_path=target_path, tags=tags
        )
        return JoinReport(len(frame_pts), outputs, _left_behind(media) + notices)
    with whole_file_or_none(target_path), open_container(source_path) as source:
        timeline = plan_timeline(source, media, master, frame_pts, is_excerpt=first_frame is not None)
        trim = None if first_frame is None else trim_to(media, first_frame)
        notices = _write(parts, master, source, media, timeline, target_path, trim=trim)
        notices += verify_master(target_path, master.container, timeline)
        notices += _lost_tags(_content_tags(source), target_path)
    return JoinReport(len(frame_pts), (target_path,), notices + timeline.notices)


def rehearse_join(
    part: str, *, master: MasterFormat, source_path: str, media: MediaInfo, target_path: str
) -> tuple[Notice, ...]:
    """Write a master of one picture with the first packets of everything else, and read it back.

    What a container cannot hold comes out here, before anything is restored, and not when all is done.

    Args:
        part: of one frame, encoded as all parts will be.
        target_path: where to write; the caller throws it away.

    Returns:
        What becomes of the source's other streams, chapters and tags.

    Raises:
        InputError: this source cannot be stored like this.
    """
    if master.kind != "video":
        return _left_behind(media)
    with whole_file_or_none(target_path), open_container(source_path) as source:
        timeline = plan_timeline(source, media, master, media.frame_pts[:1])
        notices = _write([part], master, source, media, timeline, target_path, only_heads=True)
        verify_master(target_path, master.container, timeline)
        return notices + _lost_tags(_content_tags(source), target_path)


def _write(
    parts: Sequence[str],
    master: MasterFormat,
    source: av.container.InputContainer,
    media: MediaInfo,
    timeline: Timeline,
    target_path: str,
    *,
    only_heads: bool = False,
    trim: Trim | None = None,
) -> tuple[Notice, ...]:
    plans, notices = plan_streams(source, master.container, video_index=media.video.stream_index)
    by_index = {plan.index: plan for plan in plans}
    captions, lost_captions = (None, ()) if only_heads else _captions(source, media, master, trim)
    with (
        open_part(parts[0]) as first,
        described(first, parts[0], master.hdr) as template,
        _open_target(target_path, master, source, timeline.time_base) as output,
    ):
        tracks: dict[int, Track] = {}
        video: Any = None
        for stream in source.streams:
            if stream.index == media.video.stream_index:
                video = _add_video(output, template, master, media, stream, timeline.time_base, trim)
            elif (plan := by_index.get(stream.index)) is not None:
                _add_track(output, stream, plan, tracks)
        notices += _copy_chapters(source, output, master, timeline.origin_seconds, trim)
        carried: CaptionWriter | None = None
        text: Iterator[av.Packet[Any]] = iter(())
        if captions is not None and master.codec in CARRIERS:
            carried = CaptionWriter(captions, template, master.codec)
        elif captions is not None:
            text, no_text = _caption_text(captions, output, master, timeline)
            lost_captions += no_text
        pictures = part_packets(
            parts,
            video,
            rate=stamp_rate(master),
            timeline=timeline,
            step=timeline.step(master.frame_rate),
            captions=carried,
        )
        rest = demux_tracks(source, tracks, media.video, only_heads=only_heads, trim=trim)
        others = _shifted(rest, timeline.origin_seconds)
        for packet in heapq.merge(pictures, others, text, key=_seconds):
            output.mux(packet)
    if only_heads:
        return notices
    return (*notices, *lost_captions, *(remark for track in tracks.values() for remark in track.remarks()))


def _captions(
    source: av.container.InputContainer, media: MediaInfo, master: MasterFormat, trim: Trim | None
) -> tuple[FrameCaptions | None, tuple[Notice, ...]]:
    """Read the source's captions, if it has any and the master has a way for them."""
    if not media.video.has_captions or not has_a_way(master, media.video):
        return None, ()
    captions, num_lost = read_captions(
        path_of(source), media.video.stream_index, media.frame_pts, media.video.clock, within=trim
    )
    if not num_lost:
        return captions, ()
    reason = f"the captions of {num_lost} packets belong to no frame that is restored"
    return captions, (Notice("left_out", "closed captions", reason),)


def _caption_text(
    captions: FrameCaptions, output: av.container.OutputContainer, master: MasterFormat, timeline: Timeline
) -> tuple[Iterator[av.Packet[Any]], tuple[Notice, ...]]:
    """Add the captions as a track of text, where the pictures cannot carry them."""
    times = [pts * timeline.time_base for pts in timeline.pts]
    text = CaptionText(captions, times, times[-1] + 1 / master.frame_rate)
    if text.lines:
        return text.add_to(output, master.container), ()
    reason = "they hold no EIA-608 text that could become a subtitle track; choose codec h264 or hevc to keep them"
    return iter(()), (Notice("left_out", "closed captions", reason),)


def _add_track(output: av.container.OutputContainer, stream: Any, plan: StreamPlan, tracks: dict[int, Track]) -> None:
    track = open_track(output, stream, plan)
    if track is not None:
        tracks[plan.index] = track


def _add_video(
    output: av.container.OutputContainer,
    template: Any,
    master: MasterFormat,
    media: MediaInfo,
    original: Any,
    time_base: Fraction,
    trim: Trim | None,
) -> Any:
    video: Any = output.add_stream_from_template(template, opaque=True)
    video.time_base = time_base
    if master.container in ("mp4", "mov") or not media.video.is_variable_rate:
        video.codec_context.framerate = master.frame_rate
    tag = _codec_tag(template, master)
    if tag:
        video.codec_context.codec_tag = tag
    copy_description(original, video, restored=True)
    timecode = _timecode(original)
    if trim is not None:
        timecode = trim.timecode(timecode, master.frame_rate)
    if timecode and (master.container not in ("mp4", "mov") or _has_timecodes(master.frame_rate, timecode)):
        video.metadata["timecode"] = timecode
    else:
        video.metadata.pop("timecode", None)
    return video


def _codec_tag(template: Any, master: MasterFormat) -> str:
    """The four letters by which MP4 and MOV players tell codecs apart, where FFmpeg's choice is not theirs."""
    if master.container not in ("mp4", "mov"):
        return ""
    if master.codec == "libx265":
        return "hvc1"  # Apple's players want parameter sets in the header only, which is how parts are coded.
    if master.codec == "prores_ks":
        return "ap4h" if "444" in master.pixel_format else "apch"
    return ""


def _has_timecodes(frame_rate: Fraction, timecode: str) -> bool:
    """Whether a timecode track can count this rate; dropped numbers (``;``) exist for multiples of 29.97 only."""
    if ";" in timecode:
        return frame_rate.denominator == 1001 and frame_rate.numerator % 30000 == 0
    return frame_rate.denominator in (1, 1001)


def _timecode(original: Any) -> str:
    for stream in (original, *original.container.streams.data):
        if "timecode" in stream.metadata:
            return str(stream.metadata["timecode"])
    return str(original.container.metadata.get("timecode", ""))


def _copy_chapters(
    source: av.container.InputContainer,
    output: av.container.OutputContainer,
    master: MasterFormat,
    origin_seconds: Fraction,
    trim: Trim | None,
) -> tuple[Notice, ...]:
    chapters = source.chapters()
    if trim is not None:
        chapters = trim.chapters(chapters)
    if not chapters:
        return ()
    if master.container == "avi":
        return (Notice("left_out", "chapters", "avi holds no chapters; choose .mkv, .mp4 or .mov to keep them"),)
    for chapter in chapters:
        offset = round(origin_seconds / Fraction(chapter["time_base"] or 1))
        chapter["start"] -= offset
        chapter["end"] -= offset
    output.set_chapters(chapters)
    return (Notice("kept", "chapters", f"{len(chapters)} chapters are copied"),)


def _shifted(packets: Iterator[av.Packet[Any]], origin_seconds: Fraction) -> Iterator[av.Packet[Any]]:
    for packet in packets:
        if origin_seconds and packet.time_base:
            offset = round(origin_seconds / Fraction(packet.time_base))
            packet.pts = None if packet.pts is None else packet.pts - offset
            packet.dts = None if packet.dts is None else packet.dts - offset
        yield packet


def _seconds(packet: av.Packet[Any]) -> float:
    time = packet.dts if packet.dts is not None else packet.pts
    return float((time or 0) * packet.time_base)


@contextmanager
def _open_target(
    path: str, master: MasterFormat, source: av.container.InputContainer, time_base: Fraction
) -> Iterator[av.container.OutputContainer]:
    tags = _content_tags(source)
    options: dict[str, str] = {}
    if master.container in ("mp4", "mov"):
        # The index goes to the front, so that playing starts before everything has arrived.
        free_keys = not _ISO_TAGS.issuperset(key.lower() for key in tags) and not _has_cover(source)
        options["movie_timescale"] = str(_movie_timescale(time_base))
        options["movflags"] = "+faststart" + ("+use_metadata_tags" if free_keys else "")
    if master.container == "avi":
        # Sound that begins before zero, as AAC does, must not push the pictures off their grid.
        options["avoid_negative_ts"] = "disabled"
    output = av.open(file_url(path), "w", format=MUXERS[master.container], container_options=options)
    output.flags |= BITEXACT
    output.metadata.update(tags)
    try:
        yield output
    except BaseException:
        with suppress(OSError, av.FFmpegError):
            output.close()
        raise
    output.close()


def _movie_timescale(time_base: Fraction) -> int:
    """Return the clock of edit lists, which hold start offsets: fine enough for the pictures' own ticks."""
    return time_base.denominator * max(1, -(-_COARSEST_MOVIE_TIMESCALE // time_base.denominator))


def _content_tags(source: av.container.InputContainer) -> dict[str, str]:
    return {key: value for key, value in source.metadata.items() if key not in _DEMUXER_TAGS}


def _lost_tags(tags: dict[str, str], target_path: str) -> tuple[Notice, ...]:
    with av.open(file_url(target_path)) as written:
        kept = {key.lower() for key in written.metadata}
        kept.update(key.lower() for stream in written.streams for key in stream.metadata)
    lost = sorted(key for key in tags if key.lower() not in kept)
    if not lost:
        return ()
    reason = f"the container has no place for {', '.join(lost)}; choose .mkv to keep all"
    return (Notice("left_out", "metadata", reason),)


def _has_cover(source: av.container.InputContainer) -> bool:
    return any(is_cover(stream) for stream in source.streams.video)


def _left_behind(media: MediaInfo) -> tuple[Notice, ...]:
    subjects = [f"{stream.kind} stream {stream.index}" for stream in media.streams]
    subjects += ["chapters"] if media.chapters else []
    return tuple(Notice("left_out", subject, "image files hold pictures only") for subject in subjects)
