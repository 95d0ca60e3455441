"""The live end of the stream, against a server that a test plays."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.feed import FEED_MESSAGES
from flowgate.bus.grouping import Grouper
from flowgate.bus.reading import History
from flowgate.bus.stream import StreamSettings, StreamState
from flowgate.bus.tail import Feeds
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, Internal
from flowgate.interfaces import IFeed
from flowgate.message import Cursor, Run
from tests.contracts.topics import SHOP, Reader


class FakeLink:
    """A link to a stream whose newest sequence the test says."""

    inbox = "_INBOX.me"
    up = True

    def __init__(self) -> None:
        self.last = 10
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.handlers: dict[bytes, Any] = {}
        self.firsts: dict[str, tuple[int, int]] = {}  # the oldest sequence on a subject, and how many follow
        self.questions: list[tuple[str, Any]] = []  # the rest of the direct gets
        self.held: list[Deferred[Message]] | None = None  # answers of the API that a test keeps back
        self._inboxes: dict[str, tuple[Any, Any]] = {}
        self._tokens = 0

    def token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens}"

    def subscribe(self, subject: str, handler: Any) -> bytes:
        key = b"%d" % (len(self.asked) + 2)
        self.handlers[key] = handler
        return key

    def unsubscribe(self, key: bytes) -> None:
        self.handlers.pop(key, None)

    def open_inbox(self, token: str, handler: Any, lost: Any = None) -> None:
        self._inboxes[token] = handler, lost

    def close_inbox(self, token: str) -> None:
        self._inboxes.pop(token, None)

    def write(self, data: bytes) -> None:
        line, body = data.split(b"\r\n")[:2]
        _, subject, reply, _ = line.decode().split()
        self.asked.append(subject)
        handler, _ = self._inboxes[reply.rpartition(".")[2]]
        self.questions.append((json.loads(body)["next_by_subj"], handler))

    def answer(self) -> None:
        """Answer a direct get: with the message that the test says, or with none."""
        subject, handler = self.questions.pop(0)
        first, following = self.firsts.get(subject, (0, 0))
        if not first:
            handler([(b"1", b"", b"", b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")])
            return
        head = f"Nats-Subject: {subject}\r\nNats-Sequence: {first}\r\nNats-Time-Stamp: 2026-01-02T03:04:05Z\r\n"
        handler([
            (b"1", b"", b"", f"NATS/1.0\r\n{head}\r\n".encode(), b"x"),
            (b"1", b"", b"", f"NATS/1.0 204 EOB\r\nNats-Num-Pending: {following}\r\n\r\n".encode(), b""),
        ])  # fmt: skip

    def lose(self) -> None:
        """Lose the connection."""
        self.up = False
        for _, lost in list(self._inboxes.values()):
            lost()

    def request(self, subject: str, payload: bytes) -> Deferred[Message]:
        self.asked.append(subject)
        self.bodies.append(json.loads(payload) if payload else None)
        answer = {
            "created": "2026-01-02T03:04:05Z",
            "ts": "2026-01-02T03:04:06Z",
            "config": {"max_age": 0},
            "state": {"first_seq": 1, "last_seq": self.last},
        }
        answered: Deferred[Message] = Deferred()
        if self.held is not None and "CONSUMER.CREATE" in subject:
            self.held.append(answered)
        else:
            answered.callback((b"1", b"", b"", b"", json.dumps(answer).encode()))
        return answered

    def consumers(self) -> list[list[str]]:
        """What each consumer that was made follows, without what is common to all."""
        made = [body["config"] for body in self.bodies if body and "config" in body]
        return [[one.removeprefix("fg.log.alice.shop.") for one in config["filter_subjects"]] for config in made]


class FeedsTests(SynchronousTestCase):
    """Several readers of one filter."""

    def setUp(self) -> None:
        clock, self.link = Clock(), FakeLink()
        link: Any = self.link
        settings, grouper = StreamSettings(), Grouper()
        self.feeds = Feeds(clock, link, settings, grouper, History(clock, link, settings, grouper))
        self.clock = clock
        self.place = 0

    def follow(self, reader: Reader) -> IFeed:
        followed = Deferred.fromCoroutine(self.feeds.follow(SHOP, "#", reader, None))
        feed: IFeed = self.successResultOf(followed)
        return feed

    def deliver(self, sequence: int) -> None:
        """Play the consumer."""
        self.place += 1
        reply = b"$JS.ACK.FG_TOPICS.t1.1.%d.%d.1767323045000000000.0" % (sequence, self.place)
        (handler,) = self.link.handlers.values()
        handler([(b"2", b"fg.log.alice.shop.-.a.%", reply, b"", b"%d" % sequence)])

    def test_shared(self) -> None:
        """Readers of one filter share a consumer, which goes with the last of them."""
        readers = [Reader(), Reader()]
        feeds = [self.follow(reader) for reader in readers]
        self.deliver(11)
        self.assertEqual([reader.seen for reader in readers], [[b"11"], [b"11"]])
        feeds[0].stop()
        self.deliver(12)
        self.assertEqual([reader.seen for reader in readers], [[b"11"], [b"11", b"12"]])
        feeds[1].stop()
        verbs = [subject.split(".")[3] for subject in self.link.asked if "CONSUMER" in subject]
        self.assertEqual(verbs, ["CREATE", "DELETE"])
        self.assertEqual((self.link.handlers, self.clock.getDelayedCalls()), ({}, []))

    def test_newcomer(self) -> None:
        """A reader's first cursor is not older than what the tail brought before it came."""
        self.follow(Reader())
        self.deliver(11)
        self.deliver(12)
        self.link.last = 11  # asked before the last one was stored
        late = Reader()
        feed = self.follow(late)
        self.assertEqual(feed.cursor.sequence, 12)
        self.deliver(13)
        self.assertEqual((late.seen, feed.cursor.sequence), ([b"13"], 13))


class SharedTests(SynchronousTestCase):
    """Readers of several filters of one namespace, on a stream that keeps 64 messages of a topic."""

    def setUp(self) -> None:
        self.clock, self.link = Clock(), FakeLink()
        link: Any = self.link
        settings, grouper = StreamSettings(per_topic=64), Grouper()
        self.feeds = Feeds(self.clock, link, settings, grouper, History(self.clock, link, settings, grouper))
        self.feeds.opened(StreamState("now", 1, 10, False))
        self.place = 0

    def follow(self, reader: Reader, *filters: str, after: Cursor | None = None) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(self.feeds.follow_filters(SHOP, filters, reader, after)))

    @property
    def tail(self) -> Any:
        (tail,) = self.feeds._shared.values()
        return tail

    def deliver(self, *messages: tuple[int, str]) -> None:
        """Play the consumer that was made last: one read, of messages with these sequences and topics."""
        read: list[Message] = []
        for sequence, name in messages:
            self.place += 1
            reply = b"$JS.ACK.FG_TOPICS.t1.1.%d.%d.1767323045000000000.0" % (sequence, self.place)
            subject = f"fg.log.alice.shop.-.{name.replace('/', '.')}.%".encode()
            read.append((b"2", subject, reply, b"", b"%d" % sequence))
        self.handler(read)

    def handler(self, messages: list[Message]) -> None:
        self.link.handlers[max(self.link.handlers, key=int)](messages)

    def heartbeat(self, consumed: int, sequence: int) -> None:
        head = f"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: {consumed}\r\nNats-Last-Stream: {sequence}\r\n\r\n"
        self.handler([(b"2", b"", b"", head.encode(), b"")])

    def test_to_whom_it_may_concern(self) -> None:
        """A message is given to those readers alone of whom a filter matches, once, in reads of any mixture."""
        readers = [Reader(), Reader(), Reader()]
        self.follow(readers[0], "t/1", "t/+")
        self.follow(readers[1], "t/2", "+/2")
        self.follow(readers[2], "u/#")
        self.deliver((11, "t/1"))
        self.deliver((12, "t/1"), (13, "t/2"), (14, "u"), (15, "t/2"), (16, "u/2"))
        self.assertEqual([reader.sequences for reader in readers], [[11, 12, 13, 15], [13, 15, 16], [14, 16]])

    def test_roots(self) -> None:
        """One consumer follows the first levels of all filters; it is made anew only for a new one, from its place."""
        first = self.follow(Reader(), "t/1", "t/2", "$s/x")
        self.follow(Reader(), "t/3")
        self.deliver((20, "t/1"))
        self.place = 0
        self.successResultOf(first.add("u/x"))
        self.successResultOf(first.add("u/y"))
        self.assertEqual(self.link.consumers(), [["-.t.>", "$.$s.>"], ["-.t.>", "-.u.>", "$.$s.>"]])
        starts = [body["config"]["opt_start_seq"] for body in self.link.bodies if body and "config" in body]
        self.assertEqual(starts, [11, 21])
        self.successResultOf(first.add("#"))
        self.assertEqual(self.link.consumers()[-1], ["-.>", "$.$s.>"])

    def test_many_roots(self) -> None:
        """With too many first levels the consumer follows all there are."""
        self.follow(Reader(), *(f"n{number}" for number in range(16)))
        self.follow(Reader(), "n16", "n17")
        self.follow(Reader(), *(f"${number}" for number in range(17)))
        sizes = [len(subjects) for subjects in self.link.consumers()]
        self.assertEqual((sizes, self.link.consumers()[-1]), ([16, 1, 2], ["-.>", "$.>"]))

    def test_without_filters(self) -> None:
        """Without a filter there is no consumer; the first filter is read from now."""
        reader = Reader()
        feed = self.follow(reader)
        self.assertEqual(self.link.consumers(), [])
        self.link.last = 30
        self.assertEqual(self.successResultOf(feed.add("t")), 30)
        self.deliver((31, "t"))
        self.assertEqual((reader.sequences, feed.cursor), ([31], Cursor("now", 31)))

    def test_adding_waits_for_the_consumer(self) -> None:
        """A filter counts as read when the consumer that brings it stands."""
        feed = self.follow(Reader(), "t")
        self.link.held = []
        added = feed.add("u")
        self.assertNoResult(added)
        self.link.held.pop().callback((b"1", b"", b"", b"", b"{}"))
        self.assertEqual(self.successResultOf(added), 10)

    def test_filter_that_cannot_be_added(self) -> None:
        """If the consumer cannot be made, or the bus goes away, the filter is not read; what was read is."""
        reader = Reader()
        feed = self.follow(reader, "t")
        self.link.held = []
        added = feed.add("u")
        self.link.held.pop().callback((b"1", b"", b"", b"", b'{"error": {"description": "no"}}'))
        self.failureResultOf(added, BusUnavailable)
        added = feed.add("v")
        self.feeds.closed()
        self.failureResultOf(added, BusUnavailable)
        self.failureResultOf(feed.add("w"), BusUnavailable)
        self.link.held = None
        self.feeds.opened(StreamState("now", 1, 10, False))
        self.place = 0
        self.deliver((11, "u"), (12, "v"), (13, "w"), (14, "t"))
        self.assertEqual(reader.sequences, [14])

    def test_consumer_that_was_replaced(self) -> None:
        """What the old consumer still brings is not taken for the new one's."""
        reader = Reader()
        feed = self.follow(reader, "t")
        old = self.link.handlers[max(self.link.handlers, key=int)]
        self.successResultOf(feed.add("u"))
        old([(b"2", b"fg.log.alice.shop.-.t.%", b"$JS.ACK.S.t1.1.11.1.1767323045000000000.0", b"", b"11")])
        self.assertEqual((reader.seen, self.tail.last), ([], 10))
        self.deliver((11, "t"))
        self.assertEqual(reader.sequences, [11])

    def test_place_of_an_idle_reader(self) -> None:
        """The consumer's heartbeats move on the cursor of a reader that is not given anything."""
        feed = self.follow(Reader(), "t")
        self.deliver((11, "t/x"))
        self.assertEqual(feed.cursor.sequence, 11)
        self.heartbeat(1, 500)
        self.assertEqual(feed.cursor.sequence, 500)
        self.deliver((501, "t"))
        self.heartbeat(2, 480)  # of a moment before
        self.assertEqual(feed.cursor.sequence, 501)
        feed.stop()
        self.assertEqual(feed.cursor.sequence, 501)

    def test_place_of_a_paused_reader(self) -> None:
        """The cursor of a reader that pauses stays before what waits for it, in memory or in the stream."""
        reader = Reader(appetite=1)
        feed = self.follow(reader, "t")
        self.deliver((11, "t"))
        self.deliver((12, "t/x"))
        self.assertEqual(feed.cursor.sequence, 12)
        self.deliver((13, "t"))
        self.heartbeat(3, 90)
        self.assertEqual(feed.cursor.sequence, 12)
        for start in range(91, 91 + FEED_MESSAGES, 10):
            self.deliver(*((sequence, "t") for sequence in range(start, start + 10)))
        self.assertEqual(feed.cursor.sequence, 12)
        reader.appetite = 10**9
        feed.resume()
        self.assertEqual(len(self.link.questions), 1)  # a page
        self.assertEqual((reader.sequences, feed.cursor.sequence), ([11], 12))

    def test_faulty_reader(self) -> None:
        """A reader that raises is ended, and costs the others nothing."""

        class Faulty(Reader):
            def read(self, run: Run) -> bool:
                raise RuntimeError("a fault")

        faulty, reader = Faulty(), Reader()
        self.follow(faulty, "t")
        self.follow(reader, "t")
        self.deliver((11, "t"))
        self.deliver((12, "t"), (13, "t"))
        self.assertEqual(([type(one) for one in faulty.seen], reader.sequences), ([Internal], [11, 12, 13]))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_nothing_stays(self) -> None:
        """The consumer and all that was kept goes some seconds after the last reader, if nobody comes meanwhile."""
        feeds = [self.follow(Reader(), "t/#", "+"), self.follow(Reader(), "t/1")]
        tail = self.tail
        self.deliver((11, "t/1"))
        for feed in feeds:
            feed.stop()
        again = self.follow(Reader(), "t/1")
        self.assertIs(self.tail, tail)
        self.clock.advance(5)
        self.assertTrue(self.feeds._shared)
        again.stop()
        self.clock.advance(5)
        self.assertEqual((self.feeds._shared, self.link.handlers, self.clock.getDelayedCalls()), ({}, {}, []))
        self.assertFalse(tail._tree)

    # -- what the consumer may have been too late for

    def jump(self, *names: str) -> None:
        """Deliver 5 messages of each topic, after a jump in the stream."""
        start = self.tail.last + 100
        self.deliver(*((start + 5 * index + n, name) for index, name in enumerate(names) for n in range(5)))

    def test_jump_without_a_loss(self) -> None:
        """After a jump the stream is asked for each topic; what comes meanwhile waits, in order, and is given then."""
        reader = Reader()
        feed = self.follow(reader, "t")
        self.deliver((11, "t"))
        self.jump("t")
        self.deliver((116, "t"), (117, "t"))
        self.assertEqual((reader.sequences, feed.cursor.sequence), ([11], 11))
        self.link.firsts["fg.log.alice.shop.-.t.%"] = 11, 80
        self.link.answer()
        self.assertEqual((reader.sequences, reader.gaps), ([11, *range(111, 118)], []))
        self.assertEqual(feed.cursor.sequence, 117)

    def test_jump_of_a_topic_that_is_not_full(self) -> None:
        """A topic that may hold more has lost nothing, however young its oldest message is."""
        reader = Reader()
        self.follow(reader, "t")
        self.jump("t")
        self.link.firsts["fg.log.alice.shop.-.t.%"] = 110, 62
        self.link.answer()
        self.assertEqual((len(reader.payloads), reader.gaps), (5, []))

    def test_jump_with_a_loss(self) -> None:
        """Readers of a topic that lost something are told before they are given what came; others are not."""
        reader, other = Reader(), Reader()
        self.follow(reader, "t")
        self.follow(other, "u")
        self.jump("t", "u")
        self.link.firsts["fg.log.alice.shop.-.t.%"] = 110, 63
        self.link.firsts["fg.log.alice.shop.-.u.%"] = 3, 63
        self.link.answer()
        self.link.answer()
        self.assertEqual((reader.gaps, len(reader.payloads)), ([Cursor("now", 109)], 5))
        self.assertIsInstance(reader.seen[0], Cursor)
        self.assertEqual((other.gaps, len(other.payloads)), ([], 5))

    def test_loss_before_a_filter_was_added(self) -> None:
        """What a topic lost before its filter was added is not told."""
        reader = Reader()
        feed = self.follow(reader, "t/x")
        self.link.last = 200
        self.successResultOf(feed.add("t"))
        self.jump("t")
        self.link.firsts["fg.log.alice.shop.-.t.%"] = 150, 63
        self.link.answer()
        self.assertEqual(reader.gaps, [])

    def test_more_comes_while_asking(self) -> None:
        """What came after the question is asked for by another one."""
        reader = Reader()
        self.follow(reader, "t")
        self.jump("t")
        self.jump("t")
        self.link.firsts["fg.log.alice.shop.-.t.%"] = 5, 70
        self.link.answer()
        self.assertEqual((len(reader.payloads), len(self.link.questions)), (5, 1))
        self.link.answer()
        self.assertEqual((len(reader.payloads), len(self.link.questions)), (10, 0))

    def test_no_answer(self) -> None:
        """Without an answer in time the readers concerned read pages."""
        reader, other = Reader(), Reader()
        self.follow(reader, "t")
        self.follow(other, "u")
        self.jump("t")
        self.clock.advance(6)
        self.assertEqual([subject for subject, _ in self.link.questions[1:]], ["fg.log.alice.shop.-.t.%"])
        self.assertEqual(reader.seen, [])

    def test_too_much_to_hold(self) -> None:
        """What waits for an answer is bounded: then it is dropped, and the readers concerned read pages."""
        reader = Reader()
        feed = self.follow(reader, "t")
        self.jump("t")
        for _ in range(17):
            start = self.tail.last + 1
            self.deliver(*((sequence, "t") for sequence in range(start, start + 1000)))
        self.assertEqual([subject for subject, _ in self.link.questions[1:]], ["fg.log.alice.shop.-.t.%"])
        self.assertLess(sum(run.count for run in self.tail._held), 17_000)
        self.assertEqual((reader.seen, feed.cursor.sequence), ([], 10))

    def test_bus_away_while_asking(self) -> None:
        """When the bus goes away nothing is held: readers read pages when it is back."""
        reader = Reader()
        feed = self.follow(reader, "t")
        self.jump("t")
        self.feeds.closed()
        self.link.lose()
        self.assertEqual((reader.seen, self.tail._held, feed.cursor.sequence), ([], None, 10))
        self.link.up = True
        self.link.questions.clear()
        self.feeds.opened(StreamState("now", 1, 120, False))
        self.assertEqual([subject for subject, _ in self.link.questions], ["fg.log.alice.shop.-.t.%"])
