"""Published results: masters with what goes with them, by address, shared by all jobs that ask for the same."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from seedvr2_ray.serve.jobs import ResultInfo
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import translated
from seedvr2_ray.storage.location import Location

ResultKind = Literal["master", "sidecar", "report", "before", "after"]

MEDIA_TYPES = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "avi": "video/x-msvideo",
    "png": "image/png",
    "tiff": "image/tiff",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "zip": "application/zip",
}
"""By container; ``zip`` holds the images of a sequence."""
_KIND_TYPES: dict[ResultKind, str] = {
    "sidecar": "application/json",
    "report": "text/html; charset=utf-8",
    "before": "image/jpeg",
    "after": "image/jpeg",
}
_KINDS: tuple[ResultKind, ...] = ("master", "sidecar", "report", "before", "after")
_BLOCK_BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a result, to be read as a whole or in parts."""

    place: Location
    num_bytes: int
    sha256: str
    media_type: str

    @property
    def local_path(self) -> str | None:
        """Where it lies on this machine, if it does; only to be read."""
        return self.place.path if self.place.is_local else None

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``stop`` in pieces of at most half a MiB.

        Raises:
            StorageError: the store does not answer, or the file went while it was read.
        """
        stop = self.num_bytes if stop is None else min(stop, self.num_bytes)
        while start < stop:
            with translated(self.place.url, "store"):
                block = self.place.backend.read_range(self.place.path, start, min(stop, start + _BLOCK_BYTES))
            if not block:
                return
            start += len(block)
            yield block


@dataclass(frozen=True, slots=True)
class Results:
    """The store of results: a folder or a prefix of an object store, which every machine sees."""

    root_url: str

    def find(self, address: str, *, name: str) -> ResultInfo | None:
        """Return what is published under an address, or None.

        A master that is gone, or has other than the bytes of its record, is forgotten, so that it is made again.

        Args:
            name: file name of the source of whoever asks; the result is named after it.
        """
        record = self._store.find(_kind("master", address), address)
        if record is None:
            return None
        if self.file("master", address) is None:
            self.discard(address)
            return None
        return renamed(ResultInfo(**record), name)

    def has(self, kind: ResultKind, address: str) -> bool:
        """Say whether a file of a result is there."""
        return self._store.find(_kind(kind, address), address) is not None

    def file(self, kind: ResultKind, address: str) -> StoredFile | None:
        """Return a file of a result for reading, or None if it is not there as its record says."""
        found = self._store.locate_payload(_kind(kind, address), address)
        if found is None:
            return None
        place, payload = found
        with translated(place.url, "store"):
            try:
                size = place.backend.info(place.path).size
            except FileNotFoundError:
                return None
        if size not in (payload.size, None):
            return None
        container = PurePosixPath(payload.name).suffix.removeprefix(".")
        media_type = _KIND_TYPES.get(kind) or MEDIA_TYPES.get(container, "application/octet-stream")
        return StoredFile(place, payload.size, payload.sha256, media_type)

    def add(self, kind: ResultKind, address: str, path: Path) -> None:
        """Put one of the files that go with a master where readers look. The first of several writers wins."""
        self._store.commit(_kind(kind, address), address, {"name": path.name}, path)

    def publish(self, info: ResultInfo, path: Path) -> None:
        """Publish a master: after everything that goes with it, for it is what says that the result is there."""
        self._store.commit(_kind("master", info.address), info.address, asdict(info), path)

    def discard(self, address: str) -> None:
        """Delete a result, the master first."""
        for kind in _KINDS:
            self._store.discard(_kind(kind, address), address)

    @property
    def _store(self) -> CommitStore:
        return CommitStore(self.root_url)


def renamed(info: ResultInfo, source_name: str) -> ResultInfo:
    """Name a result after the file of whoever asks for it: ``holiday.mov`` gives ``holiday-restored.mov``.

    Results are shared, so that their own names must not tell one owner what another called the file.
    """
    stem = PurePosixPath(source_name).stem or "result"
    return replace(info, name=f"{stem}-restored{PurePosixPath(info.name).suffix}")


def _kind(kind: ResultKind, address: str) -> str:
    """Spread results over 256 folders: there may be millions."""
    return f"{kind}/{address[:2]}"
