"""The client for asyncio: ``from flowgate.client import Client``."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from random import random
from types import TracebackType
from typing import Any, cast

from flowgate.client.core import Session
from flowgate.client.driver import Driver, Line
from flowgate.client.reading import Reading
from flowgate.client.values import Gap, Published

BUFFER = 1000
"""Messages of one subscription that may wait for their reader."""
CLOSE_SECONDS = 2.0
"""How long connections may take to send what is left when the client is closed."""


class _Connection(asyncio.Protocol):
    """One connection; it is the line's pipe."""

    def __init__(self, client: Client, line: Line) -> None:
        self._client = client
        self._line = line
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client.connections.add(self)
        self._line.made(self)

    def data_received(self, data: bytes) -> None:
        self._line.received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.connections.discard(self)
        self._line.lost(str(error or "the connection was closed"))
        self._client.disconnected()

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()


class Client:
    """A client of one gateway, on one WebSocket that is made again whenever it is lost.

    To be used in one event loop, as ``async with Client(url, key) as client``.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        token: str | None = None,
        patient: bool = False,
        unacknowledged: int = 1000,
        tls: ssl.SSLContext | None = None,
        draw: Callable[[], float] = random,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Be ready; :meth:`start`, or ``async with``, connects.

        :param url: of the gateway, such as ``http://127.0.0.1:8080``.
        :param key: an API key, exchanged for tokens as long as it is good; or else
        :param token: a token, for as long as it is good.
        :param patient: try again as well if there is no gateway at the start.
        :param unacknowledged: messages that may be under way, at least 1.
        :param tls: for ``https`` URLs; if ``None``, the platform's authorities are trusted.
        :param draw: gives a random number from 0 to 1.
        :param entropy: makes so many bytes that nobody can foretell.
        :raises ValueError: if ``url`` is none, there is not just one of ``key`` and ``token``, or ``unacknowledged``
            is below 1.
        """
        self._tls = tls
        self._timer: asyncio.TimerHandle | None = None
        self._dialling: set[asyncio.Task[None]] = set()
        self._closing: list[asyncio.Future[None]] = []
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

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    # -- the shell

    def seconds(self) -> float:
        return self.loop.time()

    def wake(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.driver.due)

    def dial(self, line: Line) -> Callable[[], None]:
        task = self.loop.create_task(self._connect(line))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

        def give_up() -> None:
            task.cancel()

        return give_up

    async def _connect(self, line: Line) -> None:
        place = self.driver.place
        context = (self._tls or ssl.create_default_context()) if place.tls else None
        try:
            await self.loop.create_connection(lambda: _Connection(self, line), place.host, place.port, ssl=context)
        except (OSError, UnicodeError) as error:  # the second one of a host name that is none
            line.lost(str(error))

    def disconnected(self) -> None:
        """One of the connections is gone."""
        if not self.connections:
            for closed in self._closing:
                if not closed.done():
                    closed.set_result(None)
            self._closing.clear()

    # -- for the caller

    async def start(self) -> None:
        """Connect, and wait until there is a connection.

        :raises Unreachable: if no gateway answers, unless the client is patient.
        :raises Refused: if the gateway refuses: a class of :mod:`flowgate.errors`.
        :raises ProtocolViolation: if what answers is no gateway.
        """
        opened: asyncio.Future[None] = self.loop.create_future()
        self.session.when_open(_setting(opened))
        self.driver.start()
        await opened

    async def close(self) -> None:
        """End all subscriptions, fail what is under way with :class:`~flowgate.client.values.Closed`, disconnect."""
        self.session.end(None)
        self.driver.turn()
        if self.connections:
            closed: asyncio.Future[None] = self.loop.create_future()
            self._closing.append(closed)
            late = self.loop.call_later(CLOSE_SECONDS, self._abort)
            try:
                await closed
            finally:
                late.cancel()

    def _abort(self) -> None:
        for connection in list(self.connections):
            connection.abort()

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

    async def publish(self, topic: str, value: object, *, key: str | None = None, wait: bool = True) -> Published:
        """Publish a message; it is kept, and sent again on a new connection, until the gateway has stored it.

        :param value: what becomes JSON: texts, numbers, lists, dictionaries …
        :param key: an idempotency key of 1 to 128 printable characters: the same message under it is stored once in 5
            minutes.  Without one a key is made up for this call.
        :param wait: when as much is under way as may be: wait until there is room, or raise ``Full``.
        :returns: the gateway's word that it is stored.  To cancel the call does not take the message back.
        :raises Refused: if the gateway refuses: a class of :mod:`flowgate.errors`.
        :raises Unconfirmed: if no answer came within 4 minutes: it may or may not be stored.
        :raises Closed: if the client was closed; also then it may be stored.
        """
        stored: asyncio.Future[Published] = self.loop.create_future()
        self.session.publish(topic, value, key, _setting(stored), self.seconds(), wait=wait)
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
        """Subscribe; nothing that history holds is missed or repeated when the connection is made again.

        :param filter_: a topic, or a pattern with ``+`` and ``#``.
        :param since: the ``id`` of a message, to begin behind it, or ``earliest``; ``None`` for what is new.
        :param buffer: messages that may wait until they are read.  When they are as many, the connection is read no
            further; or, if something else is awaited on it, the subscription is interrupted until half are read.
        :param on_gap: told in between if messages were missed that history does not hold any more.  Without it the
            iterator raises :class:`~flowgate.client.values.Gap` at that place, and can be read on.
        :returns: the messages, to be read by ``async for``, once.
        :raises InvalidTopic: if the filter is none.
        :raises InvalidParameter: if ``since`` is no cursor.
        :raises Conflict: if it has topics in common with another subscription of this client.
        :raises ValueError: if ``buffer`` is below 1.
        """
        return Subscription(self.driver, self._pending, filter_, since, buffer, on_gap)

    def _pending(self) -> tuple[Awaitable[None], Callable[[], None]]:
        waiting: asyncio.Future[None] = self.loop.create_future()
        return waiting, partial(_setting(waiting), None)


class Subscription(Reading):
    """A subscription; what is read from it and how is told by :class:`~flowgate.client.reading.Reading`."""

    async def held(self) -> None:
        """Wait until the gateway has acknowledged the subscription.

        :raises Refused: if the gateway refuses: a class of :mod:`flowgate.errors`.
        """
        await self._until_held()


def _setting(future: asyncio.Future[Any]) -> Callable[[object], None]:
    """What sets a future, unless it was cancelled."""

    def done(result: object) -> None:
        if not future.done():
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    return done
