"""``POST /api/v1/publish`` and ``/api/v1/publish/batch``."""

from __future__ import annotations

import re

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import Internal, InvalidParameter, Refused
from flowgate.gateway import Gateway
from flowgate.gateway import Route as TopicRoute
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.bodies import Members, read_object
from flowgate.http.credentials import Credentials
from flowgate.http.problems import problem
from flowgate.http.request import Request
from flowgate.message import Stored
from flowgate.payloads import from_json

_log = Logger()

_KEY = re.compile(rb"[\x20-\x7e]{1,255}\Z")

MAX_TTL = 366 * 24 * 3600


@attrs.frozen(slots=True)
class _Message:
    """A message that is ready to be published; ``name`` is its topic as the client wrote it."""

    name: str
    route: TopicRoute
    payload: bytes
    ttl: int | None
    retain: bool


def idempotency_key(request: Request) -> str | None:
    """The ``Idempotency-Key`` header; quotes around it belong to the header's syntax, not to the key.

    :raises InvalidParameter: if it is not 1 to 255 printable ASCII characters.
    """
    fields = request.requestHeaders.getRawHeaders(b"Idempotency-Key")
    if not fields:
        return None
    key = fields[0]
    if len(key) > 2 and key[:1] == key[-1:] == b'"':
        key = key[1:-1]
    if len(fields) > 1 or not _KEY.match(key):
        raise InvalidParameter("Idempotency-Key must be one header of 1 to 255 printable ASCII characters")
    return key.decode()


class Publishing:
    """Stores messages and answers once they are stored."""

    def __init__(self, gateway: Gateway, credentials: Credentials) -> None:
        self._gateway = gateway
        self._credentials = credentials

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/api/v1/publish", self.publish),
            Route("POST", "/api/v1/publish/batch", self.publish_batch),
        ]

    async def publish(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        body = Members(read_object(request))
        name = body.text("topic")
        message = self._checked(body, name, self._gateway.route(principal, name))
        key = idempotency_key(request)
        self._gateway.meter.account(principal.home).received += 1
        stored = await self._publish(message, key)
        return json_answer(self._result(message, stored))

    async def publish_batch(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        body = Members(read_object(request))
        body.only("messages")
        entries = body.value("messages")
        limit = self._gateway.limits.batch_messages
        if not isinstance(entries, list) or not 1 <= len(entries) <= limit:
            raise InvalidParameter(f"the member 'messages' must be a list of 1 to {limit} messages")
        messages: list[_Message] = []
        for index, entry in enumerate(entries):
            try:
                if not isinstance(entry, dict):
                    raise InvalidParameter("a message must be an object")
                members = Members(entry)
                name = members.text("topic")
                messages.append(self._checked(members, name, self._gateway.route(principal, name)))
            except Refused as refusal:
                raise type(refusal)(f"messages[{index}]: {refusal.detail}") from None
        key = idempotency_key(request)
        self._gateway.meter.account(principal.home).received += len(messages)
        # All of them are under way at once; each is stored in its turn, because the bus keeps the order of the calls.
        stored = [
            self._publish(message, None if key is None else f"{key}/{index}") for index, message in enumerate(messages)
        ]
        outcomes = await DeferredList(stored, consumeErrors=True)
        results: list[dict[str, object]] = []
        refusals: list[Refused] = []
        for message, (_, outcome) in zip(messages, outcomes, strict=True):
            if isinstance(outcome, Failure):
                refusals.append(self._refusal(outcome, request))
                results.append({"error": problem(refusals[-1], request.request_id)})
            else:
                assert isinstance(outcome, Stored)
                results.append(self._result(message, outcome))
        if len(refusals) == len(messages) and len({refusal.code for refusal in refusals}) == 1:
            raise refusals[0]  # nothing at all was stored: then the answer is no success either
        return json_answer({"results": results})

    def _checked(self, body: Members, name: str, route: TopicRoute) -> _Message:
        body.only("topic", "message", "ttl", "retain")
        payload = from_json(body.value("message"))
        self._gateway.check_size(len(payload))
        return _Message(name, route, payload, body.integer("ttl", 1, MAX_TTL), body.flag("retain"))

    def _publish(self, message: _Message, key: str | None) -> Deferred[Stored]:
        self._gateway.meter.add("messages_in", "http")
        return self._gateway.publish(
            message.route, message.payload, message_id=key, ttl=message.ttl, retain=message.retain
        )

    def _result(self, message: _Message, stored: Stored) -> dict[str, object]:
        return {
            "id": f"{self._gateway.epoch}-{stored.sequence}",
            "topic": message.name,
            "duplicate": stored.duplicate,
        }

    @staticmethod
    def _refusal(failure: Failure, request: Request) -> Refused:
        if isinstance(failure.value, Refused):
            return failure.value
        _log.failure("request {request_id}: publishing failed", failure, request_id=request.request_id)
        return Internal()
