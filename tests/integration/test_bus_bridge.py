"""The connection to NATS, and futures as Deferreds."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import nats.errors
import nats.js.errors
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from flowgate.bus.bridge import NatsConnection, NoResponders, to_deferred, translate
from flowgate.bus.server import NatsServer
from flowgate.errors import BusUnavailable, Conflict, MessageTooLarge, NotFound
from tests.integration.away import Away

reactor = IReactorTime(_reactor)


class ToDeferredTests(TestCase):
    """Coroutines of asyncio as Deferreds."""

    timeout = 10

    async def test_result(self) -> None:
        """The result comes through."""

        async def work() -> int:
            await asyncio.sleep(0)
            return 3

        self.assertEqual(await to_deferred(work()), 3)

    async def test_own_error(self) -> None:
        """An error that is not nats-py's comes through as it is."""

        async def work() -> None:
            raise ZeroDivisionError

        await self.assertFailure(to_deferred(work()), ZeroDivisionError)

    async def test_cancel(self) -> None:
        """Cancelling the Deferred cancels the coroutine."""
        cancelled = []

        async def work() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        deferred = to_deferred(work())
        await deferLater(reactor, 0)
        deferred.cancel()
        await self.assertFailure(deferred, CancelledError)
        await deferLater(reactor, 0)
        self.assertEqual(cancelled, [True])

    async def test_cancelled_too_late(self) -> None:
        """A result that nobody takes any more goes to whom was named for it."""
        unwanted: list[int] = []

        async def work() -> int:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
            return 5

        deferred = to_deferred(work(), unwanted.append)
        await deferLater(reactor, 0)
        deferred.cancel()
        await self.assertFailure(deferred, CancelledError)
        await deferLater(reactor, 0.001)
        self.assertEqual(unwanted, [5])

    def test_translate(self) -> None:
        """nats-py's errors become ours."""
        for error, kind in (
            (nats.errors.TimeoutError(), BusUnavailable),
            (nats.errors.ConnectionClosedError(), BusUnavailable),
            (nats.errors.NoServersError(), BusUnavailable),
            (nats.errors.OutboundBufferLimitError(), BusUnavailable),
            (nats.js.errors.NoStreamResponseError(), BusUnavailable),
            (asyncio.TimeoutError(), BusUnavailable),
            (ConnectionResetError(), BusUnavailable),
            (nats.errors.MaxPayloadError(), MessageTooLarge),
            (nats.js.errors.KeyWrongLastSequenceError(), Conflict),
            (nats.js.errors.BucketNotFoundError(), NotFound),
            (nats.js.errors.ServiceUnavailableError(code=503), BusUnavailable),
        ):
            self.assertIsInstance(translate(error), kind)


class NatsConnectionTests(TestCase):
    """A connection that comes back."""

    timeout = 30

    def setUp(self) -> None:
        self.server = NatsServer(_reactor, Path(self.mktemp()))
        self.addCleanup(self.server.stop)

    async def connect(self) -> NatsConnection:
        await self.server.start()
        connection = NatsConnection([self.server.url])
        self.addCleanup(connection.stop)
        await connection.start()
        return connection

    async def test_before_start(self) -> None:
        """Before the start, and after the stop, everything fails with BusUnavailable."""
        connection = await self.connect()
        self.assertTrue(connection.available)
        await connection.stop()
        await connection.stop()
        self.assertFalse(connection.available)
        await self.assertFailure(to_deferred(connection.request("x", b"")), BusUnavailable)

    async def test_stop_while_connecting(self) -> None:
        """A stop ends the attempts to connect."""
        connection = NatsConnection(["nats://127.0.0.1:1"])
        failed = self.assertFailure(connection.start(), CancelledError)
        await deferLater(reactor, 0.01)
        await connection.stop()
        await failed

    async def test_connects_late(self) -> None:
        """A server that is not there yet is waited for."""
        await self.server.start()
        url = self.server.url
        away = Away(self.server, NatsConnection([url]))
        down = away.kill()  # nobody is connected who could notice
        down.addErrback(lambda _: None)
        connection = NatsConnection([url])
        self.addCleanup(connection.stop)
        await connection.start()
        self.assertTrue(connection.available)

    async def test_nobody_listens(self) -> None:
        """A request on a subject without listeners fails at once."""
        connection = await self.connect()
        await self.assertFailure(to_deferred(connection.request("nobody", b"")), NoResponders)

    async def test_sent_away_for_good(self) -> None:
        """When nats-py gives a client up, a new one is made."""
        connection = await self.connect()
        away = Away(self.server, connection)
        old = connection.client
        await to_deferred(old.close())
        await away.back()
        self.assertIsNot(connection.client, old)
        answer = await to_deferred(connection.api("INFO"))
        self.assertIn("limits", answer)
