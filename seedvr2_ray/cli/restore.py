"""``seedvr2-ray restore`` and ``seedvr2-ray plan``: one video or image on this machine."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from seedvr2_ray.cli.options import with_settings
from seedvr2_ray.cli.parameters import (
    Attention,
    Compile,
    Device,
    FrameRange,
    From,
    GangSize,
    Gpus,
    Json,
    MaxPixels,
    Mirror,
    PlannedGPU,
    PlannedGPUs,
    Source,
    SpStrategy,
    Target,
    To,
    WeightsDir,
    device_to_plan_for,
    history_file,
    probe_limits,
    say,
    weights_source,
)
from seedvr2_ray.excerpts import excerpt_of
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS
from seedvr2_ray.settings import RestoreSettings

if TYPE_CHECKING:
    from seedvr2_ray.restoration.load import DeviceChoice
    from seedvr2_ray.restoration.run import Finished


@with_settings
def restore(
    source: Source,
    target: Target,
    settings: RestoreSettings,
    begin: From = "",
    end: To = "",
    frames: FrameRange = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target if it exists.")] = False,
    work: Annotated[
        str | None, typer.Option(help="Folder for intermediates; by default a hidden one beside OUT.")
    ] = None,
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Leave the intermediates in place.")] = False,
    report: Annotated[bool, typer.Option(help="Write OUT.html with figures and before/after pictures.")] = True,
    weights_dir: WeightsDir = None,
    mirror: Mirror = None,
    attention: Attention = "sdpa",
    compile_transformer: Compile = False,
    gpus: Gpus = None,
    device: Device = "auto",
    sp_strategy: SpStrategy = "auto",
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
) -> None:
    """Restore one video or image.

    Stopping it (Ctrl-C, a crash, a power cut) loses at most the segment in work: run the same command
    again and it goes on. Sound, subtitles, chapters, attachments and metadata are copied; a JSON file
    beside OUT says what was done, with which model, and what could not be kept. --from, --to and --frames
    restore an excerpt first; what it restored is not restored again for the whole.
    """
    settings = replace(settings, excerpt=excerpt_of(begin, end, frames))
    # torch and everything above it take seconds to import, which other commands would pay for with each start.
    from seedvr2_ray.cli.console import RunDisplay, StopSignals, show_finished
    from seedvr2_ray.restoration.load import LoadOptions
    from seedvr2_ray.restoration.one_file import restore_one_file

    options = LoadOptions(
        weights=weights_source(weights_dir, mirror),
        attention=attention,
        compile=compile_transformer,
        device=device,
        gpus=gpus,
        sp_strategy=sp_strategy,
    )
    with RunDisplay(quiet=as_json) as display, StopSignals(display) as stop:
        finished, num_gpus = restore_one_file(
            source,
            target,
            settings,
            options,
            work_folder=work,
            keep_work=keep_work,
            overwrite=overwrite,
            limits=probe_limits(max_pixels),
            max_pixels=max_pixels,
            report=report,
            progress=display,
            check_cancelled=stop.check,
        )
    if num_gpus == 1:
        _remember(finished, device)
    say(as_json, finished.summary(), partial(show_finished, finished))


@with_settings
def plan(
    source: Source,
    target: Target,
    settings: RestoreSettings,
    begin: From = "",
    end: To = "",
    frames: FrameRange = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Plan as if the target might be replaced.")] = False,
    work: Annotated[str | None, typer.Option(help="Folder for intermediates, as for restore.")] = None,
    weights_dir: WeightsDir = None,
    mirror: Mirror = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    gpu: PlannedGPU = None,
    gpus: PlannedGPUs = None,
    gang_size: GangSize = None,
    as_json: Json = False,
) -> None:
    """Show what restore would do.

    Reads the source and spends nothing else: size, segments, memory, GPUs, time, and what would be refused.
    Weights need not be on this machine; what an earlier run has restored is taken into account.
    """
    settings = replace(settings, excerpt=excerpt_of(begin, end, frames))
    from seedvr2_ray.cli.console import show_plan
    from seedvr2_ray.restoration.load import LoadOptions, find_model
    from seedvr2_ray.restoration.one_file import plan_one_file
    from seedvr2_ray.restoration.planning.estimate import estimate_time
    from seedvr2_ray.restoration.planning.forecast import forecast_memory
    from seedvr2_ray.storage.address import jsonable

    device = device_to_plan_for(gpu, gpus)
    outlook = plan_one_file(
        source,
        target,
        settings,
        LoadOptions(weights=weights_source(weights_dir, mirror), may_download=False),
        work_folder=work,
        overwrite=overwrite,
        limits=probe_limits(max_pixels),
        max_pixels=max_pixels,
    )
    made, num_frames = outlook.plan, outlook.frames_to_restore
    memory = forecast_memory(made, find_model(settings), device, gang_size=gang_size)
    duration = estimate_time(made, device=device.name, num_frames=num_frames, history=history_file())
    values = {**outlook.summary(), "memory": memory, "time": duration, "notices": made.notices}
    say(as_json, jsonable(values), partial(show_plan, made, num_frames, memory, duration))


def _remember(finished: "Finished", device: "DeviceChoice") -> None:
    from seedvr2_ray.restoration.device import device_name
    from seedvr2_ray.restoration.load import local_device
    from seedvr2_ray.restoration.planning.estimate import RunRate, remember_run

    rate = RunRate.of_run(
        finished.plan,
        device=device_name(local_device(device)),
        num_frames=finished.restored_frames,
        seconds=finished.stages["restore"],
    )
    if rate is not None:
        remember_run(rate, history_file())
