"""MQTT over WebSocket (section 6 of the specification): what stands behind a handshake at ``/mqtt``.

:class:`MqttWebSocket` owns the connection and speaks RFC 6455, by Autobahn.  Behind it is an MQTT connection as on
plain TCP, whose transport is a :class:`Tunnel`.  Bytes go through as a stream: a frame is never put together, what it
brings is passed on as it comes, so the bounds are those of MQTT's packets, whatever frames they come in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast
from uuid import uuid4

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import IAddress, IConsumer, IProtocol, IPushProducer, ITransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from flowgate.errors import OriginNotAllowed, Refused
from flowgate.mqtt.protocol import CLOSE_SECONDS, MqttFactory
from flowgate.subscriber import Outbox, Sink, Turn
from flowgate.websocket import frames, opening

_log = Logger()

SUBPROTOCOLS = ("mqtt", "mqttv3.1")
"""What a client may offer, the best first ([MQTT-6.0.0-3]).  The second is of clients from before 3.1.1, some of which
speak it nevertheless; the others are told so by CONNACK."""

NORMAL = 1000
BINARY_ONLY = 1003


@implementer(ITransport, IConsumer, IPushProducer)
class Tunnel:
    """The transport of an MQTT connection: each piece that is written leaves as one binary frame.

    While the peer does not take what was sent, the producer is paused, as any transport does.
    """

    __slots__ = ("_connection", "_producer")

    def __init__(self, connection: MqttWebSocket) -> None:
        self._connection = connection
        self._producer: IPushProducer | None = None

    def write(self, data: bytes) -> None:
        self._connection.send_binary(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if not streaming:
            raise TypeError("only a push producer can be told that the peer is slow")
        self._producer = producer
        if self._connection.behind:
            self.fallen_behind()

    def unregisterProducer(self) -> None:
        self._producer = None

    def fallen_behind(self) -> None:
        """The peer does not take what is sent."""
        if self._producer is not None:
            self._producer.pauseProducing()

    def caught_up(self) -> None:
        """The peer has taken all that was sent."""
        if self._producer is not None:
            self._producer.resumeProducing()

    def pauseProducing(self) -> None:
        self._connection.read_on(False)

    def resumeProducing(self) -> None:
        self._connection.read_on(True)

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        """Close in order, behind what was written."""
        self._connection.finish()

    def abortConnection(self) -> None:
        self._connection.abort()

    def getHost(self) -> IAddress:
        host: IAddress = self._connection.transport.getHost()
        return host

    def getPeer(self) -> IAddress:
        peer: IAddress = self._connection.transport.getPeer()
        return peer

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._connection.transport.setTcpNoDelay(enabled)


class _Wire(Outbox):
    """The outbox of the connection, which MQTT's own stands before."""

    __slots__ = ("_stalled",)

    def __init__(self, sink: Sink, turn: Turn, bound: int, tunnel: Tunnel) -> None:
        self._stalled = tunnel.fallen_behind
        super().__init__(sink, turn, bound)
        self.drained = tunnel.caught_up

    def pauseProducing(self) -> None:
        # TLS collects small writes for a turn of the reactor, so it may find only later that the peer is slow.
        super().pauseProducing()
        self._stalled()


class MqttWebSocket(WebSocketServerProtocol):
    """One WebSocket connection that carries MQTT."""

    factory: MqttWebSocketFactory
    transport: Any  # TCP, Unix or TLS, as twisted.web had it
    log = opening.Silent()

    def __init__(self, factory: MqttWebSocketFactory) -> None:
        super().__init__()
        self.factory = factory
        self._tunnel = Tunnel(self)
        self._mqtt: IProtocol | None = None
        self._reading = True
        self._refusal: Refused | None = None

    # -- the connection

    def connectionMade(self) -> None:
        factory = self.factory
        self._outbox = _Wire(cast(Sink, self.transport), factory.turn, factory.bound, self._tunnel)
        factory.wheel.set(self, factory.connect_seconds)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        self._dataReceived(data)
        if self.state != self.STATE_OPEN:
            self._leave(connectionDone)

    def consumeData(self) -> None:
        # Autobahn calls this with what was read in ``self.data``.
        while self.state == self.STATE_OPEN:
            inside = self.current_frame is not None or self.inside_message
            if (inside or not self._take_short()) and not self.processData() and self.state == self.STATE_OPEN:
                return  # the rest has not come yet
        super().consumeData()

    def _take_short(self) -> bool:
        """Take the short binary frames that come next; ``False`` if what comes next is something else."""
        data, start = self.data, 0
        payloads: list[bytes] = []
        while (found := frames.short_frame(data, start, frames.BINARY)) is not None:
            payload, start = found
            payloads.append(payload)
        if not start:
            return False
        self.data = data[start:]
        self._take(b"".join(payloads))
        return True

    def _take(self, data: bytes) -> None:
        if data and self._mqtt is not None:
            self._mqtt.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.wheel.cancel(self)
        self._outbox.discard()
        super().connectionLost(reason)
        self._leave(reason)

    def _leave(self, reason: Failure) -> None:
        """Tell MQTT that its connection has ended: nothing comes or goes any more, even if the peer lingers."""
        mqtt, self._mqtt = self._mqtt, None
        if mqtt is not None:
            mqtt.connectionLost(reason)

    def due(self) -> None:
        """The time for the handshake or for the close is over; called by the wheel."""
        self.abort()

    # -- handshake

    def onConnect(self, request: ConnectionRequest) -> str:
        if self.factory.draining():
            raise ConnectionDeny(503, "the gateway is going away")  # type: ignore[no-untyped-call]
        try:
            self.factory.origins.check(request.origin)
        except OriginNotAllowed as refusal:
            self._refusal = refusal
            raise ConnectionDeny(refusal.status, refusal.detail) from None  # type: ignore[no-untyped-call]
        for name in SUBPROTOCOLS:
            if name in request.protocols:
                return name  # [MQTT-6.0.0-4]
        raise ConnectionDeny(400, "the WebSocket subprotocol has to be mqtt")  # type: ignore[no-untyped-call]

    def onOpen(self) -> None:
        opening.forget(self)
        self.factory.wheel.cancel(self)
        self._mqtt = self.factory.mqtt.buildProtocol(self.transport.getPeer())
        self._mqtt.makeConnection(self._tunnel)  # type: ignore[no-untyped-call]

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        # Autobahn would log the reason, and that can hold the request.
        request_id = uuid4().hex
        _log.info("an MQTT handshake over WebSocket was refused: {code} ({request})", code=code, request=request_id)
        self.sendData(opening.refused(code, reason, request_id, self._refusal, responseHeaders or ()))
        self.wasNotCleanReason = "the handshake was refused"
        self.dropConnection(abort=False)

    # -- frames from the client

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        if not isBinary and not self.failedByMe:
            self._fail_connection(BINARY_ONLY, "binary frames only")  # [MQTT-6.0.0-1]

    def onMessageFrameData(self, payload: bytes) -> None:
        # Packets need not keep to frames ([MQTT-6.0.0-2]), so nothing waits here for the end of one.
        if self.state == self.STATE_OPEN:
            self._take(payload)

    # -- to the client

    @property
    def behind(self) -> bool:
        """Whether the peer has not taken yet all that was sent."""
        return self._outbox.blocked

    def send_binary(self, data: bytes) -> None:
        """Send one frame; after the close frame there is nobody to read it."""
        if self.state == self.STATE_OPEN:
            self.sendData(frames.binary_frame(data))

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        # Whatever Autobahn sends comes through here.  While the peer is slow MQTT is paused, so what comes nevertheless
        # are pongs and a close frame; if even they are too many, the peer does not read at all.
        if not self._outbox.write(data):
            self.abort()
            return
        self._outbox.flush()
        if self._outbox.blocked:
            self._tunnel.fallen_behind()

    def read_on(self, read: bool) -> None:
        """Read what the client sends, or let it wait."""
        if read is not self._reading:
            self._reading = read
            (self.transport.resumeProducing if read else self.transport.pauseProducing)()

    # -- closing

    def finish(self) -> None:
        """MQTT has ended the connection, behind all that it has written."""
        self.sendCloseFrame(frames.GOING_AWAY if self.factory.draining() else NORMAL)

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        # Whoever closes, and for whatever reason: from here on nothing but the end is awaited.
        if self.state != self.STATE_OPEN:
            return
        if not isReply and code not in (NORMAL, frames.GOING_AWAY):
            why = (reasonUtf8 or b"").decode()
            _log.info("an MQTT client over WebSocket was closed: {code}, {why}", code=code, why=why)
        self.factory.wheel.set(self, CLOSE_SECONDS)
        super().sendCloseFrame(code, reasonUtf8, isReply)
        self.read_on(True)

    def unregisterProducer(self) -> None:
        # Autobahn wants this before it drops a connection; the outbox knows when.
        pass

    def _closeConnection(self, abort: bool = False) -> None:
        # With a clean closing handshake there is nothing to abort: a reset could overtake our close frame.
        if abort and not self.wasClean:
            self.abort()
        else:
            self.factory.wheel.set(self, CLOSE_SECONDS)
            self._outbox.close(self.transport.loseConnection)

    def abort(self) -> None:
        """Close at once, whatever waits to be sent."""
        self._outbox.discard()
        self.transport.abortConnection()


class MqttWebSocketFactory(WebSocketServerFactory):
    """Makes the MQTT connections over WebSocket of one node.

    :ivar mqtt: makes the MQTT connections behind them.
    :ivar draining: whether this node is going away.
    :ivar origins: whose scripts may connect.
    """

    noisy = False
    log = opening.Silent()

    def __init__(self, mqtt: MqttFactory, draining: Callable[[], bool], origins: Iterable[str] = ()) -> None:
        super().__init__(server="", reactor=mqtt.clock)  # type: ignore[no-untyped-call]
        self.mqtt = mqtt
        self.draining = draining
        self.origins = opening.Origins(origins)
        self.wheel = mqtt.wheel
        self.turn = mqtt.gateway.turn
        self.bound = mqtt.gateway.limits.subscriber_buffer_bytes
        self.connect_seconds = mqtt.gateway.limits.connect_seconds
        self._kind = opening.configured(MqttWebSocket, self, 0)

    def buildProtocol(self, addr: object) -> MqttWebSocket:  # type: ignore[override]
        return self._kind(self)


def make_resource(mqtt: MqttFactory, draining: Callable[[], bool], origins: Iterable[str] = ()) -> IResource:
    """Make the resource that turns a request into an MQTT connection.

    :param draining: whether this node is going away.
    :param origins: of pages whose scripts may connect; none for all.
    """
    factory = MqttWebSocketFactory(mqtt, draining, origins)
    resource: IResource = opening.Resource(factory)  # type: ignore[no-untyped-call]
    return resource
