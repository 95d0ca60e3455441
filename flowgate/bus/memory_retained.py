"""Retained messages in memory, for fast tests: they pass the same contract tests as the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from flowgate.errors import BusUnavailable, MessageTooLarge
from flowgate.interfaces import IRetained
from flowgate.message import Cursor, RetainedPage, Run
from flowgate.topics import Namespace, Topic, matches

_MAX_PAYLOAD = 1024 * 1024
_PAGE_MESSAGES = 1000
_PAGE_BYTES = 256 * 1024


@attrs.frozen(slots=True)
class _Kept:
    """What is kept of a topic; an empty payload stands for a removal."""

    sequence: int
    payload: bytes
    qos: int
    place: Cursor | None
    time: float
    expires: float

    def run(self, topic: Topic) -> Run:
        times = [int(self.time * 1e9)]
        return Run(topic, [self.payload], qos=self.qos, sequences=[self.sequence], times=times, retain=True)


@attrs.frozen(slots=True)
class _Put:
    topic: Topic
    payload: bytes
    qos: int
    ttl: int | None
    place: Cursor | None


@implementer(IRetained)
class MemoryRetained:
    """:class:`IRetained` that forgets everything with the process.

    Everything happens in a later turn of the clock, as with a real server, and what is asked for comes before what is
    still on its way.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._kept: dict[Topic, _Kept] = {}
        self._last = 0
        self._puts: list[tuple[_Put, Deferred[None]]] = []
        self._questions: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self._turn: IDelayedCall | None = None
        self.available = True

    # -- controls for tests

    def go_away(self) -> None:
        """Be out of reach until :meth:`come_back`."""
        self.available = False
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        waiting: list[Deferred[Any]] = [deferred for _, deferred in [*self._questions, *self._puts]]
        self._puts, self._questions = [], []
        for deferred in waiting:
            deferred.errback(BusUnavailable())

    def come_back(self) -> None:
        """Be within reach again; what was kept is still there."""
        self.available = True

    # -- IRetained

    def put(
        self, topic: Topic, payload: bytes, qos: int, ttl: int | None = None, place: Cursor | None = None
    ) -> Deferred[None]:
        if not self.available:
            return fail(BusUnavailable())
        if len(payload) > _MAX_PAYLOAD:
            return fail(MessageTooLarge())
        kept: Deferred[None] = Deferred()
        self._puts.append((_Put(topic, payload, qos, ttl, place), kept))
        self._soon()
        return kept

    def page(
        self, namespace: Namespace, filter_: str, after: int = 0, limit: int = _PAGE_MESSAGES
    ) -> Deferred[RetainedPage]:
        return self._ask(lambda: self._page(namespace, filter_, after, min(limit, _PAGE_MESSAGES)))

    def fetch(self, sequences: Sequence[int]) -> Deferred[dict[int, Run]]:
        return self._ask(
            lambda: {kept.sequence: kept.run(topic) for topic, kept in self._present() if kept.sequence in sequences}
        )

    def _ask(self, question: Callable[[], Any]) -> Deferred[Any]:
        if not self.available:
            return fail(BusUnavailable())
        answer: Deferred[Any] = Deferred()
        self._questions.append((question, answer))
        self._soon()
        return answer

    def _soon(self) -> None:
        if self._turn is None:
            self._turn = self._clock.callLater(0, self._work)

    def _work(self) -> None:
        self._turn = None
        questions, self._questions = self._questions, []
        puts, self._puts = self._puts, []
        answers = [(answer, question()) for question, answer in questions]
        for put, _ in puts:
            self._store(put)
        for answer, found in answers:
            answer.callback(found)
        for _, kept in puts:
            kept.callback(None)

    def _store(self, put: _Put) -> None:
        known = self._kept.get(put.topic)
        place = put.place
        if known is not None and known.place is not None:
            if place is None:
                place = known.place
            elif place.epoch == known.place.epoch and place.sequence <= known.place.sequence:
                return
        now = self._clock.seconds()
        self._last += 1
        expires = float("inf") if put.ttl is None or not put.payload else now + put.ttl
        self._kept.pop(put.topic, None)  # to the end
        self._kept[put.topic] = _Kept(self._last, put.payload, put.qos, place, now, expires)

    def _present(self) -> list[tuple[Topic, _Kept]]:
        """What is kept, in the order of keeping."""
        now = self._clock.seconds()
        return [(topic, kept) for topic, kept in self._kept.items() if kept.payload and kept.expires > now]

    def _page(self, namespace: Namespace, filter_: str, after: int, limit: int) -> RetainedPage:
        found = [
            (topic, kept)
            for topic, kept in self._present()
            if kept.sequence > after and topic.namespace == namespace and matches(filter_, topic.name)
        ]
        taken, size = 0, 0
        for _, kept in found[:limit]:
            taken += 1
            size += len(kept.payload)
            if size >= _PAGE_BYTES:
                break
        some = found[:taken]
        more = some[-1][1].sequence if taken < len(found) else None
        return RetainedPage([kept.run(topic) for topic, kept in some], more, [kept.place for _, kept in some])
