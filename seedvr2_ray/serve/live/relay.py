"""Between a caller's socket and the replica: bytes one way, fragments and news the other. Knows no Ray.

It outlives the socket, so that a caller whose connection broke goes on where it was, through whichever ingress; and it
has bounds, so that a caller who does not read, or sends too fast, fills no memory and holds no replica for long.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayLimits:
    """Bounds of one stream."""

    most_input_bytes: int = 8 << 20
    """Sent and not yet taken by the replica."""
    most_output_bytes: int = 32 << 20
    """Restored and not yet fetched."""
    most_kept_bytes: int = 16 << 20
    """Fetched, and kept for a caller who comes back."""
    grace_seconds: float = 10.0
    """How long a caller may be away."""
    stall_seconds: float = 30.0
    """How long a caller who is there may fetch nothing while the output is full, or send nothing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message to the caller: a fragment of the stream, or news as a mapping."""

    content: bytes | dict[str, Any]

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return len(self.content) if isinstance(self.content, bytes) else 200


class StreamRelay:
    """One stream. Every method is called by one event loop."""

    def __init__(self, owner: str, limits: RelayLimits) -> None:
        self._owner = owner
        self._limits = limits
        self._input: deque[bytes] = deque()
        self._input_bytes = 0
        self._num_received = 0
        self._input_is_over = False
        self._output: deque[Piece] = deque()
        self._first_kept = 0
        """Number of the oldest piece that is kept."""
        self._fetched = 0
        """Number of the first piece that nobody has fetched."""
        self._output_bytes = 0
        self._is_over = False
        self._why: str | None = None
        self._socket = 0
        """Counts the sockets: an older one that is still there must not take pieces from a newer one."""
        self._away_since: float | None = None
        self._changed = asyncio.Condition()

    async def attach(self, owner: str, after: int) -> tuple[int, int]:
        """A caller's socket is there.

        Args:
            after: how many pieces the caller has already.

        Returns:
            The number of the socket, to name in later calls, and how many bytes have been received.

        Raises:
            LookupError: it is somebody else's stream, or what is asked for is kept no more.
        """
        if owner != self._owner:
            raise LookupError("there is no such stream; it may have ended, or belong to another owner")
        if not self._first_kept <= after <= self._first_kept + len(self._output):
            raise LookupError(f"pieces after {after} are kept no more; start a new stream")
        self._socket += 1
        self._away_since = None
        self._fetched = after
        self._output_bytes = sum(piece.num_bytes for piece in self._unfetched())
        await self._notify()
        return self._socket, self._num_received

    async def detach(self, socket: int) -> None:
        """A socket has gone; its caller may come back for a while."""
        if socket == self._socket:
            self._away_since = time.monotonic()
            await self._notify()

    async def push(self, socket: int, data: bytes) -> bool:
        """Take bytes of the caller, when there is room; False when nobody wants any more."""
        await self._until(lambda: self._input_bytes < self._limits.most_input_bytes or not self._wants(socket), None)
        if not self._wants(socket):
            return False
        self._input.append(data)
        self._input_bytes += len(data)
        self._num_received += len(data)
        await self._notify()
        return True

    async def end_input(self) -> None:
        """The caller has sent everything."""
        self._input_is_over = True
        await self._notify()

    async def fetch(self, socket: int, timeout: float) -> tuple[list[bytes | dict[str, Any]], bool]:
        """Return the pieces that are new, and whether the stream is over with them."""
        await self._until(lambda: bool(self._unfetched()) or self._is_over or socket != self._socket, timeout)
        if socket != self._socket:
            return [], True
        pieces = self._unfetched()
        self._fetched += len(pieces)
        self._output_bytes = 0
        kept = sum(piece.num_bytes for piece in self._output)
        while self._first_kept < self._fetched and kept > self._limits.most_kept_bytes:
            kept -= self._output.popleft().num_bytes
            self._first_kept += 1
        await self._notify()
        return [piece.content for piece in pieces], self._is_over

    async def take(self) -> bytes:
        """Return what the caller has sent, for the replica; empty when it is over."""
        while not self._input and not (self._input_is_over or self._is_over):
            await self._await_input(self._away_since)
        data = b"".join(self._input)
        self._input.clear()
        self._input_bytes = 0
        await self._notify()
        return data

    async def give(self, content: bytes | dict[str, Any]) -> str | None:
        """Take a piece of the replica, when there is room.

        Returns:
            Why nobody wants it; None when it was taken.
        """
        seconds = self._limits.grace_seconds if self._away_since is not None else self._limits.stall_seconds
        ready = await self._until(lambda: self._output_bytes < self._limits.most_output_bytes or self._is_over, seconds)
        if not ready:
            await self.finish(
                f"nothing was read for {seconds:.0f} s, and what waits to be read has no room any more; "
                "read faster, or ask for a smaller resolution"
            )
        if self._is_over:
            return self._why or "the stream is over"
        piece = Piece(content)
        self._output.append(piece)
        self._output_bytes += piece.num_bytes
        await self._notify()
        return None

    async def finish(self, why: str | None = None) -> None:
        """End the stream; what is there can still be fetched."""
        if not self._is_over:
            self._is_over, self._input_is_over, self._why = True, True, why
            await self._notify()

    async def finish_with(self, last: dict[str, Any] | None) -> None:
        """End the stream with one last piece, which is taken however full it is."""
        if last is not None:
            self._output.append(Piece(last))
        self._is_over = self._input_is_over = True
        await self._notify()

    async def await_fetched(self, timeout: float) -> None:
        """Return when everything has been fetched, or nobody has come for the rest for so long."""
        await self._until(lambda: not self._unfetched(), timeout)

    def why(self) -> str | None:
        """Why the stream was ended from here, if it was."""
        return self._why

    async def _await_input(self, away: float | None) -> None:
        limits = self._limits
        left = limits.stall_seconds if away is None else away + limits.grace_seconds - time.monotonic()
        is_changed = left > 0 and await self._until(
            lambda: bool(self._input) or self._input_is_over or self._away_since != away, left
        )
        if not is_changed and away is None:
            await self.finish(f"nothing was sent for {left:.0f} s; send what there is as it comes, or end the stream")
        elif not is_changed:
            self._input_is_over = True

    def _wants(self, socket: int) -> bool:
        return socket == self._socket and not self._input_is_over and not self._is_over

    def _unfetched(self) -> list[Piece]:
        return list(self._output)[self._fetched - self._first_kept :]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, ready: Any, timeout: float | None) -> bool:
        async with self._changed:
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(ready)
            except TimeoutError:
                return bool(ready())
        return True
