"""Where webhooks may lead to: the public internet, and what the operator allows besides."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

_UNICAST: Final = IPv6Network("2000::/3")  # all that has been given to somebody so far, RFC 4291 section 2.4
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
# Written out beside what the standard library says, which differs between versions of Python: IANA's registries of
# special-purpose addresses.
_SPECIAL: Final = tuple(
    ip_network(one)
    for one in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)


class AddressPolicy:
    """Tells which addresses may be connected to.

    Refused is what is not public: private networks, this machine, the link (where clouds answer questions about
    credentials), shared and reserved ranges, multicast; and whatever leads to such an address by a detour: IPv4 in
    IPv6, NAT64, 6to4, Teredo.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Prepare.

        :param allowed: networks that may be connected to although they are not public.
        :raises ValueError: if one is none.
        """
        self._allowed: tuple[_Network, ...] = tuple(ip_network(one) for one in allowed)

    def allows(self, text: str) -> bool:
        """Whether the address ``text`` may be connected to; not if it is no address."""
        try:
            address: _Address = ip_address(text)
        except ValueError:
            return False
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                return False
            if address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            elif address in _NAT64:
                address = IPv4Address(int(address) & 0xFFFFFFFF)
        return any(address in network for network in self._allowed) or _public(address)


def _public(address: _Address) -> bool:
    if not address.is_global or any(address in network for network in _SPECIAL):
        return False
    return isinstance(address, IPv4Address) or address in _UNICAST
