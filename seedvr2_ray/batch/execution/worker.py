"""The process that restores: one model, kept loaded, one segment at a time."""

import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow

from seedvr2_ray.batch.execution.heartbeats import at_work
from seedvr2_ray.batch.execution.rows import SegmentResult, SegmentRow, VideosRow, from_payload, result_columns
from seedvr2_ray.batch.job import Job
from seedvr2_ray.errors import RetryableError
from seedvr2_ray.restoration.restorer import Restorer
from seedvr2_ray.restoration.work.encoded_segments import has_served
from seedvr2_ray.restoration.work.failures import Failure, describe_failure, leaves_device_unusable
from seedvr2_ray.restoration.work.segment import RESTORED, restore_segment
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.sources import SourceCopies, require_unchanged
from seedvr2_ray.telemetry.metrics import count

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Done:
    state: str
    seconds: float = 0.0
    failure: Failure | None = None


class SegmentWorker:
    """Restores the segments that rows describe. An ordinary object; Ray Data makes an actor of it."""

    def __init__(self, job: Job, leave: Callable[[int], object] = os._exit) -> None:
        """Start without a model: the first segment says which.

        Args:
            leave: ends the process when CUDA is beyond repair; Ray starts another one.
        """
        self._job = job
        self._leave = leave
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._restorer: Restorer | None = None
        self._began = time.monotonic()
        self._busy_seconds = 0.0
        self._workspace = Path(job.scratch) / "writing" / self._name
        self._copies = SourceCopies(Path(job.scratch) / "sources", job.scratch_bytes)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Do what each row of a batch says, and say what became of it."""
        rows = [from_payload(payload) for payload in batch.column("payload").to_pylist()]
        return pyarrow.table(result_columns(self.restore_rows(rows)))

    def restore_rows(self, rows: Sequence[SegmentRow | VideosRow]) -> list[SegmentResult | VideosRow]:
        """Restore segments; pass on what is not to be restored."""
        return [row if isinstance(row, VideosRow) else self._restore(row) for row in rows]

    def _restore(self, row: SegmentRow) -> SegmentResult:
        began = time.monotonic()
        try:
            with at_work(self._job.run, "restore", self._job.heartbeat_seconds):
                done = self._attempt(row)
        except Exception as error:  # noqa: BLE001  # One segment must not stop the others.
            _log.warning("segment %d of %s: %s", row.segment.index, row.source.url, error)
            done = _Done("failed", failure=describe_failure("restore", error))
        self._busy_seconds += time.monotonic() - began
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
            failure=done.failure,
            worker=self._name,
            worker_busy_seconds=self._busy_seconds,
            worker_alive_seconds=time.monotonic() - self._began,
        )

    def _attempt(self, row: SegmentRow) -> _Done:
        store, address = self._job.store_of(row.source.content), row.segment.address
        if store.find(RESTORED, address) is not None:
            return _Done("found")
        if has_served(row.segment, row.blended_part, store):
            return _Done("not_needed")
        # Noted before the work: a segment that kills its process is known by what it leaves behind.
        attempts = self._attempts_kind
        number = store.record_attempt(attempts, address)
        if number > self._job.max_deaths:
            return _Done("failed", failure=_poison(number - 1))
        try:
            record = self._job.retrying(lambda: self._restore_once(row, store))
        except Exception:
            # Whoever can still say what went wrong did not die of it.
            with suppress(RetryableError):
                store.clear_attempts(attempts, address)
            raise
        store.clear_attempts(attempts, address)
        _count_work(row, record)
        return _Done("restored", seconds=float(record["seconds"]))

    @property
    def _attempts_kind(self) -> str:
        # Of this run only: someone who starts the job again means to try again.
        return f"deaths/{self._job.run}"

    def _restore_once(self, row: SegmentRow, store: CommitStore) -> dict[str, Any]:
        shutil.rmtree(self._workspace, ignore_errors=True)  # What an attempt before this one left half-written.
        self._workspace.mkdir(parents=True)
        try:
            with self._copies.opened(row.source.url, row.source.version) as path:
                require_unchanged(row.source)
                restorer = self._load(row)
                return restore_segment(
                    row.recipe,
                    row.segment,
                    restorer,
                    store,
                    source_path=str(path),
                    workspace=self._workspace,
                    on_frames=lambda num_frames: count("seedvr2_frames", num_frames),
                )
        except Exception as error:
            if leaves_device_unusable(error):
                _log.error("CUDA failed and cannot recover in this process, which ends: %s", error)
                self._leave(1)
            raise
        finally:
            shutil.rmtree(self._workspace, ignore_errors=True)

    def _load(self, row: SegmentRow) -> Restorer:
        wanted = row.recipe.restorer
        if self._restorer is None or self._restorer.identity.name != wanted.name:
            self._restorer = None  # Before the next one is loaded: both may not fit.
            self._restorer = self._job.restorers.load(replace(row.recipe.settings, model=wanted.name))
        return self._restorer


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
    count("seedvr2_gpu_seconds", float(record["seconds"]))
    count("seedvr2_idle_seconds", float(record["idle_seconds"]))
