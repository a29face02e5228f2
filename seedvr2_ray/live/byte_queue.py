"""Bytes on their way from whoever receives them to a demuxer that reads a file."""

import threading
from collections import deque


class ByteQueue:
    """A pipe inside a process, with room for so many bytes, whose reader waits and whose writer is told to."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self._changed = threading.Condition()

    def write(self, data: bytes, timeout: float | None = None) -> bool:
        """Put bytes in, waiting for room.

        Returns:
            Whether they are in; not after so many seconds without room, nor once the queue is closed.
        """
        if not data:
            return True
        with self._changed:
            # One piece may be larger than all the room.
            ready = self._changed.wait_for(lambda: self._closed or self._size < self._most, timeout)
            if not ready or self._closed:
                return False
            self._chunks.append(data)
            self._size += len(data)
            self._changed.notify_all()
        return True

    def read(self, most: int = -1) -> bytes:
        """Take what is there, waiting for something; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._closed)
            if not self._chunks:
                return b""
            chunk = self._chunks.popleft()
            if 0 <= most < len(chunk):
                self._chunks.appendleft(chunk[most:])
                chunk = chunk[:most]
            self._size -= len(chunk)
            self._changed.notify_all()
            return chunk

    def close(self) -> None:
        """End it: what is in it can still be read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be put in."""
        return self._closed

    def peek(self, least: int) -> bytes:
        """Wait for so many bytes, or for the end, and look at what is there without taking it."""
        with self._changed:
            self._changed.wait_for(lambda: self._size >= least or self._closed)
            return b"".join(self._chunks)
