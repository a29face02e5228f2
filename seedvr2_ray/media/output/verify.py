"""Reading a written master back: every frame is there, at its time, in an order players accept."""

from array import array
from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import av

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.container.file_url import file_url
from seedvr2_ray.media.container.inventory import is_cover
from seedvr2_ray.media.info import Notice
from seedvr2_ray.media.output.timeline import Timeline

_MATROSKA_TICK = Fraction(1, 1000)


def verify_master(path: str, container: str, timeline: Timeline) -> tuple[Notice, ...]:
    """Compare the timeline of a written file with what was meant.

    Args:
        container: as in :class:`~seedvr2_ray.media.output.master.MasterFormat`.

    Returns:
        What had to be rounded or moved to fit the container.

    Raises:
        StorageError: frames are missing, doubled or out of order.
    """
    written, written_base = _read_times(path)
    if len(written) != len(timeline.pts):
        raise StorageError(
            f"{path} came out with {len(written)} frames where {len(timeline.pts)} were meant; try again"
        )
    tick = _MATROSKA_TICK if container in ("mkv", "webm") else Fraction(0)
    # Counted in a unit of which both clocks tick whole multiples: a video has too many frames for fractions.
    unit = Fraction(1, lcm(written_base.denominator, timeline.time_base.denominator))
    per_written, per_meant = int(written_base / unit), int(timeline.time_base / unit)
    offset = written[0] * per_written - timeline.pts[0] * per_meant
    if abs(offset * unit) <= tick / 2:
        offset = 0
    shift = offset * unit
    furthest = unit * max(
        abs(got * per_written - want * per_meant - offset) for got, want in zip(written, timeline.pts, strict=True)
    )
    if furthest > tick:
        raise StorageError(f"{path} shows a frame {float(furthest):.6f} s off its time; try again")
    notices: list[Notice] = []
    if shift:
        when = f"{abs(float(shift)):.3f} s {'later' if shift > 0 else 'earlier'}"
        reason = f"{container} starts at zero: pictures, sound and text all lie {when} than before"
        notices.append(Notice("converted", "timestamps", reason))
    if furthest:
        reason = f"rounded to milliseconds, the finest tick of {container}"
        notices.append(Notice("converted", "timestamps", reason))
    return tuple(notices)


def _read_times(path: str) -> tuple[Sequence[int], Fraction]:
    """Return when each frame is shown, increasing, and the length of a tick in seconds."""
    times = array("q")
    with av.open(file_url(path)) as container:
        video = next(stream for stream in container.streams.video if not is_cover(stream))
        last_dts: int | None = None
        for packet in container.demux(video):
            if not packet.size:
                continue
            if packet.dts is not None and last_dts is not None and packet.dts <= last_dts:
                raise StorageError(f"{path} has packets out of order at {float(packet.dts * packet.time_base):.3f} s")
            last_dts = packet.dts if packet.dts is not None else last_dts
            times.append(packet.pts if packet.pts is not None else packet.dts or 0)
        assert video.time_base is not None
        return sorted(times), video.time_base
