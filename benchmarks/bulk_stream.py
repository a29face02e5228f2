"""What the driver of a bulk job holds while a large archive streams past it.

    python -m benchmarks.bulk_stream --rows 100000 --planned 1000000 --hours 3

Everything that the driver does is real: Ray Data's executor and pool of actors, the feed, the videos in flight, the
outcomes on disk. Cheap are the rows, copies of one video that is planned once, and the one who works on them: nothing
is read, restored or published.

1. Streamed: every row is a video of its own with one segment, which an actor says is restored.
2. Planned: every row is found published by an earlier run, as when a finished archive is run again.
3. One long video, taken through the driver's picture of it without Ray, and one of a quarter of its length.

Of the first two the driver after a tenth of the rows is compared with the driver at the end, and the pace of the second
half of the rows with that of the first; of the third, seconds per segment with those of the shorter one.
"""

import argparse
import gc
import json
import os
import pickle
import queue
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
from seedvr2_ray.batch.execution.feed import Events, Feed, FeedOver, Restraint
from seedvr2_ray.batch.execution.finishing import PartOrder, PublishOrder
from seedvr2_ray.batch.execution.rows import SegmentResult, SegmentRow, VideosRow, take_turns, to_columns
from seedvr2_ray.batch.execution.stream import configure, shards_dataset
from seedvr2_ray.batch.execution.tracker import Order, VideosInFlight
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, plan_row
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.batch.manifest.normalise import Shard
from seedvr2_ray.batch.report.outcomes import OutcomeLog
from seedvr2_ray.restoration.lanczos import LANCZOS
from seedvr2_ray.storage.records import Commit

ROWS_OF_A_SHARD = 1000
GROWTH_LIMIT_MIB = 200.0
SECONDS_OF_A_SEGMENT = 2.0
NUM_SAMPLES = 20
LEAST_PACE_OF_THE_SECOND_HALF = 0.8


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
    videos = (
        replace(
            template,
            row=replace(template.row, number=number, where=f"row {number}"),
            source=replace(template.source, content=f"sha256-{number}"),
        )
        for number in numbers
    )
    for row in take_turns(videos):
        assert isinstance(row, SegmentRow)
        answer = SegmentResult(
            video_number=row.video_number,
            content=row.source.content,
            index=row.segment.index,
            address=row.segment.address,
            part_address=row.segment.part_address,
            state="restored",
            num_frames=row.segment.num_frames,
            seconds=0.0,
            video=row.video,
        )
        yield {**to_columns(row), "answer": pickle.dumps(answer)}


class PassingOn:
    """A worker that has nothing to restore."""

    def __call__(self, batch: Any) -> dict[str, list[bytes]]:
        """Return what came."""
        return {"payload": list(batch["payload"])}


class Answering:
    """A worker that says at once that a segment is restored."""

    def __call__(self, batch: Any) -> dict[str, list[bytes]]:
        """Return the answer that came with the row."""
        return {"payload": list(batch["answer"])}


def planned_rows(shard: Shard) -> Iterator[dict[str, Any]]:
    """Yield the rows of a shard as planning does when an earlier run published them all."""
    first = int(shard.url)
    outcomes = tuple(
        VideoOutcome(
            number=number,
            where=f"row {number}",
            source=f"s3://archive/in/{number}.mp4",
            target=f"s3://archive/out/{number}.mp4",
            state="skipped",
            content=f"sha256-{number:064d}",
        )
        for number in range(first, first + shard.num_rows)
    )
    yield to_columns(VideosRow(outcomes=outcomes, videos=()))


def stream(video: Video | None, num_rows: int, folder: Path) -> Iterator[int]:
    """Drive an archive of so many videos; yield how many are settled. Without a video all are found published."""
    pool = SettledPool(min_size=1, max_size=1, num_gpus=0, num_cpus=1.0, task_cpus=0.5, num_tasks=1, num_planners=1)
    in_flight = VideosInFlight(num_rows)
    log = OutcomeLog(folder, f"{folder}/published.jsonl")
    starts = range(0, num_rows, ROWS_OF_A_SHARD)
    shards = [Shard(url=str(at), model="lanczos", num_rows=min(ROWS_OF_A_SHARD, num_rows - at)) for at in starts]
    configure(DataContext.get_current())
    if video is None:
        dataset = shards_dataset(shards, planned_rows, pool)
    else:
        dataset = shards_dataset(shards, copies_of_video, pool, video=pickle.dumps(video))
    dataset = dataset.map_batches(
        Answering if video is not None else PassingOn,
        batch_size=1,
        compute=ActorPoolStrategy(size=pool.max_size, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.num_cpus,
    )
    num_settled = 0
    events: Events = queue.SimpleQueue()
    with Feed(dataset, events.put, Restraint(100)) as feed:
        while not isinstance(event := events.get(), FeedOver):
            item = feed.read(event)
            if isinstance(item, SegmentResult):
                carry_out(in_flight.receive_result(item), in_flight)
            else:
                carry_out(in_flight.receive_videos(item), in_flight)
            for outcome in in_flight.take_outcomes():
                log.add(outcome)
                num_settled += 1
                yield num_settled
        assert event.error is None, event.error
    log.close()
    assert in_flight.num_open == 0, f"{in_flight.num_open} rows were lost"


def carry_out(orders: Iterable[Order], in_flight: VideosInFlight) -> int:
    """Say at once that orders are done, and those that follow from them; return how many videos were cleaned up."""
    waiting, num_cleaned = deque(orders), 0
    while waiting:
        order = waiting.popleft()
        if isinstance(order, PartOrder):
            waiting.extend(in_flight.receive_part(order, Commit({}, None, "token")))
        elif isinstance(order, PublishOrder):
            row = order.video.row
            outcome = VideoOutcome(
                number=row.number,
                where=row.where,
                source=row.source,
                target=row.target,
                state="published",
                content=order.video.source.content,
            )
            waiting.extend(in_flight.receive_published(order.video, outcome))
        else:
            num_cleaned += len(order.contents)
    return num_cleaned


def seconds_per_segment(video: Video, num_segments: int) -> float:
    """Take a video of so many segments through the driver's picture of it."""
    template = video.plan.segments[0]
    segments = tuple(
        replace(template, index=index, overlap=bool(index) * 4, address=f"r{index}", part_address=f"p{index}")
        for index in range(num_segments)
    )
    long = replace(video, plan=replace(video.plan, segments=segments))
    in_flight, num_cleaned = VideosInFlight(1), 0
    began = time.process_time()
    for segment in segments:
        result = SegmentResult(
            video_number=0,
            content=long.source.content,
            index=segment.index,
            address=segment.address,
            part_address=segment.part_address,
            state="restored",
            num_frames=segment.num_frames,
            seconds=0.0,
            video=long if segment.index == 0 else None,
        )
        num_cleaned += carry_out(in_flight.receive_result(result), in_flight)
    assert in_flight.num_open == 0 and num_cleaned == 1
    return (time.process_time() - began) / num_segments


def resident_mib() -> float:
    """Return what this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_memory(num_rows: int, *, are_streamed: bool) -> dict[str, Any]:
    """Drive an archive and note the time and the driver's memory at every twentieth of it."""
    samples: list[tuple[int, float]] = []
    passed: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        video = plan_one_video(Path(scratch)) if are_streamed else None
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 << 20, log_to_driver=False
        )
        try:
            began = time.monotonic()
            for num_settled in stream(video, num_rows, Path(scratch)):
                if num_settled % max(1, num_rows // NUM_SAMPLES) == 0:
                    samples.append((num_settled, round(resident_mib(), 1)))
                    passed.append(time.monotonic() - began)
                    print(f"{num_settled} rows, {samples[-1][1]:.0f} MiB, {passed[-1]:.0f} s", flush=True)
            seconds = time.monotonic() - began
        finally:
            ray.shutdown()
    return {
        "rows": num_rows,
        "rows_per_second": round(num_rows / seconds, 1),
        "driver_mib_at_rows": samples,
        "seconds_at_rows": [round(seconds, 1) for seconds in passed],
        "pace_of_the_second_half": round(pace_of_the_second_half(passed), 3),
        "driver_growth_mib_after_a_tenth": round(samples[-1][1] - samples[1][1], 1),
    }


def pace_of_the_second_half(passed: Sequence[float]) -> float:
    """Compare the pace of the later rows with that of the earlier ones, the first tenth left out.

    Args:
        passed: seconds at equal steps through the rows.
    """
    begin, end = len(passed) // 10 - 1, len(passed) - 1
    middle = (begin + end) // 2
    earlier = (passed[middle] - passed[begin]) / (middle - begin)
    return earlier / ((passed[end] - passed[middle]) / (end - middle))


def measure_long_video(hours: float) -> dict[str, float]:
    """Compare what the driver spends on a segment of a long video and of one of a quarter of its length."""
    num_segments = round(hours * 3600 / SECONDS_OF_A_SEGMENT)
    with tempfile.TemporaryDirectory() as scratch:
        video = plan_one_video(Path(scratch))
    short, long = (
        min(seconds_per_segment(video, number) for _ in range(3)) for number in (num_segments // 4, num_segments)
    )
    return {
        "hours": hours,
        "segments": num_segments,
        "microseconds_per_segment": round(long * 1e6, 1),
        "of_a_quarter_of_its_length": round(short * 1e6, 1),
    }


def main() -> int:
    """Measure, write; fail when the driver grows with the archive, or its work with the length of a video."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000, help="streamed; 0 leaves it out")
    parser.add_argument("--planned", type=int, default=100_000, help="found published; 0 leaves it out")
    parser.add_argument("--hours", type=float, default=3.0, help="of the long video")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    file = results_folder() / "bulk_stream.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    results = {name: kept[name] for name in ("streamed", "planned") if name in kept}
    results |= {"machine": describe_machine(), "growth_limit_mib": GROWTH_LIMIT_MIB}
    is_met = True
    for name, num_rows in (("streamed", arguments.rows), ("planned", arguments.planned)):
        if num_rows:
            results[name] = measure_memory(num_rows, are_streamed=name == "streamed")
            is_met = is_met and results[name]["driver_growth_mib_after_a_tenth"] <= GROWTH_LIMIT_MIB
            is_met = is_met and results[name]["pace_of_the_second_half"] >= LEAST_PACE_OF_THE_SECOND_HALF
    results["long_video"] = long = measure_long_video(arguments.hours)
    is_met = is_met and long["microseconds_per_segment"] <= 2 * long["of_a_quarter_of_its_length"]
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(long))
    print("limits met" if is_met else "LIMITS MISSED")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
