"""Planning past one cluster: a simulation of a whole archive on fleets of 64 to 2,000 GPUs.

python -m benchmarks.fleet [--videos 100000] [--gpus 64,256,1000,2000]

Discrete events and no Ray: planning, the driver, restoring (single GPUs and gangs), spot losses, loading weights,
pauses for the store, finishing. **Everything it prints is predicted**: from the counted arithmetic of the networks,
from what was measured of the driver, and from assumptions that stand in :class:`Assumptions` one by one. It shows how
busy GPUs are, what an archive costs, how long its tail is, and which stage gives in first as the fleet grows.

The events are handled by hand: an archive of 100,000 videos has some ten million segments, and a library for
simulations takes tens of microseconds per event.
"""

import argparse
import heapq
import json
import math
import random
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from benchmarks.machine import describe_machine, results_folder

_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """What the prediction rests on. ``sources`` says of each where it comes from."""

    frames_per_second: float = 24.0
    median_minutes: float = 10.0
    spread: float = 1.2
    """Of the logarithm of a video's length: some are clips, a few last for hours."""
    longest_hours: float = 4.0
    share_2160p: float = 0.2
    segment_seconds: float = 10.0
    model: str = "seedvr2-3b"
    gpu_seconds_1080p: float = 0.184
    """Per frame."""
    gpu_seconds_2160p: float = 0.771
    gang_size: int = 4
    gang_efficiency: float = 0.85
    variation: float = 0.05
    """Of a segment's time, either way."""
    idle_seconds: float = 0.22
    """Of a GPU between two segments."""
    driver_seconds: float = 0.013
    plan_seconds_per_frame: tuple[float, float] = (1 / 250, 1 / 60)
    finish_seconds_per_frame: tuple[float, float] = (1 / 40, 1 / 10)
    """Of one core, at 1080p and at 2160p."""
    cores_per_gpu: float = 8.0
    """For planning and finishing; a fifth of them plan."""
    gpus_per_node: int = 8
    start_seconds: float = 240.0
    """From asking for a node to its first segment: machine, image, weights."""
    ramp_seconds: float = 600.0
    spot_hours: float = 12.0
    """Between two losses of one node, on average."""
    back_seconds: float = 600.0
    """Until another takes its place, its start not counted."""
    price_on_demand: float = 3.0
    price_spot: float = 1.2
    """US dollars per GPU hour."""


SOURCES = {
    "gpu_seconds_1080p": "counted: 73.0 TFLOP per frame (3B), at an assumed 40 % of an H100's 989 TFLOP/s",
    "gpu_seconds_2160p": "counted: 305.0 TFLOP per frame, the same",
    "driver_seconds": "measured: 77 segments/s through one driver, with Ray Data, on two cores (bulk_stream.json)",
    "idle_seconds": "measured: 0.72 % of the time of a simulated GPU with segments of 30 s (bulk.json)",
    "swiftvr": "counted: about a tenth of SeedVR2's arithmetic per frame; the same share is assumed",
    "gang_efficiency": "assumed; benchmarks.gang predicts it",
}
"""Whatever is not named here is an assumption about archives and clouds."""


@dataclass(frozen=True, slots=True)
class Video:
    """One item of the archive."""

    num_segments: int
    is_2160p: bool


class Servers:
    """Cores, or the one driver: whoever is free first takes what comes next."""

    def __init__(self, count: int) -> None:
        """All are free at the start."""
        self.busy_seconds = 0.0
        self.count = count
        self._free_at = [0.0] * count

    def serve(self, arrival: float, seconds: float) -> float:
        """Return when work is done that arrives at a moment and takes so long."""
        done = max(arrival, self._free_at[0]) + seconds
        heapq.heapreplace(self._free_at, done)
        self.busy_seconds += seconds
        return done


class Node:
    """A machine, or what takes its place: when it is there, and when it is lost."""

    def __init__(self, begin: float, assumed: Assumptions, chance: random.Random | None) -> None:
        """Without chance it is never lost."""
        self._assumed = assumed
        self._chance = chance
        self._back_at = [begin]
        self._lost_at = [self._draw_loss(begin)]

    def up_from(self, moment: float) -> float:
        """Return when it can be used, from a moment on."""
        place = self._place(moment)
        if place < 0:
            return self._back_at[0]
        return moment if moment < self._lost_at[place] else self._back_at[place + 1]

    def lost_after(self, moment: float) -> float:
        """Return when it is lost the next time, seen from a moment at which it is there."""
        return self._lost_at[self._place(moment)]

    def _place(self, moment: float) -> int:
        while moment >= self._lost_at[-1]:
            back = self._lost_at[-1] + self._assumed.back_seconds + self._assumed.start_seconds
            self._back_at.append(back)
            self._lost_at.append(self._draw_loss(back))
        return bisect_right(self._back_at, moment) - 1

    def _draw_loss(self, moment: float) -> float:
        if self._chance is None:
            return math.inf
        return moment + self._chance.expovariate(1 / (self._assumed.spot_hours * _HOUR))


@dataclass(slots=True)
class Pool:
    """Restorers of one kind: single GPUs, or gangs of them."""

    members: list[Node]
    """The node of each."""
    seconds_per_segment: float
    gpus_per_member: int
    busy_seconds: float = 0.0
    """Of GPUs, for segments that were kept."""
    lost_seconds: float = 0.0
    num_lost: int = 0

    def restore(
        self, released: Iterable[tuple[float, int]], assumed: Assumptions, chance: random.Random
    ) -> Iterator[tuple[float, int]]:
        """Take segments (since when they wait, and of which video) in order; yield when each is done, in order."""
        free_at = [(node.up_from(0.0), number) for number, node in enumerate(self.members)]
        heapq.heapify(free_at)
        upcoming = iter(released)
        again: list[tuple[float, int]] = []
        done: list[tuple[float, int]] = []
        while True:
            free, member = free_at[0]
            task = heapq.heappop(again) if again and again[0][0] <= free else next(upcoming, None)
            if task is None:
                if not again:
                    break
                task = heapq.heappop(again)
            since, video = task
            node = self.members[member]
            start = node.up_from(max(free, since))
            end = start + self.seconds_per_segment * (1 + chance.uniform(-assumed.variation, assumed.variation))
            lost = node.lost_after(start)
            if end > lost:
                self.num_lost += 1
                self.lost_seconds += (lost - start) * self.gpus_per_member
                heapq.heappush(again, (lost, video))
                heapq.heapreplace(free_at, (node.up_from(lost), member))
                continue
            self.busy_seconds += (end - start) * self.gpus_per_member
            heapq.heapreplace(free_at, (end + assumed.idle_seconds, member))
            heapq.heappush(done, (end, video))
            while done[0][0] <= free:  # Nothing that begins later can end before.
                yield heapq.heappop(done)
        while done:
            yield heapq.heappop(done)


def make_archive(num_videos: int, assumed: Assumptions, chance: random.Random) -> list[Video]:
    """Draw an archive's videos."""
    videos = []
    for _ in range(num_videos):
        minutes = min(assumed.median_minutes * math.exp(chance.gauss(0, assumed.spread)), 60 * assumed.longest_hours)
        num_segments = max(1, math.ceil(60 * minutes / assumed.segment_seconds))
        videos.append(Video(num_segments, chance.random() < assumed.share_2160p))
    return videos


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a fleet made of an archive. All of it is predicted."""

    model: str
    num_gpus: int
    is_spot: bool
    days: float
    gpu_busy: float
    """Share of the paid GPU time that went into segments which were kept."""
    gpu_lost: float
    """Share that went into segments which were lost with their machine."""
    driver_busy: float
    planners_busy: float
    finishers_busy: float
    dollars_per_hour_of_video: float
    tail_hours: float
    """From the moment when 99 % of the videos are done to the last one."""
    num_segments: int
    num_lost_segments: int

    @property
    def bend(self) -> str:
        """What keeps the fleet from going faster."""
        busy = {"driver": self.driver_busy, "planning": self.planners_busy, "finishing": self.finishers_busy}
        stage = max(busy, key=lambda name: busy[name])
        return stage if busy[stage] > max(0.9, self.gpu_busy) else "GPUs"


def simulate(videos: list[Video], num_gpus: int, assumed: Assumptions, *, is_spot: bool, seed: int = 0) -> Outcome:
    """Restore an archive on a fleet."""
    chance = random.Random(seed)
    num_cores = max(2, round(num_gpus * assumed.cores_per_gpu))
    planners, driver = Servers(max(1, num_cores // 5)), Servers(1)
    finishers = Servers(num_cores - planners.count)
    pools = _make_pools(videos, num_gpus, assumed, chance if is_spot else None)
    queues = _released(videos, planners, driver, assumed)
    streams = [pool.restore(queue, assumed, chance) for pool, queue in zip(pools, queues, strict=True)]
    ends = [0.0] * len(videos)
    for moment, video in heapq.merge(*streams):
        seconds = _frames(assumed) * assumed.finish_seconds_per_frame[videos[video].is_2160p]
        ends[video] = max(ends[video], finishers.serve(moment, seconds))
    span, price = max(ends), assumed.price_spot if is_spot else assumed.price_on_demand
    paid_seconds = span * num_gpus
    hours = sum(video.num_segments for video in videos) * assumed.segment_seconds / _HOUR
    ends.sort()
    return Outcome(
        model=assumed.model,
        num_gpus=num_gpus,
        is_spot=is_spot,
        days=round(span / 86400, 3),
        gpu_busy=round(sum(pool.busy_seconds for pool in pools) / paid_seconds, 4),
        gpu_lost=round(sum(pool.lost_seconds for pool in pools) / paid_seconds, 4),
        driver_busy=round(driver.busy_seconds / span, 4),
        planners_busy=round(planners.busy_seconds / span / planners.count, 4),
        finishers_busy=round(finishers.busy_seconds / span / finishers.count, 4),
        dollars_per_hour_of_video=round(paid_seconds / _HOUR * price / hours, 2),
        tail_hours=round((ends[-1] - ends[math.floor(0.99 * (len(ends) - 1))]) / _HOUR, 2),
        num_segments=sum(video.num_segments for video in videos),
        num_lost_segments=sum(pool.num_lost for pool in pools),
    )


def _frames(assumed: Assumptions) -> float:
    return assumed.segment_seconds * assumed.frames_per_second


def _released(
    videos: list[Video], planners: Servers, driver: Servers, assumed: Assumptions
) -> list[Iterator[tuple[float, int]]]:
    """Return the queues of single GPUs and of gangs, in the order in which the driver hands segments on."""
    planned = []
    for number, video in enumerate(videos):
        frames = video.num_segments * _frames(assumed)
        planned.append((planners.serve(0.0, frames * assumed.plan_seconds_per_frame[video.is_2160p]), number))
    moments, numbers = (array("d"), array("d")), (array("L"), array("L"))
    for moment, number in sorted(planned):
        for _ in range(videos[number].num_segments):
            moments[videos[number].is_2160p].append(driver.serve(moment, assumed.driver_seconds))
            numbers[videos[number].is_2160p].append(number)
    return [zip(moments[kind], numbers[kind], strict=True) for kind in (False, True)]


def _make_pools(
    videos: list[Video], num_gpus: int, assumed: Assumptions, chance: random.Random | None
) -> tuple[Pool, Pool]:
    """Part the fleet, in whole nodes, by how much work there is for single GPUs and for gangs."""
    single = _frames(assumed) * assumed.gpu_seconds_1080p
    gang = _frames(assumed) * assumed.gpu_seconds_2160p / (assumed.gang_size * assumed.gang_efficiency)
    work = [0.0, 0.0]
    for video in videos:
        work[video.is_2160p] += video.num_segments * (gang * assumed.gang_size if video.is_2160p else single)
    num_nodes = max(2, num_gpus // assumed.gpus_per_node)
    begins = (assumed.start_seconds + assumed.ramp_seconds * node / num_nodes for node in range(num_nodes))
    nodes = [Node(begin, assumed, chance) for begin in begins]
    num_for_gangs = min(num_nodes - 1, max(1, round(num_nodes * work[1] / sum(work))))
    for_gangs = [node for node in nodes[:num_for_gangs] for _ in range(assumed.gpus_per_node // assumed.gang_size)]
    for_singles = [node for node in nodes[num_for_gangs:] for _ in range(assumed.gpus_per_node)]
    return Pool(for_singles, single, 1), Pool(for_gangs, gang, assumed.gang_size)


def _row(each: Outcome) -> str:
    return (
        f"{each.model:10} {each.num_gpus:5} {'spot  ' if each.is_spot else 'demand'} {each.days:6.2f} "
        f"{each.gpu_busy:6.1%} {each.gpu_lost:5.1%} {each.driver_busy:6.1%} {each.planners_busy:6.1%} "
        f"{each.finishers_busy:6.1%} {each.dollars_per_hour_of_video:9.2f} {each.tail_hours:10.2f}  {each.bend}"
    )


def _draw(outcomes: list[Outcome]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    busy, price = figure.subplots(1, 2)
    for name in dict.fromkeys((each.model, each.is_spot) for each in outcomes):
        line = [each for each in outcomes if (each.model, each.is_spot) == name]
        sizes = [each.num_gpus for each in line]
        label = f"{name[0]}, {'spot' if name[1] else 'on demand'}"
        busy.plot(sizes, [100 * each.gpu_busy for each in line], marker="o", label=label)
        price.plot(sizes, [each.dollars_per_hour_of_video for each in line], marker="o", label=label)
    for axes, title in ((busy, "GPUs at work, % (predicted)"), (price, "US dollars per hour of video (predicted)")):
        axes.set(xscale="log", xlabel="GPUs", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
    busy.legend(fontsize=8)
    figure.savefig(results_folder() / "fleet.png", dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Simulate the fleets that are asked for, print a table, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--gpus", default="64,256,1000,2000")
    given = parser.parse_args(arguments)
    slow = Assumptions()
    fast = replace(
        slow,
        model="swiftvr",
        gpu_seconds_1080p=slow.gpu_seconds_1080p / 10,
        gpu_seconds_2160p=slow.gpu_seconds_2160p / 10,
    )
    videos = make_archive(given.videos, slow, random.Random(1))
    outcomes = []
    print("predicted               days   busy  lost  driver  plan finish  $/h of video  tail h  bends at")
    for assumed, is_spot in ((slow, False), (slow, True), (fast, True)):
        for num_gpus in (int(word) for word in given.gpus.split(",")):
            outcomes.append(simulate(videos, num_gpus, assumed, is_spot=is_spot))
            print(_row(outcomes[-1]), flush=True)
    kept = {
        "predicted": True,
        "machine": describe_machine(),
        "videos": given.videos,
        "assumed": [asdict(slow), asdict(fast)],
        "sources": SOURCES,
        "fleets": [{**asdict(each), "bend": each.bend} for each in outcomes],
    }
    (results_folder() / "fleet.json").write_text(json.dumps(kept, indent=1) + "\n")
    _draw(outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
