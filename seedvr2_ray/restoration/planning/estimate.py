"""How long a plan will take, from what was measured: by this machine's earlier runs, else by ours."""

import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from seedvr2_ray.restoration.planning.plan import Plan

_MEASURED = Path(__file__).parent / "measured_rates.json"
_MOST_RUNS = 5
"""The last so many runs of a kind decide; older ones say how the machine was."""
_LONGEST_HISTORY = 500
_SHORTEST_SECONDS = 1.0
"""A run that restored for less than this measures its start more than its work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRate:
    """How fast one run went."""

    model: str
    device: str
    """``cpu``, or as CUDA reports it: ``NVIDIA H200``."""
    codec: str
    preset: str
    megapixels_per_second: float
    """Of the output; decoding, restoring and encoding together."""

    @classmethod
    def of_run(cls, plan: Plan, *, device: str, num_frames: int, seconds: float) -> Self | None:
        """Measure a finished run; None when it was too short to tell anything.

        Args:
            num_frames: what this run restored itself.
            seconds: of the stage in which they were restored and finished.
        """
        if seconds < _SHORTEST_SECONDS or num_frames == 0:
            return None
        geometry = plan.recipe.geometry
        rate = num_frames * geometry.width * geometry.height / 1e6 / seconds
        return cls(**_kind_of(plan, device), megapixels_per_second=round(rate, 6))


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long restoring will take."""

    seconds: float
    basis: str
    """Where that comes from, in words."""

    def __str__(self) -> str:
        return f"about {_in_words(self.seconds)} ({self.basis})"


def estimate_time(plan: Plan, *, device: str, num_frames: int, history: Path) -> Estimate | None:
    """Predict how long restoring takes; None when nothing like it was ever measured.

    Args:
        device: the name of the one that will restore.
        num_frames: what is still to be restored.
        history: the file that :func:`remember_run` writes.
    """
    megapixels = num_frames * plan.recipe.geometry.width * plan.recipe.geometry.height / 1e6
    kind = _kind_of(plan, device)
    known = [rate for rate in read_history(history) if (rate.model, rate.device) == (kind["model"], device)]
    alike = [rate for rate in known if (rate.codec, rate.preset) == (kind["codec"], kind["preset"])]
    latest = (alike or known)[-_MOST_RUNS:]
    if latest:
        rate = statistics.median(each.megapixels_per_second for each in latest)
        runs = "your last run" if len(latest) == 1 else f"your last {len(latest)} runs"
        like_it = "" if alike else ", with other encoder settings"
        return Estimate(megapixels / rate, f"from {runs} with this model here{like_it}")
    measured = json.loads(_MEASURED.read_text(encoding="utf-8")).get(kind["model"], {}).get(device)
    if measured is None:
        return None
    return Estimate(megapixels / measured["megapixels_per_second"], f"as measured on {measured['machine']}")


def remember_run(rate: RunRate, history: Path) -> None:
    """Add a run to the history. A history that cannot be written is no reason to fail."""
    try:
        lines = history.read_text(encoding="utf-8").splitlines()[1 - _LONGEST_HISTORY :] if history.exists() else []
        lines.append(json.dumps({**asdict(rate), "unix_seconds": round(time.time())}))
        history.parent.mkdir(parents=True, exist_ok=True)
        part = history.with_suffix(".part")
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        part.replace(history)
    except (OSError, UnicodeDecodeError):
        return


def read_history(history: Path) -> list[RunRate]:
    """Return the runs that were remembered, oldest first; what cannot be read is passed over."""
    try:
        lines = history.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return list(_parsed(lines))


def _parsed(lines: list[str]) -> Iterator[RunRate]:
    for line in lines:
        try:
            values = json.loads(line)
            rate = RunRate(**{name: values[name] for name in RunRate.__dataclass_fields__})
            if rate.megapixels_per_second > 0 and math.isfinite(rate.megapixels_per_second):
                yield rate
        except (ValueError, KeyError, TypeError):
            continue  # Cut off by a crash, or written by another version.


def _kind_of(plan: Plan, device: str) -> dict[str, str]:
    master = plan.recipe.master
    preset = dict(master.options).get("preset", "")
    return {"model": plan.recipe.restorer.name, "device": device, "codec": master.codec, "preset": preset}


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
