"""``/openapi.json``, ``/asyncapi.json``, ``/docs``, and a page for each code of an error."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

from collections.abc import Callable

import orjson

from flowgate.errors import NotFound
from flowgate.http.answers import JSON, Answer, Headers, Route
from flowgate.http.describing import asyncapi, openapi
from flowgate.http.describing.place import MqttDoor, Place
from flowgate.http.page import Pages
from flowgate.http.request import Request
from flowgate.limits import Limits

_HTML = b"text/html; charset=utf-8"
_CACHED: Headers = ((b"Cache-Control", b"public, max-age=300"),)
_OF_THE_HOST: Headers = (*_CACHED, (b"Vary", b"Host, X-Forwarded-Proto"))


class Documents:
    """Answers with what the gateway says of itself.

    :param mqtt: where MQTT is spoken over TCP, once that is known.
    """

    def __init__(self, limits: Limits, mqtt: Callable[[], MqttDoor | None]) -> None:
        self._limits = limits
        self._mqtt = mqtt
        self._pages: Pages | None = None
        self._openapi = b""

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/openapi.json", self.openapi),
            Route("GET", "/asyncapi.json", self.asyncapi),
            Route("GET", "/docs", self.documentation),
            Route("GET", "/docs/problems/<code>", self.problem),
        ]

    def _place(self, request: Request) -> Place:
        host = (*request.values(b"host"), b"")[0]
        # A proxy that ends TLS says so; who lies about it misleads nobody else, since the answer varies with it.
        secure = request.isSecure() or tuple(request.values(b"x-forwarded-proto")) == (b"https",)
        return Place.of(host, bool(secure), self._mqtt())

    def _written(self) -> Pages:
        if self._pages is None:
            self._pages = Pages(self._limits)
        return self._pages

    def _html(self, page: bytes, headers: Headers) -> Answer:
        policy = self._written().policy.encode()
        nothing_else = ((b"Content-Security-Policy", policy), (b"X-Content-Type-Options", b"nosniff"))
        return Answer(200, page, _HTML, (*headers, *nothing_else, (b"Referrer-Policy", b"no-referrer")))

    async def openapi(self, request: Request) -> Answer:
        if not self._openapi:
            self._openapi = orjson.dumps(openapi.document(self._limits))
        return Answer(200, self._openapi, JSON, _CACHED)

    async def asyncapi(self, request: Request) -> Answer:
        document = asyncapi.document(self._limits, self._place(request))
        return Answer(200, orjson.dumps(document), JSON, _OF_THE_HOST)

    async def documentation(self, request: Request) -> Answer:
        return self._html(self._written().documentation(self._place(request)), _OF_THE_HOST)

    async def problem(self, request: Request, code: str) -> Answer:
        page = self._written().problem(code)
        if page is None:
            raise NotFound("there is no such code")
        return self._html(page, _CACHED)
