import errno
import json
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from seedvr2_ray.errors import CapacityError, StorageError
from seedvr2_ray.storage.backend import PART_PREFIX
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.local_backend import LocalBackend
from seedvr2_ray.storage.orphans import remove_orphans
from seedvr2_ray.storage.remote_backend import RemoteBackend

CONTENT = b"frames" * 1000


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CommitStore]:
    if request.param == "folder":
        yield CommitStore(str(tmp_path / "store"))
        return
    name = f"memory://{tmp_path.name}"
    yield CommitStore(name)
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "made.mkv"
    path.write_bytes(CONTENT)
    return path


def names_below(store: CommitStore) -> list[str]:
    """Return every file, those being written included."""
    filesystem, path = fsspec.core.url_to_fs(store.root_url)
    return sorted(name.removeprefix(path).lstrip("/") for name in filesystem.find(path))


def test_what_is_committed_is_found_with_its_payload(store: CommitStore, payload: Path, tmp_path: Path) -> None:
    assert store.find("parts", "a1") is None
    assert store.commit("parts", "a1", {"seconds": 1.5, "frames": (0, 8)}, payload)
    payload.unlink()
    assert store.find("parts", "a1", verify=True) == {"seconds": 1.5, "frames": [0, 8]}
    got = store.fetch_payload("parts", "a1", tmp_path / "copies")
    assert (got.read_bytes(), got.suffix) == (CONTENT, ".mkv")


def test_a_commit_may_be_a_record_alone(store: CommitStore, tmp_path: Path) -> None:
    assert store.commit("shots", "a1", {"starts": [0, 9]})
    assert store.find("shots", "a1", verify=True) == {"starts": [0, 9]}
    with pytest.raises(StorageError, match="shots/a1 .* is not committed with a payload"):
        store.fetch_payload("shots", "a1", tmp_path)


def test_the_first_commit_wins_and_the_second_leaves_nothing(store: CommitStore, payload: Path, tmp_path: Path) -> None:
    assert store.commit("parts", "a1", {"who": "first"}, payload)
    before = names_below(store)
    other = tmp_path / "other.mkv"
    other.write_bytes(b"other")
    assert not store.commit("parts", "a1", {"who": "second"}, other)
    assert store.find("parts", "a1") == {"who": "first"}
    assert store.fetch_payload("parts", "a1", tmp_path / "copies").read_bytes() == CONTENT
    assert names_below(store) == before


def test_of_eight_committers_at_once_one_wins_with_its_own_payload(store: CommitStore, tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    won: list[int] = []

    def commit_own(number: int) -> None:
        made = tmp_path / f"made-{number}"
        made.write_bytes(b"%d" % number * 1000)
        barrier.wait()
        if store.commit("parts", "a1", {"who": number}, made):
            won.append(number)

    threads = [threading.Thread(target=commit_own, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.find("parts", "a1", verify=True) == {"who": won[0]}
    assert store.fetch_payload("parts", "a1", tmp_path / "copies").read_bytes() == b"%d" % won[0] * 1000
    assert len(names_below(store)) == 2


def test_addresses_are_those_of_complete_commits_of_one_kind(store: CommitStore, payload: Path) -> None:
    assert store.addresses("parts") == frozenset()
    for address in ("a1", "b2"):
        store.commit("parts", address, {"at": address}, payload)
    store.commit("parts/inner", "c3", {})
    store.record_attempt("parts", "d4")
    assert store.addresses("parts") == {"a1", "b2"}
    assert store.addresses("parts/inner") == {"c3"}


def test_addresses_take_one_listing(store: CommitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        store.commit("parts", f"a{number}", {})
    calls: list[str] = []
    for backend in (LocalBackend, RemoteBackend):
        for name in ("names", "read", "info"):
            monkeypatch.setattr(backend, name, _counted(getattr(backend, name), name, calls))
    assert len(store.addresses("parts")) == 20
    assert calls == ["names"]


def _counted(method: Any, name: str, calls: list[str]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return method(*args, **kwargs)

    return call


def test_discarding_forgets_everything_and_twice_is_once(store: CommitStore, payload: Path) -> None:
    store.commit("parts", "a1", {}, payload)
    store.discard("parts", "a1")
    store.discard("parts", "a1")
    assert store.find("parts", "a1") is None
    assert names_below(store) == []
    assert store.commit("parts", "a1", {"again": True}, payload)


def test_attempts_are_counted_until_they_are_cleared(store: CommitStore) -> None:
    assert store.attempts("parts", "a1") == 0
    assert [store.record_attempt("parts", "a1") for _ in range(3)] == [1, 2, 3]
    assert store.record_attempt("parts", "b2") == 1
    assert store.attempts("parts", "a1") == 3
    store.clear_attempts("parts", "a1")
    assert store.attempts("parts", "a1") == 0
    assert store.attempts("parts", "b2") == 1


def test_no_two_callers_make_the_same_attempt(store: CommitStore) -> None:
    barrier = threading.Barrier(8)
    numbers: list[int] = []

    def attempt() -> None:
        barrier.wait()
        numbers.append(store.record_attempt("parts", "a1"))

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


def test_a_damaged_payload_is_noticed(store: CommitStore, payload: Path, tmp_path: Path) -> None:
    store.commit("parts", "a1", {}, payload)
    filesystem, path = fsspec.core.url_to_fs(store.root_url)
    (name,) = filesystem.ls(f"{path}/parts/payloads", detail=False)
    filesystem.rm_file(name)
    filesystem.pipe_file(name, CONTENT[:-1] + b"!")
    with pytest.raises(StorageError, match="parts/a1 .* is damaged"):
        store.find("parts", "a1", verify=True)
    filesystem.pipe_file(name, CONTENT[:-1])
    with pytest.raises(StorageError, match=f"has {len(CONTENT) - 1} bytes and its record says {len(CONTENT)}"):
        store.find("parts", "a1", verify=True)
    filesystem.rm_file(name)
    with pytest.raises(StorageError, match="gone from the store"):
        store.find("parts", "a1", verify=True)


@pytest.mark.parametrize("left", [CONTENT[:-1], None])
def test_a_payload_that_is_gone_or_cut_short_is_made_again(
    store: CommitStore, payload: Path, tmp_path: Path, left: bytes | None
) -> None:
    store.commit("parts", "a1", {}, payload)
    filesystem, path = fsspec.core.url_to_fs(store.root_url)
    (name,) = filesystem.ls(f"{path}/parts/payloads", detail=False)
    filesystem.rm_file(name)
    if left is not None:
        filesystem.pipe_file(name, left)
    with pytest.raises(StorageError, match="parts/a1 .* does its work again"):
        store.fetch_payload("parts", "a1", tmp_path / "copies")
    assert not any((tmp_path / "copies").glob("*"))
    assert store.addresses("parts") == frozenset()
    assert store.commit("parts", "a1", {}, payload)
    assert store.fetch_payload("parts", "a1", tmp_path / "copies").read_bytes() == CONTENT


def test_a_damaged_record_is_noticed_and_can_be_discarded(store: CommitStore) -> None:
    store.commit("parts", "a1", {})
    filesystem, path = fsspec.core.url_to_fs(store.root_url)
    for damage in (b"", b"[]", b'{"format": 1}', b'{"format": 1, "payload": {}, "record": {}, "token": ""}'):
        filesystem.pipe_file(f"{path}/parts/records/a1.json", damage)
        with pytest.raises(StorageError, match=r"a1.json is damaged; discard"):
            store.find("parts", "a1")
    filesystem.pipe_file(f"{path}/parts/records/a1.json", json.dumps({"format": 9}).encode())
    with pytest.raises(StorageError, match="has format 9 and this version reads 1"):
        store.find("parts", "a1")
    store.discard("parts", "a1")
    assert store.find("parts", "a1") is None


@pytest.mark.parametrize(
    ("kind", "address"), [("../parts", "a"), ("parts", "../a"), ("parts", ""), ("", "a"), ("a//b", "a")]
)
def test_a_name_that_could_leave_its_folder_is_a_mistake(store: CommitStore, kind: str, address: str) -> None:
    with pytest.raises(ValueError, match="got"):
        store.commit(kind, address, {})


def test_a_store_travels_between_processes(store: CommitStore) -> None:
    store.commit("parts", "a1", {"x": 1})
    assert pickle.loads(pickle.dumps(store)).find("parts", "a1") == {"x": 1}


def test_a_copy_that_was_fetched_is_fetched_once(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CommitStore(f"memory://{tmp_path.name}")
    store.commit("parts", "a1", {}, payload)
    calls: list[str] = []
    monkeypatch.setattr(RemoteBackend, "get", _counted(RemoteBackend.get, "get", calls))
    first = store.fetch_payload("parts", "a1", tmp_path / "copies")
    assert store.fetch_payload("parts", "a1", tmp_path / "copies") == first
    assert calls == ["get"]


def test_a_writer_that_meets_its_own_record_has_won(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store confirms a write, the answer is lost, and the client's own retry is refused."""
    store = CommitStore(f"memory://{tmp_path.name}")
    real = RemoteBackend.write

    def write_twice(self: RemoteBackend, path: str, data: bytes, *, overwrite: bool) -> None:
        real(self, path, data, overwrite=overwrite)
        real(self, path, data, overwrite=overwrite)

    monkeypatch.setattr(RemoteBackend, "write", write_twice)
    assert store.commit("parts", "a1", {"x": 1}, payload)
    assert store.find("parts", "a1", verify=True) == {"x": 1}


def test_a_record_the_store_did_not_confirm_keeps_its_payload(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CommitStore(f"memory://{tmp_path.name}")
    real = RemoteBackend.write

    def write_and_time_out(self: RemoteBackend, path: str, data: bytes, *, overwrite: bool) -> None:
        real(self, path, data, overwrite=overwrite)
        raise TimeoutError

    monkeypatch.setattr(RemoteBackend, "write", write_and_time_out)
    with pytest.raises(StorageError, match="try again"):
        store.commit("parts", "a1", {"x": 1}, payload)
    assert store.find("parts", "a1", verify=True) == {"x": 1}
    assert not store.commit("parts", "a1", {"x": 1}, payload)


def test_a_full_disk_keeps_neither_record_nor_payload(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CommitStore(str(tmp_path / "store"))

    def no_space(self: LocalBackend, path: str, data: bytes, *, overwrite: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalBackend, "write", no_space)
    with pytest.raises(CapacityError, match="no space left"):
        store.commit("parts", "a1", {}, payload)
    assert names_below(store) == []


def test_orphans_are_removed_and_what_a_record_names_is_not(store: CommitStore, payload: Path) -> None:
    store.commit("parts", "a1", {}, payload)
    filesystem, path = fsspec.core.url_to_fs(store.root_url)
    kept = names_below(store)
    for orphan in ("payloads/a1-0123456789abcdef.mkv", "payloads/b2-0123456789abcdef.json"):
        filesystem.pipe_file(f"{path}/parts/{orphan}", b"left behind")
    for folder in ("payloads", "records"):
        filesystem.pipe_file(f"{path}/parts/{folder}/{PART_PREFIX}0123", b"left behind")
    assert store.addresses("parts") == {"a1"}
    assert remove_orphans(store, "parts", older_than_seconds=3600) == 0
    assert remove_orphans(store, "parts", older_than_seconds=-60) == 4
    assert names_below(store) == kept


def test_an_old_file_that_was_just_put_there_is_no_orphan_yet(payload: Path, tmp_path: Path) -> None:
    """Its writer may be about to write the record."""
    os.utime(payload, (1, 1))
    store = CommitStore(str(tmp_path / "store"))
    folder = tmp_path / "store" / "parts" / "payloads"
    folder.mkdir(parents=True)
    os.link(payload, folder / "a1-0123456789abcdef.mkv")
    assert remove_orphans(store, "parts", older_than_seconds=60) == 0


def run_until_killed(store: CommitStore, payload: Path, steps: int) -> bool:
    """Commit in a process that dies, as by ``kill -9``, before its ``steps``-th look at the disk.

    Returns:
        Whether it came to the end before that.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The child runs no thread and never returns.
        child = os.fork()
    if child == 0:
        left = steps

        def count(event: str, args: tuple[object, ...]) -> None:
            nonlocal left
            if event == "open" or event.startswith("os."):
                left -= 1
                if left == 0:
                    os._exit(9)

        status = 1
        try:
            sys.addaudithook(count)
            store.commit("parts", "a1", {"x": 1}, payload)
            status = 0
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


@pytest.mark.slow
def test_a_commit_is_whole_or_absent_wherever_its_writer_is_killed(payload: Path, tmp_path: Path) -> None:
    outcomes: list[bool] = []
    for step in range(1, 200):
        store = CommitStore(str(tmp_path / f"store-{step}"))
        finished = run_until_killed(store, payload, step)
        is_there = "a1" in store.addresses("parts")
        outcomes.append(is_there)
        assert store.find("parts", "a1", verify=True) == ({"x": 1} if is_there else None)
        assert store.commit("parts", "a1", {"x": 1}, payload) is not is_there
        assert store.fetch_payload("parts", "a1", tmp_path).read_bytes() == CONTENT
        remove_orphans(store, "parts", older_than_seconds=-60)
        assert len(names_below(store)) == 2
        if finished:
            break
    assert finished
    assert outcomes.count(False) > 10, "the writer was hardly killed before its commit"
    assert outcomes == sorted(outcomes), "once there, a commit stays"
