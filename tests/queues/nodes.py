"""Nodes with queues over one bus in memory, and logs that take their time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.bus.memory_queue_logs import MemoryQueueLogs
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import BusUnavailable, Refused
from flowgate.interfaces import IQueueFollower, IQueueLog, IQueueLogs
from flowgate.queues.machine import MAX_IN_FLIGHT
from flowgate.queues.model import Outgoing, QueueStats, ReceivedMessage, Sent
from flowgate.queues.replica import Replica
from flowgate.queues.service import Queues
from flowgate.topics import Namespace

HOME = Namespace("alice", "shop")
ELSEWHERE = Namespace("bob", "shop")
BEGIN = 1_000_000.0
SECRET = b"secret" * 8

_T = TypeVar("_T")


@implementer(IQueueLogs)
class LateLogs:
    """Logs of a node that wait with what they are asked for while they are held.

    :ivar held: whether they are; a test sets it.
    :ivar waiting: what is held, as functions that do it.
    :ivar written: head and payload of all entries that were appended here.
    :ivar opens: how often one was opened.
    """

    def __init__(self, logs: MemoryQueueLogs) -> None:
        self.logs = logs
        self.held = False
        self.waiting: list[tuple[str, Callable[[], Deferred[Any]], Deferred[Any]]] = []
        self.written: list[tuple[bytes, bytes]] = []
        self.opens = 0

    def do(self, what: str, function: Callable[..., Any], *arguments: object) -> Deferred[Any]:
        """Call it now, or later."""
        if not self.held and not self.waiting:
            return maybeDeferred(function, *arguments)
        waiting: Deferred[Any] = Deferred()
        self.waiting.append((what, lambda: maybeDeferred(function, *arguments), waiting))
        return waiting

    def go_on(self, count: int | None = None) -> None:
        """Do what is held, or the first of it, in order; and what that leads to, if they are not held any more."""
        left = len(self.waiting) if count is None else count
        while self.waiting and (left or not self.held):
            _, function, waiting = self.waiting[0]
            done = function()
            del self.waiting[0]
            if not waiting.called:
                done.chainDeferred(waiting)
            left = max(0, left - 1)

    def lose(self, *, stored: bool) -> None:
        """Fail what is held; though perhaps it was done."""
        some, self.waiting = self.waiting, []
        for _, function, waiting in some:
            waiting.errback(BusUnavailable())
            if stored:
                function()

    def create(self, namespace: Namespace, name: str) -> Deferred[bool]:
        return self.do("create", self.logs.create, namespace, name)

    def delete(self, namespace: Namespace, name: str) -> Deferred[None]:
        return self.do("delete", self.logs.delete, namespace, name)

    def open(self, namespace: Namespace, name: str, follower: IQueueFollower) -> Deferred[IQueueLog]:
        self.opens += 1

        def opened(log: IQueueLog) -> IQueueLog:
            late: IQueueLog = LateLog(self, log)
            return late

        return self.do("open", lambda: self.logs.open(namespace, name, follower).addCallback(opened))


@implementer(IQueueLog)
class LateLog:
    """A log of :class:`LateLogs`."""

    def __init__(self, logs: LateLogs, log: IQueueLog) -> None:
        self._logs = logs
        self._log = log
        self.incarnation, self.largest, self.close = log.incarnation, log.largest, log.close

    @property
    def available(self) -> bool:
        return self._log.available

    def append(self, head: bytes, payload: bytes = b"") -> Deferred[int]:
        self._logs.written.append((head, payload))
        return self._logs.do("append", self._log.append, head, payload)

    def read(self, sequences: Sequence[int]) -> Deferred[dict[int, bytes]]:
        return self._logs.do("read", self._log.read, sequences)

    def save(self, checkpoint: bytes, upto: int) -> Deferred[bool]:
        return self._logs.do("save", self._log.save, checkpoint, upto)

    def trim(self, upto: int, first: int, dead: Sequence[int]) -> Deferred[None]:
        return self._logs.do("trim", self._log.trim, upto, first, dead)


class Node:
    """A gateway's queues.

    :ivar bus: this node's access to the bus, that may be lost.
    """

    def __init__(self, test: QueuesTestCase, max_in_flight: int, ahead: float) -> None:
        clock = test.clock
        self._test = test
        self.bus = MemoryQueueLogs(clock, test.shared)
        self.logs = LateLogs(self.bus)
        self.queues = Queues(
            self.logs, test.store, SECRET, clock, lambda: clock.seconds() + ahead, max_in_flight=max_in_flight
        )

    def replica(self, name: str = "q") -> Replica:
        return self._test.successResultOf(self.queues.opened.get(HOME, name))


class QueuesTestCase(SynchronousTestCase):
    """One node with the queue ``q``, and others as they are needed; what says nothing of a node is done by the first.

    :cvar max_in_flight: of all nodes.
    """

    max_in_flight = MAX_IN_FLIGHT

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(BEGIN)
        self.store = MemoryStore()
        self.shared = MemoryQueueLogs(self.clock)
        self.one = self.node()
        self.queues = self.one.queues

    def node(self, ahead: float = 0.0) -> Node:
        """Start a node.

        :param ahead: how far its clock is ahead of the bus's.
        """
        node = Node(self, self.max_in_flight, ahead)
        self.successResultOf(node.queues.start())
        self.addCleanup(node.queues.stop)
        return node

    def done(self, deferred: Deferred[_T]) -> _T:
        return self.successResultOf(deferred)

    def leave(self, deferred: Deferred[_T]) -> Deferred[_T]:
        """Have nobody care for what becomes of it after the test."""
        self.addCleanup(deferred.addErrback, lambda _: None)
        return deferred

    def make(self, name: str = "q", **members: object) -> None:
        self.done(self.queues.configure(HOME, name, members))

    def send(self, *bodies: str, name: str = "q", node: Node | None = None, **options: Any) -> list[Sent]:
        """Send messages that are all taken."""
        messages = [Outgoing(body, **options) for body in bodies]
        results = self.done((node or self.one).queues.send(HOME, name, messages))
        sent = [one for one in results if isinstance(one, Sent)]
        self.assertEqual(len(sent), len(messages), results)
        return sent

    def refused(self, message: Outgoing, name: str = "q") -> Refused:
        """Send a message that is not taken."""
        (result,) = self.done(self.queues.send(HOME, name, [message]))
        assert isinstance(result, Refused), result
        return result

    def wait(
        self, limit: int = 1, wait: int = 20, name: str = "q", node: Node | None = None, **options: Any
    ) -> Deferred[list[ReceivedMessage]]:
        """Begin to receive."""
        return self.leave((node or self.one).queues.receive(HOME, name, limit, wait, **options))

    def receive(
        self, limit: int = 1, name: str = "q", node: Node | None = None, **options: Any
    ) -> list[ReceivedMessage]:
        """Receive what is there."""
        return self.done((node or self.one).queues.receive(HOME, name, limit, **{"wait": 0, **options}))

    def bodies(self, limit: int = 10, **options: Any) -> list[str]:
        """Receive, and tell the bodies only."""
        return [one.body for one in self.receive(limit, **options)]

    def delete(self, *messages: ReceivedMessage, name: str = "q") -> list[Refused | None]:
        return self.done(self.queues.delete(HOME, name, [one.receipt for one in messages]))

    def change(self, message: ReceivedMessage, seconds: int, name: str = "q") -> Refused | None:
        (result,) = self.done(self.queues.change_visibility(HOME, name, [(message.receipt, seconds)]))
        return result

    def stats(self, name: str = "q", node: Node | None = None) -> QueueStats:
        return self.done((node or self.one).queues.stats(HOME, name))

    def counts(self, name: str = "q", node: Node | None = None) -> tuple[int, int, int]:
        """Visible, in flight, delayed."""
        stats = self.stats(name, node)
        return stats.visible, stats.in_flight, stats.delayed

    def configure(self, name: str = "q", **changes: object) -> None:
        """Change a queue's configuration."""
        self.done(self.queues.change(HOME, name, changes))


def said(messages: list[ReceivedMessage]) -> list[str]:
    """The bodies of messages."""
    return [one.body for one in messages]


def dead_letter(queue: str, max_receives: int) -> Mapping[str, object]:
    """A member of a configuration."""
    return {"queue": queue, "max_receives": max_receives}
