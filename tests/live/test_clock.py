"""Laws of the one clock."""

from fractions import Fraction
from itertools import pairwise

import pytest

from seedvr2_ray.live.clock import StreamClock

FRAME = Fraction(1, 25)
PACKET = Fraction(1024, 48000)
WRAP = Fraction(2**33, 90000)


def interleaved(
    seconds: int, start: Fraction = Fraction(0), *, offset: Fraction = Fraction(0)
) -> list[tuple[str, Fraction]]:
    """Times of pictures and sound as a muxer interleaves them: sound ``offset`` before its pictures."""
    pictures = [("video", start + number * FRAME) for number in range(25 * seconds)]
    sound = [("sound", start + number * PACKET) for number in range(int(seconds / PACKET))]
    return sorted(pictures + sound, key=lambda item: item[1] - (offset if item[0] == "sound" else 0))


def place_all(clock: StreamClock, items: list[tuple[str, Fraction]]) -> list[tuple[str, Fraction, Fraction]]:
    return [(track, at, clock.place(track, at, FRAME if track == "video" else PACKET)) for track, at in items]


@pytest.mark.slow
def test_five_minutes_with_jumps_and_restarts_keep_sound_and_picture_in_step() -> None:
    clock = StreamClock()
    placed: list[tuple[str, Fraction, Fraction]] = []
    starts = [Fraction(7), Fraction(90_000), Fraction(3), WRAP - 20, Fraction(12345, 7), Fraction(0)]
    for number, start in enumerate(starts):
        if number % 2:
            clock.begin_anew()
        piece = place_all(clock, interleaved(50, start, offset=Fraction(number, 10)))
        # Of one piece, everything is moved by one amount, once both tracks are there.
        moves = {due - at for _, at, due in piece[100:]}
        assert len(moves) == 1
        placed += piece
    for track in ("video", "sound"):
        times = [due for name, _, due in placed if name == track]
        assert all(late > early for early, late in pairwise(times)), track
        assert times[0] == 0
        # Five minutes of frames take five minutes, and a seam no longer than what one track was ahead of the other.
        assert abs(times[-1] - 300) < len(starts) * Fraction(6, 10)
    assert clock.num_jumps == len(starts) - 1


def test_a_wrap_of_the_counter_changes_nothing_at_all() -> None:
    clock = StreamClock()
    items = interleaved(40, WRAP - 20)
    placed = place_all(clock, [(track, at % WRAP) for track, at in items])
    assert [due for _, _, due in placed] == [at - items[0][1] for _, at in items]


def test_samples_from_before_a_jump_that_come_late_stay_where_they_belong() -> None:
    clock = StreamClock()
    place_all(clock, interleaved(2))
    assert clock.place("video", Fraction(5000), FRAME) == 2
    # Sound of before is still under way, then it follows.
    last = int(2 / PACKET) * PACKET
    assert clock.place("sound", last, PACKET) == last
    assert clock.place("sound", Fraction(5000) + PACKET, PACKET) == 2 + PACKET
    assert clock.place("video", Fraction(5000) + FRAME, FRAME) == 2 + FRAME


def test_pictures_that_are_missing_while_sound_goes_on_leave_a_gap() -> None:
    clock = StreamClock()
    items = [item for item in interleaved(20) if item[0] == "sound" or not 5 <= item[1] < 15]
    assert all(at == due for _, at, due in place_all(clock, items))
    assert clock.num_jumps == 0


def test_silence_of_everything_is_left_out() -> None:
    clock = StreamClock()
    place_all(clock, interleaved(2))
    after = place_all(clock, interleaved(2, Fraction(60)))
    assert after[0][2] == 2
    assert {due - at for _, at, due in after} == {Fraction(-58)}


def test_a_track_that_had_more_to_say_before_a_jump_loses_nothing() -> None:
    clock = StreamClock()
    place_all(clock, interleaved(2))
    for number in range(int(2 / PACKET), int(3 / PACKET)):
        end = clock.place("sound", number * PACKET, PACKET) + PACKET
    first = clock.place("video", Fraction(900), FRAME)
    assert first == end
    # Its sound begins before its first picture: both move until it fits.
    assert clock.place("sound", Fraction(900) - Fraction(1, 2), PACKET) == end
    assert clock.place("video", Fraction(900) + FRAME, FRAME) == end + Fraction(1, 2) + FRAME


@pytest.mark.parametrize("jitter", [Fraction(1, 1000), Fraction(1, 100), Fraction(1, 30)])
def test_jitter_is_no_jump(jitter: Fraction) -> None:
    clock = StreamClock()
    for number in range(200):
        at = number * FRAME + (jitter if number % 3 else -jitter)
        assert clock.place("video", at, FRAME) == at + jitter
    assert clock.num_jumps == 0


def test_pictures_without_times_follow_one_another() -> None:
    clock = StreamClock()
    assert [clock.place("video", None, FRAME) for _ in range(3)] == [0, FRAME, 2 * FRAME]
