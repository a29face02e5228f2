"""Whatever can be refused is refused before the first frame is restored."""

import errno
from contextlib import contextmanager

import av
import pytest

from seedvr2_ray.errors import CapacityError, DeploymentError, InputError, TargetError
from seedvr2_ray.media.output.join import _open_target
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.media.output.rehearsal import rehearse
from seedvr2_ray.media.output.write_errors import whole_file_or_none, write_error
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import make_clip
from tests.media.masters import describe, restore_like


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    path = tmp_path_factory.mktemp("rehearsal") / "rich.mkv"
    make_clip(
        path,
        num_frames=24,
        audio_tracks=2,
        subtitles=("eng",),
        chapters=((0, 0.5, "Opening"), (0.5, 1, "End")),
        attachments=(("letters.ttf", "font/ttf", b"\x00\x01font" * 50),),
        metadata={"title": "A film"},
    )
    return str(path)


@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.mkv", "out.avi"])
def test_the_rehearsal_foretells_what_the_join_reports(rich, tmp_path, target):
    media = describe(rich)
    settings = RestoreSettings() if target.endswith("avi") else RestoreSettings(codec="h264", preset="ultrafast")
    if target.endswith("mov"):
        settings = RestoreSettings()
    master, _ = plan_master(media, settings, width=96, height=64, target=target)
    foretold = set(rehearse(rich, media, master))
    _, _, report = restore_like(rich, str(tmp_path / target), codec=settings.codec)
    of_streams = {notice for notice in report.notices if notice.subject != "timestamps"}
    assert of_streams <= foretold
    assert foretold


def test_a_container_that_refuses_its_own_trailer_is_found_out_beforehand(rich, monkeypatch):
    """The join of the rehearsal is the real one: what would end it ends the planning."""
    media = describe(rich)
    master, _ = plan_master(media, RestoreSettings(preset="ultrafast"), width=96, height=64, target="out.mp4")
    monkeypatch.setattr("seedvr2_ray.media.output.join._open_target", _ends_badly)
    with pytest.raises(InputError, match="choose another container"):
        rehearse(rich, media, master)


@contextmanager
def _ends_badly(*args):
    with _open_target(*args) as output:
        yield output
    raise av.error.ArgumentError(errno.EINVAL, "Invalid argument")


def test_an_error_about_one_file_never_blames_the_installation(tmp_path):
    invalid_data, external, bug = 1094995529, 542398533, 558323010
    for code in (errno.EINVAL, invalid_data, external, bug):
        error = av.error.FFmpegError(code, "something about this file")
        assert isinstance(write_error(str(tmp_path / "joined.mp4"), error), InputError)


def test_a_message_about_the_content_names_no_folder_of_the_machine():
    message = str(write_error("/srv/secret/joined.mp4", av.error.ArgumentError(errno.EINVAL, "Invalid argument")))
    assert "/srv" not in message
    assert "joined.mp4" in message


def test_what_only_another_installation_can_mend_stops_everything(tmp_path):
    with pytest.raises(DeploymentError, match="lacks"), whole_file_or_none(str(tmp_path / "x")):
        av.CodecContext.create("libnosuch", "w")


def test_the_disk_and_the_folder_are_still_told_apart(tmp_path):
    assert isinstance(write_error("x", OSError(errno.ENOSPC, "full")), CapacityError)
    assert isinstance(write_error("x", OSError(errno.EACCES, "no")), TargetError)
