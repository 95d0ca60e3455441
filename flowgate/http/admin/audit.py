"""``/api/v1/admin/audit``."""

from __future__ import annotations

from datetime import UTC, datetime

from flowgate.auth.audit import Audit, AuditEntry
from flowgate.http.admin.access import MOST, AdminAccess, limit_of, one_of
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.bodies import query_integer
from flowgate.http.request import Request

DEFAULT_LIMIT = 100
_HIGHEST = 2**53 - 1


def shown_entry(entry: AuditEntry) -> dict[str, object]:
    """An entry as JSON has it."""
    at = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "sequence": entry.sequence,
        "at": at,
        "actor": entry.actor.kind,
        "actor_name": entry.actor.name or None,
        "address": entry.actor.address or None,
        "request_id": entry.actor.request_id or None,
        "action": entry.action,
        "subject": entry.subject,
        "user": entry.user or None,
        "refused": entry.outcome or None,
        "detail": dict(entry.detail),
        "left_out": list(entry.left_out),
    }


class AuditLog:
    """Shows what was done."""

    def __init__(self, audit: Audit, access: AdminAccess) -> None:
        self._audit = audit
        self._access = access

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/v1/admin/audit", self.page)]

    async def page(self, request: Request) -> Answer:
        query = self._access.admit_query(request, "user", "limit", "before")
        limit, before = limit_of(query, DEFAULT_LIMIT), query_integer(query, "before", 1, _HIGHEST)
        asked = min(limit + 1, MOST)
        found = await self._audit.page(one_of(query, "user"), before, asked)
        page = found[:limit]
        more = len(found) > limit or len(found) == asked == limit  # of the longest page it is not known
        following = page[-1].sequence if more else None
        return json_answer({"entries": [shown_entry(entry) for entry in page], "next": following})
