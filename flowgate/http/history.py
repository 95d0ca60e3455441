"""``GET /api/v1/topics/<topic>/messages``: history, page by page."""

from __future__ import annotations

import orjson

from flowgate.gateway import EARLIEST, Gateway
from flowgate.http.answers import Answer, Route
from flowgate.http.bodies import check_known, query_integer, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.request import Request
from flowgate.message import Cursor
from flowgate.payloads import members, timestamp

PAGE_MESSAGES = 100
MOST_MESSAGES = 1000
PAGE_BYTES = 4 * 1024 * 1024
"""A page ends early when it has so many bytes; ``next`` says where to read on."""

_READ_AT_ONCE = 100


class HistoryPages:
    """Answers with stored messages in stream order."""

    def __init__(self, gateway: Gateway, credentials: Credentials) -> None:
        self._gateway = gateway
        self._credentials = credentials

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/v1/topics/<topic:topic>/messages", self.messages)]

    async def messages(self, request: Request, topic: str) -> Answer:
        principal = self._credentials.principal(request)
        interest = self._gateway.interest(principal, topic)
        query = read_query(request)
        check_known(query, ("since", "limit"), "parameter")
        limit = query_integer(query, "limit", 1, MOST_MESSAGES) or PAGE_MESSAGES
        after = self._gateway.cursor(query.get("since", [EARLIEST])[0])
        if after.epoch != self._gateway.epoch:
            after = Cursor(self._gateway.epoch, 0)  # it points nowhere: all that there is lies behind it
        shown: list[bytes] = []
        size = 0
        while len(shown) < limit and size < PAGE_BYTES:
            wanted = min(limit - len(shown), _READ_AT_ONCE)
            runs = await self._gateway.history(interest, after, wanted)
            for run in runs:
                name = orjson.dumps(run.topic.shown(interest.full))
                for index, (sequence, payload) in enumerate(zip(run.sequences, run.payloads, strict=True)):
                    after = Cursor(after.epoch, sequence)
                    time = b',"ts":"%b"' % timestamp(run.times[index]).encode() if run.times else b""
                    shown.append(b'{"id":"%b","topic":%b%b,%b}' % (str(after).encode(), name, time, members(payload)))
                    size += len(shown[-1])
            if sum(run.count for run in runs) < wanted:
                break
        return Answer(200, b'{"messages":[%b],"next":"%b"}' % (b",".join(shown), str(after).encode()))
