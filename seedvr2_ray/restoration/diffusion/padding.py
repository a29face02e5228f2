"""Filling clips up to the sizes a model accepts, and cutting the fill off again.

Shape letters: T frames, C channels, H height, W width.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor

from seedvr2_ray.restoration.planning.padding import SpatialPadding

Item = TypeVar("Item")


def pad_frames(frames_TCHW: Tensor, padding: SpatialPadding, black: float) -> Tensor:
    """Fill frames up below and to the right.

    Args:
        frames_TCHW: ``padding.height`` x ``padding.width``.
        padding: from :func:`plan_padding`.
        black: the number that means black: 0 in 0..1, -1 in -1..1.
    """
    if padding.mirrored_rows:
        rows = mirror_index(padding.height, padding.height + padding.mirrored_rows)
        frames_TCHW = frames_TCHW.index_select(2, rows.to(frames_TCHW.device))
    if padding.mirrored_columns:
        columns = mirror_index(padding.width, padding.width + padding.mirrored_columns)
        frames_TCHW = frames_TCHW.index_select(3, columns.to(frames_TCHW.device))
    if padding.black_rows or padding.black_columns:
        border = (0, padding.black_columns, 0, padding.black_rows)
        frames_TCHW = torch.nn.functional.pad(frames_TCHW, border, value=black)
    return frames_TCHW


def crop_frames(frames_TCHW: Tensor, padding: SpatialPadding) -> Tensor:
    """Cut off what :func:`pad_frames` added."""
    return frames_TCHW[..., : padding.height, : padding.width]


def mirror_index(length: int, padded_length: int) -> Tensor:
    """Return positions that run to the end and back, to the start and back, without repeating the ends."""
    if length == 1:
        return torch.zeros(padded_length, dtype=torch.long)
    period = 2 * (length - 1)
    position = torch.arange(padded_length) % period
    return torch.minimum(position, period - position)


def pad_in_time(
    items: Iterable[Item], num_items: int, temporal_stride: int, mode: Literal["mirror", "repeat"]
) -> Iterator[Item]:
    """Yield a clip's frames, then some again until there are ``temporal_stride * n + 1``.

    The VAE turns the first frame into a latent of its own and every following group into one more, so any other
    length would leave a group short. ``mirror`` runs backwards from the end, which keeps grain and motion
    natural; ``repeat`` holds the last frame, as the published script does.

    Args:
        items: the frames, in order; consumed as a stream.
        num_items: how many there are.
        temporal_stride: frames per latent.
        mode: what the fill consists of.

    Raises:
        ValueError: ``items`` did not hold ``num_items``.
    """
    tail: deque[Item] = deque(maxlen=temporal_stride)
    count = 0
    for item in items:
        count += 1
        tail.append(item)
        yield item
    if count != num_items or count == 0:
        raise ValueError(f"expected {num_items} frames, got {count}")
    missing = -(num_items - 1) % temporal_stride
    if mode == "repeat":
        yield from [tail[-1]] * missing
        return
    # The fill is shorter than the tail, so the positions it needs are all kept.
    first_kept = num_items - len(tail)
    for position in mirror_index(num_items, num_items + missing)[num_items:].tolist():
        yield tail[position - first_kept]
