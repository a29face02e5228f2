"""What a job would take and cost, said before anything is spent: from the probed source and the settings alone."""

from dataclasses import dataclass, replace

from seedvr2_ray.errors import InputError
from seedvr2_ray.media.info import MediaInfo, Notice
from seedvr2_ray.restoration.planning.plan import plan_video
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.serve.config import ModelPool
from seedvr2_ray.serve.pools import choose_pool
from seedvr2_ray.serve.security.wording import explained
from seedvr2_ray.serve.target_names import target_name
from seedvr2_ray.settings import RestoreSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEstimate:
    """An estimate of one job."""

    segments: int
    """Without looking for shots, which would mean decoding everything; cuts only add to them."""
    frames: int
    """That go through the model: those of the source and the overlaps of segments."""
    width: int
    height: int
    seconds: float
    """Of restoring, once begun, with every replica there may be and nobody else at work."""
    gpu_seconds: float
    cost: float
    source_width: int = 0
    """As stored; 0 where the source could not be looked at."""
    source_height: int = 0
    notices: tuple[Notice, ...] = ()
    refusals: tuple[str, ...] = ()
    """Why the job would be refused; empty when it would be taken."""
    queue_seconds: float = 0.0
    """Before it begins, judging by what waits now."""
    gang_size: int = 1
    """GPUs that restore a segment together here."""
    bytes_per_gpu: int | None = None
    """Predicted, at the fullest; None where the deployment does not say what its GPUs hold, and for filters."""


def estimate_job(
    media: MediaInfo,
    settings: RestoreSettings,
    pool: ModelPool,
    *,
    name: str,
    max_pixels: int,
    gang_size: int | None = None,
) -> JobEstimate:
    """Estimate a job whose source has been probed.

    Args:
        pool: that of the settings' model.
        name: of the source's file; its ending may choose the container.
        max_pixels: of an output picture here.
        gang_size: GPUs that the caller wants to work together; None leaves it to the plan.
    """
    try:
        plan = plan_video(
            media,
            settings,
            source=name,
            fingerprint=name,
            shots=(0,),
            # Sizes and cuts do not depend on the weights, which need not be here.
            restorer=RestorerIdentity(settings.model, "estimate"),
            target=target_name(media, settings, name),
            max_pixels=max_pixels,
        )
        chosen = choose_pool(plan, pool, gang_size)
        pool, memory = chosen.pool, chosen.memory
    except InputError as error:
        return replace(refused(explained(error)), frames=media.video.num_frames, notices=media.preflight)
    seconds = plan.restored_megapixels / pool.megapixels_per_second
    gpu_seconds = seconds * pool.gang_size
    return JobEstimate(
        segments=len(plan.segments),
        frames=plan.restored_frames,
        width=plan.recipe.geometry.width,
        height=plan.recipe.geometry.height,
        seconds=seconds / max(1, min(pool.max_replicas, len(plan.segments))),
        gpu_seconds=gpu_seconds,
        cost=gpu_seconds * pool.price_per_gpu_hour / 3600,
        source_width=media.video.width,
        source_height=media.video.height,
        notices=plan.notices,
        refusals=() if memory is None or not memory.refusal else (memory.refusal,),
        gang_size=pool.gang_size,
        bytes_per_gpu=None if memory is None else memory.peak_bytes,
    )


def refused(reason: str) -> JobEstimate:
    """Say that a job would not be taken."""
    return JobEstimate(
        segments=0, frames=0, width=0, height=0, seconds=0.0, gpu_seconds=0.0, cost=0.0, refusals=(reason,)
    )
