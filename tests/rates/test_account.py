"""The rates of one account."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import RateLimited
from flowgate.limits import Standing
from flowgate.rates.account import AccountRates, Pace
from flowgate.rates.plan import RateLimits


def take(pace: Pace, sizes: list[int], patient: bool = False) -> int:
    """Have a client publish messages of these sizes; how many it may."""
    return pace.take(len(sizes), lambda: sizes, patient)


class AccountRatesTests(SynchronousTestCase):
    """What clients of an account may publish."""

    def setUp(self) -> None:
        self.clock = Clock()

    def pace(self, key: str = "k", **limits: int) -> Pace:
        self.account = AccountRates(RateLimits(**limits), self.clock.seconds)
        return Pace(self.account, key)

    def test_no_bounds(self) -> None:
        """Without limits everything goes."""
        pace = self.pace()
        self.assertFalse(pace.bounded)
        self.assertEqual(take(pace, [10**9] * 1000), 1000)
        self.assertEqual((pace.wait(), pace.standings()), (0, ()))

    def test_messages(self) -> None:
        """As many of several messages go as there is room for, and later the next ones."""
        pace = self.pace(publish_rate=10, publish_burst=4)
        self.assertTrue(pace.bounded)
        self.assertEqual([take(pace, [1] * 3), take(pace, [1] * 3), take(pace, [1])], [3, 1, 0])
        self.clock.advance(0.2)
        self.assertEqual(take(pace, [1] * 3), 2)

    def test_refusal(self) -> None:
        """Whoever is refused learns which rate it was, and when to come again."""
        pace = self.pace(publish_rate=1, publish_burst=5, bytes_rate=1000)
        take(pace, [100] * 5)
        refusal = pace.refusal()
        self.assertEqual((refusal.status, refusal.code, refusal.retry_after), (429, "rate_limited", 1))
        self.assertEqual(refusal.members, {"violated-policies": ["publish"]})
        self.assertEqual(refusal.standings, (Standing("publish", 1, 1, 0, 1), Standing("bytes", 1000, 1, 500, 0)))

    def test_bytes(self) -> None:
        """Messages go while there is room for their bytes; one that is larger than the burst waits for a full bucket
        and is paid off afterwards."""
        pace = self.pace(bytes_rate=100)
        self.assertEqual(take(pace, [60, 30, 30]), 2)
        self.clock.advance(0.5)
        self.assertEqual(take(pace, [300]), 0)
        self.clock.advance(0.5)
        self.assertEqual(take(pace, [300]), 1)
        self.clock.advance(1.9)
        self.assertEqual(take(pace, [1]), 0)
        self.clock.advance(0.2)
        self.assertEqual(take(pace, [1]), 1)

    def test_key(self) -> None:
        """A key has a rate of its own within that of its account."""
        one = self.pace("k", publish_rate=100, key_publish_rate=5)
        same, other = Pace(self.account, "k"), Pace(self.account, "l")
        self.assertEqual([take(one, [1] * 4), take(same, [1] * 4), take(other, [1] * 4)], [4, 1, 4])
        self.assertEqual(one.refusal().members, {"violated-policies": ["key-publish"]})

    def test_patient(self) -> None:
        """A client that waits is given what it brings, and waits as long as that takes."""
        pace = self.pace(publish_rate=10, publish_burst=10)
        self.assertEqual(take(pace, [1] * 25, patient=True), 25)
        self.assertAlmostEqual(pace.wait(), 1.6)
        self.clock.advance(pace.wait())
        self.assertAlmostEqual(pace.wait(), 0)

    def test_share(self) -> None:
        """A node that has a part of the rate gives no more than that."""
        pace = self.pace(publish_rate=100, publish_burst=20)
        self.account.share(0.25)
        self.assertEqual(take(pace, [1] * 100), 5)
        self.clock.advance(0.1)
        self.assertEqual(take(pace, [1] * 100), 2)
        self.assertEqual(pace.standings()[0].quota, 100)

    def test_another_plan(self) -> None:
        """A change of limits holds at once, also where there were none."""
        pace = self.pace()
        self.account.change(RateLimits(publish_rate=3, key_publish_rate=2))
        self.assertEqual(take(pace, [1] * 9), 2)
        self.account.change(RateLimits())
        self.assertEqual(take(pace, [1] * 9), 9)

    def test_tokens(self) -> None:
        """A key is exchanged for so many tokens a minute, another key for as many."""
        self.pace("k", token_rate=2)
        for key in "kkll":
            self.account.take_token(key)
        refusal = self.assertRaises(RateLimited, self.account.take_token, "k")
        self.assertEqual((refusal.retry_after, refusal.standings), (30, (Standing("token", 2, 60, 0, 30),)))
        self.clock.advance(30)
        self.account.take_token("k")
        self.assertRaises(RateLimited, self.account.take_token, "k")
