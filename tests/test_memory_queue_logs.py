"""The fake of the queues' logs passes the contract."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock

from flowgate.bus.memory_queue_logs import MemoryQueueLogs
from tests.contracts.at_once import AtOnceTestCase
from tests.contracts.queue_logs import QueueLogsContract


class MemoryQueueLogsTests(QueueLogsContract, AtOnceTestCase):
    """The contract, over the fake, and what only the fake promises."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.first = self.one = MemoryQueueLogs(self.clock)
        self.second = self.two = MemoryQueueLogs(self.clock, self.first)

    async def eventually(self, condition: Callable[[], bool]) -> None:
        self.assertTrue(condition())

    async def go_away(self) -> None:
        self.first.go_away()
        self.second.go_away()

    async def come_back(self) -> None:
        self.first.come_back()
        self.second.come_back()

    async def cut_off(self) -> None:
        self.second.go_away()

    async def joined(self) -> None:
        self.second.come_back()

    async def test_time(self) -> None:
        """The time of an entry is the clock's."""
        log, follower = await self.made()
        self.clock.advance(1.5)
        await log.append(b"e1")
        self.clock.advance(1)
        await log.append(b"e2")
        self.assertEqual([entry.time for entry in follower.taken], [1_500_000_000, 2_500_000_000])

    async def test_at_once(self) -> None:
        """An entry is with all followers before its append fires, with its body."""
        log, first = await self.made()
        _, second = await self.opened(self.two)
        told: list[int] = []
        log.append(b"m1", b"body").addCallback(lambda _: told.append(len(first.taken) + len(second.taken)))
        self.assertEqual(told, [2])
        self.assertEqual(second.taken[0].payload, b"body")

    async def test_stop(self) -> None:
        """A node that stops follows nothing."""
        _, follower = await self.made()
        other, _ = await self.opened(self.two)
        self.first.stop()
        await other.append(b"e1")
        self.assertEqual(follower.taken, [])
