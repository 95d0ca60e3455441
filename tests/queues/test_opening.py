"""Which queues a node has open, and what is done for those that nobody uses."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from flowgate.errors import BusUnavailable, NotFound, RateLimited
from flowgate.queues import opening
from flowgate.queues.directory import BUCKET
from flowgate.queues.model import Outgoing
from flowgate.queues.opening import IDLE_SECONDS
from flowgate.queues.replica import Replica
from tests.queues.nodes import HOME, Node, QueuesTestCase, said


class OpenTests(QueuesTestCase):
    """Opening and closing."""

    def opened(self, name: str = "q", node: Node | None = None) -> Replica | None:
        return (node or self.one).queues.opened.opened(HOME, name)

    def test_first_use(self) -> None:
        """A queue is opened when it is first used, once."""
        self.make()
        self.assertIsNone(self.opened())
        self.send("x")
        self.assertIsNotNone(self.opened())
        self.receive()
        self.assertEqual(self.one.logs.opens, 1)

    def test_together(self) -> None:
        """Those that want a queue while it is being opened wait for it together, each for itself."""
        self.make()
        self.one.logs.held = True
        waiting = [self.queues.stats(HOME, "q") for _ in range(3)]
        waiting[1].cancel()
        self.failureResultOf(waiting[1], CancelledError)
        self.one.logs.go_on()
        self.assertEqual([self.done(waiting[at]).visible for at in (0, 2)], [0, 0])
        self.assertEqual(self.one.logs.opens, 1)

    def test_cannot(self) -> None:
        """If a queue cannot be opened all are told, and the next one tries again."""
        self.make()
        self.one.logs.held = True
        waiting = [self.queues.stats(HOME, "q") for _ in range(2)]
        self.one.logs.lose(stored=False)
        for one in waiting:
            self.failureResultOf(one, BusUnavailable)
        self.one.logs.held = False
        self.counts()

    def test_idle(self) -> None:
        """A queue that nobody uses is closed after some time, and opened again when it is used."""
        self.make()
        self.send("x")
        self.clock.pump([60] * 5)
        self.assertIsNotNone(self.opened())
        self.clock.pump([60] * 2)
        self.assertIsNone(self.opened())
        self.assertEqual(self.bodies(), ["x"])
        self.assertEqual(self.one.logs.opens, 2)

    def test_used(self) -> None:
        """One that is used, if only seldom, stays open."""
        self.make()
        for _ in range(10):
            self.counts()
            self.clock.pump([60] * 4)
        self.assertEqual(self.one.logs.opens, 1)

    def test_waited_for(self) -> None:
        """One at which somebody waits stays open, as does one with something under way."""
        self.make()
        waiting = self.leave(self.one.replica().receive(1, 1, 10 * IDLE_SECONDS))
        self.clock.pump([60] * 20)
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.one.logs.held = True
        sending = self.queues.send(HOME, "q", [Outgoing("x")])
        self.clock.pump([60] * 20)
        self.one.logs.go_on()
        self.done(sending)
        self.assertEqual(self.one.logs.opens, 1)

    def test_room(self) -> None:
        """At the limit the idle queue that was not used for the longest makes room."""
        self.patch(opening, "MAX_OPEN", 2)
        for name in ("a", "b", "c"):
            self.make(name)
            self.clock.advance(1)
            self.counts(name)
        self.assertEqual([self.opened(name) is not None for name in ("a", "b", "c")], [False, True, True])
        self.counts("b")
        self.clock.advance(1)
        self.counts("b")
        self.counts("a")
        self.assertEqual([self.opened(name) is not None for name in ("a", "b", "c")], [True, True, False])

    def test_no_room(self) -> None:
        """If all are in use another one is refused; once one is idle there is room."""
        self.patch(opening, "MAX_OPEN", 2)
        for name in ("a", "b", "c"):
            self.make(name)
        waiting = [self.wait(name=name) for name in ("a", "b")]
        self.failureResultOf(self.queues.stats(HOME, "c"), RateLimited)
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.counts("c")
        self.assertNoResult(waiting[1])

    def test_room_for_many_at_once(self) -> None:
        """Those that are being opened count too."""
        self.patch(opening, "MAX_OPEN", 2)
        self.one.logs.held = True
        for name in ("a", "b", "c"):
            self.leave(self.queues.configure(HOME, name, {}))
        self.one.logs.go_on()
        used = [self.leave(self.queues.stats(HOME, name)) for name in ("a", "b", "c")]
        self.failureResultOf(used[2], RateLimited)

    def test_log_missing(self) -> None:
        """A queue that is configured, and whose log was not made, or was lost, is there and empty."""
        self.make()
        self.done(self.shared.delete(HOME, "q"))
        self.send("x")
        self.assertEqual(self.bodies(node=self.node()), ["x"])

    def test_removed(self) -> None:
        """A queue that was removed elsewhere is closed here; one that is made later is another."""
        two = self.node()
        self.make()
        self.send("x", node=two)
        self.done(self.queues.remove(HOME, "q"))
        self.assertIsNone(self.opened(node=two))
        self.failureResultOf(two.queues.stats(HOME, "q"), NotFound)
        self.make()
        self.assertEqual(self.counts(node=two), (0, 0, 0))

    def test_removed_while_opened(self) -> None:
        """A queue that is removed while it is being opened is not there."""
        two = self.node()
        self.make()
        opened: Deferred[Any] = Deferred()
        open_ = two.logs.open

        def late(*arguments: Any) -> Deferred[Any]:
            open_(*arguments).chainDeferred(opened)
            self.done(self.queues.remove(HOME, "q"))
            return opened

        self.patch(two.logs, "open", late)
        self.failureResultOf(two.queues.stats(HOME, "q"), NotFound)
        self.assertIsNone(self.opened(node=two))

    def test_stop(self) -> None:
        """A node that stops tells those for whom it opens a queue, and leaves nothing open."""
        self.make()
        self.one.logs.held = True
        waiting = self.queues.stats(HOME, "q")
        self.queues.stop()
        self.one.logs.go_on()
        self.failureResultOf(waiting, BusUnavailable)
        self.failureResultOf(self.queues.opened.get(HOME, "q"), BusUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.one.bus._logs, {})


class VisitTests(QueuesTestCase):
    """What is too old goes, though nobody uses the queue."""

    def held(self, name: str = "q") -> int:
        """How many messages the bus still keeps; known by a look that does not use the queue."""
        return len([entry for entry in self.shared._bus.logs[HOME, name].entries.values() if entry.payload])

    def test_open(self) -> None:
        """In a queue that is open what is too old goes within a minute or so."""
        self.make(retention=60)
        self.send("x")
        waiting = self.wait()
        self.assertEqual(said(self.done(waiting)), ["x"])
        self.clock.pump([60, 60])
        self.assertEqual(len(self.one.replica().machine), 0)

    def test_nobody_uses_it(self) -> None:
        """A queue that nobody uses is opened now and then for it; one that is removed is not."""
        self.make(retention=60)
        self.make("gone", retention=60)
        self.send("x")
        self.clock.pump([60] * 10)
        self.send("y")
        self.done(self.queues.remove(HOME, "gone"))
        self.clock.pump([60] * 6)
        self.assertIsNone(self.queues.opened.opened(HOME, "q"))
        self.assertEqual(list(self.queues.opened._visited), [(HOME, "q")])
        opens = self.one.logs.opens
        self.clock.pump([600] * 6 * 7)
        self.assertGreater(self.one.logs.opens, opens)
        log = self.shared._bus.logs[HOME, "q"]
        self.assertTrue(any(b'["x",60]' in entry.head for entry in log.entries.values()))
        self.assertEqual(len(self.one.replica().machine), 0)

    def test_nothing_too_old(self) -> None:
        """Nothing is written for a queue in which nothing is too old."""
        self.make()
        self.send("x")
        written = len(self.one.logs.written)
        self.clock.pump([60] * 4)
        self.assertEqual(len(self.one.logs.written), written)

    def test_removed_in_this_moment(self) -> None:
        """A queue that is no longer configured, and still open, is left alone."""
        self.make(retention=60)
        self.send("x")
        self.done(self.store.delete(BUCKET, "alice.shop.q"))
        self.clock.pump([60] * 4)
        self.assertEqual(len(self.one.logs.written), 1)

    def test_after_start(self) -> None:
        """A node that starts visits all queues, a few at a time."""
        for number in range(12):
            self.make(f"q{number}")
        two = self.node()
        opened = []
        for _ in range(3):
            self.clock.advance(60)
            opened.append(two.logs.opens)
        self.assertEqual(opened, [5, 10, 12])

    def test_not_too_often(self) -> None:
        """A queue that was visited, or used, is not visited again before hours have passed."""
        self.make()
        self.counts()
        self.clock.pump([300] * 12 * 5)
        self.assertEqual(self.one.logs.opens, 1)
        self.clock.pump([300] * 12 * 2)
        self.assertEqual(self.one.logs.opens, 2)

    def test_bus_away(self) -> None:
        """While the bus is away a visit is in vain, and nothing is said."""
        self.make()
        self.clock.advance(1)
        two = self.node()
        two.bus.go_away()
        self.clock.pump([60] * 3)
        self.assertEqual(two.logs.opens, 1)
