"""What the name of a pixel format says about the pictures in it."""

import av

from seedvr2_ray.media.info import Chroma

_CHROMA_BY_DIVISORS: dict[tuple[int, int], Chroma] = {
    (1, 1): "444",
    (2, 1): "422",
    (2, 2): "420",
    (1, 2): "440",
    (4, 1): "411",
    (4, 4): "410",
}
_DIVISOR_PROBE = 64
_MAX_INTEGER_BITS = 16


def chroma_of(pixel_format: str) -> Chroma:
    """How coarse colour is stored compared to brightness."""
    layout = av.VideoFormat(pixel_format, _DIVISOR_PROBE, _DIVISOR_PROBE)
    if layout.is_rgb or layout.has_palette or layout.is_bayer:
        return "rgb"
    if sum(not component.is_alpha for component in layout.components) == 1:
        return "grey"
    divisors = (
        _DIVISOR_PROBE // layout.chroma_width(_DIVISOR_PROBE),
        _DIVISOR_PROBE // layout.chroma_height(_DIVISOR_PROBE),
    )
    return _CHROMA_BY_DIVISORS.get(divisors, "420")


def bit_depth_of(pixel_format: str) -> int:
    """Bits of a sample, at least 8; floating point counts as the 16 bits it is decoded to."""
    layout = av.VideoFormat(pixel_format)
    if layout.has_palette:
        return 8
    return min(_MAX_INTEGER_BITS, max(8, *(component.bits for component in layout.components)))


def is_floating_point(pixel_format: str) -> bool:
    """Whether samples may lie outside black and white."""
    return any(mark in pixel_format for mark in ("f16", "f32"))


def may_have_alpha(pixel_format: str) -> bool:
    """Whether the format has room for transparency; a palette may name transparent colours."""
    layout = av.VideoFormat(pixel_format)
    return layout.has_palette or any(component.is_alpha for component in layout.components)
