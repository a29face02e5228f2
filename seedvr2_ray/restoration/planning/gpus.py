"""GPUs by name: what vendors promise of them, for plans made where there is none."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from seedvr2_ray.errors import SettingsError

_TABLE = Path(__file__).parent / "gpus.json"
_LAUNCH_SECONDS = 3e-6
"""The least that one launch takes: an assumption, the same for every GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownGPU:
    """One kind of GPU."""

    name: str
    """As it is sold, with its memory."""
    memory_gib: float
    """That CUDA finds free on a card that nobody uses."""
    bf16_tflops: float
    fp32_tflops: float
    gigabytes_per_second: float
    source: str
    """Where rates and memory come from."""

    @property
    def free_bytes(self) -> int:
        """Of a card that nobody uses."""
        return int(self.memory_gib * 2**30)

    def seconds(self, flops: float, num_bytes: int, *, is_fp32: bool) -> float:
        """Return the shortest time one launch can take: that of arithmetic or of traffic, whichever is longer."""
        rate = self.fp32_tflops if is_fp32 else self.bf16_tflops
        return max(flops / (rate * 1e12), num_bytes / (self.gigabytes_per_second * 1e9), _LAUNCH_SECONDS)


@lru_cache(maxsize=1)
def known_gpus() -> dict[str, KnownGPU]:
    """Return all of them by their short names."""
    return {name: KnownGPU(**values) for name, values in json.loads(_TABLE.read_text(encoding="utf-8")).items()}


def find_gpu(name: str) -> KnownGPU:
    """Return the GPU of a name like ``h100``, ``h100-80g`` or ``rtx 4090``.

    Raises:
        SettingsError: none is called so.
    """
    for short, gpu in known_gpus().items():
        memory = re.search(r"(\d+) GB$", gpu.name)
        plain = _plain(short)
        sizes = [] if memory is None else [f"{plain}{memory[1]}g", f"{plain}{memory[1]}gb"]
        if _plain(name) in (plain, *sizes):
            return gpu
    names = ", ".join(short.lower().replace(" ", "-") for short in known_gpus())
    raise SettingsError(f"no GPU is known as {name!r}; choose one of {names}, or leave it out to plan for this machine")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
