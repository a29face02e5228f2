"""The process that restores: one model, kept loaded, one segment at a time."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Lock
from typing import Any
from uuid import uuid4

import pyarrow

from seedvr2_ray.batch.execution.draining import Draining
from seedvr2_ray.batch.execution.heartbeats import at_work
from seedvr2_ray.batch.execution.machines import NO_LOSSES, Losses, losses_in, this_machine
from seedvr2_ray.batch.execution.rows import SegmentResult, SegmentRow, VideosRow, from_payload, result_columns
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.leftovers import require_shared_folder
from seedvr2_ray.errors import RetryableError
from seedvr2_ray.restoration.garbage import loaded_for_good
from seedvr2_ray.restoration.restorer import Restorer, close_restorer
from seedvr2_ray.restoration.work.failures import (
    Failure,
    HandedBackError,
    describe_failure,
    leaves_device_unusable,
)
from seedvr2_ray.restoration.work.remaining import PARTS, RESTORED
from seedvr2_ray.restoration.work.segment import Intermediate, commit_intermediate, make_intermediate
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.location import is_local
from seedvr2_ray.storage.records import Commit
from seedvr2_ray.storage.scratch import open_workspace
from seedvr2_ray.storage.sources import SourceCopies, require_unchanged
from seedvr2_ray.telemetry.metrics import count

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Done:
    state: str
    commit: Commit | None = None
    failure: Failure | None = None
    losses: Losses = NO_LOSSES

    @property
    def seconds(self) -> float:
        return float(self.commit.record["seconds"]) if self.commit is not None and self.state == "restored" else 0.0


class SegmentWorker:
    """Restores the segments that rows describe. An ordinary object; Ray Data makes an actor of it.

    Two threads may call it at a time: while one has the device, the other commits the segment before and looks and
    decodes for the one after. What a store takes to answer is never waited for by the device.
    """

    def __init__(self, job: Job, leave: Callable[[int], object] = os._exit, draining: Draining | None = None) -> None:
        """Start without a model: the first segment says which.

        Args:
            leave: ends the process when CUDA is beyond repair or its machine is to go; Ray starts another one.
            draining: knows whether it is to go.
        """
        self._job = job
        self._leave = leave
        self._draining = draining or Draining()
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._restorer: Restorer | None = None
        self._device = Device()
        self._company = Company()
        self._unfinished = Company()
        self._loading = Lock()
        self._copies = SourceCopies(Path(job.scratch) / "sources", job.scratch_bytes)
        self._draining.watch(self._leave_drained_machine)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Do what each row of a batch says, and say what became of it."""
        rows = [from_payload(payload) for payload in batch.column("payload").to_pylist()]
        return pyarrow.table(result_columns(self.restore_rows(rows)))

    def restore_rows(self, rows: Sequence[SegmentRow | VideosRow]) -> list[SegmentResult | VideosRow]:
        """Restore segments; pass on what is not to be restored."""
        return [row if isinstance(row, VideosRow) else self._restore(row) for row in rows]

    def _restore(self, row: SegmentRow) -> SegmentResult:
        try:
            with at_work(self._job.run, "restore", self._job.heartbeat_seconds):
                done = self._attempt(row)
        except HandedBackError as error:
            self._leave_drained_machine()
            done = _Done("failed", failure=describe_failure("restore", error))
        except Exception as error:  # noqa: BLE001  # One segment must not stop the others.
            _log.warning("segment %d of %s: %s", row.segment.index, printable(row.source.url), error)
            done = _Done("failed", failure=describe_failure("restore", error))
        count("seedvr2_segments", state=done.state)
        return SegmentResult(
            video_number=row.video_number,
            content=row.source.content,
            index=row.segment.index,
            address=row.segment.address,
            part_address=row.segment.part_address,
            state=done.state,  # type: ignore[arg-type]  # one of the literals
            num_frames=row.segment.num_frames,
            seconds=done.seconds,
            video=row.video,
            commit=done.commit,
            failure=done.failure,
            losses=done.losses,
            worker=self._name,
            worker_busy_seconds=self._device.busy_seconds,
            worker_alive_seconds=self._device.seconds_since_first_use,
        )

    def _attempt(self, row: SegmentRow) -> _Done:
        require_shared_folder(self._job)
        store, address = self._job.store_of(row.source.content), row.segment.address
        found = self._job.retrying(lambda: _find_done(row, store))
        if found is not None:
            return found
        notes = self._job.retrying(lambda: store.attempt_notes(self._attempts_kind, address))
        losses = losses_in(notes)
        if losses.deaths >= self._job.max_deaths:
            return _Done("failed", failure=_poison(losses.deaths), losses=losses)
        if self._draining.has_begun:
            raise HandedBackError("this machine is drained; the segment is restored on another one")
        with self._unfinished.joined(alone=False), open_workspace(self._job.scratch) as workspace:
            with self._company.joined(alone=bool(notes)):
                made = self._make_noted(row, store, len(notes), workspace)
            commit = self._job.retrying(lambda: commit_intermediate(row.segment, made, store))
        _count_work(row, commit.record)
        return _Done("restored", commit, losses=losses)

    def _leave_drained_machine(self) -> None:
        """End this process once nothing begun is uncommitted; Ray starts another elsewhere and gives it the rows."""
        with self._unfinished.joined(alone=True):
            _log.warning("this machine is drained: its segments go to another one")
            close_restorer(self._restorer)
            self._leave(0)

    @property
    def _attempts_kind(self) -> str:
        # Of this run only: someone who starts the job again means to try again.
        return f"deaths/{self._job.run}"

    def _make_noted(self, row: SegmentRow, store: CommitStore, num_before: int, workspace: Path) -> Intermediate:
        """Note durably that the segment is begun: one that kills its process is known by the note that it leaves."""
        kind, address = self._attempts_kind, row.segment.address
        number = self._job.retrying(lambda: store.record_attempt(kind, address, after=num_before, extra=this_machine()))
        try:
            return self._job.retrying(lambda: self._make_once(row, workspace))
        finally:
            # Whoever can still say what went wrong did not die of it.
            with suppress(RetryableError):
                store.clear_attempts(kind, address, known=number)

    def _make_once(self, row: SegmentRow, workspace: Path) -> Intermediate:
        try:
            with self._copies.opened(row.source.url, row.source.version) as path:
                if is_local(row.source.url):  # A copy stays what it was; whoever publishes looks at the source again.
                    require_unchanged(row.source)
                return make_intermediate(
                    row.recipe,
                    row.segment,
                    self._load(row),
                    source_path=str(path),
                    workspace=workspace,
                    on_frames=lambda num_frames: count("seedvr2_frames", num_frames),
                    check_cancelled=self._draining.check,
                    device=self._device.held,
                )
        except Exception as error:
            if leaves_device_unusable(error):
                _log.error("CUDA failed and cannot recover in this process, which ends: %s", error)
                self._leave(1)
            raise

    def _load(self, row: SegmentRow) -> Restorer:
        wanted = row.recipe.restorer
        with self._loading:
            if self._restorer is None or self._restorer.identity.name != wanted.name:
                close_restorer(self._restorer)
                self._restorer = None  # Before the next one is loaded: both may not fit.
                with loaded_for_good():
                    self._restorer = self._job.restorers.load(replace(row.recipe.settings, model=wanted.name))
            return self._restorer


class Device:
    """What one segment at a time may use, and how long it was used."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._first_used: float | None = None
        self.busy_seconds = 0.0
        """Of whoever had it: decoding that did not keep up counts, committing and waiting for rows does not."""

    @property
    def seconds_since_first_use(self) -> float:
        """Return how long it might have been used."""
        return 0.0 if self._first_used is None else time.monotonic() - self._first_used

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the device for as long as the block runs."""
        with self._lock:
            began = time.monotonic()
            self._first_used = self._first_used or began
            try:
                yield
            finally:
                self.busy_seconds += time.monotonic() - began


class Company:
    """Who may be at work in a process at a time: several, or one alone.

    When a process dies, all that was begun in it is suspect. A suspect is begun again alone, so that what dies with it
    next time is nobody else, and it is known who killed it.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._num_present = 0
        self._is_closed = False

    @contextmanager
    def joined(self, *, alone: bool) -> Iterator[None]:
        """Be at work for as long as the block runs, after waiting for one's turn."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_closed or (alone and self._num_present)))
            self._num_present += 1
            self._is_closed = alone
        try:
            yield
        finally:
            with self._changed:
                self._num_present -= 1
                self._is_closed = False
                self._changed.notify_all()


def _find_done(row: SegmentRow, store: CommitStore) -> _Done | None:
    commit = store.look(RESTORED, row.segment.address)
    if commit is not None:
        return _Done("found", commit)
    part = store.look(PARTS, row.segment.part_address)
    if part is not None and (row.blended_part is None or store.look(PARTS, row.blended_part) is not None):
        return _Done("not_needed", part)
    return None


def _poison(deaths: int) -> Failure:
    return Failure(
        stage="restore",
        error=f"its process died {deaths} times while at work on it",
        remedy="look for what killed it in the cluster's logs (memory, a driver, this file's codec), then run the "
        "same command again",
    )


def _count_work(row: SegmentRow, record: dict[str, Any]) -> None:
    geometry = row.recipe.geometry
    count("seedvr2_megapixels", row.segment.num_frames * geometry.width * geometry.height / 1e6)
    count("seedvr2_gpu_seconds", float(record["seconds"]) * record.get("gang_size", 1))
    count("seedvr2_idle_seconds", float(record["idle_seconds"]))
