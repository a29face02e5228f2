"""Putting colour profile, EXIF, XMP, IPTC and print resolution into finished image files, samples untouched.

References: PNG (W3C) section 11, JFIF 1.02, ICC.1 annex B, EXIF 2.32, XMP part 3, the WebP container, TIFF 6.0.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

from seedvr2_ray.media.info import Notice
from seedvr2_ray.media.stills.exif import (
    ICC_PROFILE,
    IPTC,
    XMP,
    Exif,
    directories_at,
    read_exif,
    resolution_fields,
    undefined,
    upright_field,
    write_exif,
)
from seedvr2_ray.media.stills.raster import StillTags

_COLOUR_CHUNKS = frozenset({b"sRGB", b"gAMA", b"cHRM", b"cICP", b"iCCP"})
_METRES_PER_INCH = 0.0254
_MOST_SEGMENT_BYTES = 65533
_MOST_ICC_BYTES = 65519
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
_MAKER_NOTE = 37500
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[2-8](?=[\"'<])")
_USUAL_CODE_POINTS = frozenset({(1, 1), (1, 2), (1, 6), (1, 13), (2, 2), (2, 13)})
"""Primaries and transfer that readers assume of an image that names none."""


def embed(container: str, image: bytes, tags: StillTags, size: tuple[int, int]) -> tuple[bytes, tuple[Notice, ...]]:
    """Add to an image file what described its source.

    Args:
        container: ``png``, ``jpeg``, ``webp`` or ``tiff``.
        image: the finished file.
        tags: of the source; the picture has been turned upright since.
        size: width and height of the picture in the file.

    Returns:
        The file, and what is kept and what has no place in it.
    """
    exif = read_exif(io.BytesIO(tags.exif)).described() if tags.exif else Exif()
    if tags.dpi is not None:
        exif = replace(exif, image={**exif.image, **resolution_fields(tags.dpi)})
    tags = replace(tags, xmp=_XMP_ORIENTATION.sub(rb"\g<1>1", tags.xmp) if tags.xmp else None)
    if container == "jpeg":
        exif, tags, too_long = _fitting(exif, tags)
    else:
        too_long = ()
    if container == "webp":
        written = _into_webp(image, exif, tags, size)
    else:
        writers: dict[str, Callable[[bytes, Exif, StillTags], bytes]] = {
            "png": _into_png,
            "jpeg": _into_jpeg,
            "tiff": _into_tiff,
        }
        written = writers[container](image, exif, tags)
    return written, (*_notices(container, exif, tags), *too_long)


def _notices(container: str, exif: Exif, tags: StillTags) -> tuple[Notice, ...]:
    found: list[Notice] = []
    if exif.says_something():
        found.append(Notice("kept", "EXIF", "copied, with the way up and the size put right and without its thumbnail"))
    if tags.xmp:
        found.append(Notice("kept", "XMP", "copied"))
    if tags.iptc:
        holds = container in ("jpeg", "tiff")
        reason = "copied" if holds else f"{container} has no place for it; name the target .tiff or .jpg to keep it"
        found.append(Notice("kept" if holds else "left_out", "IPTC", reason))
    if tags.dpi is not None:
        reason = f"{tags.dpi[0]:g} x {tags.dpi[1]:g} dots per inch as before: more pixels print larger"
        found.append(Notice("kept", "print resolution", reason))
    if tags.code_points is not None and tags.code_points not in _USUAL_CODE_POINTS and container != "png":
        reason = f"{container} has no place for the colours' code points {tags.code_points}; name the target .png"
        found.append(Notice("left_out", "colour tags", reason))
    return tuple(found)


def _block(exif: Exif) -> bytes | None:
    if not (exif.image or exif.exif or exif.gps):
        return None
    return write_exif(replace(exif, image={**exif.image, **upright_field()}))


def _fitting(exif: Exif, tags: StillTags) -> tuple[Exif, StillTags, tuple[Notice, ...]]:
    """Leave out of a JPEG what is longer than a segment."""
    notices: list[Notice] = []
    if len(_block(exif) or b"") > _MOST_SEGMENT_BYTES - 6:
        exif = replace(exif, exif={tag: entry for tag, entry in exif.exif.items() if tag != _MAKER_NOTE})
        notices.append(Notice("left_out", "EXIF maker note", "it does not fit into a JPEG; name the target .png"))
        if len(_block(exif) or b"") > _MOST_SEGMENT_BYTES - 6:
            exif = Exif()
            notices.append(Notice("left_out", "EXIF", "it does not fit into a JPEG; name the target .png or .tiff"))
    if len(tags.xmp or b"") > _MOST_SEGMENT_BYTES - len(_XMP_NAME):
        tags = replace(tags, xmp=None)
        notices.append(Notice("left_out", "XMP", "it does not fit into a JPEG; name the target .png or .tiff"))
    if len(tags.iptc or b"") > _MOST_SEGMENT_BYTES - 64:
        tags = replace(tags, iptc=None)
        notices.append(Notice("left_out", "IPTC", "it does not fit into a JPEG; name the target .tiff"))
    return exif, tags, tuple(notices)


def _into_png(image: bytes, exif: Exif, tags: StillTags) -> bytes:
    chunks: list[tuple[bytes, bytes]] = []
    position = 8
    while position + 8 <= len(image):
        length = int.from_bytes(image[position : position + 4], "big")
        chunks.append((image[position + 4 : position + 8], image[position + 8 : position + 8 + length]))
        position += 12 + length
    dropped = (_COLOUR_CHUNKS if tags.icc else frozenset()) | ({b"pHYs"} if tags.dpi else frozenset())
    added: list[tuple[bytes, bytes]] = []
    if tags.icc:
        added.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(tags.icc, 9)))
    if tags.dpi:
        per_metre = (round(density / _METRES_PER_INCH) for density in tags.dpi)
        added.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    block = _block(exif)
    if block and exif.says_something():
        added.append((b"eXIf", block))
    if tags.xmp:
        added.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + tags.xmp))
    kept = [chunk for chunk in chunks[1:] if chunk[0] not in dropped]
    return image[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (chunks[0], *added, *kept)
    )


def _into_jpeg(image: bytes, exif: Exif, tags: StillTags) -> bytes:
    head, rest = image[:2], image[2:]
    if rest[:2] == b"\xff\xe0":
        length = 2 + int.from_bytes(rest[2:4], "big")
        jfif, rest = bytearray(rest[:length]), rest[length:]
        if tags.dpi and jfif[4:9] == b"JFIF\0":
            jfif[11:16] = struct.pack(">BHH", 1, *(min(65535, max(1, round(density))) for density in tags.dpi))
        head += bytes(jfif)
    added: list[tuple[int, bytes]] = []
    block = _block(exif)
    if block and exif.says_something():
        added.append((0xE1, b"Exif\0\0" + block))
    if tags.xmp:
        added.append((0xE1, _XMP_NAME + tags.xmp))
    if tags.icc:
        pieces = [tags.icc[at : at + _MOST_ICC_BYTES] for at in range(0, len(tags.icc), _MOST_ICC_BYTES)]
        for number, piece in enumerate(pieces, 1):
            added.append((0xE2, b"ICC_PROFILE\0" + bytes((number, len(pieces))) + piece))
    if tags.iptc:
        resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(tags.iptc)) + tags.iptc + bytes(len(tags.iptc) % 2)
        added.append((0xED, b"Photoshop 3.0\0" + resource))
    segments = (struct.pack(">BBH", 0xFF, code, len(body) + 2) + body for code, body in added)
    return head + b"".join(segments) + rest


def _into_webp(image: bytes, exif: Exif, tags: StillTags, size: tuple[int, int]) -> bytes:
    chunks: list[tuple[bytes, bytes]] = []
    position = 12
    while position + 8 <= len(image):
        length = int.from_bytes(image[position + 4 : position + 8], "little")
        chunks.append((image[position : position + 4], image[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    block = _block(exif)
    flags = next((body[0] & 0x10 for name, body in chunks if name == b"VP8X"), 0)
    if any(name == b"VP8L" and body[4] & 0x10 for name, body in chunks):
        flags |= 0x10
    flags |= (0x20 if tags.icc else 0) | (0x08 if block else 0) | (0x04 if tags.xmp else 0)
    if not flags & 0x2C:
        return image
    width, height = ((side - 1).to_bytes(3, "little") for side in size)
    written = [(b"VP8X", bytes((flags, 0, 0, 0)) + width + height)]
    written += [(b"ICCP", tags.icc)] if tags.icc else []
    written += [chunk for chunk in chunks if chunk[0] not in (b"VP8X", b"ICCP", b"EXIF", b"XMP ")]
    written += [(b"EXIF", block)] if block else []
    written += [(b"XMP ", tags.xmp)] if tags.xmp else []
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for name, content in written
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _into_tiff(image: bytes, exif: Exif, tags: StillTags) -> bytes:
    """Append a directory that holds the old one's fields too; their offsets stay true."""
    stored = read_exif(io.BytesIO(image)).image
    fields = {**stored, **exif.image, **upright_field()}
    if tags.icc:
        fields[ICC_PROFILE] = undefined(tags.icc)
    if tags.xmp:
        fields[XMP] = replace(undefined(tags.xmp), kind=1)
    if tags.iptc:
        fields[IPTC] = undefined(tags.iptc)
    image += bytes(len(image) % 2)
    offset = len(image)
    return image[:4] + struct.pack("<I", offset) + image[8:] + directories_at(replace(exif, image=fields), offset)
