"""A caller who goes on sending until he is answered. Not a test module."""

import socket
import time
from contextlib import suppress

_SECONDS = 120.0


def drip(connection: socket.socket, piece: bytes) -> bytes:
    """Send the same again and again until something is answered, and return that; empty where it is hung up."""
    connection.settimeout(0.1)
    limit = time.monotonic() + _SECONDS
    while time.monotonic() < limit:
        with suppress(ConnectionError):  # Who answers may hang up, and what was answered is there all the same.
            connection.sendall(piece)
        with suppress(TimeoutError):
            return connection.recv(65536)
    raise AssertionError(f"nothing was answered for {_SECONDS:g} s")
