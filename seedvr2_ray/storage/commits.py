"""The commit log: what is done, durably, whoever did it and however many tried."""

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from seedvr2_ray.errors import StorageError
from seedvr2_ray.storage.address import jsonable
from seedvr2_ray.storage.backend import PART_PREFIX
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.local_backend import LocalBackend, make_folder
from seedvr2_ray.storage.location import Location, open_location

_FORMAT = 1
_RECORD_SUFFIX = ".json"
_KIND = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Payload:
    """The file that belongs to a commit."""

    name: str
    """Inside the folder of payloads; no two writers ever use the same."""
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CommitStore:
    """A folder, or a prefix of an object store, of commits: a record each, and perhaps a payload.

    The record is the commit marker: a small JSON file that is created last, in one step, and only if
    nobody created it before. So a commit is there as a whole or not at all, and of several writers the
    first wins. Each writer's payload has a name of its own, which the record repeats: what a record
    names is never overwritten, even by a store that cannot refuse to replace a file.

    Layout: ``<kind>/records/<address>.json``, ``<kind>/payloads/<address>-<token><suffix>``,
    ``<kind>/attempts/<address>/<number>``.
    """

    root_url: str
    """A local folder or any fsspec URL. Nothing is created before the first commit."""

    def commit(self, kind: str, address: str, record: Mapping[str, Any], payload: Path | None = None) -> bool:
        """Say that something is done.

        Args:
            kind: what sort of thing; lower case, may have levels (``parts/2024``).
            address: its name among its kind.
            record: anything JSON can say.
            payload: a complete, closed local file; stays, but must not be written to afterwards.

        Returns:
            Whether this call made the commit; False if it was there already.

        Raises:
            StorageError: the store did not answer. The commit may or may not be there; trying again is safe.
            CapacityError: the store is full.
            TargetError: it may not be written, or its bucket does not exist.
        """
        if self.find(kind, address) is not None:
            return False
        stored = None if payload is None else self._store_payload(kind, address, payload)
        body = {
            "format": _FORMAT,
            "record": jsonable(record),
            "payload": None if stored is None else jsonable(stored),
            "token": uuid4().hex,
        }
        is_first = self._write_marker(kind, address, body, stored)
        if not is_first and stored is not None:
            self._remove_payload(kind, stored)
        return is_first

    def find(self, kind: str, address: str, *, verify: bool = False) -> dict[str, Any] | None:
        """Return a commit's record, or None if there is no such commit.

        Args:
            verify: read the payload too and compare it with the record.

        Raises:
            StorageError: the record is damaged; or ``verify``, and the payload is not what it says.
        """
        body = self._read(kind, address)
        if body is None:
            return None
        if verify:
            self._require_intact(kind, address, _payload_of(body))
        record: dict[str, Any] = body["record"]
        return record

    def addresses(self, kind: str) -> frozenset[str]:
        """Return the addresses of all commits of a kind, with one listing."""
        folder = self._folder(kind, "records")
        with translated(folder.url, "store"):
            names = folder.backend.names(folder.path)
        return frozenset(name.removesuffix(_RECORD_SUFFIX) for name in names if name.endswith(_RECORD_SUFFIX))

    def fetch_payload(self, kind: str, address: str, folder: str | os.PathLike[str]) -> Path:
        """Make a commit's payload readable as a local file.

        Args:
            folder: where to put a copy from a remote store; what an earlier call left there is reused.

        Returns:
            The payload itself in a local store, to be read only; otherwise the copy.

        Raises:
            StorageError: there is no such commit; or its payload is missing or cut short, and then the commit is
                discarded, so that whoever asks for the same again gets the work done again; or the payload did not
                arrive as its record says.
        """
        stored = _payload_of(self._read(kind, address))
        if stored is None:
            raise StorageError(f"{self._name(kind, address)} is not committed with a payload; do its work first")
        place = self._folder(kind, "payloads").child(stored.name)
        copy = Path(place.path) if place.is_local else Path(folder) / stored.name
        if place.is_local or not copy.exists():
            self._require_whole(kind, address, place, stored)
        if not copy.exists():
            self._download(place, stored, copy)
        return copy

    def locate_payload(self, kind: str, address: str) -> tuple[Location, Payload] | None:
        """Say where a commit's payload lies, for those who read parts of it; None if there is no such commit."""
        stored = _payload_of(self._read(kind, address))
        return None if stored is None else (self._folder(kind, "payloads").child(stored.name), stored)

    def discard(self, kind: str, address: str) -> None:
        """Forget a commit and delete its payload; nothing happens when there is none."""
        try:
            stored = _payload_of(self._read(kind, address))
        except StorageError:
            stored = None  # A damaged record names no payload; remove_orphans finds it.
        marker = self._record(kind, address)
        with translated(marker.url, "store"):
            marker.backend.remove(marker.path)  # First: no record may name a payload that is gone.
        if stored is not None:
            self._remove_payload(kind, stored)

    def record_attempt(self, kind: str, address: str) -> int:
        """Note durably, before work begins, that it is attempted.

        Work that kills its process leaves its attempts behind, and can be set aside after a few.

        Returns:
            Which attempt this is, from 1. Two callers never get the same number.
        """
        folder = self._attempts(kind, address)
        note = {"host": socket.gethostname(), "pid": os.getpid(), "unix_seconds": round(time.time(), 3)}
        number = self.attempts(kind, address)
        while True:
            number += 1
            place = folder.child(f"{number:06d}")
            with translated(place.url, "target"):
                try:
                    place.backend.write(place.path, _to_bytes(note), overwrite=False)
                    return number
                except FileExistsError:
                    continue

    def attempts(self, kind: str, address: str) -> int:
        """Return how many attempts were noted since they were last cleared."""
        return max((int(name) for name in self._attempt_names(kind, address)), default=0)

    def clear_attempts(self, kind: str, address: str) -> None:
        """Forget the attempts, as after a success or when a person decides to try again."""
        folder = self._attempts(kind, address)
        for name in self._attempt_names(kind, address):
            place = folder.child(name)
            with translated(place.url, "store"):
                place.backend.remove(place.path)

    def remove_orphans(self, kind: str, *, older_than_seconds: float) -> int:
        """Delete what writers left behind that were killed, or came second: files that no record names.

        Args:
            older_than_seconds: longer than any writer takes from its payload to its record.

        Returns:
            How many were deleted.
        """
        limit = time.time() - older_than_seconds
        removed = 0
        for part in ("payloads", "records"):
            folder = self._folder(kind, part)
            with translated(folder.url, "store"):
                for name in folder.backend.names(folder.path):
                    place = folder.child(name)
                    if self._is_in_use(kind, part, name) or not _is_older(place, limit):
                        continue
                    place.backend.remove(place.path)
                    removed += 1
        return removed

    def _is_in_use(self, kind: str, part: str, name: str) -> bool:
        if name.startswith(PART_PREFIX):
            return False
        if part == "records":
            return True
        stored = _payload_of(self._read(kind, name.rpartition("-")[0]))
        return stored is not None and stored.name == name

    def _store_payload(self, kind: str, address: str, payload: Path) -> Payload:
        with payload.open("rb"):
            pass  # A payload that is not there is a mistake of the caller, and no store's.
        source = LocalBackend()
        size = payload.stat().st_size
        stored = Payload(f"{address}-{uuid4().hex[:16]}{payload.suffix}", size, source.sha256(str(payload)))
        place = self._folder(kind, "payloads").child(stored.name)
        with translated(place.url, "target"):
            place.backend.put(payload, place.path, overwrite=False)
        return stored

    def _write_marker(self, kind: str, address: str, body: Mapping[str, Any], stored: Payload | None) -> bool:
        marker = self._record(kind, address)
        with translated(marker.url, "target"):
            try:
                marker.backend.write(marker.path, _to_bytes(body), overwrite=False)
                return True
            except FileExistsError:
                # A client that lost the store's answer asks again by itself and then meets its own record.
                winner = self._read(kind, address)
                return winner is not None and winner["token"] == body["token"]
            except OSError:
                # On a full disk the payload must not stay. A remote store may still create the marker it
                # did not confirm, so there the payload stays, for the next try or for remove_orphans.
                if marker.is_local and stored is not None:
                    self._remove_payload(kind, stored)
                raise

    def _remove_payload(self, kind: str, stored: Payload) -> None:
        place = self._folder(kind, "payloads").child(stored.name)
        with translated(place.url, "store"):
            place.backend.remove(place.path)

    def _read(self, kind: str, address: str) -> dict[str, Any] | None:
        """Return the body of a record, or None if there is none."""
        marker = self._record(kind, address)
        with translated(marker.url, "store"):
            try:
                data = marker.backend.read(marker.path)
            except FileNotFoundError:
                return None
        return _from_bytes(data, printable(marker.url))

    def _require_whole(self, kind: str, address: str, place: Location, stored: Payload) -> None:
        """Discard a commit whose payload is gone or cut short: nobody could ever use it."""
        with translated(place.url, "store"):
            try:
                size = place.backend.info(place.path).size
            except FileNotFoundError:
                size = None
        if size != stored.size:
            self.discard(kind, address)
            raise StorageError(
                f"the payload of {self._name(kind, address)} is gone or has other than the {stored.size} bytes of its "
                "record; the commit is discarded, and the same command does its work again"
            )

    def _require_intact(self, kind: str, address: str, stored: Payload | None) -> None:
        if stored is None:
            return
        place = self._folder(kind, "payloads").child(stored.name)
        with translated(place.url, "store"):
            size = place.backend.info(place.path).size
            if size != stored.size:
                raise StorageError(
                    f"the payload of {self._name(kind, address)} has {size} bytes and its record says {stored.size}; "
                    "discard the commit and do its work again"
                )
            digest = place.backend.sha256(place.path)
        if digest != stored.sha256:
            raise StorageError(
                f"the payload of {self._name(kind, address)} is damaged (its SHA-256 is not its record's); "
                "discard the commit and do its work again"
            )

    def _download(self, place: Location, stored: Payload, copy: Path) -> None:
        part = copy.with_name(f"{PART_PREFIX}{uuid4().hex}")
        try:
            with translated(place.url, "store"):
                make_folder(copy.parent)
                place.backend.get(place.path, part)
                intact = part.stat().st_size == stored.size and LocalBackend().sha256(str(part)) == stored.sha256
                if not intact:
                    raise StorageError(
                        f"{printable(place.url)} did not arrive as its record says; try again, and if it "
                        "fails again discard the commit and do its work again"
                    )
                part.replace(copy)
        finally:
            part.unlink(missing_ok=True)

    def _attempt_names(self, kind: str, address: str) -> list[str]:
        folder = self._attempts(kind, address)
        with translated(folder.url, "store"):
            return [name for name in folder.backend.names(folder.path) if name.isdecimal()]

    def _attempts(self, kind: str, address: str) -> Location:
        return self._folder(kind, "attempts").child(_checked(address))

    def _record(self, kind: str, address: str) -> Location:
        return self._folder(kind, "records").child(f"{_checked(address)}{_RECORD_SUFFIX}")

    def _folder(self, kind: str, part: str) -> Location:
        if not _KIND.fullmatch(kind):
            raise ValueError(f"a kind is lower-case words joined by slashes, got {kind!r}")
        return open_location(self.root_url).child(kind, part)

    def _name(self, kind: str, address: str) -> str:
        return f"{kind}/{address} in {printable(self.root_url)}"


def content_folder(root: str, content: str) -> str:
    """Return where the work on one content is committed below a root, in bulk and in the service alike.

    Copies of one file share it, and no folder gets more entries than a listing can take.

    Args:
        content: ``sha256-...`` of the source's bytes.
    """
    return f"{root}/work/{content[-2:]}/{content}"


def _is_older(place: Location, limit: float) -> bool:
    try:
        modified = place.backend.info(place.path).modified
    except FileNotFoundError:
        return False  # Its writer finished, or somebody else removed it.
    return modified is not None and modified < limit


def _checked(address: str) -> str:
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"an address is letters, digits, dashes and underscores, got {address!r}")
    return address


def _to_bytes(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def _from_bytes(data: bytes, name: str) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(data)
        if body["format"] != _FORMAT:
            raise StorageError(f"{name} has format {body['format']} and this version reads {_FORMAT}; update it")
        _payload_of(body)
        body["record"], body["token"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{name} is damaged; discard the commit and do its work again") from error
    return body


def _payload_of(body: Mapping[str, Any] | None) -> Payload | None:
    stored = None if body is None else body["payload"]
    return None if stored is None else Payload(stored["name"], stored["size"], stored["sha256"])
