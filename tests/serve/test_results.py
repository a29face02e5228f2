from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_ray.serve.jobs import ResultInfo
from seedvr2_ray.serve.results import Results

INFO = ResultInfo(
    address="ab12",
    name="restored.mp4",
    media_type="video/mp4",
    num_bytes=600,
    sha256="0" * 64,
    width=64,
    height=48,
    num_frames=1,
)


def _published(folder: Path) -> tuple[Results, ResultInfo]:
    results = Results(str(folder / "results"))
    path = folder / "restored.mp4"
    path.write_bytes(b"master" * 100)
    results.publish(INFO, path)
    path.unlink()
    return results, INFO


def test_a_result_is_found_while_its_master_is_as_published(tmp_path: Path) -> None:
    results, info = _published(tmp_path)
    found = results.find(info.address, name="holiday.mov")
    assert found is not None and found.name == "holiday-restored.mp4"
    stored = results.file("master", info.address)
    assert stored is not None and b"".join(stored.blocks()) == b"master" * 100


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"mast")])
def test_a_master_that_is_gone_or_cut_short_is_not_given_out_and_is_made_again(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    results, info = _published(tmp_path)
    stored = results.file("master", info.address)
    assert stored is not None and stored.local_path is not None
    spoil(Path(stored.local_path))
    assert results.file("master", info.address) is None
    assert results.find(info.address, name="holiday.mov") is None
    # Nothing believes the record any more, and the next writer is the first again.
    assert not results.has("master", info.address)
