"""Families of processes: who descends from whom, and the end of all of them at once. Not a test module."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it, and are not dead."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name may hold anything, so what follows it is read from its end.
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    return [one for one in found if Path(f"/proc/{one}").exists()]


def parent_of(pid: int) -> int | None:
    """Return the process that started another one; None if that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def kill_family(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that descend from it at once, as a power cut does."""
    # Stopped first, so that none of them can start another one or notice that its parent is gone.
    killed: set[int] = set()
    for _ in range(5):
        family = [pid for pid in descendants(process.pid) if pid not in killed]
        if not family:
            break
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal_number)
        killed.update(family)
    process.wait()
