"""The queues' verified fake."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from flowgate.errors import NotFound
from flowgate.interfaces import IQueues
from flowgate.message import QueueMessage, QueueStats, Received
from flowgate.topics import Namespace


@attrs.define(slots=True, eq=False)
class _Held:
    """A message in the queue; hidden until ``visible_at``."""

    message: QueueMessage
    sequence: int
    sent: float
    visible_at: float = 0.0
    receives: int = 0


@attrs.define(slots=True, eq=False)
class _Receiver:
    """A receive that waits for a first message."""

    limit: int
    visibility: float
    answer: Deferred[list[Received]]


class _Queue:
    def __init__(self, number: int, retention: int) -> None:
        self.number = number
        self.retention = retention
        self.held: dict[int, _Held] = {}
        self.receivers: list[_Receiver] = []
        self.sequences = itertools.count(1)


@implementer(IQueues)
class MemoryQueues:
    """Queues in memory; time is the clock's."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._queues: dict[tuple[Namespace, str], _Queue] = {}
        self._numbers = itertools.count(1)

    def _find(self, namespace: Namespace, name: str) -> _Queue:
        queue = self._queues.get((namespace, name))
        if queue is None:
            raise NotFound("there is no such queue")
        oldest = self._clock.seconds() - queue.retention
        for sequence in [one.sequence for one in queue.held.values() if one.sent <= oldest]:
            del queue.held[sequence]
        return queue

    def create(self, namespace: Namespace, name: str, retention: int) -> Deferred[bool]:
        queue = self._queues.get((namespace, name))
        if queue is not None:
            queue.retention = retention
            return succeed(False)
        self._queues[namespace, name] = _Queue(next(self._numbers), retention)
        return succeed(True)

    def delete(self, namespace: Namespace, name: str) -> Deferred[None]:
        def delete() -> None:
            queue = self._find(namespace, name)
            del self._queues[namespace, name]
            for receiver in queue.receivers[:]:
                queue.receivers.remove(receiver)
                receiver.answer.errback(NotFound("there is no such queue"))

        return maybeDeferred(delete)

    def send(self, namespace: Namespace, name: str, messages: Sequence[QueueMessage]) -> Deferred[list[int]]:
        def send() -> list[int]:
            queue = self._find(namespace, name)
            sequences = [next(queue.sequences) for _ in messages]
            for sequence, message in zip(sequences, messages, strict=True):
                queue.held[sequence] = _Held(message, sequence, self._clock.seconds())
            self._serve(namespace, name)
            return sequences

        return maybeDeferred(send)

    def _take(self, queue: _Queue, namespace: Namespace, name: str, limit: int, visibility: float) -> list[Received]:
        now = self._clock.seconds()
        visible = [one for one in queue.held.values() if one.visible_at <= now][:limit]
        for one in visible:
            one.receives += 1
            self._hide(namespace, name, one, visibility)
        return [
            Received(
                one.message,
                f"{queue.number}.{one.sequence}.{one.receives}",
                one.sequence,
                one.receives,
                int(one.sent * 1_000_000_000),
            )
            for one in visible
        ]

    def _hide(self, namespace: Namespace, name: str, held: _Held, visibility: float) -> None:
        held.visible_at = self._clock.seconds() + visibility
        self._clock.callLater(visibility, self._serve, namespace, name)

    def _serve(self, namespace: Namespace, name: str) -> None:
        """Give what is visible to those who wait, first come first served."""
        queue = self._queues.get((namespace, name))
        while queue is not None and queue.receivers:
            receiver = queue.receivers[0]
            taken = self._take(self._find(namespace, name), namespace, name, receiver.limit, receiver.visibility)
            if not taken:
                return
            queue.receivers.remove(receiver)
            receiver.answer.callback(taken)

    def receive(
        self, namespace: Namespace, name: str, limit: int, wait: float, visibility: float
    ) -> Deferred[list[Received]]:
        def receive() -> Deferred[list[Received]]:
            queue = self._find(namespace, name)
            taken = self._take(queue, namespace, name, limit, visibility)
            if taken or wait <= 0:
                return succeed(taken)
            answer: Deferred[list[Received]] = Deferred(lambda _: leave())
            receiver = _Receiver(limit, visibility, answer)
            queue.receivers.append(receiver)

            def leave() -> None:
                if receiver in queue.receivers:
                    queue.receivers.remove(receiver)
                if timeout.active():
                    timeout.cancel()

            def expire() -> None:
                queue.receivers.remove(receiver)
                answer.callback([])

            timeout = self._clock.callLater(wait, expire)

            def answered(result: list[Received]) -> list[Received]:
                if timeout.active():
                    timeout.cancel()
                return result

            return answer.addBoth(answered)

        return maybeDeferred(receive)

    def _held(self, queue: _Queue, handle: str) -> _Held | None:
        number, sequence, _ = map(int, handle.split("."))
        return queue.held.get(sequence) if number == queue.number else None

    def delete_messages(self, namespace: Namespace, name: str, handles: Sequence[str]) -> Deferred[None]:
        def delete() -> None:
            queue = self._find(namespace, name)
            for handle in handles:
                held = self._held(queue, handle)
                if held is not None:
                    del queue.held[held.sequence]

        return maybeDeferred(delete)

    def change_visibility(self, namespace: Namespace, name: str, handle: str, visibility: float) -> Deferred[None]:
        def change() -> None:
            held = self._held(self._find(namespace, name), handle)
            if held is not None:
                self._hide(namespace, name, held, visibility)

        return maybeDeferred(change)

    def stats(self, namespace: Namespace, name: str) -> Deferred[QueueStats]:
        def stats() -> QueueStats:
            held = self._find(namespace, name).held.values()
            now = self._clock.seconds()
            visible = sum(1 for one in held if one.visible_at <= now)
            return QueueStats(
                visible=visible,
                in_flight=len(held) - visible,
                delayed=0,
                bytes=sum(len(one.message.body) for one in held),
                oldest_age_seconds=max((now - one.sent for one in held), default=0.0),
            )

        return maybeDeferred(stats)
