"""The fake of the way between nodes passes the contract."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.task import Clock

from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.interfaces import IPeers
from tests.contracts.at_once import AtOnceTestCase
from tests.contracts.peers import PeersContract, Told

_T = TypeVar("_T")


class MemoryPeersTests(PeersContract, AtOnceTestCase):
    """The contract, over a clock that the test moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        hub = MemoryPeersHub(self.clock)
        self.one, self.two, self.three = MemoryPeers(hub), MemoryPeers(hub), MemoryPeers(hub)

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        self.clock.pump([0] * 5 + [0.1])
        return deferred

    async def settled(self) -> None:
        pass

    async def leave(self, node: IPeers) -> None:
        assert isinstance(node, MemoryPeers)
        node.go_away()

    async def test_coming_back(self) -> None:
        """A node that comes back hears again, and nothing stays in the clock."""
        told = Told()
        self.one.hear("news", told)
        await self.leave(self.one)
        assert isinstance(self.one, MemoryPeers)
        self.one.come_back()
        self.two.tell("news", b"1")
        await self.done(told.count(1))
        self.assertEqual(self.clock.getDelayedCalls(), [])
