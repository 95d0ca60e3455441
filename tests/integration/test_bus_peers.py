"""The way between nodes, over a real nats-server."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import gatherResults, succeed
from twisted.trial.unittest import TestCase

from flowgate.bus.link import Link
from flowgate.bus.peers import LinkPeers
from flowgate.errors import BusUnavailable, MessageTooLarge, NotFound
from flowgate.interfaces import IPeers
from tests.contracts.peers import PeersContract, Told
from tests.integration.links import LinkOwner, make_link
from tests.integration.nats import nats_server

_T = TypeVar("_T")


class LinkPeersTests(PeersContract, TestCase):
    """The contract, over NATS, and what only a real bus can do."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]
        self.server = nats_server(self, jetstream=False)
        self.links: dict[str, tuple[Link, LinkOwner]] = {}
        self.one, self.two, self.three = [await self.make_node() for _ in range(3)]

    async def make_node(self, shared: bool = True) -> LinkPeers:
        link, owner = await make_link(self, self.server.url)
        peers = LinkPeers(link, shared=shared)
        self.links[peers.node] = link, owner
        return peers

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        return deferred

    async def settled(self) -> None:
        await gatherResults([link.fence() for link, _ in self.links.values()])

    async def leave(self, node: IPeers) -> None:
        link = self.links[node.node][0]
        # The server learns of an end of the connection some time after us, but of this before the fence.
        for key in list(link._subscriptions):
            link.unsubscribe(key)
        await link.fence()
        await link.stop()

    async def test_after_an_outage(self) -> None:
        """Handlers stay through the loss of the connection; what was asked then fails at once."""
        told = Told()
        self.two.answer("echo", succeed)
        self.two.hear("news", told)
        await self.settled()
        self.server.freeze()
        owners = [owner for _, owner in self.links.values()]
        downs, ups = [owner.down() for owner in owners], [owner.up() for owner in owners]
        lost = self.assertFailure(self.one.ask(self.two.node, "echo"), BusUnavailable)
        self.server.kill()
        await gatherResults(downs)
        await lost
        self.server.start()
        await gatherResults(ups)
        self.assertEqual(await self.one.ask(self.two.node, "echo", b"1"), b"1")
        self.one.tell("news", b"2")
        await told.count(1)

    async def test_faulty_handlers(self) -> None:
        """A handler that raises costs nobody else anything, and is logged."""
        told = Told()

        def faulty(payload: bytes) -> None:
            told(payload)
            raise RuntimeError("a fault")

        self.two.hear("news", faulty)
        self.two.answer("faulty", lambda _: succeed(b"%d" % (1 // 0)))
        await self.settled()
        self.one.tell("news", b"1")
        self.one.tell("news", b"2")
        await told.count(2)
        await self.assertFailure(self.one.ask(self.two.node, "faulty", timeout=0.05), BusUnavailable)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_too_large(self) -> None:
        """What the server would not take is refused, and the link stays."""
        large = bytes(1024 * 1024)
        self.two.answer("large", lambda _: succeed(large))
        await self.settled()
        self.assertRaises(MessageTooLarge, self.one.tell, "news", large)
        await self.assertFailure(self.one.ask(self.two.node, "large", large), MessageTooLarge)
        await self.assertFailure(self.one.ask(self.two.node, "large", timeout=0.05), BusUnavailable)
        self.assertEqual(len(self.flushLoggedErrors(MessageTooLarge)), 1)
        self.assertTrue(self.links[self.two.node][0].up)

    async def test_alone(self) -> None:
        """With a nats-server of its own a node finds nobody, hears nobody and is heard by nobody."""
        alone = await self.make_node(shared=False)
        heard, said = Told(), Told()
        alone.hear("news", heard)
        alone.answer("echo", succeed)
        self.one.hear("news", said)
        self.one.answer("echo", succeed)
        await self.settled()
        alone.tell("news", b"1")
        self.two.tell("news", b"2")
        await said.count(1)
        self.assertEqual((heard.heard, said.heard), ([], [b"2"]))
        await self.assertFailure(alone.ask(self.one.node, "echo"), NotFound)
        await self.assertFailure(self.one.ask(alone.node, "echo"), NotFound)
