"""What a job would do and cost, found out by planning all of it and restoring none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray.data

from seedvr2_ray.batch.cluster import SettledPool
from seedvr2_ray.batch.films import Film, plan_film
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest import ManifestRow
from seedvr2_ray.batch.normalise import Normalised, Shard, read_shard
from seedvr2_ray.batch.outcomes import quarantine_line
from seedvr2_ray.batch.pipeline import configure, identify_on_worker, shards_dataset
from seedvr2_ray.batch.report import cost_of
from seedvr2_ray.errors import SettingsError
from seedvr2_ray.restoration.restorer import RestorerIdentity

_LISTED_REFUSALS = 1000


@dataclass(slots=True)
class Estimate:
    """A plan of a whole archive, summed up."""

    megapixels_per_second: float
    """Assumed of one restorer, not measured."""
    price_per_gpu_hour: float
    files: int = 0
    already_done: int = 0
    refused: int = 0
    segments: int = 0
    segments_to_restore: int = 0
    frames_to_restore: int = 0
    megapixels_to_restore: float = 0.0
    largest_output: tuple[int, int] = (0, 0)
    """Width and height."""
    refusals: list[dict[str, Any]] = field(default_factory=list)
    """The first thousand, as they would stand in the quarantine."""

    @property
    def gpu_hours(self) -> float:
        """Device time at the assumed rate."""
        return self.megapixels_to_restore / self.megapixels_per_second / 3600

    def summary(self) -> dict[str, Any]:
        """Return the estimate in plain values."""
        width, height = self.largest_output
        return {
            "files": self.files,
            "already_done": self.already_done,
            "refused": self.refused,
            "segments": self.segments,
            "segments_to_restore": self.segments_to_restore,
            "frames_to_restore": self.frames_to_restore,
            "megapixels_to_restore": round(self.megapixels_to_restore, 3),
            "largest_output": f"{width}x{height}",
            "gpu_hours": round(self.gpu_hours, 4),
            "assumed_megapixels_per_second": self.megapixels_per_second,
            "cost": cost_of(self.gpu_hours * 3600, self.price_per_gpu_hour),
            "price_per_gpu_hour": self.price_per_gpu_hour,
            "refusals": self.refusals,
        }


def estimate_archive(
    job: Job,
    manifest: Normalised,
    pool: SettledPool,
    *,
    megapixels_per_second: float,
    price_per_gpu_hour: float,
) -> Estimate:
    """Plan every row. Shots are committed on the way, so the job itself plans faster afterwards."""
    if megapixels_per_second <= 0:
        raise SettingsError(f"a restorer makes more than 0 megapixels per second, got {megapixels_per_second:g}")
    estimate = Estimate(megapixels_per_second=megapixels_per_second, price_per_gpu_hour=price_per_gpu_hour)
    configure(ray.data.DataContext.get_current())
    for model in manifest.models():
        shards = [shard for shard in manifest.shards if shard.model == model]
        identity = identify_on_worker(job, next(read_shard(shards[0])).settings, pool)
        planned = shards_dataset(shards, estimates_of, pool, job=job, identity=identity)
        for row in planned.iter_rows():
            _add(estimate, row)
    return estimate


def estimates_of(shard: Shard, job: Job, identity: RestorerIdentity) -> Iterator[dict[str, Any]]:
    """Yield a few numbers for every row of a shard."""
    for row in read_shard(shard):
        yield _estimate_row(row, job, identity)


def _estimate_row(row: ManifestRow, job: Job, identity: RestorerIdentity) -> dict[str, Any]:
    numbers = {"segments": 0, "to_restore": 0, "frames": 0, "megapixels": 0.0, "width": 0, "height": 0}
    empty = {**numbers, "state": "planned", "stage": "", "error": "", "remedy": "", "path": "", "row": "", "target": ""}
    found = plan_film(row, job, identity)
    if isinstance(found, Film):
        geometry, segments = found.plan.recipe.geometry, found.plan.segments
        to_restore = found.work().to_restore
        frames = sum(segments[index].num_frames for index in to_restore)
        return {
            **empty,
            "segments": len(segments),
            "to_restore": len(to_restore),
            "frames": frames,
            "megapixels": frames * geometry.width * geometry.height / 1e6,
            "width": geometry.width,
            "height": geometry.height,
        }
    if found.failure is None:
        return {**empty, "state": "done"}
    return {**empty, "state": "refused", **quarantine_line(found, found.failure)}


def _add(estimate: Estimate, row: Mapping[str, Any]) -> None:
    estimate.files += 1
    estimate.already_done += row["state"] == "done"
    estimate.segments += row["segments"]
    estimate.segments_to_restore += row["to_restore"]
    estimate.frames_to_restore += row["frames"]
    estimate.megapixels_to_restore += row["megapixels"]
    if row["width"] * row["height"] > estimate.largest_output[0] * estimate.largest_output[1]:
        estimate.largest_output = (row["width"], row["height"])
    if row["state"] == "refused":
        estimate.refused += 1
        if len(estimate.refusals) < _LISTED_REFUSALS:
            estimate.refusals.append(
                {name: row[name] for name in ("path", "row", "target", "stage", "error", "remedy")}
            )
