"""``/api/v1/admin/signing-keys…``: the keys that sign tokens, for who holds the admin token."""

from __future__ import annotations

from flowgate.auth.audit import Audit
from flowgate.auth.signing import SigningKeys
from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.queue_access import optional_members
from flowgate.http.request import Request

_KEYS = "/api/v1/admin/signing-keys"

MOST_GENERATIONS = 1_000_000_000


class SigningCalls:
    """Lists the signing keys, and has another follow the one that signs."""

    def __init__(self, signing: SigningKeys, audit: Audit, access: AdminAccess) -> None:
        self._signing = signing
        self._audit = audit
        self._access = access

    def routes(self) -> list[Route]:
        return [Route("GET", _KEYS, self.keys), Route("POST", f"{_KEYS}/rotate", self.rotate)]

    async def keys(self, request: Request) -> Answer:
        self._access.admit(request)
        return json_answer(self._shown())

    async def rotate(self, request: Request) -> Answer:
        actor = self._access.admit(request)
        body = optional_members(request, "immediately", "generation")
        immediately, generation = body.flag("immediately"), body.integer("generation", 1, MOST_GENERATIONS)
        made = await self._audit.around(
            actor,
            "signing-key.rotate",
            self._signing.signing().id,
            lambda: self._signing.rotate(immediately=immediately, generation=generation),
            immediately=immediately,
        )
        return json_answer(self._shown(), 201 if made else 200)

    def _shown(self) -> dict[str, object]:
        return {
            "keys": [
                {
                    "id": key_id,
                    "generation": key.generation,
                    "use": use,
                    "published_at": key.published_at,
                    "signs_from": key.signs_from,
                    "retired_at": key.retired_at,
                }
                for key_id, use, key in self._signing.listing()
            ]
        }
