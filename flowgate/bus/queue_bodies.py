"""The bodies of queues' messages: read when they are handed out, and ahead of that for whoever goes on in order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from flowgate.bus.grouping import Grouper, fetched_sequence, fetched_subject
from flowgate.bus.link import Link
from flowgate.bus.queue_reading import MESSAGE, LogState
from flowgate.bus.reading import History
from flowgate.bus.stream import StreamSettings
from flowgate.bus.wire import Message

_SINGLE_READS: Final = 16
_AHEAD: Final = 64
_AHEAD_BYTES: Final = 512 * 1024
_NEIGHBOURS: Final = 256  # two reads that lie so near each other are parts of one pass through the queue


class BodyCache:
    """Bodies that were read ahead, of all logs of a node; what was used longest ago goes first."""

    def __init__(self, most: int) -> None:
        """:param most: bytes."""
        self._most = most
        self._size = 0
        self._bodies: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, root: str, sequence: int) -> bytes | None:
        body = self._bodies.get((root, sequence))
        if body is not None:
            self._bodies.move_to_end((root, sequence))
        return body

    def put(self, root: str, sequence: int, body: bytes) -> None:
        self.drop(root, (sequence,))
        self._bodies[root, sequence] = body
        self._size += len(body)
        while self._size > self._most:
            _, old = self._bodies.popitem(last=False)
            self._size -= len(old)

    def drop(self, root: str, sequences: Iterable[int]) -> None:
        for sequence in sequences:
            old = self._bodies.pop((root, sequence), None)
            if old is not None:
                self._size -= len(old)

    def forget(self, root: str, before: int | None = None) -> None:
        """Drop what there is of a log, or of what lies before some place in it."""
        self.drop(root, [at for log, at in self._bodies if log == root and (before is None or at < before)])


class Bodies:
    """Reads the bodies of one log's messages; those who ask while an answer is awaited share the next one."""

    def __init__(self, reactor: Any, link: Link, stream: str, state: LogState, cache: BodyCache) -> None:
        settings = StreamSettings(name=stream, replicas=state.replicas)
        self.history = History(reactor, link, settings, Grouper(1))
        self._root = state.root
        self._subject = f"{state.root}.{MESSAGE.decode()}"
        self._replicas = state.replicas
        self._cache = cache
        self._waiting: dict[Deferred[dict[int, bytes]], Sequence[int]] = {}
        self._reading = False
        self._last = 0  # where the reading before came to
        self._ahead = 1

    def read(self, sequences: Sequence[int]) -> Deferred[dict[int, bytes]]:
        """See :meth:`IQueueLog.read`."""
        wanted: Deferred[dict[int, bytes]] = Deferred(self._forget)
        found = self._cached(sequences)
        if len(found) == len(set(sequences)):
            wanted.callback(found)
            return wanted
        self._waiting[wanted] = sequences
        if not self._reading:
            self._reading = True
            Deferred.fromCoroutine(self._serve())
        return wanted

    def _forget(self, wanted: Deferred[dict[int, bytes]]) -> None:
        self._waiting.pop(wanted, None)

    def _cached(self, sequences: Iterable[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for sequence in sequences:
            body = self._cache.get(self._root, sequence)
            if body is not None:
                found[sequence] = body
        return found

    async def _serve(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            missing: set[int] = set()
            found: dict[int, bytes] = {}
            for sequences in waiting.values():
                missing.update(sequences)
            error: Exception | None = None
            try:
                found = self._cached(missing)
                found.update(await self._fetch(sorted(missing - found.keys())))
            except Exception as problem:
                error = problem
            for wanted, sequences in waiting.items():
                if wanted.called:
                    continue  # it was cancelled
                if error is None:
                    wanted.callback({at: found[at] for at in sequences if at in found})
                else:
                    wanted.errback(error)
        self._reading = False

    async def _fetch(self, missing: list[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        single: list[int] = []
        while missing:
            first = missing[0]
            near = sum(1 for at in missing if at <= first + _NEIGHBOURS)
            in_order = 0 < first - self._last <= _NEIGHBOURS
            self._ahead = min(_AHEAD, 4 * self._ahead) if in_order else 1
            if near == 1 and self._ahead == 1:
                single.append(first)
                self._last = first
                del missing[0]
                continue
            limit = min(_AHEAD, max(2 * near if near > 1 else 1, self._ahead))
            messages, _ = await self.history.messages(self._subject, first - 1, limit, _AHEAD_BYTES)
            wanted = set(missing)
            for message in messages:
                sequence = fetched_sequence(message)
                if sequence in wanted:
                    found[sequence] = message[4]
                self._cache.put(self._root, sequence, message[4])
                self._last = sequence
            end = self._last if messages else missing[-1]
            while missing and (missing[0] <= end or not messages):
                at = missing.pop(0)
                if at not in found and self._replicas > 1:  # a replica that lags behind may have answered
                    single.append(at)
        for start in range(0, len(single), _SINGLE_READS):
            some = await self.history.at_sequences(single[start : start + _SINGLE_READS])
            for at, message in some.items():
                if self._is_message(message):
                    found[at] = message[4]
                    self._cache.put(self._root, at, message[4])
        return found

    def _is_message(self, message: Message) -> bool:
        return fetched_subject(message) == self._subject.encode()

    def trimmed(self, first: int, dead: Sequence[int]) -> None:
        """Forget what was read of entries that are no longer there."""
        self._cache.forget(self._root, first)
        self._cache.drop(self._root, dead)
