"""Laws of colour matching, and the reference's numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.restoration.colour import colour_match, colour_spaces
from seedvr2_ray.restoration.colour.colour_match import match_colour

GOLDEN = load_file(Path(__file__).parents[2] / "data" / "golden" / "vae_colour.safetensors")
METHODS = ["lab", "wavelet", "wavelet_adaptive", "hsv", "adain"]


def as_one_frame(clip_TCHW: Tensor) -> Tensor:
    """The reference pools statistics over all frames; below each other in one frame they are pooled too."""
    return clip_TCHW.transpose(0, 1).flatten(1, 2)[None]


def as_clip(frame_1CHW: Tensor, num_frames: int) -> Tensor:
    return torch.unflatten(frame_1CHW[0], 1, (num_frames, -1)).transpose(0, 1)


def outliers(actual: Tensor, expected: Tensor, tolerance: float) -> float:
    return ((actual - expected).abs() > tolerance).float().mean().item()


@pytest.mark.parametrize("case", ["small", "clip"])
@pytest.mark.parametrize("method", ["wavelet", "wavelet_original", "adain"])
def test_methods_without_histograms_give_the_reference_numbers(case: str, method: str) -> None:
    matched = getattr(colour_match, method)(GOLDEN[f"{case}.content"], GOLDEN[f"{case}.style"])
    torch.testing.assert_close(matched, GOLDEN[f"{case}.{method}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "weight"), [("lab", 0.8), ("lab_lw1", 1.0)])
def test_lab_of_a_pooled_clip_gives_the_reference_numbers(name: str, weight: float) -> None:
    content, style = GOLDEN["small.content"], GOLDEN["small.style"]
    coarse = as_one_frame(match_colour(content, style, "wavelet"))
    matched = as_clip(colour_match.match_lab(coarse, as_one_frame(style), luminance_weight=weight), len(content))
    torch.testing.assert_close(matched, GOLDEN[f"small.{name}"], atol=2e-3, rtol=0)
    assert outliers(matched, GOLDEN[f"small.{name}"], 1e-4) <= 0.002


def test_hsv_and_the_adaptive_mix_of_a_pooled_clip_give_the_reference_numbers() -> None:
    content, style = GOLDEN["small.content"], GOLDEN["small.style"]
    saturated = as_clip(colour_match.hsv(as_one_frame(content), as_one_frame(style)), len(content))
    mixed = colour_match.mix_by_saturation(match_colour(content, style, "wavelet"), saturated, content, style)
    assert outliers(saturated, GOLDEN["small.hsv"], 1e-5) <= 0.002
    assert outliers(mixed, GOLDEN["small.wavelet_adaptive"], 1e-5) <= 0.002


def test_colour_spaces_give_the_reference_numbers() -> None:
    close = torch.testing.assert_close
    close(colour_spaces.rgb_to_lab(GOLDEN["blocks.rgb"]), GOLDEN["blocks.lab"], atol=1e-4, rtol=1e-5)
    close(colour_spaces.lab_to_rgb(GOLDEN["blocks.lab"]), GOLDEN["blocks.lab_to_rgb"], atol=1e-5, rtol=0)
    close(colour_spaces.lab_to_rgb(GOLDEN["blocks.lab2"]), GOLDEN["blocks.lab2_to_rgb"], atol=1e-5, rtol=0)
    close(colour_spaces.rgb_to_hsv(GOLDEN["blocks.rgb"]), GOLDEN["blocks.hsv"], atol=1e-5, rtol=0)
    close(colour_spaces.hsv_to_rgb(GOLDEN["blocks.hsv"]), GOLDEN["blocks.hsv_to_rgb"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("reference", "matched_same_size"),
        ("reference_longer", "matched_longer"),
        ("reference_shorter", "matched_shorter"),
    ],
)
def test_rank_matching_gives_the_reference_numbers(reference: str, expected: str) -> None:
    matched = colour_spaces.match_ranks(GOLDEN["hist.source"].flatten(), GOLDEN[f"hist.{reference}"].flatten())
    torch.testing.assert_close(matched, GOLDEN[f"hist.{expected}"].flatten(), atol=0, rtol=0)


@pytest.mark.parametrize("radius", [1, 2, 5, 16])
@pytest.mark.parametrize("size", [(7, 40), (3, 2), (1, 1)])
def test_the_separable_blur_is_the_two_dimensional_one(radius: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    kernel = (taps[:, None] * taps).expand(3, 1, 3, 3)
    plain = F.conv2d(F.pad(x, [radius] * 4, mode="replicate"), kernel, dilation=radius, groups=3)
    torch.testing.assert_close(colour_match.blur(x, radius), plain)


def test_swapping_the_low_band_equals_adding_up_the_details() -> None:
    restored, source = torch.randn(2, 1, 3, 33, 47, dtype=torch.float64)
    detail, low = torch.zeros_like(restored), restored
    coarse = source
    for level in range(5):
        smoother = colour_match.blur(low, 2**level)
        detail, low = detail + low - smoother, smoother
        coarse = colour_match.blur(coarse, 2**level)
    torch.testing.assert_close(colour_match.swap_low_band(restored, source), detail + coarse)


@pytest.mark.parametrize("method", METHODS)
def test_a_frame_does_not_know_which_others_are_in_the_batch(method: str) -> None:
    content, style = GOLDEN["small.content"], GOLDEN["small.style"]
    together = match_colour(content, style, method)
    apart = torch.cat([match_colour(content[t : t + 1], style[t : t + 1], method) for t in range(len(content))])
    assert torch.equal(together, apart)


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_matched_to_itself_stays_as_it_is(method: str) -> None:
    picture = GOLDEN["small.content"]
    torch.testing.assert_close(match_colour(picture, picture, method), picture, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_flat_and_half_precision_pictures_give_finite_colours(method: str) -> None:
    flat = torch.zeros(1, 3, 16, 24)
    noisy = GOLDEN["small.style"][:1, :, :16, :24]
    for restored, source in [(flat, noisy), (noisy.bfloat16(), flat), (flat, flat), (flat + 3, flat - 3)]:
        matched = match_colour(restored, source, method)
        assert matched.dtype == torch.float32
        assert matched.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_matching_leaves_its_arguments_alone(method: str) -> None:
    content, style = GOLDEN["small.content"], GOLDEN["small.style"]
    before = content.clone(), style.clone()
    match_colour(content, style, method)
    assert torch.equal(content, before[0])
    assert torch.equal(style, before[1])


def test_gradients_pass_through_the_low_band_swap() -> None:
    restored = torch.randn(1, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    source = torch.randn(1, 1, 6, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: colour_match.swap_low_band(x, source, levels=3), restored)


def test_none_returns_the_restored_frames_themselves() -> None:
    frames = GOLDEN["small.content"]
    assert match_colour(frames, GOLDEN["small.style"], "none") is frames


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="lab, wavelet"):
        match_colour(GOLDEN["small.content"], GOLDEN["small.style"], "labs")  # type: ignore[arg-type]


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        match_colour(GOLDEN["small.content"], GOLDEN["clip.style"], "wavelet")
