"""A machine that is to go is *drained*: it gets no new work, and has a while for what it is at. Its restorers leave.

Ray says which machines are drained, and by when they are gone: a cloud's notice, an autoscaler, or whoever ran
``ray drain-node``. A restorer there begins no further segment; it ends the one it is at if it can before the machine
goes, hands it back otherwise, and ends its process. Ray starts another one elsewhere and gives it the segments. It does
not wait for a segment to leave by: none may come until the archive is done.
"""

import logging
import time
from collections.abc import Callable, Mapping
from threading import Thread

import ray
from ray._private import state

from seedvr2_ray.restoration.work.failures import HandedBackError

_log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
_RESERVE_SECONDS = 20.0
"""Before a machine goes: for the commit of what was finished in time."""


def _ask_ray() -> float | None:
    if not ray.is_initialized():
        return None
    return gone_at(ray.get_runtime_context().get_node_id(), draining_machines())


class Draining:
    """Knows whether this process' machine is to go."""

    def __init__(
        self,
        ask: Callable[[], float | None] = _ask_ray,
        clock: Callable[[], float] = time.time,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Know nothing yet.

        Args:
            ask: says by when this machine goes, in seconds since 1970: 0 where that is not known, None where it
                stays. Only who looks asks: no device waits for the answer.
            look_seconds: from one look of the watching thread to the next.
        """
        self._ask = ask
        self._clock = clock
        self._look_seconds = look_seconds
        self._gone_at: float | None = None

    def watch(self, leave: Callable[[], None]) -> None:
        """Look now and then, in a thread of its own, and leave when it has begun, whether or not work comes."""
        Thread(target=self._watch, args=(leave,), name="draining", daemon=True).start()

    def look(self) -> None:
        """Ask once."""
        self._gone_at = self._ask()

    @property
    def has_begun(self) -> bool:
        """Whether nothing more is to be begun here."""
        return self._gone_at is not None

    def check(self) -> None:
        """Stop work that would not be committed before the machine goes.

        Raises:
            HandedBackError: it is time.
        """
        gone_at = self._gone_at
        if gone_at and gone_at - self._clock() < _RESERVE_SECONDS:
            raise HandedBackError("this machine is about to go; the segment is restored on another one")

    def _watch(self, leave: Callable[[], None]) -> None:
        is_leaving = False
        while True:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  # Ray's head may be starting again: it is asked once more.
                _log.warning("Ray does not say which machines are drained: %s", error)
            if self.has_begun and not is_leaving:
                is_leaving = True
                Thread(target=leave, name="leaving", daemon=True).start()
            time.sleep(self._look_seconds)


def draining_machines() -> Mapping[str, int]:
    """Return the machines that are drained, and when they go: in milliseconds since 1970, or 0.

    Ray has no public name for it; ``tests/batch/test_bulk_s3.py`` drains a machine.
    """
    found: Mapping[str, int] = state.state.get_draining_nodes()
    return found


def gone_at(machine: str, draining: Mapping[str, int]) -> float | None:
    """Return by when a machine goes, in seconds since 1970: 0 where that is not known, None where it stays."""
    return draining[machine] / 1000 if machine in draining else None
