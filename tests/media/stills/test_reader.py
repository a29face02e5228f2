"""Laws of still images: each kind gives its picture with all its bits, wholly or not at all."""

import random
import re
import subprocess
import sys
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from seedvr2_ray.errors import DamagedMediaError, MediaError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.container.still_kinds import StillKind, still_kind
from seedvr2_ray.media.probe import ProbeLimits, probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.media.stills.boxes import jpegxl_size
from seedvr2_ray.media.stills.reader import read_still
from tests.media.stills.heif_grid import COLOURS, TILE, grid_photo
from tests.media.stills.still_samples import CLOSE, EXACT, GREY8, HEIGHT, RGB8, RGBA8, WIDTH, pillow, samples_of, tiff

SALVAGEABLE = ("jpeg", "jpeg progressive", "jpeg grey", "jpeg cmyk")


def write(folder, data, name="picture"):
    (folder / name).write_bytes(data)
    return str(folder / name)


def notices(media):
    return {(notice.outcome, notice.subject) for notice in media.preflight}


@pytest.mark.parametrize("kind", EXACT)
def test_what_was_stored_without_loss_is_read_without_loss(kind, tmp_path):
    make, codes = EXACT[kind]
    path = write(tmp_path, make())
    media = probe(path)
    assert (media.kind, media.video.num_frames) == ("image", 1)
    assert (media.video.width, media.video.height) == (WIDTH, HEIGHT)
    assert media.video.bit_depth == 8 * codes.dtype.itemsize
    assert media.video.has_alpha == (codes.ndim == 3 and codes.shape[2] == 4)
    read = samples_of(read_still(path).frame)
    assert read.dtype == codes.dtype
    assert np.array_equal(read, codes)


@pytest.mark.parametrize("kind", CLOSE)
def test_what_was_stored_with_loss_comes_close(kind, tmp_path):
    make, codes, tolerance = CLOSE[kind]
    read = samples_of(read_still(write(tmp_path, make())).frame)
    unit = [array.astype(float) / np.iinfo(array.dtype).max for array in (read, codes)]
    assert np.abs(unit[0] - unit[1]).max() * 255 <= tolerance
    assert read.dtype.itemsize >= codes.dtype.itemsize


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("kind", [*EXACT, *CLOSE])
def test_a_still_that_is_cut_off_is_refused_and_prints_nothing(kind, share, tmp_path, capfd):
    whole = {**EXACT, **CLOSE}[kind][0]()
    path = write(tmp_path, whole[: int(len(whole) * share)])
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert "damaged" in str(caught.value) or "not read here" in str(caught.value)
    assert "moov" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", SALVAGEABLE)
def test_what_can_be_read_of_a_cut_photo_is_restored_on_request_and_counted_as_missing(kind, tmp_path):
    picture = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    mode = {"jpeg grey": "L", "jpeg cmyk": "CMYK"}.get(kind, "RGB")
    whole = pillow(Image.fromarray(picture).convert(mode), "JPEG", progressive=kind == "jpeg progressive")
    path = write(tmp_path, whole[: len(whole) * 3 // 4])
    with pytest.raises(DamagedMediaError, match="--salvage"):
        probe(path)
    media = probe(path, salvage=True)
    assert media.damaged_frames == ((0, 1),)
    missing = []
    (batch,) = decode_span(path, media.video, FrameSpan(0, (0,)), salvage=True, on_missing=missing.append)
    assert missing == [0] and batch.data_TCHW.shape[2:] == (240, 320)


def test_a_photo_that_ends_in_time_but_lacks_samples_is_damaged(tmp_path):
    """A marker at the cut hides it from readers that only look for the end."""
    whole = pillow(np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8), "JPEG")
    with pytest.raises(DamagedMediaError, match="damaged"):
        probe(write(tmp_path, whole[: len(whole) // 2] + b"\xff\xd9"))


def test_a_png_with_one_wrong_bit_is_damaged(tmp_path):
    data = bytearray(pillow(RGB8, "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(MediaError, match="checksum of its chunk IDAT"):
        probe(write(tmp_path, bytes(data)))


def test_a_tiff_whose_strips_are_not_there_is_damaged(tmp_path):
    with pytest.raises(MediaError, match="missing"):
        probe(write(tmp_path, tiff(RGB8, compression="lzw", rowsperstrip=4)[:-40] + b""))


@pytest.mark.parametrize("data", [b"v/1\x01" + bytes(40), b"#?RADIANCE\n", b"II*\0\x10\0\0\0CR\2\0" + bytes(40)])
def test_known_kinds_that_are_not_read_are_named_with_a_way_out(data, tmp_path):
    with pytest.raises(MediaError, match="not read here; convert it"):
        probe(write(tmp_path, data.replace(b"v/1\x01", b"\x76\x2f\x31\x01")))


def test_an_iso_file_without_a_picture_is_not_said_to_have_lost_its_index(tmp_path):
    box = (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"mif1heic" + (12).to_bytes(4, "big") + b"mdat" + bytes(4)
    with pytest.raises(MediaError) as caught:
        probe(write(tmp_path, box))
    assert "moov" not in str(caught.value)


def test_the_size_is_limited_before_anything_is_decoded(tmp_path):
    for kind, (make, _) in EXACT.items():
        path = write(tmp_path, make())
        with pytest.raises(MediaError, match=rf"{WIDTH}x{HEIGHT} and the limit"):
            probe(path, limits=replace(ProbeLimits(), max_pixels=WIDTH * HEIGHT - 1))
        assert probe(path).video.width == WIDTH, kind


def test_a_bomb_is_refused_by_its_header(tmp_path):
    header = b"IHDR" + (65000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    chunk = b"\0\0\0\r" + header + zlib.crc32(header).to_bytes(4, "big")
    with pytest.raises(MediaError, match="65000x65000 and the limit"):
        probe(write(tmp_path, b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\4IDAT" + bytes(8)))


@pytest.mark.slow
def test_a_large_picture_is_no_bomb_to_the_libraries(tmp_path):
    """Pillow's own limit warns at 89 megapixels, which warnings as errors would make an error here."""
    Image.new("1", (12000, 8000)).save(tmp_path / "a.png")
    assert probe(str(tmp_path / "a.png")).video.width == 12000


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (300, 7), (7, 300), (1000, 1000), (640, 480), (16, 9)])
def test_the_size_of_a_jpeg_xl_is_read_before_it_is_decoded(size):
    data = imagecodecs.jpegxl_encode(np.zeros((size[1], size[0], 3), np.uint8), effort=1)
    assert jpegxl_size(data) == size


def test_the_tiles_of_a_phones_photo_are_one_picture(tmp_path):
    path = write(tmp_path, grid_photo())
    media = probe(path)
    assert (media.video.width, media.video.height) == (2 * TILE, 2 * TILE)
    assert not [notice for notice in media.preflight if notice.outcome == "left_out"]
    read = samples_of(read_still(path).frame)
    corners = [read[y, x] for y in (TILE // 2, 3 * TILE // 2) for x in (TILE // 2, 3 * TILE // 2)]
    assert np.abs(np.array(corners, int) - np.array(COLOURS)).max() <= 3


def test_further_pages_are_said_to_be_left_out(tmp_path):
    page = Image.fromarray(GREY8)
    path = write(tmp_path, pillow(page, "TIFF", save_all=True, append_images=[page]))
    assert ("left_out", "further pages") in notices(probe(path))


def test_print_resolution_is_no_pixel_aspect(tmp_path):
    for kind in ("JPEG", "PNG", "TIFF"):
        for dpi in ((72, 144), (96, 72), (300, 1)):
            video = probe(write(tmp_path, pillow(RGB8, kind, dpi=dpi))).video
            assert (video.sample_aspect, video.width, video.height) == (1, WIDTH, HEIGHT)


def test_opaque_alpha_is_left_out_and_premultiplied_alpha_is_divided(tmp_path):
    opaque = np.dstack([RGB8, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    assert not probe(write(tmp_path, pillow(opaque, "PNG"))).video.has_alpha
    weight = RGBA8[..., 3:] / 255
    premultiplied = np.dstack([np.round(RGB8 * weight).astype(np.uint8), RGBA8[..., 3]])
    read = samples_of(read_still(write(tmp_path, tiff(premultiplied, extrasamples=["assocalpha"]))).frame)
    assert np.array_equal(read[..., 3], RGBA8[..., 3])
    off = np.abs(read[..., :3].astype(int) - RGB8) * weight
    assert off.max() <= 1


def test_ink_and_grey_are_converted_by_their_profile_and_say_so(tmp_path):
    grey = imagecodecs.cms_profile("gray", gamma=1.0)
    media = probe(write(tmp_path, pillow(GREY8, "PNG", icc_profile=grey)))
    assert ("converted", "colour profile") in notices(media)
    read = samples_of(read_still(str(tmp_path / "picture")).frame)
    light = GREY8 / 255
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(read - expected).max() <= 1.5


def test_lab_is_converted_by_its_definition(tmp_path):
    lab = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    lab[:] = (138, 81, 70)  # sRGB red: L 54.3, a 80.8, b 69.9
    path = write(tmp_path, tiff(lab, photometric="cielab"))
    red = samples_of(read_still(path).frame)[0, 0] / 257
    assert np.abs(red - (255, 0, 0)).max() < 4


def test_a_profile_that_does_not_fit_is_left_out_and_said_so(tmp_path):
    ink = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    ink[16:20] = b"CMYK"
    for profile in (bytes(ink), b"no profile at all" * 20):
        assert ("left_out", "colour profile") in notices(
            probe(write(tmp_path, pillow(RGB8, "PNG", icc_profile=profile)))
        )


def test_a_folder_is_refused_with_two_ways_out(tmp_path):
    with pytest.raises(MediaError, match="is a folder; .*'batch'.*ffmpeg"):
        probe(str(tmp_path))


@pytest.mark.slow
def test_the_libraries_for_stills_are_loaded_when_the_first_one_is_read():
    code = "import sys, seedvr2_ray.media.probe\nassert not {'PIL', 'tifffile'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_that_is_read_stands_in_the_documentation_and_is_tested():
    text = (Path(__file__).parents[3] / "docs" / "media.md").read_text()
    listed = re.findall(r"(?m)^\| `([a-z0-9]+)` \|", text)
    kinds_tested = {still_kind_of(make()) for make, *_ in [*EXACT.values(), *CLOSE.values()]}
    assert sorted(listed) == sorted(get_args(StillKind))
    assert kinds_tested == set(listed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*EXACT, *CLOSE])
def test_whatever_the_bytes_there_is_a_picture_or_one_sentence(kind, tmp_path, capfd):
    whole = {**EXACT, **CLOSE}[kind][0]()
    chance = random.Random(kind)
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(chance.choice((min(64, len(data)), len(data))))] = chance.randrange(256)
        try:
            probe(write(tmp_path, bytes(data)))
        except MediaError as error:
            assert "\n" not in str(error)
    assert capfd.readouterr().out == ""


def still_kind_of(data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return still_kind(file.name)
