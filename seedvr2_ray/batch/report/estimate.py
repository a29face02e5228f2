"""What a job would do and cost, found out by planning all of it and restoring none."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray.data

from seedvr2_ray.batch.execution.cluster import SettledPool, ask_worker, identify_on_worker
from seedvr2_ray.batch.execution.stream import configure, shards_dataset
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, outcome_of, plan_row
from seedvr2_ray.batch.figures import cost_of
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.batch.manifest.normalise import Normalised, Shard, read_shard
from seedvr2_ray.batch.report.outcomes import quarantine_line
from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.restoration.load import local_device
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory, look_at_device
from seedvr2_ray.restoration.planning.forecast import forecast_memory
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.work.failures import Failure, describe_failure

_LISTED_REFUSALS = 1000
_GIB = 2**30


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
    devices: dict[str, float] = field(default_factory=dict)
    """What restorers run on, and the GiB that are free there; the smallest of several alike."""
    memory_gib: float = 0.0
    """Of the device, at the peak of the file that needs most of those that fit. 0 for filters, which need little."""
    gang_size: int = 1
    """GPUs that restore a segment together."""
    refusals: list[dict[str, Any]] = field(default_factory=list)
    """The first thousand, as they would stand in the quarantine."""

    @property
    def gpu_hours(self) -> float:
        """Device time at the assumed rate, of all devices of a restorer."""
        return self.megapixels_to_restore / self.megapixels_per_second / 3600 * self.gang_size

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
            "memory_per_restorer_gib": round(self.memory_gib, 2),
            "gpus_per_restorer": self.gang_size,
            "restorers_run_on": ", ".join(f"{name} ({gib:.1f} GiB free)" for name, gib in self.devices.items()),
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
    estimate = Estimate(
        megapixels_per_second=megapixels_per_second, price_per_gpu_hour=price_per_gpu_hour, gang_size=pool.gang_size
    )
    configure(ray.data.DataContext.get_current())
    for model in manifest.models():
        shards = [shard for shard in manifest.shards if shard.model == model]
        identity = identify_on_worker(job, next(read_shard(shards[0])).settings, pool)
        device = ask_worker(pool, _look_here).shared_by(pool.gang_size)
        estimate.devices[device.name] = min(device.free_bytes / _GIB, estimate.devices.get(device.name, math.inf))
        planned = shards_dataset(
            shards, estimates_of, pool, job=job, identity=identity, device=device, gang_size=pool.gang_size
        )
        for row in planned.iter_rows():
            _add(estimate, row)
    return estimate


def _look_here() -> DeviceMemory:
    return look_at_device(local_device())


def estimates_of(
    shard: Shard, job: Job, identity: RestorerIdentity, device: DeviceMemory, gang_size: int = 1
) -> Iterator[dict[str, Any]]:
    """Yield a few numbers for every row of a shard."""
    for row in read_shard(shard):
        yield _estimate_row(row, job, identity, device, gang_size)


def _estimate_row(
    row: ManifestRow, job: Job, identity: RestorerIdentity, device: DeviceMemory, gang_size: int
) -> dict[str, Any]:
    numbers = {"segments": 0, "to_restore": 0, "frames": 0, "megapixels": 0.0, "width": 0, "height": 0}
    empty = {**numbers, "memory_bytes": 0, "state": "planned"}
    empty |= dict.fromkeys(("stage", "error", "remedy", "path", "row", "target"), "")
    found = plan_row(row, job, identity)
    memory = None
    if isinstance(found, Video):
        try:
            memory = forecast_memory(found.plan, find_entry(identity.name), device, gang_size=gang_size)
        except SettingsError as error:
            found = outcome_of(row, describe_failure("restore", error))
    if memory is not None and memory.refusal:
        found = _too_large(row, memory.refusal)
    if isinstance(found, Video):
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
            "memory_bytes": memory.peak_bytes or 0 if memory is not None else 0,
        }
    if found.failure is None:
        return {**empty, "state": "done"}
    return {**empty, "state": "refused", **quarantine_line(found, found.failure)}


def _too_large(row: ManifestRow, refusal: str) -> VideoOutcome:
    remedy = "change the settings of this row, or run the job on devices with more memory or in larger gangs"
    return outcome_of(row, Failure(stage="restore", error=refusal, remedy=remedy))


def _add(estimate: Estimate, row: Mapping[str, Any]) -> None:
    estimate.files += 1
    estimate.already_done += row["state"] == "done"
    estimate.segments += row["segments"]
    estimate.segments_to_restore += row["to_restore"]
    estimate.frames_to_restore += row["frames"]
    estimate.megapixels_to_restore += row["megapixels"]
    if row["width"] * row["height"] > estimate.largest_output[0] * estimate.largest_output[1]:
        estimate.largest_output = (row["width"], row["height"])
    estimate.memory_gib = max(estimate.memory_gib, row["memory_bytes"] / _GIB)
    if row["state"] == "refused":
        estimate.refused += 1
        if len(estimate.refusals) < _LISTED_REFUSALS:
            estimate.refusals.append(
                {name: row[name] for name in ("path", "row", "target", "stage", "error", "remedy")}
            )
