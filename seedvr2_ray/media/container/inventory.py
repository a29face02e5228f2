"""The streams and chapters of a file that are copied rather than restored."""

from fractions import Fraction

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from seedvr2_ray.media.info import Chapter, StreamInfo, StreamKind


def describe_streams(container: InputContainer) -> tuple[StreamInfo, ...]:
    """Name every stream that is no picture to restore; further videos are not among them."""
    described = (_describe(stream) for stream in container.streams if not _is_chapter_track(stream, container))
    return tuple(stream for stream in described if stream is not None)


def is_cover(stream: Stream) -> bool:
    """Whether a stream is a picture that goes with the file: a poster or an album cover."""
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def _is_chapter_track(stream: Stream, container: InputContainer) -> bool:
    """MP4 and MOV store the chapters' titles as a text track, which libav lists beside the chapters."""
    return stream.type == "data" and stream.name == "bin_data" and bool(container.chapters())


def describe_chapters(container: InputContainer) -> tuple[Chapter, ...]:
    """List the chapters in order."""
    return tuple(
        Chapter(
            start_seconds=chapter["start"] * (chapter["time_base"] or Fraction(1)),
            end_seconds=chapter["end"] * (chapter["time_base"] or Fraction(1)),
            title=chapter["metadata"].get("title", ""),
        )
        for chapter in container.chapters()
    )


def _describe(stream: Stream) -> StreamInfo | None:
    codec = codec_name(stream)
    if is_unknown(stream) and stream.type != "video":
        return _info(stream, "data", codec, f"{stream.type} of a codec that is not known here")
    if isinstance(stream, av.AudioStream):
        return _info(stream, "audio", codec, f"{codec}, {stream.rate} Hz, {stream.layout.name}")
    if is_cover(stream) and isinstance(stream, av.VideoStream):
        return _info(stream, "cover", codec, f"{codec}, {stream.width}x{stream.height}")
    if stream.type == "subtitle":
        return _info(stream, "subtitle", codec, codec)
    if stream.type == "attachment":
        name = stream.metadata.get("filename", "unnamed")
        return _info(stream, "attachment", codec, f"{name}, {stream.metadata.get('mimetype', 'unknown type')}")
    if stream.type in ("data", "unknown"):
        return _info(stream, "data", codec, stream.metadata.get("handler_name", codec))
    return None


def is_unknown(stream: Stream) -> bool:
    """Whether a stream should have a codec and libav knows none of that name: there is no context to ask."""
    has_codec = stream.type in ("video", "audio", "subtitle")
    return has_codec and getattr(stream, "codec_context", None) is None


def codec_name(stream: Stream) -> str:
    """Return FFmpeg's name of what a stream was coded with."""
    context = getattr(stream, "codec_context", None)
    if context is not None:
        # Decoders may go by a library's name (libdav1d); what was coded is what counts.
        return str(context.codec.canonical_name)
    if is_unknown(stream):
        return "unknown"
    # Attachments call themselves by their file's name, data streams by their codec's.
    name = stream.name if stream.type != "attachment" else stream.metadata.get("mimetype")
    return name or "unknown"


def _info(stream: Stream, kind: StreamKind, codec: str, description: str) -> StreamInfo:
    return StreamInfo(
        index=stream.index,
        kind=kind,
        codec=codec,
        language=stream.metadata.get("language", ""),
        title=stream.metadata.get("title", ""),
        description=description,
    )
