import pytest
import torch

from seedvr2_ray.restoration.colour.alpha import fill_transparent, scale_alpha


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_even_transparency_stays_even(value):
    scaled = scale_alpha(torch.full((2, 1, 8, 9), value), torch.rand(2, 3, 24, 27))
    torch.testing.assert_close(scaled, torch.full((2, 1, 24, 27), value), atol=1e-5, rtol=0)


def test_alpha_at_the_outputs_size_is_left_alone():
    alpha = torch.rand(1, 1, 8, 8)
    assert scale_alpha(alpha, torch.rand(1, 3, 8, 8)) is alpha


def test_an_edge_of_alpha_is_drawn_to_the_edge_of_the_picture():
    alpha = torch.zeros(1, 1, 8, 8)
    alpha[..., 4:] = 1.0
    picture = torch.zeros(1, 3, 32, 32)
    picture[..., 16:] = 1.0
    scaled = scale_alpha(alpha, picture)
    plain = torch.nn.functional.interpolate(alpha, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    truth = picture[:, :1]
    assert (scaled - truth).abs().mean() < 0.5 * (plain - truth).abs().mean()
    assert scaled.min() >= 0
    assert scaled.max() <= 1


def test_without_an_edge_in_the_picture_alpha_is_scaled_plainly():
    alpha = torch.zeros(1, 1, 8, 8)
    alpha[..., 4:] = 1.0
    plain = torch.nn.functional.interpolate(alpha, size=(24, 24), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(scale_alpha(alpha, torch.full((1, 3, 24, 24), 0.5)), plain, atol=1e-4, rtol=0)


def test_invisible_pixels_take_the_colour_of_visible_ones_and_visible_ones_keep_theirs():
    colours = torch.zeros(1, 3, 13, 10)
    colours[..., :4, :3] = torch.tensor([0.9, 0.2, 0.4]).reshape(3, 1, 1)
    alpha = torch.zeros(1, 1, 13, 10)
    alpha[..., :4, :3] = 1.0
    filled = fill_transparent(colours, alpha)
    torch.testing.assert_close(filled, torch.tensor([0.9, 0.2, 0.4]).reshape(3, 1, 1).expand_as(filled))


def test_a_picture_without_any_visible_pixel_stays_finite():
    assert torch.isfinite(fill_transparent(torch.rand(1, 3, 5, 5), torch.zeros(1, 1, 5, 5))).all()


def test_opaque_and_translucent_colours_are_not_touched():
    colours, alpha = torch.rand(2, 3, 6, 6), torch.rand(2, 1, 6, 6).clamp_min(0.01)
    assert torch.equal(fill_transparent(colours, alpha), colours)
