"""``GET /api/v1/topics``: the topics on which history holds messages, page by page."""

from __future__ import annotations

from flowgate.gateway import Gateway
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.bodies import check_known, query_integer, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.request import Request

PAGE_TOPICS = 100
MOST_TOPICS = 1000


class TopicList:
    """Answers with the topics that a token may subscribe to, by name."""

    def __init__(self, gateway: Gateway, credentials: Credentials) -> None:
        self._gateway = gateway
        self._credentials = credentials

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/v1/topics", self.page)]

    async def page(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        query = read_query(request)
        check_known(query, ("prefix", "limit", "cursor"), "parameter")
        limit = query_integer(query, "limit", 1, MOST_TOPICS) or PAGE_TOPICS
        prefix, cursor = query.get("prefix", [""])[0], query.get("cursor", [""])[0]
        # One more than asked for tells whether there is a next page.
        found = await self._gateway.topics(principal, prefix, cursor, limit + 1)
        shown = [{"topic": name, "messages": count} for name, count in found[:limit]]
        return json_answer({"topics": shown, "next": shown[-1]["topic"] if len(found) > limit else None})
