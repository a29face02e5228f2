"""Ranks as Ray actors: started where a placement says, asked whether they live, ended for certain."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from seedvr2_ray.gang.placement import Placement
from seedvr2_ray.restoration.gang.messages import RankOrder

_GONE_SECONDS = 20.0


class RankProcess:
    """What is in the actor: it does nothing else than to be a rank."""

    def run(self, order: RankOrder) -> None:
        """Be a rank until the gang is over."""
        from seedvr2_ray.restoration.gang.rank import run_rank  # Loads torch: here, and not where gangs are described.

        run_rank(order)

    @ray.method(concurrency_group="health")
    def ping(self) -> int:
        """Answer, whatever the rank is at; return the process."""
        return os.getpid()


# Not started again by Ray: one rank alone is of no use.
_OPTIONS: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "concurrency_groups": {"health": 1}}
_RankActor: Any = ray.remote(**_OPTIONS)(RankProcess)


class RankActors:
    """A :class:`~seedvr2_ray.restoration.gang.ranks.GangHost` whose ranks are actors on the leader's machine.

    They belong to the leader: with its process, Ray ends them.
    """

    def __init__(self, placement: Placement) -> None:
        """Start nothing yet."""
        self._placement = placement
        self._actors: list[Any] = []
        self._runs: list[Any] = []

    def start(self, orders: Sequence[RankOrder]) -> None:
        """Start an actor per order."""
        for order in orders:
            actor = _RankActor.options(**self._placement.options(order.rank)).remote()
            self._actors.append(actor)
            self._runs.append(actor.run.remote(replace(order, environ=self._placement.environ(order.rank))))

    def lost(self) -> tuple[int, str] | None:
        """Return the first rank whose actor has ended, and how."""
        if not self._runs:
            return None
        done, _ = ray.wait(self._runs, num_returns=len(self._runs), timeout=0)
        for run in done:
            try:
                ray.get(run)
            except RayError as error:
                return self._runs.index(run), f"ended ({type(error).__name__})"
            return self._runs.index(run), "ended"
        return None

    def silent(self, seconds: float) -> list[int]:
        """Ask all ranks whether they live; return those that do not answer in time."""
        pings = [actor.ping.remote() for actor in self._actors]
        answered, _ = ray.wait(pings, num_returns=len(pings), timeout=seconds)
        lost = []
        for rank, ping in enumerate(pings):
            try:
                if ping not in answered:
                    raise TimeoutError
                ray.get(ping)
            except (RayError, TimeoutError):
                lost.append(rank)
        return lost

    def end(self, pids: Iterable[int] = ()) -> None:
        """End what still runs, and wait until the processes are gone: only then are their devices free."""
        for actor in self._actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)
        pids = set(pids)
        for pid in pids:
            # A process that hangs or is stopped does not hear Ray; ranks run beside their leader.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        limit = time.monotonic() + _GONE_SECONDS
        while time.monotonic() < limit and any(_is_there(pid) for pid in pids):
            time.sleep(0.05)
        self._actors, self._runs = [], []


def _is_there(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            # A zombie holds nothing any more.
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
