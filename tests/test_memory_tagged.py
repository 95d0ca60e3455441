"""The fake of what finds tagged messages passes the contract."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from flowgate.bus.memory_tagged import MemoryTagged
from flowgate.bus.memory_topics import MemoryBus
from tests.contracts.at_once import AtOnceTestCase
from tests.contracts.tagged import TaggedContract

_T = TypeVar("_T")


class MemoryTaggedTests(TaggedContract, AtOnceTestCase):
    """The contract, over a bus in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.bus: MemoryBus = MemoryBus(self.clock, per_topic=10_000)
        self.bus.start()
        self.tagged = MemoryTagged(self.bus)

    def done(self, deferred: Deferred[_T]) -> Awaitable[_T]:
        self.clock.pump([0] * 3)
        return deferred

    async def go_away(self) -> None:
        self.bus.go_away()
