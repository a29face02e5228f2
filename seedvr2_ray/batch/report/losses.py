"""What machines and processes that went in the middle of work cost a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seedvr2_ray.batch.execution.machines import Losses
from seedvr2_ray.batch.figures import cost_of


@dataclass(slots=True)
class Repeated:
    """Counts attempts at segments that came to no end, and what they cost at most: as much as the one that did."""

    machines: set[str] = field(default_factory=set)
    with_their_machine: int = 0
    with_their_process: int = 0
    gpu_seconds: float = 0.0

    def note(self, losses: Losses, seconds: float) -> None:
        """Note a segment that is restored, with its earlier attempts.

        Args:
            seconds: that the successful attempt had the device.
        """
        self.machines.update(losses.machines)
        self.with_their_machine += len(losses.machines)
        self.with_their_process += losses.deaths
        self.gpu_seconds += (len(losses.machines) + losses.deaths) * seconds

    def summary(self, price_per_gpu_hour: float, *, gang_size: int) -> dict[str, Any]:
        """Return plain values for the report."""
        gpu_seconds = round(self.gpu_seconds * gang_size, 3)
        return {
            "machines": len(self.machines),
            "segments_lost_with_their_machine": self.with_their_machine,
            "segments_lost_with_their_process": self.with_their_process,
            "gpu_seconds_at_most": gpu_seconds,
            "cost_at_most": cost_of(gpu_seconds, price_per_gpu_hour),
        }


def num_repeated(losses: Mapping[str, Any]) -> int:
    """Count the attempts in a report's summary that came to no end; reports of earlier versions have none."""
    return int(losses.get("segments_lost_with_their_machine", 0) + losses.get("segments_lost_with_their_process", 0))
