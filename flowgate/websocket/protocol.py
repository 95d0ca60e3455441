"""WebSocket on a connection: translates between frames and the gateway, and decides nothing itself.

Autobahn speaks RFC 6455: handshake, control frames, fragments, UTF-8.  Around it this module puts three things.  All
bytes leave through one :class:`~flowgate.subscriber.Outbox`, so that control frames and messages keep their order and
share a bound.  The short text frames that a busy client sends are taken from a read without Autobahn, which would
spend ten times as long on them.  And all deadlines are on the gateway's wheel: Autobahn's timers would use the global
reactor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from math import ceil
from random import random
from typing import Any, cast
from uuid import uuid4

import attrs
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.allowances import Allowance, Bill
from flowgate.auth.permissions import Principal
from flowgate.auth.tokens import TokenService
from flowgate.connections import INoticed
from flowgate.errors import (
    BusUnavailable,
    InsufficientScope,
    Internal,
    InvalidJson,
    InvalidParameter,
    InvalidToken,
    MissingToken,
    RateLimited,
    Refused,
)
from flowgate.gateway import Gateway, Interest, Route
from flowgate.interfaces import ISubscriber
from flowgate.limits import TokenBucket
from flowgate.message import Run, Stored
from flowgate.metering import Account
from flowgate.presence import Change, Client, Presence
from flowgate.subscriber import Flusher, Outbox, Sink
from flowgate.timers import Wheel
from flowgate.websocket import deflate, frames, opening
from flowgate.websocket.frames import Auth, Id, Ping, Publish, Subscribe, Unsubscribe, Who
from flowgate.websocket.reading import Reading
from flowgate.websocket.retained import Retained

_log = Logger()

PING_SECONDS = 25
"""A client that was silent for so long is asked whether it is still there."""
PONG_SECONDS = 10
"""How long it may take to answer, with a pong or any other frame."""
WARN_SECONDS = 30
"""How long before its token expires a client is told."""
CLOSE_SECONDS = 5
"""How long the closing handshake may take before the connection is aborted."""
MALFORMED_FRAMES = 10
"""Frames in a row that are not of our protocol, before the connection is closed."""

BURST_SECONDS = 2
"""So many seconds' worth of frames a client may send at once."""
TOO_FAST_SECONDS = 10
"""A client that is over its rate for so long, without a pause of a second, is closed."""
COME_BACK_SECONDS = 5.0
"""When the node goes away its clients are asked to come back within so many seconds, each at its own moment."""

_CACHED_ROUTES = 1000
"""Topics of one connection whose route is remembered."""

_FLUSH_BYTES = 64 * 1024
"""Bytes written outside of a read that are not kept for the reactor's next turn."""

_FORMS = (("websocket", False), ("websocket", True))
"""The names, by ``full``, under which a run keeps its frames."""


def _encode_short(run: Run) -> bytes:
    return frames.encode_run(run, False)


def _encode_full(run: Run) -> bytes:
    return frames.encode_run(run, True)


def _deflate_short(run: Run) -> bytes:
    return frames.encode_run(run, False, deflate.deflated_frame)


def _deflate_full(run: Run) -> bytes:
    return frames.encode_run(run, True, deflate.deflated_frame)


_Encoders = tuple[Callable[[Run], bytes], Callable[[Run], bytes]]

_ENCODERS: _Encoders = (_encode_short, _encode_full)

_DEFLATED_FORMS = (("websocket-deflate", False), ("websocket-deflate", True))
_DEFLATERS: _Encoders = (_deflate_short, _deflate_full)


class _State(Enum):
    HANDSHAKE = "the client has not been accepted yet"
    OPEN = "frames are exchanged"
    CLOSING = "a close frame or a refusal was sent; only the end of the connection is awaited"
    CLOSED = "the connection is gone"


@attrs.frozen(slots=True)
class _Subscription:
    """What a client subscribed to under one name, and the frame that asked for it."""

    interest: Interest
    frame: Subscribe
    reading: Reading | None


def _no_matter(failure: Failure) -> None:
    """The node stops: nobody is to wait any more."""
    failure.trap(BusUnavailable)  # type: ignore[no-untyped-call]


@implementer(ISubscriber, INoticed)
class WebSocketConnection(WebSocketServerProtocol):
    """One WebSocket connection."""

    protocol = "websocket"
    factory: WebSocketFactory
    transport: Any  # TCP, Unix or TLS, as twisted.web had it
    _account: Account  # once the handshake was accepted
    _allowance: Allowance  # likewise
    log = opening.Silent()

    framing: frames.Framing = staticmethod(frames.text_frame)
    """How messages are sent; another one if the client takes compressed ones."""
    _forms = _FORMS
    _encoders = _ENCODERS
    _deflates = False

    def __init__(self, factory: WebSocketFactory) -> None:
        super().__init__()
        self.factory = factory
        self._gateway = factory.gateway
        self._state = _State.HANDSHAKE
        self._principal: Principal | None = None
        self._refusal: Refused | None = None
        self._expires = 0.0
        self._warned = False
        self._heard = 0.0
        self._pinged: float | None = None
        self._malformed = 0
        self._routes: dict[str, Route] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._retained: dict[str, Retained] = {}
        self._client: Client | None = None
        self._present: dict[str, Interest] = {}
        self._bucket: TokenBucket | None = None
        self._too_fast_since = self._too_fast_at = 0.0
        self._route: Route | None = None
        self._payloads: list[bytes] = []
        self._in_read = False
        self._unsent = 0
        self._owed = 0
        self._subscribing: Deferred[Any] | None = None
        self._reading = True
        self._draining = False

    # -- the connection

    def connectionMade(self) -> None:
        limits = self._gateway.limits
        self._outbox = Outbox(
            cast(Sink, self.transport), self._gateway.turn, limits.subscriber_buffer_bytes, self.factory.sent_bytes
        )
        self._outbox.drained = self._caught_up
        self.factory.wheel.set(self, limits.connect_seconds)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        self._heard = self.factory.clock.seconds()
        self.factory.received_bytes.value += len(data)
        self._read(data)

    def _read(self, data: bytes) -> None:
        """Take what the client sent, then send what that led to."""
        self._in_read = True
        if self._bucket is not None:
            self._bucket.refill(self.factory.clock.seconds())
        try:
            self._dataReceived(data)
            self._publish_collected()
        finally:
            self._in_read = False
        if self._gateway.congested:
            self._update_reading()
        self._gateway.turn.flush()

    def consumeData(self) -> None:
        # Autobahn calls this with what was read in ``self.data``.
        while self.state == self.STATE_OPEN and self._state is _State.OPEN:
            if self._subscribing is not None:
                return  # what stands behind a subscription sees it: it is read once the subscription holds
            inside = self.current_frame is not None or self.inside_message
            if (inside or not self._take_short()) and not self.processData() and self.state == self.STATE_OPEN:
                return  # the rest has not come yet
        super().consumeData()

    def _take_short(self) -> bool:
        """Take the short text frames that come next; ``False`` if what comes next is something else."""
        data, start = self.data, 0
        while (found := frames.short_text(data, start) or self._short_deflated(data, start)) is not None:
            text, start = found
            self._take_text(text)
            if self._subscribing is not None or self._state is not _State.OPEN:
                break
        if not start:
            return False
        self.data = data[start:]
        return True

    def _short_deflated(self, data: bytes, start: int) -> tuple[str, int] | None:
        """Take a compressed text frame that is short; whatever is wrong with one is left for Autobahn to find."""
        found = frames.short_frame(data, start, deflate.COMPRESSED_TEXT) if self._deflates else None
        if found is None:
            return None
        try:
            return deflate.inflate(found[0], self.factory.largest).decode(), found[1]
        except (deflate.NotInflated, UnicodeDecodeError):
            return None

    def _not_inflated(self, code: int, reason: str) -> None:
        self.utf8validateIncomingCurrentMessage = False  # it is the end of the message for us
        self._fail_connection(code, reason)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        # Whatever Autobahn sends comes through here.
        if not self._outbox.write(data):
            self._abort()
        elif not self._in_read:
            self._gateway.turn.flush()

    def unregisterProducer(self) -> None:
        # Autobahn wants this before it drops a connection; the outbox knows when.
        pass

    def _closeConnection(self, abort: bool = False) -> None:
        # With a clean closing handshake there is nothing to abort: a reset could overtake our close frame.
        self._leave(_State.CLOSING)
        if abort and not self.wasClean:
            self._abort()
        else:
            self.factory.wheel.set(self, CLOSE_SECONDS)
            self._outbox.close(self.transport.loseConnection)

    def _abort(self) -> None:
        self._leave(_State.CLOSING)
        self._outbox.discard()
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave(_State.CLOSED)
        self.factory.wheel.cancel(self)
        self._outbox.discard()
        super().connectionLost(reason)

    def _leave(self, state: _State) -> None:
        """Take this connection out of everything it is part of."""
        if self._state is _State.CLOSED:
            return
        was_open, self._state = self._state is _State.OPEN, state
        self._gateway.connections.remove(self)
        self._gateway.cancel_when_drained(self._update_reading)
        if was_open:
            self._gateway.leave(self)
            for name in list(self._subscriptions):
                self._end_subscription(name)

    # -- handshake

    def onConnect(self, request: ConnectionRequest) -> None:
        try:
            self.factory.origins.check(request.origin)
            principal = self.factory.authenticate(request)
            self._gateway.connections.add(self, principal)
            self._adopt(principal)
        except Refused as refusal:
            self._refusal = refusal
        except Exception:
            _log.failure("a WebSocket handshake failed")
            self._refusal = Internal()
        if self._refusal is not None and not request.origin:
            # A browser would not show its page a status; it gets an open connection and a close code.
            raise ConnectionDeny(self._refusal.status, self._refusal.detail)  # type: ignore[no-untyped-call]

    def onOpen(self) -> None:
        opening.forget(self)
        if self._refusal is not None:
            _log.info("a WebSocket was closed at once: {code}", code=self._refusal.code)
            self._gateway.meter.add("refusals", ("websocket", self._refusal.code))
            self._close(frames.close_code(self._refusal), self._refusal.code)
            return
        self._state = _State.OPEN
        self._heard = now = self.factory.clock.seconds()
        rate = self._gateway.limits.frames_per_second
        if rate:
            self._bucket = TokenBucket(rate, rate * BURST_SECONDS, now)
        if self._perMessageCompress is not None:
            self._deflates = True
            self._perMessageCompress = deflate.Messages(self.factory.largest, self._not_inflated)
            self.framing = deflate.deflated_frame
            self._forms, self._encoders = _DEFLATED_FORMS, _DEFLATERS
        self._await_due()

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        # Autobahn would log the reason, and that can hold the request, with its token.
        self.sendHttpErrorResponse(code, reason, responseHeaders)
        self.wasNotCleanReason = "the handshake was refused"
        self.dropConnection(abort=False)

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        refusal = self._refusal
        request_id = uuid4().hex
        slug = "invalid_parameter" if refusal is None else refusal.code
        _log.info("a WebSocket handshake was refused: {code} ({request})", code=slug, request=request_id)
        self._gateway.meter.add("refusals", ("websocket", slug))
        self.sendData(opening.refused(code, reason, request_id, refusal, responseHeaders or ()))

    def notice(self, members: dict[str, object]) -> None:
        """See :meth:`INoticed.notice`."""
        if self._state is _State.OPEN:
            self.send(frames.notice(**cast("dict[str, Any]", members)))

    def _adopt(self, principal: Principal) -> None:
        factory = self.factory
        self._principal = principal
        self._account = self._gateway.meter.account(principal.home)
        self._expires = factory.clock.seconds() + principal.expires_at - factory.now()
        self._warned = False
        self._routes.clear()
        self._allowance = self._gateway.allowances.of(principal)
        self._allowance.ready((b"",))  # so that the first message need not wait

    # -- deadlines

    def due(self) -> None:
        """Keep the deadlines of the handshake, the token, the client's answer and the close; called by the wheel."""
        if self._state is not _State.OPEN:
            self._abort()
            return
        now = self.factory.clock.seconds()
        if now >= self._expires:
            self.end(InvalidToken("the token expired"))
            return
        if not self._warned and now >= self._expires - WARN_SECONDS:
            self._warned = True
            self.send(frames.notice("token_expiring", expires_in=int(self._expires - now)))
        if not self._reading:
            self._heard = now  # it is us who do not listen
        if self._pinged is not None and self._heard >= self._pinged:
            self._pinged = None
        if self._pinged is None:
            if now - self._heard >= PING_SECONDS:
                self._pinged = now
                self.sendPing()
        elif now - self._pinged >= PONG_SECONDS:
            self._close(frames.NO_PONG, "no pong")
        if self._state is _State.OPEN:
            self._await_due()
        self._gateway.turn.flush()

    def _await_due(self) -> None:
        life = self._expires if self._warned else self._expires - WARN_SECONDS
        answer = self._heard + PING_SECONDS if self._pinged is None else self._pinged + PONG_SECONDS
        self.factory.wheel.set(self, max(0.0, min(life, answer) - self.factory.clock.seconds()))

    # -- closing

    def end(self, reason: Refused | None) -> None:
        if self._state is not _State.OPEN:
            if self._state is _State.HANDSHAKE:
                self._abort()
            return
        if reason is not None:
            _log.info("a WebSocket was closed: {code}", code=reason.code)
            self.send(frames.notice(reason.code, detail=reason.detail))
            self._close(frames.close_code(reason), reason.code)
        elif not self._draining:
            # Going away: read no more, but finish the acknowledgements under way.
            self._draining = True
            come_back = int(self.factory.draw() * COME_BACK_SECONDS * 1000)
            self.send(frames.notice("going_away", retry_after_ms=come_back))
            self._update_reading()
            self._finish_draining()

    def _finish_draining(self) -> None:
        if self._draining and not self._owed:
            self._close(frames.GOING_AWAY, "going away")

    def _close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode())

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        # Whoever closes, and for whatever reason: from here on nothing but the end is awaited.
        if self.state == self.STATE_OPEN:
            self._leave(_State.CLOSING)
            self.factory.wheel.set(self, CLOSE_SECONDS)
            super().sendCloseFrame(code, reasonUtf8, isReply)
            if not self._reading:
                self._reading = True
                self.transport.resumeProducing()

    def _cut(self) -> None:
        """A client that reads too slowly is cut off: it costs nobody else anything."""
        if self._state is _State.OPEN:
            _log.info("a WebSocket client was cut off: it does not read what it is sent")
            self._gateway.meter.add("clients_cut", ("websocket", "slow"))
            self._close(frames.SLOW, "too slow")

    # -- frames from the client

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        # One piece: Autobahn would keep an object for every fragment, and of empty ones there may be any number.
        self.message_data: list[bytearray] = [bytearray()]  # type: ignore[assignment]
        if isBinary and not self.failedByMe:
            self._fail_connection(frames.TEXT_ONLY, "text frames only")

    def onMessageFrameData(self, payload: bytes) -> None:
        if not self.failedByMe:
            self.message_data[0] += payload

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._take_text(payload)

    def _take_text(self, text: str | bytes) -> None:
        if self._state is not _State.OPEN:
            return
        if self._bucket is not None and not self._bucket.take():
            self._too_fast(text, self._bucket.wait())
            return
        try:
            frame = frames.parse(text)
        except Refused as refusal:
            self._malformed += 1
            self._refuse(refusal)
            if self._malformed > MALFORMED_FRAMES:
                self._close(frames.close_code(InvalidJson()), "too many malformed frames")
            return
        self._malformed = 0
        try:
            if type(frame) is Publish:
                self._publish(frame)
            else:
                self._publish_collected()
                self._take[type(frame)](self, frame)
        except Refused as refusal:
            self._refuse(refusal, frame.id)
        except Exception:
            _log.failure("a WebSocket frame could not be handled")
            self._refuse(Internal(), frame.id)
            self._close(frames.close_code(Internal()), Internal.code)

    def _too_fast(self, text: str | bytes, wait: float) -> None:
        """Refuse a frame beyond the rate; nothing of it is done."""
        self._publish_collected()
        now = self._heard
        if now - self._too_fast_at > 1:
            self._too_fast_since = now
        self._too_fast_at = now
        per_second = self._gateway.limits.frames_per_second
        refusal = RateLimited(f"more than {per_second} frames per second", retry_after=max(1, ceil(wait)))
        try:
            id_ = frames.parse(text).id
        except Refused as malformed:
            id_ = cast("Id | None", malformed.members.get("id"))
        self._refuse(refusal, id_)
        if now - self._too_fast_since >= TOO_FAST_SECONDS:
            _log.info("a WebSocket was closed: {code}", code=refusal.code)
            self._gateway.meter.add("clients_cut", ("websocket", "rate"))
            self._close(frames.close_code(refusal), refusal.code)

    # -- publish

    def _publish(self, frame: Publish) -> None:
        route = self._routes.get(frame.topic)
        if route is None:
            route = self._find_route(frame.topic)
        self._gateway.check_size(len(frame.payload))
        if frame.id is not None or frame.key is not None:
            self._publish_collected()
            self._publish_acknowledged(route, frame)
            return
        if route is not self._route:
            self._publish_collected()
            self._route = route
        self._payloads.append(frame.payload)

    def _find_route(self, name: str) -> Route:
        assert self._principal is not None
        route = self._gateway.route(self._principal, name)
        if len(self._routes) >= _CACHED_ROUTES:
            self._routes.clear()
        self._routes[name] = route
        return route

    def _publish_collected(self) -> None:
        """Publish the consecutive messages on one topic that this read brought so far, as one run."""
        route = self._route
        if route is not None:
            payloads, self._payloads = self._payloads, []
            self._route = None
            allowance = route.allowance
            sizes = list(map(len, payloads))
            largest = max(sizes)
            bill = allowance.take_all(len(payloads), largest, sum(sizes))
            ready = None
            if bill is None and allowance.limited:
                ready = allowance.ready_for(len(payloads), largest, lambda: payloads)
            if ready is None:
                self._publish_run(route, payloads, bill)
            else:
                # What comes behind it waits behind it, and it goes out although the client may have gone by then.
                self._read_on_after(ready.addCallback(lambda _: self._publish_run(route, payloads)))

    def _publish_run(self, route: Route, payloads: list[bytes], bill: Bill | None = None) -> None:
        gateway = self._gateway
        if bill is None:
            bill = gateway.bill(route, len(payloads), max(map(len, payloads)), lambda: payloads)
        if bill.refusal is not None:
            for _ in range(len(payloads) - bill.count):
                self._refuse(bill.refusal)
            del payloads[bill.count :]
            if not payloads:
                return
        self.factory.received.value += len(payloads)
        self._account.received += len(payloads)
        room = gateway.publish_unacknowledged(route, Run(route.topic, payloads, ttl=route.age), bill)
        if room is not None:
            self._read_on_after(room.addErrback(_no_matter))

    def _read_on_after(self, done: Deferred[Any]) -> None:
        """Read no further until then."""
        owed = self._gateway.limits.unacknowledged_messages + 1
        self._owed += owed
        done.addBoth(self._settled, owed)
        done.addErrback(lambda failure: _log.failure("WebSocket frames could not be carried out", failure))
        self._update_reading()

    def _publish_acknowledged(self, route: Route, frame: Publish) -> None:
        self.factory.received.value += 1
        self._account.received += 1
        stored = self._gateway.publish(route, frame.payload, message_id=frame.key)
        self._owed += 1
        stored.addCallbacks(
            self._stored, self._failed, callbackArgs=(frame.topic, frame.id, self._heard), errbackArgs=(frame.id,)
        ).addBoth(self._settled)
        if self._owed > self._gateway.limits.unacknowledged_messages:
            self._update_reading()

    def _stored(self, stored: Stored, topic: str, id_: Id | None, began: float) -> None:
        self.factory.took.observe(self.factory.clock.seconds() - began)
        if id_ is not None:
            cursor = f"{self._gateway.epoch}-{stored.sequence}"
            self.send(frames.ack(id_, topic=topic, cursor=cursor, duplicate=stored.duplicate))

    def _failed(self, failure: Failure, id_: Id | None) -> None:
        reason = failure.value
        if not isinstance(reason, Refused):
            _log.failure("a WebSocket frame could not be carried out", failure)
            reason = Internal()
        self._refuse(reason, id_)

    def _settled(self, result: object, count: int = 1) -> object:
        self._owed -= count
        if not self._reading:
            self._update_reading()
        self._finish_draining()
        return result

    def _update_reading(self) -> None:
        """Read on, or no further: a publisher is slowed down by what is not stored yet."""
        if self._state is not _State.OPEN:
            return
        gateway = self._gateway
        limit = gateway.limits.unacknowledged_messages
        full = self._owed > (limit if self._reading else limit // 2)
        read = not (full or gateway.congested or self._subscribing is not None or self._draining)
        if gateway.congested:
            gateway.when_drained(self._update_reading)
        if read != self._reading:
            self._reading = read
            (self.transport.resumeProducing if read else self.transport.pauseProducing)()

    # -- subscribe, unsubscribe

    def _subscribe(self, frame: Subscribe) -> None:
        assert self._principal is not None
        gateway = self._gateway
        interest = gateway.interest(self._principal, frame.topic)
        old = self._subscriptions.get(frame.topic)
        if old is not None:
            if (old.frame.since, old.frame.meta) == (frame.since, frame.meta):
                if frame.retained:
                    self._want_retained(frame.topic, interest, old.reading)
                self._subscribed(None, frame)
                return
        elif len(self._subscriptions) >= gateway.limits.subscriptions:
            raise InvalidParameter(f"a connection has at most {gateway.limits.subscriptions} subscriptions")
        after = None if frame.since is None else gateway.cursor(frame.since)
        if old is not None:
            self._end_subscription(frame.topic)
        reading = None
        if frame.since is not None or frame.meta:
            reading = Reading(
                self, frame.topic, interest, meta=frame.meta, since=frame.since is not None, hold=frame.retained
            )
        gateway.connections.subscribe(self, len(self._subscriptions) + 1)
        self._subscriptions[frame.topic] = _Subscription(interest, frame, reading)
        if frame.retained:
            self._want_retained(frame.topic, interest, reading)
        if reading is None:
            subscribing: Deferred[Any] = gateway.subscribe(self, interest)
        else:
            subscribing = gateway.follow(reading, reading, interest, after).addCallback(reading.begun)
        self._subscribing = subscribing
        subscribing.addCallbacks(
            self._subscribed, self._unsubscribed, callbackArgs=(frame,), errbackArgs=(frame,)
        ).addBoth(self._go_on)
        if self._subscribing is not None:
            self._update_reading()

    def _want_retained(self, name: str, interest: Interest, reading: Reading | None) -> None:
        """Be ready for what is retained, before anything new comes."""
        old = self._retained.get(name)
        if old is not None:
            old.stop()
        self._retained[name] = retained = Retained(self, name, interest, self._gateway, self.factory.clock, reading)
        if reading is not None:
            reading.retained = retained

    def _subscribed(self, _: object, frame: Subscribe) -> None:
        found = self._subscriptions.get(frame.topic)
        begin = found.reading.meta_cursor if found is not None and found.reading is not None else ""
        place = {"cursor": begin} if begin else {}
        self._acknowledge(frame.id, frame.topic, **place, **self._meet(frame))
        retained = self._retained.get(frame.topic) if frame.retained else None
        if retained is not None:
            retained.start()

    def _meet(self, frame: Subscribe) -> dict[str, object]:
        """Be seen by others, and told of them, or no longer; return what the acknowledgement says of it."""
        name, found = frame.topic, self._subscriptions.get(frame.topic)
        if not frame.presence or found is None:
            self._part(name)
            return {}
        assert self._principal is not None
        presence = self.factory.presence
        if self._client is None:
            self._client = presence.client(self._principal)
        if name in self._present:
            count, _ = presence.who(found.interest)
        else:
            self._present[name] = found.interest
            count = presence.join(self, self._client, name, found.interest)
        return {"client": self._client.id, "count": count}

    def _part(self, name: str) -> None:
        interest = self._present.pop(name, None)
        if interest is not None and self._client is not None:
            ended = None if self._state is _State.OPEN else self._principal
            self.factory.presence.leave(self, self._client, name, interest, ended)

    def present(self, name: str, change: Change) -> None:
        """Somebody has come or gone; called by :class:`~flowgate.presence.Presence`."""

        def encode(change: Change) -> bytes:
            client = None if change.client is None else change.client.shown()
            return frames.presence(name, change.count, change.event, client)

        self.send(change.wire(name, encode))

    def _who(self, frame: Who) -> None:
        assert self._principal is not None
        count, clients = self.factory.presence.who(self._gateway.interest(self._principal, frame.topic))
        self._acknowledge(frame.id, frame.topic, count=count, clients=[client.shown() for client in clients])

    def _unsubscribed(self, failure: Failure, frame: Subscribe) -> None:
        """The bus did not take a subscription."""
        found = self._subscriptions.get(frame.topic)
        if found is not None and found.frame is frame:
            self._end_subscription(frame.topic)
            self._failed(failure, frame.id)
        elif not isinstance(failure.value, Refused):
            _log.failure("a WebSocket subscription failed after it had ended", failure)

    def _go_on(self, result: object) -> object:
        """The subscription holds, or failed: read on with what stands behind it."""
        self._subscribing = None
        if not self._in_read and self._state is _State.OPEN:
            self._update_reading()
            self._read(b"")
        return result

    def _unsubscribe(self, frame: Unsubscribe) -> None:
        self._end_subscription(frame.topic)
        self._acknowledge(frame.id, frame.topic)

    def _end_subscription(self, name: str) -> None:
        found = self._subscriptions.pop(name, None)
        if found is None:
            return
        self._gateway.connections.subscribe(self, len(self._subscriptions))
        self._part(name)
        retained = self._retained.pop(name, None)
        if retained is not None:
            retained.stop()
        if found.reading is None:
            self._gateway.unsubscribe(self, found.interest)
        else:
            found.reading.stop()
            self._gateway.leave(found.reading)

    def lost(self, name: str, reason: Refused) -> None:
        """A subscription came to its end, or may not go on."""
        self._end_subscription(name)
        self.send(frames.error(reason, topic=name))

    # -- the small ones

    def _ping(self, frame: Ping) -> None:
        self.send(frames.pong())
        self._acknowledge(frame.id)

    def _auth(self, frame: Auth) -> None:
        principal = self.factory.verify(frame.token)
        assert self._principal is not None
        if principal.home != self._principal.home:
            raise InsufficientScope("the token is of another user or app than this connection")
        self._gateway.connections.add(self, principal)
        self._adopt(principal)
        self._await_due()
        for name, subscription in list(self._subscriptions.items()):
            try:
                if self._gateway.interest(principal, name) != subscription.interest:
                    raise InsufficientScope("with the new token this name stands for another topic")
            except Refused as refusal:
                self.lost(name, refusal)
        self._acknowledge(frame.id)

    def _acknowledge(self, id_: Id | None, topic: str | None = None, **facts: object) -> None:
        if id_ is not None:
            self.send(frames.ack(id_) if topic is None else frames.ack(id_, topic=topic, **facts))

    _take: dict[type, Callable[..., None]] = {
        Subscribe: _subscribe,
        Unsubscribe: _unsubscribe,
        Ping: _ping,
        Auth: _auth,
        Who: _who,
    }

    # -- to the client

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        if self._state is _State.OPEN:
            if self._outbox.write(run.wire(self._forms[full], self._encoders[full])):
                self.factory.sent.value += run.count
                self._account.sent += run.count
                if run.retain and self._retained:
                    for retained in [one for one in self._retained.values() if one.live_too]:
                        self.superseding(run, retained)
            else:
                self._cut()

    def superseding(self, run: Run, retained: Retained) -> None:
        if not retained.live(run):
            self._cut()

    def send_messages(self, wire: bytes, count: int) -> None:
        """Send messages of history."""
        self.factory.sent.value += count
        self._account.sent += count
        self.send(wire)

    def _refuse(self, refusal: Refused, id_: Id | None = None) -> None:
        """Answer a frame that is refused."""
        self._gateway.meter.add("refusals", ("websocket", refusal.code))
        self.send(frames.error(refusal, id_))

    def send(self, wire: bytes) -> None:
        """Send frames; outside of a read with what else comes until the reactor's next turn."""
        if self._state is not _State.OPEN:
            return
        if not self._outbox.write(wire):
            self._cut()
        elif not self._in_read:
            self._unsent += len(wire)
            if self._unsent >= _FLUSH_BYTES:
                self._unsent = 0
                self._gateway.turn.flush()
            else:
                self.factory.flusher.soon()

    @property
    def behind(self) -> bool:
        return self._outbox.blocked

    @property
    def epoch(self) -> str:
        return self._gateway.epoch

    def _caught_up(self) -> None:
        for subscription in list(self._subscriptions.values()):
            if subscription.reading is not None:
                subscription.reading.resume()
        for retained in list(self._retained.values()):
            retained.resume()


class WebSocketFactory(WebSocketServerFactory):
    """Makes the WebSocket connections of one node.

    :ivar largest: the most bytes of a frame.
    :ivar origins: whose scripts may connect.
    :ivar received: counts the messages that clients published.
    :ivar sent: counts the messages that clients were sent.
    :ivar received_bytes: counts what they sent.
    :ivar sent_bytes: counts what they were sent.
    :ivar took: measures acknowledged publishes.
    :ivar draw: gives a number from 0 to 1.
    """

    noisy = False
    log = opening.Silent()

    def __init__(
        self,
        gateway: Gateway,
        tokens: TokenService,
        presence: Presence,
        wheel: Wheel,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        origins: Iterable[str] = (),
        deflate: bool = False,
        draw: Callable[[], float] = random,
    ) -> None:
        """Make a factory.

        :param clock: for deadlines, in the reactor's seconds.
        :param now: seconds since 1970 UTC, as tokens count them.
        :param origins: of pages whose scripts may connect, as :class:`~flowgate.websocket.opening.Origins` takes them.
        :param deflate: whether compression is taken if a client offers it.
        :param draw: a number from 0 to 1, at random.
        """
        super().__init__(server="", reactor=clock)  # type: ignore[no-untyped-call]
        self.gateway = gateway
        self.wheel = wheel
        self.clock = clock
        self.now = now
        self.presence = presence
        self.origins = opening.Origins(origins)
        self.draw = draw
        self._tokens = tokens
        self.flusher = Flusher(gateway.turn, clock)
        meter = gateway.meter
        self.received = meter.counter("messages_received", "websocket")
        self.sent = meter.counter("messages_sent", "websocket")
        self.received_bytes = meter.counter("received_bytes", "websocket")
        self.sent_bytes = meter.counter("sent_bytes", "websocket")
        self.took = meter.histogram("publish_duration_seconds", "websocket")
        # JSON may need two bytes for one; then there are the names around it.
        self.largest = gateway.limits.message_bytes * 2 + 4096
        self._kind = opening.configured(WebSocketConnection, self, self.largest, deflate)

    def buildProtocol(self, addr: object) -> WebSocketConnection:  # type: ignore[override]
        return self._kind(self)

    def verify(self, token: str) -> Principal:
        """:raises Refused: if the token is wrong, expired or revoked."""
        if not token.isascii():
            raise InvalidToken()
        return self._tokens.verify(token)

    def authenticate(self, request: ConnectionRequest) -> Principal:
        """Find who connects: a token in the ``Authorization`` header, or in the query.

        :raises Refused: if the token is missing, wrong, expired or revoked.
        """
        given = list(request.params.get("token", ()))
        authorization = request.headers.get("authorization")
        if authorization is not None:
            scheme, _, credentials = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise MissingToken("the Authorization header has the form: Bearer <token>")
            given.append(credentials.strip())
        if not given:
            raise MissingToken("give a token as ?token= or as Authorization: Bearer")
        if len(given) > 1:
            raise InvalidParameter("give one token, in the query or in the Authorization header")
        return self.verify(given[0])
