"""Clients that are far from any bound take the short way, and it is the same for them."""

from __future__ import annotations

import random
from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.rates.account import AccountRates, Pace
from flowgate.rates.plan import RateLimits

LIMITS = RateLimits(publish_rate=100, bytes_rate=1000, key_publish_rate=50)


class AtOnceTests(SynchronousTestCase):
    """Taking all of some messages at once, or none."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.make(LIMITS)

    def make(self, limits: RateLimits) -> None:
        self.account = AccountRates(limits, self.clock.seconds)
        self.pace = Pace(self.account, "k")

    def take(self, count: int, size: int = 0, pace: Pace | None = None) -> bool:
        return (pace or self.pace).take_all(count, size, self.clock.seconds())

    def left(self) -> list[int]:
        return [one.remaining for one in self.pace.standings()]

    def test_plenty(self) -> None:
        """What is taken is missing in every bucket, and was wanted."""
        self.assertTrue(self.take(10, 300))
        self.assertTrue(self.take(5, 100))
        self.assertEqual((self.left(), self.account.wanted), ([85, 600, 35], 15))

    def test_not_enough(self) -> None:
        """Where one bucket has too little nothing is taken of any."""
        for count, size in ((51, 0), (1, 1001)):
            self.assertFalse(self.take(count, size))
        self.make(RateLimits(publish_rate=10, bytes_rate=1000))
        self.assertFalse(self.take(11, 1))
        self.assertEqual((self.left(), self.account.wanted), ([10, 1000], 0))

    def test_reserve(self) -> None:
        """What is kept for clients within their parts is not to be had so."""
        self.make(RateLimits(publish_rate=10))
        self.assertTrue(self.take(1))
        other = Pace(self.account, "l")
        self.assertTrue(self.take(1, pace=other))
        self.assertEqual([self.take(4), self.take(3), self.take(1)], [False, True, False])
        self.clock.advance(0.01)
        self.assertEqual(self.pace.take(1, lambda: [0]), 0)

    def test_time(self) -> None:
        """What time brings can be had, though not at every instant."""
        self.make(RateLimits(publish_rate=1000, publish_burst=10))
        self.assertTrue(self.take(10))
        self.assertFalse(self.take(10))
        self.clock.advance(0.01)
        self.assertTrue(self.take(10))

    def test_other_limits(self) -> None:
        """Other limits hold at once, and none do."""
        self.assertTrue(self.take(1))
        self.account.change(RateLimits(publish_rate=2, bytes_rate=10))
        self.assertFalse(self.take(3))
        self.account.change(RateLimits())
        self.assertTrue(self.take(10**6, 10**9))
        self.account.change(LIMITS)
        self.assertFalse(self.take(51))

    def test_same_as_the_long_way(self) -> None:
        """Whichever way clients take, what is left for them is the same afterwards."""
        chance = random.Random(7)
        accounts = [AccountRates(LIMITS, self.clock.seconds) for _ in range(2)]
        short, long = ([Pace(account, key) for key in "kkl"] for account in accounts)
        at_once = 0
        for _ in range(2000):
            client, count, size = chance.randrange(3), chance.randint(1, 12), chance.randint(0, 60)
            sizes: partial[list[int]] = partial(list, [size] * count)
            taken = count
            if short[client].take_all(count, size * count, self.clock.seconds()):
                at_once += 1
            else:
                taken = short[client].take(count, sizes)
            self.assertEqual(long[client].take(count, sizes), taken)
            self.assertEqual(short[client].standings(), long[client].standings())
            self.clock.advance(chance.choice((0.006, 0.02, 0.2)))
        self.assertTrue(100 < at_once < 1900, at_once)


class StandingTests(SynchronousTestCase):
    """Where a client stands, for those who ask after each message."""

    def setUp(self) -> None:
        self.clock = Clock()

    def pace(self, **limits: int) -> Pace:
        return Pace(AccountRates(RateLimits(**limits), self.clock.seconds), "k")

    def test_nearly(self) -> None:
        """A client that has plenty is told the same until a thousandth of it is used, or some time has passed."""
        for bound in ("publish_rate", "bytes_rate", "key_publish_rate"):
            pace = self.pace(**{bound: 10_000})
            told = pace.standings()
            pace.take_all(10, 10, self.clock.seconds())
            self.assertIs(pace.standings(), told)
            pace.take_all(1, 1, self.clock.seconds())
            self.assertEqual(pace.standings()[0].remaining, 9989)

    def test_time(self) -> None:
        """After a while it is what it is."""
        pace = self.pace(publish_rate=10_000)
        pace.take_all(100, 0, self.clock.seconds())
        self.assertEqual(pace.standings()[0].remaining, 9900)
        self.clock.advance(0.006)
        self.assertEqual(pace.standings()[0].remaining, 9960)

    def test_other_limits(self) -> None:
        """Other limits are told of at once."""
        pace = self.pace(publish_rate=10_000)
        pace.standings()
        pace.account.change(RateLimits(publish_rate=20_000))
        self.assertEqual(pace.standings()[0].quota, 20_000)

    def test_exactly(self) -> None:
        """Where there is little each message shows."""
        pace = self.pace(publish_rate=3)
        found = []
        for _ in range(3):
            pace.take_all(1, 0, self.clock.seconds())
            found.append(pace.standings()[0][3:])
        self.assertEqual(found, [(2, 0), (1, 0), (0, 1)])
