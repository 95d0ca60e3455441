"""A topic bus in memory, for fast tests: it passes the same contract tests as the real one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from flowgate.errors import BusUnavailable, MessageTooLarge, Refused
from flowgate.interfaces import IBus, IBusListener, IFeed, IReader
from flowgate.message import Cursor, Run, Stored
from flowgate.topics import Namespace, Topic, matches

_MAX_PAYLOAD = 1024 * 1024
_DUPLICATE_SECONDS = 300


@attrs.frozen(slots=True)
class _Entry:
    sequence: int
    topic: Topic
    payload: bytes
    qos: int
    time: float
    expires: float


@attrs.define(slots=True, eq=False)
class _Write:
    """Messages on their way into the stream."""

    run: Run
    message_id: str | None
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
        self, topic: Topic, payload: bytes, *, qos: int = 1, message_id: str | None = None, ttl: int | None = None
    ) -> Deferred[Stored]:
        refusal = self._refusal([payload])
        if refusal is not None:
            return fail(refusal)
        stored: Deferred[Stored] = Deferred()
        self._put(_Write(Run(topic, [payload], qos=qos), message_id, self._age(ttl), None, stored))
        return stored

    def publish(self, run: Run) -> Deferred[None]:
        refusal = self._refusal(run.payloads)
        if refusal is not None:
            return fail(refusal)
        stored: Deferred[None] = Deferred()
        self._put(_Write(Run(run.topic, run.payloads, qos=run.qos), None, self._age(run.ttl), stored, None))
        return stored

    def send(self, run: Run, record: bool) -> bool:
        if not record or self._refusal(run.payloads) is not None:
            return False
        self._put(_Write(Run(run.topic, run.payloads), None, self._age(run.ttl), None, None))
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
        now, run = self._clock.seconds(), write.run
        if write.message_id is not None:
            key = (run.topic.namespace, write.message_id)
            known = self._ids.get(key)
            if known is not None and now - known[1] < _DUPLICATE_SECONDS:
                return Stored(known[0], True), None
            self._ids[key] = (self._last + 1, now)
        sequences = list(range(self._last + 1, self._last + 1 + run.count))
        self._last += run.count
        subject = (run.topic, acknowledged)
        for sequence, payload in zip(sequences, run.payloads, strict=True):
            self._entries.append(_Entry(sequence, run.topic, payload, run.qos, now, now + write.ttl))
        self._counts[subject] = self._counts.get(subject, 0) + run.count
        self._trim(subject)
        times = [int(now * 1e9)] * run.count
        return Stored(self._last), Run(
            run.topic, run.payloads, qos=run.qos, recorded=True, sequences=sequences, times=times
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

    # -- receiving

    def attach(self, namespace: Namespace) -> Deferred[None]:
        self._attached[namespace] = self._attached.get(namespace, 0) + 1
        return succeed(None)

    def detach(self, namespace: Namespace) -> None:
        self._attached[namespace] -= 1
        if not self._attached[namespace]:
            del self._attached[namespace]

    # -- history

    def read(self, namespace: Namespace, filter_: str, after: int, limit: int) -> list[Run]:
        """Matching messages behind ``after``, in order."""
        now = self._clock.seconds()
        runs: list[Run] = []
        for entry in self._entries:
            if limit <= 0:
                break
            topic = entry.topic
            if (
                entry.sequence <= after
                or entry.expires <= now
                or topic.namespace != namespace
                or not matches(filter_, topic.name)
            ):
                continue
            limit -= 1
            time = int(entry.time * 1e9)
            if runs and runs[-1].topic == topic and runs[-1].qos == entry.qos:
                last = runs.pop()
                payloads, sequences = [*last.payloads, entry.payload], [*last.sequences, entry.sequence]
                times = [*last.times, time]
            else:
                payloads, sequences, times = [entry.payload], [entry.sequence], [time]
            runs.append(Run(topic, payloads, qos=entry.qos, recorded=True, sequences=sequences, times=times))
        return runs

    def trimmed(self, namespace: Namespace, filter_: str) -> int:
        """The newest matching sequence that history had to let go; 0 if none."""
        gone = [
            sequence
            for (topic, _), sequence in self._trimmed.items()
            if topic.namespace == namespace and matches(filter_, topic.name)
        ]
        return max(gone, default=0)

    def follow(
        self, namespace: Namespace, filter_: str, reader: IReader, after: Cursor | None = None
    ) -> Deferred[IFeed]:
        if not self.available:
            return fail(BusUnavailable())
        feed = _Feed(self, namespace, filter_, reader, self._last if after is None else after.sequence)
        self._feeds.append(feed)
        if after is not None and (after.epoch != self.epoch or after.sequence > self._last):
            feed.restart(self._entries[0].sequence - 1 if self._entries else self._last)
        elif after is None or not after.sequence:
            feed.known = self.trimmed(namespace, filter_)
        self._soon()
        return succeed(feed)

    def forget(self, feed: _Feed) -> None:
        if feed in self._feeds:
            self._feeds.remove(feed)

    def again(self) -> None:
        """Have the feeds looked after in the next turn."""
        self._soon()

    def history(self, namespace: Namespace, filter_: str, after: Cursor, limit: int) -> Deferred[list[Run]]:
        if not self.available:
            return fail(BusUnavailable())
        return succeed(self.read(namespace, filter_, after.sequence if after.epoch == self.epoch else 0, limit))


@implementer(IFeed)
class _Feed:
    def __init__(self, bus: MemoryBus, namespace: Namespace, filter_: str, reader: IReader, after: int) -> None:
        self._bus = bus
        self._namespace = namespace
        self._filter = filter_
        self._reader = reader
        self._after = after
        self._paused = False
        self._stopped = False
        self.known = 0  # losses up to here are no news

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._bus.epoch, self._after)

    def restart(self, oldest: int) -> None:
        self._after = 0
        self.known = self._bus.trimmed(self._namespace, self._filter)
        self._reader.gap(Cursor(self._bus.epoch, oldest))

    def pump(self) -> None:
        """Give what there is."""
        while not self._paused and not self._stopped and self._bus.available:
            runs = self._bus.read(self._namespace, self._filter, self._after, 1000)
            if not runs:
                return
            gone = self._bus.trimmed(self._namespace, self._filter)
            if gone > max(self._after, self.known):
                self.known = gone
                self._reader.gap(Cursor(self._bus.epoch, gone))
            for run in runs:
                if self._paused or self._stopped:
                    return
                self._after = run.sequences[-1]
                self._paused = not self._reader.read(run)

    def resume(self) -> None:
        self._paused = False
        self._bus.again()

    def stop(self) -> None:
        self._stopped = True
        self._bus.forget(self)

    def end(self, reason: Refused) -> None:
        self.stop()
        self._reader.ended(reason)
