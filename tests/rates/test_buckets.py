"""Buckets, alone and shared."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.rates.buckets import ACTIVE_SECONDS, Bucket, FairBucket

RATE, BURST = 100.0, 20.0


class BucketTests(SynchronousTestCase):
    """A rate with a burst."""

    def test_refill(self) -> None:
        """It fills with the time, and no further than its burst."""
        bucket = Bucket(10, 5, 0.0)
        bucket.left -= 5
        bucket.refill(0.2)
        self.assertEqual(bucket.left, 2)
        bucket.refill(9.0)
        self.assertEqual(bucket.left, 5)

    def test_debt(self) -> None:
        """What was taken beyond has to be waited for."""
        bucket = Bucket(10, 5, 0.0)
        bucket.left -= 10
        self.assertAlmostEqual(bucket.wait(), 0.6)
        bucket.refill(0.6)
        self.assertEqual(bucket.wait(), 0)

    def test_change(self) -> None:
        """Another rate takes nothing but what is above the new burst."""
        bucket = Bucket(10, 5, 0.0)
        bucket.change(1, 2)
        self.assertEqual((bucket.left, bucket.wait(3)), (2, 1))


class Load:
    """Clients that ask again and again, each so many times a second."""

    def __init__(self, patient: bool = False) -> None:
        self.fair = FairBucket(RATE, BURST, 0.0)
        self.now = 0.0
        self.patient = patient
        self.taken: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def ask(self, name: str) -> None:
        own = self.fair.client(name, self.now)
        if self.patient:
            if self.fair.wait(own) > 0:
                return
        elif self.fair.room(own) < 1:
            self.refused[name] = self.refused.get(name, 0) + 1
            return
        self.fair.take(own, 1)
        self.taken[name] = self.taken.get(name, 0) + 1

    def run(self, seconds: float, **rates: float) -> None:
        """Go on for so long; each client asks at its rate, evenly."""
        end = self.now + seconds
        due = {name: self.now + 0.37 / rate for name, rate in rates.items()}
        while True:
            name = min(due, key=lambda name: due[name])
            if due[name] >= end:
                break
            self.now = due[name]
            due[name] += 1 / rates[name]
            self.ask(name)
        self.now = end


class FairBucketTests(SynchronousTestCase):
    """Clients of one account share its rate."""

    def assert_near(self, found: float, expected: float, most: float) -> None:
        self.assertLessEqual(abs(found - expected), most, f"{found} instead of {expected}")

    def test_alone(self) -> None:
        """One client has the whole rate, and the burst once."""
        for patient in (False, True):
            load = Load(patient)
            load.run(10, a=500)
            self.assert_near(load.taken["a"], RATE * 10 + BURST, 2)

    def test_equal(self) -> None:
        """Two that want more than there is get the same, and no more than the rate together."""
        for patient in (False, True):
            load = Load(patient)
            load.run(20, a=500, b=500)
            total = load.taken["a"] + load.taken["b"]
            self.assert_near(total, RATE * 20 + BURST, RATE * 20 * 0.05)
            self.assert_near(load.taken["a"], load.taken["b"], total * 0.05)

    def test_modest(self) -> None:
        """One that stays within its part is refused nothing after its first second, whatever the other one wants; and
        the other one has the rest."""
        load = Load()
        load.run(2, greedy=1000, modest=30)
        load.taken.clear()
        load.refused.clear()
        load.run(20, greedy=1000, modest=30)
        self.assertEqual(load.refused.get("modest", 0), 0)
        self.assert_near(load.taken["greedy"], (RATE - 30) * 20, RATE * 20 * 0.05)

    def test_many_new_clients(self) -> None:
        """Making clients makes no rate."""
        load = Load()
        for number in range(4000):
            load.now += 0.0025
            load.ask(f"c{number}")
        self.assertLess(sum(load.taken.values()), RATE * 10 + 2 * BURST + 2)

    def test_gone(self) -> None:
        """A client that asks no more leaves its part to the others."""
        load = Load()
        load.run(1, a=10, b=10)
        load.run(ACTIVE_SECONDS + 1, a=10)
        own = load.fair.client("a", load.now)
        self.assertEqual(own.rate, RATE)

    def test_wait(self) -> None:
        """After the wait there is room, and not before."""
        load = Load()
        load.run(5, a=500, b=500)
        for name in "ab":
            own = load.fair.client(name, load.now)
            load.fair.take(own, 7)
            wait = load.fair.wait(own)
            self.assertGreater(wait, 0)
            own = load.fair.client(name, load.now + wait * 0.99)
            self.assertLess(load.fair.room(own), 1)
            load.now += wait * 1.0001
            own = load.fair.client(name, load.now)
            self.assertGreaterEqual(load.fair.room(own), 1)
