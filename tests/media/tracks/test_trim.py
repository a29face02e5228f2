"""Laws of what an excerpt keeps beside its pictures."""

from fractions import Fraction

import pytest

from seedvr2_ray.media.tracks.trim import Trim

NTSC = Fraction(30000, 1001)


def moved(text: str, num_frames: int, rate: Fraction) -> str:
    return Trim(Fraction(0), Fraction(1), num_frames).timecode(text, rate)


def test_a_timecode_counts_frames() -> None:
    assert moved("01:00:00:00", 25, Fraction(25)) == "01:00:01:00"
    assert moved("00:59:59:24", 1, Fraction(25)) == "01:00:00:00"
    assert moved("23:59:59:23", 1, Fraction(24)) == "00:00:00:00"
    assert moved("no timecode", 5, Fraction(25)) == "no timecode"


@pytest.mark.parametrize(("rate", "drops"), [(NTSC, 2), (2 * NTSC, 4)])
def test_dropped_numbers_are_left_out_at_every_minute_but_each_tenth(rate: Fraction, drops: int) -> None:
    last = round(rate) - 1
    assert moved(f"00:00:59;{last}", 1, rate) == f"00:01:00;{drops:02}"
    assert moved(f"00:09:59;{last}", 1, rate) == "00:10:00;00"
    assert moved("00:00:00;00", round(rate * 3600), rate) == "01:00:00;00"
    # One step after the other, or all at once.
    text = "00:58:59;10"
    for _ in range(3):
        text = moved(text, 700, rate)
    assert text == moved("00:58:59;10", 2100, rate)


def test_a_stretch_holds_its_beginning_and_not_its_end() -> None:
    trim = Trim(Fraction(1), Fraction(2), 0)
    assert trim.holds(Fraction(1))
    assert not trim.holds(Fraction(2))
