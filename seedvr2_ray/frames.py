"""Decoded pictures as values, and the facts that travel with them.

Shape letters used across the project: T frames, C channels, H height, W width.

torch is imported where pictures are counted in, not with this module: who only plans or probes has no pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CODES = ("torch.uint8", "torch.uint16")


@dataclass(frozen=True, slots=True)
class ColourTags:
    """How a decoder's numbers become light: FFmpeg's names of the ITU-T H.273 code points."""

    primaries: str = "unknown"
    """``bt709``, ``smpte170m``, ``bt470bg``, ``bt2020`` ..."""
    transfer: str = "unknown"
    """``bt709``, ``smpte2084`` (PQ), ``arib-std-b67`` (HLG), ``iec61966-2-1`` (sRGB) ..."""
    matrix: str = "unknown"
    """``bt709``, ``smpte170m``, ``bt470bg``, ``bt2020nc``, ``rgb`` ..."""
    full_range: bool = False
    """True when black is 0 and white is the highest code (JPEG range)."""


@dataclass(frozen=True, slots=True)
class FrameSpan:
    """Consecutive frames in display order: what a segment asks the decoder for."""

    start: int
    """Number of the first frame in the file, counted from 0 in display order."""
    pts: tuple[int, ...]
    """Presentation time of every frame in units of the video stream's time base, increasing."""

    @property
    def stop(self) -> int:
        """Number of the first frame after the span."""
        return self.start + len(self.pts)

    def __len__(self) -> int:
        return len(self.pts)


@dataclass(frozen=True, slots=True)
class Frames:
    """Consecutive decoded frames and what is needed to write them back."""

    data_TCHW: Tensor
    """R'G'B' or R'G'B'A as the transfer function left it: uint8, or uint16 spread over 0..65535."""
    pts: tuple[int, ...]
    """Presentation times in units of ``time_base``, one per frame, strictly increasing."""
    time_base: Fraction
    """Seconds per tick."""

    def __post_init__(self) -> None:
        if self.data_TCHW.ndim != 4 or self.data_TCHW.shape[1] not in (3, 4):
            raise ValueError(f"frames must be T x 3|4 x H x W, got {tuple(self.data_TCHW.shape)}")
        if str(self.data_TCHW.dtype) not in _CODES:
            raise ValueError(f"frames must be uint8 or uint16, got {self.data_TCHW.dtype}")
        if len(self.pts) != len(self.data_TCHW):
            raise ValueError(f"got {len(self.data_TCHW)} frames but {len(self.pts)} timestamps")
        if any(late <= early for early, late in zip(self.pts, self.pts[1:], strict=False)):
            raise ValueError(f"timestamps must increase strictly, got {self.pts[:8]}...")

    def __len__(self) -> int:
        return len(self.pts)


def to_unit_range(frames_TCHW: Tensor) -> Tensor:
    """Turn uint8 or uint16 codes into float32 in 0..1."""
    import torch

    peak = 255.0 if frames_TCHW.dtype == torch.uint8 else 65535.0
    return frames_TCHW.to(torch.float32).div_(peak)


def all_finite(values: Tensor) -> Tensor:
    """Return one boolean where the values are: whether none is NaN or infinite. Waits for no device."""
    import torch

    # NaN goes through a minimum and a maximum, and neither needs memory of the values' size.
    if not values.numel():  # a rank that was left without frames
        return torch.ones((), dtype=torch.bool, device=values.device)
    lowest, highest = torch.aminmax(values)
    return torch.isfinite(lowest) & torch.isfinite(highest)


def to_codes(frames_TCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """Round values in 0..1 (clamped) to uint8 or uint16 codes; the opposite of :func:`to_unit_range`.

    Raises:
        ValueError: a value is NaN, which would become black without a word, or infinite. Whoever knows where
            values come from looks for these before, and can say more.
    """
    import torch

    if not bool(all_finite(frames_TCHW)):
        raise ValueError("values that are NaN or infinite have no codes")
    peak = 255.0 if dtype == torch.uint8 else 65535.0
    scaled = frames_TCHW.to(torch.float32).clamp(0.0, 1.0).mul_(peak).round_()
    # No kernel casts float to uint16 on every device; int32 does, and holds all its values.
    return scaled.to(torch.uint8) if dtype == torch.uint8 else scaled.to(torch.int32).to(dtype)
