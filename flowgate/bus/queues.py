"""Queues: one WorkQueue stream each, with one durable pull consumer.

How long a message stays with its receiver is said straight after it was fetched, by ``-NAK`` with a delay: the message
stays pending and comes back after just that time (nats-server ``server/consumer.go``, ``processNak``).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, Final

import attrs
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from twisted.internet.defer import Deferred
from zope.interface import implementer

from flowgate.bus.bridge import (
    REQUEST_SECONDS,
    ApiError,
    IConnectionListener,
    NatsConnection,
    NoResponders,
    api_error,
    to_deferred,
)
from flowgate.bus.wire import nanoseconds
from flowgate.errors import BusUnavailable, NotFound, RateLimited
from flowgate.interfaces import IQueues
from flowgate.message import QueueMessage, QueueStats, Received
from flowgate.topics import Namespace

ACK_SECONDS: Final = 30.0
"""The consumer's own idea of visibility: it holds if the gateway dies between fetch and ``-NAK``, and a receive that
wants just that needs no ``-NAK``."""
MAX_IN_FLIGHT: Final = 120_000
"""Messages of one queue that are with receivers; beyond it a receive finds nothing, as in Amazon SQS."""
MAX_RECEIVERS: Final = 10_000
"""Receives that wait at one queue; beyond it they are refused."""

_NANOSECONDS = 1_000_000_000
_SHORT_WAIT_SECONDS = 0.02
_SETTLE_SECONDS = 0.1
_IDLE_PULLS = 256
_KNOWN_QUEUES = 10_000
_ACK_ANSWER_SECONDS = 2.0
_STREAM_EXISTS = 10058
_NO_MESSAGE = 10043
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
# processNak restarts a timer of 10 ms; only when it fires are messages whose visibility has ended found.
_NAK_PAUSE_SECONDS, _NAK_RUN_SECONDS = 0.015, 0.5


def stream_name(namespace: Namespace, name: str) -> str:
    """The stream of a queue; reversible, since user and app hold no ``_``."""
    return f"FG_Q_{namespace.user}_{namespace.app}_{_escape(name)}"


def queue_subject(namespace: Namespace, name: str) -> str:
    """Where the messages of a queue are published."""
    return f"fg.q.{namespace.user}.{namespace.app}.{_escape(name)}"


def _escape(name: str) -> str:
    return _UNSAFE.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), name)


@attrs.frozen(slots=True)
class _Queue:
    """A queue as JetStream has it.

    The consumer is called after the time when the stream was made, so that a receipt from before a removal can never
    touch a message of a new queue of the same name.
    """

    stream: str
    subject: str
    consumer: str

    @property
    def pull(self) -> str:
        return f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}"


@attrs.frozen(slots=True)
class _Place:
    """What a reply subject says of a delivery (ADR-15)."""

    stream: str
    consumer: str
    deliveries: int
    sequence: int
    time: int

    @classmethod
    def parse(cls, reply: str) -> _Place:
        tokens = reply.split(".")
        if len(tokens) >= 11:  # with domain and account
            tokens[2:4] = []
        if tokens[:2] != ["$JS", "ACK"] or len(tokens) < 9:
            raise ValueError("not the reply subject of a delivery")
        return cls(tokens[2], tokens[3], int(tokens[4]), int(tokens[5]), int(tokens[7]))


class _Pull:
    """An inbox for one pull request at a time.

    It cannot be shared: JetStream delivers under the subject of the queue, so only the subscription tells whose it is.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._messages: list[Msg] = []
        self._limit = 0
        self._began = 0.0
        self._given_up = False
        self._end: asyncio.Future[str] | None = None

    async def open(self) -> None:
        self._subscription = await self.client.subscribe(self.inbox, cb=self._arrived)

    async def _arrived(self, message: Msg) -> None:
        waiting = self._end is not None and not self._end.done()
        if message.reply.startswith("$JS.ACK."):
            if not waiting or self._given_up:
                await self.client.publish(message.reply, b"-NAK")  # too late: somebody else's now
                return
            assert self._end is not None
            self._messages.append(message)
            if len(self._messages) == self._limit:
                self._end.set_result("")
        elif waiting and message.headers is not None and message.headers.get("Status") != "100":
            assert self._end is not None
            self._end.set_result(f"{message.headers.get('Status')} {message.headers.get('Description', '')}")

    async def fetch(
        self, subject: str, request: dict[str, object], limit: int, timeout: float
    ) -> tuple[list[Msg], str]:
        """Send a pull request and collect what it brings.

        :returns: the messages, and the status with which the bus closed the request (empty: they are all).
        :raises asyncio.TimeoutError: if the bus does not close the request in time and brought nothing.
        """
        self._messages, self._limit = [], limit
        loop = asyncio.get_running_loop()
        self._began, self._end = loop.time(), loop.create_future()
        await self.client.publish(subject, json.dumps(request).encode(), self.inbox)
        try:
            status = await asyncio.wait_for(asyncio.shield(self._end), timeout)
        except asyncio.TimeoutError:
            if not self._messages:
                raise
            status = "timeout"
        messages, self._messages = self._messages, []
        return messages, status

    def fail(self) -> None:
        """The connection is lost."""
        if self._end is not None and not self._end.done():
            self._end.set_exception(BusUnavailable())

    async def close(self) -> None:
        """Give back what has come or still comes; nothing comes after this."""
        self._given_up = True
        messages, self._messages = self._messages, []
        for message in messages:
            await self.client.publish(message.reply, b"-NAK")
        rest = self._began + _SETTLE_SECONDS - asyncio.get_running_loop().time()
        if self._end is not None and rest > 0:
            # A young request is perhaps being answered right now.  What the bus sends after the subscription's end
            # reaches nobody, and would be hidden for ACK_SECONDS.
            await asyncio.wait((self._end,), timeout=rest)
        if self._subscription is not None:
            # Its end is confirmed by a round trip; what is under way until then meets _arrived and goes back.
            await self._subscription.drain()  # type: ignore[no-untyped-call]


class _Breath:
    """Lets the bus breathe: after half a second of ``-NAK`` without a gap, the next one waits for 15 ms.

    Without that gap the bus would never look for messages whose visibility has ended as long as traffic lasts.
    """

    def __init__(self) -> None:
        self._last = self._gap = 0.0
        self._pause: asyncio.Future[None] | None = None

    async def take(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pause is not None:
            await asyncio.shield(self._pause)
        now = loop.time()
        if now - self._last >= _NAK_PAUSE_SECONDS:
            self._gap = now
        elif now - self._gap > _NAK_RUN_SECONDS:
            self._pause = loop.create_future()
            loop.call_later(_NAK_PAUSE_SECONDS, self._over, self._pause)
            await asyncio.shield(self._pause)
        self._last = loop.time()

    def _over(self, pause: asyncio.Future[None]) -> None:
        self._pause = None
        self._last = self._gap = asyncio.get_running_loop().time()
        pause.set_result(None)


@implementer(IQueues, IConnectionListener)
class JetStreamQueues:
    """Queues in JetStream."""

    def __init__(self, connection: NatsConnection, replicas: int = 1) -> None:
        """Prepare the queues.

        :param connection: the way to the bus.
        :param replicas: how many servers keep each new queue.
        """
        self._connection = connection
        self._replicas = replicas
        self._known: dict[tuple[Namespace, str], _Queue] = {}
        self._idle: list[_Pull] = []
        self._busy: set[_Pull] = set()
        self._breaths: dict[str, _Breath] = {}
        connection.add_listener(self)

    # What becomes of the connection

    def connected(self) -> None:
        client = self._connection.client
        self._idle = [pull for pull in self._idle if pull.client is client]

    def disconnected(self) -> None:
        for pull in list(self._busy):
            pull.fail()

    # Queues as such

    def create(self, namespace: Namespace, name: str, retention: int) -> Deferred[bool]:
        return to_deferred(self._connection.guard(self._create(namespace, name, retention)))

    async def _create(self, namespace: Namespace, name: str, retention: int) -> bool:
        stream = stream_name(namespace, name)
        config = {
            "name": stream,
            "subjects": [queue_subject(namespace, name)],
            "retention": "workqueue",
            "storage": "file",
            "discard": "old",
            "max_age": retention * _NANOSECONDS,
            "duplicate_window": min(retention, 120) * _NANOSECONDS,
            "num_replicas": self._replicas,
            "max_consumers": -1,
        }
        try:
            info = await self._connection.api(f"STREAM.INFO.{stream}")
        except NotFound:
            pass
        else:
            if info["config"].get("max_age") != config["max_age"]:
                await self._connection.api(
                    f"STREAM.UPDATE.{stream}", {**config, "num_replicas": info["config"]["num_replicas"]}
                )
            await self._learn(namespace, name, info)
            return False
        try:
            info = await self._connection.api(f"STREAM.CREATE.{stream}", config)
        except ApiError as error:
            if error.err_code != _STREAM_EXISTS:
                raise
            return False  # another node was faster, with another retention
        await self._learn(namespace, name, info)
        return True

    async def _learn(self, namespace: Namespace, name: str, info: dict[str, Any]) -> _Queue:
        stream = info["config"]["name"]
        consumer = "r" + re.sub(r"\D", "", info["created"])
        config = {
            "durable_name": consumer,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(ACK_SECONDS * _NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": MAX_IN_FLIGHT,
            "max_waiting": MAX_RECEIVERS,
            "replay_policy": "instant",
        }
        await self._connection.api(
            f"CONSUMER.CREATE.{stream}.{consumer}", {"stream_name": stream, "config": config, "action": ""}
        )
        if len(self._known) >= _KNOWN_QUEUES:
            self._known.clear()
        queue = self._known[namespace, name] = _Queue(stream, queue_subject(namespace, name), consumer)
        return queue

    async def _find(self, namespace: Namespace, name: str) -> _Queue:
        queue = self._known.get((namespace, name))
        if queue is None:
            try:
                info = await self._connection.api(f"STREAM.INFO.{stream_name(namespace, name)}")
            except NotFound:
                raise NotFound("there is no such queue") from None
            queue = await self._learn(namespace, name, info)
        return queue

    def delete(self, namespace: Namespace, name: str) -> Deferred[None]:
        async def delete() -> None:
            self._known.pop((namespace, name), None)
            self._breaths.pop(stream_name(namespace, name), None)
            try:
                await self._connection.api(f"STREAM.DELETE.{stream_name(namespace, name)}")
            except NotFound:
                raise NotFound("there is no such queue") from None

        return to_deferred(self._connection.guard(delete()))

    def stats(self, namespace: Namespace, name: str) -> Deferred[QueueStats]:
        async def stats() -> QueueStats:
            try:
                queue = await self._find(namespace, name)
                stream, consumer = await asyncio.gather(
                    self._connection.api(f"STREAM.INFO.{queue.stream}"),
                    self._connection.api(f"CONSUMER.INFO.{queue.stream}.{queue.consumer}"),
                )
            except NotFound:
                self._known.pop((namespace, name), None)
                raise NotFound("there is no such queue") from None
            state = stream["state"]
            in_flight = int(consumer["num_ack_pending"])
            oldest = 0.0
            if state["messages"]:
                age = nanoseconds(stream["ts"].encode()) - nanoseconds(state["first_ts"].encode())
                oldest = max(0.0, age / _NANOSECONDS)
            return QueueStats(
                visible=int(consumer["num_pending"]),
                in_flight=in_flight,
                delayed=0,
                bytes=int(state["bytes"]),
                oldest_age_seconds=oldest,
            )

        return to_deferred(self._connection.guard(stats()))

    # Messages

    def send(self, namespace: Namespace, name: str, messages: Sequence[QueueMessage]) -> Deferred[list[int]]:
        return to_deferred(self._send(namespace, name, messages))

    async def _send(self, namespace: Namespace, name: str, messages: Sequence[QueueMessage]) -> list[int]:
        queue = await self._find(namespace, name)
        sent = await asyncio.gather(*(self._send_one(queue, message) for message in messages), return_exceptions=True)
        if any(isinstance(one, NoResponders) for one in sent):
            self._known.pop((namespace, name), None)
            await self._find(namespace, name)  # raises if the queue is gone; otherwise it has no leader now
        for one in sent:
            if isinstance(one, BaseException):
                raise one
        return [one for one in sent if isinstance(one, int)]

    async def _send_one(self, queue: _Queue, message: QueueMessage) -> int:
        headers = {"FG-Id": message.id, "Nats-Expected-Stream": queue.stream}
        if message.attributes:
            headers["FG-Attributes"] = json.dumps(message.attributes, separators=(",", ":"))
        answer = json.loads((await self._connection.request(queue.subject, message.body, headers)).data)
        if "error" in answer:
            raise api_error(answer["error"])
        return int(answer["seq"])

    def receive(
        self, namespace: Namespace, name: str, limit: int, wait: float, visibility: float
    ) -> Deferred[list[Received]]:
        def give_back(messages: list[Received]) -> None:
            self._connection.in_background(self._give_back(messages))

        return to_deferred(self._receive(namespace, name, limit, wait, visibility), give_back)

    async def _give_back(self, messages: list[Received]) -> None:
        for message in messages:
            await self._connection.client.publish(message.handle, b"-NAK")

    async def _receive(
        self, namespace: Namespace, name: str, limit: int, wait: float, visibility: float
    ) -> list[Received]:
        try:
            queue = await self._find(namespace, name)
            messages = await self._fetch(queue, limit, wait)
        except NoResponders:
            # Unknown to the bus: removed, or removed and made anew, by another node; or without a leader.
            self._known.pop((namespace, name), None)
            queue = await self._find(namespace, name)
            messages = await self._fetch(queue, limit, wait)
        received = [_received(message) for message in messages]
        if visibility != ACK_SECONDS:
            for one in received:
                await self._hide(queue.stream, one.handle, visibility)
        return received

    async def _fetch(self, queue: _Queue, limit: int, wait: float) -> list[Msg]:
        loop = asyncio.get_running_loop()
        # Both together: give what there is, or wait for the first.  Never without a wait: the consumer learns of a
        # message a moment after its sender was told that it is stored.
        deadline = loop.time() + max(wait, _SHORT_WAIT_SECONDS)
        request: dict[str, object] = {"batch": limit, "no_wait": True}
        while True:
            left = deadline - loop.time()
            if left <= 0:
                return []
            request["expires"] = int(left * _NANOSECONDS)
            messages, status = await self._pull(queue, request, limit, left + REQUEST_SECONDS)
            if messages:
                return messages
            if status.startswith("503"):
                raise NoResponders()
            if status.startswith("409"):
                if "MaxWaiting" in status:
                    raise RateLimited("too many receivers wait at this queue")
                if "Deleted" in status:
                    raise NoResponders()
                raise BusUnavailable()
            # "Requests Pending": what there is, is on its way to others.  Stand in line for one of what comes next.
            request, limit = {"batch": 1}, 1

    async def _pull(
        self, queue: _Queue, request: dict[str, object], limit: int, timeout: float
    ) -> tuple[list[Msg], str]:
        if self._idle and self._idle[-1].client is self._connection.client:
            pull = self._idle.pop()
        else:
            pull = _Pull(self._connection.client)
            await pull.open()
        self._busy.add(pull)
        try:
            messages, status = await pull.fetch(queue.pull, request, limit, timeout)
        except BaseException:
            self._busy.discard(pull)
            self._connection.in_background(pull.close())
            raise
        self._busy.discard(pull)
        if status == "timeout" or len(self._idle) >= _IDLE_PULLS:
            self._connection.in_background(pull.close())
        else:
            self._idle.append(pull)
        return messages, status

    async def _hide(self, stream: str, handle: str, visibility: float) -> None:
        client = self._connection.client
        if visibility <= 0:
            await client.publish(handle, b"-NAK")
            return
        breath = self._breaths.get(stream)
        if breath is None:
            if len(self._breaths) >= _KNOWN_QUEUES:
                self._breaths.clear()
            breath = self._breaths[stream] = _Breath()
        await breath.take()
        await client.publish(handle, b'-NAK {"delay": %d}' % int(visibility * _NANOSECONDS))

    def change_visibility(self, namespace: Namespace, name: str, handle: str, visibility: float) -> Deferred[None]:
        async def change() -> None:
            queue = await self._find(namespace, name)
            place = _Place.parse(handle)
            if (place.stream, place.consumer) == (queue.stream, queue.consumer):
                await self._hide(queue.stream, handle, visibility)

        return to_deferred(self._connection.guard(change()))

    def delete_messages(self, namespace: Namespace, name: str, handles: Sequence[str]) -> Deferred[None]:
        async def delete() -> None:
            queue = await self._find(namespace, name)
            done = await asyncio.gather(
                *(self._delete_one(namespace, name, queue, handle) for handle in handles), return_exceptions=True
            )
            for one in done:
                if isinstance(one, BaseException):
                    raise one

        return to_deferred(delete())

    async def _delete_one(self, namespace: Namespace, name: str, queue: _Queue, handle: str) -> None:
        place = _Place.parse(handle)
        if (place.stream, place.consumer) != (queue.stream, queue.consumer):
            return  # of a queue that was removed, and the message with it
        try:
            await self._connection.request(handle, b"+ACK", timeout=_ACK_ANSWER_SECONDS)
            return
        except NoResponders:
            self._known.pop((namespace, name), None)
            if await self._find(namespace, name) != queue:
                return
            raise BusUnavailable() from None
        except asyncio.TimeoutError:
            pass
        # A consumer that came back from kill -9 may not know of this delivery, and then does not answer.
        try:
            await self._connection.api(f"STREAM.MSG.DELETE.{queue.stream}", {"seq": place.sequence, "no_erase": True})
        except ApiError as error:
            if error.err_code != _NO_MESSAGE:
                raise


def _received(message: Msg) -> Received:
    place = _Place.parse(message.reply)
    headers = message.headers or {}
    attributes = headers.get("FG-Attributes")
    return Received(
        QueueMessage(headers.get("FG-Id", ""), message.data, json.loads(attributes) if attributes else {}),
        message.reply,
        place.sequence,
        place.deliveries,
        place.time,
    )
