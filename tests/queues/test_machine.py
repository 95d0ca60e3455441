"""The state of a queue: what each entry of its log makes of it."""

from __future__ import annotations

from typing import Any

from flowgate.queues import machine
from flowgate.queues.held import Done, Grant, entry_of, place_of
from tests.queues.machines import BEGIN, HOUR, SECOND, MachineTestCase


class StandardTests(MachineTestCase):
    """A standard queue."""

    def test_places(self) -> None:
        """A place says entry and index, and grows with both."""
        self.assertEqual(entry_of(place_of(7, 1023)), (7, 1023))
        self.assertLess(place_of(7, 1023), place_of(8, 0))

    def test_order(self) -> None:
        """Messages are handed out in the order in which they came, also those of one entry."""
        first = self.send()
        self.do(("s", 1, 0), ("s", 1, 0))
        self.assertEqual(self.places(2), [first, place_of(2, 0)])
        self.assertEqual(self.places(2), [place_of(2, 1)])

    def test_order_of_turns(self) -> None:
        """A message that comes back stands behind those that are visible for longer."""
        first, second = self.send(), self.send()
        self.take(1, 5_000)
        self.pass_(5)
        self.assertEqual(self.places(), [second, first])

    def test_what_a_receive_says(self) -> None:
        """A grant counts the receives, and knows when the message was sent and first received."""
        place = self.send("g")
        self.pass_(2)
        self.assertEqual(self.take(1, 1_000), [Grant(place, 1, BEGIN, BEGIN + 2 * SECOND, "g")])
        self.pass_(2)
        self.assertEqual(self.take(), [Grant(place, 2, BEGIN, BEGIN + 2 * SECOND, "g")])

    def test_visibility_ends(self) -> None:
        """A message is hidden for exactly its visibility."""
        place = self.send()
        self.take()
        self.now += 30 * SECOND - 1
        self.assertEqual(self.places(), [])
        self.now += 1
        self.assertEqual(self.places(), [place])

    def test_visibility_zero(self) -> None:
        """A message that is hidden for no time can be received again at once, with another number."""
        self.send()
        self.assertEqual([self.take(10, 0)[0].number for _ in range(3)], [1, 2, 3])
        self.assertEqual(self.counts(), (1, 0, 0))

    def test_zero_once_in_a_receive(self) -> None:
        """Also with visibility 0 a receive brings each message once."""
        for _ in range(3):
            self.send()
        self.assertEqual(len(set(self.places(10, 0))), 3)

    def test_zero_goes_behind(self) -> None:
        """What was hidden for no time stands behind those that are visible for longer."""
        first, second = self.send(), self.send()
        self.pass_(1)
        self.assertEqual([self.places(1, 0) for _ in range(3)], [[first], [second], [first]])

    def test_delay(self) -> None:
        """A delayed message comes when its time has come, and is counted apart until then."""
        place = self.send(delay=5_000)
        self.assertEqual(self.counts(), (0, 0, 1))
        self.now += 5 * SECOND - 1
        self.assertEqual(self.places(), [])
        self.now += 1
        self.assertEqual(self.counts(), (1, 0, 0))
        self.assertEqual(self.places(), [place])

    def test_next_turn(self) -> None:
        """The machine knows when the next message becomes visible, also if others were deleted or changed."""
        self.assertIsNone(self.machine.next_turn())
        place = self.send()
        self.take()
        self.send(delay=60_000)
        self.assertEqual(self.machine.next_turn(), BEGIN + 30 * SECOND)
        self.one("v", place, 1, 40_000)
        self.assertEqual(self.machine.next_turn(), BEGIN + 40 * SECOND)
        self.one("d", place, 1)
        self.assertEqual(self.machine.next_turn(), BEGIN + 60 * SECOND)

    def test_clock_goes_back(self) -> None:
        """If the bus's clock goes back, the queue's time stands still: what was visible does not become hidden."""
        self.send(delay=5_000)
        self.pass_(5)
        self.send()
        self.pass_(-4)
        self.assertEqual(len(self.take()), 2)
        late = self.send()
        message = self.machine.find(late)
        assert message is not None
        self.assertEqual(message.sent, BEGIN + 5 * SECOND)
        self.assertEqual(self.restarted().grant(late), self.machine.grant(late))

    def test_delete(self) -> None:
        """A deleted message is gone, and to delete it again says so."""
        place = self.send()
        self.take()
        self.assertIs(self.one("d", place, 1), Done.DONE)
        self.assertIs(self.one("d", place, 1), Done.GONE)
        self.assertEqual((len(self.machine), self.machine.bytes, self.counts()), (0, 0, (0, 0, 0)))

    def test_delete_by_an_old_receive(self) -> None:
        """A message can be deleted by a receive that is over, visible or with somebody else."""
        first, second = self.send(), self.send()
        self.take(10, 1_000)
        self.pass_(1)
        self.assertEqual(self.places(1), [first])
        self.assertEqual([self.one("d", place, 1) for place in (first, second)], [Done.DONE, Done.DONE])
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_change(self) -> None:
        """A changed visibility counts from the change."""
        place = self.send()
        self.take()
        self.pass_(20)
        self.assertIs(self.one("v", place, 1, 20_000), Done.DONE)
        self.pass_(15)
        self.assertEqual(self.places(), [])
        self.pass_(5)
        self.assertEqual(self.places(), [place])

    def test_change_is_not_remembered(self) -> None:
        """The next receive hides for its own visibility."""
        place = self.send()
        self.take()
        self.one("v", place, 1, 1_000)
        self.pass_(1)
        self.take()
        self.pass_(29)
        self.assertEqual(self.places(), [])

    def test_change_to_zero(self) -> None:
        """A visibility of 0 has the message visible at once."""
        place = self.send()
        self.take()
        self.one("v", place, 1, 0)
        self.assertEqual(self.places(), [place])

    def test_change_by_an_old_receive(self) -> None:
        """A receive that is over can hide the message again, or change how long it is hidden now."""
        place = self.send()
        self.take(1, 1_000)
        self.pass_(1)
        self.assertIs(self.one("v", place, 1, 10_000), Done.DONE)
        self.assertEqual(self.counts(), (0, 1, 0))
        self.pass_(10)
        self.take(1)
        self.assertIs(self.one("v", place, 1, 0), Done.DONE)
        self.assertEqual(self.counts(), (1, 0, 0))

    def test_change_what_is_gone(self) -> None:
        """The visibility of a message that is gone cannot be changed."""
        place = self.send()
        self.take()
        self.one("d", place, 1)
        self.assertIs(self.one("v", place, 1, 0), Done.GONE)

    def test_undo(self) -> None:
        """A receive that is taken back has not been: the next one is the first."""
        place = self.send()
        self.take()
        self.pass_(3)
        self.assertIs(self.one("u", place, 1), Done.DONE)
        self.assertEqual(self.take(), [Grant(place, 1, BEGIN, BEGIN + 3 * SECOND, "")])

    def test_undo_keeps_earlier_ones(self) -> None:
        """Only the last receive is taken back."""
        place = self.send()
        self.take(1, 0)
        self.pass_(1)
        self.take()
        self.one("u", place, 2)
        self.assertEqual(self.take(), [Grant(place, 2, BEGIN, BEGIN, "")])

    def test_undo_in_vain(self) -> None:
        """A receive that is over, or not the last, is not taken back."""
        place = self.send()
        self.assertIs(self.one("u", place_of(9, 0), 1), Done.GONE)
        self.take(1, 1_000)
        self.pass_(1)
        self.assertIs(self.one("u", place, 1), Done.GONE)
        self.take()
        self.assertIs(self.one("u", place, 1), Done.GONE)
        self.assertEqual(self.counts(), (0, 1, 0))

    def test_purge(self) -> None:
        """A purge removes everything, those in flight, delayed and on their way elsewhere too."""
        for delay in (0, 0, 0, 60_000):
            self.send("g", delay)
        self.take(1, 0)
        self.one("r", 1, 30_000, 1)
        self.assertEqual(len(self.machine.moving), 1)
        self.one("p")
        self.assertEqual((self.counts(), self.machine.bytes, len(self.machine)), ((0, 0, 0), 0, 0))
        self.assertEqual((self.machine.offered, self.machine.moving, self.machine.oldest()), (0, {}, None))
        self.pass_(100)
        self.assertEqual(self.places(), [])
        self.assertEqual(self.places(), [])

    def test_purge_within_an_entry(self) -> None:
        """A purge removes what came before it in the same entry, and nothing behind it."""
        self.do(("s", 1, 0), ("p",), ("s", 1, 0))
        self.assertEqual(self.places(), [place_of(1, 1)])
        self.assertTrue(self.machine.holds(1))

    def test_bytes(self) -> None:
        """The machine knows how many bytes are in the queue."""
        self.do(("s", 100, 0), ("s", 20, 5_000), ("s", 3, 0))
        self.take(1)
        self.assertEqual(self.machine.bytes, 123)
        self.one("d", place_of(1, 0), 1)
        self.assertEqual(self.machine.bytes, 23)

    def test_counts_ahead(self) -> None:
        """What has become visible since the last entry is counted so, though nothing was applied."""
        self.send()
        self.send(delay=40_000)
        self.take()
        self.pass_(30)
        self.assertEqual(self.counts(), (1, 0, 1))
        self.pass_(10)
        self.assertEqual(self.counts(), (2, 0, 0))
        self.assertEqual(self.machine.available(self.now), 2)

    def test_peek(self) -> None:
        """A look at the queue shows what is visible by now, in order, and changes nothing."""
        places = [self.send(), self.send(delay=5_000), self.send(), self.send()]
        self.take(1)
        self.assertEqual([one.place for one in self.machine.peek(self.now, 10)], places[2:])
        self.assertEqual([one.place for one in self.machine.peek(self.now, 1)], places[2:3])
        self.pass_(5)
        self.assertEqual([one.place for one in self.machine.peek(self.now, 10)], places[1:])
        self.assertEqual(self.places(), places[2:] + places[1:2])

    def test_peek_shows_no_dead_letters(self) -> None:
        """What is on its way to the dead-letter queue is not visible."""
        self.send()
        self.take(1, 0)
        self.one("r", 1, 0, 1)
        self.assertEqual(self.machine.peek(self.now, 10), [])


class RetentionTests(MachineTestCase):
    """What becomes too old."""

    def test_expired(self) -> None:
        """A message that was sent a retention ago is not handed out, and gone."""
        self.send()
        self.now += 60 * SECOND - 1
        kept = self.send()
        self.now += 1
        self.assertEqual(self.places(10, 30_000, 0, 60), [kept])
        self.assertEqual(len(self.machine), 1)

    def test_everywhere(self) -> None:
        """Also what is in flight, delayed or on its way to the dead-letter queue becomes too old."""
        first = self.send()
        self.send()
        self.send(delay=900_000)
        self.take(1, 0)
        self.one("r", 2, HOUR, 1)
        self.assertEqual((list(self.machine.moving), self.counts()), ([first], (0, 2, 1)))
        self.pass_(60)
        self.assertEqual(self.counts(60), (0, 0, 0))
        self.one("x", 60)
        self.assertEqual((self.counts(), self.machine.moving), ((0, 0, 0), {}))

    def test_shortened(self) -> None:
        """A shorter retention concerns what is there."""
        self.send()
        self.pass_(100)
        self.assertEqual(self.counts(60), (0, 0, 0))
        self.assertEqual(self.places(10, 0, 0, 60), [])

    def test_counted(self) -> None:
        """What is too old is not counted, though nothing was applied."""
        self.send()
        self.send(delay=900_000)
        self.take()
        self.send()
        self.pass_(61)
        self.send()
        self.assertEqual(self.counts(61), (1, 0, 0))
        self.assertEqual(self.machine.oldest(), BEGIN)

    def test_counted_when_due(self) -> None:
        """Also what became visible, and then too old, since the last entry."""
        self.send()
        self.send(delay=30_000)
        self.take()
        self.pass_(61)
        self.assertEqual(self.counts(61), (0, 0, 0))

    def test_sent_before(self) -> None:
        """A message that was sent elsewhere before it came here is as old as it was there."""
        self.send()
        old = self.send(sent=BEGIN - 50 * SECOND)
        self.assertEqual(self.machine.oldest(), BEGIN - 50 * SECOND)
        self.pass_(10)
        self.assertEqual(self.counts(60), (1, 0, 0))
        self.one("x", 60)
        self.assertIsNone(self.machine.find(old))
        self.assertEqual((len(self.machine), self.machine.oldest()), (1, BEGIN))

    def test_deleted_is_not_the_oldest(self) -> None:
        """The oldest message is one that is there."""
        first, second = self.send(sent=BEGIN - SECOND), self.send()
        self.pass_(1)
        self.send()
        for place in (first, second):
            self.one("d", place, 1)
        self.assertEqual(self.machine.oldest(), BEGIN + SECOND)


class LimitTests(MachineTestCase):
    """How much may be in flight."""

    def setUp(self) -> None:
        super().setUp()
        self.machine.max_in_flight = 3

    def test_limit(self) -> None:
        """A receive brings only as many as may be in flight, and says that no more may be."""
        for _ in range(5):
            self.send()
        handout = self.one("r", 10, 30_000)
        self.assertEqual((len(handout.grants), handout.full), (3, True))
        again = self.one("r", 10, 30_000)
        self.assertEqual((again.grants, again.full), ([], True))

    def test_room(self) -> None:
        """A deletion makes room."""
        for _ in range(5):
            self.send()
        first = self.places()[0]
        self.assertEqual(self.machine.available(self.now), 0)
        self.one("d", first, 1)
        self.assertEqual(self.machine.available(self.now), 2)
        self.assertEqual(len(self.take()), 1)

    def test_room_by_time(self) -> None:
        """The end of a visibility makes room, and is foreseen."""
        for _ in range(3):
            self.send()
        self.take()
        self.pass_(30)
        self.assertEqual(self.machine.available(self.now), 3)
        self.assertEqual(len(self.take()), 3)

    def test_no_room_by_delay(self) -> None:
        """The end of a delay makes none."""
        for _ in range(3):
            self.send()
        self.take()
        self.send(delay=5_000)
        self.pass_(5)
        self.assertTrue(self.machine.full(self.now))
        self.assertEqual(self.machine.available(self.now), 0)

    def test_hidden_for_no_time(self) -> None:
        """What is hidden for no time is not in flight."""
        for _ in range(5):
            self.send()
        handout = self.one("r", 10, 0)
        self.assertEqual((len(handout.grants), handout.full), (5, False))


class FifoLimitTests(LimitTests):
    """The same of a FIFO queue whose messages have a group each."""

    fifo = True

    def send(self, group: str | None = None, delay: int = 0, **more: Any) -> int:
        return super().send(f"g{len(self.entries)}", delay, **more)

    def test_one_group(self) -> None:
        """The messages of one group that a receive brings count too."""
        self.do(*[("s", 1, 0, "g")] * 5)
        self.assertEqual(len(self.take()), 3)


class DeadLetterTests(MachineTestCase):
    """Messages that were received too often."""

    def test_moves(self) -> None:
        """The receive that would be one too many moves the message, and is filled with others."""
        first = self.send()
        self.take(1, 0)
        second, third = self.send(), self.send()
        handout = self.one("r", 2, 30_000, 1)
        self.assertEqual([grant.place for grant in handout.moving], [first])
        self.assertEqual([grant.place for grant in handout.grants], [second, third])
        self.assertEqual((self.counts(), len(self.machine)), ((0, 3, 0), 2))

    def test_counted_until_then(self) -> None:
        """Until somebody receives, a message that was received often enough is counted as visible."""
        self.send()
        self.take(1, 0)
        self.assertEqual(self.counts(), (1, 0, 0))

    def test_what_is_moved(self) -> None:
        """What is told of a moved message is what its last receive said."""
        place = self.send("g")
        self.pass_(1)
        self.take(1, 0)
        self.take(1, 0)
        (moved,) = self.one("r", 1, 0, 2).moving
        self.assertEqual(moved, Grant(place, 2, BEGIN, BEGIN + SECOND, "g"))
        self.assertEqual(self.machine.grant(place), moved)

    def test_arrived(self) -> None:
        """A message that has arrived in the dead-letter queue is gone here."""
        place = self.send()
        self.take(1, 0)
        self.one("r", 1, 0, 1)
        self.assertIs(self.one("m", place), Done.DONE)
        self.assertIs(self.one("m", place), Done.GONE)
        self.assertFalse(self.machine.holds(1))
        self.assertEqual(self.machine.moving, {})

    def test_back(self) -> None:
        """A message that could not be moved is visible again."""
        place = self.send()
        self.take(1, 0)
        self.one("r", 1, 0, 1)
        self.assertIs(self.one("b", place), Done.DONE)
        self.assertIs(self.one("b", place), Done.GONE)
        self.assertIs(self.one("m", place), Done.GONE)
        self.assertEqual(self.places(), [place])

    def test_on_its_way(self) -> None:
        """On its way a message cannot be changed or received."""
        place = self.send()
        self.take(1, 0)
        self.one("r", 1, 0, 1)
        for command in (("v", place, 1, 0), ("u", place, 1)):
            self.assertIs(self.one(*command), Done.GONE)
        self.assertEqual(self.places(), [])
        self.assertEqual(list(self.machine.moving), [place])

    def test_deleted_on_its_way(self) -> None:
        """What is deleted on its way is gone: whatever becomes of the move brings nothing back."""
        place = self.send()
        self.take(1, 0)
        self.one("r", 1, 0, 1)
        self.assertIs(self.one("d", place, 1), Done.DONE)
        self.assertIs(self.one("b", place), Done.GONE)
        self.assertEqual((self.counts(), self.machine.moving), ((0, 0, 0), {}))

    def test_many(self) -> None:
        """One receive moves a bounded number, and so does the next."""
        self.patch(machine, "MAX_MOVES", 3)
        for _ in range(5):
            self.send()
        for _ in range(5):
            self.take(1, 60_000)
        self.pass_(60)
        self.send()
        moved = []
        for _ in range(2):
            handout = self.one("r", 1, 0, 1)
            moved.append((len(handout.moving), len(handout.grants)))
        self.assertEqual(moved, [(3, 0), (2, 1)])

    def test_received_elsewhere(self) -> None:
        """Receives that a message had in another queue count, and so does its first one."""
        self.send(receives=4, first=BEGIN - SECOND)
        (grant,) = self.take()
        self.assertEqual((grant.number, grant.first), (5, BEGIN - SECOND))


class FifoDeadLetterTests(MachineTestCase):
    """The same on a FIFO queue."""

    fifo = True

    def test_next_one(self) -> None:
        """The receive that moves the first of a group goes on with the second: the group is not blocked."""
        first, second = self.send("a"), self.send("a")
        self.take(1, 0)
        handout = self.one("r", 1, 30_000, 1)
        self.assertEqual([grant.place for grant in handout.moving], [first])
        self.assertEqual([grant.place for grant in handout.grants], [second])

    def test_unblocks(self) -> None:
        """While a message is on its way its group is not blocked."""
        self.send("a")
        self.take(1, 0)
        self.one("r", 1, 30_000, 1)
        place = self.send("a")
        self.assertEqual(self.places(), [place])
