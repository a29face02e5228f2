import os
from pathlib import Path

import pytest

from seedvr2_ray.errors import CapacityError, TargetError
from seedvr2_ray.restoration.work.work_folder import open_work, open_work_to_look, work_folder_of


def stop_a_run(target, work_folder=None, *, commit=True):
    with pytest.raises(KeyboardInterrupt):
        with open_work(target, work_folder, keep=False) as (store, workspace):
            (workspace / "half.mkv").write_text("half")
            if commit:
                store.commit("restored", "a", {"frames": 3})
            raise KeyboardInterrupt


def test_success_leaves_nothing_and_keep_leaves_the_commits(tmp_path):
    target = str(tmp_path / "out.mp4")
    with open_work(target, None, keep=False) as (store, _):
        store.commit("restored", "a", {})
    assert list(tmp_path.iterdir()) == []
    with open_work(target, None, keep=True) as (store, _):
        store.commit("restored", "a", {})
    assert work_folder_of(target, None).is_dir()


def test_the_lock_of_a_folder_is_the_last_to_go(tmp_path, monkeypatch):
    target, unlink, left = str(tmp_path / "out.mp4"), os.unlink, []
    root = work_folder_of(target, None)

    def look_and_unlink(path, **where):
        if Path(path).name == "lock":
            left.append([each.name for each in root.iterdir()])
        unlink(path, **where)

    monkeypatch.setattr(os, "unlink", look_and_unlink)
    with open_work(target, None, keep=False) as (store, _):
        for number in range(20):
            store.commit(f"kind-{number}", "a", {})
    assert left == [["lock"]]


def test_a_stopped_run_leaves_its_commits_and_nothing_half_written(tmp_path):
    target = str(tmp_path / "out.mp4")
    stop_a_run(target)
    assert not (work_folder_of(target, None) / "writing").exists()
    with open_work(target, None, keep=False) as (store, _):
        assert store.find("restored", "a") == {"frames": 3}


def test_a_run_that_committed_nothing_leaves_no_folder_and_none_that_it_made_on_the_way(tmp_path):
    stop_a_run(str(tmp_path / "new" / "deep" / "out.mp4"), commit=False)
    assert list(tmp_path.iterdir()) == []


def test_looking_changes_nothing(tmp_path):
    target = str(tmp_path / "out.mp4")
    with open_work_to_look(target, None) as (store, workspace):
        store.commit("shots", "a", {})
        assert workspace.is_dir()
    assert list(tmp_path.iterdir()) == []
    stop_a_run(target)
    with open_work_to_look(target, None) as (store, _):
        assert store.find("restored", "a") == {"frames": 3}
    with open_work_to_look(target, None) as (store, _):
        assert store.find("restored", "a") == {"frames": 3}


def test_a_named_folder_holds_the_work_of_many_targets_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    work, names = str(tmp_path / "work"), [str(tmp_path / each / "out.mp4") for each in "ab"]
    assert work_folder_of(names[0], work) != work_folder_of(names[1], work)
    stop_a_run(names[0], work)
    with open_work(names[1], work, keep=False) as (store, _):
        assert store.find("restored", "a") is None
    with open_work(names[0], work, keep=False) as (store, _):
        assert store.find("restored", "a") == {"frames": 3}


def test_a_named_folder_is_the_same_however_the_target_is_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert work_folder_of("out.mp4", "work") == work_folder_of(str(tmp_path / "out.mp4"), "work")


def test_a_second_run_is_refused_while_the_first_is_at_work(tmp_path):
    target = str(tmp_path / "out.mp4")
    with open_work(target, None, keep=False):
        with pytest.raises(CapacityError, match="another run is at work"):
            with open_work(target, None, keep=False):
                pass
        with pytest.raises(CapacityError, match="another run is at work"):
            with open_work_to_look(target, None):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="--work"):
        with open_work(str(tmp_path / "out.mp4"), str(tmp_path / "file"), keep=False):
            pass
