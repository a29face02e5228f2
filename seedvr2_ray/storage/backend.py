"""What the commit log and the publishing of results ask of a place, be it a folder or an object store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PART_PREFIX = ".seedvr2-part-"
"""Begins the name of everything that is being written; such a file may be deleted when nobody writes it."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a place says about one file without reading it."""

    size: int | None
    """Bytes; None where a server does not say."""
    mark: str
    """Changes when the content does: an ETag, version or generation, or the time of the last change. May be empty."""
    is_strong: bool
    """Whether ``mark`` is the store's own promise about the content rather than a time."""
    modified: float | None
    """When it was last written or got its name, in seconds since 1970, where known."""


class Backend(Protocol):
    """Files of one file system, named by its own paths. Raises its own exceptions."""

    def info(self, path: str) -> ObjectInfo:
        """Describe a file; FileNotFoundError or IsADirectoryError where there is none."""

    def is_file(self, path: str) -> bool:
        """Say whether a file is there, with one request where that is possible."""

    def read(self, path: str) -> bytes:
        """Return the whole content of a small file."""

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to before ``stop``; fewer where the file ends."""

    def sha256(self, path: str) -> str:
        """Read a file block by block and return the SHA-256 of its content in hexadecimal."""

    def write(self, path: str, data: bytes, *, overwrite: bool) -> None:
        """Create a file from bytes at once; without ``overwrite`` only one of many writers succeeds.

        Raises:
            FileExistsError: it is there, and ``overwrite`` is false.
        """

    def put(self, local: Path, path: str, *, overwrite: bool) -> None:
        """Create a file from a local one, with the promises of :meth:`write`."""

    def get(self, path: str, local: Path) -> None:
        """Copy a file to ``local``, which must not be a name anybody reads yet."""

    def names(self, folder: str) -> list[str]:
        """List the names of the files right in a folder with one listing; none if it does not exist.

        Files that are being written are among them, and begin with :data:`PART_PREFIX`.
        """

    def folders(self, folder: str) -> list[str]:
        """List the names of the folders right in a folder with one listing; none if it does not exist."""

    def remove(self, path: str) -> None:
        """Delete a file; nothing happens when it is not there."""

    def remove_folder(self, path: str) -> None:
        """Delete everything below a folder; nothing happens when it is not there."""

    def probe(self, path: str) -> None:
        """Prove that ``path`` could be written, by writing beside it and cleaning up."""

    def sign_get(self, path: str, *, seconds: int, media_type: str, disposition: str) -> str | None:
        """Return a URL at which a file can be read for so long, as what it says; None where none is signed."""

    def sign_put(self, path: str, *, num_bytes: int, seconds: int) -> str | None:
        """Return a URL to which a file of exactly this size can be PUT for so long; None where none is signed."""
