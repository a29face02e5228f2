import errno
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from seedvr2_ray.storage import remote_backend
from seedvr2_ray.storage.remote_backend import RemoteBackend


class Refused(OSError):
    """As s3fs raises it: an OSError whose cause holds the store's answer."""


class FakeObjectStore(MemoryFileSystem):  # type: ignore[misc]
    """A store that answers each of the first writes with the next of some error codes."""

    protocol = "s3"
    cachable = False

    def __init__(self, codes: list[str]) -> None:
        super().__init__(global_store=False)
        self.codes = codes
        self.modes: list[str] = []

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.modes.append(mode)
        if self.codes:
            answer = Exception("the store's answer")
            answer.response = {"Error": {"Code": self.codes.pop(0)}}  # type: ignore[attr-defined]
            raise Refused(errno.EINVAL, "refused") from answer
        super().pipe_file(path, value, mode=mode, **kwargs)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_backend.time, "sleep", lambda seconds: None)


def test_a_conflict_of_two_writers_is_tried_again() -> None:
    store = FakeObjectStore(["ConditionalRequestConflict", "OperationAborted"])
    RemoteBackend(store).write("/a", b"x", overwrite=False)
    assert store.cat_file("/a") == b"x"
    assert store.modes == ["create"] * 3


def test_conflicts_without_end_are_given_up() -> None:
    store = FakeObjectStore(["ConditionalRequestConflict"] * 100)
    with pytest.raises(Refused):
        RemoteBackend(store).write("/a", b"x", overwrite=False)
    assert len(store.modes) < 10


@pytest.mark.parametrize("code", ["PreconditionFailed", "412"])
def test_a_failed_precondition_means_that_somebody_was_first(code: str) -> None:
    with pytest.raises(FileExistsError):
        RemoteBackend(FakeObjectStore([code])).write("/a", b"x", overwrite=False)


def test_any_other_refusal_is_passed_on_at_once() -> None:
    store = FakeObjectStore(["SlowDown"])
    with pytest.raises(Refused):
        RemoteBackend(store).write("/a", b"x", overwrite=False)
    assert store.modes == ["create"]


def test_overwriting_sets_no_condition() -> None:
    store = FakeObjectStore([])
    RemoteBackend(store).write("/a", b"x", overwrite=True)
    assert store.modes == ["overwrite"]


def test_an_object_store_is_written_in_place_and_any_other_by_moving() -> None:
    """A put to an object store is seen when complete; elsewhere a half-written file would be."""
    store = FakeObjectStore([])
    RemoteBackend(store).write("/deep/a", b"x", overwrite=False)
    assert store.find("") == ["/deep/a"]
    server = MemoryFileSystem(global_store=False, skip_instance_cache=True)
    seen: list[str] = []
    real = server.pipe_file
    server.pipe_file = lambda path, value, **kwargs: (seen.append(path), real(path, value, **kwargs))
    RemoteBackend(server).write("/deep/a", b"x", overwrite=False)
    assert server.find("") == ["/deep/a"]
    assert ".seedvr2-part-" in seen[0]


@pytest.mark.parametrize(
    ("found", "mark", "is_strong"),
    [
        ({"VersionId": "v1", "ETag": '"e"'}, "VersionId=v1", True),
        ({"VersionId": None, "ETag": '"e"'}, 'ETag="e"', True),
        ({"VersionId": "null", "etag": "e"}, "etag=e", True),
        ({"generation": 7, "updated": "2026"}, "generation=7", True),
        ({"mtime": 12.5}, "mtime=12.5", False),
        ({}, "", False),
    ],
)
def test_the_strongest_mark_a_store_gives_is_taken(found: dict[str, object], mark: str, is_strong: bool) -> None:
    store = FakeObjectStore([])
    store.info = lambda path: {"type": "file", "size": 1, **found}
    info = RemoteBackend(store).info("/a")
    assert (info.mark, info.is_strong, info.size) == (mark, is_strong, 1)
