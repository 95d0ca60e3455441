"""The first stage: the bus, the message path on it, and the stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.logger import globalLogPublisher

from flowgate.auth.secrets import agree_on_master
from flowgate.bus.bridge import NatsConnection
from flowgate.bus.groups import LinkGroups
from flowgate.bus.jetstream import JetStreamBus
from flowgate.bus.kv import JetStreamStore
from flowgate.bus.peers import LinkPeers
from flowgate.bus.records import LinkStore
from flowgate.bus.retained import JetStreamRetained
from flowgate.connections import Connections
from flowgate.gateway import Gateway
from flowgate.interfaces import IGroups, IPeers, IStore
from flowgate.limits import Policies
from flowgate.logs import Troubles
from flowgate.metering import Meter
from flowgate.metrics.lag import LoopLag
from flowgate.router import Router
from flowgate.settings import Settings
from flowgate.subscriber import Turn
from flowgate.timers import Wheel
from flowgate.wiring.undoing import Undo


@attrs.frozen
class Messages:
    """What the first stage makes.

    :ivar bus: topics.
    :ivar nats: a connection of nats-py, for what is not hot.
    :ivar store: small records that every node watches; ``records`` the same, written faster.
    :ivar now: seconds since 1970 UTC.
    """

    bus: JetStreamBus
    nats: NatsConnection
    store: IStore
    records: IStore
    peers: IPeers
    groups: IGroups
    router: Router
    gateway: Gateway
    connections: Connections
    meter: Meter
    troubles: Troubles
    wheel: Wheel


async def open_messages(
    reactor: Any, settings: Settings, urls: Sequence[str], master: bytes, now: Any, undo: Undo
) -> Messages:
    """Connect to NATS and make ready what carries messages.

    :param urls: of the NATS servers.
    :param now: seconds since 1970 UTC.
    :raises StartError: if the servers are too old, or their accounts belong to another master secret.
    """
    shared = bool(settings.nats)
    meter = Meter()
    troubles = Troubles(meter, now)
    globalLogPublisher.addObserver(troubles)
    undo("count of errors", lambda: globalLogPublisher.removeObserver(troubles))
    lag = LoopLag(reactor, meter.histogram("event_loop_lag_seconds"))
    undo("loop lag", lag.stop)
    lag.start()
    bus = JetStreamBus(
        reactor,
        urls,
        shared=shared,
        replicas=settings.replicas,
        # The stream is the queue of durable sessions too.
        history_messages=max(settings.history_messages, settings.limits.queued_messages),
        history_age=settings.history_age,
        largest=settings.limits.message_bytes,
        measured=meter.histogram("bus_round_trip_seconds").observe,
    )
    meter.gauge("bus_backlog_messages", lambda: bus.under_way[0])
    meter.gauge("bus_backlog_bytes", lambda: bus.under_way[1])
    meter.gauge("bus_reconnects", lambda: bus.reconnects)
    wheel = Wheel(reactor)
    undo("timers", wheel.stop)
    connections = Connections(settings.limits.connections)
    peers = LinkPeers(bus.link, shared=shared)
    groups = LinkGroups(reactor, bus.link, peers)
    router = Router()
    gateway = Gateway(
        bus,
        router,
        Turn(),
        connections,
        meter,
        settings.limits,
        Policies(settings.policies),
        retained=JetStreamRetained(reactor, bus.link, replicas=settings.replicas),
        groups=groups,
    )
    bus.listener = gateway
    undo("bus", bus.stop)
    undo("bus listener", lambda: setattr(bus, "listener", None))
    await bus.start()
    nats = NatsConnection(urls)
    undo("nats connection", nats.stop)
    await nats.start()
    store = JetStreamStore(nats, replicas=settings.replicas)
    await agree_on_master(store, master)
    undo("shared subscriptions", groups.stop)
    records = LinkStore(bus.link, store, replicas=settings.replicas)
    return Messages(bus, nats, store, records, peers, groups, router, gateway, connections, meter, troubles, wheel)
