"""Ranks of a gang as threads of one process: the same collectives over queues, for tests that should be quick."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Queue
from typing import TypeVar

import torch
from torch import Tensor

from seedvr2_ray.models.parallel import SequenceParallel

Result = TypeVar("Result")


class ThreadRank(SequenceParallel):
    """A rank whose others are threads beside it."""

    def __init__(self, rank: int, size: int, boxes: dict[tuple[int, int], "Queue[Tensor]"]) -> None:
        super().__init__(rank, size)
        self._boxes = boxes

    def _swap(self, pieces: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        others = [other for other in range(self.size) if other != self.rank]
        for other in others:
            if pieces[other].numel():
                self._boxes[self.rank, other].put(pieces[other].clone())
        for other in others:
            if received[other].numel():
                came = self._boxes[other, self.rank].get(timeout=60)
                assert came.shape == received[other].shape
                assert came.dtype == received[other].dtype
                received[other].copy_(came)


def run_ranks(size: int, work: Callable[[SequenceParallel], Result]) -> list[Result]:
    """Do the same work on every rank at once, without gradients; return what each of them made."""
    boxes: dict[tuple[int, int], Queue[Tensor]] = {(a, b): Queue() for a in range(size) for b in range(size)}

    def run(rank: int) -> Result:
        with torch.inference_mode():
            return work(ThreadRank(rank, size, boxes))

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    # The others only waited in vain for a rank that failed.
    for error in sorted(errors, key=lambda error: isinstance(error, Empty)):
        raise error
    results = [future.result() for future in futures]
    assert all(box.empty() for box in boxes.values()), "something was sent that nobody took"
    return results
