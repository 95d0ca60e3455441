"""A topic bus in memory, for fast tests: it passes the same contract tests as the real one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.errors import BusUnavailable, MessageTooLarge, Refused
from flowgate.interfaces import IBus, IBusListener, IFeed, IFilteredFeed, IReader
from flowgate.message import Backlog, Cursor, Run, Stored
from flowgate.topics import Namespace, Topic, matches

_MAX_PAYLOAD = 1024 * 1024
_DUPLICATE_SECONDS = 300


@attrs.frozen(slots=True)
class _Entry:
    sequence: int
    topic: Topic
    payload: bytes
    qos: int
    retain: bool
    time: float
    expires: float
    tag: str = ""

    def run(self) -> Run:
        times = [int(self.time * 1e9)]
        return Run(
            self.topic,
            [self.payload],
            qos=self.qos,
            recorded=True,
            sequences=[self.sequence],
            times=times,
            retain=self.retain,
        )


@attrs.define(slots=True, eq=False)
class _Wanted:
    """What a reader wants now.

    :ivar filters: each with the sequence behind which it is read.
    :ivar acknowledged: whether unacknowledged messages are left out.
    """

    namespace: Namespace
    filters: dict[str, int]
    acknowledged: bool = False

    def takes(self, topic: Topic, acknowledged: bool, sequence: int) -> bool:
        if topic.namespace != self.namespace or (self.acknowledged and not acknowledged):
            return False
        return any(sequence > since and matches(one, topic.name) for one, since in self.filters.items())


@attrs.define(slots=True, eq=False)
class _Write:
    """Messages on their way into the stream."""

    run: Run
    ttl: float
    many: Deferred[None] | None
    one: Deferred[Stored] | None


@implementer(IBus)
class MemoryBus:
    """:class:`IBus` that forgets everything with the process.

    Everything happens in a later turn of the clock, as with a real server: ``clock.advance(0)`` makes it happen.

    :ivar congested: for tests to set; see :meth:`relieve`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        listener: IBusListener | None = None,
        *,
        per_topic: int = 1000,
        max_age: float = 24 * 3600,
    ) -> None:
        """Make an empty bus.

        :param per_topic: messages kept per topic, acknowledged and unacknowledged ones counted apart.
        :param max_age: seconds that a message is kept.
        """
        self._clock = clock
        self.listener = listener
        self._per_topic = per_topic
        self._max_age = max_age
        self._last = 0
        self._entries: list[_Entry] = []
        self._trimmed: dict[tuple[Topic, bool], int] = {}
        self._counts: dict[tuple[Topic, bool], int] = {}
        self._ids: dict[tuple[Namespace, str], tuple[int, float]] = {}
        self._writes: list[_Write] = []
        self._turn: IDelayedCall | None = None
        self._attached: dict[Namespace, int] = {}
        self._feeds: list[_Feed] = []
        self.available = False
        self.congested = False
        self.under_way = (0, 0)  # it stores at once
        self.reconnects = 0
        self.epoch = ""

    def start(self) -> Deferred[None]:
        """Become available, at once.

        :returns: a Deferred of ``None``.
        """
        self.epoch = "memory"
        self.come_back()
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """End every feed and fail what is under way.

        :returns: a Deferred of ``None``.
        """
        for feed in list(self._feeds):
            feed.end(BusUnavailable("the gateway is going away"))
        self.go_away()
        return succeed(None)

    # -- controls for tests

    def go_away(self) -> None:
        """Be out of reach until :meth:`come_back`."""
        was, self.available = self.available, False
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        writes, self._writes = self._writes, []
        for write in writes:
            if write.many is not None:
                write.many.errback(BusUnavailable())
            if write.one is not None:
                write.one.errback(BusUnavailable())
        if was and self.listener is not None:
            self.listener.availability(False)

    def come_back(self) -> None:
        """Be within reach again; what was stored is still there."""
        if not self.available:
            self.available = True
            if self.listener is not None:
                self.listener.availability(True)
            self._soon()

    def relieve(self) -> None:
        """End a congestion."""
        if self.congested:
            self.congested = False
            if self.listener is not None:
                self.listener.drained()

    # -- publishing

    def publish_one(
        self,
        topic: Topic,
        payload: bytes,
        *,
        qos: int = 1,
        message_id: str | None = None,
        ttl: int | None = None,
        retain: bool = False,
        tag: str = "",
    ) -> Deferred[Stored]:
        refusal = self._refusal([payload])
        if refusal is not None:
            return fail(refusal)
        stored: Deferred[Stored] = Deferred()
        ids = [] if message_id is None else [message_id]
        run = Run(topic, [payload], qos=qos, retain=retain, message_ids=ids, tag=tag)
        self._put(_Write(run, self._age(ttl), None, stored))
        return stored

    def publish(self, run: Run) -> Deferred[None]:
        refusal = self._refusal(run.payloads)
        if refusal is not None:
            return fail(refusal)
        stored: Deferred[None] = Deferred()
        kept = Run(run.topic, run.payloads, qos=run.qos, retain=run.retain, message_ids=run.message_ids, tag=run.tag)
        kept.last_tag = run.last_tag
        self._put(_Write(kept, self._age(run.ttl), stored, None))
        return stored

    def publish_many(self, runs: Sequence[Run]) -> Deferred[list[Stored | Refused]]:
        if not self.available:
            return fail(BusUnavailable())
        return Deferred.fromCoroutine(self._publish_many(runs))

    async def _publish_many(self, runs: Sequence[Run]) -> list[Stored | Refused]:
        stored: list[Deferred[Stored]] = []
        for run in runs:
            ids: Sequence[str | None] = run.message_ids or [None] * run.count
            for payload, one in zip(run.payloads, ids, strict=True):
                stored.append(
                    self.publish_one(
                        run.topic, payload, qos=run.qos, message_id=one, ttl=run.ttl, retain=run.retain, tag=run.tag
                    )
                )
        answers: list[Stored | Refused] = []
        for _, outcome in await DeferredList(stored, consumeErrors=True):
            if not isinstance(outcome, Failure):
                answers.append(outcome)
            elif isinstance(outcome.value, Refused):
                answers.append(outcome.value)
            else:
                outcome.raiseException()
        return answers

    def send(self, run: Run, record: bool) -> bool:
        if not record or self._refusal(run.payloads) is not None:
            return False
        kept = Run(run.topic, run.payloads, retain=run.retain, tag=run.tag)
        kept.last_tag = run.last_tag
        self._put(_Write(kept, self._age(run.ttl), None, None))
        return True

    def _age(self, ttl: int | None) -> float:
        return self._max_age if ttl is None else min(ttl, self._max_age)

    def _refusal(self, payloads: Iterable[bytes]) -> Refused | None:
        if not self.available:
            return BusUnavailable()
        if max(map(len, payloads), default=0) > _MAX_PAYLOAD:
            return MessageTooLarge()
        return None

    def _put(self, write: _Write) -> None:
        self._writes.append(write)
        self._soon()

    def _soon(self) -> None:
        if self._turn is None:
            self._turn = self._clock.callLater(0, self._work)

    def _work(self) -> None:
        """Store what was published, deliver it, then answer."""
        self._turn = None
        writes, self._writes = self._writes, []
        arrived: list[Run] = []
        answers: list[tuple[Deferred[Any], Any]] = []
        for write in writes:
            acknowledged = write.many is not None or write.one is not None
            stored, run = self._store(write, acknowledged)
            if run is not None and acknowledged and self._attached.get(run.topic.namespace):
                arrived.append(run)
            if write.one is not None:
                answers.append((write.one, stored))
            elif write.many is not None:
                answers.append((write.many, None))
        if arrived and self.listener is not None:
            self.listener.arrived(arrived)
        for deferred, result in answers:
            deferred.callback(result)
        for feed in list(self._feeds):
            feed.pump()
        if self.listener is not None:
            self.listener.settled()

    def _store(self, write: _Write, acknowledged: bool) -> tuple[Stored, Run | None]:
        """Store what is new; tell the place of the last message, and what there is to deliver."""
        now, run = self._clock.seconds(), write.run
        payloads: list[bytes] = []
        first = 0
        for index, payload in enumerate(run.payloads):
            if run.message_ids:
                key = (run.topic.namespace, run.message_ids[index])
                known = self._ids.get(key)
                if known is not None and now - known[1] < _DUPLICATE_SECONDS:
                    first = known[0]
                    continue
                self._ids[key] = (self._last + 1 + len(payloads), now)
            payloads.append(payload)
        if not payloads:
            return Stored(first, True), None
        sequences = list(range(self._last + 1, self._last + 1 + len(payloads)))
        self._last = sequences[-1]
        subject = (run.topic, acknowledged)
        for sequence, payload in zip(sequences, payloads, strict=True):
            self._entries.append(
                _Entry(sequence, run.topic, payload, run.qos, run.retain, now, now + write.ttl, run.tag)
            )
        if run.last_tag:
            self._entries[-1] = attrs.evolve(self._entries[-1], tag=run.last_tag)
        self._counts[subject] = self._counts.get(subject, 0) + len(payloads)
        self._trim(subject)
        times = [int(now * 1e9)] * len(payloads)
        return Stored(self._last), Run(
            run.topic, payloads, qos=run.qos, recorded=True, sequences=sequences, times=times, retain=run.retain
        )

    def _trim(self, subject: tuple[Topic, bool]) -> None:
        topic, acknowledged = subject
        excess = self._counts[subject] - self._per_topic
        if excess <= 0:
            return
        kept: list[_Entry] = []
        for entry in self._entries:
            if excess and entry.topic == topic and (entry.qos > 0) is acknowledged:
                excess -= 1
                self._trimmed[subject] = entry.sequence
            else:
                kept.append(entry)
        self._entries = kept
        self._counts[subject] = self._per_topic

    def tagged(self, after: int) -> list[tuple[Topic, str, int]]:
        """The topics, tags and sizes of tagged messages behind a place; for :class:`MemoryTagged`."""
        now = self._clock.seconds()
        return [
            (entry.topic, entry.tag, len(entry.payload))
            for entry in self._entries
            if entry.tag and entry.sequence > after and entry.expires > now
        ]

    # -- receiving

    def attach(self, namespace: Namespace) -> Deferred[None]:
        self._attached[namespace] = self._attached.get(namespace, 0) + 1
        return succeed(None)

    def detach(self, namespace: Namespace) -> None:
        self._attached[namespace] -= 1
        if not self._attached[namespace]:
            del self._attached[namespace]

    # -- history

    def read(self, wanted: _Wanted, after: int, limit: int) -> list[Run]:
        """Matching messages behind ``after``, in order."""
        runs: list[Run] = []
        for entry in self._matching(wanted, after):
            if limit <= 0:
                break
            limit -= 1
            run = entry.run()
            last = runs[-1] if runs else None
            if last is not None and (last.topic, last.qos, last.retain) == (run.topic, run.qos, run.retain):
                runs[-1] = Run(
                    run.topic,
                    [*last.payloads, *run.payloads],
                    qos=run.qos,
                    recorded=True,
                    sequences=[*last.sequences, *run.sequences],
                    times=[*last.times, *run.times],
                    retain=run.retain,
                )
            else:
                runs.append(run)
        return runs

    def _matching(self, wanted: _Wanted, after: int) -> Iterator[_Entry]:
        now = self._clock.seconds()
        for entry in self._entries:
            seen = entry.sequence <= after or entry.expires <= now
            if not seen and wanted.takes(entry.topic, entry.qos > 0, entry.sequence):
                yield entry

    def trimmed(self, wanted: _Wanted) -> int:
        """The newest matching sequence that history had to let go; 0 if none."""
        gone = [
            sequence
            for (topic, acknowledged), sequence in self._trimmed.items()
            if wanted.takes(topic, acknowledged, sequence)
        ]
        return max(gone, default=0)

    @property
    def last(self) -> int:
        """The newest sequence."""
        return self._last

    def follow(
        self, namespace: Namespace, filter_: str, reader: IReader, after: Cursor | None = None
    ) -> Deferred[IFeed]:
        if not self.available:
            return fail(BusUnavailable())
        return succeed(self._begin(_Feed(self, _Wanted(namespace, {filter_: 0}), reader), after))

    def follow_filters(
        self, namespace: Namespace, filters: Iterable[str], reader: IReader, after: Cursor | None = None
    ) -> Deferred[IFilteredFeed]:
        if not self.available:
            return fail(BusUnavailable())
        wanted = _Wanted(namespace, dict.fromkeys(filters, 0), acknowledged=True)
        feed = _FilteredFeed(self, wanted, reader)
        self._begin(feed, after)
        return succeed(feed)

    def _begin(self, feed: _Feed, after: Cursor | None) -> IFeed:
        self._feeds.append(feed)
        if after is None:
            feed.begin(self._last)
        elif after.epoch != self.epoch or after.sequence > self._last:
            feed.restart(self._entries[0].sequence - 1 if self._entries else self._last)
        else:
            feed.begin(after.sequence)
        self._soon()
        return feed

    def forget(self, feed: _Feed) -> None:
        if feed in self._feeds:
            self._feeds.remove(feed)

    def again(self) -> None:
        """Have the feeds looked after in the next turn."""
        self._soon()

    def history(self, namespace: Namespace, filter_: str, after: Cursor, limit: int) -> Deferred[list[Run]]:
        if not self.available:
            return fail(BusUnavailable())
        return succeed(self.read(_Wanted(namespace, {filter_: 0}), self._place(after), limit))

    def _place(self, after: Cursor) -> int:
        return after.sequence if after.epoch == self.epoch else 0

    def backlog(
        self, namespace: Namespace, filters: Iterable[str], after: Cursor, messages: int, size: int
    ) -> Deferred[Backlog]:
        if not self.available:
            return fail(BusUnavailable())
        wanted = _Wanted(namespace, dict.fromkeys(filters, 0), acknowledged=True)
        waiting = deque(self._matching(wanted, self._place(after)))
        held = sum(len(entry.payload) for entry in waiting)
        dropped = 0
        while waiting and (len(waiting) > messages or held > size):
            oldest = waiting.popleft()
            held -= len(oldest.payload)
            dropped += 1
            after = Cursor(self.epoch, oldest.sequence)
        return succeed(Backlog(after, dropped))

    def topics(
        self, namespace: Namespace, prefix: str, after: str, limit: int, admits: Callable[[str], bool]
    ) -> Deferred[list[tuple[str, int]]]:
        if not self.available:
            return fail(BusUnavailable())
        now = self._clock.seconds()
        counts = Counter(
            entry.topic.name for entry in self._entries if entry.topic.namespace == namespace and entry.expires > now
        )
        names = sorted(name for name in counts if name.startswith(prefix) and name > after and admits(name))
        return succeed([(name, counts[name]) for name in names[:limit]])

    def find(self, topic: Topic, message_id: str) -> Deferred[int | None]:
        if not self.available:
            return fail(BusUnavailable())
        sequence, _ = self._ids.get((topic.namespace, message_id), (0, 0.0))
        there = any(entry.sequence == sequence and entry.topic == topic for entry in self._entries)
        return succeed(sequence if there else None)

    def fetch(self, sequences: Sequence[int]) -> Deferred[dict[int, Run]]:
        if not self.available:
            return fail(BusUnavailable())
        now, asked = self._clock.seconds(), set(sequences)
        return succeed(
            {entry.sequence: entry.run() for entry in self._entries if entry.sequence in asked and entry.expires > now}
        )


@implementer(IFeed)
class _Feed:
    def __init__(self, bus: MemoryBus, wanted: _Wanted, reader: IReader) -> None:
        self._bus = bus
        self._wanted = wanted
        self._reader = reader
        self._after = 0
        self._paused = False
        self._stopped = False
        self._known = 0  # losses up to here are no news

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._bus.epoch, self._after)

    def begin(self, after: int) -> None:
        """Read behind ``after``; from the beginning, what had gone before is no news."""
        self._after = after
        if not after:
            self._known = self._bus.trimmed(self._wanted)

    def restart(self, oldest: int) -> None:
        """The cursor points nowhere: say so, and read all there is."""
        self.begin(0)
        self._reader.gap(Cursor(self._bus.epoch, oldest))

    def pump(self) -> None:
        """Give what there is."""
        while not self._paused and not self._stopped and self._bus.available:
            runs = self._bus.read(self._wanted, self._after, 1000)
            if not runs:
                return
            gone = self._bus.trimmed(self._wanted)
            if gone > max(self._after, self._known):
                self._known = gone
                self._reader.gap(Cursor(self._bus.epoch, gone))
            for run in runs:
                if self._paused or self._stopped or not self._takes(run):
                    break
                self._after = run.sequences[-1]
                self._paused = not self._reader.read(run)

    def _takes(self, run: Run) -> bool:
        return self._wanted.takes(run.topic, run.qos > 0, run.sequences[0])

    def resume(self) -> None:
        self._paused = False
        self._bus.again()

    def stop(self) -> None:
        self._stopped = True
        self._bus.forget(self)

    def end(self, reason: Refused) -> None:
        self.stop()
        self._reader.ended(reason)


@implementer(IFilteredFeed)
class _FilteredFeed(_Feed):
    @property
    def cursor(self) -> Cursor:
        if not self._stopped and not self._bus.read(self._wanted, self._after, 1):
            return Cursor(self._bus.epoch, max(self._after, self._bus.last))
        return Cursor(self._bus.epoch, self._after)

    def add(self, filter_: str) -> Deferred[int]:
        if not self._bus.available or self._stopped:
            return fail(BusUnavailable())
        self._wanted.filters.setdefault(filter_, self._bus.last)
        return succeed(self._bus.last)

    def discard(self, filter_: str) -> None:
        self._wanted.filters.pop(filter_, None)

    def stop(self) -> None:
        self._after = self.cursor.sequence
        super().stop()
