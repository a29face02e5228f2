"""What one restored file cost and how good it is, from what was noted about its segments."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.settings import RestoreSettings


def figures_of(plan: Plan, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Sum up the records of all segments.

    Returns:
        Plain values. A quality that was not measured is None. ``gpu_seconds`` counts what restoring took,
        whatever the device and of all devices of a gang; ``idle_seconds`` of it were spent waiting for decoded frames.
    """
    restored = [segment["restored"] for segment in provenance["segments"]]
    lengths = [stop - start for start, stop in (record["frames"] for record in restored)]
    return {
        "frames": plan.media.video.num_frames,
        "restored_frames": plan.restored_frames,
        "restored_megapixels": round(plan.restored_megapixels, 3),
        "segments": len(plan.segments),
        "duration_seconds": round(float(plan.media.duration_seconds), 3),
        "published_at": provenance.get("published_at", ""),
        "settings": json.dumps(_chosen(provenance["settings"])),
        "converted": _notices(provenance, "converted"),
        "losses": _notices(provenance, "left_out"),
        "outputs": _outputs(provenance),
        "size": f"{plan.recipe.geometry.width}x{plan.recipe.geometry.height}",
        "model": plan.recipe.restorer.name,
        "gpu_seconds": round(sum(record["seconds"] * record.get("gang_size", 1) for record in restored), 3),
        "idle_seconds": round(sum(record["idle_seconds"] * record.get("gang_size", 1) for record in restored), 3),
        "missing_frames": sum(len(record["missing_frames"]) for record in restored),
        "psnr": _mean(restored, lengths, lambda quality: quality.get("psnr")),
        "ssim": _mean(restored, lengths, lambda quality: quality.get("ssim")),
        "colour_error": _mean(restored, lengths, lambda quality: quality.get("colour_error")),
    }


def cost_of(gpu_seconds: float, price_per_gpu_hour: float) -> float:
    """Return what so many seconds cost."""
    return round(gpu_seconds / 3600 * price_per_gpu_hour, 4)


def _chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is as it would be anyway."""
    usual = RestoreSettings().to_mapping()
    return {name: value for name, value in settings.items() if usual.get(name) != value}


def _notices(provenance: Mapping[str, Any], outcome: str) -> list[str]:
    return [f"{each['subject']}: {each['reason']}" for each in provenance["preflight"] if each["outcome"] == outcome]


def _outputs(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return size and hash of the master; of a sequence they stand in its provenance, which may name thousands."""
    outputs = provenance["target"].get("outputs", [])
    return [dict(each) for each in outputs] if len(outputs) == 1 else []


def _mean(
    records: Sequence[Mapping[str, Any]], weights: Sequence[int], figure: Callable[[Mapping[str, Any]], float | None]
) -> float | None:
    measured = [
        (value, weight)
        for record, weight in zip(records, weights, strict=True)
        if (value := figure(record.get("quality") or {})) is not None
    ]
    total = sum(weight for _, weight in measured)
    return round(sum(value * weight for value, weight in measured) / total, 4) if total else None
