"""Where policy meets the bus: what a principal may publish and subscribe to, and what becomes of it.

The adapters of all protocols call this room and nothing below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.allowances import FREE, Allowance, Bill, IAllowances, Identity, Unlimited
from flowgate.auth.permissions import Principal
from flowgate.errors import BusUnavailable, InsufficientScope, Internal, InvalidParameter, MessageTooLarge, Refused
from flowgate.interfaces import (
    IBus,
    IBusListener,
    IFeed,
    IFilteredFeed,
    IGroupMember,
    IGroups,
    IMembership,
    IReader,
    IRetained,
    ISubscriber,
)
from flowgate.limits import Limits, Policies
from flowgate.message import Backlog, Cursor, RetainedPage, Run, Stored
from flowgate.repeating import Keys, check_same
from flowgate.retaining import Retaining
from flowgate.topics import RESERVED, Namespace, Topic, check_filter, check_topic, is_reserved, resolve

if TYPE_CHECKING:
    from flowgate.connections import Connections
    from flowgate.metering import Meter
    from flowgate.router import Router
    from flowgate.subscriber import Turn

_log = Logger()

_PIECE: Final = 1000  # messages that are held back together, while a queue that has subscribed cannot follow
_T = TypeVar("_T")
_A = TypeVar("_A", bound="Stored | Refused")

_UNKNOWN: Final = BusUnavailable, CancelledError
"""Failures after which a message may be stored all the same; the latter if the publisher has gone."""

EARLIEST = "earliest"
"""The cursor text for everything that history holds."""


@attrs.frozen(slots=True)
class Route:
    """A topic that its principal may publish to, and what its policy says.

    :ivar full: whether the publisher wrote the full name.
    :ivar history: whether unacknowledged messages go into history.
    :ivar age: seconds that history keeps acknowledged messages, or ``None``.
    :ivar allowance: who pays.
    """

    topic: Topic
    full: bool
    history: bool
    age: int | None
    allowance: Allowance = FREE


class Post(NamedTuple):
    """One acknowledged message, as :meth:`Gateway.publish` takes it."""

    route: Route
    payload: bytes
    message_id: str | None = None
    ttl: int | None = None
    retain: bool = False
    qos: int = 1

    @property
    def identity(self) -> Identity | None:
        """What it is known by when it comes again."""
        return None if self.message_id is None else (self.route.topic.namespace, self.message_id)

    @property
    def age(self) -> int | None:
        """Seconds that history keeps it."""
        return self.route.age if self.ttl is None else self.ttl


@attrs.frozen(slots=True)
class Interest:
    """A filter that its principal may subscribe to."""

    namespace: Namespace
    filter: str
    full: bool


def _tag(run: Run, bill: Bill) -> None:
    """Have a run carry who pays for it: one message for all of them, where they are stored in their order."""
    if bill.tag:
        if run.count > 1 and not run.message_ids and not run.retain:
            run.last_tag = f"{bill.tag}={bill.weight}"
        else:
            run.tag = bill.tag


def _pay_run(_: None, bill: Bill, run: Run) -> None:
    bill.pay()


def _drop_run(failure: Failure, bill: Bill, run: Run) -> Failure:
    if isinstance(failure.value, _UNKNOWN):
        bill.doubt(run.payloads, [(run.topic.namespace, one) for one in run.message_ids])
    else:
        bill.drop()
    return failure


def _settle(answer: _A, bill: Bill, post: Post) -> _A:
    """Have a message paid for that is stored and was not before."""
    if isinstance(answer, Stored):
        identity = post.identity
        if identity is not None:
            bill.allowance.settle(identity, answer.duplicate)
        (bill.drop if answer.duplicate else bill.pay)()
    else:
        _give_back(answer, bill, post)
    return answer


def _drop(failure: Failure, bill: Bill, post: Post) -> Failure:
    _give_back(failure.value, bill, post)
    return failure


def _give_back(reason: BaseException | None, bill: Bill, post: Post) -> None:
    if isinstance(reason, _UNKNOWN):
        identity = post.identity
        bill.doubt((post.payload,), () if identity is None else (identity,))
    else:
        bill.drop()


def _is_new(answer: Stored | Refused) -> bool:
    return isinstance(answer, Stored) and not answer.duplicate


def _bill_all(posts: Sequence[Post]) -> Bill | None:
    """One bill for several messages, if one account publishes all of them and they cost the same; else ``None``."""
    allowance = posts[0].route.allowance if posts else FREE
    if any(post.route.allowance is not allowance for post in posts):
        return None
    sizes = [len(post.payload) for post in posts]
    return allowance.take_all(len(posts), max(sizes, default=0), sum(sizes))


def _listed(stored: Stored) -> list[Stored | Refused]:
    return [stored]


def _runs(posts: Sequence[Post], places: Iterable[int], bills: Mapping[int, Bill]) -> list[Run]:
    """Some of several messages as runs, in their order."""
    runs: list[Run] = []
    route, age, keyed, tag = None, None, False, ""
    payloads: list[bytes] = []
    ids: list[str] = []
    for place in places:
        post = posts[place]
        message_id = post.message_id
        kept = post.age
        paid = bills[place].tag
        if post.route is not route or kept != age or (message_id is not None) is not keyed or paid != tag:
            route, age, keyed, tag = post.route, kept, message_id is not None, paid
            payloads, ids = [], []
            runs.append(Run(route.topic, payloads, qos=1, ttl=age, message_ids=ids, tag=tag))
        payloads.append(post.payload)
        if message_id is not None:
            ids.append(message_id)
    for run in runs:
        run.count = len(run.payloads)
    return runs


def _tell(
    published: Deferred[list[Stored | Refused]], places: Sequence[int], answers: list[Stored | Refused]
) -> Deferred[None]:
    """Note what became of some of several messages."""

    def stored(found: list[Stored | Refused]) -> None:
        for place, one in zip(places, found, strict=True):
            answers[place] = one

    def failed(failure: Failure) -> None:
        reason = failure.value
        if isinstance(reason, CancelledError):
            return  # nobody waits any more
        if not isinstance(reason, Refused):
            _log.failure("messages were not published", failure)
            reason = Internal()
        for place in places:
            answers[place] = reason

    return published.addCallbacks(stored, failed)


@implementer(IBusListener)
class Gateway:
    """One node's message path.

    :ivar limits: the bounds to work within.
    :ivar allowances: what API keys may still publish.
    :ivar turn: the outboxes to flush after a read's worth of work.
    :ivar connections: the open connections of this node.
    :ivar meter: what was done.
    :ivar on_available: called whenever the bus has come within reach.
    :ivar figures: reads a page of what the gateway's own topics (``$SYS/…``) show now, as :meth:`retained` does.
    """

    def __init__(
        self,
        bus: IBus,
        router: Router,
        turn: Turn,
        connections: Connections,
        meter: Meter,
        limits: Limits,
        policies: Policies,
        *,
        retained: IRetained,
        groups: IGroups,
        allowances: IAllowances | None = None,
    ) -> None:
        self._bus = bus
        self._retained = retained
        self._retaining = Retaining(bus, retained, meter)
        self._keys = Keys()
        self._groups = groups
        self._router = router
        self._policies = policies
        self._paused: dict[Callable[[], None], None] = {}
        self.limits = limits
        self.allowances: IAllowances = Unlimited() if allowances is None else allowances
        self.turn = turn
        self.connections = connections
        self.meter = meter
        self.on_available: Callable[[], None] = lambda: None
        self.figures: Callable[[Interest, int, int], RetainedPage] = lambda *_: RetainedPage([], None)

    # -- names and permissions

    def route(self, principal: Principal, name: str) -> Route:
        """Find where ``name`` leads and whether ``principal`` may publish there.

        :raises InsufficientScope: if not.
        :raises InvalidTopic: if it is no topic name.
        """
        resolved = resolve(name, principal.home, principal.grants.namespaces)
        topic = Topic(resolved.namespace, resolved.rest)
        if is_reserved(topic.name):
            raise InsufficientScope(f"{RESERVED} and the topics below it are the gateway's own: nobody publishes there")
        if not principal.grants.may_publish(topic):
            raise InsufficientScope("the token does not permit publishing to this topic")
        check_topic(resolved.rest)
        policy = self._policies.find(topic.name)
        return Route(topic, resolved.full, policy.history, policy.age, self.allowances.of(principal))

    def interest(self, principal: Principal, name: str) -> Interest:
        """Find what the filter ``name`` stands for and whether ``principal`` may subscribe to all of it.

        :raises InsufficientScope: if not.
        :raises InvalidTopic: if it is no filter.
        """
        resolved = resolve(name, principal.home, principal.grants.namespaces)
        if not principal.grants.may_subscribe(resolved.namespace, resolved.rest):
            raise InsufficientScope("the token does not permit subscribing to this filter")
        check_filter(resolved.rest)
        return Interest(resolved.namespace, resolved.rest, resolved.full)

    def cursor(self, text: str) -> Cursor:
        """Read a cursor as clients write it: ``<epoch>-<sequence>`` or ``earliest``.

        :raises InvalidParameter: if ``text`` has another shape.
        """
        return Cursor(self._bus.epoch, 0) if text == EARLIEST else Cursor.parse(text)

    @property
    def epoch(self) -> str:
        """The epoch of cursors that are handed out now."""
        return self._bus.epoch

    @property
    def available(self) -> bool:
        """Whether acknowledged publishes can be stored now."""
        return self._bus.available

    @property
    def subscriptions(self) -> int:
        """How many subscriptions this node's clients have."""
        return len(self._router)

    # -- publishing

    @staticmethod
    def bill(
        route: Route, count: int, largest: int, payloads: Callable[[], Sequence[bytes]], patient: bool = False
    ) -> Bill:
        """Ask for leave to publish messages on one topic; whoever publishes a run does that before.

        :param largest: bytes of the largest payload.
        :param payloads: finds the payloads, if they have to be looked at.
        :param patient: see :meth:`Allowance.take`.
        """
        return route.allowance.take_run(count, largest, payloads, patient=patient)

    def publish_unacknowledged(self, route: Route, run: Run, bill: Bill | None = None) -> Deferred[None] | None:
        """Deliver a run to this node's subscribers now, and pass it on as far as the bus can take it.

        With :attr:`Run.retain` its last message is kept as the retained one, as far as possible too.

        :param bill: for exactly this run.
        :returns: ``None``; or a Deferred: until it fires, a queue that has subscribed cannot follow this publisher.
        """
        record = route.history or (self._groups.any and self._groups.wants(run.topic))
        if record and bill is not None:
            _tag(run, bill)
        run.recorded = self._bus.send(run, record)
        self._router.deliver(run)
        if bill is not None:
            bill.pay()
        if run.retain:
            self._retaining.keep(run)
        return self._groups.room(run.topic, run.count, True) if run.recorded and self._groups.any else None

    def publish_run(self, run: Run, bill: Bill | None = None) -> Deferred[None]:
        """Store a run at the lowest cost per message; subscribers get it from the bus.

        :param bill: for exactly this run.
        :returns: a Deferred, fired once all of it is stored, and with :attr:`Run.retain` its last message retained.
        :raises BusUnavailable: through the Deferred.
        """
        if bill is None:
            return self._store_run(run)
        _tag(run, bill)
        return self._store_run(run).addCallbacks(_pay_run, _drop_run, (bill, run), errbackArgs=(bill, run))

    def _store_run(self, run: Run) -> Deferred[None]:
        if not self._groups.any:
            return self._publish_run(run)
        if run.count <= _PIECE or not self._groups.wants(run.topic):
            return self._when_followed(run.topic, run.count, lambda: self._publish_run(run))
        pieces = [
            self._when_followed(piece.topic, piece.count, lambda piece=piece: self._publish_run(piece))  # type: ignore[misc]
            for piece in run.pieces(_PIECE)
        ]
        stored = gatherResults(pieces, consumeErrors=True)
        return stored.addCallbacks(lambda _: None, lambda failure: failure.value.subFailure)

    def _publish_run(self, run: Run) -> Deferred[None]:
        return self._retaining.publish_run(run) if run.retain else self._bus.publish(run)

    def _when_followed(self, topic: Topic, count: int, publish: Callable[[], Deferred[_T]]) -> Deferred[_T]:
        """Publish as soon as the queues that have subscribed can follow: history would lose what they cannot take."""
        groups = self._groups

        def stored(result: _T) -> _T:
            groups.stored(topic, count)
            return result

        room = groups.room(topic, count)
        if room is None:
            return publish().addBoth(stored)
        return room.addCallback(lambda _: publish().addBoth(stored))

    def publish(
        self,
        route: Route,
        payload: bytes,
        *,
        message_id: str | None = None,
        ttl: int | None = None,
        qos: int = 1,
        retain: bool = False,
    ) -> Deferred[Stored]:
        """Store one message.

        :param message_id: an idempotency key: the same message under it within 5 minutes is stored once.
        :param ttl: seconds that it is kept; if ``None``, what the topic's policy says in history, and for ever as the
            retained message.
        :param retain: keep it as the retained message of its topic; an empty one removes what is kept.
        :returns: a Deferred of :class:`Stored`, fired once it is stored, and retained if that was wished.
        :raises MessageTooLarge, RateLimited: at once.
        :raises LimitReached, InsufficientBalance: at once, or through the Deferred.
        :raises BusUnavailable: through the Deferred.
        :raises IdempotencyKeyReused: through the Deferred: the key has been used for another message.
        :raises IdempotencyInProgress: through the Deferred: this node is about to store the key's message.
        """
        size = len(payload)
        self.check_size(size)
        post = Post(route, payload, message_id, ttl, retain, qos)
        allowance = route.allowance
        bill = allowance.take_all(1, size, size)
        if bill is None and allowance.limited:
            ready = allowance.ready((payload,))
            if ready is not None:
                return ready.addCallback(lambda _: self._publish_paid(post, None))
        return self._publish_paid(post, bill)

    def _publish_paid(self, post: Post, bill: Bill | None) -> Deferred[Stored]:
        if bill is None:
            bill = post.route.allowance.take_one(post.payload)
        paying = bill, post
        return self._publish_keyed(post, bill.tag).addCallbacks(_settle, _drop, paying, errbackArgs=paying)

    def _publish_keyed(self, post: Post, tag: str) -> Deferred[Stored]:
        if post.message_id is None:
            return self._publish(post, tag)
        return Deferred.fromCoroutine(self._publish_once(post, post.message_id, tag))

    def _publish(self, post: Post, tag: str, compared: bool = False) -> Deferred[Stored]:
        route, payload, message_id, ttl, retain, qos = post
        topic, age = route.topic, post.age

        def publish() -> Deferred[Stored]:
            if retain:
                return self._retaining.publish(topic, payload, qos, message_id, age, ttl, compared, tag)
            return self._bus.publish_one(topic, payload, qos=qos, message_id=message_id, ttl=age, tag=tag)

        return self._when_followed(topic, 1, publish) if self._groups.any else publish()

    async def _publish_once(self, post: Post, message_id: str, tag: str) -> Stored:
        topic = post.route.topic
        self._keys.begin(topic, message_id)
        try:
            stored = await self._publish(post, tag, compared=True)
            if stored.duplicate and not post.retain:  # else it was compared before it was retained
                first = await self._bus.fetch([stored.sequence])
                check_same(first.get(stored.sequence), topic, post.payload, False)
            return stored
        finally:
            self._keys.end(topic, message_id)

    def publish_many(self, posts: Sequence[Post]) -> Deferred[list[Stored | Refused]]:
        """Store several messages, in their order.

        It is :meth:`publish` for each, at a lower cost.

        :returns: a Deferred of what became of each, in order: :class:`Stored`, or what it was refused with.
        :raises MessageTooLarge: at once, for all of them.
        """
        self.check_size(max((len(post.payload) for post in posts), default=0))
        return Deferred.fromCoroutine(self._publish_many(posts))

    async def _publish_many(self, posts: Sequence[Post]) -> list[Stored | Refused]:
        answers: list[Stored | Refused] = [BusUnavailable()] * len(posts)
        under_way: list[Deferred[None]] = []
        keyed: list[int] = []
        some: list[int] = []  # without a retained one between them
        bills: dict[int, Bill] = {}
        whole = _bill_all(posts)
        if whole is None:
            for allowance in {post.route.allowance for post in posts}:
                if allowance.limited:
                    ready = allowance.ready([post.payload for post in posts if post.route.allowance is allowance])
                    if ready is not None:
                        await ready
        try:
            for place, post in enumerate(posts):
                bill = whole
                if bill is None:
                    try:
                        bill = post.route.allowance.take_one(post.payload)
                    except Refused as refusal:
                        answers[place] = refusal
                        continue
                bills[place] = bill
                if post.retain:  # its place in history has to be known first
                    under_way += self._store(posts, some, answers, bills)
                    some = []
                    one = self._publish_keyed(post, bill.tag)
                    under_way.append(_tell(one.addCallback(_listed), [place], answers))
                    continue
                if post.message_id is not None:
                    try:
                        self._keys.begin(post.route.topic, post.message_id)
                    except Refused as refusal:
                        answers[place] = refusal
                        continue
                    keyed.append(place)
                some.append(place)
            under_way += self._store(posts, some, answers, bills)
            await DeferredList(under_way)
            await self._compare(posts, keyed, answers)
        finally:
            for place in keyed:
                self._keys.end(posts[place].route.topic, posts[place].message_id or "")
            if whole is not None and not keyed and all(map(_is_new, answers)):
                whole.pay()
            else:
                if whole is not None:
                    bills = dict(enumerate(whole.each()))
                for place, bill in bills.items():
                    _settle(answers[place], bill, posts[place])
        return answers

    def _store(
        self,
        posts: Sequence[Post],
        places: Sequence[int],
        answers: list[Stored | Refused],
        bills: Mapping[int, Bill],
    ) -> list[Deferred[None]]:
        """Store some of several messages, and note what became of them."""
        if not places:
            return []
        groups = self._groups
        if not groups.any:
            return [_tell(self._bus.publish_many(_runs(posts, places, bills)), places, answers)]

        def publish(_: None, some: Sequence[int]) -> Deferred[list[Stored | Refused]]:
            def stored(result: _T) -> _T:
                for topic, count in Counter(posts[place].route.topic for place in some).items():
                    groups.stored(topic, count)
                return result

            return self._bus.publish_many(_runs(posts, some, bills)).addBoth(stored)

        # Only the topics wait that have to; one topic's messages stay in order, also with those that come later.
        by_topic: dict[Topic, list[int]] = {}
        for place in places:
            by_topic.setdefault(posts[place].route.topic, []).append(place)
        rooms = {topic: groups.room(topic, len(some)) for topic, some in by_topic.items()}
        now = [place for place in places if rooms[posts[place].route.topic] is None]
        under_way = [_tell(publish(None, now), now, answers)] if now else []
        for topic, room in rooms.items():
            if room is not None:
                some = by_topic[topic]
                under_way.append(_tell(room.addCallback(publish, some), some, answers))
        return under_way

    async def _compare(self, posts: Sequence[Post], keyed: Sequence[int], answers: list[Stored | Refused]) -> None:
        """Replace the answer to whatever was not stored because another message has its key."""
        again = {
            place: answer.sequence
            for place in keyed
            if isinstance(answer := answers[place], Stored) and answer.duplicate
        }
        if not again:
            return
        try:
            first = await self._bus.fetch(list(again.values()))
        except BusUnavailable as away:
            answers[:] = [away if place in again else answer for place, answer in enumerate(answers)]
            return
        for place, sequence in again.items():
            post = posts[place]
            try:
                check_same(first.get(sequence), post.route.topic, post.payload, False)
            except Refused as refusal:
                answers[place] = refusal

    def publish_again(
        self, route: Route, payload: bytes, *, message_id: str, qos: int, retain: bool, late: bool
    ) -> Deferred[None]:
        """Publish a message that may have been published before, once.

        :param late: that was longer ago than repetitions are noticed by the stream: history is looked through first.
        :returns: a Deferred, fired once it is stored.
        :raises MessageTooLarge: at once.
        :raises BusUnavailable, LimitReached, InsufficientBalance: through the Deferred.
        """
        self.check_size(len(payload))
        return Deferred.fromCoroutine(
            self._publish_again(Post(route, payload, message_id, None, retain, qos), message_id, late)
        )

    async def _publish_again(self, post: Post, message_id: str, late: bool) -> None:
        allowance, payloads = post.route.allowance, (post.payload,)
        ready = allowance.ready(payloads) if allowance.limited else None
        if ready is not None:
            await ready
        bill = allowance.take(payloads, patient=True)
        if bill.refusal is not None:
            raise bill.refusal
        outcome: Stored | Refused = BusUnavailable()
        try:
            found = await self._bus.find(post.route.topic, message_id) if late else None
            if found is None:
                outcome = await self._publish(post, bill.tag)
            else:
                outcome = Stored(found, duplicate=True)
        except Refused as refusal:
            outcome = refusal
            raise
        finally:
            _settle(outcome, bill, post)

    def publish_trusted(
        self, topic: Topic, payload: bytes, *, qos: int, retain: bool, message_id: str, again: bool, late: bool = False
    ) -> Deferred[None]:
        """Publish what a client was permitted to publish before, and this node publishes in its place: a will.

        :param message_id: however often and by whichever node it is published, at QoS 1 and 2 it is stored once.
        :param again: whether it may have been published already.
        :param late: whether that may have been longer ago than the stream notices.
        :returns: a Deferred, fired once it is stored; at QoS 0 at once.
        :raises BusUnavailable: through the Deferred.
        """
        policy = self._policies.find(topic.name)
        route = Route(topic, False, policy.history, policy.age)
        if not qos:
            self.publish_unacknowledged(route, Run(topic, [payload], ttl=route.age, retain=retain))
            self.turn.flush()
            return succeed(None)
        if not again:
            # As a run, like the messages before it: a message by itself could overtake them.
            return self.publish_run(
                Run(topic, [payload], qos=qos, ttl=route.age, retain=retain, message_ids=[message_id])
            )
        return self.publish_again(route, payload, message_id=message_id, qos=qos, retain=retain, late=late)

    def check_size(self, size: int) -> None:
        """:raises MessageTooLarge: if a payload of ``size`` bytes is not taken."""
        if size > self.limits.message_bytes:
            raise MessageTooLarge(f"a message has at most {self.limits.message_bytes} bytes")

    @property
    def congested(self) -> bool:
        """Whether publishers should be read no further until :meth:`when_drained` calls."""
        return self._bus.congested

    def when_drained(self, resume: Callable[[], None]) -> None:
        """Have ``resume`` called once, as soon as the bus takes more."""
        self._paused[resume] = None

    def cancel_when_drained(self, resume: Callable[[], None]) -> None:
        """Take back a :meth:`when_drained`, if it is still to come."""
        self._paused.pop(resume, None)

    # -- subscribing

    def subscribe(
        self, subscriber: ISubscriber, interest: Interest, qos: int = 0, durable: bool = False
    ) -> Deferred[None]:
        """Deliver to ``subscriber`` what is published from now on.

        :param durable: what it is to get at QoS 1 and 2 it reads by :meth:`follow_filters`.
        :returns: a Deferred, fired once that holds for all nodes; for this node it holds at once.
        """
        namespace, filter_, full = interest.namespace, interest.filter, interest.full
        attached = self._bus.attach(namespace)
        if not self._router.subscribe(subscriber, namespace, filter_, full, qos, durable=durable):
            # It is there already; whether it holds yet is all that is to be known.
            return attached.addBoth(self._attached_already, namespace)
        return attached

    def _attached_already(self, result: None, namespace: Namespace) -> None:
        self._bus.detach(namespace)
        return result

    def unsubscribe(self, subscriber: ISubscriber, interest: Interest) -> bool:
        """End one subscription.

        :returns: whether there was one.
        """
        if not self._router.unsubscribe(subscriber, interest.namespace, interest.filter, interest.full):
            return False
        self._bus.detach(interest.namespace)
        return True

    def leave(self, subscriber: ISubscriber) -> None:
        """End all subscriptions of ``subscriber``."""
        for namespace, filter_, full in self._router.subscriptions(subscriber):
            self._router.unsubscribe(subscriber, namespace, filter_, full)
            self._bus.detach(namespace)

    def follow(
        self, subscriber: ISubscriber, reader: IReader, interest: Interest, after: Cursor | None
    ) -> Deferred[IFeed]:
        """Give ``reader`` the history of a filter behind ``after``, then what follows.

        ``subscriber`` gets what history does not hold: unacknowledged messages of topics without history, and those of
        a time when the bus was away.  :meth:`unsubscribe` or :meth:`leave`, and the feed's ``stop``, end it.

        :param after: ``None`` for nothing but the future.
        :returns: a Deferred of :class:`IFeed`.
        """
        if self._router.subscribe(subscriber, interest.namespace, interest.filter, interest.full, history=True):
            attached = self._bus.attach(interest.namespace)
        else:
            attached = succeed(None)
        return attached.addCallback(lambda _: self._bus.follow(interest.namespace, interest.filter, reader, after))

    def history(self, interest: Interest, after: Cursor, limit: int) -> Deferred[list[Run]]:
        """Read one page of history: at most ``limit`` messages behind ``after``."""
        if limit < 1:
            raise InvalidParameter("limit must be at least 1")
        return self._bus.history(interest.namespace, interest.filter, after, limit)

    def topics(self, principal: Principal, prefix: str, after: str, limit: int) -> Deferred[list[tuple[str, int]]]:
        """List the topics on which history holds messages, as far as ``principal`` may subscribe to them.

        :param prefix: what their names begin with; a full one is of another namespace, with full names.
        :param after: only names behind this one, as it was given.
        :param limit: at most so many.
        :returns: a Deferred of names, sorted, each with the count of its messages.
        :raises InvalidParameter: if a name with this prefix could not be behind ``after``.
        """
        home, grants = principal.home, principal.grants
        start, last = (resolve(text, home, grants.namespaces) for text in (prefix, after or prefix))
        namespace = start.namespace
        if last.namespace != namespace:
            raise InvalidParameter("the cursor is one of another list")
        found = self._bus.topics(
            namespace,
            start.rest,
            last.rest if after else "",
            limit,
            lambda name: grants.may_subscribe(namespace, name),
        )

        def shown(name: str) -> str:
            # Short at home, unless that would stand for another topic.
            full = start.full or resolve(name, home, grants.namespaces).full
            return namespace.prefix + name if full else name

        return found.addCallback(lambda names: [(shown(name), count) for name, count in names])

    def follow_filters(
        self, namespace: Namespace, filters: Iterable[str], reader: IReader, after: Cursor | None
    ) -> Deferred[IFilteredFeed]:
        """See :meth:`IBus.follow_filters`; whether the reader may is the caller's matter."""
        return self._bus.follow_filters(namespace, filters, reader, after)

    def backlog(
        self, namespace: Namespace, filters: Iterable[str], after: Cursor, messages: int, size: int
    ) -> Deferred[Backlog]:
        """See :meth:`IBus.backlog`."""
        return self._bus.backlog(namespace, filters, after, messages, size)

    def fetch(self, sequences: Sequence[int]) -> Deferred[dict[int, Run]]:
        """See :meth:`IBus.fetch`."""
        return self._bus.fetch(sequences)

    def join(self, interest: Interest, group: str, member: IGroupMember) -> Deferred[IMembership]:
        """See :meth:`IGroups.join`."""
        return self._groups.join(interest.namespace, group, interest.filter, member)

    def retained(self, interest: Interest, after: int = 0, limit: int = 1000) -> Deferred[RetainedPage]:
        """Read a page of the retained messages of a filter; see :meth:`IRetained.page`.

        Whatever this node had begun to publish is in it.  To subscribe with retained messages, read them once the
        subscription holds: then nothing is missed.
        """
        if is_reserved(interest.filter):
            return succeed(self.figures(interest, after, limit))
        return self._retaining.page(interest.namespace, interest.filter, after, limit)

    def fetch_retained(self, sequences: Sequence[int]) -> Deferred[dict[int, Run]]:
        """See :meth:`IRetained.fetch`."""
        return self._retained.fetch(sequences)

    # -- IBusListener

    def arrived(self, runs: Sequence[Run]) -> None:
        deliver = self._router.deliver
        for run in runs:
            deliver(run)

    def settled(self) -> None:
        self.turn.flush()

    def drained(self) -> None:
        paused, self._paused = self._paused, {}
        for resume in paused:
            resume()

    def availability(self, available: bool) -> None:
        if available:
            _log.info("the message bus is within reach")
            self.on_available()
        else:
            _log.warn("the message bus is away: acknowledged publishes are refused until it is back")
        # A bus that went away takes nothing, so nobody needs to wait for it.
        self.drained()
