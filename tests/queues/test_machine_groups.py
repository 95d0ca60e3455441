"""Groups, repetitions and receive attempts: what the state of a queue knows of them."""

from __future__ import annotations

from flowgate.queues import remembered
from flowgate.queues.held import Accepted, Done, Grant, place_of
from flowgate.queues.remembered import WINDOW_NS
from tests.queues.machines import HOUR, MachineTestCase


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
        self.assertEqual([place for place, group in enumerate(seen) if group == "o"], [0, 3, 10])

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

    def test_change_keeps_blocked(self) -> None:
        """A group stays blocked if the visibility of its message in flight is changed."""
        first, second = self.send("a"), self.send("a")
        self.take(1)
        self.one("v", first, 1, 60_000)
        self.assertEqual((self.places(), self.machine.offered), ([], 0))
        self.one("d", first, 1)
        self.assertEqual(self.places(), [second])

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
        self.now += WINDOW_NS - 1
        self.assertEqual(self.send("a", dedup="d", id="2"), place)
        self.now += 1
        self.assertNotEqual(self.send("a", dedup="d", id="3"), place)
        self.now += WINDOW_NS - 1
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
        self.assertEqual(self.one("s", 10, 0, "a", None, None, "o"), Accepted(0, ""))
        self.assertEqual(self.places(), [place])
        self.assertEqual(len(self.machine), 1)

    def test_last_origins(self) -> None:
        """The last origins are remembered for any time."""
        self.patch(remembered, "ORIGINS", 3)
        self.send("a", origin="o")
        for number in range(2):
            self.send("a", origin=str(number))
        self.pass_(1_000_000)
        count = len(self.machine)
        self.send("a", origin="o")
        self.assertEqual(len(self.machine), count)

    def test_late_origins(self) -> None:
        """More origins are remembered if they came in the last five minutes, and no others."""
        self.patch(remembered, "ORIGINS", 3)
        self.send("a", origin="o")
        for number in range(10):
            self.send("a", origin=str(number))
        self.now += WINDOW_NS - 1
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

    def test_void_in_part(self) -> None:
        """It is void if the last of its messages was deleted, too: nothing less is brought again."""
        first = self.attempt()
        self.one("d", first[1].place, first[1].number)
        self.assertEqual(self.attempt(), [])

    def test_void_by_time(self) -> None:
        """An attempt whose messages are visible again receives anew."""
        self.attempt()
        self.pass_(30)
        self.assertEqual([grant.number for grant in self.attempt()], [2, 2])

    def test_forgotten(self) -> None:
        """After five minutes an attempt is a new one."""
        self.attempt(visibility=HOUR)
        self.now += WINDOW_NS - 1
        self.assertEqual(len(self.attempt(visibility=HOUR)), 2)
        self.now += 1
        self.assertEqual(self.attempt(visibility=HOUR), [])

    def test_nothing_is_no_attempt(self) -> None:
        """An attempt that brought nothing is tried again."""
        self.take(10, 1_000)
        self.assertEqual(self.attempt(), [])
        self.pass_(1)
        self.assertEqual(len(self.attempt()), 2)
