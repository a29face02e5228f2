"""Whose segment is next: owners share the device time of a pool equally, and so do the jobs of one owner. No I/O.

Start-time fair queueing on two levels. Everybody has a clock that goes on by the device seconds that were spent for
them, and whose clock is furthest behind is next. Who comes anew starts at the clock furthest behind of those who are
there: nobody gathers a claim by staying away, and nobody who is there waits for what a newcomer has not used yet.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A job that has a segment to restore."""

    job_id: str
    owner: str
    priority: int
    """More is sooner among the jobs of one owner; it takes nothing from other owners."""
    order: int
    """Of two that are equal in everything else, the lower goes first."""


class FairShare:
    """The clocks of one pool of equal replicas."""

    def __init__(self) -> None:
        self._owners: _Clocks[str] = _Clocks()
        self._jobs: dict[str, _Clocks[str]] = {}
        self._owner_of: dict[str, str] = {}

    def enter(self, job_id: str, owner: str) -> None:
        """A job wants segments restored from now on."""
        if owner not in self._jobs:
            self._owners.enter(owner)
            self._jobs[owner] = _Clocks()
        self._jobs[owner].enter(job_id)
        self._owner_of[job_id] = owner

    def leave(self, job_id: str) -> None:
        """A job wants nothing more, and has nothing in flight."""
        owner = self._owner_of.pop(job_id)
        self._jobs[owner].leave(job_id)
        if self._jobs[owner].is_empty:
            del self._jobs[owner]
            self._owners.leave(owner)

    def send(self, job_id: str, seconds: float) -> None:
        """Charge a segment that is sent to a replica with what it will probably take."""
        self._charge(job_id, seconds, 1, num_sent=1)

    def take_back(self, job_id: str, seconds: float) -> None:
        """Undo :meth:`send`: no replica had taken the segment up."""
        self._charge(job_id, -seconds, -1, num_sent=-1)

    def settle(self, job_id: str, estimated: float, actual: float) -> None:
        """Correct the charge when a segment came back, as a whole or in part."""
        self._charge(job_id, actual - estimated, -1)

    def ranked(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Sort jobs that have entered: who is to be served next comes first."""
        return sorted(candidates, key=self._rank)

    def _rank(self, candidate: Candidate) -> tuple[float, ...]:
        owner, job = self._owners, self._jobs[candidate.owner]
        return (
            *owner.rank(candidate.owner),
            -candidate.priority,
            *job.rank(candidate.job_id),
            candidate.order,
        )

    def _charge(self, job_id: str, seconds: float, num_in_flight: int, num_sent: int = 0) -> None:
        owner = self._owner_of[job_id]
        self._owners.charge(owner, seconds, num_in_flight, num_sent)
        self._jobs[owner].charge(job_id, seconds, num_in_flight, num_sent)


@dataclass(slots=True)
class _Clock:
    seconds: float
    num_in_flight: int = 0
    num_sent: int = 0


_MOST_REMEMBERED = 10_000


class _Clocks(Generic[Key]):
    """The clocks of those who share something."""

    def __init__(self) -> None:
        self._present: dict[Key, _Clock] = {}
        self._left: dict[Key, float] = {}
        self._floor = 0.0

    @property
    def is_empty(self) -> bool:
        return not self._present

    def enter(self, key: Key) -> None:
        self._raise_floor()
        self._present[key] = _Clock(max(self._floor, self._left.pop(key, 0.0)))

    def leave(self, key: Key) -> None:
        self._raise_floor()
        clock = self._present.pop(key)
        if clock.seconds > self._floor:
            # Whoever leaves and comes back at once has not paid off what was spent.
            self._left[key] = clock.seconds
            while len(self._left) > _MOST_REMEMBERED:
                self._left.pop(next(iter(self._left)))

    def charge(self, key: Key, seconds: float, num_in_flight: int, num_sent: int) -> None:
        clock = self._present[key]
        clock.seconds += seconds
        clock.num_in_flight += num_in_flight
        clock.num_sent += num_sent

    def rank(self, key: Key) -> tuple[float, int, int]:
        clock = self._present[key]
        # A newcomer starts level with whoever is furthest behind, and goes first.
        return clock.seconds, clock.num_in_flight, clock.num_sent

    def _raise_floor(self) -> None:
        if self._present:
            self._floor = max(self._floor, min(clock.seconds for clock in self._present.values()))
