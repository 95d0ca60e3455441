"""``/dashboard/api/keys…`` and ``…/token``: API keys of the visitor's own account, and tokens made with them."""

from __future__ import annotations

from flowgate.auth.accounts import Accounts
from flowgate.auth.keys import LONGEST_OVERLAP
from flowgate.auth.records import ApiKey
from flowgate.auth.tokens import IssuedToken, TokenService
from flowgate.dashboard.admission import Admission, Visitor
from flowgate.dashboard.live import LiveTokens
from flowgate.errors import NotFound, RateLimited
from flowgate.http.admin.keys import shown_key
from flowgate.http.answers import NO_CONTENT, Answer, Route, json_answer
from flowgate.http.bodies import Members, read_object
from flowgate.http.request import Request

_KEYS = "/dashboard/api/keys"

MOST_KEYS = 1000
"""API keys of one account, revoked ones too, beyond which the pages make no more."""
MOST_DAYS = 36_500


class Keys:
    """Makes, lists, replaces and revokes the keys of who is signed in."""

    def __init__(self, admission: Admission, accounts: Accounts, tokens: TokenService, live: LiveTokens) -> None:
        self._admission = admission
        self._accounts = accounts
        self._keyring = accounts.keyring
        self._tokens = tokens
        self._live = live

    def routes(self) -> list[Route]:
        return [
            Route("GET", _KEYS, self.listing),
            Route("POST", _KEYS, self.create),
            Route("POST", f"{_KEYS}/<key_id>/rotate", self.rotate),
            Route("POST", f"{_KEYS}/<key_id>/token", self.token),
            Route("DELETE", f"{_KEYS}/<key_id>", self.revoke),
            Route("POST", "/dashboard/api/token", self.live_token),
        ]

    def _own(self, visitor: Visitor) -> list[ApiKey]:
        return self._keyring.keys(visitor.user)

    def _find(self, visitor: Visitor, key_id: str) -> ApiKey:
        """:raises NotFound: if the visitor has no such key, whoever else may have it."""
        key = self._keyring.find(key_id)
        if key is None or key.user != visitor.user:
            raise NotFound("there is no such API key")
        return key

    def _shown(self, key: ApiKey) -> dict[str, object]:
        return {**shown_key(key, self._keyring.last_use.of(key.id)), "own": self._live.owns(key)}

    async def listing(self, request: Request) -> Answer:
        visitor = await self._admission.visitor(request)
        keys = [self._shown(key) for key in reversed(self._own(visitor))]
        return json_answer({"keys": keys[:MOST_KEYS]})

    async def create(self, request: Request) -> Answer:
        visitor = await self._admission.visitor(request)
        body = Members(read_object(request))
        body.only("app", "name", "publish", "subscribe", "queues", "expires_days")
        if len(self._own(visitor)) >= MOST_KEYS:
            raise RateLimited(f"an account has at most {MOST_KEYS} API keys")
        key, text = await self._accounts.create_key(
            visitor.actor(request),
            visitor.user,
            body.text("app"),
            name=body.optional_text("name") or "",
            publish=body.texts("publish"),
            subscribe=body.texts("subscribe"),
            queues=body.texts("queues"),
            expires_days=body.integer("expires_days", 1, MOST_DAYS),
        )
        return json_answer(self._made(key, text), 201)

    def _made(self, key: ApiKey, text: str) -> dict[str, object]:
        """What is shown this once: the key's text, and a token to try it with."""
        return {**self._shown(key), "key": text, "token": _shown_token(self._tokens.issue(key))}

    async def rotate(self, request: Request, key_id: str) -> Answer:
        visitor = await self._admission.visitor(request)
        body = Members(read_object(request))
        body.only("overlap_seconds")
        overlap = body.integer("overlap_seconds", 0, LONGEST_OVERLAP) or 0
        key, text = await self._accounts.rotate_key(visitor.actor(request), self._find(visitor, key_id).id, overlap)
        return json_answer(self._made(key, text), 201)

    async def token(self, request: Request, key_id: str) -> Answer:
        visitor = await self._admission.visitor(request)
        key = self._find(visitor, key_id)
        self._keyring.check(key)
        return json_answer(_shown_token(self._tokens.issue(key)))

    async def revoke(self, request: Request, key_id: str) -> Answer:
        visitor = await self._admission.visitor(request)
        await self._accounts.revoke_key(visitor.actor(request), self._find(visitor, key_id).id)
        return NO_CONTENT

    async def live_token(self, request: Request) -> Answer:
        """A token for the page's own connection to an application of the visitor."""
        visitor = await self._admission.visitor(request)
        body = Members(read_object(request))
        body.only("app")
        app = body.text("app")
        if app != visitor.login.app and not self._keyring.keys(visitor.user, app):
            raise NotFound("you have no such application")
        return json_answer(_shown_token(await self._live.issue(visitor, app, visitor.actor(request))))


def _shown_token(issued: IssuedToken) -> dict[str, object]:
    return {"token": issued.token, "expires_in": issued.expires_in, "app": issued.app, "prefix": issued.prefix}
