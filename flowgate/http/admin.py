"""``/api/v1/admin/…``: users and API keys, for who holds the admin token."""

from __future__ import annotations

import hmac

from flowgate.auth.keys import ApiKey, Keyring, User
from flowgate.errors import InvalidToken, MissingToken
from flowgate.http.answers import NO_CONTENT, Answer, Route, json_answer
from flowgate.http.bodies import Members, read_object
from flowgate.http.credentials import authorization
from flowgate.http.request import Request

_MOST_DAYS = 36_500


def _shown_key(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "user": key.user,
        "app": key.app,
        "name": key.name,
        "publish": [str(grant) for grant in key.grants.publish],
        "subscribe": [str(grant) for grant in key.grants.subscribe],
        "queues": list(key.grants.queues),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "disabled": key.disabled,
    }


def _shown_user(user: User) -> dict[str, object]:
    return {"user": user.name, "created_at": user.created_at, "suspended": user.suspended}


class Administration:
    """Makes, lists and revokes API keys; makes, lists and suspends users."""

    def __init__(self, keyring: Keyring, admin_token: str) -> None:
        self._keyring = keyring
        self._token = admin_token.encode()

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/api/v1/admin/keys", self.create_key),
            Route("GET", "/api/v1/admin/keys", self.keys),
            Route("DELETE", "/api/v1/admin/keys/<key_id>", self.revoke_key),
            Route("POST", "/api/v1/admin/users", self.create_user),
            Route("GET", "/api/v1/admin/users", self.users),
            Route("POST", "/api/v1/admin/users/<user>/suspend", self.suspend_user),
        ]

    def _admit(self, request: Request) -> None:
        scheme, token = authorization(request)
        if scheme != "bearer":
            raise MissingToken("the admin token is required: Authorization: Bearer <admin token>")
        if not hmac.compare_digest(token.encode(), self._token):
            raise InvalidToken("this is not the admin token")

    async def create_key(self, request: Request) -> Answer:
        self._admit(request)
        body = Members(read_object(request))
        body.only("user", "app", "name", "publish", "subscribe", "queues", "expires_days")
        key, text = await self._keyring.create(
            body.text("user"),
            body.text("app"),
            name=body.optional_text("name") or "",
            publish=body.texts("publish"),
            subscribe=body.texts("subscribe"),
            queues=body.texts("queues"),
            expires_days=body.integer("expires_days", 1, _MOST_DAYS),
        )
        shown = {
            "key": text,
            "id": key.id,
            "user": key.user,
            "app": key.app,
            "name": key.name,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
        }
        return json_answer(shown, 201)

    async def keys(self, request: Request) -> Answer:
        self._admit(request)
        keys = self._keyring.keys()
        return json_answer({"keys": [_shown_key(key) for key in keys]})

    async def revoke_key(self, request: Request, key_id: str) -> Answer:
        self._admit(request)
        await self._keyring.revoke(key_id)
        return NO_CONTENT

    async def create_user(self, request: Request) -> Answer:
        self._admit(request)
        body = Members(read_object(request))
        body.only("user")
        return json_answer(_shown_user(await self._keyring.create_user(body.text("user"))), 201)

    async def users(self, request: Request) -> Answer:
        self._admit(request)
        return json_answer({"users": [_shown_user(user) for user in self._keyring.users()]})

    async def suspend_user(self, request: Request, user: str) -> Answer:
        self._admit(request)
        body = Members(read_object(request))
        body.only("suspended")
        body.value("suspended")
        return json_answer(_shown_user(await self._keyring.suspend(user, body.flag("suspended"))))
