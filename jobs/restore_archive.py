"""Restore an archive on the cluster that this job is submitted to. Takes the options of ``seedvr2-ray batch``.

::

    ray job submit --working-dir . -- python jobs/restore_archive.py \\
        --manifest s3://archive/videos/ --output s3://archive/restored/ --model seedvr2-3b --resolution 2160p

Run the same command again after a crash, ``ray job stop`` or a lost machine, and it goes on. Files that cannot be
restored are set aside in ``quarantine.jsonl`` with the reason; the job then ends with exit code 3.
"""

import logging
import sys

import typer
from rich.console import Console

from seedvr2_ray.cli.archive.batch import batch
from seedvr2_ray.errors import SeedVR2Error

INTERRUPTED = 130


def main() -> int:
    """Run the job; say in one line what went wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    app.command()(batch)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        app()
    except KeyboardInterrupt:
        console.print("stopped; submit the same job again to go on")
        return INTERRUPTED
    except SeedVR2Error as error:
        console.print(f"error: {error}", markup=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
