"""A device to plan for: this machine's, or one that is only known by name."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from seedvr2_ray.restoration.device import default_dtype, device_name, free_bytes
from seedvr2_ray.restoration.planning.gpus import KnownGPU


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceMemory:
    """A device that may be another machine's: what has to be known of it to say what fits."""

    name: str
    """Under which memory costs are stored."""
    kind: str
    """As torch says it: ``cuda`` or ``cpu``."""
    dtype: torch.dtype
    free_bytes: int
    num_devices: int = 1
    """Of this kind in one machine."""

    @classmethod
    def of_gpu(cls, gpu: KnownGPU, num_devices: int = 1) -> Self:
        """Describe a machine of some GPUs that nobody uses, wherever it may be."""
        return cls(name=gpu.name, kind="cuda", dtype=torch.bfloat16, free_bytes=gpu.free_bytes, num_devices=num_devices)

    def shared_by(self, num_processes: int) -> Self:
        """Return what each of several processes has that share this machine: a GPU each, or a part of its memory."""
        if self.kind != "cpu":
            return self
        return replace(self, free_bytes=self.free_bytes // num_processes, num_devices=num_processes)


def look_at_device(device: torch.device) -> DeviceMemory:
    """Describe a device of this machine as it is now; of several GPUs, the one with the least free memory."""
    num_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    alike = [torch.device("cuda", number) for number in range(num_devices)] if num_devices > 1 else [device]
    return DeviceMemory(
        name=device_name(device),
        kind=device.type,
        dtype=default_dtype(device),
        free_bytes=min(free_bytes(each) for each in alike),
        num_devices=num_devices,
    )
