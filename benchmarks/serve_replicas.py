"""How much faster one long video is restored by more replicas, whose device is simulated by waiting.

Every frame is resized by Lanczos and then waited for, a fixed time per frame: what a device would compute meanwhile
takes no processor. So two cores are enough to see what the service itself costs, and nothing is said about a device.
"""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bulk import make_video
from benchmarks.serve_cluster import Asker, deployed
from benchmarks.serve_figures import speedups
from benchmarks.serve_forms import form_of
from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig
from seedvr2_ray.settings import RestoreSettings

_SEGMENT_FRAMES = 12
_POLL_SECONDS = 0.05
_SETTINGS = RestoreSettings(
    model="lanczos",
    resolution="x1",
    segment_seconds=0.5,
    segment_overlap=0,
    crf=30,
    preset="ultrafast",
    detect_shots=False,
)


@dataclass(frozen=True)
class SleepingRestorers:
    """Restorers that take a fixed time per frame, and next to no processor time."""

    seconds_per_frame: float

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        """Say that it is Lanczos, which does the little there is to do."""
        return LANCZOS

    def load(self, settings: RestoreSettings) -> Restorer:
        """Load nothing."""
        return _Sleeping(self.seconds_per_frame)


class _Sleeping(LanczosRestorer):
    def __init__(self, seconds_per_frame: float) -> None:
        super().__init__()
        self._seconds_per_frame = seconds_per_frame

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        for batch in super().restore(frames, task):
            time.sleep(len(batch) * self._seconds_per_frame)
            yield batch


def measure_replicas(port: int, sizes: Sequence[int], segment_seconds: float, per_replica: int) -> list[dict[str, Any]]:
    """Restore a video of so many segments per replica with each number of replicas.

    Args:
        port: of Serve's proxy.
        sizes: numbers of replicas; 1 must be among them.
        segment_seconds: that a segment is waited for.
        per_replica: segments; one more video, of one segment per replica, goes before and is not counted.
    """
    restorers = SleepingRestorers(segment_seconds / _SEGMENT_FRAMES)
    rows = [_measure(port, size, restorers, per_replica) for size in sizes]
    gains = speedups({row["replicas"]: row["restoring_seconds"] for row in rows})
    for row in rows:
        row["speedup"] = round(gains[row["replicas"]], 3)
        row["share_of_waiting"] = round(per_replica * segment_seconds / row["restoring_seconds"], 4)
    return rows


def _measure(port: int, size: int, restorers: SleepingRestorers, per_replica: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sb-replicas-") as name:
        folder = Path(name)
        config = ServiceConfig(
            data=str(folder / "data"),
            scratch=str(folder / "scratch"),
            auth=("none",),
            models={"lanczos": ModelPool(num_cpus=0.05, min_replicas=size, max_replicas=size)},
            default_model="lanczos",
            limits=Limits(requests_per_minute=10**6),
            num_finishers=1,
        )
        with deployed(port, config, restorers) as service:
            asker = service.connect()
            try:
                _time_video(asker, folder / "warm.mp4", size)
                times = _time_video(asker, folder / "long.mp4", size * per_replica)
            finally:
                asker.close()
    return {"replicas": size, "segments": size * per_replica, **times}


def _time_video(asker: Asker, path: Path, num_segments: int) -> dict[str, float]:
    """Restore a video and return what its stages took, as its caller sees them."""
    make_video(path, num_segments * _SEGMENT_FRAMES, (64, 48), seed=num_segments)
    body, headers = form_of(path, _SETTINGS)
    began = time.monotonic()
    job = json.loads(asker.ask("POST", "/v1/jobs", body, headers)[1])
    restoring = committed = None
    while job["state"] != "completed":
        if job["finished_at"]:
            raise RuntimeError(f"a video of this benchmark was {job['state']}: {job['error']}")
        time.sleep(_POLL_SECONDS)
        job = asker.ask_json("GET", f"/v1/jobs/{job['id']}")
        done, total = job["progress"]["segments_done"], job["progress"]["segments_total"]
        if restoring is None and job["state"] == "restoring":
            restoring = time.monotonic()
        if committed is None and total and done == total:
            committed = time.monotonic()
    if total != num_segments or restoring is None or committed is None:
        raise RuntimeError(f"a video of {num_segments} segments was restored in {total}; figures would mean nothing")
    ended = time.monotonic()
    return {
        "until_restoring_seconds": round(restoring - began, 2),
        "restoring_seconds": round(committed - restoring, 2),
        "afterwards_seconds": round(ended - committed, 2),
        "job_seconds": round(ended - began, 2),
    }
