"""Publishing with the wish to be retained: history first, and nobody misses it in between."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections
from flowgate.errors import BusUnavailable
from flowgate.gateway import Gateway, Interest, Route
from flowgate.limits import Limits, Policies
from flowgate.message import Cursor, Run, Stored
from flowgate.metering import Meter
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.topics import Namespace, Topic

SHOP = Namespace("alice", "shop")
OTHER = Namespace("alice", "other")
A = Topic(SHOP, "a")
ALL = Interest(SHOP, "#", False)


class RetainingTests(SynchronousTestCase):
    """A gateway over a bus and a store in memory, whose answers the test can hold back."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.bus = MemoryBus(self.clock)
        self.retained = MemoryRetained(self.clock)
        self.meter = Meter()
        self.gateway = Gateway(
            self.bus,
            Router(),
            Turn(),
            Connections(10),
            self.meter,
            Limits(),
            Policies(),
            retained=self.retained,
            groups=MemoryGroups(MemoryGroupsHub(self.clock, self.bus)),
        )
        self.bus.listener = self.gateway
        self.successResultOf(self.bus.start())

    def settle(self) -> None:
        self.clock.pump([0] * 10)

    def route(self, topic: Topic = A) -> Route:
        return Route(topic, False, True, None)

    def kept(self) -> list[tuple[str, bytes, int]]:
        page = self.gateway.retained(ALL)
        self.settle()
        return [(run.topic.name, run.payloads[0], run.qos) for run in self.successResultOf(page).runs]

    def history(self) -> list[tuple[bytes, bool]]:
        runs = self.successResultOf(self.bus.history(SHOP, "#", Cursor(self.bus.epoch, 0), 100))
        return [(payload, run.retain) for run in runs for payload in run.payloads]

    def hold(self, owner: Any, name: str) -> list[tuple[Deferred[Any], Any]]:
        """Hold back what ``owner.name`` gives; what was asked for and what it gives."""
        real, held = getattr(owner, name), []

        def later(*args: Any, **more: Any) -> Deferred[Any]:
            waiting: Deferred[Any] = Deferred()
            held.append((waiting, lambda: real(*args, **more).chainDeferred(waiting)))
            return waiting

        self.patch(owner, name, later)
        return held

    # -- acknowledged

    def test_history_first(self) -> None:
        """A message is retained only once history has it, with its place there."""
        held = self.hold(self.bus, "publish_one")
        places: list[Any] = []
        real = self.retained.put

        def put(*args: Any) -> Deferred[None]:
            places.append(args)
            return real(*args)

        self.patch(self.retained, "put", put)
        stored = self.gateway.publish(self.route(), b"1", retain=True)
        self.settle()
        self.assertEqual(places, [])
        held[0][1]()
        self.settle()
        self.assertEqual(self.successResultOf(stored), Stored(1))
        self.assertEqual(places, [(A, b"1", 1, None, Cursor("memory", 1))])

    def test_run(self) -> None:
        """Of a run the last message is retained, and all of it goes into history, marked as what it is."""
        published = self.gateway.publish_run(Run(A, [b"1", b"2", b"3"], qos=2, retain=True))
        self.settle()
        self.assertIsNone(self.successResultOf(published))
        self.assertEqual(self.kept(), [("a", b"3", 2)])
        self.assertEqual(self.history(), [(b"1", True), (b"2", True), (b"3", True)])

    def test_run_with_ids(self) -> None:
        """A run that is published again under the same ids changes nothing."""
        for _ in range(2):
            published = self.gateway.publish_run(Run(A, [b"1", b"2"], qos=2, retain=True, message_ids=["x", "y"]))
            self.settle()
            self.successResultOf(published)
        self.assertEqual(self.kept(), [("a", b"2", 2)])
        self.assertEqual(self.history(), [(b"1", True), (b"2", True)])

    def test_run_that_fails(self) -> None:
        """If any message of a run is not stored or not retained the run has failed."""
        answers: list[Any] = [None, fail(BusUnavailable()), None]
        real = self.bus.publish_one
        self.patch(self.bus, "publish_one", lambda *args, **more: answers.pop(0) or real(*args, **more))
        published = self.gateway.publish_run(Run(A, [b"1", b"2", b"3"], qos=1, retain=True))
        self.settle()
        self.failureResultOf(published, BusUnavailable)
        self.assertEqual(self.kept(), [("a", b"3", 1)])

    def test_run_in_history_for_some_time(self) -> None:
        """How long history keeps a message is no matter of the retained one."""
        published = self.gateway.publish_run(Run(A, [b"1"], qos=1, retain=True, ttl=5))
        self.settle()
        self.successResultOf(published)
        self.clock.advance(6)
        self.assertEqual((self.kept(), self.history()), ([("a", b"1", 1)], []))

    def test_not_wished(self) -> None:
        """Without the wish nothing is retained."""
        self.gateway.publish(self.route(), b"1")
        self.gateway.publish_run(Run(A, [b"2"], qos=1))
        self.gateway.publish_unacknowledged(self.route(), Run(A, [b"3"]))
        self.settle()
        self.assertEqual(self.kept(), [])

    # -- unacknowledged

    def test_unacknowledged(self) -> None:
        """The last message of an unacknowledged run is retained, and nobody waits for it."""
        self.gateway.publish_unacknowledged(self.route(), Run(A, [b"1", b"2"], retain=True))
        self.assertEqual(self.kept(), [("a", b"2", 0)])

    def test_unacknowledged_while_away(self) -> None:
        """What cannot be retained is counted, and said once."""
        self.retained.go_away()
        for _ in range(3):
            self.gateway.publish_unacknowledged(self.route(), Run(A, [b"1"], retain=True))
        self.retained.come_back()
        self.assertEqual(self.meter.count("retained_lost"), 3)
        self.gateway.publish_unacknowledged(self.route(), Run(A, [b"2"], retain=True))
        self.assertEqual(self.kept(), [("a", b"2", 0)])

    def test_fault_of_ours(self) -> None:
        """What nobody expected is logged."""
        self.patch(self.retained, "put", lambda *_: fail(RuntimeError()))
        self.gateway.publish_unacknowledged(self.route(), Run(A, [b"1"], retain=True))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    # -- reading

    def test_reads_what_is_under_way(self) -> None:
        """A page has what was being published when it was asked for, also if that takes its time."""
        stored, put = self.hold(self.bus, "publish_one"), self.hold(self.retained, "put")
        self.gateway.publish(self.route(), b"1", retain=True)
        self.gateway.publish_unacknowledged(self.route(Topic(SHOP, "b")), Run(Topic(SHOP, "b"), [b"2"], retain=True))
        page = self.gateway.retained(ALL)
        for step in (stored[0], put[0]):
            self.settle()
            self.assertNoResult(page)
            step[1]()
        self.settle()
        self.assertNoResult(page)
        put[1][1]()
        self.settle()
        names = [run.topic.name for run in self.successResultOf(page).runs]
        self.assertEqual(sorted(names), ["a", "b"])

    def test_waits_for_nothing_else(self) -> None:
        """What is published in another namespace, or later, holds up no page; nor does what has failed."""
        put = self.hold(self.retained, "put")
        other = Topic(OTHER, "a")
        self.gateway.publish_unacknowledged(self.route(other), Run(other, [b"1"], retain=True))
        page = self.gateway.retained(ALL)
        self.gateway.publish_unacknowledged(self.route(), Run(A, [b"1"], retain=True))
        self.settle()
        self.assertEqual(self.successResultOf(page).runs, [])
        page = self.gateway.retained(ALL)
        put[1][0].errback(BusUnavailable())
        self.settle()
        self.assertEqual(self.successResultOf(page).runs, [])

    def test_reader_that_leaves(self) -> None:
        """A reader that does not wait takes nothing away from others."""
        put = self.hold(self.retained, "put")
        self.gateway.publish_unacknowledged(self.route(), Run(A, [b"1"], retain=True))
        first, second = self.gateway.retained(ALL), self.gateway.retained(ALL)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        put[0][1]()
        self.settle()
        self.assertEqual(len(self.successResultOf(second).runs), 1)

    def test_publisher_that_leaves(self) -> None:
        """What history has is retained, also if its publisher does not wait for that."""
        stored = self.gateway.publish(self.route(), b"1", retain=True)
        stored.cancel()
        self.failureResultOf(stored, CancelledError)
        self.assertEqual(self.kept(), [("a", b"1", 1)])
