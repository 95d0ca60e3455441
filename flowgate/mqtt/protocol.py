"""MQTT on a connection: translates between packets and the gateway, and decides nothing itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, cast
from uuid import uuid4

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.allowances import Bill
from flowgate.auth import certificates
from flowgate.auth.permissions import Principal
from flowgate.auth.tokens import TokenService
from flowgate.connections import INoticed
from flowgate.errors import (
    BusUnavailable,
    Internal,
    InvalidToken,
    InvalidTopic,
    MissingToken,
    ProtocolViolation,
    RateLimited,
    Refused,
    TooManyConnections,
)
from flowgate.gateway import Gateway, Route
from flowgate.interfaces import ISubscriber
from flowgate.message import Run
from flowgate.metering import Account
from flowgate.mqtt import packets
from flowgate.mqtt.durable import Durable
from flowgate.mqtt.packets import Ack, Bare, Connect, Packet, Publish, ReturnCode, Subscribe, Type, Unsubscribe, Will
from flowgate.mqtt.record import KeptWill
from flowgate.mqtt.session import Begun, QueueFull, Session, State, check_allowed
from flowgate.mqtt.sessions import Seat, Sessions
from flowgate.mqtt.subscriptions import Subscriptions
from flowgate.subscriber import Outbox, Sink
from flowgate.timers import Wheel
from flowgate.topics import MAX_NAME_BYTES, Namespace, check_topic, resolve

_log = Logger()

_KEEP_ALIVE_GRACE = 1.5
"""A client may be silent for one and a half times its keep alive ([MQTT-3.1.2-24])."""

CLOSE_SECONDS = 5
"""How long a client may take to read the rest of a connection that closes."""

WARN_SECONDS = 30
"""How long before its token expires a client is told, if it listens to its notices."""

_LEAST_PAUSE = 0.001
"""How long a client that is too fast is read no further, at least, in seconds."""

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

_CONNECTED, _PUBREL = State.CONNECTED, Type.PUBREL
"""To look into an enumeration costs as much as to find a route."""

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


def _no_matter(failure: Failure) -> None:
    """Who waited has gone."""
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]


def _first_reason(failure: Failure) -> Failure:
    """Why one of several things failed."""
    return failure.value.subFailure if isinstance(failure.value, FirstError) else failure


class _Promise:
    """Acknowledgements that a client is owed once the bus has kept its part; sent in the order of its packets."""

    __slots__ = ("began", "count", "kept", "reply")

    def __init__(self, reply: bytes, count: int, began: float) -> None:
        self.reply = reply
        self.count = count
        self.began = began
        self.kept = False


@implementer(ISubscriber, INoticed)
class MqttProtocol(Protocol):
    """One MQTT connection."""

    protocol = "mqtt"
    factory: MqttFactory
    transport: Any  # TCP, Unix, TLS or a WebSocket
    _account: Account  # once CONNECT was accepted

    def __init__(self, factory: MqttFactory) -> None:
        self.factory = factory
        self._gateway = factory.gateway
        self._state = State.CONNECTING
        self._decoder = packets.Decoder(factory.largest_packet)
        self._principal: Principal | None = None
        self._client = ""
        self._seat: Seat | None = None
        self._will: KeptWill | None = None
        self._silence = 0.0
        self._heard = 0.0
        self._expires = 0.0
        self._warned = False
        self._routes: dict[bytes, Route] = {}
        self._session: Session | None = None
        self._durable: Durable | None = None
        self._subscriptions: Subscriptions | None = None
        self._promises: deque[_Promise] = deque()
        self._owed = 0
        self._reading = True
        self._draining = False
        self._suspended: Iterator[Packet] | None = None
        self._held: tuple[Publish, float | Deferred[None]] | None = None
        self._paced: IDelayedCall | Deferred[None] | None = None
        self._unread: list[bytes] = []
        self._rooms: list[tuple[Deferred[None], bool]] = []
        self._unkept: set[Bill] = set()  # of QoS 2 publishes that are stored once the session is kept

    # -- the connection

    def connectionMade(self) -> None:
        if not isinstance(self.transport.getHost(), UNIXAddress):
            self.transport.setTcpNoDelay(True)
        limits = self._gateway.limits
        self._outbox = Outbox(
            cast(Sink, self.transport), self._gateway.turn, limits.subscriber_buffer_bytes, self.factory.sent_bytes
        )
        self._outbox.drained = self._drained
        self.factory.wheel.set(self, limits.connect_seconds)

    def dataReceived(self, data: bytes) -> None:
        if self._state is State.CLOSED:
            return  # only the end of the connection is awaited
        self._heard = self.factory.clock.seconds()
        self.factory.received_bytes.value += len(data)
        if self._suspended is None:
            self._take_packets(self._decoder.feed(data))
        else:
            self._unread.append(data)  # no more than was on its way when the transport was paused

    def _take_packets(self, found: Iterator[Packet]) -> None:
        """Do what packets ask for, until there are no more, or the rest has to wait for the session."""
        reading = True
        while reading:
            reading = False
            try:
                for packet in found:
                    kind = type(packet)
                    if kind is not Publish or self._state is not _CONNECTED:
                        check_allowed(self._state, packet)  # PUBLISH while connected, the usual case, always is
                    self._take[kind](self, packet)
                    if self._state is not _CONNECTED or self._held is not None:
                        break
            except ProtocolViolation as violation:
                self._refuse(violation)
            except Refused as refusal:
                reading = self._cannot(refusal)
        if self._state is State.OPENING:
            self._suspended = found
        elif self._held is not None:
            self._hold(found)
        self._gateway.turn.flush()

    def _hold(self, found: Iterator[Packet]) -> None:
        """Leave packets for later, which a rate does not permit now, or whose units are on their way."""
        assert self._held is not None
        packet, wait = self._held
        self._held = None
        self.factory.received.value -= packet.count  # it will be counted when it is taken again
        self._account.received -= packet.count
        if self._closed:
            if isinstance(wait, Deferred):
                wait.addErrback(_no_matter)
                wait.cancel()
        else:
            self._suspended = chain((packet,), found)
            if isinstance(wait, Deferred):
                self._paced = wait
                wait.addCallbacks(lambda _: self._paced_long_enough(), _no_matter).addErrback(self._broken)
            else:
                self._paced = self.factory.clock.callLater(max(wait, _LEAST_PAUSE), self._paced_long_enough)
            self._update_reading()

    def _paced_long_enough(self) -> None:
        self._paced = None
        self._go_on_reading()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()
        self.factory.wheel.cancel(self)
        self._outbox.discard()
        self._promises.clear()
        self._had_room()

    @property
    def _where(self) -> str:
        """Where the client is, for the log while it has no name."""
        host = getattr(self.transport.getPeer(), "host", None)
        return "" if host is None else f" at {host}"

    @property
    def _closed(self) -> bool:
        return self._state is State.CLOSED

    @property
    def taking_part(self) -> bool:
        """Whether the client takes part: CONNECT was accepted, and the end has not come."""
        return self._state is _CONNECTED

    @property
    def principal(self) -> Principal:
        """Who the client is, once CONNECT was accepted."""
        assert self._principal is not None
        return self._principal

    def _refuse(self, violation: ProtocolViolation) -> None:
        self.factory.count_refusal("protocol_violation")
        if self._client:
            _log.info("MQTT client {client!r} closed: {violation}", client=self._client, violation=violation)
        else:
            _log.info("an MQTT client{where} closed: {violation}", where=self._where, violation=violation)
        if isinstance(violation, packets.UnacceptableProtocolLevel) and self._state is State.CONNECTING:
            self._outbox.write(packets.connack(False, ReturnCode.UNACCEPTABLE_PROTOCOL_LEVEL))
        self._close()

    def _cannot(self, refusal: Refused, count: int = 1) -> bool:
        """Answer a PUBLISH that is refused; tell whether the connection goes on.

        3.1.1 has no negative answer ([MQTT-3.3.5-2]): the connection is closed.  Where that would not help, because
        the client can do nothing about it, there is no acknowledgement and a notice: the Billing Guard's refusals.
        """
        if self._closed:
            return False
        self.factory.count_refusal(refusal.code, count)
        if refusal.status == 402:
            self._count_dropped("billing", count)
            self.notice({"code": refusal.code, "detail": refusal.detail, **refusal.members})
            return True
        _log.info("MQTT client {client!r} closed: {code}", client=self._client, code=refusal.code)
        self._close()
        return False

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
        self._state = State.CLOSED
        self._suspended = None
        self._unread.clear()
        if self._paced is not None:
            self._paced.cancel()
            self._paced = None
        while self._unkept:
            self._unkept.pop().drop()  # if somebody else takes the session it is never kept here
        self.factory.wheel.cancel(self)
        if self._principal is not None:
            self._gateway.leave(self)
            self._gateway.connections.remove(self)
            self._gateway.cancel_when_drained(self._update_reading)
        if self._subscriptions is not None:
            self._subscriptions.leave()
        if self._seat is not None:
            will, self._will = self._will, None
            self.factory.sessions.leave(self._seat, will)
            self._gateway.turn.flush()

    def due(self) -> None:
        """Close if the time to connect, to be silent, to close, or of the token is over; called by the wheel."""
        now = self.factory.clock.seconds()
        if not self._reading:
            self._heard = now  # it is us who do not listen
        if self._closed:
            self.transport.abortConnection()
        elif self._state is not _CONNECTED:
            what = "send CONNECT" if self._state is State.CONNECTING else "get its session"
            _log.info("an MQTT client did not {what} in time", what=what)
            self._abort()
        elif now >= self._expires:
            _log.info("MQTT client {client!r} closed: its token expired", client=self._client)
            self._close()
        elif self._silence and now - self._heard >= self._silence:
            _log.info("MQTT client {client!r} closed: silent beyond its keep alive", client=self._client)
            self._abort()
        else:
            if not self._warned and now >= self._expires - WARN_SECONDS:
                self._warned = True
                self.notice({"code": "token_expiring", "seconds": round(self._expires - now)})
                self._gateway.turn.flush()
            self._await_due(now)

    def _abort(self) -> None:
        self._leave()
        self.transport.abortConnection()

    def _await_due(self, now: float) -> None:
        delay = self._expires - now
        if not self._warned:
            delay = max(delay - WARN_SECONDS, 0)
        if self._silence:
            delay = min(delay, self._heard + self._silence - now)
        self.factory.wheel.set(self, delay)

    def end(self, reason: Refused | None) -> None:
        if reason is None and self._promises:
            # Going away: read no more, but finish the acknowledgements under way.
            self._draining = True
            self._update_reading()
        else:
            if reason is not None and not self._closed:
                _log.info("MQTT client {client!r} closed: {code}", client=self._client, code=reason.code)
            self._close()

    # -- CONNECT

    def _connected(self, packet: Connect) -> None:
        factory, gateway = self.factory, self._gateway
        client_id = packet.client_id
        if not client_id:
            if not packet.clean_session:
                _log.info("MQTT CONNECT{where} refused: a session, and no client identifier", where=self._where)
                self._outbox.write(packets.connack(False, ReturnCode.IDENTIFIER_REJECTED))  # [MQTT-3.1.3-8]
                self._close()
                return
            client_id = uuid4().hex  # [MQTT-3.1.3-6]
        self._client = client_id
        try:
            principal = factory.authenticate(packet, self.transport)
            will = None if packet.will is None else self._checked_will(principal, packet.will)
            self._count_in(principal)
        except Refused as refusal:
            self._reject(refusal)
            return
        self._principal = principal
        self._account = gateway.meter.account(principal.home)
        self._silence = packet.keep_alive * _KEEP_ALIVE_GRACE
        self._state = State.OPENING
        named = bool(packet.client_id)
        self._seat, ready = factory.sessions.open(self, principal.home, client_id, packet.clean_session, will, named)
        units = gateway.allowances.of(principal).ready((b"",))
        if units is not None:  # the first message is not to wait for them: a client may send it and go
            ready.addCallback(lambda _: units)
        ready.addCallbacks(self._opened, self._not_opened, callbackArgs=(will,))
        ready.addErrback(self._broken)
        if self._state is State.OPENING:
            self._update_reading()

    def _count_in(self, principal: Principal) -> None:
        """:raises Refused: if there may be no further connection, or no longer one of this principal."""
        connections = self._gateway.connections
        try:
            connections.add(self, principal)
        except TooManyConnections:
            # A client that comes back must not be kept out by its own last connection ([MQTT-3.1.4-2]).
            if not self.factory.sessions.make_room(principal.home, self._client):
                raise
            connections.add(self, principal)

    def _reject(self, refusal: Refused) -> None:
        self.factory.count_refusal(refusal.code)
        _log.info(
            "MQTT CONNECT of client {client!r} refused: {code}: {detail}",
            client=self._client,
            code=refusal.code,
            detail=refusal.detail,
        )
        self._outbox.write(packets.connack(False, return_code(refusal)))
        self._close()

    def _checked_will(self, principal: Principal, will: Will) -> KeptWill:
        """The will as it is to be published.

        :raises ProtocolViolation: if its topic is none ([MQTT-4.7.3-1]).
        :raises Refused: if it may not be published.
        """
        try:
            # Before the grants; and no return code of CONNACK fits ([MQTT-3.2.2-6]).
            check_topic(resolve(will.topic, principal.home, principal.grants.namespaces).rest)
        except InvalidTopic as refusal:
            raise ProtocolViolation(f"the will: {refusal.detail}") from None
        route = self._gateway.route(principal, will.topic)
        self._gateway.check_size(len(will.payload))
        return KeptWill(uuid4().hex, route.topic, will.payload, will.qos, will.retain)

    def _opened(self, _: None, will: KeptWill | None) -> None:
        if self._closed:
            return
        seat = self._seat
        assert seat is not None
        self._will = will
        self._durable = durable = seat.durable
        limits = self._gateway.limits
        if durable is None:
            self._session = Session(limits.inflight_messages, limits.queued_messages, limits.queued_bytes)
        else:
            self._session = durable.session
        self._state = State.CONNECTED
        now = self.factory.clock.seconds()
        self._expires = now + self.principal.expires_at - self.factory.now()
        self._await_due(now)
        self.send(packets.connack(seat.present, ReturnCode.ACCEPTED))
        if durable is not None:
            if durable.subscriptions:
                self._subscribing().restore(durable)
            durable.begin(*seat.begin)
            seat.begin = None, None
        self._go_on_reading()

    def _go_on_reading(self) -> None:
        """Take the packets that came behind CONNECT."""
        found, self._suspended = self._suspended, None
        if found is None:
            return  # it was taken at once: nothing had to wait
        self._take_packets(found)
        unread, self._unread = self._unread, []
        for data in unread:
            self.dataReceived(data)
        self._update_reading()

    def _not_opened(self, failure: Failure) -> None:
        if not self._closed:
            self._reject(self._reason(failure))
            self._gateway.turn.flush()

    def _broken(self, failure: Failure) -> None:
        _log.failure("MQTT client {client!r} closed by a fault of ours", failure, client=self._client)
        self._close()

    # -- IClient: what sessions ask of a connection

    def displaced(self) -> None:
        if not self._closed:
            _log.info("MQTT client {client!r} is taken over by another connection", client=self._client)
            self._close()

    def permits(self, namespace: Namespace, filter_: str) -> bool:
        return self.principal.grants.may_subscribe(namespace, filter_)

    def lost(self, reason: Refused) -> None:
        if not self._closed:
            _log.info("MQTT client {client!r} closed: {code}", client=self._client, code=reason.code)
            self._close()

    def taken(self) -> None:
        if not self._closed:
            _log.info("MQTT client {client!r} closed: another node has its session", client=self._client)
            self._will = None
            self._close()

    def dropped(self, count: int, detail: str) -> None:
        _log.warn(
            "MQTT client {client!r} will not get {count} messages: {detail}",
            client=self._client,
            count=count or "some",
            detail=detail,
        )
        self._count_dropped("session", max(count, 1))
        self.notice({"code": "messages_dropped", "count": count or None, "detail": detail})

    # -- PUBLISH

    def _publish(self, packet: Publish) -> None:
        route = self._routes.get(packet.topic)
        if route is None:
            route = self._find_route(packet.topic)
        gateway = self._gateway
        largest = packet.largest
        if largest > gateway.limits.message_bytes:
            gateway.check_size(largest)
        self.factory.received.value += packet.count
        self._account.received += packet.count
        allowance = route.allowance
        qos = packet.qos
        bill = None if qos == 2 else allowance.take_all(packet.count, largest, packet.size)
        if bill is not None:
            self._publish_run(route, packet, bill)
        else:
            ready = allowance.ready_for(packet.count, largest, packet.payloads) if allowance.limited else None
            if ready is not None:
                self._held = packet, ready
                return
            if qos == 2:
                self._publish_once(route, packet)
            else:
                bill = gateway.bill(route, packet.count, largest, packet.payloads)
                some = packet if bill.refusal is None else self._permitted(route, packet, bill)
                if some is not None:
                    self._publish_run(route, some, bill)
        if (qos or route.history) and gateway.congested:
            self._update_reading()

    def _permitted(self, route: Route, packet: Publish, bill: Bill) -> Publish | None:
        """Do with the packets that there is no leave for what the refusal says; give the others, if there are any."""
        assert bill.refusal is not None
        first, others = (None, packet) if not bill.count else packet.split(bill.count)
        if isinstance(bill.refusal, RateLimited):
            # 3.1.1 has no word for "slower" but to read no further.
            self._held = others, route.allowance.wait()
        elif not self._cannot(bill.refusal, others.count):
            bill.drop()
            return None
        return first

    def _publish_run(self, route: Route, packet: Publish, bill: Bill) -> None:
        gateway = self._gateway
        if not packet.qos:
            run = Run(route.topic, count=packet.count, split=packet.payloads, ttl=route.age, retain=packet.retain)
            if not packet.retain:
                # What came in is, byte for byte, what goes out to clients that use the same form of the name.
                run.preset(_FORMS[route.full], packet.body)
            room = gateway.publish_unacknowledged(route, run, bill)
            if room is not None:
                # Read no further until then.
                self._promise(room.addErrback(lambda _: None), b"", gateway.limits.unacknowledged_messages + 1)
        else:
            run = Run(
                route.topic, count=packet.count, split=packet.payloads, qos=1, ttl=route.age, retain=packet.retain
            )
            self._promise(gateway.publish_run(run, bill), packets.acks(Type.PUBACK, packet.packet_ids), packet.count)

    def _publish_once(self, route: Route, packet: Publish) -> None:
        """QoS 2: store what is new before the client is told to release it (section 4.3.3, method A).

        A repeated packet is answered behind the promises before it: its first copy may still be on its way.
        """
        session, durable = self._session, self._durable
        assert session is not None
        begun = session.begin(packet.packet_ids, 0.0 if durable is None else durable.now())
        told = list(zip(packet.packet_ids, packet.payloads(), begun, strict=True))
        fresh = [(packet_id, payload, one.generation) for packet_id, payload, one in told if one.fresh]
        bill = None
        answered = packet.packet_ids
        if fresh:
            payloads = [payload for _, payload, _ in fresh]
            bill = self._gateway.bill(route, len(fresh), packet.largest, lambda: payloads)
            if bill.refusal is not None:
                refused = [packet_id for packet_id, _, _ in fresh[bill.count :]]
                session.refused(refused, True)
                fresh = fresh[: bill.count]
                if isinstance(bill.refusal, RateLimited):
                    # Together with whatever stands behind the first of them.
                    place = answered.index(refused[0])
                    self._held = packet.split(place)[1] if place else packet, route.allowance.wait()
                    answered, told = answered[:place], told[:place]
                elif not self._cannot(bill.refusal, len(refused)):
                    bill.drop()
                    return
                else:
                    answered = [packet_id for packet_id in answered if packet_id not in set(refused)]
        stored = self._store_once(route, packet, told, fresh, bill)
        self._promise(stored, packets.acks(Type.PUBREC, answered), len(answered))

    def _store_once(
        self,
        route: Route,
        packet: Publish,
        told: Sequence[tuple[int, bytes, Begun]],
        fresh: Sequence[tuple[int, bytes, int]],
        bill: Bill | None,
    ) -> Deferred[None]:
        durable = self._durable
        ids = [packet_id for packet_id, _, _ in fresh]
        run = Run(route.topic, [payload for _, payload, _ in fresh], qos=2, ttl=route.age, retain=packet.retain)
        if durable is None:
            stored = self._gateway.publish_run(run, bill) if fresh else succeed(None)
            return stored.addErrback(self._not_stored, ids)
        waits: list[Deferred[Any]] = []
        if fresh:
            # With ids that are kept first: if this node dies now, the next one knows the message when it comes again.
            run.message_ids = [durable.message_id(generation) for _, _, generation in fresh]
            kept: Deferred[None] = Deferred()
            if bill is not None:
                self._unkept.add(bill)
            durable.persist(lambda: kept.callback(None))
            waits.append(kept.addCallback(self._store_kept, run, bill).addCallbacks(*self._outcome(ids)))
        for packet_id, payload, one in told:
            if one.doubtful:
                again = self._gateway.publish_again(
                    route,
                    payload,
                    message_id=durable.message_id(one.generation),
                    qos=2,
                    retain=packet.retain,
                    late=durable.is_late(one.at),
                )
                waits.append(again.addCallbacks(*self._outcome([packet_id])))
        return gatherResults(waits, consumeErrors=True).addCallbacks(lambda _: None, _first_reason)

    def _store_kept(self, _: None, run: Run, bill: Bill | None) -> Deferred[None]:
        if self._closed:
            raise BusUnavailable  # the client repeats it on its next connection
        if bill is not None:
            self._unkept.remove(bill)
        return self._gateway.publish_run(run, bill)

    def _outcome(self, packet_ids: list[int]) -> tuple[Callable[[Any], None], Callable[[Failure], Failure]]:
        """What to do when QoS 2 publishes of a durable session are stored, and when they are not."""

        def stored(_: Any) -> None:
            self.session.stored(packet_ids)
            if self._durable is not None:
                self._durable.changed()

        return stored, lambda failure: self._not_stored(failure, packet_ids)

    def _not_stored(self, failure: Failure, packet_ids: list[int]) -> Failure:
        certain = isinstance(failure.value, Refused) and failure.value.status < 500
        self.session.refused(packet_ids, certain)
        return failure

    def _find_route(self, raw: bytes) -> Route:
        name = packets.text(raw)
        try:
            route = self._gateway.route(self.principal, name)
        except InvalidTopic as refusal:
            raise ProtocolViolation(refusal.detail) from None  # [MQTT-3.3.2-2], [MQTT-4.7.3-1]
        if len(self._routes) >= _CACHED_ROUTES:
            self._routes.clear()
        self._routes[raw] = route
        return route

    def _promise(self, stored: Deferred[None], reply: bytes, count: int) -> None:
        promise = _Promise(reply, count, self._heard)
        self._promises.append(promise)
        self._owed += count
        stored.addCallbacks(self._keep, self._break, callbackArgs=(promise,), errbackArgs=(promise,))
        self._owe(0)

    def _owe(self, count: int) -> None:
        """Count what the client is to be answered; it is read no further if that is too much."""
        self._owed += count
        if self._owed > self._gateway.limits.unacknowledged_messages:
            self._update_reading()

    def _answered(self, count: int) -> None:
        self._owed -= count
        if not self._reading:
            self._update_reading()

    def _keep(self, _: None, promise: _Promise) -> None:
        promise.kept = True
        promises = self._promises
        while promises and promises[0].kept:  # [MQTT-4.6.0-2], [-3]: in the order of the PUBLISH packets
            first = promises.popleft()
            self._owed -= first.count
            if first.reply:
                self.factory.took.observe(self.factory.clock.seconds() - first.began, first.count)
                self.send(first.reply)
        if not self._reading:
            self._update_reading()
        if self._draining and not promises:
            self._close()

    def _reason(self, failure: Failure) -> Refused:
        if isinstance(failure.value, Refused):
            return failure.value
        _log.failure("an MQTT packet could not be carried out", failure)
        return Internal()

    def _break(self, failure: Failure, promise: _Promise) -> None:
        if self._cannot(self._reason(failure)):
            promise.reply = b""  # no acknowledgement: the client may send it again later
            self._keep(None, promise)

    def _update_reading(self) -> None:
        """Read on, or no further: a publisher is slowed down by what is not stored yet."""
        if self._closed:
            return
        gateway = self._gateway
        limit = gateway.limits.unacknowledged_messages
        full = self._owed > (limit if self._reading else limit // 2)
        waits = self._state is State.OPENING or self._paced is not None
        read = not (full or gateway.congested or self._draining or waits)
        if gateway.congested:
            gateway.when_drained(self._update_reading)
        if read != self._reading:
            self._reading = read
            (self.transport.resumeProducing if read else self.transport.pauseProducing)()

    # -- SUBSCRIBE, UNSUBSCRIBE and the small ones

    def _subscribing(self) -> Subscriptions:
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(self, self._gateway, self.factory.clock, self._client)
        return self._subscriptions

    def _subscribe(self, packet: Subscribe) -> None:
        self._owe(len(packet.filters))
        self._subscribing().subscribe(packet, self._durable, lambda: self._answered(len(packet.filters)))

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        self._owe(len(packet.filters))
        self._subscribing().unsubscribe(packet, self._durable, lambda: self._answered(len(packet.filters)))

    def _bare(self, packet: Bare) -> None:
        if packet.type == Type.PINGREQ:
            self.send(packets.PINGRESP)
        else:
            self._will = None  # [MQTT-3.14.4-3]
            self._close()

    # -- deliveries

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        if run.retain:
            self.live(run)
        if qos and run.qos:
            self._deliver_acknowledged(run, full, min(qos, run.qos))
        else:
            self.write(run.wire(_FORMS[full], _ENCODERS[full]), run.count)

    def _deliver_acknowledged(self, run: Run, full: bool, qos: int) -> None:
        assert self._session is not None
        try:
            data = self._session.deliver(run.topic.shown(full), run.payloads, qos, hold=self._outbox.blocked)
        except QueueFull:
            self._cut("it does not acknowledge what it is sent")
            return
        self.factory.sent.value += run.count
        self._account.sent += run.count
        if data:
            self.send(data)

    def live(self, run: Run) -> None:
        """Messages that are retained too are being delivered as live ones: an older one must not follow."""
        if self._subscriptions is not None and not self._subscriptions.live(run):
            self._cut("it does not read what is retained")

    @property
    def session(self) -> Session:
        """What is in flight, once CONNECT was accepted."""
        assert self._session is not None
        return self._session

    def write(self, data: bytes, count: int) -> bool:
        """Write packets of ``count`` messages that may be left out; tell whether the client is given them."""
        if self._outbox.write(data):
            self.factory.sent.value += count
            self._account.sent += count
            return True
        self._count_dropped("slow", count)
        return False

    def _count_dropped(self, reason: str, count: int) -> None:
        self._gateway.meter.add("messages_dropped", ("mqtt", reason), count)
        self._account.dropped += count

    def _acknowledged(self, packet: Ack) -> None:
        session, durable = self._session, self._durable
        assert session is not None
        reply = session.released(packet) if packet.type == _PUBREL else session.acknowledged(packet)
        if durable is None:
            if reply:
                self.send(reply)
        elif reply:
            durable.acknowledge(reply)
        elif session.touched:
            session.touched = False
            durable.changed()
        if session.waiting:
            self.pump()
        if session.finished and self._subscriptions is not None:
            self._subscriptions.finished(session)
        if durable is not None:
            durable.flow()
        if self._rooms or self._subscriptions is not None:
            self._had_room()

    def pump(self) -> None:
        """Send deliveries that waited, now that the client has acknowledged or read some."""
        session = self._session
        if session is None or self._outbox.blocked or self._closed:
            return
        before = session.waiting
        data = session.pump(self._gateway.limits.subscriber_buffer_bytes)
        if not data:
            return
        self.factory.sent.value += before - session.waiting
        self._account.sent += before - session.waiting
        if self._durable is not None:
            self._durable.send_deliveries(data)
        else:
            self.send(data)

    def _drained(self) -> None:
        self.pump()
        if self._durable is not None:
            self._durable.flow()
        self._had_room()

    def room(self, window: bool) -> Deferred[None]:
        """:returns: a Deferred, fired once the client reads on, with ``window`` also acknowledges, or is gone."""
        if self._has_room(window):
            return succeed(None)
        room: Deferred[None] = Deferred()
        self._rooms.append((room, window))
        return room

    def _has_room(self, window: bool) -> bool:
        return self._closed or not (self._outbox.blocked or (window and self.session.busy))

    def behind(self) -> bool:
        """Whether the client reads or acknowledges too slowly to be given more now."""
        return self._closed or self._outbox.blocked or self.session.full

    def _had_room(self) -> None:
        if self._subscriptions is not None and not self.behind():
            self._subscriptions.resume()
        if self._rooms and self._has_room(False):
            rooms, self._rooms = self._rooms, []
            for room, window in rooms:
                if self._has_room(window):
                    room.callback(None)
                else:
                    self._rooms.append((room, window))

    def send(self, data: bytes) -> None:
        """Write what may not be left out."""
        if not self._outbox.write(data):
            self._cut("it does not read what it is sent")

    def cut_if_overfull(self) -> None:
        """Cut the client off if it has been given more than it may have waiting."""
        if self.session.overfull:
            self._cut("it does not acknowledge what it is sent")

    def notice(self, members: dict[str, object]) -> None:
        """Tell the client something, if it listens to its notices."""
        if self._subscriptions is not None:
            self._subscriptions.notice(self.principal.home, members)

    def _cut(self, why: str) -> None:
        """A client that is too slow is cut off: it costs nobody else anything."""
        if self._closed:
            return
        _log.info("MQTT client {client!r} cut off: {why}", client=self._client, why=why)
        self._gateway.meter.add("clients_cut", ("mqtt", "slow"))
        self._abort()

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
        self,
        gateway: Gateway,
        tokens: TokenService,
        sessions: Sessions,
        wheel: Wheel,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self.gateway = gateway
        self.sessions = sessions
        self.wheel = wheel
        self.clock = clock
        self.now = now
        meter = gateway.meter
        self.received = meter.counter("messages_received", "mqtt")
        self.sent = meter.counter("messages_sent", "mqtt")
        self.received_bytes = meter.counter("received_bytes", "mqtt")
        self.sent_bytes = meter.counter("sent_bytes", "mqtt")
        self.took = meter.histogram("publish_duration_seconds", "mqtt")
        self._tokens = tokens
        # A PUBLISH with the longest full name, its packet identifier, and a CONNECT with a token and a will.
        self.largest_packet = gateway.limits.message_bytes + MAX_NAME_BYTES + 16 * 1024

    def buildProtocol(self, addr: IAddress | None) -> MqttProtocol:  # type: ignore[override]
        return MqttProtocol(self)

    def count_refusal(self, code: str, count: int = 1) -> None:
        self.gateway.meter.add("refusals", ("mqtt", code), count)

    def authenticate(self, packet: Connect, transport: Any) -> Principal:
        """Find who connects: by a token, with the user name ``Bearer``, or by a client certificate.

        With both, the token counts, and has to be one of the API key that the certificate names.

        :raises Refused: if the token is missing, wrong, expired or revoked, or the certificate names no good key.
        """
        certificate = certificates.of_peer(transport)
        if certificate is not None and packet.user_name is None:
            return self._tokens.verify_certificate(certificate)
        if packet.user_name is None or packet.user_name.lower() != "bearer" or packet.password is None:
            raise MissingToken("the user name has to be Bearer, the password a token")
        try:
            token = packet.password.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidToken("a token has ASCII characters only") from None
        principal = self._tokens.verify(token)
        if certificate is not None:
            certificates.check_owner(certificate, principal)
        return principal
