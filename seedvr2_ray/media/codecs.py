"""What the codecs and containers of a master can hold: facts about FFmpeg's encoders, as data."""

from dataclasses import dataclass

import av

SUFFIXES: dict[str, str] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "mkv",
    ".webm": "webm",
    ".avi": "avi",
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "webp",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
}
"""Endings of a target's name to containers."""

MUXERS: dict[str, str] = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "webm": "webm", "avi": "avi"}
"""Video containers to FFmpeg's names of their muxers."""

IMAGE_CONTAINERS = frozenset({"png", "tiff", "webp", "jpeg"})

X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecFacts:
    """One codec a master may have."""

    encoder: str
    """FFmpeg's name of the encoder."""
    containers: tuple[str, ...]
    """Containers that hold it, the most usual first."""
    formats: dict[tuple[str, int, bool], str]
    """Pixel formats by (chroma, bits, alpha), chroma being ``420 422 444 rgb grey``."""
    crf: int | None = None
    """Default constant quality; ``None`` when the codec has no such setting."""
    max_crf: int = 0
    presets: tuple[str, ...] = ()
    """Names of the speed presets, the default named by ``preset``; empty when there are none."""
    preset: str = ""
    holds_full_range: bool = True
    """Whether players learn from the stream that black is 0."""

    def chromas(self, *, alpha: bool) -> set[str]:
        """Return the chroma samplings available with or without alpha."""
        return {chroma for chroma, _, has_alpha in self.formats if has_alpha == alpha}

    def depths(self, chroma: str, *, alpha: bool) -> list[int]:
        """Return the bit depths available for one sampling, ascending."""
        return sorted(bits for c, bits, has_alpha in self.formats if c == chroma and has_alpha == alpha)

    @property
    def has_alpha(self) -> bool:
        """Whether any of its pixel formats carries transparency."""
        return any(alpha for _, _, alpha in self.formats)


def _yuv(chromas: tuple[str, ...], depths: tuple[int, ...], *, alpha: bool = False) -> dict[tuple[str, int, bool], str]:
    family = "yuva" if alpha else "yuv"
    return {
        (chroma, bits, alpha): f"{family}{chroma}p" + ("" if bits == 8 else f"{bits}le")
        for chroma in chromas
        for bits in depths
    }


_FFV1_FORMATS = {
    **_yuv(("420", "422", "444"), (8, 10, 12, 16)),
    **_yuv(("420", "422", "444"), (8, 10, 16), alpha=True),
    **_yuv(("422", "444"), (12,), alpha=True),
    ("grey", 8, False): "gray",
    ("grey", 10, False): "gray10le",
    ("grey", 12, False): "gray12le",
    ("grey", 16, False): "gray16le",
    ("rgb", 8, False): "bgr0",
    ("rgb", 10, False): "gbrp10le",
    ("rgb", 12, False): "gbrp12le",
    ("rgb", 16, False): "gbrp16le",
    ("rgb", 8, True): "bgra",
    ("rgb", 10, True): "gbrap10le",
    ("rgb", 12, True): "gbrap12le",
    ("rgb", 16, True): "gbrap16le",
}
_RGB_8_AND_16 = {key: value for key, value in _FFV1_FORMATS.items() if key[0] == "rgb" and key[1] in (8, 16)}

CODECS: dict[str, CodecFacts] = {
    "h264": CodecFacts(
        encoder="libx264",
        containers=("mp4", "mov", "mkv"),
        formats=_yuv(("420", "422", "444"), (8, 10)),
        crf=17,
        max_crf=51,
        presets=X26X_PRESETS,
        preset="medium",
    ),
    "hevc": CodecFacts(
        encoder="libx265",
        containers=("mp4", "mov", "mkv"),
        formats=_yuv(("420", "422", "444"), (8, 10, 12)),
        crf=18,
        max_crf=51,
        presets=X26X_PRESETS,
        preset="medium",
    ),
    "av1": CodecFacts(
        encoder="libsvtav1",
        containers=("mp4", "mkv", "webm"),
        formats=_yuv(("420",), (8, 10)),
        crf=24,
        max_crf=63,
        presets=tuple(str(level) for level in range(14)),
        preset="8",
    ),
    "prores": CodecFacts(
        encoder="prores_ks",
        containers=("mov", "mkv"),
        formats=_yuv(("422",), (10,)),
        holds_full_range=False,
    ),
    "prores4444": CodecFacts(
        encoder="prores_ks",
        containers=("mov", "mkv"),
        formats={**_yuv(("444",), (10,)), **_yuv(("444",), (10,), alpha=True)},
        holds_full_range=False,
    ),
    "ffv1": CodecFacts(encoder="ffv1", containers=("mkv", "avi"), formats=_FFV1_FORMATS),
    "png": CodecFacts(encoder="png", containers=("png",), formats=_RGB_8_AND_16),
    "tiff": CodecFacts(encoder="tiff", containers=("tiff",), formats=_RGB_8_AND_16),
    "webp": CodecFacts(
        encoder="libwebp",
        containers=("webp",),
        formats={key: value for key, value in _RGB_8_AND_16.items() if key[1] == 8},
        max_crf=63,
    ),
    "jpeg": CodecFacts(
        encoder="mjpeg",
        containers=("jpeg",),
        formats=_yuv(("444",), (8,)),
        crf=2,
        max_crf=31,
    ),
}
"""Names as ``RestoreSettings.codec`` takes them to what is known about the codec."""


def ffv1_slices(width: int, height: int, pixel_format: str) -> int:
    """Return into how many slices FFV1 cuts a picture: 16 for the threads of a decoder, fewer where they do not fit.

    The encoder refuses more slices along a side than it has samples of chroma, and of an odd side those
    whose last one would begin between two samples of chroma.
    """
    layout = av.VideoFormat(pixel_format, 64, 64)
    steps = (64 // layout.chroma_width(64), 64 // layout.chroma_height(64))
    for per_side in (4, 2):
        if all(_can_be_cut(side, per_side, step) for side, step in zip((width, height), steps, strict=True)):
            return per_side * per_side
    return 1


def _can_be_cut(side: int, num_slices: int, step: int) -> bool:
    last = side - side * (num_slices - 1) // num_slices
    return -(-side // step) >= num_slices and not (side % step and last % step == 0)


def codecs_for(container: str) -> list[str]:
    """Name the codecs a container holds."""
    return [name for name, facts in CODECS.items() if container in facts.containers]
