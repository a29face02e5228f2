"""Laws of how an excerpt is written down."""

from fractions import Fraction

import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.excerpts import Stretch, excerpt_of, parse_excerpt, parse_time
from seedvr2_ray.settings import RestoreSettings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("75.5", "75.5"), ("1:15.5", "75.5"), ("0:01:15.5", "75.5"), ("2:00:00", "7200"), ("90:00", "5400"), ("0", "0")],
)
def test_a_time_is_seconds_minutes_and_hours_and_exact(text: str, seconds: str) -> None:
    assert parse_time(text) == Fraction(seconds)


@pytest.mark.parametrize("text", ["", "1:", "1:75", "0:75:00", "ten", "-1", "1e3", "1:2:3:4", "nan", "1.5s"])
def test_what_is_no_time_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(SettingsError, match="write seconds"):
        parse_time(text)


def test_frames_are_counted_from_0_and_the_last_one_is_included() -> None:
    assert parse_excerpt("frames 250-324") == Stretch("frames", Fraction(250), Fraction(325))
    assert parse_excerpt("frame 7") == Stretch("frames", Fraction(7), Fraction(8))


@pytest.mark.parametrize("text", ["-", "5", "3-3", "4-3", "frames 5-4", "frames", "frames a-b", "1-2-3", "frames -3"])
def test_what_is_no_excerpt_is_refused_by_the_settings(text: str) -> None:
    with pytest.raises(SettingsError):
        RestoreSettings(excerpt=text)


def test_the_options_of_the_command_line_make_one_text_or_none() -> None:
    assert excerpt_of() == ""
    assert excerpt_of("1:02", "1:10.5") == "1:02-1:10.5"
    assert excerpt_of(start="5") == "5-"
    assert excerpt_of(stop="5") == "-5"
    assert excerpt_of(frames="250-324") == "frames 250-324"
    with pytest.raises(SettingsError, match="by times or by frames"):
        excerpt_of("1", "2", "3-4")
    with pytest.raises(SettingsError, match="the frames 'x' are not understood"):
        excerpt_of(frames="x")
    with pytest.raises(SettingsError, match="the time 'soon' is not understood"):
        excerpt_of("soon")


def test_the_published_script_takes_videos_whole() -> None:
    with pytest.raises(SettingsError, match="reference takes the whole video as one sequence"):
        RestoreSettings(excerpt="1-2", reference=True)
