"""Who is connected where, and what is kept for clients that are away.

Every client identifier of an application has one *seat* on one node at a time ([MQTT-3.1.4-2]).  A client with a
durable session, or with a will, has a record in the store that names its node, so that another node can ask for the
session, and can publish the will if the node dies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol
from uuid import uuid4

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import BusUnavailable, Conflict, InsufficientScope, NotFound, Refused, TooManyConnections
from flowgate.gate import Gate
from flowgate.gateway import Gateway
from flowgate.interfaces import IPeers, IStore
from flowgate.message import Entry
from flowgate.mqtt.durable import LATE_SECONDS, Durable, IDurableClient
from flowgate.mqtt.record import RECORDS, STATES, KeptWill, Record, SavedState, client_key
from flowgate.mqtt.session import MOST_UNRELEASED, Restored, Session
from flowgate.topics import Namespace, Topic

_log = Logger()

LOOK_SECONDS = 5.0
"""How often the nodes of clients are looked after; a node that is away twice in a row is dead."""
EXPIRY_SECONDS = 60.0
"""How often sessions are looked for that were left alone for too long."""
_RETRY_SECONDS = 1.0
_SETTLE_SECONDS = 0.02
_TAKEOVER_SECONDS = 5.0
_BURIED_AT_ONCE = 64
"""Clients of a dead node that are looked after at once."""
_EXPECTED = (BusUnavailable, CancelledError, Conflict)
"""Why work that nobody waits for may fail without a fault: it is done again, or another node does it."""
_ATTEMPTS = 5
"""How often a CONNECT is tried again because another node changed the same record."""


class IClient(IDurableClient, Protocol):
    """What a seat needs of its connection."""

    def displaced(self) -> None:
        """Another connection has the same client identifier: close this one."""

    def permits(self, namespace: Namespace, filter_: str) -> bool:
        """Whether the client's token of now permits a subscription that was made with an earlier one."""


@attrs.define(eq=False)
class Seat:
    """The place of a connected client.

    :ivar durable: its session, if that outlives the connection.
    :ivar present: whether the session was there before (the session present flag of CONNACK).
    :ivar turn: fires when the connection that had the seat before has given it up.
    """

    key: str
    client: IClient
    since: float
    record: Record | None = None
    durable: Durable | None = None
    present: bool = False
    begin: tuple[SavedState | None, Restored | None] = (None, None)
    opening: bool = True
    left: bool = False
    turn: Deferred[None] | None = None
    timer: IDelayedCall | None = None
    waiting: list[Deferred[None]] = attrs.Factory(list)

    @property
    def settled(self) -> bool:
        """Whether the client is connected, and has a record."""
        return self.record is not None and not self.opening and not self.left

    def over(self) -> Deferred[None]:
        """:returns: a Deferred, fired once the seat is free and everything about it is kept."""
        over: Deferred[None] = Deferred()
        self.waiting.append(over)
        return over


@attrs.frozen(slots=True)
class _Known:
    """What every node remembers of a record."""

    owner: str
    since: float
    clean: bool


def _application(key: str) -> str:
    """The part of a client's key that names its application."""
    return key.rpartition(".")[0]


class Sessions:
    """The seats of this node, and the records of all.

    Sessions expire ``limits.session_seconds`` after their client went away.
    """

    def __init__(
        self,
        gateway: Gateway,
        store: IStore,
        peers: IPeers,
        clock: IReactorTime,
        now: Callable[[], float],
        admits: Callable[[Namespace, Topic], bool] = lambda home, topic: topic.namespace == home,
    ) -> None:
        """Prepare; nothing happens before :meth:`start`.

        :param store: for records and states.
        :param clock: in the reactor's seconds.
        :param now: seconds since 1970 UTC.
        :param admits: whether a will of a client at home in a namespace may go out to a topic, now.
        """
        self._admits = admits
        self._gateway = gateway
        self._store = store
        self._peers = peers
        self._counts: dict[str, int] = {}  # durable sessions of each application
        self._total = 0
        meter = gateway.meter
        meter.gauge("sessions", lambda: self._total)
        # A rate of what has never happened yet is 0, not nothing.
        meter.counter("sessions_expired", "mqtt")
        meter.counter("clients_cut", ("mqtt", "slow"))
        for reason in ("slow", "session", "billing"):
            meter.counter("messages_dropped", ("mqtt", reason))
        self._clock = clock
        self._now = now
        self._seats: dict[str, Seat] = {}
        self._next: dict[str, Seat] = {}  # who gets a seat when its holder is gone: the newest connection alone
        self._known: dict[str, _Known] = {}
        self._written: set[str] = set()  # records that this node has put, which the watch may not have told yet
        self._missing: set[str] = set()
        self._watch: Callable[[], None] | None = None
        self._loops: list[LoopingCall] = []
        self._leaving: set[Deferred[None]] = set()
        self._working: set[Deferred[None]] = set()

    # -- start and stop

    def start(self) -> Deferred[None]:
        """Learn which clients there are, and look after those whose nodes are gone.

        :returns: a Deferred, fired once the wills that this node found at once are published.
        :raises BusUnavailable: through the Deferred.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._peers.answer("takeover", self._asked)
        self._peers.answer("alive", lambda _: succeed(b""))
        self._peers.hear("connected", self._told)
        self._watch = await self._store.watch(RECORDS, self._changed)
        try:
            await self._look()
        except BusUnavailable as reason:
            _log.warn("the clients of nodes that are gone are looked after later: {reason}", reason=reason.detail)
        for seconds, work in ((LOOK_SECONDS, self._look), (EXPIRY_SECONDS, self._expire)):
            loop = LoopingCall(self._looked_after(work))
            loop.clock = self._clock
            self._loops.append(loop)
            loop.start(seconds, now=False)

    def _looked_after(self, work: Callable[[], Any]) -> Callable[[], Deferred[None]]:
        def run() -> Deferred[None]:
            working: Deferred[None] = Deferred.fromCoroutine(work())
            self._working.add(working)

            def ended(result: Any) -> None:
                self._working.discard(working)
                if isinstance(result, Failure) and not isinstance(result.value, _EXPECTED):
                    _log.failure("looking after sessions failed", result)

            return working.addBoth(ended)

        return run

    def stop(self) -> Deferred[None]:
        """Wait until every session is kept; the connections have ended before."""
        if self._watch is not None:
            self._watch()
            self._watch = None
        for loop in self._loops:
            if loop.running:
                loop.stop()
        for working in list(self._working):
            working.cancel()
        return Deferred.fromCoroutine(self._settled())

    async def _settled(self) -> None:
        """Wait until nobody comes or goes."""
        while self._leaving or any(seat.opening for seat in self._seats.values()):
            await deferLater(self._clock, _SETTLE_SECONDS)

    # -- what is known of all nodes

    def _changed(self, key: str, value: bytes | None) -> None:
        record = None
        known = self._known.pop(key, None)
        if known is not None and not known.clean:
            self._count(key, -1)
        if value is not None:
            try:
                record = Record.decode(value)
            except ValueError as error:
                _log.error("the record {key} cannot be read: {error}", key=key, error=error)
                return
            self._known[key] = _Known(record.owner, record.since, record.clean)
            if not record.clean:
                self._count(key, 1)
        seat = self._seats.get(key)
        if seat is not None and seat.settled and (record is None or not self._is_of(record, seat)):
            # It may be news of before this node had the client: the store knows.
            self._in_background(self._verify(seat))

    def _count(self, key: str, change: int) -> None:
        application = _application(key)
        self._total += change
        self._counts[application] = count = self._counts.get(application, 0) + change
        if not count:
            del self._counts[application]

    def _is_of(self, record: Record, seat: Seat) -> bool:
        assert seat.record is not None
        return (record.owner, record.uid) == (self._peers.node, seat.record.uid)

    async def _verify(self, seat: Seat) -> None:
        """Let a client go whose record another node has changed: that has published its will, or has the client."""
        entry = await self._store.get(RECORDS, seat.key)
        record = None if entry is None else self._decoded(seat.key, entry)
        if seat.settled and (record is None or not self._is_of(record, seat)):
            seat.client.taken()

    async def _look(self) -> None:
        """Find the nodes that are gone, and do what they cannot do any more."""
        owners = {known.owner for known in self._known.values() if known.owner and known.owner != self._peers.node}
        missing: set[str] = set()
        for owner in owners:
            try:
                await self._peers.ask(owner, "alive")
            except NotFound:
                missing.add(owner)
            except BusUnavailable:
                continue  # it may be us who are cut off
        # A node that lost its connection for a moment is not dead; with a bus of our own there is no other node.
        dead = missing if self._peers.alone else missing & self._missing
        self._missing = missing
        for owner in dead:
            await self._bury(owner)

    async def _bury(self, owner: str) -> None:
        keys = [key for key, known in self._known.items() if known.owner == owner]
        _log.info("node {owner} is gone; it had {count} MQTT clients", owner=owner, count=len(keys))
        gate = Gate(_BURIED_AT_ONCE)
        buried = [gate.run(lambda key=key: Deferred.fromCoroutine(self._bury_one(key, owner))) for key in keys]  # type: ignore[misc]
        for _, outcome in await DeferredList(buried, consumeErrors=True):
            if isinstance(outcome, Failure):
                outcome.raiseException()

    async def _bury_one(self, key: str, owner: str) -> None:
        try:
            entry = await self._store.get(RECORDS, key)
            record = None if entry is None else self._decoded(key, entry)
            if entry is not None and record is not None and record.owner == owner:
                await self._let_go(key, record, entry.revision)
        except BusUnavailable:
            raise
        except Exception:
            # One client's fault must not keep a node from starting.
            _log.failure("the client {key} of a node that is gone cannot be looked after", key=key)

    def _decoded(self, key: str, entry: Entry) -> Record | None:
        """What a record says; ``None`` if that cannot be read: then there is none, and it may be written over."""
        try:
            return Record.decode(entry.value)
        except ValueError as error:
            _log.error("the record {key} cannot be read: {error}", key=key, error=error)
            return None

    async def _let_go(self, key: str, record: Record, revision: int) -> None:
        """Do what a node did not do that is gone: publish the will, and count the client as away from now on."""
        try:
            if record.will is not None and record.will.qos:
                # With an id: once, whoever else does it too.
                await self._publish_or_drop(key, record.will, record, True)
            if record.clean:
                await self._delete_record(key, revision)
            else:
                await self._fence(key, record)
                away = attrs.evolve(record, owner="", since=self._now(), will=None)
                await self._store.put(RECORDS, key, away.encode(), revision)
            if record.will is not None and not record.will.qos:
                # Without one: by whoever has changed the record.
                await self._publish_or_drop(key, record.will, record, True)
        except Conflict:
            return  # another node was faster, or the client is back

    async def _fence(self, key: str, record: Record) -> None:
        """Take a session's state from a node: should that node live after all, its next write fails."""
        while True:
            entry = await self._store.get(STATES, key)
            state = None if entry is None else SavedState.decode(entry.value)
            if state is None or state.uid != record.uid:
                state = SavedState(record.uid, "", 0, {}, Session(1, 0, 0).state())
            try:
                taken = attrs.evolve(state, owner="").encode()
                await self._store.put(STATES, key, taken, 0 if entry is None else entry.revision)
                return
            except Conflict:
                continue  # it has written once more

    async def _expire(self) -> None:
        """Remove the sessions of clients that stayed away for too long."""
        limit = self._now() - self._gateway.limits.session_seconds
        for key in [key for key, known in self._known.items() if not known.owner and known.since < limit]:
            entry = await self._store.get(RECORDS, key)
            if entry is None:
                continue
            record = self._decoded(key, entry)
            if record is not None and not record.owner and record.since < limit:
                try:
                    await self._discard(key, entry.revision)
                except Conflict:
                    continue  # the client is back
                _log.info("the session of MQTT client {client!r} has expired", client=record.client_id)
                self._gateway.meter.add("sessions_expired", "mqtt")

    def _asked(self, payload: bytes) -> Deferred[bytes]:
        """Another node has a client with the identifier of one of ours: let it go first."""
        key = payload.decode()
        seat, following = self._seats.get(key), self._next.get(key)
        if following is not None:
            following.client.displaced()
        gone: Deferred[bytes] = Deferred()
        if seat is None:
            gone.callback(b"")
        else:
            seat.over().addCallback(lambda _: gone.callback(b""))
            seat.client.displaced()
        return gone

    def _told(self, payload: bytes) -> None:
        """A client without a record has connected to another node."""
        key, since, node = json.loads(payload)
        seat = self._next.get(key) or self._seats.get(key)
        if seat is None or seat.left:
            return
        # Of two connections at the same moment each node must close the same one, whatever their clocks say.
        if (seat.since, self._peers.node) < (since, node):
            seat.client.displaced()
        else:
            self._claim(seat)

    def _claim(self, seat: Seat) -> None:
        """Tell the other nodes that the client is here."""
        self._peers.tell("connected", json.dumps([seat.key, seat.since, self._peers.node]).encode())

    # -- coming

    def open(
        self, client: IClient, home: Namespace, client_id: str, clean: bool, will: KeptWill | None, named: bool
    ) -> tuple[Seat, Deferred[None]]:
        """Give a client its seat; a connection that has it is closed first, on whatever node it is.

        :param client_id: not empty.
        :param clean: no session before, none after ([MQTT-3.1.2-6]).
        :param will: to be kept until the client has gone.
        :param named: whether the client chose the identifier: one of ours is nobody else's.
        :returns: the seat, whose holder has to :meth:`leave` it in any case, and a Deferred, fired once it can be
            taken.
        :raises Refused: through the Deferred.
        """
        key = client_key(home, client_id)
        seat = Seat(key, client, self._now())
        holder = self._seats.get(key)
        if holder is not None:
            self._queue(seat, holder)
        else:
            self._seats[key] = seat
            if not named and will is None:
                seat.opening = False
                return seat, succeed(None)
        return seat, Deferred.fromCoroutine(self._open(seat, client_id, clean, will))

    def make_room(self, home: Namespace, client_id: str) -> bool:
        """Close a client's last connection before there is another one, for which there is no room as long as it stays.

        One on another node is told to go; when that node has said that it has gone, there is room.

        :returns: whether one was closed on this node.
        """
        key = client_key(home, client_id)
        seat = self._next.get(key) or self._seats.get(key)
        if seat is None or seat.left:
            self._peers.tell("connected", json.dumps([key, self._now(), self._peers.node]).encode())
            return False
        seat.client.displaced()
        return True

    def _queue(self, seat: Seat, holder: Seat) -> None:
        """Have a seat wait for its holder to go; who waited before is taken over like the holder."""
        before = self._next.get(seat.key)
        self._next[seat.key] = seat
        seat.turn = Deferred()
        seat.timer = self._clock.callLater(_TAKEOVER_SECONDS, self._refuse_turn, seat)
        for one in (before, holder):
            if one is not None and not one.left:
                one.client.displaced()

    def _refuse_turn(self, seat: Seat) -> None:
        """Wait no longer: the time is over, or the client is gone."""
        if seat.turn is None or seat.turn.called:
            return
        if seat.timer is not None and seat.timer.active():
            seat.timer.cancel()
        if self._next.get(seat.key) is seat:
            del self._next[seat.key]
        seat.turn.errback(BusUnavailable("what the last connection of this client left behind is not kept yet"))

    async def _open(self, seat: Seat, client_id: str, clean: bool, will: KeptWill | None) -> None:
        try:
            if seat.turn is not None:
                await seat.turn
            await self._open_in_turn(seat, client_id, clean, will)
        finally:
            seat.opening = False
            if seat.left:
                self._give_up(seat, None)

    async def _open_in_turn(self, seat: Seat, client_id: str, clean: bool, will: KeptWill | None) -> None:
        self._claim(seat)
        for _ in range(_ATTEMPTS):
            if seat.left:
                return
            try:
                if clean:
                    await self._open_clean(seat, client_id, will)
                else:
                    await self._open_durable(seat, client_id, will)
                return
            except Conflict:
                continue  # another node changed the record: look again
        raise BusUnavailable("the client identifier is in use on several nodes at once")

    async def _record_of(self, seat: Seat) -> tuple[Record | None, int]:
        """The client's record and its revision, once no other node has the client."""
        entry = await self._store.get(RECORDS, seat.key)
        if await self._taken_from_others(seat, entry):
            entry = await self._store.get(RECORDS, seat.key)
        return (None, 0) if entry is None else (self._decoded(seat.key, entry), entry.revision)

    async def _taken_from_others(self, seat: Seat, entry: Entry | None) -> bool:
        """See to it that no other node has the client; tell whether one had, so that its entries have changed."""
        record = None if entry is None else self._decoded(seat.key, entry)
        if entry is None or record is None or not record.owner or record.owner == self._peers.node:
            return False
        try:
            await self._peers.ask(record.owner, "takeover", seat.key.encode(), _TAKEOVER_SECONDS)
        except NotFound:
            await self._let_go(seat.key, record, entry.revision)
        return True

    def _has_record(self, key: str) -> bool:
        """Whether there may be a record of a client."""
        return not self._peers.alone or key in self._written or key in self._known

    async def _put_record(self, key: str, record: Record, revision: int) -> int:
        if self._peers.alone:
            self._written.add(key)
        return await self._store.put(RECORDS, key, record.encode(), revision)

    async def _delete_record(self, key: str, revision: int) -> None:
        await self._store.delete(RECORDS, key, revision)
        self._written.discard(key)

    async def _open_clean(self, seat: Seat, client_id: str, will: KeptWill | None) -> None:
        if will is None and not self._has_record(seat.key):
            return  # the usual case, at the cost of nothing
        try:
            record, revision = await self._record_of(seat)
        except BusUnavailable:
            if will is not None:
                raise
            # The client may live without the bus; what it does not want any more is removed when the bus is back.
            self._later(seat, self._discard_old)
            return
        if record is not None and not record.clean:
            await self._discard(seat.key, revision)
            record, revision = None, 0
        if will is not None:
            new = Record(client_id, uuid4().hex, True, self._peers.node, self._now(), self._gateway.epoch, will)
            seat.record = new
            await self._put_record(seat.key, new, revision)
        elif record is not None:
            await self._delete_record(seat.key, revision)

    async def _discard(self, key: str, revision: int) -> None:
        """Remove a session.

        :raises Conflict: if its record is another one by now.
        """
        state = await self._store.get(STATES, key)
        await self._delete_record(key, revision)
        if state is not None:
            with suppress(Conflict):  # it is that of the next session already
                await self._store.delete(STATES, key, state.revision)

    async def _discard_old(self, seat: Seat) -> None:
        record, revision = await self._record_of(seat)
        if record is not None and self._seats.get(seat.key) is seat:
            await self._discard(seat.key, revision)

    async def _open_durable(self, seat: Seat, client_id: str, will: KeptWill | None) -> None:
        record, revision = await self._record_of(seat)
        # Not before the record: whoever had the client has written the state first.
        stored: Entry | None = await self._store.get(STATES, seat.key)
        limits = self._gateway.limits
        if record is None or record.clean:
            if self._total >= limits.sessions:
                raise TooManyConnections(f"the gateway keeps at most {limits.sessions} MQTT sessions")
            if self._counts.get(_application(seat.key), 0) >= limits.app_sessions:
                raise TooManyConnections(f"an application has at most {limits.app_sessions} MQTT sessions")
            record = Record(client_id, uuid4().hex, False, "", 0.0, self._gateway.epoch)
        else:
            seat.present = True  # [MQTT-3.2.2-2]: also without subscriptions
        kept = tuple(one for one in record.subscriptions if seat.client.permits(one.namespace, one.filter))
        record = attrs.evolve(record, owner=self._peers.node, since=self._now(), will=will, subscriptions=kept)
        seat.record = record
        revision = await self._put_record(seat.key, record, revision)
        session = Session(limits.inflight_messages, limits.queued_messages, limits.queued_bytes)
        session.most_unreleased = MOST_UNRELEASED
        saved = restored = None
        if stored is not None:
            saved = SavedState.decode(stored.value)
            if saved.uid == record.uid:
                restored = session.restore(saved.session)
            else:
                saved = None
        seat.durable = Durable(
            self._gateway,
            self._store,
            self._clock,
            self._now,
            self._peers.node,
            seat.key,
            record,
            (revision, 0 if stored is None else stored.revision),
            session,
            seat.client,
        )
        seat.begin = saved, restored

    # -- going

    def leave(self, seat: Seat, will: KeptWill | None) -> None:
        """Give up a seat: publish the will, and keep what the client has left behind.

        :param will: to be published now ([MQTT-3.1.2-8]); ``None`` if there is none, or it is not to be.
        """
        if seat.left:
            return
        seat.left = True
        self._refuse_turn(seat)
        if not seat.opening:
            self._give_up(seat, will)

    def _give_up(self, seat: Seat, will: KeptWill | None) -> None:
        if seat.durable is not None:
            seat.durable.stop()
        if seat.record is None:
            self._free(seat)
            return
        leaving = Deferred.fromCoroutine(self._leave(seat, seat.record, will))
        self._leaving.add(leaving)

        def left(result: Any) -> None:
            self._leaving.discard(leaving)
            self._free(seat)
            if isinstance(result, Failure):
                _log.failure("what an MQTT client left behind could not be kept", result)

        leaving.addBoth(left)

    async def _leave(self, seat: Seat, record: Record, will: KeptWill | None) -> None:
        # The will first: should this node die in between, another finds it in the record, and its id in the stream.
        again, began = False, self._now()
        while will is not None:
            try:
                await self._publish_or_drop(seat.key, will, record, again, self._now() - began > LATE_SECONDS)
                will = None
            except BusUnavailable:
                again = True
                await deferLater(self._clock, _RETRY_SECONDS)
        if seat.durable is not None and await seat.durable.close():
            return
        while True:
            try:
                await self._release(seat.key, record)
                return
            except BusUnavailable:
                await deferLater(self._clock, _RETRY_SECONDS)
            except Conflict:
                return  # another node has the client by now

    def _free(self, seat: Seat) -> None:
        waiting, seat.waiting = seat.waiting, []
        for over in waiting:
            over.callback(None)
        if self._seats.get(seat.key) is not seat:
            return
        following = self._next.pop(seat.key, None)
        if following is None:
            del self._seats[seat.key]
            return
        self._seats[seat.key] = following
        if following.timer is not None:
            following.timer.cancel()
        assert following.turn is not None
        following.turn.callback(None)

    async def _release(self, key: str, record: Record) -> None:
        """Count a client as away, or forget it if it has no session, whatever is kept of it.

        :raises Conflict: if another node changes the record meanwhile.
        """
        entry = await self._store.get(RECORDS, key)
        last = None if entry is None else self._decoded(key, entry)
        if entry is None or last is None or (last.uid, last.owner) != (record.uid, self._peers.node):
            return
        if last.clean:
            await self._delete_record(key, entry.revision)
        else:
            away = attrs.evolve(last, owner="", since=self._now(), will=None)
            await self._store.put(RECORDS, key, away.encode(), entry.revision)

    async def _publish_or_drop(self, key: str, will: KeptWill, record: Record, again: bool, late: bool = False) -> None:
        """Publish a will; one that is refused, by limits that have changed for example, is gone.

        :raises BusUnavailable: if it can be tried again.
        """
        try:
            if not self._admits(Namespace(*_application(key).split(".")), will.topic):
                raise InsufficientScope("another account has taken back its leave since the client connected")
            await self._gateway.publish_trusted(
                will.topic,
                will.payload,
                qos=will.qos,
                retain=will.retain,
                message_id=f"will {will.id}",
                again=again,
                late=late,
            )
        except BusUnavailable:
            raise
        except Refused as refusal:
            _log.warn(
                "the will of MQTT client {client!r} was refused: {code}", client=record.client_id, code=refusal.code
            )

    # -- work that nobody waits for

    def _later(self, seat: Seat, work: Callable[[Seat], Any]) -> None:
        async def again() -> None:
            while not seat.left:
                await deferLater(self._clock, _RETRY_SECONDS)
                try:
                    await work(seat)
                    return
                except BusUnavailable:
                    continue

        self._in_background(again())

    def _in_background(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        working = Deferred.fromCoroutine(work)
        self._working.add(working)

        def ended(result: Any) -> None:
            self._working.discard(working)
            if isinstance(result, Failure) and not isinstance(result.value, _EXPECTED):
                _log.failure("looking after the record of an MQTT client failed", result)

        working.addBoth(ended)
