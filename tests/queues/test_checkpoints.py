"""Saving a queue's state, and letting go of what is no longer needed."""

from __future__ import annotations

import secrets
from unittest.mock import patch

from twisted.internet.defer import Deferred

from flowgate.errors import BusUnavailable, Conflict
from flowgate.queues import replica
from tests.queues.nodes import HOME, Node, QueuesTestCase


class CheckpointTests(QueuesTestCase):
    """When and how the state is saved; every few entries, here."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(replica, "_CHECKPOINT_ENTRIES", 20)
        self.patch(replica, "_RETRY_ENTRIES", 5)
        self.patch(secrets, "randbelow", lambda _: 0)
        self.make()
        self.stored = self.shared._bus.logs[HOME, "q"]

    def settle(self) -> None:
        """Let what goes on in pieces come to its end."""
        for _ in range(20):
            self.clock.advance(0)

    def checkpoint(self, node: Node | None = None) -> None:
        saving = (node or self.one).replica().checkpoint()
        self.settle()
        self.done(saving)

    def test_threshold(self) -> None:
        """The state is saved once enough entries were added, and the log lets go of those without bodies."""
        self.send("x")
        for _ in range(9):
            self.receive(visibility=0)
            self.receive(visibility=0)
        self.assertIsNone(self.stored.checkpoint.data)
        self.receive(visibility=0)
        self.receive(visibility=0)
        self.settle()
        self.assertIsNotNone(self.stored.checkpoint.data)
        self.assertLess(len(self.stored.entries), 4)

    def test_threshold_of_bytes(self) -> None:
        """It is also saved once enough bytes were added."""
        self.patch(replica, "_CHECKPOINT_BYTES", 10_000)
        self.send("x" * 9_000)
        self.assertIsNone(self.stored.checkpoint.data)
        self.send("x" * 9_000)
        self.settle()
        self.assertIsNotNone(self.stored.checkpoint.data)

    def test_again(self) -> None:
        """After that it takes as many entries again."""
        self.send("x")
        while self.stored.checkpoint.data is None:
            self.receive(visibility=0)
            self.settle()
        first = self.stored.checkpoint
        for _ in range(16):
            self.receive(visibility=0)
            self.settle()
        self.assertIs(self.stored.checkpoint, first)
        for _ in range(6):
            self.receive(visibility=0)
            self.settle()
        self.assertIsNot(self.stored.checkpoint, first)

    def test_at_random(self) -> None:
        """Each node has a threshold of its own, so that they seldom save at the same time."""
        with patch.object(secrets, "randbelow", lambda most: most - 1):
            two = self.node()
            self.assertEqual(two.replica()._tail_most, 20 + 4)
        self.assertEqual(self.one.replica()._tail_most, 20)

    def test_node_that_comes_later(self) -> None:
        """A node that comes later knows what was before the checkpoint, and behind it."""
        self.send(*"abcd")
        one, two = self.receive(2)
        self.delete(one)
        self.checkpoint()
        self.send("e")
        self.delete(two)
        self.assertEqual(self.bodies(node=self.node()), ["c", "d", "e"])

    def test_everything_trimmed(self) -> None:
        """Of an empty queue nothing is left but the checkpoint, and all is well."""
        self.send(*"abc")
        self.delete(*self.receive(10))
        self.checkpoint()
        self.assertEqual([entry.payload for entry in self.stored.entries.values() if entry.payload], [])
        three = self.node()
        self.assertEqual(self.counts(node=three), (0, 0, 0))
        self.send("d", node=three)
        self.assertEqual(self.bodies(), ["d"])

    def test_middle_trimmed(self) -> None:
        """Messages that were deleted out of order are let go of too."""
        self.send("a")
        self.send("b")
        self.send("c")
        _, middle, _ = self.receive(10)
        self.delete(middle)
        self.checkpoint()
        payloads = [entry.payload for entry in self.stored.entries.values() if entry.payload]
        self.assertEqual(len(payloads), 2)
        self.assertEqual(self.one.replica().machine.dead(), [])

    def test_after_purge(self) -> None:
        """A purge saves the state at once: nothing of what was purged is kept."""
        self.send(*"abc")
        purging = self.queues.purge(HOME, "q")
        self.settle()
        self.done(purging)
        self.assertIsNotNone(self.stored.checkpoint.data)
        self.assertEqual([entry for entry in self.stored.entries.values() if entry.payload], [])
        self.assertEqual(self.counts(node=self.node()), (0, 0, 0))

    def test_in_pieces(self) -> None:
        """A large state is made in pieces, and is that of the moment when it was begun."""
        self.patch(replica, "_LINES", 1)
        self.send("a")
        saving = self.one.replica().checkpoint()
        self.assertNoResult(saving)
        self.send("b")
        self.delete(*self.receive())
        self.settle()
        self.done(saving)
        self.assertEqual(self.bodies(node=self.node()), ["b"])

    def test_one_at_a_time(self) -> None:
        """While the state is being saved it is not saved again."""
        self.send("a")
        self.one.logs.held = True
        saving = self.one.replica().checkpoint()
        self.settle()
        self.assertIsNone(self.done(self.one.replica().checkpoint()))
        self.assertEqual([what for what, _, _ in self.one.logs.waiting], ["save"])
        self.assertFalse(self.one.replica().idle)
        self.one.logs.held = False
        self.one.logs.go_on()
        self.done(saving)
        self.assertTrue(self.one.replica().idle)

    def test_two_nodes(self) -> None:
        """If two nodes save at the same time one of them is too late; both are up to date, and go on."""
        two = self.node()
        self.send(*"abc")
        self.receive()
        for node in (self.one, two):
            node.replica()
            node.logs.held = True
        saving = [node.replica().checkpoint() for node in (self.one, two)]
        self.settle()
        for node in (two, self.one):
            node.logs.held = False
            node.logs.go_on()
        for one in saving:
            self.done(one)
        self.assertEqual(self.one.replica()._tail, 0)
        self.assertEqual(self.counts(node=self.node()), (2, 1, 0))
        self.checkpoint()
        self.checkpoint(two)
        self.assertEqual(self.counts(node=self.node()), (2, 1, 0))

    def test_messages_meanwhile(self) -> None:
        """What happens while the state is saved is kept."""
        self.send("a")
        self.one.logs.held = True
        saving = self.one.replica().checkpoint()
        self.settle()
        self.send("b", node=self.node())
        self.one.logs.held = False
        self.one.logs.go_on()
        self.done(saving)
        self.assertEqual(self.bodies(node=self.node()), ["a", "b"])

    def test_not_trimmed(self) -> None:
        """If a node dies after it has saved the state, the next one that saves lets go of what it left."""
        self.send("a")
        self.send("b")
        one, _ = self.receive(10)
        self.delete(one)
        self.one.logs.held = True
        self.leave(self.one.replica().checkpoint())
        self.settle()
        self.one.logs.go_on(1)
        self.queues.stop()
        two = self.node()
        self.assertEqual(self.counts(node=two), (0, 1, 0))
        self.assertEqual(len([entry for entry in self.stored.entries.values() if entry.payload]), 2)
        self.send("c", node=two)
        self.checkpoint(two)
        self.assertEqual(len([entry for entry in self.stored.entries.values() if entry.payload]), 2)

    def test_bus_away(self) -> None:
        """If the state cannot be saved nobody is bothered; it is tried again some entries later."""
        self.send("x")
        self.one.logs.held = True
        saving = self.one.replica().checkpoint()
        self.settle()
        self.one.logs.lose(stored=False)
        self.assertIsNone(self.done(saving))
        self.one.logs.held = False
        self.assertIsNone(self.stored.checkpoint.data)
        for _ in range(6):
            self.receive(visibility=0)
            self.settle()
        self.assertIsNotNone(self.stored.checkpoint.data)

    def test_fault(self) -> None:
        """A fault is reported, and the queue goes on."""
        self.send("x")
        log = self.one.replica().log
        failing: Deferred[bool] = Deferred()
        self.patch(log, "save", lambda *_: failing)
        saving = self.one.replica().checkpoint()
        self.settle()
        failing.errback(ZeroDivisionError())
        self.assertIsNone(self.done(saving))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.bodies(), ["x"])

    def later(self) -> None:
        """Have the state be one that a later version has saved."""
        self.send("x")
        self.checkpoint()
        stored = self.stored.checkpoint
        assert stored.data is not None
        later = stored.data.replace(b'"version":1', b'"version":2')
        self.assertNotEqual(later, stored.data)
        self.stored.checkpoint = type(stored)(stored.place, stored.upto, later)

    def test_version(self) -> None:
        """A state that this version cannot read is refused, with the reason; other queues are not concerned."""
        self.later()
        two = self.node()
        for refused in (two.queues.receive(HOME, "q"), two.queues.stats(HOME, "q"), two.queues.peek(HOME, "q")):
            failure = self.failureResultOf(refused, Conflict)
            self.assertIn("another version", failure.value.detail)
        self.make("r")
        self.send("y", name="r", node=two)

    def test_damaged(self) -> None:
        """Likewise one that is damaged."""
        self.later()
        stored = self.stored.checkpoint
        for data in (
            b"",
            b"{}",
            b"5",
            b'{"version":1}',
            b'{"version":1,"upto":1,"now":1,"served":1,"first":1}\n["?",[]]',
        ):
            self.stored.checkpoint = type(stored)(stored.place, stored.upto, data)
            self.failureResultOf(self.node().queues.receive(HOME, "q"), Conflict)

    def test_version_meanwhile(self) -> None:
        """A node that has the queue open when it meets such a state tells those who wait, and closes it."""
        two = self.node()
        waiting = self.wait(node=two)
        two.bus.go_away()
        self.later()
        self.stored.checkpoint = type(self.stored.checkpoint)(99, 99, self.stored.checkpoint.data)
        self.assertRaises(Conflict, two.bus.come_back)
        self.failureResultOf(waiting, Conflict)
        self.failureResultOf(two.queues.receive(HOME, "q"), Conflict)

    def test_removed_can_be_made_again(self) -> None:
        """Such a queue can be removed, and made again."""
        self.later()
        two = self.node()
        self.failureResultOf(two.queues.receive(HOME, "q"), Conflict)
        self.done(two.queues.remove(HOME, "q"))
        self.make()
        self.assertEqual(self.bodies(node=two), [])

    def test_closed_meanwhile(self) -> None:
        """A queue that is closed while its state is saved is closed."""
        self.send("x")
        self.one.logs.held = True
        saving = self.one.replica().checkpoint()
        self.settle()
        self.queues.opened.close(HOME, "q")
        self.one.logs.held = False
        self.one.logs.go_on()
        self.assertIsNone(self.done(saving))
        self.assertEqual(self.bodies(), ["x"])

    def test_outage_is_no_fault(self) -> None:
        """A purge during an outage is refused as anything else."""
        self.counts()
        self.one.bus.go_away()
        self.failureResultOf(self.queues.purge(HOME, "q"), BusUnavailable)
