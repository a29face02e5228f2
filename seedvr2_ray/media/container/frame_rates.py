"""Which rate explains the times of frames: a constant one, one with empty places, or the mean of a varying one."""

from collections.abc import Sequence
from fractions import Fraction

STANDARD_RATES = tuple(
    Fraction(rate, divisor)
    for rates, divisor in (
        ((12, 15, 24, 25, 30, 48, 50, 60, 100, 120), 1),
        ((24000, 30000, 48000, 60000, 120000), 1001),
    )
    for rate in rates
)
"""Frame rates that material is made in."""


def constant_rate(pts: Sequence[int], time_base: Fraction, candidates: Sequence[Fraction]) -> Fraction | None:
    """The first rate that explains every time, or None when the rate varies.

    Containers round times to their ticks (a millisecond in Matroska), so a tick of play is no
    variation, unless a tick is as long as a frame.
    """
    for rate in candidates:
        step = 1 / (rate * time_base)
        play = 1 if step >= 3 else 0
        first = pts[0]
        # Integers: a video has too many frames for arithmetic with fractions.
        if all(
            abs((stamp - first) * step.denominator - number * step.numerator) <= play * step.denominator
            for number, stamp in enumerate(pts)
        ):
            return rate
    return None


def mean_rate(pts: Sequence[int], time_base: Fraction) -> Fraction:
    """Frames per second from the first frame to the last."""
    return ((len(pts) - 1) / ((pts[-1] - pts[0]) * time_base)).limit_denominator(100_000)


def grid_rate(pts: Sequence[int], time_base: Fraction) -> Fraction | None:
    """The rate at which every picture has a place of its own though some places stay empty; None where there is none.

    AVI files with dropped frames are made so, and AVI can hold nothing else.
    """
    rates = [rate for rate in (*STANDARD_RATES, 1 / time_base) if rate <= STANDARD_RATES[-1]]
    for rate in sorted(rates):
        step = 1 / (rate * time_base)
        places = [round((stamp - pts[0]) / step) for stamp in pts]
        play = 1 if step >= 3 else 0
        has_own_places = len(set(places)) == len(places)
        if has_own_places and all(abs(p - pts[0] - n * step) <= play for p, n in zip(pts, places, strict=True)):
            return rate
    return None
