"""On what a figure was measured, and where figures are kept."""

import os
import platform
from pathlib import Path

import torch


def describe_machine() -> dict[str, str | int | float]:
    """Return what a reader needs to judge a figure."""
    described: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name(0)
    return described


def results_folder() -> Path:
    """Return the folder of results, which is part of the repository."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    return folder


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
