"""The promises of the storage against an S3 endpoint served on loopback."""

import os
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import fsspec
import httpx
import pytest

from seedvr2_ray.errors import MediaError, StorageError, TargetError
from seedvr2_ray.storage.address import fingerprint, has_changed
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.location import exists, fetch, publish, publish_bytes, require_writable, sign_put
from seedvr2_ray.storage.orphans import remove_orphans
from tests.ports import free_port
from tests.s3_server import SECRET, bucket, endpoint

__all__ = ["bucket", "endpoint"]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("megabytes", [0, 1, 120])
def test_what_is_published_arrives_whole_in_one_part_or_many(bucket: str, tmp_path: Path, megabytes: int) -> None:
    local = tmp_path / "made.mp4"
    local.write_bytes(os.urandom(1 << 20) * megabytes)
    publish(local, f"{bucket}/deep/out.mp4", overwrite=False)
    assert fetch(f"{bucket}/deep/out.mp4", tmp_path / "here").read_bytes() == local.read_bytes()
    with pytest.raises(TargetError, match=r"deep/out.mp4 exists"):
        publish(local, f"{bucket}/deep/out.mp4", overwrite=False)
    publish(local, f"{bucket}/deep/out.mp4", overwrite=True)


def test_of_eight_committers_at_once_one_wins(bucket: str, tmp_path: Path) -> None:
    store = CommitStore(f"{bucket}/work")
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
    assert len(fsspec.filesystem("s3").find(f"{bucket}/work")) == 2


def test_a_whole_life_of_commits(bucket: str, tmp_path: Path) -> None:
    store = CommitStore(f"{bucket}/work")
    made = tmp_path / "made.mkv"
    made.write_bytes(b"frames")
    assert store.addresses("parts") == frozenset()
    assert [store.record_attempt("parts", "a1") for _ in range(3)] == [1, 2, 3]
    assert store.commit("parts", "a1", {"x": 1}, made)
    assert not store.commit("parts", "a1", {"x": 2}, made)
    assert store.addresses("parts") == {"a1"}
    assert store.find("parts", "a1") == {"x": 1}
    store.clear_attempts("parts", "a1")
    assert store.attempts("parts", "a1") == 0
    fsspec.filesystem("s3").pipe_file(f"{bucket}/work/parts/payloads/b2-0123456789abcdef.mkv", b"left behind")
    assert remove_orphans(store, "parts", older_than_seconds=3600) == 0
    assert remove_orphans(store, "parts", older_than_seconds=-60) == 1
    store.discard("parts", "a1")
    assert fsspec.filesystem("s3").find(f"{bucket}/work") == []


def test_a_version_identifies_a_source_without_reading_it(bucket: str) -> None:
    publish_bytes(b"first", f"{bucket}/clip.mp4", overwrite=False)
    then = fingerprint(f"{bucket}/clip.mp4")
    assert then.text.startswith("version-")
    assert not has_changed(f"{bucket}/clip.mp4", then)
    publish_bytes(b"other", f"{bucket}/clip.mp4", overwrite=True)
    assert has_changed(f"{bucket}/clip.mp4", then)


def test_a_missing_bucket_or_object_is_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="bucket of s3://no-such-bucket/out.mp4 does not exist"):
        require_writable("s3://no-such-bucket/out.mp4", overwrite=False)
    with pytest.raises(TargetError, match="does not exist"):
        publish_bytes(b"x", "s3://no-such-bucket/out.mp4", overwrite=False)
    with pytest.raises(MediaError, match=r"clip.mp4 does not exist"):
        fetch(f"{bucket}/clip.mp4", tmp_path)
    with pytest.raises(TargetError, match="bucket of .* does not exist"):
        CommitStore("s3://no-such-bucket/work").commit("parts", "a1", {})
    with pytest.raises(TargetError, match="no name this store"):
        require_writable("s3://NO_such_bucket!/out.mp4")


def test_asking_whether_a_bucket_is_writable_leaves_nothing(bucket: str) -> None:
    require_writable(f"{bucket}/deep/out.mp4", overwrite=False)
    assert fsspec.filesystem("s3").find(bucket) == []
    assert not exists(f"{bucket}/deep/out.mp4")


def test_a_url_for_putting_a_file_holds_for_its_size_alone(bucket: str) -> None:
    url = sign_put(f"{bucket}/deep/ö clip.mp4", num_bytes=5, seconds=60)
    assert url is not None
    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-SignedHeaders"] == ["content-length;host"]
    assert query["X-Amz-Expires"] == ["60"]
    assert SECRET not in url
    httpx.put(url, content=b"12345", timeout=240).raise_for_status()
    assert fsspec.filesystem("s3").cat_file(f"{bucket}/deep/ö clip.mp4") == b"12345"
    for elsewhere in ("/a/folder/clip.mp4", "memory://clip.mp4"):
        assert sign_put(elsewhere, num_bytes=5, seconds=60) is None


def test_an_endpoint_that_does_not_answer_is_worth_another_try(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    fsspec.filesystem("s3", skip_instance_cache=True).clear_instance_cache()
    with pytest.raises(StorageError, match="could not be reached") as caught:
        publish_bytes(b"x", f"{bucket}/out", overwrite=True)
    assert SECRET not in str(caught.value)
