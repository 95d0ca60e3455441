"""``/api/v1/admin/shares``."""

from __future__ import annotations

from flowgate.auth.accounts import Accounts
from flowgate.auth.shares import Share
from flowgate.errors import NotFound
from flowgate.http.admin.access import AdminAccess, limit_of, one_of
from flowgate.http.answers import NO_CONTENT, Answer, Route, json_answer
from flowgate.http.bodies import Members, read_object
from flowgate.http.request import Request

_SHARES = "/api/v1/admin/shares"
_SHARE = f"{_SHARES}/<share_id>"


def _shown(share: Share) -> dict[str, object]:
    return {
        "id": share.id,
        "owner": share.owner,
        "app": share.app,
        "grantee": share.grantee,
        "grantee_app": share.grantee_app or None,
        "publish": [share.namespace.prefix + one for one in share.publish],
        "subscribe": [share.namespace.prefix + one for one in share.subscribe],
        "name": share.name,
        "created_at": share.created_at,
    }


class ShareAdministration:
    """Makes, lists and ends shares."""

    def __init__(self, accounts: Accounts, access: AdminAccess) -> None:
        self._accounts = accounts
        self._shares = accounts.keyring.shares
        self._access = access

    def routes(self) -> list[Route]:
        return [
            Route("POST", _SHARES, self.create),
            Route("GET", _SHARES, self.page),
            Route("GET", _SHARE, self.describe),
            Route("DELETE", _SHARE, self.revoke),
        ]

    async def create(self, request: Request) -> Answer:
        actor = self._access.admit(request)
        body = Members(read_object(request))
        body.only("owner", "app", "grantee", "grantee_app", "publish", "subscribe", "name")
        share = await self._accounts.create_share(
            actor,
            body.text("owner"),
            body.text("app"),
            body.text("grantee"),
            body.optional_text("grantee_app") or "",
            publish=body.texts("publish") or (),
            subscribe=body.texts("subscribe") or (),
            name=body.optional_text("name") or "",
        )
        return json_answer(_shown(share), 201)

    async def page(self, request: Request) -> Answer:
        query = self._access.admit_query(request, "owner", "grantee", "limit", "cursor")
        limit, cursor = limit_of(query), one_of(query, "cursor")
        found = self._shares.page(one_of(query, "owner"), one_of(query, "grantee"), cursor, limit + 1)
        shown = [_shown(share) for share in found[:limit]]
        return json_answer({"shares": shown, "next": shown[-1]["id"] if len(found) > limit else None})

    async def describe(self, request: Request, share_id: str) -> Answer:
        self._access.admit(request)
        share = self._shares.find(share_id)
        if share is None:
            raise NotFound(f"there is no share {share_id[:40]}")
        return json_answer(_shown(share))

    async def revoke(self, request: Request, share_id: str) -> Answer:
        actor = self._access.admit(request)
        await self._accounts.revoke_share(actor, share_id)
        return NO_CONTENT
