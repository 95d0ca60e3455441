"""Weighing what waits, against a server that a test plays."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.backlog import Weighing, excess
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable


class FakeLink:
    """A link to a stream whose messages have the sizes that the test says."""

    inbox = "_INBOX.me"

    def __init__(self, sizes: list[int]) -> None:
        self.up = True
        self.sizes = sizes
        self.pending = len(sizes)
        self.error: dict[str, object] | None = None
        self.written: list[str] = []
        self.handler: Any = None
        self.lost: Any = None
        self._given = 0

    def token(self) -> str:
        return "t1"

    def subscribe(self, subject: str, handler: Any) -> bytes:
        self.handler = handler
        return b"2"

    def unsubscribe(self, key: bytes) -> None:
        self.handler = None

    def open_inbox(self, token: str, handler: Any, lost: Any) -> None:
        self.lost = lost

    def close_inbox(self, token: str) -> None:
        self.lost = None

    def request(self, subject: str, payload: bytes) -> Deferred[Message]:
        self.written.append(subject)
        self.config = json.loads(payload)["config"]
        answer = {"error": self.error} if self.error else {"num_pending": self.pending}
        answered: Deferred[Message] = Deferred()
        answered.callback((b"1", b"", b"", b"", json.dumps(answer).encode()))
        return answered

    def write(self, data: bytes) -> None:
        self.written.append(data.split()[1].decode())

    def give(self, count: int, status: str = "") -> None:
        """Play the consumer."""
        messages: list[Message] = []
        for size in self.sizes[self._given : self._given + count]:
            self._given += 1
            reply = b"$JS.ACK.S.t1.1.%d.%d.1.0" % (10 * self._given, self._given)
            messages.append((b"2", b"fg.log.x", reply, b"NATS/1.0\r\nNats-Msg-Size: %d\r\n\r\n" % size, b""))
        if status:
            messages.append((b"2", b"_INBOX.me-.t1", b"", f"NATS/1.0 {status}\r\n\r\n".encode(), b""))
        self.handler(messages)


class ExcessTests(SynchronousTestCase):
    """From where on no more waits than may."""

    def begin(self, sizes: list[int], messages: int, size: int, largest: int = 100) -> None:
        self.clock = Clock()
        self.link = FakeLink(sizes)
        link: Any = self.link
        weighing = Weighing(self.clock, link, "S", ["fg.log.x", "fg.log.y"])
        self.excess = Deferred.fromCoroutine(excess(weighing, 5, messages, size, largest))

    def assert_nothing_left(self) -> None:
        self.assertEqual((self.link.handler, self.link.lost, self.clock.getDelayedCalls()), (None, None, []))

    def test_within_bounds_for_sure(self) -> None:
        """What is within bounds whatever its sizes is not weighed; the consumer is removed."""
        self.begin([1, 2, 3], 3, 300)
        self.assertEqual(self.successResultOf(self.excess), (5, 0))
        self.assertEqual(self.link.written, ["$JS.API.CONSUMER.CREATE.S.t1", "$JS.API.CONSUMER.DELETE.S.t1"])
        self.assertEqual((self.link.config["opt_start_seq"], self.link.config["headers_only"]), (6, True))

    def test_bounds(self) -> None:
        """The oldest are left out until both bounds hold."""
        for messages, size, expected in ((9, 100, (5, 0)), (4, 100, (10, 1)), (9, 11, (20, 2)), (9, 0, (50, 5))):
            self.begin([1, 2, 3, 4, 4], messages, size)
            self.link.give(5, "404 No Messages")
            self.assertEqual(self.successResultOf(self.excess), expected)
            self.assert_nothing_left()

    def test_batches(self) -> None:
        """Sizes come in batches, each in as many reads as it likes."""
        self.begin([1] * 2500, 10, 10**6)
        for count in (400, 600, 1000, 499):
            self.link.give(count)
            self.assertNoResult(self.excess)
        self.link.give(1, "404 No Messages")
        self.assertEqual(self.successResultOf(self.excess), (24_900, 2490))
        self.assertEqual(sum("MSG.NEXT" in subject for subject in self.link.written), 3)
        self.assert_nothing_left()

    def test_fewer_than_counted(self) -> None:
        """If messages go while they are weighed, the end is the end."""
        self.begin([1, 1, 1], 1, 1)
        del self.link.sizes[2]
        self.link.give(2, "404 No Messages")
        self.link.give(0, "404 No Messages")
        self.assertEqual(self.successResultOf(self.excess), (10, 1))

    def test_no_answer(self) -> None:
        """A server that falls silent is not waited for."""
        self.begin([1, 1], 1, 1)
        self.clock.advance(4)
        self.link.give(1)
        self.clock.advance(4)
        self.assertNoResult(self.excess)
        self.clock.advance(2)
        self.failureResultOf(self.excess, BusUnavailable)
        self.assert_nothing_left()

    def test_refused(self) -> None:
        """A refusal of the server is an unavailable bus."""
        self.begin([1, 1], 1, 1)
        self.link.give(1, "409 Consumer Deleted")
        self.failureResultOf(self.excess, BusUnavailable)
        self.assert_nothing_left()

    def test_consumer_refused(self) -> None:
        """So is a consumer that cannot be made."""
        link: Any = FakeLink([])
        link.error = {"code": 400, "description": "no"}
        weighing = Weighing(Clock(), link, "S", ["fg.log.x"])
        self.failureResultOf(Deferred.fromCoroutine(excess(weighing, 0, 1, 1, 1)), BusUnavailable)

    def test_lost(self) -> None:
        """When the connection is lost the weighing fails, and nothing more is written."""
        self.begin([1, 1], 1, 1)
        self.link.up = False
        self.link.lost()
        self.failureResultOf(self.excess, BusUnavailable)
        self.assert_nothing_left()
        self.assertNotIn("DELETE", "".join(self.link.written))
