"""How much waits for a reader that was away: counted by the server, and weighed without moving the payloads."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from flowgate.bus import wire
from flowgate.bus.grouping import consumed_sequence
from flowgate.bus.link import Link, decode_json
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable

_BATCH = 1000
_ANSWER_SECONDS = 5.0
_IDLE_SECONDS = 10  # after so long without a question the server removes the consumer by itself


class Weighing:
    """An ephemeral consumer that tells the sizes of what lies behind a place on some subjects."""

    def __init__(self, reactor: Any, link: Link, stream: str, subjects: Sequence[str]) -> None:
        """Describe it; :meth:`count` makes it, and :meth:`close` ends it.

        :param reactor: IReactorTime.
        :param subjects: none of which takes in another; they may overlap.
        """
        self._reactor = reactor
        self._link = link
        self._stream = stream
        self._subjects = subjects
        self._token = link.token()
        self._reply = f"{link.inbox}-.{self._token}"  # beside the inbox: what comes bears the subject of its message
        self._subscription = b""
        self._batch: Deferred[bool] | None = None
        self._timer: IDelayedCall | None = None
        self._sizes: list[tuple[Message, int]] = []

    async def count(self, after: int) -> int:
        """How many messages lie behind ``after``.

        :raises BusUnavailable: if JetStream does not answer.
        """
        config = {
            "name": self._token,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "filter_subjects": list(self._subjects),
            "ack_policy": "none",
            "replay_policy": "instant",
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _IDLE_SECONDS * 1_000_000_000,
        }
        body = json.dumps({"stream_name": self._stream, "config": config, "action": "create"}).encode()
        answer = decode_json(await self._link.request(f"$JS.API.CONSUMER.CREATE.{self._stream}.{self._token}", body))
        if "error" in answer:
            raise BusUnavailable(f"the stream cannot be read: {answer['error'].get('description')}")
        return int(answer["num_pending"])

    async def sizes(self) -> list[tuple[Message, int]]:
        """The next messages, without their payloads, and the sizes of these; nothing if there are no more.

        :raises BusUnavailable: if there is no answer in time, or the connection is lost.
        """
        self._sizes = []
        batch: Deferred[bool] = Deferred(lambda _: self._rest())
        self._batch = batch
        if not self._subscription:
            self._subscription = self._link.subscribe(self._reply, self._delivered)
            # Only to learn that the connection is lost.
            self._link.open_inbox(self._token, self._delivered, self._lost)
        self._timer = self._reactor.callLater(_ANSWER_SECONDS, self._timed_out)
        body = json.dumps({"batch": _BATCH, "no_wait": True}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._token}".encode()
        self._link.write(wire.publish(subject, body, self._reply.encode()))
        await batch
        return self._sizes

    def _rest(self) -> None:
        self._batch = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _settle(self, failure: BusUnavailable | None) -> None:
        batch = self._batch
        self._rest()
        if batch is None:
            return
        if failure is None:
            batch.callback(True)
        else:
            batch.errback(failure)

    def _timed_out(self) -> None:
        self._settle(BusUnavailable("the message bus does not answer in time"))

    def _lost(self) -> None:
        self._settle(BusUnavailable())

    def _delivered(self, messages: list[Message]) -> None:
        if self._batch is None or self._timer is None:
            return
        self._timer.reset(_ANSWER_SECONDS)
        for message in messages:
            status = wire.status(message[3])
            if not status:
                self._sizes.append((message, int(wire.header(message[3], b"Nats-Msg-Size") or 0)))
            elif status in (404, 408):  # no more
                self._settle(None)
                return
            else:
                self._settle(BusUnavailable(f"reading the stream was refused with status {status}"))
                return
        if len(self._sizes) >= _BATCH:
            self._settle(None)

    def close(self) -> None:
        """End the consumer."""
        self._rest()
        if self._subscription:
            self._link.unsubscribe(self._subscription)
            self._link.close_inbox(self._token)
        if self._link.up:
            # The server removes it by itself, only later: whether this arrives does not matter.
            subject = f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._token}".encode()
            self._link.write(wire.publish(subject, b""))


async def excess(weighing: Weighing, after: int, messages: int, size: int, largest: int) -> tuple[int, int]:
    """Find from where on no more than so much waits.

    :param messages: at most so many.
    :param size: at most so many bytes of payload.
    :param largest: bytes of the largest payload there can be.
    :returns: the place behind which that is so, and how many messages lie between ``after`` and it.
    :raises BusUnavailable: if JetStream does not answer.
    """
    try:
        count = await weighing.count(after)
        if count <= messages and count * largest <= size:
            return after, 0
        waiting: deque[tuple[Message, int]] = deque()  # the newest that fit
        held = dropped = seen = 0
        while seen < count:  # what comes meanwhile does not wait yet
            sizes = await weighing.sizes()
            if not sizes:
                break
            seen += len(sizes)
            for one in sizes:
                waiting.append(one)
                held += one[1]
                while len(waiting) > messages or held > size:
                    message, weight = waiting.popleft()
                    held -= weight
                    after = consumed_sequence(message)
                    dropped += 1
        return after, dropped
    finally:
        weighing.close()
