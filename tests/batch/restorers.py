"""A restorer that leaves a trace of every segment it begins, and takes its time."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from uuid import uuid4

from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import read_frame_number

_LONGEST_WAIT_SECONDS = 120.0
_SLOW_SECONDS = 3.0


@dataclass(frozen=True)
class Trace:
    """One segment was begun: the numbers in its first picture and of its frames, and by which process."""

    number: int
    num_frames: int
    pid: int

    @property
    def key(self) -> tuple[int, int]:
        """What the segment is known by in an archive whose pictures have numbers of their own."""
        return self.number, self.num_frames


@dataclass(frozen=True)
class TracingRestorers:
    """Lanczos that writes an empty file per segment, named after it, before it restores."""

    folder: str
    pause_seconds: float = 0.0
    deadly_number: int = -1
    """A segment whose first picture has this number kills its process."""
    num_together: int = 1
    """Segments wait until so many processes are at work, so that none of them comes too late for a test."""

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        return LANCZOS

    def load(self, settings: RestoreSettings) -> Restorer:
        return _Tracing(self)

    @contextmanager
    def slow_elsewhere(self, raylet_pid: int) -> Iterator[None]:
        """Have restorers elsewhere than on one machine take longer for as long as the block runs."""
        self._quick_one.write_text(str(raylet_pid))
        try:
            yield
        finally:
            self._quick_one.unlink()

    def is_quick(self) -> bool:
        """Whether the process that asks is none of those that take longer now."""
        try:
            return int(self._quick_one.read_text() or 0) == os.getppid()
        except FileNotFoundError:
            return True

    @property
    def _quick_one(self) -> Path:
        return Path(f"{self.folder}.quick")

    def traces(self) -> list[Trace]:
        """Return all traces in the order in which they were left."""
        names = sorted(path.name for path in Path(self.folder).iterdir())
        return [Trace(*(int(word) for word in name.split("-")[1:4])) for name in names]


class _Tracing(LanczosRestorer):
    def __init__(self, options: TracingRestorers) -> None:
        super().__init__()
        self._options = options

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        stream = iter(frames)
        first = next(stream)
        number = read_frame_number(first.data_TCHW[0])
        name = f"{time.time_ns()}-{number}-{task.num_frames}-{os.getpid()}-{uuid4().hex[:4]}"
        (Path(self._options.folder) / name).touch()
        if number == self._options.deadly_number:
            os.kill(os.getpid(), 9)
        _wait(lambda: self._num_processes() >= self._options.num_together, _LONGEST_WAIT_SECONDS)
        _wait(self._options.is_quick, _SLOW_SECONDS)
        time.sleep(self._options.pause_seconds)
        yield from super().restore(chain([first], stream), task)

    def _num_processes(self) -> int:
        return len({trace.pid for trace in self._options.traces()})


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not condition():
        time.sleep(0.05)
