"""Counters that show up in Ray's dashboard and Prometheus, and that do nothing where Ray does not run."""

from functools import cache

import ray
from ray.util.metrics import Counter

_DESCRIPTIONS = {
    "seedvr2_frames": "Frames restored, overlaps included",
    "seedvr2_megapixels": "Output megapixels restored",
    "seedvr2_segments": "Segments by how they ended: restored, committed before, failed",
    "seedvr2_films": "Files by how they ended: published, skipped, quarantined",
    "seedvr2_gpu_seconds": "Seconds that devices were at work on segments",
    "seedvr2_idle_seconds": "Of those, seconds that the device waited for decoded frames",
    "seedvr2_retries": "Attempts that were repeated after an error that may pass",
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


@cache
def _counter(name: str) -> Counter:
    return Counter(name, description=_DESCRIPTIONS[name], tag_keys=("state",))
