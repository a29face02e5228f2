"""From the sizes of a packed batch to the index tensors that attention needs.

A batch is one sequence per modality: samples one after the other, each in T, Y, X order. For
attention, video tokens are put into window order, windows of one shape side by side; a plan
says how. It depends on integers only and is kept on the device between calls.

Shapes: L packed tokens, P rotated channel pairs.
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
class BandPlan:
    """Whole windows that are attended to at once."""

    windows: WindowBand
    rows_L: Tensor
    """Which packed video tokens the band holds, in window order."""
    rotation_rows_L: Tensor
    """For each of them its row in the plan's ``video_rotations_LP2``."""
    samples_L: Tensor | None
    """For each of them its sample; ``None`` when there is only one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackingPlan:
    """Everything about one layer parity that follows from the sizes of a batch."""

    bands: tuple[BandPlan, ...]
    inverse_L: Tensor
    """Where each packed video token stands in window order, bands joined."""
    video_samples_L: Tensor | None
    """Sample of each packed video token; ``None`` when there is only one."""
    text_samples_L: Tensor | None
    text_windows_L: Tensor
    """Per packed text token the number of windows of its sample, float32."""
    video_rotations_LP2: Tensor
    """Rotations of the tokens of every distinct window shape, cosines and sines in float32."""
    text_rotations_LP2: Tensor | None
    """Rotations of the packed text; ``None`` where text has no position."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Windows of one sample and one shape."""

    sample: int
    shape_TYX: Size
    spans: tuple[Span, ...]

    @property
    def window_tokens(self) -> int:
        frames, rows, columns = self.shape_TYX
        return frames * rows * columns


@lru_cache(maxsize=32)
def plan_packing(
    config: DiTConfig,
    grids: tuple[Size, ...],
    text_lengths: tuple[int, ...],
    *,
    shifted: bool,
    band_tokens: int,
    device: torch.device,
) -> PackingPlan:
    """Plan one layer parity of a packed batch, or return the plan made before for the same sizes.

    Args:
        grids: patched (T, Y, X) of every sample.
        band_tokens: about how many video tokens are attended to at once; a single window may exceed it.
    """
    windows = [plan_windows(grid, config.windows, shifted=shifted) for grid in grids]
    return pack_windows(config, windows, text_lengths, band_tokens=band_tokens, device=device)


def pack_windows(
    config: DiTConfig,
    windows: Sequence[WindowPlan],
    text_lengths: Sequence[int],
    *,
    band_tokens: int,
    device: torch.device,
) -> PackingPlan:
    """Build the index tensors for given windows, one plan per sample."""
    # A plan outlives the call that made it and may later meet autograd, which refuses inference tensors.
    with torch.inference_mode(False), torch.device("cpu"):
        sizes = [plan.size_TYX for plan in windows]
        starts = _starts([t * y * x for t, y, x in sizes])
        text_starts = _starts(text_lengths)
        groups = [group for sample, plan in enumerate(windows) for group in _group_by_shape(sample, plan)]
        table = _RotationTable(config)
        num_samples = len(windows)
        bands = []
        for band in _split_into_bands(groups, band_tokens):
            rows, rotation_rows, samples, batches = [], [], [], []
            for group in band:
                text_length = text_lengths[group.sample]
                rows.append(_token_rows(group, sizes[group.sample]) + starts[group.sample])
                rotation_rows.append(table.rows(group.shape_TYX, text_length).repeat(len(group.spans)))
                samples.append(torch.full((len(rows[-1]),), group.sample))
                batches.append(
                    WindowBatch(
                        num_windows=len(group.spans),
                        window_tokens=group.window_tokens,
                        text_start=text_starts[group.sample],
                        text_length=text_length,
                    )
                )
            bands.append(
                BandPlan(
                    windows=_window_band(tuple(batches), device),
                    rows_L=torch.cat(rows).to(device),
                    rotation_rows_L=torch.cat(rotation_rows).to(device),
                    samples_L=torch.cat(samples).to(device) if num_samples > 1 else None,
                )
            )
        text_rotations = torch.cat([rotation_table(text_angles(config, length)) for length in text_lengths])
        return PackingPlan(
            bands=tuple(bands),
            inverse_L=torch.cat([band.rows_L for band in bands]).argsort(),
            video_samples_L=_sample_of_token([t * y * x for t, y, x in sizes], device),
            text_samples_L=_sample_of_token(text_lengths, device),
            text_windows_L=_repeat([float(len(plan.spans)) for plan in windows], text_lengths).to(device),
            video_rotations_LP2=table.joined().to(device),
            text_rotations_LP2=text_rotations.to(device) if config.rope == "video_and_text" else None,
        )


class _RotationTable:
    """Collects the rotations of each distinct window once."""

    def __init__(self, config: DiTConfig) -> None:
        self._config = config
        self._starts: dict[tuple[Size, int], int] = {}
        self._parts: list[Tensor] = []
        self._length = 0

    def rows(self, shape_TYX: Size, text_length: int) -> Tensor:
        """Return the row numbers of a window's tokens."""
        key = (shape_TYX, text_length)
        num_tokens = shape_TYX[0] * shape_TYX[1] * shape_TYX[2]
        if key not in self._starts:
            self._starts[key] = self._length
            self._parts.append(rotation_table(video_angles(self._config, shape_TYX, text_length)))
            self._length += num_tokens
        return torch.arange(num_tokens) + self._starts[key]

    def joined(self) -> Tensor:
        return torch.cat(self._parts)


def _group_by_shape(sample: int, plan: WindowPlan) -> Iterator[_Group]:
    by_shape: dict[Size, list[Span]] = defaultdict(list)
    for span in plan.spans:
        t, y, x = span
        by_shape[len(t), len(y), len(x)].append(span)
    for shape, spans in by_shape.items():
        yield _Group(sample, shape, tuple(spans))


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
            piece = _Group(group.sample, group.shape_TYX, spans[:taken])
            spans = spans[taken:]
            band.append(piece)
            room -= len(piece.spans) * group.window_tokens
    if band:
        yield band


def _token_rows(group: _Group, size_TYX: Size) -> Tensor:
    """Return the rows of a group's tokens inside their sample, window by window."""
    _, height, width = size_TYX
    frames, rows, columns = group.shape_TYX
    local = (
        (torch.arange(frames)[:, None, None] * height + torch.arange(rows)[:, None]) * width + torch.arange(columns)
    ).reshape(-1)
    corners = torch.tensor([(t.start * height + y.start) * width + x.start for t, y, x in group.spans])
    return (corners[:, None] + local).reshape(-1)


def _window_band(batches: tuple[WindowBatch, ...], device: torch.device) -> WindowBand:
    video = [batch.window_tokens for batch in batches for _ in range(batch.num_windows)]
    joint = [batch.joint_length for batch in batches for _ in range(batch.num_windows)]
    return WindowBand(batches=batches, video_ends_W=_ends(video, device), joint_ends_W=_ends(joint, device))


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)


def _starts(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[:index]) for index in range(len(lengths))]


def _sample_of_token(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    if len(lengths) == 1:
        return None
    return _repeat(range(len(lengths)), lengths).to(device)


def _repeat(values: Sequence[int] | Sequence[float], lengths: Sequence[int]) -> Tensor:
    return torch.tensor(list(values)).repeat_interleave(torch.tensor(list(lengths)))
