"""How much there is to do, as numbers for a monitoring system. Only sums: nothing of any one owner is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from seedvr2_ray.serve.db.job_store import Load


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauge:
    """One number, or one for each value of a label."""

    name: str
    help: str
    label: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """By the value of the label; the only key is empty where there is no label."""


def gauges_of(load: Load, *, num_streams: int, now: datetime) -> list[Gauge]:
    """Say what a look at the jobs and this process tells."""
    waited = 0.0 if load.oldest_queued_at is None else max(0.0, (now - load.oldest_queued_at).total_seconds())
    return [
        Gauge(
            name="seedvr2_jobs",
            help="Unfinished jobs by state",
            label="state",
            values={state.value: count for state, count in sorted(load.num_by_state.items())},
        ),
        _single("seedvr2_queue_depth", "Jobs that no runner has taken up", load.num_queued),
        _single("seedvr2_queue_age_seconds", "How long the oldest of them has waited", waited),
        _single("seedvr2_queue_gpu_seconds", "Estimated device time of those", load.queued_gpu_seconds),
        _single("seedvr2_remaining_gpu_seconds", "Estimated device time left of all jobs", load.remaining_gpu_seconds),
        _single("seedvr2_event_streams", "Event streams and sockets open in this process", num_streams),
    ]


def _single(name: str, text: str, value: float) -> Gauge:
    return Gauge(name=name, help=text, values={"": value})
