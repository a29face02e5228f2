"""Laws of names and rules of colour."""

import av
import pytest

from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.picture.colour import (
    MATRICES,
    PRIMARIES,
    TRANSFERS,
    fill_in,
    is_complete,
    sd_or_hd,
    tags_from_codes,
)

UNTAGGED = ColourTags()


@pytest.mark.parametrize("table", [PRIMARIES, TRANSFERS, MATRICES])
def test_names_and_codes_are_one_to_one(table):
    assert len(set(table.values())) == len(table)


def test_codes_are_those_of_the_library():
    assert PRIMARIES["bt2020"] == av.video.reformatter.ColorPrimaries.BT2020
    assert PRIMARIES["ebu3213"] == av.video.reformatter.ColorPrimaries.EBU3213
    assert TRANSFERS["smpte2084"] == av.video.reformatter.ColorTrc.SMPTE2084
    assert TRANSFERS["arib-std-b67"] == av.video.reformatter.ColorTrc.ARIB_STD_B67
    assert TRANSFERS["iec61966-2-1"] == av.video.reformatter.ColorTrc.IEC61966_2_1


def test_codes_without_a_meaning_are_unknown():
    tags = tags_from_codes(primaries=3, transfer=0, matrix=255, colour_range=0)
    assert tags == ColourTags()


@pytest.mark.parametrize(
    ("size", "matrix"),
    [
        ((720, 480), "smpte170m"),
        ((720, 486), "smpte170m"),
        ((640, 360), "smpte170m"),
        ((480, 720), "smpte170m"),
        ((720, 576), "bt470bg"),
        ((352, 288), "bt470bg"),
        ((1024, 576), "bt470bg"),
        ((1280, 720), "bt709"),
        ((720, 1280), "bt709"),
        ((1920, 1080), "bt709"),
        ((3840, 2160), "bt709"),
    ],
)
def test_untagged_video_follows_its_size(size, matrix):
    assert sd_or_hd(*size).matrix == matrix
    tags = fill_in(UNTAGGED, kind="video", width=size[0], height=size[1], is_rgb=False)
    assert tags.matrix == matrix
    assert is_complete(tags)


def test_what_is_tagged_is_never_changed():
    tags = ColourTags("smpte432", "smpte2084", "bt2020nc", True)
    assert fill_in(tags, kind="video", width=720, height=576, is_rgb=False) == tags


def test_a_single_tag_decides_the_rest():
    wide = fill_in(ColourTags(primaries="bt2020"), kind="video", width=720, height=480, is_rgb=False)
    assert (wide.matrix, wide.transfer) == ("bt2020nc", "bt2020-10")
    hd = fill_in(ColourTags(matrix="bt709"), kind="video", width=720, height=480, is_rgb=False)
    assert hd.primaries == "bt709"
    pal = fill_in(ColourTags(primaries="bt470bg"), kind="video", width=1920, height=1080, is_rgb=False)
    assert pal.matrix == "bt470bg"


def test_images_and_rgb_are_srgb():
    jpeg = fill_in(ColourTags(matrix="bt470bg", full_range=True), kind="image", width=4000, height=3000, is_rgb=False)
    assert jpeg == ColourTags("bt709", "iec61966-2-1", "bt470bg", True)
    png = fill_in(UNTAGGED, kind="image", width=64, height=64, is_rgb=True)
    assert png == ColourTags("bt709", "iec61966-2-1", "rgb", True)


def test_an_rgb_matrix_on_luma_and_chroma_is_not_believed():
    assert fill_in(ColourTags(matrix="rgb"), kind="video", width=1920, height=1080, is_rgb=False).matrix == "bt709"
