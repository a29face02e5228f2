"""What the driver of a bulk job holds while a large archive streams past it.

    python -m benchmarks.bulk_stream --rows 100000

Everything that the driver does is real: Ray Data's executor and pool of actors, the feed, the videos in flight, the
outcomes on disk. Cheap are the rows, copies of one video that is planned once, and the one who works on them: nothing
is read, restored or published. Every row is a video of its own with one segment. The driver after a tenth of the rows
is compared with the driver at the end.
"""

import argparse
import gc
import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Loopback only: see seedvr2_ray.local_ray.

import ray
from ray.data import ActorPoolStrategy, DataContext

from benchmarks.bulk import EQUAL_SEGMENTS, SEGMENT_FRAMES, make_video
from benchmarks.machine import describe_machine, results_folder
from seedvr2_ray.batch.execution.cluster import SettledPool
from seedvr2_ray.batch.execution.feed import Feed
from seedvr2_ray.batch.execution.finishing import PartOrder
from seedvr2_ray.batch.execution.pipeline import configure, shards_dataset
from seedvr2_ray.batch.execution.rows import SegmentResult, SegmentRow, take_turns, to_columns
from seedvr2_ray.batch.execution.tracker import Order, VideosInFlight
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, plan_row
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.batch.manifest.normalise import Shard
from seedvr2_ray.batch.report.outcomes import OutcomeLog
from seedvr2_ray.restoration.lanczos import LANCZOS

ROWS_OF_A_SHARD = 1000
GROWTH_LIMIT_MIB = 200.0


def plan_one_video(folder: Path) -> Video:
    """Plan a video of one segment."""
    source = folder / "video.mp4"
    make_video(source, SEGMENT_FRAMES, (64, 48), seed=0)
    job = Job(folder=str(folder / "job"), run="stream", scratch=str(folder / "scratch"))
    row = ManifestRow(number=0, where="row", source=str(source), target=f"{folder}/out.mp4", settings=EQUAL_SEGMENTS)
    video = plan_row(row, job, LANCZOS)
    assert isinstance(video, Video) and len(video.plan.segments) == 1, video
    return video


def copies_of_video(shard: Shard, video: bytes) -> Iterator[dict[str, Any]]:
    """Yield a row for every video of a shard, as planning does, and with it what its worker is to answer."""
    template: Video = pickle.loads(video)
    first = int(shard.url)
    numbers = range(first, first + shard.num_rows)
    videos = (replace(template, row=replace(template.row, number=number, where=f"row {number}")) for number in numbers)
    for row in take_turns(videos):
        assert isinstance(row, SegmentRow)
        answer = SegmentResult(
            video_number=row.video_number,
            index=row.segment.index,
            address=row.segment.address,
            state="restored",
            num_frames=row.segment.num_frames,
            seconds=0.0,
            video=row.video,
        )
        yield {**to_columns(row), "answer": pickle.dumps(answer)}


class Answering:
    """A worker that says at once that a segment is restored."""

    def __call__(self, batch: Any) -> dict[str, list[bytes]]:
        """Return the answer that came with the row."""
        return {"payload": list(batch["answer"])}


def stream(video: Video, num_rows: int, folder: Path) -> Iterator[int]:
    """Drive an archive of so many videos; yield how many are settled."""
    pool = SettledPool(min_size=1, max_size=1, num_gpus=0, num_cpus=1.0, task_cpus=0.5, num_tasks=1, num_planners=1)
    in_flight = VideosInFlight(num_rows)
    log = OutcomeLog(folder, f"{folder}/published.jsonl")
    starts = range(0, num_rows, ROWS_OF_A_SHARD)
    shards = [Shard(url=str(at), model="lanczos", num_rows=min(ROWS_OF_A_SHARD, num_rows - at)) for at in starts]
    configure(DataContext.get_current())
    dataset = shards_dataset(shards, copies_of_video, pool, video=pickle.dumps(video)).map_batches(
        Answering,
        batch_size=1,
        compute=ActorPoolStrategy(size=pool.max_size, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.num_cpus,
    )
    num_settled = 0
    with Feed(dataset) as feed:
        while not feed.is_over:
            for result in feed.take(0.2):
                assert isinstance(result, SegmentResult)
                _carry_out(in_flight.take_result(result), in_flight)
                for outcome in in_flight.take_outcomes():
                    log.add(outcome)
                    num_settled += 1
                    yield num_settled
    log.close()
    assert in_flight.num_open == 0, f"{in_flight.num_open} rows were lost"


def _carry_out(orders: Iterable[Order], in_flight: VideosInFlight) -> None:
    for order in orders:
        if isinstance(order, PartOrder):
            _carry_out(in_flight.take_part(order, None), in_flight)
            continue
        row = order.row
        in_flight.take_published(
            order,
            VideoOutcome(number=row.number, where=row.where, source=row.source, target=row.target, state="published"),
        )


def resident_mib() -> float:
    """Return what this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_memory(num_rows: int) -> dict[str, Any]:
    """Stream an archive and note the driver's memory at every twentieth of it."""
    samples: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        video = plan_one_video(Path(scratch))
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 << 20, log_to_driver=False
        )
        try:
            began = time.monotonic()
            for num_settled in stream(video, num_rows, Path(scratch)):
                if num_settled % max(1, num_rows // 20) == 0:
                    samples.append((num_settled, round(resident_mib(), 1)))
                    print(f"{num_settled} rows, {samples[-1][1]:.0f} MiB", flush=True)
            seconds = time.monotonic() - began
        finally:
            ray.shutdown()
    return {
        "rows": num_rows,
        "bytes_per_row": len(pickle.dumps(video)),
        "rows_per_second": round(num_rows / seconds, 1),
        "driver_mib_at_rows": samples,
        "driver_growth_mib_after_a_tenth": round(samples[-1][1] - samples[1][1], 1),
    }


def main() -> int:
    """Measure, write; fail when the driver grows with the archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    memory = measure_memory(arguments.rows)
    results = {"machine": describe_machine(), **memory, "growth_limit_mib": GROWTH_LIMIT_MIB}
    (results_folder() / "bulk_stream.json").write_text(json.dumps(results, indent=1) + "\n")
    is_met = memory["driver_growth_mib_after_a_tenth"] <= GROWTH_LIMIT_MIB
    print("limits met" if is_met else "LIMITS MISSED")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
