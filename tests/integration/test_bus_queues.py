"""Queues over a real nats-server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from flowgate.bus import queues
from flowgate.bus.bridge import NatsConnection, to_deferred
from flowgate.bus.queues import JetStreamQueues
from flowgate.bus.server import NatsServer
from flowgate.errors import BusUnavailable, NotFound
from flowgate.message import Received
from tests.contracts.queues import HERE, LONG, WAIT, QueuesContract, bodies, message
from tests.integration.away import Away

_T = TypeVar("_T")


class JetStreamQueuesTests(QueuesContract, TestCase):
    """The contract, over JetStream, and what only a real bus can do."""

    timeout = 40

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        self.server = NatsServer(reactor, Path(self.mktemp()))
        self.addCleanup(self.server.stop)
        await self.server.start()
        self.connection = await self.connect()
        self.queues = JetStreamQueues(self.connection)
        self.away = Away(self.server, self.connection)

    async def connect(self) -> NatsConnection:
        connection = NatsConnection([self.server.url])
        self.addCleanup(connection.stop)
        await connection.start()
        return connection

    def settle(self, deferred: Deferred[_T]) -> Deferred[_T]:
        return deferred

    async def test_messages_survive_kill(self) -> None:
        """Acknowledged messages are there, in order, after kill -9 of nats-server."""
        contents = [b"%d" % number for number in range(200)]
        await self._made(*contents)
        await self.away.kill()
        await self.away.back()
        found: list[bytes] = []
        while len(found) < len(contents):
            found += bodies(await self._receive())
        self.assertEqual(found, contents)

    async def test_deletes_survive_kill(self) -> None:
        """What was deleted does not come back after kill -9 of nats-server."""
        await self._made(*(b"%d" % number for number in range(20)))
        received = await self._receive(visibility=30.0) + await self._receive(9, visibility=30.0)
        await self.queues.delete_messages(HERE, "q", [one.handle for one in received])
        await self.away.kill()
        await self.away.back()
        self.assertEqual(bodies(await self._receive()), [b"19"])
        stats = await self.queues.stats(HERE, "q")
        self.assertEqual((stats.visible, stats.in_flight), (0, 1))

    async def test_delete_after_kill(self) -> None:
        """A message that was received before kill -9 of nats-server can be deleted after it."""
        await self._made(b"1")
        (received,) = await self._receive()
        await self.away.kill()
        await self.away.back()
        await self.queues.delete_messages(HERE, "q", [received.handle])
        stats = await self.queues.stats(HERE, "q")
        self.assertEqual(stats.visible, 0)
        self.assertEqual(stats.oldest_age_seconds, 0.0)

    async def test_while_away(self) -> None:
        """While the bus is away everything fails at once with BusUnavailable."""
        await self._made(b"1")
        (received,) = await self._receive()
        queues = self.queues
        await self.away.kill()
        for deferred in (
            queues.send(HERE, "q", [message(b"2")]),
            queues.receive(HERE, "q", 1, WAIT, LONG),
            queues.delete_messages(HERE, "q", [received.handle]),
            queues.change_visibility(HERE, "q", received.handle, 0),
            queues.stats(HERE, "q"),
            queues.create(HERE, "r", 60),
        ):
            await self.assertFailure(deferred, BusUnavailable)

    async def test_wait_ends_when_bus_goes_away(self) -> None:
        """A receive that waits fails when the bus goes away, and the next one works when it is back."""
        await self._made()
        waiting = self.queues.receive(HERE, "q", 1, WAIT, LONG)
        await self._receive(wait=0.05)
        failed = self.assertFailure(waiting, BusUnavailable)
        await self.away.kill()
        await self.away.back()
        self.assertTrue(failed.called)
        await self.queues.send(HERE, "q", [message(b"1")])
        self.assertEqual(bodies(await self._receive(wait=WAIT)), [b"1"])

    async def test_removed_by_another_node(self) -> None:
        """A queue that another node removed is not found, and one made anew there is used."""
        await self._made()
        await self._receive()
        other = JetStreamQueues(await self.connect())
        await other.delete(HERE, "q")
        await self.assertFailure(self.queues.send(HERE, "q", [message(b"1")]), NotFound)
        await self.assertFailure(self.queues.receive(HERE, "q", 1, WAIT, LONG), NotFound)
        await other.create(HERE, "q", 60)
        await self.queues.send(HERE, "q", [message(b"2")])
        self.assertEqual(bodies(await self._receive()), [b"2"])

    async def test_removed_and_made_anew_by_another_node(self) -> None:
        """Receiving from a queue that was replaced behind our back takes from the new one."""
        await self._made(b"old")
        (old,) = await self._receive()
        other = JetStreamQueues(await self.connect())
        await other.delete(HERE, "q")
        await other.create(HERE, "q", 3600)
        await other.send(HERE, "q", [message(b"new")])
        await self.queues.delete_messages(HERE, "q", [old.handle])
        self.assertEqual(bodies(await self._receive()), [b"new"])

    async def test_two_nodes(self) -> None:
        """Receivers of two nodes never hold the same message, and one may delete what the other received."""
        await self._made(*(b"%d" % number for number in range(100)))
        other = JetStreamQueues(await self.connect())
        taken = []
        for _ in range(5):
            one, two = self.queues.receive(HERE, "q", 10, 0, LONG), other.receive(HERE, "q", 10, 0, LONG)
            taken += [*await one, *await two]
        while len(taken) < 100:
            taken += await self._receive(wait=WAIT)
        self.assertEqual(len({one.sequence for one in taken}), 100)
        await other.delete_messages(HERE, "q", [one.handle for one in taken])
        stats = await self.queues.stats(HERE, "q")
        self.assertEqual((stats.visible, stats.in_flight), (0, 0))

    async def test_cancelled_too_late(self) -> None:
        """A receive that is cancelled when its messages are already here gives them back."""
        from twisted.internet import reactor

        contents = [b"%d" % number for number in range(50)]
        await self._made(*contents)
        found: list[bytes] = []

        def given(received: list[Received]) -> None:
            found.extend(bodies(received))

        def cancelled(failure: Failure) -> None:
            failure.trap(CancelledError)

        for turn in range(40):
            deferred = self.queues.receive(HERE, "q", 10, WAIT, 30.0).addCallback(given).addErrback(cancelled)
            # At each turn a little later: not yet sent, on the way, taken from the socket, here.
            for _ in range(turn // 2):
                await deferLater(reactor, 0)
            deferred.cancel()
        while len(found) < 50:
            received = await self._receive(wait=WAIT)
            self.assertTrue(received, "a message was lost for its visibility")
            given(received)
        self.assertEqual(sorted(found), sorted(contents))

    async def test_visibility_ends_under_load(self) -> None:
        """A message comes back while others are received without a pause."""
        await self._made(b"early")
        await self._receive(visibility=1.0)
        received: list[Received] = []
        while b"early" not in bodies(received):
            await self.queues.send(HERE, "q", [message(b"x")] * 10)
            received = await self._receive(visibility=LONG)


class BreathTests(TestCase):
    """The gaps in which the bus looks for messages whose visibility has ended."""

    timeout = 20

    def test_gap(self) -> None:
        """Someone who never pauses is made to, again and again."""
        self.patch(queues, "_NAK_RUN_SECONDS", 0.05)
        breath = queues._Breath()

        async def busy() -> int:
            loop, gaps = asyncio.get_running_loop(), 0
            last = loop.time()
            while gaps < 3:
                await breath.take()
                now = loop.time()
                gaps += now - last >= 0.014
                last = now
            return gaps

        return to_deferred(busy())  # type: ignore[return-value]

    def test_all_wait_together(self) -> None:
        """Whoever comes during a gap waits for its end, so that it is one."""
        self.patch(queues, "_NAK_RUN_SECONDS", 0.0)
        breath = queues._Breath()

        async def busy() -> None:
            await breath.take()
            taken = [asyncio.ensure_future(breath.take()) for _ in range(10)]
            await asyncio.sleep(0)
            self.assertFalse(any(one.done() for one in taken))
            await asyncio.wait(taken)

        return to_deferred(busy())  # type: ignore[return-value]
