"""What a gang cannot be, said in a sentence before any process is started or any frame is decoded.

Whether a picture can be shared by so many is asked with its memory: :mod:`seedvr2_ray.restoration.planning.gang`.
"""

import os
from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist

from seedvr2_ray.errors import DeploymentError, SettingsError
from seedvr2_ray.models.backends import SpStrategy
from seedvr2_ray.models.seedvr2.config import SeedVR2Config
from seedvr2_ray.models.seedvr2.transformer.ranks.by_heads import require_divisible_heads
from seedvr2_ray.models.swiftvr.config import SwiftVRConfig
from seedvr2_ray.models.weights.catalogue import ModelEntry

MOST_RANKS = 64
"""More devices than any machine has."""


def require_gang(entry: ModelEntry, size: int, strategy: SpStrategy) -> None:
    """Refuse a size that a model cannot be shared by.

    Raises:
        SettingsError: says which size or strategy can.
    """
    if not 1 <= size <= MOST_RANKS:
        raise SettingsError(f"a gang has 1 to {MOST_RANKS} ranks, got {size}")
    if size == 1:
        return
    if isinstance(entry.networks, SwiftVRConfig):
        if strategy != "auto":
            raise SettingsError(
                f"the ranks of {entry.name} have whole chunks, so it has no use for {strategy!r}; leave sp_strategy out"
            )
        return
    if not isinstance(entry.networks, SeedVR2Config):
        raise SettingsError(
            f"{entry.name} runs on one device at a time and cannot be shared by {size}; "
            "choose a model of SeedVR2 or SwiftVR, or a gang of 1"
        )
    if strategy == "ulysses":
        require_divisible_heads(entry.networks.transformer.num_heads, size)


def choose_devices(
    size: int,
    device: Literal["cuda", "cpu"],
    *,
    num_gpus: Callable[[], int] = torch.cuda.device_count,
    has_nccl: Callable[[], bool] = dist.is_nccl_available,
) -> tuple[str, ...] | None:
    """Return a GPU of this machine for each rank, as ``CUDA_VISIBLE_DEVICES`` names it; None on the CPU.

    Raises:
        SettingsError: there are fewer GPUs than ranks.
        DeploymentError: ranks on GPUs cannot talk to each other with this installation.
    """
    if device == "cpu":
        return None
    found = num_gpus()
    if size > found:
        raise SettingsError(
            f"{size} GPUs were asked for and this machine has {found}; "
            f"{f'ask for at most {found}, or ' if found > 1 else ''}say --device cpu to share the CPU's cores"
        )
    if not has_nccl():
        raise DeploymentError(
            f"this build of PyTorch ({torch.__version__}) has no NCCL, by which {size} GPUs talk to each other; "
            "install one that has, or use one GPU"
        )
    named = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return tuple((named or [str(number) for number in range(found)])[:size])
