"""Counters, gauges and histograms that show up in Ray's dashboard and Prometheus, and do nothing without Ray."""

from functools import cache

import ray
from ray.util.metrics import Counter, Gauge, Histogram

_COUNTERS = {
    "seedvr2_frames": "Frames restored, overlaps included",
    "seedvr2_megapixels": "Output megapixels restored",
    "seedvr2_segments": "Segments by how they ended: restored, committed before, failed",
    "seedvr2_films": "Files by how they ended: published, skipped, quarantined",
    "seedvr2_jobs": "Jobs by how they ended: completed, failed, cancelled",
    "seedvr2_errors": "Failed jobs by the kind of their error",
    "seedvr2_gpu_seconds": "Seconds that devices were at work on segments",
    "seedvr2_idle_seconds": "Of those, seconds that the device waited for decoded frames",
    "seedvr2_cost": "Price of the device time of jobs that ended, in the currency of the configuration",
    "seedvr2_live_dropped_frames": "Frames of live streams that came faster than they could be restored",
    "seedvr2_retries": "Attempts that were repeated after an error that may pass",
}
_GAUGES = {
    "seedvr2_queue_depth": "Jobs that no runner has taken up yet",
    "seedvr2_queue_age_seconds": "How long the oldest of those has waited",
    "seedvr2_active_jobs": "Jobs that a runner works on",
    "seedvr2_segments_waiting": "Segments of those that no replica has taken up yet",
    "seedvr2_segments_in_flight": "Segments that replicas are at work on",
}
_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "seedvr2_stage_seconds": ("Seconds of one call of a stage: prepare, restore, finish, assemble", _SECONDS),
    "seedvr2_frames_per_second": (
        "Frames per second of a stage: restore, finish",
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
    ),
    "seedvr2_live_latency_seconds": (
        "Seconds that the slowest frame of a live stream's chunk took from being read to being written",
        (0.03, *_SECONDS[:7]),
    ),
    "seedvr2_gpu_seconds_per_minute": ("Device seconds per minute of output, by model", (1.0, *_SECONDS[3:], 10000.0)),
}


def count(name: str, value: float = 1.0, *, state: str = "") -> None:
    """Add to a counter.

    Args:
        name: one of those described here; Prometheus shows it as ``ray_<name>_total``.
        value: how much, at least 0; nothing is added for 0.
        state: how it ended, for the counters that tell.
    """
    if value > 0 and ray.is_initialized():
        _counter(name).inc(value, tags={"state": state})


def show(name: str, value: float, *, source: str = "") -> None:
    """Set a gauge.

    Args:
        name: one of those described here.
        value: what is true now.
        source: who says so, where several processes do.
    """
    if ray.is_initialized():
        _gauge(name).set(value, tags={"source": source})


def observe(name: str, value: float, *, stage: str) -> None:
    """Add one observation to a histogram.

    Args:
        name: one of those described here.
        value: what was measured.
        stage: of what.
    """
    if ray.is_initialized():
        _histogram(name).observe(value, tags={"stage": stage})


@cache
def _counter(name: str) -> Counter:
    return Counter(name, description=_COUNTERS[name], tag_keys=("state",))


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(name, description=_GAUGES[name], tag_keys=("source",))


@cache
def _histogram(name: str) -> Histogram:
    description, boundaries = _HISTOGRAMS[name]
    return Histogram(name, description=description, boundaries=list(boundaries), tag_keys=("stage",))
