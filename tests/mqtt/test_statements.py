"""The normative statements of MQTT 3.1.1 on connections, as far as no other test is about them: bytes in, bytes out."""

from __future__ import annotations

import string
from collections.abc import Iterable
from itertools import product
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flowgate.limits import Limits
from flowgate.message import Run
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Connack, Connect, Publish, Suback, Type, Will
from flowgate.topics import MAX_NAME_BYTES, Topic, matches
from tests.mqtt.node import HOME, LIFE, Cluster, Node, Peer

LIMITS = Limits(inflight_messages=4, queued_messages=20, connections=100)


def sized(first: int, body: bytes) -> bytes:
    """A packet of less than 128 bytes behind its fixed header."""
    assert len(body) < 128
    return bytes((first, len(body))) + body


def connect(
    flags: int = 0xC2,
    payload: bytes = b"\0\x01c",
    login: bytes = b"\0\x06Bearer\0\x05alice",
    name: bytes = b"\0\x04MQTT\x04",
) -> bytes:
    """A CONNECT; the flags say user name, password and clean session if nothing else is given."""
    return sized(0x10, name + bytes((flags,)) + b"\0\0" + payload + login)


_WILL = b"\0\x01t\0\x04gone"
_MQTT_5 = sized(0x10, b"\0\x04MQTT\x05\xc2\0\0\0\0\x01c\0\x06Bearer\0\x05alice")

# What comes first on a connection, and all that is answered before it is closed.
FIRST: dict[str, tuple[bytes, bytes]] = {
    "[MQTT-3.1.0-1] PINGREQ first": (b"\xc0\0", b""),
    "[MQTT-3.1.0-1] PUBLISH first": (b"\x30\x04\0\x01tx", b""),
    "[MQTT-3.1.0-1] PUBLISH at QoS 1 first": (b"\x32\x06\0\x01t\0\x01x", b""),
    "[MQTT-3.1.0-1] SUBSCRIBE first": (sized(0x82, b"\0\x01\0\x01t\0"), b""),
    "[MQTT-3.1.0-1] DISCONNECT first": (b"\xe0\0", b""),
    "[MQTT-3.1.0-1] CONNACK first": (b"\x20\x02\0\0", b""),
    "[MQTT-4.8.0-1] packet type 0 first": (b"\0\0", b""),
    "[MQTT-4.8.0-1] packet type 15 first": (b"\xf0\0", b""),
    "[MQTT-4.8.0-1] a length of five bytes first": (b"\x10\xff\xff\xff\xff\x01", b""),
    "[MQTT-2.2.2-2] flags of CONNECT": (b"\x11" + connect()[1:], b""),
    "[MQTT-3.1.2-1] another protocol name": (connect(name=b"\0\x04MQTQ\x04"), b""),
    "[MQTT-3.1.2-1] no protocol name": (connect(name=b"\0\0\x04"), b""),
    "[MQTT-3.1.2-2] MQTT 5": (_MQTT_5, b"\x20\x02\0\x01"),
    "[MQTT-3.1.2-2] MQTT 3.1": (connect(name=b"\0\x06MQIsdp\x03"), b"\x20\x02\0\x01"),
    "[MQTT-3.1.2-2] level 0": (connect(name=b"\0\x04MQTT\0"), b"\x20\x02\0\x01"),
    "[MQTT-3.1.2-2] level 3": (connect(name=b"\0\x04MQTT\x03"), b"\x20\x02\0\x01"),
    "[MQTT-3.1.2-2] level 6": (connect(name=b"\0\x04MQTT\x06"), b"\x20\x02\0\x01"),
    "[MQTT-3.1.2-2] level 132, a bridge's": (connect(name=b"\0\x04MQTT\x84"), b"\x20\x02\0\x01"),
    "[MQTT-3.1.2-3] [MQTT-3.1.4-1] the reserved flag": (connect(0xC3), b""),
    "[MQTT-3.1.2-9] [MQTT-3.1.4-1] the will flag without a will": (connect(0x06, login=b""), b""),
    "[MQTT-3.1.2-9] [MQTT-3.1.4-1] a will topic without a will message": (connect(0x06, login=b"\0\x01t"), b""),
    "[MQTT-3.1.2-11] [MQTT-3.1.4-1] a will without the will flag": (connect(0x02, b"\0\x01c" + _WILL, b""), b""),
    "[MQTT-3.1.2-13] [MQTT-3.1.4-1] will QoS 1 without the will flag": (connect(0xCA), b""),
    "[MQTT-3.1.2-13] [MQTT-3.1.4-1] will QoS 2 without the will flag": (connect(0xD2), b""),
    "[MQTT-3.1.2-14] [MQTT-3.1.4-1] will QoS 3": (connect(0xDE, b"\0\x01c" + _WILL), b""),
    "[MQTT-3.1.2-15] [MQTT-3.1.4-1] will retain without the will flag": (connect(0xE2), b""),
    "[MQTT-3.1.2-18] [MQTT-3.1.4-1] a user name without its flag": (connect(0x02, login=b"\0\x06Bearer"), b""),
    "[MQTT-3.1.2-19] [MQTT-3.1.4-1] the user name flag without a user name": (connect(0x82, login=b""), b""),
    "[MQTT-3.1.2-20] [MQTT-3.1.4-1] a password without its flag": (connect(0x82), b""),
    "[MQTT-3.1.2-21] [MQTT-3.1.4-1] the password flag without a password": (connect(login=b"\0\x06Bearer"), b""),
    "[MQTT-3.1.2-22] [MQTT-3.1.4-1] a password without a user name": (connect(0x42, login=b"\0\x05alice"), b""),
    "[MQTT-3.1.3-3] [MQTT-3.1.4-1] no client identifier": (connect(0x02, b"", b""), b""),
    "[MQTT-3.1.3-4] a client identifier of ill-formed UTF-8": (connect(payload=b"\0\x02a\xc3"), b""),
    "[MQTT-3.1.3-4] [MQTT-1.5.3-1] a surrogate in the client identifier": (connect(payload=b"\0\x03\xed\xbf\xbf"), b""),
    "[MQTT-3.1.3-4] [MQTT-1.5.3-2] U+0000 in the client identifier": (connect(payload=b"\0\x02a\0"), b""),
    "[MQTT-3.1.3-8] [MQTT-3.1.3-9] no client identifier and clean session 0": (
        connect(0xC0, b"\0\0"),
        b"\x20\x02\0\x02",
    ),
    "[MQTT-3.1.3-10] a will topic of ill-formed UTF-8": (connect(0xC6, b"\0\x01c\0\x01\xff\0\0"), b""),
    "[MQTT-3.1.3-10] [MQTT-1.5.3-2] U+0000 in the will topic": (connect(0xC6, b"\0\x01c\0\x02t\0\0\0"), b""),
    "[MQTT-3.1.3-11] a user name of ill-formed UTF-8": (connect(login=b"\0\x02\xff\xff\0\x05alice"), b""),
    "[MQTT-3.1.3-11] [MQTT-1.5.3-2] U+0000 in the user name": (connect(login=b"\0\x07Bearer\0\0\x05alice"), b""),
    "[MQTT-4.7.3-1] an empty will topic": (connect(0xC6, b"\0\x01c\0\0\0\0"), b""),
    "[MQTT-4.7.1-1] a wildcard in the will topic": (connect(0xC6, b"\0\x01c\0\x06open/+\0\0"), b""),
    "[MQTT-4.7.1-1] a wildcard in a will topic that is not permitted": (connect(0xC6, b"\0\x01c\0\x03x/+\0\0"), b""),
    "[MQTT-3.2.2-6] a will topic with nothing behind the full name's prefix": (
        connect(0xC6, b"\0\x01c\0\x0balice_shop_\0\0"),
        b"",
    ),
    "[MQTT-3.1.4-1] a byte behind the last field": (sized(0x10, connect()[2:] + b"\0"), b""),
    "[MQTT-3.1.4-1] a string longer than the packet": (sized(0x10, connect()[2:-1]), b""),
    "[MQTT-3.1.4-1] an empty CONNECT": (b"\x10\0", b""),
    "[MQTT-3.1.4-1] CONNECT ends at the flags": (sized(0x10, b"\0\x04MQTT\x04"), b""),
    "[MQTT-3.1.4-1] CONNECT ends in the keep alive": (sized(0x10, b"\0\x04MQTT\x04\x02\0"), b""),
    "[MQTT-3.2.2-4] [MQTT-3.2.2-5] a wrong token": (connect(login=b"\0\x06Bearer\0\x03bad"), b"\x20\x02\0\x04"),
    "[MQTT-3.2.2-4] [MQTT-3.2.2-5] no token": (connect(0x02, login=b""), b"\x20\x02\0\x04"),
    "[MQTT-3.2.2-4] [MQTT-3.2.2-5] an account that is suspended": (
        connect(login=b"\0\x06Bearer\0\x09suspended"),
        b"\x20\x02\0\x05",
    ),
    "[MQTT-3.2.2-4] [MQTT-3.2.2-5] a will that is not permitted": (
        connect(0xC4, b"\0\x01c\0\x06secret\0\0"),
        b"\x20\x02\0\x05",
    ),
}

# What closes a connection that stands, without an answer.
WRONG: dict[str, bytes] = {
    "[MQTT-3.1.0-2] a second CONNECT": connect(),
    "[MQTT-3.1.0-2] a second CONNECT, of MQTT 5": _MQTT_5,
    "[MQTT-3.1.0-2] a second CONNECT, malformed": connect(0xC3),
    "[MQTT-4.8.0-1] packet type 0": b"\0\0",
    "[MQTT-4.8.0-1] packet type 15": b"\xf0\0",
    "[MQTT-4.8.0-1] a length of five bytes": b"\x30\xff\xff\xff\xff\x01",
    "[MQTT-4.8.0-1] CONNACK from a client": b"\x20\x02\0\0",
    "[MQTT-4.8.0-1] SUBACK from a client": b"\x90\x03\0\x01\0",
    "[MQTT-4.8.0-1] UNSUBACK from a client": b"\xb0\x02\0\x01",
    "[MQTT-4.8.0-1] PINGRESP from a client": b"\xd0\0",
    "[MQTT-2.2.2-2] flags of PUBACK": b"\x41\x02\0\x01",
    "[MQTT-2.2.2-2] flags of PUBREC": b"\x52\x02\0\x01",
    "[MQTT-2.2.2-2] [MQTT-3.6.1-1] PUBREL with flags 0": b"\x60\x02\0\x01",
    "[MQTT-2.2.2-2] [MQTT-3.6.1-1] PUBREL with flags 3": b"\x63\x02\0\x01",
    "[MQTT-2.2.2-2] flags of PUBCOMP": b"\x78\x02\0\x01",
    "[MQTT-2.2.2-2] [MQTT-3.8.1-1] SUBSCRIBE with flags 0": sized(0x80, b"\0\x01\0\x01t\0"),
    "[MQTT-2.2.2-2] [MQTT-3.8.1-1] SUBSCRIBE with flags 10": sized(0x8A, b"\0\x01\0\x01t\0"),
    "[MQTT-2.2.2-2] [MQTT-3.10.1-1] UNSUBSCRIBE with flags 0": sized(0xA0, b"\0\x01\0\x01t"),
    "[MQTT-2.2.2-2] [MQTT-3.10.1-1] UNSUBSCRIBE with flags 6": sized(0xA6, b"\0\x01\0\x01t"),
    "[MQTT-2.2.2-2] flags of PINGREQ": b"\xc1\0",
    "[MQTT-3.14.1-1] flags of DISCONNECT": b"\xe1\0",
    "[MQTT-2.3.1-1] PUBLISH at QoS 1 with packet identifier 0": b"\x32\x05\0\x01t\0\0",
    "[MQTT-2.3.1-1] PUBLISH at QoS 2 with packet identifier 0": b"\x34\x05\0\x01t\0\0",
    "[MQTT-2.3.1-1] PUBLISH at QoS 1 without packet identifier": b"\x32\x03\0\x01t",
    "[MQTT-2.3.1-1] SUBSCRIBE with packet identifier 0": sized(0x82, b"\0\0\0\x01t\0"),
    "[MQTT-2.3.1-1] UNSUBSCRIBE with packet identifier 0": sized(0xA2, b"\0\0\0\x01t"),
    "[MQTT-3.3.1-2] DUP at QoS 0": b"\x38\x04\0\x01tx",
    "[MQTT-3.3.1-4] QoS 3": b"\x36\x06\0\x01t\0\x01x",
    "[MQTT-3.3.2-1] PUBLISH without a topic": b"\x30\0",
    "[MQTT-3.3.2-1] a topic longer than the packet": b"\x30\x04\0\x09tx",
    "[MQTT-3.3.2-1] [MQTT-1.5.3-1] a topic of ill-formed UTF-8": b"\x30\x04\0\x02\xc3\x28",
    "[MQTT-3.3.2-1] [MQTT-1.5.3-1] a surrogate in a topic": b"\x30\x05\0\x03\xed\xa0\x80",
    "[MQTT-4.7.3-2] [MQTT-1.5.3-2] U+0000 in a topic": b"\x30\x04\0\x02t\0",
    "[MQTT-3.3.2-2] [MQTT-4.7.1-1] + in a topic": b"\x30\x08\0\x06open/+",
    "[MQTT-3.3.2-2] [MQTT-4.7.1-1] # in a topic, at QoS 1": b"\x32\x0a\0\x06open/#\0\x01",
    "[MQTT-4.7.3-1] an empty topic": b"\x30\x03\0\0x",
    "[MQTT-4.8.0-1] an empty PUBACK": b"\x40\0",
    "[MQTT-4.8.0-1] PUBREC of three bytes": b"\x50\x03\0\x01\0",
    "[MQTT-4.8.0-1] PUBREL of one byte": b"\x62\x01\0",
    "[MQTT-4.8.0-1] PUBCOMP of four bytes": b"\x70\x04\0\x01\0\x02",
    "[MQTT-4.8.0-1] PINGREQ with a body": b"\xc0\x01\0",
    "[MQTT-4.8.0-1] DISCONNECT with a body": b"\xe0\x01\0",
    "[MQTT-3.8.3-3] SUBSCRIBE without a filter": b"\x82\x02\0\x01",
    "[MQTT-3.8.3-4] a requested QoS of 3": sized(0x82, b"\0\x01\0\x01t\x03"),
    "[MQTT-3.8.3-4] a reserved bit of the requested QoS": sized(0x82, b"\0\x01\0\x01t\x81"),
    "[MQTT-3.8.3-4] the same in the second of two filters": sized(0x82, b"\0\x01\0\x01t\0\0\x01u\x04"),
    "[MQTT-3.8.3-1] [MQTT-1.5.3-1] a filter of ill-formed UTF-8": sized(0x82, b"\0\x01\0\x01\xff\0"),
    "[MQTT-3.8.3-1] [MQTT-1.5.3-2] U+0000 in a filter": sized(0x82, b"\0\x01\0\x02t\0\0"),
    "[MQTT-4.7.1-2] a/#/b": sized(0x82, b"\0\x01\0\x05a/#/b\0"),
    "[MQTT-4.7.1-2] a#": sized(0x82, b"\0\x01\0\x02a#\0"),
    "[MQTT-4.7.1-3] ab/+e": sized(0x82, b"\0\x01\0\x05ab/+e\0"),
    "[MQTT-4.7.1-3] a+": sized(0x82, b"\0\x01\0\x02a+\0"),
    "[MQTT-4.7.3-1] an empty filter": sized(0x82, b"\0\x01\0\0\0"),
    "[MQTT-4.8.0-1] SUBSCRIBE ends before the QoS": sized(0x82, b"\0\x01\0\x01t"),
    "[MQTT-3.10.3-2] UNSUBSCRIBE without a filter": b"\xa2\x02\0\x01",
    "[MQTT-3.10.3-1] [MQTT-1.5.3-1] UNSUBSCRIBE of ill-formed UTF-8": sized(0xA2, b"\0\x01\0\x01\xff"),
    "[MQTT-3.10.3-1] [MQTT-1.5.3-2] U+0000 in UNSUBSCRIBE": sized(0xA2, b"\0\x01\0\x01\0"),
    "[MQTT-3.10.3-1] a filter of UNSUBSCRIBE longer than the packet": sized(0xA2, b"\0\x01\0\x09t"),
    "[MQTT-4.7.3-1] UNSUBSCRIBE from an empty filter": sized(0xA2, b"\0\x01\0\0"),
}

# What is answered on a connection that stands, and stays.
RIGHT: dict[str, tuple[bytes, bytes]] = {
    "[MQTT-3.12.4-1] PINGREQ": (b"\xc0\0", b"\xd0\0"),
    "[MQTT-3.3.4-1] PUBLISH at QoS 0": (b"\x30\x04\0\x01tx", b""),
    "[MQTT-3.3.4-1] [MQTT-2.3.1-6] PUBLISH at QoS 1": (b"\x32\x06\0\x01t\x12\x34x", b"\x40\x02\x12\x34"),
    "[MQTT-3.3.4-1] [MQTT-2.3.1-6] PUBLISH at QoS 2": (b"\x34\x06\0\x01t\x12\x35x", b"\x50\x02\x12\x35"),
    "[MQTT-3.3.4-1] PUBLISH without a payload": (b"\x32\x05\0\x01t\xff\xff", b"\x40\x02\xff\xff"),
    "[MQTT-4.3.3-2] PUBREL": (b"\x62\x02\x12\x35", b"\x70\x02\x12\x35"),
    "[MQTT-4.3.3-2] PUBREL that belongs to nothing": (b"\x62\x02\x77\x77", b"\x70\x02\x77\x77"),
    "[MQTT-4.3.3-1] PUBREC that belongs to nothing": (b"\x50\x02\x77\x77", b"\x62\x02\x77\x77"),
    "[MQTT-4.3.2-1] PUBACK that belongs to nothing": (b"\x40\x02\x77\x77", b""),
    "[MQTT-4.3.3-1] PUBCOMP that belongs to nothing": (b"\x70\x02\x77\x77", b""),
    "[MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.3.1-7] SUBSCRIBE": (
        sized(0x82, b"\x12\x36\0\x01u\0"),
        b"\x90\x03\x12\x36\0",
    ),
    "[MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.9.3-1] [MQTT-3.9.3-2] filters at QoS 2, 0, refused, 1": (
        sized(0x82, b"\x12\x37\0\x01a\x02\0\x01b\0\0\x08$share/g\x01\0\x01c\x01"),
        b"\x90\x06\x12\x37\x02\0\x80\x01",
    ),
    "[MQTT-3.8.3-2] filters with wildcards": (
        sized(0x82, b"\x12\x38\0\x03v/+\0\0\x03w/#\0\0\x05+/x/#\0"),
        b"\x90\x05\x12\x38\0\0\0",
    ),
    "[MQTT-3.10.4-4] [MQTT-2.3.1-7] UNSUBSCRIBE": (sized(0xA2, b"\x12\x39\0\x01u"), b"\xb0\x02\x12\x39"),
    "[MQTT-3.10.4-5] UNSUBSCRIBE from what is not subscribed to": (
        sized(0xA2, b"\x12\x40\0\x01u"),
        b"\xb0\x02\x12\x40",
    ),
    "[MQTT-3.10.4-6] [MQTT-3.10.3-1] UNSUBSCRIBE from several": (
        sized(0xA2, b"\x12\x41\0\x01a\0\x05never\0\x01c"),
        b"\xb0\x02\x12\x41",
    ),
}


def cut(data: bytes) -> list[bytes]:
    """Bytes as single packets of less than 128 bytes."""
    found = []
    while data:
        size = 2 + data[1]
        found.append(data[:size])
        data = data[size:]
    return found


def single(data: bytes) -> list[bytes]:
    """Bytes one by one."""
    return [data[place : place + 1] for place in range(len(data))]


class StatementTests(SynchronousTestCase):
    """Common steps."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster, LIMITS)

    def settle(self) -> None:
        self.cluster.settle()

    def raw(self, peer: Peer, *data: bytes) -> bytes:
        """Send bytes; return what came since the last look."""
        peer.send(*data)
        self.settle()
        came: bytes = peer.transport.value()
        peer.transport.clear()
        return came

    def peer(self, client_id: str = "c", present: bool = False, **options: Any) -> Peer:
        peer = self.node.peer(client_id, **options)
        first, *self.behind = peer.packets()
        self.assertEqual(first, Connack(present, 0))
        return peer

    def subscribe(self, peer: Peer, *filters: tuple[str, int]) -> list[Any]:
        """Subscribe; return what came behind SUBACK."""
        peer.send(packets.subscribe(9, filters))
        self.settle()
        first, *others = peer.packets()
        self.assertEqual(first, Suback(9, tuple(qos for _, qos in filters)))
        return others

    def subscriber(self, *filters: tuple[str, int], client_id: str = "s", **options: Any) -> Peer:
        peer = self.peer(client_id, **options)
        self.subscribe(peer, *filters)
        return peer

    def publish(self, topic: str, *payloads: bytes, qos: int = 1, retain: bool = False, dup: bool = False) -> None:
        """Have another client publish, and finish the handshakes."""
        publisher = self.peer("publisher")
        ids = range(1, len(payloads) + 1)
        publisher.send(packets.publishes(topic, payloads, qos, ids if qos else (), retain=retain, dup=dup))
        self.settle()
        publisher.send(packets.DISCONNECT)
        self.lose(publisher)

    def lose(self, peer: Peer) -> None:
        peer.lose()
        self.settle()

    @staticmethod
    def messages(found: Iterable[Any]) -> list[tuple[str, bytes, int, bool]]:
        """Topic, payload, QoS and RETAIN of each PUBLISH."""
        return [
            (one.topic.decode(), payload, one.qos, one.retain)
            for one in found
            if isinstance(one, Publish)
            for payload in one.payloads()
        ]

    def payloads(self, found: Iterable[Any]) -> list[bytes]:
        return [payload for _, payload, _, _ in self.messages(found)]

    @staticmethod
    def ids(found: Iterable[Any]) -> list[int]:
        """The packet identifiers of PUBLISH packets."""
        return [packet_id for one in found if isinstance(one, Publish) for packet_id in one.packet_ids]

    def retained(self, topic: str) -> list[tuple[str, bytes, int, bool]]:
        """What a new subscriber is sent at once."""
        peer = self.peer("looker")
        found = self.messages(self.subscribe(peer, (topic, 2)))
        self.lose(peer)
        return found

    def stored(self, payload: bytes) -> int:
        """How often history has a message."""
        return sum(entry.payload == payload for entry in self.cluster.bus._entries)


class ProbeTests(StatementTests):
    """Single packets, from the tables."""

    def test_first(self) -> None:
        """What may not come first, or is refused, is answered by nothing or by CONNACK, and the connection closes: read
        at once, or byte by byte."""
        for name, (data, answer) in FIRST.items():
            for pieces in ([data], single(data)):
                with self.subTest(name, pieces=len(pieces)):
                    peer = Peer(self.node.factory)
                    self.assertEqual(b"".join([self.raw(peer, piece) for piece in pieces]), answer)
                    self.assertTrue(peer.closed)
                    peer.lose()

    def test_wrong(self) -> None:
        """What may not come later closes the connection without an answer, and no other one: read at once, or byte by
        byte."""
        other = self.subscriber(("#", 2))
        for name, data in WRONG.items():
            for pieces in ([data], single(data)):
                with self.subTest(name, pieces=len(pieces)):
                    peer = self.peer()
                    self.assertEqual(b"".join([self.raw(peer, piece) for piece in pieces]), b"")
                    self.assertTrue(peer.closed)
                    self.lose(peer)
        self.assertFalse(other.closed)
        self.assertEqual(other.packets(), [])

    def test_right(self) -> None:
        """What has an answer gets that and no other, and the connection stays: packet by packet, byte by byte, and all
        in one read."""
        for cut_up in (lambda data: [data], single):
            peer = self.peer()
            for name, (data, answer) in RIGHT.items():
                with self.subTest(name):
                    self.assertEqual(b"".join([self.raw(peer, piece) for piece in cut_up(data)]), answer)
                    self.assertFalse(peer.closed)
            self.lose(peer)
        came = self.raw(self.peer(), *(data for data, _ in RIGHT.values()))
        self.assertCountEqual(cut(came), [answer for _, answer in RIGHT.values() if answer])


class ConnectTests(StatementTests):
    """Sections 3.1 and 3.2."""

    def test_plain_client(self) -> None:
        """[MQTT-7.0.0-2], [MQTT-3.1.4-4], [MQTT-3.2.0-1]: a client that knows nothing but the specification is served:
        bytes as they stand there, answers as they stand there."""
        peer = Peer(self.node.factory)
        self.assertEqual(self.raw(peer, connect()), b"\x20\x02\0\0")
        self.assertEqual(self.raw(peer, b"\x82\x06\0\x01\0\x01t\x01"), b"\x90\x03\0\x01\x01")
        self.assertEqual(self.raw(peer, b"\x30\x04\0\x01tx"), b"\x30\x04\0\x01tx")
        came = cut(self.raw(peer, b"\x32\x06\0\x01t\0\x07y"))
        self.assertCountEqual(came, [b"\x40\x02\0\x07", b"\x32\x06\0\x01t\0\x01y"])
        self.assertEqual(self.raw(peer, b"\x40\x02\0\x01\xc0\0"), b"\xd0\0")
        self.assertEqual(self.raw(peer, b"\xe0\0"), b"")
        self.assertTrue(peer.closed)

    def test_fields(self) -> None:
        """[MQTT-3.1.3-1], [MQTT-3.1.2-9]: client identifier, will topic, will message, user name and password are read
        in this order, and the will has the QoS and the RETAIN of the flags."""
        watcher = self.subscriber(("open/+", 2))
        peer = Peer(self.node.factory)
        came = self.raw(peer, connect(0xEE, b"\0\x02me\0\x06open/w\0\x04\0\xffhi"))
        self.assertEqual(came, b"\x20\x02\0\0")
        self.assertTrue(self.node.peer("me").packets())
        self.assertTrue(peer.closed)
        self.assertEqual(self.messages(watcher.packets()), [("open/w", b"\0\xffhi", 1, False)])
        self.assertEqual(self.retained("open/w"), [("open/w", b"\0\xffhi", 1, True)])

    def test_client_identifiers(self) -> None:
        """[MQTT-3.1.3-5]: 1 to 23 letters and digits are taken, each of them and in every length."""
        letters = string.digits + string.ascii_letters
        taken = [*letters, *(letters[size : 2 * size] for size in range(1, 24)), letters[:23], letters[-23:]]
        for clean, client_id in product((True, False), dict.fromkeys(taken)):
            self.lose(self.peer(client_id, clean_session=clean))

    def test_other_client_identifiers(self) -> None:
        """Longer ones, and any characters, are taken too, with sessions of their own."""
        others = [
            "x" * 24,
            "x" * 65,
            "x" * 65535,
            "a.b",
            "a b",
            "*",
            ">",
            "é",
            "日本",
            "\ufeff",
            "a/b",
            "i-a",
            "x" * 64,
        ]
        for client_id in others:
            peer = self.peer(client_id, clean_session=False)
            self.subscribe(peer, ("t", 1))
            self.lose(peer)
        for client_id in others:
            self.lose(self.peer(client_id, present=True, clean_session=False))

    def test_sessions_by_identifier(self) -> None:
        """[MQTT-3.1.3-2]: what waits for one client identifier is not given to another."""
        for client_id, topic in (("one", "open/1"), ("two", "open/2")):
            self.lose(self.subscriber((topic, 1), client_id=client_id, clean_session=False))
        self.publish("open/1", b"for one")
        self.publish("open/2", b"for two")
        for client_id in ("two", "one", "One"):
            self.peer(client_id, present=client_id != "One", clean_session=False)
            self.assertEqual(self.payloads(self.behind), [f"for {client_id}".encode()] * (client_id != "One"))

    def test_unique_identifiers(self) -> None:
        """[MQTT-3.1.3-6]: clients with an empty identifier are apart from each other and served as others are."""
        peers = [self.subscriber(("t", 1), client_id="") for _ in range(3)]
        self.publish("t", b"x")
        for peer in peers:
            self.assertEqual(self.payloads(peer.packets()), [b"x"])

    def test_session(self) -> None:
        """[MQTT-3.1.2-4], [MQTT-3.1.4-3], [MQTT-4.1.0-1]: clean session 0 begins a session, stores it when the
        connection ends, and takes it up: subscriptions, and what is in flight both ways."""
        peer = self.subscriber(("open/+", 2), client_id="d", clean_session=False)
        peer.send(packets.publishes("t", [b"mine"], 2, [7]))
        self.settle()
        peer.packets()
        self.publish("open/a", b"flying", qos=2)
        (packet_id,) = self.ids(peer.packets())
        self.lose(peer)
        self.publish("open/b", b"waiting", qos=1)
        peer = self.peer("d", present=True, clean_session=False)
        self.assertEqual(self.payloads(self.behind), [b"flying", b"waiting"])
        self.assertEqual(self.ids(self.behind)[0], packet_id)
        self.assertEqual(self.raw(peer, packets.publishes("t", [b"mine"], 2, [7], dup=True)), b"\x50\x02\0\x07")
        self.assertEqual(self.stored(b"mine"), 1)
        self.publish("open/c", b"live")
        self.assertEqual(self.payloads(peer.packets()), [b"live"])

    def test_clean_session(self) -> None:
        """[MQTT-3.1.2-6], [MQTT-3.2.2-1], [MQTT-3.1.4-3]: clean session 1 takes nothing over, also no packet identifier
        that was not released, and leaves nothing to the next connection."""
        peer = self.subscriber(("open/a", 2), client_id="d", clean_session=False)
        for number, clean in enumerate((True, False, True)):
            with self.subTest(number):
                peer.send(packets.publishes("t", [b"same"], 2, [7]))
                self.settle()
                self.assertEqual(self.stored(b"same"), number + 1)
                self.publish("open/a", b"%d" % number, qos=2)
                self.lose(peer)
                peer = self.peer("d", clean_session=clean)
                self.assertEqual(self.behind, [])
                self.publish("open/a", b"unheard")
                self.assertEqual(peer.packets(), [])
                if not clean:
                    peer = self.peer("d", clean_session=True)  # what the next round begins with is clean again

    def test_nothing_behind_a_refusal(self) -> None:
        """[MQTT-3.1.4-5]: what comes behind a CONNECT that is refused is not carried out, in the same read or later."""
        watcher = self.subscriber(("#", 0))
        behind = packets.publishes("t", [b"x"]) + packets.publishes("t", [b"y"], 1, [1]) + packets.PINGREQ
        for refused in (connect(login=b"\0\x06Bearer\0\x03bad"), connect(0xC0, b"\0\0"), connect(0xC3), _MQTT_5):
            peer = Peer(self.node.factory)
            answer = self.raw(peer, refused, behind)
            self.assertEqual(self.raw(peer, behind), b"")
            self.assertIn(answer, (b"", b"\x20\x02\0\x01", b"\x20\x02\0\x02", b"\x20\x02\0\x04"))
        self.assertEqual(watcher.packets(), [])

    def test_refused_takes_nobody_over(self) -> None:
        """[MQTT-3.1.4-5]: a CONNECT that is refused closes no other connection and removes no session."""
        peer = self.subscriber(("open/a", 1), client_id="d", clean_session=False)
        for refused, code in (
            (connect(payload=b"\0\x01d", login=b"\0\x06Bearer\0\x03bad"), b"\4"),
            (connect(0xC6, b"\0\x01d\0\x06secret\0\0"), b"\5"),
        ):
            self.assertEqual(self.raw(Peer(self.node.factory), refused), b"\x20\x02\0" + code)
        self.assertFalse(peer.closed)
        self.lose(peer)
        self.peer("d", present=True, clean_session=False)

    def test_taken_over(self) -> None:
        """[MQTT-3.1.4-2]: the connection that had the client identifier is closed without a packet, and the new one has
        the deliveries, whichever of the two keeps a session."""
        for before, after in product((True, False), (True, False)):
            with self.subTest(before=before, after=after):
                self.setUp()
                first = self.subscriber(("t", 1), client_id="d", clean_session=before)
                second = self.peer("d", present=not (before or after), clean_session=after)
                self.assertTrue(first.closed)
                self.subscribe(second, ("t", 1))
                self.publish("t", b"x")
                self.assertEqual(first.packets(), [])
                self.assertEqual(self.payloads(second.packets()), [b"x"])
                self.lose(first)
                self.assertFalse(second.closed)

    def test_first_of_the_server(self) -> None:
        """[MQTT-3.2.0-1]: CONNACK comes before all else, whatever waits for the client or came behind its CONNECT."""
        self.publish("open/a", b"retained", retain=True)
        self.lose(self.subscriber(("open/a", 1), client_id="d", clean_session=False))
        self.publish("open/a", b"waiting")
        peer = Peer(self.node.factory)
        login = Connect("d", clean_session=False, user_name="Bearer", password=b"alice")
        peer.send(packets.connect(login), packets.PINGREQ, packets.subscribe(1, [("open/a", 1)]))
        self.settle()
        first, *others = peer.packets()
        self.assertEqual(first, Connack(True, 0))
        self.assertCountEqual(self.payloads(others), [b"retained", b"waiting", b"retained"])  # in flight, and asked for

    def test_keep_alive_counts_what_comes(self) -> None:
        """[MQTT-3.1.2-24]: what the server sends does not put off the end of a silent client."""
        peer = self.subscriber(("t", 0), keep_alive=10)
        for _ in range(17):
            self.publish("t", b"x", qos=0)
            self.cluster.clock.advance(1)
        self.assertTrue(peer.closed)

    def test_no_keep_alive(self) -> None:
        """[MQTT-3.1.2-24]: with keep alive 0 a client may be silent for as long as it likes."""
        peer = self.peer(keep_alive=0)
        self.cluster.clock.pump([1] * (LIFE - 10))
        self.assertFalse(peer.closed)

    def test_disconnected_at_once(self) -> None:
        """[MQTT-3.14.4-3], [MQTT-3.1.2-8]: DISCONNECT in the same read as CONNECT counts: no will."""
        peer = Peer(self.node.factory)
        self.raw(peer, connect(0xC6, b"\0\x01c" + _WILL), b"\xe0\0")
        self.lose(peer)
        self.assertEqual(self.stored(b"gone"), 0)


class WillTests(StatementTests):
    """Section 3.1.2.5."""

    def mortal(self, will: Will, **options: Any) -> tuple[Peer, Peer]:
        """A client with a will, and one that watches for it."""
        watcher = self.subscriber(("open/#", 2), client_id="w")
        return self.peer("m", will=will, **options), watcher

    def end(self, how: str, peer: Peer) -> None:
        if how == "lost":
            peer.lose()
        elif how == "silent":
            self.cluster.clock.pump([1] * 17)
        elif how == "protocol error":
            peer.send(b"\xf0\0")
        elif how == "second CONNECT":
            peer.send(connect(payload=b"\0\x01m"))
        elif how == "forbidden":
            peer.send(packets.publishes("secret", [b"x"]))
        elif how == "taken over":
            self.node.peer("m", clean_session=False).packets()
        elif how == "expired":
            for _ in range(LIFE // 9 + 1):
                peer.send(packets.PINGREQ)
                self.cluster.clock.advance(9)
        self.settle()
        self.assertTrue(peer.closed or how == "lost")
        self.lose(peer)

    def test_every_end(self) -> None:
        """[MQTT-3.1.2-8], [MQTT-3.1.2-24]: the will is published once, however the connection ends without DISCONNECT,
        with a clean session or without."""
        ends = ("lost", "silent", "protocol error", "second CONNECT", "forbidden", "taken over", "expired")
        for clean, how in product((True, False), ends):
            with self.subTest(clean=clean, how=how):
                self.setUp()
                peer, watcher = self.mortal(Will("open/will", b"gone", 1, False), clean_session=clean, keep_alive=10)
                found = []
                if how == "expired":
                    self.lose(watcher)  # its token ends as well
                self.end(how, peer)
                found = watcher.packets()
                self.assertEqual(self.stored(b"gone"), 1)
                if how != "expired":
                    self.assertEqual(self.messages(found), [("open/will", b"gone", 1, False)])

    def test_every_kind(self) -> None:
        """[MQTT-3.1.2-16], [MQTT-3.1.2-17], [MQTT-3.1.2-9]: a will has its QoS, an empty one is one too, and it is
        retained exactly if its flag says so."""
        for qos, retain, payload in product((0, 1, 2), (False, True), (b"gone", b"")):
            with self.subTest(qos=qos, retain=retain, payload=payload):
                self.setUp()
                self.publish("open/will", b"before", retain=True)
                peer, watcher = self.mortal(Will("open/will", payload, qos, retain))
                watcher.packets()
                self.lose(peer)
                self.assertEqual(self.messages(watcher.packets()), [("open/will", payload, qos, False)])
                kept = [("open/will", payload, qos, True)] if retain else [("open/will", b"before", 1, True)]
                self.assertEqual(self.retained("open/will"), kept if payload or not retain else [])

    def test_none(self) -> None:
        """[MQTT-3.1.2-12], [MQTT-3.1.2-10]: without a will nothing is published, also if the connection before had one;
        what was published once is not published again."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                self.setUp()
                peer, watcher = self.mortal(Will("open/will", b"gone", 1, False), clean_session=clean)
                self.lose(peer)
                self.assertEqual(len(watcher.packets()), 1)
                for _ in range(2):
                    self.lose(self.node.peer("m", clean_session=clean))
                self.cluster.clock.pump([1] * 20)
                self.settle()
                self.assertEqual(watcher.packets(), [])
                self.assertEqual(self.stored(b"gone"), 1)

    def test_stop(self) -> None:
        """[MQTT-3.1.2-8]: a node that stops in order publishes the wills of its clients, behind what they published,
        and waits for that; the next one does not publish them again."""
        for clean, qos in product((True, False), (0, 1, 2)):
            with self.subTest(clean=clean, qos=qos):
                self.setUp()
                self.lose(self.subscriber(("open/#", 2), client_id="d", clean_session=False))
                peer = self.peer("m", clean_session=clean, will=Will("open/will", b"gone", qos, False))
                peer.send(packets.publishes("open/will", [b"here"], 1, [1]))
                self.node.connections.end(None)
                stopped = self.node.sessions.stop()
                self.settle()
                self.successResultOf(stopped)
                self.assertEqual(peer.packets(), [Ack(Type.PUBACK, (1,))])
                self.assertTrue(peer.closed)
                self.node.die()
                self.node = Node(self.cluster, LIMITS)
                self.cluster.clock.pump([1] * 20)
                self.settle()
                self.peer("d", present=True, clean_session=False)
                self.assertEqual(self.payloads(self.behind), [b"here", b"gone"] if qos else [b"here"])
                self.assertEqual(self.stored(b"gone"), 1)


class PublishTests(StatementTests):
    """Section 3.3, and the delivery protocols of section 4.3."""

    def test_bytes_at_qos_0(self) -> None:
        """[MQTT-4.3.1-1], [MQTT-2.3.1-5], [MQTT-3.3.1-9]: what is sent at QoS 0 has DUP 0, RETAIN 0 and no packet
        identifier, at whatever QoS and with whatever flags it was published."""
        peer = self.subscriber(("t", 0))
        for qos, retain, dup in product((0, 1, 2), (False, True), (False, True)):
            if qos or not dup:
                self.publish("t", b"x", qos=qos, retain=retain, dup=dup)
                self.assertEqual(self.raw(peer), b"\x30\x04\0\x01tx")

    def test_dup(self) -> None:
        """[MQTT-3.3.1-3], [MQTT-4.3.2-1], [MQTT-4.3.3-1]: DUP of the publisher is not passed on."""
        for clean, qos in product((True, False), (1, 2)):
            with self.subTest(clean=clean, qos=qos):
                peer = self.subscriber(("t", 2), client_id=f"{clean}{qos}", clean_session=clean)
                self.publish("t", b"x", qos=qos, dup=True)
                self.assertEqual(self.raw(peer), bytes((0x30 | qos << 1, 6)) + b"\0\x01t\0\x01x")
                self.lose(peer)

    def test_new_behind_puback(self) -> None:
        """[MQTT-4.3.2-2]: a QoS 1 PUBLISH under an identifier that was acknowledged is another message, DUP or not."""
        peer = self.subscriber(("t", 0))
        publisher = self.peer("publisher", clean_session=False)
        for dup in (False, True, False):
            data = packets.publishes("t", [b"x"], 1, [7], dup=dup)
            self.assertEqual(self.raw(publisher, data), b"\x40\x02\0\x07")
        self.assertEqual(self.payloads(peer.packets()), [b"x"] * 3)

    def test_once_before_pubrel(self) -> None:
        """[MQTT-4.3.3-2]: a QoS 2 PUBLISH that comes again is answered again and passed on once, session kept or not;
        behind PUBREL its identifier means a new message."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                peer = self.subscriber(("t", 2), client_id=f"s{clean}", clean_session=clean)
                publisher = self.peer("publisher", clean_session=clean)
                for _ in range(2):
                    for _ in range(3):
                        data = packets.publishes("t", [b"x"], 2, [7])
                        self.assertEqual(self.raw(publisher, data), b"\x50\x02\0\x07")
                    for _ in range(2):
                        self.assertEqual(self.raw(publisher, b"\x62\x02\0\x07"), b"\x70\x02\0\x07")
                self.assertEqual(self.payloads(peer.packets()), [b"x"] * 2)
                self.lose(peer)
                self.lose(publisher)

    def test_qos_2_bytes(self) -> None:
        """[MQTT-4.3.3-1], [MQTT-2.3.1-6]: PUBREL has the identifier of its PUBLISH and flags 2; behind it no PUBLISH is
        sent again, also not on the next connection."""
        peer = self.subscriber(("t", 2), client_id="d", clean_session=False)
        self.publish("t", b"x", qos=2)
        self.assertEqual(self.raw(peer), b"\x34\x06\0\x01t\0\x01x")
        for _ in range(2):
            self.assertEqual(self.raw(peer, b"\x50\x02\0\x01"), b"\x62\x02\0\x01")
        self.lose(peer)
        peer = Peer(self.node.factory)
        self.assertEqual(self.raw(peer, connect(0xC0, b"\0\x01d")), b"\x20\x02\x01\0\x62\x02\0\x01")
        self.assertEqual(self.raw(peer, b"\x70\x02\0\x01"), b"")

    def test_identifiers(self) -> None:
        """[MQTT-2.3.1-4]: a new delivery has an identifier that is not in flight, and one that was acknowledged to the
        end is free: behind 65,535 they begin again, and pass an old one by that is still in flight."""
        peer = self.subscriber(("t", 2), ("open/u", 1))
        self.publish("t", b"old", qos=2)
        self.assertEqual(self.ids(peer.packets()), [1])
        session = peer.protocol.session
        session._next_id = 65534
        seen: list[int] = []
        for _ in range(2):
            self.publish("open/u", b"1", b"2", b"3")
            found = self.ids(peer.packets())
            seen += found
            peer.send(packets.acks(Type.PUBACK, found))
        self.assertEqual(seen, [65534, 65535, 2, 3, 4, 5])
        peer.send(packets.acks(Type.PUBREC, [1]), packets.acks(Type.PUBCOMP, [1]))
        session._next_id = 1
        peer.packets()
        self.publish("open/u", b"4")
        self.assertEqual(self.ids(peer.packets()), [1])

    def test_forbidden(self) -> None:
        """[MQTT-3.3.5-2]: a PUBLISH beyond the grants closes the connection at every QoS; nothing of it is kept."""
        for qos in (0, 1, 2):
            with self.subTest(qos=qos):
                publisher = self.peer("publisher")
                data = packets.publishes("secret", [b"x"], qos, [1] if qos else (), retain=True)
                self.assertEqual(self.raw(publisher, data), b"")
                self.assertTrue(publisher.closed)
                self.lose(publisher)
        self.assertEqual(self.stored(b"x"), 0)
        self.assertEqual(self.retained("secret"), [])

    def test_bus_away(self) -> None:
        """[MQTT-4.8.0-2]: a PUBLISH that cannot be stored now closes the connection, unacknowledged, at QoS 1 and 2."""
        for clean, qos in product((True, False), (1, 2)):
            with self.subTest(clean=clean, qos=qos):
                publisher = self.peer(f"{clean}{qos}", clean_session=clean)
                self.cluster.bus.go_away()
                self.assertEqual(self.raw(publisher, packets.publishes("t", [b"x"], qos, [1])), b"")
                self.assertTrue(publisher.closed)
                self.cluster.bus.come_back()
                self.lose(publisher)

    def test_order_of_acknowledgements(self) -> None:
        """[MQTT-4.6.0-2], [MQTT-4.6.0-3]: PUBACK and PUBREC packets are sent in the order of the PUBLISH packets,
        whatever is stored first."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                held: list[Deferred[None]] = []

                def publish(run: Run, held: list[Deferred[None]] = held) -> Deferred[None]:
                    held.append(Deferred())
                    return held[-1]

                patch = self.patch(self.cluster.bus, "publish", publish)
                publisher = self.peer("publisher", clean_session=clean)
                sent = [("t", 1), ("open/a", 2), ("t", 2), ("open/b", 1), ("t", 1)]
                for packet_id, (topic, qos) in enumerate(sent, 1):
                    self.assertEqual(self.raw(publisher, packets.publishes(topic, [b"x"], qos, [packet_id])), b"")
                for stored in reversed(held):
                    stored.callback(None)
                expected = [sized((0x30 + 0x10 * qos), b"\0" + bytes((n,))) for n, (_, qos) in enumerate(sent, 1)]
                self.assertEqual(cut(self.raw(publisher)), expected)
                patch.restore()
                self.lose(publisher)

    def test_order_of_pubrel(self) -> None:
        """[MQTT-4.6.0-4]: PUBREL packets are sent in the order of the PUBREC packets."""
        for clean in (True, False):
            peer = self.subscriber(("t", 2), client_id=f"s{clean}", clean_session=clean)
            self.publish("t", b"1", b"2", b"3", qos=2)
            self.assertEqual(self.ids(peer.packets()), [1, 2, 3])
            came = self.raw(peer, b"\x50\x02\0\x03", b"\x50\x02\0\x01\x50\x02\0\x02")
            self.assertEqual(came, b"\x62\x02\0\x03\x62\x02\0\x01\x62\x02\0\x02")
            self.lose(peer)

    def test_order_of_deliveries(self) -> None:
        """[MQTT-4.6.0-5], [MQTT-4.6.0-6]: on each topic at each QoS the messages of one publisher come in their order:
        live, beyond the window, and from the time of absence."""
        sent = [b"%d" % number for number in range(12)]
        for clean, qos, away in ((True, 0, False), *product((True, False), (1, 2), (False, True))):
            if clean and away:
                continue
            with self.subTest(clean=clean, qos=qos, away=away):
                self.setUp()
                peer = self.subscriber(("t", 2), client_id="d", clean_session=clean)
                if away:
                    self.lose(peer)
                publisher = self.peer("publisher")
                for number, payload in enumerate(sent, 1):
                    publisher.send(packets.publishes("t", [payload], qos, [number] if qos else ()))
                self.settle()
                if away:
                    peer = self.peer("d", present=True, clean_session=False)
                    found = self.behind
                else:
                    found = peer.packets()
                self.assertEqual(self.finish(peer, found), sent)

    def finish(self, peer: Peer, found: list[Any]) -> list[bytes]:
        """Acknowledge everything that comes, to the end; return the payloads."""
        seen: list[bytes] = []
        while found:
            seen += self.payloads(found)
            for one in found:
                if isinstance(one, Publish) and one.qos:
                    peer.send(packets.acks(Type.PUBACK if one.qos == 1 else Type.PUBREC, one.packet_ids))
                elif isinstance(one, Ack) and one.type == Type.PUBREL:
                    peer.send(packets.acks(Type.PUBCOMP, one.packet_ids))
            self.settle()
            found = peer.packets()
        return seen

    def test_order_of_redelivery(self) -> None:
        """[MQTT-4.6.0-1], [MQTT-4.4.0-1], [MQTT-3.3.1-1]: what is sent again is sent in its old order, QoS 1 and 2 as
        they were mixed, under its identifiers and with DUP, also if identifiers began again at 1 in between."""
        peer = self.subscriber(("t", 1), ("open/a", 2), client_id="d", clean_session=False)
        peer.protocol.session._next_id = 65534
        for topic, payload in (("t", b"1"), ("open/a", b"2"), ("t", b"3"), ("open/a", b"4")):
            self.publish(topic, payload, qos=2)
        before = peer.packets()
        self.assertEqual(self.ids(before), [65534, 65535, 1, 2])
        for _ in range(2):
            self.lose(peer)
            peer = self.peer("d", present=True, clean_session=False)
            self.assertEqual(self.messages(self.behind), self.messages(before))
            self.assertEqual(self.ids(self.behind), self.ids(before))
            self.assertTrue(all(one.dup for one in self.behind))

    def test_not_again_on_the_same_connection(self) -> None:
        """[MQTT-4.4.0-1]: only a reconnection makes a delivery come again; a slow acknowledgement does not."""
        peer = self.subscriber(("t", 2))
        self.publish("t", b"1", qos=1)
        self.publish("t", b"2", qos=2)
        self.assertEqual(self.payloads(peer.packets()), [b"1", b"2"])
        self.cluster.clock.pump([10] * 60)
        self.settle()
        self.assertEqual(peer.packets(), [])


class RetainTests(StatementTests):
    """Section 3.3.1.3."""

    def test_replaced(self) -> None:
        """[MQTT-3.3.1-7], [MQTT-3.3.1-5]: a retained message of any QoS replaces the one before, of any QoS."""
        for before, after in product((0, 1, 2), (0, 1, 2)):
            self.publish("open/a", b"before", qos=before, retain=True)
            self.publish("open/a", b"after", qos=after, retain=True)
            self.assertEqual(self.retained("open/a"), [("open/a", b"after", after, True)])

    def test_others_change_nothing(self) -> None:
        """[MQTT-3.3.1-12]: a message with RETAIN 0, empty or not, neither is retained nor changes what is."""
        self.publish("open/a", b"kept", qos=2, retain=True)
        for qos, payload in product((0, 1, 2), (b"x", b"")):
            self.publish("open/a", payload, qos=qos)
            self.publish("open/b", payload, qos=qos)
        self.assertEqual(self.retained("open/+"), [("open/a", b"kept", 2, True)])

    def test_removed(self) -> None:
        """[MQTT-3.3.1-10], [MQTT-3.3.1-11]: an empty message with RETAIN 1 of any QoS removes what is retained, is
        delivered with RETAIN 0, and is not retained."""
        peer = self.subscriber(("open/a", 2))
        for qos in (0, 1, 2):
            self.publish("open/a", b"kept", retain=True)
            peer.packets()
            self.publish("open/a", b"", qos=qos, retain=True)
            found = peer.packets()
            self.assertEqual(self.messages(found), [("open/a", b"", qos, False)])
            if qos == 2:
                peer.send(packets.acks(Type.PUBREC, self.ids(found)), packets.acks(Type.PUBCOMP, self.ids(found)))
            peer.send(packets.acks(Type.PUBACK, range(1, 10)))
            peer.packets()
            self.assertEqual(self.retained("open/a"), [])

    def test_every_subscribe(self) -> None:
        """[MQTT-3.3.1-6], [MQTT-3.3.1-8], [MQTT-3.8.4-3]: each SUBSCRIBE brings the retained messages with RETAIN 1, a
        repeated one again, and each of its filters those that it matches."""
        self.publish("open/a", b"a", retain=True)
        self.publish("open/b", b"b", retain=True)
        for clean in (True, False):
            peer = self.peer("s", clean_session=clean)
            for filters, expected in (
                ([("open/a", 0)], [b"a"]),
                ([("open/a", 0)], [b"a"]),
                ([("open/b", 0), ("never", 0)], [b"b"]),
                ([("open/+", 0), ("open/a", 0)], [b"a", b"a", b"b"]),
            ):
                found = self.messages(self.subscribe(peer, *filters))
                self.assertEqual(sorted(payload for _, payload, _, _ in found), expected)
                self.assertTrue(all(retain for *_, retain in found))
            self.lose(peer)

    def test_live(self) -> None:
        """[MQTT-3.3.1-9]: to an established subscription a message goes with RETAIN 0, also if the client was away."""
        for clean, qos in product((True, False), (0, 1, 2)):
            with self.subTest(clean=clean, qos=qos):
                self.setUp()
                peer = self.subscriber(("open/a", 2), client_id="d", clean_session=clean)
                self.publish("open/a", b"there", qos=qos, retain=True)
                found = peer.packets()
                if not clean:
                    self.lose(peer)
                    self.publish("open/a", b"away", qos=qos, retain=True)
                    self.peer("d", present=True, clean_session=False)
                    found += self.behind
                sent = self.messages(found)
                self.assertEqual(
                    {payload for _, payload, _, _ in sent}, {b"there", b"away"} if qos and not clean else {b"there"}
                )
                self.assertEqual({retain for *_, retain in sent}, {False})

    def test_own(self) -> None:
        """[MQTT-3.3.1-6], [MQTT-3.3.1-8]: who subscribes once its PUBLISH with RETAIN is acknowledged gets it with
        RETAIN 1; at QoS 0, where nothing is acknowledged, SUBSCRIBE may be in the same read."""
        for qos in (0, 1, 2):
            peer = self.peer("s")
            topic = f"open/{qos}"
            peer.send(packets.publishes(topic, [b"x"], qos, [1] if qos else (), retain=True))
            if qos:
                self.settle()
                self.assertEqual(len(peer.packets()), 1)
            self.assertEqual(self.messages(self.subscribe(peer, (topic, 2))), [(topic, b"x", qos, True)])
            self.lose(peer)

    def test_own_at_once(self) -> None:
        """[MQTT-3.3.1-6]: who does not wait for the acknowledgement gets it too, once."""
        for qos in (1, 2):
            peer = self.peer("s")
            topic = f"open/{qos}"
            peer.send(packets.publishes(topic, [b"x"], qos, [1], retain=True), packets.subscribe(1, [(topic, 2)]))
            self.settle()
            self.assertEqual(self.payloads(peer.packets()), [b"x"])
            self.lose(peer)


class SubscribeTests(StatementTests):
    """Sections 3.8 to 3.11, and matching."""

    def test_overlapping(self) -> None:
        """[MQTT-3.3.5-1]: overlapping filters bring a message once, at their highest QoS, in any order of them."""
        for clean, order in product((True, False), ((0, 1, 2), (2, 1, 0), (1, 2, 0))):
            with self.subTest(clean=clean, order=order):
                self.setUp()
                names = ("open/#", "open/+", "open/a")
                filters = [(names[index], index) for index in order]
                peer = self.subscriber(*filters, clean_session=clean)
                for qos in (0, 1, 2):
                    self.publish("open/a", b"x", qos=qos)
                    self.assertEqual([one[2] for one in self.messages(peer.packets())], [qos])

    def test_several_filters(self) -> None:
        """[MQTT-3.8.4-4]: filters of one SUBSCRIBE count one after the other; if one is there twice the last holds."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                peer = self.subscriber(("t", 2), ("t", 0), ("open/a", 0), ("open/a", 1), clean_session=clean)
                self.publish("t", b"x", qos=2)
                self.publish("open/a", b"y", qos=2)
                self.assertEqual(self.messages(peer.packets()), [("t", b"x", 0, False), ("open/a", b"y", 1, False)])
                self.lose(peer)

    def test_no_gap(self) -> None:
        """[MQTT-3.8.4-3]: while subscriptions are replaced in one read with publishes, each message comes once."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                peer = self.subscriber(("t", 0), clean_session=clean)
                for number in range(6):
                    data = packets.publishes("t", [b"%d" % number])
                    peer.send(data, packets.subscribe(1, [("t", number % 3)]), data)
                self.settle()
                found = self.payloads(peer.packets())
                self.assertEqual(found, [b"%d" % (number // 2) for number in range(12)])
                self.lose(peer)

    def test_names_match(self) -> None:
        """[MQTT-3.3.2-3]: the name that a subscriber is sent matches its filter, in the form that it used."""
        filters = ("open/#", "open/+", "open/a", "+/a", "#", "alice_shop_open/a", "alice_shop_#", "alice_shop_+/a")
        for number, filter_ in enumerate(filters):
            peer = self.subscriber((filter_, 0), client_id=str(number))
            for name in ("open/a", "alice_shop_open/a"):
                self.publish(name, b"x")
            topics = [topic for topic, *_ in self.messages(peer.packets())]
            self.assertEqual(len(topics), 2)
            full = filter_.startswith("alice_shop_")
            for topic in topics:
                self.assertEqual(topic.startswith("alice_shop_"), full)
                self.assertTrue(matches(filter_.removeprefix("alice_shop_"), topic.removeprefix("alice_shop_")))

    def test_unsubscribe_compares(self) -> None:
        """[MQTT-3.10.4-1]: only the very same filter is removed, no one like it, and no other form of its name."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                peer = self.subscriber(("open/a", 0), clean_session=clean)
                others = ("open/+", "open/#", "#", "OPEN/a", "open/a/", "/open/a", "open//a", "alice_shop_open/a", "a#")
                peer.send(packets.unsubscribe(2, others))
                self.settle()
                self.assertEqual(peer.packets(), [Ack(Type.UNSUBACK, (2,))])
                self.publish("open/a", b"x")
                self.assertEqual(self.payloads(peer.packets()), [b"x"])
                peer.send(packets.unsubscribe(3, ["open/a"]))
                self.settle()
                self.publish("open/a", b"y")
                self.assertEqual(peer.packets(), [Ack(Type.UNSUBACK, (3,))])
                self.lose(peer)

    def test_unsubscribe_one_of_many(self) -> None:
        """[MQTT-3.10.4-2], [MQTT-3.10.4-6]: what matched a removed filter only comes no more; others stay."""
        for clean, qos in product((True, False), (0, 1, 2)):
            with self.subTest(clean=clean, qos=qos):
                self.setUp()
                peer = self.subscriber(("open/#", qos), ("open/a", qos), ("open/b", qos), clean_session=clean)
                peer.send(packets.unsubscribe(2, ["open/#", "open/b"]))
                self.settle()
                self.assertEqual(peer.packets(), [Ack(Type.UNSUBACK, (2,))])
                for topic in ("open/a", "open/b", "open/c"):
                    self.publish(topic, topic.encode(), qos=2)
                self.assertEqual(self.payloads(peer.packets()), [b"open/a"])

    def test_unsubscribe_finishes(self) -> None:
        """[MQTT-3.10.4-3]: what is in flight when its filter is removed goes on to the end: PUBREL behind PUBREC."""
        for clean in (True, False):
            with self.subTest(clean=clean):
                peer = self.subscriber(("t", 2), clean_session=clean)
                self.publish("t", b"1", qos=1)
                self.publish("t", b"2", qos=2)
                first, second = self.ids(peer.packets())
                peer.send(packets.unsubscribe(2, ["t"]))
                self.settle()
                self.assertEqual(peer.packets(), [Ack(Type.UNSUBACK, (2,))])
                peer.send(packets.acks(Type.PUBACK, [first]), packets.acks(Type.PUBREC, [second]))
                self.settle()
                self.assertEqual(peer.packets(), [Ack(Type.PUBREL, (second,))])
                peer.send(packets.acks(Type.PUBCOMP, [second]))
                self.settle()
                self.assertEqual(peer.protocol.session.in_flight, 0)
                self.lose(peer)

    def test_refused_filters(self) -> None:
        """[MQTT-3.8.4-5], [MQTT-3.9.3-1]: a filter beyond the grants is answered by 0x80 in its place; others hold."""
        peer = self.peer("n", token="narrow")
        peer.send(packets.subscribe(5, [("t", 0), ("open/a", 2), ("#", 1), ("open/b", 1), ("opens/#", 0)]))
        self.settle()
        self.assertEqual(peer.packets(), [Suback(5, (0x80, 2, 0x80, 1, 0x80))])
        for topic in ("open/a", "open/b", "t"):
            self.publish(topic, topic.encode())
        self.assertEqual(self.payloads(peer.packets()), [b"open/a", b"open/b"])

    def test_malformed_beyond_the_grants(self) -> None:
        """[MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.8.0-1]: a malformed filter closes the connection, whatever the grants
        say of it."""
        for filter_ in ("t#", "t/#/a", "t+", "t/+a", "alice_shop_t#", "alice_shop_+t", "$share/g/t+"):
            with self.subTest(filter_):
                peer = self.peer("n", token="narrow")
                self.assertEqual(self.raw(peer, packets.subscribe(5, [(filter_, 0)])), b"")
                self.assertTrue(peer.closed)
                self.lose(peer)

    def test_every_matching_session(self) -> None:
        """[MQTT-4.5.0-1], [MQTT-3.1.2-5]: a message is added to every matching session, of clients that are there and
        of clients that are away, and to no other."""
        filters = {"a": "open/+", "b": "#", "c": "open/a", "d": "+/a", "e": "open/b", "f": "+"}
        for client_id, filter_ in filters.items():
            peer = self.subscriber((filter_, 1), client_id=client_id, clean_session=False)
            if client_id in "ace":
                self.lose(peer)
            else:
                setattr(self, client_id, peer)
        self.publish("open/a", b"x")
        for client_id, filter_ in filters.items():
            if client_id in "ace":
                self.peer(client_id, present=True, clean_session=False)
                found = self.behind
            else:
                found = getattr(self, client_id).packets()
            self.assertEqual(self.payloads(found), [b"x"] if matches(filter_, "open/a") else [])

    def test_matching(self) -> None:
        """[MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.7.2-1]: filters on connections match as section 4.7 says, live and
        retained, empty levels and the parent of # too."""
        topics = ("open", "open/", "open//", "open/a", "open/a/b", "open//b")
        for filter_, expected in (
            ("open/#", set(topics)),
            ("open/+", {"open/", "open/a"}),
            ("+/+", {"open/", "open/a"}),
            ("+", {"open"}),
            ("open/+/+", {"open//", "open/a/b", "open//b"}),
            ("open/+/b", {"open/a/b", "open//b"}),
            ("open//#", {"open/", "open//", "open//b"}),
            ("+//b", {"open//b"}),
            ("/#", set()),
        ):
            for retain in (False, True):
                with self.subTest(filter_, retain=retain):
                    self.setUp()
                    publisher, peer = self.peer("publisher"), self.peer("s")
                    steps = [
                        lambda peer=peer, filter_=filter_: peer.send(packets.subscribe(9, [(filter_, 0)])),
                        lambda publisher=publisher, retain=retain: publisher.send(
                            *(packets.publishes(topic, [b"x"], retain=retain) for topic in topics)
                        ),
                    ]
                    for step in reversed(steps) if retain else steps:
                        step()
                        self.settle()
                    found = self.messages(peer.packets())
                    self.assertEqual(sorted(topic for topic, *_ in found), sorted(expected))
                    self.assertTrue(all(one[3] is retain for one in found))

    def test_dollar(self) -> None:
        """[MQTT-4.7.2-1]: a leading wildcard does not match a topic that begins with $; its name does."""
        wide, named = self.subscriber(("#", 0), ("+/x", 0), ("+/#", 0)), self.subscriber(("$OWN/#", 0), client_id="n")
        for qos in (0, 1):
            self.node.gateway.publish_trusted(
                Topic(HOME, "$OWN/x"), b"x", qos=qos, retain=False, message_id=str(qos), again=False
            )
        self.settle()
        self.assertEqual(self.payloads(wide.packets()), [])
        self.assertEqual(self.payloads(named.packets()), [b"x", b"x"])

    def test_nothing_is_normalized(self) -> None:
        """[MQTT-4.7.3-4], [MQTT-1.5.3-3]: names that look alike are different: case, white space, composed characters,
        U+FEFF, slashes, characters that have a meaning in NATS or in URLs; each arrives as it was sent."""
        names = ["a", "A", " a", "a ", "/a", "a/", "a//b", "a/b", "é", "e\u0301", "\ufeffa", "a\ufeff", "a.b", "a%2Fb"]
        names += ["a*", "a>", "*", ">", "a\\b", "%0", "%", "-", "a\tb", "ａ", "\u200ba", "\ufffe", "😀", "%2E"]
        self.assertEqual(len(set(names)), len(names))
        topics = [f"open/{name}" for name in names]
        peers = [self.subscriber((topic, 1), client_id=str(number)) for number, topic in enumerate(topics)]
        publisher = self.peer("publisher")
        for qos in (0, 1):
            for number, topic in enumerate(topics, 1):
                publisher.send(packets.publishes(topic, [b"%d" % qos], qos, [number] if qos else ()))
            self.settle()
        for topic, peer in zip(topics, peers, strict=True):
            self.assertEqual(self.messages(peer.packets()), [(topic, b"0", 0, False), (topic, b"1", 1, False)])

    def test_length(self) -> None:
        """[MQTT-4.7.3-3]: names and filters as long as the gateway takes them, with as many levels, are carried; a
        longer topic closes the connection, so that none is cut short."""
        for topic in ("open/".ljust(MAX_NAME_BYTES, "x"), "open/".ljust(MAX_NAME_BYTES, "/"), "open/" + "é" * 253):
            peer = self.subscriber((topic, 1))
            self.publish(topic, b"x")
            self.assertEqual(self.messages(peer.packets()), [(topic, b"x", 1, False)])
            publisher = self.peer("publisher")
            self.assertEqual(self.raw(publisher, packets.publishes(topic + "xx", [b""], 1, [1])), b"")
            self.assertTrue(publisher.closed)
            self.lose(publisher)
            self.lose(peer)

    def test_filter_too_long(self) -> None:
        """[MQTT-3.8.4-5]: a filter that is longer than the gateway takes is well-formed, and refused with 0x80."""
        peer = self.peer()
        peer.send(packets.subscribe(5, [("open/".ljust(MAX_NAME_BYTES + 1, "x"), 0), ("t", 0)]))
        self.settle()
        self.assertEqual(peer.packets(), [Suback(5, (0x80, 0))])
