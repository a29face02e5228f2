"""What a runner asks of the cluster, and the orders that travel to it: small, frozen, picklable."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from seedvr2_ray.restoration.planning.plan import Plan, Recipe, Segment
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.work.encoded_segments import Neighbourhood
from seedvr2_ray.serve.config import FetchRules, Limits, ModelPool
from seedvr2_ray.serve.jobs import ResultInfo, Source
from seedvr2_ray.storage.sources import Pinned

STALLS_OF_A_VIDEO = 6
"""How often the silence of a replica a finisher is waited for: looking for shots and joining go over a whole video, and
say nothing meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareOrder:
    """Fetch a source, look at it, and plan it."""

    job_id: str
    source: Source
    settings: dict[str, Any]
    limits: Limits
    fetch: FetchRules
    identity: RestorerIdentity
    """Who will restore: as the replicas of the model say."""
    pool: ModelPool
    """Of the model; one of its gangs is chosen."""
    gang_size: int | None = None
    """GPUs that the caller wants to work together; None leaves it to the plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedJob:
    """A planned job, and what of it is done already."""

    source: Pinned
    result_address: str
    plan: Plan | None
    """None when there is nothing to do: the result is published."""
    restored: frozenset[str] = frozenset()
    """Addresses of the committed intermediates."""
    parts: frozenset[str] = frozenset()
    """Addresses of the committed parts."""
    published: ResultInfo | None = None
    """The result, if an earlier job made it."""
    has_preview: bool = False
    gang_size: int | None = None
    """Of those who are to restore it; None where there is nothing to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentOrder:
    """Restore one segment."""

    job_id: str
    source: Pinned
    recipe: Recipe
    segment: Segment
    blended_part: str | None
    """Address of the next part, if it takes frames of this segment too."""
    max_tries: int
    """Processes that the segment may take with it before the job fails."""
    pool: str | None = None
    """Whose replicas restore it; None is the model's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentEvent:
    """Something happened to a segment that a replica works on."""

    started: bool = False
    """A replica has taken it up."""
    num_frames: int = 0
    """So many more frames are restored."""
    record: dict[str, Any] | None = None
    """The committed record: the last event of a segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartOrder:
    """Finish one part."""

    job_id: str
    content: str
    recipe: Recipe
    around: Neighbourhood


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishOrder:
    """Join a video's parts and publish the master."""

    job_id: str
    source: Pinned
    plan: Plan
    result_address: str
    name: str
    """File name of the source, from which that of the result is made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewOrder:
    """Make before and after stills from a restored segment."""

    job_id: str
    source: Pinned
    recipe: Recipe
    segment: Segment
    result_address: str


class Workers(Protocol):
    """The cluster as a runner sees it. Errors of ours come back as they were raised."""

    async def identify(self, model: str, *, again: bool = False) -> RestorerIdentity:
        """Say who restores under a model's name here.

        Args:
            again: ask a replica even if the answer is known: it may have been replaced by another version.
        """

    async def prepare(self, order: PrepareOrder) -> PreparedJob:
        """Fetch, probe in a process of its own, find shots, plan."""

    def restore(self, order: SegmentOrder) -> AsyncGenerator[SegmentEvent, None]:
        """Restore a segment; closing the generator stops the replica within a batch of frames."""

    async def finish(self, order: PartOrder) -> None:
        """Blend, encode and commit one part; delete the intermediates that have served."""

    async def publish(self, order: PublishOrder) -> ResultInfo:
        """Join, verify, publish."""

    async def preview(self, order: PreviewOrder) -> bool:
        """Commit the stills under the result's address; say whether they are there."""
