"""Reading the stream, against a server that a test plays."""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.grouping import Grouper
from flowgate.bus.reading import History
from flowgate.bus.stream import StreamSettings
from flowgate.errors import BusUnavailable
from flowgate.message import Run


class FakeLink:
    """A link whose other end is the test."""

    inbox = "_INBOX.me"

    def __init__(self, subjects: list[str]) -> None:
        self._subjects = dict.fromkeys(subjects, 1000)
        self.lost: dict[str, Any] = {}
        self.up = True
        self._tokens = 0

    def token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens}"

    def open_inbox(self, token: str, handler: Any, lost: Any) -> None:
        self.lost[token] = lost

    def close_inbox(self, token: str) -> None:
        self.lost.pop(token, None)

    def write(self, data: bytes) -> None:
        if not self.up:
            raise BusUnavailable

    def request(self, subject: str, payload: bytes) -> Deferred[Any]:
        state = {"subjects": self._subjects, "first_seq": 1, "last_seq": 5000}
        answered: Deferred[Any] = Deferred()
        answered.callback((b"1", b"", b"", b"", json.dumps({"state": state, "total": len(self._subjects)}).encode()))
        return answered

    def lose(self) -> None:
        self.up = False
        for lost in list(self.lost.values()):
            lost()


class FirstsTests(SynchronousTestCase):
    """Looking for the oldest message of many subjects at once."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link = FakeLink([f"fg.log.alice.shop.-.{n}.%" for n in range(100)])
        link: Any = self.link
        self.history = History(self.clock, link, StreamSettings(), Grouper())
        self.firsts = Deferred.fromCoroutine(self.history.full_firsts("fg.*.alice.shop.-.>"))
        self.assertEqual(len(self.link.lost), 64)

    def test_lost(self) -> None:
        """When the connection is lost, all of what was asked has failed, and none of it is left for the log."""
        self.link.lose()
        self.failureResultOf(self.firsts, BusUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """A reader that leaves takes back all that was asked."""
        self.firsts.cancel()
        self.failureResultOf(self.firsts, CancelledError)
        self.assertEqual((self.link.lost, self.clock.getDelayedCalls()), ({}, []))


class SlowLink:
    """A link whose answers a test gives."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Deferred[Any]]] = []

    def request(self, subject: str, payload: bytes) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((subject, answer))
        return answer

    def reply(self, body: object = None, head: bytes = b"", payload: bytes = b"") -> None:
        payload = payload if body is None else json.dumps(body).encode()
        self.asked.pop(0)[1].callback((b"1", b"", b"", head, payload))

    def answer(self, last: int) -> None:
        self.reply(
            {
                "created": "2026-01-02T03:04:05Z",
                "ts": "2026-01-02T03:04:06Z",
                "config": {"max_age": 0},
                "state": {"first_seq": 1, "last_seq": last},
            }
        )


class StateTests(SynchronousTestCase):
    """Asking what the stream holds."""

    def setUp(self) -> None:
        self.link = SlowLink()
        link: Any = self.link
        self.history = History(Clock(), link, StreamSettings(), Grouper())

    def test_together(self) -> None:
        """Those who ask while an answer is awaited share the next one, which is of a moment after their question."""
        first, *others = (self.history.state() for _ in range(5))
        self.assertEqual(len(self.link.asked), 1)
        self.link.answer(7)
        self.assertEqual(self.successResultOf(first).last, 7)
        self.assertEqual(len(self.link.asked), 1)
        self.link.answer(8)
        self.assertEqual([self.successResultOf(other).last for other in others], [8] * 4)
        self.assertEqual(self.link.asked, [])
        self.history.state()
        self.assertEqual(len(self.link.asked), 1)

    def test_failed(self) -> None:
        """A failure is told to all who wait for that answer."""
        first, second = self.history.state(), self.history.state()
        self.link.asked.pop(0)[1].errback(BusUnavailable())
        self.failureResultOf(first, BusUnavailable)
        self.assertNoResult(second)
        self.link.asked.pop(0)[1].errback(BusUnavailable())
        self.failureResultOf(second, BusUnavailable)

    def test_cancelled(self) -> None:
        """Who takes back a question is not told; the others are."""
        first, second, third = (self.history.state() for _ in range(3))
        for one in (first, second):
            one.cancel()
            self.failureResultOf(one, CancelledError)
        self.link.answer(7)
        self.link.answer(8)
        self.assertEqual(self.successResultOf(third).last, 8)


class FetchTests(SynchronousTestCase):
    """Reading messages by their places."""

    MISSING = b"NATS/1.0 404 Message Not Found\r\n\r\n"

    def make(self, replicas: int = 1) -> None:
        self.link = SlowLink()
        link: Any = self.link
        self.history = History(Clock(), link, StreamSettings(replicas=replicas), Grouper())

    def fetch(self, *sequences: int) -> Deferred[dict[int, Run]]:
        return Deferred.fromCoroutine(self.history.fetch(sequences))

    def test_some_at_once(self) -> None:
        """Each place is asked for once, so many at a time, and what is not there is left out."""
        self.make()
        fetched = self.fetch(*range(-1, 101), 5)
        self.assertEqual(len(self.link.asked), 64)
        for sequence in range(1, 101):
            head = (
                f"Nats-Subject: fg.log.alice.shop.-.a.%\r\nNats-Sequence: {sequence}\r\n"
                "Nats-Time-Stamp: 2026-01-02T03:04:05Z\r\nFlowgate-Retain: 1\r\n"
            )
            self.link.reply(head=self.MISSING if sequence % 2 else f"NATS/1.0\r\n{head}\r\n".encode(), payload=b"x")
        found = self.successResultOf(fetched)
        self.assertEqual(list(found), list(range(2, 101, 2)))
        self.assertEqual((list(found[2].payloads), found[2].qos, found[2].retain), ([b"x"], 1, True))

    def test_refused(self) -> None:
        """Another refusal than "not found" is not taken for it."""
        self.make()
        fetched = self.fetch(1, 2)
        self.link.reply(head=b"NATS/1.0 408 Bad Request\r\n\r\n")
        self.link.reply(head=self.MISSING)
        self.failureResultOf(fetched, BusUnavailable)

    def test_lagging_replica(self) -> None:
        """With replicas, the leader has the last word on what is not there."""
        self.make(replicas=3)
        fetched = self.fetch(1, 2)
        for _ in range(2):
            self.link.reply(head=self.MISSING)
        message = {
            "subject": "fg.log.alice.shop.-.a.%",
            "seq": 1,
            "hdrs": base64.b64encode(b"NATS/1.0\r\nFlowgate-QoS: 2\r\n\r\n").decode(),
            "data": base64.b64encode(b"x").decode(),
            "time": "2026-01-02T03:04:05.5Z",
        }
        self.link.reply({"message": message})
        self.link.reply({"error": {"code": 404, "err_code": 10037}})
        found = self.successResultOf(fetched)
        self.assertEqual(list(found), [1])
        run = found[1]
        self.assertEqual((list(run.payloads), run.qos, list(run.sequences)), ([b"x"], 2, [1]))
        self.assertEqual(run.times[0] % 10**9, 500_000_000)

    def test_firsts_of_full_subjects(self) -> None:
        """With replicas, the leader tells what a subject holds and where it begins."""
        self.make(replicas=3)
        firsts = Deferred.fromCoroutine(self.history.firsts_if_full(["fg.log.a", "fg.log.b"]))
        self.link.reply({"state": {"subjects": {"fg.log.a": 1000}}, "total": 1})
        self.link.reply({"state": {"subjects": {"fg.log.b": 999}}, "total": 1})
        self.link.reply({"message": {"seq": 17}})
        self.assertEqual(self.successResultOf(firsts), [17, 0])
