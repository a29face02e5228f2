"""What every worker of a job must know: small, picklable, the same for all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from seedvr2_ray.media.probe import ProbeLimits
from seedvr2_ray.restoration.load import CatalogueRestorers, RestorerSource
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS
from seedvr2_ray.restoration.work.failures import RetryPolicy, with_retries
from seedvr2_ray.storage.commits import CommitStore, content_folder
from seedvr2_ray.storage.sources import default_scratch
from seedvr2_ray.telemetry.metrics import count

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run over one archive."""

    folder: str
    """Folder or prefix of the job's own files; every machine of the cluster must see the same one."""
    run: str
    """Differs from run to run: attempts are counted within one."""
    restorers: RestorerSource = field(default_factory=CatalogueRestorers)
    limits: ProbeLimits = field(default_factory=ProbeLimits)
    max_pixels: int = DEFAULT_MAX_PIXELS
    overwrite: bool = False
    verify: bool = False
    """Read every finished master again and compare it with its provenance, also where nothing says it was touched."""
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    max_deaths: int = 3
    """Processes that one segment may take with it before it is set aside."""
    is_shared_checked: bool = False
    """Whether the folder holds a note by which every process can tell that it sees the driver's and not its own."""
    keep_work: bool = False
    """Leave intermediates and parts in place when nobody needs them any more."""
    heartbeat_seconds: float = 30.0
    """How often whoever is at work for long says so; the driver gives up after some of them."""
    scratch: str = field(default_factory=default_scratch)
    """Folder on every machine for copies of remote sources and files being written."""
    scratch_bytes: int = 100 << 30
    """What copies of sources may occupy there."""

    @property
    def log(self) -> CommitStore:
        """What is known of whole files: their content, and whether they are published."""
        return CommitStore(f"{self.folder}/log")

    def store_of(self, content: str) -> CommitStore:
        """Return where the work on one content is committed. Copies of one file share it."""
        return CommitStore(content_folder(self.folder, content))

    def retrying(self, action: Callable[[], Result]) -> Result:
        """Call as often as :attr:`retries` says, and count the failed tries."""
        return with_retries(
            action, self.retries, on_retry=lambda error: count("seedvr2_retries", state=type(error).__name__)
        )

    @property
    def manifest_folder(self) -> str:
        """Where this run keeps its shards."""
        return f"{self.folder}/manifests/{self.run}"
