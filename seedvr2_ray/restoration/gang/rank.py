"""What runs in each process of a gang: it loads its part of a restorer and does what the leader says."""

import os
import pickle
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any, cast

import torch

from seedvr2_ray.frames import Frames
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.restoration.gang.messages import (
    Answer,
    Begin,
    Check,
    Ended,
    Hello,
    Join,
    Made,
    RankOrder,
    ReadsAhead,
    Ready,
    Want,
    Wire,
    portable,
)
from seedvr2_ray.restoration.restorer import LearnsOfMemory, Restorer, SegmentTask

HEARTBEAT_SECONDS = 0.5


class _Stopped(Exception):  # Nothing went wrong.
    """Raised inside a restorer when the leader wants no more of a segment."""


def run_rank(order: RankOrder) -> None:
    """Be a rank until the leader says that the gang is over, or is gone."""
    os.environ.update(order.environ)
    # Ranks are always on one machine, and nobody else has to reach them.
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // order.size))
    orders, life = (Wire(cast(Any, Client(order.address, family="AF_UNIX"))) for _ in range(2))
    life.send(Hello(order.rank, os.getpid(), has_gpu, "life"))
    threading.Thread(target=_show_life, args=(life, order.address), name="life", daemon=True).start()
    orders.send(Hello(order.rank, os.getpid(), has_gpu, "orders"))
    try:
        _follow(orders, order)
    except (EOFError, ConnectionError):
        # The leader is gone, and with it whoever wanted anything.
        shutil.rmtree(Path(order.address).parent, ignore_errors=True)
    finally:
        orders.close()


def _follow(orders: Wire, order: RankOrder) -> None:
    said, _ = orders.receive()
    if not isinstance(said, Join):
        return
    try:
        parallel = SequenceParallel.join(
            rank=order.rank,
            size=order.size,
            init_method=order.rendezvous,
            backend=said.backend,
            timeout_seconds=order.timeout_seconds,
        )
        restorer = order.source.load_rank(order.settings, parallel, order.strategy)
        if isinstance(restorer, LearnsOfMemory):
            restorer.heed(order.lessons)
    except Exception as error:  # noqa: BLE001  # Carried to the leader, whatever it is.
        orders.send(Ended(portable(error)))
        return
    try:
        orders.send(Ready(restorer.identity, restorer.frames_ahead if isinstance(restorer, ReadsAhead) else 0))
        while isinstance(begin := orders.receive()[0], Begin):
            orders.send(_restore(restorer, begin.task, _Leader(orders), order.rank))
    finally:
        parallel.leave()


def _restore(restorer: Restorer, task: SegmentTask, leader: "_Leader", rank: int) -> Ended:
    try:
        for frames in restorer.restore(leader.frames(), replace(task, check_cancelled=leader.check)):
            if rank == 0:
                leader.take(frames)
    except _Stopped:
        return Ended(was_stopped=True)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:  # noqa: BLE001  # Carried to the leader, whatever it is.
        lessons = restorer.lessons if isinstance(restorer, LearnsOfMemory) else ()
        return Ended(portable(error), lessons=tuple(lessons))
    return Ended()


class _Leader:
    """The leader as a restorer sees it: where frames come from, and who may stop it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._lock = threading.Lock()
        self._num_checks = 0

    def frames(self) -> Iterator[Frames]:
        for number in count():
            answer, frames = self._ask(Want(number))
            if frames is not None:
                yield frames
            elif answer is Answer.NO_MORE:
                return
            else:
                raise _Stopped

    def check(self) -> None:
        self._num_checks += 1
        if self._ask(Check(self._num_checks - 1))[0] is not Answer.GO:
            raise _Stopped

    def take(self, frames: Frames) -> None:
        self._ask(Made(), frames)

    def _ask(self, question: object, frames: Frames | None = None) -> tuple[Any, Frames | None]:
        with self._lock:
            self._wire.send(question, frames)
            return self._wire.receive()


def _show_life(life: Wire, address: str) -> None:
    """Say every moment that this process lives; end it when nobody hears that any more.

    A thread of its own: a rank that waits for another one inside a collective cannot notice that the leader is gone.
    """
    while True:
        try:
            life.connection.send_bytes(b".")
        except OSError:
            shutil.rmtree(Path(address).parent, ignore_errors=True)
            os._exit(1)
        time.sleep(HEARTBEAT_SECONDS)


if __name__ == "__main__":
    run_rank(pickle.load(sys.stdin.buffer))
