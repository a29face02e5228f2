"""Laws of what a caller may choose."""

import json
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.settings import RestoreSettings

HINTS = get_type_hints(RestoreSettings)
NAMES = [field.name for field in fields(RestoreSettings)]
OTHER_VALUES: dict[str, list[Any]] = {
    "model": ["lanczos", "seedvr2-3b"],
    "resolution": ["720p", "x2", "640x360", "area:1280x720"],
    "seed": [0, 2**63 - 1],
    "sample_steps": [1, 1000],
    "cfg_scale": [0.0, 7.5, 3],
    "cfg_rescale": [0.0, 1.0],
    "chunk_frames": [9, 121],
    "chunk_overlap": [0, 5],
    "segment_seconds": [0.5, 600],
    "segment_overlap": [0, 64],
    "crf": [-1, 0, 63],
    "preset": ["fast"],
    "excerpt": ["", "10-13.5", "1:02:03.25-", "-5", "frames 250-324", "frames 7"],
    "vae_tile": [0, 64, 8192],
}
"""Legal values of the fields whose type does not list them."""


def _legal_values(name: str) -> list[Any]:
    if HINTS[name] is bool:
        return [True, False]
    if get_origin(HINTS[name]) is Literal:
        return list(get_args(HINTS[name]))
    return OTHER_VALUES[name]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in NAMES for value in _legal_values(name)])
def test_every_field_survives_the_way_through_json(name: str, value: Any) -> None:
    settings = RestoreSettings.from_mapping({name: value})
    assert getattr(settings, name) == value
    assert RestoreSettings.from_mapping(json.loads(json.dumps(settings.to_mapping()))) == settings


def test_nothing_chosen_means_the_defaults() -> None:
    assert RestoreSettings.from_mapping({}) == RestoreSettings()


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [("resolutoin", "resolution"), ("chunk_frame", "chunk_frames"), ("color_match", "colour_match")],
)
def test_a_misspelt_setting_is_named_with_the_likely_one(key: str, suggestion: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting '{key}'; did you mean {suggestion}"):
        RestoreSettings.from_mapping({key: 1})


def test_a_setting_like_no_other_is_answered_with_all_of_them() -> None:
    with pytest.raises(SettingsError) as caught:
        RestoreSettings.from_mapping({"zzzz": 1})
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [None, object(), [], b"21"])
def test_a_value_of_the_wrong_type_is_refused_by_the_fields_name(name: str, wrong: Any) -> None:
    with pytest.raises(SettingsError, match=f"^{name} must be"):
        RestoreSettings.from_mapping({name: wrong})


@pytest.mark.parametrize("name", [name for name in NAMES if HINTS[name] in (int, float)])
def test_true_is_not_taken_for_the_number_one(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        RestoreSettings.from_mapping({name: True})


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"chunk_frames": 20}, r"4n \+ 1"),
        ({"chunk_frames": -3}, r"4n \+ 1"),
        ({"chunk_frames": 1, "chunk_overlap": 1}, r"0\.\.0 for 1 frames"),
        ({"chunk_overlap": 6}, r"0\.\.5 for 21 frames"),
        ({"chunk_overlap": -1}, "chunk_overlap"),
        ({"sample_steps": 0}, r"1\.\.1000"),
        ({"cfg_rescale": 1.5}, r"0\.\.1"),
        ({"segment_seconds": 0.1}, r"0\.5\.\.600"),
        ({"segment_seconds": float("nan")}, r"0\.5\.\.600"),
        ({"segment_overlap": 65}, r"0\.\.64"),
        ({"crf": 64}, r"0\.\.63"),
        ({"vae_tile": 100}, r"multiple of 64 in 64\.\.8192"),
        ({"vae_tile": -64}, "vae_tile"),
        ({"vae_tile": 512, "reference": True}, "reference takes frames whole"),
        ({"seed": -1}, "2\\^63-1"),
        ({"seed": 2**63}, "2\\^63-1"),
        ({"codec": "divx"}, "one of auto, h264"),
        ({"bit_depth": 9}, "one of 0, 8, 10"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_limit(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        RestoreSettings.from_mapping(values)


def test_equal_settings_are_equal_and_hash_alike() -> None:
    assert RestoreSettings(crf=12) == RestoreSettings(crf=12)
    assert len({RestoreSettings(crf=12), RestoreSettings(crf=12), RestoreSettings()}) == 2
