"""``POST /api/v1/admin/users/<user>/link``: a one-time sign-in link, for who holds the admin token."""

from __future__ import annotations

from flowgate.auth.accounts import Accounts
from flowgate.dashboard.admission import is_secure
from flowgate.dashboard.links import Links
from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.describing.place import Place
from flowgate.http.queue_access import optional_members
from flowgate.http.request import Request


class LinkCalls:
    """Lets users in who have no password, or have forgotten it."""

    def __init__(self, links: Links, accounts: Accounts, access: AdminAccess) -> None:
        self._links = links
        self._accounts = accounts
        self._access = access

    def routes(self) -> list[Route]:
        return [Route("POST", "/api/v1/admin/users/<user>/link", self.make)]

    async def make(self, request: Request, user: str) -> Answer:
        actor = self._access.admit(request)
        body = optional_members(request, "admin")
        admin = body.flag("admin") if "admin" in body else None
        await self._accounts.create_user(actor, user)
        await self._accounts.audit.note(actor, "link.create", user, user=user, admin=admin)
        secret, link = await self._links.make(user, admin=admin)
        place = Place.of((*request.values(b"host"), b"")[0], is_secure(request), None)
        shown = {"user": user, "link": f"{place.url}/dashboard/#link={secret}", "expires_at": link.expires_at}
        return json_answer(shown, 201)
