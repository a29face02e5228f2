"""HDR thumbnails in the codes of ordinary video, so that what is judged by codes is judged alike.

PQ spends half of its codes on what ordinary video cannot show, and a change that is 27 of 255 levels in ordinary
video is a third of that in PQ. Equations of ITU-R BT.2100; the gamut of BT.2087.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from seedvr2_ray.media.picture.colour import HDR_TRANSFERS

_WHITE_NITS = 100.0
"""Of ordinary video, where its codes are exact here; anything brighter is pressed together below 255."""
_GAMMA = 2.4
_KNEE = 0.75
_HLG_PEAK_NITS, _HLG_SYSTEM_GAMMA = 1000.0, 1.2
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_NUM_LEVELS = 4096
"""Of light on its way to a code, on a scale of square roots."""
_BRIGHTEST = 100.0
"""PQ's 10,000 nits, in units of ordinary white."""

ToneMap = Callable[[NDArray[np.uint16]], NDArray[np.uint8]]


@lru_cache
def tone_map(transfer: str, primaries: str) -> ToneMap | None:
    """Return the way from 16-bit R'G'B' codes to 8-bit ones of BT.709, or nothing where codes are ordinary already."""
    if transfer not in (*HDR_TRANSFERS, "linear"):
        return None
    light_of_code = _light(transfer)
    codes = _codes()

    def mapped(picture_HWC: NDArray[np.uint16]) -> NDArray[np.uint8]:
        light_HWC = np.take(light_of_code, picture_HWC)
        if primaries == "bt2020":
            light_HWC = np.maximum(light_HWC @ _BT2020_TO_BT709.T, 0)
        level_HWC = np.sqrt(light_HWC * ((_NUM_LEVELS - 1) ** 2 / _BRIGHTEST)).astype(np.intp)
        mapped_HWC: NDArray[np.uint8] = np.take(codes, level_HWC, mode="clip")
        return mapped_HWC

    return mapped


def _light(transfer: str) -> NDArray[np.float32]:
    """Light of every 16-bit code, 1 being ordinary white."""
    signal = np.linspace(0, 1, 65536)
    if transfer == "smpte2084":
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        root = signal ** (1 / m2)
        nits = 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    elif transfer == "arib-std-b67":
        a = 0.17883277
        b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        nits = _HLG_PEAK_NITS * scene**_HLG_SYSTEM_GAMMA
    else:
        nits = _WHITE_NITS * signal
    return (nits / _WHITE_NITS).astype(np.float32)


def _codes() -> NDArray[np.uint8]:
    """The code of every level of light: the exact one up to the knee, and an ever flatter curve above it."""
    light = np.linspace(0, 1, _NUM_LEVELS) ** 2 * _BRIGHTEST
    value = light ** (1 / _GAMMA)
    pressed = _KNEE + (1 - _KNEE) * (1 - np.exp(-(value - _KNEE) / (1 - _KNEE)))
    return np.round(255 * np.where(value <= _KNEE, value, pressed)).astype(np.uint8)
