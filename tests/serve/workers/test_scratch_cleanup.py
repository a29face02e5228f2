import os
import time

from seedvr2_ray.serve.workers.scratch_cleanup import keep_tidy
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.storage.scratch import open_workspace


def test_what_killed_processes_left_long_ago_goes_and_what_is_being_written_stays(tmp_path):
    layout = StorageLayout(data=str(tmp_path / "data"), scratch=str(tmp_path / "scratch"))
    two_days_ago = time.time() - 2 * 24 * 3600
    stays, goes = [], []
    for folder in ("uploads", "estimates", "bodies", "sources"):
        for age, found in (("new", stays), ("old", goes)):
            place = tmp_path / "scratch" / folder / f".seedvr2-part-{age}" / "content"
            place.mkdir(parents=True)
            (place / "film.mp4").write_bytes(b"film")
            found.append(place)
    lone = tmp_path / "scratch" / "uploads" / ".seedvr2-part-body"
    lone.write_bytes(b"half a film")
    goes.append(lone)
    for old in goes:
        os.utime(old, (two_days_ago, two_days_ago))
        os.utime(old.parent if old.name == "content" else old, (two_days_ago, two_days_ago))
    keep_tidy(layout)
    deadline = time.monotonic() + 30
    while any(old.exists() for old in goes):
        assert time.monotonic() < deadline, [old for old in goes if old.exists()]
        time.sleep(0.01)
    assert all(new.exists() for new in stays)


def test_what_is_being_written_stays_however_long_that_takes_and_whoever_else_writes_on_this_machine(tmp_path):
    layout = StorageLayout(data=str(tmp_path / "data"), scratch=str(tmp_path / "scratch"))
    with layout.workspace() as folder:
        two_days_ago = time.time() - 2 * 24 * 3600
        os.utime(folder, (two_days_ago, two_days_ago))
        layout.remove_abandoned()
        with open_workspace(layout.scratch):  # As a bulk job does.
            assert folder.exists()
