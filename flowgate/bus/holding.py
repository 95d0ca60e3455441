"""Holding back publishers while durable groups are behind.

A topic's history has a bound, and a publisher can be faster than those who take its messages to where they belong.  So
what a durable group has not done yet is kept below a bound that is well within history's: beyond it, publishers on its
topics wait, in order.  Each node looks at its groups after every so many messages that it has published to them; what
other nodes publish it learns in this way, too.

A group that makes no progress at all holds nobody back for longer than some seconds: what is wrong with it is not the
publishers' affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import BusUnavailable, Refused
from flowgate.topics import FilterTree, Namespace, Topic

MOST: Final = 5_000
"""Messages that a group may have before it, from the oldest that is not done; history keeps 10,000 of each topic."""

_EVERY: Final = 500  # messages stored for a group between two looks at it
_LANDED_SECONDS: Final = 0.25  # after which, or twice that, an unacknowledged message is stored, or never
_PAUSE_SECONDS: Final = 0.05  # between two looks while somebody waits
_STUCK_SECONDS: Final = 15.0  # longer than it takes until the messages of a dead node are given to another one


@attrs.frozen(slots=True)
class Progress:
    """How far a group is.

    :ivar ahead: messages from the oldest that is not done to the newest.
    :ivar done: grows whenever the oldest one is done.
    """

    ahead: int
    done: int


class Held:
    """A durable group, as publishers see it."""

    __slots__ = (
        "_done",
        "_flying",
        "_known",
        "_looked",
        "_looking",
        "_moved",
        "_new",
        "filter",
        "look",
        "namespace",
        "stuck",
    )

    def __init__(self, namespace: Namespace, filter_: str, look: Callable[[], Deferred[Progress]], now: float) -> None:
        self.namespace = namespace
        self.filter = filter_
        self.look = look
        self.stuck = False
        self._known = 0
        self._flying = 0  # published here, and perhaps not stored yet
        self._new = 0  # stored since the last look
        self._looked = 0  # of these: before the look that is under way
        self._done = -1
        self._moved = now
        self._looking = False

    def room(self, count: int, most: int) -> bool:
        """Whether so many more are not too many; if there are none, they are not."""
        ahead = self._known + self._flying + self._new
        return self.stuck or not ahead or ahead + count <= most

    def count(self, count: int) -> None:
        """Count messages that are published."""
        self._flying += count

    def landed(self, count: int) -> bool:
        """Count messages that are stored; tell whether it is time for a look."""
        self._flying = max(0, self._flying - count)
        self._new += count
        return self._new >= _EVERY and not self._looking

    def begin(self) -> bool:
        """Begin a look; tell whether there is none already."""
        if self._looking:
            return False
        self._looking = True
        self._looked = self._new
        return True

    def seen(self, progress: Progress, now: float) -> None:
        """End a look."""
        self._looking = False
        self._new -= self._looked
        self._known = progress.ahead
        if progress.done != self._done or not progress.ahead:
            self._done = progress.done
            self._moved = now
            self.stuck = False
        elif now - self._moved >= _STUCK_SECONDS:
            self.stuck = True

    def unknown(self) -> None:
        """Nobody can tell how far it is."""
        self._looking = False
        self._known = self._new = self._looked = 0


@attrs.frozen(slots=True)
class _Waiting:
    topic: Topic
    count: int


class Holding:
    """Who waits, and for which groups."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._groups: dict[Namespace, FilterTree[Held]] = {}
        self._all: dict[Held, None] = {}
        self._waiting: dict[Deferred[None], _Waiting] = {}  # as they came; bounded by what each publisher has under way
        self._topics: dict[Topic, int] = {}
        self._next: IDelayedCall | None = None
        self._flights: dict[Topic, int] = {}  # unacknowledged ones since the last landing
        self._flying: dict[Topic, int] = {}  # those before
        self._landing: IDelayedCall | None = None
        self._releasing = False

    def add(self, namespace: Namespace, filter_: str, look: Callable[[], Deferred[Progress]]) -> Held:
        """Look at a group from now on.

        :param look: tells how far it is.
        """
        held = Held(namespace, filter_, look, self._clock.seconds())
        self._groups.setdefault(namespace, FilterTree()).add(filter_, held)
        self._all[held] = None
        return held

    def discard(self, held: Held) -> None:
        """Hold nobody back for a group any more."""
        del self._all[held]
        tree = self._groups[held.namespace]
        tree.discard(held.filter, held)
        if not tree:
            del self._groups[held.namespace]
        self._release()

    def room(self, topic: Topic, count: int, published: bool = False) -> Deferred[None] | None:
        """See :meth:`~flowgate.interfaces.IGroups.room`."""
        groups = self._of(topic)
        if not groups:
            return None
        if published:
            for one in groups:
                one.count(count)
            self._land_later(topic, count)
            count = 0
        if topic not in self._topics and all(one.room(count, self._most) for one in groups):
            for one in groups:
                one.count(count)
            return None
        waiting: Deferred[None] = Deferred(self._forget)
        self._waiting[waiting] = _Waiting(topic, count)
        self._topics[topic] = self._topics.get(topic, 0) + 1
        for one in groups:
            self._look(one)
        self._soon()
        return waiting

    def reset(self) -> None:
        """The bus is away: nobody can tell how far groups are, and who waits will learn it by publishing."""
        for one in self._all:
            one.unknown()
        self._release()

    def stop(self) -> None:
        """Have nobody wait any more."""
        for call in (self._next, self._landing):
            if call is not None:
                call.cancel()
        self._next = self._landing = None
        while self._waiting:
            waiting = next(iter(self._waiting))
            self._forget(waiting)
            waiting.errback(BusUnavailable("the gateway is going away"))

    def stored(self, topic: Topic, count: int) -> None:
        """See :meth:`~flowgate.interfaces.IGroups.stored`."""
        for one in self._of(topic):
            if one.landed(count):
                self._look(one)

    def _forget(self, waiting: Deferred[None]) -> None:
        topic = self._waiting.pop(waiting).topic
        left = self._topics.pop(topic) - 1
        if left:
            self._topics[topic] = left

    def _land_later(self, topic: Topic, count: int) -> None:
        self._flights[topic] = self._flights.get(topic, 0) + count
        if self._landing is None:
            self._landing = self._clock.callLater(_LANDED_SECONDS, self._land)

    def _land(self) -> None:
        self._landing = None
        landed, self._flying, self._flights = self._flying, self._flights, {}
        if self._flying:
            self._landing = self._clock.callLater(_LANDED_SECONDS, self._land)
        for topic, count in landed.items():
            self.stored(topic, count)

    # -- looking

    def _look(self, one: Held) -> None:
        if one.begin():
            one.look().addCallbacks(self._seen, self._unseen, callbackArgs=(one,), errbackArgs=(one,))

    def _seen(self, progress: Progress, one: Held) -> None:
        stuck = one.stuck
        one.seen(progress, self._clock.seconds())
        if one.stuck and not stuck:
            self._log.warn(
                "a durable group on {filter} makes no progress, and publishers are not held back for it any more",
                filter=one.namespace.prefix + one.filter,
            )
        self._release()

    def _unseen(self, failure: Failure, one: Held) -> None:
        if not isinstance(failure.value, Refused):
            self._log.failure("it cannot be told how far a durable group is", failure)
        one.unknown()
        self._release()

    def _soon(self) -> None:
        if self._next is None and self._waiting:
            self._next = self._clock.callLater(_PAUSE_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._next = None
        groups: dict[Held, None] = {}
        for topic in self._topics:
            groups.update(dict.fromkeys(self._of(topic)))
        for one in groups:
            self._look(one)
        self._release()
        self._soon()

    def _of(self, topic: Topic) -> list[Held]:
        tree = self._groups.get(topic.namespace)
        return [] if tree is None else list(tree.match(topic.name))

    def _release(self) -> None:
        """Let go on who can, in the order in which they came; what they do at once is behind who waits already."""
        if self._releasing or not self._waiting:
            return
        self._releasing = True
        try:
            held: set[Topic] = set()
            for waiting, wish in list(self._waiting.items()):
                if wish.topic in held or waiting not in self._waiting:
                    continue
                groups = self._of(wish.topic)
                if all(one.room(wish.count, self._most) for one in groups):
                    self._forget(waiting)
                    for one in groups:
                        one.count(wish.count)
                    waiting.callback(None)
                else:
                    held.add(wish.topic)
        finally:
            self._releasing = False
