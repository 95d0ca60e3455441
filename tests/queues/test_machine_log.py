"""What the log of a queue has to keep, and a state that is taken up from a checkpoint."""

from __future__ import annotations

from flowgate.queues import machine
from flowgate.queues.held import Accepted, UnknownCommands, place_of
from flowgate.queues.machine import QueueMachine
from tests.queues.machines import BEGIN, HOUR, SECOND, MachineTestCase


class LogTests(MachineTestCase):
    """What the log has to keep."""

    def test_first(self) -> None:
        """The first entry that is needed is that of the oldest message; without any it is the next one."""
        self.assertEqual(self.machine.first, 1)
        first, second = self.send(), self.send()
        self.assertEqual(self.machine.first, 1)
        self.one("d", first, 1)
        self.assertEqual(self.machine.first, 2)
        self.one("d", second, 1)
        self.assertEqual(self.machine.first, 5)

    def test_dead(self) -> None:
        """Entries whose messages are all gone are not needed, though older ones are, until the log was trimmed."""
        self.send()
        self.do(("s", 1, 0), ("s", 1, 0))
        self.one("d", place_of(2, 0), 1)
        self.assertEqual(self.machine.dead(), [])
        self.one("d", place_of(2, 1), 1)
        self.assertEqual(self.machine.dead(), [2])
        self.one("t", 3)
        self.assertEqual(self.machine.dead(), [2])
        self.one("t", 4)
        self.assertEqual(self.machine.dead(), [])

    def test_repetition_is_dead(self) -> None:
        """An entry with nothing but repetitions is not needed."""
        self.send()
        self.send(origin="o")
        self.send(origin="o")
        self.assertEqual(self.machine.dead(), [3])
        self.assertFalse(self.machine.holds(3))

    def test_deleted_at_once(self) -> None:
        """A message that is sent and deleted by one entry leaves nothing behind."""
        self.send()
        self.do(("s", 1, 0), ("d", place_of(2, 0), 1))
        self.assertEqual((self.machine.dead(), len(self.machine)), ([2], 1))

    def test_bounded(self) -> None:
        """What the machine remembers of messages that are elsewhere does not grow with their number."""
        self.patch(machine, "_SLACK", 8)
        stays = self.send("stays", sent=BEGIN)
        for number in range(200):
            self.take(2, 60_000)
            place = self.send(f"g{number}", sent=BEGIN)
            self.one("v", stays, 1, 0)
            self.one("v", stays, 1, 50_000)
            self.one("u", stays, 1)
            self.one("d", place, 0)
        for held in ("_hidden", "_order", "_aged", "_rotation"):
            self.assertLess(len(getattr(self.machine, held)), 20, held)
        message = self.machine.find(stays)
        assert message is not None
        self.assertLess(len(message.group.line), 20)
        self.assertEqual(self.places(), [stays])

    def test_bounded_groups(self) -> None:
        """Nor with the number of groups that come and go while nobody receives."""
        self.patch(machine, "_SLACK", 8)
        for number in range(100):
            self.one("d", self.send(f"g{number}"), 0)
        self.assertLess(len(self.machine._rotation), 20)


class UnknownTests(MachineTestCase):
    """Commands of a version to come."""

    def test_unknown(self) -> None:
        """A command that is not known is passed over, those beside it are carried out, and the entry is reported."""
        entry = [["s", 1, 0], ["?", 1], ["s", 1, 0], ["r", 1, 2, 3, 4, 5, 6], ["s", *[0] * 10], ["s", 1, 0]]
        self.assertRaises(UnknownCommands, self.machine.apply, 1, self.now, entry)
        self.entries.append((1, self.now, entry))
        self.assertEqual(self.machine.upto, 1)
        self.assertEqual(self.places(1), [place_of(1, 0)])
        self.assertEqual(self.restarted().checkpoint(), self.machine.checkpoint())
        self.assertEqual(self.places(), [place_of(1, 1), place_of(1, 3)])
        for index in (0, 1):
            self.one("d", place_of(1, index), 1)
        self.assertTrue(self.machine.holds(1))


class CheckpointTests(MachineTestCase):
    """A machine that begins with a checkpoint goes on as the one that made it."""

    def same(self) -> QueueMachine:
        fresh = self.restarted()
        self.assertEqual(fresh.checkpoint(), self.machine.checkpoint())
        for name in ("visible", "in_flight", "delayed", "bytes", "offered", "first"):
            self.assertEqual(getattr(fresh, name), getattr(self.machine, name), name)
        self.assertEqual(len(fresh), len(self.machine))
        self.machine = fresh
        return fresh

    def test_moving_from_elsewhere(self) -> None:
        """A message that was received too often elsewhere, and is on its way, is on its way."""
        place = self.send("a", receives=5, first=BEGIN)
        self.one("r", 1, 0, 1)
        self.same()
        self.assertEqual((list(self.machine.moving), self.counts()), ([place], (0, 1, 0)))

    def test_taken(self) -> None:
        """When a message was received last is known."""
        place = self.send()
        self.pass_(3)
        self.take()
        message = self.same().find(place)
        assert message is not None
        self.assertEqual(message.taken, BEGIN + 3 * SECOND)

    def test_what_is_gone(self) -> None:
        """What was deleted does not come back, also if its entry is still there for another message."""
        self.do(*[("s", 1, 0)] * 3)
        last = self.send()
        self.take(10, HOUR)
        for index in (0, 2):
            self.one("d", place_of(1, index), 1)
        self.same()
        self.one("v", place_of(1, 1), 1, 0)
        self.one("v", last, 1, 0)
        self.assertEqual(self.places(), [place_of(1, 1), last])
        self.one("d", place_of(1, 1), 2)
        self.assertFalse(self.machine.holds(1))

    def test_dead_entries(self) -> None:
        """An entry that could be let go of, and was not, brings nothing back; it can be let go of later."""
        self.send()
        gone = self.send()
        self.take()
        self.one("d", gone, 1)
        fresh = QueueMachine(self.fifo)
        fresh.restart(self.machine.checkpoint())
        for entry in self.entries:
            fresh.apply(*entry)
        self.assertEqual((len(fresh), fresh.dead()), (1, [2]))
        fresh.apply(5, self.now, [["t", 4]])
        self.assertEqual(fresh.dead(), [])

    def test_purged_entries(self) -> None:
        """Entries from before a purge that are still there bring nothing back."""
        self.send()
        self.one("p")
        fresh = QueueMachine(self.fifo)
        fresh.restart(self.machine.checkpoint())
        for entry in self.entries:
            fresh.apply(*entry)
        self.assertEqual(len(fresh), 0)

    def test_repetitions(self) -> None:
        """Deduplication ids and origins are remembered, for as long as they were."""
        place = self.send(dedup="d", id="1", origin="o")
        self.pass_(200)
        self.same()
        self.assertEqual(self.one("s", 1, 0, None, "d", "2"), Accepted(place, "1"))
        self.send(origin="o")
        self.assertEqual(len(self.machine), 1)
        self.pass_(100)
        self.assertNotEqual(self.send(dedup="d", id="3"), place)
        self.same()
        self.assertEqual(self.one("s", 1, 0, None, "d", "4").id, "3")

    def test_sent_before(self) -> None:
        """Messages from elsewhere are as old as they were."""
        self.send(sent=BEGIN - 50 * SECOND)
        self.send()
        self.same()
        self.pass_(10)
        self.one("x", 60)
        self.assertEqual(len(self.machine), 1)

    def test_delay_that_ends(self) -> None:
        """A delay that ended since the message was sent has ended."""
        self.send(delay=5_000)
        self.pass_(5)
        self.send()
        self.same()
        self.assertEqual(self.counts(), (2, 0, 0))

    def test_version(self) -> None:
        """A checkpoint of a version that is not known is refused."""
        later = self.machine.checkpoint().replace(b'"version":1', b'"version":2')
        self.assertRaises(ValueError, QueueMachine(False).restart, later)


class StandardCheckpointTests(CheckpointTests):
    """What only standard queues have."""

    def test_states(self) -> None:
        """Messages are where they were: visible, delayed, in flight, on their way, with all that is known of them."""
        places = [self.send(), self.send(), self.send(delay=50_000), self.send()]
        self.take(1, 0)
        self.pass_(1)
        handout = self.one("r", 1, 30_000, 1)
        self.assertEqual([one.place for one in handout.moving], places[:1])
        before = [self.machine.grant(place) for place in places]
        self.same()
        self.assertEqual([self.machine.grant(place) for place in places], before)
        self.assertEqual((self.counts(), list(self.machine.moving)), ((1, 2, 1), places[:1]))
        self.assertEqual(self.machine.moving[places[0]], BEGIN + SECOND)
        self.assertEqual(self.machine.next_turn(), BEGIN + 31 * SECOND)
        self.pass_(100)
        self.assertEqual(self.places(), [places[3], places[1], places[2]])
        self.one("b", places[0])
        self.assertEqual(self.places(), places[:1])

    def test_fairness(self) -> None:
        """Whose turn it is is known."""
        for group in "aaabbb":
            self.send(group)
        self.assertEqual([grant.group for grant in self.take(3)], ["a", "b", "a"])
        self.same()
        self.send("c")
        self.assertEqual([grant.group for grant in self.take()], ["b", "a", "c", "b"])


class FifoCheckpointTests(CheckpointTests):
    """Some of it of a FIFO queue, and what only those have."""

    fifo = True

    def test_blocked(self) -> None:
        """A group stays blocked, and others do not."""
        self.do(*[("s", 1, 0, "a")] * 3)
        other = self.send("b")
        self.take(2)
        self.same()
        self.assertEqual(self.places(), [other])
        for index in (0, 1):
            self.one("d", place_of(1, index), 1)
        self.same()
        self.assertEqual(self.places(), [place_of(1, 2)])

    def test_attempts(self) -> None:
        """Receive attempts are known."""
        self.send("a")
        first = self.take(1, 30_000, 0, 0, "x")
        self.pass_(1)
        self.same()
        self.assertEqual(self.take(1, 30_000, 0, 0, "x"), first)
