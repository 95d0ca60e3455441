"""Lock-out."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.dashboard import attempts
from flowgate.dashboard.attempts import FORGOTTEN_SECONDS, LOGIN, LONGEST_SECONDS, NETWORK, PAIR, Attempts
from flowgate.errors import RateLimited


class AttemptTests(SynchronousTestCase):
    """What failures cost."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.attempts = Attempts(self.clock.seconds)

    def wait(self, login: str = "alice", address: str = "10.0.0.1", device: str = "") -> int:
        """Fail once more; return the seconds to wait before that, 0 if it was an attempt."""
        try:
            self.attempts.begin(login, address, device)
        except RateLimited as refusal:
            assert refusal.retry_after is not None
            return refusal.retry_after
        return 0

    def fail(self, count: int, login: str = "alice", address: str = "10.0.0.1") -> None:  # type: ignore[override]
        for _ in range(count):
            self.assertEqual(self.wait(login, address), 0)

    def test_growing(self) -> None:
        """After five failures there is a wait, which doubles with each failure more."""
        self.fail(PAIR)
        for seconds in (2, 4, 8, 16):
            self.assertEqual(self.wait(), seconds)
            self.clock.advance(seconds - 0.5)
            self.assertEqual(self.wait(), 1)
            self.clock.advance(0.5)
            self.fail(1)

    def test_refused_ones_are_not_counted(self) -> None:
        """Whoever comes too early waits no longer for that."""
        self.fail(PAIR)
        self.assertEqual([self.wait() for _ in range(10)], [2] * 10)

    def test_longest(self) -> None:
        """No wait is longer than a quarter of an hour."""
        self.fail(PAIR)
        for _ in range(40):
            self.clock.advance(self.wait())
            self.fail(1)
        self.assertEqual(self.wait(), LONGEST_SECONDS)

    def test_others(self) -> None:
        """Another login, and the same one from elsewhere, go on."""
        self.fail(PAIR)
        self.assertEqual(self.wait("bob"), 0)
        self.assertEqual(self.wait("alice", "10.0.0.2"), 0)

    def test_many_logins_from_one_address(self) -> None:
        """An address that tries many logins has to wait for all of them."""
        for number in range(NETWORK):
            self.fail(1, f"user-{number}")
        self.assertEqual(self.wait("another"), 2)
        self.assertEqual(self.wait("another", "10.0.0.2"), 0)

    def test_many_addresses(self) -> None:
        """A login that is tried from many addresses can be tried by nobody for a while."""
        for number in range(LOGIN):
            self.fail(1, address=f"10.0.1.{number}")
        self.assertEqual(self.wait(address="10.9.9.9"), 2)
        self.assertEqual(self.wait("bob", "10.9.9.9"), 0)

    def test_household(self) -> None:
        """Addresses of one IPv6 network are one: who has 2**64 of them guesses no faster."""
        for number in range(PAIR):
            self.fail(1, address=f"2001:db8:1:2::{number:x}")
        self.assertEqual(self.wait(address="2001:db8:1:2:ffff::1"), 2)
        self.assertEqual(self.wait(address="2001:db8:1:3::1"), 0)

    def test_known_browser(self) -> None:
        """Nobody else's failures keep out a browser that has signed in before, and its own keep out nobody else."""
        for number in range(LOGIN):
            self.fail(1, address=f"10.0.1.{number}")
        for number in range(NETWORK):
            self.fail(1, f"user-{number}")
        self.assertEqual(self.wait(), 2)
        for _ in range(PAIR):
            self.assertEqual(self.wait(device="d"), 0)
        self.assertEqual(self.wait(device="d"), 2)
        self.assertEqual(self.wait("bob", device="d"), 0)
        self.clock.advance(2)
        self.assertEqual(self.wait(address="10.9.9.9"), 0)

    def test_not_made(self) -> None:
        """An attempt whose password nobody looked at is none."""
        for _ in range(2 * PAIR):
            self.attempts.begin("alice", "10.0.0.1").not_made()
        self.fail(PAIR)
        self.assertEqual(self.wait(), 2)

    def test_no_address(self) -> None:
        """Behind a Unix socket, where nobody has an address, each count is still one of its own."""
        self.fail(PAIR, address="")
        self.assertEqual(self.wait(address=""), 2)
        for number in range(NETWORK - PAIR):
            self.fail(1, f"user-{number}", address="")
        self.assertEqual(self.wait("another", address=""), 2)

    def test_success(self) -> None:
        """The right password begins anew for that login there; it does not forgive what others did."""
        self.fail(PAIR - 1)
        self.fail(1)
        self.clock.advance(2)
        self.attempts.begin("alice", "10.0.0.1").succeeded()
        self.fail(PAIR)
        self.assertEqual(self.wait(), 2)
        for number in range(NETWORK - 2 * PAIR):
            self.fail(1, f"user-{number}")
        self.assertEqual(self.wait("another"), 2)

    def test_forgotten(self) -> None:
        """After an hour without a failure it begins anew."""
        self.fail(PAIR)
        self.clock.advance(FORGOTTEN_SECONDS + 1)
        self.fail(PAIR)

    def test_bounded(self) -> None:
        """Of too many the oldest is forgotten."""
        self.patch(attempts, "REMEMBERED", 10)
        self.fail(PAIR)
        for number in range(10):
            self.fail(1, f"user-{number}", f"10.0.2.{number}")
        self.fail(1)
