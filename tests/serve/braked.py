"""Restorers that a test slows down from outside their processes, and that keep a diary of what they were given.

Not a test module. Both the brake and the diary are files, for replicas live in processes that a test kills.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.load import CatalogueRestorers
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings

HELD = 1e6
"""Seconds per frame of a restorer that is at work until it is let go, stopped or killed."""
_STEP_SECONDS = 0.25
"""Between looks at the brake, and at whether the segment is still wanted: as between two steps of a network."""


@dataclass(frozen=True)
class Brake:
    """How slow restorers are, and what they have done. Jobs are told apart by their seeds."""

    folder: Path

    def set(self, seconds: float, *, seed: int, from_frame: int = 0) -> None:
        """Let every frame of a job take so long, in segments that begin at this frame or later."""
        self._write({"seconds": seconds, "seed": seed, "from_frame": from_frame})

    def release(self) -> None:
        """Slow nothing down."""
        self._write({"seconds": 0.0, "seed": -1, "from_frame": 0})

    def seconds(self, task: SegmentTask) -> float:
        """How long a frame of this segment takes at this moment."""
        try:
            rule = json.loads((self.folder / "brake").read_text())
        except FileNotFoundError:
            return 0.0
        applies = rule["seed"] == task.settings.seed and task.first_frame >= rule["from_frame"]
        return float(rule["seconds"]) if applies else 0.0

    def note(self, event: str, task: SegmentTask) -> None:
        """Add a line to the diary."""
        line = {"event": event, "seed": task.settings.seed, "frame": task.first_frame, "pid": os.getpid()}
        with (self.folder / "diary").open("a") as diary:
            diary.write(json.dumps(line) + "\n")

    def begun(self, seed: int) -> Counter[int]:
        """How often each segment of a job was begun, by its first frame."""
        return self._count("begun", seed)

    def beginnings(self) -> list[int]:
        """The seeds of the segments in the order in which they were begun."""
        return [line["seed"] for line in self._lines() if line["event"] == "begun"]

    def left(self, seed: int) -> Counter[int]:
        """How often each segment of a job was ended, finished or not, otherwise than by a kill."""
        return self._count("left", seed)

    def _count(self, event: str, seed: int) -> Counter[int]:
        return Counter(line["frame"] for line in self._lines() if (line["event"], line["seed"]) == (event, seed))

    def _lines(self) -> list[dict[str, Any]]:
        diary = self.folder / "diary"
        # Whoever is killed while writing leaves half a line.
        whole = diary.read_text().split("\n")[:-1] if diary.exists() else []
        return [json.loads(line) for line in whole if line.endswith("}")]

    def _write(self, rule: dict[str, Any]) -> None:
        new = self.folder / "brake.new"
        new.write_text(json.dumps(rule))
        new.replace(self.folder / "brake")


@dataclass(frozen=True)
class BrakedRestorers:
    """The models of the catalogue, on a brake; the filter stands in for SwiftVR, which takes streams as well."""

    brake: Brake
    catalogue: CatalogueRestorers = field(default_factory=CatalogueRestorers)

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        return LANCZOS if settings.model == "swiftvr" else self.catalogue.identify(settings)

    def load(self, settings: RestoreSettings) -> Restorer:
        if settings.model == "swiftvr":
            return LanczosRestorer()
        return _Braked(self.catalogue.load(settings), self.brake)


class _Braked:
    def __init__(self, restorer: Restorer, brake: Brake) -> None:
        self._restorer = restorer
        self._brake = brake

    @property
    def identity(self) -> RestorerIdentity:
        return self._restorer.identity

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        self._brake.note("begun", task)
        try:
            for batch in self._restorer.restore(frames, task):
                began = time.monotonic()
                while (rest := began + len(batch) * self._brake.seconds(task) - time.monotonic()) > 0:
                    time.sleep(min(rest, _STEP_SECONDS))
                    task.check_cancelled()
                yield batch
        finally:
            self._brake.note("left", task)
