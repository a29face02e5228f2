"""Where a deployment keeps things, as every process of it must know."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from seedvr2_ray.restoration.load import CatalogueRestorers, RestorerSource
from seedvr2_ray.serve.results import Results
from seedvr2_ray.storage.commits import CommitStore, content_folder
from seedvr2_ray.storage.scratch import open_workspace, remove_abandoned
from seedvr2_ray.storage.sources import Pinned, SourceCopies, default_scratch, require_unchanged

PREPARE_DEATHS = "deaths/prepare"
"""Kind of the attempts that tell which jobs ended the processes that prepared them."""
_ABANDONED_SECONDS = 24 * 3600.0
_UNUSED_SECONDS = 3600.0
"""A copy of a source that no segment was read from for so long is fetched again if it is wanted after all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageLayout:
    """Where a deployment keeps things, as every process of it must know: small, picklable."""

    data: str
    """Folder or fsspec URL that every machine sees."""
    scratch: str = field(default_factory=default_scratch)
    """Folder on every machine for copies of remote sources and files being written."""
    scratch_bytes: int = 100 << 30
    restorers: RestorerSource = field(default_factory=CatalogueRestorers)

    @property
    def results(self) -> Results:
        """The store of results."""
        return Results(f"{self.data}/results")

    @property
    def log(self) -> CommitStore:
        """What is noted about whole jobs while they are prepared."""
        return CommitStore(f"{self.data}/log")

    @property
    def copies(self) -> SourceCopies:
        """Return this machine's copies of sources that lie elsewhere."""
        return SourceCopies(Path(self.scratch) / "sources", self.scratch_bytes)

    def upload_folder(self, upload_id: str) -> str:
        """Return where an upload lies."""
        return f"{self.data}/uploads/{upload_id}"

    def source_folder(self, job_id: str) -> str:
        """Return where what was fetched for a job lies."""
        return f"{self.data}/sources/{job_id}"

    def work_folder(self, content: str) -> str:
        """Return where the work on one content lies. Jobs with the same source share it."""
        return content_folder(self.data, content)

    def deaths_folder(self, job_id: str) -> str:
        """Return where it is noted which processes died while they prepared a job."""
        return f"{self.data}/log/{PREPARE_DEATHS}/attempts/{job_id}"

    def store_of(self, content: str) -> CommitStore:
        """Return where the work on one content is committed."""
        return CommitStore(self.work_folder(content))

    @contextmanager
    def opened(self, source: Pinned) -> Iterator[Path]:
        """Give a local path of a source, which is still the one that was planned.

        Raises:
            MediaError: it was replaced.
        """
        with self.copies.opened(source.url, source.version) as path:
            require_unchanged(source)
            yield path

    def remove_abandoned(self) -> None:
        """Delete what killed processes of this machine left half-written, and copies of sources nobody asks for."""
        self.copies.remove_unused(older_than_seconds=_UNUSED_SECONDS)
        remove_abandoned(self.scratch)
        limit = time.time() - _ABANDONED_SECONDS
        for name in ("uploads", "estimates", "bodies"):
            for left in (Path(self.scratch) / name).glob("*"):
                with suppress(FileNotFoundError):
                    if left.stat().st_mtime >= limit:
                        continue
                    shutil.rmtree(left) if left.is_dir() else left.unlink()

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give a folder for files being written, gone afterwards, and nobody else's to remove meanwhile."""
        with open_workspace(self.scratch) as folder:
            yield folder
