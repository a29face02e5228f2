"""Laws of frame rates: a rate is what explains the times, and none is made up."""

from array import array
from fractions import Fraction

from seedvr2_ray.media.container.frame_rates import constant_rate, grid_rate, mean_rate

NTSC = Fraction(30000, 1001)


def test_a_rate_is_constant_when_rounding_to_ticks_explains_every_time():
    milliseconds = array("q", [round(1000 * number / NTSC) for number in range(5000)])
    assert constant_rate(milliseconds, Fraction(1, 1000), [Fraction(30), NTSC]) == NTSC


def test_a_missing_frame_makes_the_rate_variable():
    times = [number for number in range(100) if number != 40]
    assert constant_rate(times, 1 / NTSC, [NTSC]) is None
    milliseconds = [round(1000 * number / NTSC) for number in range(100) if number != 40]
    assert constant_rate(milliseconds, Fraction(1, 1000), [NTSC]) is None


def test_the_mean_rate_counts_from_first_to_last_frame():
    assert mean_rate([0, 40, 120], Fraction(1, 1000)) == Fraction(2, 1) / Fraction(120, 1000)


def test_a_grid_with_empty_places_is_found_and_none_is_made_up():
    assert grid_rate([0, 2, 3, 4, 9], Fraction(1, 25)) == 25
    assert grid_rate([0, 80, 120, 160, 360], Fraction(1, 1000)) == 25
    assert grid_rate([7, 40, 141, 202, 333, 402, 481], Fraction(1, 1000)) is None
