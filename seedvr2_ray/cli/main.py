"""The command line: ``seedvr2-ray restore IN OUT`` and what helps before and after it."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

import seedvr2_ray
from seedvr2_ray.cli.archive.verbs import batch_app
from seedvr2_ray.cli.cluster import cluster_app
from seedvr2_ray.cli.compare import compare, variants
from seedvr2_ray.cli.doctor import doctor
from seedvr2_ray.cli.keys import keys_app
from seedvr2_ray.cli.live import live
from seedvr2_ray.cli.models import models_app
from seedvr2_ray.cli.probe import probe_command
from seedvr2_ray.cli.restore import plan, restore
from seedvr2_ray.cli.serve import serve
from seedvr2_ray.errors import InputError, SeedVR2Error

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


# In the order in which they are listed.
app.command()(restore)
app.command("probe")(probe_command)
app.command()(plan)
app.command()(live)
app.command()(compare)
app.command()(variants)
app.command()(doctor)
app.add_typer(batch_app, name="batch", short_help="Restore a whole archive.")
app.command("serve")(serve)
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")
app.add_typer(cluster_app, name="cluster")


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
