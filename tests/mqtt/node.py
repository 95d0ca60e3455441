"""A node of the gateway in memory, and clients' ends of MQTT connections to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from flowgate.auth.permissions import Grant, Grants, Principal
from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.bus.memory_store import MemoryStore
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections
from flowgate.errors import AccountSuspended, BusUnavailable, InvalidToken
from flowgate.gateway import Gateway
from flowgate.interfaces import IBusListener, IStore
from flowgate.limits import Limits, Policies, TopicPolicy
from flowgate.message import Entry, Run
from flowgate.metering import Meter
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Connect, Publish
from flowgate.mqtt.protocol import MqttFactory, MqttProtocol
from flowgate.mqtt.sessions import Sessions
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.timers import Wheel
from flowgate.topics import Namespace

HOME = Namespace("alice", "shop")
LIFE = 900
"""Seconds that a token lives."""


class Tokens:
    """Knows the tokens of alice (a wide and a narrow one), of bob, and of a suspended user."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def verify(self, token: str) -> Principal:
        if token == "suspended":
            raise AccountSuspended
        if token not in ("alice", "narrow", "bob"):
            raise InvalidToken
        home = Namespace("alice" if token == "narrow" else token, "shop")
        readable = "open/#" if token == "narrow" else "#"
        grants = Grants(
            publish=(Grant(home, "open/#"), Grant(home, "t"), Grant(home, "$SYS/#")),
            subscribe=(Grant(home, readable),),
            queues=(),
        )
        return Principal(
            user=home.user,
            app="shop",
            home=home,
            key_id="FGAK",
            grants=grants,
            expires_at=self._clock.seconds() + LIFE,
            token_id="1",
            issued_at=self._clock.seconds(),
        )


class Transport(StringTransport):
    """A transport in memory that knows the TCP calls an MQTT connection makes."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled


class Peer:
    """A client's end of a connection in memory."""

    def __init__(self, factory: MqttFactory) -> None:
        protocol = factory.buildProtocol(None)
        self.protocol: MqttProtocol = protocol
        self.transport = Transport()
        self.protocol.makeConnection(self.transport)
        self._decoder = packets.Decoder(1 << 20)

    def send(self, *data: bytes) -> None:
        self.protocol.dataReceived(b"".join(data))

    def connect(self, client_id: str = "c", token: str = "alice", **options: Any) -> Peer:
        self.send(packets.connect(Connect(client_id, user_name="Bearer", password=token.encode(), **options)))
        return self

    def packets(self) -> list[Any]:
        """What came since the last call."""
        data = self.transport.value()
        self.transport.clear()
        return list(self._decoder.feed(data))

    def got(self) -> list[Any]:
        """What came since the last call; PUBLISH packets as (topic, payload, qos)."""
        found: list[Any] = []
        for packet in self.packets():
            if isinstance(packet, Publish):
                found += [(packet.topic.decode(), payload, packet.qos) for payload in packet.payloads()]
            else:
                found.append(packet)
        return found

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting or self.transport.disconnected

    def lose(self) -> None:
        """The connection is gone."""
        self.protocol.connectionLost()


class _Both:
    """Tells several nodes what one bus in memory brings."""

    def __init__(self) -> None:
        self.listeners: list[IBusListener] = []

    def arrived(self, runs: list[Run]) -> None:
        for listener in list(self.listeners):
            listener.arrived(runs)

    def settled(self) -> None:
        for listener in list(self.listeners):
            listener.settled()

    def drained(self) -> None:
        for listener in list(self.listeners):
            listener.drained()

    def availability(self, available: bool) -> None:
        for listener in list(self.listeners):
            listener.availability(available)


@implementer(IStore)
class LateStore:
    """A node's way to a store: everything takes a turn of the clock, and nothing comes once the node is dead."""

    def __init__(self, store: MemoryStore, clock: Clock, settled: Callable[[], None]) -> None:
        """``settled`` is called behind every answer, as by a link whose read is over."""
        self._store = store
        self._clock = clock
        self._settled = settled
        self.dead = False
        self.away = False
        self.deaf = False  # the watch tells nothing
        self.puts = 0

    def _later(self, work: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        if self.away:
            return fail(BusUnavailable())
        done: Deferred[Any] = Deferred()

        def do() -> None:
            if not self.dead:
                work().chainDeferred(done)
                self._settled()

        self._clock.callLater(0, do)
        return done

    def get(self, bucket: str, key: str) -> Deferred[Entry | None]:
        return self._later(lambda: self._store.get(bucket, key))

    def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> Deferred[int]:
        self.puts += 1
        return self._later(lambda: self._store.put(bucket, key, value, revision))

    def delete(self, bucket: str, key: str, revision: int | None = None) -> Deferred[None]:
        return self._later(lambda: self._store.delete(bucket, key, revision))

    def watch(self, bucket: str, changed: Callable[[str, bytes | None], None]) -> Deferred[Callable[[], None]]:
        def alive(key: str, value: bytes | None) -> None:
            if not self.dead and not self.deaf:
                changed(key, value)

        return self._store.watch(bucket, alive)


class Cluster:
    """What the nodes of a test share: time, bus and stores; it outlives them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.listeners = _Both()
        self.bus = MemoryBus(self.clock, self.listeners)  # type: ignore[arg-type]
        self.store = MemoryStore()
        self.retained = MemoryRetained(self.clock)
        self.hub = MemoryPeersHub(self.clock)
        self.groups = MemoryGroupsHub(self.clock, self.bus)
        self.bus.start()

    def settle(self) -> None:
        """Let what is under way arrive."""
        for _ in range(20):
            self.clock.advance(0)
            self.listeners.settled()  # as behind every read of the link, whatever it brought


class Node:
    """One node."""

    limits = Limits(inflight_messages=4, queued_messages=8, unacknowledged_messages=10, connections=3)

    def __init__(self, cluster: Cluster, limits: Limits | None = None, alone: bool = True) -> None:
        self.cluster = cluster
        self.clock = cluster.clock
        self.bus = cluster.bus
        self.turn = Turn()
        if limits is not None:
            self.limits = limits
        self.connections = Connections(self.limits.connections)
        policies = Policies((TopicPolicy("open/live", history=False),))
        self.peers = MemoryPeers(cluster.hub)
        self.peers.alone = alone
        self.meter = Meter()
        self.gateway = Gateway(
            self.bus,
            Router(),
            self.turn,
            self.connections,
            self.meter,
            self.limits,
            policies,
            retained=cluster.retained,
            groups=MemoryGroups(cluster.groups),
        )
        cluster.listeners.listeners.append(self.gateway)
        self.wheel = Wheel(self.clock)
        self.store = LateStore(cluster.store, self.clock, self.turn.flush)
        self.sessions = Sessions(self.gateway, self.store, self.peers, self.clock, self.clock.seconds)
        tokens: Any = Tokens(self.clock)
        self.factory = MqttFactory(self.gateway, tokens, self.sessions, self.wheel, self.clock, self.clock.seconds)
        self.started = self.sessions.start()
        cluster.settle()

    def peer(self, client_id: str = "c", token: str = "alice", **options: Any) -> Peer:
        """A client that has sent CONNECT."""
        peer = Peer(self.factory).connect(client_id, token, **options)
        self.cluster.settle()
        return peer

    def die(self) -> None:
        """Stop without a word, as by kill -9: nothing more is written or sent."""
        self.peers.go_away()
        self.store.dead = True
        self.cluster.listeners.listeners.remove(self.gateway)
        self.gateway._bus = MemoryBus(self.clock)  # one that is not there
