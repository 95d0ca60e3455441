"""The topic bus over NATS JetStream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IOpenSSLClientConnectionCreator
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.backlog import Weighing, excess
from flowgate.bus.filtered import without_covered
from flowgate.bus.grouping import Grouper, fetched_at, flag_headers
from flowgate.bus.link import Link
from flowgate.bus.names import CAST, LIVE, LOG, OUT, filter_subject, namespace_subject, topic_subject
from flowgate.bus.publisher import Publisher, private_id
from flowgate.bus.reading import PAGE_BYTES, PAGE_MESSAGES, History, all_of
from flowgate.bus.stream import StreamSettings, check_version, ensure_stream
from flowgate.bus.tail import Feeds
from flowgate.bus.topic_names import TopicNames
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, Refused, StartError
from flowgate.interfaces import IBus, IBusListener, IFeed, IFilteredFeed, IReader
from flowgate.message import Backlog, Cursor, Run, Stored
from flowgate.topics import Namespace, Topic

_RETRY_SECONDS = 1.0
_COUNTED_SINGLY = 8
"""Subjects that are asked one by one how much waits on them."""


def _settled(listener: IBusListener) -> None:
    listener.settled()


class _Attachment:
    """Interest of this node in a namespace."""

    __slots__ = ("count", "ready", "subscriptions", "waiting")

    def __init__(self) -> None:
        self.count = 0
        self.subscriptions: list[bytes] = []
        self.ready = False
        self.waiting: list[Deferred[None]] = []


@implementer(IBus)
class JetStreamBus:
    """:class:`IBus` over one stream, on a connection of its own.

    :ivar listener: whom :meth:`IBusListener.arrived` and the like are called on; to be set before :meth:`start`.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        urls: Sequence[str],
        listener: IBusListener | None = None,
        *,
        shared: bool = True,
        replicas: int = 1,
        history_messages: int = 1000,
        history_age: int = 24 * 3600,
        largest: int = 1024 * 1024,
        parcels: int = 4,
        start_seconds: float = 10.0,
        tls: IOpenSSLClientConnectionCreator | None = None,
        measured: Callable[[float], None] | None = None,
    ) -> None:
        """Describe a bus; nothing happens before :meth:`start`.

        :param reactor: IReactorTime and IReactorTCP.
        :param urls: NATS servers, as :class:`~flowgate.bus.link.Server` reads them.
        :param shared: whether other nodes may be on the same NATS servers.
        :param replicas: servers that hold each message.
        :param history_messages: messages kept per topic, acknowledged and unacknowledged ones counted apart.
        :param history_age: seconds that a message is kept.
        :param largest: bytes of the largest payload that is published.
        :param parcels: writes to the stream under way at once.
        :param start_seconds: how long :meth:`start` waits for a server.
        :param tls: how to verify ``tls://`` servers, or ``None`` for the system's roots.
        :param measured: called with the seconds of round trips of what is written into the stream.
        :raises StartError: if a URL cannot be read.
        """
        self._reactor = reactor
        self.listener = listener
        self._settings = StreamSettings(
            per_topic=history_messages, max_age=history_age, replicas=replicas, republish=shared
        )
        self._shared = shared
        self._largest = largest
        self._start_seconds = start_seconds
        self._link = Link(reactor, urls, self, tls=tls)
        self._grouper = Grouper()
        self._publisher = Publisher(
            reactor,
            self._link,
            self._drained,
            self.link_settled,
            None if shared else self._stored,
            parcels=parcels,
            measured=measured,
        )
        self._history = History(reactor, self._link, self._settings, self._grouper)
        self._feeds = Feeds(reactor, self._link, self._settings, self._grouper, self._history)
        self._names = TopicNames(reactor, self._link, self._settings)
        self._attachments: dict[Namespace, _Attachment] = {}
        self._starting: Deferred[None] | None = None
        self._start_timer: IDelayedCall | None = None
        self._opening: Deferred[None] | None = None
        self._retry: IDelayedCall | None = None
        self.available = False
        self.epoch = ""

    @property
    def link(self) -> Link:
        """The connection, for what else a node keeps in NATS."""
        return self._link

    @property
    def under_way(self) -> tuple[int, int]:
        """Messages on their way into the stream, and their bytes."""
        return self._publisher.held

    @property
    def reconnects(self) -> int:
        """Connections that were made after the first one."""
        return max(0, self._link.connects - 1)

    # -- start and stop

    def start(self) -> Deferred[None]:
        """Connect, and make or adapt the stream.

        :returns: a Deferred of ``None``, fired once the bus is available.
        :raises StartError: through the Deferred, with a sentence for the operator.
        """
        started: Deferred[None] = Deferred()
        self._starting = started
        self._start_timer = self._reactor.callLater(self._start_seconds, self._start_timed_out)
        self._link.start()
        return started

    def _start_timed_out(self) -> None:
        reason = self._link.last_error or "it does not answer"
        self._started(StartError(f"the NATS server cannot be used: {reason}"))

    def _started(self, error: StartError | None) -> None:
        started, self._starting = self._starting, None
        if self._start_timer is not None and self._start_timer.active():
            self._start_timer.cancel()
        if started is None:
            if error is not None:
                self._log.error("{error}", error=error)
        elif error is None:
            started.callback(None)
        else:
            self.stop().addCallback(lambda _: started.errback(error))

    def stop(self) -> Deferred[None]:
        """End every feed, fail what is under way, and close the connection.

        :returns: a Deferred of ``None``, fired once nothing is left in the reactor.
        """
        if self._start_timer is not None and self._start_timer.active():
            self._start_timer.cancel()
        self._feeds.ended(BusUnavailable("the gateway is going away"))
        self._close()
        return self._link.stop()

    # -- what the link tells

    def link_up(self) -> None:
        try:
            check_version(self._link.info.get("version"))
        except StartError as error:
            self._started(error)
            return
        self._open()

    def _open(self) -> None:
        self._retry = None
        self._opening = opening = Deferred.fromCoroutine(self._open_stream())
        opening.addErrback(self._open_failed)

    async def _open_stream(self) -> None:
        state = await ensure_stream(self._link, self._settings)
        self._opening = None
        self.epoch = state.epoch
        self.available = True
        self._publisher.open()
        self._feeds.opened(state)
        self._tell(lambda listener: listener.availability(True))
        self._started(None)

    def _open_failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError):
            return
        if self._starting is not None and isinstance(error, StartError):
            self._started(error)
            return
        if not isinstance(error, StartError | BusUnavailable):
            self._log.failure("the topics' stream cannot be opened", failure)
        if self._link.up:
            self._link.last_error = str(error)
            self._log.warn("the topics' stream cannot be opened yet: {error}", error=error)
            self._retry = self._reactor.callLater(_RETRY_SECONDS, self._open)

    def link_down(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        was, self.available = self.available, False
        self._feeds.closed()
        self._publisher.close()
        for attachment in self._attachments.values():
            # Nothing can arrive until the link is up again, and then the subscriptions are in force.
            self._attached(attachment)
        if was:
            self._tell(lambda listener: listener.availability(False))
        self.link_settled()

    def link_drained(self) -> None:
        self._drained()

    def link_settled(self) -> None:
        self._tell(_settled)

    def _drained(self) -> None:
        if not self.congested:
            self._tell(lambda listener: listener.drained())

    def _tell(self, what: Callable[[IBusListener], None]) -> None:
        """Tell the listener something; its faults must not keep the link from being served."""
        if self.listener is not None:
            try:
                what(self.listener)
            except Exception:
                self._log.failure("a listener of the bus failed")

    # -- publishing

    @property
    def congested(self) -> bool:
        return self._publisher.congested or self._link.congested

    def publish_one(
        self,
        topic: Topic,
        payload: bytes,
        *,
        qos: int = 1,
        message_id: str | None = None,
        ttl: int | None = None,
        retain: bool = False,
        tag: str = "",
    ) -> Deferred[Stored]:
        return self._publisher.publish_one(topic, payload, qos, message_id, ttl=ttl, retain=retain, tag=tag)

    def publish(self, run: Run) -> Deferred[None]:
        return self._publisher.publish(run)

    def publish_many(self, runs: Sequence[Run]) -> Deferred[list[Stored | Refused]]:
        return self._publisher.publish_many(runs)

    def send(self, run: Run, record: bool) -> bool:
        if record:
            return self._publisher.record(run)
        if self._shared and self.available and not self._link.congested:
            subject = topic_subject(CAST, run.topic)
            if run.retain:
                head = flag_headers(0, None, True)
                self._link.write(b"".join([wire.publish(subject, p, b"", head) for p in run.payloads]))
            else:
                line = b"PUB %b " % subject
                self._link.write(b"".join([b"%b%d\r\n%b\r\n" % (line, len(p), p) for p in run.payloads]))
        return False

    # -- receiving

    def attach(self, namespace: Namespace) -> Deferred[None]:
        attachment = self._attachments.get(namespace)
        if attachment is None:
            attachment = self._attachments[namespace] = _Attachment()
            if self._shared:
                attachment.subscriptions = [
                    self._link.subscribe(namespace_subject(root, namespace), self._arrived)
                    for root in (OUT, LIVE, CAST)
                ]
            if self._shared and self._link.up:
                attached = attachment
                self._link.fence().addBoth(lambda _: self._attached(attached))
            else:
                attachment.ready = True
        attachment.count += 1
        if attachment.ready:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        attachment.waiting.append(waiting)
        return waiting

    def _attached(self, attachment: _Attachment) -> None:
        attachment.ready = True
        waiting, attachment.waiting = attachment.waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def detach(self, namespace: Namespace) -> None:
        attachment = self._attachments[namespace]
        attachment.count -= 1
        if not attachment.count:
            del self._attachments[namespace]
            for subscription in attachment.subscriptions:
                self._link.unsubscribe(subscription)
            self._attached(attachment)

    def _stored(self, runs: list[Run]) -> None:
        """Deliver what the stream has acknowledged: with a server of our own nobody else puts anything into it.

        To have the server republish it instead takes it about as long as storing it.
        """
        attached = self._attachments
        self._tell(lambda listener: listener.arrived([run for run in runs if run.topic.namespace in attached]))

    def _arrived(self, messages: list[Message]) -> None:
        if self.listener is not None:
            self.listener.arrived(self._grouper.arrived(messages))

    # -- history

    def follow(
        self, namespace: Namespace, filter_: str, reader: IReader, after: Cursor | None = None
    ) -> Deferred[IFeed]:
        return Deferred.fromCoroutine(self._follow(namespace, filter_, reader, after))

    async def _follow(self, namespace: Namespace, filter_: str, reader: IReader, after: Cursor | None) -> IFeed:
        if not self.available:
            raise BusUnavailable()
        return await self._feeds.follow(namespace, filter_, reader, after)

    def history(self, namespace: Namespace, filter_: str, after: Cursor, limit: int) -> Deferred[list[Run]]:
        if not self.available:
            return fail(BusUnavailable())
        return Deferred.fromCoroutine(self._read(filter_subject("*", namespace, filter_), after, limit))

    async def _read(self, subject: str, after: Cursor, limit: int) -> list[Run]:
        runs: list[Run] = []
        start = after.sequence if after.epoch == self.epoch else 0
        while limit > 0:
            page = await self._history.page(subject, start, min(limit, PAGE_MESSAGES))
            runs += page.runs
            limit -= sum(run.count for run in page.runs)
            if not page.more or not page.runs:
                break
            start = page.runs[-1].sequences[-1]
        return runs

    def follow_filters(
        self, namespace: Namespace, filters: Iterable[str], reader: IReader, after: Cursor | None = None
    ) -> Deferred[IFilteredFeed]:
        if not self.available:
            return fail(BusUnavailable())
        return Deferred.fromCoroutine(self._feeds.follow_filters(namespace, filters, reader, after))

    def backlog(
        self, namespace: Namespace, filters: Iterable[str], after: Cursor, messages: int, size: int
    ) -> Deferred[Backlog]:
        if not self.available:
            return fail(BusUnavailable())
        subjects = [filter_subject(LOG, namespace, filter_) for filter_ in without_covered(filters)]
        if not subjects:
            return succeed(Backlog(after, 0))
        return Deferred.fromCoroutine(self._backlog(subjects, after, messages, size))

    async def _backlog(self, subjects: list[str], after: Cursor, messages: int, size: int) -> Backlog:
        start = after.sequence if after.epoch == self.epoch else 0
        if len(subjects) <= _COUNTED_SINGLY:
            # The usual case, that little waits or nothing at all, does not deserve a consumer.
            asked = [self._history.messages(subject, start, 1, 1) for subject in subjects]
            count = sum(len(found) + following for found, following in await all_of(asked))
            if count <= messages and count * self._largest <= size:
                return Backlog(after, 0)
        weighing = Weighing(self._reactor, self._link, self._settings.name, subjects)
        place, dropped = await excess(weighing, start, messages, size, self._largest)
        return Backlog(Cursor(self.epoch, place) if dropped else after, dropped)

    def topics(
        self, namespace: Namespace, prefix: str, after: str, limit: int, admits: Callable[[str], bool]
    ) -> Deferred[list[tuple[str, int]]]:
        if not self.available:
            return fail(BusUnavailable())
        return self._names.page(namespace, prefix, after, limit, admits)

    def find(self, topic: Topic, message_id: str) -> Deferred[int | None]:
        if not self.available:
            return fail(BusUnavailable())
        return Deferred.fromCoroutine(self._find(topic, private_id(topic, message_id).encode()))

    async def _find(self, topic: Topic, wanted: bytes) -> int | None:
        subject = topic_subject(LOG, topic).decode()
        after = 0
        while True:
            messages, more = await self._history.messages(subject, after, PAGE_MESSAGES, PAGE_BYTES)
            for message in messages:
                after, _ = fetched_at(message)
                if wire.header(message[3], b"Nats-Msg-Id") == wanted:
                    return after
            if not messages or not more:
                return None

    def fetch(self, sequences: Sequence[int]) -> Deferred[dict[int, Run]]:
        if not self.available:
            return fail(BusUnavailable())
        return Deferred.fromCoroutine(self._history.fetch(sequences))
