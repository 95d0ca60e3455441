"""WebSocket on a connection: what a client sends, and what it gets."""

# mypy: disallow-untyped-calls=False
# (trial and much of twisted.web have no annotations)
from __future__ import annotations

import base64
import hashlib
import json
import tracemalloc
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface.verify import verifyObject

from flowgate import replay
from flowgate.auth.permissions import Grant, Grants, Principal
from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections, IConnection
from flowgate.errors import AccountSuspended, BusUnavailable, InvalidToken, RateLimited
from flowgate.gateway import Gateway
from flowgate.interfaces import IReader, ISubscriber
from flowgate.limits import Limits, Policies, TopicPolicy
from flowgate.message import Run, Stored
from flowgate.metering import Meter
from flowgate.presence import Presence
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.timers import Wheel
from flowgate.topics import Namespace, Topic
from flowgate.websocket import deflate, frames, opening, protocol
from flowgate.websocket.protocol import WebSocketFactory
from flowgate.websocket.reading import Reading
from flowgate.websocket.resource import make_resource
from tests.test_allowances import Purse

from .test_websocket_frames import KEY, masked, opening_request

HOME = Namespace("alice", "shop")
LIFE = 900
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Tokens:
    """Knows the tokens of alice (one of them may do less, one lives shorter), of bob, and two that are refused."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def verify(self, token: str) -> Principal:
        if token == "suspended":
            raise AccountSuspended
        if token == "busy":
            raise RateLimited
        if token == "broken":
            raise RuntimeError("a fault of ours")
        if token not in ("alice", "bob", "alice-less", "alice-short"):
            raise InvalidToken
        home = Namespace(token.split("-")[0], "shop")
        less = token == "alice-less"
        subscribe = (Grant(home, "t"),) if less else (Grant(home, "#"),)
        publish = (Grant(home, "t"),) if less else (Grant(home, "open/#"), Grant(home, "t"), Grant(home, "u"))
        return Principal(
            user=home.user,
            app="shop",
            home=home,
            key_id="FGAK",
            grants=Grants(publish=publish, subscribe=subscribe, queues=()),
            expires_at=self._clock.seconds() + (40 if token == "alice-short" else LIFE),
            token_id="1",
            issued_at=self._clock.seconds(),
        )


class SlowBus(MemoryBus):
    """A bus that waits with what it has to answer until it is told."""

    held: list[tuple[Deferred[Any], Any]]

    def hold(self) -> None:
        self.held = []

    def let_go(self) -> None:
        held, self.held = self.held, []
        for waiting, result in held:
            result.chainDeferred(waiting)

    def _slowly(self, result: Deferred[Any]) -> Deferred[Any]:
        if not hasattr(self, "held"):
            return result
        waiting: Deferred[Any] = Deferred()
        self.held.append((waiting, result))
        return waiting

    def attach(self, namespace: Namespace) -> Deferred[None]:
        return self._slowly(super().attach(namespace))

    def publish_one(self, *args: Any, **options: Any) -> Deferred[Stored]:
        return self._slowly(super().publish_one(*args, **options))


class Transport(StringTransport):
    """A transport in memory that knows whether it was aborted."""

    was_aborted = False
    protocol: Any = None
    """Who gets what is received: twisted.web's channel hands its transport on to the WebSocket."""

    def abortConnection(self) -> None:
        self.was_aborted = True
        super().abortConnection()


class Peer:
    """A client's end of a connection in memory."""

    def __init__(self, receiver: Any) -> None:
        self.protocol = receiver
        self.transport = Transport()
        self.transport.protocol = receiver
        self.answer = b""
        self._rest = b""
        receiver.makeConnection(self.transport)

    def handshake(self, uri: str = "/ws?token=alice", *headers: str) -> Peer:
        self.raw(opening_request(uri, *headers))
        self.answer, _, self._rest = self.transport.value().partition(b"\r\n\r\n")
        self.transport.clear()
        return self

    @property
    def status(self) -> int:
        return int(self.answer.split()[1])

    @property
    def body(self) -> Any:
        return json.loads(self._rest)

    def raw(self, data: bytes) -> None:
        self.transport.protocol.dataReceived(data)

    def send(self, *values: Any) -> None:
        """Send JSON values, or the bytes of frames, in one read."""
        self.raw(b"".join(one if isinstance(one, bytes) else masked(json.dumps(one).encode()) for one in values))

    def got(self) -> list[Any]:
        """What came since the last call: JSON values, "ping", "pong", or a close code."""
        data = self._rest + self.transport.value()
        self.transport.clear()
        self._rest = b""
        found: list[Any] = []
        while data:
            opcode, compressed, size, start = data[0] & 0x0F, data[0] & 0x40, data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(data[2:10], "big"), 10
            payload, data = data[start : start + size], data[start + size :]
            if opcode == 1:
                found.append(json.loads(deflate.inflate(payload, 10**6) if compressed else payload))
            elif opcode == 8:
                found.append(int.from_bytes(payload[:2], "big"))
            else:
                found.append({9: "ping", 10: "pong"}[opcode])
        return found

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting

    def stall(self) -> None:
        """Read no more."""
        producer: Any = self.transport.producer
        producer.pauseProducing()

    def catch_up(self) -> None:
        producer: Any = self.transport.producer
        producer.resumeProducing()

    @property
    def paused(self) -> bool:
        return self.transport.producerState == "paused"


def close(code: int = 1000) -> bytes:
    return masked(code.to_bytes(2, "big"), first=0x88)


def message(topic: str, data: Any, **more: Any) -> dict[str, Any]:
    return {"action": "message", "topic": topic, "data": data, **more}


def subscribe(topic: str, **more: Any) -> dict[str, Any]:
    return {"action": "subscribe", "topic": topic, **more}


def publish(topic: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"action": "publish", "topic": topic, "message": value, **more}


class ConnectionTestCase(SynchronousTestCase):
    """A gateway in memory, and clients of it."""

    limits = Limits(unacknowledged_messages=4, connections=3, subscriptions=3, message_bytes=2000)

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.bus = SlowBus(self.clock)
        self.router = Router()
        self.connections = Connections(self.limits.connections)
        policies = Policies((TopicPolicy("open/live", history=False),))
        self.retained = MemoryRetained(self.clock)
        self.gateway = Gateway(
            self.bus,
            self.router,
            Turn(),
            self.connections,
            Meter(),
            self.limits,
            policies,
            retained=self.retained,
            groups=MemoryGroups(MemoryGroupsHub(self.clock, self.bus)),
        )
        self.bus.listener = self.gateway
        self.successResultOf(self.bus.start())
        self.wheel = Wheel(self.clock)
        self.tokens = Tokens(self.clock)
        self.presence = Presence(MemoryPeers(MemoryPeersHub(self.clock)), self.clock, self.clock.seconds)
        self.factory = self.make_factory()

    def make_factory(self, **options: Any) -> WebSocketFactory:
        return WebSocketFactory(
            self.gateway,
            cast(TokenService, self.tokens),
            self.presence,
            self.wheel,
            self.clock,
            self.clock.seconds,
            draw=lambda: 0.25,
            **options,
        )

    def settle(self) -> None:
        """Let what the bus has under way arrive."""
        for _ in range(5):
            self.clock.advance(0)

    def bare(self) -> Peer:
        return Peer(self.factory.buildProtocol(None))

    def peer(self, *values: Any, token: str = "alice") -> Peer:
        """A connected client that has sent ``values``; their answers are not looked at."""
        peer = self.bare().handshake(f"/ws?token={token}")
        self.assertEqual(peer.status, 101)
        if values:
            peer.send(*values)
            self.settle()
            peer.got()
        return peer

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)

    def assert_error(self, frame: Any, code: str, status: int, **more: Any) -> None:
        self.assertEqual(
            frame, {"action": "error", "code": code, "status": status, "detail": frame.get("detail"), **more}
        )


class HandshakeTests(ConnectionTestCase):
    """Who gets in, and what the others are told."""

    def test_token_in_query(self) -> None:
        """A token in the query opens the connection (RFC 6455 section 1.3)."""
        peer = self.bare().handshake("/ws?token=alice")
        self.assertEqual(peer.status, 101)
        self.assertIn(f"Sec-WebSocket-Accept: {ACCEPT}".encode(), peer.answer)
        self.assertEqual(
            base64.b64encode(hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()),
            ACCEPT.encode(),
        )
        self.assertEqual(len(self.connections), 1)

    def test_token_in_header(self) -> None:
        """A token in the Authorization header opens the connection."""
        self.assertEqual(self.bare().handshake("/ws", "Authorization: bearer alice").status, 101)

    def test_says_nothing_of_itself(self) -> None:
        """The answer names neither the server nor an extension, even if compression is offered."""
        peer = self.bare().handshake("/ws?token=alice", "Sec-WebSocket-Extensions: permessage-deflate")
        self.assertEqual(peer.status, 101)
        self.assertNotIn(b"server:", peer.answer.lower())
        self.assertNotIn(b"extensions", peer.answer.lower())

    def test_refused(self) -> None:
        """Without an Origin, a refused token is answered by a status and a problem document."""
        for uri, headers, status, code in [
            ("/ws", [], 401, "missing_token"),
            ("/ws?token=", [], 401, "missing_token"),
            ("/ws", ["Authorization: Basic YTpi"], 401, "missing_token"),
            ("/ws?token=wrong", [], 401, "invalid_token"),
            ("/ws?token=%C3%A9", [], 401, "invalid_token"),
            ("/ws?token=alice&token=bob", [], 400, "invalid_parameter"),
            ("/ws?token=alice", ["Authorization: Bearer alice"], 400, "invalid_parameter"),
            ("/ws?token=suspended", [], 403, "account_suspended"),
            ("/ws?token=busy", [], 429, "rate_limited"),
        ]:
            peer = self.bare().handshake(uri, *headers)
            self.assertEqual(peer.status, status, uri)
            self.assertIn(b"Content-Type: application/problem+json", peer.answer)
            self.assertEqual((peer.body["status"], peer.body["code"]), (status, code))
            self.assertTrue(peer.closed)
        self.assertEqual(len(self.connections), 0)

    def test_challenge(self) -> None:
        """401 says how to ask (RFC 6750 section 3), 429 when."""
        self.assertIn(
            b'WWW-Authenticate: Bearer error="invalid_token"', self.bare().handshake("/ws?token=wrong").answer
        )
        self.assertIn(b"WWW-Authenticate: Bearer\r\n", self.bare().handshake("/ws").answer + b"\r\n")
        self.assertIn(b"Retry-After: 1", self.bare().handshake("/ws?token=busy").answer)

    def test_refused_browser(self) -> None:
        """With an Origin, the handshake succeeds and the connection closes with the code."""
        for token, code in [("wrong", 4401), ("suspended", 4403), ("busy", 4429)]:
            peer = self.bare().handshake(f"/ws?token={token}", "Origin: https://example.org")
            self.assertEqual(peer.status, 101)
            self.assertEqual(peer.got(), [code])
            peer.send(subscribe("t", id=1))
            self.assertEqual(peer.got(), [])

    def test_full(self) -> None:
        """When the node is full, a client is told so, in its own way."""
        for _ in range(self.limits.connections):
            self.peer()
        self.assertEqual(self.bare().handshake().status, 429)
        self.assertEqual(self.bare().handshake("/ws?token=alice", "Origin: null").got(), [4429])

    def test_left(self) -> None:
        """A client that leaves makes room."""
        peer = self.peer()
        peer.protocol.connectionLost()
        self.assertEqual(len(self.connections), 0)

    def test_fault_of_ours(self) -> None:
        """A fault of ours is answered without its reason, which the log has."""
        peer = self.bare().handshake("/ws?token=broken")
        self.assertEqual((peer.status, peer.body["code"]), (500, "internal"))
        self.assertNotIn("fault", json.dumps(peer.body))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_not_a_websocket(self) -> None:
        """A request that is none for a WebSocket is told to upgrade."""
        peer = self.bare()
        peer.raw(b"GET /ws?token=alice HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertTrue(peer.transport.value().startswith(b"HTTP/1.1 426 "))
        self.assertIn(b"\r\nUpgrade: websocket\r\n", peer.transport.value())

    def test_too_slow(self) -> None:
        """A handshake that does not come to its end is cut off."""
        peer = self.bare()
        peer.raw(b"GET /ws")
        self.wait(self.limits.connect_seconds + 1)
        self.assertTrue(peer.closed)

    def test_token_is_not_logged(self) -> None:
        """No token gets into the log, at any level, whether the handshake succeeds, is refused or is malformed."""
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.bare().handshake("/ws?token=alice")
        self.bare().handshake("/ws?token=SECRET")
        self.bare().handshake("/ws?token=SECRET#SECRET")
        self.bare().handshake("/ws?token=SECRET SECRET")
        self.bare().handshake("/ws", "Authorization: Bearer SECRET")
        self.bare().handshake("/ws?token=SECRET", "Origin: SECRET")
        self.assertNotIn("SECRET", repr(events))
        self.assertNotIn("alice", repr(events))

    def test_autobahn_does_not_log(self) -> None:
        """Autobahn, which would log requests, has no logger of its own on our connections."""
        self.assertIsInstance(self.bare().protocol.log, opening.Silent)

    def test_interfaces(self) -> None:
        """A connection is what the router and the registry take it for."""
        connection = self.peer().protocol
        verifyObject(ISubscriber, connection)
        verifyObject(IConnection, connection)
        interest = self.gateway.interest(self.tokens.verify("alice"), "t")
        reading = Reading(connection, "t", interest, meta=False, since=True, hold=False)
        verifyObject(ISubscriber, reading)
        verifyObject(IReader, reading)

    def below_a_site(self, *headers: str) -> Peer:
        root = Resource()
        resource: Any = make_resource(
            self.gateway,
            cast(TokenService, self.tokens),
            self.presence,
            self.wheel,
            self.clock,
            self.clock.seconds,
        )
        root.putChild(b"ws", resource)
        site = Site(root, timeout=5, reactor=self.clock)
        peer = Peer(site.buildProtocol(None)).handshake("/ws?token=alice", *headers)
        self.assertEqual(peer.status, 101)
        return peer

    def test_below_a_site(self) -> None:
        """As a resource of twisted.web it takes the connection over, and no other producer is left in the way."""
        peer = self.below_a_site()
        self.assertFalse(peer.paused)
        peer.send(subscribe("t", id=1), publish("t", "hello"))
        self.settle()
        self.assertCountEqual(peer.got(), [{"action": "ack", "id": 1, "topic": "t"}, message("t", "hello")])
        self.wait(20)  # twisted.web's time-out is no longer ours
        self.assertFalse(peer.closed)

    def test_strange_offer(self) -> None:
        """An extension that cannot be used is declined (RFC 7692 section 7.1); the handshake is not refused for it."""
        for offer in ("permessage-deflate; server_max_window_bits=8", "permessage-deflate; new", "x, permessage-bzip2"):
            peer = self.below_a_site(f"Sec-WebSocket-Extensions: {offer}", "Sec-WebSocket-Extensions: y")
            self.assertNotIn(b"Extensions", peer.answer)


class FrameTests(ConnectionTestCase):
    """What frames do."""

    def test_seed(self) -> None:
        """Subscribe, publish, message: what is published comes back to subscribers, and nothing else."""
        peer, other = self.peer(), self.peer()
        peer.send({"action": "subscribe", "topic": "t"})
        self.settle()
        self.assertEqual(peer.got(), [])
        other.send({"action": "publish", "topic": "t", "message": "Hello"}, publish("t", {"a": [1]}))
        self.assertEqual(other.got(), [])
        self.assertEqual(peer.got(), [message("t", "Hello"), message("t", {"a": [1]})])

    def test_full_and_short_names(self) -> None:
        """A subscriber is shown the form that it subscribed with, and the topic's name, not the filter."""
        short, full = self.peer(subscribe("open/+")), self.peer(subscribe("alice_shop_open/#"))
        self.peer(publish("alice_shop_open/a", 1))
        self.assertEqual(short.got(), [message("open/a", "1")])
        self.assertEqual(full.got(), [message("alice_shop_open/a", "1")])

    def test_other_account(self) -> None:
        """What another account publishes is not seen, nor can its names be subscribed to."""
        peer = self.peer(subscribe("#"))
        self.peer(publish("t", 1), token="bob")
        self.assertEqual(peer.got(), [])
        peer.send(subscribe("bob_shop_t"))
        self.peer(publish("t", 2), token="bob")
        self.assertEqual(peer.got(), [])

    def test_publish_behind_subscribe(self) -> None:
        """Frames take effect in order, also within one read: what is published behind a subscription is seen by it."""
        peer = self.peer()
        peer.send(
            publish("t", 1), subscribe("t"), publish("t", 2), {"action": "unsubscribe", "topic": "t"}, publish("t", 3)
        )
        self.settle()
        self.assertEqual(peer.got(), [message("t", "2")])

    def test_waits_for_subscription(self) -> None:
        """What stands behind a subscription that the bus has not taken yet waits, and is not read further."""
        self.bus.hold()
        peer = self.peer()
        peer.send(subscribe("t", id=1), {"action": "ping"}, masked(b"hi", first=0x89), masked(b"x" * 9000))
        self.assertEqual(peer.got(), [])
        self.assertTrue(peer.paused)
        self.bus.let_go()
        self.settle()
        self.assertFalse(peer.paused)
        self.assertEqual(peer.got(), [{"action": "ack", "id": 1, "topic": "t"}, {"action": "pong"}, "pong", 1009])

    def test_run(self) -> None:
        """Consecutive publishes on one topic within one read travel as one run."""
        runs: list[Run] = []
        deliver = self.router.deliver

        def observe(run: Run) -> None:
            runs.append(run)
            deliver(run)

        self.patch(self.router, "deliver", observe)
        peer = self.peer(subscribe("t"))
        peer.send(
            publish("t", "1"),
            publish("t", "2"),
            publish("u", "3"),
            publish("t", "4"),
            {"action": "ping"},
            publish("t", "5"),
        )
        self.assertEqual(
            [(run.topic.name, list(run.payloads)) for run in runs if not run.sequences],
            [("t", [b"1", b"2"]), ("u", [b"3"]), ("t", [b"4"]), ("t", [b"5"])],
        )
        self.assertEqual(
            peer.got(), [message("t", "1"), message("t", "2"), message("t", "4"), {"action": "pong"}, message("t", "5")]
        )

    def test_one_write_for_one_read(self) -> None:
        """All that a read leads to is written to a subscriber at once."""
        peer = self.peer(subscribe("#"))
        writes: list[bytes] = []
        self.patch(peer.transport, "write", writes.append)
        self.peer(publish("t", 1), publish("u", 2), publish("t", 3))
        self.assertEqual(len(writes), 1)

    def test_shared_bytes(self) -> None:
        """A run is encoded once for all subscribers that use the same form of the name."""
        encoded: list[Run] = []
        encode = frames.encode_run

        def observe(run: Run, full: bool) -> bytes:
            encoded.append(run)
            return encode(run, full)

        self.patch(frames, "encode_run", observe)
        peers = [self.peer(subscribe("t")), self.peer(subscribe("t", meta=False))]
        self.peer(publish("t", 1))
        self.assertEqual([peer.got() for peer in peers], [[message("t", "1")]] * 2)
        self.assertEqual(len(encoded), 1)

    def test_every_split(self) -> None:
        """Frames are understood wherever the network splits them."""
        data = b"".join(masked(json.dumps(one).encode()) for one in [publish("t", "x" * 150), publish("t", "é")])
        peer = self.peer(subscribe("t"))
        for split in range(len(data) + 1):
            peer.raw(data[:split])
            peer.raw(data[split:])
            self.assertEqual(peer.got(), [message("t", "x" * 150), message("t", "é")])

    def test_fragments(self) -> None:
        """A message in fragments is one frame of ours (RFC 6455 section 5.4)."""
        text = json.dumps(publish("t", "hello")).encode()
        peer = self.peer(subscribe("t"))
        peer.send(
            masked(text[:5], first=0x01),
            masked(b"", first=0x89),
            masked(text[5:9], first=0x00),
            masked(text[9:], first=0x80),
            publish("t", 2),
        )
        self.assertEqual(peer.got(), ["pong", message("t", "hello"), message("t", "2")])

    def test_long_message(self) -> None:
        """A message as large as a message may be goes through."""
        peer = self.peer(subscribe("t"))
        peer.send(publish("t", "\x01" * 1000))  # six bytes of JSON for each
        self.assertEqual(peer.got(), [message("t", "\x01" * 1000)])

    def test_too_long_message(self) -> None:
        """A larger message is refused, and the connection stays."""
        peer = self.peer(subscribe("t"))
        peer.send(publish("t", "x" * 2001), publish("t", "x" * 2001, id=1), publish("t", 3))
        first, second, third = peer.got()
        self.assert_error(first, "message_too_large", 413)
        self.assert_error(second, "message_too_large", 413, id=1)
        self.assertEqual(third, message("t", "3"))

    def test_acknowledged(self) -> None:
        """A publish with an id is stored, and acknowledged with its place."""
        peer = self.peer()
        peer.send(publish("t", 1, id="a"), publish("t", 2, id=2))
        self.settle()
        epoch = self.gateway.epoch
        self.assertEqual(
            peer.got(),
            [
                {"action": "ack", "id": "a", "topic": "t", "cursor": f"{epoch}-1", "duplicate": False},
                {"action": "ack", "id": 2, "topic": "t", "cursor": f"{epoch}-2", "duplicate": False},
            ],
        )

    def test_measured(self) -> None:
        """Messages, bytes and the time until acknowledged ones are stored are counted; and each refusal by its code."""
        meter, peer = self.gateway.meter, self.peer()
        before = meter.count("received_bytes", "websocket")
        peer.send(publish("t", 1, id="a"), publish("t", 2))
        self.settle()
        self.assertEqual(meter.count("messages_received", "websocket"), 2)
        self.assertEqual(sum(meter.histogram("publish_duration_seconds", "websocket").counts), 1)
        for name, least in (("received_bytes", before + 80), ("sent_bytes", 80)):
            self.assertGreater(meter.count(name, "websocket"), least)
        peer.send(publish("$SYS/x", 1), masked(b"nonsense"))
        for code in ("insufficient_scope", "invalid_json"):
            self.assertEqual(meter.count("refusals", ("websocket", code)), 1, code)

    def test_idempotency_key(self) -> None:
        """A publish repeated with its key is stored and delivered once; without an id silently."""
        peer = self.peer(subscribe("t"))
        for again in ({}, {"id": 5}):
            peer.send(publish("t", 1, key="k", **again))
            self.settle()
        answers = peer.got()
        self.assertEqual([one for one in answers if one["action"] == "message"], [message("t", "1")])
        self.assertEqual(
            [one for one in answers if one["action"] == "ack"],
            [{"action": "ack", "id": 5, "topic": "t", "cursor": f"{self.gateway.epoch}-1", "duplicate": True}],
        )

    def test_key_of_another_message(self) -> None:
        """A key that was used for another message is refused, with or without an id."""
        peer = self.peer()
        for value, topic in ((1, "t"), (2, "t"), (1, "u")):
            peer.send(publish(topic, value, key="k"))
            self.settle()
        codes = [(one["action"], one["status"], one["code"]) for one in peer.got()]
        self.assertEqual(codes, [("error", 422, "idempotency_key_reused")] * 2)
        self.assertEqual(self.bus.last, 1)

    def test_key_under_way(self) -> None:
        """A repetition that comes before its first message is stored is told to come again."""
        peer = self.peer()
        peer.send(publish("t", 1, key="k", id=1), publish("t", 1, key="k", id=2))
        self.settle()
        answers = {one["id"]: one for one in peer.got()}
        self.assertEqual(answers[1]["action"], "ack")
        self.assertEqual((answers[2]["status"], answers[2]["code"]), (409, "idempotency_in_progress"))

    def test_bus_away(self) -> None:
        """While the bus is away acknowledged publishes are refused, others reach this node's clients."""
        peer = self.peer(subscribe("t"))
        self.bus.go_away()
        peer.send(publish("t", 1, id=1), publish("t", 2, key="k"), publish("t", 3))
        self.settle()
        first, second, third = peer.got()
        self.assert_error(first, "bus_unavailable", 503, id=1, retry_after=1)
        self.assert_error(second, "bus_unavailable", 503, retry_after=1)
        self.assertEqual(third, message("t", "3"))

    def test_subscription_fails(self) -> None:
        """A subscription that the bus does not take is an error, and leaves nothing behind."""
        peer = self.peer()
        self.bus.go_away()
        peer.send(subscribe("t", since="earliest", id=1), {"action": "ping"})
        error, pong = peer.got()
        self.assert_error(error, "bus_unavailable", 503, id=1, retry_after=1)
        self.assertEqual(pong, {"action": "pong"})
        self.assertEqual(self.router._spaces, {})

    def test_not_permitted(self) -> None:
        """What the token does not permit is an error each time, and the connection stays open."""
        peer = self.peer()
        peer.send(publish("closed", 1), publish("closed", 1, id=1), subscribe("bob_shop_#", id=2))
        self.settle()
        first, second, third = peer.got()
        self.assert_error(first, "insufficient_scope", 403)
        self.assert_error(second, "insufficient_scope", 403, id=1)
        self.assertEqual(third["id"], 2)
        peer.send({"action": "ping"})
        self.assertEqual(peer.got(), [{"action": "pong"}])

    def test_wildcard_publish(self) -> None:
        """A topic with a wildcard cannot be published to."""
        peer = self.peer()
        peer.send(publish("open/#", 1))
        self.assert_error(peer.got()[0], "invalid_topic", 400)

    def test_subscribe_again(self) -> None:
        """A repeated subscribe is acknowledged and changes nothing; an unsubscribe of nothing too."""
        peer = self.peer(subscribe("t"))
        peer.send(subscribe("t", id=1))
        self.settle()
        self.assertEqual(peer.got(), [{"action": "ack", "id": 1, "topic": "t"}])
        self.peer(publish("t", 1))
        self.assertEqual(peer.got(), [message("t", "1")])
        peer.send({"action": "unsubscribe", "topic": "t", "id": 2}, {"action": "unsubscribe", "topic": "t", "id": 3})
        self.assertEqual([one["id"] for one in peer.got()], [2, 3])
        self.peer(publish("t", 1))
        self.assertEqual(peer.got(), [])

    def test_subscriptions_limit(self) -> None:
        """A connection has so many subscriptions and no more."""
        peer = self.peer(subscribe("a"), subscribe("b"), subscribe("c"))
        peer.send(subscribe("a", id=0), subscribe("d", id=1))
        self.settle()
        first, second = peer.got()
        self.assertEqual(first["action"], "ack")
        self.assert_error(second, "invalid_parameter", 400, id=1)

    def test_ping(self) -> None:
        """A ping is answered; with an id also acknowledged."""
        peer = self.peer()
        peer.send({"action": "ping"}, {"action": "ping", "id": "p"})
        self.assertEqual(peer.got(), [{"action": "pong"}, {"action": "pong"}, {"action": "ack", "id": "p"}])

    def test_malformed(self) -> None:
        """A malformed frame costs one error and nothing else, until there are too many in a row."""
        peer = self.peer()
        bad = masked(b"nonsense")
        peer.send(*[bad] * protocol.MALFORMED_FRAMES, {"action": "ping"})
        answers = peer.got()
        self.assertEqual(len(answers), protocol.MALFORMED_FRAMES + 1)
        self.assert_error(answers[0], "invalid_json", 400)
        peer.send(*[bad] * (protocol.MALFORMED_FRAMES + 5))
        answers = peer.got()
        self.assertEqual(answers[-1], 4400)
        self.assertEqual(len(answers), protocol.MALFORMED_FRAMES + 2)

    def test_fault_of_ours(self) -> None:
        """A fault of ours is logged, told without its reason, and closes the connection."""
        peer = self.peer()
        self.patch(self.gateway, "interest", lambda *_: 1 / 0)
        peer.send(subscribe("t", id=1))
        error, code = peer.got()
        self.assert_error(error, "internal", 500, id=1)
        self.assertEqual(code, 4500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    @settings(deadline=None, database=None, max_examples=50)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=30),
                st.binary(max_size=30).map(masked),
                st.text(max_size=30).map(lambda text: masked(text.encode())),
            ),
            max_size=5,
        )
    )
    def test_any_bytes(self, chunks: list[bytes]) -> None:
        """No bytes of a client raise anything."""
        peer = self.peer()
        for chunk in chunks:
            peer.raw(chunk)
        peer.protocol.connectionLost()
        self.wheel.stop()


class AllowanceTests(ConnectionTestCase):
    """A publish that is not covered gets its error; the connection goes on, and so do deliveries."""

    def test_not_covered(self) -> None:
        """Of three messages with leave for two, the third is refused, with its id or without."""
        purse = Purse(2)

        class Purses:
            def of(self, _: object) -> Purse:
                return purse

        self.gateway.allowances = Purses()
        peer = self.peer({"action": "subscribe", "topic": "open/a"})
        for ids in ({}, {"id": 1}):
            purse.left = 2
            peer.send(*({"action": "publish", "topic": "open/a", "message": number, **ids} for number in range(3)))
            self.settle()
            got = peer.got()
            errors = [frame for frame in got if frame["action"] == "error"]
            self.assertEqual(len(errors), 1)
            self.assert_error(errors[0], "insufficient_balance", 402, **ids)
            self.assertEqual([frame["data"] for frame in got if frame["action"] == "message"], ["0", "1"])
        self.assertEqual((purse.used, purse.pending), (4, 0))


class HistoryTests(ConnectionTestCase):
    """Subscriptions that read history."""

    def store(self, topic: str, *values: Any) -> None:
        self.peer(*[publish(topic, value, id=1) for value in values]).protocol.connectionLost()

    def test_since(self) -> None:
        """A subscription with a cursor gets what lies behind it, then what is stored from now on, as plain messages."""
        self.store("t", "a", "b")
        peer = self.peer()
        peer.send(subscribe("t", since=f"{self.gateway.epoch}-1", id=1))
        self.settle()
        answers = peer.got()
        self.assertIn({"action": "ack", "id": 1, "topic": "t"}, answers)
        self.assertIn(message("t", "b"), answers)
        self.assertEqual(len(answers), 2)
        self.store("t", "c")
        self.settle()
        self.assertEqual(peer.got(), [message("t", "c")])

    def test_earliest_with_meta(self) -> None:
        """With meta, messages have their cursor and time."""
        self.store("t", "a", "b")
        peer = self.peer()
        peer.send(subscribe("alice_shop_t", since="earliest", meta=True))
        self.settle()
        answers = peer.got()
        epoch = self.gateway.epoch
        self.assertEqual(
            [(one["topic"], one["data"], one["id"]) for one in answers],
            [("alice_shop_t", "a", f"{epoch}-1"), ("alice_shop_t", "b", f"{epoch}-2")],
        )
        self.assertTrue(all(one["ts"].endswith("Z") for one in answers))

    def test_meta_without_since(self) -> None:
        """With meta alone, nothing of the past comes."""
        self.store("t", "a")
        peer = self.peer(subscribe("t", meta=True))
        self.store("t", "b")
        self.settle()
        self.assertEqual([one["data"] for one in peer.got()], ["b"])

    def test_where_it_begins(self) -> None:
        """With meta the acknowledgement says behind which message it begins: who has seen none can resume, too."""
        self.store("t", "a")
        epoch = self.gateway.epoch
        for since, cursor in (({}, 1), ({"since": f"{epoch}-1"}, 1), ({"since": "earliest"}, 0)):
            peer = self.peer()
            peer.send(subscribe("t", meta=True, id=1, **since))
            self.settle()
            (ack,) = [one for one in peer.got() if one["action"] == "ack"]
            self.assertEqual(ack["cursor"], f"{epoch}-{cursor}")

    def test_where_it_began(self) -> None:
        """If messages come before the acknowledgement, that says where it was before them."""
        self.store("t", "a", "b")
        follow = self.gateway.follow

        def give_at_once(*arguments: Any) -> Any:
            feed = follow(*arguments)
            self.settle()
            return feed

        self.patch(self.gateway, "follow", give_at_once)
        peer = self.peer()
        peer.send(subscribe("t", meta=True, since="earliest", id=1))
        first, second, ack = peer.got()
        self.assertEqual([first["data"], second["data"]], ["a", "b"])
        self.assertEqual(ack, {"action": "ack", "id": 1, "topic": "t", "cursor": f"{self.gateway.epoch}-0"})

    def test_unrecorded(self) -> None:
        """A reader of history gets what history does not hold, too."""
        peer = self.peer(subscribe("open/live", meta=True))
        self.peer(publish("open/live", "now"))
        self.assertEqual(peer.got(), [message("open/live", "now")])

    def test_bad_cursor(self) -> None:
        """A cursor that is none is refused, and leaves no subscription behind."""
        peer = self.peer()
        peer.send(subscribe("t", since="yesterday", id=1))
        self.assert_error(peer.got()[0], "invalid_parameter", 400, id=1)
        self.store("t", "a")
        self.assertEqual(peer.got(), [])

    def test_gap(self) -> None:
        """Where the cursor points nowhere the client is told before the first message."""
        self.store("t", "a")
        peer = self.peer()
        peer.send(subscribe("t", since="zzz-5"))
        self.settle()
        notice, first = peer.got()
        self.assertEqual((notice["action"], notice["code"], notice["topic"]), ("notice", "gap", "t"))
        self.assertEqual(first, message("t", "a"))

    def test_changed(self) -> None:
        """A subscribe with other options replaces the subscription."""
        self.store("t", "a")
        peer = self.peer(subscribe("t"))
        peer.send(subscribe("t", since="earliest"))
        self.settle()
        self.assertEqual(peer.got(), [message("t", "a")])
        self.store("t", "b")
        self.settle()
        self.assertEqual(peer.got(), [message("t", "b")])

    def test_unsubscribe(self) -> None:
        """After unsubscribe nothing comes any more, and nothing is left behind."""
        peer = self.peer(subscribe("t", since="earliest"))
        peer.send({"action": "unsubscribe", "topic": "t"})
        self.store("t", "a")
        self.peer(publish("open/live", 1))
        self.settle()
        self.assertEqual(peer.got(), [])
        self.assertEqual(self.router._spaces, {})

    def test_left_while_beginning(self) -> None:
        """A client may leave before its subscription has begun."""
        self.bus.hold()
        peer = self.peer()
        peer.send(subscribe("t", since="earliest"))
        peer.protocol.connectionLost()
        self.bus.let_go()
        self.settle()
        self.assertEqual(self.router._spaces, {})
        self.assertEqual(self.bus._feeds, [])

    def test_slow_reader(self) -> None:
        """A client that reads slowly is given history at its own pace, however much there is."""
        for index in range(80):
            self.store("tu"[index % 2], f"{index:02}" + "x" * 1900)
        self.gateway.limits = Limits(subscriber_buffer_bytes=65536, message_bytes=2000)
        peer = self.peer()
        peer.stall()
        peer.send(subscribe("#", since="earliest"))
        self.settle()
        self.assertTrue(0 < peer.protocol._outbox.held < 10000)
        got = []
        for _ in range(5):
            peer.catch_up()
            self.settle()
            got += peer.got()
            peer.stall()
        self.assertEqual([one["data"][:2] for one in got], [f"{index:02}" for index in range(80)])


class RetainedTests(ConnectionTestCase):
    """Subscriptions that ask for what is retained."""

    def retain(self, name: str, value: str, acknowledged: bool = True) -> None:
        route = self.gateway.route(self.tokens.verify("alice"), name)
        if acknowledged:
            self.gateway.publish(route, value.encode(), retain=True)
        else:
            self.gateway.publish_unacknowledged(route, Run(route.topic, [value.encode()], retain=True))
            self.gateway.turn.flush()
        self.settle()

    def held_pages(self, size: int = 1000) -> list[Any]:
        """Hold every page back until what is in the list is called."""
        real = self.retained.page
        waiting: list[Any] = []

        def page(namespace: Namespace, filter_: str, after: int, limit: int) -> Deferred[Any]:
            asked: Deferred[Any] = Deferred()
            waiting.append(lambda: real(namespace, filter_, after, size).chainDeferred(asked))
            return asked

        self.patch(self.retained, "page", page)
        return waiting

    def let_go(self, waiting: list[Any]) -> None:
        while waiting:
            waiting.pop()()
            self.settle()

    def test_behind_the_ack(self) -> None:
        """What is retained comes behind the ack and is marked as such; what is new has just the usual members."""
        self.retain("t", "1")
        self.retain("u", "2")
        peer = self.peer()
        peer.send(subscribe("alice_shop_t", id=1, retained=True), subscribe("u"))
        self.settle()
        self.retain("t", "3")
        self.assertEqual(
            peer.got(),
            [
                {"action": "ack", "id": 1, "topic": "alice_shop_t"},
                message("alice_shop_t", "1", retained=True),
                message("alice_shop_t", "3"),
            ],
        )

    def test_bytes(self) -> None:
        """Bytes that are no text are shown in base64."""
        route = self.gateway.route(self.tokens.verify("alice"), "t")
        self.gateway.publish(route, b"\xff", retain=True)
        self.settle()
        peer = self.peer()
        peer.send(subscribe("t", retained=True))
        self.settle()
        self.assertEqual(peer.got(), [message("t", "/w==", encoding="base64", retained=True)])

    def test_superseded(self) -> None:
        """What was retained before a live message that the client was given does not follow it."""
        for name in ("open/a", "open/b", "open/c"):
            self.retain(name, "old")
        waiting = self.held_pages(1)
        peer = self.peer(subscribe("open/#", retained=True))
        waiting.pop()()
        self.settle()
        self.assertEqual(peer.got(), [message("open/a", "old", retained=True)])
        self.retain("open/b", "new")
        self.retain("open/c", "newer", acknowledged=False)
        self.let_go(waiting)
        self.assertEqual(peer.got(), [message("open/b", "new"), message("open/c", "newer")])

    def test_nothing_is_lost(self) -> None:
        """A message that was under way when the client subscribed comes, retained or live."""
        self.retain("t", "old")
        self.bus.hold()
        self.retain("t", "new")
        peer = self.peer()
        peer.send(subscribe("t", id=1, retained=True))
        self.bus.let_go()
        self.settle()
        self.bus.let_go()
        self.settle()
        answers = peer.got()
        self.assertEqual(answers[0]["action"], "ack")
        self.assertEqual([one["data"] for one in answers[1:]], ["new"])

    def test_late(self) -> None:
        """What another node had published just before is found a second later."""
        peer = self.peer(subscribe("t", retained=True))
        self.retained.put(Topic(HOME, "t"), b"late", 1)
        self.settle()
        self.assertEqual(peer.got(), [])
        self.wait(1)
        self.settle()
        self.assertEqual(peer.got(), [message("t", "late", retained=True)])

    def test_asked_again(self) -> None:
        """A subscribe that only asks once more gives what is retained now, and interrupts nothing."""
        self.retain("t", "1")
        for options in ({}, {"meta": True}):
            peer = self.peer(subscribe("t", retained=True, **options))
            self.bus.hold()
            peer.send(subscribe("t", id=2, retained=True, **options), subscribe("t", id=3, **options))
            self.settle()
            del self.bus.held
            answers = peer.got()
            self.assertEqual([one.get("id") for one in answers[:2] if one["action"] == "ack"], [2, 3])
            self.assertEqual([(one["data"], one["retained"]) for one in answers[2:]], [("1", True)])
            peer.protocol.connectionLost()

    def test_asked_again_in_the_middle(self) -> None:
        """So it is while the first pages are still read."""
        self.retain("open/a", "1")
        waiting = self.held_pages()
        peer = self.peer(subscribe("open/#", retained=True, meta=True))
        peer.send(subscribe("open/#", retained=True, meta=True))
        self.retain("open/b", "2")
        self.let_go(waiting)
        self.assertEqual(
            [(one["data"], "retained" in one) for one in peer.got()],
            [("1", True), ("2", False)],
        )

    def test_before_history(self) -> None:
        """With meta, what is retained comes before what is new, with the cursor from which on that is new."""
        self.retain("open/a", "1")
        self.retain("open/b", "2")
        cursor = f"{self.gateway.epoch}-2"
        waiting = self.held_pages(1)
        peer = self.peer(subscribe("open/#", retained=True, meta=True))
        self.retain("open/b", "3")
        self.retain("open/a", "4")
        self.let_go(waiting)
        answers = peer.got()
        self.assertEqual([(one["data"], one.get("retained")) for one in answers], [("3", None), ("4", None)])
        peer.send(subscribe("open/#", retained=True, meta=True))
        self.let_go(waiting)
        answers = peer.got()
        self.assertEqual([(one["data"], one.get("retained")) for one in answers], [("3", True), ("4", True)])
        self.assertEqual([one["id"] for one in answers], [cursor, cursor])
        self.assertTrue(all(one["ts"].endswith("Z") for one in answers))

    def test_with_since(self) -> None:
        """With since, what is retained comes before all that history holds, whether history has it as well or not."""
        self.retain("open/a", "1")
        self.retain("open/b", "2")
        peer = self.peer()
        peer.send(subscribe("open/#", since=f"{self.gateway.epoch}-1", retained=True))
        self.settle()
        self.assertEqual(
            peer.got(),
            [
                message("open/a", "1", retained=True),
                message("open/b", "2", retained=True),
                message("open/b", "2"),
            ],
        )

    def test_slow_reader(self) -> None:
        """A client that reads slowly is given pages at its own pace."""
        for index in range(80):
            self.retain(f"open/{index:02}", "x" * 1900)
        self.gateway.limits = Limits(subscriber_buffer_bytes=65536, message_bytes=2000)
        waiting = self.held_pages(10)
        peer = self.peer(subscribe("open/#", retained=True))
        for number in range(8):
            self.assertEqual(len(waiting), 1)
            peer.stall()
            waiting.pop()()
            self.settle()
            self.assertEqual((peer.got(), waiting), ([], []), number)
            peer.catch_up()
            self.settle()
            self.assertEqual(len(peer.got()), 10)

    def test_too_slow(self) -> None:
        """A client that reads so slowly that too much is published meanwhile is cut off."""
        self.patch(replay, "MAX_TOPICS", 1)
        self.held_pages()
        peer = self.peer(subscribe("open/#", retained=True))
        self.retain("open/a", "1")
        self.retain("open/b", "2")
        self.assertEqual(peer.got(), [message("open/a", "1"), message("open/b", "2"), 4508])

    def test_bus_away(self) -> None:
        """If the bus goes away before all of it came the subscription ends, and the client is told."""
        self.patch(self.retained, "page", lambda *_: fail(BusUnavailable()))
        peer = self.peer()
        peer.send(subscribe("u", retained=True, id=1))
        self.settle()
        ack, error = peer.got()
        self.assertEqual((ack["action"], error["code"], error["topic"]), ("ack", "bus_unavailable", "u"))
        self.retain("u", "1", acknowledged=False)
        self.assertEqual(peer.got(), [])

    def test_unsubscribed(self) -> None:
        """After unsubscribe, or when the client has gone, nothing comes, and nothing is left behind."""
        self.retain("t", "1")
        for meta in (False, True):
            waiting = self.held_pages()
            peer = self.peer(subscribe("t", retained=True, meta=meta))
            peer.send({"action": "unsubscribe", "topic": "t"})
            self.let_go(waiting)
            self.assertEqual(peer.got(), [])
            peer.send(subscribe("t", retained=True, meta=meta))
            peer.protocol.connectionLost()
            self.let_go(waiting)
        self.assertEqual((self.router._spaces, self.bus._feeds), ({}, []))
        self.assertEqual([call for call in self.clock.getDelayedCalls() if "deferLater" in str(call)], [])


class AuthTests(ConnectionTestCase):
    """Tokens come to their end, or are refreshed."""

    def test_expiry(self) -> None:
        """A client is warned, then told, then closed with 4401."""
        peer = self.peer(token="alice-short")
        self.wait(11)
        self.assertEqual(peer.got(), [{"action": "notice", "code": "token_expiring", "expires_in": 30}])
        peer.send({"action": "ping"})
        self.wait(30)
        answers = [one for one in peer.got() if one not in ("ping", {"action": "pong"})]
        self.assertEqual([one["code"] for one in answers[:1]], ["invalid_token"])
        self.assertEqual(answers[1:], [4401])
        self.assertEqual(len(self.connections), 0)

    def test_refreshed(self) -> None:
        """A new token moves the expiry."""
        peer = self.peer(subscribe("t"), token="alice-short")
        self.wait(20)
        peer.got()
        peer.send({"action": "auth", "token": "alice", "id": 1})
        self.assertEqual(peer.got(), [{"action": "ack", "id": 1}])
        for _ in range(5):
            self.wait(10)
            peer.send(masked(b"", first=0x8A))
        self.assertEqual([one for one in peer.got() if one != "ping"], [])
        self.peer(publish("t", 1))
        self.assertEqual(peer.got(), [message("t", "1")])

    def test_of_another(self) -> None:
        """A token of another account is refused, and the old one stays in force."""
        peer = self.peer()
        peer.send(
            {"action": "auth", "token": "bob", "id": 1},
            {"action": "auth", "token": "wrong", "id": 2},
            publish("t", 1, id=3),
        )
        self.settle()
        first, second, third = peer.got()
        self.assert_error(first, "insufficient_scope", 403, id=1)
        self.assert_error(second, "invalid_token", 401, id=2)
        self.assertEqual(third["action"], "ack")

    def test_less(self) -> None:
        """Subscriptions that the new token does not cover end with an error."""
        peer = self.peer(subscribe("t"), subscribe("u"), subscribe("open/#", since="earliest"))
        peer.send({"action": "auth", "token": "alice-less", "id": 1})
        first, second, third = peer.got()
        self.assert_error(first, "insufficient_scope", 403, topic="u")
        self.assert_error(second, "insufficient_scope", 403, topic="open/#")
        self.assertEqual(third, {"action": "ack", "id": 1})
        self.peer(publish("t", 1), publish("u", 2), publish("open/a", 3))
        self.settle()
        self.assertEqual(peer.got(), [message("t", "1")])

    def test_publish_less(self) -> None:
        """What the new token does not permit to publish is refused from then on."""
        peer = self.peer(publish("u", 1))
        peer.send({"action": "auth", "token": "alice-less"}, publish("u", 2))
        self.assert_error(peer.got()[0], "insufficient_scope", 403)

    def test_revoked(self) -> None:
        """A revoked token ends its connections."""
        peer, other = self.peer(), self.peer(token="bob")
        self.connections.end(InvalidToken("the token was revoked"), lambda principal: principal.user == "alice")
        self.settle()
        self.assertEqual(
            peer.got(), [{"action": "notice", "code": "invalid_token", "detail": "the token was revoked"}, 4401]
        )
        self.assertEqual(other.got(), [])


class CloseTests(ConnectionTestCase):
    """How connections end."""

    def test_by_client(self) -> None:
        """A client's close is answered in kind, then the connection is closed (RFC 6455 section 5.5.1)."""
        for frame, code in [(close(1000), 1000), (close(4999), 4999), (masked(b"", first=0x88), None)]:
            peer = self.peer(subscribe("t"))
            peer.send(frame)
            self.assertEqual(peer.got(), [code if code is not None else 0])
            self.assertTrue(peer.closed)
            peer.protocol.connectionLost()
        self.assertEqual(self.router._spaces, {})

    def test_behind_publish(self) -> None:
        """What stands before a close in the same read takes effect."""
        peer = self.peer(subscribe("t"))
        self.peer().send(publish("t", 1), close())
        self.assertEqual(peer.got(), [message("t", "1")])

    def test_violations(self) -> None:
        """Binary frames, bad UTF-8, too large frames and broken framing have their close codes."""
        for data, code in [
            (masked(b"{}", first=0x82), 1003),
            (masked(b'{"action":"\xff"}'), 1007),
            (masked(b"x" * 9000), 1009),
            (masked(b"x" * 100000), 1009),
            (b"\x81\xff" + b"\x00\x00\xff\xff\xff\xff\xff\xff" + b"mask", 1009),
            (masked(b"{}", first=0xC1), 1002),
            (b"\x81\x02{}", 1002),
            (masked(b"{}", first=0x83), 1002),
        ]:
            peer = self.peer(subscribe("t"))
            peer.send({"action": "ping"}, data)
            self.assertEqual(peer.got(), [{"action": "pong"}, code])
            peer.protocol.connectionLost()
        self.assertEqual(len(self.connections), 0)

    def test_fragments_of_nothing(self) -> None:
        """Fragments without bytes cost no memory, however many there are; what they interrupt is whole."""
        text = json.dumps({"action": "ping"}).encode()
        peer = self.peer()
        peer.send(masked(text[:3], first=0x01))
        peer.send(*[masked(b"", first=0x00)] * 1000)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(5):
            peer.send(*[masked(b"", first=0x00)] * 1000)
        self.assertLess(tracemalloc.get_traced_memory()[0], 20_000)
        peer.send(masked(text[3:], first=0x80))
        self.assertEqual(peer.got(), [{"action": "pong"}])

    def test_fragments_too_large(self) -> None:
        """A message whose fragments are too large together is refused before it is kept."""
        peer = self.peer()
        peer.send(masked(b"x" * 4000, first=0x01), masked(b"x" * 4000, first=0x00), masked(b"x" * 4000, first=0x00))
        self.assertEqual(peer.got(), [1009])

    def test_close_unanswered(self) -> None:
        """A client that does not answer a close is cut off."""
        peer = self.peer()
        peer.protocol.end(InvalidToken())
        self.assertFalse(peer.closed)
        self.wait(protocol.CLOSE_SECONDS + 1)
        self.assertTrue(peer.closed)

    def test_nothing_after_close(self) -> None:
        """After our close frame nothing is sent, and nothing is done (RFC 6455 section 5.5.1)."""
        peer, other = self.peer(subscribe("t")), self.peer(subscribe("t"))
        peer.protocol.end(InvalidToken())
        self.settle()
        peer.got()
        peer.send(publish("t", 1), {"action": "ping"})
        other.send(publish("t", 2))
        self.settle()
        self.assertEqual(peer.got(), [])
        self.assertEqual(other.got(), [message("t", "2")])
        peer.protocol.deliver(Run(Topic(HOME, "t"), [b"3"]), False, 0)  # the router may be at it just now
        self.gateway.turn.flush()
        self.assertEqual(peer.got(), [])
        peer.send(close(4401))
        self.assertTrue(peer.closed)
        self.assertFalse(peer.transport.was_aborted)

    def test_silent_client(self) -> None:
        """A silent client is asked after 25 s, and closed with 4408 if it does not answer within 10."""
        peer = self.peer()
        self.wait(26)
        self.assertEqual(peer.got(), ["ping"])
        self.wait(11)
        self.assertEqual(peer.got(), [4408])

    def test_answering_client(self) -> None:
        """A pong, or any other frame, is an answer."""
        for frame in (masked(b"", first=0x8A), {"action": "unsubscribe", "topic": "t"}):
            peer = self.peer()
            self.wait(26)
            self.assertEqual(peer.got(), ["ping"])
            peer.send(frame)
            self.wait(20)
            self.assertEqual(peer.got(), [])
            self.wait(6)
            self.assertEqual(peer.got(), ["ping"])
            peer.protocol.connectionLost()

    def test_busy_client(self) -> None:
        """A client that keeps sending is not asked."""
        peer = self.peer()
        for _ in range(10):
            self.wait(10)
            peer.send({"action": "unsubscribe", "topic": "t"})
        self.assertEqual(peer.got(), [])

    def test_going_away(self) -> None:
        """When the gateway goes, clients are told, and closed with 1001."""
        peer = self.peer()
        self.connections.end(None)
        self.connections.end(None)
        self.settle()
        self.assertEqual(peer.got(), [{"action": "notice", "code": "going_away", "retry_after_ms": 1250}, 1001])

    def test_going_away_with_acknowledgements_under_way(self) -> None:
        """When the gateway goes, acknowledgements under way are finished, and nothing more is read."""
        self.bus.hold()
        peer = self.peer()
        peer.send(publish("t", 1, id=1))
        self.connections.end(None)
        self.connections.end(None)
        self.settle()
        self.assertTrue(peer.paused)
        self.assertEqual([one["code"] for one in peer.got()], ["going_away"])
        self.bus.let_go()
        self.settle()
        answer, code = peer.got()
        self.assertEqual((answer["action"], answer["id"], code), ("ack", 1, 1001))
        self.assertFalse(peer.paused)

    def test_no_timers_left(self) -> None:
        """A connection that is gone leaves no timer behind, on the clock or elsewhere."""
        peer = self.peer()
        peer.send(close())
        peer.protocol.connectionLost()
        self.wait(2)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PressureTests(ConnectionTestCase):
    """Clients that are too fast, and clients that are too slow."""

    def test_unacknowledged(self) -> None:
        """A client with too many publishes under way is read no further until half of them are through."""
        self.bus.hold()
        peer = self.peer()
        peer.send(*[publish("t", index, id=index) for index in range(4)])
        self.assertFalse(peer.paused)
        peer.send(publish("t", 4, id=4))
        self.assertTrue(peer.paused)
        self.bus.let_go()
        self.settle()
        self.assertFalse(peer.paused)
        self.assertEqual([one["id"] for one in peer.got()], [0, 1, 2, 3, 4])

    def test_congested(self) -> None:
        """While the bus takes no more, publishers are not read; nothing of what they sent is lost."""
        peer = self.peer(subscribe("t"))
        self.bus.congested = True
        peer.send(publish("t", 1))
        self.assertTrue(peer.paused)
        leaving = self.peer(publish("u", 1))
        leaving.protocol.connectionLost()
        self.assertEqual(len(self.gateway._paused), 1)
        self.bus.relieve()
        self.assertFalse(peer.paused)
        self.assertEqual(peer.got(), [message("t", "1")])

    def test_not_cut_while_not_read(self) -> None:
        """A client that we do not read is not taken for silent."""
        self.bus.hold()
        peer = self.peer()
        peer.send(*[publish("t", index) if index % 2 else publish("t", index, id=index) for index in range(12)])
        self.assertTrue(peer.paused)
        self.wait(120)
        self.assertEqual(peer.got(), [])
        self.assertFalse(peer.closed)

    def test_slow_subscriber(self) -> None:
        """A subscriber that does not read is told 4508 if there is room, and cut off; others get everything."""
        self.gateway.limits = Limits(subscriber_buffer_bytes=65536, message_bytes=2000)
        slow, fast = self.peer(subscribe("t")), self.peer(subscribe("t"))
        slow.stall()
        publisher = self.peer()
        for index in range(70):
            publisher.send(publish("t", f"{index:04}" + "x" * 1000))
            self.assertLessEqual(slow.protocol._outbox.held, 65536)
        self.assertEqual(len(fast.got()), 70)
        self.assertEqual(len(self.connections), 2)
        self.assertEqual(self.gateway.meter.count("clients_cut", ("websocket", "slow")), 1)
        slow.catch_up()
        answers = slow.got()
        self.assertEqual(answers[-1], 4508)
        self.assertEqual(
            [one["data"][:4] for one in answers[:-1]], [f"{index:04}" for index in range(len(answers) - 1)]
        )

    def test_slow_subscriber_without_room(self) -> None:
        """Where there is no room even for the close frame, the connection is aborted."""
        self.gateway.limits = Limits(subscriber_buffer_bytes=65536, message_bytes=2000)
        slow = self.peer(subscribe("t"))
        slow.stall()
        outbox = slow.protocol._outbox
        self.assertTrue(outbox.write(b"x" * 65536))
        self.peer(publish("t", 1))
        self.assertTrue(slow.closed)
        self.assertEqual(outbox.held, 0)

    def test_slow_client_that_is_gone_from_sight(self) -> None:
        """A cut-off subscriber that never reads again is aborted, not kept."""
        self.gateway.limits = Limits(subscriber_buffer_bytes=65536, message_bytes=2000)
        slow = self.peer(subscribe("t"))
        slow.stall()
        slow.protocol._outbox.write(b"x" * 65500)
        self.peer(publish("t", "x" * 100))
        self.wait(protocol.CLOSE_SECONDS + 1)
        self.assertTrue(slow.closed)
        self.assertEqual(slow.protocol._outbox.held, 0)

    def test_unread_answers(self) -> None:
        """A client that sends and never reads is cut off as soon as its answers fill its buffer."""
        self.gateway.limits = Limits(subscriber_buffer_bytes=65536, message_bytes=2000)
        peer = self.peer()
        peer.stall()
        for _ in range(40):
            peer.send(*[{"action": "ping"}] * 100)
        self.assertEqual(len(self.connections), 0)
        self.assertLessEqual(peer.protocol._outbox.held, 65536)
