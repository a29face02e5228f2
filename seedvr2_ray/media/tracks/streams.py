"""What becomes of everything in a source that is not restored: copied, converted or left out, and why."""

from typing import Any, Literal

import av

from seedvr2_ray.media.container.inventory import codec_name, is_cover, is_unknown
from seedvr2_ray.media.info import Notice
from seedvr2_ray.media.tracks.sound import encodings, has_named_channels, layout_of
from seedvr2_ray.media.tracks.stream_plan import StreamPlan
from seedvr2_ray.media.tracks.trial import Trials

_TEXT_SUBTITLES = frozenset({"subrip", "srt", "ass", "ssa", "webvtt", "mov_text", "text", "ttml", "eia_608"})
_SUBTITLE_CODECS = {"mp4": "mov_text", "mov": "mov_text", "webm": "webvtt", "mkv": "subrip"}
_AVI_AUDIO = frozenset({"mp3", "mp2", "ac3", "pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_s32le"})
"""Sound that AVI times rightly: it counts bytes or whole frames, and the muxer takes more than it can time."""


def plan_streams(
    source: av.container.InputContainer, container: str, *, video_index: int
) -> tuple[tuple[StreamPlan, ...], tuple[Notice, ...]]:
    """Decide for every stream but the restored one: copied, converted or left out, and why.

    Whether a container holds a stream is asked of its muxer, and of the encoder where one is needed: the
    stream's first packets are written to memory, trailer included.

    Args:
        container: of the output, as in :class:`~seedvr2_ray.media.output.master.MasterFormat`.
        video_index: the stream that is restored.
    """
    plans: list[StreamPlan] = []
    notices: list[Notice] = []
    trials = Trials(source, container)
    for stream in source.streams:
        if stream.index == video_index or stream.discard == av.stream.Discard.all:
            continue  # QuickTime's chapter tracks are marked as discarded; chapters are copied as chapters.
        if isinstance(stream, av.VideoStream) and not is_unknown(stream) and not stream.codec_context.width:
            continue  # Announced and never sent, as the probe has said.
        plan, notice = _plan_one(stream, container, trials)
        notices.append(notice)
        if plan is not None:
            plans.append(plan)
    return tuple(plans), tuple(notices)


def _plan_one(stream: Any, container: str, trials: Trials) -> tuple[StreamPlan | None, Notice]:
    subject = f"{_kind(stream)} stream {stream.index}"
    codec = codec_name(stream)
    if is_unknown(stream):
        reason = "its codec is unknown here, so it can be neither copied nor converted; it stays in the source only"
        return None, Notice("left_out", subject, reason)
    if _is_timecode(stream):
        outcome: Literal["kept", "left_out"] = "kept" if container in ("mov", "mp4", "mkv") else "left_out"
        return None, Notice(outcome, subject, "the timecode is written anew from its first value")
    if stream.type == "attachment" or is_cover(stream):
        return _plan_attachment(stream, container, trials, subject)
    copied = _copy(stream, container, trials)
    if copied is not None:
        as_counted = f", its channels taken for {copied.layout}" if copied.layout else ""
        as_it_is = " as it is and not restored" if stream.type == "video" else ""
        return copied, Notice("kept", subject, f"{codec} is copied{as_counted}{as_it_is}")
    if stream.type == "subtitle" and codec in _TEXT_SUBTITLES and container in _SUBTITLE_CODECS:
        target = _SUBTITLE_CODECS[container]
        plan = StreamPlan(stream.index, "convert", target)
        if trials.can_write(plan):
            change = f"it becomes {target}, which keeps text and times but not all styling"
            return plan, Notice("converted", subject, f"{container} cannot hold {codec}; {change}")
    if stream.type == "audio" and stream.codec_context is not None:
        for plan, change in encodings(stream, container):
            if trials.can_write(plan):
                reason = (
                    f"{container} cannot hold {codec}; it is encoded anew as {change}; choose .mkv to have it copied"
                )
                return plan, Notice("converted", subject, reason)
    what = "data of this kind" if codec == "unknown" else codec
    return None, Notice("left_out", subject, f"{container} cannot hold {what}; choose .mkv or .mov to keep it")


def _copy(stream: Any, container: str, trials: Trials) -> StreamPlan | None:
    """Plan a copy, if the container takes the packets as they are."""
    if container == "avi" and stream.type == "audio" and codec_name(stream) not in _AVI_AUDIO:
        return None
    plan = StreamPlan(stream.index, "copy")
    if trials.can_write(plan):
        return plan
    if stream.type == "audio" and stream.codec_context is not None and not has_named_channels(stream):
        plan = StreamPlan(stream.index, "copy", layout=layout_of(stream))
        if plan.layout and trials.can_write(plan):
            return plan
    return None


def _plan_attachment(stream: Any, container: str, trials: Trials, subject: str) -> tuple[StreamPlan | None, Notice]:
    if container == "mkv":
        return StreamPlan(stream.index, "attach"), Notice("kept", subject, "copied as an attachment")
    if is_cover(stream) and container == "mp4" and trials.can_write(StreamPlan(stream.index, "copy")):
        return StreamPlan(stream.index, "copy"), Notice("kept", subject, "copied as cover art")
    what = "cover art" if is_cover(stream) else "attachments"
    return None, Notice("left_out", subject, f"{container} holds no {what}; choose .mkv to keep it")


def _kind(stream: Any) -> str:
    return "cover" if is_cover(stream) else str(stream.type)


def _is_timecode(stream: Any) -> bool:
    return stream.type == "data" and "timecode" in stream.metadata
