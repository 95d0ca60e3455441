"""What finds tagged messages, over a real nats-server."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from flowgate.bus.jetstream import JetStreamBus
from flowgate.bus.tagged import JetStreamTagged
from tests.contracts.tagged import TaggedContract
from tests.integration.nats import NatsServer, nats_server

_T = TypeVar("_T")


class JetStreamTaggedTests(TaggedContract, TestCase):
    """The contract, over JetStream."""

    timeout = 30
    server: NatsServer

    async def setUp(self) -> None:  # type: ignore[override]
        self.server = nats_server(self)
        bus = JetStreamBus(reactor, [self.server.url], history_messages=10_000)
        self.addCleanup(bus.stop)
        await bus.start()
        self.bus = bus
        self.tagged = JetStreamTagged(reactor, bus.link)

    def done(self, deferred: Deferred[_T]) -> Awaitable[_T]:
        return deferred

    async def go_away(self) -> None:
        self.server.kill()
        while self.bus.available:
            turned: Deferred[None] = Deferred()
            reactor.callLater(0.01, turned.callback, None)
            await turned
