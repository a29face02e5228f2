"""The whole path against an S3 endpoint on loopback."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import ray

from seedvr2_ray.batch.bulk import run_bulk
from seedvr2_ray.batch.manifest import listing
from seedvr2_ray.batch.manifest.manifest import ManifestSource
from seedvr2_ray.batch.manifest.normalise import normalise, require_source
from seedvr2_ray.errors import InputError, TargetError
from seedvr2_ray.storage.location import publish_bytes
from tests.batch.archives import (
    SETTINGS,
    Archive,
    Quiet,
    begun_more_than_once,
    digests,
    make_archive,
    request_for,
    restore_one_by_one,
)
from tests.batch.machines import run_and_lose_machine
from tests.batch.restorers import TracingRestorers
from tests.s3_server import bucket, endpoint
from tests.waiting import wait_for

__all__ = ["bucket", "endpoint"]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def worker_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers import the tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@contextmanager
def small_ray() -> Iterator[None]:
    """A Ray whose workers know the endpoint, for it is started after that was said."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 << 20, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


class _StopAfter(Quiet):
    """Stops the driver like Ctrl-C does, after some segments."""

    def __init__(self, num_segments: int) -> None:
        self._left = num_segments

    def received(self, result: object) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


def _kill_driver(bucket: str, restorers: TracingRestorers, scratch: Path) -> None:
    """Start the job in a process of its own and kill that, and its Ray, in the middle of work."""
    command = [sys.executable, "-m", "tests.batch.drive", f"{bucket}/in", f"{bucket}/out", restorers.folder]
    driver = subprocess.Popen(
        [*command, str(scratch), "0.3"], cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: len(restorers.traces()) >= 6 or driver.poll() is not None, "six segments")
        assert driver.poll() is None
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        os.killpg(driver.pid, signal.SIGKILL)
    time.sleep(1)  # A killed process may have one last request on its way.


class _KillsRestorer:
    """Kills the process that began the newest segment, once so many were begun; looked after until the job is over."""

    def __init__(self, restorers: TracingRestorers, num_traces: int) -> None:
        self.has_killed = False
        self._restorers = restorers
        self._num_traces = num_traces
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def __enter__(self) -> "_KillsRestorer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _kill(self) -> None:
        while not self._is_over.wait(0.02):
            traces = self._restorers.traces()
            if len(traces) >= self._num_traces:
                os.kill(traces[-1].pid, signal.SIGKILL)
                self.has_killed = True
                return


def _put(archive: Archive, url: str) -> fsspec.AbstractFileSystem:
    """Put an archive into the store."""
    store = fsspec.filesystem("s3")
    for path in sorted(archive.folder.rglob("*")):
        if path.is_file():
            store.put_file(str(path), f"{url}/{path.relative_to(archive.folder)}")
    return store


def _published(bucket: str, archive: Archive, here: Path) -> dict[str, str]:
    """Fetch what was published; return its digests."""
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    store.get(f"{bucket}/out", str(here), recursive=True)
    return digests(here, archive.targets())


def test_an_archive_in_an_object_store_comes_out_the_same_whoever_is_killed_on_the_way(
    bucket: str, tmp_path: Path
) -> None:
    archive = make_archive(tmp_path / "in", num_good=16)
    expected = restore_one_by_one(archive, tmp_path / "one-by-one")
    store = _put(archive, f"{bucket}/in")
    (tmp_path / "traces").mkdir()
    restorers = TracingRestorers(str(tmp_path / "traces"), pause_seconds=0.1)
    request = request_for(f"{bucket}/in", f"{bucket}/out", restorers, tmp_path / "scratch")

    _kill_driver(bucket, restorers, tmp_path / "scratch")
    store.invalidate_cache()
    assert len(store.find(f"{bucket}/out")) > 0
    with small_ray():
        # So slowly that most is left to do, however long the driver takes to end what runs.
        slow = replace(request, restorers=replace(restorers, pause_seconds=1.0))
        with pytest.raises(KeyboardInterrupt):
            run_bulk(slow, _StopAfter(2))
        with _KillsRestorer(restorers, len(restorers.traces()) + 3) as killer:
            summary = run_bulk(request, Quiet())
        assert killer.has_killed
        assert (summary["files"]["published"] + summary["files"]["skipped"], summary["files"]["quarantined"]) == (16, 5)

        assert _published(bucket, archive, tmp_path / "out") == expected
        lines = store.cat_file(f"{bucket}/out/.seedvr2-ray/quarantine.jsonl").decode().splitlines()
        assert len(lines) == 5 and all(any(name in line for line in lines) for name in archive.bad)
        assert not [name for name in store.find(f"{bucket}/out") if "seedvr2-part" in name or "/payloads/" in name]
        # Only what was in work at one of the three blows was begun again: two restorers at most, each time.
        assert len(restorers.traces()) <= summary["segments"] + 3 * 2

        # A source that is replaced is restored again; the others are not.
        store.pipe_file(f"{bucket}/in/{archive.good[1]}", (archive.folder / archive.good[2]).read_bytes())
        changed = run_bulk(replace(request, overwrite=True), Quiet())
        assert changed["files"] == {"published": 1, "skipped": 15, "quarantined": 5}


def test_a_machine_that_is_drained_before_it_goes_leaves_nothing_to_be_done_twice(bucket: str, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "in", num_good=10)
    expected = restore_one_by_one(archive, tmp_path / "one-by-one")
    _put(archive, f"{bucket}/in")
    (tmp_path / "traces").mkdir()
    restorers = TracingRestorers(str(tmp_path / "traces"), pause_seconds=0.5, num_together=2)
    request = request_for(f"{bucket}/in", f"{bucket}/out", restorers, tmp_path / "scratch")
    summary, drained = run_and_lose_machine(request, restorers, has_notice=True)
    assert summary["files"] == {"published": 10, "skipped": 0, "quarantined": 5}
    assert _published(bucket, archive, tmp_path / "out") == expected
    traces = restorers.traces()
    begun_there = [trace.key for trace in traces if trace.pid in drained]
    assert begun_there
    assert not set(begun_there) & begun_more_than_once(traces).keys()


def test_missing_buckets_are_refused_before_work_with_the_row_named(bucket: str, tmp_path: Path) -> None:
    publish_bytes(b"source\ns3://no-such-bucket/a.mp4\n", f"{bucket}/m.csv", overwrite=True)
    with pytest.raises(InputError, match="m.csv line 2: the bucket of s3://no-such-bucket does not exist"):
        normalise(ManifestSource(url=f"{bucket}/m.csv", output=f"{bucket}/out", defaults=SETTINGS), f"{bucket}/job")
    publish_bytes(b"x", f"{bucket}/in/a.mp4", overwrite=True)
    with pytest.raises(TargetError, match="a.mp4: .*bucket of s3://no-such-bucket.* does not exist"):
        normalise(
            ManifestSource(url=f"{bucket}/in", output="s3://no-such-bucket/out", defaults=SETTINGS), f"{bucket}/job"
        )
    with pytest.raises(InputError, match="holds nothing, or does not exist"):
        normalise(
            ManifestSource(url="s3://no-such-bucket/in", output=f"{bucket}/out", defaults=SETTINGS), f"{bucket}/job"
        )
    with pytest.raises(TargetError, match="lies inside the input"):
        normalise(ManifestSource(url=f"{bucket}/in", output=f"{bucket}/in/out", defaults=SETTINGS), f"{bucket}/job")


def test_a_prefix_is_listed_page_by_page(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.mp4", "b/1.mp4", "b/2.png", "c.mov", "d/e/f.mp4"]
    for name in [*names, ".hidden/x.mp4", "b/.part.mp4", "notes.txt"]:
        publish_bytes(b"x", f"{bucket}/in/{name}", overwrite=True)
    publish_bytes(b"x", f"{bucket}/in-other/x.mp4", overwrite=True)
    monkeypatch.setattr(listing, "_PAGE", 2)
    assert list(listing.list_sources(f"{bucket}/in")) == [(f"{bucket}/in/{name}", name) for name in names]
    assert list(listing.list_sources(f"{bucket}/in/", ["*.png"])) == [(f"{bucket}/in/b/2.png", "b/2.png")]
    for empty in (f"{bucket}/nothing", "s3://no-such-bucket"):
        with pytest.raises(InputError, match="holds nothing, or does not exist"):
            list(listing.list_sources(empty))


@pytest.fixture
def closed_bucket(bucket: str, endpoint: str) -> Iterator[str]:
    """A bucket with a source in it, whose store lets nobody in any more."""
    publish_bytes(b"x", f"{bucket}/in/a.mp4", overwrite=True)
    publish_bytes(b"source\n", f"{bucket}/m.csv", overwrite=True)

    def allow(num_requests: str) -> None:
        headers = {"Content-Type": "text/plain"}
        body = num_requests.encode()
        urllib.request.urlopen(
            urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=body, headers=headers, method="POST")
        ).close()

    allow("0")
    fsspec.filesystem("s3").invalidate_cache()
    yield bucket
    allow("inf")


def test_buckets_that_may_not_be_read_or_written_are_refused_before_work_with_the_row_named(
    closed_bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(b"x")
    (tmp_path / "m.csv").write_text(f"source\n{closed_bucket}/in/a.mp4\n")
    here = str(tmp_path / "out")

    def check(url: str, output: str) -> None:
        require_source(url)
        normalise(ManifestSource(url=url, output=output, defaults=SETTINGS), str(tmp_path / "job"))

    with pytest.raises(InputError, match=r"m.csv line 2: no permission to read s3://\S+/in/a.mp4: .*credentials"):
        check(str(tmp_path / "m.csv"), here)
    with pytest.raises(InputError, match=r"no permission to read s3://\S+/m.csv: .*credentials"):
        check(f"{closed_bucket}/m.csv", here)
    with pytest.raises(InputError, match=r"no permission to read s3://\S+/in: InvalidAccessKeyId; .*credentials"):
        check(f"{closed_bucket}/in", here)
    with pytest.raises(TargetError, match=r"a.mp4: no permission to write s3://\S+: InvalidAccessKeyId; .*credentials"):
        check(str(tmp_path / "in"), f"{closed_bucket}/out")
