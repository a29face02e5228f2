"""One way to name things: a local path or any fsspec URL; fetched whole, published whole or not at all."""

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from seedvr2_ray.errors import DeploymentError, InputError, MediaError, StorageError, TargetError
from seedvr2_ray.storage.backend import PART_PREFIX, Backend
from seedvr2_ray.storage.faults import is_url, printable, translated
from seedvr2_ray.storage.local_backend import LocalBackend, make_folder
from seedvr2_ray.storage.remote_backend import RemoteBackend

__all__ = [
    "PART_PREFIX",
    "Location",
    "exists",
    "fetch",
    "is_local",
    "open_location",
    "printable",
    "publish",
    "publish_bytes",
    "remove",
    "remove_folder",
    "require_source",
    "require_writable",
    "sign_get",
    "sign_put",
]

Name = str | os.PathLike[str]
"""A local path, or a URL fsspec knows: ``s3://bucket/key``, ``gs://...``, ``https://...``, ``memory://...``."""

_LOCAL_SCHEMES = ("file://", "local://")


@dataclass(frozen=True, slots=True)
class Location:
    """A name, opened: where it leads and through what."""

    url: str
    """As given."""
    path: str
    """In the words of the backend."""
    backend: Backend
    is_local: bool

    def child(self, *names: str) -> "Location":
        """Return the location of something inside this folder."""
        return Location(
            "/".join([self.url.rstrip("/"), *names]),
            "/".join([self.path.rstrip("/"), *names]),
            self.backend,
            self.is_local,
        )


def is_local(url: Name) -> bool:
    """Say whether a name is a path on this machine."""
    text = os.fspath(url)
    return not is_url(text) or text.startswith(_LOCAL_SCHEMES)


def open_location(url: Name) -> Location:
    """Find out what a name means; nothing is read or written.

    Raises:
        InputError: the scheme of the URL is unknown, or the URL is malformed.
        DeploymentError: the package that speaks the scheme is not installed.
    """
    text = os.fspath(url)
    if not text:
        raise InputError("an empty name is neither a path nor a URL")
    if is_local(text):
        path = text
        for scheme in _LOCAL_SCHEMES:
            path = path.removeprefix(scheme)
        return Location(text, path, LocalBackend(), True)
    scheme = text.partition(":")[0]
    try:
        filesystem, path = url_to_fs(text)
    except ImportError as error:
        raise DeploymentError(f"{scheme}:// needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise InputError(f"{printable(text)} is no URL fsspec can open; known are s3, gs, abfs, https ...") from error
    return Location(text, path, RemoteBackend(filesystem), False)


def exists(url: Name) -> bool:
    """Say whether a file is there."""
    place = open_location(url)
    with translated(place.url, "store"):
        return place.backend.is_file(place.path)


def read_bytes(url: Name) -> bytes | None:
    """Return the content of a small file; None where there is none."""
    place = open_location(url)
    with translated(place.url, "store"):
        try:
            return place.backend.read(place.path)
        except FileNotFoundError:
            return None


def fetch(url: Name, to_folder: Name) -> Path:
    """Make a source readable as a local file.

    Args:
        url: what to fetch.
        to_folder: a folder of the caller's own; the file keeps its name there.

    Returns:
        The local path itself where ``url`` is local (nothing is copied), otherwise a complete copy.

    Raises:
        MediaError: it does not exist, is no file, or may not be read.
        StorageError: it could not be read whole; trying again may help.
        CapacityError: the folder's disk is full.
    """
    place = open_location(url)
    with translated(place.url, "source"):
        expected = place.backend.info(place.path)
    if place.is_local:
        return Path(place.path)
    folder = Path(to_folder)
    part = folder / f"{PART_PREFIX}{uuid4().hex}"
    target = folder / (Path(printable(place.path)).name or "source")
    try:
        with translated(place.url, "source"):
            make_folder(folder)
            place.backend.get(place.path, part)
            got = part.stat().st_size
            if expected.size is not None and got != expected.size:
                raise StorageError(f"{printable(url)} has {expected.size} bytes and {got} arrived; try again")
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def publish(local_path: Name, url: Name, *, overwrite: bool) -> None:
    """Put a finished local file where its readers look; they see all of it or nothing.

    The local file stays. On the same file system it becomes a second name of what is published
    instead of being copied, so do not write to it afterwards; deleting it is fine.

    Args:
        local_path: complete and closed.
        overwrite: replace what is there; otherwise only the first of several publishers succeeds.

    Raises:
        TargetError: the target exists, has no bucket, or may not be written.
        CapacityError: its disk is full.
        StorageError: the store did not answer.
    """
    local = Path(local_path)
    if not local.is_file():
        raise FileNotFoundError(f"nothing to publish: {local} is no file")
    place = open_location(url)
    with translated(place.url, "target"):
        place.backend.put(local, place.path, overwrite=overwrite)


def publish_bytes(data: bytes, url: Name, *, overwrite: bool) -> None:
    """Put a small file where its readers look, with the promises and errors of :func:`publish`."""
    place = open_location(url)
    with translated(place.url, "target"):
        place.backend.write(place.path, data, overwrite=overwrite)


def remove(url: Name) -> None:
    """Delete a file; nothing happens when it is not there."""
    place = open_location(url)
    with translated(place.url, "target"):
        place.backend.remove(place.path)


def remove_folder(url: Name) -> None:
    """Delete a folder, or everything below a prefix; nothing happens when it is not there."""
    place = open_location(url)
    with translated(place.url, "target"):
        place.backend.remove_folder(place.path)


def sign_get(place: Location, *, seconds: int, media_type: str, disposition: str) -> str | None:
    """Return a URL at which whoever has it can read a file for so long; None where the place signs no such URLs.

    Args:
        media_type: what the store is to call it.
        disposition: likewise, whether a browser saves it and under which name.

    Raises:
        StorageError: there are no credentials to sign with.
    """
    with translated(place.url, "store"):
        return place.backend.sign_get(place.path, seconds=seconds, media_type=media_type, disposition=disposition)


def sign_put(url: Name, *, num_bytes: int, seconds: int) -> str | None:
    """Return a URL to which whoever has it can PUT a file for so long; None where the place signs no such URLs.

    Args:
        num_bytes: of the file; the store refuses any other size.

    Raises:
        TargetError: there are no credentials to sign with, or the bucket does not exist.
    """
    place = open_location(url)
    with translated(place.url, "target"):
        return place.backend.sign_put(place.path, num_bytes=num_bytes, seconds=seconds)


def require_writable(url: Name, *, overwrite: bool = True) -> None:
    """Prove before any work that a target could be published.

    Args:
        overwrite: whether the target may exist.

    Raises:
        TargetError: it exists and may not, is a folder, has no bucket, or may not be written.
        CapacityError: its disk is full.
    """
    place = open_location(url)
    if not overwrite and exists(url):
        raise TargetError(f"{printable(url)} exists; choose another name or allow overwriting it (--overwrite)")
    with translated(place.url, "target"):
        place.backend.probe(place.path)


def require_source(source: str) -> None:
    """Refuse a source that is not there, before anything is fetched or loaded for it.

    Raises:
        MediaError: it does not exist, is a folder, is empty, or may not be read.
    """
    place = open_location(source)
    with translated(place.url, "source"):
        size = place.backend.info(place.path).size
    if size == 0:
        raise MediaError(f"{printable(source)} is empty (0 bytes)")
