"""Waiting for what others do. Not a test module."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], what: str, seconds: float = 240.0) -> Found:
    """Wait until something holds, and return what was found; fail when it takes too long."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)
    return found


async def within(seconds: float, awaited: Awaitable[Found]) -> Found:
    """Wait for something of an event loop; fail when it takes too long."""
    async with asyncio.timeout(seconds):
        return await awaited
