"""The store on the link, over a real nats-server."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from flowgate.bus.bridge import NatsConnection
from flowgate.bus.kv import JetStreamStore
from flowgate.bus.records import LinkStore
from flowgate.errors import BusUnavailable, Conflict, MessageTooLarge
from flowgate.message import Entry
from tests.contracts.store import Seen, StoreContract
from tests.integration.links import make_link
from tests.integration.nats import nats_server


class LinkStoreTests(StoreContract, TestCase):
    """The contract, over JetStream, and what only a real bus can do."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]
        self.server = nats_server(self)
        self.connection = NatsConnection([self.server.url])
        self.addCleanup(self.connection.stop)
        await self.connection.start()
        self.other = JetStreamStore(self.connection)
        self.link, self.owner = await make_link(self, self.server.url)
        self.store = LinkStore(self.link, self.other)

    async def config(self, bucket: str) -> dict[str, Any]:
        answer = await self.link.request(f"$JS.API.STREAM.INFO.KV_{bucket}", b"")
        config: dict[str, Any] = json.loads(answer[4])["config"]
        return config

    async def test_layout(self) -> None:
        """A bucket is laid out as nats-py lays it out, but for direct gets."""
        await self.other.put("A", "k", b"")
        await self.store.put("B", "k", b"")
        theirs, ours = await self.config("A"), await self.config("B")
        different = {name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)}
        self.assertEqual(different, {"name", "subjects", "allow_direct"})
        self.assertTrue(ours["allow_direct"])

    async def test_one_bucket_for_both_stores(self) -> None:
        """What one store writes or removes the other reads, whichever made the bucket."""
        for bucket, maker, other in (("A", self.other, self.store), ("B", self.store, self.other)):
            first = await maker.put(bucket, "k", b"1")
            self.assertEqual(await other.get(bucket, "k"), Entry(b"1", first))
            second = await other.put(bucket, "k", b"2", first)
            self.assertEqual(await maker.get(bucket, "k"), Entry(b"2", second))
            await maker.delete(bucket, "k", second)
            self.assertIsNone(await other.get(bucket, "k"))
            await other.put(bucket, "k", b"3", 0)
            await other.delete(bucket, "k")
            self.assertIsNone(await maker.get(bucket, "k"))
            await maker.put(bucket, "k", b"4", 0)

    async def test_bucket_is_made_again(self) -> None:
        """A bucket that somebody removed is made again by the next write, and is empty for the next read."""
        await self.store.put("B", "k", b"1")
        await self.link.request("$JS.API.STREAM.DELETE.KV_B", b"")
        self.assertIsNone(await self.store.get("B", "k"))
        await self.link.request("$JS.API.STREAM.DELETE.KV_B", b"")
        await self.store.delete("B", "k", 1)
        await self.link.request("$JS.API.STREAM.DELETE.KV_B", b"")
        await gatherResults([self.store.put("B", f"k{number}", b"1", 0) for number in range(10)])
        self.assertEqual((await self.store.get("B", "k9") or Entry(b"", 0)).value, b"1")

    async def test_marker_that_is_gone(self) -> None:
        """Revision 0 writes where even the marker of a removal has been forgotten."""
        await self.store.put("B", "k", b"1")
        await self.store.delete("B", "k")
        await self.link.request("$JS.API.STREAM.PURGE.KV_B", b"")
        await self.store.put("B", "k", b"2", 0)

    async def test_reading_of_replicated_buckets(self) -> None:
        """With replicas, the leader is read, since others may lag."""
        await self.store.put("B", "k", b"\0\xff")
        revision = await self.store.put("B", "gone", b"1")
        await self.store.delete("B", "gone")
        replicated = LinkStore(self.link, self.other, 3)
        self.assertEqual((await replicated.get("B", "k") or Entry(b"", 0)).value, b"\0\xff")
        self.assertIsNone(await replicated.get("B", "gone"))
        self.assertIsNone(await replicated.get("B", "never"))
        self.assertIsNone(await replicated.get("C", "k"))
        await replicated.put("B", "gone", b"2", 0)
        await self.assertFailure(replicated.delete("B", "gone", revision), Conflict)

    async def test_writes_keep_their_order(self) -> None:
        """Writes of one key that do not wait for each other take effect in the order in which they were made."""
        await gatherResults([self.store.put("B", "k", b"%d" % number) for number in range(100)])
        self.assertEqual((await self.store.get("B", "k") or Entry(b"", 0)).value, b"99")

    async def test_too_large(self) -> None:
        """A value that the server would not take is refused, and the link stays."""
        await self.assertFailure(self.store.put("B", "k", bytes(1024 * 1024)), MessageTooLarge)
        await self.store.put("B", "k", bytes(1024 * 1024 - 512))

    async def test_survives_kill(self) -> None:
        """What was put is there after kill -9 of nats-server."""
        revision = await self.store.put("B", "k", b"1")
        down, up = self.owner.down(), self.owner.up()
        self.server.kill()
        await down
        self.server.start()
        await up
        self.assertEqual(await self.store.get("B", "k"), Entry(b"1", revision))

    async def test_while_away(self) -> None:
        """What is under way when the bus goes away, and what comes while it is away, fails at once."""
        await self.store.put("B", "k", b"1")
        self.server.freeze()
        under_way = [self.store.get("B", "k"), self.store.put("B", "k", b"2"), self.store.delete("B", "k", 1)]
        failures = [self.assertFailure(deferred, BusUnavailable) for deferred in under_way]
        down = self.owner.down()
        self.server.kill()
        await down
        for failure in failures:
            await failure
        for deferred in (self.store.get("B", "k"), self.store.put("B", "k", b""), self.store.delete("B", "k")):
            await self.assertFailure(deferred, BusUnavailable)

    async def test_watch_of_writes(self) -> None:
        """A watch is told of what was written and removed at a revision."""
        seen = Seen()
        await self._watch(seen)
        revision = await self.store.put("B", "k", b"1", 0)
        await self.store.delete("B", "k", revision)
        await seen.count(2)
        self.assertEqual(seen.changes, [("k", b"1"), ("k", None)])
