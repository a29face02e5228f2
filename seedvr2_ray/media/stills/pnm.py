"""The Netpbm family: PBM, PGM, PPM in text and bytes, and PAM; of any depth up to 16 bits.

Reference: the manual pages pbm(5), pgm(5), ppm(5) and pam(5) of Netpbm.
"""

import re
from typing import Any

import numpy as np

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.stills.raster import Array, Raster, SizeCheck, StillTags, damaged_still, unsupported_still

_MOST_HEADER_BYTES = 65536
_TOKEN = re.compile(rb"(?:[ \t\r\n\v\f]+|#[^\n]*\n)*([0-9]+)")
_PAM_CHANNELS = {1: "grey", 2: "grey", 3: "rgb", 4: "rgb"}


def read_pnm(path: str, require_size: SizeCheck) -> Raster:
    """Read a PBM, PGM, PPM or PAM file.

    Raises:
        MediaError: it is too large, cut off, or of more than 16 bits.
    """
    with open(path, "rb") as file:
        head = file.read(_MOST_HEADER_BYTES)
    number = head[1:2]
    width, height, channels, peak, begin = _pam_header(path, head) if number == b"7" else _header(path, head)
    require_size(width, height)
    if not 1 <= peak <= 65535 or channels not in _PAM_CHANNELS:
        raise unsupported_still(path, f"{channels} channels of values up to {peak}")
    if number in b"123":
        codes_HWC = _from_text(path, begin, height, width, channels, is_bitmap=number == b"1")
    else:
        codes_HWC = _from_bytes(path, begin, height, width, channels, 0 if number == b"4" else peak)
    if number in b"14":
        codes_HWC = 1 - codes_HWC  # A bitmap counts ink.
    return Raster(_spread(codes_HWC, peak), "grey" if channels <= 2 else "rgb", StillTags())


def _header(path: str, head: bytes) -> tuple[int, int, int, int, int]:
    """Width, height, channels, highest value, and where the samples begin."""
    is_bitmap = head[1:2] in b"14"
    numbers: list[int] = []
    position = 2
    for _ in range(2 if is_bitmap else 3):
        match = _TOKEN.match(head, position)
        if match is None:
            raise damaged_still(path, "its header ends too early")
        numbers.append(int(match[1][:12]))
        position = match.end()
    channels = 3 if head[1:2] in b"36" else 1
    return numbers[0], numbers[1], channels, 1 if is_bitmap else numbers[2], position + 1


def _pam_header(path: str, head: bytes) -> tuple[int, int, int, int, int]:
    text, mark, _ = head.partition(b"ENDHDR\n")
    fields = dict(re.findall(rb"(?m)^(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+([0-9]{1,12})\s*$", text))
    if not mark or len(fields) < 4:
        raise damaged_still(path, "its header is incomplete")
    width, height, depth, peak = (int(fields[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    return width, height, depth, peak, len(text) + len(mark)


def _from_bytes(path: str, begin: int, height: int, width: int, channels: int, peak: int) -> Array:
    is_packed = peak == 0
    dtype = np.dtype(">u2" if peak > 255 else np.uint8)
    row = (width + 7) // 8 if is_packed else width * channels
    codes: Any = np.fromfile(path, dtype, count=height * row, offset=begin)
    if len(codes) < height * row:
        raise _cut(path, len(codes), height * row)
    if is_packed:
        bits_HWC: Array = np.unpackbits(codes.reshape(height, row), axis=1)[:, :width, None]
        return bits_HWC
    codes_HWC: Array = codes.reshape(height, width, channels).astype(dtype.newbyteorder("="), copy=False)
    return codes_HWC


def _from_text(path: str, begin: int, height: int, width: int, channels: int, *, is_bitmap: bool) -> Array:
    with open(path, "rb") as file:
        file.seek(begin - 1)
        text = re.sub(rb"#[^\n]*", b"", file.read())
    count = height * width * channels
    if is_bitmap:
        # Digits of a bitmap need no space between them.
        codes: Any = np.frombuffer(re.sub(rb"[^01]", b"", text), np.uint8) - ord("0")
    else:
        codes = np.array(text.split()[:count], dtype=np.uint32).astype(np.uint16)
    if len(codes) < count:
        raise _cut(path, len(codes), count)
    codes_HWC: Array = codes[:count].reshape(height, width, channels)
    return codes_HWC


def _cut(path: str, num_read: int, num_wanted: int) -> MediaError:
    return damaged_still(path, f"{num_wanted - num_read} of its {num_wanted} samples are missing")


def _spread(codes_HWC: Array, peak: int) -> Array:
    if peak in (255, 65535):
        return codes_HWC.astype(np.uint8 if peak == 255 else np.uint16, copy=False)
    depth_peak, dtype = (255, np.uint8) if peak < 256 else (65535, np.uint16)
    table = np.round(np.arange(peak + 1) * (depth_peak / peak)).astype(dtype)
    return np.take(table, codes_HWC, mode="clip")
