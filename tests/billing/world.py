"""Nodes with a Billing Guard in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface import implementer

from flowgate.allowances import Allowance
from flowgate.allowing import AccountAllowances
from flowgate.auth.permissions import Grants, Principal
from flowgate.billing.notices import Notices
from flowgate.billing.plans import Plan, Plans
from flowgate.billing.service import Billing
from flowgate.billing.usage import LedgerEntry, Usage
from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_journal import MemoryJournal
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.bus.memory_store import MemoryStore
from flowgate.bus.memory_tagged import MemoryTagged
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections
from flowgate.errors import BusUnavailable
from flowgate.gateway import Gateway
from flowgate.interfaces import IBusListener, IJournal
from flowgate.limits import Limits, Policies
from flowgate.message import Cursor, JournalEntry, Run, Stored
from flowgate.metering import Meter
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.topics import Namespace
from tests.mqtt.node import LateStore

HOME = Namespace("alice", "shop")
START = 1795690800.0  # 2026-11-26 11:00:00 UTC

FREE = Plan("free", units=10)
DAILY = Plan("daily", units=10, period="day")
PREPAID = Plan("prepaid", units=3, prepaid=True)


def principal(key: str = "FGAK1", home: Namespace = HOME, token: str = "t") -> Principal:
    return Principal(home.user, home.app, home, key, Grants.everything(home), 1e10, token, 0.0)


@implementer(IJournal)
class LateJournal:
    """A node's way to the journal: everything takes a turn of the clock, and nothing comes once the node is dead."""

    def __init__(self, journal: MemoryJournal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self.dead = False
        self.away = False

    def _later(self, work: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        if self.away:
            return fail(BusUnavailable())
        done: Deferred[Any] = Deferred()

        def do() -> None:
            if not self.dead:
                work().chainDeferred(done)

        self._clock.callLater(0, do)
        return done

    def append(self, book: str, owner: str, entry_id: str, value: bytes) -> Deferred[bool]:
        return self._later(lambda: self._journal.append(book, owner, entry_id, value))

    def page(self, book: str, owner: str, before: int | None, limit: int) -> Deferred[list[JournalEntry]]:
        return self._later(lambda: self._journal.page(book, owner, before, limit))


class LostStore(LateStore):
    """Loses acknowledgements when it is told to: what was written fails.

    :ivar lose: how many of the next writes.
    """

    lose = 0

    def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> Deferred[int]:
        written = super().put(bucket, key, value, revision)
        if self.lose:
            self.lose -= 1
            return written.addCallback(self._lost)
        return written

    def _lost(self, _: int) -> int:
        raise BusUnavailable


class _All:
    """Tells all nodes what the bus brings."""

    def __init__(self) -> None:
        self.listeners: list[IBusListener] = []

    def arrived(self, runs: list[Run]) -> None:
        for listener in self.listeners:
            listener.arrived(runs)

    def settled(self) -> None:
        for listener in self.listeners:
            listener.settled()

    def drained(self) -> None:
        """No node reads."""

    def availability(self, available: bool) -> None:
        for listener in self.listeners:
            listener.availability(available)


class World:
    """What nodes share."""

    def __init__(self, plan: Plan | None = FREE, more: Sequence[Plan] = (), per_topic: int = 10_000) -> None:
        self.clock = Clock()
        self.listeners = _All()
        self.bus = MemoryBus(self.clock, self.listeners, per_topic=per_topic)  # type: ignore[arg-type]
        self.store = MemoryStore()
        self.journal = MemoryJournal(self.now)
        self.hub = MemoryPeersHub(self.clock)
        self.groups = MemoryGroupsHub(self.clock, self.bus)
        self.users: dict[str, str] = {}
        plans = {one.name: one for one in ([plan] if plan else []) + list(more)}
        self.plans = Plans(plans, plan.name if plan else "", lambda user: self.users.get(user, ""))
        self.bus.start()
        self.posted: list[dict[str, Any]] = []

    def now(self) -> float:
        return START + self.clock.seconds()

    def settle(self, turns: int = 40) -> None:
        """Let what is under way arrive."""
        for _ in range(turns):
            self.clock.advance(0)

    def pass_(self, seconds: float) -> None:
        """Let time pass, a second at a time."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.settle(15)

    def entries(self, user: str = "alice") -> list[LedgerEntry]:
        """The ledger of a user, the oldest entry first."""
        found: list[JournalEntry] = []
        self.journal.page("ledger", user, None, 1000).addCallback(found.extend)
        return [LedgerEntry.load(entry) for entry in reversed(found)]

    def charged(self, user: str = "alice") -> int:
        return sum(entry.units for entry in self.entries(user))

    def history(self) -> list[Run]:
        """What history holds."""
        runs: list[Run] = []
        self.bus.history(HOME, "#", Cursor(self.bus.epoch, 0), 1_000_000).addCallback(runs.extend)
        return runs

    def stored(self) -> int:
        """How many messages history holds."""
        return sum(run.count for run in self.history())


class Node:
    """A node."""

    def __init__(self, world: World, *, alone: bool = False) -> None:
        self.world = world
        clock = world.clock
        self.peers = MemoryPeers(world.hub)
        self.peers.alone = alone
        self.store = LostStore(world.store, clock, lambda: None)
        self.journal = LateJournal(world.journal, clock)
        self.meter = Meter()
        self.connections = Connections(1000)
        router, turn = Router(), Turn()
        self.notices = Notices(self.connections, router, turn, clock)
        self.billing = Billing(
            self.store,
            self.journal,
            MemoryTagged(world.bus),
            self.peers,
            world.plans,
            clock,
            world.now,
            connections=self.connections,
            meter=self.meter,
            notices=self.notices,
            reach=lambda user: {("bob", "cafe")} if user == "alice" else set(),
        )
        self.allowances = AccountAllowances(self.billing.purse)
        self.gateway = Gateway(
            world.bus,
            router,
            turn,
            self.connections,
            self.meter,
            Limits(),
            Policies(()),
            retained=MemoryRetained(clock),
            groups=MemoryGroups(world.groups),
            allowances=self.allowances,
        )
        world.listeners.listeners.append(self.gateway)
        self.billing.start()
        world.settle()

    def allowance(self, **who: Any) -> Allowance:
        return self.allowances.of(principal(**who))

    def publish(
        self, payload: bytes = b"x", topic: str = "t", message_id: str | None = None, **who: Any
    ) -> Deferred[Stored]:
        """Publish; a refusal at once comes through the Deferred too."""
        route = self.gateway.route(principal(**who), topic)
        try:
            return self.gateway.publish(route, payload, message_id=message_id)
        except Exception as refusal:
            return fail(refusal)

    def die(self) -> None:
        """Stop without a word, as by kill -9."""
        self.peers.go_away()
        self.store.dead = self.journal.dead = True
        if self.billing._loop.running:
            self.billing._loop.stop()
        self.world.listeners.listeners.remove(self.gateway)
        self.gateway._bus = MemoryBus(self.world.clock)  # one that is not there

    def usage(self, user: str = "alice") -> Usage:
        found: list[Usage] = []
        self.billing.usage(user).addCallback(found.append)
        self.world.settle()
        return found[0]

    def stop(self) -> None:
        self.billing.stop()
        self.world.settle()
