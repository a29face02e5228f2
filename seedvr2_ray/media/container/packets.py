"""What a container says about its pictures, read without decoding one of them."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile, islice

import av

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.bitstream.entry_points import EntryPoints, Stretches
from seedvr2_ray.media.bitstream.integrity import IntegrityCheck, Verdict
from seedvr2_ray.media.bitstream.mpeg4 import PictureFilter
from seedvr2_ray.media.bitstream.picture_size import Size, sizes_in_header
from seedvr2_ray.media.container.clock import ClockChange, ClockReader
from seedvr2_ray.media.container.picture_data import NOTHING_INSIDE, PictureData, PictureDataScan
from seedvr2_ray.media.container.source import (
    Source,
    demux_video,
    missing_end,
    open_source,
    require_not_encrypted,
    size_changes,
)

_SELF_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")
"""Containers whose index lists every packet, so that a packet that is gone is known by name."""

_WITHOUT_TIMES = {"h264", "hevc", "m4v", "mpegvideo", "obu", "av1"}
"""Bare streams: libav makes their timestamps up."""

_TIMES_EVERY_PACKET = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "gif", "apng"}
"""Containers that store a time for every packet, and know where it is."""

_STORES_DURATIONS = {"mov,mp4,m4a,3gp,3g2,mj2", "gif", "apng"}
"""Containers that store how long each picture is shown, the last one too."""

_NUM_SEEK_CHECKS = 3
_SEEK_CHECK_PACKETS = 40

_HIDES_FRAMES = {"vp8"}
"""Codecs with packets that are never shown, which the container does not mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketScan:
    """Every packet of the pictures, in the order of the file."""

    num_packets: int
    """Packets that should be shown: those hidden by an edit list are not counted."""
    pts: "array[int]"
    """Presentation time of each, where it has one."""
    dts: "array[int]"
    """Decoding time of each, where it has one."""
    positions: "array[int]"
    """Where in the file each begins; -1 where the container does not say."""
    all_keys: bool
    lost_dts: tuple[int, ...]
    """Decoding times of packets that the container lists and the file does not hold."""
    num_lost_after: int
    """Further packets that should follow the last one, of which no time is known."""
    missing_bytes: int
    """How much of the end of the file is gone."""
    container: str
    codec: str
    frame_ticks: Fraction
    """Nominal duration of a frame."""
    picture_data: PictureData = NOTHING_INSIDE
    """What travels inside the coded pictures."""
    closed_by_pts: Stretches
    """Presentation times between which no key frame is complete for a decoder that jumps there."""
    closed_by_dts: Stretches
    """The same in decoding times."""
    verdict: Verdict
    """What checksums say."""
    first_key_pts: int | None
    """Presentation time of the first key frame, where it has one: what is shown from there on can be decoded."""
    clock: tuple[ClockChange, ...] = ()
    """Where the clock starts anew."""
    end: int | None = None
    """When the last picture is no longer shown, where the container says so."""

    @property
    def is_trustworthy(self) -> bool:
        """Whether the pictures a decoder gives can be told from the packets alone."""
        if self.container in _WITHOUT_TIMES or self.codec in _HIDES_FRAMES:
            return False
        if self.container == "avi" and not self.all_keys:
            # AVI stores no presentation times; where frames are reordered, what libav says is a guess.
            return False
        return len(self.pts) == self.num_packets and len(set(self.pts)) == self.num_packets


def scan_packets(source: Source, *, max_frames: int) -> PacketScan:
    """Read all packets of an open source.

    Raises:
        MediaError: there are more than ``max_frames``, or they are encrypted.
    """
    pts, dts, positions = array("q"), array("q"), array("q")
    num_packets = end = 0
    all_keys = True
    first_key_pts: int | None = None
    seen_dts = set()
    inside = PictureDataScan(source.stream)
    integrity = IntegrityCheck(source.container.format.name, source.stream.codec_context.name)
    entries = EntryPoints(source.stream.codec_context.name, source.stream.codec_context.extradata)
    decoder = source.stream.codec_context
    step = nominal_ticks(source)
    sizes = _SizeCheck(source)
    clock = ClockReader(source.container.format.name, source.stream.time_base or Fraction(1, 25), step)
    mpeg4 = PictureFilter(decoder.extradata or b"") if decoder.name == "mpeg4" else None
    for packet in demux_video(source):
        if num_packets == 0:
            require_not_encrypted(packet, source.path)
        inside.look(packet)
        if packet.dts is not None:
            seen_dts.add(packet.dts)
        entries.watch(packet)
        integrity.watch(packet)
        if first_key_pts is None and packet.is_keyframe:
            first_key_pts = packet.pts
        if not packet.is_discard and packet.pts is not None and packet.duration:
            end = max(end, packet.pts + packet.duration)
        if packet.is_discard or (mpeg4 is not None and not mpeg4.holds_picture(bytes(packet))):
            continue
        clock.accept(packet)
        if packet.is_keyframe:
            sizes.accept(packet, num_packets)
        num_packets += 1
        if num_packets > max_frames:
            raise MediaError(
                f"{source.path} has more than {max_frames} frames, the limit here; cut it or raise the limit"
            )
        all_keys &= packet.is_keyframe
        positions.append(_position(packet))
        if packet.pts is not None:
            pts.append(packet.pts)
        if packet.dts is not None:
            dts.append(packet.dts)
    missing_bytes = missing_end(source)
    if source.container.format.name == "avi" and 0 < source.stream.frames <= num_packets:
        missing_bytes = 0  # All that the header promises is there, whatever the file's size should be.
    lost_dts = _lost_packets(source, seen_dts)
    return PacketScan(
        num_packets=num_packets,
        pts=pts,
        dts=dts,
        positions=positions,
        all_keys=all_keys,
        lost_dts=lost_dts,
        num_lost_after=_num_lost_after(source, missing_bytes, pts, num_packets + len(lost_dts), step),
        missing_bytes=missing_bytes,
        container=source.container.format.name,
        codec=source.stream.codec_context.name,
        frame_ticks=step,
        picture_data=inside.found(),
        closed_by_pts=entries.closed(by_dts=False),
        closed_by_dts=entries.closed(by_dts=True),
        first_key_pts=first_key_pts,
        verdict=integrity.verdict(source.path, size=source.container.size, tick=float(source.stream.time_base or 0)),
        clock=() if source.container.format.name in _WITHOUT_TIMES else clock.changes(),
        end=_end_of_pictures(source, end),
    )


def seeks_truthfully(path: str, stream_index: int, scan: PacketScan) -> bool:
    """Whether packets bear the same times after a jump as when the file is read from its beginning.

    MPEG streams give a time to some packets only; libav works out the rest, and not always well after a jump.
    """
    if scan.container in _TIMES_EVERY_PACKET:
        return True
    for check in range(1, _NUM_SEEK_CHECKS + 1):
        target = scan.pts[len(scan.pts) * check // (_NUM_SEEK_CHECKS + 1)]
        with open_source(path, stream_index) as source:
            try:
                source.container.seek(target, stream=source.stream)
            except av.FFmpegError:
                continue
            shown = (packet for packet in demux_video(source) if not packet.is_discard)
            after = islice(dropwhile(lambda packet: not packet.is_keyframe, shown), _SEEK_CHECK_PACKETS)
            if not _is_stretch_of(scan, [(packet.pts, _position(packet)) for packet in after]):
                return False
    return True


def _is_stretch_of(scan: PacketScan, stretch: list[tuple[int | None, int]]) -> bool:
    if not stretch or stretch[0][0] is None:
        return not stretch
    try:
        start = scan.pts.index(stretch[0][0])
    except ValueError:
        return False
    expected = zip(scan.pts[start:], scan.positions[start:], strict=True)
    return all(
        (pts == known_pts and -1 in (position, known_position)) or (pts, position) == (known_pts, known_position)
        for (pts, position), (known_pts, known_position) in zip(stretch, expected, strict=False)
    )


class _SizeCheck:
    """Refuses pictures that change their size in mid-stream, when the key frame that does it is read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: set[Size] = set()

    def accept(self, packet: "av.Packet[av.VideoStream]", number: int) -> None:
        """Look at the headers of the key frame that is shown as the given frame."""
        decoder = self._source.stream.codec_context
        named = sizes_in_header(decoder.codec.canonical_name, decoder.extradata or b"", memoryview(packet))
        if not named or named & self._known:
            return
        if self._known:
            # Headers may be there for others to use: the pictures themselves have the last word.
            decoded, first = _decoded_size(packet), (self._source.stream.width, self._source.stream.height)
            if decoded is not None and decoded != first:
                raise size_changes(self._source.path, first, decoded, number)
        self._known |= named


def _decoded_size(packet: "av.Packet[av.VideoStream]") -> Size | None:
    """Decode one key frame by itself; None when that gives no picture."""
    of_stream = packet.stream.codec_context
    decoder = av.CodecContext.create(of_stream.codec.name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = of_stream.extradata
    try:
        frames = [*decoder.decode(packet), *decoder.decode(None)]
    except av.FFmpegError:
        return None
    return (frames[0].width, frames[0].height) if frames else None


def _position(packet: "av.Packet[av.VideoStream]") -> int:
    return -1 if packet.pos is None else packet.pos


def nominal_ticks(source: Source) -> Fraction:
    """Ticks per frame at the rate the container names; 1/25 s when it names none."""
    rate = source.stream.average_rate or source.stream.guessed_rate or Fraction(25)
    return 1 / (rate * (source.stream.time_base or Fraction(1, 25)))


def _end_of_pictures(source: Source, end_of_packets: int) -> int | None:
    """When the last picture ends; nothing where a container has only a rate, or libav makes durations up from one."""
    name, stream = source.container.format.name, source.stream
    if name in _STORES_DURATIONS:
        return end_of_packets or None
    if name != "matroska,webm" or not source.container.duration or not stream.time_base:
        return None
    # Blocks say nothing; the statistics of the track do, and tell the truth as far as the file's length confirms it.
    seconds = _seconds_of_clock(stream.metadata.get("DURATION", ""))
    if seconds is None or seconds > Fraction(source.container.duration, 1_000_000) + stream.time_base:
        return None
    return round(seconds / stream.time_base)


def _seconds_of_clock(text: str) -> Fraction | None:
    """Read ``00:00:03.200000000``."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


def _lost_packets(source: Source, seen_dts: set[int]) -> tuple[int, ...]:
    if source.container.format.name not in _SELF_INDEXED:
        return ()
    entries = source.stream.index_entries
    listed = Counter(entry.timestamp for entry in entries if entry.size and not entry.is_discard)
    if any(count > 1 for count in listed.values()):
        return ()
    return tuple(sorted(listed.keys() - seen_dts))


def _num_lost_after(source: Source, missing_bytes: int, pts: Sequence[int], num_known: int, step: Fraction) -> int:
    """Guess how many pictures a cut-off file is short of, from what its header promises."""
    if not missing_bytes:
        return 0
    if source.stream.frames:
        return max(0, source.stream.frames - num_known)
    duration, time_base = source.container.duration, source.stream.time_base
    if source.container.format.name != "matroska,webm" or not duration or not time_base or not pts:
        return 0
    end = Fraction(duration, 1_000_000) / time_base + min(pts)
    return max(0, int((end - max(pts) - step) / step))
