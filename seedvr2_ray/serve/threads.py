"""Waiting for a database or a disk without keeping others waiting."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

Value = TypeVar("Value")


async def in_thread(
    function: Callable[..., Value], *values: Any, limiter: anyio.CapacityLimiter | None = None, **named: Any
) -> Value:
    """Call a function in a thread and return what it returns.

    Args:
        limiter: whose threads; by default those that everybody shares.
    """
    return await anyio.to_thread.run_sync(partial(function, *values, **named), limiter=limiter)
