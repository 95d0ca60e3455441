"""What is counted."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.metering import Meter
from flowgate.topics import Namespace

ALICE = Namespace("alice", "shop")
BOB = Namespace("bob", "shop")


class MeterTests(SynchronousTestCase):
    """Named counters, and those of accounts."""

    def setUp(self) -> None:
        self.meter = Meter()

    def test_names_and_labels(self) -> None:
        """Every name counts for each label by itself."""
        self.meter.add("messages", "mqtt", 3)
        self.meter.add("messages", "http")
        self.meter.counter("messages", "mqtt").value += 1
        self.assertEqual(self.meter.count("messages", "mqtt"), 4)
        self.assertEqual(self.meter.counts(), {("messages", "mqtt"): 4, ("messages", "http"): 1})

    def test_several_labels(self) -> None:
        """Labels are told apart by all of their values."""
        self.meter.add("refusals", ("mqtt", "a"))
        self.meter.add("refusals", ("mqtt", "b"), 2)
        self.assertEqual(self.meter.count("refusals", ("mqtt", "b")), 2)
        self.assertIs(self.meter.counter("refusals", ("mqtt", "a")), self.meter.counter("refusals", ("mqtt", "a")))

    def test_histograms(self) -> None:
        """A histogram counts each value in the first bucket that takes it in; it is the same for the same labels."""
        took = self.meter.histogram("took", "mqtt", (1.0, 2.0))
        for value, count in ((0.0, 1), (1.0, 2), (1.5, 3), (99.0, 1)):
            self.meter.histogram("took", "mqtt").observe(value, count)
        self.assertEqual((took.counts, took.sum), ([3, 3, 1], 2 + 4.5 + 99))
        self.assertEqual(dict(self.meter.histograms()), {("took", "mqtt"): took})

    def test_gauges(self) -> None:
        """A gauge tells the value of the moment when it is asked."""
        values = [1]
        self.meter.gauge("things", lambda: values[-1])
        values.append(5)
        self.assertEqual(self.meter.gauges(), {"things": 5})

    def test_unknown(self) -> None:
        """What was never counted is 0, and asking does not make a counter of it."""
        self.assertEqual(self.meter.count("messages"), 0)
        self.assertEqual(self.meter.counts(), {})

    def test_accounts_apart(self) -> None:
        """An account is the same whenever it is asked for, and another one than every other."""
        self.meter.account(ALICE).received += 2
        self.meter.account(ALICE).sent += 1
        self.meter.account(BOB).dropped += 1
        found = {name: (one.received, one.sent, one.dropped) for name, one in self.meter.accounts().items()}
        self.assertEqual(found, {ALICE: (2, 1, 0), BOB: (0, 0, 1)})

    def forget(self, *in_use: Namespace) -> list[Namespace]:
        return self.meter.forget_idle(lambda namespace: namespace in in_use)

    def test_idle_is_forgotten(self) -> None:
        """An account without connection and message from one call to the next is forgotten, and counted from 0 then."""
        self.meter.account(ALICE).received += 2
        self.assertEqual(self.forget(), [])
        self.assertEqual(self.forget(), [ALICE])
        self.assertEqual(dict(self.meter.accounts()), {})
        self.assertEqual(self.meter.account(ALICE).received, 0)

    def test_never_used(self) -> None:
        """An account for which nothing was ever counted is forgotten by the second call too."""
        self.meter.account(ALICE)
        self.assertEqual(self.forget(), [])
        self.assertEqual(self.forget(), [ALICE])

    def test_busy_is_kept(self) -> None:
        """An account stays while any of its numbers grows."""
        account = self.meter.account(ALICE)
        for name in ("received", "sent", "dropped", "received"):
            self.assertEqual(self.forget(), [])
            setattr(account, name, getattr(account, name) + 1)
        self.assertIs(self.meter.account(ALICE), account)

    def test_in_use_is_kept(self) -> None:
        """An account that is in use stays, so that whoever keeps it does not count for nothing."""
        account = self.meter.account(ALICE)
        for _ in range(3):
            self.assertEqual(self.forget(ALICE), [])
        self.assertIs(self.meter.account(ALICE), account)
        self.assertEqual(self.forget(), [ALICE])
