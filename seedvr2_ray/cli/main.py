"""The command line: ``seedvr2-ray restore IN OUT`` and what helps before and after it."""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import seedvr2_ray
from seedvr2_ray.cli.batch import batch
from seedvr2_ray.cli.cluster import cluster_app
from seedvr2_ray.cli.console import (
    PullDisplay,
    RunDisplay,
    StopSignals,
    show_doctor,
    show_files,
    show_finished,
    show_media,
    show_models,
    show_plan,
)
from seedvr2_ray.cli.doctor import examine
from seedvr2_ray.cli.keys import keys_app
from seedvr2_ray.cli.options import with_settings
from seedvr2_ray.errors import DeploymentError, InputError, SeedVR2Error
from seedvr2_ray.media.container.probe import ProbeLimits, probe
from seedvr2_ray.models.attention import AttentionBackend
from seedvr2_ray.models.weights.download import WeightsSource, list_models, pull_model, verify_model
from seedvr2_ray.restoration.device import device_name
from seedvr2_ray.restoration.load import LoadOptions, find_model, identify, load_restorer, local_device
from seedvr2_ray.restoration.planning.estimate import RunRate, estimate_time, remember_run
from seedvr2_ray.restoration.planning.forecast import forecast_memory, look_at_device
from seedvr2_ray.restoration.run import (
    DEFAULT_MAX_PIXELS,
    Finished,
    prepare,
    require_source,
    require_target,
    restore_video,
)
from seedvr2_ray.restoration.work.work_folder import open_work_to_look
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import jsonable

INTERRUPTED = 130

app = typer.Typer(
    name="seedvr2-ray",
    help="Restore and enlarge video with SeedVR2: resumable, with sound and colour kept.",
    epilog=(
        "Exit codes: 0 done, 1 a mistake of ours, 2 settings or input refused, 3 the source cannot be used, "
        "4 the target cannot be written, 5 no memory, disk or store now (try again later), 6 this installation "
        "cannot do it (see seedvr2-ray doctor), 130 stopped (run the same command to go on)."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="List, download and verify models.", no_args_is_help=True)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(seedvr2_ray.__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")
app.add_typer(cluster_app, name="cluster")
app.command("batch")(batch)

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
MaxPixels = Annotated[int, typer.Option(min=1, help="Largest picture, read or written, in pixels: width times height.")]


@app.command()
@with_settings
def restore(
    source: Source,
    target: Target,
    settings: RestoreSettings,
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
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
) -> None:
    """Restore one video or image.

    Stopping it (Ctrl-C, a crash, a power cut) loses at most the segment in work: run the same command
    again and it goes on. Sound, subtitles, chapters, attachments and metadata are copied; a JSON file
    beside OUT says what was done, with which model, and what could not be kept.
    """
    require_source(source)
    require_target(source, target, overwrite=overwrite)
    options = LoadOptions(weights=_weights(weights_dir, mirror), attention=attention, compile=compile_transformer)
    with RunDisplay(quiet=as_json) as display, StopSignals(display) as stop:
        finished = restore_video(
            source,
            target,
            settings,
            identify(settings, options),
            partial(load_restorer, settings, options),
            work_folder=work,
            keep_work=keep_work,
            overwrite=overwrite,
            limits=_limits(max_pixels),
            max_pixels=max_pixels,
            progress=display,
            report=report,
            check_cancelled=stop.check,
        )
    _remember(finished)
    _say(as_json, finished.summary(), partial(show_finished, finished))


@app.command("probe")
def probe_command(
    source: Source,
    salvage: Annotated[bool, typer.Option("--salvage", help="Describe a damaged file instead of refusing it.")] = False,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
) -> None:
    """Say what a file holds.

    Also says what restore would keep, convert, leave out or refuse of it, and why.
    """
    require_source(source)
    media = probe(source, limits=_limits(max_pixels), salvage=salvage)
    _say(as_json, jsonable(media, leave_out=("frame_pts",)), partial(show_media, media))


@app.command()
@with_settings
def plan(
    source: Source,
    target: Target,
    settings: RestoreSettings,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Plan as if the target might be replaced.")] = False,
    work: Annotated[str | None, typer.Option(help="Folder for intermediates, as for restore.")] = None,
    weights_dir: WeightsDir = None,
    mirror: Mirror = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
) -> None:
    """Show what restore would do.

    Reads the source and spends nothing else: size, segments, memory, time, and what would be refused.
    Weights need not be on this machine; what an earlier run has restored is taken into account.
    """
    require_source(source)
    require_target(source, target, overwrite=overwrite)
    options = LoadOptions(weights=_weights(weights_dir, mirror), may_download=False)
    device = local_device()
    with open_work_to_look(target, work) as (store, workspace):
        prepared = prepare(
            source,
            target,
            settings,
            identify(settings, options),
            store=store,
            workspace=workspace,
            limits=_limits(max_pixels),
            max_pixels=max_pixels,
            overwrite=overwrite,
        )
        num_frames = prepared.frames_to_restore
    made = prepared.plan
    memory = forecast_memory(made, find_model(settings), look_at_device(device))
    duration = estimate_time(made, device=device_name(device), num_frames=num_frames, history=_history())
    values = {
        **made.summary(),
        "frames_restored_earlier": made.restored_frames - num_frames,
        "memory": memory,
        "time": duration,
        "notices": made.notices,
    }
    _say(as_json, jsonable(values), partial(show_plan, made, num_frames, memory, duration))


@app.command()
def doctor(weights_dir: WeightsDir = None, mirror: Mirror = None, as_json: Json = False) -> None:
    """Say what this machine can do.

    Looks for GPUs, attention kernels, encoders, weights and Ray; starts and downloads nothing.
    """
    findings = examine(_weights(weights_dir, mirror))
    _say(as_json, jsonable(findings), partial(show_doctor, findings))


@models_app.command("list")
def models_list(weights_dir: WeightsDir = None, mirror: Mirror = None, as_json: Json = False) -> None:
    """List all models, and which are here."""
    models = list_models(_weights(weights_dir, mirror))
    _say(as_json, jsonable(models), partial(show_models, models))


@models_app.command("pull")
def models_pull(name: ModelName, weights_dir: WeightsDir = None, mirror: Mirror = None, as_json: Json = False) -> None:
    """Download a model and verify it.

    An interrupted download goes on where it stopped; what is here already is only verified.
    """
    source = _weights(weights_dir, mirror)
    with PullDisplay(quiet=as_json) as display:
        pull_model(name, source, display.downloaded)
    files = verify_model(name, source)
    _say(as_json, jsonable(files), partial(show_files, files))


@models_app.command("verify")
def models_verify(
    name: ModelName, weights_dir: WeightsDir = None, mirror: Mirror = None, as_json: Json = False
) -> None:
    """Check that a model is intact.

    Hashes every file and compares it with what was published; exits with 6 if one is missing or damaged.
    """
    files = verify_model(name, _weights(weights_dir, mirror))
    _say(as_json, jsonable(files), partial(show_files, files))
    if any(file.state in ("missing", "damaged") for file in files):
        raise DeploymentError(f"{name} is not complete and intact; run `seedvr2-ray models pull {name}`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; whatever goes wrong becomes one clear line on stderr.

    Args:
        arguments: those of the process when not given.

    Returns:
        The exit code.
    """
    if arguments is None:
        # Asked to end by a service manager or a batch system: in order, as by Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int | None = app(args=arguments, prog_name="seedvr2-ray", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone (``| head``); the interpreter must not stumble over it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SeedVR2Error as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _refuse_usage(error)
    if code == INTERRUPTED:
        Console(stderr=True).print("stopped; run the same command again to go on", style="yellow")
    return code or 0


def _fail(message: str, code: int) -> int:
    text = " ".join(message.splitlines())
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {text}", style="red", markup=False)
    return code


def _refuse_usage(error: typer.TyperException) -> int:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "seedvr2-ray"
    if "\n" in text.strip():  # A command without its arguments: what is shown is its help.
        typer.echo(text, err=True)
        return InputError.exit_code
    text = text.strip().rstrip(".").replace("Value error, ", "")
    return _fail(f"{text[:1].lower()}{text[1:]}; see {command} --help", InputError.exit_code)


def _remember(finished: Finished) -> None:
    rate = RunRate.of_run(
        finished.plan,
        device=device_name(local_device()),
        num_frames=finished.restored_frames,
        seconds=finished.stages["restore"],
    )
    if rate is not None:
        remember_run(rate, _history())


def _history() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "seedvr2-ray" / "runs.jsonl"


def _limits(max_pixels: int) -> ProbeLimits:
    usual = ProbeLimits()
    if max_pixels <= DEFAULT_MAX_PIXELS:
        return usual
    return ProbeLimits(max_width=max_pixels, max_height=max_pixels, max_pixels=max_pixels)


def _weights(weights_dir: Path | None, mirror: str | None) -> WeightsSource:
    return WeightsSource(weights_dir=weights_dir, mirror_url=mirror)


def _say(as_json: bool, values: Any, show: Callable[[Console], None]) -> None:
    if as_json:
        typer.echo(json.dumps(values, indent=1, ensure_ascii=False))
    else:
        show(Console(highlight=False, soft_wrap=True))
