"""The state of a queue: what each entry of its log makes of it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flowgate.queues import machine
from flowgate.queues.machine import DEDUP_NS, Accepted, Done, Grant, Handout, QueueMachine, entry_of, place_of

SECOND = 1_000_000_000
BEGIN = 1_000_000 * SECOND
HOUR = 3_600_000


class MachineTestCase(SynchronousTestCase):
    """A machine with the entries that it was given."""

    fifo = False

    def setUp(self) -> None:
        self.machine = QueueMachine(self.fifo)
        self.now = BEGIN
        self.entries: list[tuple[int, int, list[Any]]] = []

    def do(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Apply an entry."""
        entry = (len(self.entries) + 1, self.now, [list(one) for one in commands])
        self.entries.append(entry)
        return self.machine.apply(*entry)

    def one(self, *command: Any) -> Any:
        """Apply an entry with one command."""
        (result,) = self.do(command)
        return result

    def send(self, group: str | None = None, delay: int = 0, **more: Any) -> int:
        """Send a message.

        :returns: its place.
        """
        names = ("dedup", "id", "origin", "sent", "receives", "first")
        accepted = self.one("s", 10, delay, group, *[more.get(name) for name in names])
        assert isinstance(accepted, Accepted)
        return accepted.place

    def take(self, limit: int = 10, visibility: int = 30_000, *more: Any) -> list[Grant]:
        """Receive."""
        handout = self.one("r", limit, visibility, *more)
        assert isinstance(handout, Handout)
        return list(handout.grants)

    def places(self, limit: int = 10, visibility: int = 30_000, *more: Any) -> list[int]:
        return [grant.place for grant in self.take(limit, visibility, *more)]

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * SECOND)

    def counts(self, retention: int = 345_600) -> tuple[int, int, int]:
        return self.machine.counts(self.now, retention)

    def restarted(self) -> QueueMachine:
        """A machine that begins with a checkpoint of ours and what the log still has to have then."""
        fresh = QueueMachine(self.fifo, self.machine.max_in_flight)
        fresh.restart(self.machine.checkpoint())
        dead = set(self.machine.dead())
        for sequence, time, commands in self.entries:
            if sequence >= self.machine.first and sequence not in dead:
                fresh.apply(sequence, time, [one for one in commands if one[0] == "s"])
        return fresh


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
        self.assertEqual((list(self.machine.moving), self.counts()), ([first], (0, 1, 1)))
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


class FairnessTests(MachineTestCase):
    """Groups on a standard queue."""

    def groups(self, limit: int = 10, visibility: int = 30_000) -> str:
        return "".join(grant.group for grant in self.take(limit, visibility))

    def test_turns(self) -> None:
        """Groups take turns, however many messages one has."""
        for group in "aaaaabbc":
            self.send(group)
        self.assertEqual(self.groups(), "abcabaaa")

    def test_turns_over_receives(self) -> None:
        """Which group is next does not begin anew with each receive."""
        for group in "aaabbb":
            self.send(group)
        self.assertEqual([self.groups(1) for _ in range(6)], list("ababab"))

    def test_without_group(self) -> None:
        """Messages without a group are a group."""
        for group in ("a", "a", None, None):
            self.send(group)
        self.assertEqual([grant.group for grant in self.take()], ["a", "", "a", ""])

    def test_new_groups_do_not_starve_others(self) -> None:
        """However many new groups come, one that waits has its turn after those that were there before."""
        for _ in range(3):
            self.send("o")
        seen = ""
        for number in range(50):
            self.send(f"n{number}")
            self.send(f"m{number}")
            seen += self.groups(1)[0]
        self.assertEqual([place for place, group in enumerate(seen) if group == "o"], [0, 3, 9])

    def test_served_groups_do_not_starve_new_ones(self) -> None:
        """A busy group does not keep a new one waiting for more than its turn."""
        for _ in range(100):
            self.send("a")
        self.assertEqual(self.groups(), "a" * 10)
        self.send("b")
        self.assertEqual(self.groups(2), "ab")

    def test_order_in_a_group(self) -> None:
        """Within a group order is kept."""
        places = [self.send("a") for _ in range(5)]
        self.assertEqual(self.places(), places)

    def test_a_group_that_ended(self) -> None:
        """A group that had no messages any more, and has again, is served once a turn."""
        place = self.send("a")
        self.one("d", place, 1)
        for group in "aab":
            self.send(group)
        self.assertEqual(self.groups(), "aba")

    def test_in_flight_does_not_block(self) -> None:
        """On a standard queue a message in flight blocks nothing."""
        for _ in range(2):
            self.send("a")
        self.assertEqual((self.groups(1), self.groups(1)), ("a", "a"))


class FifoTests(MachineTestCase):
    """A FIFO queue."""

    fifo = True

    def test_order(self) -> None:
        """A receive brings several messages of a group, in order."""
        places = [self.send("a") for _ in range(3)]
        self.assertEqual(self.places(), places)

    def test_blocked(self) -> None:
        """While a message of a group is in flight, no other of the group is handed out."""
        self.do(*[("s", 1, 0, "a")] * 3)
        self.take(2)
        self.assertEqual(self.places(), [])
        self.assertEqual(self.machine.available(self.now), 0)
        self.one("d", place_of(1, 0), 1)
        self.assertEqual(self.places(), [])
        self.one("d", place_of(1, 1), 1)
        self.assertEqual(self.machine.available(self.now), 1)
        self.assertEqual(self.places(), [place_of(1, 2)])

    def test_comes_back_first(self) -> None:
        """A message whose visibility ended comes again before what is behind it."""
        places = [self.send("a") for _ in range(3)]
        self.take(1)
        self.pass_(30)
        self.assertEqual(self.places(), places)

    def test_given_back_first(self) -> None:
        """Likewise if it was given back, or its receive was taken back."""
        places = [self.send("a") for _ in range(3)]
        self.take(1)
        self.one("v", places[0], 1, 0)
        self.assertEqual(self.places(1), places[:1])
        self.one("u", places[0], 2)
        self.assertEqual(self.places(), places)

    def test_part_comes_back(self) -> None:
        """If only some of a group are visible again, the others still block it."""
        first, second = self.send("a"), self.send("a")
        self.take()
        self.one("v", second, 1, 0)
        self.assertEqual(self.places(), [])
        self.one("v", first, 1, 0)
        self.assertEqual(self.places(), [first, second])

    def test_other_groups(self) -> None:
        """A group that is blocked blocks no other."""
        self.send("a")
        self.take()
        self.send("a")
        other = self.send("b")
        self.assertEqual(self.places(), [other])

    def test_groups_take_turns(self) -> None:
        """A busy group does not starve others: the one that was not served for the longest comes first."""
        for group in "aaaabc":
            self.send(group)
        served = []
        for _ in range(6):
            (grant,) = self.take(1)
            served.append(grant.group)
            self.one("d", grant.place, grant.number)
        self.assertEqual(served, list("abcaaa"))

    def test_several_groups(self) -> None:
        """A receive takes the rest from other groups, each in order."""
        places = [self.send(group) for group in "abab"]
        self.assertEqual(self.places(), [places[0], places[2], places[1], places[3]])

    def test_delayed_does_not_block(self) -> None:
        """A delayed message does not block the visible ones of its group."""
        self.send("a", 5_000)
        place = self.send("a")
        self.assertEqual(self.places(), [place])

    def test_visibility_zero(self) -> None:
        """What is hidden for no time blocks nothing and keeps its place."""
        places = [self.send("a"), self.send("a")]
        for _ in range(2):
            self.assertEqual(self.places(10, 0), places)

    def test_purge_unblocks(self) -> None:
        """After a purge the group is not blocked by what was in flight."""
        self.send("a")
        self.take()
        self.one("p")
        place = self.send("a")
        self.assertEqual(self.places(), [place])

    def test_retention_unblocks(self) -> None:
        """A message in flight that becomes too old blocks its group no more."""
        self.send("a")
        self.take(1, HOUR)
        self.pass_(60)
        place = self.send("a")
        self.assertEqual(self.places(10, 0, 0, 60), [place])

    def test_old_receive(self) -> None:
        """A receive that is over can neither delete nor change the message."""
        place = self.send("a")
        self.take(1, 1_000)
        self.pass_(1)
        self.assertIs(self.one("d", place, 1), Done.EXPIRED)
        self.assertIs(self.one("v", place, 1, 10), Done.EXPIRED)
        self.take()
        self.assertIs(self.one("d", place, 1), Done.EXPIRED)
        self.assertIs(self.one("v", place, 1, 0), Done.EXPIRED)
        self.assertEqual(self.counts(), (0, 1, 0))
        self.assertIs(self.one("d", place, 2), Done.DONE)
        self.assertIs(self.one("d", place, 1), Done.GONE)


class RepetitionTests(MachineTestCase):
    """Deduplication ids and origins."""

    fifo = True

    def test_repeated(self) -> None:
        """A repetition is not stored; it is told place and id of the first."""
        place = self.send("a", dedup="d", id="first")
        self.assertEqual(self.one("s", 10, 0, "a", "d", "second"), Accepted(place, "first"))
        self.assertEqual(len(self.machine), 1)

    def test_window(self) -> None:
        """An id is remembered for five minutes from its first use; repetitions do not make it longer."""
        place = self.send("a", dedup="d", id="1")
        self.now += DEDUP_NS - 1
        self.assertEqual(self.send("a", dedup="d", id="2"), place)
        self.now += 1
        self.assertNotEqual(self.send("a", dedup="d", id="3"), place)
        self.now += DEDUP_NS - 1
        self.assertEqual(self.one("s", 1, 0, "a", "d", "4").id, "3")

    def test_after_deletion(self) -> None:
        """An id is remembered though its message was received and deleted, or purged."""
        place = self.send("a", dedup="d", id="1")
        self.take()
        self.one("d", place, 1)
        self.assertEqual(self.send("a", dedup="d", id="2"), place)
        self.one("p")
        self.assertEqual(self.send("a", dedup="d", id="3"), place)
        self.assertEqual(len(self.machine), 0)

    def test_within_an_entry(self) -> None:
        """A repetition within one entry is recognised; the entry needs to be kept for its first only."""
        results = self.do(("s", 1, 0, "a", "d", "1"), ("s", 1, 0, "a", "d", "2"), ("s", 1, 0, "a", "e", "3"))
        self.assertEqual([one.id for one in results], [None, "1", None])
        self.assertEqual(self.places(), [place_of(1, 0), place_of(1, 2)])
        for place in (place_of(1, 0), place_of(1, 2)):
            self.assertTrue(self.machine.holds(1))
            self.one("d", place, 1)
        self.assertFalse(self.machine.holds(1))

    def test_origin(self) -> None:
        """A message is taken once from where it comes."""
        place = self.send("a", origin="o")
        self.assertEqual(self.one("s", 10, 0, "a", None, None, "o").place, place)
        self.assertEqual(len(self.machine), 1)

    def test_last_origins(self) -> None:
        """The last origins are remembered for any time."""
        self.patch(machine, "ORIGINS", 3)
        self.send("a", origin="o")
        for number in range(2):
            self.send("a", origin=str(number))
        self.pass_(1_000_000)
        count = len(self.machine)
        self.send("a", origin="o")
        self.assertEqual(len(self.machine), count)

    def test_late_origins(self) -> None:
        """More origins are remembered if they came in the last five minutes, and no others."""
        self.patch(machine, "ORIGINS", 3)
        self.send("a", origin="o")
        for number in range(10):
            self.send("a", origin=str(number))
        self.now += DEDUP_NS - 1
        self.send("a", origin="o")
        self.assertEqual(len(self.machine), 11)
        self.now += 1
        self.send("a", origin="o")
        self.assertEqual(len(self.machine), 12)


class AttemptTests(MachineTestCase):
    """Receive attempt ids."""

    fifo = True

    def setUp(self) -> None:
        super().setUp()
        self.messages = [self.send("a") for _ in range(3)]

    def attempt(self, limit: int = 2, visibility: int = 30_000, name: str = "x") -> list[Grant]:
        return self.take(limit, visibility, 0, 0, name)

    def test_again(self) -> None:
        """A repeated attempt brings the same messages with the same numbers."""
        first = self.attempt()
        self.assertEqual([grant.place for grant in first], self.messages[:2])
        self.assertEqual(self.attempt(), first)
        self.assertEqual(self.counts(), (1, 2, 0))

    def test_hidden_anew(self) -> None:
        """The visibility begins anew with the repetition."""
        first = self.attempt()
        self.pass_(20)
        self.attempt()
        self.pass_(20)
        self.assertEqual(self.counts(), (1, 2, 0))
        self.assertEqual(self.attempt(), first)
        self.pass_(30)
        self.assertEqual(self.counts(), (3, 0, 0))

    def test_other_attempts(self) -> None:
        """Another attempt does not get them."""
        self.attempt()
        self.assertEqual(self.attempt(name="y"), [])

    def test_void(self) -> None:
        """An attempt is void once one of its messages was deleted, or its visibility changed or ended."""
        first = self.attempt()
        self.one("d", first[0].place, first[0].number)
        self.assertEqual(self.attempt(), [])
        self.one("v", first[1].place, first[1].number, 0)
        second = self.attempt()
        self.assertEqual([grant.place for grant in second], self.messages[1:])
        for grant in second:
            self.one("v", grant.place, grant.number, 60_000)
        self.assertEqual(self.attempt(), [])
        self.pass_(60)
        self.assertEqual([grant.number for grant in self.attempt()], [3, 2])

    def test_forgotten(self) -> None:
        """After five minutes an attempt is a new one."""
        self.attempt(visibility=HOUR)
        self.now += DEDUP_NS - 1
        self.assertEqual(len(self.attempt(visibility=HOUR)), 2)
        self.now += 1
        self.assertEqual(self.attempt(visibility=HOUR), [])

    def test_nothing_is_no_attempt(self) -> None:
        """An attempt that brought nothing is tried again."""
        self.take(10, 1_000)
        self.assertEqual(self.attempt(), [])
        self.pass_(1)
        self.assertEqual(len(self.attempt()), 2)


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
        self.assertEqual((self.counts(), len(self.machine)), ((0, 2, 0), 2))

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
        """On its way a message cannot be deleted, changed or received."""
        place = self.send()
        self.take(1, 0)
        self.one("r", 1, 0, 1)
        for command in (("d", place, 1), ("v", place, 1, 0), ("u", place, 1)):
            self.assertIs(self.one(*command), Done.GONE)
        self.assertEqual(self.places(), [])
        self.assertEqual(list(self.machine.moving), [place])

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


class UnknownTests(MachineTestCase):
    """Commands of a version to come."""

    def test_unknown(self) -> None:
        """A command that is not known is passed over, those beside it are carried out, and the entry is reported."""
        entry = [["s", 1, 0], ["?", 1], ["s", 1, 0], ["r", 1, 2, 3, 4, 5, 6], ["s", *[0] * 10], ["s", 1, 0]]
        self.assertRaises(machine.UnknownCommands, self.machine.apply, 1, self.now, entry)
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
        self.assertEqual((self.counts(), list(self.machine.moving)), ((1, 1, 1), places[:1]))
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
