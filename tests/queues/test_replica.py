"""One queue on one node: how commands become entries, and what happens if they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable, Internal, NotFound, RateLimited
from flowgate.interfaces import IQueueFollower, IQueueLog, IQueueLogs
from flowgate.message import LogEntry
from flowgate.queues import replica
from flowgate.queues.bodies import Bodies, join
from flowgate.queues.held import Accepted, Grant, Handout
from flowgate.queues.model import Outgoing
from flowgate.queues.replica import Replica
from tests.queues.nodes import BEGIN, HOME, LateLog, QueuesTestCase, said

SECOND = 1_000_000_000


class CoalescingTests(QueuesTestCase):
    """Commands that come while others are on their way go together."""

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.replica = self.one.replica()
        self.logs = self.one.logs
        self.logs.held = True

    def begin(self, count: int, *command: Any, blob: bytes | None = None) -> list[Deferred[Any]]:
        return [self.leave(self.replica.command(*command, blob=blob)) for _ in range(count)]

    def entries(self) -> list[tuple[int, int, int]]:
        """Of each entry that was written: how many commands, the length of its head, that of its payload."""
        return [(len(orjson.loads(head)[2]), len(head), len(payload)) for head, payload in self.logs.written]

    def go_on(self) -> None:
        """Store all there is, entry by entry."""
        while self.logs.waiting:
            self.logs.go_on(1)

    def test_alone(self) -> None:
        """A command that comes alone is written at once."""
        self.begin(1, "p")
        self.assertEqual([commands for commands, _, _ in self.entries()], [1])

    def test_of_one_turn(self) -> None:
        """What is wanted while the node takes in what has come goes in one entry, when that is over."""
        turn: list[Callable[[], None]] = []
        self.patch(self.replica, "_soon", turn.append)
        self.begin(5, "p")
        self.assertEqual((self.entries(), len(turn)), ([], 1))
        turn.pop()()
        self.assertEqual([commands for commands, _, _ in self.entries()], [5])
        self.begin(1, "p")
        self.replica.close()
        turn.pop()()
        self.assertEqual(len(self.entries()), 1)

    def test_together(self) -> None:
        """While two entries are on their way commands wait, and then go in one; each gets its own answer, in order."""
        under_way = [self.replica.command("s", 1, 0, blob=b"%d" % number) for number in range(10)]
        self.assertEqual([commands for commands, _, _ in self.entries()], [1, 1])
        self.logs.go_on(1)
        self.assertEqual([commands for commands, _, _ in self.entries()], [1, 1, 8])
        self.go_on()
        places = [self.done(one).place for one in under_way]
        self.assertEqual(places, sorted(places))
        grants = [Grant(place, 1, 0, 0, "") for place in places]
        self.logs.held = False
        self.assertEqual(
            [blob for blob in self.done(self.replica.fetch(grants)) if blob], [b"%d" % n for n in range(10)]
        )

    def test_count(self) -> None:
        """An entry has a bounded number of commands."""
        under_way = self.begin(1200, "x", 60)
        self.go_on()
        counts = [commands for commands, _, _ in self.entries()]
        self.assertEqual(counts, [1, 1, 500, 500, 198])
        self.assertEqual([self.done(one) for one in under_way], [None] * 1200)

    def test_head(self) -> None:
        """An entry's head is bounded in bytes."""
        under_way = self.begin(1200, "s", 1, 0, "g" * 128, "d" * 256)
        self.go_on()
        entries = self.entries()
        self.assertLessEqual(max(head for _, head, _ in entries), 48 * 1024)
        self.assertGreater(entries[2][1], 39 * 1024)
        self.assertEqual(sum(commands for commands, _, _ in entries), 1200)
        self.assertIsInstance(self.done(under_way[-1]), Accepted)

    def test_payload(self) -> None:
        """An entry's payload is bounded in bytes, by what the bus takes."""
        under_way = self.begin(60, "s", 1, 0, blob=b"x" * 100_000)
        self.go_on()
        entries = self.entries()
        log = self.replica.log
        assert log is not None
        self.assertLessEqual(max(head + payload for _, head, payload in entries), log.largest)
        self.assertGreater(entries[2][2], 900_000)
        self.assertEqual(len({self.done(one).place for one in under_way}), 60)

    def test_largest_alone(self) -> None:
        """A body as large as any may be goes alone."""
        under_way = self.begin(4, "s", 1, 0, blob=b"x" * (self.replica.largest - 4))
        self.go_on()
        self.assertEqual([commands for commands, _, _ in self.entries()], [1, 1, 1, 1])
        for one in under_way:
            self.done(one)

    def test_too_many(self) -> None:
        """More than a bounded number of commands that wait are refused; those that wait are carried out."""
        self.patch(replica, "MAX_WAITING", 5)
        under_way = self.begin(7, "x", 60)
        self.failureResultOf(self.replica.command("x", 60), RateLimited)
        self.go_on()
        for one in under_way:
            self.assertIsNone(self.done(one))
        self.begin(1, "x", 60)

    def test_too_many_bytes(self) -> None:
        """Likewise more than a bounded number of bytes; what was written leaves room."""
        self.patch(replica, "MAX_WAITING_BYTES", 1_000_000)
        self.begin(2, "p")
        for _ in range(2):
            for _ in range(3):
                self.begin(1, "s", 1, 0, blob=b"x" * 400_000)
            self.failureResultOf(self.replica.command("p"), RateLimited)
            self.go_on()
            self.assertEqual(self.replica._batch_bytes, 0)
            self.begin(2, "p")

    def test_refused_sends(self) -> None:
        """A send that finds too much waiting is refused, for what does not fit."""
        self.patch(replica, "MAX_WAITING", 1)
        sending = self.queues.send(HOME, "q", [Outgoing(body) for body in "abcd"])
        self.go_on()
        results = self.done(sending)
        self.assertEqual([isinstance(one, RateLimited) for one in results], [False, False, False, True])

    def test_interfaces(self) -> None:
        """A replica follows a log; the logs of these tests are such."""
        self.assertTrue(verifyObject(IQueueFollower, self.replica))
        self.assertTrue(verifyObject(IQueueLogs, self.logs))
        assert isinstance(self.replica.log, LateLog)
        self.assertTrue(verifyObject(IQueueLog, self.replica.log))


class FailureTests(QueuesTestCase):
    """Entries that cannot be stored, or of which nobody knows."""

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.replica = self.one.replica()
        self.logs = self.one.logs

    def test_not_stored(self) -> None:
        """If an entry cannot be stored, all of its commands say so, and those behind it are tried."""
        self.logs.held = True
        under_way = [self.replica.command("p") for _ in range(6)]
        first, self.logs.waiting = self.logs.waiting, []
        for _, _, waiting in first:
            waiting.errback(BusUnavailable())
        for one in under_way[:2]:
            self.failureResultOf(one, BusUnavailable)
        self.logs.go_on()
        for one in under_way[2:]:
            self.assertIsNone(self.done(one))
        self.assertTrue(self.replica.idle)

    def test_away(self) -> None:
        """While the bus is away everything fails at once, also what waited; afterwards everything goes."""
        self.logs.held = True
        under_way = [self.replica.command("p") for _ in range(2000)]
        self.one.bus.go_away()
        self.logs.held = False
        self.logs.go_on()
        for one in under_way:
            self.failureResultOf(one, BusUnavailable)
        self.one.bus.come_back()
        self.assertIsNone(self.done(self.replica.command("p")))

    def test_late_grant(self) -> None:
        """What an entry takes that comes after it was given up goes back, as if it had not been taken."""
        self.send("x")
        self.logs.held = True
        receiving = self.wait()
        self.logs.held = False
        self.logs.lose(stored=True)
        self.failureResultOf(receiving, BusUnavailable)
        self.assertEqual(self.counts(), (1, 0, 0))
        self.assertEqual(self.receive()[0].receive_count, 1)

    def test_late_send(self) -> None:
        """A message of an entry that comes after it was given up is there: its sender was told that it may be."""
        self.logs.held = True
        sending = self.queues.send(HOME, "q", [Outgoing("x")])
        self.logs.held = False
        self.logs.lose(stored=True)
        self.failureResultOf(sending, BusUnavailable)
        self.assertEqual(self.bodies(), ["x"])

    def test_restart_fails_what_flies(self) -> None:
        """If the state begins anew from a checkpoint, what was on its way fails: its entries may lie before that."""
        self.logs.held = True
        under_way = [self.leave(self.replica.command("s", 1, 0, blob=b"x")) for _ in range(3)]
        self.replica.restart(None, 0)
        for one in under_way[:2]:
            self.failureResultOf(one, BusUnavailable)
        self.assertNoResult(under_way[2])

    def test_restart_goes_on(self) -> None:
        """What was not written yet is written then."""
        self.logs.held = True
        under_way = [self.leave(self.replica.command("p")) for _ in range(3)]
        self.logs.waiting = []
        self.replica.restart(None, 0)
        self.clock.advance(0)
        self.logs.go_on()
        self.assertIsNone(self.done(under_way[2]))

    def test_restart_keeps_what_was_given(self) -> None:
        """What was handed out stays so if the same entries come again after the state began anew."""
        self.send("a")
        self.receive()
        self.replicate(self.replica)
        self.assertEqual(self.counts(), (0, 1, 0))
        self.assertTrue(self.replica.idle)

    def replicate(self, one: Replica) -> None:
        """Have the state begin anew, and come to where it was."""
        entries = list(self.shared._bus.logs[HOME, "q"].entries.values())
        one.restart(None, 0)
        one.entries(entries)

    def test_given_up_and_anew(self) -> None:
        """What was on its way when the state began anew and is stored goes back."""
        self.send("a")
        self.logs.held = True
        receiving = self.wait()
        self.replica.restart(None, 0)
        self.failureResultOf(receiving, BusUnavailable)
        self.logs.held = False
        self.replica.entries(list(self.shared._bus.logs[HOME, "q"].entries.values()))
        self.logs.go_on()
        self.assertEqual(self.counts(), (1, 0, 0))

    def test_given_up_is_bounded(self) -> None:
        """Of entries that were given up a bounded number is remembered."""
        self.patch(replica, "_GIVEN_UP", 5)
        self.one.bus.go_away()
        for _ in range(20):
            self.failureResultOf(self.replica.command("p"), BusUnavailable)
        self.assertEqual(len(self.replica._given_up), 5)

    def test_caught_up(self) -> None:
        """After an outage during which another node has saved the state, this one knows all that happened."""
        two = self.node()
        self.send(*"abc")
        self.one.bus.go_away()
        self.delete_at(two)
        self.done(two.replica().checkpoint())
        self.send("d", node=two)
        self.one.bus.come_back()
        self.assertEqual(self.counts(), (3, 0, 0))
        self.assertEqual(self.bodies(), ["b", "c", "d"])

    def delete_at(self, node: Any) -> None:
        (one,) = self.receive(node=node)
        self.done(node.queues.delete(HOME, "q", [one.receipt]))

    def test_gone(self) -> None:
        """When the queue is removed elsewhere what is under way says so."""
        two = self.node()
        self.logs.held = True
        under_way = [self.replica.command("p") for _ in range(3)]
        self.done(two.queues.remove(HOME, "q"))
        for one in under_way:
            self.failureResultOf(one, NotFound)
        self.assertTrue(self.replica.closed)

    def test_closed(self) -> None:
        """A closed replica refuses commands, and takes no notice of what comes."""
        self.replica.close()
        self.replica.close()
        self.failureResultOf(self.replica.command("p"), BusUnavailable)
        self.failureResultOf(self.replica.receive(1, 0, 20), BusUnavailable)
        self.assertIsNone(self.done(self.replica.checkpoint()))


class UnreadableTests(QueuesTestCase):
    """Entries that cannot be read: of a version to come, or damaged."""

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.two = self.node()
        self.replicas = [node.replica() for node in (self.one, self.two)]

    def append(self, head: bytes, payload: bytes = b"") -> None:
        log = self.two.replica().log
        assert log is not None
        self.done(log.append(head, payload))

    def states(self) -> list[bytes]:
        """The states of both nodes, and that of one that begins now."""
        three = self.node()
        return [one.machine.checkpoint() for one in (*self.replicas, three.replica())]

    def test_skipped(self) -> None:
        """All nodes skip such an entry, report it, and go on alike."""
        self.send("a")
        for head in (
            b"?",
            b"5",
            b"[]",
            b'["w",1]',
            b'["w",1,5]',
            b'["w",1,[["?"]]]',
            b'["w",1,[[]]]',
            b'["w",1,[["d"]]]',
        ):
            self.append(head)
            self.assertEqual(len(self.flushLoggedErrors()), 2)
        self.send("b")
        first, *others = self.states()
        self.assertEqual(others, [first, first])
        self.assertEqual(len(self.flushLoggedErrors()), 8)
        self.assertEqual(self.bodies(node=self.two), ["a", "b"])

    def test_empty_head(self) -> None:
        """An entry that is not for the machine is none of its business."""
        self.append(b"", b"x")
        self.send("a")
        self.assertEqual(self.bodies(), ["a"])

    def test_in_part(self) -> None:
        """Of an entry with a command that is not known the others are carried out, by all nodes; bodies stay apart."""
        self.append(b'["w",1,[["s",1,0],["later"],["s",1,0]]]', join([b'["1"]\na', b'["2"]\nb']))
        first, *others = self.states()
        self.assertEqual(others, [first, first])
        self.assertEqual(len(self.flushLoggedErrors()), 3)
        self.assertEqual(self.bodies(), ["a", "b"])

    def test_own(self) -> None:
        """If it is one of this node's own, its commands end with a fault of ours, and others go on."""
        for _ in range(3):
            self.failureResultOf(self.replicas[0].command("later"), Internal)
        self.assertEqual(len(self.flushLoggedErrors()), 6)
        self.send("a")
        self.assertTrue(self.replicas[0].idle)


class ClockTests(QueuesTestCase):
    """The bus's clock is not ours."""

    def setUp(self) -> None:
        super().setUp()
        self.make()

    def check(self, ahead: float) -> None:
        """Use a node whose clock is ahead of the bus's."""
        node = self.node(ahead)
        self.send("x", node=node)
        self.assertEqual(node.replica().bus_now(), self.clock.seconds() * SECOND)
        self.assertEqual(self.bodies(node=node, visibility=10), ["x"])
        waiting = self.wait(node=node)
        self.clock.advance(9.9)
        self.assertEqual(self.counts(node=node), (0, 1, 0))
        self.assertNoResult(waiting)
        self.clock.advance(0.11)
        self.assertEqual(said(self.done(waiting)), ["x"])
        self.assertEqual(self.stats(node=node).oldest_age_seconds, 10.01)

    def test_bus_behind(self) -> None:
        """If the bus's clock is behind ours, what we tell of now is by the bus's."""
        self.check(1000)

    def test_bus_ahead(self) -> None:
        """Likewise if it is ahead."""
        self.check(-1000)

    def test_late_answer(self) -> None:
        """An entry that comes late leaves the difference as it is."""
        node = self.node(1000)
        self.send("x", node=node)
        node.logs.held = True
        sending = node.queues.send(HOME, "q", [Outgoing("y")])
        self.clock.advance(30)
        node.logs.go_on()
        self.done(sending)
        self.assertEqual(node.replica().bus_now(), self.clock.seconds() * SECOND)

    def test_told_late(self) -> None:
        """Likewise one that was stored at once, and is heard of late."""
        node = self.node(1000)
        self.send("x", node=node)
        one = node.replica()
        deaf: list[Sequence[LogEntry]] = []
        entries = one.entries
        self.patch(one, "entries", deaf.append)
        sending = node.queues.send(HOME, "q", [Outgoing("y")])
        self.clock.advance(30)
        for some in deaf:
            entries(some)
        self.done(sending)
        self.assertEqual(one.bus_now(), self.clock.seconds() * SECOND)

    def test_bus_changes(self) -> None:
        """If the bus's clock is set, the difference is learnt anew."""
        clock_ahead = [0.0]
        one = self.one.replica()
        self.patch(one, "_now", lambda: self.clock.seconds() + clock_ahead[0])
        for ahead in (1000.0, -1000.0, 0.0):
            clock_ahead[0] = ahead
            self.send("x")
            self.assertEqual(one.bus_now(), self.clock.seconds() * SECOND)


class BodyTests(QueuesTestCase):
    """Where bodies come from."""

    def setUp(self) -> None:
        super().setUp()
        self.make()

    def reads(self) -> list[Sequence[int]]:
        """What is read from the log from now on."""
        log = self.one.replica().log
        assert log is not None
        reads: list[Sequence[int]] = []
        read = log.read
        self.patch(log, "read", lambda sequences: reads.append(sequences) or read(sequences))  # type: ignore[func-returns-value]
        return reads

    def test_at_hand(self) -> None:
        """What was sent is at hand; nothing is read."""
        reads = self.reads()
        self.send("x")
        self.assertEqual((self.bodies(), reads), (["x"], []))

    def test_from_the_log(self) -> None:
        """What is not at hand is read, each entry once, and comes in order."""
        self.one.replica()
        self.one.logs.held = True
        sending = self.queues.send(HOME, "q", [Outgoing(body) for body in "abcdef"])
        self.one.logs.held = False
        self.one.logs.go_on()
        self.done(sending)
        self.patch(self.one, "queues", self.node().queues)
        reads = self.reads()
        self.assertEqual(self.bodies(), list("abcdef"))
        self.assertEqual([len(sequences) for sequences in reads], [3])

    def test_dropped(self) -> None:
        """What was deleted or purged is not kept."""
        kept = self.one.replica()._bodies
        self.send("a", "b")
        self.assertGreater(kept.total, 0)
        self.delete(*self.receive())
        self.done(self.queues.purge(HOME, "q"))
        self.assertEqual(kept.total, 0)
        self.send("a")
        self.delete(*self.receive())
        self.assertEqual(kept.total, 0)

    def test_closed(self) -> None:
        """A closed queue keeps nothing."""
        kept = self.one.replica()._bodies
        self.send("a")
        self.queues.opened.close(HOME, "q")
        self.assertEqual(kept.total, 0)

    def test_missing(self) -> None:
        """What is not in the log is missing."""
        self.send("a")
        (grant,) = self.done(self.one.replica().receive(1, 30_000, 0)).grants
        one = self.one.replica()
        self.assertEqual(self.done(one.fetch([Grant(99 << 10, 1, 0, 0, ""), grant]))[0], None)

    def test_not_open(self) -> None:
        """Without a log nothing can be fetched."""
        one = Replica(HOME, "q", self.clock, self.clock.seconds, Bodies(), lambda *_: Deferred(), lambda _: None)
        self.failureResultOf(one.fetch([Grant(1 << 10, 1, 0, 0, "")]), BusUnavailable)
        self.assertEqual(one.largest, 0)
        self.assertEqual(BEGIN * SECOND, one.bus_now())
        self.assertEqual(Handout(), Handout((), (), False))
