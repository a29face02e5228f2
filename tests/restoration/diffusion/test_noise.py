import pytest
import torch

from seedvr2_ray.restoration.diffusion.noise import draw_noise, latent_frame_number

SIZE_HWC = (6, 8, 16)


def test_noise_of_a_latent_does_not_depend_on_which_others_are_drawn_with_it():
    whole = draw_noise(666, [0, 4, 8, 12, 16], SIZE_HWC)
    assert torch.equal(draw_noise(666, [8, 12], SIZE_HWC), whole[2:4])
    assert torch.equal(draw_noise(666, [16, 0], SIZE_HWC), whole[[4, 0]])


def test_segments_that_overlap_by_whole_latents_draw_the_same_noise_for_shared_frames():
    first = [latent_frame_number(0, j, 4) for j in range(8)]
    second = [latent_frame_number(20, j, 4) for j in range(8)]
    shared = sorted(set(first) & set(second))
    assert shared == [20, 24, 28]
    a, b = draw_noise(1, first, SIZE_HWC), draw_noise(1, second, SIZE_HWC)
    for number in shared:
        assert torch.equal(a[first.index(number)], b[second.index(number)])


@pytest.mark.parametrize("other", [(667, 0), (666, 1), (0, 666), (2**62, 0)])
def test_another_seed_or_frame_draws_other_noise(other):
    seed, frame = other
    correlation = torch.corrcoef(
        torch.stack([draw_noise(666, [0], SIZE_HWC).flatten(), draw_noise(seed, [frame], SIZE_HWC).flatten()])
    )[0, 1]
    assert abs(correlation) < 0.2


def test_seed_and_frame_number_cannot_stand_in_for_each_other():
    assert not torch.equal(draw_noise(1, [5], SIZE_HWC), draw_noise(2, [4], SIZE_HWC))


def test_noise_is_standard_normal_and_independent_of_global_state():
    torch.manual_seed(3)
    noise = draw_noise(9, range(0, 40, 4), (32, 32, 16))
    torch.manual_seed(4)
    assert torch.equal(noise, draw_noise(9, range(0, 40, 4), (32, 32, 16)))
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
