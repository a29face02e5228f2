"""Where jobs stand in the queue, for everybody who looks: ranked once in a while, and not at every look."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from seedvr2_ray.serve.jobs import Job, JobState

_FRESH_SECONDS = 0.5
"""How old what is told may be: a look at one job must not cost what ranking all of them costs."""
_PAUSE_SECONDS = 0.1
"""Between two rankings for the sake of jobs that came after the last one."""


class RankedStore(Protocol):
    """What is asked of the job store."""

    def queue_positions(self) -> dict[str, int]:
        """Return the positions of all jobs that wait."""


class QueuePlaces:
    """Safe to use from several threads."""

    def __init__(self, store: RankedStore, *, now: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet."""
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._ranked_at = float("-inf")

    def of(self, job: Job) -> int | None:
        """Return how many claims away a job is: 1 is the next; None if it does not wait.

        Of a job that came within the last moment, it is told where it would be behind all others.
        """
        if job.state is not JobState.QUEUED:
            return None
        place = self.all().get(job.id)
        if place is None:
            places = self.all(at_most_old=_PAUSE_SECONDS)
            place = places.get(job.id, len(places) + 1)
        return place

    def known(self, job: Job) -> int | None:
        """Return a job's place if it is known without asking anybody; waits for nothing."""
        is_fresh = self._now() - self._ranked_at <= _FRESH_SECONDS
        return self._places.get(job.id) if is_fresh else None

    def all(self, *, at_most_old: float = _FRESH_SECONDS) -> Mapping[str, int]:
        """Return the places of all jobs that wait, as they were a moment ago."""
        with self._lock:
            if self._now() - self._ranked_at > at_most_old:
                self._places = self._store.queue_positions()
                self._ranked_at = self._now()
            return self._places
