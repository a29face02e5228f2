"""Ranks as processes of this machine: what a workstation with several GPUs runs, without Ray."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from seedvr2_ray.restoration.gang.messages import RankOrder

_GONE_SECONDS = 20.0


class LocalProcesses:
    """A :class:`~seedvr2_ray.restoration.gang.ranks.GangHost` whose ranks are children of this process.

    Interpreters of their own, and not forks or copies of this program: nothing of it is imported in them, so that a
    script needs no guard, and a device that was touched here is not touched there.
    """

    def __init__(self, devices: Sequence[str] | None) -> None:
        """Start nothing yet.

        Args:
            devices: a GPU for each rank, as ``CUDA_VISIBLE_DEVICES`` names it; None computes on the CPU.
        """
        self._devices = devices
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, orders: Sequence[RankOrder]) -> None:
        """Start a process per order."""
        for order in orders:
            environ = {"CUDA_VISIBLE_DEVICES": "" if self._devices is None else self._devices[order.rank]}
            process = subprocess.Popen(
                [sys.executable, "-m", "seedvr2_ray.restoration.gang.rank"],
                stdin=subprocess.PIPE,
                # What libraries say is no part of what a command prints.
                stdout=2,
                env={**os.environ, **environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
                # Ctrl-C is for this process, which stops the segment in an orderly way.
                start_new_session=True,
            )
            self._processes.append(process)
            assert process.stdin is not None
            with process.stdin as stdin:
                stdin.write(pickle.dumps(replace(order, environ=environ)))

    def lost(self) -> tuple[int, str] | None:
        """Return the first rank whose process has ended, and how."""
        for rank, process in enumerate(self._processes):
            code = process.poll()
            if code is not None:
                return rank, how_it_ended(code)
        return None

    def silent(self, seconds: float) -> list[int]:
        """Return who has ended: children cannot be reached otherwise than by what they listen to."""
        return [rank for rank, process in enumerate(self._processes) if process.poll() is not None]

    def end(self, pids: Iterable[int] = ()) -> None:
        """End what still runs and wait for it; not for ever, for a driver that hangs lets nobody go."""
        for process in self._processes:
            process.kill()
        limit = time.monotonic() + _GONE_SECONDS
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, limit - time.monotonic()))


def how_it_ended(code: int) -> str:
    """Say in words what an exit code means."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
