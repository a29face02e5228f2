"""The commit log: what is done, durably, whoever did it and however many tried."""

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from seedvr2_ray.errors import StorageError
from seedvr2_ray.storage.address import jsonable
from seedvr2_ray.storage.backend import PART_PREFIX
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.local_backend import LocalBackend, make_folder
from seedvr2_ray.storage.location import Location, open_location
from seedvr2_ray.storage.records import Commit, LostWorkError, Payload, body_of, commit_from, to_bytes

_RECORD_SUFFIX = ".json"
_KIND = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a payload's bytes, from ``start`` to before ``stop``."""

    start: int
    stop: int
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
        if self.look(kind, address) is not None:
            return False
        return self.settle(kind, address, record, payload)[1]

    def settle(
        self, kind: str, address: str, record: Mapping[str, Any], payload: Path | None = None
    ) -> tuple[Commit, bool]:
        """Commit as :meth:`commit` does, for callers who know that nobody has: no look comes before.

        Returns:
            The commit that counts, and whether this call made it.
        """
        stored = None if payload is None else self._store_payload(kind, address, payload)
        commit = Commit(jsonable(record), stored, uuid4().hex)
        winner = self._write_marker(kind, address, commit)
        is_first = winner.token == commit.token
        if not is_first and stored is not None:
            self._remove_payload(kind, stored)
        return winner, is_first

    def find(self, kind: str, address: str, *, verify: bool = False) -> dict[str, Any] | None:
        """Return a commit's record, or None if there is no such commit.

        Args:
            verify: read the payload too and compare it with the record.

        Raises:
            StorageError: the record is damaged; or ``verify``, and the payload is not what it says.
        """
        commit = self.look(kind, address)
        if commit is None:
            return None
        if verify:
            self._require_intact(kind, address, commit.payload)
        return commit.record

    def addresses(self, kind: str) -> frozenset[str]:
        """Return the addresses of all commits of a kind, with one listing."""
        folder = self.folder_of(kind, "records")
        with translated(folder.url, "store"):
            names = folder.backend.names(folder.path)
        return frozenset(name.removesuffix(_RECORD_SUFFIX) for name in names if name.endswith(_RECORD_SUFFIX))

    def fetch_payload(
        self, kind: str, address: str, folder: str | os.PathLike[str], *, known: Commit | None = None
    ) -> Path:
        """Make a commit's payload readable as a local file.

        Args:
            folder: where to put a copy from a remote store; what an earlier call left there is reused.
            known: the commit, where the caller has it already.

        Returns:
            The payload itself in a local store, to be read only; otherwise the copy.

        Raises:
            LostWorkError: there is no such commit; or its payload is missing or cut short, and then the commit is
                discarded, so that whoever asks for the same again gets the work done again.
            StorageError: the payload did not arrive as its record says.
        """
        place, stored = self._require_payload(kind, address, known)
        copy = Path(place.path) if place.is_local else Path(folder) / stored.name
        if place.is_local:
            self._require_whole(kind, address, place, stored)
        elif not copy.exists():
            self._download(kind, address, stored, copy, piece=None)
        return copy

    def fetch_piece(
        self, kind: str, address: str, piece: Piece, folder: str | os.PathLike[str], *, known: Commit | None = None
    ) -> tuple[Path, Piece]:
        """Make some of a payload readable, without fetching the rest, with the promises of :meth:`fetch_payload`.

        Returns:
            A local file, and where in it the bytes are.
        """
        place, stored = self._require_payload(kind, address, known)
        if place.is_local:
            self._require_whole(kind, address, place, stored)
            return Path(place.path), piece
        copy = Path(folder) / f"{piece.start}-{stored.name}"
        if not copy.exists():
            self._download(kind, address, stored, copy, piece=piece)
        return copy, replace(piece, start=0, stop=piece.stop - piece.start)

    def _require_payload(self, kind: str, address: str, known: Commit | None) -> tuple[Location, Payload]:
        commit = known or self.look(kind, address)
        if commit is None or commit.payload is None:
            raise LostWorkError(f"{self._name(kind, address)} is not committed with a payload; do its work first")
        return self.folder_of(kind, "payloads").child(commit.payload.name), commit.payload

    def locate_payload(self, kind: str, address: str) -> tuple[Location, Payload] | None:
        """Say where a commit's payload lies, for those who read parts of it; None if there is no such commit."""
        commit = self.look(kind, address)
        stored = None if commit is None else commit.payload
        return None if stored is None else (self.folder_of(kind, "payloads").child(stored.name), stored)

    def discard(self, kind: str, address: str, *, known: Commit | None = None) -> None:
        """Forget a commit and delete its payload; nothing happens when there is none."""
        try:
            commit = known or self.look(kind, address)
        except StorageError:
            commit = None  # A damaged record names no payload; it is found as an orphan.
        stored = None if commit is None else commit.payload
        marker = self._record(kind, address)
        with translated(marker.url, "store"):
            marker.backend.remove(marker.path)  # First: no record may name a payload that is gone.
        if stored is not None:
            self._remove_payload(kind, stored)

    def record_attempt(
        self, kind: str, address: str, *, after: int | None = None, extra: Mapping[str, str] | None = None
    ) -> int:
        """Note durably, before work begins, that it is attempted.

        Work that kills its process leaves its attempts behind, and can be set aside after a few.

        Args:
            after: attempts that there are, where the caller has asked.
            extra: what to note besides.

        Returns:
            Which attempt this is, from 1. Two callers never get the same number.
        """
        folder = self._attempts(kind, address)
        note = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "unix_seconds": round(time.time(), 3),
            **(extra or {}),
        }
        number = self.attempts(kind, address) if after is None else after
        while True:
            number += 1
            place = folder.child(_numbered(number))
            with translated(place.url, "target"):
                try:
                    place.backend.write(place.path, to_bytes(note), overwrite=False)
                    return number
                except FileExistsError:
                    continue

    def attempts(self, kind: str, address: str) -> int:
        """Return how many attempts were noted since they were last cleared."""
        return max((int(name) for name in self._attempt_names(kind, address)), default=0)

    def attempt_notes(self, kind: str, address: str) -> list[dict[str, Any]]:
        """Return what was noted of each attempt; asks for no more than the first where there is none."""
        first = self._attempts(kind, address).child(_numbered(1))
        with translated(first.url, "store"):
            try:
                notes = [json.loads(first.backend.read(first.path))]
            except FileNotFoundError:
                return []
            for name in self._attempt_names(kind, address):
                if name != _numbered(1):
                    place = self._attempts(kind, address).child(name)
                    notes.append(json.loads(place.backend.read(place.path)))
        return notes

    def clear_attempts(self, kind: str, address: str, *, known: int | None = None) -> None:
        """Forget the attempts, as after a success or when a person decides to try again.

        Args:
            known: how many there are, where the caller knows.
        """
        folder = self._attempts(kind, address)
        names = self._attempt_names(kind, address) if known is None else [_numbered(each + 1) for each in range(known)]
        for name in names:
            place = folder.child(name)
            with translated(place.url, "store"):
                place.backend.remove(place.path)

    def _store_payload(self, kind: str, address: str, payload: Path) -> Payload:
        with payload.open("rb"):
            pass  # A payload that is not there is a mistake of the caller, and no store's.
        source = LocalBackend()
        size = payload.stat().st_size
        stored = Payload(f"{address}-{uuid4().hex[:16]}{payload.suffix}", size, source.sha256(str(payload)))
        place = self.folder_of(kind, "payloads").child(stored.name)
        with translated(place.url, "target"):
            place.backend.put(payload, place.path, overwrite=False)
        return stored

    def _write_marker(self, kind: str, address: str, commit: Commit) -> Commit:
        """Return the commit that counts."""
        marker, stored = self._record(kind, address), commit.payload
        with translated(marker.url, "target"):
            try:
                marker.backend.write(marker.path, body_of(commit), overwrite=False)
                return commit
            except FileExistsError:
                # A client that lost the store's answer asks again by itself and then meets its own record.
                winner = self.look(kind, address)
                if winner is None:
                    raise StorageError(f"{self._name(kind, address)} was discarded at this moment; try again") from None
                return winner
            except OSError:
                # On a full disk the payload must not stay. A remote store may still create the marker it
                # did not confirm, so there the payload stays, for the next try or for whoever removes orphans.
                if marker.is_local and stored is not None:
                    self._remove_payload(kind, stored)
                raise

    def _remove_payload(self, kind: str, stored: Payload) -> None:
        place = self.folder_of(kind, "payloads").child(stored.name)
        with translated(place.url, "store"):
            place.backend.remove(place.path)

    def look(self, kind: str, address: str) -> Commit | None:
        """Return a commit, or None if there is none, with one request.

        Raises:
            StorageError: its record is damaged.
        """
        marker = self._record(kind, address)
        with translated(marker.url, "store"):
            try:
                data = marker.backend.read(marker.path)
            except FileNotFoundError:
                return None
        return commit_from(data, printable(marker.url))

    def _require_whole(self, kind: str, address: str, place: Location, stored: Payload) -> None:
        """Discard a commit whose payload is gone or cut short: nobody could ever use it."""
        with translated(place.url, "store"):
            try:
                size = place.backend.info(place.path).size
            except FileNotFoundError:
                size = None
        if size != stored.size:
            self.discard(kind, address)
            raise LostWorkError(
                f"the payload of {self._name(kind, address)} is gone or has other than the {stored.size} bytes of its "
                "record; the commit is discarded, and the same command does its work again"
            )

    def _require_intact(self, kind: str, address: str, stored: Payload | None) -> None:
        if stored is None:
            return
        place = self.folder_of(kind, "payloads").child(stored.name)
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

    def _download(self, kind: str, address: str, stored: Payload, copy: Path, piece: Piece | None) -> None:
        """Fetch a payload or some of it, and compare it with its record."""
        place = self.folder_of(kind, "payloads").child(stored.name)
        part = copy.with_name(f"{PART_PREFIX}{uuid4().hex}")
        try:
            with translated(place.url, "store"):
                make_folder(copy.parent)
                try:
                    if piece is None:
                        place.backend.get(place.path, part)
                    else:
                        part.write_bytes(place.backend.read_range(place.path, piece.start, piece.stop))
                except FileNotFoundError:
                    self._require_whole(kind, address, place, stored)
                    raise
                size = stored.size if piece is None else piece.stop - piece.start
                if part.stat().st_size != size:
                    self._require_whole(kind, address, place, stored)
                expected = stored.sha256 if piece is None else piece.sha256
                if part.stat().st_size != size or LocalBackend().sha256(str(part)) != expected:
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
        return self.folder_of(kind, "attempts").child(_checked(address))

    def _record(self, kind: str, address: str) -> Location:
        return self.folder_of(kind, "records").child(f"{_checked(address)}{_RECORD_SUFFIX}")

    def folder_of(self, kind: str, part: str) -> Location:
        """Return where a kind's ``records``, ``payloads`` or ``attempts`` lie."""
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


def _numbered(attempt: int) -> str:
    return f"{attempt:06d}"


def _checked(address: str) -> str:
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"an address is letters, digits, dashes and underscores, got {address!r}")
    return address
