"""``/api/v1/queues/…``: durable queues."""

from __future__ import annotations

import attrs

from flowgate.auth.permissions import Principal
from flowgate.errors import InsufficientScope, InvalidParameter, MissingField
from flowgate.http.answers import NO_CONTENT, Answer, Route, json_answer, wrong_method
from flowgate.http.bodies import Members, check_known, query_integer, read_object, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.request import Request
from flowgate.queues.model import MAX_RECEIVE, MAX_VISIBILITY, MAX_WAIT, Configured, QueueDescription, ReceivedMessage
from flowgate.queues.service import Queues

_QUEUE = "/api/v1/queues/<name>"


def _shown_queue(described: QueueDescription) -> dict[str, object]:
    return {"name": described.name, "config": described.config.members(), "created_at": described.created_at}


def _shown_message(received: ReceivedMessage) -> dict[str, object]:
    return {
        "id": received.id,
        "receipt": received.receipt,
        "body": received.body,
        "md5": received.md5,
        "receive_count": received.receive_count,
        "sent_at": received.sent_at,
        "sequence": received.sequence,
        "attributes": received.attributes,
    }


class QueueCalls:
    """Translates between HTTP and the queues, which check all values themselves."""

    def __init__(self, queues: Queues, credentials: Credentials) -> None:
        self._queues = queues
        self._credentials = credentials

    def routes(self) -> list[Route]:
        return [
            Route("PUT", _QUEUE, self.configure),
            Route("GET", _QUEUE, self.describe),
            Route("DELETE", _QUEUE, self.remove),
            Route("POST", f"{_QUEUE}/messages", self.send),
            Route("POST", f"{_QUEUE}/messages/receive", self.receive),
            Route("GET", f"{_QUEUE}/messages/receive", self.receive_by_query),
            Route("DELETE", f"{_QUEUE}/messages/<receipt>", self.delete),
            Route("PATCH", f"{_QUEUE}/messages/<receipt>", self.change_visibility),
        ]

    def _admit(self, request: Request, name: str) -> Principal:
        principal = self._credentials.principal(request)
        if not principal.grants.may_use_queue(name):
            raise InsufficientScope("the token does not permit using this queue")
        return principal

    async def configure(self, request: Request, name: str) -> Answer:
        home = self._admit(request, name).home
        config = read_object(request) if request.body() else {}
        outcome = await self._queues.configure(home, name, config)
        described = await self._queues.describe(home, name)
        return json_answer(_shown_queue(described), 201 if outcome is Configured.CREATED else 200)

    async def describe(self, request: Request, name: str) -> Answer:
        home = self._admit(request, name).home
        described = await self._queues.describe(home, name)
        stats = await self._queues.stats(home, name)
        return json_answer({**_shown_queue(described), "stats": attrs.asdict(stats)})

    async def remove(self, request: Request, name: str) -> Answer:
        home = self._admit(request, name).home
        await self._queues.remove(home, name)
        return NO_CONTENT

    async def send(self, request: Request, name: str) -> Answer:
        home = self._admit(request, name).home
        body = Members(read_object(request))
        body.only("body", "attributes", "delay", "group", "dedup_id")
        text = body.text("body")
        if body.integer("delay", 0, 900):
            raise InvalidParameter("delayed messages are not offered yet: leave out 'delay'")
        for member in ("group", "dedup_id"):
            if member in body:
                raise InvalidParameter(f"FIFO queues are not offered yet: leave out {member!r}")
        # Whoever may use a queue may make it: the first message does.
        sent = await self._queues.send(home, name, text, body.mapping("attributes"), may_create=True)
        return json_answer({"id": sent.id, "md5": sent.md5, "sequence": sent.sequence}, 201)

    async def receive(self, request: Request, name: str) -> Answer:
        principal = self._admit(request, name)
        body = Members(read_object(request) if request.body() else {})
        body.only("max", "wait", "visibility")
        return await self._receive(
            principal,
            name,
            body.integer("max", 1, MAX_RECEIVE),
            body.integer("wait", 0, MAX_WAIT),
            body.integer("visibility", 0, MAX_VISIBILITY),
        )

    async def receive_by_query(self, request: Request, name: str) -> Answer:
        if request.method == b"HEAD":
            return wrong_method(request, "GET, POST")  # it would take messages and not show them
        principal = self._admit(request, name)
        query = read_query(request)
        check_known(query, ("max", "wait", "visibility"), "parameter")
        return await self._receive(
            principal,
            name,
            query_integer(query, "max", 1, MAX_RECEIVE),
            query_integer(query, "wait", 0, MAX_WAIT),
            query_integer(query, "visibility", 0, MAX_VISIBILITY),
        )

    async def _receive(
        self, principal: Principal, name: str, most: int | None, wait: int | None, visibility: int | None
    ) -> Answer:
        received = await self._queues.receive(
            principal.home, name, 1 if most is None else most, wait=wait, visibility=visibility
        )
        return json_answer({"messages": [_shown_message(one) for one in received]})

    async def delete(self, request: Request, name: str, receipt: str) -> Answer:
        home = self._admit(request, name).home
        await self._queues.delete(home, name, receipt)
        return NO_CONTENT

    async def change_visibility(self, request: Request, name: str, receipt: str) -> Answer:
        home = self._admit(request, name).home
        body = Members(read_object(request))
        body.only("visibility")
        seconds = body.integer("visibility", 0, MAX_VISIBILITY)
        if seconds is None:
            raise MissingField("the member 'visibility' is missing")
        await self._queues.change_visibility(home, name, receipt, seconds)
        return NO_CONTENT
