import io
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image, ImageCms

from seedvr2_ray.media.container.side_data import SideDataFinder, display_matrix
from seedvr2_ray.media.probe import probe
from tests.media.clips import make_clip

PACKAGE = Path(__file__).parents[3] / "seedvr2_ray"


def a_frame_with_dictionaries() -> av.VideoFrame:
    """A frame whose side data have names: what PyAV frees twice once its list is asked for."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "Scanner"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (16, 16)).save(file, "PNG", icc_profile=profile, exif=exif)
    decoder = av.CodecContext.create("png", "r")
    return decoder.decode(av.Packet(file.getvalue()))[0]


def test_a_profile_is_found_without_touching_what_would_be_freed_twice():
    finder = SideDataFinder(("ICC_PROFILE", "A53_CC"))
    for _ in range(20):
        assert finder.kinds_on(a_frame_with_dictionaries()) == {"ICC_PROFILE"}
        assert display_matrix(a_frame_with_dictionaries()) is None


@pytest.mark.slow
def test_a_process_that_asked_for_side_data_ends_as_it_should():
    code = f"""
import sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
from tests.media.container.test_side_data import a_frame_with_dictionaries
from seedvr2_ray.media.container.side_data import SideDataFinder, display_matrix
for _ in range(20):
    frame = a_frame_with_dictionaries()
    SideDataFinder(("ICC_PROFILE",)).kinds_on(frame), display_matrix(frame)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_list_of_side_data_is_read_in_one_place_only():
    touching = [path.name for path in PACKAGE.rglob("*.py") if "frame.side_data" in path.read_text()]
    assert touching == ["side_data.py"]


@pytest.mark.parametrize(("rotation", "matrix"), [(90, (0, 65536, -65536, 0)), (180, (-65536, 0, 0, -65536))])
def test_the_display_matrix_is_the_containers(tmp_path, rotation, matrix):
    make_clip(tmp_path / "a.mp4", num_frames=2, rotation=rotation)
    with av.open(str(tmp_path / "a.mp4")) as container:
        found = display_matrix(next(container.decode(video=0)))
    assert found is not None
    a, b, _, c, d, *_ = found
    assert (a, b, c, d) == matrix


def test_a_finder_follows_frames_whose_size_changes():
    finder = SideDataFinder(("A53_CC",))
    assert [finder.kinds_on(av.VideoFrame(size, size, "yuv420p")) for size in (16, 32, 16)] == [set()] * 3


def test_an_ordinary_clip_has_nothing_to_say(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=2)
    assert not [notice for notice in probe(str(tmp_path / "a.mp4")).preflight if notice.outcome == "left_out"]
