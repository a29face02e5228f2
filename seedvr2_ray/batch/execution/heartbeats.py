"""Heartbeats of life: how the driver tells work that takes long from work that cannot go on.

A segment may take hours, so a clock alone proves nothing. Whoever is at work for long says so now and then; when nobody
has for long while something is outstanding, nobody will: the pool's processes hold what the tasks wait for, or the
cluster lost something that Ray does not make again.

Imports next to nothing of the project: the process that keeps the heartbeats is to be small.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock, Thread
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from seedvr2_ray.batch.execution.head import HeadLostError

Kind = Literal["plan", "restore", "finish"]

DEFAULT_TIMEOUT_SECONDS = 120.0
"""More than a process takes to start and import, and little beside an archive."""

WITHOUT_REASON = 5
"""Times that, where nothing explains why nobody is at work: perhaps machines are on their way."""

_ASK_SECONDS = 3.0
_ANSWER_SECONDS = 10.0


class Heartbeats:
    """Remembers when each kind of worker last said that it is at work. Ray makes an actor of it."""

    def __init__(self) -> None:
        self._last: dict[Kind, float] = {}

    def heartbeat(self, kind: Kind) -> None:
        self._last[kind] = time.monotonic()

    def quiet_seconds(self) -> dict[Kind, float]:
        """Return the seconds since each kind's last sign; a kind that never gave any is left out."""
        now = time.monotonic()
        return {kind: now - last for kind, last in self._last.items()}


@contextmanager
def at_work(run: str, kind: Kind, every_seconds: float) -> Iterator[None]:
    """Say now and then that somebody is at work, for as long as the block runs. Outside Ray, say nothing.

    What takes less time than that says nothing either: its result is sign enough, and a sign is a task of Ray's like
    any other.
    """
    pulse = _pulse_of(run, every_seconds)
    if pulse is None:
        yield
        return
    pulse.begin(kind)
    try:
        yield
    finally:
        pulse.end(kind)


class _Pulse:
    """One thread per process that says what kinds of work it is at."""

    def __init__(self, heartbeats: Any, seconds: float) -> None:
        self._heartbeats = heartbeats
        self._seconds = seconds
        self._active: Counter[Kind] = Counter()
        self._unheard: set[Kind] = set()
        """Kinds of work without results of their own that were done since the last beat."""
        self._lock = Lock()
        self._is_beating = False

    def begin(self, kind: Kind) -> None:
        with self._lock:
            self._active[kind] += 1
            if kind == "plan":
                self._unheard.add(kind)
            if not self._is_beating:
                self._is_beating = True
                Thread(target=self._send_heartbeats, name="heartbeats", daemon=True).start()

    def end(self, kind: Kind) -> None:
        with self._lock:
            self._active[kind] -= 1

    def _send_heartbeats(self) -> None:
        while True:
            time.sleep(self._seconds)
            with self._lock:
                kinds = {kind for kind, num in self._active.items() if num} | self._unheard
                self._unheard.clear()
                if not kinds:
                    self._is_beating = False
                    return
            for kind in kinds:
                self._heartbeats.heartbeat.remote(kind)


@lru_cache(maxsize=4)
def _pulse_of(run: str, seconds: float) -> _Pulse | None:
    heartbeats = _find(run)
    return None if heartbeats is None else _Pulse(heartbeats, seconds)


def _find(run: str) -> Any:
    if not ray.is_initialized():
        return None
    try:
        return ray.get_actor(_name(run))
    except ValueError:  # Nobody watches, as in a dry run.
        return None


def _name(run: str) -> str:
    return f"seedvr2-ray-heartbeats-{run}"


class Watch:
    """The driver's side: says when nothing has happened for so long that nothing will."""

    def __init__(
        self,
        ask: Callable[[], Mapping[Kind, float] | None],
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            ask: says how long ago each kind of worker gave a sign; None when that cannot be said.
            timeout_seconds: without any sign of life, after which work counts as stuck.
        """
        self.timeout_seconds = timeout_seconds
        self._ask = ask
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """Start all clocks again, at the beginning of a pass."""
        now = self._clock()
        self._seen: dict[Kind, float] = {"plan": now, "restore": now, "finish": now}
        self._asked = now
        self._nothing_to_finish = now

    def received(self, kind: Kind) -> None:
        """Note that somebody's work came in."""
        self._seen[kind] = self._clock()

    def is_stuck(self, times: int = 1) -> bool:
        """Say whether nobody at all has been at work for so many times the limit."""
        return min(self._unseen().values()) >= times * self.timeout_seconds

    def is_finishing_stuck(self, *, is_wanted: bool) -> bool:
        """Say whether something is to be finished or published, and nobody has been at that for too long."""
        if not is_wanted:
            self._nothing_to_finish = self._clock()
            return False
        wanted_for = self._clock() - self._nothing_to_finish
        return wanted_for >= self.timeout_seconds and self._unseen()["finish"] >= self.timeout_seconds

    def _unseen(self) -> dict[Kind, float]:
        now = self._clock()
        # What came in is sign enough: who is at work is asked only when that is not.
        if now - min(self._seen.values()) >= self.timeout_seconds and now - self._asked >= _ASK_SECONDS:
            self._asked = now
            quiet = self._ask()
            if quiet is None:
                self.begin()  # No proof of anything.
            for kind, seconds in (quiet or {}).items():
                self._seen[kind] = max(self._seen[kind], now - seconds)
        return {kind: now - seen for kind, seen in self._seen.items()}


@contextmanager
def watch_run(run: str, timeout_seconds: float) -> Iterator[Watch]:
    """Watch a run for as long as the block goes on."""
    # Costs next to nothing, so it must not wait for a core; it lives and dies with the driver's machine.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    made: Any = ray.remote(Heartbeats).options(name=_name(run), num_cpus=0, max_restarts=-1, scheduling_strategy=here)
    heartbeats = made.remote()

    def ask() -> Mapping[Kind, float] | None:
        try:
            quiet: Mapping[Kind, float] = ray.get(heartbeats.quiet_seconds.remote(), timeout=_ANSWER_SECONDS)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return None  # It is being started again, or this machine is too busy to say.
        return quiet

    try:
        yield Watch(ask, timeout_seconds)
    except HeadLostError:
        raise  # They went with it.
    except BaseException:
        ray.kill(heartbeats)
        raise
    ray.kill(heartbeats)
