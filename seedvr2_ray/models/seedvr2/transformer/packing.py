"""From the size of a clip to the index tensors that attention needs.

Video tokens of a clip are in T, Y, X order. For attention they are put into window order, windows of one shape
side by side; a plan says how. It depends on integers only and is kept on the device between calls.

Shapes: L tokens, P rotated channel pairs.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from seedvr2_ray.models.attention import WindowBand, WindowBatch
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.rope import rotation_table, text_angles, video_angles
from seedvr2_ray.models.seedvr2.transformer.windows import Span, WindowPlan, plan_windows

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandRanks:
    """How a band's tokens are spread over ranks that exchange heads."""

    counts: tuple[int, ...]
    """Tokens of each rank."""
    order_L: Tensor
    """The band's tokens, rank by rank; each rank's are in window order."""
    places_L: Tensor
    """For each token in window order, where it stands among those."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandPlan:
    """Whole windows that are attended to at once."""

    windows: WindowBand
    rows_L: Tensor
    """Which of the video tokens that are here the band holds, in window order."""
    rotation_rows_L: Tensor
    """For each of them its row in the plan's ``video_rotations_LP2``."""
    ranks: BandRanks | None = None
    """Where other ranks hold the band's other tokens."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackingPlan:
    """Everything about one layer parity that follows from the size of a clip and the length of its text."""

    bands: tuple[BandPlan, ...]
    inverse_L: Tensor
    """Where each video token stands in window order, bands joined."""
    text_windows_L: Tensor
    """Per text token the number of windows, float32."""
    video_rotations_LP2: Tensor
    """Rotations of the tokens of every distinct window shape, cosines and sines in float32."""
    text_rotations_LP2: Tensor | None
    """Rotations of the text; ``None`` where text has no position."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Windows of one shape."""

    shape_TYX: Size
    spans: tuple[Span, ...]

    @property
    def window_tokens(self) -> int:
        frames, rows, columns = self.shape_TYX
        return frames * rows * columns


@lru_cache(maxsize=32)
def plan_packing(
    config: DiTConfig,
    grid: Size,
    text_length: int,
    *,
    shifted: bool,
    band_tokens: int,
    device: torch.device,
) -> PackingPlan:
    """Plan one layer parity of a clip, or return the plan made before for the same size.

    Args:
        grid: patched (T, Y, X).
        band_tokens: about how many video tokens are attended to at once; a single window may exceed it.
    """
    windows = plan_windows(grid, config.windows, shifted=shifted)
    return pack_windows(config, windows, text_length, band_tokens=band_tokens, device=device)


def pack_windows(
    config: DiTConfig, windows: WindowPlan, text_length: int, *, band_tokens: int, device: torch.device
) -> PackingPlan:
    """Build the index tensors for given windows."""
    # A plan outlives the call that made it and may later meet autograd, which refuses inference tensors.
    with torch.inference_mode(False), torch.device("cpu"):
        table = _RotationTable(config, text_length)
        bands = []
        # A rank may be left without windows: then there is one band without any.
        for band in list(_split_into_bands(list(_group_by_shape(windows)), band_tokens)) or [[]]:
            batches = tuple(
                WindowBatch(
                    num_windows=len(group.spans),
                    window_tokens=group.window_tokens,
                    text_start=0,
                    text_length=text_length,
                )
                for group in band
            )
            rotation_rows = [table.rows(group.shape_TYX).repeat(len(group.spans)) for group in band]
            bands.append(
                BandPlan(
                    windows=_window_band(batches, device),
                    rows_L=_joined([_token_rows(group, windows.size_TYX) for group in band]).to(device),
                    rotation_rows_L=_joined(rotation_rows).to(device),
                )
            )
        text_rotations_LP2 = rotation_table(text_angles(config, text_length))
        return PackingPlan(
            bands=tuple(bands),
            inverse_L=torch.cat([band.rows_L for band in bands]).argsort(),
            text_windows_L=torch.full((text_length,), float(len(windows.spans))).to(device),
            video_rotations_LP2=table.joined().to(device),
            text_rotations_LP2=text_rotations_LP2.to(device) if config.rope == "video_and_text" else None,
        )


class _RotationTable:
    """Collects the rotations of each distinct window once."""

    def __init__(self, config: DiTConfig, text_length: int) -> None:
        self._config = config
        self._text_length = text_length
        self._starts: dict[Size, int] = {}
        self._parts: list[Tensor] = []
        self._length = 0

    def rows(self, shape_TYX: Size) -> Tensor:
        """Return the row numbers of a window's tokens."""
        num_tokens = shape_TYX[0] * shape_TYX[1] * shape_TYX[2]
        if shape_TYX not in self._starts:
            self._starts[shape_TYX] = self._length
            self._parts.append(rotation_table(video_angles(self._config, shape_TYX, self._text_length)))
            self._length += num_tokens
        return torch.arange(num_tokens) + self._starts[shape_TYX]

    def joined(self) -> Tensor:
        return torch.cat(self._parts) if self._parts else torch.zeros(0, self._config.head_dim // 2, 2)


def _group_by_shape(plan: WindowPlan) -> Iterator[_Group]:
    by_shape: dict[Size, list[Span]] = defaultdict(list)
    for span in plan.spans:
        t, y, x = span
        by_shape[len(t), len(y), len(x)].append(span)
    for shape, spans in by_shape.items():
        yield _Group(shape, tuple(spans))


def _split_into_bands(groups: Sequence[_Group], band_tokens: int) -> Iterator[list[_Group]]:
    """Fill bands with whole windows; the groups keep their order."""
    band: list[_Group] = []
    room = band_tokens
    for group in groups:
        spans = group.spans
        while spans:
            if room < group.window_tokens and band:
                yield band
                band, room = [], band_tokens
            taken = max(room // group.window_tokens, 1)
            piece = _Group(group.shape_TYX, spans[:taken])
            spans = spans[taken:]
            band.append(piece)
            room -= len(piece.spans) * group.window_tokens
    if band:
        yield band


def _token_rows(group: _Group, size_TYX: Size) -> Tensor:
    """Return the rows of a group's tokens, window by window."""
    _, height, width = size_TYX
    frames, rows, columns = group.shape_TYX
    local = (
        (torch.arange(frames)[:, None, None] * height + torch.arange(rows)[:, None]) * width + torch.arange(columns)
    ).reshape(-1)
    corners = torch.tensor([(t.start * height + y.start) * width + x.start for t, y, x in group.spans])
    return (corners[:, None] + local).reshape(-1)


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(rows)) if rows else torch.zeros(0, dtype=torch.int64)


def _window_band(batches: tuple[WindowBatch, ...], device: torch.device) -> WindowBand:
    video = [batch.window_tokens for batch in batches for _ in range(batch.num_windows)]
    joint = [batch.joint_length for batch in batches for _ in range(batch.num_windows)]
    return WindowBand(batches=batches, video_ends_W=_ends(video, device), joint_ends_W=_ends(joint, device))


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)
