"""Calls that start at the same moment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


def at_once(num: int, call: Callable[[int], T]) -> list[T]:
    """Call from many threads, all starting together."""
    gate = Barrier(num)

    def start(index: int) -> T:
        gate.wait(240)
        return call(index)

    with ThreadPoolExecutor(num) as pool:
        return list(pool.map(start, range(num)))
