"""Folders of files that are being written, on the machine of whoever writes them, gone when nobody does."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_LOCK_SUFFIX = ".lock"


@contextmanager
def open_workspace(scratch: str | Path) -> Iterator[Path]:
    """Give an empty folder below a machine's scratch for as long as the block runs.

    A lock says that somebody is at work in it: the kernel lets it go when the process dies, however it dies, and in
    whatever container it runs. Folders that nobody holds are removed on the way.
    """
    root = _root_of(scratch)
    root.mkdir(parents=True, exist_ok=True)
    remove_abandoned(scratch)
    folder = root / uuid4().hex
    lock_path = folder.with_suffix(_LOCK_SUFFIX)
    # The lock is held before the folder is there, so that nobody takes a new folder for an abandoned one.
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock_path.unlink(missing_ok=True)


def _root_of(scratch: str | Path) -> Path:
    return Path(scratch) / "writing"


def remove_abandoned(scratch: str | Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in _root_of(scratch).glob("*"):
        if not folder.is_dir():
            continue
        lock_path = folder.with_suffix(_LOCK_SUFFIX)
        with suppress(FileNotFoundError):
            if not lock_path.exists():
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with lock_path.open("r+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                lock_path.unlink(missing_ok=True)
