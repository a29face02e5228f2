"""Laws of addresses: nothing that leads inside counts as public, in whatever notation."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedvr2_ray.serve.security.network_addresses import is_allowed, is_public, matches_host, parse_address

INSIDE_V4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4"),
    *("240.0.0.0/4", "168.63.129.16/32"),
]
INSIDE_V6 = ["::/127", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "2001:db8::/32", "100::/64", "64:ff9b:1::/48"]


def _in(networks: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(networks).flatmap(lambda text: st.ip_addresses(network=ipaddress.ip_network(text)).map(str))


@pytest.mark.slow
@given(_in(INSIDE_V4 + INSIDE_V6))
def test_no_address_of_a_special_range_is_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    assert not is_allowed(ipaddress.ip_address(text), ())


@pytest.mark.slow
@given(_in(INSIDE_V4))
def test_an_inner_address_inside_an_ipv6_one_is_not_public_either(text: str) -> None:
    inner = int(ipaddress.IPv4Address(text))
    for disguised in (
        ipaddress.IPv6Address(0xFFFF << 32 | inner),  # mapped
        ipaddress.IPv6Address(inner),  # compatible
        ipaddress.IPv6Address(0x0064FF9B << 96 | inner),  # NAT64
        ipaddress.IPv6Address(0x2002 << 112 | inner << 80),  # 6to4
        ipaddress.IPv6Address(0x20010000 << 96 | inner << 64),  # Teredo: the server
        ipaddress.IPv6Address(0x20010000 << 96 | inner ^ 0xFFFFFFFF),  # Teredo: the client
        ipaddress.IPv6Address(0x2A00 << 112 | 0x5EFE << 32 | inner),  # ISATAP
    ):
        assert not is_allowed(disguised, ()), disguised


@given(st.ip_addresses())
def test_what_is_public_here_is_public_to_the_standard_library_too(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if is_public(address):
        plain = parse_address(str(address))
        assert plain.is_global
        assert not (plain.is_private or plain.is_loopback or plain.is_link_local)
        assert not (plain.is_multicast or plain.is_reserved or plain.is_unspecified)


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "100.63.255.255"])
def test_ordinary_addresses_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.slow
@given(_in(["10.0.0.0/8"]), _in(["127.0.0.0/8", "169.254.0.0/16", "fd00::/8"]))
def test_an_exception_opens_its_own_network_only(inside: str, outside: str) -> None:
    assert is_allowed(ipaddress.ip_address(inside), ("10.0.0.0/8",))
    assert is_allowed(ipaddress.ip_address(f"::ffff:{inside}"), ("10.0.0.0/8",))
    assert not is_allowed(ipaddress.ip_address(outside), ("10.0.0.0/8",))


def test_a_link_local_address_with_a_zone_is_refused_and_not_misread() -> None:
    assert not is_allowed(ipaddress.ip_address("fe80::1%eth0"), ())
    assert not is_allowed(ipaddress.ip_address("2606:4700::1%eth0"), ())


@pytest.mark.parametrize(
    ("host", "matches"),
    [
        ("media.example.org", True),
        ("MEDIA.example.ORG.", True),
        ("a.b.example.org", True),
        ("example.org", False),
        (".example.org", False),
        ("evilexample.org", False),
        ("example.org.evil.net", False),
        ("files.example.net", True),
        ("x.files.example.net", False),
    ],
)
def test_a_wildcard_stands_for_everything_below_a_name_and_nothing_else(host: str, matches: bool) -> None:
    assert matches_host(host, ("*.example.org", "files.example.net")) is matches
