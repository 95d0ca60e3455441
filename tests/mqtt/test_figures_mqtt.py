"""``$SYS`` on MQTT connections: what clients do is counted, and what they see of it."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import LimitReached
from flowgate.figures import TELL_SECONDS, Figures, quota
from flowgate.limits import Limits
from flowgate.message import Run
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Connack, Publish, Suback, Type, Will
from tests.mqtt.node import HOME, Cluster, Node, Peer

LIMITS = Limits(inflight_messages=4, queued_messages=20, connections=10, subscriber_buffer_bytes=65536)

CONNECTED = "$SYS/clients/connected"
RECEIVED = "$SYS/messages/received"
SENT = "$SYS/messages/sent"
DROPPED = "$SYS/messages/dropped"
QUOTA = "$SYS/quota"


class FiguresTests(SynchronousTestCase):
    """One node with figures."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = self.make_node()

    def make_node(self, alone: bool = True) -> Node:
        node = Node(self.cluster, LIMITS, alone)
        figures = Figures(node.gateway, node.gateway._router, node.peers, self.cluster.clock)
        figures.start()
        self.addCleanup(figures.stop)
        return node

    def peer(self, client_id: str, token: str = "alice", node: Node | None = None, **options: Any) -> Peer:
        peer = (node or self.node).peer(client_id, token, **options)
        self.assertEqual(peer.packets(), [Connack(False, 0)])
        return peer

    def subscribe(self, peer: Peer, *filters: tuple[str, int]) -> dict[str, bytes]:
        """Subscribe; return what is retained."""
        peer.send(packets.subscribe(1, filters))
        self.cluster.settle()
        suback, *found = peer.packets()
        self.assertEqual(suback, Suback(1, tuple(qos for _, qos in filters)))
        return self.shown(found, retained=True)

    def shown(self, found: list[Any], retained: bool) -> dict[str, bytes]:
        shown = [(one.topic.decode(), payload) for one in found for payload in one.payloads()]
        self.assertEqual({(one.qos, one.retain) for one in found} - {(0, retained)}, set())
        self.assertEqual(len(dict(shown)), len(shown))
        return dict(shown)

    def tick(self, peer: Peer) -> dict[str, bytes]:
        """Wait for the next figures; return what came."""
        peer.packets()
        self.cluster.clock.advance(TELL_SECONDS)
        self.cluster.settle()
        return self.shown([one for one in peer.packets() if isinstance(one, Publish)], retained=False)

    def figure(self, topic: str) -> bytes:
        """What a new subscriber is shown."""
        peer = self.peer("watcher")
        found = self.subscribe(peer, (topic, 0))
        peer.send(packets.DISCONNECT)
        peer.lose()
        return found[topic]

    def test_new_subscriber(self) -> None:
        """[MQTT-3.3.1-8]: a new subscription is answered by the figures of now, as retained messages at QoS 0."""
        peer = self.peer("a")
        found = self.subscribe(peer, ("$SYS/#", 2))
        self.assertEqual(json.loads(found.pop(QUOTA)), quota(LIMITS))
        self.assertEqual(found, {CONNECTED: b"1", RECEIVED: b"0", SENT: b"0", DROPPED: b"0"})

    def test_published(self) -> None:
        """[MQTT-3.3.1-9]: the figures then come every ten seconds, as live messages."""
        peer = self.peer("a")
        self.subscribe(peer, ("$SYS/clients/+", 1), (RECEIVED, 0))
        other = self.peer("b")
        other.send(packets.publishes("open/a", [b"1", b"2", b"3"]))
        self.assertEqual(self.tick(peer), {CONNECTED: b"2", RECEIVED: b"3"})
        other.lose()
        self.cluster.settle()
        self.assertEqual(self.tick(peer), {CONNECTED: b"1", RECEIVED: b"3"})

    def test_durable_session(self) -> None:
        """A client with a session that is kept gets figures too while it is connected; they never wait for it."""
        peer = self.peer("d", clean_session=False)
        self.assertEqual(self.subscribe(peer, (CONNECTED, 1)), {CONNECTED: b"1"})
        self.assertEqual(self.tick(peer), {CONNECTED: b"1"})
        peer.lose()
        self.cluster.clock.advance(TELL_SECONDS)
        self.cluster.settle()
        peer = self.node.peer("d", clean_session=False)
        self.assertEqual(peer.packets(), [Connack(True, 0)])

    def test_leading_wildcard(self) -> None:
        """[MQTT-4.7.2-1]: filters that begin with a wildcard bring no figures."""
        peer = self.peer("a")
        self.assertEqual(self.subscribe(peer, ("#", 0), ("+/clients/#", 0)), {})
        self.assertEqual(self.tick(peer), {})

    def test_other_account(self) -> None:
        """What one account does is not seen by another."""
        bob = self.peer("b", "bob")
        self.assertEqual(self.subscribe(bob, (CONNECTED, 0)), {CONNECTED: b"1"})
        self.peer("a").send(packets.publishes("open/a", [b"x"]))
        self.assertEqual(self.tick(bob), {CONNECTED: b"1"})

    def test_without_grant(self) -> None:
        """A token that grants no reserved topic is refused the subscription, as any other."""
        peer = self.peer("n", "narrow")
        peer.send(packets.subscribe(1, [("$SYS/#", 0)]))
        self.assertEqual(peer.packets(), [Suback(1, (packets.FAILURE,))])

    def test_publishing(self) -> None:
        """Publishing to a reserved topic closes the connection at every QoS, and nobody gets anything of it."""
        peer = self.peer("a")
        self.subscribe(peer, ("$SYS/#", 0))
        for topic in ("$SYS", "$SYS/x", CONNECTED, "alice_shop_$SYS/x"):
            for qos in (0, 1, 2):
                for retain in (False, True):
                    other = self.peer("b")
                    other.send(packets.publishes(topic, [b"forged"], qos, [1] if qos else (), retain=retain))
                    self.assertTrue(other.closed, topic)
                    self.assertEqual(other.packets(), [])
                    other.lose()
                    self.cluster.settle()
        self.assertEqual(peer.packets(), [])
        self.assertEqual(self.figure(CONNECTED), b"2")
        self.assertEqual(self.node.meter.account(HOME).received, 0)

    def test_will(self) -> None:
        """A will on a reserved topic is refused with the CONNECT."""
        peer = self.node.peer("a", will=Will("$SYS/x", b"forged", 0, True))
        self.assertEqual(peer.packets(), [Connack(False, 5)])
        self.assertTrue(peer.closed)

    def test_every_way(self) -> None:
        """Messages are counted at every QoS, in and out; retained ones and figures are among those that were sent."""
        peer, publisher = self.peer("a"), self.peer("b")
        account = self.node.meter.account(HOME)
        self.subscribe(peer, ("open/#", 2))
        for qos in (0, 1, 2):
            publisher.send(packets.publishes("open/a", [b"1", b"2"], qos, [1, 2] if qos else ()))
            self.cluster.settle()
            self.assertEqual((account.received, account.sent), (2 * qos + 2, 2 * qos + 2))
        publisher.send(packets.acks(Type.PUBREL, [1, 2]))
        publisher.send(packets.publishes("open/a", [b"kept"], 1, [3], retain=True))
        self.cluster.settle()
        publisher.packets()
        before = account.sent
        self.subscribe(publisher, ("open/a", 0), (CONNECTED, 0))
        self.assertEqual(account.sent, before + 2)

    def test_waiting(self) -> None:
        """What waits for a place among those in flight is counted once, as sent when it was taken for the client."""
        peer, publisher = self.peer("a"), self.peer("b")
        self.subscribe(peer, ("open/#", 1))
        publisher.send(packets.publishes("open/a", [b"x"] * 6, 1, range(1, 7)))
        self.cluster.settle()
        peer.send(packets.acks(Type.PUBACK, [1, 2, 3, 4]))
        self.cluster.settle()
        self.assertEqual(self.node.meter.account(HOME).sent, self.node.meter.count("messages_sent", "mqtt"))

    def test_durable_counts(self) -> None:
        """What a kept session reads from the stream is counted as sent."""
        peer = self.peer("d", clean_session=False)
        self.subscribe(peer, ("open/#", 1))
        self.peer("b").send(packets.publishes("open/a", [b"1", b"2"], 1, [1, 2]))
        self.cluster.settle()
        self.assertEqual(self.node.meter.account(HOME).sent, 2)

    def test_slow_client(self) -> None:
        """QoS 0 messages that a slow client loses are counted as dropped."""
        peer, publisher = self.peer("a"), self.peer("b")
        self.subscribe(peer, ("open/#", 0))
        producer: Any = peer.transport.producer
        producer.pauseProducing()
        publisher.send(packets.publishes("open/a", [b"x" * 70_000]))
        account = self.node.meter.account(HOME)
        self.assertEqual((account.sent, account.dropped), (0, 1))
        self.assertEqual(self.figure(DROPPED), b"1")

    def test_billing_guard(self) -> None:
        """A message that the Billing Guard does not take is counted as dropped."""

        def guarded(_: Run) -> Deferred[None]:
            return fail(LimitReached())

        self.patch(self.cluster.bus, "publish", guarded)
        self.peer("b").send(packets.publishes("open/a", [b"x"], 1, [1]))
        self.assertEqual(self.figure(DROPPED), b"1")

    def test_two_nodes(self) -> None:
        """A client on one node sees what clients of its account do on another."""
        one, two = self.make_node(alone=False), self.make_node(alone=False)
        self.cluster.clock.advance(TELL_SECONDS)
        self.cluster.settle()
        self.peer("b", node=one).send(packets.publishes("open/a", [b"x"]))
        peer = self.peer("a", node=two)
        self.subscribe(peer, (CONNECTED, 0), (RECEIVED, 0))
        self.tick(peer)
        self.assertEqual(self.tick(peer), {CONNECTED: b"2", RECEIVED: b"1"})
