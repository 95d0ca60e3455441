"""``/api/v1/admin/status``."""

from __future__ import annotations

from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.request import Request
from flowgate.nodes import Nodes


class Status:
    """Shows how every node is, for who holds the admin token."""

    def __init__(self, nodes: Nodes, access: AdminAccess) -> None:
        self._nodes = nodes
        self._access = access

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/v1/admin/status", self.status, brief=True)]

    async def status(self, request: Request) -> Answer:
        self._access.admit(request)
        return json_answer({"nodes": self._nodes.all()})
