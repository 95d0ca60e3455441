"""The clients for asyncio and for Twisted over connections in memory: one suite for both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate import errors
from flowgate.client import Client, Closed, Full, Gap, Message, Published, Unreachable, aio, tx
from flowgate.client.driver import Place
from tests.client.memory import KEY, Gateway, MemoryLoop, Pipe

URL = "http://gateway.example:8080"


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects to a gateway in memory."""

    def __init__(self, gateway: Gateway, clock: task.Clock, pipes: list[Pipe]) -> None:
        self._gateway = gateway
        self._clock = clock
        self._pipes = pipes

    def _cancelled(self, _: object) -> None:
        self._gateway.attempts -= 1

    def connect(self, factory: Any) -> Deferred[Any]:
        if self._gateway.lost:
            self._gateway.attempts += 1
            return Deferred(self._cancelled)
        if self._gateway.away:
            return fail(ConnectionRefusedError())
        pipe = Pipe(self._gateway, lambda call: self._clock.callLater(0, call))
        self._pipes.append(pipe)
        protocol = factory.buildProtocol(None)
        pipe.attach(protocol.dataReceived, lambda: protocol.connectionLost(Failure(ConnectionDone())))
        protocol.makeConnection(pipe)
        return succeed(protocol)


class Stage:
    """A gateway, and the means of one framework to run something against it."""

    pipes: list[Pipe]

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def client(self, key: str | None = KEY, **options: Any) -> Any:
        raise NotImplementedError

    def run(self, program: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        raise NotImplementedError

    def spawn(self, program: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """Begin something beside what runs."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Let time go by, which takes none."""
        raise NotImplementedError


class AioStage(Stage):
    """asyncio."""

    def client(self, key: str | None = KEY, **options: Any) -> Any:
        return Client(URL, key, draw=lambda: 0.5, **options)

    def run(self, program: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        loop = MemoryLoop(self.gateway)
        self.pipes = loop.pipes
        complaints: list[Any] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        try:
            loop.run_until_complete(asyncio.wait_for(program(self), 100_000))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            left = asyncio.all_tasks(loop)
            loop.close()
        if complaints or left:
            raise AssertionError((complaints, left))

    def spawn(self, program: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        return asyncio.ensure_future(program)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class TxStage(Stage):
    """Twisted."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self.clock = task.Clock()
        self.pipes = []

    def client(self, key: str | None = KEY, **options: Any) -> Any:
        endpoint = Endpoint(self.gateway, self.clock, self.pipes)
        return tx.Client(URL, key, draw=lambda: 0.5, reactor=self.clock, endpoint=lambda _: endpoint, **options)

    def run(self, program: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        done = Deferred.fromCoroutine(program(self))
        result: list[object] = []
        done.addBoth(result.append)
        while not result:
            calls = self.clock.getDelayedCalls()
            if not calls:
                raise AssertionError("nothing is left to do")
            self.clock.advance(max(0.0, min(call.getTime() for call in calls) - self.clock.seconds()))
        if isinstance(result[0], Failure):
            result[0].raiseException()
        if self.clock.getDelayedCalls():
            raise AssertionError(self.clock.getDelayedCalls())

    def spawn(self, program: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        return Deferred.fromCoroutine(program)

    async def sleep(self, seconds: float) -> None:
        await task.deferLater(self.clock, seconds)


class ShellTests(SynchronousTestCase):
    """What a caller can do, the same with both."""

    def both(self, program: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        for stage in (AioStage(Gateway()), TxStage(Gateway())):
            stage.run(program)
            self.assertEqual(stage.gateway.connections, [], "a connection was left")

    async def assert_raises(self, kind: type[BaseException], awaited: Awaitable[Any]) -> Any:
        try:
            result = await awaited
        except kind as error:
            return error
        raise AssertionError(f"{result!r} instead of {kind.__name__}")

    def test_publish_and_read(self) -> None:
        """What is published is stored, and read by who has subscribed."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client, client.subscribe("a/#") as messages:
                self.assertEqual(await client.publish("a/b", {"n": 1}), Published("e-1", "a/b"))
                await client.publish("b", "not for us")
                await client.publish("a", "end")
                got = []
                async for message in messages:
                    got.append(message)
                    if message.data == "end":
                        break
                self.assertEqual(got, [Message("a/b", {"n": 1}, "e-1", "T"), Message("a", "end", "e-3", "T")])
            self.assertEqual(stage.gateway.asked, ["POST /token/ HTTP/1.1", "GET /ws HTTP/1.1"])

        self.both(program)

    def test_history(self) -> None:
        """A subscription begins where its caller says."""

        async def program(stage: Stage) -> None:
            for value in "abc":
                stage.gateway.store("t", value)
            async with stage.client() as client:
                for since, expected in (("earliest", "abc"), ("e-2", "c")):
                    async with client.subscribe("t", since) as messages:
                        self.assertEqual([(await messages.__anext__()).data for _ in expected], list(expected))

        self.both(program)

    def test_fixed_token(self) -> None:
        """A token is enough, as long as it is good."""

        async def program(stage: Stage) -> None:
            stage.gateway.tokens.append("mine")
            async with stage.client(None, token="mine") as client:
                await client.publish("t", 1)
                stage.gateway.sockets[0].close(4401, "invalid_token")
                await self.assert_raises(errors.InvalidToken, client.publish("t", 2))

        self.both(program)

    def test_not_connected(self) -> None:
        """What keeps a client from connecting is raised where it is entered."""

        async def program(stage: Stage) -> None:
            stage.gateway.away = True
            error = await self.assert_raises(Unreachable, stage.client().__aenter__())
            self.assertIn(URL, str(error))
            stage.gateway.away, stage.gateway.revoked = False, True
            await self.assert_raises(errors.KeyDisabled, stage.client().__aenter__())
            await self.assert_raises(errors.InvalidToken, stage.client("another").__aenter__())

        self.both(program)

    def test_nobody_answers(self) -> None:
        """A gateway that accepts connections and says nothing is given up."""

        async def program(stage: Stage) -> None:
            stage.gateway.deaf = True
            await self.assert_raises(Unreachable, stage.client().__aenter__())
            stage.gateway.lost = True
            await self.assert_raises(Unreachable, stage.client().__aenter__())
            await stage.sleep(0)
            self.assertEqual(stage.gateway.attempts, 0)

        self.both(program)

    def test_patient(self) -> None:
        """A patient client waits for its gateway."""

        async def program(stage: Stage) -> None:
            stage.gateway.away = True
            client = stage.client(patient=True)
            started = stage.spawn(client.__aenter__())
            await stage.sleep(60)
            stage.gateway.away = False
            await started
            await client.publish("t", 1)
            await client.close()

        self.both(program)

    def test_closed_while_connecting(self) -> None:
        """A client can be closed at any moment; whoever waits is told."""

        async def program(stage: Stage) -> None:
            for deaf in (False, True):
                stage.gateway.deaf = deaf
                client = stage.client()
                started = stage.spawn(client.__aenter__())
                if deaf:
                    await stage.sleep(1)
                await client.close()
                await self.assert_raises(Closed, started)
            await client.close()

        self.both(program)

    def test_closed(self) -> None:
        """At the end iterators stop, publishing fails, and no connection is left."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client:
                messages = client.subscribe("t")

                async def read() -> list[object]:
                    return [message async for message in messages]

                reader = stage.spawn(read())
                await client.publish("t", 1)
                await stage.sleep(1)
            self.assertEqual([message.data for message in await reader], [1])
            await self.assert_raises(Closed, client.publish("t", 2))

        self.both(program)

    def test_resumed(self) -> None:
        """Connections are lost again and again: nothing is missed, nothing comes twice, all is stored once."""

        async def program(stage: Stage) -> None:
            random = Random(1)
            gateway = stage.gateway
            async with stage.client() as client, client.subscribe("t") as messages:

                async def publish() -> None:
                    for number in range(200):
                        await client.publish("t", number)

                async def disturb() -> None:
                    for _ in range(60):
                        await stage.sleep(random.random() * 2)
                        gateway.deaf = random.random() < 0.3
                        gateway.away = random.random() < 0.3
                        gateway.cut()
                        await stage.sleep(random.random())
                        gateway.away = gateway.deaf = False

                publishing, disturbing = stage.spawn(publish()), stage.spawn(disturb())
                got = [(await messages.__anext__()).data for _ in range(200)]
                await publishing
                await disturbing
            self.assertEqual(got, list(range(200)))
            self.assertEqual(gateway.stored, [("t", number) for number in range(200)])
            self.assertGreater(gateway.asked.count("GET /ws HTTP/1.1"), 10)

        self.both(program)

    def test_refreshed(self) -> None:
        """Tokens are renewed on the same connection, for days."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client:
                await client.publish("t", 1)
                await stage.sleep(86000)
                await client.publish("t", 2)
            self.assertEqual(stage.gateway.asked.count("GET /ws HTTP/1.1"), 1)
            self.assertEqual(len(stage.gateway.tokens), 1 + 86000 // 720)

        self.both(program)

    def test_no_token(self) -> None:
        """While no token is to be had one connection at a time asks for it, and the other one lives on."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client:
                stage.gateway.tokenless = True
                for _ in range(20):
                    await stage.sleep(100)
                    self.assertLessEqual(len(stage.gateway.connections), 2)
                stage.gateway.tokenless = False
                await stage.sleep(60)
                await client.publish("t", 1)
            self.assertEqual(stage.gateway.asked.count("GET /ws HTTP/1.1"), 1)
            self.assertEqual(len(stage.gateway.tokens), 2)

        self.both(program)

    def test_revoked(self) -> None:
        """A revoked key ends iterators and publishing with the gateway's error."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client:
                messages = client.subscribe("t")
                waiting = stage.spawn(messages.__anext__())
                await client.publish("u", 1)
                stage.gateway.revoked = True
                stage.gateway.sockets[0].close(4401, "invalid_token")
                await self.assert_raises(errors.KeyDisabled, waiting)
                await self.assert_raises(errors.KeyDisabled, messages.__anext__())
                await self.assert_raises(errors.KeyDisabled, client.publish("t", 2))

        self.both(program)

    def test_room(self) -> None:
        """More messages than may be under way wait for room; or fail, if that is wanted."""

        async def program(stage: Stage) -> None:
            async with stage.client(unacknowledged=3) as client:
                stage.gateway.deaf = True
                publishing = [stage.spawn(_await(client.publish("t", number))) for number in range(10)]
                await stage.sleep(1)
                await self.assert_raises(Full, client.publish("t", 10, wait=False))
                stage.gateway.deaf = False
                stage.gateway.cut()
                for each in publishing:
                    await each
            self.assertCountEqual(stage.gateway.stored, [("t", number) for number in range(10)])

        self.both(program)

    def test_backpressure(self) -> None:
        """What is not read is not kept: the connection is not read either, and goes on where it stopped."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client, client.subscribe("t", buffer=10) as messages:
                for number in range(100):
                    stage.gateway.store("t", number)
                await stage.sleep(600)
                self.assertTrue(stage.pipes[-1].paused)
                self.assertEqual(len(messages._stream.items), 10)
                self.assertEqual([(await messages.__anext__()).data for _ in range(100)], list(range(100)))
                self.assertFalse(stage.pipes[-1].paused)
            self.assertEqual(stage.gateway.asked.count("GET /ws HTTP/1.1"), 1)

        self.both(program)

    def test_publish_for_each(self) -> None:
        """To publish for each message read does not wait for itself, however small the buffer is."""

        async def program(stage: Stage) -> None:
            for number in range(100):
                stage.gateway.store("in", number)
            async with stage.client() as client, client.subscribe("in", "earliest", buffer=4) as messages:
                for number in range(100):
                    message = await messages.__anext__()
                    self.assertEqual(message.data, number)
                    await client.publish("out", message.data)
            self.assertEqual([value for topic, value in stage.gateway.stored if topic == "out"], list(range(100)))

        self.both(program)

    def test_gap(self) -> None:
        """A gap is raised at its place, and the iterator can be read on; or it is told to who wants it."""

        async def program(stage: Stage) -> None:
            for on_gap in (False, True):
                told: list[Gap] = []
                async with (
                    stage.client() as client,
                    client.subscribe("t", on_gap=told.append if on_gap else None) as messages,
                ):
                    stage.gateway.sockets[0].say(action="notice", code="gap", topic="t", oldest="e-0")
                    await client.publish("t", "next")
                    if not on_gap:
                        told.append(await self.assert_raises(Gap, messages.__anext__()))
                    self.assertEqual((await messages.__anext__()).data, "next")
                    self.assertEqual([gap.oldest for gap in told], ["e-0"])

        self.both(program)

    def test_left(self) -> None:
        """Leaving a subscription unsubscribes, and its topics can be subscribed to again."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client:
                async with client.subscribe("t"):
                    self.assertEqual(list(stage.gateway.sockets[0].places), ["t"])
                    self.assertRaises(errors.Conflict, client.subscribe, "t")
                messages = client.subscribe("t")
                await messages.aclose()
                await self.assert_raises(StopAsyncIteration, messages.__anext__())
                await client.publish("u", 1)
                self.assertEqual(list(stage.gateway.sockets[0].places), [])

        self.both(program)

    def test_ping(self) -> None:
        """A ping of the gateway is answered by its payload."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client:
                (socket,) = stage.gateway.sockets
                socket.send(b"\x89\x02hi")
                await client.publish("t", 1)
                self.assertEqual(socket.pongs, [b"hi"])

        self.both(program)

    def test_violation(self) -> None:
        """A gateway that breaks the protocol is left, and tried again."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client:
                for broken in (b"\xff\xff", b"\x81\x01x"):
                    stage.gateway.sockets[0].send(broken)
                    await stage.sleep(1)
                    await client.publish("t", 1)
            self.assertEqual(stage.gateway.asked.count("GET /ws HTTP/1.1"), 3)

        self.both(program)

    def test_cancelled(self) -> None:
        """Who stops waiting for a message loses none; who stops waiting for an answer does not take it back."""

        async def program(stage: Stage) -> None:
            async with stage.client() as client, client.subscribe("t") as messages:
                waiting: Any = stage.spawn(messages.__anext__())
                await stage.sleep(1)
                waiting.cancel()
                publishing: Any = stage.spawn(_await(client.publish("t", 1)))
                await stage.sleep(0)
                publishing.cancel()
                self.assertEqual((await messages.__anext__()).data, 1)
                for cancelled in (waiting, publishing):
                    try:
                        await cancelled
                    except BaseException as error:
                        self.assertEqual(type(error).__name__, "CancelledError")

        self.both(program)


async def _await(awaited: Awaitable[Any]) -> Any:
    return await awaited


class PlaceTests(SynchronousTestCase):
    """The URL of a gateway."""

    def test_read(self) -> None:
        """Host, port, TLS and a path before ours."""
        for url, expected in (
            ("http://127.0.0.1:8080", ("127.0.0.1", 8080, False, "127.0.0.1:8080", "")),
            ("https://example.org/", ("example.org", 443, True, "example.org", "")),
            ("ws://example.org/fg/", ("example.org", 80, False, "example.org", "/fg")),
            ("wss://[::1]:8443", ("::1", 8443, True, "[::1]:8443", "")),
        ):
            self.assertEqual(Place.parse(url), Place(*expected))

    def test_none(self) -> None:
        """What is none is refused before anything is connected."""
        for url in ("", "example.org", "ftp://a", "http://", "http://a:b", "http://a?x", "http://u:p@a", "http://["):
            for make in (aio.Client, tx.Client):
                self.assertRaises(
                    ValueError, make, url, KEY, **({"reactor": task.Clock()} if make is tx.Client else {})
                )
