"""The ranks of one gang as its leader holds them: started together, watched all the time, ended together.

A thread watches for as long as they are up. Whatever happens to one of them, all are ended at once: half a gang is of
no use, and ranks that wait for a lost one would hold their devices until a timeout.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from seedvr2_ray.errors import DeploymentError, GangError, SeedVR2Error
from seedvr2_ray.models.backends import CollectiveBackend, SpStrategy
from seedvr2_ray.restoration.gang.messages import (
    Answer,
    Ended,
    Hello,
    Join,
    RankOrder,
    RankSource,
    Ready,
    Wire,
)
from seedvr2_ray.restoration.gang.waiting import Waiting
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings

if TYPE_CHECKING:
    from seedvr2_ray.restoration.planning.memory import MemoryLesson

_FOLDER = "seedvr2-gang"
_LONGEST_PLACE = 60
_LOOK_SECONDS = 0.2
_REASON_SECONDS = 3.0
"""How long to wait for the reason when a connection breaks: the process that closed it is about to be found dead."""
_GOODBYE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """How long a gang is waited for."""

    start_seconds: float = 900.0
    """Until all ranks are ready; weights may come over a network."""
    silence_seconds: float = 30.0
    """Without a sign of life from a process, after which it counts as hung."""
    stall_seconds: float = 600.0
    """Without a step done by any rank, after which a device counts as hung. A step takes a few seconds."""
    stop_seconds: float = 30.0
    """For ranks to come to the end of the step they are at, when a segment is stopped or one of them has failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GangSpec:
    """What a gang is, wherever its processes run."""

    source: RankSource
    settings: RestoreSettings
    """Only the model is looked at."""
    size: int
    strategy: SpStrategy = "auto"
    timeouts: Timeouts = field(default_factory=Timeouts)


class GangHost(Protocol):
    """Where the processes of one gang run. Used once."""

    def start(self, orders: Sequence[RankOrder]) -> None:
        """Start a process per order that calls :func:`~seedvr2_ray.restoration.gang.rank.run_rank`."""

    def lost(self) -> tuple[int, str] | None:
        """Return the first rank whose process has ended, and how; None while all of them run."""

    def silent(self, seconds: float) -> list[int]:
        """Ask all processes whether they live, by another way than their own signs; return who does not answer."""

    def end(self, pids: Iterable[int]) -> None:
        """End all processes that still run, whatever they are doing; return when none is left that can be ended.

        Args:
            pids: of those that have reported.
        """


class Ranks:
    """Processes that are ready; made by :meth:`start`."""

    def __init__(self, host: GangHost, folder: Path, timeouts: Timeouts, size: int) -> None:
        self._host = host
        self._folder = folder
        self._timeouts = timeouts
        self._orders: dict[int, Wire] = {}
        self._life: dict[int, Wire] = {}
        self._pids: dict[int, int] = {}
        self._ending = threading.RLock()
        self._is_over = threading.Event()
        self._loss: str | None = None
        self.size = size
        self._identity: RestorerIdentity | None = None
        self.frames_ahead = 0
        """Frames that one rank may have read and another not."""

    @classmethod
    def start(cls, spec: GangSpec, host: GangHost, lessons: tuple["MemoryLesson", ...] = ()) -> Self:
        """Start all ranks and wait until they have met and loaded.

        Args:
            lessons: of ranks before them that ran out of memory.

        Raises:
            GangError: one of them died or did not come in time; none is left.
            SeedVR2Error: or what one of them said of the deployment or the settings; none is left.
        """
        folder = _make_folder()
        ranks = cls(host, folder, spec.timeouts, spec.size)
        orders = [
            RankOrder(
                rank=rank,
                size=spec.size,
                address=str(folder / "leader"),
                # A file, not a port: nobody else can be there, or come in.
                rendezvous=f"file://{folder}/meeting",
                # The leader notices first, and can say more.
                timeout_seconds=2 * spec.timeouts.stall_seconds,
                source=spec.source,
                settings=spec.settings,
                strategy=spec.strategy,
                lessons=lessons,
            )
            for rank in range(spec.size)
        ]
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(orders[0].address)
                listener.listen(2 * spec.size)
                listener.settimeout(_LOOK_SECONDS)
                host.start(orders)
                ranks._meet(listener)
        except BaseException as error:
            ranks._loss = str(error)
            ranks.end()
            raise
        threading.Thread(target=ranks._watch, name="gang", daemon=True).start()
        return ranks

    @property
    def identity(self) -> RestorerIdentity:
        """Who the ranks are: all the same."""
        assert self._identity is not None, "they are ready"
        return self._identity

    @property
    def loss(self) -> str | None:
        """Why the gang is lost; None while it stands."""
        return self._loss

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of the ranks, in their order."""
        return tuple(self._pids[rank] for rank in sorted(self._pids))

    @property
    def is_over(self) -> bool:
        """Whether the ranks were ended."""
        return self._is_over.is_set()

    def wires(self) -> list[Wire]:
        """Return the connections on which ranks ask, in their order."""
        return [self._orders[rank] for rank in sorted(self._orders)]

    def silent(self, seconds: float) -> list[int]:
        """Return the ranks that do not answer when asked."""
        silent = self._host.silent(seconds)
        if silent:
            with contextlib.suppress(GangError):
                self._lose(f"the process of rank {silent[0]} does not answer")
        return silent

    def listen(self, wires: Iterable[Wire], *, until: float | None = None) -> list[Wire]:
        """Wait until some of these ranks say something.

        Args:
            until: a moment of :func:`time.monotonic` after which nobody is waited for any more.

        Returns:
            Those that did; empty when the time is over.

        Raises:
            GangError: a rank is lost, or none has made a step for too long.
        """
        by_connection = {wire.connection: wire for wire in wires}
        stall = Waiting(self._timeouts.stall_seconds)
        while True:
            self.require()
            found = wait(list(by_connection), timeout=_LOOK_SECONDS)
            if found:
                return [by_connection[connection] for connection in found]  # type: ignore[index]  # those given
            if until is not None and time.monotonic() > until:
                return []
            if stall.is_over():
                self._lose(f"no rank has done a step for {self._timeouts.stall_seconds:g} s")

    def require(self) -> None:
        """Raise GangError if the gang does not stand any more."""
        if self._loss is not None or self.is_over:
            raise GangError(
                f"the gang of {self.size} is lost: {self._loss or 'it was ended'}; it is started again as a whole"
            )

    def broke(self) -> GangError:
        """Return what to raise when a connection broke: the reason, as soon as it is known."""
        limit = time.monotonic() + 2 * _REASON_SECONDS
        while self._loss is None and time.monotonic() < limit:
            time.sleep(_LOOK_SECONDS / 4)
        with contextlib.suppress(GangError):
            self._lose("a rank has hung up")
        return GangError(f"the gang of {self.size} is lost: {self._loss}; it is started again as a whole")

    def end(self) -> None:
        """End all processes and return when none is left: by a word where they listen, by force otherwise."""
        with self._ending:
            if self.is_over:
                return
            if self._loss is None:
                self._say_goodbye()
            self._is_over.set()
            self._host.end(self._pids.values())
            shutil.rmtree(self._folder, ignore_errors=True)
            for wire in (*self._orders.values(), *self._life.values()):
                wire.close()

    def _say_goodbye(self) -> None:
        with contextlib.suppress(OSError):
            for wire in self._orders.values():
                wire.send(Answer.LEAVE)
        limit = time.monotonic() + _GOODBYE_SECONDS
        open_wires = [wire.connection for wire in self._orders.values()]
        while open_wires and time.monotonic() < limit:
            for connection in wait(open_wires, timeout=_LOOK_SECONDS):
                # What a rank still asks is not answered any more; at the end of the process it hangs up.
                try:
                    connection.recv_bytes()  # type: ignore[union-attr]  # connections were given
                except (EOFError, OSError):
                    open_wires.remove(connection)  # type: ignore[arg-type]

    def _lose(self, reason: str) -> None:
        with self._ending:
            if self._loss is None and not self.is_over:
                self._loss = reason
                # Whoever waits for their connections wakes up by that.
                self._host.end(self._pids.values())
        self.require()

    def _meet(self, listener: socket.socket) -> None:
        limit = time.monotonic() + self._timeouts.start_seconds
        hellos: list[Hello] = []
        while len(hellos) < 2 * self.size:
            self._look(limit, "reported")
            with contextlib.suppress(TimeoutError):
                accepted, _ = listener.accept()
                accepted.setblocking(True)
                hellos.append(self._greet(Wire(Connection(accepted.detach())), limit))
        with_gpu = {hello.rank for hello in hellos if hello.has_gpu}
        if 0 < len(with_gpu) < self.size:
            without = sorted(set(range(self.size)) - with_gpu)
            raise DeploymentError(
                f"ranks {without} of the gang see no GPU and the others do; give every rank one, or none of them"
            )
        backend: CollectiveBackend = "nccl" if with_gpu else "gloo"
        for wire in self.wires():
            wire.send(Join(backend))
        self._await_ready(limit)

    def _greet(self, wire: Wire, limit: float) -> Hello:
        try:
            while not wire.connection.poll(_LOOK_SECONDS):
                self._look(limit, "reported")
            hello, _ = wire.receive()
        except (EOFError, OSError):
            raise self._not_started() from None
        assert isinstance(hello, Hello)
        self._pids[hello.rank] = hello.pid
        (self._orders if hello.use == "orders" else self._life)[hello.rank] = wire
        return hello

    def _await_ready(self, limit: float) -> None:
        waiting = {wire.connection: rank for rank, wire in self._orders.items()}
        failures: list[BaseException] = []
        while waiting and not failures:
            self._look(limit, "got ready")
            for connection in wait(list(waiting), timeout=_LOOK_SECONDS):
                rank = waiting.pop(connection)  # type: ignore[call-overload]  # connections were given
                try:
                    said, _ = self._orders[rank].receive()
                except (EOFError, OSError):
                    raise self._not_started() from None
                if isinstance(said, Ready):
                    if self._identity not in (None, said.identity):
                        failures.append(DeploymentError(f"rank {rank} of the gang holds another model than the others"))
                    self._identity = said.identity
                    self.frames_ahead = said.frames_ahead
                elif isinstance(said, Ended) and said.failure is not None:
                    failures.append(_of_rank(rank, said.failure))
        if failures:
            # One that is without cause elsewhere says more than one that lost contact because of it.
            raise min(failures, key=lambda error: isinstance(error, GangError))

    def _look(self, limit: float, what: str) -> None:
        lost = self._host.lost()
        if lost is not None:
            raise GangError(f"the gang of {self.size} did not start: the process of rank {lost[0]} {lost[1]}")
        if time.monotonic() > limit:
            raise GangError(
                f"the gang of {self.size} did not start: after {self._timeouts.start_seconds:g} s not all ranks have "
                f"{what}; look whether the machine is overloaded, or allow more time"
            )

    def _await_lost(self) -> tuple[int, str] | None:
        """Return whose process ended, and how: a connection breaks a moment before that is known."""
        limit = time.monotonic() + _REASON_SECONDS
        while (lost := self._host.lost()) is None and time.monotonic() < limit:
            time.sleep(_LOOK_SECONDS / 4)
        return lost

    def _not_started(self) -> GangError:
        lost = self._await_lost()
        reason = "a process hung up" if lost is None else f"the process of rank {lost[0]} {lost[1]}"
        return GangError(f"the gang of {self.size} did not start: {reason}")

    def _watch(self) -> None:
        silences = {rank: Waiting(self._timeouts.silence_seconds) for rank in self._life}
        ranks = {wire.connection: rank for rank, wire in self._life.items()}
        while not self.is_over and self._loss is None:
            gone: int | None = None
            try:
                signs = wait(list(ranks), timeout=_LOOK_SECONDS)
            except (OSError, ValueError):
                return  # They were closed meanwhile: the gang is over.
            for connection in signs:
                rank = ranks[connection]  # type: ignore[index]  # connections were given
                try:
                    connection.recv_bytes()  # type: ignore[union-attr]
                    silences[rank].begin_anew()
                except (EOFError, OSError):
                    gone = rank
            with contextlib.suppress(GangError):
                self._judge(gone, silences)

    def _judge(self, gone: int | None, silences: dict[int, Waiting]) -> None:
        lost = self._host.lost() if gone is None else self._await_lost()
        if lost is not None:
            self._lose(f"the process of rank {lost[0]} {lost[1]}")
        if gone is not None:
            self._lose(f"the process of rank {gone} has hung up")
        for rank, silence in silences.items():
            if silence.is_over():
                self._lose(f"the process of rank {rank} has shown no sign of life for {silence.seconds:.0f} s")


def remove_dead_folders() -> None:
    """Remove what leaders left that died together with all ranks, as when Ray ends a pool or a machine is lost."""
    for left in _place().glob(f"{_FOLDER}-*-*"):
        try:
            os.kill(int(left.name.split("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError):
            continue  # Somebody else's, or no leader's.


def _make_folder() -> Path:
    """Make a folder that only this user can enter."""
    remove_dead_folders()
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}-{os.getpid()}-", dir=_place()))


def _place() -> Path:
    # The address of a socket has room for about a hundred letters.
    return Path(tempfile.gettempdir() if len(tempfile.gettempdir()) < _LONGEST_PLACE else "/tmp")


def _of_rank(rank: int, failure: BaseException) -> BaseException:
    """Return what a rank failed with as whoever called the gang is to see it."""
    if isinstance(failure, SeedVR2Error):
        return failure
    return GangError(f"rank {rank} of the gang failed: {type(failure).__name__}: {failure}")
