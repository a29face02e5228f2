"""Sources, looked at before they are taken: what is in a file, what it would take, and why it is refused."""

from collections.abc import Callable
from pathlib import Path

import anyio

from seedvr2_ray.serve.config import Limits, ServiceConfig
from seedvr2_ray.serve.db.upload_store import Upload
from seedvr2_ray.serve.jobs import Source
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.security.inspection import Inspector
from seedvr2_ray.serve.service.estimate import JobEstimate, estimate_job
from seedvr2_ray.serve.service.rates import Rates
from seedvr2_ray.serve.service.remote_sources import borrowed
from seedvr2_ray.serve.service.shares import SharedPlaces
from seedvr2_ray.serve.service.submission import Submission, source_of_url
from seedvr2_ray.serve.service.uploads import Uploads
from seedvr2_ray.serve.threads import in_thread
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.sources import default_scratch

_MOST_INSPECTIONS = 4
"""Processes that look at files side by side; more would only take the processors from one another."""
_MOST_BORROWINGS = 8
"""Files that are fetched only to be estimated, side by side; they take disk and connections more than processors."""
_SHARE = 2
"""Of each of those, for one owner."""
_MOST_WAITING = 20


class SourceLooks:
    """Looks at what is submitted, a few at a time and fairly among owners."""

    def __init__(
        self,
        config: ServiceConfig,
        limits: Callable[[], Limits],
        uploads: Uploads,
        inspector: Inspector,
        rates: Rates,
    ) -> None:
        """Look at nothing yet.

        Args:
            limits: gives those in force.
            uploads: where callers' files lie.
            rates: how fast models are, as far as it is known.
        """
        self._config = config
        self._limits = limits
        self._uploads = uploads
        self._inspector = inspector
        self._rates = rates
        self._scratch = Path(config.scratch or default_scratch())
        self._looks = SharedPlaces(_MOST_INSPECTIONS, per_owner=_SHARE, most_waiting=_MOST_WAITING)
        self._borrowings = SharedPlaces(_MOST_BORROWINGS, per_owner=_SHARE, most_waiting=_MOST_WAITING)
        self._threads = anyio.CapacityLimiter(_MOST_INSPECTIONS + _MOST_BORROWINGS)

    async def look(
        self, caller: Caller, submission: Submission, settings: RestoreSettings
    ) -> tuple[Source, JobEstimate | None]:
        """Check the source; what a URL holds is only known once a runner has fetched it.

        Raises:
            InputError: the source cannot be used.
            MissingRefusal, ConflictRefusal: the upload is not there, or not complete.
        """
        if submission.url is not None:
            return source_of_url(submission.url, self._config), None
        assert submission.upload_id is not None
        upload = await self._uploads.require_complete(caller, submission.upload_id)
        source = Source(kind="upload", location=upload.id, name=upload.name, num_bytes=upload.num_bytes)
        async with self._looks.place(caller.owner):
            size = submission.gang_size
            return source, await in_thread(self._estimate_upload, upload, settings, size, limiter=self._threads)

    async def estimate_remote(
        self, caller: Caller, source: Source, settings: RestoreSettings, gang_size: int | None
    ) -> JobEstimate:
        """Fetch a source for a moment, to say what it would take.

        Raises:
            FetchRefusal: it cannot be fetched.
            MediaError: it cannot be read.
        """
        limits = self._limits()
        brief = limits.model_copy(update={"fetch_seconds": min(limits.fetch_seconds, limits.estimate_fetch_seconds)})
        borrowing = borrowed(source, self._config.fetch, brief, self._scratch / "estimates")
        async with self._borrowings.place(caller.owner):
            path = await in_thread(borrowing.__enter__, limiter=self._threads)
            try:
                async with self._looks.place(caller.owner):
                    return await in_thread(
                        self._estimate, path, source.name, settings, gang_size, limiter=self._threads
                    )
            finally:
                with anyio.CancelScope(shield=True):
                    await in_thread(borrowing.__exit__, None, None, None)

    def _estimate_upload(self, upload: Upload, settings: RestoreSettings, gang_size: int | None) -> JobEstimate:
        with self._uploads.opened(upload) as path:
            return self._estimate(path, upload.name, settings, gang_size)

    def _estimate(self, path: Path, name: str, settings: RestoreSettings, gang_size: int | None) -> JobEstimate:
        limits = self._limits()
        media = self._inspector.inspect(path, limits, salvage=settings.salvage)
        pool = self._rates.pool(settings.model)
        return estimate_job(media, settings, pool, name=name, max_pixels=limits.max_pixels, gang_size=gang_size)
