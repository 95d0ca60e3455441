"""One subscription that reads history: from the bus's feed to frames."""

from __future__ import annotations

from typing import Protocol

from zope.interface import implementer

from flowgate.errors import Refused
from flowgate.gateway import Interest
from flowgate.interfaces import IFeed, IReader, ISubscriber
from flowgate.message import Cursor, Run
from flowgate.websocket import frames


class Connection(Protocol):
    """The part of a connection that a reading needs."""

    @property
    def behind(self) -> bool:
        """Whether the client reads so slowly that history should wait."""

    @property
    def epoch(self) -> str:
        """The epoch of cursors that are handed out now."""

    def send_messages(self, wire: bytes, count: int) -> None:
        """Send ``count`` messages, or cut the client off if it is too slow."""

    def send(self, wire: bytes) -> None:
        """Send frames, or cut the client off if it is too slow."""

    def lost(self, name: str, reason: Refused) -> None:
        """A subscription ended by itself."""


@implementer(IReader, ISubscriber)
class Reading:
    """A subscription with ``since`` or ``meta``.

    :ivar interest: what is subscribed to.
    :ivar name: the filter as the client wrote it.
    """

    def __init__(self, connection: Connection, name: str, interest: Interest, meta: bool) -> None:
        self.name = name
        self.interest = interest
        self._connection = connection
        self._meta = meta
        self._feed: IFeed | None = None
        self._waiting = False
        self._stopped = False

    def begun(self, feed: IFeed) -> None:
        """Take the feed, which may come after the client has left."""
        self._feed = feed
        if self._stopped:
            feed.stop()
        else:
            self.resume()

    def resume(self) -> None:
        """The client has caught up: let the feed give more."""
        if self._waiting and self._feed is not None and not self._connection.behind:
            self._waiting = False
            self._feed.resume()

    def stop(self) -> None:
        self._stopped = True
        if self._feed is not None:
            self._feed.stop()

    # -- ISubscriber: what history does not hold

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        if not self._stopped:
            self._send(run)

    # -- IReader

    def read(self, run: Run) -> bool:
        if self._stopped:
            return False
        self._send(run)
        self._waiting = self._connection.behind
        return not self._waiting

    def _send(self, run: Run) -> None:
        full = self.interest.full
        if self._meta:
            epoch = self._connection.epoch
            wire = run.wire(("websocket", full, epoch), lambda run: frames.encode_run_with_meta(run, full, epoch))
        else:
            wire = run.wire(("websocket", full), lambda run: frames.encode_run(run, full))
        self._connection.send_messages(wire, run.count)

    def gap(self, oldest: Cursor) -> None:
        if not self._stopped:
            self._connection.send(frames.notice("gap", topic=self.name, oldest=str(oldest)))

    def ended(self, reason: Refused) -> None:
        if not self._stopped:
            self._connection.lost(self.name, reason)
