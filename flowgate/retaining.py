"""Publishing with the wish to be retained: a message goes into history and among the retained ones.

**History first.**  What history refuses is not retained, and only its place in history says which of two messages is
the later one.  If the node dies between the two, or the second one fails, the publisher has no answer: it publishes
again, and the retained message is kept then.  A repetition under the same id, which history passes over, has the place
of the first one: it is kept if that was not done, and undoes nothing that was published since.

**Nobody misses it in between.**  Whoever subscribes after history has a message, and reads the retained ones before it
is among them, would get neither.  So a node reads retained messages only once those are kept that it had begun to
publish.  What other nodes have under way is found by looking once more (:mod:`flowgate.replay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import Refused
from flowgate.interfaces import IBus, IRetained
from flowgate.message import Cursor, RetainedPage, Run, Stored
from flowgate.repeating import check_same
from flowgate.topics import Namespace, Topic

if TYPE_CHECKING:
    from flowgate.metering import Meter

_log = Logger()
_T = TypeVar("_T")


class _Wait:
    """Somebody who waits until some publishes have ended."""

    __slots__ = ("left", "over")

    def __init__(self, left: int) -> None:
        self.left = left
        self.over: Deferred[None] = Deferred()

    def one_less(self) -> None:
        self.left -= 1
        if not self.left:
            self.over.callback(None)


class Retaining:
    """Where history and the retained messages meet."""

    def __init__(self, bus: IBus, retained: IRetained, meter: Meter) -> None:
        self._bus = bus
        self._retained = retained
        self._meter = meter
        self._numbers = count()
        self._under_way: dict[Namespace, dict[int, list[_Wait]]] = {}
        self._failing = False

    def publish(
        self,
        topic: Topic,
        payload: bytes,
        qos: int,
        message_id: str | None,
        age: int | None,
        ttl: int | None,
        compared: bool = False,
        tag: str = "",
    ) -> Deferred[Stored]:
        """Store a message and keep it as the retained one.

        :param age: seconds that history keeps it.
        :param ttl: seconds that it is retained, ``None`` for ever.
        :param compared: whether ``message_id`` is a key that may have been used for another message.
        :param tag: see :attr:`Run.tag`.
        :returns: a Deferred of :class:`Stored`, fired once both is done, which is done even if nobody waits any more.
        :raises BusUnavailable: through the Deferred; it may be stored, or retained as well.
        :raises IdempotencyKeyReused: through the Deferred; it is neither.
        """
        answer: Deferred[Stored] = Deferred()
        published = Deferred.fromCoroutine(self._publish(topic, payload, qos, message_id, age, ttl, compared, tag))
        self._tracked(topic.namespace, published).addCallbacks(answer.callback, answer.errback)
        return answer

    async def _publish(
        self,
        topic: Topic,
        payload: bytes,
        qos: int,
        message_id: str | None,
        age: int | None,
        ttl: int | None,
        compared: bool,
        tag: str,
    ) -> Stored:
        stored = await self._bus.publish_one(
            topic, payload, qos=qos, message_id=message_id, ttl=age, retain=True, tag=tag
        )
        if stored.duplicate and (compared or ttl is not None):
            first = (await self._bus.fetch([stored.sequence])).get(stored.sequence)
            if compared:
                check_same(first, topic, payload, True)
            if first is None and ttl is not None:
                return stored  # its time was over before it was published again
        await self._retained.put(topic, payload, qos, ttl, Cursor(self._bus.epoch, stored.sequence))
        return stored

    def publish_run(self, run: Run) -> Deferred[None]:
        """Store messages, each by itself, because its place is needed; keep the last one.

        :returns: a Deferred, fired once all of it is done.
        :raises BusUnavailable: through the Deferred; any of them may or may not be stored, or retained as well.
        """
        ids: Sequence[str | None] = run.message_ids or [None] * run.count
        published = [
            self.publish(run.topic, payload, run.qos, message_id, run.ttl, None, tag=run.tag)
            for payload, message_id in zip(run.payloads, ids, strict=True)
        ]
        return Deferred.fromCoroutine(self._all(published))

    @staticmethod
    async def _all(published: list[Deferred[Stored]]) -> None:
        for _, outcome in await DeferredList(published, consumeErrors=True):
            if isinstance(outcome, Failure):
                outcome.raiseException()

    def keep(self, run: Run) -> None:
        """Keep the last message of an unacknowledged run, as far as possible; wait for nothing."""
        kept = self._retained.put(run.topic, run.payloads[-1], 0)
        self._tracked(run.topic.namespace, kept).addCallbacks(self._kept, self._not_kept)

    def _kept(self, _: None) -> None:
        self._failing = False

    def _not_kept(self, failure: Failure) -> None:
        if not isinstance(failure.value, Refused):
            _log.failure("an unacknowledged message was not retained", failure)
            return
        self._meter.add("retained_lost")
        if not self._failing:
            self._failing = True
            _log.warn("unacknowledged messages are not retained: {reason}", reason=failure.getErrorMessage())

    def page(self, namespace: Namespace, filter_: str, after: int, limit: int) -> Deferred[RetainedPage]:
        """Read a page, with everything in it that this node had begun to publish; see :meth:`IRetained.page`."""
        under_way = self._under_way.get(namespace)
        if not under_way:
            return self._retained.page(namespace, filter_, after, limit)
        wait = _Wait(len(under_way))
        for waiting in under_way.values():
            waiting.append(wait)
        return wait.over.addCallback(lambda _: self._retained.page(namespace, filter_, after, limit))

    def _tracked(self, namespace: Namespace, published: Deferred[_T]) -> Deferred[_T]:
        """Have readers wait for the end of a publish."""
        if published.called and not published.paused:
            return published
        under_way = self._under_way.setdefault(namespace, {})
        number = next(self._numbers)
        under_way[number] = []

        def ended(result: _T) -> _T:
            waiting = under_way.pop(number)
            if not under_way:
                del self._under_way[namespace]
            for wait in waiting:
                wait.one_less()
            return result

        return published.addBoth(ended)
