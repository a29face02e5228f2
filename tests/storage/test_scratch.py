"""Laws of folders that are written in: nobody shares one, and none outlives its process for long."""

import multiprocessing
import os
from pathlib import Path

import pytest

from seedvr2_ray.storage.scratch import open_workspace


def _die_at_work(scratch: str) -> None:
    with open_workspace(scratch) as folder:
        (folder / "half-written").touch()
        os._exit(9)


def test_a_workspace_is_empty_and_goes_with_its_user_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_workspace(tmp_path) as folder:
        assert list(folder.iterdir()) == []
        (folder / "a").touch()
        raise ZeroDivisionError
    assert list((tmp_path / "writing").iterdir()) == []


def test_what_a_killed_process_left_goes_when_the_next_one_comes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_at_work, args=(str(tmp_path),))
    process.start()
    process.join()
    (left,) = (path for path in (tmp_path / "writing").iterdir() if path.is_dir())
    assert (left / "half-written").exists()
    with open_workspace(tmp_path) as first:
        (first / "mine").touch()
        with open_workspace(tmp_path) as second:
            assert not left.exists()
            assert (first / "mine").exists() and second != first
