"""What is written down of one account: one record, changed by all nodes, one change at a time.

Every change replaces the whole record if nobody else has changed it meanwhile.  So at any time what was used and what
nodes may still spend (their *leases*) is together never more than there is: no node can overspend, and none has to ask
for each message.

What changes the balance or is charged goes into the *outbox* of the record with the same change, under the id of its
entry in the ledger.  Whoever comes by writes it there; an entry of the same id is written once, so it does not matter
how often or by how many nodes that is tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Final

import attrs

from flowgate.billing.plans import THRESHOLDS, Period, Plan

HOURS: Final = 25
DAYS: Final = 32
"""How much of the past is kept beside the ledger, for charts."""

SKEW_SECONDS: Final = 60.0
"""How far a node's clock may be behind another one's."""

_GONE: Final = 20  # nodes taken for dead that may turn out not to be
_KEYS: Final = 50  # API keys that an entry names


@attrs.define(slots=True)
class Lease:
    """What one node may spend without asking.

    :ivar granted: units that it may spend, or has spent since its last entry in the ledger.
    :ivar closed: of these, what it has spent for certain, on messages that have none of the tags below.
    :ivar entry: the number of its next entry in the ledger; the node has never used it.
    :ivar op: the number of its last change of the record.
    :ivar tag: messages with this tag or a later one are not among those ``closed``.
    :ivar open: earlier tags of which that is true, too.
    :ivar mark: a place in the stream that lies before all messages with these tags.
    :ivar paid: units of messages with these tags that were charged already, when the node was taken for dead.
    :ivar keys: ``closed`` by API keys.
    :ivar before: of ``closed``, what was spent in the period before.
    :ivar owed: of ``before``, what that period's units did not cover.
    """

    granted: int = 0
    closed: int = 0
    entry: int = 1
    op: int = 0
    tag: int = 0
    open: list[int] = attrs.field(factory=list)
    mark: int = 0
    keys: dict[str, int] = attrs.field(factory=dict)
    before: int = 0
    owed: int = 0
    paid: int = 0

    def counts(self, tag: int) -> bool:
        """Whether messages with a tag are not among those closed."""
        return tag >= self.tag or tag in self.open


@attrs.define(slots=True)
class Gone:
    """What was made of the lease of a node that was taken for dead, for the case that it was not.

    :ivar units: that were charged for it.
    :ivar op: the last change of the record by that node.
    """

    units: int
    op: int


@attrs.define(slots=True)
class Account:
    """The record.

    A lease is changed by its node alone; others end a period for it, or all of it once the node is gone.

    :ivar period: the name of the period that ``used`` is of.
    :ivar last: the name of the one before.
    :ivar used: units that are charged in this period.
    :ivar balance: units that were paid in advance and are not spent.
    :ivar told: the highest threshold that was told of in this period.
    :ivar leases: by nodes.
    :ivar outbox: entries that may not be in the ledger yet, by their ids.
    :ivar hours: units by the hour in which they were charged (``2026-11-26T14``).
    :ivar days: the same by the day.
    :ivar keys: ``used`` by API keys.
    """

    period: str = ""
    last: str = ""
    used: int = 0
    balance: int = 0
    told: int = 0
    leases: dict[str, Lease] = attrs.field(factory=dict)
    outbox: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    hours: dict[str, int] = attrs.field(factory=dict)
    days: dict[str, int] = attrs.field(factory=dict)
    keys: dict[str, int] = attrs.field(factory=dict)
    gone: dict[str, Gone] = attrs.field(factory=dict)

    # -- as bytes

    def dump(self) -> bytes:
        return json.dumps(attrs.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes) -> Account:
        """Read what :meth:`dump` wrote.

        :raises ValueError: if it is something else.
        """
        try:
            found = json.loads(data)
            found["leases"] = {str(node): Lease(**lease) for node, lease in found["leases"].items()}
            found["gone"] = {str(node): Gone(**gone) for node, gone in found["gone"].items()}
            return cls(**found)
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not an account: {error!r}") from None

    # -- what there is

    def total(self) -> int:
        """Units that were used in this period, as far as nodes have said."""
        return self.used + sum(lease.closed - lease.before for lease in self.leases.values())

    def included(self, plan: Plan) -> int:
        """What is left of the plan's units, leases not looked at."""
        return max(0, (plan.units or 0) - self.used)

    def available(self, plan: Plan) -> int:
        """Units that can be given to a node now."""
        there = self.included(plan) + (max(0, self._money) if plan.prepaid else 0)
        return max(0, there - sum(lease.granted - lease.before for lease in self.leases.values()))

    @property
    def _money(self) -> int:
        return self.balance - sum(lease.owed for lease in self.leases.values())

    def elsewhere(self, node: str) -> int:
        """Units that other nodes have and have not told to be spent."""
        return sum(lease.granted - lease.closed for name, lease in self.leases.items() if name != node)

    def money(self, plan: Plan) -> int:
        """The balance, with what nodes have told to be spent of it but is not charged yet."""
        if not plan.prepaid:
            return self.balance
        spent = sum(lease.closed - lease.before for lease in self.leases.values())
        return self._money - max(0, spent - self.included(plan))

    # -- what happens

    def roll(self, plan: Plan, now: float) -> None:
        """Begin the period of now if it is another one than that of the record.

        The record may be ahead, by a node whose clock is: to go back would be to forget what was used.
        """
        period = plan.now(now)
        if self.period in (period.name, plan.now(now + SKEW_SECONDS).name):
            return
        # What nodes have told belongs to the period that is over; what they have not, to this one.
        for lease in self.leases.values() if self.period else ():
            spent = lease.closed - lease.before
            if plan.prepaid:
                lease.owed += max(0, spent - self.included(plan))
            self.used += spent
            lease.before = lease.closed
        self.last = self.period
        self.period = period.name
        self.used = 0
        self.told = 0
        self.keys = {}

    def charge(self, node: str, plan: Plan, now: float, **more: Any) -> bool:
        """Make an entry in the ledger of what a node has spent, if there is anything; return whether there was.

        :param more: further members of the entry; if there are any there is an entry also without units.
        """
        lease = self.leases[node]
        units = lease.closed
        if not units and not any(more.values()):
            return False
        before, lease.before = lease.before, 0
        owed, lease.owed = lease.owed, 0
        from_balance = owed + (max(0, units - before - self.included(plan)) if plan.prepaid else 0)
        self.used += units - before
        self.balance -= from_balance
        lease.granted -= units
        lease.closed = 0
        keys, lease.keys = _largest(lease.keys), {}
        for key, part in keys.items():
            self.keys[key] = self.keys.get(key, 0) + part
        self.keys = _largest(self.keys)
        self.outbox[f"{node}:{lease.entry}"] = {
            "kind": "usage",
            "units": units,
            "balance": -from_balance,
            "period": self.last if units and before == units else self.period,
            "plan": plan.name,
            "keys": keys,
            **({"before": before} if 0 < before < units else {}),
            "at": int(now),
            **{name: value for name, value in more.items() if value},
        }
        moment = datetime.fromtimestamp(now, timezone.utc)
        _add(self.hours, f"{moment:%Y-%m-%dT%H}", units, HOURS)
        _add(self.days, f"{moment:%Y-%m-%d}", units, DAYS)
        return True

    def bury(self, node: str, plan: Plan, now: float) -> None:
        """Charge what a node has spent that has gone, and let nobody wait for the rest."""
        units = self.leases[node].closed
        self.charge(node, plan, now)
        self.gone.pop(node, None)
        self.gone[node] = Gone(units, self.leases.pop(node).op)
        while len(self.gone) > _GONE:
            del self.gone[next(iter(self.gone))]

    def add(self, entry_id: str, units: int, kind: str, now: float, note: str = "") -> None:
        """Change the balance, with an entry in the ledger."""
        self.balance += units
        entry: dict[str, Any] = {"kind": kind, "units": 0, "balance": units, "period": self.period, "at": int(now)}
        if note:
            entry["note"] = note
        self.outbox[entry_id] = entry

    def written(self, entry_ids: Iterable[str]) -> None:
        """Forget entries that are in the ledger."""
        for entry_id in entry_ids:
            self.outbox.pop(entry_id, None)

    def cross(self, plan: Plan) -> list[int]:
        """Find the thresholds that were crossed and nobody was told of, and note that somebody is."""
        if not plan.units:
            return []
        percent = self.total() * 100 // plan.units
        reached = [threshold for threshold in THRESHOLDS if threshold <= percent]
        crossed = [threshold for threshold in reached if threshold > self.told]
        self.told = max(reached, default=0)  # less than before on a larger plan
        return crossed


def _largest(keys: dict[str, int]) -> dict[str, int]:
    return keys if len(keys) <= _KEYS else dict(sorted(keys.items(), key=lambda item: -item[1])[:_KEYS])


def _add(counts: dict[str, int], name: str, units: int, most: int) -> None:
    if units:
        counts[name] = counts.get(name, 0) + units
        for old in sorted(counts)[:-most]:
            del counts[old]


def resets_at(period: Period) -> str:
    """When a period is over, as RFC 3339 writes it."""
    return f"{datetime.fromtimestamp(period.end, timezone.utc):%Y-%m-%dT%H:%M:%S.000Z}"


def by_time(counts: Mapping[str, int], names: Iterable[str]) -> list[tuple[str, int]]:
    """Counts for these hours or days, also where there is none."""
    return [(name, counts.get(name, 0)) for name in names]
