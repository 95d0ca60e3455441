"""Publishers are held back while durable groups are behind."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.holding import Held, Holding, Progress
from flowgate.errors import BusUnavailable
from flowgate.topics import Topic
from tests.contracts.topics import OTHER, SHOP

A, B = Topic(SHOP, "a"), Topic(SHOP, "b")


class HoldingTests(SynchronousTestCase):
    """A group on ``a`` whose progress the test tells; 1,000 messages may be before it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.holding = Holding(self.clock, 1000)
        self.looks: list[Deferred[Progress]] = []
        self.held = self.add("a")

    def add(self, filter_: str) -> Held:
        def look() -> Deferred[Progress]:
            self.looks.append(Deferred())
            return self.looks[-1]

        return self.holding.add(SHOP, filter_, look)

    def tell(self, ahead: int, done: int = 0) -> None:
        """Answer the one look that is under way."""
        (look,) = self.looks
        self.looks.clear()
        look.callback(Progress(ahead, done))

    def publish(self, count: int, topic: Topic = A) -> None:
        """Publish and store, without being held back."""
        self.assertIs(self.holding.room(topic, count), None)
        self.holding.stored(topic, count)

    def wait(self, count: int = 1, topic: Topic = A) -> Deferred[None]:
        held = self.holding.room(topic, count)
        assert held is not None
        return held

    def test_bound(self) -> None:
        """As many can be published as may be before the group, whether they are stored or not; no more."""
        self.assertIs(self.holding.room(A, 400), None)
        self.publish(400)
        self.assertIs(self.holding.room(A, 200), None)
        self.assertNoResult(self.wait())

    def test_many_at_once(self) -> None:
        """More at once than may be before a group are published if there is nothing before it."""
        self.publish(5000)
        self.tell(1)
        waiting = self.wait(5000)
        self.tell(0)
        self.successResultOf(waiting)

    def test_looks(self) -> None:
        """The group is looked at after some hundred stored messages, once at a time; every stored one is counted."""
        self.publish(499)
        self.assertEqual(self.looks, [])
        self.publish(1)
        self.publish(300)  # after the look began
        self.tell(100, 1)
        self.publish(600)
        self.assertNoResult(self.wait())

    def test_quiet(self) -> None:
        """Nothing is looked at for a group that nothing is published for."""
        self.clock.advance(1000)
        self.assertEqual(self.looks, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_order(self) -> None:
        """Who waits goes on in order, for each topic; who comes while others wait is behind them."""
        self.publish(900)
        order: list[int] = []
        self.wait(500).addCallback(lambda _: order.append(1))
        self.wait(10).addCallback(lambda _: order.append(2))
        self.tell(900)
        self.assertEqual(order, [])  # though there would be room for the second
        self.clock.advance(0.1)
        self.tell(480, 1)
        self.assertEqual(order, [1, 2])

    def test_reentrant(self) -> None:
        """Who publishes more at the moment in which it may go on is behind those who wait."""
        self.publish(1000)
        self.tell(1000)
        order: list[int] = []

        def again(_: None) -> None:
            order.append(1)
            self.wait().addCallback(lambda _: order.append(3))

        self.wait().addCallback(again)
        self.wait().addCallback(lambda _: order.append(2))
        self.tell(0, 1)
        self.clock.advance(0.1)
        self.tell(0, 1)
        self.assertEqual(order, [1, 2, 3])

    def test_other_topics(self) -> None:
        """Only publishers of topics on which a group is behind wait."""
        self.publish(1000)
        self.assertNoResult(self.wait())
        for topic in (B, Topic(OTHER, "a"), Topic(SHOP, "a/b")):
            self.assertIs(self.holding.room(topic, 5000), None)

    def test_several_groups(self) -> None:
        """Who publishes to several groups waits for the slowest."""
        self.add("#")
        self.publish(1000)
        waiting = self.wait()
        first, second = self.looks
        first.callback(Progress(0, 1))
        self.assertNoResult(waiting)
        second.callback(Progress(0, 1))
        self.successResultOf(waiting)

    def test_unacknowledged(self) -> None:
        """What is published already counts for as long as it may take to be stored, and then like all that is."""
        self.assertIs(self.holding.room(A, 700, True), None)
        waiting = self.holding.room(A, 700, True)
        assert waiting is not None
        self.tell(0, 1)
        self.assertNoResult(waiting)
        self.clock.pump([0.1] * 10)
        self.tell(0, 2)  # of a look that had begun before
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        self.tell(0, 3)
        self.successResultOf(waiting)
        self.clock.advance(0.1)
        self.assertEqual(self.looks, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """Who gives up is not in the way of others."""
        self.publish(1000)
        first, second = self.wait(2000), self.wait()
        first.addErrback(lambda _: None)
        first.cancel()
        self.tell(999, 1)
        self.successResultOf(second)

    def test_stuck(self) -> None:
        """A group that makes no progress for long holds nobody back, until it does again."""
        self.publish(1000)
        waiting = self.wait()
        for _ in range(151):
            self.assertNoResult(waiting)
            self.tell(1000, 7)
            self.clock.advance(0.1)
        self.tell(1000, 7)
        self.successResultOf(waiting)
        self.publish(1000)
        self.tell(2000, 8)
        self.assertNoResult(self.wait())

    def test_slow(self) -> None:
        """A group that is slow, but not stuck, is waited for."""
        self.publish(1000)
        waiting = self.wait()
        for done in range(300):
            self.tell(1000, done)
            self.clock.advance(0.1)
        self.assertNoResult(waiting)

    def test_forgotten(self) -> None:
        """A group that is not there any more holds nobody back."""
        self.publish(1000)
        waiting = self.wait()
        self.holding.discard(self.held)
        self.successResultOf(waiting)
        self.assertIs(self.holding.room(A, 5000), None)
        self.tell(1000)

    def test_away(self) -> None:
        """Nobody waits for a bus that is away, or for a group of which nothing can be learned."""
        self.publish(1000)
        waiting = self.wait()
        self.holding.reset()
        self.successResultOf(waiting)
        self.looks.clear()
        self.holding.discard(self.held)
        self.holding.add(SHOP, "a", lambda: fail(BusUnavailable()))
        self.publish(400)
        self.successResultOf(self.wait(1000))

    def test_faulty(self) -> None:
        """A fault while looking is logged, and holds nobody back."""
        self.publish(1000)
        waiting = self.wait()
        self.looks.pop().errback(ValueError("a fault"))
        self.successResultOf(waiting)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_stop(self) -> None:
        """At the end those who wait are told, and nothing stays in the clock."""
        self.publish(1000)
        waiting = self.wait()
        another = self.holding.room(A, 1, True)
        assert another is not None
        self.holding.stop()
        for one in (waiting, another):
            self.failureResultOf(one, BusUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])
