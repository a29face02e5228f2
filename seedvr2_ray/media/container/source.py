"""Opening a file nobody has vouched for, and decoding it packet by packet.

The rest of the package never calls :func:`av.open` on a source itself: names are taken for what
they are (no protocols, no playlists that point at other files), and every libav exception becomes
one of ours.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
from av.codec.context import ThreadType
from av.container import InputContainer

from seedvr2_ray.errors import DamagedMediaError, MediaError
from seedvr2_ray.media.bitstream.ebml import HEAD_BYTES, read_head
from seedvr2_ray.media.bitstream.entry_points import Stretches, before_closed, is_closed
from seedvr2_ray.media.bitstream.iso_boxes import boxes_of
from seedvr2_ray.media.bitstream.matroska import SEGMENT
from seedvr2_ray.media.container.file_url import file_url
from seedvr2_ray.media.container.inventory import is_cover, is_unknown
from seedvr2_ray.media.container.still_kinds import STILL_BRANDS

Timestamps = Literal["pts", "dts", "counted"]

BACKTRACK_SECONDS = (0, 1, 5, 30)
"""How far before a wanted frame to look for a key frame, one attempt after the other."""

_DEMUXERS = ",".join(
    (
        "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv",
        "asf,ogg,mxf,dv,gxf,nut,rm,yuv4mpegpipe,gif,apng,mjpeg,vob,wtv",
    )
)
"""Containers that hold their own pictures. Playlists (HLS, DASH, concat) are not among them: a job
must not be able to make this machine read other files or addresses."""

_DECODERS_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_SNIFF_BYTES = 65536
_NEVER_FILLED_IN = 0xFFFFFFFF + 8
"""Where a RIFF file would end whose recorder left the size open."""
_TOP_LEVEL_BOXES = frozenset(
    name.encode()
    for name in (
        *(
            "ftyp",
            "styp",
            "moov",
            "moof",
            "mfra",
            "mdat",
            "free",
            "skip",
            "wide",
            "pnot",
            "PICT",
            "pict",
            "meta",
            "uuid",
        ),
        *("sidx", "ssix", "prft", "emsg", "pdin", "udta", "bloc", "junk", "imda", "sefd"),
    )
)
"""What stands on the top level of ISO and QuickTime files; what bears another name is no box."""


@dataclass(frozen=True, slots=True)
class Source:
    """An open file and the stream whose pictures are restored."""

    path: str
    container: InputContainer
    stream: av.VideoStream


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A picture as the decoder gave it."""

    frame: av.VideoFrame
    fed_dts: int | None
    """Decoding time of the packet that made the decoder give the picture; nothing while draining."""
    entry: int | None = None
    """Time of the key frame at which decoding began, as far as the container says it."""


@contextmanager
def open_source(path: str, stream_index: int | None = None) -> Iterator[Source]:
    """Open a local file and choose its pictures.

    Args:
        path: taken literally; ``concat:x`` or ``http://...`` are names of files here.
        stream_index: the stream that a probe chose; chosen here when not given.

    Raises:
        MediaError: the file is missing, empty, no media, or has no pictures.
    """
    with open_container(path) as container:
        yield Source(path, container, _choose_video(container, path, stream_index))


def open_container(path: str) -> InputContainer:
    """Open a local file with all its streams.

    Args:
        path: taken literally, as by :func:`open_source`.

    Raises:
        MediaError: the file is missing, empty, or no media.
    """
    # libav takes an animated PNG whose name says PNG for a still one.
    demuxer = "apng" if require_file(path).startswith(b"\x89PNG\r\n\x1a\n") else None
    options = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
    try:
        return av.open(file_url(path), "r", format=demuxer, container_options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(_why_not_media(path)) from error


def path_of(container: InputContainer) -> str:
    """Return the path that a container was opened with."""
    return container.name.removeprefix(file_url(""))


def decode_packets(
    source: Source,
    *,
    seek_to: int | None,
    num_threads: int,
    thread_type: Literal["AUTO", "SLICE"] = "AUTO",
    latest_start: int | None = None,
    remember_packets: bool = False,
    closed: Stretches = (),
    by_dts: bool = False,
) -> Iterator[DecodedFrame]:
    """Decode a freshly opened source in display order.

    Packets that the decoder rejects are skipped: whoever knows which frames to expect notices.

    Args:
        seek_to: where to start, in ticks of the stream; decoding begins at the key frame found there.
            From the beginning of the file when not given.
        num_threads: of the decoder, 0 for as many as the machine has cores.
        thread_type: ``SLICE`` gives every frame as soon as it can be given, which
            :attr:`DecodedFrame.fed_dts` needs.
        remember_packets: attach to every frame, as ``opaque``, the place in the file of the packet it was coded in.
        latest_start: stop at once, without a frame, when decoding would begin at a later presentation time.
        closed: stretches of time in which decoding must not begin; it does before them.
        by_dts: whether these are decoding times.
    """
    stream = source.stream
    decoder = _decoder_of(stream)
    decoder.thread_type = ThreadType[thread_type]
    decoder.thread_count = num_threads
    decoder.copy_opaque = remember_packets
    waiting_for_key = seek_to is not None
    position: int | None = None
    if seek_to is not None:
        try:
            source.container.seek(before_closed(closed, seek_to), stream=stream, backward=True)
        except av.FFmpegError:
            return
    entry: int | None = None
    for packet in demux_video(source):
        if waiting_for_key:
            entry = packet.dts if by_dts else packet.pts
            if not packet.is_keyframe or is_closed(closed, entry):
                continue
            if latest_start is not None and packet.pts is not None and packet.pts > latest_start:
                return
            waiting_for_key = False
        if remember_packets:
            # A parser names the place of the first picture only where several share a packet of the file.
            packet.opaque = position = packet.pos if packet.pos is not None else position
        for frame in _decode(decoder, packet):
            yield DecodedFrame(frame, packet.dts, entry)
    for frame in _decode(decoder, None):
        yield DecodedFrame(frame, None, entry)


def demux_video(source: Source) -> Iterator["av.Packet[av.VideoStream]"]:
    """Read the packets of the chosen stream that hold data; a read error ends the file."""
    for other in source.container.streams:
        if other.index != source.stream.index:
            other.discard = av.stream.Discard.all
    packets = source.container.demux(source.stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        # To a decoder an empty packet means the end; AVI uses them for "as before".
        if packet.size:
            yield packet


def _decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    """The stream's own decoder, except where it would drop transparency: libav's for VP8 and VP9 do."""
    library = _DECODERS_WITH_ALPHA.get(stream.codec_context.name)
    if library is None or stream.metadata.get("alpha_mode") != "1" or library not in av.codecs_available:
        return stream.codec_context
    decoder = av.CodecContext.create(library, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    return decoder


def _decode(decoder: av.VideoCodecContext, packet: "av.Packet[av.VideoStream] | None") -> list[av.VideoFrame]:
    try:
        return decoder.decode(packet)
    except av.FFmpegError:
        return []


def stamp_of(decoded: DecodedFrame, timestamps: Timestamps) -> int | None:
    """The time by which a frame is recognised, or None when it only follows from its neighbours."""
    if timestamps == "pts":
        return decoded.frame.pts
    return decoded.fed_dts if timestamps == "dts" else None


def ticks(seconds: int, source: Source) -> int:
    """A stretch of time in ticks of the stream."""
    return round(seconds / (source.stream.time_base or Fraction(1)))


def missing_end(source: Source) -> int:
    """How many bytes shorter a file is than its container says; 0 when complete or unknown.

    What a camera writes behind the last box is its own business, and so is a last box that names a
    few bytes too many: of pictures and sound the index tells whether any lie beyond the end.
    """
    path, size = source.path, os.path.getsize(source.path)
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[:4] == b"RIFF":
        promised = int.from_bytes(head[4:8], "little") + 8
        return 0 if promised == _NEVER_FILLED_IN else max(0, promised - size)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _missing_matroska(head, size)
    if head[4:8] == b"ftyp":
        _, end, last = _iso_boxes(path)
        if end > size and (last == b"moof" or (last == b"mdat" and _listed_end(source, fallback=end) > size)):
            return end - size
    return 0


def _listed_end(source: Source, *, fallback: int) -> int:
    """Where the last packet ends that the index lists, of any stream."""
    ends = (entry.pos + entry.size for stream in source.container.streams for entry in stream.index_entries)
    return max(ends, default=fallback)


def require_file(path: str) -> bytes:
    """Check a path as a file that can be read; return its first bytes.

    Raises:
        MediaError: it is missing, a folder or no ordinary file, empty, or may not be read.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise MediaError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be opened: {_reason(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(
            f"{path} is a folder; name a video or image file, restore every file in it by 'batch', or make one video "
            "of its numbered pictures first (ffmpeg -framerate 24 -i %06d.png -c:v ffv1 pictures.mkv)"
        )
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{path} is no ordinary file; save the stream to a file first")
    if status.st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes)")
    try:
        with open(path, "rb") as file:
            return file.read(_SNIFF_BYTES)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _why_not_media(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp" and head[8:12] in STILL_BRANDS:
        return (
            f"{path} is an image file ({head[8:12].decode()}) without the list of its pictures (no meta box): "
            "copy it again from where it came"
        )
    if head[4:8] == b"ftyp" and b"moov" not in _iso_boxes(path)[0]:
        return (
            f"{path} has lost its index (no moov box): the recording or the copy was cut off before its end, "
            "and without the index no frame can be found; copy it again or repair it with the recorder's own tool"
        )
    if head.lstrip()[:1] and _is_text(head):
        return f"{path} holds text, not a video or an image"
    return f"{path} is no video or image in a supported container, or its header is damaged"


def _is_text(head: bytes) -> bool:
    try:
        text = head[: len(head) - 4].decode("utf-8") if len(head) > 8 else head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\r\n\t\f\ufeff" for character in text)


def _choose_video(container: InputContainer, path: str, index: int | None) -> av.VideoStream:
    candidates = [stream for stream in container.streams.video if not is_cover(stream)]
    if index is not None:
        candidates = [stream for stream in candidates if stream.index == index]
    if not candidates:
        kinds = sorted({stream.type for stream in container.streams})
        found = f"only {', '.join(kinds)}" if kinds else "nothing"
        raise MediaError(f"{path} has no pictures to restore: it holds {found}")
    known = [stream for stream in candidates if not is_unknown(stream)]
    if not known:
        raise MediaError(f"{path} is coded with a codec that is not supported here; convert it to another codec first")
    if len(known) == 1:
        return known[0]
    return next((stream for stream in known if _has_packets(path, stream.index)), known[0])


def _has_packets(path: str, stream_index: int) -> bool:
    """Whether anything was ever sent of a stream that is announced: broadcasts and recorders leave some empty."""
    with open_container(path) as again:
        source = Source(path, again, again.streams[stream_index])  # type: ignore[arg-type]  # it is a video stream
        return next(demux_video(source), None) is not None


def _iso_boxes(path: str) -> tuple[frozenset[bytes], int, bytes]:
    """Names of the top-level boxes of an ISO file, where the last of them should end, and its name."""
    names, end, last = set(), 0, b""
    with open(path, "rb") as file:
        for name, _, stop in boxes_of(file):
            if name not in _TOP_LEVEL_BOXES:
                break
            names.add(name)
            end, last = stop, name
    return frozenset(names), end, last


def _missing_matroska(head: bytes, size: int) -> int:
    """Compare the size in the header of the Segment, which holds everything, with the file's."""
    at = head.find(SEGMENT.to_bytes(4, "big"))
    segment = read_head(head[at : at + HEAD_BYTES]) if at >= 0 else None
    if segment is None or segment.size is None:
        return 0  # Written live: the size was never filled in.
    return max(0, at + segment.num_bytes + segment.size - size)


def require_not_encrypted(packet: "av.Packet[av.VideoStream]", path: str) -> None:
    """Refuse pictures that are scrambled: a decoder would make noise of them."""
    if packet.has_sidedata("encryption_info") or packet.has_sidedata("encryption_init_info"):
        raise MediaError(f"{path} is encrypted (DRM); only unprotected files can be restored")


def size_changes(path: str, size: tuple[int, int], other: tuple[int, int], number: int) -> MediaError:
    """The error for pictures that are not all of one size, with the way out."""
    return MediaError(
        f"{path} changes its size from {size[0]}x{size[1]} to {other[0]}x{other[1]} "
        f"at frame {number}; cut it there and restore the parts one by one"
    )


def damaged(path: str, what: str) -> DamagedMediaError:
    """The error for a file of which a part is lost, with the way out."""
    return DamagedMediaError(f"{path}: {what}; pass --salvage to restore what can be read")
