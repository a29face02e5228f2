"""What this machine can do, and what to do where it cannot."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from seedvr2_ray.models.weights.download import WeightsSource

from seedvr2_ray.cli.console import show_doctor
from seedvr2_ray.cli.parameters import Json, Mirror, WeightsDir, say, weights_source


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    state: Literal["good", "missing", "bad"]
    """``missing`` costs speed or a feature; ``bad`` stops work."""
    subject: str
    detail: str


def doctor(weights_dir: WeightsDir = None, mirror: Mirror = None, as_json: Json = False) -> None:
    """Say what this machine can do.

    Looks for GPUs, attention kernels, encoders, weights and Ray; starts and downloads nothing.
    """
    from seedvr2_ray.storage.address import jsonable

    findings = examine(weights_source(weights_dir, mirror))
    say(as_json, jsonable(findings), partial(show_doctor, findings))


def examine(weights: "WeightsSource") -> tuple[Finding, ...]:
    """Look at the machine; starts nothing and downloads nothing."""
    return (*_machine(), *_torch(), *_media(), *_weights(weights), *_ray())


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("good", "machine", f"{platform.machine()}, {cores} cores, {memory:.0f} GiB memory")
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    yield Finding("good" if free > 5 else "bad", "disk here", f"{free:.0f} GiB free")
    yield Finding("good", "python", platform.python_version())


def _torch() -> Iterator[Finding]:
    import torch

    from seedvr2_ray.models.attention import available_backends

    yield Finding("good", "torch", torch.__version__)
    if not torch.cuda.is_available():
        yield Finding("missing", "gpu", "no CUDA device: nano and lanczos run here, the released models do not")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(index)
        yield Finding("good", f"gpu {index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    yield Finding("good", "attention", ", ".join(available_backends()))


def _media() -> Iterator[Finding]:
    from seedvr2_ray.media.output.libraries import available_codecs, library_versions

    versions = library_versions()
    yield Finding("good", "media libraries", f"PyAV {versions['pyav']}, libavcodec {versions['libavcodec']}")
    present, absent = available_codecs()
    yield Finding("good", "encoders", ", ".join(present))
    if absent:
        yield Finding("missing", "encoders", f"not in this build of PyAV: {', '.join(absent)}")


def _weights(weights: "WeightsSource") -> Iterator[Finding]:
    from seedvr2_ray.models.weights.download import list_models

    for model in list_models(weights):
        if model.state == "missing":
            yield Finding("missing", f"model {model.name}", f"not here; seedvr2-ray models pull {model.name}")
        else:
            yield Finding("good", f"model {model.name}", model.state)


def _ray() -> Iterator[Finding]:
    if importlib.util.find_spec("ray") is None:
        yield Finding("missing", "ray", "not installed: a single file restores without it, an archive does not")
    else:
        yield Finding("good", "ray", importlib.metadata.version("ray"))
