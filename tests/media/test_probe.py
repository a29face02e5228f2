"""Laws of the probe: what is true of a file is what it says, and bad files are refused in one line."""

import os
import zlib
from dataclasses import replace
from fractions import Fraction

import av
import pytest

from seedvr2_ray.errors import DamagedMediaError, MediaError
from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.probe import ProbeLimits, probe
from tests.media.clips import draw_frame, make_clip, make_image, to_pixel_format
from tests.media.damaged import cut_short


def outcomes(media):
    return {(notice.outcome, notice.subject) for notice in media.preflight}


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001), Fraction(25)])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_constant_rates_are_exact_in_every_container(tmp_path, rate, ending):
    make_clip(tmp_path / f"a.{ending}", rate=rate, bframes=2)
    video = probe(str(tmp_path / f"a.{ending}")).video
    assert video.frame_rate == rate
    assert not video.is_variable_rate


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "h264"), ("mkv", "h264"), ("webm", "vp9"), ("ts", "h264")])
def test_variable_rates_keep_every_time(tmp_path, ending, codec):
    times = [0, 40, 80, 200, 240, 333, *range(400, 700, 17)]
    bframes = 0 if codec == "vp9" else 2
    path = str(tmp_path / f"vfr.{ending}")
    clip = make_clip(path, codec=codec, pts=times, num_frames=len(times), time_base=Fraction(1, 1000), bframes=bframes)
    media = probe(path)
    assert media.video.is_variable_rate
    assert ("kept", "variable frame rate") in outcomes(media)
    start = media.frame_pts[0] * media.video.time_base
    assert [stamp * media.video.time_base - start for stamp in media.frame_pts] == [
        t - clip.times[0] for t in clip.times
    ]


@pytest.mark.parametrize(
    "colour",
    [
        ColourTags("bt709", "bt709", "bt709"),
        ColourTags("smpte170m", "smpte170m", "smpte170m"),
        ColourTags("bt470bg", "smpte170m", "bt470bg"),
        ColourTags("bt2020", "smpte2084", "bt2020nc"),
        ColourTags("bt2020", "arib-std-b67", "bt2020nc"),
        ColourTags("bt709", "bt709", "bt709", True),
    ],
)
def test_colour_tags_are_read_back(tmp_path, colour):
    make_clip(tmp_path / "a.mp4", codec="hevc", pixel_format="yuv420p10le", num_frames=4, colour=colour)
    media = probe(str(tmp_path / "a.mp4"))
    assert media.video.colour == colour
    assert not media.video.guessed_colour
    assert (("kept", "HDR") in outcomes(media)) == (colour.primaries == "bt2020")


def test_untagged_colour_is_guessed_and_said_so(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=4)
    media = probe(str(tmp_path / "a.mp4"))
    assert media.video.guessed_colour
    assert media.video.colour.matrix == "smpte170m"
    assert ("kept", "colour") in outcomes(media)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "depth", "chroma", "alpha"),
    [
        ("a.mp4", "h264", "yuv420p", 8, "420", False),
        ("a.mov", "prores", "yuv422p10le", 10, "422", False),
        ("b.mov", "prores", "yuva444p10le", 12, "444", True),
        ("a.mkv", "ffv1", "gray10le", 10, "grey", False),
        ("b.mkv", "ffv1", "gbrp12le", 12, "rgb", False),
        ("a.webm", "vp9", "yuva420p", 8, "420", True),
        ("b.mp4", "hevc", "yuv444p12le", 12, "444", False),
    ],
)
def test_depth_chroma_and_alpha_are_those_of_the_decoded_pictures(
    tmp_path, name, codec, pixel_format, depth, chroma, alpha
):
    make_clip(tmp_path / name, codec=codec, pixel_format=pixel_format, num_frames=3)
    video = probe(str(tmp_path / name)).video
    assert (video.bit_depth, video.chroma, video.has_alpha) == (depth, chroma, alpha)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_swaps_sides_and_pixel_shape(tmp_path, rotation):
    make_clip(tmp_path / "a.mp4", num_frames=3, rotation=rotation, sample_aspect=Fraction(16, 11))
    media = probe(str(tmp_path / "a.mp4"))
    assert media.video.rotation == rotation
    assert (media.video.width, media.video.height) == (96, 64)
    assert media.video.sample_aspect == (Fraction(11, 16) if rotation % 180 else Fraction(16, 11))
    assert {("converted", "rotation"), ("converted", "pixel aspect")} <= outcomes(media)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, (0, False)),
        (2, (0, True)),
        (3, (180, False)),
        (4, (180, True)),
        (5, (270, True)),
        (6, (90, False)),
        (7, (90, True)),
        (8, (270, False)),
    ],
)
def test_exif_orientations_are_turns_and_flips(tmp_path, orientation, turn):
    make_image(tmp_path / "a.jpg", codec="mjpeg", pixel_format="yuvj444p", orientation=orientation)
    media = probe(str(tmp_path / "a.jpg"))
    assert (media.video.rotation, media.video.mirrored) == turn
    assert (media.video.width, media.video.height) == (96, 64)
    assert media.kind == "image" and media.video.num_frames == 1


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "depth", "alpha"),
    [
        ("a.png", "png", "rgb24", 8, False),
        ("b.png", "png", "rgb48be", 16, False),
        ("c.png", "png", "gray16be", 16, False),
        ("d.png", "png", "rgba", 8, True),
        ("a.tiff", "tiff", "rgb48le", 16, False),
        ("a.webp", "libwebp", "bgra", 8, True),
        ("a.bmp", "bmp", "bgr24", 8, False),
        ("a%03d.jpg", "mjpeg", "yuvj420p", 8, False),
    ],
)
def test_images_are_recognised_by_content(tmp_path, name, codec, pixel_format, depth, alpha):
    make_image(tmp_path / "picture", codec=codec, pixel_format=pixel_format)
    os.rename(tmp_path / "picture", tmp_path / name)
    media = probe(str(tmp_path / name))
    assert media.kind == "image"
    assert (media.video.bit_depth, media.video.has_alpha) == (depth, alpha)
    assert media.frame_pts.tolist() == [0]


def test_sound_text_chapters_and_attachments_are_listed(tmp_path):
    make_clip(
        tmp_path / "a.mkv",
        audio_tracks=2,
        subtitles=["eng"],
        chapters=[(0, 0.5, "one"), (0.5, 1, "two")],
        attachments=[("font.ttf", "font/ttf", b"abc")],
        metadata={"title": "A film"},
    )
    media = probe(str(tmp_path / "a.mkv"))
    assert [(stream.kind, stream.codec, stream.language) for stream in media.streams] == [
        ("audio", "flac", "eng"),
        ("audio", "flac", "deu"),
        ("subtitle", "subrip", "eng"),
        ("attachment", "font/ttf", ""),
    ]
    assert [(chapter.start_seconds, chapter.title) for chapter in media.chapters] == [
        (0, "one"),
        (Fraction(1, 2), "two"),
    ]
    assert media.metadata["title"] == "A film"


def test_the_text_track_of_mp4_chapters_is_no_stream_of_its_own(tmp_path):
    make_clip(tmp_path / "a.mp4", audio_tracks=1, subtitles=["eng"], chapters=[(0, 1, "one")])
    media = probe(str(tmp_path / "a.mp4"))
    assert [stream.kind for stream in media.streams] == ["audio", "subtitle"]
    assert [chapter.title for chapter in media.chapters] == ["one"]


def test_cover_art_is_not_the_video(tmp_path):
    path = str(tmp_path / "a.mp4")
    with av.open(path, "w") as container:
        cover = container.add_stream("mjpeg", rate=1, width=32, height=32, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        video = container.add_stream("libx264", rate=24, width=96, height=64, pix_fmt="yuv420p")
        container.mux(cover.encode(to_pixel_format(draw_frame(0, (32, 32)), "yuvj420p", ColourTags(full_range=True))))
        for number in range(3):
            container.mux(video.encode(to_pixel_format(draw_frame(number, (96, 64)), "yuv420p", ColourTags())))
        container.mux(video.encode(None))
    media = probe(path)
    assert (media.video.width, media.video.codec) == (96, "h264")
    assert [stream.kind for stream in media.streams] == ["cover"]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.ts", "mpeg2")])
def test_interlaced_material_is_refused(tmp_path, name, codec):
    make_clip(tmp_path / name, codec=codec, interlaced=True)
    media = probe(str(tmp_path / name))
    assert media.video.field_order == "interlaced"
    assert ("refused", "interlacing") in outcomes(media)


def test_video_spread_over_interlaced_frames_is_recognised(tmp_path):
    """3:2 pulldown by hand: frames A A/B B/C C D of four video frames that move."""
    path = str(tmp_path / "a.mp4")
    video = [draw_frame(number * 3, (96, 64)) for number in range(24)]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001), width=96, height=64, pix_fmt="yuv420p")
        stream.codec_context.options = {"x264-params": "tff=1", "crf": "4"}
        for start in range(0, 24, 4):
            a, b, c, d = video[start : start + 4]
            for top, bottom in ((a, a), (a, b), (b, c), (c, c), (d, d)):
                woven = top.copy()
                woven[1::2] = bottom[1::2]
                container.mux(stream.encode(to_pixel_format(woven, "yuv420p", ColourTags())))
        container.mux(stream.encode(None))
    media = probe(path)
    assert media.video.field_order == "telecined"
    assert ("refused", "telecine") in outcomes(media)


def test_a_probe_survives_the_journey_to_another_process(tmp_path):
    import pickle

    make_clip(tmp_path / "a.mkv", num_frames=4)
    media = probe(str(tmp_path / "a.mkv"))
    assert pickle.loads(pickle.dumps(media)) == media


# Bad input: one clear line each.


def refused(path, pattern, error=MediaError, **kwargs):
    with pytest.raises(error, match=pattern) as caught:
        probe(str(path), **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_media_are_refused(tmp_path):
    refused(tmp_path / "missing.mp4", "does not exist")
    refused(tmp_path, "is a folder")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", "is empty")
    (tmp_path / "text.mp4").write_text("hello " * 300)
    refused(tmp_path / "text.mp4", "holds text")
    (tmp_path / "noise.mp4").write_bytes(bytes((i * 73 + 5) % 251 for i in range(5000)))
    refused(tmp_path / "noise.mp4", "no video or image")


def test_names_are_files_and_nothing_else(tmp_path, monkeypatch):
    make_clip(tmp_path / "a.ts", num_frames=3)
    monkeypatch.chdir(tmp_path)
    refused("concat:a.ts|a.ts", "does not exist")
    refused("http://127.0.0.1:9/a.mp4", "does not exist")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\na.ts\n#EXT-X-ENDLIST\n")
    refused("list.m3u8", "holds text")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.ts\n")
    refused("list.mp4", "holds text")


def test_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mka"), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=48000)
        frame = av.AudioFrame(format="s16", layout="stereo", samples=480)
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
    refused(tmp_path / "a.mka", "no pictures to restore: it holds only audio")


def test_a_video_without_frames_is_refused(tmp_path):
    for name, pattern in (("a.avi", "without a single frame"), ("a.mp4", "holds nothing")):
        with av.open(str(tmp_path / name), "w") as container:
            container.add_stream("mpeg4", rate=24, width=32, height=32, pix_fmt="yuv420p")
            container.start_encoding()
        refused(tmp_path / name, pattern)


def test_a_file_whose_index_is_gone_is_refused(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=12)
    refused(cut_short(tmp_path / "a.mp4", 0.7), "no moov box")


@pytest.mark.slow
def test_a_cut_file_is_refused_with_what_can_be_read_and_salvaged_on_request(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=48, container_options={"movflags": "faststart"})
    path = cut_short(tmp_path / "a.mp4", 0.6)
    message = refused(path, r"of 48 frames can be read", DamagedMediaError)
    assert "--salvage" in message
    media = probe(path, salvage=True)
    assert media.video.num_frames == 48
    assert media.damaged_frames[-1][1] == 48
    assert {("converted", "damaged frames"), ("left_out", "end of the file")} <= outcomes(media)


def test_absurd_sizes_are_refused_before_anything_is_decoded(tmp_path):
    header = b"\0\0\0\rIHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    checksum = zlib.crc32(header[4:]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + checksum + b"\0\0\0\0IDAT" + bytes(4))
    refused(tmp_path / "huge.png", "60000x60000 and the limit here is 16384x16384")
    make_clip(tmp_path / "a.mp4", num_frames=3)
    limits = replace(ProbeLimits(), max_pixels=96 * 64 - 1)
    refused(tmp_path / "a.mp4", "96x64 and the limit", limits=limits)
    refused(tmp_path / "a.mp4", "more than 2 frames", limits=replace(ProbeLimits(), max_frames=2))


def test_encrypted_files_are_refused(tmp_path):
    protection = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "ab" * 16, "encryption_kid": "cd" * 16}
    make_clip(tmp_path / "a.mp4", num_frames=6, container_options=protection)
    refused(tmp_path / "a.mp4", "encrypted")


def test_an_unknown_codec_is_refused(tmp_path):
    make_clip(tmp_path / "a.mkv", codec="ffv1", num_frames=3)
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(data.replace(b"V_FFV1", b"V_NEXT"))
    refused(tmp_path / "b.mkv", "codec that is not supported")


def test_animated_webp_is_refused_with_a_way_out(tmp_path):
    with av.open(str(tmp_path / "a.webp"), "w") as container:
        stream = container.add_stream("libwebp_anim", rate=10, width=32, height=32, pix_fmt="bgra")
        for number in range(3):
            container.mux(stream.encode(to_pixel_format(draw_frame(number, (32, 32)), "bgra", ColourTags())))
        container.mux(stream.encode(None))
    refused(tmp_path / "a.webp", "animated WebP")


def test_damage_prints_nothing(tmp_path, capfd):
    make_clip(tmp_path / "a.mp4", num_frames=24, container_options={"movflags": "faststart"})
    path = cut_short(tmp_path / "a.mp4", 0.6)
    capfd.readouterr()
    probe(path, salvage=True)
    assert capfd.readouterr() == ("", "")
