"""``GET /api/v1/subscribe``: stored and live messages as Server-Sent Events.

**Which id an event has.**  The cursor ``<epoch>-<n>`` of an event must be such that whoever comes back with it misses
nothing on any filter of the stream, and if possible gets nothing twice.  Feeds of different filters run independently,
so with one feed for each filter the only safe id would be the lowest place that all of them have reached; and a feed of
a quiet filter stands still.  Therefore all filters of a namespace are served by one feed, on the narrowest filter that
takes them all in; what it brings in stream order is sorted out here.  Then everything up to an event's own place has
been seen, and its own place is its id.  Where more feeds are needed (filters in several namespaces, or on topics that
begin with ``$``), the id is the lower one of its own place and of the lowest place that another feed has reached: it
may repeat something after a reconnection, it never loses anything.  An event that history does not hold repeats the
lowest place that all feeds have reached.

Retained messages come before everything else, if they are asked for.  Until they have all come the ids say how far
that is, ``<cursor>.<filter>.<place>``, so that whoever comes back with one of them gets the others.
"""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import repeat
from random import random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.auth.permissions import Principal
from flowgate.connections import IConnection
from flowgate.errors import BusUnavailable, InvalidParameter, MissingField, Refused
from flowgate.gateway import EARLIEST, Gateway, Interest
from flowgate.http import sse
from flowgate.http.answers import Answer, Headers, Route
from flowgate.http.bodies import check_known, query_flag, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.request import Request
from flowgate.http.views import View, view_key, views
from flowgate.interfaces import IFeed, IReader, ISubscriber
from flowgate.message import Cursor, Run
from flowgate.metering import Account
from flowgate.replay import BEGINNING, Place, Replay
from flowgate.subscriber import Flusher, Outbox
from flowgate.timers import Wheel
from flowgate.topics import Topic

_log = Logger()

HEARTBEAT_SECONDS = 25
MAX_FILTERS = 100
CLOSING_SECONDS = 5
"""How long a slow reader may take to read the rest of a stream that has ended."""

SPREAD, SPREAD_SECONDS = 0.1, 30.0
"""What part of a token's life a stream may end before it, and how many seconds at most.

Tokens that were made together, after a restart of whoever makes them, expire together; their readers need not come back
together.
"""

_PLACE = re.compile(r"(.+)\.([0-9]{1,2})\.([0-9]{1,18})\Z")

_HEADERS = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-store"),
    (b"X-Accel-Buffering", b"no"),
)


@implementer(IReader)
class _Part:
    """One view of a stream with its feed.

    :ivar start: the sequence behind which the feed reads; 0 for everything.
    :ivar place: the sequence up to which everything was written to the client.
    """

    __slots__ = ("_stream", "feed", "paused", "pending", "place", "start", "view")

    def __init__(self, stream: EventStream, view: View) -> None:
        self._stream = stream
        self.view = view
        self.start = 0
        self.place = 0
        self.feed: IFeed | None = None
        self.pending: Run | None = None
        self.paused = False

    def read(self, run: Run) -> bool:
        self.paused = not self._stream.take(self, run)
        return not self.paused

    def gap(self, oldest: Cursor) -> None:
        self._stream.gap(oldest)

    def ended(self, reason: Refused) -> None:
        self._stream.end(reason)


@implementer(ISubscriber, IConnection)
class EventStream:
    """One client that reads events.

    Its state goes from starting (no feed may write yet) over open to left (it takes part in nothing any more).  While
    it gives what is retained the feeds wait.
    """

    protocol = "sse"

    def __init__(
        self,
        gateway: Gateway,
        flusher: Flusher,
        wheel: Wheel,
        clock: IReactorTime,
        request: Request,
        interests: Sequence[Interest],
        retained: Place | None,
        lifetime: float,
        account: Account,
    ) -> None:
        """Describe a stream.

        :param retained: where to begin with the retained messages; ``None`` if they are not wished for.
        :param lifetime: seconds until the stream has to end.
        """
        self._gateway = gateway
        self._sent = gateway.meter.counter("messages_sent", "sse")
        self._account = account
        self._flusher = flusher
        self._wheel = wheel
        self._clock = clock
        self._request = request
        self._ends = clock.seconds() + lifetime
        self._parts = {key: _Part(self, view) for key, view in views(interests).items()}
        self._replay: Replay | None = None
        self._replaying = retained is not None
        self._retained = retained
        if retained is not None:
            self._replay = Replay(
                gateway,
                interests,
                clock,
                self._behind,
                self._give_retained,
                self._replayed,
                self._comes_later,
                retained,
            )
        self._bound = gateway.limits.subscriber_buffer_bytes
        self._outbox: Outbox | None = None
        self._fresh = True
        self._left = False
        self._finished = False
        self._waiting = len(self._parts)
        self._epoch = ""
        self._gap: Cursor | None = None
        self._live_id: str | None = None
        self._started: Deferred[None] = Deferred()
        self._over: Deferred[None] = Deferred()

    # -- beginning

    def start(self, after: Cursor | None) -> Deferred[None]:
        """Begin to read behind ``after``.

        :returns: a Deferred, fired once all that is published from now on will be seen.
        :raises Refused: through the Deferred.
        """
        for part in self._parts.values():
            followed = self._gateway.follow(self, part, part.view.cover, after)
            followed.addCallbacks(self._following, self._not_following, callbackArgs=(part,))
        return self._started

    def _following(self, feed: IFeed, part: _Part) -> None:
        if self._left:
            feed.stop()  # the client did not wait
            return
        part.feed = feed
        part.place = feed.cursor.sequence if part.pending is None else part.pending.sequences[0] - 1
        part.start = part.place
        self._epoch = feed.cursor.epoch
        self._waiting -= 1
        if not self._waiting and not self._started.called:
            self._started.callback(None)

    def _not_following(self, failure: Failure) -> None:
        if not self._left and not self._started.called:
            self._started.errback(failure)

    def head(self) -> Headers:
        """What the head of the answer says, once the stream has started."""
        return (*_HEADERS, (b"Flow-Last-Event-ID", self._live().encode()))

    def open(self) -> Deferred[None]:
        """Send the head and all that came until now.

        :returns: a Deferred, fired once the stream has ended.
        """
        request = self._request
        for name, value in self.head():
            request.responseHeaders.setRawHeaders(name, [value])
        request.write(sse.HEARTBEAT)  # nothing goes out before the first byte of the body
        self._outbox = Outbox(request, self._gateway.turn, self._bound)
        self._outbox.drained = self._drained
        if self._gap is not None:
            self._write(sse.gap(str(self._gap)))
        if self._replay is not None:
            self._replay.start()
        self._drained()
        self._outbox.flush()
        self._await_due()
        return self._over

    # -- what is retained

    def _behind(self) -> bool:
        return self._outbox is None or self._outbox.blocked

    def _give_retained(self, run: Run, full: bool, place: Place | None) -> None:
        if self._replaying:
            self._retained = place
            self._live_id = None
        if self._write(sse.events(run.topic.shown(full), run.payloads, [self._live()], retained=True)):
            self._sent.value += 1
            self._account.sent += 1
            self._flusher.soon()
        else:
            self._cut()

    def _comes_later(self, topic: Topic, place: Cursor) -> bool:
        """Whether a feed brings this message; one that reads from the very beginning may find it gone."""
        part = self._parts.get(view_key(topic))
        return part is not None and place.epoch == self._epoch and 0 < part.start < place.sequence

    def _replayed(self, reason: Refused | None) -> None:
        if reason is not None:
            self.end(reason)
            return
        self._replaying = False
        self._retained = self._live_id = None
        self._drained()
        self._flusher.soon()

    # -- what comes from history

    def take(self, part: _Part, run: Run) -> bool:
        """Write a run of history, or keep it until the client has read; tell whether more may come."""
        if self._left:
            return False
        if self._outbox is None or self._replaying or not self._give(part, run):
            # No more is given until we ask for it, so there is never more than one run to keep.
            part.pending = run
            return False
        self._flusher.soon()
        return self._outbox.held <= self._bound // 2

    def _give(self, part: _Part, run: Run) -> bool:
        full = part.view.form(run.topic.name)
        if full is not None:
            if not self._write(self._encoded(part, run, full)):
                return False
            self._sent.value += run.count
            self._account.sent += run.count
            self._superseding(run)
        part.place = run.sequences[-1]
        self._live_id = None
        return True

    def _encoded(self, part: _Part, run: Run, full: bool) -> bytes:
        epoch, sequences = self._gateway.epoch, run.sequences
        reached = min((one.place for one in self._parts.values() if one is not part), default=sequences[-1])

        def encode(run: Run) -> bytes:
            ids = [f"{epoch}-{min(sequence, reached)}" for sequence in run.sequences]
            return sse.events(run.topic.shown(full), run.payloads, ids)

        return run.wire(("sse", full) if reached >= sequences[-1] else ("sse", full, reached), encode)

    def gap(self, oldest: Cursor) -> None:
        if oldest.epoch != self._epoch:
            self._epoch = oldest.epoch
            self._live_id = None
            for part in self._parts.values():
                part.start = part.place = 0
        if self._outbox is None:
            self._gap = oldest
        elif not self._left:
            self._write(sse.gap(str(oldest)))
            self._flusher.soon()

    def _drained(self) -> None:
        if self._replay is not None:
            self._replay.resume()
        if self._replaying:
            return
        for part in self._parts.values():
            if part.pending is not None:
                if not self._give(part, part.pending):
                    return
                part.pending = None
            if part.paused and part.feed is not None:
                part.paused = False
                part.feed.resume()

    # -- what history does not hold

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        if self._left or self._outbox is None:
            return
        part = self._parts.get(view_key(run.topic))
        form = None if part is None else part.view.form(run.topic.name)
        if form is None:
            return
        shown, id_ = run.topic.shown(form), self._live()
        wire = run.wire(("sse", form, id_), lambda run: sse.events(shown, run.payloads, repeat(id_)))
        if self._write(wire):
            self._sent.value += run.count
            self._account.sent += run.count
            self._superseding(run)
        else:
            self._cut()

    def _superseding(self, run: Run) -> None:
        """What is retained on the run's topic is older now, if it is a new one."""
        if run.retain and self._replay is not None and not self._replay.live(run):
            self._cut()

    def _live(self) -> str:
        if self._live_id is None:
            id_ = f"{self._epoch}-{min(part.place for part in self._parts.values())}"
            if self._retained is not None:
                id_ += f".{self._retained.interest}.{self._retained.after}"
            self._live_id = id_
        return self._live_id

    # -- sending

    def _write(self, data: bytes) -> bool:
        assert self._outbox is not None
        if self._fresh:
            self._fresh = False
            data = sse.RETRY + data
        return self._outbox.write(data)

    def due(self) -> None:
        """The time is over, or a sign of life is due; called by the wheel."""
        if self._left:
            if not self._finished:
                self._request.abort()
            return
        if self._clock.seconds() >= self._ends:
            self.end(None)
            return
        if self._outbox is not None and not self._outbox.held:
            self._outbox.write(sse.HEARTBEAT)
            self._outbox.flush()
        self._await_due()

    def _await_due(self) -> None:
        self._wheel.set(self, min(self._ends - self._clock.seconds(), HEARTBEAT_SECONDS))

    # -- ending

    def end(self, reason: Refused | None) -> None:
        """End the stream; the client comes back by itself and learns the reason then, if it is refused."""
        if self._left:
            return
        self.leave()
        if reason is not None:
            _log.info(
                "request {request_id}: the event stream is ended: {code}",
                request_id=self._request.request_id,
                code=reason.code,
            )
        if self._outbox is None:
            if not self._started.called:
                self._started.errback(reason or BusUnavailable("this node is going away; connect again"))
            return
        self._outbox.close(self._finish)
        if not self._finished:
            self._wheel.set(self, CLOSING_SECONDS)

    def _finish(self) -> None:
        self._finished = True
        self._wheel.cancel(self)
        if not self._request.gone:
            self._request.finish()
        if not self._over.called:
            self._over.callback(None)

    def _cut(self) -> None:
        """A reader that is too slow for live messages is cut off, and reads on from its last id when it is back."""
        _log.info("request {request_id}: a slow reader of events is cut off", request_id=self._request.request_id)
        self._gateway.meter.add("clients_cut", ("sse", "slow"))
        self.leave()
        self._request.abort()

    def leave(self) -> None:
        """Take part in nothing any more; a second call does nothing."""
        if self._left:
            return
        self._left = True
        self._wheel.cancel(self)
        self._gateway.leave(self)
        self._gateway.connections.remove(self)
        if self._replay is not None:
            self._replay.stop()
        for part in self._parts.values():
            part.pending = None
            if part.feed is not None:
                part.feed.stop()

    def gone(self) -> None:
        """The client has gone, or the stream has ended: let go of everything."""
        self.leave()
        if not self._finished:
            self._finished = True
            self._wheel.cancel(self)
            if self._outbox is not None:
                self._outbox.discard()


class Subscribing:
    """Opens streams of events.

    :param clock: for heartbeats, in the reactor's seconds.
    :param now: seconds since 1970 UTC, as tokens count them.
    :param draining: whether this node is going away.
    :param draw: a number from 0 to 1, at random.
    """

    def __init__(
        self,
        gateway: Gateway,
        credentials: Credentials,
        wheel: Wheel,
        clock: IReactorTime,
        now: Callable[[], float],
        draining: Callable[[], bool],
        draw: Callable[[], float] = random,
    ) -> None:
        self._gateway = gateway
        self._credentials = credentials
        self._wheel = wheel
        self._clock = clock
        self._now = now
        self._draining = draining
        self._draw = draw
        self._flusher = Flusher(gateway.turn, clock)

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/v1/subscribe", self.subscribe)]

    async def subscribe(self, request: Request) -> Answer | None:
        query = read_query(request, repeated="topic")
        principal = self._credentials.principal(request, query.get("token", [None])[0])
        names = list(dict.fromkeys(query.get("topic", ())))
        if not names:
            raise MissingField("the parameter 'topic' is missing")
        if len(names) > MAX_FILTERS:
            raise InvalidParameter(f"at most {MAX_FILTERS} topics can be read in one stream")
        interests = [self._gateway.interest(principal, name) for name in names]
        check_known(query, ("topic", "last_event_id", "retained", "token"), "parameter")
        after, retained = self._after(request, query)
        if self._draining():
            raise BusUnavailable("this node is going away; connect again")
        return await self._stream(request, principal, interests, after, retained)

    def _after(self, request: Request, query: dict[str, list[str]]) -> tuple[Cursor | None, Place | None]:
        """Where to begin with history, and where with what is retained."""
        header = next(iter(request.values(b"last-event-id")), b"").decode("utf-8", "replace")
        text = header or query.get("last_event_id", [""])[0]
        retained = query_flag(query, "retained")
        place = None if text and text != EARLIEST else BEGINNING
        found = _PLACE.match(text)
        if found is not None:
            text, place = found[1], Place(int(found[2]), int(found[3]))
        return self._gateway.cursor(text) if text else None, place if retained else None

    async def _stream(
        self,
        request: Request,
        principal: Principal,
        interests: Sequence[Interest],
        after: Cursor | None,
        retained: Place | None,
    ) -> Answer | None:
        lifetime = principal.expires_at - self._now()
        lifetime -= min(lifetime * SPREAD, SPREAD_SECONDS) * self._draw()
        account = self._gateway.meter.account(principal.home)
        # A second earlier, because the wheel may be a second late.
        stream = EventStream(
            self._gateway, self._flusher, self._wheel, self._clock, request, interests, retained, lifetime - 1, account
        )
        self._gateway.connections.add(stream, principal)
        try:
            self._gateway.connections.subscribe(stream, len(interests))
            await stream.start(after)
            if request.method == b"HEAD":
                return Answer(200, b"", None, stream.head())
            await stream.open()
            return None
        finally:
            # However it ended: by the client, by us, or by being cancelled while it began.
            stream.gone()
