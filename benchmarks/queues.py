"""The load generators of queues: over REST, and over Amazon SQS's JSON protocol, which a peer speaks too."""

from __future__ import annotations

import json
import re
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import quote

from benchmarks import wire
from benchmarks.connections import PATIENCE, Failed, HttpConnection, Server, connect
from benchmarks.exchanges import Span, Worker, ask, exchange

_BODY = wire.PAYLOAD.decode()
_MOST = 10
"""Messages of a batch, in both protocols."""
_FILLERS = 8
"""Connections that fill a queue, by batches, where that is not measured."""
_SLICES = 4
"""Turns that two queues take while they are compared."""
_LEAST, _FILLED_SECONDS = 200, 0.5
"""Messages in a queue out of which is taken: as many as take that time, and not fewer."""


class Queue(Protocol):
    """The requests that concern one queue, in one protocol."""

    @abstractmethod
    def make(self, connection: HttpConnection) -> None:
        """Make the queue, which is not there."""

    @abstractmethod
    def remove(self) -> bytes:
        """Remove the queue."""

    @abstractmethod
    def send(self, count: int) -> bytes:
        """Send so many messages, by a batch if there are several."""

    @abstractmethod
    def receive(self, limit: int, wait: int) -> bytes:
        """Receive messages."""

    @abstractmethod
    def delete(self, receipts: Sequence[bytes]) -> bytes:
        """Delete what was received, by a batch if there are several receipts."""

    @abstractmethod
    def receipts(self, response: bytes) -> list[bytes]:
        """The receipts in an answer to a receive."""


class RestQueue(Queue):
    """A queue at ``/api/v1/queues``."""

    _RECEIPT = re.compile(rb'"receipt": ?"([^"]+)"')

    def __init__(self, server: Server, name: str) -> None:
        self._token = server.token or ""
        self._path = f"/api/v1/queues/{name}"

    def _request(self, method: str, below: str, body: object = None) -> bytes:
        return wire.http_request(method, self._path + below, self._token, body)

    def make(self, connection: HttpConnection) -> None:
        ask(connection, self._request("PUT", "", {}))

    def remove(self) -> bytes:
        return self._request("DELETE", "")

    def depth(self, connection: HttpConnection) -> int:
        """How many messages are in it and visible."""
        answer = ask(connection, self._request("GET", ""))
        return int(json.loads(answer[answer.index(b"\r\n\r\n") :])["stats"]["visible"])

    def send(self, count: int) -> bytes:
        if count == 1:
            return self._request("POST", "/messages", {"body": _BODY})
        messages = [{"id": str(one), "body": _BODY} for one in range(count)]
        return self._request("POST", "/messages/batch", {"messages": messages})

    def receive(self, limit: int, wait: int) -> bytes:
        return self._request("POST", "/messages/receive", {"max": limit, "wait": wait})

    def delete(self, receipts: Sequence[bytes]) -> bytes:
        texts = [one.decode() for one in receipts]
        if len(texts) == 1:
            return self._request("DELETE", f"/messages/{quote(texts[0], safe='')}")
        return self._request("POST", "/messages/delete", {"receipts": texts})

    def receipts(self, response: bytes) -> list[bytes]:
        return self._RECEIPT.findall(response)


class SqsQueue(Queue):
    """A queue in Amazon SQS's JSON protocol."""

    _RECEIPT = re.compile(rb'"ReceiptHandle": ?"([^"]+)"')

    def __init__(self, server: Server, name: str) -> None:
        self._requests = wire.SqsRequests(server.api_key, f"127.0.0.1:{server.http}")
        self._name = name
        self._url = ""

    def _request(self, operation: str, **arguments: object) -> bytes:
        return self._requests.request(operation, {"QueueUrl": self._url, **arguments})

    def make(self, connection: HttpConnection) -> None:
        answer = ask(connection, self._requests.request("CreateQueue", {"QueueName": self._name}))
        self._url = json.loads(answer[answer.index(b"\r\n\r\n") :])["QueueUrl"]

    def remove(self) -> bytes:
        return self._request("DeleteQueue")

    def send(self, count: int) -> bytes:
        if count == 1:
            return self._request("SendMessage", MessageBody=_BODY)
        entries = [{"Id": str(one), "MessageBody": _BODY} for one in range(count)]
        return self._request("SendMessageBatch", Entries=entries)

    def receive(self, limit: int, wait: int) -> bytes:
        return self._request("ReceiveMessage", MaxNumberOfMessages=limit, WaitTimeSeconds=wait)

    def delete(self, receipts: Sequence[bytes]) -> bytes:
        texts = [one.decode() for one in receipts]
        if len(texts) == 1:
            return self._request("DeleteMessage", ReceiptHandle=texts[0])
        entries = [{"Id": str(one), "ReceiptHandle": text} for one, text in enumerate(texts)]
        return self._request("DeleteMessageBatch", Entries=entries)

    def receipts(self, response: bytes) -> list[bytes]:
        return self._RECEIPT.findall(response)


_PROTOCOLS: dict[str, type[RestQueue] | type[SqsQueue]] = {"rest": RestQueue, "sqs": SqsQueue}
_FAILED = re.compile(rb'"[Ff]ailed": ?\[\s*\{')


def check(response: bytes) -> None:
    """See to it that nothing of a batch was refused: the status does not tell.

    :raises Failed: if something was.
    """
    if found := _FAILED.search(response):
        raise Failed(f"a part of a batch was answered with {response[found.start() :][:200]!r}")


def _open(server: Server, count: int) -> list[HttpConnection]:
    return [HttpConnection(connect(server.http), server.http) for _ in range(count)]


def fill(queue: Queue, connections: Sequence[HttpConnection], messages: int) -> int:
    """Send ``messages`` messages by batches, with the last one whole; return how many they were."""
    request = queue.send(_MOST)
    sent = 0

    def worker() -> Worker:
        nonlocal sent
        while sent < messages:
            sent += _MOST
            check((yield request))

    exchange(connections, [worker() for _ in connections])
    return sent


def queue_send(server: Server, seconds: float, *, protocol: str, connections: int, batch: int) -> float:
    """Send, one request under way on each connection.

    :returns: messages in a second.
    """
    queue = _PROTOCOLS[protocol](server, f"{protocol}-send-{connections}-{batch}")
    opened = _open(server, connections)
    queue.make(opened[0])
    request = queue.send(batch)
    span = Span(seconds)

    def worker() -> Worker:
        while True:
            check((yield request))
            if not span.add(batch):
                return

    exchange(opened, [worker() for _ in opened])
    ask(opened[0], queue.remove())
    return span.rate


def cycle(queue: Queue, batch: int, span: Span) -> Worker:
    """Send ``batch`` messages, receive as many, delete them, and so on."""
    send, receive = queue.send(batch), [queue.receive(limit, 1) for limit in range(1, batch + 1)]
    going = True
    while going:
        check((yield send))
        owed = batch
        while owed:
            receipts = queue.receipts((yield receive[owed - 1]))
            if receipts:
                check((yield queue.delete(receipts)))
                owed -= len(receipts)
                going = span.add(len(receipts))


def queue_cycle(server: Server, seconds: float, *, protocol: str, connections: int, batch: int) -> float:
    """Send, receive, delete, and so on, one request under way on each connection; the queue is all but empty.

    :returns: messages in a second.
    """
    queue = _PROTOCOLS[protocol](server, f"{protocol}-cycle-{connections}-{batch}")
    opened = _open(server, connections)
    queue.make(opened[0])
    span = Span(seconds)
    exchange(opened, [cycle(queue, batch, span) for _ in opened])
    ask(opened[0], queue.remove())
    return span.rate


class _Taking:
    """Receives and deletes what is in a queue.

    :ivar taken: messages deleted.
    """

    def __init__(self, queue: Queue, batch: int) -> None:
        self._queue = queue
        self._receive = queue.receive(batch, 0)
        self._left = 0
        self.taken = 0

    def run(self, connections: Sequence[HttpConnection], messages: int, seconds: float) -> float:
        """Take up to ``messages`` messages, all that there are; give the seconds that it took."""
        self._left = messages
        start = time.perf_counter()
        exchange(connections, [self._worker(start + seconds) for _ in connections])
        return time.perf_counter() - start

    def _worker(self, end: float) -> Worker:
        progress = time.perf_counter()
        while self._left > 0 and (now := time.perf_counter()) < end:
            receipts = self._queue.receipts((yield self._receive))
            if receipts:
                progress = now
                self._left -= len(receipts)
                check((yield self._queue.delete(receipts)))
                self.taken += len(receipts)
            elif now - progress > PATIENCE:
                raise Failed(f"{self._left:,} messages are in the queue, and none is given out")


def queue_take(server: Server, seconds: float, *, protocol: str, connections: int, batch: int) -> float:
    """Receive and delete out of a queue that is filled whenever it is empty; only the taking is measured.

    :returns: messages in a second.
    """
    queue = _PROTOCOLS[protocol](server, f"{protocol}-take-{connections}-{batch}")
    opened, fillers = _open(server, connections), _open(server, _FILLERS)
    queue.make(opened[0])
    taking = _Taking(queue, batch)
    filled, messages = 0, _LEAST

    def run(most: float) -> float:
        nonlocal filled, messages
        filled += fill(queue, fillers, messages - filled + taking.taken)
        before = taking.taken
        took = taking.run(opened, filled - before, most)
        messages = max(_LEAST, int(_FILLED_SECONDS * (taking.taken - before) / took))
        return took

    run(seconds / 4)
    warm, took = taking.taken, 0.0
    while took < seconds:
        took += run(seconds - took)
    ask(opened[0], queue.remove())
    return (taking.taken - warm) / took


def queue_deep(server: Server, seconds: float, *, connections: int, messages: int, compared: bool) -> float:
    """As :func:`queue_cycle` over REST, on a queue in which ``messages`` messages lie that were sent before.

    The queue is filled first, which is not measured; the row that compares comes last and removes it.

    :param compared: measure another, empty queue too, in turns with this one.
    :returns: messages in a second; compared, how many times faster the empty queue is.
    """
    queue, fillers = RestQueue(server, f"deep-{messages}"), _open(server, _FILLERS)
    queue.make(fillers[0])
    fill(queue, fillers, messages - queue.depth(fillers[0]))
    opened = _open(server, connections)  # not before: a server does not wait long for a first request

    def rate(queue: RestQueue, seconds: float) -> float:
        span = Span(seconds)
        exchange(opened, [cycle(queue, 1, span) for _ in opened])
        return span.rate

    if not compared:
        return rate(queue, seconds)
    empty = RestQueue(server, "deep-0")
    empty.make(opened[0])
    of_deep = of_empty = 0.0
    for _ in range(_SLICES):
        of_empty += rate(empty, seconds / _SLICES)
        of_deep += rate(queue, seconds / _SLICES)
    for one in (empty, queue):
        ask(opened[0], one.remove())
    return of_empty / of_deep
