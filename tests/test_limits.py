"""Topic policies, bounds, and counts."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import InvalidTopic
from flowgate.limits import Limits, Policies, TokenBucket, TopicPolicy
from flowgate.metering import Meter


class LimitsTests(SynchronousTestCase):
    """The bounds that one gateway works within."""

    def test_defaults_are_in_range(self) -> None:
        """Every default lies between the least and the most that may be configured."""
        limits = Limits()
        for field in attrs.fields(Limits):
            value = getattr(limits, field.name)
            self.assertGreaterEqual(value, field.metadata["least"], field.name)
            self.assertLessEqual(value, field.metadata.get("most", value), field.name)

    def test_window_has_identifiers(self) -> None:
        """[MQTT-2.3.1-2]: no more deliveries can be in flight than there are identifiers, nor than fit into a state."""
        self.assertEqual(attrs.fields_dict(Limits)["inflight_messages"].metadata["most"], 16384)


class TokenBucketTests(SynchronousTestCase):
    """A rate with a burst."""

    def test_burst(self) -> None:
        """At once there is the burst and no more."""
        bucket = TokenBucket(2, 5, 100)
        self.assertEqual([bucket.take() for _ in range(6)], [True] * 5 + [False])

    def test_rate(self) -> None:
        """In the long run there is the rate, however the time is divided."""
        for step in (0.125, 0.5, 3):
            bucket = TokenBucket(2, 10, 0)
            bucket.take(10)
            taken = 0
            for index in range(1, int(60 / step) + 1):
                bucket.refill(index * step)
                while bucket.take():
                    taken += 1
            self.assertEqual(taken, 120)

    def test_idle(self) -> None:
        """Who was idle for long has the burst, not more."""
        bucket = TokenBucket(2, 5, 0)
        bucket.refill(1e9)
        self.assertTrue(bucket.take(5))
        self.assertFalse(bucket.take(0.001))

    def test_wait(self) -> None:
        """It says when there is enough."""
        bucket = TokenBucket(4, 4, 0)
        self.assertEqual(bucket.wait(4), 0)
        bucket.take(4)
        self.assertEqual((bucket.wait(), bucket.wait(4)), (0.25, 1))
        bucket.refill(0.25)
        self.assertTrue(bucket.take())

    def test_nothing_is_taken_in_part(self) -> None:
        """What cannot be taken whole is left."""
        bucket = TokenBucket(1, 3, 0)
        self.assertFalse(bucket.take(4))
        self.assertTrue(bucket.take(3))


class PoliciesTests(SynchronousTestCase):
    """What is kept of a topic."""

    def test_default(self) -> None:
        """Without a policy history keeps all, as long as the stream does; ``$`` topics are no exception."""
        for policies in (Policies(), Policies((TopicPolicy("a", history=False),))):
            for name in ("b", "a/b", "$s/x"):
                policy = policies.find(name)
                self.assertEqual((policy.history, policy.age), (True, None))

    def test_first_wins(self) -> None:
        """The first policy whose filter matches holds, not the narrowest."""
        first, second = TopicPolicy("a/#", history=False), TopicPolicy("a/b", age=60)
        self.assertIs(Policies((first, second)).find("a/b"), first)
        self.assertIs(Policies((second, first)).find("a/b"), second)
        self.assertIs(Policies((second, first)).find("a"), first)

    def test_filter_is_checked(self) -> None:
        """A policy with a malformed filter cannot be made."""
        with self.assertRaises(InvalidTopic):
            TopicPolicy("a/#/b")


class MeterTests(SynchronousTestCase):
    """Counts of what was done."""

    def test_counts(self) -> None:
        """Amounts add up, by name and label."""
        meter = Meter()
        meter.add("messages_received", "mqtt", 3)
        meter.add("messages_received", "mqtt")
        meter.add("messages_received", "http")
        meter.add("starts")
        self.assertEqual(meter.count("messages_received", "mqtt"), 4)
        self.assertEqual(
            meter.counts(), {("messages_received", "mqtt"): 4, ("messages_received", "http"): 1, ("starts", ""): 1}
        )

    def test_never_counted(self) -> None:
        """What never happened counts 0, and asking does not make it appear."""
        meter = Meter()
        self.assertEqual(meter.count("messages_received", "mqtt"), 0)
        self.assertEqual(meter.counts(), {})

    def test_counts_are_a_copy(self) -> None:
        """What was read does not change with what is counted later."""
        meter = Meter()
        meter.add("starts")
        counts = meter.counts()
        meter.add("starts")
        self.assertEqual(counts, {("starts", ""): 1})
