"""``GET /api/v1/retained``: what is retained on the topics of a filter, page by page."""

from __future__ import annotations

import orjson

from flowgate.errors import InvalidParameter, MissingField
from flowgate.gateway import Gateway
from flowgate.http.answers import Answer, Route
from flowgate.http.bodies import check_known, query_integer, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.request import Request
from flowgate.payloads import members, timestamp

PAGE_MESSAGES = 100
MOST_MESSAGES = 1000
_LAST_PLACE = 10**18


class RetainedMessages:
    """Answers with retained messages in the order in which they were kept."""

    def __init__(self, gateway: Gateway, credentials: Credentials) -> None:
        self._gateway = gateway
        self._credentials = credentials

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/v1/retained", self.retained)]

    async def retained(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        query = read_query(request, repeated="topic")
        check_known(query, ("topic", "after", "limit"), "parameter")
        topics = query.get("topic", [])
        if not topics:
            raise MissingField("the parameter 'topic' is missing")
        if len(topics) > 1:
            raise InvalidParameter("the parameter 'topic' is given twice")
        interest = self._gateway.interest(principal, topics[0])
        limit = query_integer(query, "limit", 1, MOST_MESSAGES) or PAGE_MESSAGES
        after = query_integer(query, "after", 0, _LAST_PLACE) or 0
        page = await self._gateway.retained(interest, after, limit)
        shown = [
            b'{"topic":%b,"ts":"%b",%b}'
            % (
                orjson.dumps(run.topic.shown(interest.full)),
                timestamp(run.times[0]).encode(),
                members(run.payloads[0]),
            )
            for run in page.runs
        ]
        return Answer(200, b'{"messages":[%b],"next":%b}' % (b",".join(shown), orjson.dumps(page.after)))
