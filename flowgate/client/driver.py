"""Between a session and connections: its wishes to bytes, and the bytes of connections to what it is told.

No input and output either: a shell of asyncio or Twisted makes the connections and keeps the one timer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import attrs
import orjson

from flowgate.client import actions, http, wire
from flowgate.client.core import Session
from flowgate.client.values import Unreachable
from flowgate.errors import MessageTooLarge, ProtocolViolation

_NORMAL, _PROTOCOL_ERROR = 1000, 1002


@attrs.frozen(slots=True)
class Place:
    """Where a gateway is.

    :ivar host: name or address, without brackets.
    :ivar authority: as the ``Host`` header has it.
    :ivar prefix: of all paths; without a slash at its end.
    """

    host: str
    port: int
    tls: bool
    authority: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Place:
        """Read the URL of a gateway: ``http`` or ``https``, or ``ws`` or ``wss``, which mean the same.

        :raises ValueError: if it is none.
        """
        parts = urlsplit(url)
        tls = {"http": False, "ws": False, "https": True, "wss": True}.get(parts.scheme)
        if tls is None or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{url!r} is not the URL of a gateway, such as http://127.0.0.1:8080")
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, tls, parts.netloc, parts.path.rstrip("/"))


class Pipe(Protocol):
    """A connection that is made."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def close(self) -> None:
        """Send what is left, and end."""

    def abort(self) -> None:
        """End at once."""

    def pause(self) -> None:
        """Read no more; not called twice in a row."""

    def resume(self) -> None:
        """Read again."""


class Shell(Protocol):
    """What a framework does for a client."""

    def seconds(self) -> float:
        """A clock that does not go back."""

    def dial(self, line: Line) -> Callable[[], None]:
        """Begin to connect to the place; tell the line how it goes, but not before this has returned.

        :returns: gives up an attempt that is under way.
        """

    def wake(self, seconds: float | None) -> None:
        """Have :meth:`Driver.due` called after so long, or never; what was wished before does not count any more."""


class Line(ABC):
    """One connection, from the attempt to its end.  Once it is dropped, whatever is still said of it is ignored."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.pipe: Pipe | None = None
        self.dropped = False
        self.give_up: Callable[[], None] = _nothing
        self._paused = False

    # -- for the shell

    def made(self, pipe: Pipe) -> None:
        """The connection is there."""
        if self.dropped:
            pipe.close()
            return
        self.pipe = pipe
        self._run(self._made)

    def received(self, data: bytes) -> None:
        """Bytes have come."""
        if not self.dropped:
            self._run(lambda: self._received(data))

    def lost(self, why: str) -> None:
        """There is no connection, or no more.

        :param why: in a few words.
        """
        if not self.dropped:
            self.dropped = True
            self._run(lambda: self._lost(Unreachable(f"no gateway answers at {self.driver.url}: {why}")))

    def _run(self, step: Callable[[], None]) -> None:
        step()
        self.driver.turn()

    # -- for the driver

    def drop(self, hard: bool = False) -> None:
        """End it.

        :param hard: whether nobody can be expected to read what is left.
        """
        if self.dropped:
            return
        self.dropped = True
        if self.pipe is None:
            self.give_up()
        elif hard:
            self.pipe.abort()
        else:
            self._part(self.pipe)
            if self._paused:
                self.pipe.resume()  # what comes is ignored, but TLS has to see the other end close
            self.pipe.close()

    def listen(self, reading: bool) -> None:
        if self.pipe is not None and not self.dropped and reading is self._paused:
            self._paused = not reading
            (self.pipe.resume if reading else self.pipe.pause)()

    # -- what the two kinds do

    @abstractmethod
    def _made(self) -> None:
        """Begin."""

    @abstractmethod
    def _received(self, data: bytes) -> None:
        """Take bytes."""

    @abstractmethod
    def _lost(self, reason: Exception) -> None:
        """Learn that it is over."""

    def _part(self, pipe: Pipe) -> None:  # noqa: B027
        """Say goodbye, if there is a way to say it."""


class _ExchangeLine(Line):
    """Exchanges an API key for a token."""

    def __init__(self, driver: Driver, key: str) -> None:
        super().__init__(driver)
        place = driver.place
        self._answer = http.AnswerReader()
        self._request = http.request(
            "POST",
            f"{place.prefix}/token/",
            {"Host": place.authority, "Content-Type": "application/json", "Connection": "close"},
            orjson.dumps({"api_key": key}),
        )

    def _made(self) -> None:
        assert self.pipe is not None
        self.pipe.write(self._request)

    def _received(self, data: bytes) -> None:
        try:
            self._take(self._answer.receive(data))
        except ProtocolViolation as violation:
            self.drop()
            self.driver.session.failed(violation, self.driver.now)

    def _take(self, answer: http.Answer | None) -> bool:
        if answer is None:
            return False
        self.drop()
        self.driver.session.exchanged(answer.status, answer.headers, answer.body, self.driver.now)
        return True

    def _lost(self, reason: Exception) -> None:
        if not self._take(self._answer.end()):
            self.driver.session.failed(reason, self.driver.now)


class _SocketLine(Line):
    """The WebSocket."""

    def __init__(self, driver: Driver, token: str) -> None:
        super().__init__(driver)
        place, nonce = driver.place, driver.entropy(16)
        self._open = False
        self.wire = wire.WebSocket(
            place.authority, f"{place.prefix}/ws", token, nonce, lambda: driver.entropy(4), driver.largest
        )

    def _made(self) -> None:
        assert self.pipe is not None
        self.pipe.write(self.wire.request)

    def _received(self, data: bytes) -> None:
        session, now = self.driver.session, self.driver.now
        try:
            session.heard(now)
            for event in self.wire.receive(data):
                self._take(event, session, now)
        except ProtocolViolation as violation:
            if self._open and self.pipe is not None and not self.dropped:
                self.pipe.write(self.wire.close(_PROTOCOL_ERROR))
            self._open = False
            session.lost(violation, now)
        except MessageTooLarge as refusal:
            session.end(refusal)  # it would come again, whatever we do

    def _take(self, event: wire.Event, session: Session, now: float) -> None:
        if isinstance(event, wire.Text):
            session.received(event.data, now)
        elif isinstance(event, wire.Opened):
            self._open = True
            session.opened(now)
        elif isinstance(event, wire.Ping):
            if self.pipe is not None:
                self.pipe.write(self.wire.pong(event.payload))
        elif isinstance(event, wire.Closing):
            session.closed(event.code, event.reason, now)  # drops the line, which answers the close
        elif isinstance(event, http.Answer):
            session.refused(event.status, event.headers, event.body, now)

    def _lost(self, reason: Exception) -> None:
        session, now = self.driver.session, self.driver.now
        for event in self.wire.end():
            self._take(event, session, now)
            return
        session.lost(reason, now)

    def _part(self, pipe: Pipe) -> None:
        if self._open:
            self._open = False
            pipe.write(self.wire.close(_NORMAL))

    def send(self, action: actions.Send | actions.Ping) -> bytes:
        return self.wire.text(action.data) if isinstance(action, actions.Send) else self.wire.ping()


class Driver:
    """Drives one session.

    :ivar url: of the gateway, for people.
    """

    def __init__(
        self,
        url: str,
        session: Session,
        shell: Shell,
        entropy: Callable[[int], bytes],
        largest: int = wire.LARGEST,
    ) -> None:
        """Be ready.

        :param entropy: makes so many bytes that nobody can foretell.
        :param largest: most bytes of a message from the gateway.
        :raises ValueError: if ``url`` is none of a gateway.
        """
        self.url = url
        self.place = Place.parse(url)
        self.session = session
        self.entropy = entropy
        self.largest = largest
        self._shell = shell
        self._exchange: Line | None = None
        self._socket: _SocketLine | None = None
        self._turning = False

    @property
    def now(self) -> float:
        return self._shell.seconds()

    def start(self) -> None:
        """Make the first connection."""
        self.session.start(self.now)
        self.turn()

    def due(self) -> None:
        """The time has come that the shell was told."""
        self.session.due(self.now)
        self.turn()

    def turn(self) -> None:
        """Carry out what the session wants; to be called whenever it was told something."""
        if self._turning:
            return  # somebody who was told something has told something: the outer call goes on with it
        self._turning = True
        try:
            while wishes := self.session.take():
                self._carry_out(wishes)
        finally:
            self._turning = False
        if self._socket is not None:
            self._socket.listen(self.session.reading)
        at = self.session.due_at
        self._shell.wake(None if at is None else max(0.0, at - self.now))

    def _carry_out(self, wishes: list[actions.Action]) -> None:
        out: list[bytes] = []  # for the connection that there is at the end
        for action in wishes:
            if isinstance(action, actions.Send | actions.Ping):
                if self._socket is not None:
                    out.append(self._socket.send(action))
                continue
            if isinstance(action, actions.Drop):
                self._drop(action.hard)
            elif isinstance(action, actions.Exchange):
                if self._exchange is not None:
                    self._exchange.drop()
                self._exchange = _ExchangeLine(self, action.key)
                self._exchange.give_up = self._shell.dial(self._exchange)
            elif isinstance(action, actions.Open):
                self._socket = _SocketLine(self, action.token)
                self._socket.give_up = self._shell.dial(self._socket)
            else:
                action.done(action.result)
        if out and self._socket is not None and self._socket.pipe is not None:
            self._socket.pipe.write(b"".join(out))

    def _drop(self, hard: bool) -> None:
        for line in (self._exchange, self._socket):
            if line is not None:
                line.drop(hard)
        self._exchange = self._socket = None


def _nothing() -> None:
    """There is no attempt to give up."""
