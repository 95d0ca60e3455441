"""The verified fake of shared subscriptions."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import TypeAlias

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from flowgate.bus.holding import MOST, Holding, Progress
from flowgate.errors import BusUnavailable, NotFound, Refused
from flowgate.interfaces import IBus, IFeed, IGroupMember, IGroups, IMembership, IReader
from flowgate.message import Cursor, Run
from flowgate.topics import Namespace, Topic, matches

_WAITING = 10_000
_ACK_SECONDS = 30
_DURABLE_ACK_SECONDS = 5
_IDLE_SECONDS = 300

_Key: TypeAlias = tuple[Namespace, str, str, bool]


@attrs.frozen(slots=True)
class _Item:
    topic: Topic
    qos: int
    payload: bytes
    sequence: int
    time: int


class MemoryGroupsHub:
    """The groups of all nodes of a test, over one bus."""

    def __init__(self, clock: IReactorTime, bus: IBus, most_ahead: int = MOST) -> None:
        self.holding = Holding(clock, most_ahead)
        self.clock = clock
        self.bus = bus
        self.groups: dict[_Key, _Group] = {}


@implementer(IGroups)
class MemoryGroups:
    """:class:`IGroups` for one node.  Messages are given in a later turn of the clock."""

    def __init__(self, hub: MemoryGroupsHub) -> None:
        self._hub = hub

    def join(
        self,
        namespace: Namespace,
        group: str,
        filter_: str,
        member: IGroupMember,
        *,
        durable: bool = False,
        ordered: bool = False,
    ) -> Deferred[IMembership]:
        if not self._hub.bus.available:
            return fail(BusUnavailable())
        key = (namespace, group, filter_, durable)
        found = self._hub.groups.get(key)
        if found is None:
            found = self._hub.groups[key] = _Group(self._hub, key, ordered)
        membership = _Membership(self, found, member)
        found.add(membership)
        return found.begun().addCallback(lambda _: membership)

    def forget(self, namespace: Namespace, group: str, filter_: str) -> Deferred[None]:
        if not self._hub.bus.available:
            return fail(BusUnavailable())
        found = self._hub.groups.get((namespace, group, filter_, True))
        if found is not None:
            found.forget(self)
        return succeed(None)

    @property
    def any(self) -> bool:
        return any(group.members for group in self._hub.groups.values())

    def wants(self, topic: Topic) -> bool:
        return any(
            group.members and namespace == topic.namespace and matches(filter_, topic.name)
            for (namespace, _, filter_, _), group in self._hub.groups.items()
        )

    def room(self, topic: Topic, count: int, published: bool = False) -> Deferred[None] | None:
        return self._hub.holding.room(topic, count, published)

    def stored(self, topic: Topic, count: int) -> None:
        self._hub.holding.stored(topic, count)

    # -- controls for tests

    def stop(self) -> None:
        """Tell every member of this node that it is over, and give back what they hold."""
        for membership in self._members():
            membership.end(BusUnavailable("the gateway is going away"))

    def die(self) -> None:
        """Leave without a word: what the members hold is given to others when it is overdue."""
        for membership in self._members():
            self._hub.clock.callLater(membership.group.ack_seconds, membership.leave)
            membership.die()

    def _members(self) -> list[_Membership]:
        return [one for group in self._hub.groups.values() for one in group.members if one.node is self]


@implementer(IReader)
class _Group:
    def __init__(self, hub: MemoryGroupsHub, key: _Key, ordered: bool) -> None:
        self._hub = hub
        self._key = key
        self._ordered = ordered
        self._durable = key[3]
        self.ack_seconds = _DURABLE_ACK_SECONDS if self._durable else _ACK_SECONDS
        self._items: deque[_Item] = deque()
        self._feed: IFeed | None = None
        self._paused = False
        self._waiting: list[Deferred[None]] = []
        self._turn: IDelayedCall | None = None
        self._idle: IDelayedCall | None = None
        self.members: deque[_Membership] = deque()
        namespace, _, filter_, _ = key
        self._taken = 0
        self._held = hub.holding.add(namespace, filter_, self._progress) if self._durable else None
        hub.bus.follow(namespace, filter_, self).addCallbacks(
            self._following, lambda failure: self.ended(failure.value)
        )

    def _progress(self) -> Deferred[Progress]:
        # In a later turn, in which everything that is stored now has come here.
        return deferLater(self._hub.clock, 0).addCallback(lambda _: deferLater(self._hub.clock, 0, self._count))

    def _count(self) -> Progress:
        if not self._hub.bus.available:
            raise BusUnavailable()
        undone = sum(len(one.held) for one in self.members)
        return Progress(len(self._items) + undone, self._taken - undone)

    def begun(self) -> Deferred[None]:
        begun: Deferred[None] = Deferred()
        if self._feed is not None:
            begun.callback(None)
        else:
            self._waiting.append(begun)
        return begun

    def _following(self, feed: IFeed) -> None:
        self._feed = feed
        waiting, self._waiting = self._waiting, []
        for begun in waiting:
            begun.callback(None)

    # -- IReader

    def read(self, run: Run) -> bool:
        for payload, sequence, time in zip(run.payloads, run.sequences, run.times, strict=True):
            self._items.append(_Item(run.topic, run.qos, payload, sequence, time))
        self.soon()
        self._paused = len(self._items) >= _WAITING
        return not self._paused

    def gap(self, oldest: Cursor) -> None:
        """What history has lost, the group has lost too."""

    def ended(self, reason: Refused) -> None:
        waiting, self._waiting = self._waiting, []
        for begun in waiting:
            begun.errback(BusUnavailable(str(reason)))
        for membership in list(self.members):
            membership.end(reason)
        self._drop()

    # -- members

    def add(self, membership: _Membership) -> None:
        self.members.append(membership)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def remove(self, membership: _Membership, back: Sequence[_Item]) -> None:
        self.members.remove(membership)
        self.put_back(back)
        if not self.members and not self._durable:
            self._idle = self._hub.clock.callLater(_IDLE_SECONDS, self._drop)

    def put_back(self, items: Sequence[_Item]) -> None:
        self._items.extendleft(reversed(items))
        self._taken -= len(items)
        self.soon()

    def forget(self, node: MemoryGroups) -> None:
        """End; if other nodes have members, begin anew for these."""
        for membership in [one for one in self.members if one.node is node]:
            membership.end(NotFound("the subscription was removed"))
        self._items.clear()
        if not self.members:
            self._drop()

    def _drop(self) -> None:
        self._hub.groups.pop(self._key, None)
        held, self._held = self._held, None
        if held is not None:
            self._hub.holding.discard(held)
        for call in (self._idle, self._turn):
            if call is not None and call.active():
                call.cancel()
        self._idle = self._turn = None
        if self._feed is not None:
            self._feed.stop()

    def soon(self) -> None:
        if self._turn is None:
            self._turn = self._hub.clock.callLater(0, self._hand_out)

    def _hand_out(self) -> None:
        """Give messages in turn to those who have asked."""
        self._turn = None
        given: dict[_Membership, list[_Item]] = {}
        while self._items and not (self._ordered and (given or any(one.held for one in self.members))):
            ready = next((one for one in self.members if one.credit > 0), None)
            if ready is None:
                break
            self.members.remove(ready)
            self.members.append(ready)
            ready.credit -= 1
            self._taken += 1
            given.setdefault(ready, []).append(self._items.popleft())
        for membership, items in given.items():
            membership.give(items)
        if self._feed is not None and self._paused and len(self._items) < _WAITING:
            self._paused = False
            self._feed.resume()


@implementer(IMembership)
class _Membership:
    def __init__(self, node: MemoryGroups, group: _Group, member: IGroupMember) -> None:
        self.node = node
        self.credit = 0
        self.group = group
        self._member: IGroupMember | None = member
        self.held: dict[str, _Item] = {}
        self._left = False
        self._given = 0

    def give(self, items: list[_Item]) -> None:
        for (topic, qos), some in groupby(items, lambda item: (item.topic, item.qos)):
            part = list(some)
            if self._left:  # while it was given the run before
                self.group.put_back(part)
                continue
            handles = []
            for item in part:
                self._given += 1
                handles.append(f"{self._given}.{item.sequence}")
            self.held.update(zip(handles, part, strict=True))
            if self._member is not None:
                run = Run(
                    topic,
                    [item.payload for item in part],
                    qos=qos,
                    recorded=True,
                    sequences=[item.sequence for item in part],
                    times=[item.time for item in part],
                )
                self._member.take(run, handles)

    def ask(self, count: int) -> None:
        if not self._left:
            self.credit += count
            self.group.soon()

    def done(self, handles: Sequence[str]) -> None:
        for handle in handles:
            self.held.pop(handle, None)
        self.group.soon()

    def leave(self) -> None:
        if not self._left:
            self._left = True
            held, self.held = self.held, {}
            self.group.remove(self, list(held.values()))

    def end(self, reason: Refused) -> None:
        member, left = self._member, self._left
        self.leave()
        if member is not None and not left:
            member.lost(reason)

    def die(self) -> None:
        self._member = None
        self.credit = 0
