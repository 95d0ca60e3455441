"""``POST /api/v1/publish`` and ``/api/v1/publish/batch``."""

from __future__ import annotations

import re

import orjson

from flowgate.auth.permissions import Principal
from flowgate.errors import InvalidParameter, MissingField, Refused
from flowgate.gateway import Gateway, Post
from flowgate.gateway import Route as TopicRoute
from flowgate.http.answers import Answer, Headers, Route
from flowgate.http.bodies import (
    Members,
    check_known,
    media_parameter,
    media_type,
    query_flag,
    query_integer,
    read_object,
    read_query,
)
from flowgate.http.credentials import Credentials
from flowgate.http.problems import problem, rate_headers
from flowgate.http.request import Request
from flowgate.message import Stored
from flowgate.payloads import from_json

_KEY = re.compile(rb"[\x20-\x7e]{1,255}\Z")

MAX_TTL = 366 * 24 * 3600

TEXT = b"text/plain"
BYTES = b"application/octet-stream"

_KNOWN_ROUTES = 1000
_LEAST_MEMBERS = {"topic", "message"}


def idempotency_key(request: Request) -> str | None:
    """The ``Idempotency-Key`` header; quotes around it belong to the header's syntax, not to the key.

    :raises InvalidParameter: if it is not 1 to 255 printable ASCII characters.
    """
    fields = request.values(b"idempotency-key")
    if not fields:
        return None
    key = fields[0]
    if len(key) > 2 and key[:1] == key[-1:] == b'"':
        key = key[1:-1]
    if len(fields) > 1 or not _KEY.match(key):
        raise InvalidParameter("Idempotency-Key must be one header of 1 to 255 printable ASCII characters")
    return key.decode()


def _rates(route: TopicRoute) -> Headers:
    """Where the publisher stands with its rates, if it has any."""
    return rate_headers(route.allowance.standings())


class _Routes:
    """Where names lead, remembered for those who publish again and again."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: dict[tuple[int, str], tuple[Principal, TopicRoute, bytes]] = {}

    def find(self, principal: Principal, name: str) -> tuple[TopicRoute, bytes]:
        """See :meth:`Gateway.route`; with the name as JSON."""
        # By identity: the entry keeps the principal, so nobody else has its number meanwhile.
        known = self._known.get((id(principal), name))
        if known is None:
            known = principal, self._gateway.route(principal, name), orjson.dumps(name)
            if len(self._known) >= _KNOWN_ROUTES:
                self._known.clear()
            self._known[id(principal), name] = known
        return known[1:]


class Publishing:
    """Stores messages and answers once they are stored."""

    def __init__(self, gateway: Gateway, credentials: Credentials) -> None:
        self._gateway = gateway
        self._credentials = credentials
        self._routes = _Routes(gateway)
        self._counted = gateway.meter.counter("messages_received", "http")
        self._took = gateway.meter.histogram("publish_duration_seconds", "http")

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/api/v1/publish", self.publish, brief=True),
            Route("POST", "/api/v1/publish/batch", self.publish_batch, brief=True),
        ]

    async def publish(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        kind = media_type(request)
        if kind in (TEXT, BYTES):
            query = read_query(request)
            if "topic" not in query:
                raise MissingField("the parameter 'topic' is missing: with this content type it is in the query")
            route, shown = self._routes.find(principal, query["topic"][0])
            post = self._plain(request, kind, query, route)
        else:
            members = read_object(request)
            if b"?" in request.uri:
                check_known(read_query(request), (), "parameter")  # a topic there is meant for another content type
            route, shown = self._routes.find(principal, Members(members).text("topic"))
            post = self._read(members, route)
        key = idempotency_key(request)
        self._gateway.meter.account(principal.home).received += 1
        self._counted.value += 1
        stored = await self._gateway.publish(post.route, post.payload, message_id=key, ttl=post.ttl, retain=post.retain)
        self._took.observe(request.seconds())
        return Answer(200, self._result(shown, stored), headers=_rates(post.route))

    def _plain(self, request: Request, kind: bytes, query: dict[str, list[str]], route: TopicRoute) -> Post:
        """A message that is the body as it is."""
        check_known(query, ("topic", "ttl", "retain"), "parameter")
        payload = request.body()
        if kind == TEXT:
            charset = media_parameter(request, b"charset")
            if charset not in (None, b"utf-8", b"us-ascii"):
                raise InvalidParameter("text has to be UTF-8")
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise InvalidParameter(
                    "the body is not UTF-8; send other bytes with the header Content-Type: application/octet-stream"
                ) from None
        self._gateway.check_size(len(payload))
        return Post(route, payload, None, query_integer(query, "ttl", 1, MAX_TTL), query_flag(query, "retain"))

    def _read(self, members: dict[str, object], route: TopicRoute, key: str | None = None) -> Post:
        """A message as JSON has it."""
        body = Members(members)
        if members.keys() != _LEAST_MEMBERS:
            body.only("topic", "message", "ttl", "retain")
        payload = from_json(body.value("message"))
        self._gateway.check_size(len(payload))
        if len(members) == 2:
            return Post(route, payload, key)
        return Post(route, payload, key, body.integer("ttl", 1, MAX_TTL), body.flag("retain"))

    async def publish_batch(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        body = Members(read_object(request))
        body.only("messages")
        entries = body.value("messages")
        limit = self._gateway.limits.batch_messages
        if not isinstance(entries, list) or not 1 <= len(entries) <= limit:
            raise InvalidParameter(f"the member 'messages' must be a list of 1 to {limit} messages")
        # No key of a single message can be one of these: it has no tab.
        key = idempotency_key(request)
        posts: list[Post] = []
        shown: list[bytes] = []
        known: dict[str, tuple[TopicRoute, bytes]] = {}
        for index, entry in enumerate(entries):
            try:
                if not isinstance(entry, dict):
                    raise InvalidParameter("a message must be an object")
                name = Members(entry).text("topic")
                found = known.get(name)
                if found is None:
                    found = known[name] = self._routes.find(principal, name)
                posts.append(self._read(entry, found[0], None if key is None else f"{key}\t{index}"))
                shown.append(found[1])
            except Refused as refusal:
                raise type(refusal)(f"messages[{index}]: {refusal.detail}") from None
        self._gateway.meter.account(principal.home).received += len(posts)
        self._counted.value += len(posts)
        answers = await self._gateway.publish_many(posts)
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        if len(refused) == len(posts) and len({refusal.code for refusal in refused}) == 1:
            raise refused[0]  # nothing at all was stored: then the answer is no success either
        self._took.observe(request.seconds(), len(posts) - len(refused))
        for one in refused:
            self._gateway.meter.add("refusals", ("http", one.code))
        results = [
            orjson.dumps({"error": problem(answer, request.request_id)}, default=str)
            if isinstance(answer, Refused)
            else self._result(name_shown, answer)
            for name_shown, answer in zip(shown, answers, strict=True)
        ]
        return Answer(200, b'{"results":[%b]}' % b",".join(results), headers=_rates(posts[0].route))

    def _result(self, name: bytes, stored: Stored) -> bytes:
        """What a client is told of a stored message; ``name`` is its topic, as JSON, as the client wrote it."""
        return b'{"id":"%b-%d","topic":%b,"duplicate":%b}' % (
            self._gateway.epoch.encode(),
            stored.sequence,
            name,
            b"true" if stored.duplicate else b"false",
        )
