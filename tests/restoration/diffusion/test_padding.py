import itertools

import pytest
import torch

from seedvr2_ray.restoration.diffusion.padding import crop_frames, mirror_index, pad_frames, pad_in_time
from seedvr2_ray.restoration.planning.padding import plan_padding

SIZES = [(1, 1), (7, 5), (16, 16), (17, 31), (40, 24), (64, 64)]


@pytest.mark.parametrize("multiple", [2, 4, 8, 16])
@pytest.mark.parametrize("mode", ["reflect_black", "reflect", "black"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_padding_then_cropping_is_the_identity_and_fits_the_model(height, width, mode, multiple):
    frames = torch.rand(2, 3, height, width)
    padding = plan_padding(height, width, multiple, mode)
    padded = pad_frames(frames, padding, black=-1.0)
    assert padded.shape[2:] == (padding.padded_height, padding.padded_width)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert torch.equal(crop_frames(padded, padding), frames)


@pytest.mark.parametrize("height", [720, 1080, 1440, 1072, 33])
def test_the_default_ends_in_sixteen_black_rows_after_at_least_eight_mirrored_ones(height):
    padding = plan_padding(height, 64, 16, "reflect_black")
    assert padding.black_rows == 16
    assert 8 <= padding.mirrored_rows < 24
    padded = pad_frames(torch.rand(1, 3, height, 64), padding, black=-1.0)
    assert (padded[:, :, -16:] == -1).all()
    assert torch.equal(padded[:, :, height : height + 8], padded[:, :, height - 9 : height - 1].flip(2))


def test_a_model_without_the_habit_gets_no_black_rows():
    assert plan_padding(60, 60, 8, "reflect_black", anchor_rows=0) == plan_padding(60, 60, 8, "reflect")


def test_black_padding_is_the_smallest_that_fits():
    padding = plan_padding(1080, 1920, 16, "black")
    assert (padding.padded_height, padding.padded_width) == (1088, 1920)


def test_mirroring_never_repeats_the_ends_and_bounces_as_often_as_needed():
    assert mirror_index(4, 12).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1]
    assert mirror_index(1, 3).tolist() == [0, 0, 0]
    assert mirror_index(5, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("mode", "stride"), list(itertools.product(["mirror", "repeat"], [1, 2, 4])))
@pytest.mark.parametrize("num_frames", range(1, 14))
def test_a_clip_is_filled_up_to_whole_groups_without_touching_its_frames(num_frames, mode, stride):
    padded = list(pad_in_time(iter(range(num_frames)), num_frames, stride, mode))
    assert padded[:num_frames] == list(range(num_frames))
    assert (len(padded) - 1) % stride == 0
    assert len(padded) - num_frames < stride


def test_the_fill_mirrors_or_repeats():
    assert list(pad_in_time(range(6), 6, 4, "mirror")) == [0, 1, 2, 3, 4, 5, 4, 3, 2]
    assert list(pad_in_time(range(6), 6, 4, "repeat")) == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert list(pad_in_time(range(2), 2, 4, "mirror")) == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(("items", "expected"), [([], 0), ([0, 1], 3), ([0, 1, 2], 2)])
def test_a_stream_of_another_length_than_announced_is_refused(items, expected):
    with pytest.raises(ValueError, match="expected"):
        list(pad_in_time(items, expected, 4, "mirror"))
