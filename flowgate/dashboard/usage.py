"""``/dashboard/api/usage…``: what the visitor's account has used, may use, and has paid."""

from __future__ import annotations

from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

from flowgate.billing.balances import Balance
from flowgate.billing.plans import Plans
from flowgate.billing.usage import LedgerEntry, Usage
from flowgate.dashboard.admission import Admission
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.bodies import check_known, query_integer, read_query
from flowgate.http.request import Request
from flowgate.limits import Limits

_USAGE = "/dashboard/api/usage"

ENTRIES = 50
"""Entries of the ledger on one page."""
_HIGHEST = 2**53 - 1


class IBalances(Protocol):
    """Who changes what accounts have paid in advance; see :class:`flowgate.billing.balances.Balances`."""

    def add(self, user: str, units: int, change_id: str, note: str = "") -> Deferred[Balance]:
        """Change a balance, once for each id."""


class IBilling(Protocol):
    """Who knows what was used; see :class:`flowgate.billing.service.Billing`.

    :ivar plans: all plans.
    """

    plans: Plans

    @property
    def balances(self) -> IBalances:
        """What changes balances."""

    def usage(self, user: str) -> Deferred[Usage]:
        """What an account has used and what is left."""

    def ledger(self, user: str, before: int | None, limit: int) -> Deferred[list[LedgerEntry]]:
        """A page of an account's ledger, the newest entries first."""


class UsagePages:
    """Shows what an account has used, and the bounds that it works within."""

    def __init__(self, admission: Admission, billing: IBilling, limits: Limits) -> None:
        self._admission = admission
        self._billing = billing
        self._limits = limits

    def routes(self) -> list[Route]:
        return [Route("GET", _USAGE, self.usage), Route("GET", f"{_USAGE}/ledger", self.ledger)]

    async def usage(self, request: Request) -> Answer:
        visitor = await self._admission.visitor(request)
        found = await self._billing.usage(visitor.user)
        rates = attrs.asdict(self._billing.plans.of(visitor.user).rates)
        return json_answer(
            {
                "plan": found.plan,
                "period": attrs.asdict(found.period),
                "used": found.used,
                "limit": found.limit,
                "remaining": found.remaining,
                "balance": found.balance,
                "keys": dict(found.keys),
                "hours": found.hours,
                "days": found.days,
                "rates": {name: value for name, value in rates.items() if value is not None},
                "limits": attrs.asdict(self._limits),
            }
        )

    async def ledger(self, request: Request) -> Answer:
        visitor = await self._admission.visitor(request)
        query = read_query(request)
        check_known(query, ("before",), "parameter")
        found = await self._billing.ledger(visitor.user, query_integer(query, "before", 1, _HIGHEST), ENTRIES)
        shown = [
            {
                "sequence": one.sequence,
                "at": one.at,
                "kind": one.kind,
                "units": one.units,
                "balance": one.balance,
                "period": one.period,
                "note": str(one.more.get("note", "")),
            }
            for one in found
        ]
        return json_answer({"entries": shown, "next": found[-1].sequence if len(found) == ENTRIES else None})
