"""Writing retained messages, against a server that a test plays."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus import keeper
from flowgate.bus.keeper import Keeper, Presence
from flowgate.bus.link import Link, NoResponders
from flowgate.errors import BusUnavailable, MessageTooLarge
from flowgate.message import Cursor

WRONG_LAST = {"code": 400, "err_code": 10071, "description": "wrong last sequence: 9"}


@attrs.frozen
class Sent:
    """One write as the server sees it."""

    subject: str
    reply: bytes
    headers: dict[str, str]
    payload: bytes

    @property
    def expected(self) -> int:
        return int(self.headers["Nats-Expected-Last-Subject-Sequence"])


class FakeLink:
    """A link whose other end is the test."""

    inbox = "_INBOX.me"

    def __init__(self) -> None:
        self.info = {"max_payload": 10_000}
        self.up = True
        self.sent: list[Sent] = []
        self.writes = self.settles = self._tokens = 0
        self.asked: list[tuple[str, dict[str, Any], Deferred[Any]]] = []
        self.handlers: dict[str, tuple[Callable[[list[Any]], None], Callable[[], None]]] = {}

    def token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens}"

    def open_inbox(self, token: str, handler: Callable[[list[Any]], None], lost: Callable[[], None]) -> None:
        self.handlers[token] = handler, lost

    def close_inbox(self, token: str) -> None:
        del self.handlers[token]

    def settled(self) -> None:
        self.settles += 1

    def write(self, data: bytes) -> None:
        if not self.up:
            raise BusUnavailable
        self.writes += 1
        while data:
            line, _, data = data.partition(b"\r\n")
            _, subject, reply, *sizes = line.split()
            head, size = map(int, sizes)
            lines = data[:head].decode().split("\r\n")[1:-2]
            headers = dict(one.split(": ", 1) for one in lines)
            self.sent.append(Sent(subject.decode(), reply, headers, data[head:size]))
            data = data[size + 2 :]

    def request(self, subject: str, payload: bytes) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((subject, json.loads(payload), answer))
        return answer

    def answer(self, sent: Sent, head: bytes = b"", **members: Any) -> None:
        """Answer a write as JetStream does."""
        handler, _ = self.handlers[sent.reply.decode().split(".")[2]]
        handler([(b"1", sent.reply, b"", head, json.dumps(members).encode())])

    def confirm(self, first: int = 1) -> None:
        """Say that everything was stored, at the sequences from ``first`` on."""
        sent, self.sent = self.sent, []
        for sequence, one in enumerate(sent, first):
            self.answer(one, stream="S", seq=sequence)

    def lose(self) -> None:
        self.up = False
        for _, _, answer in self.asked:
            if not answer.called:
                answer.errback(BusUnavailable())
        for _, lost in list(self.handlers.values()):
            lost()


class FakePresence:
    """A stream that the test makes."""

    def __init__(self) -> None:
        self.there = True
        self.made = 0
        self.making: Deferred[None] = succeed(None)

    async def ensure(self) -> None:
        self.made += 1
        await self.making
        self.there = True


class KeeperTests(SynchronousTestCase):
    """What is written, and what its answers mean."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link = FakeLink()
        self.presence = FakePresence()
        self.keeper = Keeper(self.clock, cast(Link, self.link), "S", cast(Presence, self.presence))

    def put(
        self, subject: str = "a", payload: bytes = b"x", qos: int = 1, ttl: int | None = None, place: int = 0
    ) -> Deferred[None]:
        return self.keeper.put(subject.encode(), payload, qos, ttl, Cursor("e", place) if place else None)

    def found(self, sequence: int, place: str = "") -> None:
        """Answer the look-up under way with what is there."""
        head = f"NATS/1.0\r\nFlowgate-Place: {place}\r\n\r\n" if place else ""
        message = {"seq": sequence, "hdrs": base64.b64encode(head.encode()).decode(), "data": "eA=="}
        self.told({"message": message} if sequence else {"error": {"code": 404, "err_code": 10037}})

    def told(self, answer: object) -> None:
        self.link.asked.pop()[2].callback((b"1", b"", b"", b"", json.dumps(answer).encode()))

    def payloads(self) -> list[bytes]:
        return [sent.payload for sent in self.link.sent]

    # -- what is written

    def test_headers(self) -> None:
        """A message has its quality of service, its time and its place with it, and what it replaces."""
        self.put(qos=2, ttl=60, place=7)
        [sent] = self.link.sent
        expected = {
            "Flowgate-QoS": "2",
            "Nats-TTL": "60",
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Flowgate-Place": "e-7",
        }
        self.assertEqual((sent.subject, sent.headers), ("a", expected))

    def test_few_headers(self) -> None:
        """Most need little; a removal goes by itself."""
        self.put(qos=0)
        self.link.confirm(5)
        self.put(payload=b"", qos=0, ttl=5)
        [sent] = self.link.sent
        self.assertEqual(sent.headers, {"Nats-TTL": "600", "Nats-Expected-Last-Subject-Sequence": "5"})

    def test_a_turn_is_a_write(self) -> None:
        """The first put of an idle lane leaves at once; what a turn brings while it is under way leaves together."""
        for number in range(5):
            self.put(f"t{number}")
        self.assertEqual((len(self.link.sent), self.link.writes), (1, 1))
        self.clock.advance(0)
        self.assertEqual((len(self.link.sent), self.link.writes), (5, 2))

    def test_only_the_newest(self) -> None:
        """Of one topic one message is under way, and of those that wait only the newest is written."""
        puts = [self.put(payload=b"%d" % number) for number in range(5)]
        self.clock.advance(0)
        self.assertEqual(self.payloads(), [b"0"])
        self.link.confirm(3)
        self.successResultOf(puts[0])
        self.assertEqual([(sent.payload, sent.expected) for sent in self.link.sent], [(b"4", 3)])
        for put in puts[1:]:
            self.assertNoResult(put)
        self.link.confirm(4)
        for put in puts[1:]:
            self.successResultOf(put)

    def test_newest_before_it_is_written(self) -> None:
        """So it is for those that were not written at all yet."""
        self.put("other")
        for number in range(3):
            self.put(payload=b"%d" % number)
        self.clock.advance(0)
        self.assertEqual(self.payloads(), [b"x", b"2"])

    def test_room(self) -> None:
        """No more topics are written at once than is allowed; the others follow."""
        self.patch(keeper, "PUTS_AT_ONCE", 2)
        puts = [self.put(f"t{number}") for number in range(5)]
        self.clock.advance(0)
        self.assertEqual(len(self.link.sent), 2)
        self.link.confirm()
        self.assertEqual(len(self.link.sent), 2)
        self.link.confirm()
        self.link.confirm()
        for put in puts:
            self.successResultOf(put)

    def test_refused(self) -> None:
        """What is too large for the bus, or too much for the lane, is refused at once; so is all while it is away."""
        self.failureResultOf(self.put(payload=bytes(9_000)), MessageTooLarge)
        self.patch(keeper, "MAX_PUTS", 3)
        puts = [self.put() for _ in range(3)]
        self.failureResultOf(self.put(), BusUnavailable)
        self.link.confirm()
        self.link.confirm()
        for put in puts:
            self.successResultOf(put)
        self.clock.advance(0)
        self.patch(keeper, "MAX_BYTES", 1000)
        self.put(payload=bytes(600))
        self.put(payload=bytes(600))
        self.failureResultOf(self.put("b"), BusUnavailable)
        self.link.confirm()
        self.link.confirm()
        self.put("b")
        self.link.up = False
        self.failureResultOf(self.put("c"), BusUnavailable)

    # -- places

    def test_place_is_kept(self) -> None:
        """A message without a place takes over the one of what it replaces."""
        self.put(place=7)
        self.link.confirm(1)
        self.put(payload=b"live", qos=0)
        self.assertEqual(self.link.sent[0].headers["Flowgate-Place"], "e-7")

    def test_earlier_is_not_written(self) -> None:
        """What is known to be earlier in history than what is there is not written; that is no failure."""
        self.put(place=7)
        self.link.confirm(1)
        self.successResultOf(self.put(place=7))
        self.successResultOf(self.put(place=6))
        self.assertEqual(self.link.sent, [])
        self.put("b")
        later = self.put(place=5)
        self.assertNoResult(later)
        self.clock.advance(0)
        self.successResultOf(later)
        self.assertEqual(self.link.settles, 1)

    def test_earlier_of_those_that_wait(self) -> None:
        """Of those that wait the later one in history is left, whichever was put last."""
        first = self.put(place=1)
        puts = [self.put(payload=b"%d" % place, place=place) for place in (3, 9, 4)]
        self.link.confirm()
        self.successResultOf(first)
        self.assertEqual(self.payloads(), [b"9"])
        self.link.confirm()
        for put in puts:
            self.successResultOf(put)

    def test_conflict(self) -> None:
        """When another node has written, the topic is looked up and the message written over what is there."""
        put = self.put(place=7)
        self.link.answer(self.link.sent.pop(), error=WRONG_LAST)
        subject, body, _ = self.link.asked[0]
        self.assertEqual((subject, body), ("$JS.API.STREAM.MSG.GET.S", {"last_by_subj": "a"}))
        self.found(9, "e-6")
        self.assertEqual([(sent.expected, sent.headers["Flowgate-Place"]) for sent in self.link.sent], [(9, "e-7")])
        self.link.confirm(10)
        self.successResultOf(put)

    def test_conflict_with_a_later_one(self) -> None:
        """If what is there is later in history, it stays."""
        put = self.put(place=7)
        self.link.answer(self.link.sent.pop(), error=WRONG_LAST)
        self.found(9, "e-8")
        self.successResultOf(put)
        self.assertEqual(self.link.sent, [])

    def test_conflict_without_a_place(self) -> None:
        """A message without a place replaces what is there, takes over its place, and makes nothing of a bad one."""
        for there, place in (("e-8", "e-8"), ("nonsense", None)):
            self.put(there)
            self.link.answer(self.link.sent.pop(), error=WRONG_LAST)
            self.found(9, there)
            self.assertEqual(self.link.sent[0].headers.get("Flowgate-Place"), place)
            self.link.confirm()

    def test_conflict_with_nothing(self) -> None:
        """What was there may be gone by its age: then there is nothing to replace, and it stays later in history."""
        self.put(place=7)
        self.link.confirm(3)
        self.put(place=8)
        self.link.answer(self.link.sent.pop(), error=WRONG_LAST)
        self.found(0)
        self.assertEqual([sent.expected for sent in self.link.sent], [0])
        self.link.confirm(4)
        self.successResultOf(self.put(place=7))

    def test_conflicts_without_end(self) -> None:
        """After five seconds of conflicts the message has failed; the next one of its topic is tried."""
        put, following = self.put(payload=b"1"), self.put(payload=b"2")
        for _ in range(5):
            self.link.answer(self.link.sent.pop(), error=WRONG_LAST)
            self.clock.advance(1)
            self.found(9)
        self.failureResultOf(put, BusUnavailable)
        self.assertEqual(self.payloads(), [b"2"])
        self.link.confirm()
        self.successResultOf(following)

    def test_look_up_fails(self) -> None:
        """If a topic cannot be looked up, its message has failed."""
        answers: list[object] = [{"error": {"code": 500, "err_code": 1}}, [], None]
        for answer in answers:
            put = self.put()
            self.link.answer(self.link.sent.pop(), error=WRONG_LAST)
            if answer is None:
                self.link.asked.pop()[2].errback(NoResponders())
            else:
                self.told(answer)
            self.failureResultOf(put, BusUnavailable)

    def test_memory_is_bounded(self) -> None:
        """Only so many topics are remembered; the oldest is forgotten first."""
        self.patch(keeper, "_REMEMBERED", 2)
        for name in ("a", "b", "c"):
            self.put(name)
            self.link.confirm(5)
        for name, expected in (("b", 5), ("a", 0)):
            self.put(name)
            self.assertEqual(self.link.sent[0].expected, expected)
            self.link.confirm()

    # -- failures

    def test_error(self) -> None:
        """A message that the stream does not take has failed; that is logged, but not for each of many."""

        def fail_once() -> None:
            put = self.put()
            self.link.answer(self.link.sent.pop(), error={"code": 503, "err_code": 10023, "description": "no room"})
            self.failureResultOf(put, BusUnavailable)

        with capturedLogs() as events:
            for _ in range(3):
                fail_once()
            self.assertEqual([event["detail"] for event in events], ["no room"])
            self.clock.advance(10)
            fail_once()
            self.assertEqual([event["detail"] for event in events], ["no room"] * 2)

    def test_missing_stream(self) -> None:
        """A stream that is not there is made, and the message written once more."""
        put = self.put()
        self.link.answer(self.link.sent.pop(), b"NATS/1.0 503\r\n\r\n")
        self.assertEqual((self.presence.made, self.payloads()), (1, [b"x"]))
        self.link.confirm()
        self.successResultOf(put)

    def test_still_missing_stream(self) -> None:
        """If it is not there even then, the message has failed."""
        put = self.put()
        for _ in range(2):
            self.link.answer(self.link.sent.pop(), b"NATS/1.0 503\r\n\r\n")
        self.failureResultOf(put, BusUnavailable)
        self.assertEqual(self.link.sent, [])

    def test_waiting_for_the_stream(self) -> None:
        """Puts wait for a stream that is being made, together."""
        self.presence.there = False
        self.presence.making = Deferred()
        puts = [self.put(f"t{number}") for number in range(3)]
        self.clock.advance(1)
        self.assertEqual((self.presence.made, self.link.sent), (1, []))
        self.presence.making.callback(None)
        self.assertEqual(len(self.link.sent), 3)
        self.link.confirm()
        for put in puts:
            self.successResultOf(put)

    def test_stream_cannot_be_made(self) -> None:
        """If it cannot be made they all fail, and the next put tries again."""
        self.presence.there = False
        self.presence.making = fail(BusUnavailable())
        self.failureResultOf(self.put(), BusUnavailable)
        self.presence.making = fail(RuntimeError())
        self.failureResultOf(self.put(), BusUnavailable)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.presence.making = succeed(None)
        self.put()
        self.assertEqual(len(self.link.sent), 1)

    def test_no_answer(self) -> None:
        """A message without an answer has failed after five seconds, and its answer is too late then."""
        put, following = self.put(payload=b"1"), self.put(payload=b"2")
        late = self.link.sent.pop()
        self.clock.pump([1] * 6)
        self.failureResultOf(put, BusUnavailable)
        self.assertGreater(self.link.settles, 0)
        self.assertEqual([(sent.payload, sent.expected) for sent in self.link.sent], [(b"2", 0)])
        self.link.answer(late, stream="S", seq=4)
        self.assertNoResult(following)
        self.link.confirm(5)
        self.successResultOf(following)
        self.clock.pump([1] * 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """When the link is lost everything under way fails, whatever it waits for, and nothing is left behind."""
        self.patch(keeper, "PUTS_AT_ONCE", 2)
        puts = [self.put(name) for name in ("a", "a", "b", "c", "d")]
        self.clock.advance(0)
        self.link.answer(self.link.sent[1], error=WRONG_LAST)
        self.link.lose()
        for put in puts:
            self.failureResultOf(put, BusUnavailable)
        self.assertEqual((self.link.handlers, self.clock.getDelayedCalls()), ({}, []))
        self.assertEqual((self.keeper._topics, self.keeper._puts, self.keeper._bytes), ({}, 0, 0))
        self.link.up = True
        self.link.sent.clear()
        put = self.put()
        self.link.confirm()
        self.successResultOf(put)

    def test_lost_while_the_stream_is_made(self) -> None:
        """So it is when the stream is just being made."""
        self.presence.there = False
        self.presence.making = Deferred()
        puts = [self.put(), self.put("b")]
        self.link.lose()
        self.presence.making.errback(BusUnavailable())
        for put in puts:
            self.failureResultOf(put, BusUnavailable)
        self.assertEqual(self.keeper._puts, 0)
