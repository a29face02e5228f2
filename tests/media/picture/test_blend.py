import av
import numpy as np
import pytest

from seedvr2_ray.media.picture.blend import blend_frames

FORMATS = ["yuv420p", "yuv422p10le", "yuva444p10le", "gbrp", "gbrp12le", "gray", "bgra", "yuv444p16le"]


def flat_frame(pixel_format, code):
    frame = av.VideoFrame(70, 34, pixel_format)  # not a multiple of the row alignment
    wide = max(component.bits for component in frame.format.components) > 8
    for plane in frame.planes:
        codes = np.frombuffer(plane, np.uint16 if wide else np.uint8)
        codes[:] = code
    return frame


def codes_of(frame):
    wide = max(component.bits for component in frame.format.components) > 8
    dtype = np.uint16 if wide else np.uint8
    for plane in frame.planes:
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        yield rows[:, : plane.width]


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_blending_a_picture_with_itself_changes_nothing(pixel_format):
    for position in range(5):
        mixed = blend_frames(flat_frame(pixel_format, 201), flat_frame(pixel_format, 201), position=position, length=5)
        assert all((codes == 201).all() for codes in codes_of(mixed))


@pytest.mark.parametrize("length", [1, 2, 8])
def test_the_weights_rise_evenly_and_leave_out_both_ends(length):
    total = length + 1
    levels = []
    for position in range(length):
        mixed = blend_frames(
            flat_frame("gray", 0), flat_frame("gray", 24 * total // 3), position=position, length=length
        )
        levels.append(int(next(codes_of(mixed))[0, 0]))
    top = 24 * total // 3
    assert levels == [(top * (position + 1) + total // 2) // total for position in range(length)]
    assert levels[0] > 0 and levels[-1] < top


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_fading_a_into_b_mirrors_fading_b_into_a(pixel_format):
    for position in range(3):
        there = blend_frames(flat_frame(pixel_format, 40), flat_frame(pixel_format, 80), position=position, length=3)
        back = blend_frames(flat_frame(pixel_format, 80), flat_frame(pixel_format, 40), position=2 - position, length=3)
        for a, b in zip(codes_of(there), codes_of(back), strict=True):
            np.testing.assert_array_equal(a, b)


def test_frames_of_different_formats_are_not_mixed():
    with pytest.raises(ValueError, match="cannot blend"):
        blend_frames(flat_frame("yuv420p", 1), flat_frame("yuv422p", 1), position=0, length=2)
