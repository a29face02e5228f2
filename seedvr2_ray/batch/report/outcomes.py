"""How every file of an archive ended, on disk and summed up: memory does not grow with the archive."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.errors import StorageError
from seedvr2_ray.restoration.work.failures import Failure
from seedvr2_ray.storage.location import publish

_log = logging.getLogger(__name__)

_PUBLISH_SECONDS = 60.0


@dataclass(slots=True)
class Totals:
    """Sums over all outcomes so far."""

    files: dict[str, int] = field(default_factory=lambda: {"published": 0, "skipped": 0, "quarantined": 0})
    sums: dict[str, float] = field(default_factory=dict)
    """Of the figures of files that are done."""
    qualities: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Sum and weight, in frames, of each quality that was measured."""

    def add(self, outcome: VideoOutcome) -> None:
        """Count one more file."""
        self.files[outcome.state] += 1
        frames = float(outcome.figures.get("frames", 0))
        for name in SUMMED:
            self.sums[name] = self.sums.get(name, 0.0) + float(outcome.figures.get(name, 0))
        for name in QUALITIES:
            value = outcome.figures.get(name)
            if value is not None:
                total, weight = self.qualities.get(name, (0.0, 0.0))
                self.qualities[name] = (total + value * frames, weight + frames)

    def means(self) -> dict[str, float | None]:
        """Return the mean of each quality per frame, or None where nothing was measured."""
        found = {name: self.qualities.get(name, (0.0, 0.0)) for name in QUALITIES}
        return {name: round(total / weight, 4) if weight else None for name, (total, weight) in found.items()}


SUMMED = (
    "frames",
    "restored_frames",
    "restored_megapixels",
    "segments",
    "duration_seconds",
    "gpu_seconds",
    "idle_seconds",
    "missing_frames",
)
"""Figures that are added up over files."""
QUALITIES = ("psnr", "ssim", "colour_error")
"""Figures of which a mean per frame is given."""


class OutcomeLog:
    """Writes outcomes to a local file, and those of refused files to ``quarantine.jsonl`` as well.

    Only the driver has one, so each file has one writer.
    """

    def __init__(self, local_folder: Path, quarantine_url: str) -> None:
        """Begin an empty log; the quarantine of an earlier run is replaced."""
        self.totals = Totals()
        self._path = local_folder / "outcomes.jsonl"
        self._quarantine_path = local_folder / "quarantine.jsonl"
        self._quarantine_url = quarantine_url
        self._outcomes = self._path.open("w", encoding="utf-8")
        self._quarantine = self._quarantine_path.open("w", encoding="utf-8")
        self._published = time.monotonic()
        self._publish_quarantine()

    def add(self, outcome: VideoOutcome) -> None:
        """Note how one file ended."""
        self.totals.add(outcome)
        _write_line(self._outcomes, asdict(outcome))
        if outcome.failure is not None:
            _write_line(self._quarantine, quarantine_line(outcome, outcome.failure))

    def keep_current(self) -> None:
        """Let readers see the quarantine from time to time while the job runs."""
        if time.monotonic() - self._published > _PUBLISH_SECONDS:
            try:
                self._publish_quarantine()
            except StorageError as error:  # The run goes on, and it is published at the next time.
                self._published = time.monotonic()
                _log.warning("the list of what was set aside is not current: %s", error)

    def close(self) -> None:
        """Publish the quarantine and end the log."""
        self._publish_quarantine()
        self._outcomes.close()
        self._quarantine.close()

    def read(self) -> Iterator[VideoOutcome]:
        """Yield all outcomes that were noted, from disk."""
        self._outcomes.flush() if not self._outcomes.closed else None
        with self._path.open(encoding="utf-8") as lines:
            for line in lines:
                values = json.loads(line)
                failure = values.pop("failure")
                yield VideoOutcome(**values, failure=None if failure is None else Failure(**failure))

    def _publish_quarantine(self) -> None:
        self._quarantine.flush()
        # A copy: what is published must not be written to afterwards.
        snapshot = self._quarantine_path.with_suffix(".snapshot")
        snapshot.write_bytes(self._quarantine_path.read_bytes())
        publish(snapshot, self._quarantine_url, overwrite=True)
        snapshot.unlink()
        self._published = time.monotonic()


def quarantine_line(outcome: VideoOutcome, failure: Failure) -> dict[str, Any]:
    """Return what a person, or a program, needs to deal with a file that was set aside."""
    return {
        "path": outcome.source,
        "row": outcome.where,
        "target": outcome.target,
        "stage": failure.stage,
        "error": failure.error,
        "remedy": failure.remedy,
        "settings": dict(outcome.settings),
    }


def _write_line(file: IO[str], values: Mapping[str, Any]) -> None:
    file.write(json.dumps(values, ensure_ascii=False) + "\n")
