"""An archive of ten through Ray has the bytes that it had in the last version; see tests/golden_results.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from seedvr2_ray.batch.bulk import run_bulk
from tests import golden_results as golden
from tests.batch.archives import Quiet, digests, make_archive, request_for
from tests.batch.restorers import TracingRestorers

pytestmark = [
    pytest.mark.ray,
    # Ray leaves its log files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def small_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two cores, whose workers can import the tests."""
    monkeypatch.setenv("PYTHONPATH", str(golden.ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def test_an_archive_of_ten_has_the_bytes_that_it_had(small_ray: None, tmp_path: Path) -> None:
    golden.require_same_libraries()
    archive = make_archive(tmp_path / "archive", num_good=golden.NUM_GOOD)
    (tmp_path / "traces").mkdir()
    restorers = TracingRestorers(str(tmp_path / "traces"))
    run_bulk(request_for(str(archive.folder), str(tmp_path / "out"), restorers, tmp_path / "scratch"), Quiet())
    assert digests(tmp_path / "out", archive.targets()) == golden.stored("results")["archive"]
