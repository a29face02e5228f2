"""Whether one more job is taken now, by what waits already: numbers in, a refusal or nothing out."""

import shutil
from pathlib import Path

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.serve.config import Limits, ServiceConfig
from seedvr2_ray.serve.db.job_rows import Load
from seedvr2_ray.serve.problems import RateRefusal
from seedvr2_ray.storage.location import is_local

_SHORTEST_PAUSE = 5
_LONGEST_PAUSE = 3600
_QUOTA_PAUSE = 600
"""What was used yesterday leaves the window bit by bit."""


def require_room(load: Load, limits: Limits, gpu_seconds: float, *, queue_seconds: float) -> None:
    """Refuse a job when there is too much to do already.

    A job that is larger than the whole queue may be is taken when nothing waits: it could never be taken otherwise.

    Args:
        load: what there is to do, and how many jobs the owner has.
        gpu_seconds: estimated for the job; 0 while that is not known.
        queue_seconds: how long what waits will take.

    Raises:
        RateRefusal: the owner or the whole deployment has reached a limit.
    """
    if load.num_unfinished_of_owner >= limits.max_unfinished_jobs_per_owner:
        raise RateRefusal(
            f"you have {load.num_unfinished_of_owner} unfinished jobs and {limits.max_unfinished_jobs_per_owner} are "
            "allowed; wait for one to end, or cancel one",
            _pause(queue_seconds / max(1, load.num_queued)),
        )
    if load.num_queued >= limits.max_queued_jobs:
        raise RateRefusal(
            f"{load.num_queued} jobs wait here and {limits.max_queued_jobs} are the most; try again later",
            _pause(queue_seconds / max(1, load.num_queued)),
        )
    waiting = load.queued_gpu_seconds
    if waiting and waiting + gpu_seconds > limits.max_queued_gpu_seconds:
        raise RateRefusal(
            f"about {waiting:.0f} s of device time wait here, this job would add {gpu_seconds:.0f} s and "
            f"{limits.max_queued_gpu_seconds:.0f} s are the most; try again later",
            _pause(queue_seconds * min(1.0, gpu_seconds / waiting)),
        )


def require_quota(load: Load, limits: Limits, gpu_seconds: float) -> None:
    """Refuse a job that would take its owner beyond the device time of a day.

    What his other jobs are estimated to take is reserved for them: it counts until they have ended and it is known.

    Args:
        load: what he has used, and reserved.
        gpu_seconds: estimated for the job; 0 while that is not known.

    Raises:
        RateRefusal: too little is left of the quota.
    """
    most = limits.gpu_seconds_per_day
    used, reserved = load.used_gpu_seconds_of_owner, load.reserved_gpu_seconds_of_owner
    if most and (used + reserved + gpu_seconds > most or used + reserved >= most):
        raise RateRefusal(
            f"you have used {used:.0f} s of device time in the last 24 hours, your unfinished jobs will take about "
            f"{reserved:.0f} s and this one about {gpu_seconds:.0f} s, and {most:.0f} s are allowed; "
            "try again later, ask for less, or ask the operator for more",
            _QUOTA_PAUSE,
        )


def require_free(data_url: str, min_free_bytes: int) -> None:
    """Refuse to take anything that may not fit. Object stores have no end that could be asked for.

    Raises:
        CapacityError: the disk that holds the deployment's data is all but full.
    """
    if not is_local(data_url):
        return
    folder = Path(data_url.removeprefix("file://"))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < min_free_bytes:
        raise CapacityError(
            f"{free} bytes are free where files are kept here and {min_free_bytes} must be; try again later"
        )


def queue_seconds(load: Load, config: ServiceConfig) -> float:
    """Estimate how long everything that is unfinished will take with all replicas there may be."""
    num_replicas = max(1, sum(pool.max_replicas for pool in config.pools.values()))
    return load.remaining_gpu_seconds / num_replicas


def _pause(seconds: float) -> int:
    return round(min(max(seconds, _SHORTEST_PAUSE), _LONGEST_PAUSE))
