"""Hundreds of raw readers of events and of WebSockets in one loop, and a publisher: a recovery storm."""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from threading import Event, Thread

from tests.integration.cutting import reset
from tests.integration.gateway import PATIENCE

_NUMBER = re.compile(rb'"data":"([0-9]+)"')
_AGAIN = 0.3
"""At most how many seconds a reader waits before it comes back."""


class Reader(ABC):
    """A reader of one topic whose messages are numbers; it comes back from the last cursor that it has seen.

    :ivar last: that cursor.
    :ivar seen: the numbers, in the order in which they came.
    :ivar marks: how many numbers it had and what ``last`` was, whenever it came back.
    :ivar gaps: how often it was told that something is missing.
    :ivar due: when it comes back, if it is away.
    """

    def __init__(self, topic: str, token: str, last: str) -> None:
        self.topic = topic
        self.token = token
        self.last = last
        self.seen = array("I")
        self.marks: list[tuple[int, str]] = []
        self.gaps = 0
        self.due = 0.0
        self.socket: socket.socket | None = None
        self._raw = b""
        self._answered = False

    def begin(self) -> None:
        """A new connection stands."""
        self.marks.append((len(self.seen), self.last))
        self._raw = b""
        self._answered = False

    @abstractmethod
    def request(self) -> bytes:
        """What it says first."""

    def take(self, data: bytes) -> bool:
        """Take what has come.

        :returns: whether the connection is still good.
        """
        raw = self._raw + data
        if not self._answered:
            head, found, raw = raw.partition(b"\r\n\r\n")
            if not found:
                self._raw = head
                return True
            if not self._good(head.partition(b"\r\n")[0]):
                return False
            self._answered = True
        self._raw = raw
        return self._read()

    @abstractmethod
    def _good(self, status: bytes) -> bool:
        """Whether this is the status line of an answer that is no refusal."""

    @abstractmethod
    def _read(self) -> bool:
        """Take all that is complete."""

    def _note(self, whole: bytes, id_mark: bytes, id_end: bytes) -> None:
        """Note the messages in whole events or frames."""
        numbers = _NUMBER.findall(whole)
        if numbers:
            self.seen.extend(map(int, numbers))
            start = whole.rindex(id_mark) + len(id_mark)
            self.last = whole[start : whole.index(id_end, start)].decode()


class EventReader(Reader):
    """A reader of Server-Sent Events."""

    _body = b""

    def begin(self) -> None:
        super().begin()
        self._body = b""

    def request(self) -> bytes:
        return (
            f"GET /api/v1/subscribe?topic={self.topic} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n"
            f"Last-Event-ID: {self.last}\r\n\r\n"
        ).encode()

    def _good(self, status: bytes) -> bool:
        return b" 200 " in status

    def _read(self) -> bool:
        raw, place, parts = self._raw, 0, [self._body]
        over = False
        while (line := raw.find(b"\r\n", place)) >= 0:
            size = int(raw[place:line], 16)
            if len(raw) < line + 2 + size + 2:
                break
            parts.append(raw[line + 2 : line + 2 + size])
            place = line + 2 + size + 2
            over = size == 0
        self._raw = raw[place:]
        body = b"".join(parts)
        end = body.rfind(b"\n\n") + 2 if b"\n\n" in body else 0
        self._body = body[end:]
        whole = body[:end]
        self.gaps += whole.count(b"event: gap\n")
        self._note(whole, b"id: ", b"\n")
        return not over


class WebSocketReader(Reader):
    """A reader by WebSocket."""

    def request(self) -> bytes:
        return (
            f"GET /ws?token={self.token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def _good(self, status: bytes) -> bool:
        if b" 101 " not in status:
            return False
        frame = {"action": "subscribe", "topic": self.topic, "since": self.last, "meta": True}
        return self._send(1, json.dumps(frame).encode())

    def _send(self, opcode: int, payload: bytes) -> bool:
        assert self.socket is not None
        assert len(payload) < 126
        try:
            self.socket.send(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)
        except OSError:
            return False
        return True

    def _read(self) -> bool:
        raw, place, size = self._raw, 0, len(self._raw)
        good = True
        while size - place >= 2:
            start, length = place + 2, raw[place + 1]
            if length == 126:
                start += 2
                length = int.from_bytes(raw[place + 2 : start], "big")
            elif length == 127:
                start += 8
                length = int.from_bytes(raw[place + 2 : start], "big")
            if size < start or size < start + length:
                break
            opcode = raw[place]
            if opcode == 0x89:
                good = self._send(10, raw[start : start + length]) and good
            elif opcode == 0x88:
                good = False
            elif opcode != 0x81:
                raise AssertionError(f"a frame that begins with {opcode:#x}")
            place = start + length
        whole, self._raw = raw[:place], raw[place:]
        self.gaps += whole.count(b'"code":"gap"')
        if b'"action":"error"' in whole:
            good = False  # the bus is away
        self._note(whole, b'"id":"', b'"')
        return good


class Storm:
    """The loop of the readers.

    :ivar kicked: how often a connection was cut.
    :ivar calm: while it is set nobody is cut.
    """

    def __init__(self, port: Callable[[], int], readers: Sequence[Reader], rng: Random, kick_seconds: float) -> None:
        """Make one.

        :param port: where the gateway is now.
        :param kick_seconds: how often somebody is cut.
        """
        self._port = port
        self._readers = readers
        self._rng = rng
        self._kick_seconds = kick_seconds
        self._selector = selectors.DefaultSelector()
        self.kicked = 0
        self.calm = False

    def run(self, done: Callable[[], bool], patience: float) -> None:
        """Go on until ``done()``, and fail after ``patience`` seconds."""
        now = time.monotonic()
        deadline, kick = now + patience, now + self._kick_seconds
        while not done():
            if now > deadline:
                fewest = min(len(reader.seen) for reader in self._readers)
                raise AssertionError(f"not done after {patience:.0f} s; somebody has seen only {fewest} messages")
            for key, events in self._selector.select(0.01):
                reader: Reader = key.data
                if events & selectors.EVENT_WRITE:
                    self._connected(reader)
                else:
                    self._receive(reader)
            now = time.monotonic()
            if now >= kick:
                kick += self._kick_seconds
                reader = self._rng.choice(self._readers)
                if reader.socket is not None and not self.calm:
                    self.kicked += 1
                    self._leave(reader)
            for reader in self._readers:
                if reader.socket is None and now >= reader.due:
                    self._connect(reader)

    def close(self) -> None:
        for reader in self._readers:
            if reader.socket is not None:
                self._leave(reader)
        self._selector.close()

    def _connect(self, reader: Reader) -> None:
        reader.socket = sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", self._port()))
        self._selector.register(sock, selectors.EVENT_WRITE, reader)

    def _connected(self, reader: Reader) -> None:
        assert reader.socket is not None
        try:
            reader.socket.send(reader.request())
        except OSError:
            self._leave(reader)
        else:
            reader.begin()
            self._selector.modify(reader.socket, selectors.EVENT_READ, reader)

    def _receive(self, reader: Reader) -> None:
        assert reader.socket is not None
        try:
            data = reader.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or not reader.take(data):
            self._leave(reader)

    def _leave(self, reader: Reader) -> None:
        sock, reader.socket = reader.socket, None
        assert sock is not None
        self._selector.unregister(sock)
        reset(sock)
        reader.due = time.monotonic() + self._rng.uniform(0.0, _AGAIN)


class Publisher:
    """Publishes numbers, each under a key of its own, until all are acknowledged, in a thread.

    :ivar acknowledged: how many are acknowledged; all before these are too.
    :ivar again: how many were sent another time.
    """

    def __init__(self, port: Callable[[], int], token: str, topic: str, count: int, window: int, pause: float) -> None:
        """Begin.

        :param window: how many requests are sent before their answers are waited for.
        :param pause: seconds between these windows, so that it lasts.
        """
        self._port = port
        self._token = token
        self._topic = topic
        self._count = count
        self._window = window
        self._pause = pause
        self.acknowledged = 0
        self.again = 0
        self.faults: list[str] = []
        self._end = Event()
        self._thread = Thread(target=self._run, name="publisher")
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        sent = 0
        while self.acknowledged < self._count and not self._end.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port()), PATIENCE) as sock:
                    file = sock.makefile("rb")
                    while self.acknowledged < self._count and not self._end.is_set():
                        first = self.acknowledged
                        last = min(first + self._window, self._count)
                        self.again += max(0, sent - first)
                        sent = last
                        sock.sendall(b"".join(self._request(number) for number in range(first, last)))
                        for _ in range(first, last):
                            status, body = _answer(file.readline, file.read)
                            if status == 503:
                                raise ConnectionError("all behind it is sent again too, in order")
                            if status != 200:
                                self.faults.append(f"{status}: {body!r}")
                                return
                            self.acknowledged += 1
                        time.sleep(self._pause)
            except OSError:
                self._end.wait(0.05)

    def _request(self, number: int) -> bytes:
        body = json.dumps({"topic": self._topic, "message": str(number)})
        return (
            f"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nIdempotency-Key: {self._topic} {number}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def _answer(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> tuple[int, bytes]:
    """One of several answers on a connection.

    :raises ConnectionError: if the connection ends before.
    """
    status = readline().split(b" ", 2)
    size = 0
    while (line := readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    body = read(size)
    if not line or len(body) < size:
        raise ConnectionError("the connection has ended")
    with suppress(IndexError):
        return int(status[1]), body
    raise ConnectionError("no answer")
