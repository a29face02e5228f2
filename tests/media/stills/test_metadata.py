"""Laws of what stands beside a picture: it goes with the restored one, put right, or its loss is said."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from seedvr2_ray.media.stills.embedding import embed
from seedvr2_ray.media.stills.exif import Exif, Field, read_exif, resolution_fields, write_exif
from seedvr2_ray.media.stills.raster import StillTags
from seedvr2_ray.media.stills.reader import read_still, read_tags
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.settings import RestoreSettings
from tests.media.stills.still_samples import GREY8, HEIGHT, RGB8, RGB16, WIDTH, pillow, samples_of

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = imagecodecs.cms_profile(
    "rgb", whitepoint=(0.3127, 0.3290, 1.0), primaries=(0.68, 0.32, 1, 0.265, 0.69, 1, 0.15, 0.06, 1), gamma=2.2
)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="A dog"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x78\x00\x05Hello"
MAKE, MODEL, ORIENTATION, DATE, COPYRIGHT, MAKER_NOTE = 0x010F, 0x0110, 0x0112, 0x9003, 0x8298, 0x927C


def photo_exif(orientation=1):
    exif = Image.Exif()
    exif[MAKE], exif[MODEL], exif[COPYRIGHT], exif[ORIENTATION] = "Scanner", "Reel", "(c) Archive", orientation
    exif.get_ifd(0x8769).update({DATE: "1972:05:01 10:00:00", MAKER_NOTE: b"secret numbers", 0xA002: WIDTH})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 14.25)})
    return exif


def photo(kind):
    if kind == "TIFF":  # Pillow leaves the further directories out of one.
        tags = StillTags(icc=WIDE, exif=photo_exif().tobytes().removeprefix(b"Exif\0\0"), dpi=(600.0, 600.0))
        return embed("tiff", pillow(RGB8, "TIFF"), tags, (WIDTH, HEIGHT))[0]
    exif = photo_exif()
    if kind == "WEBP":
        exif[0x011A], exif[0x011B], exif[0x0128] = 600, 600, 2
        return pillow(RGB8, kind, icc_profile=WIDE, exif=exif, lossless=True)
    return pillow(RGB8, kind, icc_profile=WIDE, exif=exif, dpi=(600, 600))


def restore(source, target, *, resolution="x2", **settings):
    restorer = LanczosRestorer()
    wanted = RestoreSettings(model="lanczos", resolution=resolution, **settings)
    finished = restore_video(str(source), str(target), wanted, restorer.identity, lambda: restorer, report=False)
    return {(notice.outcome, notice.subject): notice.reason for notice in finished.assembly.notices}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("target", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_profile_exif_and_resolution_of_a_photo_come_out_again(source, target, tmp_path):
    (tmp_path / "in").write_bytes(photo(source))
    said = restore(tmp_path / "in", tmp_path / target)
    assert {("kept", "colour profile"), ("kept", "EXIF"), ("kept", "print resolution")} <= said.keys()
    with Image.open(tmp_path / target) as image:
        image.load()
        assert image.size == (2 * WIDTH, 2 * HEIGHT)
        assert image.info["icc_profile"] == WIDE
        exif = image.getexif()
        assert (exif[MAKE], exif[MODEL], exif[COPYRIGHT], exif[ORIENTATION]) == ("Scanner", "Reel", "(c) Archive", 1)
        assert exif.get_ifd(0x8769)[DATE] == "1972:05:01 10:00:00"
        assert exif.get_ifd(0x8769)[MAKER_NOTE] == b"secret numbers"
        assert 0xA002 not in exif.get_ifd(0x8769)
        assert exif.get_ifd(0x8825)[2] == (48.0, 8.0, 14.25)
        density = image.info.get("dpi") or (exif[0x011A], exif[0x011B])
        assert [round(float(number)) for number in density] == [600, 600]


@pytest.mark.parametrize("target", ["a.png", "a.tif"])
def test_adding_what_describes_a_picture_changes_no_sample_of_16_bits(target, tmp_path):
    (tmp_path / "in.png").write_bytes(imagecodecs.png_encode(RGB16))
    plain = tmp_path / f"plain{Path(target).suffix}"
    restore(tmp_path / "in.png", plain, resolution="x1")
    tags = StillTags(icc=WIDE, exif=photo_exif().tobytes().removeprefix(b"Exif\0\0"), xmp=XMP, dpi=(300.0, 300.0))
    container = {".png": "png", ".tif": "tiff"}[plain.suffix]
    full, _ = embed(container, plain.read_bytes(), tags, (WIDTH, HEIGHT))
    (tmp_path / target).write_bytes(full)
    assert np.array_equal(samples_of(read_still(str(tmp_path / target)).frame), RGB16)
    found = read_tags(str(tmp_path / target))
    assert found.icc == WIDE and found.dpi is not None and round(found.dpi[0]) == 300


@pytest.mark.parametrize("target", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_xmp_goes_along_and_says_that_the_picture_is_upright(target, tmp_path):
    (tmp_path / "in.jpg").write_bytes(pillow(RGB8, "JPEG", xmp=XMP, exif=photo_exif(orientation=6)))
    assert ("kept", "XMP") in restore(tmp_path / "in.jpg", tmp_path / target)
    tags = read_tags(str(tmp_path / target))
    assert tags.xmp is not None and b'tiff:Orientation="1"' in tags.xmp and b"A dog" in tags.xmp
    assert tags.orientation == 1
    with Image.open(tmp_path / target) as image:
        assert image.size == (2 * HEIGHT, 2 * WIDTH)


@pytest.mark.parametrize(("target", "outcome"), [("a.jpg", "kept"), ("a.tif", "kept"), ("a.png", "left_out")])
def test_iptc_is_kept_where_there_is_a_place_for_it(target, outcome, tmp_path):
    resource = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    plain = pillow(RGB8, "JPEG")
    segment = b"\xff\xed" + struct.pack(">H", len(resource) + 2) + resource
    (tmp_path / "in.jpg").write_bytes(plain[:2] + segment + plain[2:])
    assert (outcome, "IPTC") in restore(tmp_path / "in.jpg", tmp_path / target)
    assert read_tags(str(tmp_path / target)).iptc == (IPTC if outcome == "kept" else None)


def test_a_png_with_a_profile_names_no_other_colours(tmp_path):
    (tmp_path / "in.png").write_bytes(pillow(RGB8, "PNG", icc_profile=WIDE))
    restore(tmp_path / "in.png", tmp_path / "out.png")
    data = (tmp_path / "out.png").read_bytes()
    assert b"iCCP" in data and not [name for name in (b"sRGB", b"gAMA", b"cHRM", b"cICP") if name in data[:400]]


def test_display_p3_by_code_points_gets_a_profile_that_every_format_can_hold(tmp_path):
    data = imagecodecs.avif_encode(RGB8, level=100)
    at = data.index(b"colrnclx") + 8
    (tmp_path / "in.avif").write_bytes(data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :])
    assert ("kept", "colour profile") in restore(tmp_path / "in.avif", tmp_path / "out.tif")
    profile = read_tags(str(tmp_path / "out.tif")).icc
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    as_srgb = imagecodecs.cms_transform(
        red, profile, imagecodecs.cms_profile("srgb"), colorspace="rgb", outcolorspace="rgb", outdtype="float32"
    )
    assert as_srgb is not None and profile != WIDE


@pytest.mark.parametrize(("target", "said"), [("a.png", None), ("a.tif", "left_out")])
def test_hdr_codes_stay_and_are_tagged_where_there_is_a_place_for_it(target, said, tmp_path):
    data = imagecodecs.avif_encode(RGB16 >> 6, level=100, bitspersample=10)
    at = data.index(b"colrnclx") + 8
    (tmp_path / "in.avif").write_bytes(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :])
    outcomes = restore(tmp_path / "in.avif", tmp_path / target)
    assert ("kept", "HDR") in outcomes
    assert (("left_out", "colour tags") in outcomes) == (said == "left_out")
    assert read_tags(str(tmp_path / target)).code_points == (None if said else (9, 16))
    assert samples_of(read_still(str(tmp_path / target)).frame).dtype == np.uint16


@pytest.mark.parametrize(("gamma", "has_profile"), [(100000, True), (45455, False)])
def test_a_png_of_unusual_gamma_gets_a_profile_that_says_so(gamma, has_profile, tmp_path):
    data = pillow(RGB8, "PNG")
    body = b"gAMA" + gamma.to_bytes(4, "big")
    chunk = (4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    (tmp_path / "in.png").write_bytes(data[:33] + chunk + data[33:])
    restore(tmp_path / "in.png", tmp_path / "out.jpg")
    assert (read_tags(str(tmp_path / "out.jpg")).icc is not None) == has_profile


def test_what_was_converted_keeps_no_profile(tmp_path):
    grey = imagecodecs.cms_profile("gray", gamma=2.2)
    (tmp_path / "in.png").write_bytes(pillow(GREY8, "PNG", icc_profile=grey))
    assert ("converted", "colour profile") in restore(tmp_path / "in.png", tmp_path / "out.png")
    assert read_tags(str(tmp_path / "out.png")).icc is None


def test_a_long_profile_goes_into_a_jpeg_in_pieces(tmp_path):
    plain = pillow(RGB8, "JPEG")
    profile = SRGB + bytes(200_000)
    image, _ = embed("jpeg", plain, StillTags(icc=profile), (WIDTH, HEIGHT))
    assert Image.open(io.BytesIO(image)).info["icc_profile"] == profile


def test_what_does_not_fit_into_a_jpeg_is_said_to_be_left_out():
    tags = StillTags(xmp=b"x" * 70_000, exif=write_exif(Exif(exif={MAKER_NOTE: Field(7, 70_000, bytes(70_000))})))
    image, said = embed("jpeg", pillow(RGB8, "JPEG"), tags, (WIDTH, HEIGHT))
    assert {(n.outcome, n.subject) for n in said} == {("left_out", "XMP"), ("left_out", "EXIF maker note")}
    assert "exif" not in Image.open(io.BytesIO(image)).info


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_either_byte_order_is_read_and_written_as_the_same_values(order, tmp_path):
    file = io.BytesIO()
    tags = [(34853 - 1, "H", 3, (1, 2, 515), True), (MAKE, "s", 0, "Scanner", True)]
    tifffile.imwrite(file, GREY8, byteorder=order, extratags=tags, resolution=(300, 150))
    exif = read_exif(file)
    assert exif.image[34853 - 1].numbers() == (1, 2, 515)
    assert exif.dpi == (300.0, 150.0) or exif.dpi is None
    again = read_exif(io.BytesIO(write_exif(exif.described())))
    assert again.image == exif.described().image


def test_malformed_exif_is_passed_over():
    for data in (b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + bytes(30), b"nonsense" * 9):
        assert read_exif(io.BytesIO(data)).orientation == 1
    assert not Exif(image=resolution_fields((1.0, 1.0))).says_something()
