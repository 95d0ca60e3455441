"""``/api/v1/usage`` and the balances of users."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

from twisted.internet.defer import Deferred

from flowgate.auth.accounts import Accounts
from flowgate.auth.audit import Actor, Audit
from flowgate.auth.records import User
from flowgate.billing.balances import Balance
from flowgate.billing.plans import MOST_UNITS
from flowgate.billing.service import Billing
from flowgate.billing.usage import LedgerEntry, Usage
from flowgate.errors import InsufficientScope, NotFound
from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.bodies import Members, check_known, query_integer, read_object, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.request import Request

MOST_ENTRIES = 1000
_ENTRIES = 100
_USAGE = "/api/v1/usage"
_BALANCE = "/api/v1/admin/users/<user>/balance"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S.000Z}"


def shown_usage(usage: Usage) -> dict[str, object]:
    return {
        "user": usage.user,
        "plan": usage.plan,
        "period": usage.period.name,
        "started_at": _time(usage.period.start),
        "resets_at": _time(usage.period.end),
        "used": usage.used,
        "limit": usage.limit,
        "remaining": usage.remaining,
        "balance": usage.balance,
        "keys": dict(usage.keys),
        "hours": [{"from": f"{name}:00:00.000Z", "used": used} for name, used in usage.hours],
        "days": [{"from": f"{name}T00:00:00.000Z", "used": used} for name, used in usage.days],
    }


def shown_entry(entry: LedgerEntry) -> dict[str, object]:
    return {
        "sequence": entry.sequence,
        "id": entry.id,
        "at": _time(entry.at),
        "kind": entry.kind,
        "units": entry.units,
        "balance": entry.balance,
        "period": entry.period,
        **entry.more,
    }


async def change_balance(
    request: Request,
    actor: Actor,
    named: Callable[[], str],
    audit: Audit,
    add: Callable[[str, int, str, str], Deferred[Balance]],
) -> Answer:
    """Add units to a user's balance, or take them away, as the body says; the same ``id`` counts once.

    :param named: finds the user's name, or raises.
    :param add: see :meth:`flowgate.billing.balances.Balances.add`.
    """
    body = Members(read_object(request))
    body.only("units", "id", "note")
    units = body.integer("units", -MOST_UNITS, MOST_UNITS) or 0
    change_id = body.text("id")
    body.value("units")
    note = body.optional_text("note") or ""
    user = named()
    changed = await audit.around(
        actor,
        "balance.change",
        user,
        lambda: add(user, units, change_id, note),
        user=user,
        units=units,
        id=change_id,
    )
    return json_answer({"user": user, "balance": changed.balance, "changed": changed.changed})


class UsageCalls:
    """Shows what accounts have used, and changes their balances."""

    def __init__(self, billing: Billing, accounts: Accounts, credentials: Credentials, access: AdminAccess) -> None:
        self._billing = billing
        self._accounts = accounts
        self._credentials = credentials
        self._access = access

    def routes(self) -> list[Route]:
        return [
            Route("GET", _USAGE, self.usage),
            Route("GET", f"{_USAGE}/ledger", self.ledger),
            Route("GET", _BALANCE, self.balance),
            Route("POST", _BALANCE, self.add),
        ]

    async def usage(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        check_known(read_query(request), (), "parameter")
        shown = shown_usage(await self._billing.usage(principal.user))
        if not principal.grants.whole(principal.home):
            del shown["keys"]
        return json_answer(shown)

    async def ledger(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        if not principal.grants.whole(principal.home):
            # A token that was narrowed is for somebody else: a browser, a device.
            raise InsufficientScope("the ledger is for tokens that may do everything in their application")
        query = read_query(request)
        check_known(query, ("before", "limit"), "parameter")
        before = query_integer(query, "before", 1, 2**63 - 1)
        limit = query_integer(query, "limit", 1, MOST_ENTRIES) or _ENTRIES
        entries = await self._billing.ledger(principal.user, before, limit)
        following = entries[-1].sequence if len(entries) == limit else None
        return json_answer({"entries": [shown_entry(entry) for entry in entries], "before": following})

    def _user(self, name: str) -> User:
        user = self._accounts.keyring.user(name)
        if user is None:
            raise NotFound(f"there is no user {name[:40]}")
        return user

    async def balance(self, request: Request, user: str) -> Answer:
        self._access.admit(request)
        return json_answer(shown_usage(await self._billing.usage(self._user(user).name)))

    async def add(self, request: Request, user: str) -> Answer:
        actor = self._access.admit(request)
        add = self._billing.balances.add
        return await change_balance(request, actor, lambda: self._user(user).name, self._accounts.audit, add)
