"""The checksums inside FFV1 pictures (RFC 9043, 4.9): libav reads them, and only prints when one is wrong."""

import zlib

_FOOTER_BYTES = 8
"""Of a slice with a checksum: its size (3), an error status (1), the CRC-32 (4)."""
_CRC_OF_NOTHING = 0xFFFFFFFF
_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def has_intact_slices(packet: bytes) -> bool:
    """Say whether a packet consists of slices whose checksums are right."""
    stop = len(packet)
    while stop > _FOOTER_BYTES:
        size = int.from_bytes(packet[stop - _FOOTER_BYTES : stop - _FOOTER_BYTES + 3], "big")
        start = stop - _FOOTER_BYTES - size
        if start < 0 or _remainder(packet[start:stop]):
            return False
        stop = start
    return stop == 0 and len(packet) > 0


def _remainder(data: bytes) -> int:
    """The CRC-32 of FFV1 goes from the highest bit to the lowest and begins with 0: zlib's, mirrored."""
    return zlib.crc32(data.translate(_MIRRORED), _CRC_OF_NOTHING) ^ _CRC_OF_NOTHING
