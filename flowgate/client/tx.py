"""The client for Twisted: ``from flowgate.client.tx import Client``.

Methods that wait give a :class:`~twisted.internet.defer.Deferred`, which a coroutine can ``await``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from random import random
from types import TracebackType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IDelayedCall, IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from flowgate.client.core import Session
from flowgate.client.driver import Driver, Line, Place
from flowgate.client.reading import Reading
from flowgate.client.values import Gap, Published

BUFFER = 1000
"""Messages of one subscription that may wait for their reader."""
CLOSE_SECONDS = 2.0
"""How long connections may take to send what is left when the client is closed."""


class _Connection(Protocol):
    """One connection; it is the line's pipe."""

    transport: Any  # TCP, Unix or TLS

    def __init__(self, client: Client, line: Line) -> None:
        self._client = client
        self._line = line

    def connectionMade(self) -> None:
        self._client.connections.add(self)
        self._line.made(self)

    def dataReceived(self, data: bytes) -> None:
        self._line.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client.connections.discard(self)
        self._line.lost(reason.getErrorMessage())
        self._client.disconnected()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    def pause(self) -> None:
        self.transport.pauseProducing()

    def resume(self) -> None:
        self.transport.resumeProducing()


class Client:
    """A client of one gateway; see :class:`flowgate.client.aio.Client`, which is the same for asyncio."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        token: str | None = None,
        patient: bool = False,
        unacknowledged: int = 1000,
        reactor: Any = None,
        tls: IOpenSSLClientConnectionCreator | None = None,
        endpoint: Callable[[Place], IStreamClientEndpoint] | None = None,
        draw: Callable[[], float] = random,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Be ready; :meth:`start`, or ``async with``, connects.

        :param url: of the gateway, such as ``http://127.0.0.1:8080``.
        :param key: an API key, exchanged for tokens as long as it is good; or else
        :param token: a token, for as long as it is good.
        :param patient: try again as well if there is no gateway at the start.
        :param unacknowledged: messages that may be under way, at least 1.
        :param reactor: the global one, if it is not given.
        :param tls: makes the TLS connections; if ``None``, the platform's authorities are trusted.
        :param endpoint: makes the endpoint to connect to; if ``None``, the host and port of ``url``.
        :param draw: gives a random number from 0 to 1.
        :param entropy: makes so many bytes that nobody can foretell.
        :raises ValueError: if ``url`` is none, there is not just one of ``key`` and ``token``, or ``unacknowledged``
            is below 1.
        """
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self._tls = tls
        self._endpoint = endpoint if endpoint is not None else self._usual_endpoint
        self._timer: IDelayedCall | None = None
        self._closing: list[Deferred[None]] = []
        self.connections: set[_Connection] = set()
        self.session = Session(
            key=key,
            token=token,
            draw=draw,
            name=entropy(12).hex(),
            patient=patient,
            unacknowledged=unacknowledged,
        )
        self.driver = Driver(url, self.session, self, entropy)

    # -- the shell

    def seconds(self) -> float:
        seconds: float = self._reactor.seconds()
        return seconds

    def wake(self, seconds: float | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if seconds is None else self._reactor.callLater(seconds, self.driver.due)

    def dial(self, line: Line) -> Callable[[], None]:
        # Not before the driver knows what gives it up.
        attempt: Deferred[None] = Deferred()
        call = self._reactor.callLater(0, attempt.callback, None)
        attempt.addCallback(
            lambda _: self._endpoint(self.driver.place).connect(Factory.forProtocol(lambda: _Connection(self, line)))
        )

        def failed(failure: Failure) -> None:
            if not isinstance(failure.value, CancelledError | ConnectingCancelledError):
                line.lost(failure.getErrorMessage())

        attempt.addCallbacks(lambda _: None, failed)

        def give_up() -> None:
            if call.active():
                call.cancel()
            attempt.cancel()

        return give_up

    def _usual_endpoint(self, place: Place) -> IStreamClientEndpoint:
        endpoint: Any = HostnameEndpoint(self._reactor, place.host, place.port)
        if place.tls:
            endpoint = wrapClientTLS(self._tls or optionsForClientTLS(place.host), endpoint)
        made: IStreamClientEndpoint = endpoint
        return made

    def disconnected(self) -> None:
        """One of the connections is gone."""
        if not self.connections:
            closing, self._closing = self._closing, []
            for closed in closing:
                closed.callback(None)

    # -- for the caller

    def start(self) -> Deferred[None]:
        """Connect.

        :returns: a Deferred, fired once there is a connection; it fails with
            :class:`~flowgate.client.values.Unreachable` if no gateway answers, with a class of :mod:`flowgate.errors`
            if the gateway refuses, and with :class:`~flowgate.errors.ProtocolViolation` if it is none.
        """
        opened: Deferred[None] = Deferred()
        self.session.when_open(_firing(opened))
        self.driver.start()
        return opened

    def close(self) -> Deferred[None]:
        """End all subscriptions, fail what is under way, and disconnect.

        :returns: a Deferred, fired once no connection is left.
        """
        self.session.end(None)
        self.driver.turn()
        if not self.connections:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closing.append(closed)

        def abort() -> None:
            for connection in list(self.connections):
                connection.abort()

        late = self._reactor.callLater(CLOSE_SECONDS, abort)

        def over(result: None) -> None:
            if late.active():
                late.cancel()

        return closed.addCallback(over)

    async def __aenter__(self) -> Client:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def publish(self, topic: str, value: object, *, key: str | None = None, wait: bool = True) -> Deferred[Published]:
        """Publish a message; it is kept, and sent again on a new connection, until the gateway has stored it.

        :param value: what becomes JSON: texts, numbers, lists, dictionaries …
        :param key: an idempotency key of 1 to 128 printable characters: the same message under it is stored once in 5
            minutes.  Without one a key is made up for this call.
        :param wait: when as much is under way as may be: wait until there is room, or fail with
            :class:`~flowgate.client.values.Full`.
        :returns: a Deferred of :class:`~flowgate.client.values.Published`.  It fails with a class of
            :mod:`flowgate.errors` if the gateway refuses, or with
            :class:`~flowgate.client.values.Unconfirmed` if the answer did not come within 4 minutes.  To cancel it
            does not take the message back.
        """
        return Deferred.fromCoroutine(self._publish(topic, value, key, wait))

    async def _publish(self, topic: str, value: object, key: str | None, wait: bool) -> Published:
        stored: Deferred[Published] = Deferred()
        self.session.publish(topic, value, key, _firing(stored), self.seconds(), wait=wait)
        self.driver.turn()
        return await stored

    def subscribe(
        self,
        filter_: str,
        since: str | None = None,
        *,
        buffer: int = BUFFER,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Subscription:
        """Subscribe; see :meth:`flowgate.client.aio.Client.subscribe`."""
        return Subscription(self.driver, self._pending, filter_, since, buffer, on_gap)

    def _pending(self) -> tuple[Awaitable[None], Callable[[], None]]:
        waiting: Deferred[None] = Deferred()
        return waiting, partial(_firing(waiting), None)


class Subscription(Reading):
    """A subscription; what is read from it and how is told by :class:`~flowgate.client.reading.Reading`."""

    def held(self) -> Deferred[None]:
        """Wait until the gateway has acknowledged the subscription.

        :returns: a Deferred; it fails with a class of :mod:`flowgate.errors` if the gateway refuses.
        """
        return Deferred.fromCoroutine(self._until_held())


def _firing(deferred: Deferred[Any]) -> Callable[[object], None]:
    """What fires a Deferred; one that was cancelled ignores it."""

    def fire(result: object) -> None:
        if isinstance(result, Exception):
            deferred.errback(result)
        else:
            deferred.callback(result)

    return fire
