from dataclasses import replace
from fractions import Fraction

import av
import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.codecs import CODECS
from seedvr2_ray.media.output.master import is_sequence, plan_master, sequence_name
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import HD, SD, a_source

PQ = ColourTags("bt2020", "smpte2084", "bt2020nc")
SRGB = ColourTags("bt709", "iec61966-2-1", "rgb", full_range=True)


def plan(target="out.mp4", *, media=None, width=1920, height=1080, **settings):
    return plan_master(media or a_source(), RestoreSettings(**settings), width=width, height=height, target=target)


@pytest.mark.parametrize(
    ("target", "bits", "encoder", "pixel_format"),
    [
        ("out.mp4", 8, "libx264", "yuv420p"),
        ("out.MKV", 8, "libx264", "yuv420p"),
        ("s3://bucket/out.mov", 10, "libx265", "yuv420p10le"),
        ("out.mp4", 12, "libx265", "yuv420p10le"),
        ("out.webm", 8, "libsvtav1", "yuv420p"),
        ("out.webm", 10, "libsvtav1", "yuv420p10le"),
        ("out.avi", 10, "ffv1", "yuv420p10le"),
        ("frames/", 8, "png", "bgr0"),
        ("frame_%06d.tiff", 10, "tiff", "gbrp16le"),
    ],
)
def test_codec_and_depth_follow_the_target_and_the_source(target, bits, encoder, pixel_format):
    master, _ = plan(target, media=a_source(bit_depth=bits))
    assert (master.codec, master.pixel_format) == (encoder, pixel_format)


@pytest.mark.parametrize("codec", CODECS)
def test_every_pixel_format_is_one_the_encoder_or_the_intermediate_takes(codec):
    facts = CODECS[codec]
    offered = {f.name for f in av.Codec(facts.encoder, "w").video_formats or ()}
    lossless = {f.name for f in av.Codec("ffv1", "w").video_formats or ()}
    is_image = codec in ("png", "tiff", "webp")
    assert set(facts.formats.values()) <= (lossless if is_image else offered & lossless)


@pytest.mark.parametrize(("codec", "container"), [("prores", "mp4"), ("h264", "webm"), ("av1", "avi"), ("png", "mkv")])
def test_an_impossible_pair_names_what_the_container_holds_and_where_the_codec_goes(codec, container):
    with pytest.raises(SettingsError) as caught:
        plan(f"out.{container}", codec=codec)
    assert all(home in str(caught.value) for home in (container, codec, *CODECS[codec].containers))


def test_hdr_stays_hdr_with_at_least_ten_bits():
    master, notices = plan("out.mp4", media=a_source(colour=PQ, bit_depth=8), height=2160, width=3840)
    assert master.pixel_format == "yuv420p10le"
    assert master.colour == PQ
    assert notices == ()
    with pytest.raises(SettingsError, match="10 bits"):
        plan("out.mp4", media=a_source(colour=PQ, bit_depth=10), codec="h264", bit_depth=8)


def test_an_sd_matrix_becomes_bt709_only_when_the_picture_becomes_hd():
    media = a_source(colour=SD)
    hd, notices = plan(media=media)
    assert hd.colour == ColourTags("smpte170m", "bt709", "bt709")
    assert [(notice.outcome, notice.subject) for notice in notices] == [("converted", "colour matrix")]
    sd, notices = plan(media=media, width=640, height=480)
    assert (sd.colour, notices) == (SD, ())
    assert hd.source_colour == replace(SD, matrix="rgb", full_range=True)


def test_full_range_is_kept_where_the_codec_can_tag_it():
    media = a_source(colour=replace(HD, full_range=True))
    assert plan(media=media)[0].colour.full_range
    master, notices = plan("out.mov", media=media, codec="prores")
    assert not master.colour.full_range
    assert [notice.subject for notice in notices] == ["colour range"]


def test_an_rgb_source_becomes_limited_range_video_and_full_range_images():
    media = a_source(colour=SRGB, chroma="rgb")
    assert plan(media=media)[0].colour == ColourTags("bt709", "iec61966-2-1", "bt709")
    assert plan("out_%d.png", media=media)[0].colour == SRGB
    assert plan("out_%d.jpg", media=media)[0].colour.matrix == "smpte170m"
    assert plan("out.mkv", media=media, codec="ffv1")[0].pixel_format == "bgr0"


@pytest.mark.parametrize(
    ("target", "codec", "pixel_format"),
    [
        ("out.mov", "prores4444", "yuva444p10le"),
        ("out.mkv", "ffv1", "yuva420p"),
        ("out_%d.png", "auto", "bgra"),
        ("out_%d.webp", "auto", "bgra"),
    ],
)
def test_alpha_is_kept_where_the_codec_can(target, codec, pixel_format):
    master, notices = plan(target, media=a_source(has_alpha=True), codec=codec)
    assert (master.pixel_format, master.has_alpha, notices) == (pixel_format, True, ())


def test_alpha_is_left_out_and_reported_where_the_codec_cannot():
    master, notices = plan(media=a_source(has_alpha=True))
    assert not master.has_alpha
    assert [(notice.outcome, notice.subject) for notice in notices] == [("left_out", "alpha")]


@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("auto", "yuv420p"), ("h264", "yuv444p"), ("hevc", "yuv444p"), ("ffv1", "yuv444p")]
)
def test_fine_chroma_is_kept_for_a_codec_asked_for_by_name(codec, pixel_format):
    master, notices = plan("out.mkv", media=a_source(chroma="444"), codec=codec)
    assert master.pixel_format == pixel_format
    assert [notice.subject for notice in notices] == (["chroma"] if codec == "auto" else [])


@pytest.mark.parametrize(
    ("width", "height", "codec"), [(1279, 720, "auto"), (1280, 719, "hevc"), (1279, 720, "prores")]
)
def test_an_odd_size_is_refused_where_chroma_is_subsampled(width, height, codec):
    with pytest.raises(SettingsError, match=f"{width}x{height}.*even"):
        plan("out.mov", width=width, height=height, codec=codec)
    assert plan("out.mkv", width=width, height=height, codec="ffv1")[0].width == width


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"codec": "h264", "bit_depth": 12}, "8 or 10 bits"),
        ({"codec": "h264", "crf": 60}, "0..51"),
        ({"codec": "hevc", "preset": "8"}, "ultrafast"),
        ({"codec": "prores", "container": "mov", "crf": 20}, "no crf"),
        ({"codec": "ffv1", "container": "mkv", "preset": "fast"}, "no presets"),
    ],
)
def test_impossible_quality_settings_name_the_limit(settings, words):
    with pytest.raises(SettingsError, match=words):
        plan(**settings)


@pytest.mark.parametrize(
    ("target", "media", "words"),
    [
        ("out.xyz", a_source(), r"\.mkv"),
        ("out.png", a_source(), "_%06d.png"),
        ("out.mp4", a_source(kind="image", pts=[0]), r"\.png"),
        (
            "out.avi",
            a_source(pts=(0, 33, 101, 160, 244), time_base=Fraction(1, 1000), is_variable_rate=True),
            "variable",
        ),
    ],
)
def test_an_impossible_target_names_the_way_out(target, media, words):
    with pytest.raises(SettingsError, match=words):
        plan(target, media=media)


def test_a_still_image_keeps_its_kind_and_depth():
    master, _ = plan("out.png", media=a_source(kind="image", pts=[0], bit_depth=16, chroma="rgb", colour=SRGB))
    assert (master.kind, master.pixel_format, master.working_depth) == ("image", "gbrp16le", 16)


def test_options_are_the_same_whatever_the_machine(monkeypatch):
    first = [plan("out.mkv", codec=codec)[0] for codec in ("h264", "hevc", "av1")]
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    assert [plan("out.mkv", codec=codec)[0] for codec in ("h264", "hevc", "av1")] == first
    assert "threads" in dict(first[0].options)
    assert "frame-threads" in dict(first[1].options)["x265-params"]


def test_names_in_a_sequence_follow_the_pattern_or_count_in_a_folder():
    assert sequence_name("a/shot_%04d.tif", "tiff", 12) == "shot_0012.tif"
    assert sequence_name("a/", "png", 3) == "frame_000003.png"


def test_time_base_and_rate_are_the_sources():
    media = a_source(time_base=Fraction(1, 90000), frame_rate=Fraction(30000, 1001))
    master, _ = plan(media=media)
    assert (master.time_base, master.frame_rate) == (Fraction(1, 90000), Fraction(30000, 1001))


@pytest.mark.parametrize("target", ["my%20dance.mp4", "100%discount.mp4", "out_%d.mp4", "out_%06d.mkv"])
def test_a_videos_name_is_a_name_whatever_it_holds(target):
    assert not is_sequence(target)
    master, _ = plan_master(a_source(), RestoreSettings(), width=96, height=64, target=target)
    assert master.kind == "video"


@pytest.mark.parametrize("target", ["my%20dog.png", "100%discount.png", "a_%06d.png", "a%5d.tif", "%d.jpg"])
def test_one_pictures_name_is_a_name_whatever_it_holds(target):
    source = a_source(kind="image", pts=[0], chroma="rgb", is_still=True)
    master, _ = plan_master(source, RestoreSettings(), width=96, height=64, target=target)
    assert master.kind == "image"


@pytest.mark.parametrize(("target", "is_pattern"), [("a_%06d.png", True), ("%d.jpg", True), ("my%20d.png", False)])
def test_only_the_usual_forms_before_an_images_ending_are_a_pattern(target, is_pattern):
    assert is_sequence(target) == is_pattern


def test_the_last_number_of_a_pattern_counts():
    assert sequence_name("my%dog_%04d.png", "png", 7) == "my%dog_0007.png"
