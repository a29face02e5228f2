import tracemalloc
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from seedvr2_ray.media.shots import detect_shots

Picture = NDArray[np.uint8]
HEIGHT, WIDTH = 48, 80


def scene(seed: int) -> Picture:
    """Return a picture of coarse coloured blocks: what a scene looks like from afar."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def video(lengths: list[int]) -> Iterator[tuple[int, Picture]]:
    """Yield shots of these lengths, each drifting a little and grainy."""
    rng = np.random.default_rng(0)
    number = 0
    for seed, length in enumerate(lengths):
        base = scene(seed).astype(np.int16)
        for position in range(length):
            moved = np.roll(base, position // 4, axis=1)
            grain = rng.integers(-4, 5, moved.shape, dtype=np.int16)
            yield number, np.clip(moved + grain, 0, 255).astype(np.uint8)
            number += 1


def shots_of(pictures: list[Picture], rate: Fraction = Fraction(25)) -> tuple[int, ...]:
    return detect_shots(enumerate(pictures), len(pictures), frame_rate=rate)


@pytest.mark.parametrize(
    "lengths",
    [[60], [30, 30], [40, 1, 40], [1, 1, 1, 30], [30, 2], [2, 30, 9, 3, 17, 1], [30, 1], [1, 1], [1], [5, 5, 5, 5]],
)
def test_hard_cuts_are_found_exactly_where_they_are(lengths: list[int]) -> None:
    cuts = tuple(int(start) for start in np.cumsum([0, *lengths[:-1]]))
    assert detect_shots(video(lengths), sum(lengths), frame_rate=Fraction(25)) == cuts


@pytest.mark.parametrize("rate", [Fraction(1), Fraction(24000, 1001), Fraction(60000, 1001), Fraction(240)])
def test_the_rate_moves_no_cut(rate: Fraction) -> None:
    assert detect_shots(video([2, 15, 9, 1]), 27, frame_rate=rate) == (0, 2, 17, 26)


def test_large_pictures_are_cut_where_small_ones_are() -> None:
    large = ((number, picture.repeat(6, axis=0).repeat(6, axis=1)) for number, picture in video([9, 1, 12]))
    assert detect_shots(large, 22, frame_rate=Fraction(25)) == (0, 9, 10)


def test_a_still_video_is_one_shot() -> None:
    assert shots_of([scene(3)] * 50) == (0,)


def test_no_picture_at_all_is_one_shot() -> None:
    assert detect_shots([], 100, frame_rate=Fraction(25)) == (0,)


def test_noise_in_the_dark_is_no_cut() -> None:
    rng = np.random.default_rng(5)
    assert shots_of([rng.integers(0, 12, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(60)]) == (0,)


def test_noise_on_grey_is_no_cut() -> None:
    rng = np.random.default_rng(6)
    grey = rng.integers(40, 200, (HEIGHT, WIDTH, 1), dtype=np.int16)
    pictures = [(grey + rng.integers(-2, 3, (HEIGHT, WIDTH, 3))).astype(np.uint8) for _ in range(60)]
    assert shots_of(pictures) == (0,)


def test_a_steady_pan_is_no_cut() -> None:
    wide = np.concatenate([scene(seed) for seed in range(8)], axis=1)
    smooth = np.stack(
        [
            np.apply_along_axis(lambda row: np.convolve(row, np.ones(24) / 24, "same"), 1, wide[:, :, c])
            for c in range(3)
        ],
        axis=2,
    ).astype(np.uint8)
    assert shots_of([smooth[:, 2 * step : 2 * step + WIDTH] for step in range(100)]) == (0,)


def test_a_slow_fade_is_cut_where_it_is_black_if_at_all() -> None:
    base = scene(1).astype(np.float64)
    cuts = shots_of([(base * (1 - step / 50)).astype(np.uint8) for step in range(50)])
    assert len(cuts) <= 2
    assert all(cut >= 45 for cut in cuts[1:])


def test_a_flash_is_cut_at_its_edges_and_nowhere_else() -> None:
    pictures = [scene(2)] * 40
    pictures[20] = np.full_like(pictures[0], 255)
    assert shots_of(pictures) == (0, 20, 21)


def test_a_strobe_is_cut_no_more_often_than_it_flashes() -> None:
    pictures = [scene(2) if number % 10 else np.full((HEIGHT, WIDTH, 3), 255, np.uint8) for number in range(200)]
    assert len(shots_of(pictures)) == 40


def test_a_cut_between_shots_of_like_brightness_is_found_by_its_neighbours() -> None:
    """A change of 15 to 27 levels counts where all else is still."""
    dim = [scene(8) // 3] * 20 + [scene(9) // 3] * 20
    assert shots_of(dim) == (0, 20)


def test_frames_that_could_not_be_decoded_do_not_shift_the_numbers() -> None:
    pictures = [(number, picture) for number, picture in video([20, 20]) if number not in (5, 6, 30)]
    assert detect_shots(pictures, 40, frame_rate=Fraction(25)) == (0, 20)


def test_frames_beyond_the_end_are_not_shots() -> None:
    assert detect_shots(video([10, 10]), 10, frame_rate=Fraction(25)) == (0,)


@pytest.mark.slow
def test_pictures_are_looked_at_one_by_one_and_let_go() -> None:
    def peak_bytes(length: int) -> int:
        tracemalloc.start()
        pictures = ((number, np.full((HEIGHT, WIDTH, 3), number % 50, np.uint8)) for number in range(length))
        detect_shots(pictures, length, frame_rate=Fraction(25))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(20)
    # Of 150 pictures more: other threads of this process may keep something meanwhile.
    assert peak_bytes(200) < peak_bytes(50) + 30 * HEIGHT * WIDTH * 3
