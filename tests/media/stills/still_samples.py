"""Small still images of every kind that is read, as bytes, each with the picture that it holds."""

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from PIL import Image

from seedvr2_ray.media.stills.exif import Exif, Field, directories_at, read_exif

HEIGHT, WIDTH = 24, 32

_x, _y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
_picture = np.dstack([_x, _y, 1 - _x])
RGB8 = np.round(_picture * 255).astype(np.uint8)
RGB16 = np.round(_picture * 65535).astype(np.uint16)
RGBA8 = np.dstack([RGB8, np.linspace(1, 254, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)])
RGBA16 = np.dstack([RGB16, np.full((HEIGHT, WIDTH), 30000, np.uint16)])
GREY8 = np.ascontiguousarray(RGB8[..., 0])
GREY16 = np.ascontiguousarray(RGB16[..., 0])
BITS = np.where(_x + 0.6 * _y > 0.8, 255, 0).astype(np.uint8)
CODES12 = RGB16 >> 4
RGB12 = np.round(CODES12.astype(np.float64) * 65535 / 4095).astype(np.uint16)

_PALETTED = Image.fromarray(RGB8).quantize(64)
PALETTE8 = np.asarray(_PALETTED.convert("RGB"))


def pillow(picture: Any, kind: str, **options: Any) -> bytes:
    """Write a picture by Pillow."""
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(picture: Any, **options: Any) -> bytes:
    """Write a picture by tifffile."""
    file = io.BytesIO()
    tifffile.imwrite(file, picture, **({"photometric": "rgb"} | options))
    return file.getvalue()


def heic(picture: Any, mode: str = "RGB") -> bytes:
    """Write a picture without loss by libheif."""
    file = io.BytesIO()
    pillow_heif.from_bytes(mode=mode, size=(WIDTH, HEIGHT), data=picture.tobytes()).save(
        file, quality=-1, chroma=444, matrix_coefficients=0, full_range_flag=1
    )
    return file.getvalue()


def dpx(picture: Any, pixel_format: str) -> bytes:
    """Write a picture by libav's DPX encoder."""
    encoder = av.CodecContext.create("dpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = WIDTH, HEIGHT, pixel_format, Fraction(1)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.dtype == np.uint8 else "rgb48le")
    return b"".join(map(bytes, [*encoder.encode(frame.reformat(format=pixel_format)), *encoder.encode(None)]))


def _cmyk() -> Image.Image:
    return Image.fromarray(RGB8).convert("CMYK")


def _reversed_bits() -> bytes:
    """A fax as scanners write it: each byte's bits the other way round (FillOrder 2)."""
    packed = np.packbits(BITS > 127, axis=1)
    turned = np.packbits(np.unpackbits(packed, axis=1).reshape(-1, 8)[:, ::-1]).tobytes()
    image = tiff(BITS > 127, photometric="minisblack")
    at = image.index(packed.tobytes())
    assert turned != packed.tobytes()
    image = image[:at] + turned + image[at + len(turned) :]
    fields = {**read_exif(io.BytesIO(image)).image, 266: Field(3, 1, b"\2\0")}
    image += bytes(len(image) % 2)
    return image[:4] + struct.pack("<I", len(image)) + image[8:] + directories_at(Exif(fields), len(image))


def _psd() -> bytes:
    """A Photoshop document of one flat picture, by Adobe's specification: header, three empty sections, planes."""
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, HEIGHT, WIDTH, 8, 3)
    return header + bytes(12) + b"\0\0" + np.moveaxis(RGB8, -1, 0).tobytes()


EXACT: dict[str, tuple[Callable[[], bytes], Any]] = {
    "png": (lambda: pillow(RGB8, "PNG"), RGB8),
    "png of 16 bits": (lambda: imagecodecs.png_encode(RGB16), RGB16),
    "png grey of 16 bits": (lambda: imagecodecs.png_encode(GREY16), GREY16),
    "png of 16 bits with alpha": (lambda: imagecodecs.png_encode(RGBA16), RGBA16),
    "png with alpha": (lambda: pillow(RGBA8, "PNG"), RGBA8),
    "png with a palette": (lambda: pillow(_PALETTED, "PNG"), PALETTE8),
    "png of one bit": (lambda: pillow(Image.fromarray(BITS).convert("1"), "PNG"), BITS),
    "webp": (lambda: pillow(RGB8, "WEBP", lossless=True), RGB8),
    "webp with alpha": (lambda: pillow(RGBA8, "WEBP", lossless=True), RGBA8),
    "bmp": (lambda: pillow(RGB8, "BMP"), RGB8),
    "bmp with a palette": (lambda: pillow(_PALETTED, "BMP"), PALETTE8),
    "bmp of one bit": (lambda: pillow(Image.fromarray(BITS).convert("1"), "BMP"), BITS),
    "tga": (lambda: pillow(RGB8, "TGA"), RGB8),
    "tga run-length coded": (lambda: pillow(RGB8, "TGA", compression="tga_rle"), RGB8),
    "tga with alpha": (lambda: pillow(RGBA8, "TGA"), RGBA8),
    "ico": (lambda: pillow(RGBA8, "ICO", sizes=[(WIDTH, HEIGHT)]), RGBA8),
    "pcx": (lambda: pillow(RGB8, "PCX"), RGB8),
    "dds": (lambda: pillow(RGB8, "DDS"), RGB8),
    "sgi": (lambda: pillow(RGB8, "SGI"), RGB8),
    "qoi": (lambda: pillow(RGB8, "QOI"), RGB8),
    "psd": (_psd, RGB8),
    "ppm": (lambda: pillow(RGB8, "PPM"), RGB8),
    "ppm of 16 bits": (lambda: b"P6\n# deep\n32 24 65535\n" + RGB16.astype(">u2").tobytes(), RGB16),
    "ppm of 12 bits": (lambda: b"P6 32 24 4095\n" + CODES12.astype(">u2").tobytes(), RGB12),
    "pgm in text": (lambda: b"P2 32 24 255\n" + b" ".join(b"%d" % code for code in GREY8.ravel()), GREY8),
    "pbm": (lambda: b"P4 32 24\n" + np.packbits(BITS == 0, axis=1).tobytes(), BITS),
    "pbm in text": (lambda: b"P1 32 24\n" + b"".join(b"%d" % bit for bit in (BITS == 0).ravel()), BITS),
    "pam with alpha": (
        lambda: b"P7\nWIDTH 32\nHEIGHT 24\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + RGBA8.tobytes(),
        RGBA8,
    ),
    "jpeg 2000": (lambda: imagecodecs.jpeg2k_encode(RGB8, codecformat="jp2"), RGB8),
    "jpeg 2000 of 16 bits": (lambda: imagecodecs.jpeg2k_encode(RGB16, codecformat="jp2"), RGB16),
    "jpeg 2000 of 12 bits": (lambda: imagecodecs.jpeg2k_encode(CODES12, codecformat="jp2", bitspersample=12), RGB12),
    "jpeg 2000 grey": (lambda: imagecodecs.jpeg2k_encode(GREY16, codecformat="jp2"), GREY16),
    "jpeg 2000 bare": (lambda: imagecodecs.jpeg2k_encode(RGB16, codecformat="j2k"), RGB16),
    "jpeg xl": (lambda: imagecodecs.jpegxl_encode(RGB8, lossless=True), RGB8),
    "jpeg xl of 16 bits": (lambda: imagecodecs.jpegxl_encode(RGB16, lossless=True), RGB16),
    "jpeg xl with alpha": (lambda: imagecodecs.jpegxl_encode(RGBA8, lossless=True), RGBA8),
    "avif": (lambda: imagecodecs.avif_encode(RGB8, level=100), RGB8),
    "dpx": (lambda: dpx(RGB8, "rgb24"), RGB8),
    "dpx of 16 bits": (lambda: dpx(RGB16, "rgb48be"), RGB16),
    "tiff": (lambda: tiff(RGB8), RGB8),
    "tiff tiled": (lambda: tiff(RGB8, tile=(16, 16)), RGB8),
    "tiff of 16 bits, tiled, deflate": (
        lambda: tiff(RGB16, tile=(16, 16), compression="deflate", predictor=True),
        RGB16,
    ),
    "tiff lzw": (lambda: tiff(RGB8, compression="lzw", predictor=True), RGB8),
    "tiff lzma": (lambda: tiff(RGB8, compression="lzma"), RGB8),
    "tiff zstd": (lambda: tiff(RGB8, compression="zstd"), RGB8),
    "tiff packbits": (lambda: tiff(RGB8, compression="packbits"), RGB8),
    "tiff webp": (lambda: tiff(RGB8, compression="webp", compressionargs={"lossless": True}), RGB8),
    "tiff jpeg 2000": (lambda: tiff(RGB8, compression="jpeg2000"), RGB8),
    "tiff jpeg xl": (lambda: tiff(RGB8, compression="jpegxl"), RGB8),
    "bigtiff": (lambda: tiff(RGB8, bigtiff=True), RGB8),
    "tiff big-endian of 16 bits": (lambda: tiff(RGB16, byteorder=">"), RGB16),
    "tiff planar, tiled": (
        lambda: tiff(np.moveaxis(RGB8, -1, 0), planarconfig="separate", tile=(16, 16)),
        RGB8,
    ),
    "tiff planar of 16 bits": (
        lambda: tiff(np.moveaxis(RGB16, -1, 0), planarconfig="separate", compression="lzw"),
        RGB16,
    ),
    "tiff grey of 16 bits": (lambda: tiff(GREY16, photometric="minisblack"), GREY16),
    "tiff white is zero": (lambda: tiff(255 - GREY8, photometric="miniswhite"), GREY8),
    "tiff of floating point": (lambda: tiff((RGB16 / 65535).astype(np.float32)), RGB16),
    "tiff of 32 bits": (lambda: tiff(RGB16.astype(np.uint32) << 16), RGB16),
    "tiff with alpha": (lambda: tiff(RGBA8, extrasamples=["unassalpha"]), RGBA8),
    "tiff with a palette": (lambda: pillow(_PALETTED, "TIFF"), PALETTE8),
    "tiff of one bit": (lambda: tiff(BITS > 127, photometric="minisblack"), BITS),
    "tiff of reversed bits": (_reversed_bits, BITS),
    "tiff fax group 3": (lambda: pillow(Image.fromarray(BITS).convert("1"), "TIFF", compression="group3"), BITS),
    "tiff fax group 4": (lambda: pillow(Image.fromarray(BITS).convert("1"), "TIFF", compression="group4"), BITS),
}
"""Kinds that lose nothing: how each is written, and the codes that must be read."""

CLOSE: dict[str, tuple[Callable[[], bytes], Any, float]] = {
    "jpeg": (lambda: pillow(RGB8, "JPEG", quality=98, subsampling=0), RGB8, 6),
    "jpeg progressive": (lambda: pillow(RGB8, "JPEG", quality=98, subsampling=0, progressive=True), RGB8, 6),
    "jpeg grey": (lambda: pillow(GREY8, "JPEG", quality=98), GREY8, 4),
    "jpeg cmyk": (lambda: pillow(_cmyk(), "JPEG", quality=98), RGB8, 8),
    "tiff jpeg": (lambda: pillow(RGB8, "TIFF", compression="jpeg", quality=98), RGB8, 8),
    "tiff luma and chroma": (lambda: pillow(Image.fromarray(RGB8).convert("YCbCr"), "TIFF"), RGB8, 4),
    "tiff cmyk": (lambda: pillow(_cmyk(), "TIFF"), RGB8, 1),
    "tiff cmyk jpeg": (lambda: pillow(_cmyk(), "TIFF", compression="jpeg", quality=98), RGB8, 8),
    "tiff of half floats": (lambda: tiff((RGB16 / 65535).astype(np.float16)), RGB16, 0.2),
    "heic": (lambda: heic(RGB8), RGB8, 2),
    "heic of 10 bits": (lambda: heic(RGB16, "RGB;16"), RGB16, 1),
    "avif of 10 bits": (lambda: imagecodecs.avif_encode(RGB16 >> 6, level=100, bitspersample=10), RGB16, 1),
    "avif of 12 bits": (lambda: imagecodecs.avif_encode(RGB16 >> 4, level=100, bitspersample=12), RGB16, 1),
    "dpx of 10 bits": (lambda: dpx(RGB8, "gbrp10be"), RGB8, 1),
}
"""Kinds that lose a little, with the largest difference allowed in codes of 8 bits."""


def samples_of(frame: av.VideoFrame) -> Any:
    """Return a still's planar frame as height x width x channels in R'G'B'(A) order, or height x width for grey."""
    dtype = np.uint16 if "16" in frame.format.name else np.uint8
    planes = [
        np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : frame.width] for plane in frame.planes
    ]
    return planes[0] if len(planes) == 1 else np.dstack([planes[2], planes[0], planes[1], *planes[3:]])
