"""What every worker of a job must know: small, picklable, the same for all of them."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from seedvr2_ray.batch.failures import RetryPolicy
from seedvr2_ray.media.probe import ProbeLimits
from seedvr2_ray.restoration.load import LoadOptions, identify, load_restorer
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity
from seedvr2_ray.restoration.run import DEFAULT_MAX_PIXELS
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.commits import CommitStore


class RestorerSource(Protocol):
    """Where workers get their restorers. Pickled to them."""

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        """Say who will restore, on a machine like those that will."""

    def load(self, settings: RestoreSettings) -> Restorer:
        """Load that restorer onto this machine's device."""


@dataclass(frozen=True, slots=True)
class CatalogueRestorers:
    """The models of the catalogue."""

    options: LoadOptions = field(default_factory=LoadOptions)

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        """Bring the weights here, verify them, and say whose they are."""
        return identify(settings, self.options)

    def load(self, settings: RestoreSettings) -> Restorer:
        """Load a model: CUDA if there is one, else the CPU."""
        return load_restorer(settings, self.options)


def default_scratch() -> str:
    """Name a folder of this user's for temporary files; every machine has it, or makes it."""
    return str(Path(tempfile.gettempdir()) / "seedvr2-ray")


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
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    max_deaths: int = 3
    """Processes that one segment may take with it before it is set aside."""
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
        return CommitStore(f"{self.folder}/work/{content[-2:]}/{content}")

    @property
    def manifest_folder(self) -> str:
        """Where this run keeps its shards."""
        return f"{self.folder}/manifests/{self.run}"
