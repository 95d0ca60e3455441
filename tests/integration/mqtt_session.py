"""A strict MQTT client whose session outlives its connections.

It keeps what section 4.1 of MQTT 3.1.1 has a client keep, sends again what was not acknowledged when it is back, and
notes every deviation of the server from the specification.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from typing import Any

import attrs

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Connack, Connect, Publish, ReturnCode, Suback, Type
from tests.integration.gateway import PATIENCE

_LAG = 50
"""Acknowledgements that are held back while more comes, so that there is something in flight when a process dies."""

_IDLE = 0.005
"""Seconds without a packet after which acknowledgements that were held back are sent."""

_LAST_ID = 65535

_DEVIATIONS = 20
"""Deviations that are kept: the first ones tell most."""


class Unavailable(Exception):
    """The gateway asks the client to come back later: CONNACK 3."""


@attrs.define(slots=True)
class Outgoing:
    """A publish that the server has not acknowledged to the end.

    :ivar released: whether PUBREC has come: PUBREL is what is sent again then.
    """

    topic: str
    payload: bytes
    qos: int
    released: bool = False


@attrs.frozen(slots=True)
class Received:
    """A message as it was delivered.

    :ivar connection: on which of the client's connections it came, counted from 1.
    """

    topic: str
    payload: bytes
    qos: int
    dup: bool
    packet_id: int
    connection: int


class PersistentClient:
    """One client with a session; :meth:`connect` as often as wanted.

    :param window: the most publishes in flight to the server, and the most that the server may have in flight.
    :ivar received: what was delivered to the application, in order; QoS 2 messages once by the client's own rules.
    :ivar resent: by topic and payload, how often a QoS 1 publish was sent again.
    :ivar connections: how many it has opened so far.
    :ivar abandoned: connections that were left open.
    :ivar deviations: the first things that the server did and the specification forbids.
    """

    def __init__(self, client_id: str, token: str, window: int = 100) -> None:
        self.client_id = client_id
        self._token = token
        self._window = window
        self._socket: socket.socket | None = None
        self._decoder = packets.Decoder(1 << 20)
        self._established = self._accepted = False
        self._next_id = 1
        self._outgoing: dict[int, Outgoing] = {}
        self._unacknowledged: dict[int, tuple[str, bytes]] = {}
        """QoS 1 messages that have come and whose PUBACK has not been sent."""
        self._unreleased: dict[int, tuple[str, bytes]] = {}
        """QoS 2 messages that have come and whose PUBREL has not."""
        self._open: set[int] = set()
        """Identifiers that the server has in use on this connection, as far as the client can know."""
        self._held: list[tuple[Type, int]] = []
        self._releases: list[int] = []
        self._answers: list[Any] = []
        self.received: list[Received] = []
        self.resent: Counter[tuple[str, bytes]] = Counter()
        self.connections = 0
        self.deviations: list[str] = []
        self.abandoned: list[socket.socket] = []
        self._breaking = ""

    # -- connections

    def connect(self, port: int) -> bool:
        """Connect, and send again what was not acknowledged; return the session present flag.

        :raises OSError: if there is nobody, or it hangs up.
        :raises Unavailable: if the gateway cannot serve now.
        """
        self._forget_connection()
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        self._accepted = False
        password = self._token.encode()
        self._socket.sendall(packets.connect(Connect(self.client_id, False, 0, None, "Bearer", password)))
        answer = self._wait(Connack)
        if answer.code == ReturnCode.SERVER_UNAVAILABLE:
            self.cut()
            raise Unavailable
        if answer.code:
            raise AssertionError(f"{self.client_id}: CONNECT is answered with {answer.code}")
        # [MQTT-3.2.2-2]; of a first CONNECT whose answer was lost the client cannot know.
        self._deviation("the gateway has lost the session", answer.session_present or not self._established)
        self._established = True
        self._send_again()
        return bool(answer.session_present)

    def _forget_connection(self) -> None:
        self.cut()
        self._decoder = packets.Decoder(1 << 20)
        self._answers.clear()
        self._held.clear()  # what was not sent is owed again when the server sends again
        self._releases.clear()  # and these are sent again
        self._open = set(self._unreleased)

    def cut(self) -> None:
        """End the connection without DISCONNECT."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def break_off(self, how: str) -> None:
        """Lose the connection at the next :meth:`read`; may be called from another thread.

        :param how: ``cut``; or ``left``: looked at no more but not closed, so that the server has to; or empty: not
            at all.
        """
        self._breaking = how

    def _break_off(self) -> None:
        breaking, self._breaking = self._breaking, ""
        if breaking == "left" and self._socket is not None:
            self.abandoned.append(self._socket)
            self._socket = None
        self.cut()
        raise ConnectionError("the connection is broken off")

    def disconnect(self) -> None:
        """Finish what is under way, and end the connection in order."""
        self.settle()
        self._send(packets.DISCONNECT)
        self.cut()

    def _send_again(self) -> None:
        """[MQTT-4.4.0-1], [MQTT-4.6.0-1], [MQTT-4.6.0-4]: in the order of before, with the same identifiers."""
        parts = []
        for packet_id, message in self._outgoing.items():
            if message.released:
                parts.append(packets.acks(Type.PUBREL, (packet_id,)))
            else:
                parts.append(packets.publishes(message.topic, [message.payload], message.qos, [packet_id], dup=True))
                if message.qos == 1:
                    self.resent[message.topic, message.payload] += 1
        self._send(b"".join(parts))

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            raise ConnectionError("there is no connection")
        self._socket.sendall(data)

    # -- to the server

    @property
    def room(self) -> int:
        """Publishes that the window has room for."""
        return self._window - len(self._outgoing)

    @property
    def in_flight(self) -> int:
        return len(self._outgoing)

    @property
    def unreleased(self) -> int:
        """QoS 2 messages that have come and whose PUBREL has not."""
        return len(self._unreleased)

    @property
    def owes(self) -> bool:
        """Whether an exchange with the server is not finished."""
        return bool(self._held or self._unreleased)

    def publish(self, topic: str, payloads: list[bytes], qos: int) -> None:
        """Publish at QoS 1 or 2; the session keeps the messages if the connection breaks."""
        ids = []
        for payload in payloads:
            while self._next_id in self._outgoing:
                self._next_id = self._next_id % _LAST_ID + 1
            ids.append(self._next_id)
            self._outgoing[self._next_id] = Outgoing(topic, payload, qos)
            self._next_id = self._next_id % _LAST_ID + 1
        self._send(packets.publishes(topic, payloads, qos, ids))

    def subscribe(self, *filters: str, qos: int) -> None:
        """Subscribe, and wait for the answer.

        :raises AssertionError: if not everything is granted as it was asked for.
        """
        self._send(packets.subscribe(_LAST_ID, [(filter_, qos) for filter_ in filters]))
        codes = self._wait(Suback).codes
        if codes != (qos,) * len(filters):
            raise AssertionError(f"{self.client_id}: SUBSCRIBE is answered with {codes}")

    # -- from the server

    def _wait(self, kind: type) -> Any:
        while True:
            for index, packet in enumerate(self._answers):
                if isinstance(packet, kind):
                    return self._answers.pop(index)
            self._read()

    def read(self, patience: float = PATIENCE) -> bool:
        """Take what comes next, and answer it sooner or later; ``False`` if nothing comes for ``patience`` seconds.

        :raises OSError: if the connection has ended.
        """
        if self._breaking:
            self._break_off()
        if self._socket is None:
            raise ConnectionError("there is no connection")
        if self._held and not select.select([self._socket], [], [], _IDLE)[0]:
            self.flush()
        if not select.select([self._socket], [], [], patience)[0]:
            return False
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the gateway has closed the connection")
        for packet in self._decoder.feed(data):
            self._accepted = self._accepted or isinstance(packet, Connack)
            self._deviation(f"{packet} before CONNACK", self._accepted)  # [MQTT-3.2.0-1]
            if isinstance(packet, Publish):
                name = packet.topic.decode()
                for packet_id, payload in zip(packet.packet_ids, packet.payloads(), strict=True):
                    self._published(Received(name, payload, packet.qos, packet.dup, packet_id, self.connections))
            elif isinstance(packet, Ack) and packet.type != Type.UNSUBACK:
                for packet_id in packet.packet_ids:
                    self._answered(packet.type, packet_id)
            else:
                self._answers.append(packet)
        self._release()
        if len(self._held) >= _LAG:
            self.flush()
        return True

    def settle(self) -> None:
        """Finish every exchange that is under way in either direction."""
        self.flush()
        while self.unreleased or self.in_flight:
            self._read()
            self.flush()

    def _read(self) -> None:
        if not self.read():
            raise AssertionError(f"{self.client_id}: nothing comes")

    def _deviation(self, what: str, unless: bool) -> None:
        if not unless and len(self.deviations) < _DEVIATIONS:
            self.deviations.append(f"connection {self.connections}: {what}")

    def _published(self, message: Received) -> None:
        content, packet_id = (message.topic, message.payload), message.packet_id
        where = str(message)
        kept = self._unacknowledged if message.qos == 1 else self._unreleased
        if message.dup:
            # [MQTT-4.4.0-1]: what is sent again is the same, under the same identifier.  A QoS 1 message that was
            # published again may be there under two.
            moved = message.qos == 2 and packet_id not in kept and content in kept.values()
            self._deviation(f"{where}: it had another identifier before", not moved)
            self._deviation(f"{where}: this was {kept.get(packet_id)}", kept.get(packet_id, content) == content)
        else:
            # [MQTT-2.3.1-4], [MQTT-3.3.1-1]
            known = self._unacknowledged.get(packet_id) or self._unreleased.get(packet_id)
            self._deviation(f"{where}: without DUP, and {known} has the identifier", known is None)
            self._deviation(f"{where}: the identifier is in use", known is not None or packet_id not in self._open)
        self._open.add(packet_id)
        self._deviation(f"{where}: {len(self._open)} are in flight", len(self._open) <= self._window)
        if message.qos == 1:
            self._unacknowledged[packet_id] = content
            self.received.append(message)
        elif packet_id not in self._unreleased:
            self._unreleased[packet_id] = content
            self.received.append(message)
        self._held.append((Type.PUBACK if message.qos == 1 else Type.PUBREC, packet_id))

    def _answered(self, kind: Type, packet_id: int) -> None:
        if kind == Type.PUBREL:
            self._unreleased.pop(packet_id, None)
            self._held.append((Type.PUBCOMP, packet_id))
            return
        message = self._outgoing.get(packet_id)
        expected = None
        if message is not None:
            expected = Type.PUBACK if message.qos == 1 else Type.PUBCOMP if message.released else Type.PUBREC
        self._deviation(f"{kind.name} {packet_id} for {message}", kind == expected)
        if message is None or kind != expected:
            return
        if kind != Type.PUBCOMP:
            # [MQTT-4.6.0-2], [MQTT-4.6.0-3]: in the order of the publishes
            first = next(i for i, one in self._outgoing.items() if one.qos == message.qos and not one.released)
            self._deviation(f"{kind.name} {packet_id} before that of {first}", packet_id == first)
        if kind == Type.PUBREC:
            message.released = True
            self._releases.append(packet_id)
        else:
            del self._outgoing[packet_id]

    def _release(self) -> None:
        if self._releases:
            releases, self._releases = self._releases, []
            self._send(packets.acks(Type.PUBREL, releases))

    def flush(self) -> None:
        """Send the acknowledgements that were held back, in order."""
        held, self._held = self._held, []
        for kind, packet_id in held:
            # Also if sending fails: the server may have read some of them.
            if kind == Type.PUBACK:
                self._unacknowledged.pop(packet_id, None)
            if kind != Type.PUBREC:
                self._open.discard(packet_id)
        self._send(b"".join([packets.acks(kind, (packet_id,)) for kind, packet_id in held]))
