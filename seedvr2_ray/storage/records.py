"""What a commit says: a record, and which payload belongs to it; as bytes and back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seedvr2_ray.errors import StorageError

FORMAT = 1


class LostWorkError(StorageError):
    """Work that was committed is gone: somebody removed it, or another run needed it no more.

    Asking again does not bring it back; planning again from what is committed does.
    """


@dataclass(frozen=True, slots=True)
class Payload:
    """The file that belongs to a commit."""

    name: str
    """Inside the folder of payloads; no two writers ever use the same."""
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as it was read or made; whoever has one need not ask the store for it."""

    record: dict[str, Any]
    payload: Payload | None
    token: str


def body_of(commit: Commit) -> bytes:
    """Return the file that makes a commit."""
    payload = commit.payload
    body = {
        "format": FORMAT,
        "record": commit.record,
        "payload": payload and {"name": payload.name, "size": payload.size, "sha256": payload.sha256},
        "token": commit.token,
    }
    return to_bytes(body)


def to_bytes(body: Mapping[str, Any]) -> bytes:
    """Write a small value down so that people can read it too."""
    return (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def commit_from(data: bytes, name: str) -> Commit:
    """Read a commit's file.

    Raises:
        StorageError: it is damaged, or another version wrote it.
    """
    try:
        body: dict[str, Any] = json.loads(data)
        if body["format"] != FORMAT:
            raise StorageError(f"{name} has format {body['format']} and this version reads {FORMAT}; update it")
        stored = body["payload"]
        payload = None if stored is None else Payload(stored["name"], stored["size"], stored["sha256"])
        return Commit(body["record"], payload, body["token"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{name} is damaged; discard the commit and do its work again") from error
