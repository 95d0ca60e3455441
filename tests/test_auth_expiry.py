"""The moments at which keys expire."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.expiry import Expiries

NOW = 1_800_000_000


class ExpiryTests(SynchronousTestCase):
    """One timer for all keys."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.shift = 0.0
        self.told: list[tuple[float, str]] = []
        self.expiries = Expiries(
            self.clock,
            lambda: NOW + self.clock.seconds() + self.shift,
            lambda key: self.told.append((self.clock.seconds(), key)),
        )

    def advance(self, seconds: int) -> None:
        self.clock.pump([0.5] * (2 * seconds))

    def test_in_time(self) -> None:
        """Each key is told of once, when its time has come, in order; by one timer."""
        for key, at in (("b", 200), ("a", 100), ("c", 100), ("d", 300)):
            self.expiries.set(key, NOW + at)
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.advance(250)
        self.assertEqual([key for _, key in self.told], ["a", "c", "b"])
        for told, at in zip((told for told, _ in self.told), (100, 100, 200), strict=True):
            self.assertTrue(at <= told <= at + 1, told)

    def test_changed(self) -> None:
        """What counts is the time that was said last; a key that is never to expire is not told of."""
        self.expiries.set("a", NOW + 10)
        self.expiries.set("a", NOW + 20)
        self.expiries.set("b", NOW + 10)
        self.expiries.set("b", None)
        self.expiries.set("c", NOW + 20)
        self.expiries.set("c", NOW + 5)
        self.advance(15)
        self.assertEqual([key for _, key in self.told], ["c"])
        self.advance(10)
        self.assertEqual([key for _, key in self.told], ["c", "a"])

    def test_over(self) -> None:
        """What is over is not told of."""
        self.expiries.set("a", NOW)
        self.advance(5)
        self.assertEqual((self.told, self.clock.getDelayedCalls()), ([], []))

    def test_calendar_is_set(self) -> None:
        """A clock that is set while the reactor's runs on is noticed within a minute."""
        self.expiries.set("a", NOW + 86_400)
        self.shift = 86_400
        self.advance(61)
        self.assertEqual([key for _, key in self.told], ["a"])

    def test_stop(self) -> None:
        """After the stop nothing is told, and no timer is left."""
        self.expiries.set("a", NOW + 10)
        self.expiries.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bounded(self) -> None:
        """A key whose time is changed again and again takes no more room each time."""
        for number in range(10_000):
            self.expiries.set("a", NOW + 10 + number % 2)
        self.assertLess(len(self.expiries._heap), 200)
        self.advance(13)
        self.assertEqual([key for _, key in self.told], ["a"])
