"""A small picture shows the same moment before and after, upright."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_ray.media.probe import probe
from seedvr2_ray.restoration.report.thumbnail import BOX, thumbnail
from tests.media.clips import make_clip, make_image

NUM_FRAMES = 20


@pytest.fixture(scope="module")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "upright.mp4"
    make_clip(path, num_frames=NUM_FRAMES, cuts=(11,), bframes=2)
    return path


def halves(picture: bytes | None) -> tuple[np.ndarray, np.ndarray]:
    assert picture is not None
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=float)
    assert image.shape[0] <= BOX[1] and image.shape[1] <= 2 * BOX[0] + 2
    half = (image.shape[1] - 2) // 2
    return image[:, :half], image[:, half + 2 :]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def test_both_halves_show_the_same_frame_wherever_it_is(upright: Path) -> None:
    media = probe(str(upright))
    shown = [halves(thumbnail(str(upright), media, str(upright), (192, 128), number)) for number in (0, 10, 11, 19)]
    assert all(distance(before, after) < 2 for before, after in shown)
    assert distance(shown[1][0], shown[2][0]) > 10, "the cut is where it is"


@pytest.mark.parametrize("turn", [{"rotation": 90}, {"mirrored": True}])
def test_a_source_that_players_turn_is_shown_upright(upright: Path, tmp_path: Path, turn: dict[str, int]) -> None:
    turned = str(tmp_path / "turned.mp4")
    make_clip(turned, num_frames=NUM_FRAMES, cuts=(11,), bframes=2, **turn)
    before, after = halves(thumbnail(turned, probe(turned), str(upright), (96, 64), 5))
    assert distance(before, after) < 6


def test_of_an_image_the_picture_is_shown_and_of_what_cannot_be_shown_nothing(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png", pixel_format="rgb24", codec="png")
    media = probe(str(tmp_path / "a.png"))
    before, after = halves(thumbnail(media.path, media, media.path, (960, 64), 0))
    assert distance(before, after) < 6
    (tmp_path / "b.mp4").write_bytes(b"no video")
    assert thumbnail(media.path, media, str(tmp_path / "b.mp4"), (96, 64), 0) is None
