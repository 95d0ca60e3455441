"""Which addresses webhooks may lead to."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.webhooks.addresses import AddressPolicy

PUBLIC = ("93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822", "2a00:1450::1")

REFUSED = {
    "this machine": ("127.0.0.1", "127.8.9.1", "::1", "0.0.0.0", "::"),
    "private": ("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fc00::1", "fec0::1"),
    "link and metadata": ("169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0", "fd00:ec2::254"),
    "shared and reserved": (
        "100.64.0.1",
        "100.127.255.255",
        "192.0.0.8",
        "192.88.99.1",
        "198.18.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ),
    "documentation": ("3fff::1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"),
    "multicast": ("224.0.0.1", "239.1.1.1", "ff02::1", "ff0e::1"),
    "IPv4 in IPv6": ("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
    "tunnels": ("2002:7f00:1::1", "2002:a9fe:a9fe::", "2001:0:5db8:d822::1"),
    "not given to anybody": ("4000::1", "1000::1"),
    "no address": ("", "localhost", "example.org", "0x7f.1", "2130706433", "127.1", "1.2.3.4/32", "[::1]"),
}


class AddressTests(SynchronousTestCase):
    """:class:`AddressPolicy`."""

    def test_public(self) -> None:
        """Public addresses are allowed, also in the forms in which IPv6 carries IPv4."""
        policy = AddressPolicy()
        for address in PUBLIC:
            self.assertTrue(policy.allows(address), address)

    def test_refused(self) -> None:
        """What is not public is refused, and each detour that leads there."""
        policy = AddressPolicy()
        for kind, addresses in REFUSED.items():
            for address in addresses:
                self.assertFalse(policy.allows(address), (kind, address))

    def test_allowed(self) -> None:
        """Networks that the operator names are allowed, and nothing besides."""
        policy = AddressPolicy(["10.1.0.0/16", "fd00:1::/32", "127.0.0.1"])
        for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", "127.0.0.1", "1.1.1.1"):
            self.assertTrue(policy.allows(address), address)
        for address in ("10.2.0.1", "fd00:2::5", "127.0.0.2"):
            self.assertFalse(policy.allows(address), address)

    def test_no_network(self) -> None:
        """What is no network is not taken for one."""
        for text in ("10.1.2.3/16", "localhost", ""):
            self.assertRaises(ValueError, AddressPolicy, [text])
