"""What Ray costs a bulk job: overhead against a bare loop, scaling over simulated GPUs, and the rate of planning.

    python -m benchmarks.bulk --sizes 1,4,16 --seconds 20 --rows 100000 --sample 400

1. Overhead and scaling: a restorer that waits as long as a GPU would work, driven once by a loop without Ray
   and then by the whole bulk path on clusters of simulated GPUs (``ray.cluster_utils.Cluster``, eight to a
   machine). *Steady* looks at each worker from its first segment to its last; *whole* counts the staggered
   start and the tail as well. At least 95 % of the bare loop's throughput per worker for one, and 90 % for more; of
   64 and more also 95 % as a whole; a device idle at most 3 % of the time between its first use and its last commit,
   1 % with segments of 30 s and more. What is judged is what this run measured.
2. Planning: a manifest of many rows is checked and cut into shards (all rows, real), and a sample of files that
   all differ in content is probed, searched for shots and planned (real, one process). The rate for the whole
   archive is the sample's; nothing is left out of it.

Every size needs one process of about 0.3 GiB per simulated GPU. Figures of other sizes and segments, and with
``--rows 0`` those of planning, are left as they were.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Loopback only: see seedvr2_ray.local_ray.

import av
import matplotlib.pyplot as plt
import numpy as np
import ray
from ray.cluster_utils import Cluster

from benchmarks.machine import describe_machine, results_folder
from seedvr2_ray.batch.bulk import BulkRequest, run_bulk
from seedvr2_ray.batch.execution.cluster import Pool
from seedvr2_ray.batch.execution.rows import SegmentResult
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, plan_row
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestRow, ManifestSource
from seedvr2_ray.batch.manifest.normalise import Normalised, normalise
from seedvr2_ray.batch.report.outcomes import Totals
from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.work.segment import restore_segment
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.commits import CommitStore

SEGMENTS_PER_FILE = 8
SEGMENT_FRAMES = 12
OVERHEAD_LIMIT, SCALING_LIMIT = 0.95, 0.90
WHOLE_LIMIT, MANY_GPUS = 0.95, 64
SHORT_SEGMENT_IDLE, LONG_SEGMENT_IDLE = 0.03, 0.01
LONG_SEGMENT_SECONDS = 30.0
SETTINGS = RestoreSettings(model="lanczos", resolution="x1", segment_seconds=0.5, segment_overlap=0, crf=30)
EQUAL_SEGMENTS = replace(SETTINGS, detect_shots=False)
"""For timing restorers; planning is timed with shots."""


@dataclass(frozen=True)
class WaitingRestorers:
    """Restorers that take as long as they are told to, and next to no processor time."""

    seconds: float

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        """Say that it is Lanczos, which does the little there is to do."""
        return LANCZOS

    def load(self, settings: RestoreSettings) -> Restorer:
        """Load nothing."""
        return _Waiting(self.seconds)


class _Waiting(LanczosRestorer):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        time.sleep(self._seconds)
        yield from super().restore(frames, task)


class _Clock:
    """Notes when segments came back, and from whom."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.results: list[SegmentResult] = []
        self.came: list[float] = []

    def began(self, manifest: Normalised, price_per_gpu_hour: float) -> None:
        """Nothing to note: the clock runs already."""

    def received(self, result: SegmentResult) -> None:
        """Note one segment."""
        self.results.append(result)
        self.came.append(time.monotonic())

    def finished(self, outcome: VideoOutcome, totals: Totals) -> None:
        """Fail at once when a file was not restored: figures would mean nothing."""
        if outcome.state != "published":
            raise RuntimeError(f"{outcome.source} was {outcome.state}: {outcome.failure}")


def make_sources(folder: Path, num_files: int) -> None:
    """Write clips of a few segments each, all of different content."""
    folder.mkdir()
    for index in range(num_files):
        make_video(folder / f"{index:04d}.mp4", SEGMENTS_PER_FILE * SEGMENT_FRAMES, (64, 48), seed=index)


def make_video(path: Path, num_frames: int, size: tuple[int, int], *, seed: int) -> None:
    """Write soft stripes, different ones for every seed, that move: one shot without a cut."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    waves = [np.sin((columns * (1 + seed % 7) + rows * channel) / size[0] * 6.3) for channel in range(1, 4)]
    still_HWC = (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        container.metadata["comment"] = str(seed)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(still_HWC, 2 * number, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def time_bare_loop(source: Path, folder: Path, seconds: float) -> float:
    """Return the seconds one segment takes in a loop without Ray, commit included."""
    job = Job(folder=str(folder / "bare"), run="bare", scratch=str(folder / "scratch"))
    row = ManifestRow(
        number=0, where="bare", source=str(source), target=str(folder / "bare.mp4"), settings=EQUAL_SEGMENTS
    )
    video = plan_row(row, job, LANCZOS)
    assert isinstance(video, Video), video
    restorer, store = _Waiting(seconds), CommitStore(str(folder / "bare-store"))
    workspace = folder / "bare-writing"
    workspace.mkdir()
    began = time.monotonic()
    assert len(video.plan.segments) == SEGMENTS_PER_FILE, "a segment is not what this benchmark takes it for"
    segments = video.plan.segments[:4]
    for segment in segments:
        restore_segment(video.plan.recipe, segment, restorer, store, source_path=str(source), workspace=workspace)
    return (time.monotonic() - began) / len(segments)


def time_bulk(num_gpus: int, per_gpu: int, seconds: float) -> dict[str, float]:
    """Run a job on simulated GPUs and return what it took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_sources(folder / "in", max(1, num_gpus * per_gpu // SEGMENTS_PER_FILE))
        bare = time_bare_loop(folder / "in/0000.mp4", folder, seconds)
        clock = _Clock()
        with simulated_gpus(num_gpus) as address:
            run_bulk(
                BulkRequest(
                    manifest=ManifestSource(
                        url=str(folder / "in"), output=str(folder / "out"), defaults=EQUAL_SEGMENTS
                    ),
                    # Eight fill a machine, so that tasks run on the head, as many as there are real processors for.
                    pool=Pool(min_size=num_gpus, max_size=num_gpus, num_gpus=1, num_cpus=1 / 8, task_cpus=0.5),
                    address=address,
                    restorers=WaitingRestorers(seconds),
                    scratch=str(folder / "scratch"),
                ),
                clock,
            )
    return {
        "num_gpus": num_gpus,
        "segments": len(clock.results),
        "segment_seconds": seconds,
        "bare_seconds": round(bare, 3),
        **_shares(clock, num_gpus, bare),
        "load_average": round(os.getloadavg()[1], 1),
    }


def _shares(clock: _Clock, num_gpus: int, bare: float) -> dict[str, float]:
    """Compare with as many bare loops as there are GPUs."""
    spans, begun, busy, alive = [], [], [], []
    for worker in {result.worker for result in clock.results}:
        own = [
            (came, result) for came, result in zip(clock.came, clock.results, strict=True) if result.worker == worker
        ]
        first_came, first = own[0]
        begin = first_came - first.worker_alive_seconds
        last = max((result for _, result in own), key=lambda result: result.worker_alive_seconds)
        # Up to when the device was let go last: what is committed behind it, and what comes too late, is idle time.
        busy.append(last.worker_busy_seconds)
        alive.append(last.worker_alive_seconds)
        begun.append(begin)
        spans.append((len(own), own[-1][0] - begin))
    steady = sum(count * bare for count, _ in spans) / sum(span for _, span in spans)
    whole = len(clock.results) * bare / (num_gpus * (max(clock.came) - min(begun)))
    return {
        "workers": len(spans),
        "device_idle_share": round(1 - sum(busy) / sum(alive), 4),
        "steady_share": round(steady, 4),
        "whole_share": round(whole, 4),
        "seconds_to_first_segment": round(min(begun) - clock.started, 1),
        "job_seconds": round(time.monotonic() - clock.started, 1),
    }


@contextmanager
def simulated_gpus(num_gpus: int) -> Iterator[str]:
    """Start a cluster of machines with eight GPUs each that do not exist."""
    memory = 100 << 20
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "object_store_memory": memory}
    )
    try:
        for first in range(0, num_gpus, 8):
            cluster.add_node(num_cpus=1, num_gpus=min(8, num_gpus - first), object_store_memory=memory)
        yield str(cluster.address)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def meets_limits(row: Mapping[str, float]) -> bool:
    """Judge one size: its throughput, and how long devices had nothing to do between a worker's first and last use."""
    share = OVERHEAD_LIMIT if row["num_gpus"] == 1 else SCALING_LIMIT
    idle = LONG_SEGMENT_IDLE if row["segment_seconds"] >= LONG_SEGMENT_SECONDS else SHORT_SEGMENT_IDLE
    is_whole = row["num_gpus"] < MANY_GPUS or row["whole_share"] >= WHOLE_LIMIT
    return is_whole and row["steady_share"] >= share and row["device_idle_share"] <= idle


def measure_planning(num_rows: int, num_sampled: int) -> dict[str, float]:
    """Check a manifest of many rows, and plan a sample of its files in this process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = folder / "m.csv"
        with manifest.open("w") as file:
            file.write("source,crf\n")
            file.writelines(f"in/{index}.mp4,{20 + index % 10}\n" for index in range(num_rows))
        before = _peak_mib()
        began = time.monotonic()
        found = normalise(
            ManifestSource(url=str(manifest), output=str(folder / "out"), defaults=SETTINGS), str(folder / "shards")
        )
        normalising = time.monotonic() - began
        grown = _peak_mib() - before
        (folder / "in").mkdir()
        make_video(folder / "clip.mp4", 48, (640, 360), seed=0)
        clip = (folder / "clip.mp4").read_bytes()
        for index in range(num_sampled):
            # A box that players skip: other content, the same video.
            free = b"\0\0\0\x10free" + index.to_bytes(8, "big")
            (folder / f"in/{index}.mp4").write_bytes(clip + free)
        job = Job(folder=str(folder / "job"), run="plan", scratch=str(folder / "scratch"))
        began = time.monotonic()
        for index in range(num_sampled):
            source = str(folder / f"in/{index}.mp4")
            row = ManifestRow(
                number=index, where=source, source=source, target=f"{folder}/out/{index}.mp4", settings=SETTINGS
            )
            video = plan_row(row, job, LANCZOS)
            assert isinstance(video, Video), video
        planning = (time.monotonic() - began) / num_sampled
    return {
        "rows": found.num_rows,
        "shards": len(found.shards),
        "normalising_seconds": round(normalising, 1),
        "normalising_rows_per_second": round(num_rows / normalising),
        "driver_memory_growth_mib": round(grown, 1),
        "planned_files": num_sampled,
        "planned_files_per_second_and_process": round(1 / planning, 2),
        "hours_of_one_process_for_all": round(planning * num_rows / 3600, 2),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw throughput against the number of GPUs, of the longest segments that were measured for each."""
    rows = sorted({row["num_gpus"]: row for row in results["scaling"]}.values(), key=_num_gpus)
    sizes = [row["num_gpus"] for row in rows]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(sizes, sizes, color="0.7", linestyle="--", label="bare restorers in loops")
    for name, label in (
        ("steady_share", "bulk, each worker's own span"),
        ("whole_share", "bulk, start and tail counted"),
    ):
        axes.plot(sizes, [row[name] * row["num_gpus"] for row in rows], marker="o", label=label)
    axes.set(xlabel="simulated GPUs", ylabel="throughput in bare restorers", title="Bulk restoration on Ray")
    axes.legend()
    figure.savefig(path, dpi=150)


def _num_gpus(row: Mapping[str, float]) -> float:
    return row["num_gpus"]


def main() -> int:
    """Measure, write, draw; fail when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,8")
    parser.add_argument("--seconds", type=float, default=20.0, help="a segment takes on a simulated GPU")
    parser.add_argument("--per-gpu", type=int, default=8, help="segments per GPU")
    parser.add_argument("--rows", type=int, default=100_000, help="of the manifest that is planned")
    parser.add_argument("--sample", type=int, default=200)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    file = results_folder() / "bulk.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    if arguments.rows:
        kept["planning"] = measure_planning(arguments.rows, arguments.sample)
        print(json.dumps(kept["planning"]), flush=True)
    by_size = {(row["num_gpus"], row["segment_seconds"]): row for row in kept.get("scaling", [])}
    measured = []
    for size in (int(size) for size in arguments.sizes.split(",")):
        row = time_bulk(size, arguments.per_gpu, arguments.seconds)
        by_size[size, arguments.seconds] = row
        measured.append(row)
        print(json.dumps(row), flush=True)
    scaling = [by_size[size] for size in sorted(by_size)]
    results = {
        **kept,
        "machine": describe_machine(),
        "overhead_limit": OVERHEAD_LIMIT,
        "scaling_limit": SCALING_LIMIT,
        "scaling": scaling,
    }
    file.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, results_folder() / "bulk.png")
    # Of this run alone: rows of earlier ones stay in the file and say nothing about this one.
    missed = [row for row in measured if not meets_limits(row)]
    is_met = bool(measured) and not missed
    print("limits met" if is_met else f"LIMITS MISSED by {[row['num_gpus'] for row in missed] or 'measuring nothing'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
