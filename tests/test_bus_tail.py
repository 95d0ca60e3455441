"""The live end of the stream, against a server that a test plays."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.grouping import Grouper
from flowgate.bus.reading import History
from flowgate.bus.stream import StreamSettings
from flowgate.bus.tail import Feeds
from flowgate.bus.wire import Message
from flowgate.interfaces import IFeed
from tests.contracts.topics import SHOP, Reader


class FakeLink:
    """A link to a stream whose newest sequence the test says."""

    inbox = "_INBOX.me"
    up = True

    def __init__(self) -> None:
        self.last = 10
        self.asked: list[str] = []
        self.handlers: dict[bytes, Any] = {}
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

    def request(self, subject: str, payload: bytes) -> Deferred[Message]:
        self.asked.append(subject)
        answer = {
            "created": "2026-01-02T03:04:05Z",
            "ts": "2026-01-02T03:04:06Z",
            "config": {"max_age": 0},
            "state": {"first_seq": 1, "last_seq": self.last},
        }
        answered: Deferred[Message] = Deferred()
        answered.callback((b"1", b"", b"", b"", json.dumps(answer).encode()))
        return answered


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
