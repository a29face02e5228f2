"""Any fsspec file system, used so that nothing half-written can be seen under a final name."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

from seedvr2_ray.storage.backend import PART_PREFIX, ObjectInfo
from seedvr2_ray.storage.faults import http_status, store_code

_S3 = {"s3", "s3a"}
_OBJECT_STORES = _S3 | {"gs", "gcs", "abfs", "abfss", "az"}
"""A file is seen there only when it is complete, and may be created only where there is none."""

_EXISTS_CODES = {"PreconditionFailed", "412"}
_CONFLICT_CODES = {"ConditionalRequestConflict", "OperationAborted", "409"}
_MISSING_CODES = {"NoSuchKey", "404", "NotFound"}
_MOST_CONFLICTS = 6
_BLOCK_BYTES = 4 << 20
_STRONG_MARKS = ("VersionId", "version_id", "generation", "ETag", "etag", "checksum", "sha256")
_WEAK_MARKS = ("LastModified", "Last-Modified", "last_modified", "mtime", "updated", "created")

_moving = threading.Lock()
"""Makes look-then-move one step between the threads of a process, where the store itself has no such step."""


class RemoteBackend:
    """An object store, a server, or any other file system fsspec knows."""

    def __init__(self, filesystem: AbstractFileSystem) -> None:
        self._filesystem = filesystem
        protocols = filesystem.protocol
        self._protocols = {protocols} if isinstance(protocols, str) else set(protocols)
        self._is_object_store = bool(self._protocols & _OBJECT_STORES)

    def info(self, path: str) -> ObjectInfo:
        """Describe a file by its size and the strongest mark the store gives."""
        self._filesystem.invalidate_cache()
        found: dict[str, Any] = self._filesystem.info(path)
        if found.get("type") == "directory":
            raise IsADirectoryError(path)
        strong, weak = _marks(found, _STRONG_MARKS), _marks(found, _WEAK_MARKS)
        mark = next(iter(strong + weak), "")
        return ObjectInfo(found.get("size"), mark, bool(strong), _modified(found))

    def read(self, path: str) -> bytes:
        """Return the whole content, with one request."""
        if self._protocols & _S3:
            # Its client would ask for the size first, to fetch a large file in several pieces at a time.
            return bytes(self._filesystem.cat_file(path, max_concurrency=1))
        return bytes(self._filesystem.cat_file(path))

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return some of the content, without asking for the rest."""
        return bytes(self._filesystem.cat_file(path, start=start, end=stop))

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of the content."""
        digest = hashlib.sha256()
        with self._filesystem.open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def write(self, path: str, data: bytes, *, overwrite: bool) -> None:
        """Create a file from bytes."""
        self._place(path, lambda name, mode: self._filesystem.pipe_file(name, data, mode=mode), overwrite=overwrite)

    def put(self, local: Path, path: str, *, overwrite: bool) -> None:
        """Upload a file, in several parts where it is large."""
        self._place(
            path, lambda name, mode: self._filesystem.put_file(str(local), name, mode=mode), overwrite=overwrite
        )

    def get(self, path: str, local: Path) -> None:
        """Download a file."""
        self._filesystem.get_file(path, str(local))

    def names(self, folder: str) -> list[str]:
        """List the files right in a folder."""
        return self._entries(folder, "file")

    def folders(self, folder: str) -> list[str]:
        """List the folders right in a folder."""
        return self._entries(folder, "directory")

    def is_file(self, path: str) -> bool:
        """Say whether a file is there. S3's client would ask besides whether a folder is: another request."""
        if not self._protocols & _S3:
            try:
                self.info(path)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return False
            return True
        bucket, _, key = self._filesystem._strip_protocol(path).partition("/")
        try:
            self._filesystem.call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return False
        except Exception as error:
            if store_code(error) in _MISSING_CODES:
                return False
            raise
        return True

    def _entries(self, folder: str, kind: str) -> list[str]:
        if self._protocols & _S3:
            try:
                return self._entries_of_s3(folder, kind)
            except FileNotFoundError:  # The bucket.
                return []
        self._filesystem.invalidate_cache()
        try:
            entries: list[dict[str, Any]] = self._filesystem.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind]
        return [name for name in names if name]

    def _entries_of_s3(self, folder: str, kind: str) -> list[str]:
        """List with one request a page; its client would look at the folder above too where there is nothing."""
        bucket, _, prefix = self._filesystem._strip_protocol(folder).rstrip("/").partition("/")
        request = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", "Delimiter": "/"}
        names: list[str] = []
        while True:
            page = self._filesystem.call_s3("list_objects_v2", **request)
            found = [each["Key"] for each in page.get("Contents", ())]
            if kind == "directory":
                found = [each["Prefix"].rstrip("/") for each in page.get("CommonPrefixes", ())]
            names += [name.rpartition("/")[2] for name in found if not name.endswith("/")]
            if not page.get("IsTruncated"):
                return names
            request["ContinuationToken"] = page["NextContinuationToken"]

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""
        try:
            self._filesystem.rm_file(path)
        except FileNotFoundError:
            return

    def remove_folder(self, path: str) -> None:
        """Delete everything that begins with this prefix."""
        self._filesystem.invalidate_cache()
        with suppress(FileNotFoundError):
            self._filesystem.rm(path, recursive=True)

    def probe(self, path: str) -> None:
        """Write an empty object beside the target, always of the same name: one stays at most."""
        probe = f"{_parent(path)}/{PART_PREFIX}probe"
        if not self._is_object_store:
            self._filesystem.makedirs(_parent(path), exist_ok=True)
        self._filesystem.pipe_file(probe, b"", mode="overwrite")
        try:
            self.remove(probe)
        except PermissionError:
            return  # Whoever may write but not delete can publish all the same.

    def sign_get(self, path: str, *, seconds: int, media_type: str, disposition: str) -> str | None:
        """Return a URL at which a file can be read for so long; None if the store signs none.

        The store answers with the type and the disposition that are named, which the signature covers.
        """
        said = {"ResponseContentType": media_type, "ResponseContentDisposition": disposition}
        return self._sign(path, "get_object", seconds, said)

    def sign_put(self, path: str, *, num_bytes: int, seconds: int) -> str | None:
        """Return a URL to which a file of exactly this size can be PUT for so long; None if the store signs none.

        By S3's signature 4: the older one, which its SDK would choose for such URLs, says nothing about the size, and
        many stores refuse it.
        """
        return self._sign(path, "put_object", seconds, {"ContentLength": num_bytes})

    def _sign(self, path: str, method: str, seconds: int, wanted: Mapping[str, object]) -> str | None:
        if not self._protocols & _S3:
            return None
        known = self._filesystem
        config = {**known.config_kwargs, "signature_version": "s3v4"}
        signing = type(known)(**{**known.storage_options, "config_kwargs": config})
        return str(signing.sign(path, expiration=seconds, client_method=method, **wanted))

    def _place(self, path: str, send: Callable[[str, str], object], *, overwrite: bool) -> None:
        if self._is_object_store:
            self._place_at_once(path, "overwrite" if overwrite else "create", send)
            return
        self._filesystem.makedirs(_parent(path), exist_ok=True)
        part = f"{_parent(path)}/{PART_PREFIX}{uuid4().hex}"
        try:
            send(part, "overwrite")
            with _moving:
                if not overwrite and self._filesystem.exists(path):
                    raise FileExistsError(path)
                self._filesystem.mv(part, path)
        except BaseException:
            with suppress(Exception):  # That error is the one to tell.
                self.remove(part)
            raise

    def _place_at_once(self, path: str, mode: str, send: Callable[[str, str], object]) -> None:
        for conflicts in range(1, _MOST_CONFLICTS + 1):
            try:
                send(path, mode)
                return
            except FileExistsError:
                raise
            except Exception as error:
                code = store_code(error) or str(http_status(error))
                if mode == "create" and code in _EXISTS_CODES:
                    raise FileExistsError(path) from error
                # Two writers at the same moment: the store asks both to try again, and one will find it taken.
                if code not in _CONFLICT_CODES or conflicts == _MOST_CONFLICTS:
                    raise
            time.sleep(0.05 * 2**conflicts)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _marks(found: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    return [f"{key}={found[key]}" for key in keys if found.get(key) not in (None, "", "null")]


def _modified(found: dict[str, Any]) -> float | None:
    for key in _WEAK_MARKS:
        value = found.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None
