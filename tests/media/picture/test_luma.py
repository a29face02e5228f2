import av
import numpy as np
import pytest

from seedvr2_ray.media.picture.luma import luma_of
from tests.media.clips import draw_frame, to_pixel_format
from tests.media.masters import HD


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "yuva444p10le", "yuv444p16le", "gbrp", "gbrp12le"])
@pytest.mark.parametrize("full_range", [False, True])
def test_black_is_zero_and_white_is_one_in_every_format_and_range(pixel_format, full_range):
    picture = np.zeros((34, 70, 3), np.float32)
    picture[:, 35:] = 1.0
    tags = type(HD)("bt709", "bt709", "bt709", full_range=full_range)
    luma = luma_of(to_pixel_format(picture, pixel_format, tags), full_range=full_range)
    assert luma.shape == (34, 70)
    assert luma[:, :30].max() < 0.01
    assert luma[:, 40:].min() > 0.99


def test_packed_pixels_are_taken_without_their_fourth_byte():
    frame = av.VideoFrame(70, 34, "bgr0")
    codes = np.frombuffer(frame.planes[0], np.uint8).reshape(34, -1)
    codes[:] = 0
    codes[:, 3::4] = 255
    assert luma_of(frame, full_range=True).max() == 0.0


def test_a_picture_is_about_as_bright_as_its_green():
    picture = draw_frame(3, (96, 64))
    luma = luma_of(to_pixel_format(picture, "yuv420p", HD), full_range=False)
    assert abs(luma - picture @ np.array([0.2126, 0.7152, 0.0722])).mean() < 0.02
