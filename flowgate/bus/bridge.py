"""The bridge between nats-py, which lives in asyncio, and Twisted: the one place where futures become Deferreds."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import Interface

from flowgate.errors import BusUnavailable, Conflict, Internal, MessageTooLarge, NotFound, Refused

REQUEST_SECONDS: Final = 5.0
"""How long the bus may take to answer."""

_RECONNECT_SECONDS: Final = (0.05, 0.5)
_SEQUENCE_DIFFERS: Final = (10071, 10164)
_OUTAGE: Final = (
    OSError,
    asyncio.TimeoutError,
    nats.errors.TimeoutError,
    nats.errors.StaleConnectionError,
    nats.errors.ConnectionClosedError,
    nats.errors.NoServersError,
)
_AWAY: Final = "the message bus is away"
_T = TypeVar("_T")
_log = Logger()


class NoResponders(BusUnavailable):
    """Nobody listens on the subject of a request: what it names does not exist, or has no leader now."""


class ApiError(Internal):
    """JetStream refuses a request in a way that none of our own errors names.

    :ivar err_code: its number in nats-server's ``errors.json``.
    """

    def __init__(self, err_code: int, description: str) -> None:
        super().__init__(f"JetStream error {err_code}: {description}")
        self.err_code = err_code


def api_error(error: Mapping[str, Any]) -> Refused:
    """What the ``error`` member of a JetStream answer means."""
    err_code, description = int(error.get("err_code") or 0), str(error.get("description") or "")
    code = error.get("code")
    if err_code in _SEQUENCE_DIFFERS:
        return Conflict("the entry was changed by somebody else")
    if code == 404:
        return NotFound(description)
    if code == 503:
        return BusUnavailable()
    if code == 500:
        _log.error("JetStream error {err_code}: {description}", err_code=err_code, description=description)
        return BusUnavailable()
    return ApiError(err_code, description)


def translate(error: BaseException) -> BaseException:
    """Turn an error of nats-py into one of ours; others stay what they are."""
    if isinstance(error, nats.js.errors.KeyWrongLastSequenceError):
        return Conflict("the entry was changed by somebody else")
    if isinstance(error, nats.js.errors.NotFoundError):
        return NotFound(str(error.description or ""))
    if isinstance(error, nats.js.errors.APIError) and error.code is not None:
        return api_error({"code": error.code, "err_code": error.err_code, "description": error.description})
    if isinstance(error, nats.errors.MaxPayloadError):
        return MessageTooLarge()
    if isinstance(error, (nats.errors.Error, asyncio.TimeoutError, OSError)):
        return BusUnavailable()
    return error


def to_deferred(coroutine: Coroutine[Any, Any, _T], unwanted: Callable[[_T], None] | None = None) -> Deferred[_T]:
    """Run an asyncio coroutine on the loop of the running asyncio reactor.

    Cancelling the Deferred cancels the coroutine; errors of nats-py come out as ours.

    :param unwanted: takes the result if the Deferred was cancelled too late to keep the coroutine from finishing.
    :returns: a Deferred of what the coroutine returns.
    """
    task = asyncio.ensure_future(coroutine, loop=asyncio.get_event_loop())

    def cancel(_: Deferred[_T]) -> None:
        task.cancel()

    deferred: Deferred[_T] = Deferred(cancel)

    def done(finished: asyncio.Task[_T]) -> None:
        if finished.cancelled():
            if not deferred.called:
                deferred.errback(CancelledError())
            return
        error = finished.exception()
        if deferred.called:
            if error is None and unwanted is not None:
                unwanted(finished.result())
        elif error is not None:
            deferred.errback(translate(error))
        else:
            deferred.callback(finished.result())

    task.add_done_callback(done)
    return deferred


class IConnectionListener(Interface):
    """Who is told what becomes of a connection."""

    def connected() -> None:
        """The bus is within reach, for the first time or again."""

    def disconnected() -> None:
        """The bus went away."""


class NatsConnection:
    """A connection of nats-py that comes back by itself for as long as it is started.

    While it is away everything fails at once with :class:`BusUnavailable`, also what was under way: a caller is never
    kept waiting for a bus that is not there.
    """

    def __init__(self, urls: Sequence[str], name: str = "flowgate") -> None:
        """Prepare a connection.

        :param urls: ``nats://`` URLs of one or more servers.
        :param name: how the server names us to its operators.
        """
        self._urls = list(urls)
        self._name = name
        self._client: Client | None = None
        self._stopped = True
        self._lost: asyncio.Future[None] | None = None
        self._inbox = ""
        self._tokens = itertools.count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._listeners: list[Any] = []
        self._background: set[asyncio.Task[None]] = set()
        self._connecting: asyncio.Task[Any] | None = None

    @property
    def available(self) -> bool:
        return self._lost is not None

    @property
    def client(self) -> Client:
        """The client of now; another one after the server has sent us away for good.

        :raises BusUnavailable: if the bus is away.
        """
        if self._client is None or self._lost is None:
            raise BusUnavailable()
        return self._client

    def add_listener(self, listener: Any) -> None:
        """Tell an :class:`IConnectionListener` from now on."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Any) -> None:
        self._listeners.remove(listener)

    def start(self) -> Deferred[None]:
        """Connect, trying for as long as it takes.

        :returns: a Deferred of ``None``, fired once the connection stands; cancel it to give up.
        """
        self._stopped = False
        return to_deferred(self._connect())

    async def _connect(self) -> None:
        client = Client()

        async def error(reason: Exception) -> None:
            # That the bus goes and comes is told by who listens; the attempts in between are not worth a line each.
            if not isinstance(reason, _OUTAGE):
                _log.warn("NATS: {reason}", reason=str(reason))

        async def disconnected() -> None:
            if self._client is client:
                self._down()

        async def reconnected() -> None:
            if self._client is client:
                self._up()

        async def closed() -> None:
            # An error such as a failed sign-in ends a client of nats-py for good.
            if self._client is client and not self._stopped:
                self._client = None
                self.in_background(self._connect_later())

        self._connecting = asyncio.current_task()
        try:
            await client.connect(
                self._urls,
                name=self._name,
                error_cb=error,
                disconnected_cb=disconnected,
                reconnected_cb=reconnected,
                closed_cb=closed,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                reconnect_to_server_handler=self._choose,
                ping_interval=20,
            )
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._answered)
        except asyncio.CancelledError:
            await client.close()
            raise
        finally:
            self._connecting = None
        if self._stopped:
            await client.close()
            return
        self._client = client
        self._up()

    async def _connect_later(self) -> None:
        await asyncio.sleep(random.uniform(0.5, 1.5))
        await self._connect()

    @staticmethod
    def _choose(servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
        # Without jitter all nodes would come back to a restarted server in the same instant.
        server = random.choice(servers)
        first, longest = _RECONNECT_SECONDS
        return server, random.uniform(0.5, 1.0) * min(longest, first * 2 ** min(server.reconnects, 8))

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` without waiting for it; its errors are logged, but for those of an outage."""
        task = asyncio.ensure_future(work)
        self._background.add(task)

        def done(finished: asyncio.Task[None]) -> None:
            self._background.discard(finished)
            error = None if finished.cancelled() else finished.exception()
            if error is not None and not isinstance(translate(error), BusUnavailable):
                _log.error("NATS: {reason!r}", reason=error)

        task.add_done_callback(done)

    def _up(self) -> None:
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
            for listener in list(self._listeners):
                listener.connected()

    def _down(self) -> None:
        if self._lost is None:
            return
        self._lost.set_result(None)
        self._lost = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(BusUnavailable(_AWAY))
        for listener in list(self._listeners):
            listener.disconnected()

    def stop(self) -> Deferred[None]:
        """Close the connection.

        :returns: a Deferred of ``None``; a second call does nothing.
        """
        self._stopped = True
        return to_deferred(self._stop())

    async def _stop(self) -> None:
        self._down()
        client, self._client = self._client, None
        for task in list(self._background):
            task.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if client is not None:
            await client.close()

    async def guard(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await ``work``, but no longer than the connection stands.

        :raises BusUnavailable: if the bus is away or goes away.
        """
        lost = self._lost
        if lost is None:
            work.close()
            raise BusUnavailable()
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, lost), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            raise BusUnavailable()
        return task.result()

    async def _answered(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    async def request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, timeout: float = REQUEST_SECONDS
    ) -> Msg:
        """Send a message and await its answer.

        :raises NoResponders: if nobody listens there.
        :raises BusUnavailable: if the bus is away, goes away, or does not answer in time.
        """
        client = self.client
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        try:
            await client.publish(subject, payload, f"{self._inbox}.{token}", headers)
            message = await asyncio.wait_for(future, timeout)
        finally:
            self._waiting.pop(token, None)
        if message.headers is not None and message.headers.get("Status") == "503":
            raise NoResponders()
        return message

    async def api(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream.

        :param subject: what comes behind ``$JS.API.``.
        :returns: the answer.
        :raises NotFound: if there is no such thing.
        :raises ApiError: if it refuses.
        """
        try:
            message = await self.request(f"$JS.API.{subject}", json.dumps(request).encode() if request else b"")
        except NoResponders:
            raise BusUnavailable() from None  # no leader for the API itself
        answer: dict[str, Any] = json.loads(message.data)
        if "error" in answer:
            raise api_error(answer["error"])
        return answer
