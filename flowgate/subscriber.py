"""The bounded buffer of one connection, and the turn that sends all of them.

Whatever a connection sends goes through its :class:`Outbox`.  Rooms write to many outboxes while they work on one
read; :meth:`Turn.flush` then sends to each once.  Where nothing is buffered the bytes go straight to the socket:
``transport.write`` would wait for the reactor's next turn and cost two more system calls.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from twisted.internet import tcp
from twisted.internet.interfaces import IPullProducer, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flowgate.metering import Count

_log = Logger()

SEND_AT_MOST = 1024 * 1024
"""Bytes handed to the socket in one call: a larger piece would only be copied again for the part that is left."""


class Sink(Protocol):
    """The part of a transport (or of a twisted.web request) that an outbox needs."""

    def write(self, data: bytes) -> object: ...
    def registerProducer(self, producer: object, streaming: bool) -> object: ...
    def unregisterProducer(self) -> object: ...


class Flushable(Protocol):
    """What collects the work of a read and does it at the end: an outbox, or a value that is to be stored."""

    def flush(self) -> None: ...


class Turn:
    """The outboxes that were written to since they were last sent, and whatever else waits for the end of a read.

    :ivar held: bytes in all outboxes that wait for slow peers.
    """

    __slots__ = ("_waiting", "held")

    def __init__(self) -> None:
        self._waiting: list[Flushable] = []
        self.held = 0

    def add(self, item: Flushable) -> None:
        self._waiting.append(item)

    def flush(self) -> None:
        """Send what was written: called by whoever brought a read's worth of work, when it is done."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            for item in waiting:
                try:
                    item.flush()
                except Exception:
                    # One connection's fault must not keep the others from being sent.
                    _log.failure("a connection could not be written to")


class Flusher:
    """Flushes a turn once what happens now has happened, for what is written piece by piece outside of a read."""

    def __init__(self, turn: Turn, clock: IReactorTime) -> None:
        self._turn = turn
        self._clock = clock
        self._called = False

    def soon(self) -> None:
        if not self._called:
            self._called = True
            self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        self._called = False
        self._turn.flush()


@implementer(IPullProducer, IPushProducer)
class Outbox:
    """What one connection has still to be sent, and its bound.

    When the peer reads too slowly the kernel's buffer fills, then this one.  Beyond ``bound`` bytes :meth:`write`
    takes no more; what to do then (drop, or cut the subscriber off) is the caller's decision.  Before that, all that
    one turn brings is taken: until it is sent nobody knows that the peer is slow.

    :ivar drained: called, if it is set, whenever a slow peer has caught up with all that was held.
    :ivar sent: counts the bytes that leave, here or by the sink's own buffer.
    """

    __slots__ = (
        "_blocked",
        "_bound",
        "_closing",
        "_held",
        "_parts",
        "_registering",
        "_sink",
        "_socket",
        "_turn",
        "drained",
        "sent",
    )

    def __init__(self, sink: Sink, turn: Turn, bound: int, sent: Count | None = None) -> None:
        self.sent = Count() if sent is None else sent
        self._sink: Sink | None = sink
        self._turn = turn
        self._bound = bound
        self._parts: list[bytes] = []
        self._held = 0
        self._blocked = False
        self._registering = False
        self._closing: Callable[[], object] | None = None
        self.drained: Callable[[], object] | None = None
        # TLS and HTTP framing need their own write; plain TCP and Unix sockets can be written to directly.
        plain = isinstance(sink, tcp.Connection) and not sink.TLS
        self._socket: socket.socket | None = sink.getHandle() if plain else None  # type: ignore[attr-defined]
        if self._socket is None:
            sink.registerProducer(self, True)

    @property
    def held(self) -> int:
        """Bytes that wait for a slow peer; 0 while the connection keeps up."""
        return self._held

    @property
    def blocked(self) -> bool:
        """Whether the peer has not taken yet all that was sent."""
        return self._blocked

    def write(self, data: bytes) -> bool:
        """Take ``data`` to be sent by the next flush.

        :returns: whether it was taken: ``False`` if the peer is slow and the bound would be passed.
        """
        if self._blocked:
            if self._held + len(data) > self._bound:
                return False
            self._held += len(data)
            self._turn.held += len(data)
        elif not self._parts:
            self._turn.add(self)
        self._parts.append(data)
        return True

    def flush(self) -> None:
        """Send what was written since the last flush, or leave it for later if the peer is slow."""
        sink = self._sink
        if self._blocked or sink is None or not self._parts:
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self.sent.value += len(data)
        if self._socket is None:
            sink.write(data)  # a push producer: pauseProducing comes from in here when the sink has enough
            return
        try:
            sent = self._socket.send(data if len(data) <= SEND_AT_MOST else memoryview(data)[:SEND_AT_MOST])
        except OSError:
            sent = 0  # full, or broken: then the transport finds out and says so in its own way
        if sent == len(data):
            return
        self._held = len(data) - sent
        self._turn.held += self._held
        self._blocked = True
        sink.write(data[sent:] if sent else data)
        # A pull producer is asked for more whenever the transport has sent all it had.  It is also asked once at
        # registration, when there is nothing to say.
        self._registering = True
        sink.registerProducer(self, False)
        self._registering = False

    def close(self, then: Callable[[], object]) -> None:
        """Send what there is, then call ``then`` (for example the transport's ``loseConnection``), once."""
        self.flush()
        if self._blocked and self._sink is not None:
            self._closing = then
        else:
            self._finish(then)

    def _finish(self, then: Callable[[], object]) -> None:
        if self._socket is None and self._sink is not None:
            self._sink.unregisterProducer()  # a TLS transport stays open as long as it has a producer
        then()

    def discard(self) -> None:
        """The connection is gone: forget what it had still to be sent, and take no more."""
        self._sink = None
        self._socket = None
        self._parts.clear()
        self._release()
        self._blocked = True
        self._bound = -1

    def _release(self) -> None:
        self._turn.held -= self._held
        self._held = 0

    def pauseProducing(self) -> None:
        self._blocked = True

    def resumeProducing(self) -> None:
        if self._registering or self._sink is None:
            return
        if self._socket is not None:
            self._sink.unregisterProducer()
        self._blocked = False
        self._release()
        self.flush()
        if self._blocked:
            return
        if self._closing is not None:
            then, self._closing = self._closing, None
            self._finish(then)
        elif self.drained is not None:
            self.drained()
            self.flush()

    def stopProducing(self) -> None:
        self.discard()
