"""One subscription that reads history: from the bus's feed to frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from zope.interface import implementer

from flowgate.errors import Refused
from flowgate.gateway import Interest
from flowgate.interfaces import IFeed, IReader, ISubscriber
from flowgate.message import Cursor, Run
from flowgate.topics import Topic
from flowgate.websocket import frames

if TYPE_CHECKING:
    from flowgate.websocket.retained import Retained


class Connection(Protocol):
    """The part of a connection that a reading needs."""

    @property
    def behind(self) -> bool:
        """Whether the client reads so slowly that history should wait."""

    @property
    def framing(self) -> frames.Framing:
        """How messages become frames for this client."""

    @property
    def epoch(self) -> str:
        """The epoch of cursors that are handed out now."""

    def send_messages(self, wire: bytes, count: int) -> None:
        """Send ``count`` messages, or cut the client off if it is too slow."""

    def send(self, wire: bytes) -> None:
        """Send frames, or cut the client off if it is too slow."""

    def lost(self, name: str, reason: Refused) -> None:
        """A subscription ended by itself."""

    def superseding(self, run: Run, retained: Retained) -> None:
        """What is retained on the run's topic is older than what the client was given now."""


@implementer(IReader, ISubscriber)
class Reading:
    """A subscription with ``since`` or ``meta``.

    :ivar interest: what is subscribed to.
    :ivar name: the filter as the client wrote it.
    :ivar retained: what is retained, if it was asked for.
    :ivar holding: whether history waits for :meth:`release`.
    """

    def __init__(
        self, connection: Connection, name: str, interest: Interest, *, meta: bool, since: bool, hold: bool
    ) -> None:
        """Be ready for a feed.

        :param since: whether it begins in the past.
        :param hold: what is retained comes first.
        """
        self.name = name
        self.interest = interest
        self.retained: Retained | None = None
        self._since = since
        self._begin: Cursor | None = None
        self._held: Run | None = None
        self.holding = hold
        self._connection = connection
        self._meta = meta
        self._feed: IFeed | None = None
        self._waiting = False
        self._stopped = False

    def begun(self, feed: IFeed) -> None:
        """Take the feed, which may come after the client has left."""
        self._feed = feed
        if self._begin is None:
            self._begin = feed.cursor
        if self._stopped:
            feed.stop()
        else:
            self.resume()

    def resume(self) -> None:
        """The client has caught up: let the feed give more."""
        if self.holding or not self._waiting or self._feed is None or self._connection.behind:
            return
        held, self._held = self._held, None
        if held is not None:
            self._send(held)
        self._waiting = False
        self._feed.resume()

    def stop(self) -> None:
        self._stopped = True
        if self._feed is not None:
            self._feed.stop()

    # -- what is retained comes first

    @property
    def meta_cursor(self) -> str:
        """Where history begins, also the ``id`` of what is retained; empty if the client does not want to know."""
        return str(self._begin) if self._meta and self._begin is not None else ""

    def brings(self, topic: Topic, place: Cursor) -> bool:
        """Whether the feed brings the message with this place; one that begins in the past may find it gone."""
        begin = self._begin
        return not self._since and begin is not None and place.epoch == begin.epoch and place.sequence > begin.sequence

    def release(self) -> None:
        """All that is retained was sent: history may come."""
        self.holding = False
        self.resume()

    # -- ISubscriber: what history does not hold

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        if not self._stopped:
            self._send(run)

    # -- IReader

    def read(self, run: Run) -> bool:
        if self._stopped:
            return False
        if self._begin is None:  # a feed may give before anybody has it
            self._begin = Cursor(self._connection.epoch, run.sequences[0] - 1)
        if self.holding:
            self._held = run
            self._waiting = True
            return False
        self._send(run)
        self._waiting = self._connection.behind
        return not self._waiting

    def _send(self, run: Run) -> None:
        full, framing = self.interest.full, self._connection.framing
        if self._meta:
            epoch = self._connection.epoch
            wire = run.wire(
                ("websocket", full, framing, epoch),
                lambda run: frames.encode_run_with_meta(run, full, epoch, framing),
            )
        else:
            wire = run.wire(("websocket", full, framing), lambda run: frames.encode_run(run, full, framing))
        self._connection.send_messages(wire, run.count)
        if run.retain and self.retained is not None:
            self._connection.superseding(run, self.retained)

    def gap(self, oldest: Cursor) -> None:
        if not self._stopped:
            self._connection.send(frames.notice("gap", topic=self.name, oldest=str(oldest)))

    def ended(self, reason: Refused) -> None:
        if not self._stopped:
            self._connection.lost(self.name, reason)
