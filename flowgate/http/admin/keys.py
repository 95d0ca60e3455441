"""``/api/v1/admin/keys``."""

from __future__ import annotations

import re

from flowgate.auth.accounts import Accounts
from flowgate.auth.keys import LONGEST_OVERLAP
from flowgate.auth.records import ApiKey
from flowgate.errors import InvalidParameter, NotFound
from flowgate.http.admin.access import AdminAccess, limit_of, one_of
from flowgate.http.answers import NO_CONTENT, Answer, Route, json_answer
from flowgate.http.bodies import Members, read_object
from flowgate.http.request import Request

_KEYS = "/api/v1/admin/keys"
_KEY = f"{_KEYS}/<key_id>"
_CURSOR = re.compile(r"([0-9]{1,12})-(FGAK[A-Z2-7]{16})\Z")
_MOST_DAYS = 36_500

DEFAULT_OVERLAP = 86_400
"""Seconds for which a rotated key goes on being accepted, if nobody says."""


def _after(cursor: str) -> tuple[int, str]:
    """The place that a cursor names, among keys by their age."""
    if not cursor:
        return -1, ""
    found = _CURSOR.match(cursor)
    if found is None:
        raise InvalidParameter("the cursor is not one that a page of keys has given")
    return int(found[1]), found[2]


def shown_key(key: ApiKey, last_used_at: int | None) -> dict[str, object]:
    """What is shown of a key to those whom it concerns."""
    return {
        "id": key.id,
        "app": key.app,
        "name": key.name,
        "publish": [str(grant) for grant in key.grants.publish],
        "subscribe": [str(grant) for grant in key.grants.subscribe],
        "queues": list(key.grants.queues),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": last_used_at,
        "disabled": key.disabled,
        "successor": key.successor or None,
    }


def _shown_new(key: ApiKey, text: str) -> dict[str, object]:
    return {
        "key": text,
        "id": key.id,
        "user": key.user,
        "app": key.app,
        "name": key.name,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }


class KeyAdministration:
    """Makes, lists, rotates and revokes API keys."""

    def __init__(self, accounts: Accounts, access: AdminAccess) -> None:
        self._accounts = accounts
        self._keyring = accounts.keyring
        self._access = access

    def routes(self) -> list[Route]:
        return [
            Route("POST", _KEYS, self.create),
            Route("GET", _KEYS, self.page),
            Route("GET", _KEY, self.describe),
            Route("DELETE", _KEY, self.revoke),
            Route("POST", f"{_KEY}/rotate", self.rotate),
        ]

    def _shown(self, key: ApiKey) -> dict[str, object]:
        return {"user": key.user, **shown_key(key, self._keyring.last_use.of(key.id))}

    async def create(self, request: Request) -> Answer:
        actor = self._access.admit(request)
        body = Members(read_object(request))
        body.only("user", "app", "name", "publish", "subscribe", "queues", "expires_days")
        key, text = await self._accounts.create_key(
            actor,
            body.text("user"),
            body.text("app"),
            name=body.optional_text("name") or "",
            publish=body.texts("publish"),
            subscribe=body.texts("subscribe"),
            queues=body.texts("queues"),
            expires_days=body.integer("expires_days", 1, _MOST_DAYS),
        )
        return json_answer(_shown_new(key, text), 201)

    async def page(self, request: Request) -> Answer:
        query = self._access.admit_query(request, "user", "app", "limit", "cursor")
        limit, after = limit_of(query), _after(one_of(query, "cursor"))
        found = self._keyring.page(one_of(query, "user") or None, one_of(query, "app") or None, after, limit + 1)
        page = found[:limit]
        following = f"{page[-1].created_at}-{page[-1].id}" if len(found) > limit else None
        return json_answer({"keys": [self._shown(key) for key in page], "next": following})

    async def describe(self, request: Request, key_id: str) -> Answer:
        self._access.admit(request)
        key = self._keyring.find(key_id)
        if key is None:
            raise NotFound(f"there is no API key {key_id[:40]}")
        return json_answer(self._shown(key))

    async def revoke(self, request: Request, key_id: str) -> Answer:
        actor = self._access.admit(request)
        await self._accounts.revoke_key(actor, key_id)
        return NO_CONTENT

    async def rotate(self, request: Request, key_id: str) -> Answer:
        actor = self._access.admit(request)
        body = Members(read_object(request))
        body.only("overlap_seconds")
        overlap = body.integer("overlap_seconds", 0, LONGEST_OVERLAP)
        key, text = await self._accounts.rotate_key(actor, key_id, DEFAULT_OVERLAP if overlap is None else overlap)
        return json_answer(_shown_new(key, text), 201)
