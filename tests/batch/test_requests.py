"""How often a store is asked for a segment and for a video, and when: counted at an S3 endpoint on loopback. No Ray."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from seedvr2_ray.batch.execution.finishing import PartOrder, PublishOrder, finish_part, publish_video, remove_work
from seedvr2_ray.batch.execution.rows import SegmentResult, rows_of_video
from seedvr2_ray.batch.execution.tracker import CleaningOrder, VideosInFlight
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, plan_row
from seedvr2_ray.batch.execution.worker import SegmentWorker
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.location import publish
from seedvr2_ray.storage.remote_backend import RemoteBackend
from tests.media.clips import make_clip
from tests.s3_server import bucket, endpoint

__all__ = ["bucket", "endpoint"]

pytestmark = pytest.mark.slow

SETTINGS = RestoreSettings(
    model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4, preset="ultrafast", detect_shots=False
)
MOST_PER_SEGMENT, MOST_PER_VIDEO = 15, 25


@dataclass
class Counting:
    """Requests by stage, and what was asked while a restorer held its device."""

    stage: str = "setup"
    by_stage: dict[str, Counter[str]] = field(default_factory=dict)
    on_device: list[str] = field(default_factory=list)
    holds_device: Any = field(default_factory=threading.local)

    def num(self, *stages: str) -> int:
        return sum(sum(self.by_stage.get(stage, Counter()).values()) for stage in stages)


@dataclass
class WatchedRestorers:
    """Lanczos that says when its thread has the device."""

    counting: Counting

    def identify(self, settings: RestoreSettings) -> Any:
        return LANCZOS

    def load(self, settings: RestoreSettings) -> Any:
        return _Watched(self.counting)


class _Watched(LanczosRestorer):
    def __init__(self, counting: Counting) -> None:
        super().__init__()
        self._counting = counting

    def restore(self, frames: Any, task: Any) -> Iterator[Any]:
        self._counting.holds_device.now = True
        try:
            yield from super().restore(frames, task)
        finally:
            self._counting.holds_device.now = False


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting()
    call = S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **more: Any) -> Any:
        found.by_stage.setdefault(found.stage, Counter())[method] += 1
        return await call(self, method, *arguments, **more)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    for name in ("info", "read", "read_range", "write", "put", "get", "names", "remove"):
        asked = getattr(RemoteBackend, name)

        def noted(self: Any, *arguments: Any, _asked: Any = asked, _name: str = name, **more: Any) -> Any:
            if getattr(found.holds_device, "now", False):
                found.on_device.append(_name)
            return _asked(self, *arguments, **more)

        monkeypatch.setattr(RemoteBackend, name, noted)
    return found


def test_a_segment_costs_at_most_15_requests_and_a_video_25_and_none_while_it_has_the_device(
    bucket: str, counting: Counting, tmp_path: Path
) -> None:
    make_clip(tmp_path / "film.mp4", num_frames=120)
    publish(tmp_path / "film.mp4", f"{bucket}/in/film.mp4", overwrite=False)
    restorers: Any = WatchedRestorers(counting)
    job = Job(folder=f"{bucket}/job", run="run1", restorers=restorers, scratch=str(tmp_path / "scratch"))
    row = ManifestRow(
        number=0, where="row 1", source=f"{bucket}/in/film.mp4", target=f"{bucket}/out/film.mp4", settings=SETTINGS
    )
    counting.stage = "planning"
    video = plan_row(row, job, LANCZOS)
    assert isinstance(video, Video), video
    num_segments = len(video.plan.segments)
    assert num_segments > 8 and all(segment.overlap for segment in video.plan.segments[1:])

    in_flight, worker, orders = VideosInFlight(1), SegmentWorker(job), []
    for segment_row in rows_of_video(video):
        counting.stage = "restoring"
        (result,) = worker.restore_rows([segment_row])
        assert isinstance(result, SegmentResult) and result.state == "restored", result
        orders += list(in_flight.receive_result(result))
        while orders:
            order = orders.pop(0)
            if isinstance(order, PartOrder):
                counting.stage = "finishing"
                orders += list(in_flight.receive_part(order, finish_part(order, job)))
            elif isinstance(order, PublishOrder):
                counting.stage = "publishing"
                orders += list(in_flight.receive_published(order.video, publish_video(order, job)))
            elif isinstance(order, CleaningOrder):
                counting.stage = "cleaning"
                assert remove_work(order.contents, job) is None
    (outcome,) = in_flight.take_outcomes()
    assert isinstance(outcome, VideoOutcome) and outcome.state == "published", outcome

    # Publishing reads every part once; what else it asks is asked once for a video.
    of_parts = num_segments
    per_segment = (counting.num("restoring", "finishing") + of_parts) / num_segments
    per_video = counting.num("planning", "publishing", "cleaning") - of_parts
    said = "; ".join(f"{stage}: {dict(counts)}" for stage, counts in counting.by_stage.items())
    assert per_segment <= MOST_PER_SEGMENT, said
    assert per_video <= MOST_PER_VIDEO, said
    assert counting.on_device == []
