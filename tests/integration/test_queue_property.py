"""Queues against the model over a real nats-server; only the time is ours."""

from __future__ import annotations

from random import Random

from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from flowgate.bus.bridge import NatsConnection
from flowgate.bus.memory_store import MemoryStore
from flowgate.bus.queue_logs import JetStreamQueueLogs
from flowgate.queues.service import Queues
from tests import FUZZ_SECONDS
from tests.integration.links import make_link
from tests.integration.nats import nats_server
from tests.queues.scenario import BEGIN, HOME, Scenario, TimedLogs, random_operations


class PropertyTests(TestCase):
    """The same as ``tests/queues/test_property.py``, where what two nodes do takes its time."""

    timeout = 60 + 10 * FUZZ_SECONDS

    async def setUp(self) -> None:  # type: ignore[override]
        server = nats_server(self)
        self.logs = []
        for _ in range(2):
            link, _ = await make_link(self, server.url)
            connection = NatsConnection([server.url])
            self.addCleanup(connection.stop)
            await connection.start()
            logs = JetStreamQueueLogs(reactor, link, connection)
            self.addCleanup(logs.stop)
            self.logs.append(logs)

    async def _search(self, fifo: bool) -> None:
        for seed in range(max(3, int(FUZZ_SECONDS / 2))):
            clock = Clock()
            clock.advance(BEGIN)
            store = MemoryStore()

            async def node(number: int, clock: Clock = clock, store: MemoryStore = store) -> tuple[TimedLogs, Queues]:
                logs = TimedLogs(self.logs[number], clock)
                queues = Queues(logs, store, b"secret" * 8, clock, clock.seconds)
                await queues.start()
                return logs, queues

            scenario = Scenario(fifo, clock, node, lambda: deferLater(reactor, 0.0005))
            try:
                await scenario.run(random_operations(Random(seed), 150))
            except AssertionError as error:
                raise AssertionError(f"with seed {seed}: {error}") from error
            for name in (scenario.name, scenario.dead_name):
                await self.logs[0].delete(HOME, name)

    async def test_standard(self) -> None:
        """A standard queue does what the model does."""
        await self._search(False)

    async def test_fifo(self) -> None:
        """A FIFO queue does what the model does: order in groups, blocking, repetitions."""
        await self._search(True)
