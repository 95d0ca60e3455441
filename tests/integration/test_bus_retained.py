"""The retained messages over a real nats-server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from flowgate.bus.link import Link
from flowgate.bus.retained import JetStreamRetained
from flowgate.errors import BusUnavailable
from flowgate.topics import Topic
from tests.contracts.retained import SHOP, RetainedContract, place
from tests.integration.links import LinkOwner, make_link
from tests.integration.nats import NatsServer, nats_server

_T = TypeVar("_T")
A = Topic(SHOP, "a")


class JetStreamRetainedTests(RetainedContract, TestCase):
    """The contract, over JetStream, and what only a real bus can do."""

    timeout = 30
    server: NatsServer
    link: Link
    owner: LinkOwner

    async def setUp(self) -> None:  # type: ignore[override]
        self.server = nats_server(self)
        self.link, self.owner, self.retained = await self.make_node()

    async def make_node(self) -> tuple[Link, LinkOwner, JetStreamRetained]:
        link, owner = await make_link(self, self.server.url)
        return link, owner, JetStreamRetained(reactor, link)

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        return deferred

    async def wait(self) -> None:
        await deferLater(reactor, 0.1)  # the server has no clock that could be moved

    def freeze(self) -> None:
        self.server.freeze()

    async def go_away(self) -> None:
        down = self.owner.down()
        self.server.kill()
        await down

    async def come_back(self) -> None:
        up = self.owner.up()
        self.server.start()
        await up

    async def api(self, verb: str, body: object = None) -> dict[str, Any]:
        message = await self.link.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"")
        answer: dict[str, Any] = json.loads(message[4])
        return answer

    async def test_nobody_needs_it(self) -> None:
        """The stream is made when it is needed, not before."""
        self.assertIn("error", await self.api("STREAM.INFO.FG_RETAINED"))
        self.assertEqual(await self.kept("#"), {})
        self.assertEqual((await self.api("STREAM.INFO.FG_RETAINED"))["config"]["max_msgs_per_subject"], 1)

    async def test_first_put(self) -> None:
        """Puts wait until the stream is made."""
        await DeferredList([self.retained.put(Topic(SHOP, f"{n}"), b"1", 1) for n in range(5)], fireOnOneErrback=True)
        self.assertEqual(len(await self.kept("#")), 5)

    async def test_missing(self) -> None:
        """A stream that somebody deleted is made again, by a put, a page or a fetch."""
        await self.put("a", b"1")
        await self.api("STREAM.DELETE.FG_RETAINED")
        await self.put("a", b"2")
        self.assertEqual(await self.kept("#"), {"a": b"2"})
        await self.api("STREAM.DELETE.FG_RETAINED")
        self.assertEqual(await self.kept("#"), {})
        await self.api("STREAM.DELETE.FG_RETAINED")
        self.assertEqual(await self.retained.fetch([1]), {})
        await self.api("STREAM.DELETE.FG_RETAINED")
        self.assertEqual(await self.kept("a"), {})

    async def test_new_store(self) -> None:
        """A server that comes back with nothing is used as it is."""
        await self.put("a", b"1", at=place(9))
        await self.go_away()
        shutil.rmtree(self.server.store)
        await self.come_back()
        self.assertEqual(await self.kept("#"), {})
        await self.put("a", b"2", at=place(10))
        self.assertEqual(await self.kept("#"), {"a": b"2"})

    async def test_made_by_several(self) -> None:
        """Nodes that begin at the same time make one stream."""
        nodes = [await self.make_node() for _ in range(4)]
        puts = [node[2].put(Topic(SHOP, f"{n}"), b"x", 1) for n, node in enumerate(nodes)]
        await DeferredList(puts, fireOnOneErrback=True)
        self.assertEqual(set(await self.kept("#")), {"0", "1", "2", "3"})

    async def test_nodes_do_not_undo_each_other(self) -> None:
        """What two nodes put at the same time ends with what is last in history, whichever came last."""
        other = (await self.make_node())[2]
        calls: list[Deferred[None]] = []
        for number in range(50):
            calls.append(self.retained.put(A, b"%d" % (2 * number), 1, None, place(2 * number)))
            calls.append(other.put(A, b"%d" % (2 * number + 1), 1, None, place(2 * number + 1)))
        calls.append(self.retained.put(A, b"old", 1, None, place(3)))
        await DeferredList(calls, fireOnOneErrback=True)
        self.assertEqual(await self.kept("a"), {"a": b"99"})

    async def test_repetition_by_another_node(self) -> None:
        """A message that is repeated through another node does not replace a later one, nor a removal, nor QoS 0."""
        other = (await self.make_node())[2]
        await self.put("a", b"7", at=place(7))
        await other.put(A, b"6", 1, None, place(6))
        self.assertEqual(await self.kept("a"), {"a": b"7"})
        await other.put(A, b"live", 0)
        await self.put("a", b"7", at=place(7))
        self.assertEqual(await self.kept("a"), {"a": b"live"})
        await other.put(A, b"", 1, None, place(8))
        await self.put("a", b"7", at=place(7))
        self.assertEqual(await self.kept("a"), {})

    async def test_seen_by_another_node(self) -> None:
        """What one node has put and what it has removed, every node sees."""
        other = (await self.make_node())[2]
        await self.put("a", b"1")
        self.assertEqual([run.payloads for run in (await other.page(SHOP, "#")).runs], [[b"1"]])
        await other.put(A, b"", 1)
        self.assertEqual(await self.kept("#"), {})

    async def test_frozen(self) -> None:
        """A server that does not answer any more is not waited for longer than five seconds."""
        await self.put("a", b"1")
        self.server.freeze()
        put, page = self.retained.put(A, b"2", 1), self.retained.page(SHOP, "#")
        await self.fails(put, BusUnavailable)
        await self.fails(page, BusUnavailable)

    async def test_survives_kill(self) -> None:
        """What was put is there after kill -9 of nats-server, and so are removals."""
        await self.put("a", b"1")
        await self.put("b", b"1", at=place(5))
        await self.put("b", b"", at=place(6))
        await self.go_away()
        await self.come_back()
        other = (await self.make_node())[2]
        await other.put(Topic(SHOP, "b"), b"1", 1, None, place(5))
        self.assertEqual(await self.kept("#"), {"a": b"1"})

    async def test_replaced_while_reading(self) -> None:
        """Pages that are read while everything is replaced all the time lack no topic."""
        names = [f"a/{number}" for number in range(300)]
        await DeferredList([self.retained.put(Topic(SHOP, name), b"x", 1) for name in names])
        for _ in range(10):
            puts = [self.retained.put(Topic(SHOP, name), b"y", 1) for name in names]
            found = {run.topic.name for page in await self.pages("a/#") for run in page.runs}
            self.assertEqual(found, set(names))
            await DeferredList(puts)

    async def test_too_many(self) -> None:
        """More than the store can hold for a server that is slow are refused, and those under way are not."""
        self.server.freeze()
        large = bytes(1024 * 1000)
        calls = [self.retained.put(Topic(SHOP, f"{number}"), large, 1) for number in range(40)]
        refused = [call for call in calls if call.called]
        self.assertEqual(len(refused), 7)
        for call in refused:
            await self.fails(call, BusUnavailable)
        down = self.owner.down()
        self.server.kill()
        await down
        for call in calls[:33]:
            await self.fails(call, BusUnavailable)
