"""Several filters read as one: which subjects they are, and how their pages come together."""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.filtered import FilteredSource, Filters, without_covered
from flowgate.bus.grouping import Grouper, fetched_at, fetched_subject
from flowgate.bus.names import LOG, filter_subject, topic_subject
from flowgate.bus.reading import PAGE_BYTES, PAGE_MESSAGES, Page
from flowgate.bus.stream import StreamSettings, StreamState
from flowgate.bus.wire import Message
from flowgate.message import Run
from flowgate.topics import Topic, matches
from tests.contracts.topics import SHOP


def takes_in(outer: str, inner: str) -> bool:
    """Whether the NATS subject ``outer`` takes in ``inner``, as the server asks it of a consumer's filters."""
    ours, theirs = outer.split("."), inner.split(".")
    for index, token in enumerate(ours):
        if index >= len(theirs):
            return False
        if token == ">":
            return True
        if theirs[index] == ">" or (token != "*" and token != theirs[index]):
            return False
    return len(ours) == len(theirs)


class FiltersTests(SynchronousTestCase):
    """The filters of one feed."""

    def test_covered_filters_are_left_out(self) -> None:
        """Of any filters, those are kept whose subjects the server accepts together; nothing is lost by it."""
        levels = ["a", "b", "+"]
        every = ["#", "+/#", "$s/a", "$s/#", "$s/+", "a/#", "a/b/#", "+/b/#"]
        every += ["/".join(one) for size in (1, 2) for one in itertools.product(levels, repeat=size)]
        names = ["/".join(one) for size in (1, 2, 3) for one in itertools.product("abc", repeat=size)] + ["$s/a", "$s"]
        for some in [every, every[1:], every[2:], every[5:], every[8:], *itertools.combinations(every, 2)]:
            kept = without_covered([*some, *some])
            subjects = [filter_subject(LOG, SHOP, one) for one in kept]
            for one, other in itertools.permutations(subjects, 2):
                self.assertFalse(takes_in(one, other), (some, kept))
            for name in names:
                wanted = any(matches(one, name) for one in some)
                self.assertEqual(any(matches(one, name) for one in kept), wanted, (some, kept, name))

    def test_many_filters_are_quick(self) -> None:
        """Thousands of filters are not compared each with each."""
        filters = [f"t/{number}/x" for number in range(5000)] + ["t/1/+", "t/+/y"]
        self.assertEqual(len(without_covered(filters)), 5001)

    def test_places(self) -> None:
        """A topic is read from where the first of its filters is read, and not at all without one."""
        filters = Filters(SHOP)
        filters.add("a/+", 10, True)
        filters.add("+/b", 5, True)
        filters.add("a/+", 1, True)  # it is read already
        self.assertEqual([filters.since(name) for name in ("a/b", "a/c", "c/b", "c")], [5, 10, 5, None])
        self.assertEqual((filters.missed_since(), filters.missed_since("a/c")), (5, 10))
        self.assertTrue(filters.discard("+/b"))
        self.assertFalse(filters.discard("+/b"))
        self.assertEqual([filters.since(name) for name in ("a/b", "c/b")], [10, None])
        self.assertEqual((filters.missed_since(), filters.missed_since("c/b")), (10, 2**63))

    def test_nothing_is_missed_before_its_time(self) -> None:
        """What is missing on a filter is missed once it was said from where on it is read."""
        filters = Filters(SHOP)
        wish = filters.add("a", 10, False)
        self.assertEqual((filters.since("a"), filters.missed_since("a")), (10, 2**63))
        filters.settle(wish, 20)
        self.assertEqual((filters.since("a"), filters.missed_since("a")), (20, 20))
        filters.from_the_beginning()
        self.assertEqual((filters.since("a"), filters.missed_since()), (0, 0))

    def test_memory_is_bounded(self) -> None:
        """What is remembered of topics is thrown away when it is too much."""
        filters = Filters(SHOP)
        filters.add("#", 3, True)
        for number in range(3000):
            self.assertEqual(filters.since(f"t/{number}"), 3)
        self.assertTrue(len(filters._since) <= 1000)


class FakeHistory:
    """A stream that a test fills; it is read at moments that the test chooses."""

    def __init__(self) -> None:
        self.grouper = Grouper()
        self.stored: dict[str, list[tuple[int, Message]]] = {}
        self.asked: list[tuple[str, int, int, int, Deferred[tuple[list[Message], int]]]] = []
        self.leader: dict[str, int] = {}
        self.at_once = True

    def store(self, sequence: int, name: str, payload: bytes = b"x") -> None:
        subject = topic_subject(LOG, Topic(SHOP, name))
        head = (
            b"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\n"
            b"Nats-Time-Stamp: 2026-01-02T03:04:05Z\r\n\r\n" % (subject, sequence)
        )
        of_subject = self.stored.setdefault(subject.decode(), [])
        of_subject.append((sequence, (b"1", b"_INBOX.x", b"", head, payload)))

    def messages(self, subject: str, after: int, limit: int, size: int) -> Deferred[tuple[list[Message], int]]:
        answer: Deferred[tuple[list[Message], int]] = Deferred()
        self.asked.append((subject, after, limit, size, answer))
        if self.at_once:
            self.answer()
        return answer

    def answer(self) -> None:
        subject, after, limit, size, answer = self.asked[-1] if self.at_once else self.asked.pop(0)
        places = sorted(
            place for of, places in self.stored.items() if takes_in(subject, of) for place in places if place[0] > after
        )
        found = [message for _, message in places]
        given = 0
        for given, message in enumerate(found, 1):
            size -= len(message[4])
            if given >= limit or size <= 0:
                break
        answer.callback((found[:given], len(found) - given))

    def group(self, messages: list[Message]) -> list[Run]:
        return self.grouper.stored(messages, fetched_at, fetched_subject)

    async def following(self, subject: str, after: int) -> int:
        return self.leader.get(subject, 0)

    async def state(self) -> StreamState:
        return StreamState("now", 1, 10**6, False)

    async def full_firsts(self, subject: str) -> dict[str, int]:
        return {}


class FakeTail:
    last = 10**6


class SourceTests(SynchronousTestCase):
    """Pages of several filters."""

    def setUp(self) -> None:
        self.make()

    def make(self, **settings: Any) -> None:
        self.history = FakeHistory()
        self.tail = FakeTail()
        self.filters = Filters(SHOP)
        history: Any = self.history
        tail: Any = self.tail
        self.source = FilteredSource(history, StreamSettings(**settings), self.filters, tail)

    def read(self, *filters: str) -> None:
        for filter_ in filters:
            self.filters.add(filter_, 0, True)

    def page(self, after: int = 0) -> Page:
        page: Page = self.successResultOf(self.source.page(after))
        return page

    def sequences(self, page: Page) -> list[int]:
        return [sequence for run in page.runs for sequence in run.sequences]

    def all_pages(self) -> list[int]:
        """Page after page until nothing is left."""
        given: list[int] = []
        while True:
            page = self.page(given[-1] if given else 0)
            given += self.sequences(page)
            if not page.more:
                return given

    def test_in_order_and_once(self) -> None:
        """What several filters give comes in stream order, each message once."""
        for number in range(1, 31):
            self.history.store(number, ("a/b", "c", "a/x", "d/b", "e")[number % 5])
        self.read("a/+", "+/b", "c")
        self.assertEqual(self.all_pages(), [number for number in range(1, 31) if number % 5 != 4])

    def test_incomplete_parts(self) -> None:
        """Nothing is given behind the place up to which every part was read."""
        for number in range(1, 4001):
            self.history.store(number, "few" if number % 100 == 0 else "many")
        self.read("few", "many")
        self.assertEqual(self.all_pages(), list(range(1, 4001)))

    def test_large_messages(self) -> None:
        """A page is bounded in bytes, and holds at least one message, whatever its size."""
        for number in range(1, 41):
            self.history.store(number, f"t/{number % 4}", bytes(PAGE_BYTES // 8))
        self.history.store(41, "t/1", bytes(3 * PAGE_BYTES))
        self.history.store(42, "t/1")
        self.read("t/0", "t/1", "t/2", "t/3")
        self.assertTrue(len(self.sequences(self.page())) <= 9)
        self.assertEqual(self.all_pages(), list(range(1, 43)))

    def test_many_filters(self) -> None:
        """Many filters are read some at a time, and the page is bounded all the same."""
        for number in range(1, 5001):
            self.history.store(number, f"t/{number % 100}")
        self.read(*(f"t/{number}" for number in range(100)))
        self.assertTrue(len(self.sequences(self.page())) <= PAGE_MESSAGES)
        self.assertEqual(self.all_pages(), list(range(1, 5001)))

    def test_no_further_than_the_tail(self) -> None:
        """What lies behind the tail's place is left to the tail: the parts were read at different moments."""
        self.history.at_once = False
        self.history.store(1, "a")
        self.tail.last = 1
        self.read("a", "b")
        page = self.source.page(0)
        self.history.answer()  # for a: afterwards more is stored
        self.history.store(2, "a")
        self.history.store(3, "b")
        self.history.answer()
        result: Page = self.successResultOf(page)
        self.assertEqual((self.sequences(result), result.more), ([1], False))

    def test_as_far_as_the_tail(self) -> None:
        """A reader that has come as far as the tail need not ask."""
        self.tail.last = 5
        self.read("a", "b")
        self.assertEqual((self.page(5), self.page(9), self.history.asked), (Page([], False), Page([], False), []))

    def test_without_filters(self) -> None:
        """Without a filter there is nothing to read."""
        self.assertEqual((self.page(), self.history.asked), (Page([], False), []))

    def test_filter_added_while_reading(self) -> None:
        """A page under way when a filter is added is read again: it might pass by what the tail brings of that one."""
        self.history.at_once = False
        self.tail.last = 2
        self.read("a")
        page = self.source.page(0)
        self.filters.add("b", 2, False)
        self.history.store(3, "b")
        self.history.store(4, "a")
        self.tail.last = 4
        self.history.answer()
        self.assertNoResult(page)
        for _ in range(2):
            self.history.answer()
        result: Page = self.successResultOf(page)
        self.assertEqual(self.sequences(result), [3, 4])

    def test_suspects(self) -> None:
        """A subject behind whose page there are as many messages as a topic may hold may have lost some."""
        self.make(per_topic=5)
        for number in range(1, 10):
            self.history.store(number, "a" if number < 5 else "b/c")
        self.read("a", "b/#")
        self.assertEqual(self.page().suspects, [filter_subject(LOG, SHOP, "b/#")])

    def test_lagging_replica(self) -> None:
        """With replicas, nothing is given behind what the leader knows and the answer of another one lacks."""
        self.make(replicas=3)
        for number in (1, 2, 9):
            self.history.store(number, "b")
        self.history.store(3, "a")
        self.read("a", "b")
        self.history.leader = {filter_subject(LOG, SHOP, "a"): 7}
        page = self.page()
        self.assertEqual((self.sequences(page), page.more), ([1, 2, 3], True))
        self.history.leader.clear()
        page = self.page(3)
        self.assertEqual((self.sequences(page), page.more), ([9], False))
        self.assertFalse(self.successResultOf(Deferred.fromCoroutine(self.source.newer(9))))
