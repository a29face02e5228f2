import pytest
import torch

from seedvr2_ray.restoration.diffusion.stitch import fade_weights, stitch_chunk
from seedvr2_ray.restoration.planning.chunks import Chunk, plan_chunks


def _stitch(chunks, results):
    out, tail = [], None
    for chunk, result, after in zip(chunks, results, [*chunks[1:], None], strict=True):
        final, tail = stitch_chunk(tail, chunk, result, after)
        out.append(final)
    assert len(tail) == 0
    return torch.cat(out)


@pytest.mark.parametrize("num_latents", range(1, 9))
def test_fade_weights_and_their_mirror_sum_to_one_and_spend_no_latent_on_nothing(num_latents):
    weights = fade_weights(num_latents)
    assert torch.allclose(weights + weights.flip(0), torch.ones(num_latents))
    assert weights.min() > 0
    assert weights.max() < 1
    assert torch.equal(weights, weights.sort().values)


def test_two_shared_latents_are_mixed_three_to_one():
    assert fade_weights(2).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(("length", "overlap"), [(6, 2), (6, 0), (3, 2), (6, 5), (4, 1), (1, 0)])
@pytest.mark.parametrize("num_latents", [1, 2, 5, 6, 7, 11, 23])
def test_chunks_of_an_agreed_result_join_to_the_whole(num_latents, length, overlap):
    whole = torch.randn(num_latents, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    chunks = plan_chunks(num_latents, length, overlap)
    joined = _stitch(chunks, [whole[chunk.start : chunk.stop] for chunk in chunks])
    torch.testing.assert_close(joined, whole, atol=1e-6, rtol=0)


def test_disagreeing_chunks_fade_over_the_overlap_and_nowhere_else():
    chunks = plan_chunks(11, 6, 2)
    joined = _stitch(chunks, [torch.full((6, 1, 1, 1), float(i)) for i in range(len(chunks))]).flatten()
    assert joined.tolist() == [0, 0, 0, 0, 0.25, 0.75, 1, 1, 1.25, 1.75, 2]


def test_what_is_kept_between_chunks_is_the_overlap_in_memory_of_its_own():
    chunks = plan_chunks(30, 6, 2)
    _, tail = stitch_chunk(None, chunks[0], torch.zeros(6, 2, 2, 4), chunks[1])
    assert tail.shape == (2, 2, 2, 4)
    assert tail.untyped_storage().nbytes() == tail.numel() * 4


def test_a_result_of_the_wrong_length_or_a_missing_tail_is_refused():
    with pytest.raises(ValueError, match="6 latents, got 5"):
        stitch_chunk(None, Chunk(0, 6, 0, 0), torch.zeros(5, 1, 1, 1), None)
    with pytest.raises(ValueError, match="chunk before"):
        stitch_chunk(None, Chunk(4, 10, 4, 6), torch.zeros(6, 1, 1, 1), None)
