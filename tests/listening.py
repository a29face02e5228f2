"""Which sockets a process and its descendants listen on, from /proc."""

import ipaddress
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.processes import descendants

_LISTENING = "0A"


@dataclass(frozen=True, order=True)
class Listener:
    """A TCP socket that takes connections."""

    address: str
    port: int
    command: str

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        found = ipaddress.ip_address(self.address)
        mapped = getattr(found, "ipv4_mapped", None)
        return (mapped or found).is_loopback


def listeners_of(pid: int) -> set[Listener]:
    """Return what a process and its descendants listen on."""
    owners: dict[str, str] = {}
    for each in descendants(pid):
        with suppress(OSError):
            command = Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:80].strip()
            for link in Path(f"/proc/{each}/fd").iterdir():
                with suppress(OSError):
                    name = os.readlink(link)
                    if name.startswith("socket:["):
                        owners.setdefault(name[8:-1], command)
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in owners:
                address, _, port = fields[1].partition(":")
                found.add(Listener(_address(address), int(port, 16), owners[fields[9]]))
    return found


def own_address() -> str | None:
    """Return an address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Nothing is sent: this only chooses a way.
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if ipaddress.ip_address(address).is_loopback else address


def accepts(address: str, port: int) -> bool:
    """Say whether somebody takes a connection there."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


def _address(digits: str) -> str:
    """The kernel prints addresses as 32-bit words in the order of the machine."""
    words = [struct.pack("=I", int(digits[start : start + 8], 16)) for start in range(0, len(digits), 8)]
    return str(ipaddress.ip_address(b"".join(words)))
