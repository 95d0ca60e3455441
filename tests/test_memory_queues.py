"""The queues' fake passes the contract."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from flowgate.bus.memory_queues import MemoryQueues
from tests.contracts.queues import HERE, LONG, QueuesContract, message

_T = TypeVar("_T")


class MemoryQueuesTests(QueuesContract, TestCase):
    """The contract, over the fake."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.queues = MemoryQueues(self.clock)

    def settle(self, deferred: Deferred[_T]) -> Deferred[_T]:
        for _ in range(1000):
            if deferred.called:
                break
            self.clock.advance(0.05)
        return deferred

    async def test_retention(self) -> None:
        """A message is forgotten after the queue's retention."""
        await self.queues.create(HERE, "q", 60)
        await self.queues.send(HERE, "q", [message(b"1")])
        self.clock.advance(60)
        self.assertEqual(await self.queues.receive(HERE, "q", 1, 0, LONG), [])
