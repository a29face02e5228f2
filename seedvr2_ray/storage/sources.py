"""A source's bytes on the machine that needs them: fetched once per machine, never another version."""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from seedvr2_ray.errors import MediaError
from seedvr2_ray.storage.address import Fingerprint, digest_of, fingerprint
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.location import fetch, is_local, open_location

_MOST_VERSIONS = 10_000
_versions_here: dict[str, Fingerprint] = {}
"""Sources as this machine sees them. A shared folder gives a file another mark on every machine; its content is
read once per process to find that out, and not once per segment."""


def default_scratch() -> str:
    """Name a folder of this user's for temporary files; every machine has it, or makes it."""
    return str(Path(tempfile.gettempdir()) / "seedvr2-ray")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pinned:
    """One version of a source."""

    url: str
    content: str
    """``sha256-...`` of its bytes, wherever they lie."""
    version: Fingerprint
    """What its store says about it; the same as long as nobody writes there."""


def pin(url: str, version: Fingerprint, local_path: Path) -> Pinned:
    """Tie a source's version to the content of the copy that was made of it."""
    content = version if is_local(url) else fingerprint(local_path)
    return Pinned(url=url, content=content.text, version=version)


def require_unchanged(source: Pinned) -> None:
    """Refuse to go on with a source that was replaced since it was planned.

    Raises:
        MediaError: its bytes are others now, or it is gone.
    """
    known = _versions_here.get(source.url, source.version)
    if known.text != source.version.text:
        known = source.version
    place = open_location(source.url)
    with translated(place.url, "source"):
        found = place.backend.info(place.path)
    if found.mark and (found.size, found.mark) == (known.size, known.mark):
        return
    now = fingerprint(source.url)
    if now != source.version:
        raise MediaError(
            f"{printable(source.url)} changed while the job was at work on it; run the same command again "
            "to restore its new content"
        )
    if len(_versions_here) >= _MOST_VERSIONS:
        _versions_here.clear()
    _versions_here[source.url] = now


@dataclass(frozen=True, slots=True)
class SourceCopies:
    """The folder of one machine that holds copies of remote sources, shared by its processes."""

    folder: Path
    max_bytes: int

    @contextmanager
    def opened(self, url: str, version: Fingerprint) -> Iterator[Path]:
        """Give a local path of a source for as long as the block runs.

        Local sources are read where they lie. A remote one is fetched by the first process of a machine that
        needs it while the others wait; copies that nobody uses make room for new ones.
        """
        if is_local(url):
            yield Path(url.removeprefix("file://"))
            return
        entry = self.folder / digest_of([printable(url), version.text])[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock_of(entry).open("a") as lock:
            self._fill(entry, url, lock)
            try:
                (copy,) = (entry / "content").iterdir()
                yield copy
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)
        self._make_room()

    def remove_unused(self, *, older_than_seconds: float) -> None:
        """Remove the copies that nobody has asked for in so long; those in use stay."""
        limit = time.time() - older_than_seconds
        for used_at, _, entry in self._copies():
            if used_at < limit:
                self._remove(entry)

    def _fill(self, entry: Path, url: str, lock: IO[str]) -> None:
        """Return with the copy complete and locked against removal."""
        while True:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_filled(entry):
                part = entry / "part"
                shutil.rmtree(part, ignore_errors=True)
                fetch(url, part)
                part.replace(entry / "content")  # Whole or not at all, should this process die.
            (entry / "content").touch()
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Changing the lock's kind lets it go for a moment, in which the copy may be removed.
            if _is_filled(entry):
                return

    def _make_room(self) -> None:
        """Remove the copies not used for longest until the rest fits; those in use stay, and so does the newest.

        Its source is likely to be asked for next: one that is larger than what all may occupy would be fetched again
        for every segment.
        """
        copies = self._copies()
        excess = sum(size for _, size, _ in copies) - self.max_bytes
        for _, size, entry in sorted(copies)[:-1]:
            if excess <= 0:
                return
            if self._remove(entry):
                excess -= size

    def _copies(self) -> list[tuple[float, int, Path]]:
        """List complete copies: when each was last asked for, its size, where it lies."""
        copies = []
        for content in self.folder.glob("*/content"):
            try:
                size = sum(file.stat().st_size for file in content.iterdir())
                copies.append((content.stat().st_mtime, size, content.parent))
            except FileNotFoundError:
                continue  # Another process removes it.
        return copies

    def _remove(self, entry: Path) -> bool:
        """Remove a copy, unless it is in use."""
        with _lock_of(entry).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            shutil.rmtree(entry, ignore_errors=True)
        return True


def _is_filled(entry: Path) -> bool:
    """Whether a copy is there: a process that was ended while it removed one leaves its folder empty."""
    try:
        return any((entry / "content").iterdir())
    except FileNotFoundError:
        return False


def _lock_of(entry: Path) -> Path:
    return entry.with_suffix(".lock")
