"""Whoever guesses is made to wait."""

from __future__ import annotations

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from flowgate.rates.attempts import Attempts, network_of


class AttemptsTests(SynchronousTestCase):
    """The count of failures."""

    def test_a_minute(self) -> None:
        """After too many there is a wait; then it begins anew."""
        now = 0.0
        attempts = Attempts(lambda: now, 3, 60)
        self.assertEqual([attempts.add("a") for _ in range(2)], [True, False])
        self.assertEqual(attempts.wait("a"), 0)
        attempts.add("a")
        now = 20.0
        self.assertEqual((attempts.wait("a"), attempts.wait("b")), (40, 0))
        now = 60.0
        self.assertEqual(attempts.wait("a"), 0)
        self.assertTrue(attempts.add("a"))

    def test_bound(self) -> None:
        """The eldest is forgotten."""
        attempts = Attempts(lambda: 0.0, 1, 60)
        with mock.patch("flowgate.rates.attempts._REMEMBERED", 2):
            for who in "abc":
                attempts.add(who)
        self.assertEqual([bool(attempts.wait(who)) for who in "abc"], [False, True, True])

    def test_networks(self) -> None:
        """An address of IPv6 stands for its /64; one of IPv4 for itself, however it is written."""
        for address, network in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
            ("", ""),
            ("/var/run/socket", "/var/run/socket"),
        ):
            self.assertEqual(network_of(address), network)
