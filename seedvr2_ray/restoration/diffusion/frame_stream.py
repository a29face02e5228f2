"""Frames on their way through a restorer, one by one or in batches that suit the next step.

Shape letters: C channels, H height, W width.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import torch
from torch import Tensor

from seedvr2_ray.frames import Frames

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """A decoded frame on its way, at the source's size in host memory."""

    codes_CHW: Tensor
    pts: int
    time_base: Fraction


def split_frames(frames: Iterable[Frames]) -> Iterator[SourceFrame]:
    """Yield the frames of batches one by one."""
    for batch in frames:
        for codes_CHW, pts in zip(batch.data_TCHW, batch.pts, strict=True):
            yield SourceFrame(codes_CHW, pts, batch.time_base)


def copy_to(queue: deque[Item], items: Iterable[Item]) -> Iterator[Item]:
    """Pass items on, and leave each in a queue for somebody further down."""
    for item in items:
        queue.append(item)
        yield item


def batched(items: Iterable[Item], first: int, later: int) -> Iterator[list[Item]]:
    """Yield lists of ``first``, then of ``later`` items; the last may be shorter."""
    batch: list[Item] = []
    wanted = first
    for item in items:
        batch.append(item)
        if len(batch) == wanted:
            yield batch
            batch, wanted = [], later
    if batch:
        yield batch


def regroup(pieces: Iterator[Tensor], first: int, later: int) -> Iterator[Tensor]:
    """Cut a stream of tensors anew along its first dimension; the last piece may be shorter."""
    held: Tensor | None = None
    wanted = first
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece])
        while len(held) >= wanted:
            yield held[:wanted]
            held, wanted = held[wanted:], later
    if held is not None and len(held):
        yield held
