"""What an account has used and what is left of it, for those who ask."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs

from flowgate.billing.account import Account, by_time
from flowgate.billing.plans import Period, Plan
from flowgate.message import JournalEntry


@attrs.frozen(slots=True)
class Usage:
    """An account's usage.

    :ivar plan: the name of its plan; empty for the one without limits.
    :ivar used: units used in this period, the units of messages on their way not among them.
    :ivar limit: units of the plan; ``None`` if it has no limit.
    :ivar remaining: units that can still be used, those of the balance among them; ``None`` if there is no limit.
    :ivar balance: units paid in advance; ``None`` if the plan does not spend them and there are none.
    :ivar keys: units of this period by API keys, as far as they are charged.
    :ivar hours: units of each of the last 24 hours and the current one, by their beginnings (``2026-11-26T14``, UTC).
    :ivar days: the same of the last 30 days and today.
    """

    user: str
    plan: str
    period: Period
    used: int
    limit: int | None
    remaining: int | None
    balance: int | None
    keys: Mapping[str, int]
    hours: list[tuple[str, int]]
    days: list[tuple[str, int]]


def usage_of(user: str, plan: Plan, account: Account, more: int, now: float) -> Usage:
    """Put together what the record says.

    :param more: units that were used and are not in the record yet.
    :param now: seconds since 1970 UTC.
    """
    moment = datetime.fromtimestamp(now, timezone.utc)
    used = account.total() + more
    balance = account.money(plan) if plan.prepaid or account.balance else None
    remaining = None
    if plan.units is not None or plan.prepaid:
        # What other nodes hold is not used.
        remaining = max(0, (plan.units or 0) - used)
        if plan.prepaid:
            over = max(0, more - max(0, (plan.units or 0) - account.total()))
            remaining += max(0, account.money(plan) - over)
    hours, days = dict(account.hours), dict(account.days)
    waiting = more + sum(lease.closed for lease in account.leases.values())
    hour, day = f"{moment:%Y-%m-%dT%H}", f"{moment:%Y-%m-%d}"
    hours[hour] = hours.get(hour, 0) + waiting
    days[day] = days.get(day, 0) + waiting
    return Usage(
        user,
        plan.name,
        plan.now(now),
        used,
        plan.units,
        remaining,
        balance,
        dict(account.keys),
        by_time(hours, [f"{moment - timedelta(hours=ago):%Y-%m-%dT%H}" for ago in range(24, -1, -1)]),
        by_time(days, [f"{moment - timedelta(days=ago):%Y-%m-%d}" for ago in range(30, -1, -1)]),
    )


@attrs.frozen(slots=True)
class LedgerEntry:
    """An entry of the ledger.

    :ivar sequence: its place.
    :ivar at: when it was made, in seconds since 1970 UTC.
    :ivar kind: ``usage``, ``topup`` or ``adjust``.
    :ivar units: that were used.
    :ivar balance: by how much the balance changed.
    :ivar more: what else there is to know.
    """

    sequence: int
    id: str
    at: int
    kind: str
    units: int
    balance: int
    period: str
    more: Mapping[str, object]

    @classmethod
    def load(cls, entry: JournalEntry) -> LedgerEntry:
        """Read an entry of the journal.

        :raises ValueError: if it is none of ours.
        """
        try:
            found: dict[str, Any] = json.loads(entry.value)
            kind, units, balance = str(found.pop("kind")), int(found.pop("units")), int(found.pop("balance"))
            at, period = int(found.pop("at")), str(found.pop("period"))
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not an entry of the ledger: {error!r}") from None
        return cls(entry.sequence, entry.entry_id, at, kind, units, balance, period, found)
