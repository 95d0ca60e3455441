"""What publishers pay on each way that a message can take through the gateway."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.allowances import Allowance, Bill, Unlimited, units_of
from flowgate.auth.permissions import Principal
from flowgate.errors import BusUnavailable, InsufficientBalance, InvalidToken, RateLimited
from flowgate.gateway import Post, Route
from flowgate.message import Run, Stored
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Type, Will
from flowgate.topics import Topic
from tests.mqtt.node import HOME, Cluster, Node, Peer


class Purse(Allowance):
    """An allowance of so many units."""

    __slots__ = ("left", "pending")

    limited = True

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left
        self.pending = 0

    def take(self, payloads: Sequence[bytes], *, patient: bool = False) -> Bill:
        count = units = 0
        for payload in payloads:
            price = units_of((payload,))
            if self.left < price:
                return Bill(self, count, units, InsufficientBalance())
            self.left -= price
            self.pending += price
            count, units = count + 1, units + price
        return Bill(self, count, units)

    def charge(self, bill: Bill) -> None:
        super().charge(bill)
        self.pending -= bill.units

    def release(self, bill: Bill) -> None:
        self.left += bill.units
        self.pending -= bill.units


class Pace(Allowance):
    """An allowance of so many messages at a time, and so many more each second."""

    __slots__ = ("_clock", "_rate", "_time", "left")

    limited = True

    def __init__(self, clock: Clock, rate: int) -> None:
        super().__init__()
        self._clock = clock
        self._rate = self.left = rate
        self._time = clock.seconds()

    def take(self, payloads: Sequence[bytes], *, patient: bool = False) -> Bill:
        self.left = min(self._rate, self.left + int((self._clock.seconds() - self._time) * self._rate))
        self._time = self._clock.seconds()
        count = len(payloads) if patient else min(self.left, len(payloads))
        self.left -= count
        return Bill(self, count, count, None if count == len(payloads) else RateLimited())

    def wait(self) -> float:
        return 1.0


class UnitTests(SynchronousTestCase):
    """A unit is a started 4 KiB."""

    def test_units(self) -> None:
        """An empty message costs one unit as well; one byte more than 4 KiB costs two."""
        self.assertEqual([units_of((b"x" * size,)) for size in (0, 1, 4096, 4097, 8193)], [1, 1, 1, 2, 3])

    def test_one_object_for_a_key(self) -> None:
        """Whoever asks for a key's allowance while somebody has it gets the same one."""
        known = Unlimited()
        principal = Node(Cluster()).peer().protocol.principal
        self.assertIs(known.of(principal), known.of(principal))


class PublishTests(SynchronousTestCase):
    """What :class:`Gateway` asks and tells the allowance."""

    def setUp(self) -> None:
        cluster = Cluster()
        self.node = Node(cluster)
        self.bus = cluster.bus
        self.gateway = self.node.gateway
        self.settle = cluster.settle
        self.purse = Purse(3)
        self.route = Route(Topic(HOME, "t"), False, True, None, self.purse)

    def test_stored(self) -> None:
        """A message is paid for when it is stored, and not before."""
        self.gateway.publish(self.route, b"x" * 5000)
        self.assertEqual((self.purse.used, self.purse.pending), (0, 2))
        self.settle()
        self.assertEqual((self.purse.used, self.purse.pending, self.purse.left), (2, 0, 1))

    def test_not_stored(self) -> None:
        """One that the bus does not take costs nothing."""
        self.patch(self.bus, "publish_one", lambda *_, **__: fail(BusUnavailable()))
        self.failureResultOf(self.gateway.publish(self.route, b"x"), BusUnavailable)
        self.assertEqual((self.purse.used, self.purse.pending, self.purse.left), (0, 0, 3))

    def test_duplicate(self) -> None:
        """A repetition costs nothing, alone and among others."""
        for _ in range(2):
            self.gateway.publish(self.route, b"x", message_id="k")
            self.settle()
        self.gateway.publish_many([Post(self.route, b"x", "k")])
        self.settle()
        self.assertEqual((self.purse.used, self.purse.pending, self.purse.left), (1, 0, 2))

    def test_nothing_left(self) -> None:
        """What is not covered is refused at once, and nothing is stored."""
        self.purse.left = 0
        self.assertRaises(InsufficientBalance, self.gateway.publish, self.route, b"x")
        self.settle()
        self.assertEqual(self.purse.used, 0)

    def test_some_of_many(self) -> None:
        """Of many messages the first ones are stored, as far as the allowance goes; a retained one is paid for once."""
        posts = [Post(self.route, b"%d" % number, retain=number == 1) for number in range(5)]
        published = self.gateway.publish_many(posts)
        self.settle()
        answers = self.successResultOf(published)
        self.assertEqual([isinstance(answer, Stored) for answer in answers], [True, True, True, False, False])
        self.assertIsInstance(answers[4], InsufficientBalance)
        self.assertEqual((self.purse.used, self.purse.pending), (3, 0))

    def test_run(self) -> None:
        """A run is paid for when it is stored; one that is only passed on, at once."""
        payloads = [b"1", b"2"]
        self.purse.left = 4
        bills = [self.gateway.bill(self.route, 2, 1, lambda: payloads) for _ in range(2)]
        self.gateway.publish_unacknowledged(self.route, Run(self.route.topic, payloads), bills[0])
        self.assertEqual((self.purse.used, self.purse.pending), (2, 2))
        self.gateway.publish_run(Run(self.route.topic, payloads, qos=1), bills[1])
        self.assertEqual((self.purse.used, self.purse.pending), (2, 2))
        self.settle()
        self.assertEqual((self.purse.used, self.purse.pending), (4, 0))


class MqttTests(SynchronousTestCase):
    """MQTT has no word for a refusal: there is a notice, and no acknowledgement."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster)
        purse = self.purse = Purse(2)

        class Purses:
            def of(self, principal: Principal) -> Allowance:
                return purse

        self.node.gateway.allowances = Purses()

    def published(self, qos: int) -> tuple[list[Any], list[bytes]]:
        """Publish three messages in one read; give what else is answered, and what subscribers were given."""
        peer = self.node.peer()
        peer.send(packets.subscribe(1, [("t", 0), ("$SYS/notices", 0)]))
        self.cluster.settle()
        peer.packets()
        ids = [7, 8, 9] if qos else []
        peer.send(packets.publishes("t", [b"1", b"2", b"3"], qos, ids))
        self.cluster.settle()
        got = peer.got()
        self.assertFalse(peer.closed)
        messages = [one for one in got if isinstance(one, tuple)]
        self.notices = [json.loads(payload) for topic, payload, _ in messages if topic == "$SYS/notices"]
        return [one for one in got if isinstance(one, Ack)], [payload for topic, payload, _ in messages if topic == "t"]

    def test_acknowledged(self) -> None:
        """Of three messages with leave for two, two are stored, delivered and acknowledged."""
        for qos, kind in ((1, Type.PUBACK), (2, Type.PUBREC)):
            self.purse.left = 2
            acks, payloads = self.published(qos)
            self.assertEqual(acks, [Ack(kind, (7, 8))])
            self.assertEqual(payloads, [b"1", b"2"])
            self.assertEqual([notice["code"] for notice in self.notices], ["insufficient_balance"])
        self.assertEqual((self.purse.used, self.purse.pending), (4, 0))

    def test_unacknowledged(self) -> None:
        """The same at QoS 0."""
        self.assertEqual(self.published(0), ([], [b"1", b"2"]))
        self.assertEqual(len(self.notices), 1)
        self.assertEqual((self.purse.used, self.purse.pending), (2, 0))

    def test_refused_exactly_once(self) -> None:
        """A QoS 2 message that was refused is a new one when it comes again, and is paid for once."""
        peer = self.node.peer()
        packet = packets.publishes("t", [b"x"], 2, [7])
        self.purse.left = 0
        peer.send(packet)
        self.cluster.settle()
        self.purse.left = 5
        for _ in range(2):
            peer.send(packet)
            self.cluster.settle()
        self.assertEqual([one for one in peer.packets() if isinstance(one, Ack)], [Ack(Type.PUBREC, (7, 7))])
        self.assertEqual((self.purse.used, self.purse.left), (1, 4))


class MqttPaceTests(SynchronousTestCase):
    """MQTT has no word for "slower" but to read no further."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster)
        pace = self.pace = Pace(self.cluster.clock, 2)

        class Paces:
            def of(self, principal: Principal) -> Allowance:
                return pace

        self.node.gateway.allowances = Paces()

    def check(self, qos: int, kind: Type | None) -> None:
        """Five messages at two a second take two seconds; what stands behind them waits, and nothing is lost."""
        self.pace.left = 2
        peer = self.node.peer()
        peer.send(packets.subscribe(1, [("t", 0)]))
        self.cluster.settle()
        peer.packets()
        self.node.factory.received.value = 0
        ids = [1, 2, 3, 4, 5] if qos else []
        payloads = [b"%d" % number for number in range(5)]
        peer.send(packets.publishes("t", payloads, qos, ids), packets.PINGREQ)
        peer.send(packets.publishes("t", [b"6"], qos, [6] if qos else []))
        taken: list[bytes] = []
        acknowledged: list[int] = []
        for now in range(3):
            self.cluster.settle()
            paused = peer.transport.producerState == "paused"
            self.assertEqual(paused, now < 2)
            for one in peer.got():
                if isinstance(one, tuple):
                    taken.append(one[1])
                elif isinstance(one, Ack):
                    self.assertEqual(one.type, kind)
                    acknowledged += one.packet_ids
                else:
                    self.assertEqual((one.type, now), (Type.PINGRESP, 2))
            self.assertEqual(taken, [*payloads, b"6"][: 2 * now + 2])
            self.assertEqual(acknowledged, [*ids, 6][: 2 * now + 2] if qos else [])
            self.cluster.clock.advance(1)
        self.assertEqual(self.node.factory.received.value, 6)

    def test_qos_0(self) -> None:
        """At QoS 0."""
        self.check(0, None)

    def test_qos_1(self) -> None:
        """At QoS 1."""
        self.check(1, Type.PUBACK)

    def test_qos_2(self) -> None:
        """At QoS 2."""
        self.check(2, Type.PUBREC)

    def test_gone(self) -> None:
        """What a client has left that goes while it is held back is not taken."""
        peer = self.node.peer()
        peer.send(packets.publishes("t", [b"x"] * 5, 0, []))
        peer.lose()
        self.assertEqual(self.calls(), [])
        self.cluster.settle()
        self.cluster.clock.advance(5)
        self.assertEqual(self.node.factory.received.value, 2)

    def calls(self) -> list[str]:
        """What is still to be done for a connection."""
        calls: list[Any] = list(self.cluster.clock.getDelayedCalls())
        return [str(call.func) for call in calls if "_paced" in str(call.func)]

    def hold(self, client_id: str = "c", qos: int = 0, **options: Any) -> Peer:
        """A client that has sent five messages, of which two are taken."""
        self.pace.left = 2
        peer = self.node.peer(client_id, **options)
        ids = [1, 2, 3, 4, 5] if qos else []
        peer.send(packets.publishes("t", [b"%d" % number for number in range(5)], qos, ids))
        self.cluster.settle()
        self.assertEqual(len(self.calls()), 1)
        return peer

    def test_keep_alive(self) -> None:
        """Who is read no further is not silent; the keep alive counts from when it is read again."""
        self.patch(self.pace, "_rate", 0)
        peer = self.hold(keep_alive=2)
        self.cluster.clock.pump([0.5] * 40)
        self.assertFalse(peer.closed)
        self.patch(self.pace, "_rate", 100)
        self.cluster.clock.pump([0.5] * 5)
        self.assertEqual(self.node.factory.received.value, 5)
        self.assertFalse(peer.closed)
        self.cluster.clock.pump([0.5] * 6)
        self.assertTrue(peer.closed or not peer.protocol.taking_part)

    def test_taken_over(self) -> None:
        """Another connection of the same client takes the place of one that is held back, with nothing left behind."""
        for clean in (True, False):
            for qos in (0, 1, 2):
                self.node.factory.received.value = 0
                old = self.hold(f"c{qos}{clean}", qos, clean_session=clean)
                acknowledged = [one for packet in old.packets() if isinstance(packet, Ack) for one in packet.packet_ids]
                self.assertEqual(acknowledged, [1, 2] if qos else [])
                new = self.node.peer(f"c{qos}{clean}", clean_session=clean)
                self.assertTrue(old.closed)
                self.assertEqual(self.calls(), [])
                self.cluster.clock.advance(5)
                self.cluster.settle()
                self.assertEqual(old.packets(), [])
                self.assertEqual(self.node.factory.received.value, 2)
                if qos:
                    self.cluster.clock.advance(1)
                    new.packets()
                    new.send(packets.publishes("t", [b"2", b"3"], qos, [3, 4]))
                    self.cluster.settle()
                    ids = [one for packet in new.packets() if isinstance(packet, Ack) for one in packet.packet_ids]
                    self.assertEqual(ids, [3, 4])
                new.lose()
                old.lose()

    def test_will(self) -> None:
        """The will of a client that goes while it is held back goes out, and nothing else of it does."""
        watcher = self.node.peer("watcher")
        watcher.send(packets.subscribe(1, [("#", 1)]))
        self.cluster.settle()
        watcher.packets()
        peer = self.hold(will=Will("open/will", b"gone", 1, False))
        peer.lose()
        self.assertEqual(self.calls(), [])
        self.cluster.settle()
        self.cluster.clock.advance(5)
        self.cluster.settle()
        self.assertEqual([one[1] for one in watcher.got()], [b"0", b"1", b"gone"])

    def test_ended(self) -> None:
        """Who is held back is ended like everybody else."""
        peer = self.hold()
        self.node.connections.end(InvalidToken())
        self.assertTrue(peer.closed)
        self.assertEqual(self.calls(), [])
