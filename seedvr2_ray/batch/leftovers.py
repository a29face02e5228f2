"""What killed runs left in a job's folder: found by listings, and removed when nobody is at work on it any more."""

import logging
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Event, Thread
from typing import TYPE_CHECKING

from seedvr2_ray.batch.job import Job
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.location import exists, open_location, publish_bytes, remove_folder

if TYPE_CHECKING:
    from seedvr2_ray.batch.execution.videos import VideoOutcome

_log = logging.getLogger(__name__)

ALIVE_SECONDS = 60.0
"""How often a driver says that its run goes on."""

_DEAD_SECONDS = 10 * ALIVE_SECONDS
_ALIVE = "alive"


def say_alive(job: Job) -> None:
    """Note that this run goes on, for other drivers that use the same folder."""
    publish_bytes(b"", f"{job.manifest_folder}/{_ALIVE}", overwrite=True)


@contextmanager
def kept_alive(job: Job) -> Iterator[None]:
    """Say again and again that a run goes on, for as long as the block runs, whatever its driver waits for."""
    say_alive(job)
    is_over = Event()

    def say() -> None:
        while not is_over.wait(ALIVE_SECONDS):
            try:
                say_alive(job)
            except Exception as error:  # noqa: BLE001  # Another time, then: who falls silent counts as dead.
                _log.warning("that this run goes on cannot be noted now (%s)", type(error).__name__)

    thread = Thread(target=say, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def require_shared_folder(job: Job) -> None:
    """Refuse to work on a machine that sees another folder under the job's name, or none: all work would be lost.

    Raises:
        DeploymentError: so it is.
    """
    if job.is_shared_checked and not _is_seen(f"{job.manifest_folder}/{_ALIVE}"):
        raise DeploymentError(
            f"machine {socket.gethostname()} does not see the job's folder {printable(job.folder)}, which the driver "
            "wrote to; name an object store's prefix, or a folder that all machines share, with --job-folder"
        )


@lru_cache(maxsize=16)
def _is_seen(note: str) -> bool:
    """Ask once per process."""
    return exists(note)


def remove_dead_runs(job: Job) -> list[str]:
    """Remove the rows and notes of runs that have not said for ten minutes that they go on.

    Returns:
        The names of the runs.
    """
    # One clock for all: that of the store, which wrote this run's note a moment ago.
    now = _last_alive(job, job.run)
    dead = []
    for run in _folders(f"{job.folder}/manifests"):
        last = _last_alive(job, run)
        if run != job.run and now is not None and (last is None or now - last > _DEAD_SECONDS):
            remove_run(job, run)
            dead.append(run)
    return dead


def remove_run(job: Job, run: str) -> None:
    """Remove the rows of a run and what it noted of its attempts to plan them."""
    remove_folder(f"{job.folder}/manifests/{run}")
    remove_folder(f"{job.log.root_url}/planning/{run}")


def remove_leftovers(job: Job, outcomes: Iterable["VideoOutcome"]) -> None:
    """Remove work on files that are done, which a run left that was killed before it could; that on others stays."""
    left = {content for prefix in _folders(f"{job.folder}/work") for content in _folders(f"{job.folder}/work/{prefix}")}
    if not left:
        return
    done: set[str] = set()
    for outcome in outcomes:
        if outcome.content in left:
            if outcome.state == "quarantined":
                left.discard(outcome.content)
            else:
                done.add(outcome.content)
    for content in done & left:
        remove_folder(job.store_of(content).root_url)


def _last_alive(job: Job, run: str) -> float | None:
    place = open_location(f"{job.folder}/manifests/{run}/{_ALIVE}")
    with translated(place.url, "store"):
        try:
            return place.backend.info(place.path).modified
        except FileNotFoundError:
            return None


def _folders(url: str) -> Iterator[str]:
    place = open_location(url)
    with translated(place.url, "store"):
        yield from place.backend.folders(place.path)
