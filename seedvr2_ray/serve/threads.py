"""Waiting for a database or a disk without keeping others waiting."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

Value = TypeVar("Value")


async def in_thread(
    function: Callable[..., Value], *values: Any, limiter: anyio.CapacityLimiter | None = None, **named: Any
) -> Value:
    """Call a function in a thread and return what it returns. Whoever is cancelled meanwhile goes on when it has ended.

    So nothing is cleaned up, given back or told while a thread is still at it. Ray Serve ends the request of a caller
    who has gone by cancelling its task, from which anyio shields nothing: only from the cancellation of its own scopes.

    Args:
        limiter: whose threads; by default those that everybody shares.
    """
    work = asyncio.ensure_future(anyio.to_thread.run_sync(partial(function, *values, **named), limiter=limiter))
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error
    failure = work.exception()
    if cancelled is not None:
        raise cancelled
    if failure is not None:
        raise failure
    return work.result()
