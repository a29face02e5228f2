"""Check values of decoded pictures: what says that a jump into a file gave the pictures that are there.

The pass that looks for shots decodes every frame from the beginning, so what it sees is right. It keeps
four bytes of each picture; whoever reads a part of the file later compares.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from seedvr2_ray.errors import StorageError
from seedvr2_ray.frames import Frames
from seedvr2_ray.media.info import Ranges, ranges_of

PROOF_VERSION = 1
"""Raised when the check value of the same picture changes: remembered ones are then made again."""

_BYTES_EACH = 4
_MOST_BETWEEN = 16
"""Frames predicted from both sides that may follow each other."""


@dataclass(frozen=True, slots=True)
class SpanProof:
    """The check values of consecutive frames: small enough to travel with the order to restore them."""

    start: int
    """Number of the first frame."""
    crcs: bytes
    """Four bytes each, lowest first."""
    of_codes: bool = False
    """Whether they are of the R'G'B' codes rather than of what a decoder gives: so with still images, whose
    reader need not be libav."""
    concealed: Ranges = ()
    """Frames [start, stop) that nothing can be said of: damage that the decoder painted over, with whatever it had."""

    def crc_of(self, number: int) -> int | None:
        """Return the check value of a frame; nothing outside the span or where damage was concealed."""
        at = (number - self.start) * _BYTES_EACH
        if not 0 <= at < len(self.crcs) or any(start <= number < stop for start, stop in self.concealed):
            return None
        return int.from_bytes(self.crcs[at : at + _BYTES_EACH], "little")

    def holds(self, number: int, frame: av.VideoFrame) -> bool:
        """Say whether this is the picture of that number, as far as is known."""
        expected = None if self.of_codes else self.crc_of(number)
        return expected is None or expected == picture_crc(frame)


@dataclass(frozen=True, slots=True)
class Proof:
    """The check values of all frames of a source."""

    crcs: array[int]
    stand_ins: Ranges = ()
    """Frames [start, stop) whose picture is not the source's own, or only half of it is."""
    concealed: Ranges = ()
    """As :attr:`SpanProof.concealed`: half-read frames, and what was predicted from those or from missing ones."""
    of_codes: bool = False
    """As :attr:`SpanProof.of_codes`."""

    def __post_init__(self) -> None:
        if self.crcs.itemsize != _BYTES_EACH:
            raise ValueError(f"check values have {_BYTES_EACH} bytes, got {self.crcs.itemsize}")

    def of_span(self, start: int, stop: int) -> SpanProof:
        """Return what is needed to read the frames ``start`` to ``stop`` and the neighbours of both."""
        start = max(0, start - 1)
        concealed = tuple(each for each in self.concealed if each[0] <= stop and each[1] > start)
        return SpanProof(start, _lowest_first(self.crcs[start : stop + 1]).tobytes(), self.of_codes, concealed)

    def to_bytes(self) -> bytes:
        """Return the check values packed."""
        return _lowest_first(self.crcs).tobytes()


class ProofMaker:
    """Looks at all frames of a source in order."""

    def __init__(self) -> None:
        self._crcs = new_crcs()
        self._stand_ins: list[int] = []
        self._is_concealed = bytearray()
        self._types: deque[bool] = deque(maxlen=_MOST_BETWEEN)
        self._is_broken = True

    def see(self, frame: av.VideoFrame, *, is_missing: bool, is_stand_in: bool) -> None:
        """Take the next frame.

        Args:
            is_missing: whether the picture is not the source's own, or only half of it is.
            is_stand_in: whether it is another one's altogether.
        """
        number = len(self._crcs)
        self._crcs.append(picture_crc(frame))
        if is_missing:
            self._stand_ins.append(number)
            self._conceal_back(number)
            # A stand-in is as good as the picture that it is, if that came before.
            is_good = is_stand_in and number > 0 and not self._is_concealed[-1]
            self._is_concealed.append(not is_good)
            self._is_broken = True
        else:
            self._is_broken &= not frame.key_frame
            self._is_concealed.append(self._is_broken)
        self._types.append(not is_missing and frame.pict_type == PictureType.B)

    def made(self) -> Proof:
        """Return the proof of what was seen."""
        concealed = ranges_of(number for number, is_concealed in enumerate(self._is_concealed) if is_concealed)
        return Proof(self._crcs, ranges_of(self._stand_ins), concealed)

    def _conceal_back(self, number: int) -> None:
        """Frames right before damage may be predicted from both sides."""
        for back, is_between in enumerate(reversed(self._types), start=1):
            if not is_between:
                return
            self._is_concealed[number - back] = True


def proof_from_bytes(data: bytes, stand_ins: Ranges = (), concealed: Ranges = (), *, of_codes: bool = False) -> Proof:
    """Unpack the check values of a source."""
    crcs = new_crcs()
    crcs.frombytes(data)
    return Proof(_lowest_first(crcs), stand_ins, concealed, of_codes)


def new_crcs() -> array[int]:
    """Return an empty list for check values, four bytes each."""
    return array("I")


def picture_crc(frame: av.VideoFrame) -> int:
    """Return the CRC-32 of a picture: its size, its pixel format, and the bytes that are seen.

    Rows are padded differently by every decoder and thread type, so the padding is left out.
    """
    crc = zlib.crc32(f"{frame.width}x{frame.height} {frame.format.name}".encode())
    for plane_HW in _visible_planes(frame):
        crc = zlib.crc32(np.ascontiguousarray(plane_HW).data, crc)
    return crc


def codes_crc(codes_CHW: NDArray[Any]) -> int:
    """Return the CRC-32 of a picture's R'G'B' codes and of their shape."""
    # The type is named as tensors name it: so it was in the proofs that are committed already.
    crc = zlib.crc32(f"{codes_CHW.shape} torch.{codes_CHW.dtype}".encode())
    return zlib.crc32(np.ascontiguousarray(codes_CHW).data, crc)


def proved_codes(batches: Iterable[Frames], proof: SpanProof, first_number: int) -> Iterator[Frames]:
    """Pass on the frames of a still image as long as they are the pictures of its proof.

    Raises:
        StorageError: one is not.
    """
    number = first_number
    for batch in batches:
        for codes_CHW in batch.data_TCHW.numpy():
            if proof.crc_of(number) != codes_crc(codes_CHW):
                raise StorageError(
                    "the image does not decode to the picture that it was when it was first read: it or its copy has "
                    "changed, or this machine is faulty; run the same command again"
                )
            number += 1
        yield batch


def _visible_planes(frame: av.VideoFrame) -> Iterator[NDArray[np.uint8]]:
    row_bytes = _row_bytes(frame.format, frame.width)
    for index, plane in enumerate(frame.planes):
        if index < len(row_bytes):
            rows_HW = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
            yield rows_HW[:, : row_bytes[index]]
        else:  # A palette.
            yield np.frombuffer(memoryview(plane), np.uint8)


def _row_bytes(pixel_format: av.VideoFormat, width: int) -> list[int]:
    """Bytes of a row of each plane that hold samples."""
    components = pixel_format.components
    num_planes = 1 + max(component.plane for component in components)
    if num_planes == 1:
        return [(pixel_format.padded_bits_per_pixel * width + 7) // 8]
    rows = [0] * num_planes
    for component in components:
        rows[component.plane] += component.width * ((component.bits + 7) // 8)
    return rows


def _lowest_first(crcs: array[int]) -> array[int]:
    if sys.byteorder == "little":
        return crcs
    crcs = crcs[:]
    crcs.byteswap()
    return crcs
