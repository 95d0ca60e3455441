"""What the logs of queues are made of, without a server."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.queue_bodies import Bodies, BodyCache
from flowgate.bus.queue_logs import queue_subject, stream_name
from flowgate.bus.queue_reading import Heads, LogState, Pointer, entry_head, log_root, out_subject
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable
from flowgate.topics import Namespace

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80)


class NameTests(SynchronousTestCase):
    """Streams and subjects of queues."""

    def test_plain(self) -> None:
        """A plain name stays what it is."""
        self.assertEqual(stream_name(Namespace("alice", "shop"), "my-queue_1"), "FG_Q_alice_shop_my-queue_1")
        self.assertEqual(queue_subject(Namespace("alice", "shop"), "q"), "fg.q.alice.shop.q")

    def test_fifo(self) -> None:
        """A dot would divide a subject."""
        self.assertEqual(queue_subject(Namespace("a", "b"), "q.fifo"), "fg.q.a.b.q=2Efifo")

    @given(NAMES, NAMES)
    def test_apart(self, one: str, other: str) -> None:
        """Different names give different streams and subjects, and all of them are names for NATS."""
        here = Namespace("a", "b")
        self.assertEqual(stream_name(here, one) == stream_name(here, other), one == other)
        self.assertEqual(queue_subject(here, one) == queue_subject(here, other), one == other)
        self.assertRegex(stream_name(here, one), r"\A[A-Za-z0-9_=-]+\Z")
        self.assertEqual(queue_subject(here, one).count("."), 4)

    def test_namespaces_apart(self) -> None:
        """What looks alike when it is joined is not the same."""
        names = [stream_name(Namespace("a", "b"), name) for name in ("c_d", "c-d", "c.d")]
        names += [stream_name(Namespace("a", "b-c"), "d"), stream_name(Namespace("a-b", "c"), "d")]
        self.assertEqual(len(set(names)), 5)

    def test_root(self) -> None:
        """The root is read from the configuration of the stream, and refused if it is not of ours."""
        self.assertEqual(log_root({"subjects": ["fg.q.a.b.q.t0ken.>"]}), "fg.q.a.b.q.t0ken")
        for config in ({}, {"subjects": None}, {"subjects": ["orders.>"]}, {"subjects": ["fg.q.a.b.q"]}):
            self.assertRaises(BusUnavailable, log_root, config)

    def test_out(self) -> None:
        """The stream republishes beside what it stores."""
        self.assertEqual(out_subject("fg.q.a.fg.q.t"), "fg.qo.a.fg.q.t")


class HeadTests(SynchronousTestCase):
    """The head of an entry in a block of headers."""

    def test_head(self) -> None:
        """It is found among other headers, byte for byte."""
        raw = b'NATS/1.0\r\nFG-Q: ["FG-Q: x", " "] \r\nNats-Sequence: 7\r\n\r\n'
        self.assertEqual(entry_head(raw), b'["FG-Q: x", " "] ')

    def test_none(self) -> None:
        """What has none has an empty one."""
        self.assertEqual(entry_head(b""), b"")
        self.assertEqual(entry_head(b"NATS/1.0\r\nNats-Sequence: 7\r\n\r\n"), b"")


class PointerTests(SynchronousTestCase):
    """What says where a checkpoint is."""

    def test_round_trip(self) -> None:
        """It is read as it was written."""
        pointer = Pointer(9, 5, (6, 8))
        self.assertEqual(Pointer.parse(9, pointer.dump()), pointer)


class BodyCacheTests(SynchronousTestCase):
    """Bodies that were read ahead."""

    def setUp(self) -> None:
        self.cache = BodyCache(100)

    def held(self) -> list[int]:
        return [at for at in range(20) if self.cache.get("a", at) is not None]

    def test_bound(self) -> None:
        """What was used longest ago goes first."""
        for at in range(4):
            self.cache.put("a", at, bytes(25))
        self.cache.get("a", 0)
        self.cache.put("a", 4, bytes(25))
        self.assertEqual(self.held(), [0, 2, 3, 4])
        self.cache.put("a", 5, bytes(101))
        self.assertEqual(self.held(), [])
        self.cache.put("a", 6, bytes(100))
        self.assertEqual(self.held(), [6])

    def test_again(self) -> None:
        """A body that is put again counts once."""
        for _ in range(10):
            self.cache.put("a", 1, bytes(60))
        self.cache.put("a", 2, bytes(40))
        self.assertEqual(self.held(), [1, 2])

    def test_forget(self) -> None:
        """A log is forgotten, or its beginning, or some of it; others stay."""
        for at in range(5):
            self.cache.put("a", at, b"x")
            self.cache.put("b", at, b"y")
        self.cache.drop("a", [3, 9])
        self.cache.forget("a", 2)
        self.assertEqual(self.held(), [2, 4])
        self.cache.forget("a")
        self.assertEqual(self.held(), [])
        self.assertEqual(self.cache.get("b", 0), b"y")


class FakeLink:
    """A link whose other end is the test."""

    inbox = "_INBOX.me"

    def __init__(self) -> None:
        self.up = True
        self.written: list[bytes] = []
        self.asked: list[tuple[str, dict[str, Any], Deferred[Message]]] = []
        self.handler: Any = None
        self.lost: Any = None
        self.inboxes: dict[str, Any] = {}
        self._tokens = 0

    def token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens}"

    def subscribe(self, _subject: str, handler: Any) -> bytes:
        self.handler = handler
        return b"2"

    def unsubscribe(self, _key: bytes) -> None:
        self.handler = None

    def open_inbox(self, token: str, handler: Any, lost: Any) -> None:
        self.inboxes[token] = handler
        self.lost = lost

    def lose(self) -> None:
        self.lost()

    def close_inbox(self, token: str) -> None:
        del self.inboxes[token]

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def request(self, subject: str, payload: bytes) -> Deferred[Message]:
        answer: Deferred[Message] = Deferred()
        self.asked.append((subject, json.loads(payload or b"{}"), answer))
        return answer

    def deliver(self, *messages: tuple[bytes, bytes]) -> None:
        self.handler([(b"2", subject, b"", head, b"") for subject, head in messages])


class HeadsTests(SynchronousTestCase):
    """Requests of the consumer that reads heads."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link = FakeLink()
        link: Any = self.link
        self.heads = Heads(self.clock, link, "S")

    def test_older_end(self) -> None:
        """The end of an older request does not end the one that is open."""
        asked = self.heads.more()
        self.link.deliver((b"x.m", b""), (b"_INBOX.me-.t1.1", b"NATS/1.0 404 No Messages\r\n\r\n"))
        self.assertTrue(self.successResultOf(asked)[1])
        asked = self.heads.more()
        self.link.deliver((b"_INBOX.me-.t1.1", b"NATS/1.0 408 Request Timeout\r\n\r\n"), (b"x.m", b""))
        self.assertNoResult(asked)
        self.link.deliver((b"_INBOX.me-.t1.2", b"NATS/1.0 404 No Messages\r\n\r\n"))
        messages, end = self.successResultOf(asked)
        self.assertEqual((len(messages), end), (1, True))

    def test_not_known_yet(self) -> None:
        """A consumer that our server does not know of yet is asked again."""
        asked = self.heads.more()
        self.link.deliver((b"_INBOX.me-.t1.1", b"NATS/1.0 503\r\n\r\n"))
        self.clock.advance(0.1)
        self.link.deliver((b"x.m", b""), (b"_INBOX.me-.t1.2", b"NATS/1.0 404 No Messages\r\n\r\n"))
        self.assertEqual(len(self.successResultOf(asked)[0]), 1)

    def test_nobody(self) -> None:
        """A consumer that is gone is not asked without end."""
        asked = self.heads.more()
        for number in range(1, 21):
            self.assertNoResult(asked)
            self.link.deliver((b"_INBOX.me-.t1.%d" % number, b"NATS/1.0 503\r\n\r\n"))
            self.clock.advance(0.1)
        self.failureResultOf(asked, BusUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """A consumer that is removed cannot be read."""
        asked = self.heads.more()
        self.link.deliver((b"_INBOX.me-.t1.1", b"NATS/1.0 409 Consumer Deleted\r\n\r\n"))
        self.failureResultOf(asked, BusUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_answer(self) -> None:
        """A server that does not answer is not waited for without end, but as long as messages come."""
        asked = self.heads.more()
        for _ in range(3):
            self.clock.advance(4)
            self.link.deliver((b"x.m", b""))
        self.assertNoResult(asked)
        self.clock.advance(5)
        self.failureResultOf(asked, BusUnavailable)

    def test_closed(self) -> None:
        """After the end nothing is left, and an error that nobody waits for is not for the log."""
        self.heads.more()
        self.heads.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.link.asked[-1][2].errback(BusUnavailable())


class BodiesTests(SynchronousTestCase):
    """Which requests read the bodies."""

    def setUp(self) -> None:
        self.link = FakeLink()
        link: Any = self.link
        self.bodies = Bodies(Clock(), link, "S", LogState("fg.q.a.b.q.t", 9, 3), BodyCache(10_000))

    def serve(self, *sequences: int) -> dict[str, Any]:
        """Answer the direct get of several that was made last."""
        data = self.link.written.pop()
        token, handler = next(iter(self.link.inboxes.items()))
        subject = b"_INBOX.me.%b" % token.encode()
        heads = [b"NATS/1.0\r\nNats-Sequence: %d\r\n\r\n" % at for at in sequences]
        end = b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n"
        handler([*((b"1", subject, b"", head, b"body") for head in heads), (b"1", subject, b"", end, b"")])
        body: dict[str, Any] = json.loads(data.split(b"\r\n", 1)[1])
        return body

    def test_lagging_replica(self) -> None:
        """What a replica does not have is asked for one by one, and then of the leader."""
        read = self.bodies.read([3, 5, 7])
        self.assertEqual(self.serve(3, 5)["next_by_subj"], "fg.q.a.b.q.t.m")
        self.serve()
        subject, body, answer = self.link.asked.pop()
        self.assertEqual((subject, body), ("$JS.API.DIRECT.GET.S", {"seq": 7}))
        answer.callback((b"1", b"", b"", b"NATS/1.0 404 Not Found\r\n\r\n", b""))
        subject, _, answer = self.link.asked.pop()
        self.assertEqual(subject, "$JS.API.STREAM.MSG.GET.S")
        found = {"message": {"subject": "fg.q.a.b.q.t.m", "seq": 7, "data": "Ym9keQ==", "time": "2026-01-02T03:04:05Z"}}
        answer.callback((b"1", b"", b"", b"", json.dumps(found).encode()))
        self.assertEqual(self.successResultOf(read), {3: b"body", 5: b"body", 7: b"body"})

    def test_failure(self) -> None:
        """Those who ask together learn together that the bus is away, and who asks after that is served."""
        first, second, third = (self.bodies.read([at]) for at in (3, 5, 9))
        self.link.lose()
        self.failureResultOf(first, BusUnavailable)
        self.assertEqual(len(self.link.written), 2)
        self.link.lose()
        self.failureResultOf(second, BusUnavailable)
        self.failureResultOf(third, BusUnavailable)
        again = self.bodies.read([3])
        self.serve(3)
        self.assertEqual(self.successResultOf(again), {3: b"body"})

    def test_left(self) -> None:
        """Who has left while others are served is not served."""
        first, second = self.bodies.read([3]), self.bodies.read([900])
        second.addErrback(lambda _: None)
        second.cancel()
        self.serve(3)
        self.assertEqual(self.successResultOf(first), {3: b"body"})
        self.assertEqual((len(self.link.written), self.link.asked), (0, []))

    def test_ahead(self) -> None:
        """More and more is read ahead for those who go on in order, and nothing for others."""
        sizes: list[int] = []
        at = 1
        for _ in range(4):
            read = self.bodies.read([at])
            size = json.loads(self.link.written[-1].split(b"\r\n", 1)[1])["batch"]
            self.serve(*range(at, at + size))
            self.assertEqual(self.successResultOf(read), {at: b"body"})
            self.assertEqual(self.successResultOf(self.bodies.read([at + size - 1])), {at + size - 1: b"body"})
            sizes.append(size)
            at += size
        self.assertEqual(sizes, [4, 16, 64, 64])
        self.bodies.read([at + 100_000])
        self.assertEqual(self.link.asked.pop()[1], {"seq": at + 100_000})
