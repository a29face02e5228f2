"""Ports for servers that must be told where to listen before they do. Not a test module."""

import random
import socket
from contextlib import suppress

# Below what Linux gives to connections and to port 0 (32768 and more, of which other tests use hundreds at a time),
# above what Ray gives to its workers, and without the 30000 of Serve's ingress: who is told one of these finds it free.
_PORTS = range(20_000, 30_000)
_chance = random.SystemRandom()  # Processes side by side ask too, and a test may have seeded the other one.
_given: set[int] = set()


def free_port() -> int:
    """Return a port of loopback that nobody has, for TCP or UDP, and that nobody is given soon."""
    for _ in range(1000):
        port = _chance.choice(_PORTS)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port was found between {_PORTS.start} and {_PORTS.stop}")


def is_listening(port: int) -> bool:
    """Say whether somebody takes connections at a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with suppress(OSError):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.bind(("127.0.0.1", port))
        return True
    return False
