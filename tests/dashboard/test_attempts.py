"""Lock-out."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.dashboard import attempts
from flowgate.dashboard.attempts import ADDRESS, FORGOTTEN_SECONDS, LOGIN, LONGEST_SECONDS, PAIR, Attempts
from flowgate.errors import RateLimited


class AttemptTests(SynchronousTestCase):
    """What failures cost."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.attempts = Attempts(self.clock.seconds)

    def wait(self, login: str = "alice", address: str = "10.0.0.1") -> int:
        """Fail once more; return the seconds to wait before that, 0 if it was an attempt."""
        try:
            self.attempts.check(login, address)
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
        for number in range(ADDRESS):
            self.fail(1, f"user-{number}")
        self.assertEqual(self.wait("another"), 2)
        self.assertEqual(self.wait("another", "10.0.0.2"), 0)

    def test_many_addresses(self) -> None:
        """A login that is tried from many addresses can be tried by nobody for a while."""
        for number in range(LOGIN):
            self.fail(1, address=f"10.0.1.{number}")
        self.assertEqual(self.wait(address="10.9.9.9"), 2)
        self.assertEqual(self.wait("bob", "10.9.9.9"), 0)

    def test_success(self) -> None:
        """The right password begins anew for that login there; it does not forgive what others did."""
        self.fail(PAIR - 1)
        self.fail(1)
        self.clock.advance(2)
        self.fail(1)
        self.attempts.succeeded("alice", "10.0.0.1")
        self.fail(PAIR)
        self.assertEqual(self.wait(), 2)
        for number in range(ADDRESS - 2 * PAIR):
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
