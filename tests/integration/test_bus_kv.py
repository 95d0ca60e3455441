"""The store over a real nats-server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from twisted.trial.unittest import TestCase

from flowgate.bus.bridge import NatsConnection, to_deferred
from flowgate.bus.kv import JetStreamStore
from flowgate.bus.server import NatsServer
from flowgate.errors import BusUnavailable
from flowgate.message import Entry
from tests.contracts.store import Seen, StoreContract
from tests.integration.away import Away


class JetStreamStoreTests(StoreContract, TestCase):
    """The contract, over JetStream, and what only a real bus can do."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        self.server = NatsServer(reactor, Path(self.mktemp()))
        self.addCleanup(self.server.stop)
        await self.server.start()
        self.connection = NatsConnection([self.server.url])
        self.addCleanup(self.connection.stop)
        await self.connection.start()
        self.store = JetStreamStore(self.connection)
        self.away = Away(self.server, self.connection)

    async def test_survives_kill(self) -> None:
        """What was put is there after kill -9 of nats-server."""
        revision = await self.store.put("B", "k", b"1")
        await self.away.kill()
        await self.away.back()
        self.assertEqual(await self.store.get("B", "k"), Entry(b"1", revision))

    async def test_while_away(self) -> None:
        """While the bus is away everything fails at once with BusUnavailable."""
        await self.store.put("B", "k", b"1")
        await self.away.kill()
        for deferred in (
            self.store.get("B", "k"),
            self.store.put("B", "k", b""),
            self.store.delete("B", "k"),
            self.store.watch("B", Seen()),
        ):
            await self.assertFailure(deferred, BusUnavailable)

    async def test_under_way(self) -> None:
        """What is under way when the bus goes away fails then, not after a timeout."""
        await self.store.put("B", "k", b"1")
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGSTOP)
        failed = self.assertFailure(self.store.get("B", "k"), BusUnavailable)
        await self.away.kill()
        await self.away.back()
        self.assertTrue(failed.called)

    async def test_watch_survives_kill(self) -> None:
        """A watch goes on after kill -9 of nats-server, and tells what was told before only if it differs."""
        await self.store.put("B", "same", b"1")
        await self.store.put("B", "gone", b"2")
        seen = Seen()
        await self._watch(seen)
        await self.away.kill()
        await self.away.back()
        await self.store.delete("B", "gone")
        await self.store.put("B", "new", b"3")
        await seen.count(4)
        self.assertEqual(seen.changes[:2], [("same", b"1"), ("gone", b"2")])
        self.assertEqual(sorted(seen.changes[2:], key=lambda change: change[0]), [("gone", None), ("new", b"3")])

    async def test_changes_by_another_node_while_away(self) -> None:
        """A watch that was cut off learns of removals and writes that it missed."""
        await self.store.put("B", "gone", b"1")
        seen = Seen()
        await self._watch(seen)
        other = NatsConnection([self.server.url])
        await other.start()
        self.addCleanup(other.stop)
        # Cut off: told that the connection is away, so that nothing is followed in between.
        watches = [one for one in self.connection._listeners if one is not self.away]
        for watch in watches:
            watch.disconnected()
        store = JetStreamStore(other)
        await store.delete("B", "gone")
        await store.put("B", "new", b"2")
        # The marker of the removal has been forgotten meanwhile.
        await to_deferred(other.api("STREAM.PURGE.KV_B", {"filter": "$KV.B.gone"}))
        for watch in watches:
            watch.connected()
        await seen.count(3)
        self.assertEqual(sorted(seen.changes[1:], key=lambda change: change[0]), [("gone", None), ("new", b"2")])
