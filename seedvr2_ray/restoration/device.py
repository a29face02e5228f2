"""The device a restorer runs on: what it is called, how much memory is free, and what running out looks like."""

import gc
import os
from pathlib import Path

import torch

_MEMORY_INFO = Path("/proc/meminfo")
_GROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def device_name(device: torch.device) -> str:
    """Return the name under which memory costs are stored."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def default_dtype(device: torch.device) -> torch.dtype:
    """Return what models compute in unless told otherwise: bfloat16 where the device has it, float32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def free_bytes(device: torch.device) -> int:
    """Return what may still be allocated, including what torch's allocator holds without using it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([_host_free_bytes(), *_group_free_bytes()])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed; a CPU's is an ordinary RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def release_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _host_free_bytes() -> int:
    if _MEMORY_INFO.exists():
        for line in _MEMORY_INFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_free_bytes() -> list[int]:
    """Return what the container's memory limit leaves, where there is one."""
    found = []
    for limit, usage in _GROUP_LIMITS:
        try:
            found.append(int(limit.read_text()) - int(usage.read_text()))
        except (OSError, ValueError):
            # No such file, or "max": this kind of limit does not apply here.
            continue
    return found
