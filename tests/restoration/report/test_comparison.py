"""Laws of the before and after pictures."""

import io

import av
import pytest
import torch
from torch import Tensor

from seedvr2_ray.restoration.report.comparison import compare_frames, side_by_side


def _decode(file: bytes) -> Tensor:
    with av.open(io.BytesIO(file)) as container:
        (frame,) = container.decode(video=0)
        return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)


def _gradient(height: int, width: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    peak = 255 if dtype == torch.uint8 else 65535
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return (torch.stack([rows, columns, 1 - rows]) * peak).round().to(torch.int32).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_both_pictures_have_the_restored_size_and_show_what_they_were_given(dtype: torch.dtype) -> None:
    picture = compare_frames(_gradient(18, 32, dtype), _gradient(72, 128, dtype), "frame 3")
    assert (picture.width, picture.height, picture.caption) == (128, 72, "frame 3")
    expected = _gradient(72, 128).int()
    for file in (picture.before, picture.after):
        assert (_decode(file).int() - expected).abs().float().mean() < 3


def test_pictures_of_odd_sizes_are_taken() -> None:
    picture = compare_frames(_gradient(9, 17), _gradient(27, 51), "odd")
    assert _decode(picture.after).shape == (3, 27, 51)


def test_what_is_transparent_lies_on_grey() -> None:
    clear = torch.zeros(4, 16, 16, dtype=torch.uint8)
    opaque = torch.full((4, 16, 16), 255, dtype=torch.uint8)
    picture = compare_frames(clear, opaque, "")
    assert _decode(picture.before).float().mean() == pytest.approx(127.5, abs=1)
    assert _decode(picture.after).float().mean() == pytest.approx(255, abs=1)


def test_the_still_shows_before_left_and_after_right_without_loss() -> None:
    dark = torch.full((3, 50, 80), 20, dtype=torch.uint8)
    bright = torch.full((3, 100, 160), 200, dtype=torch.uint8)
    still = _decode(side_by_side(dark, bright))
    assert still.shape == (3, 100, 2 * 160 + 4)
    assert still[:, :80, :160].unique().tolist() == [20]
    assert still[:, :80, -160:].unique().tolist() == [200]


def test_the_still_is_labelled_in_its_lower_corners() -> None:
    grey = torch.full((3, 200, 320), 128, dtype=torch.uint8)
    still = _decode(side_by_side(grey, grey))
    for corner in (still[:, 150:, :100], still[:, 150:, 324:424]):
        assert int(corner.min()) == pytest.approx(0.35 * 128, abs=1)
        assert corner.max() > 200
    assert not torch.equal(still[:, :, :320], still[:, :, 324:])


def test_a_still_too_small_for_its_label_goes_without() -> None:
    grey = torch.full((3, 8, 16), 128, dtype=torch.uint8)
    assert set(_decode(side_by_side(grey, grey)).unique().tolist()) == {128, 255}


def test_arguments_stay_as_they_were() -> None:
    before, after = _gradient(200, 320), _gradient(200, 320)
    side_by_side(before, after)
    assert torch.equal(before, _gradient(200, 320)) and torch.equal(after, _gradient(200, 320))
