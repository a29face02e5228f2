"""What a gang cannot be, said in a sentence before any process is started or any frame is decoded."""

import os
from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist

from seedvr2_ray.errors import DeploymentError, SettingsError
from seedvr2_ray.models.weights.catalogue import ModelEntry
from seedvr2_ray.restoration.gang.messages import Strategy
from seedvr2_ray.restoration.planning.geometry import Geometry

MOST_RANKS = 64
"""More devices than any machine has."""


def require_gang(entry: ModelEntry, size: int, strategy: Strategy) -> None:
    """Refuse a size that a model cannot be shared by.

    Raises:
        SettingsError: says which size or strategy can.
    """
    if not 1 <= size <= MOST_RANKS:
        raise SettingsError(f"a gang has 1 to {MOST_RANKS} ranks, got {size}")
    if size == 1:
        return
    if entry.transformer is None or entry.swiftvr is not None:
        raise SettingsError(
            f"{entry.name} runs on one device at a time and cannot be shared by {size}; "
            "choose a model of SeedVR2, or a gang of 1"
        )
    num_heads = entry.transformer.num_heads
    if strategy == "ulysses" and num_heads % size:
        fitting = [each for each in range(1, num_heads + 1) if num_heads % each == 0]
        raise SettingsError(
            f"ulysses gives every rank as many of the {num_heads} attention heads of {entry.name} as the others, and "
            f"{size} does not divide them; choose a size of {', '.join(map(str, fitting))}, or the strategy windows"
        )


def require_rows(geometry: Geometry, size: int, rows_per_latent: int) -> None:
    """Refuse a picture that has fewer rows than there are ranks.

    Args:
        rows_per_latent: of pixels, in a row of what the autoencoder makes of them.

    Raises:
        SettingsError: says how many ranks it has rows for.
    """
    num_rows = -(-geometry.height // rows_per_latent)
    if size > num_rows:
        raise SettingsError(
            f"an output of {geometry.width}x{geometry.height} has {num_rows} rows of latents and a gang of {size} "
            f"needs one for each rank; use a gang of at most {num_rows}"
        )


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
