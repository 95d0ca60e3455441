"""Queues against the model: random sends, receives, changes, deletes, crashes, time that passes; two nodes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.memory_queue_logs import MemoryQueueLogs
from flowgate.bus.memory_store import MemoryStore
from flowgate.queues.service import Queues
from tests import FUZZ_SECONDS
from tests.queues.scenario import BEGIN, Operation, Scenario, TimedLogs, random_operations


class PropertyTests(SynchronousTestCase):
    """On the bus in memory."""

    def _try(self, fifo: bool, operations: Sequence[Operation]) -> None:
        clock = Clock()
        clock.advance(BEGIN)
        store, shared = MemoryStore(), MemoryQueueLogs(clock)

        async def node(_: int) -> tuple[TimedLogs, Queues]:
            logs = TimedLogs(MemoryQueueLogs(clock, shared), clock)
            queues = Queues(logs, store, b"secret" * 8, clock, clock.seconds)
            await queues.start()
            return logs, queues

        self.successResultOf(Deferred.fromCoroutine(Scenario(fifo, clock, node).run(operations)))

    def _search(self, fifo: bool) -> None:
        for seed in range(max(60, int(FUZZ_SECONDS * 15))):
            try:
                self._try(fifo, random_operations(Random(seed), 150))
            except self.failureException as error:
                raise self.failureException(f"with seed {seed}: {error}") from None

    def test_standard(self) -> None:
        """A standard queue does what the model does."""
        self._search(False)

    def test_fifo(self) -> None:
        """A FIFO queue does what the model does: order in groups, blocking, repetitions."""
        self._search(True)
