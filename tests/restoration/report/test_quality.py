import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from seedvr2_ray.frames import Frames, FrameSpan, to_codes
from seedvr2_ray.restoration.report.quality import (
    BEST_PSNR,
    QualitySampler,
    boundary_step,
    low_frequency_colour_error,
    measure_segment,
    psnr,
    ssim,
)


def picture(
    height: int = 40, width: int = 56, *, seed: int = 0, num_frames: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return smooth pictures in 0..1 with some detail."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_frames, 3, max(2, height // 8), max(2, width // 8), generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return (smooth + 0.1 * torch.rand(num_frames, 3, height, width, generator=generator)).clamp(0, 1).to(dtype)


def frames_of(data_TCHW: Tensor, first: int = 0) -> Frames:
    return Frames(data_TCHW, tuple(range(first, first + len(data_TCHW))), Fraction(1, 25))


@pytest.mark.parametrize("size", [(40, 56), (11, 11), (12, 200), (101, 33)])
def test_psnr_and_ssim_are_scikit_images(size: tuple[int, int]) -> None:
    clean = picture(*size, num_frames=3, dtype=torch.float64)
    noisy = (clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    for index in range(3):
        one, other = (each[index].permute(1, 2, 0).numpy() for each in (clean, noisy))
        known_psnr = peak_signal_noise_ratio(one, other, data_range=1.0)
        known_ssim = structural_similarity(
            one, other, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert psnr(clean, noisy)[index].item() == pytest.approx(known_psnr, abs=1e-9)
        assert ssim(clean, noisy)[index].item() == pytest.approx(known_ssim, abs=1e-9)


def test_identical_frames_are_perfect() -> None:
    frames = picture(num_frames=2)
    assert psnr(frames, frames).tolist() == [math.inf] * 2
    assert ssim(frames, frames).tolist() == pytest.approx([1.0] * 2, abs=1e-5)
    assert low_frequency_colour_error(frames, frames).tolist() == [0.0] * 2


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 10)])
def test_pictures_smaller_than_the_window_have_an_ssim(size: tuple[int, int]) -> None:
    frames = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    assert ssim(frames, frames).item() == pytest.approx(1.0, abs=1e-5)
    assert ssim(frames, 1 - frames).item() < 0.9


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_shapes_must_agree(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="of one shape"):
        measure(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 18))


def test_a_tint_is_measured_in_codes_and_detail_is_not() -> None:
    frames = picture(64, 96) * 0.8
    tinted = frames + torch.tensor([3.0, 0.0, -3.0]).view(1, 3, 1, 1) / 255
    assert low_frequency_colour_error(frames, tinted).item() == pytest.approx(2.0, abs=1e-3)
    checkers = (torch.arange(64)[:, None] + torch.arange(96)) % 2 * 2.0 - 1
    assert low_frequency_colour_error(frames, frames + 0.1 * checkers).item() < 0.01


def test_the_colour_error_does_not_depend_on_the_size_of_the_result() -> None:
    frames = picture(64, 96)
    twice = frames.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert low_frequency_colour_error(frames, twice).item() < 1e-4
    assert low_frequency_colour_error(picture(5, 7), picture(10, 14)).shape == (1,)


def moving(num_frames: int, *, jump_at: int | None = None) -> Tensor:
    """Return a picture that drifts evenly, and from ``jump_at`` on is 4 codes brighter."""
    wide = picture(32, 32 + num_frames, seed=3) * 0.9
    frames = torch.cat([wide[..., step : step + 32] for step in range(num_frames)])
    if jump_at is not None:
        frames[jump_at:] += 4 / 255
    return frames


def test_a_join_that_does_not_show_has_no_step() -> None:
    assert boundary_step(moving(8), moving(8), 4) == 0.0
    enlarged = F.interpolate(moving(8), scale_factor=2.0, mode="bilinear")
    assert abs(boundary_step(moving(8), enlarged, 4)) < 0.6


def test_a_join_that_shows_has_its_step_and_a_cut_in_the_source_has_none() -> None:
    still = picture(num_frames=1).expand(6, -1, -1, -1) * 0.9
    brighter = torch.cat([still[:3], still[3:] + 4 / 255])
    assert boundary_step(still, brighter, 3) == pytest.approx(4.0, abs=1e-3)
    assert boundary_step(brighter, brighter, 3) == 0.0
    assert boundary_step(moving(8), moving(8, jump_at=4), 4) > boundary_step(moving(8), moving(8, jump_at=4), 3)


@pytest.mark.parametrize(("num_frames", "join"), [(2, 1), (5, 0), (5, 5)])
def test_a_step_needs_frames_on_both_sides(num_frames: int, join: int) -> None:
    with pytest.raises(ValueError, match="needs 3 frames or more"):
        boundary_step(moving(num_frames), moving(num_frames), join)


@pytest.mark.parametrize("source_dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("restored_dtype", [torch.uint8, torch.uint16])
def test_a_faithful_enlargement_scores_high_at_every_depth(
    source_dtype: torch.dtype, restored_dtype: torch.dtype
) -> None:
    source = picture(num_frames=2)
    large = F.interpolate(source, scale_factor=2.0, mode="bicubic", align_corners=False)
    faithful = measure_segment(frames_of(to_codes(source, source_dtype)), frames_of(to_codes(large, restored_dtype)))
    worse = measure_segment(
        frames_of(to_codes(source, source_dtype)), frames_of(to_codes(large * 0.9 + 0.05, restored_dtype))
    )
    assert faithful.num_frames == 2
    assert faithful.psnr > 35 > worse.psnr
    assert faithful.ssim > 0.98
    assert faithful.colour_error < 0.5 < worse.colour_error


def test_an_unchanged_segment_is_reported_as_a_finite_best() -> None:
    source = frames_of(to_codes(picture(), torch.uint8))
    quality = measure_segment(source, source)
    assert (quality.psnr, quality.colour_error) == (BEST_PSNR, 0.0)
    assert quality.ssim == pytest.approx(1.0, abs=1e-5)


def test_a_smaller_result_is_compared_at_its_own_size() -> None:
    source = picture(64, 96)
    small = F.interpolate(source, size=(32, 48), mode="bicubic", antialias=True)
    quality = measure_segment(frames_of(to_codes(source, torch.uint8)), frames_of(to_codes(small, torch.uint8)))
    assert quality.psnr > 45


def test_colour_behind_transparency_does_not_count() -> None:
    source = torch.cat([picture(), torch.zeros(1, 1, 40, 56)], dim=1)
    other = torch.cat([picture(seed=9), torch.zeros(1, 1, 40, 56)], dim=1)
    quality = measure_segment(frames_of(to_codes(source, torch.uint8)), frames_of(to_codes(other, torch.uint8)))
    assert quality.psnr == BEST_PSNR


def test_only_the_same_frames_are_compared() -> None:
    codes = to_codes(picture(num_frames=2), torch.uint8)
    with pytest.raises(ValueError, match="not the same"):
        measure_segment(frames_of(codes), frames_of(codes, first=1))


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (47, 1), (95, 1), (96, 2), (250, 4), (900, 4)])
def test_a_few_frames_are_sampled_and_measured_alike_however_they_come(length: int, expected: int) -> None:
    span = FrameSpan(100, tuple(3 * number for number in range(length)))
    data = to_codes(picture(16, 16, num_frames=7), torch.uint8)

    def batches(size: int) -> Iterator[Frames]:
        for start in range(0, length, size):
            pts = span.pts[start : start + size]
            yield Frames(data[torch.tensor([p // 3 % 7 for p in pts])], pts, Fraction(1, 75))

    measured = []
    for size in (5, 64):
        sampler = QualitySampler(span)
        for batch in sampler.watch_source(batches(size)):
            brighter = (batch.data_TCHW.to(torch.int16) + 2).clamp(0, 255).to(torch.uint8)
            sampler.watch_restored(Frames(brighter, batch.pts, batch.time_base))
        measured.append(sampler.measure())
    assert measured[0] == measured[-1]
    assert measured[0]["num_frames"] == expected
    assert 1.5 < measured[0]["colour_error"] <= 2.0


def test_what_is_kept_does_not_change_with_a_buffer_that_is_used_again() -> None:
    span = FrameSpan(0, (0,))
    buffer = to_codes(picture(), torch.uint8)
    sampler = QualitySampler(span)
    list(sampler.watch_source([frames_of(buffer)]))
    sampler.watch_restored(frames_of(buffer))
    buffer.zero_()
    assert sampler.measure() == {"num_frames": 1, "psnr": BEST_PSNR, "ssim": 1.0, "colour_error": 0.0}


def test_frames_that_never_came_are_not_measured() -> None:
    sampler = QualitySampler(FrameSpan(0, (0, 1, 2)))
    sampler.watch_restored(frames_of(to_codes(picture(num_frames=3), torch.uint8)))
    assert sampler.measure() == {}


def test_the_known_value_of_a_flat_difference() -> None:
    black, grey = torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.1)
    assert psnr(black, grey).item() == pytest.approx(20.0, abs=1e-4)
    assert np.isclose(ssim(black, grey).item(), 0.0001 / (0.01 + 0.0001), atol=1e-5)
