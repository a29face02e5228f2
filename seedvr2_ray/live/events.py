"""What is told of a live stream while it runs: plain values, one JSON object each."""

from collections.abc import Callable, Mapping
from typing import Any

LiveEvent = Mapping[str, Any]
"""``event`` says which: ``plan``, ``begin``, ``chunk``, ``dropped``, ``interrupted``, ``notice``, ``end``."""
Tell = Callable[[LiveEvent], None]


def plan_event(
    model: str, source_size: tuple[int, int], size: tuple[int, int], rate: float, factor: float
) -> LiveEvent:
    """Say what will be done and how fast it can be."""
    return {
        "event": "plan",
        "model": model,
        "source_size": f"{source_size[0]}x{source_size[1]}",
        "size": f"{size[0]}x{size[1]}",
        "frame_rate": round(rate, 3),
        "real_time_factor": round(factor, 2),
    }


def chunk_event(index: int, frames: int, latencies: list[float], dropped: int, waiting: int) -> LiveEvent:
    """Say that frames have left, and how long they had been here."""
    return {
        "event": "chunk",
        "chunk": index,
        "frames": frames,
        "latency_ms": round(1000 * max(latencies)),
        "mean_latency_ms": round(1000 * sum(latencies) / len(latencies)),
        "dropped": dropped,
        "waiting": waiting,
    }


def notice_event(text: str) -> LiveEvent:
    """Say something that a person should know."""
    return {"event": "notice", "text": text}
