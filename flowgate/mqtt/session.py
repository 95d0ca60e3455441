"""The MQTT 3.1.1 session of one client: delivery protocols of all qualities of service, both ways (chapter 4).

Pure: values in, packets' bytes out; no connection, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum

import attrs

from flowgate.errors import ProtocolViolation
from flowgate.mqtt.packets import (
    Ack,
    Bare,
    Connect,
    Publish,
    Subscribe,
    Type,
    Unsubscribe,
    acks,
    publishes,
)

_LAST_ID = 65535


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = "waiting for CONNECT"
    CONNECTED = "connected"
    CLOSED = "closed"


_CLIENT_ACKS = frozenset((Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP))

_ALLOWED: dict[State, frozenset[type]] = {
    State.CONNECTING: frozenset((Connect,)),  # [MQTT-3.1.0-1]
    State.CONNECTED: frozenset((Publish, Ack, Subscribe, Unsubscribe, Bare)),  # [MQTT-3.1.0-2]: no second CONNECT
    State.CLOSED: frozenset(),
}
"""The packets that a client may send, by state; those that only a server sends are in none."""


def check_allowed(state: State, packet: object) -> None:
    """Check that a client may send ``packet`` now.

    :raises ProtocolViolation: if not: the connection has to be closed ([MQTT-4.8.0-1]).
    """
    if type(packet) not in _ALLOWED[state]:
        raise ProtocolViolation(f"a {type(packet).__name__} packet while {state.value}")
    if isinstance(packet, Ack) and packet.type not in _CLIENT_ACKS:
        raise ProtocolViolation("an acknowledgement that only a server sends")
    if isinstance(packet, Bare) and packet.type == Type.PINGRESP:
        raise ProtocolViolation("PINGRESP from a client")


class _Step(Enum):
    """What a delivery in flight waits for."""

    PUBACK = Type.PUBACK
    PUBREC = Type.PUBREC
    PUBCOMP = Type.PUBCOMP


@attrs.define(slots=True)
class _Delivery:
    """A QoS 1 or 2 message on its way to the client; without payload once the client has it (after PUBREC)."""

    topic: str
    payload: bytes
    qos: int
    step: _Step


class QueueFull(Exception):
    """More deliveries wait than the session may keep."""


class Session:
    """Deliveries in flight to a client, those that wait, and the QoS 2 publishes that it has not released.

    :param window: the most deliveries in flight.
    :param queue_messages: the most deliveries that wait behind the window.
    :param queue_bytes: the most bytes of payload in flight and waiting.
    """

    __slots__ = ("_flying", "_next_id", "_queue", "_queue_bytes", "_queue_messages", "_size", "_unreleased", "_window")

    def __init__(self, window: int, queue_messages: int, queue_bytes: int) -> None:
        self._window = window
        self._queue_messages = queue_messages
        self._queue_bytes = queue_bytes
        self._flying: dict[int, _Delivery] = {}
        self._queue: deque[tuple[str, bytes, int]] = deque()
        self._size = 0
        self._next_id = 1
        self._unreleased: set[int] = set()

    # -- to the client

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def deliver(self, topic: str, payloads: Sequence[bytes], qos: int, *, hold: bool = False) -> bytes:
        """Deliver messages at ``qos`` 1 or 2, in order.

        :param hold: keep all of them waiting, because the connection is behind.
        :returns: the PUBLISH packets to send now; the rest waits until others are acknowledged.
        :raises QueueFull: if more would wait than the bounds allow; nothing was taken then.
        """
        room = 0 if hold or self._queue else self._window - len(self._flying)
        size = sum(map(len, payloads))
        late = len(payloads) - room
        if self._size + size > self._queue_bytes or (late > 0 and len(self._queue) + late > self._queue_messages):
            raise QueueFull
        self._size += size
        now = payloads[:room] if late > 0 else payloads
        if late > 0:
            self._queue.extend((topic, payload, qos) for payload in payloads[room:])
        if not now:
            return b""
        return publishes(topic, now, qos, self._take_off(topic, now, qos))

    def _take_off(self, topic: str, payloads: Iterable[bytes], qos: int) -> list[int]:
        """Put deliveries in flight; return their packet identifiers."""
        flying, next_id = self._flying, self._next_id
        step = _Step.PUBACK if qos == 1 else _Step.PUBREC
        ids = []
        for payload in payloads:
            while next_id in flying:  # [MQTT-2.3.1-2]: an identifier that is not in use
                next_id = next_id % _LAST_ID + 1
            flying[next_id] = _Delivery(topic, payload, qos, step)
            ids.append(next_id)
            next_id = next_id % _LAST_ID + 1
        self._next_id = next_id
        return ids

    def pump(self, size: int) -> bytes:
        """The PUBLISH packets that there is room for now, until they have ``size`` bytes of payload."""
        queue = self._queue
        room = self._window - len(self._flying)
        parts = []
        while queue and room > 0 and size > 0:
            topic, payload, qos = queue.popleft()
            batch = [payload]
            room -= 1
            size -= len(payload)
            while queue and room > 0 and size > 0 and queue[0][0] == topic and queue[0][2] == qos:
                batch.append(queue.popleft()[1])
                room -= 1
                size -= len(batch[-1])
            parts.append(publishes(topic, batch, qos, self._take_off(topic, batch, qos)))
        return b"".join(parts)

    def acknowledged(self, packet: Ack) -> bytes:
        """Take PUBACK, PUBREC or PUBCOMP packets.

        An identifier that is not in flight, or waits for another packet, is an answer to something this session does
        not know any more: a PUBREC is answered so that the client can let go (section 4.3.3), others change nothing.

        :returns: the PUBREL packets to send ([MQTT-4.3.3-1]); call :meth:`pump` for what may follow.
        """
        step = _Step(packet.type)
        flying = self._flying
        for packet_id in packet.packet_ids:
            delivery = flying.get(packet_id)
            if delivery is None or delivery.step is not step:
                continue
            if step is _Step.PUBREC:
                self._size -= len(delivery.payload)
                delivery.payload = b""
                delivery.step = _Step.PUBCOMP
            else:
                self._size -= len(delivery.payload)
                del flying[packet_id]
        return acks(Type.PUBREL, packet.packet_ids) if step is _Step.PUBREC else b""

    # -- from the client

    def begin(self, packet_ids: Sequence[int]) -> list[bool]:
        """Take the identifiers of QoS 2 publishes.

        :returns: for each whether it is new: one that was not released yet is the same message again ([MQTT-4.3.3-2]).
        """
        fresh = []
        for packet_id in packet_ids:
            fresh.append(packet_id not in self._unreleased)
            self._unreleased.add(packet_id)
        return fresh

    def released(self, packet: Ack) -> bytes:
        """Take PUBREL packets.

        :returns: the PUBCOMP packets to send, also for identifiers that are not known ([MQTT-4.3.3-2]).
        """
        self._unreleased.difference_update(packet.packet_ids)
        return acks(Type.PUBCOMP, packet.packet_ids)
