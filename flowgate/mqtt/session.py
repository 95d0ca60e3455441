"""The MQTT 3.1.1 session of one client: delivery protocols of all qualities of service, both ways (chapter 4).

Pure: values in, packets' bytes out; no connection, no clock, no storage.  A session that outlives its connection is
made durable by whoever keeps it: :meth:`Session.state` says what has to be kept, and three rules say when.

* A QoS 2 delivery is kept before its PUBLISH is sent: after a crash it is sent again under the same identifier, by
  which the client knows it.
* A PUBREC is kept before its PUBREL is sent: the client forgets the identifier at the PUBREL.
* A QoS 2 publish is kept before it is stored, and its release before the PUBCOMP is sent: the client uses an identifier
  for another message only after the PUBCOMP.

What is kept too late in any other place costs a repeated QoS 1 delivery, or a PUBREL that is answered once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import repeat
from typing import Any

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

MOST_UNRELEASED = 16_384
"""QoS 2 publishes that a client may leave without PUBREL, if they have to be kept."""

Place = tuple[str, int, bool]
"""Where a durable delivery can be read again: prefix of the namespace, sequence, whether the full name is shown.  A
retained message, which has a stream of its own, has ``~`` before the prefix."""


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = "waiting for CONNECT"
    OPENING = "waiting for its session"
    CONNECTED = "connected"
    CLOSED = "closed"


_CLIENT_ACKS = frozenset((Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP))

_ALLOWED: dict[State, frozenset[type]] = {
    State.CONNECTING: frozenset((Connect,)),  # [MQTT-3.1.0-1]
    State.OPENING: frozenset(),  # what the client sends before CONNACK is read later
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


_STEPS = {step.value: step for step in _Step}


@attrs.define(slots=True)
class _Delivery:
    """A QoS 1 or 2 message on its way to the client; ``size`` is 0 once the client has it (after PUBREC).

    The payload is not kept: on one connection nothing is sent twice, and on the next one it is read again from its
    place.
    """

    step: _Step
    size: int
    place: Place | None
    token: object = None


@attrs.frozen(slots=True)
class _Waiting:
    """A message that waits for a place among those in flight."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    place: Place | None
    token: object
    dup: bool = False


@attrs.define(slots=True)
class _Inbound:
    """A QoS 2 publish that the client has not released.

    :ivar generation: unique in the session: with it the bus knows a repetition.
    :ivar stored: whether the bus has it.
    :ivar earlier: whether it was begun on an earlier connection.
    :ivar doubtful: whether it is unknown if the bus has it, and nobody is finding out.
    :ivar at: when it was begun, in seconds since 1970 UTC.
    """

    generation: int
    stored: bool = False
    earlier: bool = False
    doubtful: bool = False
    at: float = 0.0


@attrs.frozen(slots=True)
class Begun:
    """What becomes of one QoS 2 PUBLISH.

    :ivar generation: which message it is.
    :ivar fresh: it was not seen before.
    :ivar doubtful: it was seen before, and it is unknown whether the bus has it.
    :ivar at: when it was seen first, in seconds since 1970 UTC.
    """

    generation: int
    fresh: bool
    doubtful: bool
    at: float = 0.0


_NOWHERE = _Waiting("", b"", 0, False, None, None)


class QueueFull(Exception):
    """More deliveries wait than the session may keep."""


class Session:
    """Deliveries in flight to a client, those that wait, and the QoS 2 publishes that it has not released.

    :param window: the most deliveries in flight.
    :param queue_messages: the most deliveries that wait behind the window.
    :param queue_bytes: the most bytes of payload in flight and waiting.
    :ivar unsaved: durable QoS 2 deliveries were put in flight since :meth:`state` was called last.
    :ivar touched: an acknowledgement has changed something since this was set back.
    :ivar most_unreleased: QoS 2 publishes that the client may leave without PUBREL.
    :ivar finished: the tokens of deliveries that the client has acknowledged; to be emptied by who gave them.
    """

    __slots__ = (
        "_flying",
        "_generation",
        "_next_id",
        "_queue",
        "_queue_bytes",
        "_queue_messages",
        "_size",
        "_unread",
        "_unreleased",
        "_window",
        "finished",
        "most_unreleased",
        "touched",
        "unsaved",
    )

    def __init__(self, window: int, queue_messages: int, queue_bytes: int) -> None:
        self._window = window
        self._queue_messages = queue_messages
        self._queue_bytes = queue_bytes
        self._flying: dict[int, _Delivery] = {}
        self._queue: deque[_Waiting] = deque()
        self._size = 0
        self._next_id = 1
        self._generation = 0
        self._unreleased: dict[int, _Inbound] = {}
        self._unread: list[tuple[int, Place]] = []
        self.most_unreleased = _LAST_ID
        self.touched = False
        self.unsaved = False
        self.finished: list[object] = []

    # -- to the client

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether more deliveries would have to wait."""
        return bool(self._queue) or len(self._flying) >= self._window or self._size >= self._queue_bytes

    @property
    def overfull(self) -> bool:
        """Whether more waits than may wait: so it comes from somewhere that does not stop while :attr:`busy`."""
        return len(self._queue) > self._queue_messages or self._size > self._queue_bytes

    @property
    def full(self) -> bool:
        """Whether more deliveries would have to wait even if all that wait could be sent now."""
        return len(self._flying) + len(self._queue) >= self._window or self._size >= self._queue_bytes

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
            self._queue.extend(_Waiting(topic, payload, qos, False, None, None) for payload in payloads[room:])
        if not now:
            return b""
        return publishes(topic, now, qos, self._take_off(now, qos))

    def put(
        self,
        topic: str,
        payloads: Sequence[bytes],
        qos: int,
        places: Iterable[Place | None],
        *,
        retain: bool = False,
        tokens: Iterable[object] = (),
        dup: bool = False,
    ) -> None:
        """Have messages wait, in order, for :meth:`pump`.

        They have no bound here: whoever reads them from somewhere stops while the session is :attr:`busy`.

        :param retain: they are sent because of a new subscription ([MQTT-3.3.1-8]).
        :param tokens: one for each, to be found in :attr:`finished`; or none at all.
        :param dup: the client may have been sent them before ([MQTT-3.3.1-1]).
        """
        self._size += sum(map(len, payloads))
        self._queue.extend(
            map(
                _Waiting,
                repeat(topic),
                payloads,
                repeat(qos),
                repeat(retain),
                places,
                tokens or repeat(None),
                repeat(dup),
            )
        )

    def _take_off(self, payloads: Iterable[bytes], qos: int, waited: Iterable[_Waiting] | None = None) -> list[int]:
        """Put deliveries in flight; return their packet identifiers."""
        flying, next_id = self._flying, self._next_id
        step = _Step.PUBACK if qos == 1 else _Step.PUBREC
        ids = []
        for payload, one in zip(payloads, waited or repeat(_NOWHERE)):  # noqa: B905 - as many as there are payloads
            while next_id in flying:  # [MQTT-2.3.1-2]: an identifier that is not in use
                next_id = next_id % _LAST_ID + 1
            flying[next_id] = _Delivery(step, len(payload), one.place, one.token)
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
            first = queue.popleft()
            topic, qos, retain, dup = first.topic, first.qos, first.retain, first.dup
            batch = [first]
            room -= 1
            size -= len(first.payload)
            while queue and room > 0 and size > 0:
                following = queue[0]
                if (
                    following.topic != topic
                    or following.qos != qos
                    or following.retain != retain
                    or following.dup != dup
                ):
                    break
                batch.append(queue.popleft())
                room -= 1
                size -= len(following.payload)
            if qos == 2 and first.place is not None:
                self.unsaved = True
            payloads = [one.payload for one in batch]
            ids = self._take_off(payloads, qos, batch)
            parts.append(publishes(topic, payloads, qos, ids, dup=dup, retain=retain))
        return b"".join(parts)

    def acknowledged(self, packet: Ack) -> bytes:
        """Take PUBACK, PUBREC or PUBCOMP packets.

        An identifier that is not in flight, or waits for another packet, is an answer to something this session does
        not know any more: a PUBREC is answered so that the client can let go (section 4.3.3), others change nothing.

        :returns: the PUBREL packets to send ([MQTT-4.3.3-1]); call :meth:`pump` for what may follow.
        """
        step = _STEPS[packet.type]
        flying = self._flying
        for packet_id in packet.packet_ids:
            delivery = flying.get(packet_id)
            if delivery is None or delivery.step is not step:
                continue
            self.touched = True
            self._size -= delivery.size
            if delivery.token is not None:
                self.finished.append(delivery.token)
                delivery.token = None
            if step is _Step.PUBREC:
                delivery.size = 0
                delivery.step = _Step.PUBCOMP
            else:
                del flying[packet_id]
        return acks(Type.PUBREL, packet.packet_ids) if step is _Step.PUBREC else b""

    # -- from the client

    def begin(self, packet_ids: Sequence[int], now: float = 0.0) -> list[Begun]:
        """Take the identifiers of QoS 2 publishes; one that was not released is the same message ([MQTT-4.3.3-2]).

        :param now: seconds since 1970 UTC.
        :returns: for each what becomes of it.
        :raises ProtocolViolation: if the client leaves too many of them without PUBREL.
        """
        begun = []
        for packet_id in packet_ids:
            known = self._unreleased.get(packet_id)
            if known is None:
                if len(self._unreleased) >= self.most_unreleased:
                    raise ProtocolViolation(f"more than {self.most_unreleased} QoS 2 messages without PUBREL")
                self._generation += 1
                self._unreleased[packet_id] = _Inbound(self._generation, at=now)
                begun.append(Begun(self._generation, True, False, now))
            else:
                begun.append(Begun(known.generation, False, known.doubtful, known.at))
                known.doubtful = False  # whoever called finds out
        return begun

    def stored(self, packet_ids: Iterable[int]) -> None:
        """Learn that the bus has QoS 2 publishes."""
        for packet_id in packet_ids:
            inbound = self._unreleased.get(packet_id)
            if inbound is not None:
                inbound.stored = True

    def refused(self, packet_ids: Iterable[int], certain: bool) -> None:
        """Learn that the bus does not take QoS 2 publishes now.

        :param certain: it has not taken them before either: if they are repeated, they are new.  Not so for those that
            were begun on an earlier connection.
        """
        for packet_id in packet_ids:
            inbound = self._unreleased.get(packet_id)
            if inbound is None or inbound.stored:
                continue
            if certain and not inbound.earlier:
                del self._unreleased[packet_id]
            else:
                inbound.doubtful = True

    def released(self, packet: Ack) -> bytes:
        """Take PUBREL packets.

        :returns: the PUBCOMP packets to send, also for identifiers that are not known ([MQTT-4.3.3-2]).
        """
        for packet_id in packet.packet_ids:
            if self._unreleased.pop(packet_id, None) is not None:
                self.touched = True
        return acks(Type.PUBCOMP, packet.packet_ids)

    # -- beyond the connection

    def state(self) -> dict[str, Any]:
        """What has to be kept for the next connection, as JSON values."""
        self.unsaved = False
        return {
            "next_id": self._next_id,
            "generation": self._generation,
            "inbound": [
                (packet_id, inbound.generation, inbound.stored, inbound.at)
                for packet_id, inbound in self._unreleased.items()
            ],
            "flying": [
                (packet_id, delivery.step.value, *delivery.place)
                for packet_id, delivery in self._flying.items()
                if delivery.place is not None
            ],
            "waiting": [
                *((waiting.qos, *waiting.place) for waiting in self._queue if waiting.place is not None),
                *((qos, *place) for qos, place in self._unread),
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> Restored:
        """Take what :meth:`state` said on an earlier connection.

        :returns: what has to be sent again, piece by piece.
        """
        self._next_id = state["next_id"]
        self._generation = state["generation"]
        for packet_id, generation, stored, at in state["inbound"]:
            self._unreleased[packet_id] = _Inbound(generation, stored, True, not stored, at)
        again: list[tuple[int, Place]] = []
        for packet_id, step, prefix, sequence, full in state["flying"]:
            place = prefix, sequence, full
            self._flying[packet_id] = _Delivery(_Step(Type(step)), 0, place)
            again.append((packet_id, place))
        self._unread = [(qos, (prefix, sequence, full)) for qos, prefix, sequence, full in state["waiting"]]
        return Restored(self, again, self._unread)

    def resend(self, packet_ids: Iterable[int], found: Mapping[Place, tuple[str, bytes]]) -> bytes:
        """The packets that are owed for restored deliveries, in their old order ([MQTT-4.4.0-1], [MQTT-4.6.0-1]).

        :param found: topic and payload of those that could be read again.
        """
        parts = []
        for packet_id in packet_ids:
            delivery = self._flying.get(packet_id)
            if delivery is None or delivery.place is None:
                continue
            message = found.get(delivery.place)
            if delivery.step is not _Step.PUBCOMP and message is not None:
                topic, payload = message
                delivery.size = len(payload)
                self._size += delivery.size
                qos = 1 if delivery.step is _Step.PUBACK else 2
                retain = delivery.place[0].startswith("~")
                parts.append(publishes(topic, [payload], qos, [packet_id], dup=True, retain=retain))  # [MQTT-3.3.1-1]
            elif delivery.step is _Step.PUBACK:
                del self._flying[packet_id]  # history has let it go
            else:
                # The client has it; or it may have it, and it can never be sent again: then the identifier is given
                # up, or the client would take another message under it for this one.
                delivery.step = _Step.PUBCOMP
                parts.append(acks(Type.PUBREL, (packet_id,)))
        return b"".join(parts)


@attrs.frozen(slots=True)
class Restored:
    """What a session has still to send from an earlier connection.

    :ivar flying: packet identifiers and places of deliveries that were in flight, in order.
    :ivar waiting: quality of service and places of messages that had no identifier yet, in order.  They are a part of
        the session's state until they are deleted from here, which is to be done when they are :meth:`Session.put`.
    """

    session: Session
    flying: list[tuple[int, Place]]
    waiting: list[tuple[int, Place]]
