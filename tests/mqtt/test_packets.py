"""The MQTT 3.1.1 codec: a table of packets, a table of what is none, and every way to split a stream."""

from __future__ import annotations

import contextlib  # not "suppress" itself: trial takes a name of a module that is so called for its own
from collections.abc import Iterable, Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import ProtocolViolation
from flowgate.mqtt import packets
from flowgate.mqtt.packets import (
    Ack,
    Bare,
    Connack,
    Connect,
    Decoder,
    MalformedPacket,
    Packet,
    Publish,
    Suback,
    Subscribe,
    Type,
    UnacceptableProtocolLevel,
    Unsubscribe,
    Will,
)

_SETTINGS = settings(max_examples=200, deadline=None, database=None)

LARGEST = 300_000

# A PUBLISH run compares by identity; as a value each of its packets is
# ("PUBLISH", topic, payload, qos, dup, retain, packet id or None).
Value = tuple[object, ...] | Packet


def flat(decoded: Iterable[Packet]) -> list[Value]:
    """Packets one by one: how runs are cut depends on how the bytes were."""
    found: list[Value] = []
    for packet in decoded:
        if isinstance(packet, Publish):
            ids: Sequence[int | None] = packet.packet_ids or [None] * packet.count
            payloads = packet.payloads()
            assert len(ids) == len(payloads) == packet.count
            assert packet.largest == max(map(len, payloads)) and packet.size == sum(map(len, payloads))
            for payload, packet_id in zip(payloads, ids, strict=True):
                found.append(("PUBLISH", packet.topic, payload, packet.qos, packet.dup, packet.retain, packet_id))
        elif isinstance(packet, Ack):
            found += [Ack(packet.type, (packet_id,)) for packet_id in packet.packet_ids]
        else:
            found.append(packet)
    return found


def decode(*pieces: bytes, largest: int = LARGEST) -> list[Value]:
    decoder = Decoder(largest)
    return flat(packet for piece in pieces for packet in decoder.feed(piece))


def publish(
    topic: bytes, payload: bytes, qos: int = 0, dup: bool = False, retain: bool = False, packet_id: int | None = None
) -> Value:
    return ("PUBLISH", topic, payload, qos, dup, retain, packet_id)


def encode(value: Value) -> bytes:
    """The bytes of one packet, by the encoders under test."""
    if isinstance(value, tuple):
        _, topic, payload, qos, dup, retain, packet_id = value
        assert isinstance(topic, bytes)
        assert isinstance(payload, bytes)
        assert isinstance(qos, int)
        ids = [packet_id] if isinstance(packet_id, int) else []
        return packets.publishes(topic.decode(), [payload], qos, ids, dup=bool(dup), retain=bool(retain))
    if isinstance(value, Connect):
        return packets.connect(value)
    if isinstance(value, Connack):
        return packets.connack(value.session_present, value.code)
    if isinstance(value, Ack):
        return packets.acks(value.type, value.packet_ids)
    if isinstance(value, Subscribe):
        return packets.subscribe(value.packet_id, value.filters)
    if isinstance(value, Suback):
        return packets.suback(value.packet_id, value.codes)
    if isinstance(value, Unsubscribe):
        return packets.unsubscribe(value.packet_id, value.filters)
    assert isinstance(value, Bare)
    return {
        Type.PINGREQ: packets.PINGREQ,
        Type.PINGRESP: packets.PINGRESP,
        Type.DISCONNECT: packets.DISCONNECT,
    }[value.type]


# Hand-written bytes, with the section of the specification that they follow.
PACKETS: dict[str, tuple[bytes, Value]] = {
    "CONNECT, least (3.1)": (b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c", Connect("c")),
    "CONNECT, empty client id (3.1.3.1)": (b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0", Connect("", True, 60)),
    "CONNECT, session kept (3.1.2.4)": (b"\x10\x0d\0\x04MQTT\x04\0\xff\xff\0\x01c", Connect("c", False, 65535)),
    "CONNECT, will (3.1.2.5)": (
        b"\x10\x15\0\x04MQTT\x04\x36\0\x0a\0\x01c\0\x02w/\0\x02hi",
        Connect("c", True, 10, Will("w/", b"hi", 2, True)),
    ),
    "CONNECT, empty will payload (3.1.3.3)": (
        b"\x10\x12\0\x04MQTT\x04\x06\0\x0a\0\x01c\0\x01w\0\0",
        Connect("c", True, 10, Will("w", b"", 0, False)),
    ),
    "CONNECT, user name and password (3.1.2.8)": (
        b"\x10\x18\0\x04MQTT\x04\xc2\0\0\0\x01c\0\x06Bearer\0\x01p",
        Connect("c", user_name="Bearer", password=b"p"),
    ),
    "CONNECT, everything (3.1.2.3)": (
        b"\x10\x1f\0\x04MQTT\x04\xec\0\x01\0\x02cl\0\x03w/t\0\x01\xff\0\x01u\0\x04\0\xff\x01\x02",
        Connect("cl", False, 1, Will("w/t", b"\xff", 1, True), "u", b"\0\xff\x01\x02"),
    ),
    "CONNECT, user name without password (3.1.2.9)": (
        b"\x10\x10\0\x04MQTT\x04\x82\0\0\0\x01c\0\x01u",
        Connect("c", user_name="u"),
    ),
    "CONNACK (3.2)": (b"\x20\x02\0\0", Connack(False, 0)),
    "CONNACK, session present (3.2.2.2)": (b"\x20\x02\x01\0", Connack(True, 0)),
    "CONNACK, not authorized (3.2.2.3)": (b"\x20\x02\0\x05", Connack(False, 5)),
    "PUBLISH, QoS 0 (3.3)": (b"\x30\x07\0\x03a/bhi", publish(b"a/b", b"hi")),
    "PUBLISH, no payload (3.3.3)": (b"\x30\x03\0\x01a", publish(b"a", b"")),
    "PUBLISH, retain (3.3.1.3)": (b"\x31\x04\0\x01ax", publish(b"a", b"x", retain=True)),
    "PUBLISH, QoS 1 (3.3.2.2)": (b"\x32\x06\0\x01a\0\x07x", publish(b"a", b"x", 1, packet_id=7)),
    "PUBLISH, QoS 1, DUP, retain (3.3.1.1)": (
        b"\x3b\x06\0\x01a\xff\xffx",
        publish(b"a", b"x", 1, True, True, 65535),
    ),
    "PUBLISH, QoS 2, no payload (3.3.1.2)": (b"\x34\x05\0\x01a\x01\0", publish(b"a", b"", 2, packet_id=256)),
    "PUBLISH, QoS 2, DUP": (b"\x3c\x05\0\x01a\0\x01", publish(b"a", b"", 2, True, packet_id=1)),
    "PUBLISH, topic not ASCII (1.5.3)": (b"\x30\x06\0\x04\xc3\xa9/b", publish("é/b".encode(), b"")),
    "PUBLISH, two bytes of length (2.2.3)": (b"\x30\x80\x01\0\x01a" + b"x" * 125, publish(b"a", b"x" * 125)),
    "PUBLISH, three bytes of length (2.2.3)": (
        b"\x30\x80\x80\x01\0\x01a" + b"x" * 16381,
        publish(b"a", b"x" * 16381),
    ),
    "PUBACK (3.4)": (b"\x40\x02\0\x01", Ack(Type.PUBACK, (1,))),
    "PUBREC (3.5)": (b"\x50\x02\xff\xff", Ack(Type.PUBREC, (65535,))),
    "PUBREL (3.6)": (b"\x62\x02\x01\x02", Ack(Type.PUBREL, (258,))),
    "PUBCOMP (3.7)": (b"\x70\x02\0\x09", Ack(Type.PUBCOMP, (9,))),
    "SUBSCRIBE (3.8)": (b"\x82\x06\0\x0a\0\x01a\0", Subscribe(10, (("a", 0),))),
    "SUBSCRIBE, several filters (3.8.3)": (
        b"\x82\x0f\0\x0a\0\x03a/b\x01\0\x01#\x02\0\0\0",
        Subscribe(10, (("a/b", 1), ("#", 2), ("", 0))),
    ),
    "SUBACK (3.9)": (b"\x90\x06\0\x0a\0\x01\x02\x80", Suback(10, (0, 1, 2, 0x80))),
    "UNSUBSCRIBE (3.10)": (b"\xa2\x08\0\x0b\0\x01+\0\x01b", Unsubscribe(11, ("+", "b"))),
    "UNSUBACK (3.11)": (b"\xb0\x02\0\x0b", Ack(Type.UNSUBACK, (11,))),
    "PINGREQ (3.12)": (b"\xc0\0", Bare(Type.PINGREQ)),
    "PINGRESP (3.13)": (b"\xd0\0", Bare(Type.PINGRESP)),
    "DISCONNECT (3.14)": (b"\xe0\0", Bare(Type.DISCONNECT)),
}

_CONNECT = b"\0\x04MQTT\x04"


def _sized(first: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((first, len(body))) + body


MALFORMED: dict[str, bytes] = {
    # chapter 1
    "[MQTT-1.5.3-1] ill-formed UTF-8 in the client id": _sized(0x10, _CONNECT + b"\x02\0\0\0\x01\xff"),
    "[MQTT-1.5.3-1] surrogate in the user name": _sized(0x10, _CONNECT + b"\x82\0\0\0\x01c\0\x03\xed\xa0\x80"),
    "[MQTT-1.5.3-1] surrogate in a filter": _sized(0x82, b"\0\x01\0\x03\xed\xa0\x80\0"),
    "[MQTT-1.5.3-1] overlong UTF-8 in a filter": _sized(0xA2, b"\0\x01\0\x02\xc0\x80"),
    "[MQTT-1.5.3-2] NUL in the client id": _sized(0x10, _CONNECT + b"\x02\0\0\0\x01\0"),
    "[MQTT-1.5.3-2] NUL in the will topic": _sized(0x10, _CONNECT + b"\x06\0\0\0\x01c\0\x02a\0\0\0"),
    "[MQTT-1.5.3-2] NUL in a filter": _sized(0x82, b"\0\x01\0\x02a\0\0"),
    # chapter 2
    "2.2.1: type 0": b"\0\0",
    "2.2.1: type 0, with a body": b"\0\x02\0\x01",
    "2.2.1: type 15": b"\xf0\0",
    "2.2.3: a length of five bytes": b"\xc0\x80\x80\x80\x80\x01",
    "2.2.3: a length of five bytes, the last not there yet": b"\x30\xff\xff\xff\xff",
    "2.2.3: a length in more bytes than it needs": b"\x30\x83\0\0\x01a",
    "2.2.3: a length of zero in two bytes": b"\xc0\x80\0",
    "[MQTT-2.2.2-2] CONNECT flags": _sized(0x11, _CONNECT + b"\x02\0\0\0\x01c"),
    "[MQTT-2.2.2-2] CONNACK flags": b"\x21\x02\0\0",
    "[MQTT-2.2.2-2] PUBACK flags": b"\x42\x02\0\x01",
    "[MQTT-2.2.2-2] PUBREC flags": b"\x52\x02\0\x01",
    "[MQTT-2.2.2-2] [MQTT-3.6.1-1] PUBREL flags 0": b"\x60\x02\0\x01",
    "[MQTT-2.2.2-2] [MQTT-3.6.1-1] PUBREL flags 6": b"\x66\x02\0\x01",
    "[MQTT-2.2.2-2] PUBCOMP flags": b"\x71\x02\0\x01",
    "[MQTT-2.2.2-2] [MQTT-3.8.1-1] SUBSCRIBE flags 0": _sized(0x80, b"\0\x01\0\x01a\0"),
    "[MQTT-2.2.2-2] [MQTT-3.8.1-1] SUBSCRIBE flags 3": _sized(0x83, b"\0\x01\0\x01a\0"),
    "[MQTT-2.2.2-2] SUBACK flags": b"\x92\x03\0\x01\0",
    "[MQTT-2.2.2-2] [MQTT-3.10.1-1] UNSUBSCRIBE flags": _sized(0xA0, b"\0\x01\0\x01a"),
    "[MQTT-2.2.2-2] UNSUBACK flags": b"\xb2\x02\0\x01",
    "[MQTT-2.2.2-2] PINGREQ flags": b"\xc1\0",
    "[MQTT-2.2.2-2] PINGRESP flags": b"\xd8\0",
    "[MQTT-2.2.2-2] [MQTT-3.14.1-1] DISCONNECT flags": b"\xe2\0",
    "[MQTT-2.3.1-1] PUBLISH QoS 1 with packet id 0": b"\x32\x05\0\x01a\0\0",
    "[MQTT-2.3.1-1] PUBLISH QoS 2 with packet id 0": b"\x34\x05\0\x01a\0\0",
    "[MQTT-2.3.1-1] packet id 0 in the middle of a run": b"".join(
        b"\x32\x05\0\x01a\0" + bytes((n,)) for n in (1, 0, 2)
    ),
    "[MQTT-2.3.1-1] SUBSCRIBE with packet id 0": _sized(0x82, b"\0\0\0\x01a\0"),
    "[MQTT-2.3.1-1] UNSUBSCRIBE with packet id 0": _sized(0xA2, b"\0\0\0\x01a"),
    "2.3.1: PUBACK with packet id 0": b"\x40\x02\0\0",
    "2.3.1: PUBREL with packet id 0 in a run": b"\x62\x02\0\x01\x62\x02\0\0",
    "2.3.1: SUBACK with packet id 0": b"\x90\x03\0\0\0",
    # chapter 3
    "[MQTT-3.1.2-1] another protocol name": _sized(0x10, b"\0\x04MQTQ\x04\x02\0\0\0\x01c"),
    "[MQTT-3.1.2-1] the protocol name in lower case": _sized(0x10, b"\0\x04mqtt\x04\x02\0\0\0\x01c"),
    "[MQTT-3.1.2-3] reserved flag": _sized(0x10, _CONNECT + b"\x03\0\0\0\x01c"),
    "[MQTT-3.1.2-11] [MQTT-3.1.2-13] will QoS without will": _sized(0x10, _CONNECT + b"\x0a\0\0\0\x01c"),
    "[MQTT-3.1.2-14] will QoS 3": _sized(0x10, _CONNECT + b"\x1e\0\0\0\x01c\0\x01w\0\0"),
    "[MQTT-3.1.2-15] will retain without will": _sized(0x10, _CONNECT + b"\x22\0\0\0\x01c"),
    "[MQTT-3.1.2-9] will without topic and payload": _sized(0x10, _CONNECT + b"\x06\0\0\0\x01c"),
    "[MQTT-3.1.2-9] will without payload": _sized(0x10, _CONNECT + b"\x06\0\0\0\x01c\0\x01w"),
    "[MQTT-3.1.2-18] user name without its flag": _sized(0x10, _CONNECT + b"\x02\0\0\0\x01c\0\x01u"),
    "[MQTT-3.1.2-19] user name flag without user name": _sized(0x10, _CONNECT + b"\x82\0\0\0\x01c"),
    "[MQTT-3.1.2-20] password without its flag": _sized(0x10, _CONNECT + b"\x82\0\0\0\x01c\0\x01u\0\x01p"),
    "[MQTT-3.1.2-21] password flag without password": _sized(0x10, _CONNECT + b"\xc2\0\0\0\x01c\0\x01u"),
    "[MQTT-3.1.2-22] password flag without user name flag": _sized(0x10, _CONNECT + b"\x42\0\0\0\x01c\0\x01p"),
    "[MQTT-3.1.3-3] CONNECT without client id": _sized(0x10, _CONNECT + b"\x02\0\0"),
    "3.1: empty CONNECT": b"\x10\0",
    "3.1: CONNECT ends within the keep alive": _sized(0x10, _CONNECT + b"\x02\0"),
    "3.1: CONNECT ends within a string": _sized(0x10, _CONNECT + b"\x02\0\0\0\x05c"),
    "3.1: a byte behind CONNECT": _sized(0x10, _CONNECT + b"\x02\0\0\0\x01c\0"),
    "[MQTT-3.2.2-1] reserved CONNACK flags": b"\x20\x02\x02\0",
    "3.2: short CONNACK": b"\x20\x01\0",
    "3.2: long CONNACK": b"\x20\x03\0\0\0",
    "[MQTT-3.3.1-2] DUP at QoS 0": b"\x38\x03\0\x01a",
    "[MQTT-3.3.1-4] QoS 3": b"\x36\x05\0\x01a\0\x01",
    "3.3.2: PUBLISH without a topic": b"\x30\0",
    "3.3.2: PUBLISH with half a topic length": b"\x30\x01\0",
    "3.3.2: a topic longer than its packet, at the end of the bytes": b"\x30\x05\0\x64abc",
    "3.3.2: a topic one byte longer than its packet": b"\x30\x05\0\x04abc",
    "3.3.2: a topic longer than its packet, with more behind": b"\x30\x05\0\x06abc\xc0\0\xc0\0",
    "3.3.2: such a topic in a run of others": b"\x30\x05\0\x03abc\x30\x04\0\x03ab\xc0\0",
    "[MQTT-2.3.1-1] PUBLISH QoS 1 ends before its packet id": b"\x32\x03\0\x01a",
    "[MQTT-2.3.1-1] PUBLISH QoS 1 ends within its packet id": b"\x32\x04\0\x01a\0",
    "[MQTT-2.3.1-1] the same, with more behind": b"\x32\x04\0\x01a\0\xc0\0",
    "[MQTT-2.3.1-1] the same, in a run": b"\x32\x05\0\x01a\0\x01\x32\x03\0\x01a\x32\x05\0\x01a\0\x02",
    "3.4: short PUBACK": b"\x40\x01\x01",
    "3.4: empty PUBACK": b"\x40\0",
    "3.4: long PUBACK": b"\x40\x03\0\x01\0",
    "3.5: long PUBREC": b"\x50\x03\0\x01\0",
    "3.6: long PUBREL": b"\x62\x04\0\x01\0\x02",
    "3.7: short PUBCOMP": b"\x70\x01\x01",
    "3.11: long UNSUBACK": b"\xb0\x03\0\x01\0",
    "[MQTT-3.8.3-3] SUBSCRIBE without a filter": b"\x82\x02\0\x01",
    "[MQTT-3.8.3-4] a requested QoS of 3": _sized(0x82, b"\0\x01\0\x01a\x03"),
    "[MQTT-3.8.3-4] reserved bits of the requested QoS": _sized(0x82, b"\0\x01\0\x01a\x04"),
    "[MQTT-3.8.3-4] reserved bits of the second requested QoS": _sized(0x82, b"\0\x01\0\x01a\0\0\x01b\x80"),
    "3.8.3: SUBSCRIBE ends before the QoS": _sized(0x82, b"\0\x01\0\x01a"),
    "3.8.3: SUBSCRIBE ends within a filter": _sized(0x82, b"\0\x01\0\x05a\0"),
    "3.8: empty SUBSCRIBE": b"\x82\0",
    "[MQTT-3.9.3-2] an unknown SUBACK code": b"\x90\x03\0\x01\x03",
    "[MQTT-3.10.3-2] UNSUBSCRIBE without a filter": b"\xa2\x02\0\x01",
    "3.10.3: UNSUBSCRIBE ends within a filter": _sized(0xA2, b"\0\x01\0\x05a"),
    "3.12: PINGREQ with a body": b"\xc0\x01\0",
    "3.13: PINGRESP with a body": b"\xd0\x01\0",
    "3.14: DISCONNECT with a body": b"\xe0\x02\0\0",
}

_IDS = st.integers(1, 65535)
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_BINARY = st.binary(max_size=200)
_WILLS = st.builds(Will, _TEXT, _BINARY, st.integers(0, 2), st.booleans())
_CREDENTIALS = st.one_of(st.just((None, None)), st.tuples(_TEXT, st.none()), st.tuples(_TEXT, st.binary(max_size=300)))
_CONNECTS = st.builds(
    lambda client_id, clean, keep_alive, will, credentials: Connect(client_id, clean, keep_alive, will, *credentials),
    _TEXT,
    st.booleans(),
    st.integers(0, 65535),
    st.none() | _WILLS,
    _CREDENTIALS,
)


@st.composite
def _publishes(draw: st.DrawFn) -> Value:
    # Few topics and sizes, so that packets meet in runs of equal and of unequal ones.
    topic = draw(st.sampled_from([b"", b"a", b"ab", b"a/b"]))
    payload = draw(st.one_of(st.sampled_from([b"", b"x", b"yz", b"0" * 130]), _BINARY))
    qos = draw(st.integers(0, 2))
    dup = qos > 0 and draw(st.booleans())
    return publish(topic, payload, qos, dup, draw(st.booleans()), draw(_IDS) if qos else None)


_ACKS = st.builds(
    lambda kind, packet_id: Ack(kind, (packet_id,)),
    st.sampled_from([Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP, Type.UNSUBACK]),
    _IDS,
)
_ANY: st.SearchStrategy[Value] = st.one_of(
    _publishes(),
    _publishes(),
    _ACKS,
    _CONNECTS,
    st.builds(Connack, st.booleans(), st.integers(0, 5)),
    st.builds(Subscribe, _IDS, st.lists(st.tuples(_TEXT, st.integers(0, 2)), min_size=1, max_size=4).map(tuple)),
    st.builds(Suback, _IDS, st.lists(st.sampled_from([0, 1, 2, 128]), max_size=4).map(tuple)),
    st.builds(Unsubscribe, _IDS, st.lists(_TEXT, min_size=1, max_size=4).map(tuple)),
    st.builds(Bare, st.sampled_from([Type.PINGREQ, Type.PINGRESP, Type.DISCONNECT])),
)
# Packets in a row, some of them several times, so that there are runs of all kinds.
_ROWS = st.lists(st.tuples(_ANY, st.sampled_from([1, 1, 2, 3])), max_size=8).map(
    lambda parts: [value for value, times in parts for _ in range(times)]
)


def split(data: bytes, places: Iterable[int]) -> list[bytes]:
    cuts = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in pairwise(cuts)]


class TableTests(SynchronousTestCase):
    """Bytes and values of all fourteen types."""

    def test_every_type(self) -> None:
        """The table has every control packet type."""
        self.assertEqual({raw[0] >> 4 for raw, _ in PACKETS.values()}, {int(kind) for kind in Type})

    def test_decode(self) -> None:
        """The bytes are read as the value."""
        for name, (raw, value) in PACKETS.items():
            self.assertEqual(decode(raw), [value], name)

    def test_encode(self) -> None:
        """[MQTT-2.2.2-1]: the value is written as the bytes, with the reserved flags of its type."""
        for name, (raw, value) in PACKETS.items():
            self.assertEqual(encode(value), raw, name)

    def test_every_split(self) -> None:
        """Cut in two at any point, or into single bytes, a packet is read as the same value."""
        for name, (raw, value) in PACKETS.items():
            for place in range(1, min(len(raw), 64)):
                self.assertEqual(decode(raw[:place], raw[place:]), [value], (name, place))
            if len(raw) < 1000:
                self.assertEqual(decode(*split(raw, range(1, len(raw)))), [value], name)

    def test_truncated(self) -> None:
        """A packet that is not all there yields nothing, and is no fault yet."""
        for name, (raw, _) in PACKETS.items():
            for place in range(min(len(raw), 64)):
                self.assertEqual(decode(raw[:place]), [], (name, place))

    def test_password_not_shown(self) -> None:
        """A password does not appear in a representation, which could reach a log."""
        self.assertNotIn("secret", repr(Connect("c", user_name="u", password=b"secret")))


class MalformedTests(SynchronousTestCase):
    """What is no MQTT 3.1.1 packet, with its clause."""

    def test_refused(self) -> None:
        """Every one of the table is refused, however it is split."""
        for name, raw in MALFORMED.items():
            for pieces in ([raw], split(raw, range(1, len(raw)))):
                with self.assertRaises(MalformedPacket, msg=name):
                    decode(*pieces)

    def test_refused_with_more_behind(self) -> None:
        """What follows a malformed packet in the same read does not make it whole."""
        for name, raw in MALFORMED.items():
            if name.startswith("2.2.3"):
                continue
            with self.assertRaises(MalformedPacket, msg=name):
                decode(raw + packets.PINGREQ * 100)

    def test_packets_before_the_fault(self) -> None:
        """[MQTT-4.8.0-1]: packets before a malformed one are yielded, then it is refused."""
        for name, raw in MALFORMED.items():
            found: list[Packet] = []
            with self.assertRaises(MalformedPacket, msg=name):
                for packet in Decoder(LARGEST).feed(packets.PINGREQ * 2 + raw):
                    found.append(packet)
            self.assertEqual(found[:2], [Bare(Type.PINGREQ)] * 2, name)

    def test_protocol_level(self) -> None:
        """[MQTT-3.1.2-2]: a CONNECT of another version is told apart, whatever follows the level."""
        for body in (
            b"\0\x04MQTT\x05\x02\0\0\0\0\x01c",
            b"\0\x04MQTT\x03\x02\0\0\0\x01c",
            b"\0\x04MQTT\x84\x02\0\0\0\x01c",
            b"\0\x04MQTT\0",
            b"\0\x06MQIsdp\x03\x02\0\0\0\x01c",
        ):
            with self.assertRaises(UnacceptableProtocolLevel):
                decode(_sized(0x10, body))

    @_SETTINGS
    @given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=4))
    def test_any_bytes(self, data: bytes, places: list[int]) -> None:
        """Any bytes, however split, raise a protocol violation or nothing."""
        with contextlib.suppress(ProtocolViolation):
            decode(*split(data, [place for place in places if place <= len(data)]))

    @_SETTINGS
    @given(_ROWS.filter(bool), st.data())
    def test_damaged_packets(self, values: list[Value], data: st.DataObject) -> None:
        """Good packets with one byte changed raise a protocol violation or nothing, wherever they are split, and the
        split does not decide which of the two."""
        raw = bytearray(b"".join(map(encode, values)))
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        place = data.draw(st.integers(0, len(raw)))
        outcomes = []
        for pieces in ([bytes(raw)], split(bytes(raw), [place]), split(bytes(raw), range(1, len(raw)))):
            try:
                outcomes.append(decode(*pieces))
            except ProtocolViolation as violation:
                outcomes.append([(type(violation),)])
        self.assertEqual(outcomes[0], outcomes[1])
        self.assertEqual(outcomes[0], outcomes[2])


class StreamTests(SynchronousTestCase):
    """Packets in a row."""

    @_SETTINGS
    @given(_ROWS, st.data())
    def test_any_split(self, values: list[Value], data: st.DataObject) -> None:
        """Any packets in a row, split anywhere, are read as they were written."""
        raw = b"".join(map(encode, values))
        self.assertEqual(decode(raw), values)
        places = data.draw(st.lists(st.integers(0, len(raw)), max_size=8))
        self.assertEqual(decode(*split(raw, places)), values)

    @settings(max_examples=30, deadline=None, database=None)
    @given(_ROWS)
    def test_split_in_two_everywhere(self, values: list[Value]) -> None:
        """A few packets, cut in two at every point, are read as they were written."""
        raw = b"".join(map(encode, values))
        for place in range(len(raw) + 1):
            self.assertEqual(decode(raw[:place], raw[place:]), values)

    @_SETTINGS
    @given(
        st.lists(st.sampled_from([b"", b"x", b"yz", b"0" * 121, b"0" * 122, b"0" * 123, b"0" * 200]), min_size=1),
        st.integers(0, 2),
        st.booleans(),
        st.data(),
    )
    def test_run(self, payloads: list[bytes], qos: int, retain: bool, data: st.DataObject) -> None:
        """Packets of equal and unequal sizes on one topic are one run, and the same as when read one by one."""
        ids = data.draw(st.lists(_IDS, min_size=len(payloads), max_size=len(payloads))) if qos else []
        raw = packets.publishes("t/é", payloads, qos, ids, retain=retain)
        (run,) = Decoder(LARGEST).feed(raw)
        assert isinstance(run, Publish)
        self.assertEqual((run.payloads(), run.packet_ids, run.body), (payloads, ids, raw))
        self.assertEqual((run.count, run.topic, run.qos, run.retain), (len(payloads), "t/é".encode(), qos, retain))
        single = [
            packets.publishes("t/é", [payload], qos, ids[index : index + 1], retain=retain)
            for index, payload in enumerate(payloads)
        ]
        self.assertEqual(b"".join(single), raw)
        self.assertEqual(flat([run]), [value for one in single for value in decode(one)])

    def test_run_ends(self) -> None:
        """Another topic, also one that begins alike, another flag or another type ends a run."""
        first = packets.publishes("a", [b"bc"])
        for other in (
            packets.publishes("ab", [b"c"]),
            packets.publishes("", [b"abc"]),
            packets.publishes("a", [b"bc"], retain=True),
            packets.publishes("a", [b""], 1, [1]),
            packets.PINGREQ,
        ):
            found = list(Decoder(LARGEST).feed(first + first + other))
            self.assertEqual(len(found), 2)
            assert isinstance(found[0], Publish)
            self.assertEqual(found[0].count, 2)
            self.assertEqual(flat(found), decode(first) * 2 + decode(other))

    def test_run_waits_for_its_last(self) -> None:
        """A run is yielded with the packets that are whole, its unfinished one later."""
        decoder = Decoder(LARGEST)
        raw = packets.publishes("a", [b"x", b"y", b"zz"])
        (first,) = decoder.feed(raw[:-1])
        (second,) = decoder.feed(raw[-1:])
        self.assertEqual(flat([first]), [publish(b"a", b"x"), publish(b"a", b"y")])
        self.assertEqual(flat([second]), [publish(b"a", b"zz")])

    def test_acks_of_one_type(self) -> None:
        """Acknowledgements of one type in a row are one value, in order, repeated identifiers too."""
        ids = (5, 1, 1, 65535)
        self.assertEqual(list(Decoder(LARGEST).feed(packets.acks(Type.PUBACK, ids))), [Ack(Type.PUBACK, ids)])

    def test_acks_split_everywhere(self) -> None:
        """A row of acknowledgements, cut at any point, loses none."""
        raw = packets.acks(Type.PUBREL, (1, 0x6202, 3))
        for place in range(len(raw) + 1):
            self.assertEqual(decode(raw[:place], raw[place:]), [Ack(Type.PUBREL, (one,)) for one in (1, 0x6202, 3)])

    def test_long_run_of_acks(self) -> None:
        """A very long row of acknowledgements loses none."""
        ids = list(range(1, 5001))
        found = list(Decoder(LARGEST).feed(packets.acks(Type.PUBREC, ids)))
        self.assertEqual([one for ack in found if isinstance(ack, Ack) for one in ack.packet_ids], ids)

    def test_topic_is_not_checked(self) -> None:
        """The topic of a PUBLISH is handed on as it stands; :func:`text` reads it, once per topic."""
        self.assertEqual(decode(b"\x30\x03\0\x01\xff"), [publish(b"\xff", b"")])
        with self.assertRaises(MalformedPacket):
            packets.text(b"\xff")
        with self.assertRaises(MalformedPacket):
            packets.text(b"a\0")

    def test_byte_order_mark(self) -> None:
        """[MQTT-1.5.3-3]: U+FEFF is a character like others and not stripped."""
        self.assertEqual(packets.text(b"\xef\xbb\xbfa"), "\ufeffa")


class BoundTests(SynchronousTestCase):
    """The largest packet."""

    def test_at_the_bound(self) -> None:
        """A packet of exactly the bound is read."""
        raw = packets.publishes("a", [b"x" * 197])
        self.assertEqual(len(decode(raw, largest=200)), 1)

    def test_beyond(self) -> None:
        """A longer one is refused as soon as its length is known, before any of it is kept."""
        for data in (b"\x30\xc9\x01", b"\x10\xff\xff\xff\x7f", b"\x30\x04\0\x01ab\x30\xc9\x01"):
            with self.assertRaises(MalformedPacket):
                decode(data, largest=200)

    def test_rest_is_bounded(self) -> None:
        """Whatever is fed, what is kept for later is less than one packet."""
        decoder = Decoder(200)
        raw = packets.publishes("a", [b"x" * 197]) * 50
        for place in range(0, len(raw), 333):
            list(decoder.feed(raw[place : place + 333]))
            self.assertLess(len(decoder._rest), 203)


class EncodeTests(SynchronousTestCase):
    """Bounds of the encoders."""

    def test_length(self) -> None:
        """Section 2.2.3, table 2.4: the first and the last length of every size."""
        for length, encoded in (
            (0, "00"),
            (127, "7f"),
            (128, "8001"),
            (16383, "ff7f"),
            (16384, "808001"),
            (2097151, "ffff7f"),
            (2097152, "80808001"),
            (268435455, "ffffff7f"),
        ):
            self.assertEqual(packets._length(length).hex(), encoded)

    def test_nothing(self) -> None:
        """No payloads and no identifiers make no bytes."""
        self.assertEqual(packets.publishes("a", []), b"")
        self.assertEqual(packets.acks(Type.PUBACK, []), b"")
