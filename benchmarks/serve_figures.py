"""What becomes of measured seconds and bytes: medians, quantiles, ratios, and whether limits are kept. No Ray."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UPLOAD_GROWTH_LIMIT = 200 * 10**6
"""How many bytes the ingress process may grow by while a file is uploaded."""


@dataclass(frozen=True)
class Goal:
    """What a figure should be on two quiet cores; a figure that misses it is said, and fails nothing."""

    name: str
    most: float = math.inf
    least: float = -math.inf

    def judge(self, figure: float) -> str:
        """Say whether a figure is what it should be."""
        wanted = f"at most {self.most:g}" if self.most < math.inf else f"at least {self.least:g}"
        verdict = "reached" if self.least <= figure <= self.most else "not reached"
        return f"{self.name}: {figure:g}, {wanted} wanted: {verdict}"


def against_goals(results: Mapping[str, Any]) -> list[str]:
    """Hold what was measured of the fronts and of the start against the goals; nothing of what was left out."""
    told = []
    for row in results.get("fronts", []):
        looks = row["cpu_milliseconds_per_look_by_waiting"]
        down = row["down"]
        growth = max(each["ingress_growth_bytes"] for each in (*row["up"], down)) / 1e6
        told += [
            *(
                Goal(f"{row['front']}: ms of processor per look, {num} waiting", most=8).judge(each["in_all"])
                for num, each in looks.items()
            ),
            *(
                Goal(f"{row['front']}: jobs/s, {each['waiting_before']} waiting", least=200).judge(
                    each["jobs_per_second"]
                )
                for each in row["jobs"]
            ),
            *(
                Goal(f"{row['front']}: MB/s up by {each['protocol']}", least=150).judge(each["megabytes_per_second"])
                for each in row["up"]
            ),
            Goal(f"{row['front']}: MB/s down", least=150).judge(down["megabytes_per_second"]),
            Goal(f"{row['front']}: MB that the ingress grew by", most=100).judge(round(growth, 1)),
            Goal(f"{row['front']}: MB that stalled readers cost", most=16).judge(
                round(down["growth_with_stalled_readers_bytes"] / 1e6, 1)
            ),
        ]
    for row in results.get("start", []):
        told += [
            Goal("s to the first finished job", most=15).judge(row["seconds_to_first_finished_job"]),
            Goal("GB while idle", most=1.2).judge(round(row["idle_proportional_bytes"] / 1e9, 2)),
            Goal("processes while idle", most=12).judge(row["idle_processes"]),
        ]
    return told


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all values does not exceed.

    Args:
        values: at least one.
        share: in (0, 1].
    """
    if not values:
        raise ValueError("no values were measured, so there is no quantile of them")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Sum up durations: median, 95 % quantile and largest."""
    return {
        "median": round(statistics.median(seconds) * 1000, 1),
        "p95": round(quantile(seconds, 0.95) * 1000, 1),
        "largest": round(max(seconds) * 1000, 1),
    }


def speedups(seconds_by_replicas: Mapping[int, float]) -> dict[int, float]:
    """Return how many times the throughput of one replica each number of replicas has.

    Args:
        seconds_by_replicas: how long as many units of work as there are replicas took; with an entry for 1.
    """
    if 1 not in seconds_by_replicas:
        raise ValueError(f"replicas {sorted(seconds_by_replicas)} were measured; measure 1 as well to compare with")
    alone = seconds_by_replicas[1]
    return {num: num * alone / seconds for num, seconds in seconds_by_replicas.items()}


def missed_limits(results: Mapping[str, Any]) -> list[str]:
    """Say which limits the measured uploads exceed; nothing when they were left out."""
    return [
        f"the ingress grew by {upload['ingress_growth_bytes'] / 1e6:.0f} MB during an upload of "
        f"{upload['num_bytes'] / 1e6:.0f} MB by {upload['protocol']}; the limit is {UPLOAD_GROWTH_LIMIT / 1e6:.0f} MB"
        for upload in results.get("uploads", [])
        if upload["ingress_growth_bytes"] > UPLOAD_GROWTH_LIMIT
    ]
