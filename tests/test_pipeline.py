"""From a file to its master, through everything: what goes in comes out, larger and otherwise the same.

The unmarked cases are one of each kind; the whole matrix is marked ``slow``.
"""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from seedvr2_ray.errors import InputError
from seedvr2_ray.frames import ColourTags, FrameSpan, to_unit_range
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.settings import RestoreSettings
from tests.media import clips
from tests.media.masters import payloads, video_times

pytestmark = pytest.mark.slow

NUM_FRAMES = 20
NTSC = Fraction(24000, 1001)
MILLISECOND = Fraction(1, 1000)
COARSE = (".mkv", ".webm")
"""Containers whose finest tick is a millisecond."""


def restore(source, target, *, report=False, **settings):
    """Restore with the cheapest encoder settings; segments are short, so that there are joins to see."""
    suffix = Path(target).suffix
    preset = "13" if suffix == ".webm" else "ultrafast" if suffix in (".mp4", ".mov", ".mkv") else "auto"
    defaults = {"model": "lanczos", "resolution": "x2", "segment_seconds": 0.5, "segment_overlap": 4, "preset": preset}
    chosen = RestoreSettings.from_mapping({**defaults, **settings})
    return restore_video(str(source), str(target), chosen, LANCZOS, LanczosRestorer, report=report)


def decoded(media):
    """Decode everything; return unit-range pictures one by one and the numbers written in them."""
    span = FrameSpan(0, tuple(media.frame_pts))
    frames = [rgb for batch in decode_span(media.path, media.video, span, batch_frames=8) for rgb in batch.data_TCHW]
    return [to_unit_range(rgb) for rgb in frames], [clips.read_frame_number(rgb) for rgb in frames]


def require_same_video(source, clip, target, *, colour_tolerance=0.02):
    """Hold a master to its source: frames, order, times, picture, sound, aspect."""
    before, after = probe(str(source)), probe(str(target))
    assert after.video.num_frames == before.video.num_frames == clip.num_frames
    old, old_numbers = decoded(before)
    new, new_numbers = decoded(after)
    assert new_numbers == old_numbers == list(range(clip.num_frames))
    require_same_times(source, clip, target)
    require_same_colours(old, new, colour_tolerance)
    assert abs(after.video.display_aspect / before.video.display_aspect - 1) < Fraction(1, 50)
    assert after.video.rotation == 0
    return before, after


def require_same_times(source, clip, target):
    written = video_times(str(target))
    coarse = MILLISECOND if Path(target).suffix in COARSE or Path(source).suffix in COARSE else Fraction(0)
    if Path(source).suffix == ".ts":
        coarse = Fraction(1, 90000)
    is_constant = len({later - earlier for earlier, later in itertools.pairwise(clip.times)}) == 1
    if Path(target).suffix in (".mp4", ".mov", ".avi") and is_constant:
        coarse = Fraction(0)  # A constant rate is put back on its exact grid.
    for got, want in zip(written, clip.times, strict=True):
        assert abs((got - written[0]) - (want - clip.times[0])) <= coarse


def require_same_colours(old, new, tolerance):
    """Large areas have the colours they had: whatever the tags say, they say it truthfully."""
    for before, after in zip(old[::6], new[::6], strict=True):
        pooled = [F.adaptive_avg_pool2d(picture[:3], (6, 6)) for picture in (before, after)]
        assert (pooled[0] - pooled[1]).abs().mean() < tolerance


def run_case(folder, suffix, target_suffix=None, settings=None, **clip_options):
    source = folder / f"in{suffix}"
    clip = clips.make_clip(source, num_frames=NUM_FRAMES, **clip_options)
    target = folder / f"out{target_suffix or suffix}"
    finished = restore(source, target, **(settings or {}))
    before, after = require_same_video(source, clip, target)
    return source, target, before, after, finished


CONTAINERS = {
    ".mp4": ("h264", "hevc", "vp9", "av1", "mpeg2", "mpeg4", "mjpeg"),
    ".mov": ("h264", "hevc", "mpeg2", "mpeg4", "prores", "mjpeg"),
    ".mkv": ("h264", "hevc", "vp9", "av1", "mpeg2", "mpeg4", "prores", "ffv1", "mjpeg"),
    ".webm": ("vp9", "av1"),
    ".avi": ("h264", "mpeg4", "ffv1", "mjpeg"),
    ".ts": ("h264", "hevc", "mpeg2"),
}
PIXEL_FORMAT = {"prores": "yuv422p10le", "mjpeg": "yuvj420p"}
WRITTEN = {".ts": ".mp4"}
"""What the result is written to where the project does not write the source's container."""

QUICK = {(".mp4", "h264"), (".ts", "mpeg2")}


def marked(cases, quick):
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("suffix", "codec"), marked([(s, codec) for s, codecs in CONTAINERS.items() for codec in codecs], QUICK)
)
def test_every_container_and_codec_comes_out_frame_for_frame(suffix, codec, tmp_path):
    bframes = 2 if codec in ("h264", "hevc", "mpeg2") and suffix != ".avi" else 0
    source, target, *_ = run_case(
        tmp_path,
        suffix,
        WRITTEN.get(suffix),
        codec=codec,
        pixel_format=PIXEL_FORMAT.get(codec, "yuv420p"),
        bframes=bframes,
        audio_tracks=1,
    )
    # MP4 says once what a transport stream repeats in a header of seven bytes before every AAC packet.
    header = 7 if suffix == ".ts" else 0
    sound = [[packet[header:] for packet in track] for track in payloads(str(source), "audio")]
    assert payloads(str(target), "audio") == sound


def depths(codec, *names):
    return [(codec, f"yuv{name}") for name in names]


EIGHT = ("420p", "422p", "444p")
TEN, TWELVE = (tuple(f"{name}{bits}le" for name in EIGHT) for bits in (10, 12))
DEPTHS = [
    *depths("h264", *EIGHT, *TEN),
    *depths("hevc", *EIGHT, *TEN, *TWELVE),
    *depths("vp9", *EIGHT),
    *depths("ffv1", *EIGHT, *TEN, *TWELVE),
    *depths("av1", "420p", "420p10le"),
    *depths("prores", "422p10le", "444p10le"),
    *depths("mpeg2", "420p", "422p"),
]


@pytest.mark.parametrize(("codec", "pixel_format"), marked(DEPTHS, set()))
def test_bits_and_chroma_are_kept_where_the_asked_codec_can(codec, pixel_format, tmp_path):
    name = "ffv1" if codec in ("ffv1", "vp9") else "hevc"
    _, _, before, after, _ = run_case(
        tmp_path,
        ".mkv",
        settings={"codec": name, **({"preset": "auto"} if name == "ffv1" else {})},
        codec=codec,
        pixel_format=pixel_format,
    )
    assert after.video.bit_depth >= before.video.bit_depth
    assert after.video.chroma == before.video.chroma


@pytest.mark.parametrize("suffix", marked([(".mp4",), (".mkv",), (".mov",)], {(".mp4",)}))
def test_every_time_of_a_variable_rate_is_kept(suffix, tmp_path):
    # Gaps of one to four ticks of 1/50 s, and a long still.
    gaps = [1, 2, 1, 4, 3, 1, 1, 2, 25, 1]
    ticks = list(itertools.accumulate([0, *(gaps * 2)[: NUM_FRAMES - 1]]))
    _, target, before, after, _ = run_case(
        tmp_path, suffix, pts=ticks, time_base=Fraction(1, 50), rate=50, audio_tracks=1
    )
    assert before.video.is_variable_rate and after.video.is_variable_rate
    written = video_times(str(target))
    assert [round((time - written[0]) * 50) for time in written] == ticks


@pytest.mark.parametrize(
    ("rate", "suffix"),
    marked(
        [
            (rate, suffix)
            for rate in (NTSC, Fraction(30000, 1001), Fraction(60000, 1001))
            for suffix in (".mp4", ".mkv", ".ts")
        ],
        {(NTSC, ".mp4")},
    ),
)
def test_rational_rates_stay_exact(rate, suffix, tmp_path):
    _, target, before, after, _ = run_case(tmp_path, suffix, ".mp4", rate=rate)
    assert before.video.frame_rate == after.video.frame_rate == rate
    steps = {later - earlier for earlier, later in itertools.pairwise(video_times(str(target)))}
    assert steps == {1 / rate}


@pytest.mark.parametrize("rotation", marked([(90,), (180,), (270,)], {(90,)}))
def test_rotation_is_applied_and_no_longer_asked_of_the_player(rotation, tmp_path):
    _, _, before, after, _ = run_case(tmp_path, ".mp4", rotation=rotation, size=(64, 96))
    assert before.video.rotation == rotation
    assert (after.video.width, after.video.height) == (128, 192)


@pytest.mark.parametrize(
    ("aspect", "suffix"), marked([(Fraction(16, 11), ".mp4"), (Fraction(8, 9), ".mkv")], {(Fraction(16, 11), ".mp4")})
)
def test_oblong_pixels_become_square_and_the_picture_keeps_its_shape(aspect, suffix, tmp_path):
    _, _, before, after, _ = run_case(tmp_path, suffix, sample_aspect=aspect)
    assert before.video.sample_aspect == aspect
    assert after.video.sample_aspect == 1


@pytest.mark.parametrize(
    ("size", "codec", "pixel_format"),
    marked(
        [((97, 65), "ffv1", "yuv444p"), ((97, 65), "ffv1", "yuv420p"), ((98, 66), "h264", "yuv420p"),
         ((97, 65), "vp9", "yuv420p"), ((96, 65), "h264", "yuv444p")],
        {((97, 65), "vp9", "yuv420p")},
    ),
)  # fmt: skip
def test_odd_sizes_are_neither_cut_nor_refused(size, codec, pixel_format, tmp_path):
    _, _, _, after, _ = run_case(tmp_path, ".mkv", ".mp4", size=size, codec=codec, pixel_format=pixel_format)
    assert (after.video.width, after.video.height) == (2 * size[0], 2 * size[1])


SD = ColourTags("smpte170m", "smpte170m", "smpte170m")
PAL = ColourTags("bt470bg", "bt709", "bt470bg")
HD = ColourTags("bt709", "bt709", "bt709")
PQ = ColourTags("bt2020", "smpte2084", "bt2020nc")
HLG = ColourTags("bt2020", "arib-std-b67", "bt2020nc")
COLOURS = [
    ("sd", SD, "yuv420p"),
    ("pal", PAL, "yuv420p"),
    ("hd", HD, "yuv420p"),
    ("full", ColourTags("bt709", "bt709", "bt709", full_range=True), "yuv420p"),
    ("sd-full", ColourTags("smpte170m", "smpte170m", "smpte170m", full_range=True), "yuv444p"),
    ("pq", PQ, "yuv420p10le"),
    ("hlg", HLG, "yuv420p10le"),
]


@pytest.mark.parametrize(
    ("tags", "pixel_format", "suffix"),
    [
        pytest.param(
            tags,
            pixel_format,
            suffix,
            id=f"{name}{suffix}",
            marks=() if (name, suffix) == ("full", ".mp4") else pytest.mark.slow,
        )
        for name, tags, pixel_format in COLOURS
        for suffix in (".mp4", ".mkv")
    ],
)
def test_colour_tags_stay_and_stay_true(tags, pixel_format, suffix, tmp_path):
    codec = "hevc" if "10" in pixel_format else "h264"
    _, _, before, after, _ = run_case(tmp_path, suffix, codec=codec, pixel_format=pixel_format, colour=tags)
    assert before.video.colour == tags
    assert after.video.colour == tags
    assert not after.video.guessed_colour


@pytest.mark.slow
@pytest.mark.parametrize("tags", [SD, PAL])
def test_standard_definition_that_becomes_high_is_converted_and_tagged_so(tags, tmp_path):
    _, _, _, after, finished = run_case(tmp_path, ".mp4", settings={"resolution": "720p"}, colour=tags)
    assert after.video.colour.matrix == "bt709"
    assert after.video.colour.primaries == tags.primaries
    assert "colour matrix" in {notice.subject for notice in finished.assembly.notices}


@pytest.mark.parametrize("suffix", marked([(".mkv",), (".mp4",), (".mov",)], {(".mkv",)}))
def test_sound_text_chapters_and_attachments_are_copied(suffix, tmp_path):
    attachments = [("font.ttf", "application/x-truetype-font", bytes(range(256)))] if suffix == ".mkv" else []
    source, target, before, after, _ = run_case(
        tmp_path,
        suffix,
        audio_tracks=3,
        subtitles=("eng", "deu"),
        chapters=[(0, 0.4, "Morning"), (0.4, 0.8, "Evening")],
        attachments=attachments,
        metadata={"title": "A film"},
    )
    for kind in ("audio", "subtitle"):
        assert payloads(str(target), kind) == payloads(str(source), kind)
    assert described(after) == described(before)
    assert [chapter.title for chapter in after.chapters] == ["Morning", "Evening"]
    for copy, chapter in zip(after.chapters, before.chapters, strict=True):
        assert abs(copy.start_seconds - chapter.start_seconds) <= MILLISECOND
    assert after.metadata["title"] == "A film"
    if attachments:
        with av.open(str(target)) as container:
            assert [stream.data for stream in container.streams if stream.type == "attachment"] == [attachments[0][2]]


@pytest.mark.parametrize(
    ("suffix", "target_suffix"),
    marked([(".mkv", ".mp4"), (".mp4", ".mkv"), (".mkv", ".webm"), (".mkv", ".avi")], set()),
)
def test_whatever_a_container_cannot_hold_is_reported(suffix, target_suffix, tmp_path):
    _, _, before, after, finished = run_case(
        tmp_path,
        suffix,
        target_suffix,
        audio_tracks=2,
        subtitles=("eng",),
        chapters=[(0, 0.4, "Morning"), (0.4, 0.8, "Evening")],
        attachments=[("font.ttf", "application/x-truetype-font", b"abc")] if suffix == ".mkv" else [],
    )
    kept = [stream.kind for stream in after.streams]
    told = {n.subject: n.outcome for n in finished.assembly.notices}
    for stream in before.streams:
        outcome = told[f"{stream.kind} stream {stream.index}"]
        assert (outcome == "left_out") == (
            kept.count(stream.kind) < len([s for s in before.streams if s.kind == stream.kind])
        )
    assert (told["chapters"] == "left_out") == (not after.chapters)


@pytest.mark.parametrize(("suffix", "offset"), marked([(".mp4", 2), (".mkv", 1), (".ts", 5)], {(".mkv", 1)}))
def test_sound_stays_in_step_when_the_pictures_begin_late(suffix, offset, tmp_path):
    source, target, *_ = run_case(
        tmp_path, suffix, WRITTEN.get(suffix), start_offset=offset, audio_offset=Fraction(1, 4), audio_tracks=1
    )
    assert abs(_lead(source) - _lead(target)) <= MILLISECOND


def described(media):
    # QuickTime has its own codes for some languages.
    spelt = {"ger": "deu"}
    return [(stream.kind, stream.codec, spelt.get(stream.language, stream.language)) for stream in media.streams]


def _lead(path):
    """Seconds from the first picture to the first sound."""
    with av.open(str(path)) as container:
        first = {}
        for packet in container.demux(container.streams.video[0], container.streams.audio[0]):
            if packet.pts is not None:
                time = packet.pts * packet.time_base
                first[packet.stream.type] = min(time, first.get(packet.stream.type, time))
        return first["audio"] - first["video"]


@pytest.mark.parametrize("codec", marked([("h264",), ("hevc",), ("mpeg2",)], {("h264",)}))
def test_open_groups_of_pictures_lose_no_frame_at_a_segments_start(codec, tmp_path):
    run_case(tmp_path, ".mkv", codec=codec, bframes=2, gop=6, open_gop=True)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["h264", "mpeg2"])
def test_interlaced_material_is_merged_when_asked_to_and_the_report_shows_it(codec, tmp_path):
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    clips.make_clip(source, num_frames=NUM_FRAMES, codec=codec, interlaced=True)
    with pytest.raises(InputError, match="--deinterlace bwdif"):
        restore(source, target)
    finished = restore(source, target, deinterlace="bwdif", report=True)
    after = probe(str(target))
    assert after.video.field_order == "progressive"
    assert decoded(after)[1] == list(range(NUM_FRAMES))
    assert "interlacing" in Path(finished.report).read_text()


@pytest.mark.parametrize("name", marked([("out.mp4",), ("frames/",), ("picture.png",)], {("out.mp4",)}))
def test_a_report_lies_beside_the_result_and_shows_before_and_after(name, tmp_path):
    source = tmp_path / "in.mp4"
    clips.make_clip(source, num_frames=1 if name == "picture.png" else NUM_FRAMES, cuts=(8,))
    finished = restore(source, f"{tmp_path}/{name}", report=True)
    page = Path(finished.report).read_text()
    assert finished.report == f"{tmp_path}/{name.rstrip('/')}.html"
    assert page.count("data:image/") >= 2
    assert "lanczos" in page


@pytest.mark.slow
def test_a_sequence_of_images_holds_every_frame_and_tells_what_it_cannot_hold(tmp_path):
    source = tmp_path / "in.mkv"
    clips.make_clip(source, num_frames=NUM_FRAMES, audio_tracks=1, chapters=[(0, 0.4, "Morning")])
    finished = restore(source, tmp_path / "frame_%03d.png")
    images = sorted(tmp_path.glob("frame_*.png"))
    assert [decoded(probe(str(image)))[1] for image in images] == [[number] for number in range(NUM_FRAMES)]
    told = {notice.subject for notice in finished.assembly.notices if notice.outcome == "left_out"}
    assert told == {"audio stream 1", "chapters"}


IMAGES = [
    (".jpg", "mjpeg", "yuvj444p", 1),
    (".jpg", "mjpeg", "yuvj420p", 6),
    (".jpg", "mjpeg", "yuvj420p", 3),
    (".jpg", "mjpeg", "yuvj420p", 8),
    (".png", "png", "rgb24", 1),
    (".png", "png", "rgba", 1),
    (".png", "png", "rgb48be", 1),
    (".png", "png", "rgba64be", 1),
    (".png", "png", "gray", 1),
    (".png", "png", "gray16be", 1),
    (".webp", "libwebp", "bgra", 1),
    (".tiff", "tiff", "rgb24", 1),
    (".tiff", "tiff", "rgb48le", 1),
    (".bmp", "bmp", "bgr24", 1),
]


@pytest.mark.parametrize(("suffix", "codec", "pixel_format", "orientation"), marked(IMAGES, {IMAGES[1], IMAGES[8]}))
def test_images_keep_their_picture_depth_and_transparency(suffix, codec, pixel_format, orientation, tmp_path):
    source = tmp_path / f"in{suffix}"
    picture = clips.make_image(source, codec=codec, pixel_format=pixel_format, orientation=orientation)
    target = tmp_path / f"out{'.png' if suffix == '.bmp' else suffix}"
    restore(source, target)
    after = probe(str(target))
    (restored,), (number,) = decoded(after)
    assert number == 5
    assert tuple(restored.shape[1:]) == (128, 192)
    drawn = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    assert len(restored) == len(drawn)
    assert after.video.bit_depth == probe(str(source)).video.bit_depth
    require_same_colours([drawn], [restored], 0.02)
    if len(drawn) == 4:
        alpha = [F.adaptive_avg_pool2d(each[3:], (6, 6)) for each in (drawn, restored)]
        assert (alpha[0] - alpha[1]).abs().max() < 0.02


@pytest.mark.slow
def test_a_grey_photograph_stays_grey(tmp_path):
    picture = (clips.draw_frame(5, (96, 64))[..., 1] * 255).round().astype("uint8")
    Image.fromarray(picture).save(tmp_path / "in.jpg", quality=95)
    restore(tmp_path / "in.jpg", tmp_path / "out.jpg")
    (restored,), (number,) = decoded(probe(str(tmp_path / "out.jpg")))
    assert number == 5
    assert (restored - restored.mean(dim=0)).abs().max() < 0.02
    require_same_colours([torch.from_numpy(picture / 255).expand(3, -1, -1)], [restored], 0.02)
