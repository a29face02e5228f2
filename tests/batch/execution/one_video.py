"""One video and a job around it, without Ray: planned, restored, finished, published by calls. Not a test module."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seedvr2_ray.batch.execution.finishing import PublishOrder, finish_part, order_part, publish_video
from seedvr2_ray.batch.execution.rows import SegmentResult, rows_of_video
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, plan_row
from seedvr2_ray.batch.execution.worker import SegmentWorker
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.work.failures import RetryPolicy
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.records import Commit

SETTINGS = RestoreSettings(model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4, preset="ultrafast")


@dataclass
class FailingRestorers:
    """Raises what it was given, one after the other, and then restores."""

    errors: list[Exception] = field(default_factory=list)
    calls: int = 0

    def identify(self, settings: RestoreSettings) -> Any:
        return LANCZOS

    def load(self, settings: RestoreSettings) -> Any:
        return _Failing(self)


class _Failing(LanczosRestorer):
    def __init__(self, owner: FailingRestorers) -> None:
        super().__init__()
        self.owner = owner

    def restore(self, frames: Any, task: Any) -> Iterator[Any]:
        self.owner.calls += 1
        stream = super().restore(frames, task)
        yield next(stream)
        if self.owner.errors:
            raise self.owner.errors.pop(0)
        yield from stream


def job_in(folder: Path, restorers: FailingRestorers | None = None, **more: Any) -> Job:
    quick = RetryPolicy(num_tries=3, first_pause_seconds=0.0)
    return Job(
        folder=str(folder / "job"),
        run="run1",
        restorers=restorers or FailingRestorers(),
        retries=quick,
        scratch=str(folder / "scratch"),
        **more,
    )


def plan(job: Job, source: Path, target: Path, **settings: Any) -> Video | VideoOutcome:
    row = ManifestRow(
        number=0, where="row 1", source=str(source), target=str(target), settings=replace(SETTINGS, **settings)
    )
    return plan_row(row, job, LANCZOS)


def video_in(job: Job, source: Path, target: Path) -> Video:
    video = plan(job, source, target)
    assert isinstance(video, Video), video
    return video


def restore_first(job: Job, video: Video, worker: SegmentWorker | None = None) -> SegmentResult:
    (result,) = (worker or SegmentWorker(job)).restore_rows([next(iter(rows_of_video(video)))])
    assert isinstance(result, SegmentResult)
    return result


def finish_video(job, clip, target, **settings):
    """Take a video through all that is left to do."""
    video = plan(job, clip, target, **settings)
    assert isinstance(video, Video), video
    worker = SegmentWorker(job)
    for row in rows_of_video(video) if video.work().to_restore else ():
        list(worker.restore_rows([row]))
    for index in range(len(video.plan.segments)):
        assert isinstance(finish_part(order_part(video, index), job), Commit)
    outcome = publish_video(PublishOrder(video=video, parts={}), job)
    assert isinstance(outcome, VideoOutcome) and outcome.state == "published", outcome
