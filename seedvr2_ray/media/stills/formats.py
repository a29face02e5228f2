"""Stills that need more than Pillow: all bits of deep PNG, JPEG 2000, AVIF, HEIC and JPEG XL, and JPEG's warnings."""

import os
import zlib
from dataclasses import replace
from typing import Any

import av
import numpy as np

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.info import Notice
from seedvr2_ray.media.stills.boxes import (
    Jpeg2000Header,
    jpegxl_metadata,
    jpegxl_size,
    read_code_points,
    read_jpeg2000_header,
)
from seedvr2_ray.media.stills.raster import (
    DAMAGED_PICTURE,
    FLOATS_ARE_CUT,
    Array,
    Raster,
    SizeCheck,
    StillTags,
    damaged_still,
    from_floats,
    salvageable_still,
    unsupported_still,
    wide,
)
from seedvr2_ray.media.stills.with_pillow import (
    DECODING_ERRORS,
    open_with_pillow,
    read_with_pillow,
    samples_of,
    tags_of,
)

_MOST_FILE_BYTES = 2 << 30
_SRGB_GAMMA, _SAME_GAMMA = 0.45455, 0.01
_SRGB_CHROMATICITY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_MOST_TEXT_BYTES = 16 << 20
_HARMLESS_WARNINGS = ("Unknown Adobe color transform", "Unsupported JFIF revision", "Invalid SOS parameters")
"""What libjpeg warns of although no sample is missing."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GAIN_MAP_MARKS = (b"hdrgm:", b"Container:Directory", b"GCamera:MotionPhoto")
_LOG_TRANSFERS = frozenset({1, 3})


def read_jpeg(path: str, require_size: SizeCheck, *, salvage: bool) -> Raster:
    """Read a JPEG, every warning of its decoder being damage; Pillow would not tell."""
    import simplejpeg

    with open_with_pillow(path, "jpeg") as image:
        require_size(*image.size)
        is_ink_inverted, tags = "adobe" in image.info, tags_of(image)
    data = _bytes_of(path)
    try:
        stored = simplejpeg.decode_jpeg_header(data, strict=False)[2].upper()
        space = stored if stored in ("GRAY", "CMYK") else "CMYK" if stored == "YCCK" else "RGB"
        try:
            samples_HWC = simplejpeg.decode_jpeg(data, colorspace=space)
        except ValueError as error:
            is_sound = str(error).startswith(_HARMLESS_WARNINGS)
            if not (is_sound or salvage):
                raise _jpeg_error(path, error) from error
            samples_HWC = simplejpeg.decode_jpeg(data, colorspace=space, strict=False)
            notices = () if is_sound else (Notice("converted", DAMAGED_PICTURE, f"{error}; what was read is kept"),)
        else:
            notices = ()
    except ValueError as error:
        raise _jpeg_error(path, error) from error
    if space == "CMYK" and is_ink_inverted:
        samples_HWC = 255 - samples_HWC
    raster = Raster(samples_HWC, {"GRAY": "grey", "CMYK": "cmyk", "RGB": "rgb"}[space], tags, notices)  # type: ignore[arg-type]
    return _without_companions(raster)


def _jpeg_error(path: str, error: ValueError) -> MediaError:
    reason = str(error)
    if "nsupported" in reason or "not supported" in reason or "not implemented" in reason:
        return unsupported_still(path, reason)
    return salvageable_still(path, reason)


def _without_companions(raster: Raster) -> Raster:
    """Say what lies in the file behind its picture, and drop the XMP that would promise it."""
    xmp = raster.tags.xmp or b""
    if not any(mark in xmp for mark in _GAIN_MAP_MARKS):
        return raster
    notice = Notice(
        "left_out", "companion pictures", "an HDR gain map or a motion photo beside the picture, with the XMP about it"
    )
    return replace(raster, tags=replace(raster.tags, xmp=None)).noting(notice)


def read_png(path: str, require_size: SizeCheck) -> Raster:
    """Read a PNG with all its bits, every chunk that counts having the right checksum."""
    with open_with_pillow(path, "png") as image:
        require_size(*image.size)
        data = _bytes_of(path)
        chunks = _sound_chunks(path, data)
        tags = _tags_in_chunks(tags_of(image), chunks)
        if tags.icc is None and "srgb" not in image.info:
            tags = replace(tags, icc=_profile_of_gamma(image.info, is_grey=not data[25] & 2))
        # Byte 24 is the depth; Pillow has no R'G'B' of 16 bits.
        samples_HWC, space = samples_of(path, image) if data[24] < 16 else _deep_png(path, chunks)
        return Raster(samples_HWC, space, tags)


def _tags_in_chunks(tags: StillTags, chunks: list[tuple[bytes, bytes]]) -> StillTags:
    """Add what may stand behind the picture, where Pillow finds it by decoding, and colours that it does not name."""
    found = dict(chunks)
    colours, text = found.get(b"cICP", b""), _xmp_in(chunks)
    return replace(
        tags,
        exif=found.get(b"eXIf", tags.exif),
        xmp=tags.xmp or text,
        code_points=(colours[0], colours[1]) if len(colours) == 4 else None,
    )


def _profile_of_gamma(info: dict[str, Any], *, is_grey: bool) -> bytes | None:
    """Say what a PNG's gAMA and cHRM mean as a profile, which every output can hold; None for the usual gamma."""
    gamma = info.get("gamma")
    if not gamma or not 0.1 <= gamma <= 2.0 or abs(gamma - _SRGB_GAMMA) < _SAME_GAMMA:
        return None
    import imagecodecs

    if is_grey:
        grey: bytes = imagecodecs.cms_profile("gray", gamma=1 / gamma)
        return grey
    white_x, white_y, *colours = info.get("chromaticity") or _SRGB_CHROMATICITY
    primaries = [value for at in (0, 2, 4) for value in (*colours[at : at + 2], 1.0)]
    profile: bytes = imagecodecs.cms_profile(
        "rgb", whitepoint=(white_x, white_y, 1.0), primaries=primaries, gamma=1 / gamma
    )
    return profile


def _xmp_in(chunks: list[tuple[bytes, bytes]]) -> bytes | None:
    for name, body in chunks:
        keyword, _, rest = body.partition(b"\0")
        if name == b"iTXt" and keyword == b"XML:com.adobe.xmp" and len(rest) > 2:
            _, _, text = rest[2:].partition(b"\0")[2].partition(b"\0")
            return zlib.decompressobj().decompress(text, _MOST_TEXT_BYTES) if rest[0] else text
    return None


def _sound_chunks(path: str, data: bytes) -> list[tuple[bytes, bytes]]:
    chunks: list[tuple[bytes, bytes]] = []
    position = len(_PNG_SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        name, length = data[position + 4 : position + 8], int.from_bytes(data[position : position + 4], "big")
        body = data[position + 8 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if len(name) < 4 or len(body) < length or len(checksum) < 4:
            raise damaged_still(path, f"it ends after {len(data)} bytes, before its picture does")
        is_critical = not name[0] & 0x20
        is_sound = zlib.crc32(name + body) == int.from_bytes(checksum, "big")
        if is_critical and not is_sound:
            raise damaged_still(path, f"the checksum of its chunk {name.decode('latin-1')} at {position} is wrong")
        if is_sound:
            chunks.append((name, body))
        position += 12 + length
    return chunks


def _deep_png(path: str, chunks: list[tuple[bytes, bytes]]) -> tuple[Array, Any]:
    import imagecodecs

    # Without what libpng would print warnings about.
    plain = [(name, body) for name, body in chunks if name in (b"IHDR", b"tRNS", b"IDAT", b"IEND")]
    data = _PNG_SIGNATURE + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big") for name, body in plain
    )
    try:
        samples_HWC = imagecodecs.png_decode(data)
    except (RuntimeError, ValueError) as error:
        raise damaged_still(path, error) from error
    samples_HWC = samples_HWC if samples_HWC.ndim == 3 else samples_HWC[..., None]
    return samples_HWC, "grey" if samples_HWC.shape[2] <= 2 else "rgb"


def read_heif(path: str, require_size: SizeCheck) -> Raster:
    """Read the primary picture of a HEIC or HEIF file, tiles put together and turned upright."""
    import pillow_heif

    try:
        heif = pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
        image = heif[heif.primary_index]
        require_size(*image.size)
        samples_HWC = np.asarray(image)
        info: dict[str, Any] = dict(image.info)
    except (*DECODING_ERRORS, RuntimeError) as error:
        if isinstance(error, MediaError):
            raise
        raise _heif_error(path, error) from error
    bits = int(info.get("bit_depth", 8))
    samples_HWC = samples_HWC if samples_HWC.ndim == 3 else samples_HWC[..., None]
    nclx: dict[str, Any] = info.get("nclx_profile") or {}
    exif, xmp = info.get("exif") or b"", info.get("xmp") or None
    tags = StillTags(
        icc=info.get("icc_profile") or None,
        exif=exif.removeprefix(b"Exif\0\0") or None,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp,
        # libheif has turned the picture by the file's own properties; EXIF repeats them.
        code_points=(nclx["color_primaries"], nclx["transfer_characteristics"]) if nclx else None,
    )
    if samples_HWC.dtype != np.uint8:
        # Codes of 10 or 12 bits come moved to the top of 16.
        samples_HWC = wide(samples_HWC >> (16 - bits), bits)
    raster = Raster(samples_HWC, "grey" if samples_HWC.shape[2] <= 2 else "rgb", tags)
    return raster.noting(*_further_pictures(len(heif)))


def _heif_error(path: str, error: Exception) -> MediaError:
    reason = str(error)
    if "nsupported" in reason or "not supported" in reason:
        return unsupported_still(path, reason)
    return damaged_still(path, reason)


def read_avif(path: str, require_size: SizeCheck) -> Raster:
    """Read the primary picture of an AVIF file with all its bits."""
    import imagecodecs

    with open_with_pillow(path, "avif") as image:
        require_size(*image.size)
        tags, num_frames = tags_of(image), getattr(image, "n_frames", 1)
    data = _bytes_of(path)
    try:
        samples_HWC = imagecodecs.avif_decode(data, index=0 if num_frames > 1 else None)
    except (RuntimeError, ValueError) as error:
        raise damaged_still(path, error) from error
    samples_HWC = samples_HWC if samples_HWC.ndim == 3 else samples_HWC[..., None]
    tags = replace(tags, code_points=read_code_points(data))
    if samples_HWC.dtype != np.uint8:
        samples_HWC = wide(samples_HWC, _avif_bits(data))
    raster = Raster(samples_HWC, "grey" if samples_HWC.shape[2] <= 2 else "rgb", tags)
    return raster.noting(*_further_pictures(num_frames))


def _avif_bits(data: bytes) -> int:
    """Bits of a sample by the AV1 configuration box (AV1 in ISOBMFF, 2.3.3)."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


def _further_pictures(num_pictures: int) -> tuple[Notice, ...]:
    if num_pictures < 2:
        return ()
    return (
        Notice("left_out", "further pictures", f"of {num_pictures} pictures in the file only the first is restored"),
    )


def read_jpeg2000(path: str, require_size: SizeCheck) -> Raster:
    """Read a JPEG 2000 image with all its bits."""
    import imagecodecs

    data = _bytes_of(path)
    try:
        header = read_jpeg2000_header(data)
    except (ValueError, IndexError) as error:
        raise damaged_still(path, f"its header makes no sense: {error}") from error
    require_size(header.width, header.height)
    if header.is_signed:
        raise unsupported_still(path, "its samples are signed")
    with open_with_pillow(path, "jpeg2000") as image:
        tags = replace(tags_of(image), icc=header.icc, exif=header.exif, xmp=header.xmp, iptc=header.iptc)
        if header.needs_pillow:
            if header.bits > 8:
                raise unsupported_still(path, f"{header.bits} bits in a palette or with coarser colour")
            return Raster(*samples_of(path, image), tags)
    try:
        samples_HWC = imagecodecs.jpeg2k_decode(data)
    except (RuntimeError, ValueError) as error:
        raise damaged_still(path, error) from error
    samples_HWC = samples_HWC if samples_HWC.ndim == 3 else samples_HWC[..., None]
    return Raster(wide(samples_HWC, header.bits), _jpeg2000_space(path, header), tags)


def _jpeg2000_space(path: str, header: Jpeg2000Header) -> Any:
    is_ink = header.enumerated == 12 or (header.icc is not None and header.icc[16:20] == b"CMYK")
    if header.num_components in (4, 5) and is_ink:
        return "cmyk"
    if header.num_components > 4 or header.enumerated == 14:
        raise unsupported_still(path, f"its {header.num_components} components are no R'G'B' with transparency")
    return "grey" if header.num_components <= 2 else "rgb"


def read_jpegxl(path: str, require_size: SizeCheck) -> Raster:
    """Read a JPEG XL image with all its bits; libjxl turns it upright."""
    import imagecodecs
    from pillow_jxl.JpegXLImagePlugin import JXLImageFile

    data = _bytes_of(path)
    try:
        require_size(*jpegxl_size(data))
    except (ValueError, IndexError) as error:
        raise damaged_still(path, f"its header makes no sense: {error}") from error
    try:
        samples_HWC = imagecodecs.jpegxl_decode(data)
        with JXLImageFile(path) as image:
            tags = tags_of(image)
        exif, xmp = jpegxl_metadata(data, imagecodecs.brotli_decode)
        tags = replace(tags, exif=exif or tags.exif, xmp=xmp or tags.xmp)
    except (*DECODING_ERRORS, RuntimeError) as error:
        raise damaged_still(path, error) from error
    num_pictures = 1
    if samples_HWC.ndim == 4:
        num_pictures, samples_HWC = len(samples_HWC), samples_HWC[0]
    samples_HWC = samples_HWC if samples_HWC.ndim == 3 else samples_HWC[..., None]
    is_float = samples_HWC.dtype.kind == "f"
    codes_HWC = from_floats(samples_HWC) if is_float else samples_HWC
    raster = Raster(codes_HWC, "grey" if codes_HWC.shape[2] <= 2 else "rgb", tags)
    return raster.noting(*_further_pictures(num_pictures), *((FLOATS_ARE_CUT,) if is_float else ()))


def read_dpx(path: str, require_size: SizeCheck) -> Raster:
    """Read a DPX image (SMPTE ST 268) by libav's decoder, whose input must hold all its lines."""
    data = _bytes_of(path)
    order: Any = "big" if data[:4] == b"SDPX" else "little"
    width, height, begin = (int.from_bytes(data[at : at + 4], order) for at in (772, 776, 4))
    require_size(width, height)
    decoder = av.CodecContext.create("dpx", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    try:
        (frame,) = decoder.decode(av.Packet(data))
        name = frame.format.name
        samples_HWC: Array = frame.to_ndarray()
    except (av.FFmpegError, ValueError) as error:
        raise damaged_still(path, f"its lines cannot be read: {error}") from error
    if name.endswith("be"):
        samples_HWC = samples_HWC.astype(samples_HWC.dtype.newbyteorder("="), copy=False)
    bits = max(component.bits for component in frame.format.components)
    if not name.startswith(("gbr", "rgb", "gray")) or bits > 16:
        raise unsupported_still(path, f"its samples are {name}")
    samples_HWC = samples_HWC if samples_HWC.ndim == 3 else samples_HWC[..., None]
    if len(data) - begin < samples_HWC.size * bits // 8:
        raise damaged_still(path, f"it ends after {len(data)} bytes, before its picture does")
    raster = Raster(wide(samples_HWC, bits), "grey" if samples_HWC.shape[2] == 1 else "rgb", StillTags())
    if data[801] in _LOG_TRANSFERS:
        return raster.noting(Notice("kept", "film density", "logarithmic codes are restored as they are"))
    return raster


def read_webp(path: str, require_size: SizeCheck) -> Raster:
    """Read a WebP; the length its header names must be there."""
    with open(path, "rb") as file:
        named = int.from_bytes(file.read(8)[4:8], "little") + 8
    if missing := max(0, named - os.path.getsize(path)):
        raise damaged_still(path, f"its last {missing} bytes are missing")
    return read_with_pillow(path, "webp", require_size)


def read_ico(path: str, require_size: SizeCheck) -> Raster:
    """Read the largest picture of an ICO; every picture it lists must lie in the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        count = int.from_bytes(file.read(6)[4:6], "little")
        entries = [file.read(16) for _ in range(count)]
    for entry in entries:
        if int.from_bytes(entry[8:12], "little") + int.from_bytes(entry[12:16], "little") > size or len(entry) < 16:
            raise damaged_still(path, "some of its pictures are missing")
    return read_with_pillow(path, "ico", require_size)


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(_MOST_FILE_BYTES + 1)
    if len(data) > _MOST_FILE_BYTES:
        raise unsupported_still(path, f"a still of more than {_MOST_FILE_BYTES >> 20} MiB that is no TIFF")
    return data
