"""Receives that wait."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from flowgate.auth.permissions import Grants, Principal
from flowgate.connections import Connections
from flowgate.errors import BusUnavailable, InvalidToken, NotFound, RateLimited, TooManyConnections
from flowgate.queues import replica
from tests.queues.nodes import HOME, QueuesTestCase, dead_letter, said


class WaitingTests(QueuesTestCase):
    """Whatever makes a message visible ends a wait, for the one that waits for the longest."""

    def setUp(self) -> None:
        super().setUp()
        self.make()

    def test_over(self) -> None:
        """A wait that brings nothing ends with nothing when its time is over."""
        waiting = self.wait(wait=5)
        self.clock.advance(4.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        self.assertEqual(self.done(waiting), [])

    def test_configured(self) -> None:
        """A receive that does not say waits as the queue is configured; one that says 0 does not wait."""
        self.configure(receive_wait=5)
        waiting = self.queues.receive(HOME, "q")
        self.assertNoResult(waiting)
        self.assertEqual(self.receive(wait=0), [])
        self.clock.advance(5)
        self.assertEqual(self.done(waiting), [])

    def test_at_once(self) -> None:
        """A receive does not wait if something is there, though it is less than it asked for."""
        self.send("x")
        self.assertEqual(said(self.done(self.wait(10))), ["x"])

    def test_send(self) -> None:
        """It ends with what is sent."""
        waiting = self.wait()
        self.send("x")
        self.assertEqual(said(self.done(waiting)), ["x"])

    def test_another_node(self) -> None:
        """It ends with what is sent at another node, and the sender's receives do not get it."""
        two = self.node()
        waiting = self.wait(node=two)
        self.send("x")
        self.assertEqual(said(self.done(waiting)), ["x"])
        self.assertEqual(self.receive(), [])

    def test_visibility_ends(self) -> None:
        """It ends when the visibility of a message ends."""
        self.send("x")
        self.receive(visibility=10)
        waiting = self.wait()
        self.clock.advance(9.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.11)
        self.assertEqual(said(self.done(waiting)), ["x"])

    def test_delay_ends(self) -> None:
        """It ends when the delay of a message ends, also one that was sent later than the wait began."""
        waiting = self.wait()
        self.send("x", delay=10)
        self.clock.advance(9.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.11)
        self.assertEqual(said(self.done(waiting)), ["x"])

    def test_earlier_turn(self) -> None:
        """A message whose turn comes earlier than that for which was waited is not late."""
        self.send("x", delay=15)
        waiting = self.wait()
        self.send("y", delay=5)
        self.clock.advance(5.01)
        self.assertEqual(said(self.done(waiting)), ["y"])

    def test_given_back(self) -> None:
        """It ends when a message is given back, also at another node."""
        self.send("a", "b")
        one, two = self.receive(10)
        waiting = self.wait()
        self.change(one, 0)
        self.assertEqual(said(self.done(waiting)), ["a"])
        waiting = self.wait(node=self.node())
        self.change(two, 0)
        self.assertEqual(said(self.done(waiting)), ["b"])

    def test_shortened(self) -> None:
        """It ends when a visibility ends that was made shorter meanwhile."""
        self.send("x")
        (one,) = self.receive(visibility=1000)
        waiting = self.wait()
        self.change(one, 5)
        self.clock.advance(5.01)
        self.assertEqual(said(self.done(waiting)), ["x"])

    def test_fifo_unblocked(self) -> None:
        """On a FIFO queue it ends when a deletion unblocks the group."""
        self.make("q.fifo", content_dedup=True)
        self.send("a", "b", name="q.fifo", group="g")
        taken = self.receive(name="q.fifo")
        waiting = self.wait(name="q.fifo", node=self.node())
        self.clock.advance(1)
        self.assertNoResult(waiting)
        self.delete(*taken, name="q.fifo")
        self.assertEqual(said(self.done(waiting)), ["b"])

    def test_first_come(self) -> None:
        """Whoever came first is served first, also if others came while there was something to be had."""
        first, second, third = (self.wait() for _ in range(3))
        self.send("a")
        self.assertEqual(said(self.done(first)), ["a"])
        self.send("b", "c")
        self.assertEqual([said(self.done(one)) for one in (second, third)], [["b"], ["c"]])

    def test_nobody_passes(self) -> None:
        """While somebody waits, one that comes later does not get what is there first."""
        two = self.node()
        first = self.wait()
        self.one.logs.held = True
        self.send("a", node=two)  # the first one's receive is under way
        late = self.wait()
        self.one.logs.go_on()
        self.assertEqual(said(self.done(first)), ["a"])
        self.assertNoResult(late)

    def test_share(self) -> None:
        """Several that wait get what becomes visible together, each as much as it asked for."""
        self.send(*"abcde", delay=5)
        one, two = self.wait(2), self.wait(10)
        self.clock.advance(5.01)
        self.assertEqual([said(self.done(each)) for each in (one, two)], [["a", "b"], ["c", "d", "e"]])

    def test_cancelled(self) -> None:
        """A receiver that goes away while it waits takes nothing."""
        gone = self.wait()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.send("x")
        self.assertEqual(self.counts(), (1, 0, 0))
        self.assertEqual(self.receive()[0].receive_count, 1)
        self.assertEqual(self.one.queues.opened.opened(HOME, "q").idle, True)  # type: ignore[union-attr]

    def test_cancelled_under_way(self) -> None:
        """One that goes while its command is under way takes nothing: the next one has it, as the first."""
        two = self.node()
        gone = self.wait()
        self.one.logs.held = True
        self.send("x", node=two)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.one.logs.held = False
        self.one.logs.go_on()
        self.assertEqual(self.counts(), (1, 0, 0))
        self.assertEqual(self.receive()[0].receive_count, 1)

    def test_cancelled_under_way_without_wait(self) -> None:
        """Likewise one that did not want to wait."""
        two = self.node()
        self.send("x", node=two)
        self.one.replica()
        self.one.logs.held = True
        gone = self.wait(wait=0)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.one.logs.held = False
        self.one.logs.go_on()
        waiting = self.wait()
        self.assertEqual(self.done(waiting)[0].receive_count, 1)

    def test_over_under_way(self) -> None:
        """A receive whose time is over while its command is under way gets what that brings."""
        two = self.node()
        waiting = self.wait(wait=5)
        self.one.logs.held = True
        self.send("x", node=two)
        self.clock.advance(6)
        self.assertNoResult(waiting)
        self.one.logs.go_on()
        self.assertEqual(said(self.done(waiting)), ["x"])

    def test_again(self) -> None:
        """A receive that came too late waits on, for the rest of its time."""
        two = self.node()
        waiting = self.wait(wait=5)
        self.one.logs.held = True
        self.send("x", node=two)
        self.assertEqual(self.bodies(node=two), ["x"])
        self.one.logs.held = False
        self.one.logs.go_on()
        self.clock.advance(3)
        self.assertNoResult(waiting)
        self.send("y", node=two)
        self.assertEqual(said(self.done(waiting)), ["y"])
        self.assertEqual(len(self.one.logs.written), 2)

    def test_again_and_over(self) -> None:
        """If nothing comes any more it ends in time."""
        two = self.node()
        waiting = self.wait(wait=5)
        self.one.logs.held = True
        self.send("x", node=two)
        self.receive(node=two)
        self.one.logs.held = False
        self.one.logs.go_on()
        self.clock.advance(5)
        self.assertEqual(self.done(waiting), [])

    def test_again_in_order(self) -> None:
        """Those that came too late are served in the order in which they came first."""
        two = self.node()
        waiting = [self.wait() for _ in range(3)]
        self.one.logs.held = True
        self.send("a", "b", "c", node=two)
        self.bodies(node=two)
        self.one.logs.held = False
        self.one.logs.go_on()
        last = self.wait()
        for number, receiver in enumerate([*waiting, last]):
            self.clock.advance(0.01)
            self.send(str(number))
            self.clock.advance(0.01)
            self.assertEqual(said(self.done(receiver)), [str(number)])

    def test_again_before_others(self) -> None:
        """One that came too late is served before those that came after it, whether they wait or not."""
        two = self.node()
        first = self.wait()
        self.one.logs.held = True
        self.send("x", node=two)
        second = self.wait()
        self.bodies(node=two)
        self.one.logs.held = False
        self.one.logs.go_on()
        self.send("a", node=two)
        self.assertEqual(self.receive(), [])
        third = self.wait()
        self.assertEqual(len(self.one.logs.written), 1)
        self.clock.advance(0.01)
        self.assertEqual(said(self.done(first)), ["a"])
        self.send("b", "c")
        self.clock.advance(0.01)
        self.assertEqual([said(self.done(one)) for one in (second, third)], [["b"], ["c"]])

    def test_no_more_than_needed(self) -> None:
        """A wait writes nothing until there is something to be had."""
        for _ in range(5):
            self.wait()
        self.clock.advance(19)
        self.assertEqual(self.one.logs.written, [])

    def test_dead_letters_only(self) -> None:
        """A receive that finds nothing but dead letters waits on."""
        self.make("dead")
        self.configure(dead_letter=dead_letter("dead", 1))
        self.send("x")
        self.receive(visibility=0)
        waiting = self.wait()
        self.assertNoResult(waiting)
        self.assertEqual(self.counts("dead"), (1, 0, 0))
        self.send("y")
        self.clock.advance(0.01)
        self.assertEqual(said(self.done(waiting)), ["y"])

    def test_too_many(self) -> None:
        """More than a bounded number of receivers are refused; when one has gone there is room."""
        self.patch(replica, "MAX_RECEIVERS", 2)
        first, second = self.wait(), self.wait()
        self.failureResultOf(self.wait(), RateLimited)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        third = self.wait()
        self.send("a", "b")
        self.assertEqual([said(self.done(one)) for one in (second, third)], [["a"], ["b"]])

    def test_outage(self) -> None:
        """A wait outlasts an outage of the bus."""
        two = self.node()
        waiting = self.wait()
        self.one.bus.go_away()
        self.send("x", node=two)
        self.clock.advance(5)
        self.assertNoResult(waiting)
        self.one.bus.come_back()
        self.assertEqual(said(self.done(waiting)), ["x"])

    def test_bus_lost(self) -> None:
        """If the bus is lost while the command is under way, the receiver is told."""
        waiting = self.wait()
        self.one.logs.held = True
        self.send("x", node=self.node())
        self.one.logs.lose(stored=False)
        self.failureResultOf(waiting, BusUnavailable)

    def test_removed(self) -> None:
        """Whoever waits at a queue that is removed is told, at every node."""
        waiting = [self.wait(), self.wait(node=self.node())]
        self.done(self.queues.remove(HOME, "q"))
        for one in waiting:
            self.failureResultOf(one, NotFound)

    def test_stop(self) -> None:
        """Whoever waits at a node that stops is told, and nothing is left to do."""
        waiting = self.wait()
        self.send("x", delay=5)
        self.queues.stop()
        self.failureResultOf(waiting, BusUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndedTests(QueuesTestCase):
    """Receives that wait are connections."""

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.connections = Connections(2)
        self.patch(self.one.queues, "_connections", self.connections)
        self.principal = Principal("alice", "shop", HOME, "key", Grants.everything(HOME), 1e12, "token", 0)

    def test_revoked(self) -> None:
        """Who waits is told that their key is revoked, and takes nothing."""
        waiting = self.wait(principal=self.principal)
        self.assertEqual(len(self.connections), 1)
        self.connections.end(InvalidToken("the token was revoked"), lambda principal: principal.key_id == "key")
        self.failureResultOf(waiting, InvalidToken)
        self.send("a")
        self.assertEqual((self.counts(), len(self.connections)), ((1, 0, 0), 0))

    def test_revoked_before(self) -> None:
        """Whose key was revoked while the queue was being opened does not begin to wait."""

        def check(principal: Principal) -> None:
            raise InvalidToken

        self.connections.check = check
        self.failureResultOf(self.wait(principal=self.principal), InvalidToken)
        self.send("a")
        self.assertEqual(self.counts(), (1, 0, 0))

    def test_going_away(self) -> None:
        """Who waits at a node that goes away is told to try again."""
        waiting = self.wait(principal=self.principal)
        self.connections.end(None)
        self.failureResultOf(waiting, BusUnavailable)

    def test_served(self) -> None:
        """Who is served is counted no longer; who finds something at once never was."""
        waiting = self.wait(principal=self.principal)
        self.send("a")
        self.assertEqual(said(self.done(waiting)), ["a"])
        self.send("b")
        self.assertEqual(said(self.done(self.wait(principal=self.principal))), ["b"])
        self.assertEqual(len(self.connections), 0)

    def test_too_many(self) -> None:
        """Beyond the node's limit of connections a receive that would wait is refused."""
        for _ in range(2):
            self.wait(principal=self.principal)
        self.failureResultOf(self.wait(principal=self.principal), TooManyConnections)
        self.send("a", "b", "c")
        self.assertEqual(self.counts(), (1, 2, 0))

    def test_gone(self) -> None:
        """Who goes away is counted no longer."""
        waiting = self.wait(principal=self.principal)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(self.connections), 0)
