"""Random use of a queue by several receivers on two nodes, against the model; on any bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from zope.interface import implementer

from flowgate.errors import BusUnavailable
from flowgate.interfaces import IQueueFollower, IQueueLog, IQueueLogs
from flowgate.message import LogEntry
from flowgate.queues.model import Outgoing, ReceiptExpired, ReceivedMessage
from flowgate.queues.service import Queues
from flowgate.topics import Namespace
from tests.queues.model import Model

HOME = Namespace("alice", "shop")
BEGIN = 1_000_000.0
"""All times are whole numbers of nanoseconds, also as floats: nothing is rounded."""
RETENTION = 600
VISIBILITY = 30
MAX_RECEIVES = 3

Operation = tuple[Any, ...]
_T = TypeVar("_T")

_WEIGHTS = {
    "send": 20,
    "repeat": 5,
    "receive": 35,
    "delete": 15,
    "change": 10,
    "advance": 20,
    "crash": 3,
    "checkpoint": 4,
    "half": 2,
    "purge": 0.3,
}
_VERBS, _SHARES = tuple(_WEIGHTS), tuple(_WEIGHTS.values())


def random_operations(random: Random, count: int) -> list[Operation]:
    """What may happen; the numbers choose among what there is."""
    operations: list[Operation] = []
    for verb in random.choices(_VERBS, _SHARES, k=count):
        node, which = random.randrange(2), int(random.expovariate(0.3))
        if verb == "send":
            operation: Operation = (node, random.randint(1, 6), random.randrange(3), random.choice((0, 0, 0, 5, 40)))
        elif verb == "receive":
            operation = (node, random.choice((1, 2, 3, 10, 10)), random.choice((0, 1, 5, VISIBILITY, 60)))
        elif verb == "delete":
            operation = (node, which, random.randint(1, 3))
        elif verb == "change":
            operation = (node, which, random.choice((0, 1, 5, 60)))
        elif verb == "repeat":
            operation = (node, which)
        elif verb == "advance":
            operation = (random.choice((2**-9, 1.0, 5.0, 5.0, 30.0, 61.0, 61.0, 240.0)),)
        else:
            operation = (node,)
        operations.append((verb, *operation))
    return operations


@implementer(IQueueFollower)
class _Timed:
    """Gives a follower the time that an entry has noted itself."""

    def __init__(self, follower: IQueueFollower) -> None:
        self._follower = follower
        self.restart = follower.restart
        self.gone = follower.gone

    def entries(self, entries: Sequence[LogEntry]) -> None:
        timed = []
        for one in entries:
            time, _, head = one.head.partition(b" ")
            timed.append(LogEntry(one.sequence, int(time), head, one.payload))
        self._follower.entries(timed)


@implementer(IQueueLog)
class _TimedLog:
    def __init__(self, logs: TimedLogs, log: IQueueLog, clock: Clock) -> None:
        self._logs = logs
        self._log = log
        self._clock = clock
        self.incarnation = log.incarnation
        self.available = True
        self.largest = log.largest - 32
        self.read, self.save, self.close = log.read, log.save, log.close

    def append(self, head: bytes, payload: bytes = b"") -> Deferred[int]:
        """A little later, so that commands of the same moment go together."""
        later: Deferred[None] = deferLater(self._clock, 0)
        return later.addCallback(lambda _: self._append(head, payload))

    def _append(self, head: bytes, payload: bytes) -> Deferred[int]:
        time = b"%d " % int(self._clock.seconds() * 1_000_000_000)
        return self._log.append(time + head, payload)

    def trim(self, upto: int, first: int, dead: Sequence[int]) -> Deferred[None]:
        if not self._logs.trims:
            return fail(BusUnavailable())
        return self._log.trim(upto, first, dead)


@implementer(IQueueLogs)
class TimedLogs:
    """Logs whose entries have the time of a clock of ours instead of the bus's own.

    :ivar trims: whether nodes live long enough to trim a log after they have saved its state.
    """

    trims = True

    def __init__(self, logs: IQueueLogs, clock: Clock) -> None:
        self._logs = logs
        self._clock = clock
        self.create, self.delete = logs.create, logs.delete

    def open(self, namespace: Namespace, name: str, follower: IQueueFollower) -> Deferred[IQueueLog]:
        opened = self._logs.open(namespace, name, _Timed(follower))
        return opened.addCallback(lambda log: _TimedLog(self, log, self._clock))


class Scenario:
    """Two nodes and a model."""

    def __init__(
        self,
        fifo: bool,
        clock: Clock,
        node: Callable[[int], Awaitable[tuple[TimedLogs, Queues]]],
        settle: Callable[[], Deferred[None]] = lambda: succeed(None),
    ) -> None:
        """Prepare.

        :param node: starts a node.
        :param settle: waits for a moment, if the bus is a real one.
        """
        self.name = "queue.fifo" if fifo else "queue"
        self.dead_name = "dead.fifo" if fifo else "dead"
        self.fifo = fifo
        self.clock = clock
        self.model = Model(fifo, RETENTION, MAX_RECEIVES)
        self._node = node
        self._settle = settle
        self._nodes: list[Queues] = []
        self._logs: list[TimedLogs] = []
        self._sent = 0
        self._receipts: list[tuple[str, ReceivedMessage]] = []
        self._dedup: list[tuple[str, str, str]] = []

    async def run(self, operations: Sequence[Operation]) -> None:
        started = [await self._node(number) for number in range(2)]
        self._logs, self._nodes = [logs for logs, _ in started], [queues for _, queues in started]
        first = self._nodes[0]
        await first.configure(HOME, self.dead_name, {})
        dead = {"queue": self.dead_name, "max_receives": MAX_RECEIVES}
        await first.configure(HOME, self.name, {"retention": RETENTION, "visibility": VISIBILITY, "dead_letter": dead})
        try:
            for verb, *arguments in operations:
                await getattr(self, verb)(*arguments)
                await self._check()
        finally:
            for node in self._nodes:
                node.stop()

    async def _done(self, deferred: Deferred[_T]) -> _T:
        """Wait, while the clock stands still and what is due at once goes on."""
        while not deferred.called:
            self.clock.advance(0)
            await self._settle()
        return await deferred

    async def _check(self) -> None:
        """Both nodes count as the model does."""
        await self._agree()
        now = self.clock.seconds()
        expected = self.model.counts(now)
        for node in self._nodes:
            stats = await node.stats(HOME, self.name)
            assert (stats.visible, stats.in_flight, stats.delayed) == expected, (stats, expected)
            replica = await node.opened.get(HOME, self.name)
            offered = len(self.model.visible(now))
            assert not offered or replica.machine.available(replica.bus_now())
            if replica.machine.now == int(now * 1_000_000_000):
                assert replica.machine.offered == offered
            assert stats.bytes >= sum(map(len, self.model.bodies()))

    async def _agree(self) -> None:
        """Wait until both nodes have seen the same."""
        for name in (self.name, self.dead_name):
            for _ in range(2000):
                seen = {(await node.opened.get(HOME, name)).machine.upto for node in self._nodes}
                if len(seen) == 1:
                    break
                await self._settle()
            else:
                raise AssertionError(f"the nodes do not come to the same place: {seen}")

    # -- operations

    async def send(self, node: int, count: int, group: int, delay: int) -> None:
        """Send some messages; a FIFO queue has no delays of single messages."""
        delay = 0 if self.fifo else delay
        messages = []
        for _ in range(count):
            self._sent += 1
            body, key = f"m{self._sent}", f"d{self._sent}" if self.fifo else None
            messages.append(Outgoing(body, delay=delay or None, group=f"g{group}" if self.fifo else None, dedup_id=key))
            if key is not None:
                self._dedup.append((body, f"g{group}", key))
            assert self.model.send(self.clock.seconds(), body, f"g{group}", delay, key)
        results = await self._done(self._nodes[node].send(HOME, self.name, messages))
        assert all(hasattr(one, "id") for one in results), results

    async def repeat(self, node: int, which: int) -> None:
        """Send a message again."""
        if not self._dedup:
            return
        _, group, key = self._dedup[-1 - which % min(len(self._dedup), 12)]
        self._sent += 1
        body = f"m{self._sent}"
        (result,) = await self._done(
            self._nodes[node].send(HOME, self.name, [Outgoing(body, group=group, dedup_id=key)])
        )
        taken = self.model.send(self.clock.seconds(), body, group, 0, key)
        assert getattr(result, "duplicate", None) is not taken, (result, taken)

    async def receive(self, node: int, limit: int, visibility: int) -> None:
        received = await self._done(self._nodes[node].receive(HOME, self.name, limit, 0, visibility))
        now = self.clock.seconds()
        before = {one.body: self.model.find(one.body) for one in received}
        counts = {body: held.receives + 1 for body, held in before.items() if held is not None}
        dead = {one.body for one in await self._dead(node)}
        wrong = self.model.received(
            now, limit, visibility, [one.body for one in received], dead.difference(self.model.dead)
        )
        assert not wrong, wrong
        assert sorted(self.model.dead) == sorted(dead)
        for one in received:
            assert one.receive_count == counts[one.body], (one, counts)
            self._receipts.append((one.body, one))

    async def _dead(self, node: int) -> list[ReceivedMessage]:
        """What is in the dead-letter queue; no more than a peek shows."""
        await self._agree()
        return await self._nodes[node].peek(HOME, self.dead_name, 1000)

    async def delete(self, node: int, which: int, count: int) -> None:
        """Delete by receipts, old ones among them."""
        if not self._receipts:
            return
        start = which % len(self._receipts)
        chosen = self._receipts[-1 - start :][:count]
        results = await self._done(self._nodes[node].delete(HOME, self.name, [one.receipt for _, one in chosen]))
        self.model.advance(self.clock.seconds())
        for (body, one), result in zip(chosen, results, strict=True):
            held = self.model.find(body)
            if self.fifo and held is not None and not (held.flying and held.receives == one.receive_count):
                assert isinstance(result, ReceiptExpired), (body, result)
                continue
            assert result is None, (body, result)
            if held is not None:
                self.model.held.remove(held)

    async def change(self, node: int, which: int, seconds: int) -> None:
        if not self._receipts:
            return
        body, one = self._receipts[-1 - which % len(self._receipts)]
        (result,) = await self._done(self._nodes[node].change_visibility(HOME, self.name, [(one.receipt, seconds)]))
        now = self.clock.seconds()
        self.model.advance(now)
        held = self.model.find(body)
        if held is None:
            assert result is not None
        elif self.fifo and not (held.flying and held.receives == one.receive_count):
            assert isinstance(result, ReceiptExpired), (body, result)
        else:
            assert result is None, (body, result)
            held.visible_at = now + seconds
            held.flying = seconds > 0

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        # Whoever looks next sees what is too old go.
        queues = self._nodes[0].opened
        queues.rid(await queues.get(HOME, self.name))
        self.clock.advance(0)

    async def crash(self, node: int) -> None:
        """Another process takes the place of a node: it knows what the bus knows."""
        self._nodes[node].stop()
        self._logs[node], self._nodes[node] = await self._node(node)

    async def checkpoint(self, node: int) -> None:
        await self._done((await self._nodes[node].opened.get(HOME, self.name)).checkpoint())

    async def half(self, node: int) -> None:
        """A node dies after it has saved the state, before it has trimmed the log."""
        self._logs[node].trims = False
        await self.checkpoint(node)
        await self.crash(node)

    async def purge(self, node: int) -> None:
        await self._done(self._nodes[node].purge(HOME, self.name))
        self.model.held.clear()
