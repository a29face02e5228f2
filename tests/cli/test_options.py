import inspect
from dataclasses import fields

import pytest

from seedvr2_ray.cli.options import SAID_OTHERWISE, setting_docs, with_settings
from seedvr2_ray.errors import SettingsError
from seedvr2_ray.settings import RestoreSettings


def a_command(seen):
    @with_settings
    def command(source: str, settings: RestoreSettings, overwrite: bool = False) -> None:
        """Do it."""
        seen.append((source, settings, overwrite))

    return command


def defaults():
    return {field.name: field.default for field in fields(RestoreSettings) if field.name not in SAID_OTHERWISE}


def test_every_setting_is_an_option_that_is_explained():
    parameters = inspect.signature(a_command([])).parameters
    docs = setting_docs()
    assert "settings" not in parameters
    assert parameters.keys().isdisjoint(SAID_OTHERWISE)
    for field in fields(RestoreSettings):
        if field.name in SAID_OTHERWISE:
            continue
        (option,) = parameters[field.name].annotation.__metadata__
        assert option.help == docs[field.name]
        assert option.help[0].isupper() or option.help[0].isdigit()
        assert parameters[field.name].default == field.default


def test_the_commands_own_parameters_and_words_stay():
    command = a_command([])
    assert list(inspect.signature(command).parameters)[:2] == ["source", "overwrite"]
    assert command.__doc__ == "Do it."


def test_options_become_settings():
    seen = []
    a_command(seen)(source="in.mp4", overwrite=True, **{**defaults(), "seed": 7, "codec": "hevc"})
    assert seen == [("in.mp4", RestoreSettings(seed=7, codec="hevc"), True)]


def test_impossible_options_are_refused_as_settings_are():
    with pytest.raises(SettingsError, match="chunk_frames must be 4n"):
        a_command([])(source="in.mp4", **{**defaults(), "chunk_frames": 20})
