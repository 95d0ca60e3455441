"""Requests and answers of HTTP, one under way on each connection, and the time in which they count."""

from __future__ import annotations

import select
import time
from collections.abc import Generator, Sequence
from typing import TypeAlias

from benchmarks.connections import PATIENCE, Failed, HttpConnection

Worker: TypeAlias = Generator[bytes, bytes, None]
"""What one client does: it yields a request, is sent the response, and so on; it ends after a response."""


class Span:
    """Counts in a time that begins after a warm-up of a quarter.

    :ivar end: when it is over, by ``time.perf_counter()``.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begin = time.perf_counter() + seconds / 4
        self.end = self._begin + seconds
        self._count = 0

    def add(self, count: int) -> bool:
        """Count what has just been done; whether to go on."""
        now = time.perf_counter()
        if self._begin <= now < self.end:
            self._count += count
        return now < self.end

    @property
    def rate(self) -> float:
        """What was counted in a second."""
        return self._count / self._seconds


def exchange(connections: Sequence[HttpConnection], workers: Sequence[Worker]) -> None:
    """Let each worker use its connection until all have ended."""
    epoll = select.epoll()
    by_descriptor: dict[int, tuple[HttpConnection, Worker]] = {}

    def register(connection: HttpConnection, worker: Worker) -> None:
        by_descriptor[connection.sock.fileno()] = connection, worker
        epoll.register(connection.sock.fileno(), select.EPOLLIN)

    working = 0
    try:
        for connection, worker in zip(connections, workers, strict=True):
            request = next(worker, None)
            if request is not None:
                if connection.closed:
                    connection.open()
                register(connection, worker)
                connection.send(request)
                working += 1
        while working:
            events = epoll.poll(PATIENCE)
            if not events:
                raise Failed("nothing more is answered")
            for descriptor, _mask in events:
                connection, worker = by_descriptor[descriptor]
                response = connection.read()
                if response is None:
                    continue
                if connection.closed:  # epoll forgets it by itself
                    del by_descriptor[descriptor]
                try:
                    request = worker.send(response)
                except StopIteration:
                    working -= 1
                    continue
                if connection.closed:
                    connection.open()
                    register(connection, worker)
                connection.send(request)
    finally:
        epoll.close()


def ask(connection: HttpConnection, request: bytes) -> bytes:
    """Send one request; what comes back."""
    responses = []

    def worker() -> Worker:
        responses.append((yield request))

    exchange([connection], [worker()])
    return responses[0]
