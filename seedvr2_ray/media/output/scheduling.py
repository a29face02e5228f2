"""Undoes what SVT-AV1 does to a process of root: it makes the caller and its own threads real-time.

A real-time thread is never interrupted by an ordinary one, and every thread and process that it starts is real-time
too. In a container, where people are root, one AV1 file would so take the machine from everything else that runs on
it: servers no longer answer in time, heartbeats are late. There is no option against it.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ONE_AT_A_TIME = threading.Lock()
"""Else the threads of an encoder that opens meanwhile would count as having been real-time before."""


@contextmanager
def scheduling_kept() -> Iterator[None]:
    """Give this process's threads back the scheduling that they had before the block; new ones get the caller's."""
    if sys.platform != "linux":
        yield
        return
    with _ONE_AT_A_TIME:
        before = _scheduling_of_threads()
        callers = before[threading.get_native_id()]
        try:
            yield
        finally:
            for thread, now in _scheduling_of_threads().items():
                wanted = before.get(thread, callers)
                if now != wanted:
                    with suppress(ProcessLookupError):
                        os.sched_setscheduler(thread, *wanted)


def _scheduling_of_threads() -> dict[int, tuple[int, os.sched_param]]:
    found = {}
    for entry in Path("/proc/self/task").iterdir():
        thread = int(entry.name)
        with suppress(ProcessLookupError):  # Threads end while one looks.
            found[thread] = os.sched_getscheduler(thread), os.sched_getparam(thread)
    return found
