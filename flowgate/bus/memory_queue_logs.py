"""The verified fake of the queues' logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from flowgate.errors import BusUnavailable, MessageTooLarge, NotFound
from flowgate.interfaces import IQueueFollower, IQueueLog, IQueueLogs
from flowgate.message import LogEntry
from flowgate.topics import Namespace

_LARGEST = 1024 * 1024 + 64 * 1024
_NO_QUEUE = "there is no such queue"


@attrs.frozen(slots=True)
class _Checkpoint:
    """The newest one; its place is 0 if there is none."""

    place: int = 0
    upto: int = 0
    data: bytes | None = None


class _Stored:
    """A log as the bus has it."""

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.last = 0
        self.entries: dict[int, LogEntry] = {}
        self.checkpoint = _Checkpoint()
        self.followed: list[MemoryQueueLog] = []
        self._telling = False

    def heads(self, after: int, upto: int = 0) -> Iterator[LogEntry]:
        """What lies behind ``after``, without bodies; up to ``upto`` only entries with a payload."""
        for sequence, entry in self.entries.items():
            if sequence > after and (sequence > upto or entry.payload is not None):
                yield attrs.evolve(entry, payload=None)

    def tell(self) -> None:
        """Give all followers what they lack.  What they append meanwhile is told after that, to all in one order."""
        if self._telling:
            return
        self._telling = True
        try:
            told = False
            while not told:
                told = True
                for log in list(self.followed):
                    if log.advance():
                        told = False
        finally:
            self._telling = False


class MemoryQueueBus:
    """What the nodes of a test share."""

    def __init__(self) -> None:
        self.logs: dict[tuple[Namespace, str], _Stored] = {}
        self.made = 0


@implementer(IQueueLogs)
class MemoryQueueLogs:
    """Logs in memory, as one node sees them.

    Everything happens at once: an entry is with all followers before the Deferred of its append fires.
    """

    largest = _LARGEST

    def __init__(self, clock: IReactorTime, shared: MemoryQueueLogs | None = None) -> None:
        """Make a node.

        :param clock: tells the time of entries.
        :param shared: another node with the same logs.
        """
        self._clock = clock
        self._bus: MemoryQueueBus = MemoryQueueBus() if shared is None else shared._bus
        self._logs: dict[MemoryQueueLog, None] = {}
        self.available = True

    # -- controls for tests

    def go_away(self) -> None:
        """Lose the bus, until :meth:`come_back`: nothing comes, and everything fails."""
        self.available = False

    def come_back(self) -> None:
        """Be within reach of the bus again: what was missed comes now."""
        self.available = True
        for log in list(self._logs):
            log.resume()

    # -- IQueueLogs

    def check(self) -> None:
        """:raises BusUnavailable: while the bus is away."""
        if not self.available:
            raise BusUnavailable

    def now(self) -> int:
        """Nanoseconds since 1970 UTC."""
        return int(self._clock.seconds() * 1_000_000_000)

    def _find(self, namespace: Namespace, name: str) -> _Stored:
        self.check()
        stored = self._bus.logs.get((namespace, name))
        if stored is None:
            raise NotFound(_NO_QUEUE)
        return stored

    def create(self, namespace: Namespace, name: str) -> Deferred[bool]:
        return maybeDeferred(self._create, namespace, name)

    def _create(self, namespace: Namespace, name: str) -> bool:
        self.check()
        if (namespace, name) in self._bus.logs:
            return False
        self._bus.made += 1
        self._bus.logs[namespace, name] = _Stored(f"m{self._bus.made}")
        return True

    def delete(self, namespace: Namespace, name: str) -> Deferred[None]:
        return maybeDeferred(self._delete, namespace, name)

    def _delete(self, namespace: Namespace, name: str) -> None:
        stored = self._find(namespace, name)
        del self._bus.logs[namespace, name]
        for log in list(stored.followed):
            log.remove()

    def open(self, namespace: Namespace, name: str, follower: IQueueFollower) -> Deferred[IQueueLog]:
        return maybeDeferred(self._open, namespace, name, follower)

    def _open(self, namespace: Namespace, name: str, follower: IQueueFollower) -> IQueueLog:
        stored = self._find(namespace, name)
        log = MemoryQueueLog(self, (namespace, name), stored, follower)
        self._logs[log] = None
        log.restart()
        return log

    def stands(self, key: tuple[Namespace, str], stored: _Stored) -> bool:
        """Whether a log is still there."""
        return self._bus.logs.get(key) is stored

    def forget(self, log: MemoryQueueLog) -> None:
        """Have nothing to do with a log any more."""
        self._logs.pop(log, None)

    def stop(self) -> None:
        """Follow no log any more."""
        for log in list(self._logs):
            log.close()


@implementer(IQueueLog)
class MemoryQueueLog:
    """One log that a node follows."""

    def __init__(
        self, logs: MemoryQueueLogs, key: tuple[Namespace, str], stored: _Stored, follower: IQueueFollower
    ) -> None:
        self.incarnation = stored.incarnation
        self.largest = logs.largest
        self._logs = logs
        self._key = key
        self._stored = stored
        self._follower = follower
        self._sequence = 0
        self._known = 0  # the place of the newest checkpoint at the last restart or save
        self._closed = self._gone = False

    # -- following

    def restart(self) -> None:
        """Begin anew, from the newest checkpoint."""
        stored, checkpoint = self._stored, self._stored.checkpoint
        self._known = checkpoint.place
        self._follower.restart(checkpoint.data, checkpoint.upto)
        if self not in stored.followed:
            stored.followed.append(self)
        entries = list(stored.heads(0, checkpoint.upto))
        self._sequence = stored.last
        self._give(entries)
        stored.tell()

    def resume(self) -> None:
        """Take what was missed."""
        if not self._logs.stands(self._key, self._stored):
            self.remove()
        elif self._stored.checkpoint.upto > self._sequence:
            self.restart()
        else:
            entries = list(self._stored.heads(self._sequence))
            self._sequence = self._stored.last
            self._give(entries)
            self._stored.tell()

    def advance(self) -> bool:
        """Take what is new, and say whether there was anything."""
        if self._closed or not self._logs.available or self._sequence >= self._stored.last:
            return False
        entries = [
            self._stored.entries[sequence]
            for sequence in range(self._sequence + 1, self._stored.last + 1)
            if sequence in self._stored.entries
        ]
        self._sequence = self._stored.last
        self._give(entries)
        return True

    def _give(self, entries: list[LogEntry]) -> None:
        if entries and not self._closed:
            self._follower.entries(entries)

    def remove(self) -> None:
        """The queue is there no more."""
        if not self._closed and self._logs.available:
            self._gone = True
            self.close()
            self._follower.gone()

    # -- IQueueLog

    @property
    def available(self) -> bool:
        return self._logs.available

    def close(self) -> None:
        self._closed = True
        if self in self._stored.followed:
            self._stored.followed.remove(self)
        self._logs.forget(self)

    def _check(self) -> None:
        if self._gone:
            raise NotFound(_NO_QUEUE)
        if self._closed:
            raise BusUnavailable("the queue is closed")
        self._logs.check()

    def append(self, head: bytes, payload: bytes = b"") -> Deferred[int]:
        return maybeDeferred(self._append, head, payload)

    def _append(self, head: bytes, payload: bytes) -> int:
        self._check()
        if len(head) + len(payload) > self.largest:
            raise MessageTooLarge(f"the message bus takes at most {self.largest} bytes")
        stored = self._stored
        stored.last += 1
        sequence = stored.last
        stored.entries[sequence] = LogEntry(sequence, self._logs.now(), head, payload or None)
        stored.tell()
        return sequence

    def read(self, sequences: Sequence[int]) -> Deferred[dict[int, bytes]]:
        return succeed({}) if self._gone else maybeDeferred(self._read, sequences)

    def _read(self, sequences: Sequence[int]) -> dict[int, bytes]:
        self._check()
        found: dict[int, bytes] = {}
        for sequence in sequences:
            entry = self._stored.entries.get(sequence)
            if entry is not None and entry.payload is not None:
                found[sequence] = entry.payload
        return found

    def save(self, checkpoint: bytes, upto: int) -> Deferred[bool]:
        return succeed(False) if self._gone else maybeDeferred(self._save, checkpoint, upto)

    def _save(self, checkpoint: bytes, upto: int) -> bool:
        self._check()
        stored, newest = self._stored, self._stored.checkpoint
        if newest.place != self._known or (newest.place and upto <= newest.upto):
            self._known = newest.place
            return False
        stored.last += 2  # a part and what says where it is, as in JetStream
        stored.checkpoint = _Checkpoint(stored.last, upto, checkpoint)
        self._known = stored.last
        stored.tell()
        return True

    def trim(self, upto: int, first: int, dead: Sequence[int]) -> Deferred[None]:
        return succeed(None) if self._gone else maybeDeferred(self._trim, upto, first, dead)

    def _trim(self, upto: int, first: int, dead: Sequence[int]) -> None:
        self._check()
        for log in list(self._stored.followed):
            log.advance()  # what was stored is on its way to all, whatever becomes of it
        upto = min(upto, self._stored.checkpoint.upto)
        first = min(first, upto + 1)
        dying = set(dead)
        for sequence, entry in list(self._stored.entries.items()):
            if sequence > upto:
                break
            if sequence < first or entry.payload is None or sequence in dying:
                del self._stored.entries[sequence]
