"""One job from its manifest to its report: what the command line and ``ray job submit`` run."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from seedvr2_ray.batch.execution.cluster import Pool, connected, settle_pool
from seedvr2_ray.batch.execution.heartbeats import DEFAULT_TIMEOUT_SECONDS
from seedvr2_ray.batch.execution.pipeline import restore_archive
from seedvr2_ray.batch.execution.rows import SegmentResult
from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.leftovers import kept_alive, remove_dead_runs, remove_leftovers, remove_run
from seedvr2_ray.batch.manifest.manifest import ManifestSource
from seedvr2_ray.batch.manifest.normalise import Normalised, normalise, require_source
from seedvr2_ray.batch.report.estimate import Estimate, estimate_archive
from seedvr2_ray.batch.report.fixity import write_fixity
from seedvr2_ray.batch.report.losses import Repeated
from seedvr2_ray.batch.report.outcomes import OutcomeLog, Totals
from seedvr2_ray.batch.report.page import RunFacts, summarise, write_job_report
from seedvr2_ray.errors import SettingsError
from seedvr2_ray.gang.restorers import PlacementKind, in_gangs
from seedvr2_ray.restoration.gang.ranks import Timeouts
from seedvr2_ray.restoration.load import CatalogueRestorers, RestorerSource
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.location import is_local
from seedvr2_ray.storage.sources import default_scratch

_JOB_FOLDER = ".seedvr2-ray"
"""Inside the output, when nothing else is said. Hidden, so that no listing takes it for sources."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkRequest:
    """What a caller asks of a job."""

    manifest: ManifestSource
    folder: str | None = None
    """Folder or prefix of the job's own files; by default inside the output."""
    pool: Pool = field(default_factory=Pool)
    address: str | None = None
    """Of the Ray cluster; see :func:`~seedvr2_ray.batch.execution.cluster.connected`."""
    restorers: RestorerSource = field(default_factory=CatalogueRestorers)
    overwrite: bool = False
    verify: bool = False
    """Read every finished master again; by default only those whose size or time says that they were touched."""
    keep_work: bool = False
    max_pixels: int = DEFAULT_MAX_PIXELS
    price_per_gpu_hour: float = 0.0
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    """Without a sign of life from any process, after which the open files are planned again."""
    bag: bool = False
    """Put BagIt's tag files beside the results."""
    report_folder: str | None = None
    """Where the report goes, if not into the job's folder."""
    scratch: str | None = None
    """Folder on every machine for copies of remote sources; by default below the system's temporary folder."""

    def job_folder(self) -> str:
        """Say where the job's own files lie.

        Raises:
            SettingsError: neither a folder nor an output was named.
        """
        if self.folder is None and self.manifest.output is None:
            raise SettingsError("every row names its own target, so say with --job-folder where the job's files go")
        if self.folder is None:
            folder = f"{str(self.manifest.output).rstrip('/')}/{_JOB_FOLDER}"
        else:
            folder = self.folder.rstrip("/")
        # Workers have other working directories.
        return str(Path(folder.removeprefix("file://")).absolute()) if is_local(folder) else folder


class BulkProgress(Protocol):
    """Told what happens, by the thread that drives the job."""

    def began(self, manifest: Normalised, price_per_gpu_hour: float) -> None:
        """The manifest is checked."""

    def received(self, result: SegmentResult) -> None:
        """A segment was worked on."""

    def finished(self, outcome: VideoOutcome, totals: Totals) -> None:
        """A file has its outcome."""


@dataclass(slots=True)
class _Ledger:
    """Keeps count of a run while it goes."""

    log: OutcomeLog
    progress: BulkProgress
    segments: int = 0
    frames: int = 0
    gpu_seconds: float = 0.0
    again: Repeated = field(default_factory=Repeated)
    workers: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds busy and alive of every process that restored."""

    def received(self, result: SegmentResult) -> None:
        if result.state == "restored":
            self.segments += 1
            self.frames += result.num_frames
            self.gpu_seconds += result.seconds
            self.again.note(result.losses, result.seconds)
        self.workers[result.worker] = (result.worker_busy_seconds, result.worker_alive_seconds)
        self.progress.received(result)

    def finished(self, outcome: VideoOutcome) -> None:
        self.log.add(outcome)
        self.progress.finished(outcome, self.log.totals)

    def heartbeat(self) -> None:
        self.log.keep_current()

    def restored_now(self, *, gang_size: int) -> dict[str, float]:
        busy = sum(each[0] for each in self.workers.values())
        alive = sum(each[1] for each in self.workers.values())
        return {
            "segments": self.segments,
            "frames": self.frames,
            "gpu_seconds": self.gpu_seconds * gang_size,
            "idle_share": 1 - busy / alive if alive else 0.0,
        }


def run_bulk(request: BulkRequest, progress: BulkProgress) -> dict[str, Any]:
    """Restore an archive; after any interruption the same call goes on from what is committed.

    Returns:
        The report in plain values; it lies as JSON, Parquet and HTML in the job's folder too.

    Raises:
        InputError: the manifest is refused; nothing was restored.
        DeploymentError: there is no cluster, or it cannot restore anything.
    """
    began = time.monotonic()
    with _prepared(request) as (job, manifest, scratch):
        progress.began(manifest, request.price_per_gpu_hour)
        ledger = _Ledger(OutcomeLog(scratch, f"{job.folder}/quarantine.jsonl"), progress)
        was_stopped = True
        try:
            with connected(request.address):
                restore_archive(job, manifest, request.pool, ledger, timeout_seconds=request.timeout_seconds)
            was_stopped = False
        finally:
            ledger.log.close()
            facts = RunFacts(
                manifest=printable(request.manifest.url),
                wall_seconds=time.monotonic() - began,
                price_per_gpu_hour=request.price_per_gpu_hour,
                restored_now=ledger.restored_now(gang_size=request.pool.gang_size),
                losses=ledger.again.summary(request.price_per_gpu_hour, gang_size=request.pool.gang_size),
                num_workers=len(ledger.workers),
                was_stopped=was_stopped,
                ignored_files=manifest.passed_over.files,
                extra_columns=sorted(manifest.passed_over.columns),
            )
            folder = request.report_folder or job.folder
            write_job_report(folder, ledger.log.read(), ledger.log.totals, facts, scratch, job_folder=job.folder)
            output = request.manifest.output if request.bag else None
            if output is not None and is_local(output):
                output = str(Path(output.removeprefix("file://")).absolute())
            write_fixity(folder, ledger.log.read(), scratch, bag_of=output)
        if not request.keep_work:
            remove_leftovers(job, ledger.log.read())
    return summarise(ledger.log.totals, facts)


def estimate_bulk(request: BulkRequest, megapixels_per_second: float) -> Estimate:
    """Plan a whole archive and restore nothing of it.

    Args:
        megapixels_per_second: what one restorer is assumed to make.

    Raises:
        InputError: the manifest is refused.
    """
    with _prepared(request) as (job, manifest, _), connected(request.address):
        return estimate_archive(
            job,
            manifest,
            settle_pool(request.pool),
            megapixels_per_second=megapixels_per_second,
            price_per_gpu_hour=request.price_per_gpu_hour,
        )


def _restorers(request: BulkRequest) -> RestorerSource:
    pool = request.pool
    timeouts = Timeouts(silence_seconds=pool.rank_silence_seconds)
    placement: PlacementKind = "beside" if pool.placement_group is None else "group"
    return in_gangs(request.restorers, pool.gang_size, pool.sp_strategy, timeouts, placement)


@contextmanager
def _prepared(request: BulkRequest) -> Iterator[tuple[Job, Normalised, Path]]:
    require_source(request.manifest.url)
    job = Job(
        folder=request.job_folder(),
        run=uuid4().hex[:12],
        restorers=_restorers(request),
        overwrite=request.overwrite,
        verify=request.verify,
        max_pixels=request.max_pixels,
        is_shared_checked=True,
        keep_work=request.keep_work,
        heartbeat_seconds=request.timeout_seconds / 4,
        scratch=request.scratch or default_scratch(),
    )
    with tempfile.TemporaryDirectory(prefix="seedvr2-ray-") as scratch:
        try:
            with kept_alive(job):
                manifest = normalise(request.manifest, job.manifest_folder)
                remove_dead_runs(job)
                yield job, manifest, Path(scratch)
        finally:
            remove_run(job, job.run)
