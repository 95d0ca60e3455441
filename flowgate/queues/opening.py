"""The queues that this node has open."""

# mypy: disallow-untyped-calls=False
# (Failure has no annotations)

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import BusUnavailable, NotFound, RateLimited, Refused
from flowgate.interfaces import IQueueLogs
from flowgate.queues.bodies import Bodies
from flowgate.queues.directory import Directory
from flowgate.queues.held import Grant
from flowgate.queues.machine import MAX_IN_FLIGHT
from flowgate.queues.replica import GONE, Replica, Soon, at_once
from flowgate.topics import Namespace

MAX_OPEN: Final = 10_000
"""Queues that a node has open at once; a queue that nobody uses makes room for another."""
IDLE_SECONDS: Final = 300.0
"""How long a queue stays open that nobody uses."""

_TICK_SECONDS: Final = 60.0
_VISIT_SECONDS: Final = 6 * 3600.0  # how often a queue that nobody uses is rid of what is too old
_VISITS: Final = 5

_Key = tuple[Namespace, str]


class OpenQueues:
    """Opens queues when they are first used, and closes them when nobody uses them any more."""

    _log = Logger()

    def __init__(
        self,
        logs: IQueueLogs,
        directory: Directory,
        clock: IReactorTime,
        now: Callable[[], float],
        mover: Callable[[Replica, Sequence[Grant]], Deferred[None]],
        max_in_flight: int = MAX_IN_FLIGHT,
        soon: Soon = at_once,
    ) -> None:
        self._logs = logs
        self._directory = directory
        self._clock = clock
        self._now = now
        self._mover = mover
        self._max_in_flight = max_in_flight
        self._soon = soon
        self._bodies = Bodies()
        self._open: dict[_Key, Replica] = {}
        self._opening: dict[_Key, list[Deferred[Replica]]] = {}
        self._visited: dict[_Key, float] = {}
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def start(self) -> None:
        self._timer = self._clock.callLater(_TICK_SECONDS, self._tick)

    def stop(self) -> None:
        """Close all queues; whoever waits is told."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        opened, self._open = self._open, {}
        for replica in opened.values():
            replica.close()

    def get(self, namespace: Namespace, name: str) -> Deferred[Replica]:
        """The queue's replica, opened if need be.

        :raises NotFound: through the Deferred, if there is no such queue.
        :raises BusUnavailable: through the Deferred.
        """
        replica = self._open.get((namespace, name))
        if replica is not None:
            replica.used = self._clock.seconds()
            return succeed(replica)
        key = (namespace, name)
        waiting = self._opening.get(key)
        opened: Deferred[Replica] = Deferred()
        if waiting is not None:
            waiting.append(opened)
            return opened
        self._opening[key] = [opened]
        Deferred.fromCoroutine(self._make(key)).addBoth(self._made, key)
        return opened

    def opened(self, namespace: Namespace, name: str) -> Replica | None:
        """The queue's replica, if it is open."""
        return self._open.get((namespace, name))

    def __len__(self) -> int:
        """How many queues are open."""
        return len(self._open)

    def __iter__(self) -> Iterator[Replica]:
        return iter(list(self._open.values()))

    async def _make(self, key: _Key) -> Replica:
        namespace, name = key
        if self._stopped:
            raise BusUnavailable("the gateway is going away")
        if len(self._open) + len(self._opening) > MAX_OPEN:
            self._make_room()
        replica = Replica(
            namespace,
            name,
            self._clock,
            self._now,
            self._bodies,
            self._mover,
            self._gone,
            self._max_in_flight,
            self._soon,
        )
        try:
            log = await self._logs.open(namespace, name, replica)
        except NotFound:
            # Configured, but the bus does not have it: its making or its removal went half the way.
            await self._directory.find(namespace, name, fresh=True)
            await self._logs.create(namespace, name)
            log = await self._logs.open(namespace, name, replica)
        if replica.closed:
            log.close()
            raise NotFound(GONE)  # removed in this moment
        replica.begin(log)
        return replica

    def _made(self, outcome: Replica | Failure, key: _Key) -> None:
        waiting = self._opening.pop(key)
        if isinstance(outcome, Replica):
            if self._stopped:
                outcome.close()
                outcome = Failure(BusUnavailable("the gateway is going away"))
            else:
                self._open[key] = outcome
                self._visited[key] = self._clock.seconds()
        for opened in waiting:
            if opened.called:
                continue
            if isinstance(outcome, Failure):
                opened.errback(outcome)
            else:
                opened.callback(outcome)

    def _make_room(self) -> None:
        idle = [key for key, replica in self._open.items() if replica.idle]
        if not idle:
            raise RateLimited("too many queues are in use on this node")
        self.close(*min(idle, key=lambda key: self._open[key].used))

    def _gone(self, replica: Replica) -> None:
        key = (replica.namespace, replica.name)
        if self._open.get(key) is replica:
            del self._open[key]

    def close(self, namespace: Namespace, name: str) -> None:
        """Close a queue, if it is open."""
        replica = self._open.pop((namespace, name), None)
        if replica is not None:
            replica.close()

    # -- now and then

    def _tick(self) -> None:
        self._timer = self._clock.callLater(_TICK_SECONDS, self._tick)
        now = self._clock.seconds()
        for key, replica in list(self._open.items()):
            if replica.idle and now - replica.used > IDLE_SECONDS:
                self.close(*key)
            else:
                self.rid(replica)
        known = {(namespace, one.name) for namespace, one in self._directory.all()}
        for key in self._visited.keys() - known:
            del self._visited[key]
        late = [key for key in known if key not in self._open and now - self._visited.get(key, 0.0) > _VISIT_SECONDS]
        for key in late[:_VISITS]:
            self._visited[key] = now
            self.get(*key).addCallbacks(self.rid, self._not_visited)

    def rid(self, replica: Replica) -> None:
        """Have a queue let go of what is too old."""
        description = self._directory.known(replica.namespace, replica.name)
        oldest = replica.machine.oldest()
        if description is None or oldest is None:
            return
        retention = description.config.retention
        if oldest + retention * 1_000_000_000 <= replica.bus_now():
            replica.command("x", retention).addErrback(self._not_visited)

    def _not_visited(self, failure: Failure) -> None:
        with contextlib.suppress(Refused):  # another time
            failure.raiseException()
