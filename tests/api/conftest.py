"""A clip that the tests of the public functions share."""

from pathlib import Path

import pytest

from tests.media import clips


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of 64x48 with sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.make_clip(path, num_frames=24, size=(64, 48))
    return path
