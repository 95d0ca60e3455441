"""Keeps the records of accounts and the ledger, for the purses of this node.

A purse is supplied, and what was spent out of it is told, by one change of the account's record at a time.  A change
of which nobody knows whether it was made, because the bus went away, is found in the record afterwards by its number.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flowgate.billing.account import Account, Lease, resets_at
from flowgate.billing.plans import Period, Plan, Plans
from flowgate.billing.purse import Purse
from flowgate.billing.recovery import Recovery
from flowgate.errors import BusUnavailable, Conflict, Refused
from flowgate.gate import Gate, shielded
from flowgate.interfaces import IJournal, IPeers, IStore, ITagged

_log = Logger()

BUCKET: Final = "FG_BILLING"
LEDGER: Final = "ledger"
BALANCES: Final = "balances"
"""A second book, of what changed balances but by use: it is short, so that it can be looked through."""

ENTRY_SECONDS: Final = 60.0
"""How often what an account has spent on a node is entered in the ledger."""
METER_SECONDS: Final = 3600.0
"""The same if there is nothing to enter but what costs nothing."""

_ATTEMPTS: Final = 200  # of a change, while others change the same record
_WRITTEN: Final = 200


@attrs.define(slots=True)
class Change:
    """A change of the record that is on its way.

    :ivar op: its number.
    :ivar granted: units that this node gets.
    :ivar wanted: units that it wanted.
    :ivar returned: units that it gives back.
    :ivar charged: units that are entered in the ledger, and ``keys`` by API keys.
    :ivar entry: the number of the next entry in the ledger.
    :ivar crossed: thresholds that were crossed.
    :ivar left: whether this node has no lease any more.
    """

    op: int
    entry: int
    granted: int = 0
    wanted: int = 0
    returned: int = 0
    charged: int = 0
    keys: Mapping[str, int] = attrs.field(factory=dict)
    crossed: list[int] = attrs.field(factory=list)
    deliveries: int = 0
    seconds: float = 0.0
    left: bool = False


class Book:
    """One account here.

    :ivar account: the record as it is stored, with its revision, if this node was the last to change it as far as is
        known.
    :ivar busy: whether something is being done with it.
    :ivar leased: whether the record has a lease of this node, as far as is known.
    :ivar unsure: a change of which nobody knows whether it was made.
    :ivar entry: the number of the next entry in the ledger.
    :ivar period: the name of the period that the record was last seen to be of.
    :ivar entered_at: when there was an entry in the ledger last, in the clock's seconds.
    :ivar told_at: when the record was changed last.
    :ivar looked_at: when the stream was last looked through for messages whose fate is not known.
    """

    __slots__ = (
        "account",
        "busy",
        "entered_at",
        "entry",
        "leased",
        "looked_at",
        "period",
        "purse",
        "told_at",
        "turns",
        "unsure",
        "written",
    )

    def __init__(self, purse: Purse, now: float, entry: int) -> None:
        self.purse = purse
        self.account: tuple[bytes, int] | None = None
        self.unsure: Change | None = None
        self.entry = entry
        self.leased = False
        self.period = ""
        self.busy = False
        self.entered_at = now
        self.told_at = now
        self.looked_at = float("-inf")
        self.written: dict[str, None] = {}
        self.turns = Gate()


class Books:
    """All accounts here."""

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
        crossed: Callable[[str, list[int], Account], None] = lambda *_: None,
        reach: Callable[[str], set[tuple[str, str]]] = lambda _user: set(),
    ) -> None:
        """Keep nothing yet.

        :param store: keeps the records.
        :param journal: keeps the ledger.
        :param clock: the reactor.
        :param now: seconds since 1970 UTC.
        :param crossed: told of a user, the thresholds that were crossed, and the record.
        :param reach: tells the user and the application of topics of others that a user's keys may publish to.
        """
        self._store = store
        self._journal = journal
        self._peers = peers
        self._plans = plans
        self._clock = clock
        self._now = now
        self._crossed = crossed
        self._numbers = count(1)
        self.recovery = Recovery(tagged, peers, clock, reach)

    @property
    def node(self) -> str:
        return self._peers.node

    # -- one change of a record

    def book(self, purse: Purse) -> Book:
        """Begin to keep the record of a purse's account."""
        return Book(purse, self._clock.seconds(), self.number())

    def number(self) -> int:
        """A number that this node has not used yet."""
        return next(self._numbers)

    async def step(self, book: Book, *, back: int = 0, leave: bool = False) -> None:
        """Tell what was spent, have the purse supplied, and make entries in the ledger that are due.

        :param back: units to give back instead, if there are so many.
        :param leave: give back what is left, enter what was spent, and hold nothing any more if all bills are settled.
        Once begun it goes on although nobody waits any more: what becomes of the change has to be known.

        :raises BusUnavailable: if that cannot be done now; it is as good as not begun.
        """
        await shielded(book.turns.run(lambda: Deferred.fromCoroutine(self._step(book, back, leave))))

    async def _step(self, book: Book, back: int, leave: bool) -> None:
        purse = book.purse
        if purse.plan.traced:
            purse.mark = await self.recovery.mark()
        for _ in range(_ATTEMPTS):
            account, revision = await self._load(book)
            self._recognise(book, account)
            now = self._now()
            await self._bury(purse.user, purse.plan, account, now)
            change = self._change(book, account, now, back, leave)
            value = account.dump()
            try:
                revision = await self._store.put(BUCKET, purse.user, value, revision)
            except Conflict:
                book.account = None
                purse.left += change.returned
                continue
            except Refused:
                book.account, book.unsure = None, change
                raise
            book.account = value, revision
            book.told_at = self._clock.seconds()
            self._made(book, change, account)
            await self._write_entries(book, account)
            return
        raise BusUnavailable("the account is changed by too many at once")

    async def _load(self, book: Book) -> tuple[Account, int]:
        """The record, and its revision; 0 if there is none yet."""
        if book.account is not None:
            return Account.load(book.account[0]), book.account[1]
        return await self._read(book.purse.user)

    async def _read(self, user: str) -> tuple[Account, int]:
        entry = await self._store.get(BUCKET, user)
        if entry is None:
            return Account(), 0
        try:
            return Account.load(entry.value), entry.revision
        except ValueError as error:
            _log.error("the account of {user} cannot be read: {error}", user=user, error=error)
            raise BusUnavailable("the account cannot be read") from None

    def _recognise(self, book: Book, account: Account) -> None:
        """See what became of a change that may have been made, and whether others have taken this node for dead."""
        change, book.unsure = book.unsure, None
        lease, gone = account.leases.get(self.node), account.gone.pop(self.node, None)
        if change is not None:
            op = gone.op if gone is not None else lease.op if lease is not None else change.op if change.left else 0
            if op == change.op:
                self._made(book, change, account)
            else:
                book.purse.left += change.returned
        if gone is not None:
            user = book.purse.user
            _log.warn("this node was taken for dead by another one; {user} is charged what is missing", user=user)
            book.purse.buried(gone.units)
            book.entry = self.number()

    async def _bury(self, user: str, plan: Plan, account: Account, now: float) -> None:
        """Charge what nodes that are gone have spent."""
        for node in [name for name in account.leases if name != self.node]:
            if await self.recovery.dead(node):
                units = await self.recovery.spent(user, node, account.leases[node], plan)
                account.leases[node].closed += units
                account.bury(node, plan, now)

    def _change(self, book: Book, account: Account, now: float, back: int, leave: bool) -> Change:
        """Change the record; say what that means for the purse once it is stored."""
        purse, plan, node = book.purse, book.purse.plan, self.node
        change = Change(self.number(), book.entry)
        lease = account.leases.setdefault(node, Lease())
        lease.op, lease.entry = change.op, book.entry
        purse.tell(lease)
        closed = lease.closed
        keys = dict(lease.keys)
        account.roll(plan, now)
        over = lease.before > 0  # the period: what belongs to it is entered at once
        seconds = self._clock.seconds() - book.entered_at
        minutes = int(purse.seconds / 60)
        metered = {"deliveries": purse.deliveries, "connection_minutes": minutes}
        due = seconds >= ENTRY_SECONDS if lease.closed else seconds >= METER_SECONDS
        if leave or due or over:
            change.deliveries, change.seconds = purse.deliveries, minutes * 60.0
            if account.charge(node, plan, now, **metered):
                change.entry = lease.entry = self.number()
        change.charged = closed - lease.closed
        if change.charged:
            change.keys = keys
        if leave or back:
            change.returned = purse.left if leave else min(back, purse.left)
            purse.left -= change.returned
            lease.granted -= change.returned
            if leave and book.leased and not lease.granted and not lease.open:
                del account.leases[node]
                change.left = True
        else:
            change.wanted = purse.wants()
            if change.wanted > 0:
                change.granted = self._grant(purse, account, change.wanted)
                lease.granted += change.granted
        change.crossed = account.cross(plan)
        account.written(book.written)
        return change

    def _grant(self, purse: Purse, account: Account, wanted: int) -> int:
        available = account.available(purse.plan)
        if self._peers.alone:
            return min(wanted, available)
        # Others may need some of the last ones, too.
        waiting = sum(units for units, _ in purse.waiting)
        return min(available, max(waiting - purse.left, min(wanted, available // 2), 1))

    def _made(self, book: Book, change: Change, account: Account) -> None:
        """A change is stored."""
        purse = book.purse
        period = purse.plan.now(self._now())
        book.period = account.period
        if change.charged:
            purse.charged(change.charged, dict(change.keys))
            book.entered_at = self._clock.seconds()
        if change.deliveries or change.seconds:
            purse.deliveries -= change.deliveries
            purse.seconds -= change.seconds
            book.entered_at = self._clock.seconds()
        book.entry = change.entry
        book.leased = not change.left
        purse.fresh = any(tag.spent for tag in purse.tags.values())
        purse.learn(account, resets_at(period))
        if change.crossed:
            self._crossed(purse.user, change.crossed, account)
        purse.supplied(change.granted, change.wanted, period.end - self._now())

    # -- the ledger

    async def _write_entries(self, book: Book, account: Account) -> None:
        """Write what stands in the outbox, which is forgotten with the next change."""
        left = dict.fromkeys(entry_id for entry_id in book.written if entry_id in account.outbox)
        book.written = left
        for entry_id, entry in list(account.outbox.items())[:_WRITTEN]:
            if entry_id not in left:
                await self._write(book.purse.user, entry_id, entry)
                left[entry_id] = None

    async def _write(self, user: str, entry_id: str, entry: Mapping[str, Any]) -> None:
        value = json.dumps(entry, separators=(",", ":")).encode()
        await self._journal.append(LEDGER, user, entry_id, value)
        if entry["kind"] != "usage":
            await self._journal.append(BALANCES, user, entry_id, value)

    # -- rare changes

    async def change(self, user: str, edit: Callable[[Account], Awaitable[None]]) -> Account:
        """Change a record, besides what purses do; whoever is dead is buried first.

        :param edit: changes the record, or not.  It is called again if somebody else was faster.
        :returns: the record as it is then.
        :raises BusUnavailable: it may be changed.
        """
        plan = self._plans.of(user)
        for _ in range(_ATTEMPTS):
            account, revision = await self._read(user)
            before = account.dump()
            stored = dict(account.outbox)
            now = self._now()
            await self._bury(user, plan, account, now)
            account.roll(plan, now)
            await edit(account)
            for entry_id, entry in stored.items():
                await self._write(user, entry_id, entry)
            account.written(stored)
            value = account.dump()
            if value == before or (not revision and value == Account(account.period, account.last).dump()):
                return account  # nothing to write down
            try:
                await self._store.put(BUCKET, user, value, revision)
            except Conflict:
                continue
            for entry_id, entry in account.outbox.items():
                await self._write(user, entry_id, entry)
            return account
        raise BusUnavailable("the account is changed by too many at once")

    def period(self, user: str) -> Period:
        """The period of now of a user's plan."""
        return self._plans.of(user).now(self._now())
