"""The live end of the stream, followed once per filter for all its readers.

A *tail* is an ordered consumer on one filter of one namespace; it begins with its first reader and ends with its
last.  What it cannot vouch for (a message missing on the way, a lag in which history may overflow) is left to the
feeds, which read pages then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.bus import wire
from flowgate.bus.feed import Feed
from flowgate.bus.grouping import Grouper, consumed_at, consumer_place, delivered_subject
from flowgate.bus.link import Link, decode_json
from flowgate.bus.names import filter_subject
from flowgate.bus.reading import History
from flowgate.bus.stream import StreamSettings, StreamState, stream_info
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, Internal, ProtocolViolation, Refused
from flowgate.interfaces import IFeed, IReader
from flowgate.message import Cursor
from flowgate.topics import Namespace

_HEARTBEAT_SECONDS = 5
_RETRY_SECONDS = 1.0


def _expect_away(failure: Failure) -> None:
    if not isinstance(failure.value, BusUnavailable):
        failure.raiseException()


class Feeds:
    """All tails of a node, and what they need of the bus."""

    def __init__(
        self,
        reactor: Any,
        link: Link,
        settings: StreamSettings,
        grouper: Grouper,
        history: History,
    ) -> None:
        self.reactor = reactor
        self.link = link
        self.settings = settings
        self.grouper = grouper
        self.history = history
        self.epoch = ""
        self._up = False
        self._waiting: list[Deferred[None]] = []
        self._tails: dict[tuple[Namespace, str], Tail] = {}

    def opened(self, state: StreamState) -> None:
        """Go on after the bus came within reach."""
        remade = bool(self.epoch) and self.epoch != state.epoch
        self.epoch = state.epoch
        self._up = True
        for tail in list(self._tails.values()):
            tail.reopened(state, remade)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def closed(self) -> None:
        """Rest until the bus comes back."""
        self._up = False
        for tail in list(self._tails.values()):
            tail.closed()

    def ended(self, reason: Refused) -> None:
        """Tell every reader that no more comes."""
        self._up = False
        for tail in list(self._tails.values()):
            for feed in list(tail.feeds):
                feed.end(reason)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(BusUnavailable())

    def within_reach(self) -> Deferred[None]:
        """Wait until the bus is within reach.

        :returns: a Deferred of ``None``.
        """
        back: Deferred[None] = Deferred(
            lambda deferred: self._waiting.remove(deferred) if deferred in self._waiting else None
        )
        if self._up:
            back.callback(None)
        else:
            self._waiting.append(back)
        return back

    async def follow(self, namespace: Namespace, filter_: str, reader: IReader, after: Cursor | None) -> IFeed:
        """See :meth:`IBus.follow`.

        :raises BusUnavailable: if the bus is not within reach.
        """
        state = await stream_info(self.link, self.settings)
        key = (namespace, filter_)
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(self, filter_subject("*", namespace, filter_), lambda: self._forget(key))
            tail.start(state.last)
        # The future begins behind what the tail has brought already, which may be more than the answer knew of.
        feed = Feed(self, tail, reader, max(state.last, tail.last) if after is None else after.sequence)
        tail.feeds[feed] = None
        try:
            await tail.ready()
        except BusUnavailable:
            feed.stop()
            raise
        if after is None:
            feed.go_live()
        else:
            feed.begin(state, after)
        return feed

    def _forget(self, key: tuple[Namespace, str]) -> None:
        self._tails.pop(key, None)


class Tail:
    """The live end of the stream on one filter, shared by its readers."""

    _log = Logger()

    def __init__(self, feeds: Feeds, subject: str, unused: Callable[[], None]) -> None:
        self._context = feeds
        self.subject = subject
        self._unused = unused
        self.feeds: dict[Feed, None] = {}
        self.last = 0
        self._token = ""
        self._subscription = b""
        self._expected = 1  # the next consumer sequence
        self._ready: list[Deferred[None]] = []
        self._running = False
        self._stopped = False
        self._heard = False
        self._timer: IDelayedCall | None = None

    def ready(self) -> Deferred[None]:
        """Wait until the consumer stands.

        :raises BusUnavailable: through the Deferred, if it cannot be made now.
        """
        ready: Deferred[None] = Deferred()
        if self._running:
            ready.callback(None)
        else:
            self._ready.append(ready)
        return ready

    def start(self, after: int) -> None:
        """Deliver what is stored behind ``after``."""
        self.last = after
        self._make()

    def _make(self) -> None:
        self._drop_consumer()
        self._expected = 1
        token = self._token = self._context.link.token()
        # Not by an inbox: what a consumer delivers bears the subject it was published on.
        self._subscription = self._context.link.subscribe(self._deliver_subject(token), self._delivered)
        Deferred.fromCoroutine(self._create(token)).addErrback(self._failed, token)

    def _deliver_subject(self, token: str) -> str:
        return f"{self._context.link.inbox}-.{token}"  # beside the inbox: its wildcard must not see this too

    async def _create(self, token: str) -> None:
        context = self._context
        config = {
            "name": token,
            "deliver_subject": self._deliver_subject(token),
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.last + 1,
            "filter_subject": self.subject,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": _HEARTBEAT_SECONDS * 1_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        name = context.settings.name
        body = json.dumps({"stream_name": name, "config": config, "action": "create"}).encode()
        answer = decode_json(await context.link.request(f"$JS.API.CONSUMER.CREATE.{name}.{token}", body))
        if "error" in answer:
            raise BusUnavailable(f"the stream cannot be followed: {answer['error'].get('description')}")
        if token != self._token:
            return  # it was replaced meanwhile; the server removes a consumer that nobody listens to
        self._running = True
        self._heard = True
        self._watch()
        ready, self._ready = self._ready, []
        for deferred in ready:
            deferred.callback(None)

    def _failed(self, failure: Failure, token: str) -> None:
        if not isinstance(failure.value, BusUnavailable | ProtocolViolation):
            self._log.failure("the stream cannot be followed", failure)
        ready, self._ready = self._ready, []
        for deferred in ready:
            deferred.errback(BusUnavailable(str(failure.value)))
        if token == self._token and not self._stopped and self._context.link.up:
            self._cancel_timer()
            self._timer = self._context.reactor.callLater(_RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._timer = None
        if self._context.link.up:
            self._make()

    def _watch(self) -> None:
        self._cancel_timer()
        self._timer = self._context.reactor.callLater(3 * _HEARTBEAT_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._heard:
            self._heard = False
            self._watch()
        else:
            self._remake("no heartbeat")

    def _remake(self, reason: str) -> None:
        self._log.info("the end of the stream is followed anew: {reason}", reason=reason)
        self._running = False
        self._make()

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _drop_consumer(self) -> None:
        self._cancel_timer()
        token, self._token = self._token, ""
        if token:
            link = self._context.link
            link.unsubscribe(self._subscription)
            if link.up:
                gone = link.request(f"$JS.API.CONSUMER.DELETE.{self._context.settings.name}.{token}", b"")
                # The server removes a consumer that nobody listens to by itself, only later.
                gone.addErrback(_expect_away)

    def closed(self) -> None:
        """The bus went away."""
        self._running = False
        self._cancel_timer()
        if self._token:
            self._context.link.unsubscribe(self._subscription)
            self._token = ""

    def reopened(self, state: StreamState, remade: bool) -> None:
        """The bus came back: start at the end again, and let every reader find its own way there."""
        self._running = False
        self.start(state.last)
        for feed in list(self.feeds):
            feed.reopened(state, remade)

    def remove(self, feed: Feed) -> None:
        """Serve a reader no more; without readers, end."""
        self.feeds.pop(feed, None)
        if not self.feeds and not self._stopped:
            self._stopped = True
            self._running = False
            self._drop_consumer()
            ready, self._ready = self._ready, []
            for deferred in ready:
                deferred.errback(BusUnavailable())
            self._unused()

    def _delivered(self, messages: list[Message]) -> None:
        self._heard = True
        link = self._context.link
        data: list[Message] = []
        for message in messages:
            head = message[3]
            if not head or not wire.status(head):
                data.append(message)
                continue
            if message[2]:  # flow control: the server wants to know that we got here
                link.write(wire.publish(message[2], b""))
            stalled = wire.header(head, b"Nats-Consumer-Stalled")
            if stalled:
                link.write(wire.publish(stalled, b""))
            last = wire.header(head, b"Nats-Last-Consumer")
            if last and int(last) != self._expected - 1 + len(data):
                self._remake("a message is missing")
                return
        if not data:
            return
        # TCP and the server keep the order: if the ends are where they should be, nothing between them is missing.
        first, _ = consumer_place(data[0])
        last_place, pending = consumer_place(data[-1])
        if first != self._expected or last_place != self._expected + len(data) - 1:
            self._remake("a message is missing")
            return
        self._expected += len(data)
        if pending + len(data) >= self._context.settings.per_topic - 1:
            # So far behind, a topic may lose messages before the consumer gets to them, and nobody would know.
            self._lagging()
            return
        runs = self._context.grouper.stored(data, consumed_at, delivered_subject)
        self.last = runs[-1].sequences[-1]
        for feed in list(self.feeds):
            try:
                feed.tailed(runs)
            except Exception:
                # One reader's fault must not cost the others their messages.
                self._log.failure("a reader of the stream failed")
                feed.end(Internal())

    def _lagging(self) -> None:
        """Start again at the end, and have the readers read pages until they are there."""
        self._running = False
        self._drop_consumer()
        Deferred.fromCoroutine(self._skip()).addErrback(self._failed, "")

    async def _skip(self) -> None:
        state = await stream_info(self._context.link, self._context.settings)
        if not self._stopped:
            self.reopened(state, False)
