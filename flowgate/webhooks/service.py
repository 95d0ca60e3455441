"""The verbs of webhooks, and their part of a node: who delivers for which."""

# mypy: disallow-untyped-calls=False
# (Failure has no annotations)
from __future__ import annotations

import contextlib
import random
import secrets
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from flowgate.errors import Conflict, InvalidParameter, NotFound, RateLimited, Refused
from flowgate.interfaces import IStore
from flowgate.message import Entry
from flowgate.metering import Meter
from flowgate.queues.model import check_range
from flowgate.queues.service import Queues
from flowgate.topics import Namespace
from flowgate.webhooks.addresses import AddressPolicy
from flowgate.webhooks.delivery import Attempt, Worker
from flowgate.webhooks.forming import Published
from flowgate.webhooks.model import MAX_RECEIVES, RECEIVES, State, Webhook, check_name, check_url
from flowgate.webhooks.posting import Post
from flowgate.webhooks.signing import Secrets

BUCKET: Final = "FG_WEBHOOKS"
"""The bucket of the store that holds the webhooks."""
MAX_WEBHOOKS: Final = 100
"""Webhooks of one namespace."""
MAX_ALL_WEBHOOKS: Final = 1000
"""Webhooks of all namespaces: every node has the queue of each open."""
MAX_REQUESTS: Final = 256
"""Requests that a node has under way; beyond it no more messages are waited for than are waited for already."""
GRACE_SECONDS: Final = 5.0
"""How long requests under way may take when the node stops."""

_ATTEMPTS: Final = 5
_LOOK_SECONDS: Final = 0.05

Admit = Callable[[Webhook], None]
"""Raises a refusal if who asks has no leave to deal with a webhook that exists."""


@attrs.frozen(slots=True)
class Wanted:
    """How a webhook is to be; as :class:`Webhook`."""

    filter: str
    full: bool
    url: str
    dead_letter: str | None = None
    max_receives: int = RECEIVES


@attrs.frozen(slots=True)
class Made:
    """A webhook that was wanted.

    :ivar secret: what its messages are signed with, if it is new; it is not shown again.
    """

    webhook: Webhook
    secret: str | None = None


@attrs.frozen(slots=True)
class Standing:
    """How a webhook does.

    :ivar waiting: messages that are not delivered yet.
    :ivar oldest_age_seconds: the age of the oldest of them.
    :ivar last: the last attempt of this node, if it failed.
    """

    waiting: int
    oldest_age_seconds: float
    last: Attempt | None


class Webhooks:
    """Webhooks with their policy.  Who may do what is the caller's affair; every check of values is made here.

    A webhook is an entry in the store, and a FIFO queue that has subscribed to its filter.  The entry is written
    first and struck out last, and whatever is between the two is done again by whoever finds it missing.
    """

    _log = Logger()

    def __init__(
        self,
        queues: Queues,
        store: IStore,
        master: bytes,
        post: Post,
        policy: AddressPolicy,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        plain: bool = False,
        meter: Meter | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """Prepare.

        :param store: keeps the webhooks.
        :param master: the master secret; the same on all nodes.
        :param post: sends requests.
        :param policy: where they may lead to.
        :param clock: for waiting.
        :param now: seconds since 1970 UTC.
        :param plain: whether URLs may be ``http:``.
        :param uniform: a random number from 0 to 1.
        """
        self.queues = queues
        self.clock = clock
        self.now = now
        self.random = uniform
        self._store = store
        self._secrets = Secrets(master)
        self._post = post
        self._policy = policy
        self._plain = plain
        self._meter = Meter() if meter is None else meter
        self._known: dict[Namespace, dict[str, Webhook]] = {}
        self._workers: dict[str, Worker] = {}
        self._leaving: list[Worker] = []
        self._requests = 0
        self._turns: deque[Deferred[None]] = deque()
        self._unwatch: Callable[[], None] | None = None
        self._stopped = False
        self._meter.gauge("webhooks", lambda: len(self._workers))
        self._meter.gauge("webhook_requests", lambda: self._requests)
        for outcome in ("delivered", "failed", "dead_lettered", "dropped"):
            self._meter.counter("webhook_messages", outcome)

    def start(self) -> Deferred[None]:
        """Follow the webhooks, and deliver.

        :raises BusUnavailable: through the Deferred.
        """

        async def start() -> None:
            self._unwatch = await self._store.watch(BUCKET, self._changed)
            mending = Deferred.fromCoroutine(self._mend())
            mending.addErrback(lambda failure: self._log.failure("webhooks could not be looked after", failure))

        return Deferred.fromCoroutine(start())

    def stop(self) -> Deferred[None]:
        """Deliver no more.

        :returns: a Deferred, fired when no request is under way any more.
        """
        self._stopped = True
        if self._unwatch is not None:
            self._unwatch()
        self._known.clear()
        for id_ in list(self._workers):
            self._dismiss(id_)
        while self._turns:
            self._turns.popleft().callback(None)
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        deadline = self.clock.seconds() + GRACE_SECONDS
        while any(not one.idle for one in self._leaving) and self.clock.seconds() < deadline:
            await deferLater(self.clock, _LOOK_SECONDS)
        for worker in self._leaving:
            worker.abandon()

    async def _mend(self) -> None:
        """Do what other nodes, or this one before it was started, began and did not finish."""
        for webhook in [one for some in self._known.values() for one in some.values()]:
            if not self._stopped and not self._settled(webhook):
                with contextlib.suppress(Refused):  # a worker will notice
                    await self._settle(webhook.home, webhook.name)

    # -- who delivers

    def _changed(self, key: str, value: bytes | None) -> None:
        user, app, name = key.split(".", 2)
        home = Namespace(user, app)
        try:
            webhook = None if value is None else Webhook.decode(home, name, value)
        except Conflict:
            self._log.warn("the webhook {key} cannot be read and is passed over", key=key)
            webhook = None
        self._take(home, name, webhook)

    def _take(self, home: Namespace, name: str, webhook: Webhook | None) -> None:
        if self._stopped:
            return
        webhooks = self._known.setdefault(home, {})
        before = webhooks.pop(name, None)
        if webhook is not None:
            webhooks[name] = webhook
        elif not webhooks:
            del self._known[home]
        active = webhook is not None and webhook.state is State.ENABLED
        if before is not None and (not active or webhook is None or webhook.id != before.id):
            self._dismiss(before.id)
        if webhook is None or not active:
            return
        worker = self._workers.get(webhook.id)
        if worker is not None:
            worker.webhook = webhook
        else:
            worker = self._workers[webhook.id] = Worker(self, webhook)
            worker.start()

    def _dismiss(self, id_: str) -> None:
        worker = self._workers.pop(id_, None)
        if worker is not None:
            worker.stop()
            self._leaving = [one for one in self._leaving if not one.idle]
            self._leaving.append(worker)

    # -- what workers ask for

    def post(self, webhook: Webhook, published: Published, attempt: int) -> Deferred[int]:
        now, body = self.now(), published.body(webhook.full)
        headers = {
            "Content-Type": "application/json",
            **published.headers(webhook.full),
            "Flow-Webhook": webhook.name,
            "Flow-Attempt": str(attempt),
            "Flow-Timestamp": str(int(now)),
            "Flow-Signature": self._secrets.signatures(webhook, now, body),
        }
        self._requests += 1

        def over(result: Any) -> Any:
            self._requests -= 1
            while self._turns and self._requests < MAX_REQUESTS:
                self._turns.popleft().callback(None)
            return result

        return self._post(webhook.url, headers, body).addBoth(over)

    def room(self) -> Deferred[None]:
        if self._requests < MAX_REQUESTS or self._stopped:
            return succeed(None)
        turn: Deferred[None] = Deferred()
        self._turns.append(turn)
        return turn

    def count(self, what: str) -> None:
        self._meter.add("webhook_messages", what)

    def disable(self, webhook: Webhook) -> Deferred[None]:
        def disabled(one: Webhook) -> Webhook:
            if one.id != webhook.id or one.url != webhook.url or one.state is not State.ENABLED:
                return one  # it was changed meanwhile
            return attrs.evolve(one, state=State.DISABLED, modified_at=int(self.now()))

        async def disable() -> None:
            with contextlib.suppress(NotFound):
                await self._change(webhook.home, webhook.name, disabled)
                await self._settle(webhook.home, webhook.name)

        return Deferred.fromCoroutine(disable())

    def repair(self, webhook: Webhook) -> Deferred[None]:
        async def repair() -> None:
            with contextlib.suppress(Refused):  # another time
                await self._settle(webhook.home, webhook.name)

        return Deferred.fromCoroutine(repair()).addErrback(
            lambda failure: self._log.failure("a webhook could not be repaired", failure)
        )

    # -- what is stored

    async def _entry(self, home: Namespace, name: str) -> tuple[Webhook, int] | None:
        """What is stored now, with its revision; one that is being removed too."""
        entry: Entry | None = await self._store.get(BUCKET, _key(home, name))
        return None if entry is None else (Webhook.decode(home, name, entry.value), entry.revision)

    async def _put(self, webhook: Webhook, revision: int) -> None:
        await self._store.put(BUCKET, _key(webhook.home, webhook.name), webhook.encode(), revision)
        self._take(webhook.home, webhook.name, webhook)

    async def _change(self, home: Namespace, name: str, edit: Callable[[Webhook], Webhook]) -> Webhook:
        """Change what is stored by a function of it, which is called again if somebody else was faster.

        :raises NotFound: if there is no such webhook.
        """
        for attempt in range(_ATTEMPTS):
            found = await self._entry(home, name)
            if found is None or found[0].state is State.REMOVING:
                raise NotFound("there is no such webhook")
            before, revision = found
            after = edit(before)
            if after == before:
                return before
            try:
                await self._put(after, revision)
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            return after
        raise AssertionError("not reached")

    def _settled(self, webhook: Webhook) -> bool:
        """Whether its queue is as it should be, as far as this node knows."""
        try:
            queue = self.queues.find(webhook.place, webhook.queue)
        except NotFound:
            return False
        return webhook.state is not State.REMOVING and queue.subscriptions == _filters(webhook)

    async def _settle(self, home: Namespace, name: str) -> None:
        """Bring the queue of a webhook to what is stored of it.

        :raises Refused: if that is not possible now.
        """
        while True:
            found = await self._entry(home, name)
            if found is None:
                return
            webhook, revision = found
            if webhook.state is State.REMOVING:
                await self._remove_queue(webhook)
                with contextlib.suppress(Conflict):
                    await self._store.delete(BUCKET, _key(home, name), revision)
                self._take(home, name, None)
                return
            await self._settle_queue(webhook)
            again = await self._entry(home, name)
            if again is not None and again[1] == revision:
                worker = self._workers.get(webhook.id)
                if worker is not None:
                    worker.wake()
                return
            if again is None or again[0].id != webhook.id:
                await self._remove_queue(webhook)  # it went while we made it

    async def _settle_queue(self, webhook: Webhook) -> None:
        place, queue, wanted = webhook.place, webhook.queue, _filters(webhook)
        await self.queues.create(place, queue, {})
        there = (await self.queues.describe(place, queue)).subscriptions
        for filter_ in wanted:
            if filter_ not in there:
                await self.queues.subscribe(place, queue, filter_)
        for filter_ in there:
            if filter_ not in wanted:
                await self.queues.unsubscribe(place, queue, filter_)

    async def _remove_queue(self, webhook: Webhook) -> None:
        with contextlib.suppress(NotFound):
            await self.queues.remove(webhook.place, webhook.queue)

    # -- the verbs

    def configure(self, home: Namespace, name: str, wanted: Wanted, admit: Admit) -> Deferred[Made]:
        """Make a webhook, or have one that exists be like this, and enabled.

        :param admit: asked about one that exists.
        :returns: a Deferred of :class:`Made`, fired once every message from now on will be delivered.
        :raises InvalidParameter: through the Deferred, with the reason.
        :raises NotFound: through the Deferred, if the dead-letter queue does not exist.
        :raises RateLimited: through the Deferred, if there are too many in the whole gateway.
        """
        return Deferred.fromCoroutine(self._configure(home, name, wanted, admit))

    async def _configure(self, home: Namespace, name: str, wanted: Wanted, admit: Admit) -> Made:
        check_name(name)
        check_url(wanted.url, self._policy, self._plain)
        check_range("max_receives", wanted.max_receives, 1, MAX_RECEIVES)
        found = await self._entry(home, name)
        if wanted.dead_letter is not None:
            try:
                await self.queues.describe(home, wanted.dead_letter)
            except NotFound:
                raise NotFound(f"there is no queue {wanted.dead_letter} for dead letters") from None
        if found is not None and found[0].state is State.REMOVING:
            await self._settle(home, name)
            found = None
        now = int(self.now())
        if found is None:
            self._check_number(home)
            id_ = secrets.token_hex(8)
            webhook = Webhook(
                home=home,
                name=name,
                id=id_,
                secret=1,
                secret_since=now,
                state=State.ENABLED,
                created_at=now,
                modified_at=now,
                **attrs.asdict(wanted),
            )
            await self._put(webhook, 0)
            await self._settle(home, name)
            return Made(webhook, self._secrets.secret(webhook))

        def edit(one: Webhook) -> Webhook:
            admit(one)
            after = attrs.evolve(one, state=State.ENABLED, **attrs.asdict(wanted))
            return one if after == one else attrs.evolve(after, modified_at=now)

        webhook = await self._change(home, name, edit)
        await self._settle(home, name)
        return Made(webhook)

    def _check_number(self, home: Namespace) -> None:
        if len(self._known.get(home, ())) >= MAX_WEBHOOKS:
            raise InvalidParameter(f"an application has at most {MAX_WEBHOOKS} webhooks")
        if sum(map(len, self._known.values())) >= MAX_ALL_WEBHOOKS:
            raise RateLimited(f"the gateway has {MAX_ALL_WEBHOOKS} webhooks, as many as it may")

    def describe(self, home: Namespace, name: str, admit: Admit) -> Deferred[Webhook]:
        """:returns: a Deferred of :class:`Webhook`; :class:`NotFound` if there is none."""

        async def describe() -> Webhook:
            check_name(name)
            webhook = self._known.get(home, {}).get(name)
            if webhook is None:  # made by another node just now, perhaps
                found = await self._entry(home, name)
                webhook = None if found is None else found[0]
            if webhook is None or webhook.state is State.REMOVING:
                raise NotFound("there is no such webhook")
            admit(webhook)
            return webhook

        return Deferred.fromCoroutine(describe())

    def standing(self, webhook: Webhook) -> Deferred[Standing]:
        """:returns: a Deferred of how it does: :class:`Standing`."""

        async def standing() -> Standing:
            worker = self._workers.get(webhook.id)
            last = None if worker is None else worker.last
            try:
                stats = await self.queues.stats(webhook.place, webhook.queue)
            except NotFound:
                return Standing(0, 0.0, last)
            return Standing(stats.visible + stats.in_flight + stats.delayed, stats.oldest_age_seconds, last)

        return Deferred.fromCoroutine(standing())

    def listing(self, home: Namespace, prefix: str = "", after: str = "", limit: int = 1000) -> list[Webhook]:
        """The webhooks of a namespace by name, at most ``limit`` from behind ``after``."""
        webhooks = self._known.get(home, {})
        names = sorted(
            name for name, one in webhooks.items() if name.startswith(prefix) and one.state is not State.REMOVING
        )
        begin = bisect_right(names, after)
        return [webhooks[name] for name in names[begin : begin + limit]]

    def renew_secret(self, home: Namespace, name: str, admit: Admit) -> Deferred[Made]:
        """Have what is sent signed with a new secret; for a day with the one before it too.

        :returns: a Deferred of :class:`Made`.
        :raises NotFound: through the Deferred.
        """

        def renewed(one: Webhook) -> Webhook:
            admit(one)
            now = int(self.now())
            return attrs.evolve(one, secret=one.secret + 1, secret_since=now, modified_at=now)

        async def renew() -> Made:
            check_name(name)
            webhook = await self._change(home, name, renewed)
            return Made(webhook, self._secrets.secret(webhook))

        return Deferred.fromCoroutine(renew())

    def remove(self, home: Namespace, name: str, admit: Admit) -> Deferred[None]:
        """Remove a webhook with what is not delivered yet.

        :returns: a Deferred of ``None``.
        :raises NotFound: through the Deferred.
        """

        def removing(one: Webhook) -> Webhook:
            admit(one)
            return attrs.evolve(one, state=State.REMOVING)

        async def remove() -> None:
            check_name(name)
            await self._change(home, name, removing)
            await self._settle(home, name)

        return Deferred.fromCoroutine(remove())


def _key(home: Namespace, name: str) -> str:
    return f"{home.user}.{home.app}.{name}"


def _filters(webhook: Webhook) -> tuple[str, ...]:
    """What its queue is to be subscribed to."""
    return (webhook.filter,) if webhook.state is State.ENABLED else ()
