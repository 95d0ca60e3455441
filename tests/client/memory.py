"""A gateway of a few lines in memory, and the connections to it: for the shells of the client."""

from __future__ import annotations

import asyncio
import json
import selectors
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha1
from typing import Any

from flowgate.topics import matches
from flowgate.websocket.frames import text_frame

KEY = "FGAKAAAAAAAAAAAAAAAA.s"


class Gateway:
    """Keeps what is published, and gives it to whoever subscribes.

    :ivar stored: topic and value of all messages; the first one has the cursor ``e-1``.
    :ivar tokens: those that are good, newest last.
    :ivar revoked: whether the key is no good any more.
    :ivar away: whether nobody can connect.
    :ivar lost: whether attempts to connect are not even refused.
    :ivar deaf: whether it takes what comes and answers nothing.
    :ivar tokenless: whether it answers nothing to a key.
    """

    def __init__(self) -> None:
        self.stored: list[tuple[str, object]] = []
        self.keys: dict[str, int] = {}
        self.tokens: list[str] = []
        self.revoked = self.away = self.lost = self.deaf = self.tokenless = False
        self.attempts = 0
        self.connections: list[Connection] = []
        self.asked: list[str] = []

    def connect(self, send: Callable[[bytes], None], close: Callable[[], None]) -> Connection:
        connection = Connection(self, send, close)
        self.connections.append(connection)
        return connection

    @property
    def sockets(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.is_open]

    def cut(self) -> None:
        """Lose all connections without a word."""
        for connection in list(self.connections):
            connection.lose()

    def store(self, topic: str, value: object) -> None:
        self.stored.append((topic, value))
        for connection in self.sockets:
            connection.catch_up()


class Connection:
    """The gateway's end of a connection."""

    def __init__(self, gateway: Gateway, send: Callable[[bytes], None], close: Callable[[], None]) -> None:
        self.gateway = gateway
        self.send = send
        self._close = close
        self._data = b""
        self.is_open = False
        self.places: dict[str, int] = {}
        self.pongs: list[bytes] = []

    def lose(self) -> None:
        self.gone()
        self._close()

    def gone(self) -> None:
        """The connection has ended."""
        self.is_open = False
        if self in self.gateway.connections:
            self.gateway.connections.remove(self)

    def received(self, data: bytes) -> None:
        self._data += data
        if self.gateway.deaf:
            return
        if self.is_open:
            self._frames()
        elif b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:])
            raw = dict(line.split(": ", 1) for line in lines[1:])
            if len(rest) >= int(headers.get("content-length", 0)):
                self._data = b""
                self.gateway.asked.append(lines[0])
                if lines[0].startswith("POST /token/ "):
                    self._exchange(json.loads(rest))
                else:
                    self._shake(raw)

    def _answer(self, status: str, body: object) -> None:
        data = json.dumps(body).encode()
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)

    def _exchange(self, body: Any) -> None:
        gateway = self.gateway
        if gateway.tokenless:
            return
        if body["api_key"] != KEY:
            self._answer("401 Unauthorized", {"error": "invalid_client", "code": "invalid_token"})
        elif gateway.revoked:
            self._answer("403 Forbidden", {"error": "unauthorized_client", "code": "key_disabled"})
        else:
            gateway.tokens.append(f"token-{len(gateway.tokens)}")
            self._answer("200 OK", {"token": gateway.tokens[-1], "expires_in": 900})

    def _shake(self, headers: dict[str, str]) -> None:
        if headers["Authorization"].removeprefix("Bearer ") not in self.gateway.tokens:
            self._answer("401 Unauthorized", {"code": "invalid_token", "status": 401})
            return
        key = headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = b64encode(sha1(key).digest()).decode()
        self.is_open = True
        self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept.encode()
        )

    def _frames(self) -> None:
        while len(self._data) >= 6:
            first, size, at = self._data[0], self._data[1] & 0x7F, 2
            if size > 125:
                wide = 2 if size == 126 else 8
                size, at = int.from_bytes(self._data[2 : 2 + wide], "big"), 2 + wide
            end = at + 4 + size
            if len(self._data) < end:
                return
            mask, payload = self._data[at : at + 4], self._data[at + 4 : end]
            self._data = self._data[end:]
            payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
            if first == 0x88:
                self.lose()
                return
            if first == 0x8A:
                self.pongs.append(payload)
            elif first == 0x89:
                self.send(bytes((0x8A, len(payload))) + payload)
            else:
                self._frame(json.loads(payload))

    def say(self, **frame: object) -> None:
        self.send(text_frame(json.dumps(frame).encode()))

    def close(self, code: int, reason: str = "") -> None:
        """Close as a gateway does."""
        payload = code.to_bytes(2, "big") + reason.encode()
        self.send(bytes((0x88, len(payload))) + payload)
        self.lose()

    def _frame(self, frame: dict[str, Any]) -> None:
        gateway, ack = self.gateway, {"action": "ack", "id": frame["id"]}
        if frame["action"] == "subscribe":
            since = frame.get("since")
            place = len(gateway.stored) if since is None else 0 if since == "earliest" else int(since.split("-")[1])
            self.places[frame["topic"]] = place
            self.say(**ack, topic=frame["topic"], cursor=f"e-{place}")
            self.catch_up()
        elif frame["action"] == "unsubscribe":
            self.places.pop(frame["topic"], None)
            self.say(**ack, topic=frame["topic"])
        elif frame["action"] == "publish":
            known = frame["key"] in gateway.keys
            if not known:
                gateway.keys[frame["key"]] = len(gateway.stored) + 1
                gateway.store(frame["topic"], frame["message"])
            self.say(**ack, topic=frame["topic"], cursor=f"e-{gateway.keys[frame['key']]}", duplicate=known)
        else:
            self.say(**ack)

    def catch_up(self) -> None:
        for filter_, place in list(self.places.items()):
            for number, (topic, value) in enumerate(self.gateway.stored[place:], place + 1):
                if matches(filter_, topic):
                    self.say(action="message", topic=topic, data=value, id=f"e-{number}", ts="T")
            self.places[filter_] = len(self.gateway.stored)


class Pipe:
    """The client's end of a connection; what the gateway sends comes in the loop's or the clock's next turn.

    It is a transport of asyncio and of Twisted, as far as the client uses one.
    """

    def __init__(self, gateway: Gateway, soon: Callable[[Callable[[], None]], object]) -> None:
        self._soon = soon
        self._to_client: list[bytes] = []
        self._take: Callable[[bytes], None] = _ignore
        self._lost: Callable[[], None] = _nothing
        self.paused = self._over = False
        self._far = gateway.connect(self._come, self._end)

    def attach(self, take: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        """Say who gets the bytes, and who is told of the end."""
        self._take, self._lost = take, lost

    def _come(self, data: bytes) -> None:
        self._to_client.append(data)
        self._soon(self._deliver)

    def _deliver(self) -> None:
        while self._to_client and not self.paused:
            self._take(self._to_client.pop(0))

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._soon(self._finish)

    def _finish(self) -> None:
        self._deliver()
        self._far.gone()
        self._lost()

    def write(self, data: bytes) -> None:
        if not self._over:
            self._soon(lambda: self._far.received(data))

    def loseConnection(self) -> None:
        self._end()

    close = abort = abortConnection = loseConnection

    def pauseProducing(self) -> None:
        assert not self.paused
        self.paused = True

    def resumeProducing(self) -> None:
        assert self.paused
        self.paused = False
        self._soon(self._deliver)

    pause_reading, resume_reading = pauseProducing, resumeProducing


class _Selector(selectors.SelectSelector):
    """Waits in no time."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("nothing is left to do")
        self.now += max(0.0, timeout)
        return super().select(0)


class MemoryLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with connections in memory, and with a clock that goes on by itself when nothing else is to do."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._clock = _Selector()
        self.pipes: list[Pipe] = []
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    async def create_connection(self, factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        if self._gateway.lost:
            self._gateway.attempts += 1
            try:
                await self.create_future()
            finally:
                self._gateway.attempts -= 1
        if self._gateway.away:
            raise ConnectionRefusedError("nobody is there")
        pipe = Pipe(self._gateway, self.call_soon)
        self.pipes.append(pipe)
        protocol = factory()
        pipe.attach(protocol.data_received, lambda: protocol.connection_lost(None))
        protocol.connection_made(pipe)
        return pipe, protocol


def _ignore(data: bytes) -> None:
    """Nobody reads yet."""


def _nothing() -> None:
    """Nobody is told."""
