"""``/dashboard/api/admin/…``: all accounts, all nodes and the audit log, for administrators."""

from __future__ import annotations

from collections import Counter

from flowgate.auth.accounts import Accounts
from flowgate.auth.audit import Actor
from flowgate.auth.records import User
from flowgate.dashboard.admission import Admission
from flowgate.dashboard.links import Link, Links
from flowgate.dashboard.logins import Logins
from flowgate.dashboard.sessions import Sessions
from flowgate.dashboard.usage import IBilling
from flowgate.errors import InvalidParameter, NotFound
from flowgate.http.admin.audit import shown_entry
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.bodies import Members, check_known, query_integer, read_object, read_query
from flowgate.http.queue_access import one_value
from flowgate.http.request import Request
from flowgate.http.usage import change_balance
from flowgate.nodes import Nodes

_ADMIN = "/dashboard/api/admin"
_ACCOUNTS = f"{_ADMIN}/accounts"

PAGE = 100
"""Accounts on one page."""
ENTRIES = 50
"""Entries of the audit log on one page."""
_HIGHEST = 2**53 - 1


class AccountPages:
    """Lists, makes and suspends accounts, and lets their owners in."""

    def __init__(
        self,
        admission: Admission,
        accounts: Accounts,
        logins: Logins,
        sessions: Sessions,
        links: Links,
        nodes: Nodes,
        billing: IBilling | None,
    ) -> None:
        self._admission = admission
        self._accounts = accounts
        self._keyring = accounts.keyring
        self._nodes = nodes
        self._billing = billing
        self._plans = None if billing is None else billing.plans
        self._logins = logins
        self._sessions = sessions
        self._links = links

    def routes(self) -> list[Route]:
        return [
            Route("GET", _ACCOUNTS, self.listing),
            Route("POST", _ACCOUNTS, self.create),
            Route("POST", f"{_ACCOUNTS}/<user>/suspend", self.suspend),
            Route("POST", f"{_ACCOUNTS}/<user>/link", self.link),
            *(() if self._billing is None else self._billing_routes(self._billing)),
            Route("GET", f"{_ADMIN}/nodes", self.nodes),
            Route("GET", f"{_ADMIN}/audit", self.audit),
        ]

    def _billing_routes(self, billing: IBilling) -> list[Route]:
        balance = f"{_ACCOUNTS}/<user>/balance"

        async def show(request: Request, user: str) -> Answer:
            return await self.balance(request, user, billing)

        async def add(request: Request, user: str) -> Answer:
            return await self.add_units(request, user, billing)

        return [
            Route("POST", f"{_ACCOUNTS}/<user>/plan", self.set_plan),
            Route("GET", balance, show),
            Route("POST", balance, add),
        ]

    async def listing(self, request: Request) -> Answer:
        await self._admission.administrator(request)
        query = read_query(request)
        check_known(query, ("prefix", "cursor"), "parameter")
        every = self._keyring.keys()
        keys = Counter(key.user for key in every if not key.disabled)
        found = self._keyring.users_page(one_value(query, "prefix"), one_value(query, "cursor"), PAGE + 1)
        return json_answer(
            {
                "accounts": [self._shown(user, keys[user.name]) for user in found[:PAGE]],
                "next": found[PAGE - 1].name if len(found) > PAGE else None,
                "count": len(self._keyring.users()),
                "plans": [] if self._plans is None else sorted(plan.name for plan in self._plans),
                "default_plan": "" if self._plans is None else self._plans.default.name,
                "balances": self._billing is not None,
            }
        )

    def _shown(self, user: User, keys: int) -> dict[str, object]:
        login = self._logins.find(user.name)
        return {
            "user": user.name,
            "created_at": user.created_at,
            "suspended": user.suspended,
            "plan": user.plan,
            "keys": keys,
            "signs_in": login is not None,
            "admin": login is not None and login.admin,
        }

    async def create(self, request: Request) -> Answer:
        """Make an account, with a link by which its owner comes to a password."""
        visitor = await self._admission.administrator(request)
        body = Members(read_object(request))
        body.only("user", "admin")
        user, admin = body.text("user"), body.flag("admin")
        if self._keyring.user(user) is not None:
            raise InvalidParameter("there is an account of this name already")
        actor = visitor.actor(request)
        await self._accounts.create_user(actor, user)
        return await self._linked(actor, user, admin)

    async def suspend(self, request: Request, user: str) -> Answer:
        visitor = await self._admission.administrator(request)
        body = Members(read_object(request))
        body.only("suspended")
        body.value("suspended")
        suspended = body.flag("suspended")
        if suspended and user == visitor.user:
            raise InvalidParameter("you would suspend yourself: have another administrator do it")
        found = await self._accounts.suspend(visitor.actor(request), user, suspended)
        if suspended:
            await self._sessions.end_all(user)
        keys = sum(not key.disabled for key in self._keyring.keys(user))
        return json_answer(self._shown(found, keys))

    async def set_plan(self, request: Request, user: str) -> Answer:
        """Give an account another plan; empty for the default one."""
        visitor = await self._admission.administrator(request)
        body = Members(read_object(request))
        body.only("plan")
        plan = body.text("plan")
        if plan and self._plans is not None and all(one.name != plan for one in self._plans):
            raise InvalidParameter("there is no such plan in the configuration")
        found = await self._accounts.set_plan(visitor.actor(request), user, plan)
        keys = sum(not key.disabled for key in self._keyring.keys(user))
        return json_answer(self._shown(found, keys))

    def _user(self, name: str) -> User:
        """:raises NotFound: if there is no such account."""
        user = self._keyring.user(name)
        if user is None:
            raise NotFound("there is no such account")
        return user

    async def balance(self, request: Request, user: str, billing: IBilling) -> Answer:
        """What an account has, and has used."""
        await self._admission.administrator(request)
        found = await billing.usage(self._user(user).name)
        prepaid = billing.plans.of(user).prepaid
        shown = {"user": user, "plan": found.plan, "used": found.used, "limit": found.limit, "prepaid": prepaid}
        return json_answer({**shown, "balance": found.balance or 0})

    async def add_units(self, request: Request, user: str, billing: IBilling) -> Answer:
        """Add units to a balance, or take them away; the page's ``id`` makes that the same request counts once."""
        visitor = await self._admission.administrator(request)
        actor, add = visitor.actor(request), billing.balances.add
        return await change_balance(request, actor, lambda: self._user(user).name, self._accounts.audit, add)

    async def link(self, request: Request, user: str) -> Answer:
        """Make a link by which a user comes to a new password."""
        visitor = await self._admission.administrator(request)
        return await self._linked(visitor.actor(request), self._user(user).name, None)

    async def _linked(self, actor: Actor, user: str, admin: bool | None) -> Answer:
        await self._accounts.audit.note(actor, "link.create", user, user=user, admin=admin)
        return json_answer(_shown_link(*await self._links.make(user, admin=admin)), 201)

    async def nodes(self, request: Request) -> Answer:
        """How every node is."""
        await self._admission.administrator(request)
        return json_answer({"nodes": self._nodes.all()})

    async def audit(self, request: Request) -> Answer:
        """What was done, the newest first."""
        await self._admission.administrator(request)
        query = read_query(request)
        check_known(query, ("user", "before"), "parameter")
        before = query_integer(query, "before", 1, _HIGHEST)
        found = await self._accounts.audit.page(one_value(query, "user"), before, ENTRIES)
        following = found[-1].sequence if len(found) == ENTRIES else None
        return json_answer({"entries": [shown_entry(entry) for entry in found], "next": following})


def _shown_link(secret: str, link: Link) -> dict[str, object]:
    return {"user": link.user, "link": secret, "expires_at": link.expires_at}
