"""MQTT on a connection: what a client sends, and what it gets."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from flowgate import errors
from flowgate.errors import InvalidToken, Refused
from flowgate.limits import Limits
from flowgate.message import Run
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Bare, Connack, Connect, Suback, Type, Will
from flowgate.mqtt.protocol import _RETURN_CODES, return_code
from flowgate.topics import Namespace, Topic
from tests.mqtt.node import HOME, LIFE, Cluster, Node, Peer, Transport


class ProtocolTests(SynchronousTestCase):
    limits = Node.limits

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster)
        self.clock, self.bus = self.cluster.clock, self.cluster.bus
        self.gateway, self.turn, self.connections = self.node.gateway, self.node.turn, self.node.connections
        self.factory = self.node.factory

    def settle(self) -> None:
        """Let what is under way arrive."""
        self.cluster.settle()

    def peer(self, client_id: str = "c", token: str = "alice", **options: Any) -> Peer:
        peer = self.node.peer(client_id, token, **options)
        self.assertEqual(peer.got(), [Connack(False, 0)])
        return peer

    def subscriber(self, *filters: tuple[str, int], client_id: str = "s") -> Peer:
        peer = self.peer(client_id)
        peer.send(packets.subscribe(1, filters))
        self.settle()
        self.assertEqual(peer.got(), [Suback(1, tuple(qos for _, qos in filters))])
        return peer

    # -- CONNECT

    def test_connected(self) -> None:
        """[MQTT-3.1.4-4]: a CONNECT with a good token is accepted, without a session."""
        self.peer()
        self.assertEqual(len(self.connections), 1)

    def refused(self, code: int, connect: Connect) -> None:
        peer = Peer(self.factory)
        peer.send(packets.connect(connect))
        self.assertEqual(peer.got(), [Connack(False, code)])
        self.assertTrue(peer.closed)

    def test_wrong_token(self) -> None:
        """A wrong token is answered by code 4."""
        self.refused(4, Connect("c", user_name="Bearer", password=b"nonsense"))

    def test_no_token(self) -> None:
        """Without user name and password the answer is code 4."""
        self.refused(4, Connect("c"))

    def test_token_of_other_bytes(self) -> None:
        """A password that is no text is answered by code 4."""
        self.refused(4, Connect("c", user_name="Bearer", password=b"\xff\xfe"))

    def test_wrong_user_name(self) -> None:
        """The user name has to be Bearer."""
        self.refused(4, Connect("c", user_name="alice", password=b"alice"))

    def test_suspended(self) -> None:
        """An account that may not connect is answered by code 5."""
        self.refused(5, Connect("c", user_name="Bearer", password=b"suspended"))

    def test_no_client_id(self) -> None:
        """[MQTT-3.1.3-8]: no client identifier, and a session to be kept: code 2."""
        self.refused(2, Connect("", clean_session=False, user_name="Bearer", password=b"alice"))

    def test_given_client_id(self) -> None:
        """[MQTT-3.1.3-6]: a client without identifier and session is given one; two of them do not meet."""
        first = self.peer("")
        self.peer("")
        self.assertFalse(first.closed)

    def test_other_level(self) -> None:
        """[MQTT-3.1.2-2]: MQTT 5 is answered by code 1."""
        peer = Peer(self.factory)
        peer.send(packets.connect(Connect("c")).replace(b"MQTT\x04", b"MQTT\x05"))
        self.assertEqual(peer.got(), [Connack(False, 1)])
        self.assertTrue(peer.closed)

    def test_full(self) -> None:
        """Beyond the limit of connections the answer is code 3."""
        for client_id in "abc":
            self.peer(client_id)
        self.refused(3, Connect("d", user_name="Bearer", password=b"alice"))

    def test_every_status_has_a_code(self) -> None:
        """[MQTT-3.2.2-6]: no refusal is without a CONNACK return code."""
        kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Refused)]
        self.assertTrue({return_code(kind()) for kind in kinds} <= {2, 3, 4, 5})
        self.assertTrue({kind.status for kind in kinds} - {404, 405, 409, 413, 415, 422} <= set(_RETURN_CODES))

    def test_first_packet(self) -> None:
        """[MQTT-3.1.0-1]: whatever comes before CONNECT closes the connection."""
        peer = Peer(self.factory)
        peer.send(packets.PINGREQ)
        self.assertTrue(peer.closed)
        self.assertEqual(peer.got(), [])

    def test_second_connect(self) -> None:
        """[MQTT-3.1.0-2]: a second CONNECT closes the connection."""
        peer = self.peer()
        peer.connect()
        self.assertTrue(peer.closed)

    def test_no_connect_in_time(self) -> None:
        """A connection without CONNECT is closed after the time allowed."""
        peer = Peer(self.factory)
        self.clock.advance(self.limits.connect_seconds - 1)
        self.assertFalse(peer.closed)
        self.clock.advance(2)
        self.assertTrue(peer.closed)

    def test_takeover(self) -> None:
        """[MQTT-3.1.4-2]: a second client of the same identifier closes the first."""
        first = self.peer("same")
        second = self.peer("same")
        self.assertTrue(first.closed)
        self.assertFalse(second.closed)

    def test_takeover_at_the_limit(self) -> None:
        """A client whose last connection is among as many as there may be takes that one's place, session and all."""
        for clean in (True, False):
            first = self.peer("same", clean_session=clean)
            others = [self.peer(str(number)) for number in range(self.limits.connections - 1)]
            self.assertEqual(self.node.peer("one more").got(), [Connack(False, 3)])
            second = self.node.peer("same", clean_session=clean)
            self.assertTrue(first.closed)
            self.assertEqual(second.got(), [Connack(not clean, 0)])
            self.assertEqual([other.closed for other in others], [False] * len(others))
            for peer in (first, second, *others):
                peer.lose()

    def test_identifiers_are_private(self) -> None:
        """The same client identifier of another account is another client."""
        first = self.peer("same")
        self.peer("same", token="bob")
        self.assertFalse(first.closed)

    # -- life

    def test_ping(self) -> None:
        """[MQTT-3.12.4-1]: PINGREQ is answered by PINGRESP."""
        peer = self.peer()
        peer.send(packets.PINGREQ)
        self.assertEqual(peer.got(), [Bare(Type.PINGRESP)])

    def test_keep_alive(self) -> None:
        """[MQTT-3.1.2-24]: silence of one and a half keep alives closes; a packet in between puts it off."""
        peer = self.peer(keep_alive=10)
        self.clock.pump([1] * 14)
        peer.send(packets.PINGREQ)
        self.clock.pump([1] * 14)
        self.assertFalse(peer.closed)
        self.clock.pump([1] * 3)
        self.assertTrue(peer.closed)

    def test_token_expires(self) -> None:
        """The connection ends when its token does."""
        peer = self.peer()
        self.clock.pump([1] * (LIFE - 1))
        self.assertFalse(peer.closed)
        self.clock.pump([1] * 2)
        self.assertTrue(peer.closed)

    def test_ended(self) -> None:
        """The gateway can end a connection, for example when its key was revoked."""
        peer = self.peer()
        self.connections.end(InvalidToken("revoked"))
        self.assertTrue(peer.closed)
        self.assertEqual(len(self.connections), 0)

    def test_disconnect(self) -> None:
        """[MQTT-3.14.4-1]: after DISCONNECT the connection is closed, and nothing behind it is looked at."""
        peer = self.peer()
        peer.send(packets.DISCONNECT, packets.PINGREQ)
        self.assertTrue(peer.closed)
        self.assertEqual(peer.got(), [])

    def test_malformed(self) -> None:
        """[MQTT-4.8.0-1]: what comes before a malformed packet counts, then the connection closes; others stay."""
        other = self.peer("other")
        peer = self.peer()
        peer.send(packets.PINGREQ, b"\xf0\x00")
        self.assertEqual(peer.got(), [Bare(Type.PINGRESP)])
        self.assertTrue(peer.closed)
        self.assertFalse(other.closed)

    def test_server_packets(self) -> None:
        """[MQTT-4.8.0-1]: packets that only a server sends close the connection."""
        for data in (
            packets.connack(False, 0),
            packets.PINGRESP,
            packets.suback(1, [0]),
            packets.acks(Type.UNSUBACK, [1]),
        ):
            with self.subTest(data=data):
                peer = self.peer()
                peer.send(data)
                self.assertTrue(peer.closed)
                peer.lose()

    def test_too_large(self) -> None:
        """A packet beyond the limit closes the connection before it is read to the end."""
        peer = self.peer()
        peer.send(b"\x30\xff\xff\xff\x7f")
        self.assertTrue(peer.closed)

    # -- publish and subscribe

    def test_live(self) -> None:
        """A QoS 0 message reaches a subscriber in the same turn, byte for byte."""
        subscriber, publisher = self.subscriber(("open/+", 0)), self.peer()
        publisher.send(packets.publishes("open/live", [b"one", b"two", b"\xff\x00"]))
        self.assertEqual(
            subscriber.got(), [("open/live", b"one", 0), ("open/live", b"two", 0), ("open/live", b"\xff\x00", 0)]
        )

    def test_several_topics_in_a_read(self) -> None:
        """Messages on several topics in one read keep their order, and are sent in one write."""
        subscriber, publisher = self.subscriber(("open/#", 0)), self.peer()
        writes: list[bytes] = []
        subscriber.transport.write = writes.append  # type: ignore[method-assign]
        publisher.send(*(packets.publishes(f"open/{n % 2}", [b"%d" % n]) for n in range(4)))
        self.assertEqual(len(writes), 1)
        self.assertEqual(writes[0], b"".join(packets.publishes(f"open/{n % 2}", [b"%d" % n]) for n in range(4)))

    def test_forms(self) -> None:
        """Each subscriber is shown the form of the name that it subscribed with, whatever the publisher wrote."""
        short, full = self.subscriber(("t", 0)), self.subscriber(("alice_shop_t", 0), client_id="f")
        publisher = self.peer()
        publisher.send(packets.publishes("t", [b"1"]), packets.publishes("alice_shop_t", [b"2"]))
        self.assertEqual(short.got(), [("t", b"1", 0), ("t", b"2", 0)])
        self.assertEqual(full.got(), [("alice_shop_t", b"1", 0), ("alice_shop_t", b"2", 0)])

    def test_acknowledged(self) -> None:
        """[MQTT-4.3.2-2], [MQTT-3.8.4-6]: a QoS 1 publish is acknowledged once stored, and delivered from the bus at
        the lower QoS of the two."""
        high, low = self.subscriber(("t", 2)), self.subscriber(("t", 0), client_id="l")
        publisher = self.peer()
        publisher.send(packets.publishes("t", [b"1", b"2"], 1, [7, 8]))
        self.assertEqual(publisher.got(), [])
        self.settle()
        self.assertEqual(publisher.got(), [Ack(Type.PUBACK, (7, 8))])
        self.assertEqual(high.got(), [("t", b"1", 1), ("t", b"2", 1)])
        self.assertEqual(low.got(), [("t", b"1", 0), ("t", b"2", 0)])

    def test_exactly_once(self) -> None:
        """[MQTT-4.3.3-2]: a QoS 2 publish repeated before its release is delivered once; then the id is free again."""
        subscriber, publisher = self.subscriber(("t", 0)), self.peer()
        publisher.send(packets.publishes("t", [b"1"], 2, [7]))
        self.settle()
        publisher.send(packets.publishes("t", [b"1"], 2, [7], dup=True))
        self.settle()
        self.assertEqual(publisher.got(), [Ack(Type.PUBREC, (7, 7))])
        publisher.send(packets.acks(Type.PUBREL, [7]))
        self.assertEqual(publisher.got(), [Ack(Type.PUBCOMP, (7,))])
        publisher.send(packets.publishes("t", [b"2"], 2, [7]))
        self.settle()
        self.assertEqual(subscriber.got(), [("t", b"1", 0), ("t", b"2", 0)])

    def test_bus_away(self) -> None:
        """[MQTT-4.8.0-2]: while the bus is away QoS 1 closes the connection unacknowledged, and QoS 0 reaches this
        node's clients."""
        subscriber, publisher, other = self.subscriber(("t", 1)), self.peer("p"), self.peer("q")
        self.bus.go_away()
        other.send(packets.publishes("t", [b"live"]))
        publisher.send(packets.publishes("t", [b"stored"], 1, [1]))
        self.settle()
        self.assertEqual(subscriber.got(), [("t", b"live", 0)])
        self.assertTrue(publisher.closed)
        self.assertEqual(publisher.got(), [])

    def test_forbidden_publish(self) -> None:
        """[MQTT-3.3.5-2]: a PUBLISH beyond the grants closes the connection; what came before it counts."""
        subscriber, publisher = self.subscriber(("#", 0)), self.peer()
        publisher.send(
            packets.publishes("t", [b"1"]), packets.publishes("secret", [b"2"]), packets.publishes("t", [b"3"])
        )
        self.assertTrue(publisher.closed)
        self.assertEqual(subscriber.got(), [("t", b"1", 0)])

    def test_wildcard_publish(self) -> None:
        """[MQTT-3.3.2-2]: a topic name with a wildcard closes the connection."""
        publisher = self.peer()
        publisher.send(packets.publishes("open/+", [b""]))
        self.assertTrue(publisher.closed)

    def test_forbidden_filter(self) -> None:
        """[MQTT-3.8.4-5]: filters that are refused are answered by 0x80, each for itself."""
        peer = self.peer()
        peer.send(packets.subscribe(5, [("t", 1), ("$share/g", 0), ("bob_shop_t", 0)]))
        self.settle()
        # bob's full name is, for alice, a short name in her own namespace.
        self.assertEqual(peer.got(), [Suback(5, (1, 0x80, 0))])

    def test_suback_waits(self) -> None:
        """SUBACK comes once the subscription holds on all nodes; a client that left meanwhile costs nothing."""
        held: list[Deferred[None]] = []

        def attach(namespace: Namespace) -> Deferred[None]:
            held.append(Deferred())
            return held[-1]

        self.patch(self.bus, "attach", attach)
        self.patch(self.bus, "detach", lambda namespace: None)
        staying, leaving = self.peer(), self.peer("l")
        for peer in (staying, leaving):
            peer.send(packets.subscribe(1, [("t", 0), ("u", 1)]))
        leaving.lose()
        for attached in held[1:]:
            attached.callback(None)
        self.assertEqual((staying.got(), leaving.got()), ([], []))
        held[0].callback(None)
        self.assertEqual((staying.got(), leaving.got()), ([Suback(1, (0, 1))], []))

    def test_malformed_filter(self) -> None:
        """[MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.7.3-1]: a malformed or empty filter closes the connection."""
        for filter_ in ("a#", "a/#/b", "a+", ""):
            with self.subTest(filter=filter_):
                peer = self.peer()
                peer.send(packets.subscribe(5, [(filter_, 1)]))
                self.assertTrue(peer.closed)
                peer.lose()

    def test_repeated_before_stored(self) -> None:
        """[MQTT-4.3.3-2]: a QoS 2 publish repeated while its first copy is being stored is not acknowledged before."""
        publisher = self.peer()
        publisher.send(packets.publishes("t", [b"1"], 2, [7]), packets.publishes("t", [b"1"], 2, [7], dup=True))
        self.assertEqual(publisher.got(), [])
        self.settle()
        self.assertEqual(publisher.got(), [Ack(Type.PUBREC, (7, 7))])

    def test_accounts_apart(self) -> None:
        """Nothing of another account is delivered, whatever the filter."""
        alice = self.subscriber(("#", 0), ("+/#", 0), ("bob_shop_open/#", 0), ("bob_shop_open/live", 0))
        bob = self.peer("b", token="bob")
        bob.send(packets.publishes("open/live", [b"1"]), packets.publishes("t", [b"2"], 1, [1]))
        self.settle()
        self.assertEqual(bob.got(), [Ack(Type.PUBACK, (1,))])
        self.assertEqual(alice.got(), [])

    def test_unsubscribe(self) -> None:
        """[MQTT-3.10.4-5]: UNSUBACK comes in any case, and deliveries end."""
        subscriber, publisher = self.subscriber(("t", 0)), self.peer()
        subscriber.send(packets.unsubscribe(2, ["t", "never"]))
        self.assertEqual(subscriber.got(), [Ack(Type.UNSUBACK, (2,))])
        publisher.send(packets.publishes("t", [b"1"]))
        self.assertEqual(subscriber.got(), [])

    def test_too_many_subscriptions(self) -> None:
        """Beyond the limit a filter is refused; a repeated one is not counted again."""
        self.factory.gateway.limits = Limits(subscriptions=1)
        peer = self.peer()
        peer.send(packets.subscribe(1, [("t", 0), ("t", 1), ("u", 0)]))
        self.settle()
        self.assertEqual(peer.got(), [Suback(1, (0, 1, 0x80))])

    def test_window(self) -> None:
        """[MQTT-4.6.0-6]: no more than the window is in flight; acknowledgements bring the rest, in order."""
        subscriber, publisher = self.subscriber(("t", 1)), self.peer()
        publisher.send(packets.publishes("t", [b"%d" % n for n in range(6)], 1, range(1, 7)))
        self.settle()
        self.assertEqual([payload for _, payload, _ in subscriber.got()], [b"0", b"1", b"2", b"3"])
        subscriber.send(packets.acks(Type.PUBACK, [1, 2]))
        self.assertEqual([payload for _, payload, _ in subscriber.got()], [b"4", b"5"])

    def test_subscriber_without_acknowledgements(self) -> None:
        """A client that acknowledges nothing is cut off when its queue is full; the publisher goes on."""
        subscriber, publisher = self.subscriber(("t", 1)), self.peer()
        for turn in range(2):
            publisher.send(packets.publishes("t", [b"x"] * 7, 1, range(1 + 7 * turn, 8 + 7 * turn)))
            self.settle()
        self.assertTrue(subscriber.closed)
        self.assertFalse(publisher.closed)

    def test_measured(self) -> None:
        """Messages, bytes and the time until acknowledged ones are stored are counted; and each refusal by its code."""
        meter, peer = self.gateway.meter, self.peer()
        before = meter.count("received_bytes", "mqtt")
        data = packets.publishes("t", [b"x", b"y"], 1, [1, 2]) + packets.publishes("t", [b"z"])
        peer.send(data)
        self.settle()
        self.assertEqual(meter.count("received_bytes", "mqtt") - before, len(data))
        self.assertEqual(meter.count("messages_received", "mqtt"), 3)
        self.assertEqual(sum(meter.histogram("publish_duration_seconds", "mqtt").counts), 2)
        self.assertGreaterEqual(meter.count("sent_bytes", "mqtt"), len(packets.acks(Type.PUBACK, [1, 2])))
        self.refused(4, Connect("c", user_name="Bearer", password=b"nonsense"))
        peer.send(packets.publishes("$SYS/x", [b"x"]))
        Peer(self.factory).send(packets.PINGREQ)
        for code in ("invalid_token", "insufficient_scope", "protocol_violation"):
            self.assertEqual(meter.count("refusals", ("mqtt", code)), 1, code)

    def test_slow_subscriber(self) -> None:
        """A client that does not read loses QoS 0 messages and keeps its connection; memory stays bounded."""
        subscriber, publisher = self.subscriber(("t", 0)), self.peer()
        subscriber.protocol._outbox.pauseProducing()
        for _ in range(40):
            publisher.send(packets.publishes("t", [b"x" * 60_000]))
        self.assertTrue(subscriber.protocol._outbox.held <= self.limits.subscriber_buffer_bytes)
        dropped = self.gateway.meter.count("messages_dropped", ("mqtt", "slow"))
        self.assertTrue(dropped > 0)
        subscriber.protocol._outbox.resumeProducing()
        self.assertEqual(len(subscriber.got()) + dropped, 40)

    def test_slow_subscriber_at_qos_1(self) -> None:
        """QoS 1 messages wait in the session while the client reads slowly, though they are more than its buffer."""
        self.gateway.limits = Limits()
        subscriber, publisher = self.subscriber(("t", 1)), self.peer()
        outbox = subscriber.protocol._outbox
        outbox.pauseProducing()
        sent = [b"%d" % n * 200_000 for n in range(9)]
        for first, last in ((0, 2), (2, 9)):
            ids = list(range(first + 1, last + 1))
            publisher.send(packets.publishes("t", sent[first:last], 1, ids))
            self.settle()
            self.assertTrue(outbox.held <= self.limits.subscriber_buffer_bytes)
            self.assertFalse(subscriber.closed)
        outbox.resumeProducing()
        while seen := [payload for _, payload, _ in subscriber.got()]:
            self.assertEqual(seen, sent[: len(seen)])
            self.assertTrue(len(seen) <= 6)
            del sent[: len(seen)]
            subscriber.send(packets.acks(Type.PUBACK, list(range(1, 10))))
        self.assertEqual(sent, [])

    def test_unread_answers(self) -> None:
        """A client that reads no answers at all is cut off: none is left out silently."""
        for packet in (packets.subscribe(1, [("t", 0)]), packets.unsubscribe(1, ["t"]), packets.PINGREQ):
            with self.subTest(packet=packet):
                peer = self.peer()
                outbox = peer.protocol._outbox
                outbox.pauseProducing()
                outbox.write(bytes(self.limits.subscriber_buffer_bytes))
                peer.send(packet)
                self.assertTrue(peer.transport.disconnected)
                peer.lose()

    def test_close_does_not_wait_for_ever(self) -> None:
        """A client that reads no more keeps a closing connection for some seconds only; one that is gone, no longer."""
        for gone in (False, True):
            peer = self.peer()
            peer.protocol._outbox.pauseProducing()
            peer.send(packets.PINGREQ, packets.DISCONNECT)
            self.assertFalse(peer.closed)
            if gone:
                peer.lose()
            self.clock.pump([1] * 7)
            self.assertEqual(peer.transport.disconnected, not gone)
            peer.lose()
        self.assertEqual(self.node.wheel._places, {})

    def test_nothing_is_taken_behind_the_close(self) -> None:
        """What comes while a connection closes is not looked at, and not logged."""
        events: list[Any] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        peer = self.peer()
        peer.protocol._outbox.pauseProducing()
        for _ in range(3):
            peer.send(b"\xf0\x00")
        self.assertEqual(len(events), 1)

    def test_refused_filters_are_logged_once(self) -> None:
        """However many filters of a SUBSCRIBE are refused, it is one line in the log."""
        events: list[Any] = []
        peer = self.peer()
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        peer.send(packets.subscribe(1, [("$share/g", 0)] * 100))
        self.assertEqual(peer.got(), [Suback(1, (0x80,) * 100)])
        self.assertEqual(len(events), 1)

    def test_publisher_is_slowed(self) -> None:
        """A publisher with too much unacknowledged is read no further until the bus has caught up."""
        publisher = self.peer()
        publisher.send(packets.publishes("t", [b"x"] * 11, 1, range(1, 12)))
        self.assertEqual(publisher.transport.producerState, "paused")
        self.settle()
        self.assertEqual(publisher.transport.producerState, "producing")

    def test_congestion(self) -> None:
        """While the bus is congested publishers are not read, which is no silence of theirs; then they are again."""
        publisher, leaving = self.peer(keep_alive=4), self.peer("l")
        self.bus.congested = True
        for peer in (publisher, leaving):
            peer.send(packets.publishes("t", [b"x"]))
            self.assertEqual(peer.transport.producerState, "paused")
        leaving.lose()
        self.clock.pump([1] * 20)
        self.assertFalse(publisher.closed)
        self.assertEqual(len(self.gateway._paused), 1)
        self.bus.relieve()
        self.assertEqual(publisher.transport.producerState, "producing")
        self.clock.pump([1] * 20)
        self.assertTrue(publisher.closed)

    def test_acknowledgements_in_congestion(self) -> None:
        """Clients that only receive are read all the time: a congestion does not keep their acknowledgements away."""
        subscriber = self.subscriber(("t", 1))
        self.bus.congested = True
        subscriber.send(packets.PINGREQ, packets.acks(Type.PUBACK, [1]))
        self.assertEqual(subscriber.transport.producerState, "producing")

    def test_unix_socket(self) -> None:
        """On a Unix socket, which knows no TCP options, the protocol works as well."""

        class UnixTransport(Transport):
            def setTcpNoDelay(self, enabled: bool) -> None:
                raise OSError("Operation not supported")

        protocol = self.factory.buildProtocol(None)
        protocol.makeConnection(UnixTransport(UNIXAddress("here")))

    # -- will and drain

    def test_will(self) -> None:
        """[MQTT-3.1.2-8]: the will is published, and sent, when the connection is lost."""
        subscriber = self.subscriber(("t", 0))
        peer = self.peer(will=Will("t", b"gone", 0, False))
        peer.lose()
        self.assertEqual(subscriber.got(), [("t", b"gone", 0)])

    def test_acknowledged_will(self) -> None:
        """A will at QoS 1 takes the way of the messages before it, so that it cannot overtake them."""
        subscriber = self.subscriber(("t", 1))
        published: list[list[bytes]] = []
        publish = self.bus.publish

        def watched(run: Run) -> Deferred[None]:
            published.append(list(run.payloads))
            return publish(run)

        self.patch(self.bus, "publish", watched)
        peer = self.peer(will=Will("t", b"gone", 1, False))
        peer.send(packets.publishes("t", [b"here"], 1, [1]))
        peer.lose()
        self.settle()
        self.assertEqual(published, [[b"here"], [b"gone"]])
        self.assertEqual(subscriber.got(), [("t", b"here", 1), ("t", b"gone", 1)])

    def test_no_will(self) -> None:
        """[MQTT-3.14.4-3]: after DISCONNECT the will is forgotten."""
        subscriber = self.subscriber(("t", 0))
        peer = self.peer(will=Will("t", b"gone", 0, False))
        peer.send(packets.DISCONNECT)
        peer.lose()
        self.turn.flush()
        self.assertEqual(subscriber.got(), [])

    def test_forbidden_will(self) -> None:
        """A will beyond the grants refuses the CONNECT."""
        peer = Peer(self.factory).connect(will=Will("secret", b"", 0, False))
        self.assertEqual(peer.got(), [Connack(False, 5)])
        self.assertTrue(peer.closed)
        self.assertEqual(len(self.connections), 0)

    def test_drain(self) -> None:
        """When the gateway goes away, acknowledgements under way are finished before the connection closes."""
        peer = self.peer()
        peer.send(packets.publishes("t", [b"1"], 1, [7]))
        self.connections.end(None)
        self.assertFalse(peer.closed)
        self.settle()
        self.assertEqual(peer.got(), [Ack(Type.PUBACK, (7,))])
        self.assertTrue(peer.closed)

    def test_nothing_is_left(self) -> None:
        """A connection that was lost leaves no trace."""
        peer = self.subscriber(("t", 0), ("open/#", 1))
        peer.lose()
        self.assertEqual(len(self.connections), 0)
        self.assertEqual(self.node.sessions._seats, {})
        self.assertFalse(self.gateway._router._own)
        self.assertFalse(self.gateway._router._spaces)
        self.assertEqual(Topic(HOME, "t").shown(True), "alice_shop_t")
