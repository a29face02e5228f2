"""A HEIC photo as phones take it, written by hand: tiles that are pictures of their own, and a list that joins them.

Reference: ISO 23008-12, 6.6.2.3 (image grid), and ISO 14496-12 for the boxes.
"""

import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np

TILE = 64
COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 220), (230, 210, 50))
"""Of the four tiles: above left, above right, below left, below right."""


def grid_photo() -> bytes:
    """Return a HEIC of two by two tiles, each of one colour."""
    tiles = [_encoded(colour) for colour in COLOURS]
    grid = struct.pack(">BBBBHH", 0, 0, 1, 1, 2 * TILE, 2 * TILE)
    items = [slices for _, slices in tiles] + [grid]
    file_type = _box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    base = len(file_type) + len(_meta(tiles[0][0], items, 0)) + 8
    return file_type + _meta(tiles[0][0], items, base) + _box(b"mdat", *items)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _encoded(colour: tuple[int, int, int]) -> tuple[list[bytes], bytes]:
    """Parameter sets and length-prefixed slices of a tile."""
    context: Any = av.CodecContext.create("libx265", "w")
    context.width = context.height = TILE
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
    context.options = {"x265-params": "log-level=none:info=0:keyint=1:pools=1", "crf": "10"}
    picture = np.empty((TILE, TILE, 3), np.uint8)
    picture[:] = colour
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts = 0
    stream = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    units = [unit for unit in stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    heads = [unit for unit in units if unit[0] >> 1 & 63 in (32, 33, 34)]
    slices = [unit for unit in units if unit[0] >> 1 & 63 < 32]
    return heads, b"".join(struct.pack(">I", len(unit)) + unit for unit in slices)


def _configuration(heads: list[bytes]) -> bytes:
    parameters = next(unit for unit in heads if unit[0] >> 1 & 63 == 33).replace(b"\0\0\3", b"\0\0")
    arrays = b"".join(struct.pack(">BHH", 0x80 | (unit[0] >> 1 & 63), 1, len(unit)) + unit for unit in heads)
    # Profile, tier and level are bytes 3 to 14 of the sequence parameter set.
    rest = struct.pack(">HBBBBHB", 0xF000, 0xFC, 0xFD, 0xF8, 0xF8, 0, 0x0F) + bytes([len(heads)])
    return _box(b"hvcC", b"\1", parameters[3:15], rest, arrays)


def _meta(heads: list[bytes], items: list[bytes], base: int) -> bytes:
    places, at = [], base
    for number, data in enumerate(items, 1):
        places.append(struct.pack(">HHHII", number, 0, 1, at, len(data)))
        at += len(data)
    kinds = [b"hvc1"] * 4 + [b"grid"]
    entries = [
        _full(b"infe", 2, kind != b"grid", struct.pack(">HH4s", number, 0, kind), b"\0")
        for number, kind in enumerate(kinds, 1)
    ]
    sizes = [_full(b"ispe", 0, 0, struct.pack(">II", side, side)) for side in (TILE, 2 * TILE)]
    tile_uses = [struct.pack(">HBBB", number, 2, 0x81, 2) for number in range(1, 5)]
    uses = _full(b"ipma", 0, 0, struct.pack(">I", 5), *tile_uses, struct.pack(">HBB", 5, 1, 3))
    return _full(
        b"meta",
        0,
        0,
        _full(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"pict"), b"\0"),
        _full(b"pitm", 0, 0, struct.pack(">H", 5)),
        _full(b"iloc", 0, 0, struct.pack(">HH", 0x4400, len(items)), *places),
        _full(b"iinf", 0, 0, struct.pack(">H", 5), *entries),
        _full(b"iref", 0, 0, _box(b"dimg", struct.pack(">HHHHHH", 5, 4, 1, 2, 3, 4))),
        _box(b"iprp", _box(b"ipco", _configuration(heads), *sizes), uses),
    )
