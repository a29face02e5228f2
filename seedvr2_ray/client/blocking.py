"""A service of API v1 for programs that wait, notebooks among them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from seedvr2_ray.client import verbs
from seedvr2_ray.client.connection import Connection, Retries
from seedvr2_ray.client.options import http_options
from seedvr2_ray.client.transfers import DEFAULT_PIECE_BYTES, OnTransfer
from seedvr2_ray.client.transport import BlockingTransport, iterate_now, run_now
from seedvr2_ray.client.values import Job, JobEstimate, JobState, Model, Upload, Usage
from seedvr2_ray.client.verbs import FileSource, JobSource, Settings


class Client:
    """A service, reached over HTTP; usable by several threads at once.

    Every request is repeated while that may help, uploads and downloads go on where a broken connection left them,
    and a submission that was repeated makes one job. What the service refuses is raised as the error that the same
    mistake is on this machine (``SettingsError``, ``MediaError`` ...), else as ``ServiceRefusal``; a service that does
    not answer is a ``RetryableError``.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        retries: Retries | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        """Name a service; nothing is sent yet.

        Args:
            url: of the service, such as ``http://127.0.0.1:8000``.
            key: an API key or a token; by default the environment's ``SEEDVR2_API_KEY``, if there is one.
            http: a client of one's own, for proxies and certificates; it must know the address and the key itself.
        """
        self._http = http or httpx.Client(**http_options(url, key))
        self._connection = Connection(BlockingTransport(self._http), self._http, retries or Retries())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def models(self) -> tuple[Model, ...]:
        """Return the models that jobs may name here, the default first."""
        return run_now(verbs.list_models(self._connection))

    def usage(self, days: int = 30) -> Usage:
        """Return what was used in the last days, 366 at most."""
        return run_now(verbs.read_usage(self._connection, days))

    def upload(
        self,
        path: FileSource,
        *,
        resume: str | None = None,
        piece_bytes: int = DEFAULT_PIECE_BYTES,
        on_progress: OnTransfer | None = None,
    ) -> Upload:
        """Send a file; over a connection that breaks it goes on where it was.

        Args:
            resume: the id of an upload of the same file that an earlier process began.
            on_progress: told how many bytes of how many have arrived.

        Raises:
            MediaError: the file cannot be read, or is empty.
        """
        return run_now(
            verbs.upload(self._connection, path, resume=resume, piece_bytes=piece_bytes, on_progress=on_progress)
        )

    def estimate(
        self, source: JobSource, settings: Settings | None = None, *, gang_size: int | None = None
    ) -> JobEstimate:
        """Return what a job would take and cost, and why it would be refused. A path is uploaded.

        Args:
            gang_size: GPUs that restore a segment together; by default the fewest that can.
        """
        return run_now(verbs.estimate(self._connection, source, settings, gang_size))

    def submit(
        self,
        source: JobSource,
        settings: Settings | None = None,
        *,
        priority: int = 0,
        metadata: Mapping[str, Any] | None = None,
        webhook_url: str | None = None,
        gang_size: int | None = None,
        idempotency_key: str | None = None,
        on_upload: OnTransfer | None = None,
    ) -> Job:
        """Make a job.

        Args:
            source: a path, which is uploaded; a URL, which the service fetches; or an upload.
            settings: what differs from the service's defaults.
            priority: -10..10; higher ones of one's own go first.
            metadata: kept with the job; at most 4 KiB as JSON.
            gang_size: GPUs that restore a segment together; by default the fewest that can. Changes no picture.
            idempotency_key: the same request under the same key makes one job, also by another process; with a
                path it is another request, for it uploads anew.
            on_upload: told how many bytes of how many have arrived.

        Raises:
            InputError: the source or the settings are refused.
        """
        return run_now(
            verbs.submit(
                self._connection,
                source,
                settings,
                priority=priority,
                metadata=metadata,
                webhook_url=webhook_url,
                gang_size=gang_size,
                idempotency_key=idempotency_key,
                on_upload=on_upload,
            )
        )

    def job(self, job: Job | str) -> Job:
        """Return a job as it is now."""
        return run_now(verbs.read_job(self._connection, job))

    def jobs(self, *states: JobState) -> Iterator[Job]:
        """Iterate over all jobs, or those in some states, newest first."""
        return iterate_now(verbs.list_jobs(self._connection, states))

    def events(self, job: Job | str, *, timeout_seconds: float | None = None) -> Iterator[Job]:
        """Iterate over a job now and whenever it has changed, until it is final.

        Raises:
            CapacityError: it is not final after ``timeout_seconds``.
        """
        return iterate_now(verbs.watch(self._connection, job, timeout_seconds))

    def wait(
        self,
        job: Job | str,
        *,
        timeout_seconds: float | None = None,
        on_change: Callable[[Job], None] | None = None,
    ) -> Job:
        """Return a job when it is final: completed, failed or cancelled.

        Raises:
            CapacityError: it is not final after ``timeout_seconds``.
        """
        return run_now(verbs.wait(self._connection, job, timeout_seconds, on_change))

    def cancel(self, job: Job | str) -> Job:
        """Ask a job to stop, which it does within seconds."""
        return run_now(verbs.cancel(self._connection, job))

    def delete(self, job: Job | str) -> None:
        """Delete a job with everything that only it uses; one that runs is cancelled first."""
        run_now(verbs.delete(self._connection, job))

    def download(
        self,
        job: Job | str,
        target: FileSource,
        *,
        overwrite: bool = False,
        on_progress: OnTransfer | None = None,
    ) -> Path:
        """Fetch the result of a completed job; the file appears whole and verified by its SHA-256, or not at all.

        Args:
            target: a path, or a folder that exists.

        Raises:
            SeedVR2Error: the job failed, with the error that the same failure is on this machine.
            TargetError: the target exists, or cannot be written.
        """
        return run_now(verbs.download(self._connection, job, target, overwrite=overwrite, on_progress=on_progress))

    def preview(self, job: Job | str, which: Literal["before", "after"] = "after") -> bytes:
        """Return a still of the source or of the result as a JPEG or PNG file; there after the first segment."""
        return run_now(verbs.read_preview(self._connection, job, which))

    def restore(
        self,
        source: JobSource,
        target: FileSource,
        settings: Settings | None = None,
        *,
        overwrite: bool = False,
        on_change: Callable[[Job], None] | None = None,
    ) -> Job:
        """Submit, wait and download in one call.

        Raises:
            SeedVR2Error: it was refused or failed, with the error that the same is on this machine.
        """
        return run_now(
            verbs.restore(self._connection, source, target, settings, overwrite=overwrite, on_change=on_change)
        )
