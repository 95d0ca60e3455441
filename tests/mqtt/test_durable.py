"""Sessions that outlive their connections: on one node, over a crash, and between nodes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import BusUnavailable, TooManyConnections
from flowgate.limits import Limits
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Connack, Publish, Suback, Type, Will
from flowgate.mqtt.record import RECORDS, STATES, Record
from flowgate.mqtt.sessions import Sessions
from flowgate.topics import Namespace, Topic
from tests.mqtt.node import HOME, LIFE, Cluster, Node, Peer

LIMITS = Limits(inflight_messages=4, queued_messages=20, connections=10, session_seconds=3600)


class DurableTests(SynchronousTestCase):
    """Common steps."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster, LIMITS)

    def settle(self) -> None:
        self.cluster.settle()

    def durable(self, present: bool = False, node: Node | None = None, **options: Any) -> Peer:
        """The durable client ``d``, connected."""
        peer = (node or self.node).peer("d", clean_session=False, **options)
        first = peer.packets()
        self.assertEqual(first[0], Connack(present, 0))
        self.behind = first[1:]  # what came at once
        return peer

    def subscribed(self, *filters: tuple[str, int], node: Node | None = None) -> Peer:
        peer = self.durable(node=node)
        self.subscribe(peer, *filters)
        return peer

    def subscribe(self, peer: Peer, *filters: tuple[str, int]) -> None:
        peer.send(packets.subscribe(9, filters))
        self.settle()
        self.assertEqual(peer.got(), [Suback(9, tuple(qos for _, qos in filters))])

    def publish(self, *payloads: bytes, qos: int = 1, topic: str = "open/a", node: Node | None = None) -> None:
        """Have another client publish; the messages are stored."""
        publisher = (node or self.node).peer("publisher")
        publisher.got()
        ids = range(1, len(payloads) + 1)
        publisher.send(packets.publishes(topic, payloads, qos, ids if qos else ()))
        self.settle()
        publisher.send(packets.DISCONNECT)
        publisher.lose()
        self.settle()

    def leave(self, peer: Peer) -> None:
        peer.send(packets.DISCONNECT)
        peer.lose()
        self.settle()

    def lose(self, peer: Peer) -> None:
        peer.lose()
        self.settle()

    def deliveries(self, found: list[Any]) -> list[tuple[bytes, int, int, bool]]:
        """Payload, QoS, packet identifier and DUP of each PUBLISH."""
        return [
            (payload, one.qos, packet_id, one.dup)
            for one in found
            if isinstance(one, Publish)
            for payload, packet_id in zip(one.payloads(), one.packet_ids or [0] * one.count, strict=True)
        ]

    def ack(self, peer: Peer, kind: Type, *packet_ids: int) -> None:
        peer.send(packets.acks(kind, packet_ids))
        self.settle()


class SessionPresentTests(DurableTests):
    """The session present flag, and what begins and ends a session."""

    def test_first(self) -> None:
        """[MQTT-3.2.2-3]: without a session there is none present."""
        self.durable(present=False)

    def test_without_subscriptions(self) -> None:
        """[MQTT-3.2.2-2]: a session without subscriptions is one."""
        self.leave(self.durable())
        self.durable(present=True)

    def test_clean_session_removes(self) -> None:
        """[MQTT-3.1.2-6]: a clean session discards the one before, and leaves none behind."""
        self.leave(self.subscribed(("open/a", 1)))
        clean = self.node.peer("d")
        self.assertEqual(clean.got(), [Connack(False, 0)])
        self.leave(clean)
        self.publish(b"1")
        peer = self.durable(present=False)
        self.assertEqual(self.behind, [])
        self.leave(peer)

    def test_nothing_kept_for_clean(self) -> None:
        """A client with a clean session and no will leaves nothing in the store."""
        peer = self.node.peer("d")
        peer.send(packets.subscribe(1, [("open/a", 1)]))
        self.settle()
        self.leave(peer)
        self.assertIsNone(self.successResultOf(self.cluster.store.get(RECORDS, "alice.shop.i-d")))

    def test_refused_connect_touches_nothing(self) -> None:
        """[MQTT-3.1.4-5]: a CONNECT that is refused changes no session."""
        peer = self.subscribed(("open/a", 1))
        refused = self.node.peer("d", token="nonsense")
        self.assertEqual(refused.got(), [Connack(False, 4)])
        self.assertFalse(peer.closed)

    def test_expiry(self) -> None:
        """[MQTT-4.1.0-1]: a session is removed once its client was away for the configured time, and not before."""
        self.leave(self.subscribed(("open/a", 1)))
        self.cluster.clock.pump([60] * 59)
        self.settle()
        self.leave(self.durable(present=True))
        self.cluster.clock.pump([60] * 62)
        self.settle()
        self.assertIsNone(self.successResultOf(self.cluster.store.get(RECORDS, "alice.shop.i-d")))
        self.assertIsNone(self.successResultOf(self.cluster.store.get(STATES, "alice.shop.i-d")))
        self.durable(present=False)

    def test_connected_does_not_expire(self) -> None:
        """[MQTT-4.1.0-2]: the session of a connected client does not expire."""
        node = Node(self.cluster, Limits(session_seconds=LIFE // 3))
        peer = node.peer("d", clean_session=False)
        peer.got()
        self.cluster.clock.pump([30] * 28)
        self.settle()
        self.assertFalse(peer.closed)
        self.leave(peer)
        self.assertEqual(node.peer("d", clean_session=False).got(), [Connack(True, 0)])

    def test_too_many(self) -> None:
        """Beyond the limit of sessions the answer is code 3; those that are there go on."""
        node = Node(self.cluster, Limits(sessions=1))
        self.leave(node.peer("a", clean_session=False))
        self.assertEqual(node.peer("b", clean_session=False).got(), [Connack(False, 3)])
        self.assertEqual(node.peer("a", clean_session=False).got(), [Connack(True, 0)])

    def test_too_many_of_one_application(self) -> None:
        """One application cannot take what is there for all."""
        node = Node(self.cluster, Limits(app_sessions=1))
        self.leave(node.peer("a", clean_session=False))
        self.assertEqual(node.peer("b", clean_session=False).got(), [Connack(False, 3)])
        self.assertEqual(node.peer("b", token="bob", clean_session=False).got(), [Connack(False, 0)])
        self.leave(node.peer("a"))
        self.assertEqual(node.peer("c", clean_session=False).got(), [Connack(False, 0)])

    def test_bus_away(self) -> None:
        """While the store is away a durable session cannot be had: code 3."""
        self.node.store.away = True
        self.assertEqual(self.node.peer("d", clean_session=False).got(), [Connack(False, 3)])
        self.assertEqual(self.node.peer("e").got(), [Connack(False, 0)])

    def test_packets_behind_connect(self) -> None:
        """[MQTT-3.2.0-1]: what a client sends behind CONNECT, without waiting, is done once the session is there."""
        peer = Peer(self.node.factory)
        peer.connect("d", clean_session=False)
        peer.send(packets.subscribe(1, [("open/a", 1)]))
        peer.send(packets.PINGREQ)
        self.assertEqual(peer.got(), [])
        self.settle()
        first, *others = peer.got()
        self.assertEqual(first, Connack(False, 0))
        self.assertCountEqual(others, [packets.Bare(Type.PINGRESP), Suback(1, (1,))])


class SeatTests(DurableTests):
    """Many connections of one client identifier."""

    def test_many_at_once(self) -> None:
        """Of hundreds that come before the first has its session, the last one gets it; the others are closed."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                limits = Limits(connections=1000)
                node = Node(self.cluster, limits, alone=False)
                peers = [Peer(node.factory).connect("same", clean_session=clean) for _ in range(500)]
                self.settle()
                self.assertEqual([peer.closed for peer in peers], [True] * 499 + [False])
                self.assertEqual([one.code for one in peers[-1].got()], [0])
                peers[-1].lose()
                self.settle()
                self.assertEqual(node.sessions._seats, {})

    def test_not_kept_yet(self) -> None:
        """While the session of the last connection cannot be kept the answer is code 3; afterwards all is well."""
        peer = self.subscribed(("open/a", 1))
        self.node.store.away = True
        peer.lose()
        for _ in range(300):
            again = Peer(self.node.factory).connect("d", clean_session=False)
            self.cluster.clock.pump([1] * 6)
            self.assertEqual(again.got(), [Connack(False, 3)])
            again.lose()
        self.node.store.away = False
        self.cluster.clock.pump([1] * 3)
        self.settle()
        self.durable(present=True)

    def test_gone_while_waiting(self) -> None:
        """A connection that is lost while it waits for its seat leaves it to the next one."""
        self.subscribed(("open/a", 1))
        first = Peer(self.node.factory).connect("d", clean_session=False)
        first.lose()
        self.settle()
        self.durable(present=True)

    def test_refused_at_the_store(self) -> None:
        """A CONNECT whose record was written without an answer leaves no will and no session that never ends."""
        put = self.node.store.put

        def lost(bucket: str, key: str, value: bytes, revision: int | None = None) -> Any:
            return put(bucket, key, value, revision).addCallback(lambda _: fail(BusUnavailable()))

        self.patch(self.node.store, "put", lost)
        peer = self.node.peer("d", clean_session=False, will=Will("open/will", b"gone", 1, False))
        self.assertEqual(peer.got(), [Connack(False, 3)])
        self.patch(self.node.store, "put", put)
        self.cluster.clock.pump([1] * 3)
        self.settle()
        entry = self.successResultOf(self.cluster.store.get(RECORDS, "alice.shop.i-d"))
        assert entry is not None
        record = Record.decode(entry.value)
        self.assertEqual((record.owner, record.will), ("", None))


class OfflineTests(DurableTests):
    """What is stored while the client is away."""

    def test_queued(self) -> None:
        """[MQTT-3.1.2-5]: QoS 1 and 2 messages wait for the client, in order; QoS 0 messages do not."""
        self.leave(self.subscribed(("open/#", 2)))
        self.publish(b"0", qos=0)
        self.publish(b"1", qos=1)
        self.publish(b"2", qos=2)
        self.publish(b"3", qos=1)
        self.durable(present=True)
        self.assertEqual(self.deliveries(self.behind), [(b"1", 1, 1, False), (b"2", 2, 2, False), (b"3", 1, 3, False)])

    def test_qos_0_subscription(self) -> None:
        """Nothing waits for a subscription of QoS 0, but it is still in force."""
        self.leave(self.subscribed(("open/a", 0)))
        self.publish(b"1")
        peer = self.durable(present=True)
        self.assertEqual(self.behind, [])
        self.publish(b"2")
        self.assertEqual(self.deliveries(peer.packets()), [(b"2", 0, 0, False)])

    def test_window(self) -> None:
        """No more than the window is in flight; the rest follows the acknowledgements, in order."""
        self.leave(self.subscribed(("open/a", 1)))
        self.publish(*(b"%d" % n for n in range(10)))
        peer = self.durable(present=True)
        found = self.deliveries(self.behind)
        self.assertEqual([one[0] for one in found], [b"0", b"1", b"2", b"3"])
        got = [one[0] for one in found]
        for _ in range(10):
            self.ack(peer, Type.PUBACK, *[one[2] for one in found])
            found = self.deliveries(peer.packets())
            got += [one[0] for one in found]
        self.assertEqual(got, [b"%d" % n for n in range(10)])

    def test_bounded(self) -> None:
        """Of more messages than may wait the oldest are dropped, and the client is told how many."""
        self.leave(self.subscribed(("open/a", 1), ("$SYS/notices", 0)))
        self.publish(*(b"%d" % n for n in range(25)))
        self.durable(present=True)
        found = self.deliveries(self.behind)
        self.assertIn(b'"messages_dropped"', found[0][0])
        self.assertIn(b'"count": 5', found[0][0])
        self.assertEqual([one[0] for one in found[1:]], [b"5", b"6", b"7", b"8"])
        self.assertEqual(self.node.meter.count("messages_dropped", ("mqtt", "session")), 5)

    def test_before_subscription(self) -> None:
        """What was published before SUBSCRIBE is not delivered, also not after a reconnection."""
        peer = self.durable()
        self.publish(b"early")
        self.subscribe(peer, ("open/a", 1))
        self.leave(peer)
        self.publish(b"late")
        self.durable(present=True)
        self.assertEqual([one[0] for one in self.deliveries(self.behind)], [b"late"])

    def test_after_unsubscribe(self) -> None:
        """What is published after UNSUBSCRIBE is not delivered, also not after a reconnection."""
        peer = self.subscribed(("open/a", 1), ("open/b", 1))
        peer.send(packets.unsubscribe(3, ["open/a"]))
        self.settle()
        self.assertEqual(peer.got(), [Ack(Type.UNSUBACK, (3,))])
        self.leave(peer)
        self.publish(b"a")
        self.publish(b"b", topic="open/b")
        self.durable(present=True)
        self.assertEqual([one[0] for one in self.deliveries(self.behind)], [b"b"])

    def test_narrower_token(self) -> None:
        """A client that comes back with less leave is given no more than that."""
        self.leave(self.subscribed(("open/a", 1), ("t", 1)))
        self.publish(b"a")
        self.publish(b"t", topic="t")
        self.durable(present=True, token="narrow")
        self.assertEqual([one[0] for one in self.deliveries(self.behind)], [b"a"])

    def test_session_of_another_account(self) -> None:
        """The same client identifier of another account has another session."""
        self.leave(self.subscribed(("open/a", 1)))
        self.assertEqual(self.node.peer("d", token="bob", clean_session=False).got(), [Connack(False, 0)])


class LiveTests(DurableTests):
    """Deliveries while the client is connected."""

    def test_subscribe_behind_connect(self) -> None:
        """A SUBSCRIBE right behind CONNECT, while what was in flight is read again, brings nothing twice."""
        peer = self.subscribed(("open/a", 2))
        self.publish(b"old", qos=2)
        self.assertEqual(len(self.deliveries(peer.packets())), 1)
        peer.send(packets.unsubscribe(3, ["open/a"]))
        self.settle()
        self.lose(peer)
        peer = Peer(self.node.factory).connect("d", clean_session=False)
        peer.send(packets.subscribe(1, [("open/b", 2)]))
        self.settle()
        peer.packets()
        self.publish(b"once", qos=2, topic="open/b")
        self.assertEqual([one[0] for one in self.deliveries(peer.packets())], [b"once"])

    def test_one_write(self) -> None:
        """However many filters a SUBSCRIBE has, the session's record is written once."""
        peer = self.durable()
        self.node.store.puts = 0
        peer.send(packets.subscribe(1, [(f"open/{number}", 1) for number in range(200)]))
        self.settle()
        self.assertEqual(peer.got(), [Suback(1, (1,) * 200)])
        self.assertEqual(self.node.store.puts, 1)

    def test_many_subscribes(self) -> None:
        """A client with many SUBSCRIBE packets unanswered is read no further until they are."""
        node = Node(self.cluster, Limits(unacknowledged_messages=100), alone=False)
        peer = self.durable(node=node)
        peer.send(b"".join(packets.subscribe(number, [(f"open/{number}", 1)]) for number in range(1, 401)))
        self.assertEqual(peer.transport.producerState, "paused")
        self.settle()
        self.assertEqual(peer.transport.producerState, "producing")

    def test_names_beyond_a_record(self) -> None:
        """Filters that do not fit into the session's record are refused, each for itself."""
        peer = self.durable()
        codes: list[int] = []
        for start in range(0, 900, 100):
            filters = [(f"open/{number:03}/" + "x" * 480, 0) for number in range(start, start + 100)]
            peer.send(packets.subscribe(1, filters))
            self.settle()
            codes += peer.got()[0].codes
        self.assertEqual({*codes}, {0, 0x80})
        self.assertFalse(peer.closed)
        self.leave(peer)
        self.durable(present=True)

    def test_qos(self) -> None:
        """[MQTT-3.8.4-6]: each delivery has the lower of the two qualities of service."""
        for granted in (0, 1, 2):
            for published in (0, 1, 2):
                with self.subTest(granted=granted, published=published):
                    peer = self.durable()
                    self.subscribe(peer, ("open/a", granted))
                    self.publish(b"x", qos=published)
                    self.assertEqual([one[1] for one in self.deliveries(peer.packets())], [min(granted, published)])
                    self.leave(peer)
                    self.leave(self.node.peer("d"))

    def test_overlapping(self) -> None:
        """[MQTT-3.3.5-1]: a message that matches several filters comes once, at the highest QoS."""
        peer = self.subscribed(("open/+", 0), ("open/#", 2), ("open/a", 1))
        self.publish(b"0", qos=0)
        self.publish(b"1", qos=1)
        self.publish(b"2", qos=2)
        self.assertEqual([one[:2] for one in self.deliveries(peer.packets())], [(b"0", 0), (b"1", 1), (b"2", 2)])

    def test_both_forms(self) -> None:
        """A client that subscribed to the short and to the full form of a name gets both."""
        peer = self.subscribed(("open/a", 1), ("alice_shop_open/a", 1))
        self.publish(b"x")
        topics = sorted(one.topic for one in peer.packets())
        self.assertEqual(topics, [b"alice_shop_open/a", b"open/a"])

    def test_resubscribed_at_another_qos(self) -> None:
        """[MQTT-3.8.4-3]: the same filter again replaces the subscription, without a gap or a doubled message."""
        peer = self.subscribed(("open/a", 1))
        self.publish(b"1", qos=2)
        self.assertEqual([one[:2] for one in self.deliveries(peer.packets())], [(b"1", 1)])
        for granted in (2, 0, 1):
            self.subscribe(peer, ("open/a", granted))
            self.publish(b"x", qos=2)
            found = self.deliveries(peer.packets())
            self.assertEqual([one[:2] for one in found], [(b"x", granted)])
            if granted == 1:
                self.ack(peer, Type.PUBACK, found[0][2])
            elif granted == 2:
                self.ack(peer, Type.PUBREC, found[0][2])
                self.ack(peer, Type.PUBCOMP, found[0][2])
                peer.packets()


class RedeliveryTests(DurableTests):
    """What was in flight when the connection was lost, or the node."""

    def again(self, crash: bool) -> list[Any]:
        """Come back, to the same node or after its death to another; return what came behind CONNACK."""
        if crash:
            self.node.die()
            self.node = Node(self.cluster, LIMITS)
        self.peer = self.durable(present=True)
        return self.behind

    def test_unacknowledged(self) -> None:
        """[MQTT-4.4.0-1], [MQTT-3.3.1-1]: what was not acknowledged is sent again, with its identifier and DUP."""
        for qos in (1, 2):
            with self.subTest(qos=qos):
                peer = self.durable()
                self.subscribe(peer, ("open/a", qos))
                self.publish(b"1", b"2", b"3", qos=qos)
                before = self.deliveries(peer.packets())
                self.lose(peer)
                self.assertEqual(
                    self.deliveries(self.again(False)),
                    [(payload, qos, number, True) for payload, _, number, _ in before],
                )
                self.leave(self.peer)
                self.leave(self.node.peer("d"))

    def test_after_crash(self) -> None:
        """[MQTT-4.4.0-1]: at QoS 2 a crash keeps the identifiers; at QoS 1 nothing is lost."""
        peer = self.subscribed(("open/a", 2))
        self.publish(b"1", b"2", qos=2)
        self.publish(b"3", b"4", qos=1)
        before = self.deliveries(peer.packets())
        self.assertEqual(len(before), 4)
        self.cluster.clock.advance(0.5)
        after = self.deliveries(self.again(True))
        self.assertEqual([one[:3] for one in after if one[1] == 2], [one[:3] for one in before if one[1] == 2])
        self.assertEqual([(one[0], one[3]) for one in after if one[1] == 1], [(b"3", True), (b"4", True)])
        self.publish(b"5", b"6", qos=1)
        self.ack(self.peer, Type.PUBACK, *[one[2] for one in after if one[1] == 1])
        self.assertEqual([one[::3] for one in self.deliveries(self.peer.packets())], [(b"5", False), (b"6", False)])

    def test_received(self) -> None:
        """[MQTT-4.4.0-1]: what the client has by PUBREC is not sent again, but released."""
        for crash in (False, True):
            with self.subTest(crash=crash):
                peer = self.durable()
                self.subscribe(peer, ("open/a", 2))
                self.publish(b"1", b"2", qos=2)
                (first, second) = self.deliveries(peer.packets())
                self.ack(peer, Type.PUBREC, first[2])
                self.assertEqual(peer.packets(), [Ack(Type.PUBREL, (first[2],))])
                if not crash:
                    self.lose(peer)
                found = self.again(crash)
                self.assertEqual(found[0], Ack(Type.PUBREL, (first[2],)))
                self.assertEqual(self.deliveries(found), [(b"2", 2, second[2], True)])
                self.ack(self.peer, Type.PUBCOMP, first[2])
                self.leave(self.peer)
                self.leave(self.node.peer("d"))

    def test_no_release_before_it_is_kept(self) -> None:
        """PUBREL is sent only once the store has it that the client has the message."""
        peer = self.subscribed(("open/a", 2))
        self.publish(b"1", qos=2)
        (delivery,) = self.deliveries(peer.packets())
        self.node.store.away = True
        self.ack(peer, Type.PUBREC, delivery[2])
        self.assertEqual(peer.packets(), [])
        self.node.store.away = False
        self.cluster.clock.pump([1, 1, 0, 0, 0])
        self.assertEqual(peer.packets(), [Ack(Type.PUBREL, (delivery[2],))])

    def test_no_delivery_before_it_is_kept(self) -> None:
        """A QoS 2 PUBLISH is sent only once the store has its identifier; a QoS 1 PUBLISH does not wait."""
        peer = self.subscribed(("open/a", 2), ("open/b", 1))
        self.node.store.away = True
        self.publish(b"1", qos=1, topic="open/b")
        self.assertEqual([one[:2] for one in self.deliveries(peer.packets())], [(b"1", 1)])
        self.publish(b"2", qos=2)
        self.assertEqual(peer.packets(), [])
        self.node.store.away = False
        self.cluster.clock.pump([1, 1, 0, 0, 0])
        self.assertEqual([one[:2] for one in self.deliveries(peer.packets())], [(b"2", 2)])

    def test_acknowledged_is_not_sent_again(self) -> None:
        """What was acknowledged a while ago does not come again, also after a crash."""
        peer = self.subscribed(("open/a", 1))
        self.publish(b"1", b"2")
        self.ack(peer, Type.PUBACK, *[one[2] for one in self.deliveries(peer.packets())])
        self.cluster.clock.pump([1, 1, 0, 0])
        self.assertEqual(self.again(True), [])

    def test_before_the_retained(self) -> None:
        """[MQTT-4.6.0-1]: what is owed comes before the retained messages of a SUBSCRIBE that is sent at once."""
        peer = self.subscribed(("open/a", 1))
        self.publish(b"1")
        self.deliveries(peer.packets())
        self.lose(peer)
        publisher = self.node.peer("publisher")
        publisher.send(packets.publishes("open/a", [b"2"], retain=True))
        self.settle()
        peer = Peer(self.node.factory).connect("d", clean_session=False)
        peer.send(packets.subscribe(1, [("open/a", 1)]))
        self.settle()
        self.assertEqual([(one[0], one[3]) for one in self.deliveries(peer.packets())], [(b"1", True), (b"2", False)])

    def test_after_unsubscribe(self) -> None:
        """[MQTT-3.10.4-3]: what is in flight when its filter goes is still delivered to the end."""
        peer = self.subscribed(("open/a", 2))
        self.publish(b"1", qos=2)
        (delivery,) = self.deliveries(peer.packets())
        peer.send(packets.unsubscribe(3, ["open/a"]))
        self.settle()
        self.lose(peer)
        self.assertEqual(self.deliveries(self.again(False)), [(b"1", 2, delivery[2], True)])


class InboundTests(DurableTests):
    """QoS 2 publishes of a client that is cut off anywhere in the handshake."""

    def setUp(self) -> None:
        super().setUp()
        self.stored: list[bytes] = []

    def count(self, payload: bytes) -> int:
        """How often history has a message."""
        return sum(entry.payload == payload for entry in self.cluster.bus._entries)

    def come_back(self, peer: Peer, crash: bool) -> Peer:
        if crash:
            self.node.die()
            self.node = Node(self.cluster, LIMITS)
        else:
            self.lose(peer)
        return self.durable(present=True)

    def test_everywhere(self) -> None:
        """[MQTT-4.3.3-2]: exactly once, however far the handshake got, and whether connection or node is lost."""
        for crash in (False, True):
            for turns in range(12):
                with self.subTest(crash=crash, turns=turns):
                    payload = b"%d %d" % (crash, turns)
                    peer = self.durable()
                    publish = packets.publishes("open/a", [payload], 2, [7])
                    peer.send(publish)
                    for _ in range(turns):
                        self.cluster.clock.advance(0)
                    received = Ack(Type.PUBREC, (7,)) in peer.packets()
                    peer = self.come_back(peer, crash)
                    if not received:
                        peer.send(packets.publishes("open/a", [payload], 2, [7], dup=True))
                        self.settle()
                        self.assertEqual(peer.packets(), [Ack(Type.PUBREC, (7,))])
                    self.ack(peer, Type.PUBREL, 7)
                    self.assertEqual(peer.packets(), [Ack(Type.PUBCOMP, (7,))])
                    self.assertEqual(self.count(payload), 1)
                    # The identifier is free: the next message under it is another one, with the same payload too.
                    peer.send(publish)
                    self.settle()
                    self.assertEqual(self.count(payload), 2)
                    self.leave(peer)
                    self.leave(self.node.peer("d"))

    def test_long_away(self) -> None:
        """[MQTT-4.3.3-2]: also for a client that comes back long after the stream has forgotten the message's id."""
        peer = self.durable()
        peer.send(packets.publishes("open/a", [b"1"], 2, [7]))
        for _ in range(12):
            if not self.count(b"1"):
                self.cluster.clock.advance(0)
        self.assertEqual(self.count(b"1"), 1)
        self.node.die()
        self.node = Node(self.cluster, LIMITS)
        self.cluster.clock.pump([30] * 20)
        peer = self.durable(present=True)
        peer.send(packets.publishes("open/a", [b"1"], 2, [7], dup=True))
        self.settle()
        self.assertEqual(peer.packets(), [Ack(Type.PUBREC, (7,))])
        self.assertEqual(self.count(b"1"), 1)
        peer.send(packets.publishes("open/a", [b"2"], 2, [8], dup=True))
        self.settle()
        self.assertEqual(self.count(b"2"), 1)

    def test_slow_to_repeat(self) -> None:
        """[MQTT-4.3.3-2]: a client that is back at once, and repeats long afterwards, is known all the same."""
        peer = self.durable()
        peer.send(packets.publishes("open/a", [b"1"], 2, [7]))
        for _ in range(12):
            if not self.count(b"1"):
                self.cluster.clock.advance(0)
        self.node.die()
        self.node = Node(self.cluster, LIMITS)
        self.settle()
        peer = self.durable(present=True)
        self.cluster.clock.pump([30] * 20)
        peer.send(packets.publishes("open/a", [b"1"], 2, [7], dup=True))
        self.settle()
        self.assertEqual(peer.packets(), [Ack(Type.PUBREC, (7,))])
        self.assertEqual(self.count(b"1"), 1)

    def test_unknown_release(self) -> None:
        """A PUBREL for nothing is answered at once: it writes nothing."""
        peer = self.durable()
        self.settle()
        self.node.store.puts = 0
        peer.send(packets.acks(Type.PUBREL, (9,)), packets.acks(Type.PUBREC, (8,)))
        self.assertEqual(peer.packets(), [Ack(Type.PUBCOMP, (9,)), Ack(Type.PUBREL, (8,))])
        self.cluster.clock.pump([1, 1])
        self.assertEqual(self.node.store.puts, 0)

    def test_repeated_release(self) -> None:
        """A PUBREL that comes again before the first one is kept is answered behind it, not before."""
        peer = self.durable()
        peer.send(packets.publishes("open/a", [b"1"], 2, [7]))
        self.settle()
        peer.packets()
        peer.send(packets.acks(Type.PUBREL, (7,)))
        peer.send(packets.acks(Type.PUBREL, (7,)))
        self.assertEqual(peer.packets(), [])
        self.settle()
        self.assertEqual([one.packet_ids for one in peer.packets()], [(7, 7)])

    def test_released(self) -> None:
        """PUBCOMP is sent only once the store knows that the identifier is free; a crash does not bring it back."""
        peer = self.durable()
        peer.send(packets.publishes("open/a", [b"1"], 2, [7]))
        self.settle()
        peer.packets()
        self.node.store.away = True
        self.ack(peer, Type.PUBREL, 7)
        self.assertEqual(peer.packets(), [])
        self.node.store.away = False
        self.cluster.clock.pump([1, 1, 0, 0, 0])
        self.assertEqual(peer.packets(), [Ack(Type.PUBCOMP, (7,))])
        peer = self.come_back(peer, True)
        peer.send(packets.publishes("open/a", [b"1"], 2, [7]))
        self.settle()
        self.assertEqual(self.count(b"1"), 2)


class NodesTests(DurableTests):
    """Two nodes of one gateway."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster, LIMITS, alone=False)
        self.other = Node(self.cluster, LIMITS, alone=False)

    def test_moves(self) -> None:
        """[MQTT-3.1.2-4]: a session is taken up on another node."""
        self.leave(self.subscribed(("open/a", 1)))
        self.publish(b"1")
        self.durable(present=True, node=self.other)
        self.assertEqual([one[0] for one in self.deliveries(self.behind)], [b"1"])

    def test_takeover(self) -> None:
        """[MQTT-3.1.4-2]: a client that comes to another node while it is connected takes its session along."""
        peer = self.subscribed(("open/a", 2))
        self.publish(b"1", qos=2)
        (delivery,) = self.deliveries(peer.packets())
        self.durable(present=True, node=self.other)
        self.assertTrue(peer.closed)
        self.assertEqual(self.deliveries(self.behind), [(b"1", 2, delivery[2], True)])

    def test_clean_takeover(self) -> None:
        """Clients without a durable session are taken over between nodes as well."""
        first = self.node.peer("c")
        second = self.other.peer("c")
        self.settle()
        self.assertTrue(first.closed)
        self.assertFalse(second.closed)

    def test_no_room_elsewhere(self) -> None:
        """A client that is refused for its last connection on another node has that one closed, and may come again."""
        first, neighbour = self.node.peer("c"), self.node.peer("d")

        def admit(user: str, _: int) -> None:
            if self.node.connections.of_user(user) > 1:
                raise TooManyConnections

        self.other.connections.admit = admit
        self.assertEqual(self.other.peer("c").got(), [Connack(False, 3)])
        self.settle()
        self.assertEqual((first.closed, neighbour.closed), (True, False))
        self.assertEqual(self.other.peer("c").got(), [Connack(False, 0)])

    def test_taken_over_without_a_word(self) -> None:
        """A node that was cut off while another took its client over learns it by its next write, and lets go."""
        peer = self.subscribed(("open/a", 1))
        self.node.peers.go_away()
        self.node.store.deaf = True
        self.durable(present=True, node=self.other)
        self.assertFalse(peer.closed)
        self.publish(b"1", node=self.other)
        self.cluster.clock.pump([1, 1, 0, 0, 0])
        self.assertTrue(peer.closed)

    def test_told_by_the_store(self) -> None:
        """A node that was cut off learns from the store whom it has lost, of idle clients and those with a will too."""
        idle = self.subscribed(("open/a", 1))
        mortal = self.node.peer("m", will=Will("open/will", b"gone", 1, False))
        self.node.peers.go_away()
        self.cluster.clock.pump([1] * 12)
        self.settle()
        self.assertTrue(idle.closed and mortal.closed)
        self.assertEqual(sum(entry.payload == b"gone" for entry in self.cluster.bus._entries), 1)
        self.durable(present=True, node=self.other)

    def test_will_of_a_dead_node(self) -> None:
        """[MQTT-3.1.2-8]: a will is published, once, when the node of its client dies, session kept or not."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                node = Node(self.cluster, LIMITS, alone=False)
                watcher = self.other.peer("w")
                watcher.send(packets.subscribe(1, [("open/will", 1)]))
                self.settle()
                watcher.packets()
                node.peer("mortal", clean_session=clean, will=Will("open/will", b"gone", 1, False))
                node.die()
                self.cluster.clock.pump([1] * 20)
                self.settle()
                self.assertEqual([one[0] for one in self.deliveries(watcher.packets())], [b"gone"])
                self.leave(watcher)

    def test_will_after_restart(self) -> None:
        """[MQTT-3.1.2-8]: a node that is alone publishes at its start the wills that the one before could not."""
        node = Node(self.cluster, LIMITS)
        self.leave(self.subscribed(("open/will", 1)))
        node.peer("mortal", will=Will("open/will", b"gone", 1, False))
        node.die()
        self.node.die()
        self.other.die()
        self.node = Node(self.cluster, LIMITS)
        self.durable(present=True)
        self.assertEqual([one[0] for one in self.deliveries(self.behind)], [b"gone"])

    def test_node_away_for_a_moment(self) -> None:
        """A node that is out of reach for one look is not taken for dead."""
        self.node.peer("mortal", will=Will("open/will", b"gone", 1, False))
        self.node.peers.go_away()
        self.cluster.clock.pump([1] * 6)
        self.settle()
        self.node.peers.come_back()
        self.cluster.clock.pump([1] * 20)
        self.settle()
        self.assertFalse(any(entry.payload == b"gone" for entry in self.cluster.bus._entries))


class WillTests(DurableTests):
    """When wills go out."""

    def test_refused(self) -> None:
        """A will that the limits of today refuse is dropped, and costs a node that starts nothing else."""
        self.mortal(True)
        self.node.die()
        self.node = Node(self.cluster, Limits(message_bytes=3))
        self.successResultOf(self.node.started)
        self.assertFalse(self.published())
        self.assertEqual(self.node.peer("m").got(), [Connack(False, 0)])

    def test_leave_was_taken_back(self) -> None:
        """A will to a topic whose leave was taken back while its client was connected is dropped, also elsewhere."""
        asked: list[tuple[Namespace, str]] = []

        def admits(home: Namespace, topic: Topic) -> bool:
            asked.append((home, topic.shown(True)))
            return False

        self.patch(self.node.sessions, "_admits", admits)
        self.lose(self.mortal(False))
        self.assertFalse(self.published())
        self.assertEqual(asked, [(HOME, "alice_shop_open/will")])
        self.mortal(False)
        self.node.die()
        self.patch(Sessions.__init__, "__defaults__", (admits,))
        self.node = Node(self.cluster, LIMITS)
        self.successResultOf(self.node.started)
        self.assertFalse(self.published())
        self.assertEqual(len(asked), 2)

    def test_leave_is_at_home(self) -> None:
        """Without anybody to ask, wills go out at home alone."""
        sessions = self.node.sessions
        self.assertTrue(sessions._admits(HOME, Topic(HOME, "a")))
        self.assertFalse(sessions._admits(HOME, Topic(Namespace("bob", "shop"), "a")))

    def test_after_a_long_outage(self) -> None:
        """A will that was stored without an answer is found in history when it is published again much later."""
        peer = self.mortal(True)
        publish = self.cluster.bus.publish

        def unanswered(run: Any) -> Any:
            return publish(run).addCallback(lambda _: fail(BusUnavailable()))

        self.patch(self.cluster.bus, "publish", unanswered)
        peer.lose()
        self.settle()
        self.cluster.bus.go_away()
        self.cluster.clock.pump([30] * 20)
        self.cluster.bus.come_back()
        self.cluster.clock.pump([1, 1])
        self.settle()
        self.assertEqual(sum(entry.payload == b"gone" for entry in self.cluster.bus._entries), 1)

    def test_damaged_record(self) -> None:
        """A record that cannot be read costs a node that starts nothing, and its client gets a new one."""
        self.leave(self.subscribed(("open/a", 1)))
        self.cluster.store.put(RECORDS, "alice.shop.i-d", b"{}")
        self.node.die()
        self.node = Node(self.cluster, LIMITS)
        self.successResultOf(self.node.started)
        self.durable(present=False)

    def published(self) -> bool:
        self.settle()
        return any(entry.payload == b"gone" for entry in self.cluster.bus._entries)

    def mortal(self, clean: bool) -> Peer:
        return self.node.peer("m", clean_session=clean, will=Will("open/will", b"gone", 1, False))

    def test_lost(self) -> None:
        """[MQTT-3.1.2-8]: a lost connection publishes the will, also of a durable session."""
        self.lose(self.mortal(False))
        self.assertTrue(self.published())

    def test_takeover(self) -> None:
        """[MQTT-3.1.2-8]: taking over publishes the will of the connection that is closed."""
        self.mortal(False)
        self.node.peer("m", clean_session=False)
        self.assertTrue(self.published())

    def test_disconnect(self) -> None:
        """[MQTT-3.14.4-3], [MQTT-3.1.2-10]: after DISCONNECT there is no will, also not after a crash."""
        for clean in (True, False):
            self.leave(self.mortal(clean))
            self.assertFalse(self.published())
        self.node.die()
        self.node = Node(self.cluster, LIMITS)
        self.assertFalse(self.published())

    def test_not_accepted(self) -> None:
        """A connection that is lost before CONNACK has no will."""
        peer = Peer(self.node.factory)
        peer.connect("m", clean_session=False, will=Will("open/will", b"gone", 1, False))
        peer.lose()
        self.assertFalse(self.published())
        self.assertEqual(self.node.peer("m", clean_session=False).got()[0].code, 0)

    def test_bus_away(self) -> None:
        """A will that cannot be stored now is published once the bus is back."""
        peer = self.mortal(True)
        self.cluster.bus.go_away()
        peer.lose()
        self.settle()
        self.cluster.bus.come_back()
        self.cluster.clock.pump([1, 1])
        self.assertTrue(self.published())
