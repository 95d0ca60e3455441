"""The session of one connected client that outlives its connections.

Its queue is the stream: what the client is owed is read from a cursor, and what is kept of the session is how far that
has got and what is in flight.  ``session.py`` says what has to be kept before what is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.errors import BusUnavailable, Internal, Refused
from flowgate.gate import Gate
from flowgate.gateway import Gateway
from flowgate.interfaces import IFilteredFeed, IReader, IStore
from flowgate.message import Cursor, Run
from flowgate.mqtt.kept import Kept
from flowgate.mqtt.record import RECORDS, STATES, Record, SavedState, Subscription, namespace_of
from flowgate.mqtt.session import Place, Restored, Session
from flowgate.topics import Namespace, Topic, matches

_log = Logger()

_RESENT_AT_ONCE = 50
"""Restored deliveries that are read again together."""
LATE_SECONDS = 240
"""The stream forgets message ids after 300 s; what was begun so long ago is looked for in history."""
_CACHED_TOPICS = 1000
"""Topics whose subscriptions are remembered."""


class IDurableClient(Protocol):
    """What a durable session needs of its connection."""

    def pump(self) -> None:
        """Send what the session has waiting, as far as the client takes it."""

    def send(self, data: bytes) -> None:
        """Write packets."""

    def room(self, window: bool) -> Deferred[None]:
        """:returns: a Deferred, fired once the client reads on, with ``window`` also acknowledges, or is gone."""

    def live(self, run: Run) -> None:
        """Messages that are retained too are being delivered as live ones."""

    def lost(self, reason: Refused) -> None:
        """The session cannot go on here."""

    def taken(self) -> None:
        """Another node has the session, and has published the will."""

    def permits(self, namespace: Namespace, filter_: str) -> bool:
        """Whether the client's token of now permits to be given what was subscribed to with an earlier one."""

    def dropped(self, count: int, detail: str) -> None:
        """The client will not get messages that it was to get."""


@implementer(IReader)
class _Part:
    """What the session reads in one namespace.

    :ivar taken: everything up to this place was given to the session.
    """

    __slots__ = ("_durable", "_reading", "feed", "namespace", "paused", "ready", "taken")

    def __init__(self, durable: Durable, namespace: Namespace, taken: Cursor | None) -> None:
        self._durable = durable
        self._reading = False
        self.namespace = namespace
        self.taken = taken
        self.feed: IFilteredFeed | None = None
        self.paused = False
        self.ready: list[Deferred[None]] = []

    def cursor(self) -> Cursor | None:
        """How far the session has got.

        While a run is being given, the feed may have got further than this reader.
        """
        if self.feed is None or self._reading:
            return self.taken
        cursor = self.feed.cursor
        if self.taken is None or cursor.epoch != self.taken.epoch or cursor.sequence > self.taken.sequence:
            self.taken = cursor
        return self.taken

    def read(self, run: Run) -> bool:
        if self._durable.closed:
            return False
        self._reading = True
        try:
            self.taken = Cursor(self._durable.epoch, run.sequences[-1])
            more = self._durable.take(self.namespace, run)
        finally:
            self._reading = False
        self.paused = not more
        return more

    def gap(self, oldest: Cursor) -> None:
        self._durable.gap()

    def ended(self, reason: Refused) -> None:
        self._durable.lost(reason)


class Durable:
    """A durable session while its client is connected.

    :ivar session: what is in flight.
    """

    def __init__(
        self,
        gateway: Gateway,
        store: IStore,
        clock: IReactorTime,
        now: Callable[[], float],
        node: str,
        key: str,
        record: Record,
        revisions: tuple[int, int],
        session: Session,
        client: IDurableClient,
    ) -> None:
        """Take over a session.

        :param now: seconds since 1970 UTC.
        :param record: as it is stored; its owner is this node.
        :param revisions: of the stored record and state.
        """
        self._gateway = gateway
        self._now = now
        self._node = node
        self._base = record
        self.session = session
        self._client = client
        self.closed = False
        self._abandoned = False
        self._doubted = 0  # what was stored before this time, in nanoseconds since 1970 UTC, may have been sent
        self._holding = 0
        self._resent = True
        self._behind: list[Callable[[], None]] = []
        self._parts: dict[Namespace, _Part] = {}
        self._cursors: dict[Namespace, Cursor] = {}
        self._forms: dict[Topic, list[tuple[bool, list[tuple[int, int]]]]] = {}
        self._gate = Gate()
        self._subscriptions = {one.name: one for one in record.subscriptions}
        self._away = False
        self._will = record.will
        turn = gateway.turn
        self._record = Kept(
            store, RECORDS, key, revisions[0], self._encode_record, self._own_record, self._taken, turn, clock
        )
        self._state = Kept(
            store, STATES, key, revisions[1], self._encode_state, self._own_state, self._taken, turn, clock
        )

    @property
    def epoch(self) -> str:
        return self._gateway.epoch

    def now(self) -> float:
        """Seconds since 1970 UTC."""
        return self._now()

    def is_late(self, at: float) -> bool:
        """Whether a QoS 2 publish was begun so long ago that the stream may not notice its repetition."""
        return self._now() - at > LATE_SECONDS

    def message_id(self, generation: int) -> str:
        """Names a QoS 2 publish of the client for the bus."""
        return f"{self._base.uid}.{generation}"

    @property
    def subscriptions(self) -> list[Subscription]:
        return list(self._subscriptions.values())

    # -- what is kept

    def _encode_record(self) -> bytes:
        record = self._base
        return Record(
            record.client_id,
            record.uid,
            False,
            "" if self._away else self._node,
            self._now() if self._away else record.since,
            self.epoch,
            self._will,
            tuple(self._subscriptions.values()),
        ).encode()

    def _own_record(self, value: bytes) -> bool:
        record = Record.decode(value)
        return record.uid == self._base.uid and record.owner == self._node

    def _encode_state(self) -> bytes:
        for namespace, part in self._parts.items():
            cursor = part.cursor()
            if cursor is not None:
                self._cursors[namespace] = cursor
        return SavedState(self._base.uid, self._node, self._doubted, self._cursors, self.session.state()).encode()

    def _own_state(self, value: bytes) -> bool:
        state = SavedState.decode(value)
        return state.uid == self._base.uid and state.owner == self._node

    def _taken(self, reason: Refused | None) -> None:
        """Another node has written, so the client is there now; or what is to be kept cannot be, for a reason."""
        self.abandon()
        if reason is None:
            self._client.taken()
        else:
            self._client.lost(reason)

    def lost(self, reason: Refused) -> None:
        if not self.closed:
            self._client.lost(reason)

    def persist(self, then: Callable[[], None]) -> None:
        """Have ``then`` called once the session is kept as it is now."""
        self._state.changed(then)

    def changed(self) -> None:
        """The session has changed in a way that may be kept later."""
        self._state.changed_a_little()

    def acknowledge(self, data: bytes) -> None:
        """Send PUBREL or PUBCOMP packets once what they tell the client to forget is kept.

        Those that change nothing need no write of their own; but they may be a repetition, so they overtake none.
        """
        if self.session.touched or not self._state.settled:
            self.session.touched = False
            self.send_kept(data)
        else:
            self._client.send(data)

    def send_kept(self, data: bytes) -> None:
        """Send packets once the session is kept as it is now."""

        def kept() -> None:
            if not self.closed:
                self._client.send(data)

        self._state.changed(kept)

    def send_deliveries(self, data: bytes) -> None:
        """Send PUBLISH packets, those of QoS 2 once they are kept; none overtakes another."""
        if not self.session.unsaved and not self._holding:
            self._client.send(data)
            self._state.changed_a_little()
            return
        self._holding += 1

        def kept() -> None:
            self._holding -= 1
            if not self.closed:
                self._client.send(data)

        self._state.changed(kept)

    # -- beginning

    def begin(self, saved: SavedState | None, restored: Restored | None) -> None:
        """Go on where the session was left: what was in flight, then what has been stored since."""
        if saved is not None:
            self._cursors = dict(saved.cursors)
            # Of a node that did not give it up nobody knows what it has sent.
            self._doubted = saved.doubted if saved.owner else int(self._now() * 1e9)
        for namespace in {one.namespace for one in self._subscriptions.values() if one.qos and not one.group}:
            self._parts[namespace] = _Part(self, namespace, self._start_of(namespace))
        self._resent = restored is None
        if self._parts or restored is not None:
            Deferred.fromCoroutine(self._begin(restored)).addErrback(self._failed)

    def behind_the_old(self, then: Callable[[], None]) -> None:
        """Have ``then`` called once all that was in flight on the last connection was sent again."""
        if self._resent:
            then()
        else:
            self._behind.append(then)

    def _failed(self, failure: Failure) -> None:
        reason = failure.value
        if not isinstance(reason, Refused):
            _log.failure("a session cannot go on", failure)
            reason = Internal()
        self.lost(reason)

    def _start_of(self, namespace: Namespace) -> Cursor:
        """The place behind which the session has taken nothing in a namespace."""
        cursor = self._cursors.get(namespace)
        if cursor is not None:
            return cursor
        places = [one.since for one in self._subscriptions.values() if one.namespace == namespace and one.qos]
        return Cursor(self._base.epoch, min(places, default=0))

    async def _begin(self, restored: Restored | None) -> None:
        parts = list(self._parts.values())  # those that a SUBSCRIBE adds meanwhile begin by themselves
        if self._base.epoch != self.epoch:
            # The stream was made anew: no place of the old one means anything.
            self._subscriptions = {name: attrs.evolve(one, since=0) for name, one in self._subscriptions.items()}
        if restored is not None:
            await self._resend(restored)
        self._resent = True
        behind, self._behind = self._behind, []
        for then in behind:
            then()
        for part in parts:
            await self._follow(part)

    async def _resend(self, restored: Restored) -> None:
        for start in range(0, len(restored.flying), _RESENT_AT_ONCE):
            some = restored.flying[start : start + _RESENT_AT_ONCE]
            found = await self._fetch(place for _, place in some)
            if self.closed:
                return
            self._client.send(self.session.resend([packet_id for packet_id, _ in some], found))
            await self._client.room(False)
        lost = 0
        while restored.waiting:
            await self._client.room(True)
            pieces = restored.waiting[:_RESENT_AT_ONCE]
            found = await self._fetch(place for _, place in pieces)
            if self.closed:
                return
            for qos, place in pieces:
                message = found.get(place)
                if message is None:
                    lost += 1
                else:
                    name, payload = message
                    dup = qos == 1 and self._doubted > 0
                    self.session.put(name, [payload], qos, [place], retain=place[0].startswith("~"), dup=dup)
            del restored.waiting[: len(pieces)]
            self._client.pump()
        if lost:
            self._client.dropped(lost, "history has let them go")

    async def _fetch(self, places: Iterable[Place]) -> dict[Place, tuple[str, bytes]]:
        wanted = list(places)
        if self._base.epoch != self.epoch:
            return {}  # no place of another stream means anything
        found = {}
        for retained, fetch in ((False, self._gateway.fetch), (True, self._gateway.fetch_retained)):
            places_there = [place for place in wanted if place[0].startswith("~") is retained]
            if not places_there:
                continue
            runs = await fetch(sorted({sequence for _, sequence, _ in places_there}))
            for place in places_there:
                prefix, sequence, full = place
                run = runs.get(sequence)
                if run is not None and self._is_theirs(run.topic, prefix.removeprefix("~")):
                    found[place] = run.topic.shown(full), run.payloads[0]
        return found

    def _is_theirs(self, topic: Topic, prefix: str) -> bool:
        return topic.namespace == namespace_of(prefix) and self._client.permits(topic.namespace, topic.name)

    async def _follow(self, part: _Part) -> None:
        """Start to read a namespace, within the bounds of what may wait."""
        limits = self._gateway.limits
        filters = self._filters(part.namespace)
        after = part.taken
        if after is not None and filters:
            backlog = await self._gateway.backlog(
                part.namespace, filters, after, limits.queued_messages, limits.queued_bytes
            )
            if backlog.dropped and not self.closed:
                self._client.dropped(backlog.dropped, "more waited than may wait")
            after = backlog.after
        feed = await self._gateway.follow_filters(part.namespace, filters, part, after)
        if self.closed:
            feed.stop()
            return
        part.feed = feed
        self._flow(part)
        ready, part.ready = part.ready, []
        for deferred in ready:
            deferred.callback(None)

    def _flow(self, part: _Part) -> None:
        if part.paused and part.feed is not None and not self.session.busy:
            part.paused = False
            part.feed.resume()

    def flow(self) -> None:
        """Read on, now that the client has acknowledged some."""
        for part in self._parts.values():
            if part.paused:
                self._flow(part)

    # -- subscriptions

    def _filters(self, namespace: Namespace) -> list[str]:
        """What is read from the stream in a namespace."""
        return list(
            dict.fromkeys(
                one.filter
                for one in self._subscriptions.values()
                if one.namespace == namespace and one.qos and not one.group
            )
        )

    def subscribe(self, wanted: Iterable[Subscription]) -> Deferred[None]:
        """Add or replace subscriptions ([MQTT-3.8.4-3]), all of them by one write.

        :returns: a Deferred, fired once they hold and are kept.
        :raises BusUnavailable: through the Deferred.
        """
        new = list(wanted)
        return self._gate.run(lambda: Deferred.fromCoroutine(self._subscribe(new)))

    async def _subscribe(self, wanted: list[Subscription]) -> None:
        changed = False
        for new in wanted:
            changed = await self._subscribe_one(new) or changed
        if changed:
            await self._keep_record()

    async def _subscribe_one(self, new: Subscription) -> bool:
        """Have one subscription hold; tell whether it differs from what is kept."""
        old = self._subscriptions.get(new.name)
        same = old is not None and attrs.evolve(old, qos=new.qos, since=0) == new
        if old is not None and same and old.qos == new.qos:
            return False
        if old is not None and same and old.qos:
            new = attrs.evolve(new, since=old.since)
        elif new.qos and not new.group:
            new = attrs.evolve(new, since=await self._add(new.namespace, new.filter))
        self._subscriptions[new.name] = new
        self._forms.clear()
        if old is not None:
            self._discard(old)
        return True

    async def _add(self, namespace: Namespace, filter_: str) -> int:
        part = self._parts.get(namespace)
        if part is None:
            part = self._parts[namespace] = _Part(self, namespace, None)
            try:
                await self._follow(part)
            except BaseException:
                del self._parts[namespace]
                raise
        elif part.feed is None:
            ready: Deferred[None] = Deferred()
            part.ready.append(ready)
            await ready
        if part.feed is None:
            raise BusUnavailable("the session is over")
        return await part.feed.add(filter_)

    def _discard(self, old: Subscription) -> None:
        """Stop to read a filter that no subscription needs any more."""
        part = self._parts.get(old.namespace)
        if part is not None and part.feed is not None and old.filter not in self._filters(old.namespace):
            part.feed.discard(old.filter)

    def unsubscribe(self, names: Iterable[str]) -> Deferred[None]:
        """Remove subscriptions; deliveries in flight go on ([MQTT-3.10.4-3]).

        :returns: a Deferred, fired once that is kept.
        """
        gone = list(names)
        return self._gate.run(lambda: Deferred.fromCoroutine(self._unsubscribe(gone)))

    async def _unsubscribe(self, names: list[str]) -> None:
        gone = [self._subscriptions.pop(name) for name in names if name in self._subscriptions]
        if not gone:
            return
        self._forms.clear()
        for old in gone:
            self._discard(old)
        await self._keep_record()

    def _keep_record(self) -> Deferred[None]:
        kept: Deferred[None] = Deferred()
        self._record.changed(lambda: kept.callback(None))
        self._gateway.turn.flush()
        return kept

    # -- deliveries

    def _forms_of(self, topic: Topic) -> list[tuple[bool, list[tuple[int, int]]]]:
        """For each form of the name that the client is to be shown: since when, and at which QoS."""
        forms = self._forms.get(topic)
        if forms is None:
            found: dict[bool, list[tuple[int, int]]] = {}
            for one in self._subscriptions.values():
                if one.qos and not one.group and one.namespace == topic.namespace and matches(one.filter, topic.name):
                    found.setdefault(one.full, []).append((one.since, one.qos))
            if len(self._forms) >= _CACHED_TOPICS:
                self._forms.clear()
            forms = self._forms[topic] = list(found.items())
        return forms

    def take(self, namespace: Namespace, run: Run) -> bool:
        """Take what the stream has for the client; tell whether more may come."""
        for full, subscribed in self._forms_of(run.topic):
            name = run.topic.shown(full)
            if all(since < run.sequences[0] for since, _ in subscribed):
                qos = min(max(qos for _, qos in subscribed), run.qos)  # [MQTT-3.3.5-1], [MQTT-3.8.4-6]
                places = [(namespace.prefix, sequence, full) for sequence in run.sequences]
                self.session.put(name, run.payloads, qos, places, dup=self._may_have(run, qos))
                continue
            for sequence, payload in zip(run.sequences, run.payloads, strict=True):
                granted = max((qos for since, qos in subscribed if since < sequence), default=0)
                if granted:
                    place = namespace.prefix, sequence, full
                    qos = min(granted, run.qos)
                    self.session.put(name, [payload], qos, [place], dup=self._may_have(run, qos))
        # From here on the run is a part of the session, whatever becomes of the client.
        self._state.changed_a_little()
        if run.retain:
            self._client.live(run)
        self._client.pump()
        return not self.closed and not self.session.busy

    def _may_have(self, run: Run, qos: int) -> bool:
        """Whether the client may have been sent these before ([MQTT-3.3.1-1]).

        At QoS 2 what was sent is known.  At QoS 1 it is not, if the node that the client was connected to has died.
        """
        return qos == 1 and self._doubted > 0 and bool(run.times) and run.times[0] < self._doubted

    def gap(self) -> None:
        """History has let something go that the client may have been owed."""
        self._client.dropped(0, "history has let some go")

    # -- ending

    def stop(self) -> None:
        """Read no more and send no more; :meth:`close` or :meth:`abandon` follows."""
        if self.closed:
            return
        self.closed = True
        for part in self._parts.values():
            if part.cursor() != self._cursors.get(part.namespace):
                self._state.changed()  # so that the next connection does not look for what was seen to match nothing
            if part.feed is not None:
                part.feed.stop()
            ready, part.ready = part.ready, []
            for deferred in ready:
                deferred.errback(BusUnavailable("the session is over"))

    def close(self) -> Deferred[bool]:
        """Keep the session for the client's next connection, on whatever node; the will has gone out.

        :returns: a Deferred of whether everything is kept; not if it cannot be, or another node has the session.
        """
        self.stop()
        # The record last: whoever finds there that the client is away takes the state for the newest.
        return self._state.finish().addCallback(self._leave_record).addCallback(self._finished)

    def _leave_record(self, _: None) -> Deferred[None]:
        self._away = True
        self._will = None
        self._record.changed()
        return self._record.finish()

    def _finished(self, _: None) -> bool:
        kept = not self._abandoned
        # What is still under way here must not write over what the next connection makes of the session.
        self.abandon()
        return kept

    def abandon(self) -> None:
        """Let go of a session that is another node's, or is removed."""
        self.stop()
        self._abandoned = True
        self._record.abandon()
        self._state.abandon()
