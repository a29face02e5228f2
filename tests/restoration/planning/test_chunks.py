import itertools

import pytest

from seedvr2_ray.restoration.planning.chunks import frames_for_latents, latents_for_frames, plan_chunks

CASES = [
    (latents, length, overlap)
    for latents, length, overlap in itertools.product(range(1, 40), range(1, 9), range(8))
    if overlap < length
]


def test_chunks_of_a_segment_have_one_length_and_cover_every_latent():
    for num_latents, length, overlap in CASES:
        chunks = plan_chunks(num_latents, length, overlap)
        assert {len(chunk) for chunk in chunks} == {min(length, num_latents)}
        covered = set().union(*(range(chunk.start, chunk.stop) for chunk in chunks))
        assert covered == set(range(num_latents))


def test_neighbours_share_at_least_the_overlap_and_fade_over_exactly_that():
    for num_latents, length, overlap in CASES:
        for early, late in itertools.pairwise(plan_chunks(num_latents, length, overlap)):
            assert early.stop - late.start >= overlap
            assert (late.fade_start, late.fade_stop) == (early.stop - overlap, early.stop)
            assert late.start <= late.fade_start
            assert late.stop > early.stop


def test_no_chunk_is_superfluous():
    for num_latents, length, overlap in CASES:
        chunks = plan_chunks(num_latents, length, overlap)
        if len(chunks) > 1:
            assert len(chunks) == 1 + -(-(num_latents - length) // (length - overlap))


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (2, 2), (5, 2), (6, 3), (9, 3), (21, 6), (22, 7)])
def test_frames_are_filled_up_to_whole_latents(frames, latents):
    assert latents_for_frames(frames, 4) == latents
    assert frames <= frames_for_latents(latents, 4) < frames + 4


@pytest.mark.parametrize("arguments", [(0, 6, 2), (5, 0, 0), (5, 6, 6), (5, 6, -1)])
def test_impossible_chunks_are_refused(arguments):
    with pytest.raises(ValueError, match="cannot cut"):
        plan_chunks(*arguments)
