"""A restorer that is really collective and whose result needs no model: Lanczos, a band of rows per rank.

Rows are handed to rank 0 by the group, so that a rank which dies or hangs holds up the others as it would in a network.
"""

import os
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seedvr2_ray.errors import CapacityError, InputError, NotFiniteError
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.backends import SpStrategy
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.restoration.gang.ranks import remove_dead_folders
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.planning.memory import LADDER, MemoryLesson
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings


@dataclass(frozen=True)
class RowShards:
    """Ranks that leave a trace of themselves, and to which something may happen."""

    folder: str
    """Where traces lie, and faults to come: ``kill-RANK``, ``stop-RANK``, ``hang-RANK``, ``fail-RANK``,
    ``memory-RANK``, once each."""
    pause_seconds: float = 0.0
    """Per frame."""
    fault_at: int = 2
    """Frame of a segment before which faults happen."""

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        return LANCZOS

    def load(self, settings: RestoreSettings) -> Restorer:
        return _RowShards(self, SequenceParallel.alone())

    def load_rank(self, settings: RestoreSettings, parallel: SequenceParallel, strategy: SpStrategy) -> Restorer:
        if settings.model == "deaf":
            time.sleep(3600)
        if settings.model == "refused":
            raise InputError("no such model")
        (Path(self.folder) / f"rank-{parallel.rank}-{os.getpid()}").touch()
        return _RowShards(self, parallel)

    def order(self, fault: str) -> None:
        """Have something happen to the next segment."""
        (Path(self.folder) / fault).touch()

    def hold(self, seed: int) -> None:
        """Have the segments with this seed wait in the middle until they are let go."""
        (Path(self.folder) / f"hold-{seed}").touch()

    def let_go(self, seed: int) -> None:
        """Have them wait no more."""
        (Path(self.folder) / f"hold-{seed}").unlink(missing_ok=True)

    def pids(self) -> set[int]:
        """Every process that ever was a rank."""
        return {int(path.name.split("-")[2]) for path in Path(self.folder).glob("rank-*")}

    def pid_of(self, rank: int) -> int:
        """Return the process that is this rank now."""
        found = [int(path.name.split("-")[2]) for path in Path(self.folder).glob(f"rank-{rank}-*")]
        return processes_left(found)[0]

    def segments(self) -> int:
        """Segments that rank 0 has begun."""
        return len(list(Path(self.folder).glob("begun-*")))

    def is_due(self, fault: str) -> bool:
        try:
            (Path(self.folder) / fault).unlink()
        except FileNotFoundError:
            return False
        return True


def processes_left(pids: Iterable[int]) -> list[int]:
    """Return those that still run; a zombie holds nothing."""
    return [pid for pid in pids if _state(pid) not in ("gone", "Z")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def folders(leader: int | str = "*") -> set[Path]:
    """Return where leaders of this machine listen, or one of them, without what the next leader would remove."""
    remove_dead_folders()
    return set(Path(tempfile.gettempdir()).glob(f"seedvr2-gang-{leader}-*"))


class _RowShards:
    def __init__(self, options: RowShards, parallel: SequenceParallel) -> None:
        self._options = options
        self._parallel = parallel
        self._whole = LanczosRestorer()
        self.lessons: tuple[MemoryLesson, ...] = ()

    def heed(self, lessons: Sequence[MemoryLesson]) -> None:
        self.lessons = tuple(lessons)
        (Path(self._options.folder) / f"heeded-{self._parallel.rank}-{len(lessons)}").touch()

    @property
    def identity(self) -> RestorerIdentity:
        return LANCZOS

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        rank, size = self._parallel.rank, self._parallel.size
        if rank == 0:
            (Path(self._options.folder) / f"begun-{time.time_ns()}-{task.first_frame}").touch()
        for number, made in enumerate(self._whole.restore(frames, replace(task, check_cancelled=_nothing))):
            task.check_cancelled()
            if number == self._options.fault_at:
                self._suffer(rank)
                while (Path(self._options.folder) / f"hold-{task.settings.seed}").exists():
                    time.sleep(0.05)
            time.sleep(self._options.pause_seconds)
            bands = made.data_TCHW.tensor_split(size, dim=2)
            gathered = self._parallel.all_gather(bands[rank].contiguous(), [band.shape[2] for band in bands], dim=2)
            data = made.data_TCHW.clone()
            row = 0
            for band in gathered:
                data[:, :, row : row + band.shape[2]] = band
                row += band.shape[2]
            yield Frames(data, made.pts, made.time_base)

    def _suffer(self, rank: int) -> None:
        if self._options.is_due(f"kill-{rank}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._options.is_due(f"stop-{rank}"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._options.is_due(f"fail-{rank}"):
            raise NotFiniteError("numbers that are no colours")
        if self._options.is_due(f"memory-{rank}"):
            self.lessons += (MemoryLesson(knobs=LADDER[len(self.lessons)], stage="decode", planned_bytes=1),)
            self._parallel.leave()
            raise CapacityError("memory ran out")
        if (Path(self._options.folder) / "fail-all").exists():
            raise NotFiniteError("numbers that are no colours")
        if self._options.is_due(f"hang-{rank}"):
            time.sleep(3600)


def _nothing() -> None: ...
