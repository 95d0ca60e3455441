"""The codec under input at random: whatever comes, however it is cut, it is read or refused, and nothing else happens.

Every input follows from its number, which a failure names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from random import Random
from secrets import randbits
from time import monotonic

from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import ProtocolViolation
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Connect, Decoder, MalformedPacket, Packet, Publish, Type, Will
from flowgate.mqtt.session import Session, State, check_allowed
from tests import FUZZ_SECONDS
from tests.mqtt.test_packets import MALFORMED, PACKETS, Value, encode, flat, publish, split

_INPUTS = 4000
_LARGEST = 300
_SHORT = [raw for raw, _ in PACKETS.values() if len(raw) <= _LARGEST]
_TOPICS = (b"", b"a", b"ab", b"a/b", "é/b".encode(), b"\xff", b"a" * 120)
_SIZES = (0, 1, 2, 100, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 200)
_ACKS = (Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP, Type.UNSUBACK)
_EDGES = (0, 1, 2, 3, 4, 127, 128, 129, 130, 131, 254, 255)


# -- good streams


def _raw(value: Value) -> bytes:
    """The bytes of one packet, also of a PUBLISH whose topic is no text: nothing looks at it before it is needed."""
    if isinstance(value, tuple):
        _, topic, payload, qos, dup, retain, packet_id = value
        assert isinstance(topic, bytes)
        assert isinstance(payload, bytes)
        assert isinstance(qos, int)
        tail = len(topic).to_bytes(2, "big") + topic
        if isinstance(packet_id, int):
            tail += packet_id.to_bytes(2, "big")
        return packets._packet(0x30 | 8 * bool(dup) | qos << 1 | bool(retain), tail + payload)
    return encode(value)


def _text(random: Random) -> str:
    return "".join(random.choices("a/é+#$\ufeff\U0001f600", k=random.randrange(6)))


def _publishes(random: Random) -> bytes:
    topic, qos, retain = random.choice(_TOPICS), random.randrange(3), random.random() < 0.3
    dup = qos > 0 and random.random() < 0.3
    found = b""
    for _ in range(random.choice((1, 1, 2, 5))):
        packet_id = random.randint(1, 65535) if qos else None
        found += _raw(publish(topic, random.randbytes(random.choice(_SIZES)), qos, dup, retain, packet_id))
    return found


def _acks(random: Random) -> bytes:
    ids = [random.choice((1, 2, 0x6202, 65535)) for _ in range(random.choice((1, 2, 5)))]
    return packets.acks(random.choice(_ACKS), ids)


def _connect(random: Random) -> bytes:
    will = None
    if random.random() < 0.5:
        will = Will(_text(random), random.randbytes(random.randrange(9)), random.randrange(3), random.random() < 0.5)
    user_name = _text(random) if random.random() < 0.5 else None
    password = random.randbytes(random.randrange(9)) if user_name is not None and random.random() < 0.5 else None
    clean, keep_alive = random.random() < 0.5, random.randrange(65536)
    return packets.connect(Connect(_text(random), clean, keep_alive, will, user_name, password))


def _subscriptions(random: Random) -> bytes:
    packet_id, filters = random.randint(1, 65535), [_text(random) for _ in range(random.randint(1, 4))]
    if random.random() < 0.5:
        return packets.subscribe(packet_id, [(one, random.randrange(3)) for one in filters])
    return packets.unsubscribe(packet_id, filters)


_PARTS: tuple[Callable[[Random], bytes], ...] = (
    _publishes,
    _publishes,
    _acks,
    _connect,
    _subscriptions,
    lambda random: random.choice(_SHORT),
)


def _stream(random: Random) -> bytes:
    return b"".join(random.choice(_PARTS)(random) for _ in range(random.randint(1, 5)))


# -- what is done to them


def _damage(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    end = min(start + random.choice((0, 1, 1, 2, 4, 20)), len(data))
    what = random.randrange(8)
    if what == 0:
        new = b""
    elif what == 1:
        new = random.randbytes(end - start)
    elif what == 2:
        new = bytes(random.choice(_EDGES) for _ in range(end - start))
    elif what == 3:
        new = data[start:end] * 2
    elif what == 4:
        new = bytes(one ^ 1 << random.randrange(8) for one in data[start:end])
    elif what == 5:
        new, end = b"", len(data)
    elif what == 6:
        new = _stream(random)
    else:
        new = bytes((one + random.choice((1, 255))) % 256 for one in data[start:end])
    return data[:start] + new + data[end:]


def make_input(number: int) -> tuple[bytes, list[bytes]]:
    """The bytes of one input, and the pieces in which they come."""
    random = Random(number)
    kind = random.randrange(10)
    if kind == 0:
        data = random.randbytes(random.randrange(60))
    elif kind == 1:
        data = _stream(random) + random.choice(list(MALFORMED.values())) + _stream(random)
    else:
        data = _stream(random)
        for _ in range(random.choice((0, 1, 1, 2, 5))):
            data = _damage(random, data)
    cuts: Sequence[int] = range(1, len(data))
    if random.random() < 0.8:
        cuts = [random.randint(0, len(data)) for _ in range(random.choice((1, 2, 8)))]
    return data, split(data, cuts)


# -- what is to hold


def read(pieces: Sequence[bytes], largest: int) -> tuple[list[Packet], type[ProtocolViolation] | None, bytes]:
    """The packets in ``pieces``, how they were refused, and what was kept for later."""
    decoder = Decoder(largest)
    found: list[Packet] = []
    try:
        for piece in pieces:
            for packet in decoder.feed(piece):
                found.append(packet)
            assert len(decoder._rest) < largest + 5, "more than one packet is kept"
    except ProtocolViolation as violation:
        return found, type(violation), b""
    return found, None, decoder._rest


def check(data: bytes, pieces: Sequence[bytes]) -> None:
    """Check that an input is read or refused, alike however it is cut, and that what is read is what was there."""
    for largest in (_LARGEST, 10**6):
        whole, refusal, rest = read([data], largest)
        some, *others = read(pieces, largest)
        values, others_values = flat(whole), flat(some)
        assert others == [refusal, rest], "the cut decides whether it is refused"
        if refusal is None:
            assert values == others_values, "the cut decides what is read"
            assert b"".join(map(_raw, values)) + rest == data, "what was read is not what was there"
        else:
            # Of the run that the fault is in, more is read where it came in more pieces.
            least = min(len(values), len(others_values))
            assert values[:least] == others_values[:least], "the cut decides what is read before the fault"
            most = values if len(values) > least else others_values
            assert data.startswith(b"".join(map(_raw, most))), "what was read is not what was there"
        use(whole)


def use(found: Sequence[Packet]) -> None:
    """Do with packets what the gateway does with a connected client's, as far as that is pure."""
    session = Session(10, 10, 1000)
    session.deliver("t", [b"x"] * 3, 2)
    session.deliver("t", [b"x"] * 3, 1)
    for packet in found:
        if isinstance(packet, Publish | Ack):
            assert 0 not in packet.packet_ids, "packet identifier 0"
        for state in State:
            try:
                check_allowed(state, packet)
            except ProtocolViolation:
                continue
            if isinstance(packet, Publish):
                with contextlib.suppress(MalformedPacket):
                    packets.text(packet.topic)
                if packet.qos == 2:
                    session.begin(packet.packet_ids)
            elif isinstance(packet, Ack):
                (session.released if packet.type == Type.PUBREL else session.acknowledged)(packet)
    assert 0 <= session.in_flight <= 6


class FuzzTests(SynchronousTestCase):
    """Any bytes at all."""

    def run_inputs(self, make: Callable[[int], tuple[bytes, list[bytes]]], count: int) -> None:
        first = randbits(60) if FUZZ_SECONDS else 0
        until = monotonic() + FUZZ_SECONDS
        number = first
        while number < first + count or (FUZZ_SECONDS and monotonic() < until):
            data, pieces = make(number)
            try:
                check(data, pieces)
            except Exception as error:
                raise AssertionError(f"input {number}, {data!r} as {pieces!r}: {error!r}") from error
            number += 1
        if FUZZ_SECONDS:
            print(f"{number - first} inputs")

    def test_streams(self) -> None:
        """Random bytes, good packets, and good packets damaged, cut anywhere, are read, or refused by a protocol
        violation; neither depends on the cut, and written again they are the same bytes."""
        self.run_inputs(make_input, _INPUTS)

    def test_every_cut(self) -> None:
        """So they are when they are cut in two, or broken off, at every place."""

        def make(number: int) -> tuple[bytes, list[bytes]]:
            data, _ = make_input(number)
            for place in range(len(data)):
                check(data, [data[:place], data[place:]])
                check(data[:place], [data[:place]])
            return data, [data]

        self.run_inputs(make, _INPUTS // 100)
