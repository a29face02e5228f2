from pathlib import Path

import pytest

from seedvr2_ray.restoration.planning.geometry import Area, area_size, parse_resolution
from seedvr2_ray.serve.config import GangPool, ModelPool, ServiceConfig
from seedvr2_ray.serve.http.runpod.actions import (
    ActionError,
    ModelMissing,
    action_of,
    choose_model,
    parse_restore,
    runpod_name,
    wrapping_of,
)
from seedvr2_ray.settings import RestoreSettings

ALL = ServiceConfig(
    models={
        "seedvr2-3b": ModelPool(num_gpus=1),
        "seedvr2-7b": ModelPool(num_gpus=1, gang_size=4),
        "seedvr2-7b-sharp": ModelPool(num_gpus=1),
    },
    default_model="seedvr2-7b-sharp",
)
LAPTOP = ServiceConfig()


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({"model_type": "seedvr2_3b"}, "seedvr2-3b"),
        ({"model_type": "seedvr2_3b", "model_variant": "normal"}, "seedvr2-3b"),
        ({"model_type": "seedvr2_7b"}, "seedvr2-7b"),
        ({"model_type": "seedvr2_7b", "model_variant": "sharp"}, "seedvr2-7b-sharp"),
        ({"model_variant": "sharp"}, "seedvr2-7b-sharp"),
        ({}, "seedvr2-7b-sharp"),
    ],
)
def test_types_and_variants_name_models_of_the_catalogue(given, model):
    choice = choose_model(given, ALL)
    assert choice.model == model
    assert runpod_name(model) == (choice.model_type, choice.model_variant)


def test_a_model_that_is_not_deployed_is_refused_with_those_that_are():
    with pytest.raises(ModelMissing, match="seedvr2_7b_sharp is not deployed here; this deployment has lanczos, nano"):
        choose_model({"model_type": "seedvr2_7b", "model_variant": "sharp"}, LAPTOP)


def test_an_alias_stands_in_only_where_the_operator_says_so():
    config = LAPTOP.model_copy(update={"model_aliases": {"seedvr2_3b": "nano"}})
    choice = choose_model({"model_type": "seedvr2_3b"}, config)
    assert (choice.model, choice.model_type) == ("nano", "seedvr2_3b")
    with pytest.raises(ModelMissing):
        choose_model({"model_type": "seedvr2_7b"}, config)


def test_a_deployed_model_may_be_named_as_it_is():
    assert choose_model({"model_type": "nano"}, LAPTOP).model == "nano"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"model_type": "seedvr3"}, "model_type must be one of seedvr2_3b, seedvr2_7b; got 'seedvr3'"),
        ({"model_variant": "soft"}, "model_variant must be one of normal, sharp; got 'soft'"),
        ({"model_type": "seedvr2_3b", "model_variant": "sharp"}, "seedvr2_3b has no sharp variant"),
        ({"model_type": "seedvr2_3b", "sp_size": 4}, "sp_size 4 needs 4 devices .* use sp_size 1"),
        ({"sp_size": 0}, "sp_size must be a whole number in 1..1024, got 0"),
        ({"sp_size": True}, "sp_size must be a whole number"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_the_way_out(given, reason):
    with pytest.raises(ActionError, match=reason):
        choose_model(given, ALL)


def test_a_gang_of_the_size_asked_for_and_a_single_device_are_always_taken():
    for sp_size in (1, 4):
        assert choose_model({"model_type": "seedvr2_7b", "sp_size": sp_size}, ALL).sp_size == sp_size


def test_a_size_alone_picks_the_deployment_whose_gangs_have_it():
    assert choose_model({"sp_size": 4}, ALL).model == "seedvr2-7b"
    assert choose_model({"sp_size": 1}, ALL).model == ALL.default_model
    with pytest.raises(ActionError, match="sp_size 8 needs 8 devices"):
        choose_model({"sp_size": 8}, ALL)


def test_one_model_may_be_there_in_several_sizes():
    both = ServiceConfig(
        models={"seedvr2-3b": ModelPool(num_gpus=1, gangs={4: GangPool()})}, default_model="seedvr2-3b"
    )
    for sp_size, gang_size in ((1, None), (4, 4)):
        choice = choose_model({"model_type": "seedvr2_3b", "sp_size": sp_size}, both)
        assert (choice.model, choice.gang_size) == ("seedvr2-3b", gang_size)
    assert choose_model({"sp_size": 4}, both).gang_size == 4
    with pytest.raises(ActionError, match="has seedvr2-3b on 1 or 4; use sp_size 1 or 4"):
        choose_model({"sp_size": 2}, both)


def test_the_defaults_are_the_documented_ones():
    action = parse_restore({"media": "AAAA"}, ALL)
    settings = RestoreSettings.from_mapping(action.settings)
    assert (settings.seed, settings.cfg_scale, settings.cfg_rescale, settings.sample_steps) == (666, 1.0, 0.0, 1)
    assert action.metadata("e")["resolution"] == "1280x720"


@pytest.mark.parametrize(("height", "width"), [(480, 854), (854, 480), (500, 500)])
def test_only_the_area_counts_and_the_aspect_is_kept_whichever_way_round_the_sides_are(height, width):
    sizes = set()
    for sides in ({}, {"res_h": 1280, "res_w": 720}, {"res_h": 720, "res_w": 1280}):
        area = parse_resolution(parse_restore({"media": "AAAA", **sides}, ALL).settings["resolution"])
        assert isinstance(area, Area)
        sizes.add(area_size(height, width, area))
    ((out_height, out_width),) = sizes
    assert out_height * out_width == pytest.approx(1280 * 720, rel=0.002)
    assert out_height / out_width == pytest.approx(height / width, rel=0.002)


def test_settings_pass_through():
    given = {"video": "AAAA", "seed": 7, "cfg_scale": 2, "cfg_rescale": 0.5, "sample_steps": 3.0, "res_h": 64.0}
    settings = RestoreSettings.from_mapping(parse_restore(given, ALL).settings)
    assert (settings.seed, settings.cfg_scale, settings.cfg_rescale, settings.sample_steps) == (7, 2.0, 0.5, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "No video data provided"),
        ({"media": ""}, "No video data provided"),
        ({"media": None, "video": "", "image": None}, "No video data provided"),
        ({"media": 7}, "Invalid base64 video data: it is no string but int"),
        ({"media": "AAAA", "media_type": "audio"}, "media_type must be one of auto, video, image; got 'audio'"),
        ({"media": "AAAA", "res_h": "tall"}, "res_h must be a whole number in 1..16384, got 'tall'"),
        ({"media": "AAAA", "seed": -1}, f"seed must be a whole number in 0..{2**63 - 1}, got -1"),
        ({"media": "AAAA", "cfg_scale": "high"}, "cfg_scale must be a number, got 'high'"),
        ({"media": "AAAA", "cfg_scale": float("inf")}, "cfg_scale must be a number, got inf"),
        ({"media": "AAAA", "res_w": float("nan")}, "res_w must be a whole number in 1..16384, got nan"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_the_documented_words(given, message):
    with pytest.raises(ActionError) as caught:
        parse_restore(given, ALL)
    assert str(caught.value) == message


def test_media_without_an_action_are_to_be_restored():
    assert action_of({"input": {"media": "AAAA"}})[0] == "restore"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "the body must be"),
        ({"input": "restore"}, "the body must be"),
        ({"input": {"action": "explode"}}, "Unknown action 'explode'; known are health, initialize, restore"),
        ({"input": {}, "webhook": "https://example.org"}, "webhook is not part of this API here"),
    ],
)
def test_what_is_no_action_is_refused(document, reason):
    with pytest.raises(ActionError, match=reason):
        action_of(document)


@pytest.mark.parametrize(
    ("head", "name", "settings"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(8), "image.png", {"codec": "png"}),
        (b"\xff\xd8\xff\xe0" + bytes(12), "image.jpg", {"codec": "png"}),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image.webp", {}),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "video.mp4", {}),
        (b"\x00\x00\x00\x20ftypisom", "video.mp4", {}),
        (b"", "video.mp4", {}),
    ],
)
def test_media_are_named_after_what_they_are(tmp_path: Path, head, name, settings):
    path = tmp_path / "media"
    path.write_bytes(head)
    assert wrapping_of(path) == (name, settings)
