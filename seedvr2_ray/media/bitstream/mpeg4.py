"""MPEG-4 part 2 (DivX, XviD): which packets hold a picture at all."""

from seedvr2_ray.media.bitstream.bits import BitReader

_VOP = b"\0\0\1\xb6"
_LAYER_CODES = range(0x20, 0x30)
_VBV_BITS = 79
_EXTENDED_ASPECT = 15
_GREY_SHAPE = 3


class PictureFilter:
    """Tells packets that hold a picture from those that only ask for the last one to be shown again.

    DivX and XviD write the latter (``vop_coded`` 0, ISO 14496-2, 6.2.5) for frames that were dropped.
    A decoder gives nothing for them, and nothing is missing: the picture before is shown longer.
    """

    def __init__(self, header: bytes) -> None:
        """Read how times are written.

        Args:
            header: what the container stores beside the packets; packets may bring another.
        """
        self._time_bits = _time_bits(header)

    def holds_picture(self, data: bytes) -> bool:
        """Whether a decoder gives a picture for a packet."""
        self._time_bits = _time_bits(data) or self._time_bits
        at = data.find(_VOP)
        if at < 0 or not self._time_bits:
            return True
        reader = BitReader(data[at + 4 : at + 20])
        reader.skip(2)  # how it is coded
        for _ in range(64):  # whole seconds gone by
            if not reader.take(1):
                break
        reader.skip(1 + self._time_bits + 1)
        # Several pictures in one packet: the first one counts, the others are held back by the decoder.
        return bool(reader.take(1))


def _time_bits(header: bytes) -> int:
    """How many bits a time has, from the header of the video object layer; 0 where there is none."""
    at = header.find(b"\0\0\1")
    while at >= 0 and at + 4 < len(header):
        if header[at + 3] in _LAYER_CODES:
            return _time_bits_of_layer(BitReader(header[at + 4 : at + 40]))
        at = header.find(b"\0\0\1", at + 3)
    return 0


def _time_bits_of_layer(reader: BitReader) -> int:
    reader.skip(1 + 8)
    version = 1
    if reader.take(1):
        version = reader.take(4)
        reader.skip(3)
    if reader.take(4) == _EXTENDED_ASPECT:
        reader.skip(16)
    if reader.take(1):
        reader.skip(3)
        if reader.take(1):
            reader.skip(_VBV_BITS)
    if reader.take(2) == _GREY_SHAPE and version != 1:
        reader.skip(4)
    reader.skip(1)
    return max(1, (reader.take(16) - 1).bit_length())
