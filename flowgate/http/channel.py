"""The connections of HTTP/1.1: requests in, answers out, in their order and in their time.

**One write.**  What is answered while a read is worked on leaves by one write, straight to the socket where that is
possible (:class:`~flowgate.subscriber.Outbox`).

**Pipelining.**  Requests may come before those ahead of them are answered.  One that waits for nothing but the bus (a
*brief* one) is begun beside others like it, in order, because the bus keeps the order of the calls; any other waits
until the ones ahead of it are answered, since it could find what they have not done yet.  Answers go out in order.
While nothing can be begun, a little more is read, so that the end of the connection is noticed, and then no more.

**Times.**  The head and the body of a request have to be whole in time, however often a byte of them comes, so that a
client that sends a byte now and then holds nothing for long.  While a request is answered nothing is demanded of the
client.  All deadlines are on the gateway's wheel, and are moved there only when they are looked at.

**The other end.**  A client that ends its side of the connection gets the answers to its brief requests; of any other
request nobody can know whether somebody still waits, and what is taken from a queue for nobody is missed by others,
so these are cancelled.
"""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPullProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.errors import Refused
from flowgate.http.request import Request
from flowgate.http.wire import BodyTooLarge, Head, Reader
from flowgate.subscriber import Flushable, Outbox, Sink, Turn

if TYPE_CHECKING:
    from flowgate.http.site import FlowGateSite

BODY_BYTES = 8 * 1024 * 1024
"""Largest body of a request: beyond, 413 is answered before it is read."""

BODY_RATE = 64 * 1024
"""Bytes a second at which a body has to come at least."""

IDLE_SECONDS = 60
"""How long a connection is kept open between two requests."""

CLOSING_SECONDS = 15
"""How long a client may take to read the last of what was sent."""

LINGERING_SECONDS = 2
"""How long what a client still sends is thrown away after it was refused."""

PIPELINED = 32
"""Requests of one connection that are under way at once."""

READ_AHEAD_BYTES = 16 * 1024
"""Bytes that are read, but not looked at, while nothing can be begun."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_UNREADABLE = Head(b"POST / HTTP/1.1\r\nHost: unknown\r\nConnection: close\r\n\r\n")


class _Phase(Enum):
    HEAD = "a request has begun, or the first one is awaited"
    BODY = "its body is awaited"
    CALL = "requests are answered"
    IDLE = "nothing happens between two requests"


class _NoTurn(Turn):
    """The channel sends by itself what it has written."""

    def add(self, item: Flushable) -> None:
        pass


_NO_TURN = _NoTurn()


class _Output(Outbox):
    """Where the answers of one connection go.

    It has no bound of its own: nothing more is begun while the client does not read, and streams have theirs.
    """

    __slots__ = ("_stalled",)

    def __init__(self, channel: Channel) -> None:
        self._stalled = channel.fallen_behind
        super().__init__(cast(Sink, channel.transport), _NO_TURN, sys.maxsize, channel.site.requests.sent)
        self.drained = channel.caught_up

    @property
    def direct(self) -> bool:
        """Whether nothing stands between this and a socket."""
        return self._socket is not None

    def pauseProducing(self) -> None:
        # TLS collects small writes for a turn of the reactor, so it may find only later that the peer is slow.
        super().pauseProducing()
        self._stalled()


@implementer(IHalfCloseableProtocol)
class Channel(Protocol):
    """One connection.

    :ivar persistent: whether a further request is taken.
    """

    transport: Any  # TCP, Unix or TLS; ``None`` once a WebSocket has taken it over

    def __init__(self, site: FlowGateSite) -> None:
        self.site = site
        self.persistent = True
        self._reader = Reader(site.heads, site.limits.requests_head_bytes, BODY_BYTES)
        self._calls: list[Request] = []
        self._next: Request | None = None
        self._phase = _Phase.HEAD
        self._deadline: float | None = None
        self._armed: float | None = None  # when the wheel calls, if that is before the deadline
        self._busy = False
        self._paused = False
        self._refused = False
        self._dropping = False
        self._ended = False
        self._closing = False
        self._lingering = False
        self._producer: Any = None

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        self._output = _Output(self)
        self._expect_within(self.site.limits.connect_seconds)

    # -- requests

    def dataReceived(self, data: bytes) -> None:
        self.site.requests.received.value += len(data)
        if not self._closing:
            self._reader.feed(data)
            self._proceed()

    def _proceed(self) -> None:
        """Begin whatever can be begun, and send what was answered."""
        if self._busy or self._closing:
            return
        transport = self.transport
        self._busy = True
        while self.persistent and (self._reader.waiting or self._next is not None) and not self._output.blocked:
            request = self._next or self._read()
            if request is None:
                break
            if not self._brief(request):
                if self._ended:
                    self.persistent = False
                    break
                if self._calls:
                    self._next = request
                    break
            self._next = None
            self._begin(request)
        self._busy = False
        if self.transport is None:
            self._hand_over(transport)
            return
        if self._closing:
            return
        self._output.flush()
        if self._output.blocked:
            self.fallen_behind()
        self._look_ahead()

    def _read(self) -> Request | None:
        """The next request, if it has come, and could be begun."""
        calls = self._calls
        if calls and (len(calls) >= PIPELINED or not self._brief(calls[-1])):
            return None
        try:
            found = self._reader.next()
        except Refused as refusal:
            self._dropping = isinstance(refusal, BodyTooLarge)
            request = Request(self, self._reader.head or _UNREADABLE, b"")
            request.refusal = refusal
            return request
        return None if found is None else Request(self, *found)

    def _brief(self, request: Request) -> bool:
        return (request.method, request.path) in self.site.brief or request.refusal is not None

    def _begin(self, request: Request) -> None:
        self._phase = _Phase.CALL
        self._calls.append(request)
        if request.refusal is not None:
            self._refused = True
            request.close_after()
            request.refuse(request.refusal)
            return
        if request.closes:
            self.persistent = False
        try:
            request.render(self.site.resource)
        except Exception:
            request.processingFailed(Failure())

    def _look_ahead(self) -> None:
        """See to what is awaited now, and how long."""
        reader = self._reader
        if self._calls and not (self._dropping or self._paused or reader.waiting):
            self._deadline = None  # the most frequent case
            return
        if self._dropping:
            self._drop()
        elif self._calls:
            self._deadline = None
        elif not self.persistent:
            self._close()
        elif self._output.blocked:
            self._rest()
        elif self._ended:
            self._close()
        elif reader.head is not None:
            self._await_body(reader.head)
        elif reader.waiting:
            if self._phase is not _Phase.HEAD:
                self._phase = _Phase.HEAD
                self._expect_within(self.site.limits.connect_seconds)
        else:
            self._rest()
        if self._closing:
            return
        stuck = self._calls or self._next is not None or self._output.blocked
        paused = bool(stuck and reader.waiting > READ_AHEAD_BYTES)
        if paused is not self._paused:
            self._paused = paused
            (self.transport.pauseProducing if paused else self.transport.resumeProducing)()

    def _rest(self) -> None:
        if self._phase is _Phase.CALL:
            self._reader.release()
            self._phase = _Phase.IDLE
            self._expect_within(IDLE_SECONDS)

    def _await_body(self, head: Head) -> None:
        if self._phase is _Phase.BODY:
            return
        self._phase = _Phase.BODY
        size = BODY_BYTES if head.length < 0 else head.length
        self._expect_within(self.site.limits.connect_seconds + size // BODY_RATE)
        if head.expects:
            self._output.write(_CONTINUE)
            self._output.flush()

    def _drop(self) -> None:
        """What still comes of a body that is too large is thrown away, so that closing does not destroy the answer."""
        if self._calls:
            self._deadline = None
            return
        try:
            over = self._ended or self._reader.next() is not None
        except Refused:
            over = True
        if over:
            self._close()
        elif self._phase is not _Phase.BODY:
            self._phase = _Phase.BODY
            self._expect_within(self.site.limits.connect_seconds)

    # -- answers

    def send(self, request: Request, data: bytes) -> None:
        """Send a part of the answer to ``request``, or keep it until those ahead of it are answered."""
        if self._calls[0] is not request:
            request.held.append(data)
            return
        self._output.write(data)
        if not self._busy:
            self._output.flush()
            if self._output.blocked:
                self.fallen_behind()

    def finish(self, request: Request, data: bytes) -> None:
        """Send the last part of the answer to ``request``, or keep it, and go on to what comes behind it."""
        calls = self._calls
        if calls[0] is not request:
            request.held.append(data)
        else:
            if data:
                self._output.write(data)
            del calls[0]
            while calls:
                first = calls[0]
                for data in first.held:
                    self._output.write(data)
                first.held.clear()
                if not first.finished:
                    break
                del calls[0]
        self._proceed()

    def flush(self) -> bool:
        """Send what was answered; tell whether all of it has gone."""
        self._output.flush()
        return not self._output.blocked

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have a producer paused while the client does not read."""
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        self._producer = producer if streaming else _Pulled(producer, self.site.clock)
        if self._output.blocked:
            self._producer.pauseProducing()

    def unregisterProducer(self) -> None:
        producer, self._producer = self._producer, None
        if isinstance(producer, _Pulled):
            producer.end()

    def fallen_behind(self) -> None:
        """The client does not take what is sent."""
        if self._producer is not None:
            self._producer.pauseProducing()

    def caught_up(self) -> None:
        """The client has taken all that was sent."""
        if self._producer is not None:
            self._producer.resumeProducing()
        self._proceed()

    # -- times

    def _expect_within(self, seconds: float) -> None:
        deadline = self.site.clock.seconds() + seconds
        self._deadline = deadline
        if self._armed is None or deadline < self._armed:
            self._armed = deadline
            self.site.wheel.set(self, seconds)

    def due(self) -> None:
        """Called by the wheel: look whether what is awaited is late."""
        self._armed = None
        if self._closing:
            self.abort()
        elif self._deadline is not None:
            left = self._deadline - self.site.clock.seconds()
            if left > 0:
                self._expect_within(left)
            elif self._output.blocked:
                self.abort()
            else:
                self._close()

    # -- the end

    def _close(self) -> None:
        self._closing = True
        self.persistent = False
        self.site.wheel.set(self, CLOSING_SECONDS)
        self._output.close(self._leave)

    def _leave(self) -> None:
        if not self._refused or self._ended or not self._output.direct:
            self.transport.loseConnection()
            return
        # Our side only: if something came that nobody reads, closing would destroy the refusal on its way.
        self._lingering = True
        self.site.wheel.set(self, LINGERING_SECONDS)
        self.transport.loseWriteConnection()
        self.transport.resumeProducing()

    def abort(self) -> None:
        """Close the connection without sending what waits to be sent."""
        self._closing = True
        self.persistent = False
        self._output.discard()
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """The client sends no more."""
        self._ended = True
        if self._lingering:
            self.transport.loseConnection()
        if self._closing:
            return
        if self._calls and not self._brief(self._calls[-1]):
            self.persistent = False
            self._gone(Failure(ConnectionDone()))
        self._proceed()

    def writeConnectionLost(self) -> None:
        """Our side is closed, as we wished."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self.persistent = False
        self.site.wheel.cancel(self)
        self._output.discard()
        self._gone(reason)

    def _gone(self, reason: Failure) -> None:
        producer, calls = self._producer, self._calls
        self._producer = self._next = None
        self._calls = []
        if producer is not None:
            producer.stopProducing()
        for request in calls:
            request.connectionLost(reason)

    def _hand_over(self, transport: Any) -> None:
        """A WebSocket has taken the connection over; what came behind its handshake is for it."""
        self._closing = True
        self._calls = []
        self.site.wheel.cancel(self)
        self._output.discard()
        rest = self._reader.rest()
        if rest:
            taker = getattr(transport, "wrappedProtocol", None) or transport.protocol
            taker.dataReceived(rest)

    # -- what requests of twisted.web ask for

    def getPeer(self) -> IAddress:
        peer: IAddress = self.transport.getPeer()
        return peer

    def getHost(self) -> IAddress:
        host: IAddress = self.transport.getHost()
        return host

    def isSecure(self) -> bool:
        return ISSLTransport(self.transport, None) is not None


class _Pulled:
    """A producer that wants to be asked for each piece; it is asked once a turn while the client reads."""

    def __init__(self, producer: IPullProducer, clock: IReactorTime) -> None:
        self._producer = producer
        self._clock = clock
        self._call: IDelayedCall | None = clock.callLater(0, self._pull)

    def _pull(self) -> None:
        self._call = self._clock.callLater(0, self._pull)
        self._producer.resumeProducing()

    def pauseProducing(self) -> None:
        self.end()

    def resumeProducing(self) -> None:
        if self._call is None:
            self._call = self._clock.callLater(0, self._pull)

    def stopProducing(self) -> None:
        self.end()
        self._producer.stopProducing()

    def end(self) -> None:
        """Ask no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
