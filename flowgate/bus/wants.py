"""Which filters have groups that share a subscription, on this node and on the others.

Every node tells the others what it wants when that begins and ends, again every few seconds, and when it is asked.
What a node has not told again for some time is forgotten, so a node that died wants nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final, TypeAlias

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from flowgate.interfaces import IPeers
from flowgate.topics import FilterTree, Namespace, Topic

TELL_SECONDS: Final = 10.0
KEEP_SECONDS: Final = 35.0
"""A want of another node is forgotten if it is not told again for so long: three tellings may be lost."""
MAX_OTHERS: Final = 200_000
"""Wants of other nodes that are remembered; of more than these, unacknowledged messages are not stored for groups."""

_AT_ONCE: Final = 500  # wants in one message: at most 512 bytes each, so it stays below the server's usual limit

Want: TypeAlias = tuple[Namespace, str]


class FilterCounts:
    """A set of filters for each namespace, each counted."""

    def __init__(self) -> None:
        self._counts: dict[Want, int] = {}
        self._trees: dict[Namespace, FilterTree[str]] = {}

    def add(self, want: Want) -> None:
        count = self._counts.get(want, 0)
        self._counts[want] = count + 1
        if not count:
            namespace, filter_ = want
            tree = self._trees.get(namespace)
            if tree is None:
                tree = self._trees[namespace] = FilterTree()
            tree.add(filter_, filter_)

    def discard(self, want: Want) -> None:
        self._counts[want] -= 1
        if not self._counts[want]:
            del self._counts[want]
            namespace, filter_ = want
            tree = self._trees[namespace]
            tree.discard(filter_, filter_)
            if not tree:
                del self._trees[namespace]

    def __bool__(self) -> bool:
        return bool(self._counts)

    def match(self, topic: Topic) -> bool:
        """Whether some filter takes in ``topic``."""
        tree = self._trees.get(topic.namespace)
        return tree is not None and next(tree.match(topic.name), None) is not None


class Wants:
    """What the groups of all nodes want, as far as this one knows."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, peers: IPeers) -> None:
        self._clock = clock
        self._peers = peers
        self._filters = FilterCounts()
        self._own: dict[Want, int] = {}
        self._others: dict[tuple[str, Want], float] = {}  # until when each is believed, the oldest first
        self._timer: IDelayedCall | None = None
        self._full = False
        self._stopped = False
        peers.hear("groups-want", self._wanted)
        peers.hear("groups-drop", self._dropped)
        peers.hear("groups-hello", self._asked)

    def __bool__(self) -> bool:
        return bool(self._filters)

    def match(self, topic: Topic) -> bool:
        return self._filters.match(topic)

    def add(self, want: Want) -> None:
        """Want something here; calls count, each needs one :meth:`discard`."""
        count = self._own.get(want, 0)
        self._own[want] = count + 1
        if not count:
            self._filters.add(want)
            self._tell("groups-want", [want])
            self._soon()

    def discard(self, want: Want) -> None:
        self._own[want] -= 1
        if not self._own[want]:
            del self._own[want]
            self._filters.discard(want)
            self._tell("groups-drop", [want])

    def hello(self) -> None:
        """Tell the others what is wanted here, and have them tell what they want: after each connect."""
        self._peers.tell("groups-hello", b"")
        self._tell("groups-want", self._own)

    def stop(self) -> None:
        """Tell and forget nothing any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _soon(self) -> None:
        """Have what is here told again, and what is old forgotten, for as long as there is anything."""
        if self._timer is None and not self._stopped:
            self._timer = self._clock.callLater(TELL_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        self._tell("groups-want", self._own)
        now = self._clock.seconds()
        while self._others:
            other = next(iter(self._others))
            if self._others[other] > now:
                break
            self._forget(other)
        if self._own or self._others:
            self._soon()

    # -- telling and hearing

    def _tell(self, verb: str, wants: Collection[Want]) -> None:
        rest = iter(wants)
        while some := [[one.user, one.app, filter_] for one, filter_ in islice(rest, _AT_ONCE)]:
            body = json.dumps([self._peers.node, some], ensure_ascii=False, separators=(",", ":"))
            self._peers.tell(verb, body.encode())

    def _asked(self, _payload: bytes) -> None:
        self._tell("groups-want", self._own)

    def _wanted(self, payload: bytes) -> None:
        until = self._clock.seconds() + KEEP_SECONDS
        for other in _read(payload):
            if self._others.pop(other, None) is None:
                if len(self._others) >= MAX_OTHERS:
                    self._warn()
                    continue
                self._filters.add(other[1])
            self._others[other] = until
        self._soon()

    def _dropped(self, payload: bytes) -> None:
        for other in _read(payload):
            if other in self._others:
                self._forget(other)

    def _forget(self, other: tuple[str, Want]) -> None:
        del self._others[other]
        self._filters.discard(other[1])

    def _warn(self) -> None:
        if not self._full:
            self._full = True
            self._log.warn("other nodes have more than {count} groups; not all are known here", count=MAX_OTHERS)


def _read(payload: bytes) -> Iterable[tuple[str, Want]]:
    node, wants = json.loads(payload)
    return [(str(node), (Namespace(user, app), filter_)) for user, app, filter_ in wants]
