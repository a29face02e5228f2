"""Laws of decoding: exactly the frames that were asked for, with the right numbers in their pixels."""

import multiprocessing
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from seedvr2_ray.errors import DamagedMediaError, MediaError
from seedvr2_ray.frames import ColourTags, FrameSpan
from seedvr2_ray.media.info import VideoInfo
from seedvr2_ray.media.picture.colour import LUMA_WEIGHTS, MATRICES
from seedvr2_ray.media.picture.pixels import PixelReader
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span, decode_thumbnails
from tests.media.clips import make_clip, make_image, read_frame_number
from tests.media.damaged import cut_short, damage


def yuv_to_rgb_matrix(matrix):
    """Rows that turn (Y', Cb, Cr), with Y' in 0..1 and chroma in -0.5..0.5, into (R', G', B')."""
    kr, kb = LUMA_WEIGHTS[matrix]
    kg = 1.0 - kr - kb
    to_red, to_blue = 2.0 * (1.0 - kr), 2.0 * (1.0 - kb)
    return ((1.0, 0.0, to_red), (1.0, -to_blue * kb / kg, -to_red * kr / kg), (1.0, to_blue, 0.0))


def span_of(media, start=0, stop=None):
    stop = media.video.num_frames if stop is None else stop
    return FrameSpan(start, tuple(media.frame_pts[start:stop]))


def decode(media, start=0, stop=None, **kwargs):
    batches = list(decode_span(media.path, media.video, span_of(media, start, stop), **kwargs))
    return torch.cat([batch.data_TCHW for batch in batches])


def numbers(frames_TCHW):
    return [read_frame_number(frame_CHW) for frame_CHW in frames_TCHW]


def require_exact(path, expected, **kwargs):
    """The whole file and random stretches of it hold the frames they should."""
    media = probe(path)
    assert media.video.num_frames == len(expected)
    assert numbers(decode(media, **kwargs)) == expected
    for start, stop in ((len(expected) // 2, len(expected) // 2 + 3), (len(expected) - 1, len(expected)), (1, 2)):
        assert numbers(decode(media, start, stop, **kwargs)) == expected[start:stop]
    thumbnails = list(decode_thumbnails(path, media.video, media.frame_pts))
    assert [number for number, _ in thumbnails] == list(range(len(expected)))
    return media


QUICK = [
    ("a.mp4", {"bframes": 2}),
    ("open.mkv", {"codec": "hevc", "pixel_format": "yuv420p10le", "bframes": 2, "open_gop": True}),
    ("open.ts", {"codec": "mpeg2", "bframes": 2, "open_gop": True, "start_offset": 10}),
    ("b.avi", {"codec": "mpeg4", "bframes": 2}),
    ("a.webm", {"codec": "vp9", "size": (97, 65)}),
    ("av1.mkv", {"codec": "av1"}),
    ("a.mov", {"codec": "prores", "pixel_format": "yuv422p10le", "rotation": 90}),
    ("bare.h264", {"bframes": 2}),
    ("tiny.mpg", {"codec": "mpeg2", "rate": 25}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kwargs"), QUICK, ids=[name for name, _ in QUICK])
def test_any_stretch_holds_exactly_its_frames(tmp_path, name, kwargs):
    path = str(tmp_path / name)
    make_clip(path, **kwargs)
    require_exact(path, list(range(24)))


def test_frames_hidden_by_an_edit_list_do_not_exist(tmp_path):
    path = str(tmp_path / "edit.mp4")
    make_clip(path, bframes=2, start_offset=Fraction(-1, 4))
    require_exact(path, list(range(6, 24)))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_frames_come_out_upright(tmp_path, rotation, mirrored):
    path = str(tmp_path / "a.mp4")
    make_clip(path, num_frames=3, rotation=rotation, mirrored=mirrored)
    media = probe(path)
    assert (media.video.rotation, media.video.mirrored) == (rotation, mirrored)
    assert numbers(decode(media)) == [0, 1, 2]


PAIRS = {
    "mp4": ["h264", "hevc", "vp9", "av1", "mpeg2", "mpeg4"],
    "mov": ["h264", "hevc", "prores", "mjpeg", "mpeg4"],
    "mkv": ["h264", "hevc", "vp9", "av1", "mpeg2", "mpeg4", "prores", "ffv1", "mjpeg"],
    "webm": ["vp9", "av1"],
    "avi": ["h264", "mpeg2", "mpeg4", "ffv1", "mjpeg"],
    "ts": ["h264", "hevc", "mpeg2", "mpeg4"],
}
PIXEL_FORMATS = {
    "h264": ["yuv420p", "yuv422p10le", "yuv444p10le", "yuv422p"],
    "hevc": ["yuv420p", "yuv420p10le", "yuv422p12le", "yuv444p12le"],
    "vp9": ["yuv420p", "yuv422p", "yuv444p"],
    "av1": ["yuv420p", "yuv420p10le"],
    "mpeg2": ["yuv420p", "yuv422p"],
    "mpeg4": ["yuv420p"],
    "prores": ["yuv422p10le", "yuv444p10le", "yuva444p10le"],
    "ffv1": ["yuv420p", "yuv422p10le", "yuv444p12le", "yuv420p12le", "gbrp10le", "gray", "rgb48le"],
    "mjpeg": ["yuvj420p", "yuvj422p", "yuvj444p"],
}
REORDERED = [{}, {"bframes": 2}, {"bframes": 2, "open_gop": True}]
MATRIX = [
    (container, codec, pixel_format, order)
    for container, codecs in PAIRS.items()
    for codec in codecs
    for pixel_format in PIXEL_FORMATS[codec]
    for order in (REORDERED if codec in ("h264", "hevc", "mpeg2", "mpeg4") else REORDERED[:1])
]


@pytest.mark.slow
@pytest.mark.parametrize(("container", "codec", "pixel_format", "order"), MATRIX)
def test_every_container_codec_and_format_gives_exactly_its_frames(tmp_path, container, codec, pixel_format, order):
    path = str(tmp_path / f"a.{container}")
    make_clip(path, codec=codec, pixel_format=pixel_format, num_frames=20, **order)
    media = require_exact(path, list(range(20)))
    assert media.video.frame_rate == 24


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "mov"])
@pytest.mark.parametrize("kwargs", [{"rotation": 180}, {"rotation": 270}, {"start_offset": 10}, {"size": (98, 66)}])
def test_every_container_keeps_what_it_can_say(tmp_path, ending, kwargs):
    if ending == "ts" and "rotation" in kwargs:
        return  # MPEG-TS cannot say that a picture is to be turned.
    path = str(tmp_path / f"a.{ending}")
    make_clip(path, bframes=2, num_frames=20, audio_tracks=1, **kwargs)
    require_exact(path, list(range(20)))


def test_frames_come_in_batches_with_their_times(tmp_path):
    path = str(tmp_path / "a.mkv")
    make_clip(path)
    media = probe(path)
    batches = list(decode_span(path, media.video, span_of(media, 3, 13), batch_frames=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [stamp for batch in batches for stamp in batch.pts] == media.frame_pts[3:13].tolist()
    assert batches[0].data_TCHW.shape == (4, 3, 64, 96)
    assert batches[0].time_base == media.video.time_base
    assert all(batch.data_TCHW.is_contiguous() for batch in batches)


def decode_elsewhere(path, video, span):
    return [frame.sum().item() for batch in decode_span(path, video, span) for frame in batch.data_TCHW]


@pytest.mark.slow
def test_another_process_finds_the_same_frames(tmp_path):
    path = str(tmp_path / "a.mp4")
    make_clip(path, bframes=2)
    media = probe(path)
    arguments = (path, media.video, span_of(media, 9, 15))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(decode_elsewhere, arguments) == decode_elsewhere(*arguments)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_pixels_depend_neither_on_where_a_span_begins_nor_on_threads(tmp_path, num_threads):
    path = str(tmp_path / "a.mp4")
    make_clip(path, bframes=2, open_gop=True)
    media = probe(path)
    whole = decode(media, num_threads=1)
    pieces = [decode(media, start, start + 5, num_threads=num_threads) for start in range(0, 20, 5)]
    assert torch.equal(torch.cat(pieces), whole[:20])


# Numbers.


def video_info(pixel_format: str, chroma: str, bit_depth: int, colour: ColourTags, **kwargs) -> VideoInfo:
    facts = {
        "stream_index": 0,
        "codec": "rawvideo",
        "width": 32,
        "height": 16,
        "sample_aspect": Fraction(1),
        "rotation": 0,
        "mirrored": False,
        "has_alpha": False,
        "guessed_colour": False,
        "time_base": Fraction(1, 24),
        "frame_rate": Fraction(24),
        "is_variable_rate": False,
        "num_frames": 1,
        "field_order": "progressive",
    }
    return VideoInfo(
        **facts | {"pixel_format": pixel_format, "chroma": chroma, "bit_depth": bit_depth, "colour": colour} | kwargs
    )


def raw_frame(pixel_format: str, planes: list[np.ndarray]) -> av.VideoFrame:
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        row = plane.line_size // values.itemsize
        padded = np.zeros((plane.height, row), values.dtype)
        padded[:, : values.shape[1]] = values
        plane.update(padded.tobytes())
    return frame


def read(frame: av.VideoFrame, video: VideoInfo, depth: int) -> np.ndarray:
    reader = PixelReader(video, depth)
    target = np.empty((reader.num_channels, video.height, video.width), np.uint8 if depth == 8 else np.uint16)
    reader.write(frame, target)
    return target.astype(np.float64)


@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("bits", "depth"), [(8, 8), (8, 16), (10, 16), (12, 16), (16, 16)])
def test_colours_match_an_exact_computation(matrix, full_range, bits, depth):
    """Within half a code and rounding at 8 bits, and within 8 of 65535 above, black and white included."""
    rng = np.random.default_rng(bits)
    peak, unit, middle = (1 << bits) - 1, 1 << (bits - 8), 1 << (bits - 1)
    black, white = (0, peak) if full_range else (16 * unit, 235 * unit)
    luma = rng.integers(round(black + 0.2 * (white - black)), round(black + 0.8 * (white - black)), (16, 32))
    chroma = rng.integers(middle - 20 * unit, middle + 20 * unit, (2, 16, 32))
    luma[0, :2], chroma[:, 0, :2] = (black, white), middle
    dtype = np.uint8 if bits == 8 else np.uint16
    pixel_format = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    frame = raw_frame(pixel_format, [plane.astype(dtype) for plane in (luma, *chroma)])

    swing, chroma_swing = (peak, peak) if full_range else (219 * unit, 224 * unit)
    y, (cb, cr) = (luma - black) / swing, (chroma - middle) / chroma_swing
    exact = np.stack([row[0] * y + row[1] * cb + row[2] * cr for row in yuv_to_rgb_matrix(matrix)]).clip(0, 1)
    colour = ColourTags("bt709", "bt709", matrix, full_range)
    decoded = read(frame, video_info(pixel_format, "444", bits, colour), depth)
    error = np.abs(decoded - exact * ((1 << depth) - 1))
    assert error.max() <= (0.52 if depth == 8 else 8)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("bits", "depth"), [(8, 8), (10, 16), (16, 16)])
def test_grey_is_spread_over_its_range(full_range, bits, depth):
    peak, unit = (1 << bits) - 1, 1 << (bits - 8)
    black, white = (0, peak) if full_range else (16 * unit, 235 * unit)
    levels = np.linspace(black, white, 32).round().astype(np.uint8 if bits == 8 else np.uint16)
    pixel_format = "gray" if bits == 8 else f"gray{bits}le"
    frame = raw_frame(pixel_format, [np.broadcast_to(levels, (16, 32))])
    video = video_info(pixel_format, "grey", bits, ColourTags("bt709", "bt709", "bt709", full_range))
    decoded = read(frame, video, depth)
    exact = (levels.astype(float) - black) / (white - black) * ((1 << depth) - 1)
    assert np.abs(decoded - exact).max() <= (0.5 if depth == 8 else 1.01)
    assert (decoded[0] == decoded[1]).all() and (decoded[0] == decoded[2]).all()


@pytest.mark.parametrize(("bits", "worst"), [(10, 1), (12, 1), (16, 0)])
def test_rgb_codes_are_spread_without_loss(bits, worst):
    rng = np.random.default_rng(bits)
    peak = (1 << bits) - 1
    planes = rng.integers(0, peak + 1, (3, 16, 32)).astype(np.uint16)
    planes[:, 0, :2] = (0, peak)
    video = video_info(f"gbrp{bits}le", "rgb", bits, ColourTags("bt709", "bt709", "rgb", True))
    decoded = read(raw_frame(f"gbrp{bits}le", list(planes)), video, 16)
    exact = planes[[2, 0, 1]] * (65535 / peak)
    assert np.abs(decoded - exact).max() <= worst


def test_chroma_lies_where_the_file_puts_it():
    """4:2:0 of a smooth ramp comes back as the ramp, not shifted by half a pixel."""
    u = np.linspace(-0.2, 0.2, 64)
    luma = np.full((32, 64), 128, np.uint8)
    # Chroma samples beside every other luma sample, as in all video that does not say otherwise.
    chroma = (u[0::2] * 224 + 128).round().astype(np.uint8)
    frame = raw_frame("yuv420p", [luma, np.full((16, 32), 128, np.uint8), np.broadcast_to(chroma, (16, 32))])
    video = video_info("yuv420p", "420", 8, ColourTags("bt709", "bt709", "bt709"), width=64, height=32)
    red = read(frame, video, 8)[0]
    exact = ((128 - 16) / 219 + yuv_to_rgb_matrix("bt709")[0][2] * u) * 255
    assert np.abs(red - exact)[:, 4:-4].max() <= 1.6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_pictures_come_out_upright(tmp_path, orientation):
    path = str(tmp_path / "a.jpg")
    picture = make_image(path, codec="mjpeg", pixel_format="yuvj444p", orientation=orientation, size=(96, 48))
    frame = decode(probe(path))[0].numpy().transpose(1, 2, 0) / 255
    assert frame.shape == picture.shape
    assert np.abs(frame - picture).mean() < 0.02


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.png", "png", "rgb24"),
        ("b.png", "png", "rgb48be"),
        ("c.png", "png", "rgba64be"),
        ("d.png", "png", "gray"),
        ("e.png", "png", "gray16be"),
        ("f.png", "png", "ya8"),
        ("a.tiff", "tiff", "rgb48le"),
        ("b.tiff", "tiff", "gray16le"),
        ("a.webp", "libwebp", "bgra"),
        ("a.bmp", "bmp", "bgr24"),
    ],
)
def test_lossless_images_are_read_to_the_last_code(tmp_path, name, codec, pixel_format):
    picture = make_image(tmp_path / name, codec=codec, pixel_format=pixel_format, size=(97, 63))
    media = probe(str(tmp_path / name))
    frame = decode(media)[0]
    peak = 255 if frame.dtype == torch.uint8 else 65535
    assert (frame.dtype == torch.uint16) == ("16" in pixel_format or "48" in pixel_format or "64" in pixel_format)
    decoded = frame.numpy().transpose(1, 2, 0).astype(float) / peak
    assert decoded.shape == picture.shape
    assert np.abs(decoded - picture).max() <= 1.6 / peak


def test_palettes_become_colours(tmp_path):
    from PIL import Image

    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, 16:] = (200, 30, 90)
    Image.fromarray(picture).quantize(4).save(tmp_path / "a.png")
    frame = decode(probe(str(tmp_path / "a.png")))[0]
    assert np.array_equal(frame.numpy().transpose(1, 2, 0), picture)


def test_depth_can_be_chosen(tmp_path):
    path = str(tmp_path / "a.mkv")
    make_clip(path, codec="ffv1", pixel_format="yuv420p10le", num_frames=2)
    media = probe(path)
    deep, shallow = decode(media), decode(media, depth=8)
    assert (deep.dtype, shallow.dtype) == (torch.uint16, torch.uint8)
    difference = deep.to(torch.float32) / 257 - shallow.to(torch.float32)
    assert difference.abs().max() <= 1


# Interlacing.


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.ts", "mpeg2")])
def test_deinterlacing_keeps_the_number_of_frames_and_does_not_depend_on_spans(tmp_path, name, codec):
    path = str(tmp_path / name)
    make_clip(path, codec=codec, interlaced=True)
    media = probe(path)
    with pytest.raises(MediaError, match="--deinterlace bwdif"):
        decode(media)
    whole = decode(media, deinterlace="bwdif")
    assert numbers(whole) == list(range(24))
    pieces = [decode(media, start, start + 4, deinterlace="bwdif") for start in range(0, 24, 4)]
    assert torch.equal(torch.cat(pieces), whole)


def combing(frames_TCHW):
    """How much neighbouring rows differ more than rows two apart."""
    luma = frames_TCHW[:, 1, 34:].to(torch.float32)
    return (luma[:, 1:-1] * 2 - luma[:, :-2] - luma[:, 2:]).abs().mean().item()


def test_deinterlacing_removes_combs(tmp_path):
    path = str(tmp_path / "a.mp4")
    make_clip(path, interlaced=True)
    media = probe(path)
    video = media.video
    woven = torch.cat([b.data_TCHW for b in decode_span(path, replace_order(video), span_of(media))])
    assert combing(decode(media, deinterlace="bwdif")) < combing(woven) / 2


def replace_order(video):
    from dataclasses import replace

    return replace(video, field_order="progressive")


# Damage.


def test_missing_frames_are_named_and_salvage_repeats_the_last_good_one(tmp_path):
    path = str(tmp_path / "a.mp4")
    make_clip(path, num_frames=48, container_options={"movflags": "faststart"})
    media = probe(cut_short(path, 0.6), salvage=True)
    (first, _), *_ = media.damaged_frames
    with pytest.raises(DamagedMediaError, match=f"frames {first} to 47 cannot be decoded.*--salvage"):
        decode(media)
    missing = []
    frames = decode(media, salvage=True, on_missing=missing.append)
    assert missing == list(range(first, 48))
    assert numbers(frames) == [*range(first), *[first - 1] * (48 - first)]


def test_stand_ins_do_not_depend_on_spans(tmp_path):
    path = str(tmp_path / "a.mp4")
    make_clip(path, num_frames=48, bframes=2, container_options={"movflags": "faststart"})
    media = probe(damage(path, 0.5, 300), salvage=True)
    missing = []
    whole = decode(media, salvage=True, on_missing=missing.append)
    assert missing
    assert len(whole) == 48
    found = []
    for start in range(0, 48, 3):
        piece = decode(media, start, start + 3, salvage=True, on_missing=found.append)
        assert torch.equal(piece, whole[start : start + 3])
    assert found == missing


def test_damage_in_the_middle_is_found_while_looking_for_shots(tmp_path):
    path = str(tmp_path / "a.mkv")
    make_clip(path, num_frames=120, container_options={"write_crc32": "0"})
    media = probe(damage(path, 0.5, 300))
    with pytest.raises(DamagedMediaError, match="frame"):
        list(decode_thumbnails(media.path, media.video, media.frame_pts))
    missing = []
    thumbnails = decode_thumbnails(media.path, media.video, media.frame_pts, salvage=True, on_missing=missing.append)
    assert [number for number, _ in thumbnails] == list(range(media.video.num_frames))
    assert missing


def test_a_size_that_changes_where_no_header_tells_is_refused_while_looking_for_shots(tmp_path):
    make_clip(tmp_path / "a.ts", codec="mpeg4", num_frames=12)
    make_clip(tmp_path / "b.ts", codec="mpeg4", num_frames=12, size=(112, 64), start_offset=1)
    (tmp_path / "c.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    media = probe(str(tmp_path / "c.ts"))
    refusal = "changes its size from 96x64 to 112x64 at frame 12"
    with pytest.raises(MediaError, match=refusal):
        decode(media)
    with pytest.raises(MediaError, match=refusal):
        list(decode_thumbnails(media.path, media.video, media.frame_pts))


def test_decoding_damage_prints_nothing(tmp_path, capfd):
    make_clip(tmp_path / "a.mp4", num_frames=24, container_options={"movflags": "faststart"})
    media = probe(damage(tmp_path / "a.mp4", 0.5, 150), salvage=True)
    capfd.readouterr()
    decode(media, salvage=True)
    assert capfd.readouterr() == ("", "")


def test_thumbnails_are_small_and_keep_the_shape(tmp_path):
    make_clip(tmp_path / "a.mp4", size=(320, 180), num_frames=3)
    media = probe(str(tmp_path / "a.mp4"))
    _, picture = next(decode_thumbnails(media.path, media.video, media.frame_pts, width=64))
    assert picture.shape == (36, 64, 3)
    assert picture.dtype == np.uint8


def test_matrices_are_the_librarys():
    assert all(MATRICES[name] in (1, 4, 5, 6, 7, 9) for name in LUMA_WEIGHTS)
