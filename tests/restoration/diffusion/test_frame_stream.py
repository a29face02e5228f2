from collections import deque
from fractions import Fraction

import pytest
import torch

from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.diffusion.frame_stream import batched, copy_to, regroup, split_frames


def _frames(pts):
    return Frames(torch.full((len(pts), 3, 2, 2), 7, dtype=torch.uint8), tuple(pts), Fraction(1, 25))


def test_batches_of_any_length_become_single_frames_in_order():
    singles = list(split_frames([_frames([0, 1]), _frames([5])]))
    assert [frame.pts for frame in singles] == [0, 1, 5]
    assert all(frame.codes_CHW.shape == (3, 2, 2) for frame in singles)


@pytest.mark.parametrize("num_items", range(12))
def test_batching_loses_nothing_and_keeps_to_the_lengths(num_items):
    batches = list(batched(range(num_items), 5, 4))
    assert [item for batch in batches for item in batch] == list(range(num_items))
    assert [len(batch) for batch in batches[:-1]] == [5, 4, 4][: max(0, len(batches) - 1)]


@pytest.mark.parametrize("lengths", [[1], [3, 0, 2], [1] * 7, [9], [2, 5, 1]])
def test_regrouping_tensors_loses_nothing_and_keeps_to_the_lengths(lengths):
    whole = torch.arange(sum(lengths))
    pieces = list(regroup(iter(whole.split(lengths)), 3, 2))
    assert torch.equal(torch.cat(pieces), whole)
    assert [len(piece) for piece in pieces[:-1]] == [3, 2, 2, 2][: len(pieces) - 1]


def test_what_passes_is_left_in_the_queue():
    queue = deque()
    passing = copy_to(queue, "abc")
    assert next(passing) == "a"
    assert list(queue) == ["a"]
