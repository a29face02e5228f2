import errno
import os
import pickle
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from seedvr2_ray.errors import CapacityError, InputError, MediaError, StorageError, TargetError
from seedvr2_ray.storage import local_backend
from seedvr2_ray.storage.faults import translated
from seedvr2_ray.storage.location import (
    PART_PREFIX,
    exists,
    fetch,
    is_local,
    open_location,
    printable,
    publish,
    publish_bytes,
    remove,
    require_writable,
)


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "root")
        return
    name = f"memory://{tmp_path.name}"
    yield name
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


def content_of(url: str) -> bytes:
    place = open_location(url)
    return place.backend.read(place.path)


def names_below(root: str) -> set[str]:
    """Return every file, those being written included."""
    filesystem, path = fsspec.core.url_to_fs(root)
    return {name.removeprefix(path).lstrip("/") for name in filesystem.find(path)}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a/b.mp4", "s3://bucket/a/b.mp4"),
        ("https://me:secret@host:8080/clip.mp4?X-Amz-Signature=secret#secret", "https://host:8080/clip.mp4"),
        ("sftp://me:secret@host/clip", "sftp://host/clip"),
        ("https://host?token=secret", "https://host"),
        ("simplecache::https://me:secret@host/a?secret", "simplecache::https://host/a"),
        ("folder/a?b#c@d.mp4", "folder/a?b#c@d.mp4"),
        ("/a/b::c", "/a/b::c"),
    ],
)
def test_what_is_printed_holds_no_secret(url: str, shown: str) -> None:
    assert printable(url) == shown


@pytest.mark.parametrize("name", ["a.mp4", "/a/b", "a::b", "file:///a/b", "C major.wav", "dir/http://x"])
def test_paths_are_local(name: str) -> None:
    assert is_local(name)


@pytest.mark.parametrize("name", ["s3://a/b", "memory://a", "https://a/b", "simplecache::s3://a/b"])
def test_urls_are_not_local(name: str) -> None:
    assert not is_local(name)


def test_an_unknown_scheme_is_refused_without_its_secrets() -> None:
    with pytest.raises(InputError, match="nosuch://host/a is no URL") as caught:
        open_location("nosuch://me:secret@host/a")
    assert "secret" not in str(caught.value)


def test_what_is_published_is_complete_and_the_local_file_stays(root: str, tmp_path: Path) -> None:
    local = tmp_path / "made.mp4"
    local.write_bytes(b"x" * 100_000)
    publish(local, f"{root}/new/folder/out.mp4", overwrite=False)
    assert content_of(f"{root}/new/folder/out.mp4") == local.read_bytes()
    assert names_below(root) == {"new/folder/out.mp4"}
    local.unlink()
    assert exists(f"{root}/new/folder/out.mp4")


def test_only_overwriting_replaces_what_is_there(root: str, tmp_path: Path) -> None:
    local = tmp_path / "made"
    publish_bytes(b"old", f"{root}/out", overwrite=False)
    local.write_bytes(b"new")
    with pytest.raises(TargetError, match="out exists"):
        publish(local, f"{root}/out", overwrite=False)
    with pytest.raises(TargetError, match="out exists"):
        require_writable(f"{root}/out", overwrite=False)
    assert content_of(f"{root}/out") == b"old"
    publish(local, f"{root}/out", overwrite=True)
    assert content_of(f"{root}/out") == b"new"
    assert names_below(root) == {"out"}


def test_of_eight_publishers_at_once_one_wins(root: str) -> None:
    barrier = threading.Barrier(8)
    won: list[int] = []

    def publish_own(number: int) -> None:
        barrier.wait()
        try:
            publish_bytes(b"%d" % number * 1000, f"{root}/out", overwrite=False)
            won.append(number)
        except TargetError:
            return

    threads = [threading.Thread(target=publish_own, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert content_of(f"{root}/out") == b"%d" % won[0] * 1000
    assert names_below(root) == {"out"}


def test_a_folder_without_links_is_written_without_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    local = tmp_path / "made"
    local.write_bytes(b"new")
    publish(local, tmp_path / "out", overwrite=False)
    with pytest.raises(TargetError, match="exists"):
        publish(local, tmp_path / "out", overwrite=False)
    assert {path.name for path in tmp_path.iterdir()} == {"made", "out"}


def test_across_file_systems_the_file_is_copied(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    local = shm / f"{tmp_path.name}-{os.getpid()}"
    local.write_bytes(b"content")
    try:
        publish(local, tmp_path / "out", overwrite=False)
    finally:
        local.unlink()
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_full_disk_leaves_nothing_and_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_bytes(b"old")
    local = tmp_path / "made"
    local.write_bytes(b"new")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_backend.os, "fsync", no_space)
    with pytest.raises(CapacityError, match="no space left for .*out"):
        publish(local, tmp_path / "out", overwrite=True)
    with pytest.raises(CapacityError, match="no space left"):
        publish_bytes(b"new", tmp_path / "other", overwrite=True)
    assert (tmp_path / "out").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"made", "out"}


def test_targets_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="is a folder"):
        require_writable(tmp_path)
    with pytest.raises(TargetError, match="something in its path is none"):
        require_writable(tmp_path / "file" / "out.mp4")
    with pytest.raises(TargetError, match="300 bytes in UTF-8, too many for this file system"):
        require_writable(tmp_path / ("n" * 300))
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TargetError, match="no permission to write"):
        require_writable(tmp_path / "out")


def test_asking_whether_a_target_is_writable_leaves_nothing(root: str) -> None:
    require_writable(f"{root}/deep/out.mp4", overwrite=False)
    assert names_below(root) == set()


def test_a_local_source_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(b"abc")
    assert fetch(tmp_path / "clip", tmp_path / "elsewhere") == tmp_path / "clip"
    assert not (tmp_path / "elsewhere").exists()


def test_a_remote_source_arrives_whole_under_its_name(root: str, tmp_path: Path) -> None:
    publish_bytes(b"abc", f"{root}/clip.mp4", overwrite=False)
    got = fetch(f"{root}/clip.mp4", tmp_path / "here")
    assert (got.name, got.read_bytes()) == ("clip.mp4", b"abc")


def test_a_short_download_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_bytes(b"abcdef", f"memory://{tmp_path.name}/clip", overwrite=True)
    backend = type(open_location("memory://x").backend)
    monkeypatch.setattr(backend, "get", lambda self, path, local: local.write_bytes(b"abc"))
    with pytest.raises(StorageError, match="has 6 bytes and 3 arrived"):
        fetch(f"memory://{tmp_path.name}/clip", tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_source_that_is_missing_or_a_folder_is_refused(root: str, tmp_path: Path) -> None:
    publish_bytes(b"abc", f"{root}/folder/clip", overwrite=False)
    with pytest.raises(MediaError, match="nothing.mp4 does not exist"):
        fetch(f"{root}/nothing.mp4", tmp_path)
    with pytest.raises(MediaError, match="is a folder"):
        fetch(f"{root}/folder", tmp_path)


def test_removing_twice_is_removing_once(root: str) -> None:
    publish_bytes(b"abc", f"{root}/out", overwrite=False)
    remove(f"{root}/out")
    remove(f"{root}/out")
    assert not exists(f"{root}/out")


def test_locations_travel_between_processes(root: str) -> None:
    publish_bytes(b"abc", f"{root}/out", overwrite=False)
    place = pickle.loads(pickle.dumps(open_location(f"{root}/out")))
    assert place.backend.read(place.path) == b"abc"


class FakeSdkError(Exception):
    """As a store's SDK raises it: no OSError, and its message repeats the URL."""

    status = 0


class NoCredentialsError(Exception):
    """Named as botocore names it."""


@pytest.mark.parametrize(
    ("error", "role", "expected"),
    [
        (FileNotFoundError("secret"), "source", MediaError),
        (FileNotFoundError("secret"), "target", TargetError),
        (FileNotFoundError("secret"), "store", StorageError),
        (PermissionError("secret"), "source", MediaError),
        (PermissionError("secret"), "store", TargetError),
        (OSError(errno.EROFS, "secret"), "target", TargetError),
        (OSError(errno.EDQUOT, "secret"), "store", CapacityError),
        (OSError(errno.EIO, "secret"), "target", StorageError),
        (TimeoutError("secret"), "source", StorageError),
        (NotImplementedError("secret"), "target", TargetError),
        (NoCredentialsError("secret"), "target", TargetError),
        (FakeSdkError("secret"), "source", StorageError),
    ],
)
def test_every_foreign_error_becomes_ours_without_secrets(error: Exception, role: Any, expected: type) -> None:
    with pytest.raises(expected) as caught, translated("https://me:secret@host/clip?sig=secret", role):
        raise error
    assert type(caught.value) is expected
    assert "https://host/clip" in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__cause__ is None
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.mark.parametrize(("status", "expected"), [(403, MediaError), (401, MediaError), (500, StorageError)])
def test_an_http_status_says_whether_trying_again_helps(status: int, expected: type) -> None:
    error = FakeSdkError()
    error.status = status
    with pytest.raises(expected, match=f"HTTP {status}"), translated("https://host/clip", "source"):
        raise error


def test_our_own_mistakes_are_not_blamed_on_the_store() -> None:
    with pytest.raises(TypeError, match="mistake"), translated("s3://bucket/key", "target"):
        raise TypeError("mistake")


def test_names_of_files_being_written_are_recognisable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        real(descriptor)

    monkeypatch.setattr(local_backend.os, "fsync", look)
    publish_bytes(b"abc", tmp_path / "out", overwrite=False)
    assert seen[0].startswith(PART_PREFIX)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["片" * 86, "x" * 256])
def test_a_name_that_is_too_long_is_told_by_its_bytes_and_without_its_folder(tmp_path, name):
    with pytest.raises(TargetError, match=r"bytes in UTF-8, too many .* shorten it") as refused:
        publish_bytes(b"", tmp_path / name, overwrite=True)
    assert str(tmp_path) not in str(refused.value)
