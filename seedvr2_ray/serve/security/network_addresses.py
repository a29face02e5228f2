"""Which addresses of the Internet Protocol the service may connect to on behalf of a caller. Pure."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' translation; some clouds keep metadata here
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host, reachable from every machine there
        "169.254.0.0/16",  # link-local; clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; metadata of one cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
"""What is assigned as global unicast. Loopback, unique-local, link-local, multicast and NAT64 lie outside."""
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments; Teredo holds IPv4 addresses
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 holds IPv4 addresses
        "3fff::/20",  # documentation
    )
)
_ISATAP = (0x00005EFE, 0x02005EFE)


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read networks in CIDR notation.

    Raises:
        ValueError: one is none.
    """
    return _parsed(tuple(texts))


@lru_cache(maxsize=64)
def _parsed(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def parse_address(text: str) -> Address:
    """Read an address; an IPv4 address written as an IPv6 one becomes what it stands for.

    Raises:
        ValueError: it is none.
    """
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def is_public(address: Address) -> bool:
    """Say whether an address belongs to the public Internet, and can lead nowhere else."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address.scope_id is not None or address not in _PUBLIC_V6:
        return False
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(address in network for network in _NOT_PUBLIC_V6)


def is_allowed(address: Address, allow_private: Iterable[str]) -> bool:
    """Say whether the service may connect to an address.

    Args:
        allow_private: networks that are allowed although they are not public.
    """
    plain = parse_address(str(address))
    return is_public(plain) or any(plain in network for network in parse_networks(allow_private))


def matches_host(host: str, patterns: Iterable[str]) -> bool:
    """Say whether a host's name is among those of a list.

    Args:
        host: as a parsed URL gives it.
        patterns: names; ``*.example.org`` stands for everything below, not for ``example.org`` itself.
    """
    name = host.lower().rstrip(".")
    for pattern in patterns:
        wanted = pattern.lower().rstrip(".")
        if wanted.startswith("*."):
            if name.endswith(wanted[1:]) and len(name) > len(wanted) - 1:
                return True
        elif name == wanted:
            return True
    return False
