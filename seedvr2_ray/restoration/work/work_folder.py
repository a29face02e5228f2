"""The folder in which the committed work on one target lies until its master is published."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from seedvr2_ray.errors import CapacityError, TargetError
from seedvr2_ray.storage.address import digest_of
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.location import is_local

_LOCK = "lock"
_WRITING = "writing"


@contextmanager
def open_work(
    target: str, work_folder: str | None, *, keep: bool, excerpt_of: str | None = None
) -> Iterator[tuple[CommitStore, Path]]:
    """Open the folder of committed work of one target, locked against a second run.

    On success the folder is removed unless ``keep``; after a failure it stays for resuming, if
    anything was committed. What else lies in ``work_folder`` is never touched.

    Args:
        work_folder: where to create it; by default beside the target.
        excerpt_of: the source of which the target is an excerpt. Its folder is shared by all excerpts of that source
            and stays for the whole.

    Raises:
        TargetError: it cannot be created.
        CapacityError: another run is at work on this target.
    """
    root = _root_of(target, work_folder, excerpt_of)
    keep = keep or excerpt_of is not None
    created = _missing_above(root)
    with _locked(root, target):
        workspace = root / _WRITING
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        succeeded = False
        try:
            yield CommitStore(str(root)), workspace
            succeeded = True
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
            if not _has_commits(root) or (succeeded and not keep):
                _remove(root)
                _remove_empty(created)


@contextmanager
def open_work_to_look(
    target: str, work_folder: str | None, *, excerpt_of: str | None = None
) -> Iterator[tuple[CommitStore, Path]]:
    """Open the work on a target as it is, for planning: what an earlier run committed is seen and stays.

    Raises:
        CapacityError: a run is at work on this target.
    """
    if _root_of(target, work_folder, excerpt_of).exists():
        with open_work(target, work_folder, keep=True, excerpt_of=excerpt_of) as opened:
            yield opened
        return
    with tempfile.TemporaryDirectory(prefix="seedvr2-ray-plan-") as folder:
        workspace = Path(folder) / _WRITING
        workspace.mkdir()
        yield CommitStore(folder), workspace


def work_folder_of(target: str, work_folder: str | None) -> Path:
    """Return the folder that belongs to a target, whether it exists or not."""
    name = Path(target).name if is_local(target) else "remote"
    if work_folder is not None:
        # A folder of its own inside: the one that was named may hold other things, and other targets' work.
        place = str(Path(target).absolute()) if is_local(target) else target
        return Path(work_folder) / f"{name}-{digest_of(place)[:12]}.work"
    if is_local(target):
        return Path(target).parent / f".{name}.work"
    return Path(tempfile.gettempdir()) / f"seedvr2-ray-{os.getuid()}" / f"{digest_of(target)[:16]}.work"


def excerpts_folder_of(source: str, target: str, work_folder: str | None) -> Path:
    """Return the folder that belongs to all excerpts of a source whose results go where ``target`` goes."""
    place = str(Path(source).absolute()) if is_local(source) else source
    name = f"{Path(source).name if is_local(source) else 'remote'}-{digest_of(place)[:12]}.excerpts"
    if work_folder is not None:
        return Path(work_folder) / name
    if is_local(target):
        return Path(target.rstrip("/")).parent / f".{name}"
    return Path(tempfile.gettempdir()) / f"seedvr2-ray-{os.getuid()}" / name


def remove_excerpts(root: Path) -> None:
    """Delete what excerpts have left for the whole, unless one of them is at work."""
    if not root.exists():
        return
    with suppress(CapacityError, TargetError), _locked(root, str(root)):
        _remove(root)


def _remove(root: Path) -> None:
    """Remove a work folder, its lock last: whoever took a new one before would lose what he commits beside it."""
    for path in root.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)


def _root_of(target: str, work_folder: str | None, excerpt_of: str | None) -> Path:
    if excerpt_of is None:
        return work_folder_of(target, work_folder)
    return excerpts_folder_of(excerpt_of, target, work_folder)


@contextmanager
def _locked(root: Path, target: str) -> Iterator[None]:
    while True:
        lock = _open_lock(root)
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CapacityError(
                    f"another run is at work on {printable(target)}; wait for it or choose another target"
                ) from error
            if not _is_still(root / _LOCK, lock):
                continue  # The run that held it has just finished and removed the folder.
            yield
            return


def _open_lock(root: Path) -> IO[str]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return (root / _LOCK).open("w")
    except OSError as error:
        raise TargetError(
            f"cannot create the work folder {root}: {error.strerror}; choose another place with --work"
        ) from error


def _is_still(path: Path, lock: IO[str]) -> bool:
    try:
        return path.stat().st_ino == os.fstat(lock.fileno()).st_ino
    except FileNotFoundError:
        return False


def _has_commits(root: Path) -> bool:
    return any(path.suffix == ".json" for path in root.glob("**/records/*"))


def _missing_above(root: Path) -> list[Path]:
    """Return the folders above ``root`` that will be created with it, innermost first."""
    return [folder for folder in root.parents if not folder.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # Something lies in it: the master, or what somebody else put there.
