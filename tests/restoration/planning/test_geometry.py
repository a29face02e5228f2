from fractions import Fraction
from math import isclose

import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.restoration.planning.geometry import (
    Area,
    AtLeast,
    Box,
    Geometry,
    Resolution,
    Scale,
    ShortSide,
    area_size,
    parse_resolution,
    plan_geometry,
    say_size,
)

SQUARE = Fraction(1)


def size_of(
    width: int, height: int, text: str, *, sample_aspect: Fraction = SQUARE, even: bool = True
) -> tuple[int, int]:
    geometry = plan_geometry(width, height, sample_aspect, parse_resolution(text), even=even)
    return geometry.width, geometry.height


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1080p", ShortSide(1080)),
        ("auto", AtLeast(1080)),
        (" 720P ", ShortSide(720)),
        ("333p", ShortSide(333)),
        ("1920x1080", Box(1920, 1080)),
        ("x2", Scale(Fraction(2))),
        ("x1.5", Scale(Fraction(3, 2))),
        ("x0.1", Scale(Fraction(1, 10))),
        ("area:1280x720", Area(1280, 720)),
    ],
)
def test_every_documented_form_is_read(text: str, expected: Resolution) -> None:
    assert parse_resolution(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "1080", "0p", "p", "-1080p", "1920x", "x", "x0", "x0.0", "x-2", "1920x0", "0x0", "area:", "area:1280", "2x",
     "1e3p", "1080i", "1920x1080x3", "x1/2", "x2.", "9" * 40 + "p"],
)  # fmt: skip
def test_anything_else_is_refused_with_the_forms_that_are_known(text: str) -> None:
    with pytest.raises(SettingsError, match="720p, 1080p.*WxH, xN.*area:WxH; got"):
        parse_resolution(text)


@pytest.mark.parametrize(
    ("width", "height", "text", "expected"),
    [
        (640, 360, "1080p", (1920, 1080)),
        (640, 360, "auto", (1920, 1080)),
        (4032, 3024, "auto", (4032, 3024)),
        (1080, 1920, "auto", (1080, 1920)),
        (360, 640, "1080p", (1080, 1920)),
        (500, 500, "720p", (720, 720)),
        (1920, 1080, "720p", (1280, 720)),
        (853, 480, "1080p", (1920, 1080)),
        (854, 480, "1080p", (1922, 1080)),
        (640, 360, "x2", (1280, 720)),
        (640, 360, "x1.5", (960, 540)),
        (639, 359, "x1", (640, 360)),
        (640, 360, "1920x1080", (1920, 1080)),
        (640, 360, "1920x1920", (1920, 1080)),
        (640, 480, "1920x1080", (1440, 1080)),
        (854, 480, "1920x1080", (1920, 1080)),
        (1080, 1920, "1920x1080", (608, 1080)),
        (4096, 1, "720p", None),
    ],
)
def test_sizes_keep_the_display_aspect(width: int, height: int, text: str, expected: tuple[int, int] | None) -> None:
    if expected is None:
        with pytest.raises(SettingsError, match=r"2949120x720 and a side may have 16384"):
            size_of(width, height, text)
    else:
        assert size_of(width, height, text) == expected


@pytest.mark.parametrize(
    ("width", "height", "sample_aspect", "text", "expected"),
    [
        (720, 480, Fraction(8, 9), "1080p", (1440, 1080)),
        (720, 576, Fraction(64, 45), "1080p", (1920, 1080)),
        (720, 576, Fraction(64, 45), "x1", (1024, 576)),
        (720, 480, Fraction(8, 9), "x1", (720, 540)),
        (480, 720, Fraction(9, 8), "1080p", (1080, 1440)),
        (1440, 1080, Fraction(4, 3), "x2", (3840, 2160)),
    ],
)
def test_pixels_that_are_not_square_become_square_without_losing_any(
    width: int, height: int, sample_aspect: Fraction, text: str, expected: tuple[int, int]
) -> None:
    assert size_of(width, height, text, sample_aspect=sample_aspect) == expected


@pytest.mark.parametrize("sample_aspect", [SQUARE, Fraction(8, 9), Fraction(64, 45)])
@pytest.mark.parametrize("text", ["720p", "2160p", "x1.7", "x3", "2000x1000", "area:1280x720"])
@pytest.mark.parametrize("even", [True, False])
def test_the_display_aspect_is_kept_to_the_pixel(text: str, sample_aspect: Fraction, even: bool) -> None:
    for width, height in [(640, 480), (481, 853), (1001, 999), (600, 137)]:
        out_width, out_height = size_of(width, height, text, sample_aspect=sample_aspect, even=even)
        aspect = float(width * sample_aspect / height)
        step = 2 if even else 1
        assert isclose(out_width, out_height * aspect, abs_tol=step * (1 + aspect)), (width, height)
        assert out_width % step == out_height % step == 0


def test_portrait_and_landscape_are_mirror_images() -> None:
    for text in ("1080p", "x2.3", "area:1280x720"):
        assert size_of(641, 479, text) == size_of(479, 641, text)[::-1]


def test_sizes_are_rounded_once_half_to_even() -> None:
    assert size_of(5, 7, "x0.5", even=False) == (2, 4)
    assert size_of(3, 5, "x1", even=True) == (4, 4)
    assert size_of(101, 101, "x1", even=False) == (101, 101)


def test_nothing_is_rounded_away() -> None:
    assert size_of(1000, 1, "x0.1", even=False) == (100, 1)
    assert size_of(1000, 1, "x0.1", even=True) == (100, 2)


@pytest.mark.parametrize(
    ("height", "width", "res_h", "res_w", "expected"),
    [
        (480, 640, 720, 1280, (831, 1109)),
        (480, 640, 1080, 1920, (1247, 1663)),
        (480, 640, 1440, 2560, (1663, 2217)),
        (480, 640, 2160, 3840, (2494, 3326)),
        (480, 640, 1280, 720, (831, 1109)),
        (360, 640, 720, 1280, (720, 1280)),
        (360, 640, 1080, 1920, (1080, 1920)),
    ],
)
def test_the_area_rule_gives_the_published_scripts_sizes(
    height: int, width: int, res_h: int, res_w: int, expected: tuple[int, int]
) -> None:
    assert area_size(height, width, Area(res_w, res_h)) == expected
    geometry = plan_geometry(width, height, SQUARE, Area(res_w, res_h), even=False)
    assert (geometry.height, geometry.width) == expected


def test_even_sizes_of_the_area_rule_crop_to_the_same_multiples_of_16() -> None:
    for height in range(300, 500, 7):
        exact = size_of(640, height, "area:1280x720", even=False)
        even = size_of(640, height, "area:1280x720", even=True)
        assert [side // 16 for side in exact] == [side // 16 for side in even]


def test_the_geometry_remembers_the_stored_size_of_the_source() -> None:
    assert plan_geometry(720, 480, Fraction(8, 9), ShortSide(720), even=True) == Geometry(
        source_width=720, source_height=480, width=960, height=720
    )


@pytest.mark.parametrize("text", ["1079p", "1921x1080", "1920x1081"])
def test_odd_sizes_are_refused_only_where_the_master_cannot_hold_them(text: str) -> None:
    with pytest.raises(SettingsError, match="odd side.*choose an even one"):
        size_of(640, 360, text, even=True)
    assert size_of(640, 360, text, even=False)[1] in (1079, 1080, 1081)


def test_limits_are_named_and_can_be_set() -> None:
    with pytest.raises(SettingsError, match="16386x.* side may have 16384 pixels; choose a smaller"):
        plan_geometry(16386, 2, SQUARE, Scale(Fraction(1)), even=True)
    with pytest.raises(SettingsError, match=r"1920x1080, 2\.1 megapixels, and this deployment allows 1\.0"):
        plan_geometry(640, 360, SQUARE, ShortSide(1080), even=True, max_pixels=1_000_000)
    geometry = plan_geometry(16386, 2, SQUARE, Scale(Fraction(1)), even=True, max_side=20000)
    assert geometry.width == 16386


@pytest.mark.parametrize(
    ("size", "resolution", "said"),
    [
        ((640, 360), "auto", None),
        ((1920, 1080), "auto", None),
        ((4032, 3024), "auto", "kept"),
        ((4032, 3024), "1080p", "converted"),
        ((4032, 3024), "x0.5", "converted"),
        ((4032, 3024), "x1", None),
        ((853, 481), "x1", None),
    ],
)
def test_no_picture_is_made_smaller_without_a_word(size, resolution, said):
    parsed = parse_resolution(resolution)
    geometry = plan_geometry(*size, Fraction(1), parsed, even=True)
    notices = say_size(geometry, Fraction(1), parsed)
    assert [notice.outcome for notice in notices] == ([said] if said else [])
