"""Our own connection to NATS: the way of every topic message.

A link stays the same object while connections come and go under it.  It subscribes anew after each reconnect; what
was under way is reported as lost, because only the caller knows whether it may be repeated.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    ITLSTransport,
)
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.bus import wire
from flowgate.bus.connection import AWAY, Connection, Server
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, ProtocolViolation, StartError

_LOOK_SECONDS = 1.0
_RANDOM = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class NoResponders(BusUnavailable):
    """Nobody listens on the subject of a request: what it names does not exist, or has no leader now."""


class Handler(Protocol):
    """Takes the messages that one read brought for one subscription, or for several that share the handler."""

    def __call__(self, messages: list[Message], /) -> None: ...


class ILinkListener(Protocol):
    """Who is told that connections come and go."""

    def link_up(self) -> None:
        """A connection stands, and every subscription is in force on it."""

    def link_down(self) -> None:
        """The connection is lost; whatever had no answer yet gets none."""


class ILinkOwner(ILinkListener, Protocol):
    """Who is told what becomes of a link."""

    def link_drained(self) -> None:
        """:attr:`Link.congested` went back to false."""

    def link_settled(self) -> None:
        """Everything that one read brought was handed out."""


class _Factory(ClientFactory):
    noisy = False

    def __init__(self, link: Link, server: Server) -> None:
        self._link = link
        self._server = server

    def buildProtocol(self, _address: IAddress | None) -> Connection:
        return self._link.made(Connection(self._link, self._server))

    def clientConnectionFailed(self, _connector: IConnector, reason: Failure) -> None:
        self._link.attempt_failed(reason.getErrorMessage())


class Link:
    """A connection to one of several NATS servers that is made again whenever it is lost.

    :ivar up: whether a connection stands.
    :ivar inbox: the subject prefix of replies, without the dot at its end.
    :ivar connects: how many connections have stood.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        urls: Sequence[str],
        owner: ILinkOwner,
        *,
        name: str = "flowgate",
        tls: IOpenSSLClientConnectionCreator | None = None,
        connect_seconds: float = 5.0,
        ping_seconds: float = 20.0,
        retry_seconds: tuple[float, float] = (0.1, 5.0),
        congested_bytes: int = 8 * 1024 * 1024,
        rng: random.Random | None = None,
    ) -> None:
        """Describe a link; nothing happens before :meth:`start`.

        :param reactor: IReactorTime and IReactorTCP.
        :param urls: as :meth:`Server.parse` reads them; tried in turn.
        :param tls: how to verify the server at ``tls://``, or ``None`` to verify by the system's roots.
        :param retry_seconds: the first and the longest pause between two rounds of attempts.
        :param congested_bytes: from so many waiting bytes on, the link calls itself congested.
        :raises StartError: if a URL cannot be read.
        """
        self.reactor = reactor
        self._servers = [Server.parse(url) for url in urls]
        if not self._servers:
            raise StartError("at least one NATS URL is needed")
        self._owner = owner
        self._listeners: list[ILinkListener] = []
        self._name = name
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._ping_seconds = ping_seconds
        self._retry_least, self._retry_most = retry_seconds
        self._congested_bytes = congested_bytes
        self._congested = False
        self._rng = rng or random.SystemRandom()
        self.nonce = "".join(self._rng.choices(_RANDOM, k=10))
        self.inbox = f"_INBOX.{self.nonce}"
        self.connects = 0
        self._attempts = 0
        self._wanted = False
        self._connector: IConnector | None = None
        self._connection: Connection | None = None
        self._standing: Connection | None = None
        self._retry: IDelayedCall | None = None
        self._pinging: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._subscriptions: dict[bytes, tuple[str, Handler]] = {}
        self._handlers: dict[bytes, Handler] = {b"1": self._replied}
        self._next_sid = 2
        self._inboxes: dict[bytes, Handler] = {}
        self._losers: dict[str, Callable[[], None]] = {}
        self._requests: dict[bytes, tuple[Deferred[Message], float]] = {}
        self._looking: IDelayedCall | None = None
        self._next_token = 0
        self.last_error = ""

    # -- the connection

    @property
    def up(self) -> bool:
        return self._standing is not None

    @property
    def info(self) -> Mapping[str, Any]:
        """The server's INFO; empty while the link is down."""
        return self._standing.info if self._standing is not None else {}

    @property
    def congested(self) -> bool:
        """Whether more than ``congested_bytes`` wait to be sent."""
        if not self._congested and self._standing is not None:
            self._congested = self._standing.buffered > self._congested_bytes
        return self._congested

    def add_listener(self, listener: ILinkListener) -> None:
        """Tell ``listener`` too of connections that come and go, after the owner."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to connect, and go on until :meth:`stop`."""
        self._wanted = True
        self._attempt()

    def stop(self) -> Deferred[None]:
        """Close the connection after everything written was sent.

        :returns: a Deferred of ``None``, fired once nothing is left in the reactor.
        """
        self._wanted = False
        for call in (self._retry, self._pinging, self._looking):
            if call is not None and call.active():
                call.cancel()
        self._retry = self._pinging = self._looking = None
        if self._connector is None:
            return succeed(None)
        if self._stopped is None:
            self._stopped = Deferred()
            if self._standing is not None:
                self._standing.close()
            elif self._connection is not None:
                self._connection.abort()
            else:
                self._connector.stopConnecting()
        return self._stopped

    def _attempt(self) -> None:
        self._retry = None
        server = self._servers[self._attempts % len(self._servers)]
        self._attempts += 1
        self._connector = self.reactor.connectTCP(
            server.host, server.port, _Factory(self, server), timeout=self._connect_seconds
        )
        self._pinging = self.reactor.callLater(self._connect_seconds, self._attempt_timed_out)

    def _attempt_timed_out(self) -> None:
        self._pinging = None
        if self._connection is not None:
            self._connection.refusal = "the server does not complete the handshake"
            self._connection.abort()

    def made(self, connection: Connection) -> Connection:
        self._connection = connection
        return connection

    def start_tls(self, transport: ITLSTransport, host: str) -> None:
        from twisted.internet.ssl import optionsForClientTLS  # needs pyOpenSSL, which plain TCP does without

        transport.startTLS(self._tls or optionsForClientTLS(host))

    def greeting(self, server: Server) -> bytes:
        """CONNECT and every subscription."""
        options: dict[str, object] = {
            "verbose": False,
            "pedantic": False,
            "echo": False,
            "headers": True,
            "no_responders": True,
            "protocol": 1,
            "lang": "python-flowgate",
            "version": "1",
            "name": self._name,
            **server.credentials,
        }
        lines = [wire.connect(options), wire.subscribe(f"{self.inbox}.>", 1)]
        lines += [wire.subscribe(subject, int(sid)) for sid, (subject, _) in self._subscriptions.items()]
        return b"".join(lines)

    def connection_ready(self, connection: Connection) -> None:
        self._standing = connection
        self.connects += 1
        self._attempts = 0
        self._cancel_pinging()
        self._pinging = self.reactor.callLater(self._ping_seconds, self._keep_alive)
        self._owner.link_up()
        for listener in self._listeners:
            listener.link_up()

    def connection_lost(self, connection: Connection, reason: str) -> None:
        self._connection = self._connector = None  # first of all: those told below may stop the link
        self.last_error = reason
        stood = self._standing is connection
        if stood:
            self._standing = None
            self._congested = False
            # Before anybody else: who learns that a request is lost may try something new at once.
            self._owner.link_down()
            for listener in self._listeners:
                listener.link_down()
            # One by one: who learns of one may take back others.
            while self._requests:
                self._requests.pop(next(iter(self._requests)))[0].errback(BusUnavailable(AWAY))
            if self._looking is not None and not self._requests:
                self._looking.cancel()
                self._looking = None
            while self._losers:
                self._losers.pop(next(iter(self._losers)))()
            if self._wanted:
                self._log.warn("the connection to NATS is lost: {reason}", reason=reason)
        self._try_again(at_once=stood)

    def attempt_failed(self, reason: str) -> None:
        self.last_error = reason
        self._try_again(at_once=False)

    def _cancel_pinging(self) -> None:
        if self._pinging is not None and self._pinging.active():
            self._pinging.cancel()
        self._pinging = None

    def _try_again(self, *, at_once: bool) -> None:
        self._connector = None
        self._cancel_pinging()
        stopped, self._stopped = self._stopped, None
        if self._wanted:
            rounds = self._attempts // len(self._servers)
            pause = min(self._retry_most, self._retry_least * 2 ** min(rounds, 16))
            pause *= 0.5 + self._rng.random() / 2  # jitter: nodes that lost one server must not return as one
            if at_once:
                pause = self._retry_least * self._rng.random()
            self._retry = self.reactor.callLater(pause, self._attempt)
        if stopped is not None:
            stopped.callback(None)

    def _keep_alive(self) -> None:
        self._pinging = self.reactor.callLater(self._ping_seconds, self._keep_alive)
        if self._standing is not None:
            self._standing.keep_alive()

    def refused(self, text: str) -> None:
        self.last_error = text
        self._log.warn("NATS refuses: {text}", text=text)

    def transport_drained(self) -> None:
        if self._congested and self._standing is not None and self._standing.buffered <= self._congested_bytes // 2:
            self._congested = False
            self._owner.link_drained()

    # -- messages

    def write(self, data: bytes) -> None:
        """Send protocol bytes.

        :raises BusUnavailable: while the link is down.
        """
        if self._standing is None:
            raise BusUnavailable(AWAY)
        self._standing.write(data)

    def fence(self) -> Deferred[None]:
        """Wait until the server has read everything written so far.

        :raises BusUnavailable: through the Deferred, if the connection is or gets lost.
        """
        if self._standing is None:
            failed: Deferred[None] = Deferred()
            failed.errback(BusUnavailable(AWAY))
            return failed
        return self._standing.fence()

    def subscribe(self, subject: str, handler: Handler) -> bytes:
        """Take the messages on ``subject`` from now on, over every connection to come.

        :returns: what :meth:`unsubscribe` needs.
        """
        sid = self._next_sid
        self._next_sid += 1
        key = b"%d" % sid
        self._subscriptions[key] = (subject, handler)
        self._handlers[key] = handler
        if self._standing is not None:
            self._standing.write(wire.subscribe(subject, sid))
        return key

    def unsubscribe(self, key: bytes) -> None:
        """End a subscription."""
        if self._subscriptions.pop(key, None) is not None:
            del self._handlers[key]
            if self._standing is not None:
                self._standing.write(wire.unsubscribe(int(key)))

    def drain(self, key: bytes) -> None:
        """End a subscription, but hand out what the server has sent before it learns of that."""
        subscription = self._subscriptions.get(key)
        self.unsubscribe(key)
        if subscription is not None and self._standing is not None:
            self._handlers[key] = subscription[1]
            self._standing.fence().addBoth(lambda _: self._handlers.pop(key, None))

    def token(self) -> str:
        """A new name below :attr:`inbox`, unique among all links of all nodes."""
        self._next_token += 1
        return f"{self.nonce}{self._next_token:x}"

    def open_inbox(self, token: str, handler: Handler, lost: Callable[[], None] | None = None) -> None:
        """Have everything that comes to ``<inbox>.<token>`` and below given to ``handler``.

        :param lost: called when the connection is lost, unless the inbox was closed before.
        """
        self._inboxes[token.encode()] = handler
        if lost is not None:
            self._losers[token] = lost

    def close_inbox(self, token: str) -> None:
        self._inboxes.pop(token.encode(), None)
        self._losers.pop(token, None)

    def request(self, subject: str, payload: bytes, *, head: bytes = b"", timeout: float = 5.0) -> Deferred[Message]:
        """Ask, and wait for one answer.

        :param head: a block of headers, or nothing.
        :param timeout: seconds; kept up to one second late.
        :raises NoResponders: through the Deferred, if nobody listens on ``subject``.
        :raises BusUnavailable: through the Deferred, if the link is or gets lost, or there is no answer in time.
        """
        token = self.token()
        key = token.encode()
        answered: Deferred[Message] = Deferred(lambda _: self._forget(key))
        if self._standing is None:
            answered.errback(BusUnavailable(AWAY))
            return answered
        self._requests[key] = answered, self.reactor.seconds() + timeout
        if self._looking is None:
            self._looking = self.reactor.callLater(_LOOK_SECONDS, self._look)
        self._standing.write(wire.publish(subject.encode(), payload, f"{self.inbox}.{token}".encode(), head))
        return answered

    def _forget(self, key: bytes) -> None:
        self._requests.pop(key, None)

    def _look(self) -> None:
        """End the requests that have waited for too long: one timer for all, since each costs as much as a request."""
        self._looking = None
        now = self.reactor.seconds()
        for key in [key for key, (_, deadline) in self._requests.items() if deadline <= now]:
            waiting = self._requests.pop(key, None)
            if waiting is not None:
                waiting[0].errback(BusUnavailable("the message bus does not answer in time"))
        if self._requests and self._looking is None:
            self._looking = self.reactor.callLater(_LOOK_SECONDS, self._look)

    def messages_received(self, messages: list[Message]) -> None:
        """Give what one read brought to the handlers, one call each."""
        handlers = self._handlers
        last, handler, bucket = b"", None, messages
        buckets: dict[Handler, list[Message]] = {}
        for message in messages:
            sid = message[0]
            if sid != last:
                last = sid
                handler = handlers.get(sid)
                if handler is not None:
                    bucket = buckets.setdefault(handler, [])
            if handler is not None:  # else it was unsubscribed a moment ago
                bucket.append(message)
        for handler, bucket in buckets.items():
            self._guarded(handler, bucket)
        self._owner.link_settled()

    def settled(self) -> None:
        """Have sent what came of Deferreds that were fired without the link having brought anything."""
        self._owner.link_settled()

    def _guarded(self, handler: Handler, messages: list[Message]) -> None:
        try:
            handler(messages)
        except ProtocolViolation:
            raise
        except Exception:
            # One room's fault must not take the connection away from all others.
            self._log.failure("a handler of NATS messages failed")

    def _replied(self, messages: list[Message]) -> None:
        """Hand out replies, those of one inbox that follow one another together.

        Not all that one inbox has in the read: the stream acknowledges in the order in which it has stored.
        """
        prefix = len(self.inbox) + 1
        buckets: list[tuple[bytes, list[Message]]] = []
        last: bytes | None = None
        for message in messages:
            token = message[1][prefix:].partition(b".")[0]
            if token != last:
                last = token
                buckets.append((token, []))
            buckets[-1][1].append(message)
        for token, bucket in buckets:
            waiting = self._requests.pop(token, None)
            if waiting is not None:
                if wire.status(bucket[0][3]) == 503:
                    waiting[0].errback(NoResponders("JetStream is not available on the NATS server"))
                else:
                    waiting[0].callback(bucket[0])
                continue
            handler = self._inboxes.get(token)
            if handler is not None:
                self._guarded(handler, bucket)


def decode_json(message: Message) -> dict[str, Any]:
    """The JSON object that an API request was answered with.

    :raises ProtocolViolation: if it is none.
    """
    try:
        members = json.loads(message[4])
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise ProtocolViolation("JetStream answered with something else than a JSON object")
    return members
