"""``/api/v1/admin/users``."""

from __future__ import annotations

from flowgate.auth.accounts import Accounts
from flowgate.auth.records import User
from flowgate.errors import NotFound
from flowgate.http.admin.access import AdminAccess, limit_of, one_of
from flowgate.http.answers import NO_CONTENT, Answer, Route, json_answer
from flowgate.http.bodies import Members, read_object
from flowgate.http.request import Request

_USERS = "/api/v1/admin/users"
_USER = f"{_USERS}/<user>"


def shown_user(user: User) -> dict[str, object]:
    return {"user": user.name, "created_at": user.created_at, "suspended": user.suspended, "plan": user.plan}


class UserAdministration:
    """Makes, lists, suspends and removes users."""

    def __init__(self, accounts: Accounts, access: AdminAccess) -> None:
        self._accounts = accounts
        self._keyring = accounts.keyring
        self._access = access

    def routes(self) -> list[Route]:
        return [
            Route("POST", _USERS, self.create),
            Route("GET", _USERS, self.page),
            Route("GET", _USER, self.describe),
            Route("DELETE", _USER, self.delete),
            Route("POST", f"{_USER}/suspend", self.suspend),
            Route("PUT", f"{_USER}/plan", self.set_plan),
        ]

    async def create(self, request: Request) -> Answer:
        actor = self._access.admit(request)
        body = Members(read_object(request))
        body.only("user", "plan")
        user = await self._accounts.create_user(actor, body.text("user"), body.optional_text("plan") or "")
        return json_answer(shown_user(user), 201)

    async def page(self, request: Request) -> Answer:
        query = self._access.admit_query(request, "prefix", "limit", "cursor")
        limit = limit_of(query)
        found = self._keyring.users_page(one_of(query, "prefix"), one_of(query, "cursor"), limit + 1)
        shown = [shown_user(user) for user in found[:limit]]
        return json_answer({"users": shown, "next": shown[-1]["user"] if len(found) > limit else None})

    async def describe(self, request: Request, user: str) -> Answer:
        self._access.admit(request)
        found = self._keyring.user(user)
        if found is None:
            raise NotFound(f"there is no user {user[:40]}")
        keys = self._keyring.keys(user)
        good = [key for key in keys if not key.disabled and not self._keyring.has_expired(key)]
        shown = {**shown_user(found), "apps": sorted({key.app for key in keys}), "keys": len(good)}
        return json_answer(shown)

    async def delete(self, request: Request, user: str) -> Answer:
        actor = self._access.admit(request)
        await self._accounts.delete_user(actor, user)
        return NO_CONTENT

    async def suspend(self, request: Request, user: str) -> Answer:
        actor = self._access.admit(request)
        body = Members(read_object(request))
        body.only("suspended")
        body.value("suspended")
        return json_answer(shown_user(await self._accounts.suspend(actor, user, body.flag("suspended"))))

    async def set_plan(self, request: Request, user: str) -> Answer:
        actor = self._access.admit(request)
        body = Members(read_object(request))
        body.only("plan")
        body.value("plan")
        return json_answer(shown_user(await self._accounts.set_plan(actor, user, body.optional_text("plan") or "")))
