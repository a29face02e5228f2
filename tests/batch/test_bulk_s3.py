"""The whole path against an S3 endpoint on loopback."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import ray

from seedvr2_ray.batch.bulk import run_bulk
from seedvr2_ray.batch.manifest import ManifestSource
from seedvr2_ray.batch.normalise import normalise
from seedvr2_ray.errors import InputError, TargetError
from seedvr2_ray.storage.location import publish_bytes
from tests.batch.archives import SETTINGS, Quiet, digests, make_archive, request_for, restore_one_by_one
from tests.batch.restorers import TracingRestorers
from tests.storage.test_s3 import bucket, endpoint

__all__ = ["bucket", "endpoint"]

pytest.importorskip("moto", reason="moto's S3 server is not installed")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_ray(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray whose workers know the endpoint."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 << 20, log_to_driver=False)
    yield
    ray.shutdown()


class _StopAfter(Quiet):
    """Stops the driver like Ctrl-C does, after some segments."""

    def __init__(self, num_segments: int) -> None:
        self._left = num_segments

    def took(self, result: object) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("small_ray")
def test_an_archive_in_an_object_store_is_restored_after_a_stop_with_the_same_bytes(
    bucket: str, tmp_path: Path
) -> None:
    archive = make_archive(tmp_path / "in")
    expected = restore_one_by_one(archive, tmp_path / "one-by-one")
    store = fsspec.filesystem("s3")
    for path in sorted((tmp_path / "in").rglob("*")):
        if path.is_file():
            store.put_file(str(path), f"{bucket}/in/{path.relative_to(tmp_path / 'in')}")
    (tmp_path / "traces").mkdir()
    restorers = TracingRestorers(str(tmp_path / "traces"))
    request = request_for(f"{bucket}/in", f"{bucket}/out", restorers, tmp_path / "scratch")

    with pytest.raises(KeyboardInterrupt):
        run_bulk(request, _StopAfter(10))
    assert len(store.find(f"{bucket}/out")) > 0
    summary = run_bulk(request, Quiet())
    assert (summary["files"]["published"] + summary["files"]["skipped"], summary["files"]["quarantined"]) == (25, 5)

    store.get(f"{bucket}/out", str(tmp_path / "out"), recursive=True)
    assert digests(tmp_path / "out", archive.targets()) == expected
    lines = store.cat_file(f"{bucket}/out/.seedvr2-ray/quarantine.jsonl").decode().splitlines()
    assert len(lines) == 5 and all(any(name in line for line in lines) for name in archive.bad)
    assert not [name for name in store.find(f"{bucket}/out") if "seedvr2-part" in name or "/payloads/" in name]
    # Only what was in work when the driver stopped was begun again.
    assert len(restorers.traces()) <= summary["segments"] + 2

    # A source that is replaced is restored again; the others are not.
    store.pipe_file(f"{bucket}/in/{archive.good[1]}", (archive.folder / archive.good[2]).read_bytes())
    changed = run_bulk(replace(request, overwrite=True), Quiet())
    assert changed["files"] == {"published": 1, "skipped": 24, "quarantined": 5}


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
