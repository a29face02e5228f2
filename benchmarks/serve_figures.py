"""What becomes of measured seconds and bytes: medians, quantiles, ratios, and whether limits are kept. No Ray."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

UPLOAD_GROWTH_LIMIT = 200 * 10**6
"""How many bytes the ingress process may grow by while a file is uploaded."""


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
