"""MQTT on a connection: translates between packets and the gateway, and decides nothing itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, cast
from uuid import uuid4

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.auth.permissions import Principal
from flowgate.auth.tokens import TokenService
from flowgate.connections import IConnection
from flowgate.errors import (
    Internal,
    InvalidParameter,
    InvalidToken,
    InvalidTopic,
    MissingToken,
    ProtocolViolation,
    Refused,
)
from flowgate.gateway import Gateway, Interest, Route
from flowgate.interfaces import ISubscriber
from flowgate.message import Run
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Bare, Connect, Publish, ReturnCode, Subscribe, Type, Unsubscribe
from flowgate.mqtt.session import QueueFull, Session, State, check_allowed
from flowgate.subscriber import Outbox, Sink
from flowgate.timers import Wheel
from flowgate.topics import MAX_NAME_BYTES, Namespace

_log = Logger()

_KEEP_ALIVE_GRACE = 1.5
"""A client may be silent for one and a half times its keep alive ([MQTT-3.1.2-24])."""

CLOSE_SECONDS = 5
"""How long a client may take to read the rest of a connection that closes."""

_CACHED_ROUTES = 1000
"""Topics of one connection whose route is remembered."""

_RETURN_CODES = {
    400: ReturnCode.BAD_USER_NAME_OR_PASSWORD,
    401: ReturnCode.BAD_USER_NAME_OR_PASSWORD,
    402: ReturnCode.NOT_AUTHORIZED,
    403: ReturnCode.NOT_AUTHORIZED,
    429: ReturnCode.SERVER_UNAVAILABLE,
    500: ReturnCode.SERVER_UNAVAILABLE,
    503: ReturnCode.SERVER_UNAVAILABLE,
}
"""The CONNACK return code for the status of a refusal."""

_FORMS = ("mqtt short", "mqtt full")
"""The names, by ``full``, under which a run keeps its QoS 0 packets."""


def return_code(refusal: Refused) -> ReturnCode:
    """What a refused CONNECT is answered with (section 3.2.2.3)."""
    return _RETURN_CODES.get(refusal.status, ReturnCode.NOT_AUTHORIZED)


def _encode_short(run: Run) -> bytes:
    return packets.publishes(run.topic.shown(False), run.payloads)


def _encode_full(run: Run) -> bytes:
    return packets.publishes(run.topic.shown(True), run.payloads)


_ENCODERS: tuple[Callable[[Run], bytes], Callable[[Run], bytes]] = (_encode_short, _encode_full)


class _Promise:
    """Acknowledgements that a client is owed once the bus has kept its part; sent in the order of its packets."""

    __slots__ = ("count", "kept", "reply")

    def __init__(self, reply: bytes, count: int) -> None:
        self.reply = reply
        self.count = count
        self.kept = False


@implementer(ISubscriber, IConnection)
class MqttProtocol(Protocol):
    """One MQTT connection."""

    factory: MqttFactory
    transport: Any  # TCP, Unix or TLS

    def __init__(self, factory: MqttFactory) -> None:
        self.factory = factory
        self._gateway = factory.gateway
        self._state = State.CONNECTING
        self._decoder = packets.Decoder(factory.largest_packet)
        self._principal: Principal | None = None
        self._connect: Connect | None = None
        self._will: tuple[Route, bytes, int] | None = None
        self._silence = 0.0
        self._heard = 0.0
        self._expires = 0.0
        self._routes: dict[bytes, Route] = {}
        self._interests: dict[str, Interest] = {}
        self._session: Session | None = None
        self._promises: deque[_Promise] = deque()
        self._owed = 0
        self._reading = True
        self._draining = False

    # -- the connection

    def connectionMade(self) -> None:
        if not isinstance(self.transport.getHost(), UNIXAddress):
            self.transport.setTcpNoDelay(True)
        limits = self._gateway.limits
        self._outbox = Outbox(cast(Sink, self.transport), self._gateway.turn, limits.subscriber_buffer_bytes)
        self._outbox.drained = self._pump
        self.factory.wheel.set(self, limits.connect_seconds)

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            return  # only the end of the connection is awaited
        self._heard = self.factory.clock.seconds()
        try:
            for packet in self._decoder.feed(data):
                kind = type(packet)
                if kind is not Publish or self._state is not State.CONNECTED:
                    check_allowed(self._state, packet)  # PUBLISH while connected, the usual case, always is
                self._take[kind](self, packet)
                if self._closed:
                    break
        except ProtocolViolation as violation:
            self._refuse(violation)
        except Refused as refusal:
            # A PUBLISH that is not permitted or not possible has no negative answer in 3.1.1 ([MQTT-3.3.5-2]).
            _log.info("MQTT client {client!r} closed: {code}", client=self._client, code=refusal.code)
            self._close()
        self._gateway.turn.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()
        self.factory.wheel.cancel(self)
        self._outbox.discard()
        self._promises.clear()

    @property
    def _closed(self) -> bool:
        return self._state is State.CLOSED

    @property
    def _client(self) -> str:
        return "" if self._connect is None else self._connect.client_id

    def _refuse(self, violation: ProtocolViolation) -> None:
        _log.info("MQTT client {client!r} closed: {violation}", client=self._client, violation=violation)
        if isinstance(violation, packets.UnacceptableProtocolLevel):
            self._outbox.write(packets.connack(False, ReturnCode.UNACCEPTABLE_PROTOCOL_LEVEL))
        self._close()

    def _close(self) -> None:
        """Stop taking part now; the transport closes when what was written is sent, or not read in time."""
        if self._closed:
            return
        self._leave()
        self.factory.wheel.set(self, CLOSE_SECONDS)
        self._outbox.close(self.transport.loseConnection)

    def _leave(self) -> None:
        """Take this connection out of everything it is part of; the will goes out ([MQTT-3.1.2-8])."""
        if self._closed:
            return
        connected = self._state is State.CONNECTED
        self._state = State.CLOSED
        self.factory.wheel.cancel(self)
        if connected:
            self._gateway.leave(self)
            self._gateway.connections.remove(self)
            self._gateway.cancel_when_drained(self._update_reading)
            self.factory.gone(self)
            self._publish_will()

    def _publish_will(self) -> None:
        if self._will is None:
            return
        (route, payload, qos), self._will = self._will, None
        if qos:
            # As a run, like the messages before it: a message by itself could overtake them.
            stored = self._gateway.publish_run(Run(route.topic, [payload], qos=qos, ttl=route.age))
            stored.addErrback(lambda failure: _log.warn("a will was lost: {reason}", reason=failure.getErrorMessage()))
        else:
            self._gateway.publish_unacknowledged(route, Run(route.topic, [payload], ttl=route.age))
            self._gateway.turn.flush()

    def due(self) -> None:
        """Close if the time to connect, to be silent, to close, or of the token is over; called by the wheel."""
        now = self.factory.clock.seconds()
        if not self._reading:
            self._heard = now  # it is us who do not listen
        if self._closed:
            self.transport.abortConnection()
        elif self._state is State.CONNECTING:
            _log.info("an MQTT client did not send CONNECT in time")
            self.transport.abortConnection()
        elif now >= self._expires:
            _log.info("MQTT client {client!r} closed: its token expired", client=self._client)
            self._close()
        elif self._silence and now - self._heard >= self._silence:
            _log.info("MQTT client {client!r} closed: silent beyond its keep alive", client=self._client)
            self.transport.abortConnection()
        else:
            self._await_due(now)

    def _await_due(self, now: float) -> None:
        delay = self._expires - now
        if self._silence:
            delay = min(delay, self._heard + self._silence - now)
        self.factory.wheel.set(self, delay)

    def end(self, reason: Refused | None) -> None:
        if reason is None:
            self._will = None  # the gateway's going is not the client's death: it will be back
        if reason is None and self._promises:
            # Going away: read no more, but finish the acknowledgements under way.
            self._draining = True
            self._update_reading()
        else:
            self._close()

    # -- CONNECT

    def _connected(self, packet: Connect) -> None:
        factory, gateway = self.factory, self._gateway
        client_id = packet.client_id
        if not client_id:
            if not packet.clean_session:
                self._outbox.write(packets.connack(False, ReturnCode.IDENTIFIER_REJECTED))  # [MQTT-3.1.3-8]
                self._close()
                return
            client_id = uuid4().hex  # [MQTT-3.1.3-6]
        try:
            principal = factory.authenticate(packet)
            gateway.connections.add(self, principal)
        except Refused as refusal:
            _log.info("MQTT CONNECT refused: {code}", code=refusal.code)
            self._outbox.write(packets.connack(False, return_code(refusal)))
            self._close()
            return
        self._principal = principal
        self._connect = packet
        self._state = State.CONNECTED
        if packet.will is not None:
            try:
                route = gateway.route(principal, packet.will.topic)
                gateway.check_size(len(packet.will.payload))
            except InvalidTopic as refusal:
                raise ProtocolViolation(f"the will: {refusal.detail}") from None
            except Refused as refusal:
                _log.info("MQTT CONNECT refused for its will: {code}", code=refusal.code)
                self._outbox.write(packets.connack(False, ReturnCode.NOT_AUTHORIZED))
                self._close()
                return
            self._will = (route, packet.will.payload, packet.will.qos)
        limits = gateway.limits
        self._session = Session(limits.inflight_messages, limits.queued_messages, 16 * limits.subscriber_buffer_bytes)
        factory.came(self, principal.home, client_id)
        self._silence = packet.keep_alive * _KEEP_ALIVE_GRACE
        now = factory.clock.seconds()
        self._expires = now + principal.expires_at - factory.now()
        self._await_due(now)
        self._send(packets.connack(False, ReturnCode.ACCEPTED))

    # -- PUBLISH

    def _publish(self, packet: Publish) -> None:
        route = self._routes.get(packet.topic)
        if route is None:
            route = self._find_route(packet.topic)
        gateway = self._gateway
        if packet.largest > gateway.limits.message_bytes:
            gateway.check_size(packet.largest)
        self.factory.received.value += packet.count
        qos = packet.qos
        if not qos:
            run = Run(route.topic, count=packet.count, split=packet.payloads, ttl=route.age)
            if not packet.retain:
                # What came in is, byte for byte, what goes out to clients that use the same form of the name.
                run.preset(_FORMS[route.full], packet.body)
            gateway.publish_unacknowledged(route, run)
        elif qos == 1:
            run = Run(route.topic, count=packet.count, split=packet.payloads, qos=1, ttl=route.age)
            self._promise(gateway.publish_run(run), packets.acks(Type.PUBACK, packet.packet_ids), packet.count)
        else:
            self._publish_once(route, packet)
        if (qos or route.history) and gateway.congested:
            self._update_reading()

    def _publish_once(self, route: Route, packet: Publish) -> None:
        """QoS 2: store what is new before the client is told to release it (section 4.3.3, method A)."""
        assert self._session is not None
        fresh = self._session.begin(packet.packet_ids)
        payloads = [payload for payload, new in zip(packet.payloads(), fresh, strict=True) if new]
        # A repeated packet is answered behind the promises before it: its first copy may still be on its way.
        stored = (
            self._gateway.publish_run(Run(route.topic, payloads, qos=2, ttl=route.age)) if payloads else succeed(None)
        )
        self._promise(stored, packets.acks(Type.PUBREC, packet.packet_ids), packet.count)

    def _find_route(self, raw: bytes) -> Route:
        assert self._principal is not None
        name = packets.text(raw)
        try:
            route = self._gateway.route(self._principal, name)
        except InvalidTopic as refusal:
            raise ProtocolViolation(refusal.detail) from None  # [MQTT-3.3.2-2], [MQTT-4.7.3-1]
        if len(self._routes) >= _CACHED_ROUTES:
            self._routes.clear()
        self._routes[raw] = route
        return route

    def _promise(self, stored: Deferred[None], reply: bytes, count: int) -> None:
        promise = _Promise(reply, count)
        self._promises.append(promise)
        self._owed += count
        stored.addCallbacks(self._keep, self._break, callbackArgs=(promise,))
        if self._owed > self._gateway.limits.unacknowledged_messages:
            self._update_reading()

    def _keep(self, _: None, promise: _Promise) -> None:
        promise.kept = True
        promises = self._promises
        while promises and promises[0].kept:  # [MQTT-4.6.0-2], [-3]: in the order of the PUBLISH packets
            first = promises.popleft()
            self._owed -= first.count
            self._send(first.reply)
        if not self._reading:
            self._update_reading()
        if self._draining and not promises:
            self._close()

    def _break(self, failure: Failure) -> None:
        reason = failure.value
        if not isinstance(reason, Refused):
            _log.failure("an MQTT packet could not be carried out", failure)
            reason = Internal()
        if not self._closed:
            _log.info("MQTT client {client!r} closed: {code}", client=self._client, code=reason.code)
            self._close()  # 3.1.1 has no other way to say no; the client sends again when it is back

    def _update_reading(self) -> None:
        """Read on, or no further: a publisher is slowed down by what is not stored yet."""
        if self._closed:
            return
        gateway = self._gateway
        limit = gateway.limits.unacknowledged_messages
        full = self._owed > (limit if self._reading else limit // 2)
        read = not (full or gateway.congested or self._draining)
        if gateway.congested:
            gateway.when_drained(self._update_reading)
        if read != self._reading:
            self._reading = read
            (self.transport.resumeProducing if read else self.transport.pauseProducing)()

    # -- SUBSCRIBE, UNSUBSCRIBE and the small ones

    def _subscribe(self, packet: Subscribe) -> None:
        codes: list[int] = []
        waiting: list[Deferred[None]] = []
        refused = ""
        for name, qos in packet.filters:
            try:
                waiting.append(self._subscribe_one(name, qos))
                codes.append(qos)
            except InvalidTopic as refusal:
                raise ProtocolViolation(refusal.detail) from None  # [MQTT-4.7.1-2], [-3], [MQTT-4.7.3-1]
            except Refused as refusal:
                refused = refusal.code
                codes.append(packets.FAILURE)
        if refused:
            count = codes.count(packets.FAILURE)
            _log.info(
                "MQTT client {client!r}: {count} filters refused: {code}",
                client=self._client,
                count=count,
                code=refused,
            )
        reply = packets.suback(packet.packet_id, codes)
        ready = [one for one in waiting if not one.called]
        if not ready:
            self._send(reply)
            return
        left = len(ready)

        def attached(_: None) -> None:
            nonlocal left
            left -= 1
            if not left and self._state is State.CONNECTED:
                self._send(reply)
                self._gateway.turn.flush()

        for one in ready:
            one.addCallbacks(attached, self._break)

    def _subscribe_one(self, name: str, qos: int) -> Deferred[None]:
        assert self._principal is not None
        if name.startswith("$share/"):
            raise InvalidParameter("shared subscriptions are not supported")
        interest = self._gateway.interest(self._principal, name)
        if name not in self._interests and len(self._interests) >= self._gateway.limits.subscriptions:
            raise InvalidParameter("too many subscriptions")
        self._interests[name] = interest
        return self._gateway.subscribe(self, interest, qos)

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        for name in packet.filters:
            if not name:
                raise ProtocolViolation("UNSUBSCRIBE with an empty filter")  # [MQTT-4.7.3-1]
            interest = self._interests.pop(name, None)
            if interest is not None:
                self._gateway.unsubscribe(self, interest)
        self._send(packets.acks(Type.UNSUBACK, (packet.packet_id,)))  # [MQTT-3.10.4-5]: in any case

    def _bare(self, packet: Bare) -> None:
        if packet.type == Type.PINGREQ:
            self._send(packets.PINGRESP)
        else:
            self._will = None  # [MQTT-3.14.4-3]
            self._close()

    # -- deliveries

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        if qos and run.qos:
            self._deliver_acknowledged(run, full, min(qos, run.qos))
        elif self._outbox.write(run.wire(_FORMS[full], _ENCODERS[full])):
            self.factory.sent.value += run.count
        else:
            self._gateway.meter.add("messages_dropped", "mqtt slow", run.count)

    def _deliver_acknowledged(self, run: Run, full: bool, qos: int) -> None:
        assert self._session is not None
        try:
            data = self._session.deliver(run.topic.shown(full), run.payloads, qos, hold=self._outbox.blocked)
        except QueueFull:
            self._cut("it does not acknowledge what it is sent")
            return
        self.factory.sent.value += run.count
        if data:
            self._send(data)

    def _acknowledged(self, packet: Ack) -> None:
        assert self._session is not None
        session = self._session
        reply = session.released(packet) if packet.type == Type.PUBREL else session.acknowledged(packet)
        if reply:
            self._send(reply)
        if session.waiting:
            self._pump()

    def _pump(self) -> None:
        """Send deliveries that waited, now that the client has acknowledged or read some."""
        if self._session is not None and not self._outbox.blocked:
            data = self._session.pump(self._gateway.limits.subscriber_buffer_bytes)
            if data:
                self._send(data)

    def _send(self, data: bytes) -> None:
        """Write what may not be left out."""
        if not self._outbox.write(data):
            self._cut("it does not read what it is sent")

    def _cut(self, why: str) -> None:
        """A client that is too slow is cut off: it costs nobody else anything."""
        if self._closed:
            return
        _log.info("MQTT client {client!r} cut off: {why}", client=self._client, why=why)
        self._gateway.meter.add("clients_cut", "mqtt slow")
        self._leave()
        self.transport.abortConnection()

    _take: dict[type, Callable[..., None]] = {
        Connect: _connected,
        Publish: _publish,
        Ack: _acknowledged,
        Subscribe: _subscribe,
        Unsubscribe: _unsubscribe,
        Bare: _bare,
    }


class MqttFactory(Factory):
    """Makes the MQTT connections of one node.

    :param clock: for keep alive, in the reactor's seconds.
    :param now: seconds since 1970 UTC, as tokens count them.
    """

    noisy = False

    def __init__(
        self, gateway: Gateway, tokens: TokenService, wheel: Wheel, clock: IReactorTime, now: Callable[[], float]
    ) -> None:
        self.gateway = gateway
        self.wheel = wheel
        self.clock = clock
        self.now = now
        self.received = gateway.meter.counter("messages_in", "mqtt")
        self.sent = gateway.meter.counter("messages_out", "mqtt")
        self._tokens = tokens
        self._clients: dict[tuple[Namespace, str], MqttProtocol] = {}
        self._names: dict[MqttProtocol, tuple[Namespace, str]] = {}
        # A PUBLISH with the longest full name, its packet identifier, and a CONNECT with a token and a will.
        self.largest_packet = gateway.limits.message_bytes + MAX_NAME_BYTES + 16 * 1024

    def buildProtocol(self, addr: IAddress | None) -> MqttProtocol:  # type: ignore[override]
        return MqttProtocol(self)

    def authenticate(self, packet: Connect) -> Principal:
        """Find who connects: the user name is ``Bearer``, the password a token.

        :raises Refused: if the token is missing, wrong, expired or revoked.
        """
        if packet.user_name is None or packet.user_name.lower() != "bearer" or packet.password is None:
            raise MissingToken("the user name has to be Bearer, the password a token")
        try:
            token = packet.password.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidToken("a token has ASCII characters only") from None
        return self._tokens.verify(token)

    def came(self, protocol: MqttProtocol, home: Namespace, client_id: str) -> None:
        """Remember a client; one with the same identifier that is here already is closed ([MQTT-3.1.4-2])."""
        key = (home, client_id)
        old = self._clients.get(key)
        if old is not None:
            _log.info("MQTT client {client!r} is taken over by another connection", client=client_id)
            old._close()
        self._clients[key] = protocol
        self._names[protocol] = key

    def gone(self, protocol: MqttProtocol) -> None:
        """Forget a client that has closed."""
        key = self._names.pop(protocol, None)
        if key is not None and self._clients.get(key) is protocol:
            del self._clients[key]
