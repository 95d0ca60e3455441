"""The live end of the stream, followed once for all its readers.

A *tail* is an ordered consumer in one namespace; it begins with its first reader and ends with its last.  If a
message is missing on the way the consumer is made anew from there.  If the stream may have let go of messages before
the consumer got to them, what it brings waits until the stream was asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.bus import wire
from flowgate.bus.feed import Feed
from flowgate.bus.filtered import FilteredFeed
from flowgate.bus.grouping import Grouper, consumed_at, consumer_place, delivered_subject
from flowgate.bus.link import Link, decode_json
from flowgate.bus.names import LOG, filter_subject, kind_subject
from flowgate.bus.overrun import NO_DOUBTS, Doubts, Overrun, Question
from flowgate.bus.reading import History, SubjectSource
from flowgate.bus.stream import StreamSettings, StreamState
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, Internal, ProtocolViolation, Refused
from flowgate.interfaces import IFeed, IFilteredFeed, IReader
from flowgate.message import Cursor, Run
from flowgate.topics import FilterTree, Namespace, has_wildcard

_HEARTBEAT_SECONDS = 5
_RETRY_SECONDS = 1.0
_LINGER_SECONDS = 5.0
"""How long the consumer of a namespace is kept without readers."""
_MOST_ROOTS = 16
"""First levels that a shared tail follows one by one; with more of them it follows all there are."""
_CACHED_TOPICS = 10_000
"""Topics whose readers a shared tail remembers; when full the memory starts anew."""
_HELD_MESSAGES = 16_384
"""Messages that wait for an answer of the stream; if there are more, they are dropped and read again as pages."""
_HELD_BYTES = 4 * 1024 * 1024
_ALL = "#"
_F = TypeVar("_F", bound=Feed)


def _size(runs: list[Run]) -> int:
    return sum(len(payload) for run in runs for payload in run.payloads)


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
        self.up = False
        self._waiting: list[Deferred[None]] = []
        self._tails: dict[tuple[Namespace, str], Tail[Feed]] = {}
        self._shared: dict[Namespace, SharedTail] = {}

    def _every(self) -> list[Tail[Any]]:
        return [*self._tails.values(), *self._shared.values()]

    def opened(self, state: StreamState) -> None:
        """Go on after the bus came within reach."""
        remade = bool(self.epoch) and self.epoch != state.epoch
        self.epoch = state.epoch
        self.up = True
        for tail in self._every():
            tail.reopened(state, remade)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def closed(self) -> None:
        """Rest until the bus comes back."""
        self.up = False
        for tail in self._every():
            tail.closed()

    def ended(self, reason: Refused) -> None:
        """Tell every reader that no more comes."""
        self.up = False
        for tail in self._every():
            for feed in list(tail.feeds):
                feed.end(reason)
            tail.end()
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
        if self.up:
            back.callback(None)
        else:
            self._waiting.append(back)
        return back

    async def follow(self, namespace: Namespace, filter_: str, reader: IReader, after: Cursor | None) -> IFeed:
        """See :meth:`IBus.follow`.

        :raises BusUnavailable: if the bus is not within reach.
        """
        state = await self.history.state()
        key = (namespace, filter_)
        subject = filter_subject("*", namespace, filter_)
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(self, [subject], partial(self._tails.pop, key, None))
            tail.start(state.last)
        # The future begins behind what the tail has brought already, which may be more than the answer knew of.
        place = max(state.last, tail.last) if after is None else after.sequence
        feed = Feed(self, tail, SubjectSource(self.history, subject), reader, place)
        tail.feeds[feed] = None
        try:
            await tail.ready()
        except BusUnavailable:
            feed.stop()
            raise
        feed.begin(state, after)
        return feed

    async def follow_filters(
        self, namespace: Namespace, filters: Iterable[str], reader: IReader, after: Cursor | None
    ) -> IFilteredFeed:
        """See :meth:`IBus.follow_filters`.

        :raises BusUnavailable: if the bus is not within reach.
        """
        tail = self._shared.get(namespace)
        if tail is None:
            tail = self._shared[namespace] = SharedTail(self, namespace, partial(self._shared.pop, namespace, None))
        feed = FilteredFeed(self, tail, reader, 0 if after is None else after.sequence)
        tail.feeds[feed] = None
        state: StreamState | None = None
        try:
            if after is None or after.epoch != self.epoch:
                state = await self.history.state()
            await feed.join(filters)
            if after is None and state is not None:
                feed.skip(max(state.last, tail.last))
            await tail.ready()
        except BusUnavailable:
            feed.stop()
            raise
        feed.begin(state, after)
        return feed


class Tail(Generic[_F]):
    """The live end of the stream on some subjects, shared by its readers.

    :ivar last: the place that the tail has come to.
    :ivar given: the place up to which its feeds have what it brought.
    """

    _log = Logger()

    def __init__(self, feeds: Feeds, subjects: Sequence[str], unused: Callable[[], object]) -> None:
        """Describe a tail; :meth:`start` sets it going.

        :param subjects: none of which takes in another.
        :param unused: called when the last reader has gone.
        """
        self._context = feeds
        self._subjects = subjects
        self._unused = unused
        self.feeds: dict[_F, None] = {}
        self.last = self.given = 0
        self._token = ""
        self._subscription = b""
        self._expected = 1  # the next consumer sequence
        self._ready: list[Deferred[None]] = []
        self._running = False
        self._stopped = False
        self._heard = False
        self._overrun = Overrun(feeds.settings.per_topic, 0)
        self._held: list[Run] | None = None  # what waits for an answer of the stream
        self._asking: Deferred[Any] | None = None
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
        self._overrun = Overrun(self._context.settings.per_topic, after)
        self._make()

    def _make(self) -> None:
        self._drop_consumer()
        self._expected = 1
        token = self._token = self._context.link.token()
        # Not by an inbox: what a consumer delivers bears the subject it was published on.
        self._subscription = self._context.link.subscribe(self._deliver_subject(token), partial(self._delivered, token))
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
            "filter_subjects": list(self._subjects),
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
        if token != self._token or self._stopped:
            return
        self._refuse(BusUnavailable(str(failure.value)))
        if self._context.link.up:
            self._cancel_timer()
            self._timer = self._context.reactor.callLater(_RETRY_SECONDS, self._retry)

    def _refuse(self, reason: BusUnavailable) -> None:
        """Tell those who wait that the consumer does not stand."""
        ready, self._ready = self._ready, []
        for deferred in ready:
            deferred.errback(reason)

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
        self._rest()
        self._cancel_timer()
        if self._token:
            self._context.link.unsubscribe(self._subscription)
            self._token = ""
        self._refuse(BusUnavailable())

    def reopened(self, state: StreamState, remade: bool) -> None:
        """The bus came back: start at the end again, and let every reader find its own way there."""
        if self._stopped:
            return
        self._running = False
        self.start(state.last)
        for feed in list(self.feeds):
            feed.reopened(state, remade)
        self.given = self.last  # from now on no feed takes it for its own place before it has read up to it

    def remove(self, feed: _F) -> None:
        """Serve a reader no more; without readers, end."""
        self.feeds.pop(feed, None)
        if not self.feeds:
            self.end()

    def end(self) -> None:
        """Follow the stream no more; a second call does nothing."""
        if not self._stopped:
            self._stopped = True
            self._running = False
            self._rest()
            self._drop_consumer()
            self._refuse(BusUnavailable())
            self._unused()

    def _delivered(self, token: str, messages: list[Message]) -> None:
        if token != self._token:
            return  # it was replaced a moment ago
        self._heard = True
        link = self._context.link
        data: list[Message] = []
        idle = 0  # a place up to which there is nothing but what has come
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
            if last:
                idle = int(wire.header(head, b"Nats-Last-Stream") or 0)
        if not data:
            self.last = max(self.last, idle)
            if self._held is None:
                self.given = self.last
            return
        # TCP and the server keep the order: if the ends are where they should be, nothing between them is missing.
        first, _ = consumer_place(data[0])
        last_place, _ = consumer_place(data[-1])
        if first != self._expected or last_place != self._expected + len(data) - 1:
            self._remake("a message is missing")
            return
        self._expected += len(data)
        runs = self._context.grouper.stored(data, consumed_at, delivered_subject)
        before, self.last = self.last, max(runs[-1].sequences[-1], idle)
        due = self._overrun.note(before, runs)
        if self._held is None:
            if not due:
                self._hand_out(runs, NO_DOUBTS)
                self.given = self.last
                return
            self._held = []
        self._held += runs
        if not self._asking:
            self._ask(self._held)
        elif sum(run.count for run in self._held) > _HELD_MESSAGES or _size(self._held) > _HELD_BYTES:
            held, self._held = self._held, []
            self._hand_out(held, None)

    def _ask(self, held: list[Run]) -> None:
        """Ask the stream whether it has let go of something, and hand out then what is held now."""
        questions = self._overrun.questions()
        if not questions:
            self._held = None
            self._hand_out(held, NO_DOUBTS)
            self.given = self.last
            return
        subjects = [question.subject for question in questions]
        self._asking = asking = Deferred.fromCoroutine(self._context.history.firsts_if_full(subjects))
        asking.addCallbacks(
            self._answered, self._unanswered, callbackArgs=(questions, held, len(held)), errbackArgs=(held, len(held))
        )
        asking.addErrback(lambda failure: self._log.failure("handing out from the stream failed", failure))

    def _unanswered(self, failure: Failure, held: list[Run], count: int) -> None:
        if not isinstance(failure.value, CancelledError):
            self._settle(None, held, count)

    def _answered(self, firsts: list[int], questions: list[Question], held: list[Run], count: int) -> None:
        self._settle(Doubts.of_answers(questions, firsts), held, count)

    def _settle(self, doubts: Doubts | None, held: list[Run], count: int) -> None:
        """Hand out the first ``count`` runs, and ask for the rest."""
        self._asking = None
        if self._held is held:  # else there was too much, and pages are read instead
            self._held = held[count:]
            self._hand_out(held[:count], doubts)
            self.given = held[count - 1].sequences[-1]
        if self._held is not None and not self._stopped:
            self._ask(self._held)

    def _rest(self) -> None:
        """Hold nothing: it is read again as pages, or by nobody."""
        self._held = None
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()

    def _hand_out(self, runs: list[Run], doubts: Doubts | None) -> None:
        """Give runs to the feeds.

        :param doubts: what may be missing before them; ``None`` if only pages can tell.
        """
        for feed in list(self.feeds):
            self._give(feed, runs, doubts)

    def _give(self, feed: Feed, runs: list[Run], doubts: Doubts | None) -> None:
        try:
            feed.tailed(runs, doubts)
        except Exception:
            # One reader's fault must not cost the others their messages.
            self._log.failure("a reader of the stream failed")
            feed.end(Internal())


class SharedTail(Tail[FilteredFeed]):
    """The live end of a namespace's acknowledged messages, for all readers of several filters.

    It follows the first levels (*roots*) of their filters, and hands each message to those readers alone of whom a
    filter matches.  Roots are not taken back while the tail lives.
    """

    def __init__(self, feeds: Feeds, namespace: Namespace, unused: Callable[[], object]) -> None:
        super().__init__(feeds, [], unused)
        self.namespace = namespace
        self._roots: dict[str, dict[str, str]] = {}  # subjects by first level or _ALL, by kind
        self._tree: FilterTree[FilteredFeed] = FilterTree()
        self._targets: dict[str, tuple[FilteredFeed, ...]] = {}
        self._lingering: IDelayedCall | None = None

    def remove(self, feed: FilteredFeed) -> None:
        self.feeds.pop(feed, None)
        if not self.feeds and not self._stopped and self._lingering is None:
            # Clients come and go: the next one should find the consumer that it needs.
            self._lingering = self._context.reactor.callLater(_LINGER_SECONDS, self._unwanted)

    def _unwanted(self) -> None:
        self._lingering = None
        if not self.feeds:
            self.end()

    def end(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        super().end()

    async def place(self) -> None:
        """Have :attr:`last` tell a place of now.

        :raises BusUnavailable: if JetStream does not answer.
        """
        if not self._roots:
            state = await self._context.history.state()
            if not self._roots:
                self.last = self.given = state.last
                self._overrun = Overrun(self._context.settings.per_topic, state.last)

    def ready(self) -> Deferred[None]:
        return super().ready() if self._roots else succeed(None)

    def _make(self) -> None:
        if self._roots:
            super()._make()

    def join(self, filters: Iterable[str], feed: FilteredFeed) -> None:
        """Hand out to ``feed`` what matches ``filters`` and lies behind :attr:`last`."""
        first = not self._roots
        grown = False
        for filter_ in filters:
            self._tree.add(filter_, feed)
            self._forget(filter_)
            grown = self._cover(filter_) or grown
        if grown and (first or self._token):  # else it is going to be made anyway
            # At once, and from where the old consumer has come to: so the tail's place is the place on every root.
            # What the new root's topics lost before is nobody's loss.
            self._overrun = Overrun(self._context.settings.per_topic, self.last)
            self._running = False
            self._make()

    def leave(self, filter_: str, feed: FilteredFeed) -> None:
        """Take back one filter of a :meth:`join`."""
        self._tree.discard(filter_, feed)
        self._forget(filter_)

    def _forget(self, filter_: str) -> None:
        if has_wildcard(filter_):
            self._targets.clear()
        else:
            self._targets.pop(filter_, None)

    def _cover(self, filter_: str) -> bool:
        """Follow the root of ``filter_``; tell whether that is new."""
        roots = self._roots.setdefault("$" if filter_.startswith("$") else "-", {})
        level = filter_.partition("/")[0]
        if _ALL in roots or level in roots:
            return False
        if level in ("+", "#") or len(roots) >= _MOST_ROOTS:
            roots.clear()
            roots[_ALL] = kind_subject(LOG, self.namespace, filter_)
        else:
            roots[level] = filter_subject(LOG, self.namespace, f"{level}/#")
        self._subjects = [subject for roots in self._roots.values() for subject in roots.values()]
        return True

    def _find(self, name: str) -> tuple[FilteredFeed, ...]:
        if len(self._targets) >= _CACHED_TOPICS:
            self._targets.clear()
        found = self._targets[name] = tuple(dict.fromkeys(self._tree.match(name)))
        return found

    def _hand_out(self, runs: list[Run], doubts: Doubts | None) -> None:
        targets = self._targets
        if len(runs) == 1:
            name = runs[0].topic.name
            found = targets.get(name)
            for feed in self._find(name) if found is None else found:
                self._give(feed, runs, doubts)
            return
        shares: dict[FilteredFeed, list[Run]] = {}
        for run in runs:
            name = run.topic.name
            found = targets.get(name)
            for feed in self._find(name) if found is None else found:
                share = shares.get(feed)
                if share is None:
                    shares[feed] = [run]
                else:
                    share.append(run)
        for feed, share in shares.items():
            self._give(feed, share, doubts)
