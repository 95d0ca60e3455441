"""MQTT 3.1.1 packets: bytes to values and back, all fourteen types (MQTT 3.1.1 chapters 2 and 3).

Decoding works on runs: consecutive PUBLISH packets on one topic, and consecutive acknowledgements of one type, come out
as one value, so that what follows is done once per run.  Nothing here knows about connections or time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from struct import Struct, pack, unpack

import attrs

from flowgate.errors import ProtocolViolation

PROTOCOL_LEVEL = 4
"""The level byte of MQTT 3.1.1."""

_SHORT = Struct(">H")


class MalformedPacket(ProtocolViolation):
    """Bytes that are no MQTT 3.1.1 packet: the connection has to be closed ([MQTT-4.8.0-1])."""


class UnacceptableProtocolLevel(ProtocolViolation):
    """A CONNECT of another version: answered by CONNACK 1 ([MQTT-3.1.2-2])."""


class Type(IntEnum):
    """The control packet types (table 2.1)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class ReturnCode(IntEnum):
    """The CONNACK return codes (table 3.1)."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_LEVEL = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


FAILURE = 0x80
"""The SUBACK return code for a filter that is refused (section 3.9.3)."""


@attrs.frozen(slots=True)
class Will:
    topic: str
    payload: bytes
    qos: int
    retain: bool


@attrs.frozen(slots=True)
class Connect:
    client_id: str
    clean_session: bool = True
    keep_alive: int = 0
    will: Will | None = None
    user_name: str | None = None
    password: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen(slots=True)
class Connack:
    session_present: bool
    code: int


class Publish:
    """A run of PUBLISH packets on one topic with the same flags, as they stand in the bytes.

    :ivar topic: the topic name as it was sent, not yet checked.
    :ivar count: how many packets.
    :ivar packet_ids: their packet identifiers, empty at QoS 0.
    :ivar body: the packets, whole and one behind the other.
    """

    __slots__ = ("_pieces", "body", "count", "dup", "packet_ids", "qos", "retain", "topic")

    def __init__(self, first: int, topic: bytes, body: bytes, pieces: Sequence[tuple[int, int, int]]) -> None:
        """Make a run from ``pieces``: ``(count, size of each packet, offset of the payload in it)``, in order."""
        self.topic = topic
        self.qos = first >> 1 & 3
        self.dup = bool(first & 8)
        self.retain = bool(first & 1)
        self.body = body
        self._pieces = pieces
        self.count = pieces[0][0] if len(pieces) == 1 else sum(piece[0] for piece in pieces)
        self.packet_ids: list[int] = []
        if self.qos:
            at = 0
            for count, size, offset in pieces:
                for _ in range(count):
                    self.packet_ids += _SHORT.unpack_from(body, at + offset - 2)
                    at += size
            if 0 in self.packet_ids:
                raise MalformedPacket("PUBLISH with packet identifier 0")  # [MQTT-2.3.1-1]

    def split(self, count: int) -> tuple[Publish, Publish]:
        """The first ``count`` packets of the run, which has more, and the others."""
        pieces: list[tuple[int, int, int]] = []
        others: list[tuple[int, int, int]] = []
        size, left = 0, count
        for many, each, offset in self._pieces:
            taken = min(many, left)
            if taken:
                pieces.append((taken, each, offset))
            if taken < many:
                others.append((many - taken, each, offset))
            size += taken * each
            left -= taken
        first = self.dup << 3 | self.qos << 1 | self.retain
        return Publish(first, self.topic, self.body[:size], pieces), Publish(
            first, self.topic, self.body[size:], others
        )

    def payloads(self) -> list[bytes]:
        """Take the packets apart."""
        body = self.body
        found: list[bytes] = []
        at = 0
        for count, size, offset in self._pieces:
            end = at + count * size
            found += [body[start + offset : start + size] for start in range(at, end, size)]
            at = end
        return found

    @property
    def largest(self) -> int:
        """The size of the largest payload in bytes."""
        if len(self._pieces) == 1:
            _, size, offset = self._pieces[0]
            return size - offset
        return max(size - offset for _, size, offset in self._pieces)

    @property
    def size(self) -> int:
        """The bytes of all payloads."""
        return sum(count * (size - offset) for count, size, offset in self._pieces)


@attrs.frozen(slots=True)
class Ack:
    """A run of PUBACK, PUBREC, PUBREL, PUBCOMP or UNSUBACK packets: the packet identifiers, in order."""

    type: Type
    packet_ids: tuple[int, ...]


@attrs.frozen(slots=True)
class Subscribe:
    packet_id: int
    filters: tuple[tuple[str, int], ...]


@attrs.frozen(slots=True)
class Suback:
    packet_id: int
    codes: tuple[int, ...]


@attrs.frozen(slots=True)
class Unsubscribe:
    packet_id: int
    filters: tuple[str, ...]


@attrs.frozen(slots=True)
class Bare:
    """A packet of nothing but its type: PINGREQ, PINGRESP or DISCONNECT."""

    type: Type


Packet = Connect | Connack | Publish | Ack | Subscribe | Suback | Unsubscribe | Bare


# -- bytes to packets

_FLAGS = {kind: 2 if kind in (Type.PUBREL, Type.SUBSCRIBE, Type.UNSUBSCRIBE) else 0 for kind in Type}
"""The reserved flags that each type must have ([MQTT-2.2.2-1]); PUBLISH has flags of its own."""

_ACKS = frozenset((Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP, Type.UNSUBACK))
_ACK_RUN_BYTES = 4096
"""Longest run of acknowledgements: the interpreter caches a compiled format for each of the last 100 lengths."""
_BARE = frozenset((Type.PINGREQ, Type.PINGRESP, Type.DISCONNECT))


def text(raw: bytes) -> str:
    """Read an MQTT string (section 1.5.3).

    :raises MalformedPacket: if it is ill-formed UTF-8 or contains NUL ([MQTT-1.5.3-1], [MQTT-1.5.3-2]).
    """
    try:
        decoded = raw.decode()
    except UnicodeDecodeError:
        raise MalformedPacket("a string is not well-formed UTF-8") from None
    if "\0" in decoded:
        raise MalformedPacket("a string contains a null character")
    return decoded


class _Body:
    """The variable header and payload of one packet, read from the front."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise MalformedPacket("a packet ends too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def short(self) -> int:
        value: int = _SHORT.unpack(self.take(2))[0]
        return value

    def packet_id(self) -> int:
        value = self.short()
        if not value:
            raise MalformedPacket("packet identifier 0")  # [MQTT-2.3.1-1]
        return value

    def binary(self) -> bytes:
        return self.take(self.short())

    def text(self) -> str:
        return text(self.binary())

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def end(self) -> None:
        if self:
            raise MalformedPacket("a packet is longer than its content")


def _connect(body: _Body) -> Connect:
    name = body.binary()
    level = body.byte()
    if name != b"MQTT" or level != PROTOCOL_LEVEL:
        if name in (b"MQTT", b"MQIsdp"):
            raise UnacceptableProtocolLevel(f"protocol level {level}")
        raise MalformedPacket("not the MQTT protocol")  # [MQTT-3.1.2-1]
    flags = body.byte()
    will_qos = flags >> 3 & 3
    if flags & 1:
        raise MalformedPacket("the reserved flag of CONNECT is set")  # [MQTT-3.1.2-3]
    if will_qos == 3 or (not flags & 4 and flags & 0x38):
        raise MalformedPacket("will QoS or will retain do not fit")  # [MQTT-3.1.2-11], [-13] to [-15]
    if flags & 0x40 and not flags & 0x80:
        raise MalformedPacket("a password without a user name")  # [MQTT-3.1.2-22]
    keep_alive = body.short()
    client_id = body.text()
    will = None
    if flags & 4:
        will_topic = body.text()
        will = Will(will_topic, body.binary(), will_qos, bool(flags & 0x20))
    user_name = body.text() if flags & 0x80 else None
    password = body.binary() if flags & 0x40 else None
    body.end()
    return Connect(client_id, bool(flags & 2), keep_alive, will, user_name, password)


def _connack(body: _Body) -> Connack:
    flags, code = body.byte(), body.byte()
    body.end()
    if flags > 1:
        raise MalformedPacket("reserved flags of CONNACK are set")
    return Connack(bool(flags), code)


def _subscribe(body: _Body) -> Subscribe:
    packet_id = body.packet_id()
    filters = []
    while body:
        filter_ = body.text()
        qos = body.byte()
        if qos > 2:
            raise MalformedPacket("a requested QoS above 2")  # [MQTT-3.8.3-4]
        filters.append((filter_, qos))
    if not filters:
        raise MalformedPacket("SUBSCRIBE without a filter")  # [MQTT-3.8.3-3]
    return Subscribe(packet_id, tuple(filters))


def _suback(body: _Body) -> Suback:
    packet_id = body.packet_id()
    codes = []
    while body:
        codes.append(body.byte())
        if codes[-1] > 2 and codes[-1] != FAILURE:
            raise MalformedPacket("an unknown SUBACK return code")  # [MQTT-3.9.3-2]
    return Suback(packet_id, tuple(codes))


def _unsubscribe(body: _Body) -> Unsubscribe:
    packet_id = body.packet_id()
    filters = []
    while body:
        filters.append(body.text())
    if not filters:
        raise MalformedPacket("UNSUBSCRIBE without a filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, tuple(filters))


_PARSERS: dict[Type, Callable[[_Body], Packet]] = {
    Type.CONNECT: _connect,
    Type.CONNACK: _connack,
    Type.SUBSCRIBE: _subscribe,
    Type.SUBACK: _suback,
    Type.UNSUBSCRIBE: _unsubscribe,
}


class Decoder:
    """Cuts a stream of bytes into packets.

    :param largest: the most bytes that a packet may have behind its fixed header.
    """

    __slots__ = ("_largest", "_rest")

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that ``data`` completes; keep the beginning of the next one.

        :raises ProtocolViolation: behind the packets before the fault, of which the run that it is in is lost; the
            decoder is not to be used again then.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = 0, len(data)
        while at < end:
            span = self._span(data, at, end)
            if span is None:
                break
            head, size = span
            first = data[at]
            kind = first >> 4
            if kind == Type.PUBLISH:
                packet, at = self._publishes(data, at, end, head, size)
                yield packet
            elif kind in _ACKS:
                if first & 15 != _FLAGS[Type(kind)] or size != 4:
                    raise MalformedPacket("an acknowledgement with wrong flags or length")  # [MQTT-2.2.2-2]
                start, prefix = at, data[at : at + 2]
                last = min(end, at + _ACK_RUN_BYTES) - 4
                while at <= last and data.startswith(prefix, at):
                    at += 4
                ids = unpack(">" + "2xH" * ((at - start) // 4), data[start:at])
                if 0 in ids:
                    raise MalformedPacket("packet identifier 0")  # [MQTT-2.3.1-1]
                yield Ack(Type(kind), ids)
            else:
                yield self._single(first, data[at + head : at + size])
                at += size
        self._rest = data[at:]

    def _span(self, data: bytes, at: int, end: int) -> tuple[int, int] | None:
        """The sizes of the fixed header and of the whole packet at ``at``, or ``None`` if it is not all there."""
        length, shift = 0, 0
        for index in range(at + 1, at + 5):
            if index >= end:
                return None
            byte = data[index]
            length |= (byte & 127) << shift
            if byte < 128:
                if not byte and shift:
                    # Section 2.2.3, table 2.4.  PUBLISH packets are passed on as they came: what a strict subscriber
                    # would close its connection for must not get in.
                    raise MalformedPacket("a remaining length of more bytes than it needs")
                break
            shift += 7
        else:
            raise MalformedPacket("a remaining length of more than four bytes")
        if length > self._largest:
            raise MalformedPacket("a packet is too large")
        head = index + 1 - at
        return (head, head + length) if at + head + length <= end else None

    def _publishes(self, data: bytes, at: int, end: int, head: int, size: int) -> tuple[Publish, int]:
        """Read the run of PUBLISH packets that begins at ``at``; return it and where it ends."""
        start, first = at, data[at]
        qos = first >> 1 & 3
        if qos == 3 or (not qos and first & 8):
            raise MalformedPacket("PUBLISH with QoS 3, or DUP at QoS 0")  # [MQTT-3.3.1-4], [MQTT-3.3.1-2]
        if size < head + 2:
            raise MalformedPacket("PUBLISH without a topic")
        named = 2 + _SHORT.unpack_from(data, at + head)[0]
        name = data[at + head : at + head + named]
        # By the length that the packet claims: where the bytes end with the packet, ``name`` may be shorter.
        beyond = named + (2 if qos else 0)
        pieces: list[tuple[int, int, int]] = []
        while True:
            if head + beyond > size:
                raise MalformedPacket("PUBLISH ends too early")
            # Packets of the same size and topic follow each other: one comparison tells for each.
            prefix = data[at : at + head + named]
            count, at = 1, at + size
            while at + size <= end and data.startswith(prefix, at):
                count += 1
                at += size
            pieces.append((count, size, head + beyond))
            if at >= end or data[at] != first:
                break
            span = self._span(data, at, end)
            if span is None or not data.startswith(name, at + span[0]):
                break
            head, size = span
        return Publish(first, name[2:], data[start:at], pieces), at

    @staticmethod
    def _single(first: int, body: bytes) -> Packet:
        try:
            kind = Type(first >> 4)
        except ValueError:
            raise MalformedPacket("a reserved packet type") from None  # types 0 and 15, table 2.1
        if first & 15 != _FLAGS[kind]:
            raise MalformedPacket("wrong reserved flags")  # [MQTT-2.2.2-2]
        if kind in _BARE:
            if body:
                raise MalformedPacket("a packet is longer than its content")
            return Bare(kind)
        return _PARSERS[kind](_Body(body))


# -- packets to bytes


def _length(length: int) -> bytes:
    """The remaining length (section 2.2.3)."""
    if length < 128:
        return bytes((length,))
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | 128 if length else digit)
        if not length:
            return bytes(encoded)


def _string(value: bytes) -> bytes:
    return _SHORT.pack(len(value)) + value


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _length(len(body)) + body


PINGREQ = _packet(Type.PINGREQ << 4, b"")
PINGRESP = _packet(Type.PINGRESP << 4, b"")
DISCONNECT = _packet(Type.DISCONNECT << 4, b"")


def connect(packet: Connect) -> bytes:
    flags = 2 * packet.clean_session
    tail = _string(packet.client_id.encode())
    if packet.will is not None:
        flags |= 4 | packet.will.qos << 3 | 32 * packet.will.retain
        tail += _string(packet.will.topic.encode()) + _string(packet.will.payload)
    if packet.user_name is not None:
        flags |= 128
        tail += _string(packet.user_name.encode())
    if packet.password is not None:
        flags |= 64
        tail += _string(packet.password)
    head = _string(b"MQTT") + bytes((PROTOCOL_LEVEL, flags)) + _SHORT.pack(packet.keep_alive)
    return _packet(Type.CONNECT << 4, head + tail)


def connack(session_present: bool, code: int) -> bytes:
    return bytes((Type.CONNACK << 4, 2, session_present, code))


def acks(kind: Type, packet_ids: Sequence[int]) -> bytes:
    """Packets of one acknowledging type for ``packet_ids``, in order."""
    head = bytes((kind << 4 | _FLAGS[kind], 2))
    return b"".join([head + _SHORT.pack(packet_id) for packet_id in packet_ids])


def subscribe(packet_id: int, filters: Sequence[tuple[str, int]]) -> bytes:
    body = b"".join(_string(filter_.encode()) + bytes((qos,)) for filter_, qos in filters)
    return _packet(Type.SUBSCRIBE << 4 | 2, _SHORT.pack(packet_id) + body)


def suback(packet_id: int, codes: Sequence[int]) -> bytes:
    return _packet(Type.SUBACK << 4, _SHORT.pack(packet_id) + bytes(codes))


def unsubscribe(packet_id: int, filters: Sequence[str]) -> bytes:
    body = b"".join(_string(filter_.encode()) for filter_ in filters)
    return _packet(Type.UNSUBSCRIBE << 4 | 2, _SHORT.pack(packet_id) + body)


def publishes(
    topic: str,
    payloads: Sequence[bytes],
    qos: int = 0,
    packet_ids: Sequence[int] = (),
    *,
    dup: bool = False,
    retain: bool = False,
) -> bytes:
    """PUBLISH packets on one topic; ``packet_ids`` has one for each payload if ``qos`` is above 0."""
    first = bytes((Type.PUBLISH << 4 | 8 * dup | qos << 1 | retain,))
    name = _string(topic.encode())
    fixed = len(name) + (2 if qos else 0)
    parts: list[bytes] = []
    head, known = b"", -1
    for index, payload in enumerate(payloads):
        size = len(payload)
        if size != known:
            head, known = first + _length(fixed + size) + name, size
        parts.append(head)
        if qos:
            parts.append(pack(">H", packet_ids[index]))
        parts.append(payload)
    return b"".join(parts)
