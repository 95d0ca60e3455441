"""What publishers pay on each way that a message can take through the gateway."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from flowgate.allowances import Allowance, Bill, Unlimited, units_of
from flowgate.auth.permissions import Principal
from flowgate.errors import BusUnavailable, InsufficientBalance
from flowgate.gateway import Post, Route
from flowgate.message import Run, Stored
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Type
from flowgate.topics import Topic
from tests.mqtt.node import HOME, Cluster, Node


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
