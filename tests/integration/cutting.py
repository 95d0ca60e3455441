"""A TCP proxy that cuts connections: at once, or after a number of bytes, wherever in an event or a frame that is."""

from __future__ import annotations

import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread

_PIECE = 65536
_RESET = struct.pack("ii", 1, 0)  # l_onoff, l_linger: closing sends RST and throws away what was not sent


def reset(connection: socket.socket) -> None:
    """Close a connection as a network does that breaks: the peer gets RST, and never what was still on its way."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


class _Way:
    """One direction of a connection: what was read from ``source`` and not written to ``sink`` yet.

    :ivar left: how many bytes may pass before the connection is cut; ``None`` for as many as there are.
    """

    def __init__(self, source: socket.socket, sink: socket.socket, left: int | None = None) -> None:
        self.source = source
        self.sink = sink
        self.left = left
        self.waiting = b""


class _Link:
    """A client, the connection that was made for it, and both ways between them."""

    def __init__(self, client: socket.socket, server: socket.socket, left: int | None) -> None:
        self.sockets = (client, server)
        self.up = _Way(client, server)
        self.down = _Way(server, client, left)

    def ways(self, one: socket.socket) -> tuple[_Way, _Way]:
        """The way that begins at a socket, and the one that ends there."""
        return (self.up, self.down) if one is self.up.source else (self.down, self.up)


class CuttingProxy:
    """Listens on a port of its own and passes everything on, in a thread.

    :ivar port: where it listens.
    :ivar limits: how many bytes each of the next connections may bring to its client, in turn; then it is cut.
    :ivar accepted: how many connections there were.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        """Begin.

        :param target: the port to pass connections on to.
        """
        self._target = target
        self.limits: deque[int] = deque()
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._links: list[_Link] = []
        self._orders: SimpleQueue[tuple[bool, Event]] = SimpleQueue()
        self._thread = Thread(target=self._run, name="cutting proxy")
        self._thread.start()

    def cut(self) -> None:
        """Cut all connections that are open now."""
        self._order(False)

    def close(self) -> None:
        """Cut all connections and listen no more."""
        if self._thread.is_alive():
            self._order(True)
            self._thread.join()
            # Not by the thread: it may have found the order before it was woken, which is done all the same.
            self._woken.close()
            self._waker.close()

    def _order(self, end: bool) -> None:
        done = Event()
        self._orders.put((end, done))
        self._waker.send(b"x")
        done.wait()

    # -- in the thread

    def _run(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(_PIECE)
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._links:
                    self._serve(key.data, key.fileobj, events)  # type: ignore[arg-type]
            with suppress(Empty):
                while True:
                    end, done = self._orders.get_nowait()
                    for link in list(self._links):
                        self._cut(link)
                    if end:
                        self._listener.close()
                        self._selector.close()
                    done.set()
                    if end:
                        return

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        try:
            server = socket.create_connection(("127.0.0.1", self._target()))
        except OSError:
            reset(client)
            return
        link = _Link(client, server, self.limits.popleft() if self.limits else None)
        self._links.append(link)
        for one in link.sockets:
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch(link)

    def _watch(self, link: _Link) -> None:
        """Read from whom there is room for, and write to whom something waits for."""
        for one in link.sockets:
            begins, ends = link.ways(one)
            events = (0 if begins.waiting else selectors.EVENT_READ) | (selectors.EVENT_WRITE if ends.waiting else 0)
            with suppress(KeyError):
                self._selector.unregister(one)
            if events:
                self._selector.register(one, events, link)

    def _serve(self, link: _Link, one: socket.socket, events: int) -> None:
        try:
            begins, ends = link.ways(one)
            if events & selectors.EVENT_WRITE:
                ends.waiting = ends.waiting[one.send(ends.waiting) :]
            if events & selectors.EVENT_READ:
                data = one.recv(_PIECE)
                if not data:
                    self._end(link, begins)
                    return
                if begins.left is not None:
                    if len(data) > begins.left:
                        begins.sink.send(data[: begins.left])
                        self._cut(link)
                        return
                    begins.left -= len(data)
                begins.waiting = data
                begins.waiting = data[begins.sink.send(data) :]
        except BlockingIOError:
            pass  # later
        except OSError:
            self._cut(link)
            return
        self._watch(link)

    def _end(self, link: _Link, way: _Way) -> None:
        """One side has closed in order: so it is for the other one, with what still waits for it."""
        with suppress(OSError):
            way.sink.setblocking(True)
            way.sink.sendall(way.waiting)
        self._forget(link)
        for one in link.sockets:
            one.close()

    def _cut(self, link: _Link) -> None:
        self._forget(link)
        for one in link.sockets:
            reset(one)

    def _forget(self, link: _Link) -> None:
        self._links.remove(link)
        for one in link.sockets:
            with suppress(KeyError):
                self._selector.unregister(one)
