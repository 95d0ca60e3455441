"""The reactor: Twisted's asyncio reactor, with the sockets of a turn handled in one callback.

nats-py needs asyncio's loop, and on that loop each ready socket costs a callback of asyncio's and a logging context of
Twisted's, which is more than a short MQTT packet itself.  Here all sockets are watched by one epoll object of our own,
and asyncio watches that: it calls once, and every socket that is ready then is served in one loop.

What is given up: a selectable is served in no log context of its own, so its ``logPrefix`` does not appear in the log.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.error import ConnectionFdescWentAway
from twisted.internet.main import installReactor
from twisted.logger import Logger

_READ = 1
_WRITE = 2
_EVENTS_AT_ONCE = 512

# Errors and hang-ups are found by reading and by writing, as asyncio has it.  (Only Linux has these names.)
_EPOLLIN = getattr(select, "EPOLLIN", 0)
_EPOLLOUT = getattr(select, "EPOLLOUT", 0)
_READABLE = ~_EPOLLOUT
_WRITABLE = ~_EPOLLIN


class BatchingReactor(AsyncioSelectorReactor):
    """Watches file descriptors by an epoll object inside of asyncio's; only where there is epoll (Linux)."""

    _log = Logger()

    seconds = staticmethod(time.monotonic)
    """What timers go by.  Twisted's own is the wall clock: set back by an hour, that stops them all for an hour."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        # What is watched, by descriptor: the selectable, and for what.  Descriptors are kept because a selectable that
        # was closed does not know its own any more.
        self._watched: dict[int, tuple[Any, int]] = {}
        self._descriptors: dict[Any, int] = {}
        self._serving = False
        self._ending: list[Callable[[], None]] = []
        super().__init__()
        self._asyncioEventloop.add_reader(self._epoll.fileno(), self._serve)

    def soon(self, call: Callable[[], None]) -> None:
        """Call ``call`` once all sockets that are ready now are served; at once, if that is over."""
        if self._serving:
            self._ending.append(call)
        else:
            call()

    def _serve(self) -> None:
        self._serving = True
        self._serve_ready()
        self._serving = False
        while self._ending:
            ending, self._ending = self._ending, []
            for call in ending:
                try:
                    call()
                except Exception:
                    self._log.failure("a fault at the end of a turn")

    def _serve_ready(self) -> None:
        watched = self._watched
        for descriptor, event in self._epoll.poll(0, _EVENTS_AT_ONCE):
            found = watched.get(descriptor)
            if found is None:
                continue  # closed by what was served before it
            selectable, wanted = found
            why: Any = None
            read = False
            try:
                if selectable.fileno() == -1:
                    why = ConnectionFdescWentAway("File descriptor lost")
                elif wanted & _READ and event & _READABLE:
                    read = True
                    why = selectable.doRead()
                if not why and event & _WRITABLE:
                    found = watched.get(descriptor)
                    if found is not None and found[0] is selectable and found[1] & _WRITE:
                        read = False
                        why = selectable.doWrite()
            except Exception as error:
                why = error
                self._log.failure("a connection is closed because of a fault")
            if why:
                try:
                    self._disconnectSelectable(selectable, why, read)  # type: ignore[no-untyped-call]
                except Exception:
                    # It is out of the reactor already; the others that are ready have their turn.
                    self._log.failure("a fault while a connection was closed")

    def _watch(self, selectable: Any, what: int) -> bool:
        """Watch for more; return whether this is possible here (it is not for plain files)."""
        descriptor = self._descriptors.get(selectable)
        if descriptor is None:
            descriptor = selectable.fileno()
            old = self._watched.get(descriptor)
            if old is not None:
                # The number of a descriptor that was closed without being taken out is in use again.
                self._forget(old[0], descriptor)
            try:
                self._epoll.register(descriptor, _mask(what))
            except PermissionError:
                return False
            self._descriptors[selectable] = descriptor
            self._watched[descriptor] = selectable, what
            return True
        present = self._watched[descriptor][1]
        if present | what != present:
            self._epoll.modify(descriptor, _mask(present | what))
            self._watched[descriptor] = selectable, present | what
        return True

    def _unwatch(self, selectable: Any, what: int) -> bool:
        """Watch for less; return whether it was watched here."""
        descriptor = self._descriptors.get(selectable)
        if descriptor is None:
            return False
        left = self._watched[descriptor][1] & ~what
        if not left:
            self._forget(selectable, descriptor)
        elif left != self._watched[descriptor][1]:
            self._watched[descriptor] = selectable, left
            try:
                self._epoll.modify(descriptor, _mask(left))
            except OSError:
                self._forget(selectable, descriptor)  # it was closed
        return True

    def _forget(self, selectable: Any, descriptor: int) -> None:
        del self._descriptors[selectable]
        del self._watched[descriptor]
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            return  # closing it took it out already

    # -- IReactorFDSet

    def addReader(self, reader: Any) -> None:
        if not self._watch(reader, _READ):
            super().addReader(reader)  # type: ignore[no-untyped-call]

    def addWriter(self, writer: Any) -> None:
        if not self._watch(writer, _WRITE):
            super().addWriter(writer)  # type: ignore[no-untyped-call]

    def removeReader(self, reader: Any) -> None:
        if not self._unwatch(reader, _READ):
            super().removeReader(reader)  # type: ignore[no-untyped-call]

    def removeWriter(self, writer: Any) -> None:
        if not self._unwatch(writer, _WRITE):
            super().removeWriter(writer)  # type: ignore[no-untyped-call]

    def removeAll(self) -> list[Any]:
        own = [selectable for selectable in self._descriptors if selectable not in self._internalReaders]
        for selectable in own:
            self._forget(selectable, self._descriptors[selectable])
        return own + list(super().removeAll())  # type: ignore[no-untyped-call]

    def getReaders(self) -> list[Any]:
        own = [selectable for selectable, what in self._watched.values() if what & _READ]
        return own + list(super().getReaders())  # type: ignore[no-untyped-call]

    def getWriters(self) -> list[Any]:
        own = [selectable for selectable, what in self._watched.values() if what & _WRITE]
        return own + list(super().getWriters())  # type: ignore[no-untyped-call]


def _mask(what: int) -> int:
    return (_EPOLLIN if what & _READ else 0) | (_EPOLLOUT if what & _WRITE else 0)


def install() -> None:
    """Install the reactor: the batching one on Linux, Twisted's own elsewhere."""
    reactor = BatchingReactor() if sys.platform == "linux" else AsyncioSelectorReactor()
    installReactor(reactor)  # type: ignore[no-untyped-call]
