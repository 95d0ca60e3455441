"""The Billing Guard of one node."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.billing.account import Account, resets_at
from flowgate.billing.balances import Balances
from flowgate.billing.books import BUCKET, ENTRY_SECONDS, LEDGER, METER_SECONDS, Book, Books
from flowgate.billing.charges import Tag
from flowgate.billing.notices import Notices
from flowgate.billing.plans import Plan, Plans
from flowgate.billing.purse import UNCERTAIN_SECONDS, Purse
from flowgate.billing.recovery import MISSED_SECONDS, VERB
from flowgate.billing.usage import LedgerEntry, Usage, usage_of
from flowgate.connections import Connections
from flowgate.errors import BusUnavailable, Refused
from flowgate.interfaces import IJournal, IPeers, IStore, ITagged
from flowgate.metering import Meter
from flowgate.topics import Namespace

_log = Logger()

TICK_SECONDS: Final = 1.0
TELL_SECONDS: Final = 1.0
"""How long an account's record may not know what was spent here; 5 times as long where nothing is sold."""
IDLE_SECONDS: Final = 5.0
"""Who has spent nothing for so long needs nothing: what is left is given back."""
SWEEP_TICKS: Final = 60
"""Every so many ticks all records are looked through for nodes that are gone."""
METER_TICKS: Final = 10
"""Every so many ticks deliveries and connections are counted."""


class Billing:
    """Supplies purses, keeps the ledger, and answers for both."""

    def __init__(
        self,
        store: IStore,
        journal: IJournal,
        tagged: ITagged,
        peers: IPeers,
        plans: Plans,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        connections: Connections,
        meter: Meter,
        notices: Notices,
        reach: Callable[[str], set[tuple[str, str]]] = lambda _user: set(),
    ) -> None:
        """Prepare; nothing happens before :meth:`start`.

        :param store: keeps the accounts' records.
        :param journal: keeps the ledger.
        :param clock: the reactor.
        :param now: seconds since 1970 UTC.
        :param reach: tells the user and the application of topics of others that a user's keys may publish to.
        """
        self._store = store
        self._journal = journal
        self._peers = peers
        self._clock = clock
        self._now = now
        self._connections = connections
        self._meter = meter
        self._notices = notices
        self.plans = plans
        self._books = Books(store, journal, tagged, peers, plans, clock, now, crossed=self._threshold, reach=reach)
        self.balances = Balances(self._books, journal, now, self._refilled)
        self._purses: WeakValueDictionary[str, Purse] = WeakValueDictionary()
        self._active: dict[str, Book] = {}
        self._sent: dict[Namespace, int] = {}
        self._sweeping: Deferred[None] | None = None
        self._ticks = 0
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock
        self._stopped = False

    def start(self) -> Deferred[None]:
        """Charge what this or other nodes have left behind, and serve purses from now on.

        :returns: a Deferred of ``None``, fired once the loop runs.
        """
        self._peers.answer(VERB, lambda _: succeed(b""))
        self._peers.hear(VERB, self._heard)
        self._loop.start(TICK_SECONDS, now=False)
        self._sweep()
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """Enter everything in the ledger, and give back what is left.

        :returns: a Deferred of ``None``, fired once that is done, as far as it can be.
        """
        self._stopped = True
        if self._loop.running:
            self._loop.stop()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._notices.stop()
        leaving = [Deferred.fromCoroutine(self._leave(book)) for book in list(self._active.values())]
        return DeferredList(leaving).addCallback(lambda _: None)

    async def _leave(self, book: Book) -> None:
        try:
            await self._books.step(book, leave=True)
        except Refused as refusal:
            book.purse.unreachable()
            _log.warn(
                "what {user} has spent is entered in the ledger later, by another node or the next start: {reason}",
                user=book.purse.user,
                reason=refusal,
            )

    # -- purses

    def purse(self, user: str) -> Purse:
        """The purse of a user on this node: one object, for as long as somebody keeps it."""
        found = self._purses.get(user)
        if found is not None and not found.active:
            found.change(self.plans.of(user))
        if found is None:
            found = self._purses[user] = Purse(
                user, self._peers.node, self.plans.of(user), self._clock.seconds, self._kick, self._books.number
            )
        return found

    def warm(self, user: str) -> Deferred[None] | None:
        """Have units at hand for a user whose client has come.

        :returns: ``None`` if there are; or a Deferred of ``None``, fired once they are, or there are none.
        """
        return self.purse(user).ready(1)

    def _kick(self, purse: Purse) -> None:
        if self._stopped:
            purse.unreachable()  # it will not be supplied any more: nobody is to wait for that
            return
        book = self._active.get(purse.user)
        if book is None:
            book = self._active[purse.user] = self._books.book(purse)
            purse.active = True
        if not book.busy and purse.short:
            self._run(book, self._supply(book))

    def _run(self, book: Book, work: Coroutine[Any, Any, None]) -> None:
        """Do one thing with an account at a time."""
        book.busy = True
        Deferred.fromCoroutine(work).addBoth(self._ran, book)

    def _ran(self, result: Failure | None, book: Book) -> None:
        book.busy = False
        if result is not None:
            if not isinstance(result.value, Refused):
                _log.failure("an account's record could not be changed", result)
            book.purse.unreachable()
        if book.purse.short:
            self._kick(book.purse)

    async def _supply(self, book: Book) -> None:
        """Have a purse supplied until nobody waits."""
        purse = book.purse
        while purse.short and not self._stopped:
            await self._books.step(book)
        if purse.decided and purse.standing.elsewhere and not self._peers.alone:
            self._tell({"want": purse.user})

    def bus_back(self) -> None:
        """The bus is within reach again: another node may have taken this one for dead meanwhile."""
        for book in self._active.values():
            if book.leased:
                book.purse.suspend()
                self._kick(book.purse)

    # -- time

    def _tick(self) -> None:
        try:
            self._ticks += 1
            if self._ticks % METER_TICKS == 0:
                self._count()
            if self._ticks % SWEEP_TICKS == 0 and not self._peers.alone:
                self._sweep()
            for book in list(self._active.values()):
                book.purse.forget_doubts()
                if not book.busy:
                    self._look_after(book)
        except Exception:
            # The next second is tried again: a looping call would end with this one.
            _log.failure("the accounts could not be looked after")

    def _look_after(self, book: Book) -> None:
        purse, now = book.purse, self._clock.seconds()
        idle = now - purse.used_at >= IDLE_SECONDS and not (purse.waiting or purse.pending)
        here = self._connections.of_user(purse.user) > 0
        since = now - book.entered_at
        metered = purse.deliveries or purse.seconds
        uncertain = purse.uncertain
        plan = self.plans.of(purse.user)
        if plan != purse.plan:
            self._run(book, self._change_plan(book, plan))
        elif uncertain and now - book.looked_at >= UNCERTAIN_SECONDS:
            self._run(book, self._find_out(book, uncertain))
        elif idle and not here and since >= ENTRY_SECONDS:
            self._run(book, self._retire(book))
        elif idle and not here and purse.left and not self._peers.alone:
            self._run(book, self._return(book, purse.left))
        elif (
            (purse.fresh and now - book.told_at >= TELL_SECONDS * (1 if purse.plan.traced else 5))
            or (purse.closed and since >= ENTRY_SECONDS)
            or (metered and since >= METER_SECONDS)
            or (book.leased and book.period != purse.plan.now(self._now()).name)
        ):
            self._run(book, self._books.step(book))

    async def _change_plan(self, book: Book, plan: Plan) -> None:
        """Enter what was spent under the old plan, and begin anew under the new one."""
        await self._books.step(book, leave=True)
        book.purse.change(plan)
        self._kick(book.purse)

    async def _find_out(self, book: Book, tags: list[Tag]) -> None:
        """See in the stream what became of messages of which nobody else will say it: of all of them by one reading."""
        purse = book.purse
        book.looked_at = self._clock.seconds()
        numbers = {tag.number for tag in tags}
        mark = min(tag.mark for tag in tags)
        units = await self._books.recovery.count(purse.user, self._peers.node, mark, numbers.__contains__)
        for tag in tags:
            purse.counted(tag, units.get(tag.number, 0) * tag.price)

    async def _retire(self, book: Book) -> None:
        purse = book.purse
        purse.target = 0  # not to be had back at once
        if book.leased or purse.granted or purse.deliveries or purse.seconds:
            await self._books.step(book, leave=True)
        if not (purse.granted or purse.waiting or purse.deliveries or purse.seconds >= 60):
            purse.seconds = 0.0  # less than a minute
            self._active.pop(purse.user, None)
            purse.active = False

    def _count(self) -> None:
        """Count what was delivered and how long connections were open."""
        seconds = TICK_SECONDS * METER_TICKS
        users: dict[str, list[int]] = {}
        sent: dict[Namespace, int] = {}
        for namespace, account in self._meter.accounts().items():
            sent[namespace] = account.sent
            counts = users.setdefault(namespace.user, [0])
            counts[0] += max(0, account.sent - self._sent.get(namespace, 0))
        self._sent = sent
        for user, (delivered,) in users.items():
            connected = self._connections.of_user(user)
            if delivered or connected:
                purse = self.purse(user)
                if not purse.active:
                    self._kick(purse)
                purse.meter(delivered, connected * seconds)

    # -- nodes that are gone

    def _sweep(self) -> None:
        if self._sweeping is None and not self._stopped:
            self._sweeping = Deferred.fromCoroutine(self._look_through())
            self._sweeping.addErrback(self._not_swept)
            self._sweeping.addBoth(self._swept)

    def _not_swept(self, failure: Failure) -> None:
        if not isinstance(failure.value, Refused) and not self._stopped:
            _log.failure("the accounts could not be looked through", failure)

    def _swept(self, _: object) -> None:
        self._sweeping = None

    async def _look_through(self) -> None:
        """Find the accounts of which nodes hold something that are gone, and charge what they have spent."""
        own = self._peers.node
        for _ in range(2):  # a node is dead if it was missed twice
            users: list[str] = []

            def seen(user: str, value: bytes | None, users: list[str] = users) -> None:
                if value is not None and user not in self._active and _has_others(value, own):
                    users.append(user)

            (await self._store.watch(BUCKET, seen))()
            for user in users:
                await self._books.change(user, _nothing)
            if not users or self._peers.alone:
                break
            await deferLater(self._clock, MISSED_SECONDS)

    # -- the other nodes

    def _tell(self, what: Mapping[str, object]) -> None:
        if not self._peers.alone:
            self._peers.tell(VERB, json.dumps(what, separators=(",", ":")).encode())

    def _heard(self, payload: bytes) -> None:
        try:
            what = json.loads(payload)
            wanted, changed, crossed = what.get("want"), what.get("changed"), what.get("crossed")
        except (ValueError, AttributeError) as error:
            _log.error("another node's word about accounts cannot be read: {error}", error=error)
            return
        if isinstance(wanted, str):
            self._give(wanted)
        if isinstance(changed, str):
            purse = self._purses.get(changed)
            if purse is not None:
                purse.refilled()
        if isinstance(crossed, str) and isinstance(what.get("members"), dict):
            self._notices.show(crossed, what["members"])

    def _give(self, user: str) -> None:
        """Another node needs what is left: give it all that is not needed here, at once."""
        book = self._active.get(user)
        if book is None or book.busy or book.purse.waiting or not book.purse.left or self._stopped:
            return
        purse = book.purse
        idle = self._clock.seconds() - purse.used_at >= TELL_SECONDS
        self._run(book, self._give_back(book, purse.left if idle else (purse.left + 1) // 2))

    async def _return(self, book: Book, units: int) -> None:
        book.purse.target = 0  # not to be had back at once
        await self._books.step(book, back=units)

    async def _give_back(self, book: Book, units: int) -> None:
        await self._return(book, units)
        self._tell({"changed": book.purse.user})

    def _refilled(self, user: str) -> None:
        """There is more than before, perhaps."""
        purse = self._purses.get(user)
        if purse is not None:
            purse.refilled()
        self._tell({"changed": user})

    def _threshold(self, user: str, thresholds: list[int], account: Account) -> None:
        plan = self.plans.of(user)
        for threshold in thresholds:
            members = {
                "threshold": threshold,
                "used": account.total(),
                "limit": plan.units,
                "plan": plan.name,
                "period": account.period,
                "resets_at": resets_at(plan.now(self._now())),
            }
            _log.info("{user} has used {threshold} % of the plan's units", user=user, threshold=threshold)
            self._notices.show(user, members)
            self._tell({"crossed": user, "members": members})
            self._notices.post(user, members)

    # -- what can be asked

    def usage(self, user: str) -> Deferred[Usage]:
        """What an account has used and what is left.

        :returns: a Deferred of :class:`Usage`.
        :raises BusUnavailable: through the Deferred.
        """
        return Deferred.fromCoroutine(self._usage(user))

    async def _usage(self, user: str) -> Usage:
        book = self._active.get(user)
        if book is not None and book.purse.fresh:
            await self._books.step(book)
        account = await self._books.change(user, _nothing)
        more = 0
        if book is not None:
            lease = account.leases.get(self._peers.node)
            more = book.purse.spent_since_entry - (0 if lease is None else lease.closed)
        return usage_of(user, self.plans.of(user), account, max(0, more), self._now())

    def ledger(self, user: str, before: int | None, limit: int) -> Deferred[list[LedgerEntry]]:
        """A page of an account's ledger, the newest entries first.

        :param before: only entries with a lower sequence.
        :param limit: at most so many, up to 1,000; fewer mean that there are no older ones.
        :returns: a Deferred of a list of :class:`LedgerEntry`.
        :raises BusUnavailable: through the Deferred.
        """
        return Deferred.fromCoroutine(self._ledger(user, before, limit))

    async def _ledger(self, user: str, before: int | None, limit: int) -> list[LedgerEntry]:
        if before is None:
            await self._books.change(user, _nothing)  # what stands in the outbox belongs there
        found = []
        for entry in await self._journal.page(LEDGER, user, before, limit):
            try:
                found.append(LedgerEntry.load(entry))
            except ValueError as error:
                _log.error("{error}: {id}", error=error, id=entry.entry_id)
                raise BusUnavailable("the ledger cannot be read") from None
        return found


async def _nothing(_account: Account) -> None:
    """Change nothing."""


def _has_others(value: bytes, own: str) -> bool:
    try:
        account = Account.load(value)
    except ValueError as error:
        _log.error("an account cannot be read: {error}", error=error)
        return False
    return bool(account.outbox) or any(node != own for node in account.leases)
