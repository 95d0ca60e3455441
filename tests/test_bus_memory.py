"""The bus in memory keeps the promises of the real one."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.memory_topics import MemoryBus
from flowgate.errors import BusUnavailable
from flowgate.message import Cursor, Run
from flowgate.topics import Topic
from tests.contracts.at_once import AtOnceTestCase
from tests.contracts.topics import SHOP, Listener, Reader, TopicsContract

_T = TypeVar("_T")


class MemoryBusContractTests(TopicsContract, AtOnceTestCase):
    """The contract, over a clock that the test moves."""

    async def make_bus(self, listener: Listener) -> MemoryBus:
        self.clock = Clock()
        bus = MemoryBus(self.clock, listener, per_topic=self.per_topic)
        self.addCleanup(self.clock.pump, [0] * 10)
        self.addCleanup(bus.stop)
        await bus.start()
        return bus

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        self.clock.pump([0] * 20)
        return deferred

    async def go_away(self) -> None:
        self.bus.go_away()

    async def come_back(self) -> None:
        self.bus.come_back()


class MemoryBusTests(SynchronousTestCase):
    """What only a bus with a clock can show, or only a fake can do."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.listener = Listener()
        self.bus = MemoryBus(self.clock, self.listener)
        self.successResultOf(self.bus.start())
        self.topic = Topic(SHOP, "a")

    def test_nothing_happens_at_once(self) -> None:
        """An acknowledgement takes at least a turn, as with a server."""
        stored = self.bus.publish_one(self.topic, b"1")
        self.assertNoResult(stored)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(stored).sequence, 1)

    def test_duplicates_are_known_for_five_minutes(self) -> None:
        """After five minutes a message id is new again."""
        self.bus.publish_one(self.topic, b"1", message_id="k")
        self.clock.advance(0)
        self.clock.advance(299)
        soon = self.bus.publish_one(self.topic, b"1", message_id="k")
        self.clock.advance(0)
        self.assertTrue(self.successResultOf(soon).duplicate)
        self.clock.advance(1)
        late = self.bus.publish_one(self.topic, b"1", message_id="k")
        self.clock.advance(0)
        self.assertFalse(self.successResultOf(late).duplicate)

    def test_time_to_live(self) -> None:
        """History forgets a message after its time."""
        self.bus.publish_one(self.topic, b"1", ttl=10)
        self.clock.advance(0)
        self.clock.advance(9)
        self.assertEqual(len(self.successResultOf(self.bus.history(SHOP, "a", Cursor(self.bus.epoch, 0), 9))), 1)
        self.clock.advance(2)
        self.assertEqual(self.successResultOf(self.bus.history(SHOP, "a", Cursor(self.bus.epoch, 0), 9)), [])

    def test_going_away_fails_what_is_under_way(self) -> None:
        """What has no acknowledgement yet when the bus goes away fails."""
        run: Deferred[None] = self.bus.publish(Run(self.topic, [b"1"], qos=1))
        one = self.bus.publish_one(self.topic, b"2")
        self.bus.go_away()
        self.failureResultOf(run, BusUnavailable)
        self.failureResultOf(one, BusUnavailable)
        self.clock.advance(0)
        self.assertEqual(self.listener.runs, [])

    def test_relief(self) -> None:
        """A congestion that a test made ends with ``drained``, once."""
        self.bus.congested = True
        self.bus.relieve()
        self.bus.relieve()
        self.assertEqual((self.bus.congested, self.listener.drains), (False, 1))

    def test_nothing_stays_in_the_clock(self) -> None:
        """A stopped bus has no calls left."""
        self.bus.publish_one(self.topic, b"1").addErrback(lambda failure: failure.trap(BusUnavailable))
        self.successResultOf(self.bus.follow(SHOP, "#", Reader()))
        self.successResultOf(self.bus.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])
