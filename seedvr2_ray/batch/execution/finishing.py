"""What is done with restored segments: parts as soon as neighbours are there, masters as soon as all parts are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seedvr2_ray.batch.execution.heartbeats import at_work
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, find_published, log_kind, published_record
from seedvr2_ray.batch.figures import figures_of
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.leftovers import require_shared_folder
from seedvr2_ray.errors import TargetError
from seedvr2_ray.restoration.planning.plan import Recipe, Segment
from seedvr2_ray.restoration.report.thumbnail import thumbnail
from seedvr2_ray.restoration.work.assemble import assemble
from seedvr2_ray.restoration.work.encoded_segments import Neighbourhood, finish_restored, neighbourhood_of
from seedvr2_ray.restoration.work.failures import Failure, describe_failure
from seedvr2_ray.restoration.work.published import mark_of
from seedvr2_ray.restoration.work.remaining import PARTS, RESTORED
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.location import exists, publish_bytes, remove_folder
from seedvr2_ray.storage.records import Commit, LostWorkError
from seedvr2_ray.storage.scratch import open_workspace
from seedvr2_ray.storage.sources import SourceCopies, require_unchanged


@dataclass(frozen=True, kw_only=True, slots=True)
class PartOrder:
    """One part to finish."""

    video_number: int
    content: str
    recipe: Recipe
    around: Neighbourhood
    restored: Mapping[str, Commit]
    """Commits of the intermediates it is made of, by address, as far as the driver was told of them."""
    served: Mapping[str, Commit | None]
    """Intermediates that nobody in the job needs any more, by address: they are deleted on the way."""

    @property
    def segment(self) -> Segment:
        """The segment whose part it is."""
        return self.around.segment


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishOrder:
    """One video whose parts are all finished."""

    video: Video
    parts: Mapping[str, Commit]
    """Commits of its parts, by address, as far as the driver was told of them."""


def order_part(
    video: Video,
    index: int,
    *,
    restored: Mapping[str, Commit] | None = None,
    served: Mapping[str, Commit | None] | None = None,
) -> PartOrder:
    """Describe one part of a video."""
    return PartOrder(
        video_number=video.row.number,
        content=video.source.content,
        recipe=video.plan.recipe,
        around=neighbourhood_of(video.plan.segments, index),
        restored=restored or {},
        served=served or {},
    )


def finish_part(order: PartOrder, job: Job) -> Commit | Failure:
    """Blend, encode and commit one part, and delete intermediates of other parts that have served."""
    store = job.store_of(order.content)

    def finish() -> Commit:
        require_shared_folder(job)
        with open_workspace(job.scratch) as workspace:
            segment, before = order.segment, order.around.predecessor
            try:
                commit = finish_restored(order.recipe, segment, before, store, order.restored, workspace=workspace)
            except LostWorkError:
                commit = _finished_elsewhere(segment, store)
        for address, known in order.served.items():
            store.discard(RESTORED, address, known=known)
        return commit

    try:
        with at_work(job.run, "finish", job.heartbeat_seconds):
            return job.retrying(finish)
    except Exception as error:  # noqa: BLE001  # One video must not stop the others.
        return describe_failure("finish", error)


def publish_video(order: PublishOrder, job: Job) -> VideoOutcome | Failure:
    """Join a video's parts into its master, publish it with its provenance, and note that it is done."""
    try:
        with at_work(job.run, "finish", job.heartbeat_seconds):
            return job.retrying(lambda: _publish(order, job))
    except Exception as error:  # noqa: BLE001  # One video must not stop the others.
        return describe_failure("assemble", error)


def _finished_elsewhere(segment: Segment, store: CommitStore) -> Commit:
    """Return a part that another driver of the same archive finished, which then removed what it was made of.

    Raises:
        LostWorkError: nobody finished it.
    """
    commit = store.look(PARTS, segment.part_address)
    if commit is None:
        raise LostWorkError(f"what segment {segment.index} is to be finished from is gone; it is restored again")
    return commit


def _publish(order: PublishOrder, job: Job) -> VideoOutcome:
    require_shared_folder(job)
    try:
        return _join_and_publish(order, job)
    except (LostWorkError, TargetError):
        # Another driver of the same archive may have been faster, and have cleaned up behind itself.
        found = find_published(order.video.row, job, order.video.key)
        if found is None:
            raise
        return found


def _join_and_publish(order: PublishOrder, job: Job) -> VideoOutcome:
    video = order.video
    row, plan, store, key = video.row, video.plan, video.store(job), video.key
    with open_workspace(job.scratch) as workspace:
        with SourceCopies(Path(job.scratch) / "sources", job.scratch_bytes).opened(
            row.source, video.source.version
        ) as path:
            require_unchanged(video.source)
            claim = _claim_target(video, job)
            assembly = assemble(
                plan,
                store,
                row.target,
                source_path=str(path),
                workspace=workspace,
                overwrite=True,
                timings={},
                known=order.parts,
            )
            picture = _picture(video, str(path), assembly.local_paths, job)
    figures = {**figures_of(plan, assembly.provenance), "picture": picture}
    record = published_record(plan, video.source, figures, mark_of(row.target, assembly.provenance))
    job.log.settle(log_kind("published", key), key, record)
    job.log.discard(log_kind("publishing", key), key, known=claim)
    return VideoOutcome(
        number=row.number,
        where=row.where,
        source=printable(row.source),
        target=printable(row.target),
        state="published",
        content=video.source.content,
        figures=figures,
    )


def _picture(video: Video, source_path: str, local_paths: Sequence[str], job: Job) -> str | None:
    """Put a small picture of the middle frame, before and after, into the job's folder for its report; say where."""
    geometry, number = video.plan.recipe.geometry, len(video.plan.media.frame_pts) // 2
    master = local_paths[number if len(local_paths) > 1 else 0]
    picture = thumbnail(source_path, video.plan.media, master, (geometry.width, geometry.height), number)
    if picture is None:
        return None
    name = f"pictures/{video.key[:2]}/{video.key}.jpg"
    publish_bytes(picture, f"{job.folder}/{name}", overwrite=True)
    return name


def remove_work(contents: Sequence[str], job: Job) -> Failure | None:
    """Remove the work on contents that nobody in the job needs any more."""
    try:
        for content in contents:
            remove_folder(job.store_of(content).root_url)
    except Exception as error:  # noqa: BLE001  # Nothing but room depends on it.
        return describe_failure("assemble", error)
    return None


def _claim_target(video: Video, job: Job) -> Commit:
    """Note that from here on the target may hold our work: whoever goes on after a crash may replace it.

    Raises:
        TargetError: somebody else wrote there since the video was planned.
    """
    kind, target = log_kind("publishing", video.key), video.row.target
    if not job.overwrite and exists(target):
        claim = job.log.look(kind, video.key)
        if claim is not None:
            return claim
        raise TargetError(f"{printable(target)} came into being while the job was at work; remove it or choose another")
    return job.log.settle(kind, video.key, {"target": printable(target)})[0]
