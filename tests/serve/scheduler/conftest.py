"""What tests of the scheduler restore."""

import pytest

from seedvr2_ray.restoration.lanczos import LANCZOS
from seedvr2_ray.restoration.run import restore_video
from tests.media import clips
from tests.serve.deployment import SETTINGS, WatchedRestorers


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=50, cuts=(20,), audio_tracks=1, bframes=2)
    return path


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "short.mp4"
    clips.make_clip(path, num_frames=8, size=(64, 48))
    return path


@pytest.fixture(scope="session")
def undisturbed(clip, tmp_path_factory):
    """The bytes that the command line makes of the clip, and the segments it restores."""
    restorers = WatchedRestorers()
    target = tmp_path_factory.mktemp("undisturbed") / "out.mp4"
    restore_video(str(clip), str(target), SETTINGS, LANCZOS, lambda: restorers.load(SETTINGS), report=False)
    return target.read_bytes(), sorted(restorers.begun)
