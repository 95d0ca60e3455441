"""MQTT over WebSocket: what a client sends, and what it gets."""

# mypy: disallow-untyped-calls=False
# (trial and much of twisted.web have no annotations)
from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface.verify import verifyObject

from flowgate.errors import InvalidToken
from flowgate.limits import Limits
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Bare, Connack, Connect, Publish, Suback, Type, Will
from flowgate.mqtt.protocol import CLOSE_SECONDS
from flowgate.mqtt.websocket import MqttWebSocket, MqttWebSocketFactory, Tunnel, make_resource
from flowgate.websocket import opening
from tests.mqtt.node import Cluster, Node
from tests.test_websocket_frames import KEY, masked, opening_request

CONNECT = packets.connect(Connect("c", user_name="Bearer", password=b"alice"))


class _Transport(StringTransport):
    """A transport in memory that knows the TCP calls a connection makes, and whether it was aborted."""

    was_aborted = False
    no_delay = False
    stalling = False
    """Whether it is full after each write, until it is told otherwise."""
    protocol: Any = None

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.stalling and self.producer is not None:
            cast(IPushProducer, self.producer).pauseProducing()

    def abortConnection(self) -> None:
        self.was_aborted = True
        super().abortConnection()


class Peer:
    """A client's end of a connection in memory."""

    def __init__(self, receiver: Any) -> None:
        self.protocol = receiver
        self.transport = _Transport()
        self.transport.protocol = receiver
        self.answer = b""
        self._rest = b""
        self._decoder = packets.Decoder(1 << 20)
        receiver.makeConnection(self.transport)

    def handshake(self, *headers: str, path: str = "/mqtt") -> Peer:
        self.raw(opening_request(path, *headers))
        self.answer, _, self._rest = self.transport.value().partition(b"\r\n\r\n")
        self.transport.clear()
        return self

    @property
    def status(self) -> int:
        return int(self.answer.split()[1])

    def raw(self, data: bytes) -> None:
        self.transport.protocol.dataReceived(data)

    def send(self, *data: bytes) -> None:
        """Send packets in one frame."""
        self.raw(masked(b"".join(data), first=0x82))

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """The frames that came since the last call: first byte and payload."""
        data = self._rest + self.transport.value()
        self.transport.clear()
        self._rest = b""
        while data:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(data[2:10], "big"), 10
            payload = data[start : start + size]
            assert len(payload) == size, "a part of a frame"
            yield data[0], payload
            data = data[start + size :]

    def got(self) -> list[Any]:
        """What came: packets, PUBLISH as (topic, payload, qos); pings and pongs; a close code."""
        found: list[Any] = []
        for first, payload in self.frames():
            if first == 0x82:
                for packet in self._decoder.feed(payload):
                    if isinstance(packet, Publish):
                        found += [(packet.topic.decode(), one, packet.qos) for one in packet.payloads()]
                    else:
                        found.append(packet)
            elif first == 0x88:
                found.append(int.from_bytes(payload[:2], "big"))
            else:
                found.append({0x89: "ping", 0x8A: "pong"}[first])
        return found

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting

    def stall(self) -> Peer:
        """From now on read only when told to."""
        self.transport.stalling = True
        return self

    def catch_up(self) -> None:
        """Read what was sent."""
        cast(IPushProducer, self.transport.producer).resumeProducing()


class _Tests(SynchronousTestCase):
    """A gateway in memory, and clients of it."""

    limits = Limits(connections=4, message_bytes=20_000, unacknowledged_messages=4, subscriber_buffer_bytes=65536)

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.clock = self.cluster.clock
        self.node = Node(self.cluster, self.limits)
        self.connections = self.node.connections
        self.draining = False
        self.factory = MqttWebSocketFactory(self.node.factory, lambda: self.draining)

    def settle(self) -> None:
        """Let what the bus has under way arrive."""
        self.cluster.settle()

    def wait(self, seconds: int) -> None:
        self.clock.pump([1] * seconds)

    def opened(self) -> Peer:
        peer = Peer(self.factory.buildProtocol(None)).handshake("Sec-WebSocket-Protocol: mqtt")
        self.assertEqual(peer.status, 101)
        return peer

    def peer(self, client_id: str = "c", **options: Any) -> Peer:
        peer = self.opened()
        peer.send(packets.connect(Connect(client_id, user_name="Bearer", password=b"alice", **options)))
        self.settle()
        self.assertEqual(peer.got(), [Connack(False, 0)])
        return peer

    def subscriber(self, *filters: tuple[str, int], client_id: str = "s", **options: Any) -> Peer:
        peer = self.peer(client_id, **options)
        peer.send(packets.subscribe(1, filters))
        self.settle()
        self.assertEqual(peer.got(), [Suback(1, tuple(qos for _, qos in filters))])
        return peer


class HandshakeTests(_Tests):
    """Which clients are let in."""

    def test_subprotocol(self) -> None:
        """[MQTT-6.0.0-3], [MQTT-6.0.0-4]: a client offers mqtt among its subprotocols, and is answered by it."""
        for offered in ("mqtt", "chat, mqtt", "mqttv3.1, mqtt"):
            peer = Peer(self.factory.buildProtocol(None)).handshake(f"Sec-WebSocket-Protocol: {offered}")
            self.assertEqual(peer.status, 101)
            self.assertIn(b"\r\nSec-WebSocket-Protocol: mqtt\r\n", peer.answer)
            peer.protocol.connectionLost()

    def test_origin(self) -> None:
        """A page of an origin that may not connect is refused; one that may, and what is no page, get in."""
        self.factory.origins = opening.Origins(["https://example.org"])
        mqtt = "Sec-WebSocket-Protocol: mqtt"
        peer = Peer(self.factory.buildProtocol(None)).handshake(mqtt, "Origin: https://evil.example")
        self.assertEqual((peer.status, json.loads(peer._rest)["code"]), (403, "origin_not_allowed"))
        for headers in ([], ["Origin: https://example.org"]):
            self.assertEqual(Peer(self.factory.buildProtocol(None)).handshake(mqtt, *headers).status, 101)

    def test_old_subprotocol(self) -> None:
        """The subprotocol of clients before 3.1.1 is answered by itself."""
        peer = Peer(self.factory.buildProtocol(None)).handshake("Sec-WebSocket-Protocol: mqttv3.1")
        self.assertIn(b"\r\nSec-WebSocket-Protocol: mqttv3.1\r\n", peer.answer)
        peer.send(CONNECT)
        self.settle()
        self.assertEqual(peer.got(), [Connack(False, 0)])

    def test_no_subprotocol(self) -> None:
        """Without mqtt among the subprotocols the handshake is refused, with a status and the reason."""
        for headers in ([], ["Sec-WebSocket-Protocol: chat, MQTT5"], ["Origin: https://example.org"]):
            peer = Peer(self.factory.buildProtocol(None)).handshake(*headers)
            self.assertEqual(peer.status, 400)
            problem = json.loads(peer._rest)
            self.assertEqual((problem["code"], problem["status"]), ("invalid_parameter", 400))
            self.assertIn("mqtt", problem["detail"])
            self.assertTrue(peer.closed)

    def test_no_upgrade(self) -> None:
        """A request that is no handshake is told what is missing."""
        peer = Peer(self.factory.buildProtocol(None))
        peer.raw(b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertIn(b"HTTP/1.1 426 ", peer.transport.value())
        self.assertIn(b"\r\nUpgrade: websocket\r\n", peer.transport.value())
        self.assertTrue(peer.closed)

    def test_going_away(self) -> None:
        """A node that stops takes nobody in, also not on a connection that was open for HTTP."""
        self.draining = True
        peer = Peer(self.factory.buildProtocol(None)).handshake("Sec-WebSocket-Protocol: mqtt")
        self.assertEqual(peer.status, 503)

    def test_any_origin(self) -> None:
        """A page of any origin may connect: what it may do is in its CONNECT."""
        for origin in ("https://example.org", "null"):
            peer = Peer(self.factory.buildProtocol(None))
            self.assertEqual(peer.handshake("Sec-WebSocket-Protocol: mqtt", f"Origin: {origin}").status, 101)
            peer.protocol.connectionLost()

    def test_no_compression(self) -> None:
        """Compression is not agreed to."""
        peer = Peer(self.factory.buildProtocol(None)).handshake(
            "Sec-WebSocket-Protocol: mqtt", "Sec-WebSocket-Extensions: permessage-deflate"
        )
        self.assertEqual(peer.status, 101)
        self.assertNotIn(b"extensions", peer.answer.lower())

    def test_refused_and_lingering(self) -> None:
        """A client that does not take the refusal is cut off."""
        peer = Peer(self.factory.buildProtocol(None)).stall().handshake()
        self.assertFalse(peer.closed)
        self.wait(CLOSE_SECONDS + 1)
        self.assertTrue(peer.transport.was_aborted)

    def test_no_whole_request(self) -> None:
        """A handshake has as long as a CONNECT."""
        peer = Peer(self.factory.buildProtocol(None))
        peer.raw(b"GET /mqtt HTTP/1.1\r\n")
        self.wait(self.limits.connect_seconds - 1)
        self.assertFalse(peer.transport.was_aborted)
        self.wait(2)
        self.assertTrue(peer.transport.was_aborted)

    def test_nothing_is_kept(self) -> None:
        """Autobahn's own log, which would hold requests, is silent, and the request is not kept."""
        connection = self.opened().protocol
        self.assertIsInstance(connection.log, opening.Silent)
        self.assertNotIn(KEY, str(vars(connection)))

    def test_below_a_site(self) -> None:
        """As a resource of twisted.web it takes the connection over, and no other producer is left in the way."""
        root = Resource()
        resource: Any = make_resource(self.node.factory, lambda: False)
        root.putChild(b"mqtt", resource)
        site = Site(root, timeout=5, reactor=self.clock)
        peer = Peer(site.buildProtocol(None)).handshake("Sec-WebSocket-Protocol: mqtt")
        self.assertEqual(peer.status, 101)
        peer.send(CONNECT, packets.PINGREQ)
        self.settle()
        self.assertEqual(peer.got(), [Connack(False, 0), Bare(Type.PINGRESP)])
        self.wait(20)  # twisted.web's time-out is no longer ours
        self.assertFalse(peer.closed)

    def test_small_packets(self) -> None:
        """Nagle's algorithm is off, as on plain TCP."""
        self.assertTrue(self.opened().transport.no_delay)


class StreamTests(_Tests):
    """Packets in frames."""

    def test_every_qos(self) -> None:
        """Messages go both ways at every QoS, and each write is one frame."""
        peer = self.subscriber(("t", 2))
        for qos in (0, 1, 2):
            peer.send(packets.publishes("t", [b"a", b"b"], qos, [7, 8] if qos else []))
            self.settle()
            got = [one for one in peer.got() if isinstance(one, tuple)]
            self.assertEqual(got, [("t", b"a", qos), ("t", b"b", qos)])
        other = self.subscriber(("t", 0), client_id="other")
        other.send(packets.publishes("t", [b"1", b"2"]), packets.PINGREQ)
        self.assertEqual(len(list(other.frames())), 1)

    def test_many_in_one_frame(self) -> None:
        """[MQTT-6.0.0-2]: several packets, CONNECT first, in one frame."""
        peer = self.opened()
        peer.send(CONNECT, packets.subscribe(1, [("t", 0)]), packets.publishes("t", [b"x"]), packets.PINGREQ)
        self.settle()
        self.assertCountEqual(peer.got(), [Connack(False, 0), Suback(1, (0,)), ("t", b"x", 0), Bare(Type.PINGRESP)])

    def test_one_in_many_frames(self) -> None:
        """[MQTT-6.0.0-2]: a packet over several messages, and over the fragments of one, with a ping in between."""
        peer = self.subscriber(("t", 0))
        wire = packets.publishes("t", [b"split"])
        for index in range(len(wire)):
            peer.raw(masked(wire[index : index + 1], first=0x82))
        self.assertEqual(peer.got(), [("t", b"split", 0)])
        peer.raw(
            masked(wire[:3], first=0x02)
            + masked(b"", first=0x89)
            + masked(wire[3:4], first=0x00)
            + masked(b"", first=0x00)
            + masked(wire[4:], first=0x80)
        )
        self.assertEqual(peer.got(), ["pong", ("t", b"split", 0)])

    @settings(max_examples=60, deadline=None, database=None)
    @given(
        st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=12),
        st.lists(st.integers(1, 3000), min_size=1, max_size=5),
    )
    def test_any_split(self, cuts: list[tuple[int, bool]], reads: list[int]) -> None:
        """[MQTT-6.0.0-2]: however packets are cut into frames, and frames into reads, the same arrives."""
        peer = self.subscriber(("t", 0))
        payloads = [b"x" * size for size in (0, 1, 100, 5000, 0, 3)]
        wire = b"".join(packets.publishes("t", [payload]) for payload in payloads)
        frames, at, inside = b"", 0, False
        for size, more in [*cuts, (len(wire), False)]:
            frames += masked(wire[at : at + size], first=(0x00 if more else 0x80) | (0 if inside else 2))
            at += size
            inside = more
        got: list[Any] = []
        for size in cycle(reads):
            if not frames:
                break
            peer.raw(frames[:size])
            frames = frames[size:]
            got += peer.got()
        self.assertEqual(got, [("t", payload, 0) for payload in payloads])
        peer.protocol.connectionLost()

    def test_empty_frames(self) -> None:
        """Frames and messages without a byte do nothing."""
        peer = self.peer()
        peer.raw(masked(b"", first=0x82) * 3 + masked(b"", first=0x02) + masked(b"", first=0x80))
        peer.send(packets.PINGREQ)
        self.assertEqual(peer.got(), [Bare(Type.PINGRESP)])

    def test_large_frames(self) -> None:
        """A frame may hold far more than a packet may: it is not kept, its packets are taken as they come."""
        peer = self.subscriber(("t", 0))
        wire = packets.publishes("t", [b"x" * 15_000]) * 20
        frame = masked(wire, first=0x82)
        received = 0
        for start in range(0, len(frame), 65536):
            peer.raw(frame[start : start + 65536])
            received += len(peer.got())
        self.assertEqual(received, 20)

    def test_large_packets(self) -> None:
        """A packet beyond the bound closes the connection as soon as its length is read, in whatever frame it comes."""
        for size in (20_000 + 17 * 1024, 5_000_000):
            peer = self.peer()
            wire = packets.publishes("t", [b"x" * size])
            peer.raw(masked(wire, first=0x82)[:2000])
            self.assertEqual(peer.got(), [1000])

    def test_text_frame(self) -> None:
        """[MQTT-6.0.0-1]: a text frame closes the connection, and what comes in and behind it is not read."""
        for text in (masked(b"hello"), masked(b"\xff\xfe"), masked(b"he", first=0x01), masked(b"x" * 5000)):
            peer = self.subscriber(("t", 0))
            with capturedLogs() as logged:
                peer.raw(text + masked(packets.publishes("t", [b"not read"]), first=0x82))
            self.assertEqual(peer.got(), [1003])
            self.assertEqual([event["code"] for event in logged if "code" in event], [1003])
            self.assertEqual(len(self.connections), 0)
            self.wait(CLOSE_SECONDS + 1)
            self.assertTrue(peer.transport.was_aborted)

    def test_text_inside(self) -> None:
        """A text frame inside of a fragmented message breaks RFC 6455."""
        peer = self.peer()
        peer.raw(masked(b"a", first=0x02) + masked(b"b"))
        self.assertEqual(peer.got(), [1002])

    def test_broken_frames(self) -> None:
        """What is no frame of a client's closes the connection with RFC 6455's own code."""
        for data in (b"\x82\x01a", masked(b"a", first=0xC2), masked(b"a", first=0x83), masked(b"a", first=0x80)):
            peer = self.peer()
            peer.raw(data)
            self.assertEqual(peer.got(), [1002], data)
            self.assertEqual(len(self.connections), 0)

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """No bytes raise anything, before or behind CONNECT."""
        for peer in (self.opened(), self.peer()):
            peer.raw(data)
            peer.protocol.connectionLost()


class LifeTests(_Tests):
    """How a connection lives and ends."""

    def test_refused_connect(self) -> None:
        """A CONNACK that refuses comes before the close."""
        peer = self.opened()
        peer.send(packets.connect(Connect("c", user_name="Bearer", password=b"wrong")))
        self.assertEqual(peer.got(), [Connack(False, 4), 1000])
        peer.raw(masked(b"\x03\xe8", first=0x88))
        self.assertTrue(peer.closed)
        self.assertFalse(peer.transport.was_aborted)

    def test_slow_refused_connect(self) -> None:
        """To a client that reads slowly it comes before the close too."""
        peer = self.opened().stall()
        peer.raw(masked(b"", first=0x89))
        peer.send(packets.connect(Connect("c", user_name="Bearer", password=b"wrong")))
        self.assertEqual(peer.got(), ["pong"])
        peer.catch_up()
        self.assertEqual(peer.got(), [Connack(False, 4)])
        peer.catch_up()
        self.assertEqual(peer.got(), [1000])

    def test_no_connect_in_time(self) -> None:
        """A connection without CONNECT is closed after the time allowed, pings or not."""
        peer = self.opened()
        self.wait(self.limits.connect_seconds - 1)
        peer.raw(masked(b"", first=0x89))
        self.assertEqual(peer.got(), ["pong"])
        self.wait(2)
        self.assertTrue(peer.transport.was_aborted)

    def test_keep_alive(self) -> None:
        """[MQTT-3.1.2-24]: packets count against the keep alive, pings of WebSocket's do not."""
        peer = self.peer(keep_alive=10)
        self.wait(14)
        peer.send(packets.PINGREQ)
        self.wait(14)
        self.assertFalse(peer.transport.was_aborted)
        peer.raw(masked(b"", first=0x89))
        self.wait(3)
        self.assertTrue(peer.transport.was_aborted)

    def test_ping(self) -> None:
        """A ping of WebSocket's is answered."""
        peer = self.opened()
        peer.raw(masked(b"are you there", first=0x89))
        self.assertEqual([payload for _, payload in peer.frames()], [b"are you there"])

    def test_disconnect(self) -> None:
        """DISCONNECT is answered by the close, without the will; so it is with a close frame in the same read."""
        watcher = self.subscriber(("open/#", 0))
        for more in (b"", masked(b"\x03\xe8", first=0x88)):
            peer = self.peer(will=Will("open/will", b"gone", 0, False))
            peer.raw(masked(packets.DISCONNECT, first=0x82) + more)
            self.assertEqual(peer.got(), [1000])
            self.assertEqual(watcher.got(), [])
            peer.protocol.connectionLost()

    def test_close_without_disconnect(self) -> None:
        """[MQTT-3.1.2-8]: a close frame is no DISCONNECT: the close is answered and the will goes out, at once."""
        watcher = self.subscriber(("open/#", 0))
        peer = self.peer(will=Will("open/will", b"gone", 0, False))
        peer.raw(masked(b"\x03\xe9bye", first=0x88))
        self.assertEqual(peer.got(), [1001])
        self.assertTrue(peer.closed)
        self.assertEqual(watcher.got(), [("open/will", b"gone", 0)])
        self.assertEqual(len(self.connections), 1)

    def test_lost(self) -> None:
        """The will goes out once if the connection breaks, and nothing is left of it."""
        watcher = self.subscriber(("open/#", 0))
        peer = self.peer(will=Will("open/will", b"gone", 0, False))
        peer.protocol.connectionLost()
        self.assertEqual(watcher.got(), [("open/will", b"gone", 0)])
        self.assertEqual(len(self.connections), 1)
        self.wait(100)
        self.assertFalse(peer.transport.was_aborted)

    def test_protocol_error(self) -> None:
        """A packet that breaks MQTT closes the connection, behind what was answered before it."""
        peer = self.peer()
        peer.send(packets.PINGREQ, b"\xf0\x00")
        self.assertEqual(peer.got(), [Bare(Type.PINGRESP), 1000])
        peer.send(packets.PINGREQ)
        self.assertEqual(peer.got(), [])

    def test_no_answer_to_close(self) -> None:
        """A client that does not answer the close is cut off."""
        peer = self.peer()
        peer.send(packets.DISCONNECT)
        self.wait(CLOSE_SECONDS - 1)
        self.assertFalse(peer.transport.was_aborted)
        self.wait(2)
        self.assertTrue(peer.transport.was_aborted)

    def test_going_away(self) -> None:
        """A node that stops closes every connection with 1001."""
        peers = [self.peer(client_id) for client_id in ("a", "b")]
        self.draining = True
        self.connections.end(None)
        for peer in peers:
            self.assertEqual(peer.got(), [1001])

    def test_going_away_with_promises(self) -> None:
        """A node that stops finishes the acknowledgements under way first, and the close is answered after that."""
        peer = self.peer()
        peer.send(packets.publishes("t", [b"x"], 1, [7]))
        self.draining = True
        self.connections.end(None)
        self.assertEqual((peer.got(), peer.transport.producerState), ([], "paused"))
        self.settle()
        self.assertEqual(peer.got(), [Ack(Type.PUBACK, (7,)), 1001])
        self.assertEqual(peer.transport.producerState, "producing")
        peer.raw(masked(b"\x03\xe9", first=0x88))
        self.assertTrue(peer.closed)

    def test_revoked(self) -> None:
        """A connection whose token is revoked is closed."""
        peer = self.peer()
        self.connections.end(InvalidToken())
        self.assertEqual(peer.got(), [1000])
        self.assertEqual(len(self.connections), 0)

    def test_takeover(self) -> None:
        """[MQTT-3.1.4-2]: a client of the same identifier closes the first, whatever each came by."""
        first = self.peer("same")
        second = self.peer("same")
        self.assertEqual((first.got(), second.got()), ([1000], []))


class SlowTests(_Tests):
    """Clients that read, or are read, slowly."""

    def test_publisher_is_slowed(self) -> None:
        """A publisher with too much not stored yet is read no further until some is."""
        peer = self.peer()
        for packet_id in range(1, 7):
            peer.send(packets.publishes("t", [b"x"], 1, [packet_id]))
        self.assertEqual(peer.transport.producerState, "paused")
        self.settle()
        self.assertEqual(peer.transport.producerState, "producing")

    def test_slow_subscriber(self) -> None:
        """What a slow client has not read waits up to the bound; QoS 0 messages beyond it are lost to it alone."""
        slow, fast = self.subscriber(("t", 0)).stall(), self.subscriber(("t", 0), client_id="fast")
        publisher = self.peer("p")
        for number in range(20):
            publisher.send(packets.publishes("t", [b"%02d" % number + bytes(10_000)]))
        self.assertEqual(len(fast.got()), 20)
        self.assertEqual(len(slow.got()), 1)
        slow.catch_up()
        got = slow.got()
        numbers = [int(payload[:2]) for _, payload, _ in got]
        self.assertEqual(numbers, list(range(1, 1 + len(got))))
        self.assertTrue(4 <= len(got) <= 7, len(got))
        slow.catch_up()
        publisher.send(packets.publishes("t", [b"again"]))
        self.assertEqual(slow.got(), [("t", b"again", 0)])

    def test_acknowledged_wait(self) -> None:
        """QoS 1 messages to a slow client wait and are not lost."""
        slow = self.subscriber(("t", 1)).stall()
        publisher = self.peer("p")
        for number in range(20):
            publisher.send(packets.publishes("t", [b"%02d" % number + bytes(10_000)], 1, [number + 1]))
            self.settle()
        got: list[Any] = []
        for _ in range(30):
            got += slow.got()
            slow.catch_up()
        self.assertEqual([payload[:2] for _, payload, _ in got], [b"%02d" % number for number in range(20)])

    def test_slow_for_pongs(self) -> None:
        """What makes a peer slow does not matter: messages wait for it as well if that was a pong."""
        slow = self.subscriber(("t", 0)).stall()
        slow.raw(masked(b"", first=0x89))
        publisher = self.peer("p")
        publisher.send(*[packets.publishes("t", [bytes(1000)])] * 20)
        self.assertEqual(slow.got(), ["pong"])
        slow.catch_up()
        self.assertEqual(len(slow.got()), 20)
        self.assertFalse(slow.transport.was_aborted)

    def test_slow_before_connect(self) -> None:
        """A peer that has not even taken the answer to its handshake is given nothing more until then."""
        peer = Peer(self.factory.buildProtocol(None)).stall().handshake("Sec-WebSocket-Protocol: mqtt")
        peer.send(CONNECT)
        self.settle()
        self.assertEqual(peer.got(), [])
        peer.catch_up()
        self.assertEqual(peer.got(), [Connack(False, 0)])

    def test_slow_found_later(self) -> None:
        """A transport may find only later that the peer is slow, as TLS does: MQTT waits from then on."""
        slow = self.subscriber(("t", 0))
        cast(IPushProducer, slow.transport.producer).pauseProducing()
        publisher = self.peer("p")
        publisher.send(*[packets.publishes("t", [bytes(1000)])] * 20)
        self.assertEqual(slow.got(), [])
        slow.catch_up()
        self.assertEqual(len(slow.got()), 20)
        self.assertFalse(slow.transport.was_aborted)

    def test_cut_off(self) -> None:
        """A client that acknowledges nothing and reads nothing is cut off at once."""
        self.limits = Limits(connections=4, inflight_messages=2, queued_messages=2)
        self.setUp()
        slow = self.subscriber(("t", 1)).stall()
        publisher = self.peer("p")
        for number in range(6):
            publisher.send(packets.publishes("t", [b"x"], 1, [number + 1]))
            self.settle()
        self.assertTrue(slow.transport.was_aborted)
        slow.protocol.connectionLost()
        self.assertEqual(len(self.connections), 1)

    def test_pings_without_reading(self) -> None:
        """A client that pings and never reads the answers is cut off when they are too many."""
        peer = self.opened().stall()
        ping = masked(b"x" * 125, first=0x89)
        for _ in range(65536 // 127):
            peer.raw(ping)
        self.assertFalse(peer.transport.was_aborted)
        peer.raw(ping * 3)
        self.assertTrue(peer.transport.was_aborted)

    def test_unread_close(self) -> None:
        """The close waits behind what a slow client has still to read, and not for ever."""
        slow = self.subscriber(("t", 0)).stall()
        self.peer("p").send(packets.publishes("t", [b"first"]), packets.publishes("t", [b"second"]))
        slow.send(packets.DISCONNECT)
        self.assertNotIn(1000, slow.got())
        slow.catch_up()
        self.assertEqual(slow.got()[-1:], [1000])
        self.wait(CLOSE_SECONDS + 1)
        self.assertTrue(slow.transport.was_aborted)


class TunnelTests(_Tests):
    """The transport that MQTT sees."""

    def test_interfaces(self) -> None:
        """It is what Twisted calls a transport."""
        tunnel = Tunnel(cast(MqttWebSocket, self.opened().protocol))
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, tunnel)

    def test_addresses(self) -> None:
        """Its addresses are those of the connection below."""
        peer = self.opened()
        tunnel = Tunnel(peer.protocol)
        self.assertEqual(tunnel.getHost(), peer.transport.getHost())
        self.assertEqual(tunnel.getPeer(), peer.transport.getPeer())

    def test_writes(self) -> None:
        """What is written together is one frame; after the close nothing is sent."""
        peer = self.opened()
        tunnel = Tunnel(peer.protocol)
        tunnel.writeSequence([b"a", b"b"])
        self.assertEqual(list(peer.frames()), [(0x82, b"ab")])
        tunnel.stopProducing()
        tunnel.write(b"c")
        tunnel.loseConnection()
        self.assertEqual(list(peer.frames()), [(0x88, b"\x03\xe8")])

    def test_producers(self) -> None:
        """It takes a push producer; a pull producer could not be told to wait."""
        self.assertRaises(TypeError, Tunnel(self.opened().protocol).registerProducer, object(), False)
