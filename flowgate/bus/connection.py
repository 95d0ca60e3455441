"""One TCP connection to a NATS server: signing in, writing, staying alive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport, ITLSTransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.wire import Decoder, Message
from flowgate.errors import BusUnavailable, ProtocolViolation, StartError

AWAY = "the message bus is away"


@attrs.frozen(slots=True)
class Server:
    """Where a NATS server listens, and how to sign in there."""

    host: str
    port: int
    tls: bool
    credentials: Mapping[str, str] = attrs.field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Server:
        """Read ``nats://`` or ``tls://``, optional ``user:password@`` or ``token@``, host, optional port.

        :raises StartError: if ``url`` is something else; it is not repeated in the text, since it may hold a secret.
        """
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        try:
            port = parts.port or 4222
        except ValueError:
            port = 0
        if parts.scheme not in ("nats", "tls") or not parts.hostname or not port:
            raise StartError("a NATS URL has the form nats://host:port or tls://host:port")
        credentials = {}
        if parts.username is not None and parts.password is not None:
            credentials = {"user": unquote(parts.username), "pass": unquote(parts.password)}
        elif parts.username is not None:
            credentials = {"auth_token": unquote(parts.username)}
        return cls(parts.hostname, port, parts.scheme == "tls", credentials)


class IConnectionOwner(Protocol):
    """What a connection needs of the link that it serves."""

    reactor: Any

    def greeting(self, server: Server) -> bytes:
        """What to say first."""

    def start_tls(self, transport: ITLSTransport, host: str) -> None:
        """Encrypt from here on."""

    def connection_ready(self, connection: Connection) -> None:
        """The server has accepted the greeting."""

    def connection_lost(self, connection: Connection, reason: str) -> None:
        """There is no connection any more."""

    def messages_received(self, messages: list[Message]) -> None:
        """One read brought these."""

    def refused(self, text: str) -> None:
        """The server refuses something."""

    def transport_drained(self) -> None:
        """Everything written is with the operating system."""


@implementer(IPushProducer)
class Connection(TwistedProtocol):
    """One TCP connection of a link."""

    def __init__(self, link: IConnectionOwner, server: Server) -> None:
        self._link = link
        self._server = server
        self._decoder = Decoder()
        self._secured = False
        self._signed_in = False
        self._ready = False
        self._pings_unanswered = 0
        self._fences: list[Deferred[None] | None] = []
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._blocked = False  # the transport still holds bytes of ours
        self._send: Callable[[bytes], int] | None = None
        self.info: dict[str, Any] = {}
        self.refusal = ""

    # -- connection

    def connectionMade(self) -> None:
        transport = ITCPTransport(self.transport)
        transport.setTcpNoDelay(True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        fences, self._fences = self._fences, []
        self._link.connection_lost(self, self.refusal or reason.getErrorMessage())
        for fence in fences:
            if fence is not None:
                fence.errback(BusUnavailable(AWAY))

    def dataReceived(self, data: bytes) -> None:
        try:
            messages, controls = self._decoder.feed(data)
            if messages:
                self._link.messages_received(messages)
            for control in controls:
                self._controlled(control)
        except ProtocolViolation as violation:
            self.refusal = str(violation)
            self.abort()

    def _controlled(self, control: wire.Control) -> None:
        if isinstance(control, wire.Pong):
            self._pings_unanswered = 0
            fence = self._fences.pop(0) if self._fences else None
            if fence is not None:
                fence.callback(None)
        elif isinstance(control, wire.Ping):
            self.write(wire.PONG)
        elif isinstance(control, wire.Info):
            self.info.update(control.members)
            if not self._signed_in:
                self._sign_in()
        elif isinstance(control, wire.ServerError):
            self.refusal = control.text
            self._link.refused(control.text)

    def _sign_in(self) -> None:
        self._signed_in = True
        if self._server.tls or self.info.get("tls_required"):
            self._link.start_tls(ITLSTransport(self.transport), self._server.host)
            self._secured = True
            # Behind TLS, Twisted asks a pull producer again and again: be told of pauses instead.
            IConsumer(self.transport).registerProducer(self, True)
        else:
            handle = getattr(self.transport, "socket", None)
            self._send = getattr(handle, "send", None)
            # As a pull producer we learn of each time when the transport has nothing left.
            IConsumer(self.transport).registerProducer(self, False)
        self.write(self._link.greeting(self._server))
        ready: Deferred[None] = self.fence()
        ready.addCallbacks(lambda _: self._link.connection_ready(self), lambda _: None)

    # -- writing

    @property
    def buffered(self) -> int:
        """Bytes that wait because the transport is not empty."""
        return self._out_bytes

    def write(self, data: bytes) -> None:
        """Send at once, or as soon as the transport has nothing left."""
        if self._blocked:
            self._out.append(data)
            self._out_bytes += len(data)
        else:
            self._transmit(data)

    def _flush(self) -> None:
        if self._out and not self._blocked:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self._transmit(data)

    def _transmit(self, data: bytes) -> None:
        # Straight to the socket, since transport.write waits for the next turn of the reactor and two system calls.
        if self._send is not None:
            try:
                sent = self._send(data)
            except OSError:
                sent = 0  # full, or broken: the transport finds out which
            if sent == len(data):
                return
            data = data[sent:]
            self._blocked = True
        assert self.transport is not None
        self.transport.write(data)

    def pauseProducing(self) -> None:
        self._blocked = True

    def resumeProducing(self) -> None:
        self._blocked = False
        self._flush()
        self._link.transport_drained()

    def stopProducing(self) -> None:
        self._blocked = True

    # -- liveness

    def fence(self) -> Deferred[None]:
        """Ask the server to confirm that it has read everything up to here.

        :raises BusUnavailable: through the Deferred, if the connection is lost first.
        """
        confirmed: Deferred[None] = Deferred()
        self._fences.append(confirmed)
        self.write(wire.PING)
        return confirmed

    def keep_alive(self) -> None:
        """Ask for a sign of life; give up after two questions without an answer."""
        if self._pings_unanswered >= 2:
            self.refusal = "the server does not answer any more"
            self.abort()
            return
        self._pings_unanswered += 1
        self._fences.append(None)
        self.write(wire.PING)

    def close(self) -> None:
        self._flush()
        IConsumer(self.transport).unregisterProducer()
        ITCPTransport(self.transport).loseConnection()

    def abort(self) -> None:
        ITCPTransport(self.transport).abortConnection()
