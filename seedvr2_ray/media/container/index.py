"""The frame index: which pictures a file gives, in which order, and when each is shown.

Everything that counts, cuts or joins frames rests on this list being exactly what decoding yields.
Containers are believed where their word can be checked cheaply (every packet has its own
presentation time, and the first and last stretch decode to exactly the pictures listed); otherwise
the whole file is decoded once.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.bitstream.entry_points import Stretches
from seedvr2_ray.media.container.clock import ClockChange, shifts_in_ticks
from seedvr2_ray.media.container.packets import PacketScan, scan_packets, seeks_truthfully
from seedvr2_ray.media.container.picture_data import NOTHING_INSIDE, PictureData
from seedvr2_ray.media.container.source import BACKTRACK_SECONDS, Timestamps, decode_packets, open_source, ticks
from seedvr2_ray.media.info import ranges_of

_HEAD_FRAMES = 24
_STRAY_FRAMES = 2
"""Pictures in the wrong order that say nothing of the others."""

_NUM_SEEK_CHECKS = 3
_SEEK_CHECK_FRAMES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameIndex:
    """All pictures of a source in display order."""

    pts: "array[int]"
    """Presentation times, strictly increasing, in ticks of the stream."""
    timestamps: Timestamps
    """How a decoder's frame is recognised: by its own time, by the time of the packet that made the
    decoder give it (AVI), or only by counting from the beginning of the file."""
    lost: tuple[tuple[int, int], ...]
    """Ranges [start, stop) of frame numbers that are listed but cannot be decoded."""
    num_undecodable_at_start: int
    """Pictures before the first one, left out because what they were predicted from is not in the file."""
    missing_bytes: int
    picture_data: PictureData = NOTHING_INSIDE
    """What travels inside the coded pictures."""
    closed: Stretches = ()
    """Stretches of time in which decoding must not begin: their key frames lack parameter sets."""
    suspect: tuple[tuple[int, int], ...] = ()
    """Those of the lost ranges that the decoder gives and a checksum calls damaged."""
    witness: str = ""
    """Which checksum found damage, in a picture or between them; empty when none did."""
    clock: tuple[ClockChange, ...] = ()
    """Where the file's own clock starts anew; ``pts`` is of one clock throughout."""
    last_ticks: int = 0
    """How long the last picture is shown; 0 where the file does not say."""


def build_index(path: str, stream_index: int, *, max_frames: int, num_threads: int = 0) -> FrameIndex:
    """List the pictures of a file.

    Raises:
        MediaError: no picture can be decoded, or there are too many.
    """
    with open_source(path, stream_index) as source:
        scan = scan_packets(source, max_frames=max_frames)
    if not scan.num_packets:
        raise MediaError(f"{path} has a video stream without a single frame")
    if scan.is_trustworthy and not scan.clock and seeks_truthfully(path, stream_index, scan):
        index = _checked_listing(path, stream_index, scan, num_threads)
        if index is not None:
            return replace(index, picture_data=scan.picture_data)
    index = _decoded_listing(path, stream_index, scan, num_threads)
    return replace(index, picture_data=scan.picture_data)


def _checked_listing(path: str, stream_index: int, scan: PacketScan, num_threads: int) -> FrameIndex | None:
    """The packets' own list, if decoding both ends of the file gives exactly what it says."""
    pts = array("q", sorted(scan.pts))
    head = _decode_head(path, stream_index, num_threads)
    if not head:
        return None
    num_undecodable = bisect_left(pts, head[0])
    if num_undecodable and scan.first_key_pts is not None and head[0] > scan.first_key_pts:
        return None  # The first key frame itself is damaged.
    del pts[:num_undecodable]
    if pts[: len(head)].tolist() != head:
        return None
    tail = _decode_tail(path, stream_index, pts[-1], scan.closed_by_pts, num_threads)
    if not tail:
        return None
    expected = pts[bisect_left(pts, tail[0]) :].tolist()
    lost = set(expected) - set(tail)
    if tail != [stamp for stamp in expected if stamp not in lost]:
        return None
    suspect = scan.verdict.damaged_pts & set(pts)
    return _with_lost(pts, "pts", lost | _lost_times(scan, pts), suspect, scan, num_undecodable)


def _decode_head(path: str, stream_index: int, num_threads: int) -> list[int]:
    """Times of the first intact frames, in the order the decoder gives them."""
    good: list[int] = []
    with open_source(path, stream_index) as source:
        for decoded in decode_packets(source, seek_to=None, num_threads=num_threads, thread_type="SLICE"):
            if decoded.frame.pts is None:
                return []
            if decoded.frame.is_corrupt:
                break
            good.append(decoded.frame.pts)
            if len(good) == _HEAD_FRAMES:
                break
    return good


def _decode_tail(path: str, stream_index: int, last_pts: int, closed: Stretches, num_threads: int) -> list[int]:
    """Times of the intact frames from a key frame near the end to the end."""
    good: list[int] = []
    for seconds in BACKTRACK_SECONDS:
        with open_source(path, stream_index) as source:
            target = last_pts - ticks(seconds, source)
            key_seen = False
            # Decoders that work on several frames at once lose more than the damaged ones.
            for decoded in decode_packets(
                source, seek_to=target, num_threads=num_threads, thread_type="SLICE", closed=closed
            ):
                key_seen |= decoded.frame.key_frame
                if decoded.frame.pts is None:
                    return []
                if key_seen and not decoded.frame.is_corrupt:
                    good.append(decoded.frame.pts)
        if good:
            break
    return good


def _lost_times(scan: PacketScan, pts: Sequence[int]) -> set[int]:
    """Presentation times of packets that are listed and gone.

    At a constant rate the presentation times are the decoding times shifted, so what remains when
    the known ones are taken away are the lost ones. Where that does not add up they are put after the end.
    """
    known = set(pts)
    if scan.lost_dts and scan.dts and len(scan.dts) == scan.num_packets:
        listed = sorted([*scan.dts, *scan.lost_dts])
        lost = {dts + min(pts) - listed[0] for dts in listed} - known
        if len(lost) == len(scan.lost_dts):
            return lost | _after(max(known | lost), scan.num_lost_after, scan.frame_ticks)
    return _after(max(known), len(scan.lost_dts) + scan.num_lost_after, scan.frame_ticks)


def _after(last: int, count: int, step: Fraction) -> set[int]:
    return {last + round(step * (number + 1)) for number in range(count)}


def _with_lost(
    pts: Sequence[int],
    timestamps: Timestamps,
    lost: set[int],
    suspect: Set[int],
    scan: PacketScan,
    num_undecodable: int,
) -> FrameIndex:
    merged = array("q", sorted({*pts, *lost}))
    ranges = ranges_of(sorted(bisect_left(merged, stamp) for stamp in lost | suspect))
    is_whole = not ranges or ranges[-1][1] < len(merged)
    last_ticks = max(0, scan.end - merged[-1]) if scan.end is not None and is_whole and not scan.clock else 0
    if scan.container == "matroska,webm" and last_ticks < scan.frame_ticks:
        last_ticks = 0  # Some writers count from the track's own start.
    return FrameIndex(
        pts=merged,
        timestamps=timestamps,
        lost=ranges,
        suspect=ranges_of(sorted(bisect_left(merged, stamp) for stamp in suspect - lost)),
        witness=scan.verdict.witness,
        num_undecodable_at_start=num_undecodable,
        missing_bytes=scan.missing_bytes,
        closed=scan.closed_by_dts if timestamps == "dts" else scan.closed_by_pts,
        last_ticks=last_ticks,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    pts: int | None
    fed_dts: int | None
    position: int | None
    """In the file, of the packet the picture was coded in: names it whatever its times say."""
    is_corrupt: bool


def _decoded_listing(path: str, stream_index: int, scan: PacketScan, num_threads: int) -> FrameIndex:
    """The list that decoding the whole file gives."""
    seen = _decode(path, stream_index, seek_to=None, count=None, num_threads=num_threads)
    if not seen:
        raise MediaError(f"{path}: not one of its {scan.num_packets} frames can be decoded; the pictures are damaged")
    if scan.clock:
        return _listing_on_one_clock(path, stream_index, scan, seen)
    if scan.is_trustworthy and _times_are_of_decoding(seen):
        in_order = sorted(frame.pts for frame in seen if frame.pts is not None)
        return _with_lost(in_order, "counted", _corrupt(in_order, seen), _suspect(in_order, seen, scan), scan, 0)
    if scan.is_trustworthy:
        index = _listing_with_gaps(path, stream_index, scan, seen, num_threads)
        if index is not None:
            return index
    by_pts = [frame.pts for frame in seen]
    by_dts = _continued([frame.fed_dts for frame in seen], scan.frame_ticks)
    choices: list[tuple[Timestamps, Sequence[int | None]]] = [("pts", by_pts), ("dts", by_dts)]
    if scan.container == "avi":
        choices.reverse()  # Its presentation times are made up from the order of decoding.
    for timestamps, stamps in choices:
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) < len(seen) or not _increases(known):
            continue
        if _survives_seeking(path, stream_index, seen, known, timestamps, num_threads):
            lost, suspect = _corrupt(known, seen), _suspect(known, seen, scan)
            return _with_lost(known, timestamps, lost | _lost_times(scan, known), suspect, scan, 0)
    filled = _strictly_increasing(_fill(by_pts if any(p is not None for p in by_pts) else by_dts, scan.frame_ticks))
    lost = _corrupt(filled, seen) | _after(filled[-1], scan.num_lost_after, scan.frame_ticks)
    return _with_lost(filled, "counted", lost, _suspect(filled, seen, scan), scan, 0)


def _listing_on_one_clock(path: str, stream_index: int, scan: PacketScan, seen: list[_Seen]) -> FrameIndex:
    """The list of a file in which several recordings follow one another, each with a clock of its own.

    A time of the file means several moments then, so frames are found by counting.
    """
    with open_source(path, stream_index) as source:
        time_base = source.stream.time_base or Fraction(1, 25)
    shifts = shifts_in_ticks(scan.clock, [frame.position for frame in seen], time_base)
    moved = [None if f.pts is None else f.pts + shift for f, shift in zip(seen, shifts, strict=True)]
    stamps = _strictly_increasing(_fill(moved, scan.frame_ticks))
    return replace(
        _with_lost(stamps, "counted", _corrupt(stamps, seen), _suspect(stamps, seen, scan), scan, 0), clock=scan.clock
    )


def _times_are_of_decoding(seen: list[_Seen]) -> bool:
    """Whether a demuxer passes times of decoding off as times of display (H.264 in MXF).

    A decoder gives pictures in the order in which they are shown; single ones come late out of a
    damaged file, but not one in ten. The times are right then, each belongs to another picture only.
    """
    stamps = [frame.pts for frame in seen]
    known = [stamp for stamp in stamps if stamp is not None]
    num_falls = sum(late <= early for early, late in pairwise(known))
    return len(known) == len(stamps) == len(set(known)) and num_falls > max(_STRAY_FRAMES, len(known) // 10)


def _listing_with_gaps(
    path: str, stream_index: int, scan: PacketScan, seen: list[_Seen], num_threads: int
) -> FrameIndex | None:
    """The packets' own list, with what the decoder does not give, or gives too late, marked as lost."""
    intact: list[_Seen] = []
    for frame in seen:
        if frame.pts is not None and not frame.is_corrupt and (not intact or frame.pts > (intact[-1].pts or 0)):
            intact.append(frame)
    stamps = [frame.pts for frame in intact if frame.pts is not None]
    if not stamps or not set(stamps) <= set(scan.pts):
        return None
    if not _survives_seeking(path, stream_index, intact, stamps, "pts", num_threads):
        return None
    # A first key frame that does not come is damaged, and lacks nothing that it was predicted from.
    first = stamps[0] if scan.first_key_pts is None else min(stamps[0], scan.first_key_pts)
    listed = sorted(stamp for stamp in scan.pts if stamp >= first)
    lost = set(listed) - set(stamps)
    suspect = scan.verdict.damaged_pts & set(listed)
    num_undecodable = scan.num_packets - len(listed)
    return _with_lost(listed, "pts", lost | _lost_times(scan, listed), suspect, scan, num_undecodable)


def _suspect(stamps: Sequence[int], seen: list[_Seen], scan: PacketScan) -> set[int]:
    """Times of the frames whose packets a checksum calls damaged."""
    positions = scan.verdict.damaged_positions
    return {stamp for stamp, frame in zip(stamps, seen, strict=True) if frame.position in positions}


def _corrupt(stamps: Sequence[int], seen: list[_Seen]) -> set[int]:
    return {stamp for stamp, frame in zip(stamps, seen, strict=True) if frame.is_corrupt}


def _decode(path: str, stream_index: int, *, seek_to: int | None, count: int | None, num_threads: int) -> list[_Seen]:
    seen: list[_Seen] = []
    with open_source(path, stream_index) as source:
        for decoded in decode_packets(
            source, seek_to=seek_to, num_threads=num_threads, thread_type="SLICE", remember_packets=True
        ):
            frame = decoded.frame
            position = frame.opaque if isinstance(frame.opaque, int) else None
            seen.append(_Seen(frame.pts, decoded.fed_dts, position, frame.is_corrupt))
            if len(seen) == count:
                break
    return seen


def _decode_near(path: str, stream_index: int, target: int, num_threads: int) -> list[_Seen]:
    """Decode a few frames after a jump to a key frame before ``target``."""
    for seconds in BACKTRACK_SECONDS:
        with open_source(path, stream_index) as source:
            seek_to = target - ticks(seconds, source)
        seen = _decode(path, stream_index, seek_to=seek_to, count=_SEEK_CHECK_FRAMES, num_threads=num_threads)
        if seen:
            return seen
    return []


def _survives_seeking(
    path: str,
    stream_index: int,
    seen: list[_Seen],
    stamps: list[int],
    timestamps: Timestamps,
    num_threads: int,
) -> bool:
    """Whether frames bear the same stamps after a jump as they do when decoded from the beginning."""
    expected = {frame.position: stamp for frame, stamp in zip(seen, stamps, strict=True)}
    if len(expected) != len(seen) or None in expected:
        return False
    pick: Callable[[_Seen], int | None] = (lambda f: f.pts) if timestamps == "pts" else (lambda f: f.fed_dts)
    for check in range(1, _NUM_SEEK_CHECKS + 1):
        target = stamps[len(stamps) * check // (_NUM_SEEK_CHECKS + 1)]
        after = _decode_near(path, stream_index, target, num_threads)
        stamped = [frame for frame in after if pick(frame) is not None]
        if after and not stamped:
            return False
        # In a damaged file a jump may give frames that were not given before.
        if any(expected.get(frame.position, pick(frame)) != pick(frame) for frame in stamped):
            return False
    return True


def _increases(stamps: Sequence[int]) -> bool:
    return all(early < late for early, late in pairwise(stamps))


def _continued(stamps: list[int | None], step: Fraction) -> list[int | None]:
    """Give the frames that came out while draining the times that follow."""
    given = list(stamps)
    for number in range(1, len(given)):
        previous = given[number - 1]
        if given[number] is None and previous is not None:
            given[number] = previous + max(1, round(step))
    return given


def _fill(stamps: Sequence[int | None], step: Fraction) -> list[int]:
    """Interpolate what is missing between known times, exactly, and continue at the nominal rate outside."""
    known = [number for number, stamp in enumerate(stamps) if stamp is not None]
    if not known:
        return [round(step * number) for number in range(len(stamps))]
    filled: list[int] = []
    for number, stamp in enumerate(stamps):
        if stamp is not None:
            filled.append(stamp)
            continue
        right = bisect_right(known, number)
        before = known[right - 1] if right else None
        after = known[right] if right < len(known) else None
        filled.append(_between(stamps, number, before, after, step))
    return filled


def _between(stamps: Sequence[int | None], number: int, before: int | None, after: int | None, step: Fraction) -> int:
    early = None if before is None else stamps[before]
    late = None if after is None else stamps[after]
    if early is not None and before is not None:
        if late is not None and after is not None:
            return round(early + Fraction((late - early) * (number - before), after - before))
        return round(early + step * (number - before))
    assert late is not None and after is not None
    return round(late - step * (after - number))


def _strictly_increasing(stamps: list[int]) -> list[int]:
    """Repair only what must be: each time at least one tick after the one before."""
    repaired = stamps[:1]
    for stamp in stamps[1:]:
        repaired.append(max(stamp, repaired[-1] + 1))
    return repaired
