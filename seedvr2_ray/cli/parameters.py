"""Options that several commands share, and what they mean."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from seedvr2_ray.media.probe import ProbeLimits
    from seedvr2_ray.models.weights.download import WeightsSource
    from seedvr2_ray.restoration.planning.device_memory import DeviceMemory

_GPUS_OF_A_MACHINE = 8
"""Of the machines that are rented by such names."""
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, for programs.")]
WeightsDir = Annotated[
    Path | None, typer.Option(envvar="SEEDVR2_WEIGHTS_DIR", help="Folder with checkpoints; downloads go there too.")
]
Mirror = Annotated[
    str | None,
    typer.Option(envvar="SEEDVR2_WEIGHTS_MIRROR", help="URL of a folder with checkpoints, asked before the hub."),
]
ModelName = Annotated[str, typer.Argument(help="As seedvr2-ray models list names it.")]
Source = Annotated[str, typer.Argument(metavar="IN", help="A video or image: a path, or a URL that fsspec opens.")]
Target = Annotated[str, typer.Argument(metavar="OUT", help="Where the result goes; its suffix chooses the container.")]
Attention = Annotated[
    AttentionBackend, typer.Option(help="Attention kernel; see seedvr2-ray doctor for what runs here.")
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the transformer while loading: a minute or more, for long material."),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        min=1, help="GPUs of this machine that restore each segment together; by default one, or the fewest that can."
    ),
]
Device = Annotated[
    Literal["auto", "cpu"],
    typer.Option(help="cpu leaves GPUs alone; with --gpus N, so many processes share the cores."),
]
SpStrategy = Annotated[
    Literal["auto", "windows", "ulysses"], typer.Option(help="How several GPUs share the transformer's work.")
]
PlannedGPU = Annotated[
    str | None, typer.Option("--gpu", help="Plan for this GPU, such as h100, instead of the device at hand.")
]
PlannedGPUs = Annotated[
    int | None, typer.Option("--node-gpus", min=1, help="GPUs of the machine; by default those at hand, or 8 of --gpu.")
]
GangSize = Annotated[
    int | None, typer.Option(help="GPUs that restore a segment together; by default the fewest that can.")
]
MaxPixels = Annotated[int, typer.Option(min=1, help="Largest picture, read or written, in pixels: width times height.")]

From = Annotated[
    str, typer.Option("--from", metavar="TIME", help="Restore an excerpt that begins there: 75.5, 1:15.5.")
]
To = Annotated[str, typer.Option("--to", metavar="TIME", help="Where the excerpt ends.")]
FrameRange = Annotated[
    str, typer.Option("--frames", metavar="A-B", help="The excerpt by numbers of frames from 0, the last one included.")
]


def weights_source(weights_dir: Path | None, mirror: str | None) -> "WeightsSource":
    """Say where checkpoints are looked for."""
    from seedvr2_ray.models.weights.download import WeightsSource

    return WeightsSource(weights_dir=weights_dir, mirror_url=mirror)


def probe_limits(max_pixels: int) -> "ProbeLimits":
    """Return the limits of a probe; larger pictures than usual are read only when asked for."""
    from seedvr2_ray.media.probe import ProbeLimits

    if max_pixels <= DEFAULT_MAX_PIXELS:
        return ProbeLimits()
    return ProbeLimits(max_width=max_pixels, max_height=max_pixels, max_pixels=max_pixels)


def device_to_plan_for(gpu: str | None, num_gpus: int | None) -> "DeviceMemory":
    """Return the machine that was named, or this one.

    Raises:
        SettingsError: no GPU is known by that name.
    """
    from dataclasses import replace

    from seedvr2_ray.restoration.load import local_device
    from seedvr2_ray.restoration.planning.device_memory import DeviceMemory, look_at_device
    from seedvr2_ray.restoration.planning.gpus import find_gpu

    if gpu is not None:
        return DeviceMemory.of_gpu(find_gpu(gpu), num_gpus or _GPUS_OF_A_MACHINE)
    device = look_at_device(local_device())
    return device if num_gpus is None else replace(device, num_devices=num_gpus)


def history_file() -> Path:
    """Return where it is noted how fast earlier runs of this machine were."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "seedvr2-ray" / "runs.jsonl"


def say(as_json: bool, values: Any, show: Callable[[Console], None]) -> None:
    """Print an outcome: one JSON object for a program, or tables for a person."""
    if as_json:
        typer.echo(json.dumps(values, indent=1, ensure_ascii=False))
    else:
        show(Console(highlight=False, soft_wrap=True))
