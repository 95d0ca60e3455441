"""The fake of the retained messages passes the contract."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.task import Clock

from flowgate.bus.memory_retained import MemoryRetained
from tests.contracts.at_once import AtOnceTestCase
from tests.contracts.retained import RetainedContract

_T = TypeVar("_T")


class MemoryRetainedTests(RetainedContract, AtOnceTestCase):
    """The contract, over a clock that the test moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.retained: MemoryRetained = MemoryRetained(self.clock)

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        self.clock.pump([0] * 3)
        return deferred

    async def wait(self) -> None:
        self.clock.advance(0.1)

    def freeze(self) -> None:
        """It is: nothing happens before the clock moves."""

    async def go_away(self) -> None:
        self.retained.go_away()

    async def come_back(self) -> None:
        self.retained.come_back()
