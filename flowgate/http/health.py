"""``/healthz``, ``/readyz``, and the root that points to everything."""

from __future__ import annotations

from collections.abc import Callable

from flowgate import __version__
from flowgate.errors import BusUnavailable
from flowgate.gateway import Gateway
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.request import Request

LINKS = {
    "docs": "/docs",
    "dashboard": "/dashboard/",
    "openapi": "/openapi.json",
    "asyncapi": "/asyncapi.json",
    "token": "/token/",
    "publish": "/api/v1/publish",
    "subscribe": "/api/v1/subscribe",
    "topics": "/api/v1/topics",
    "retained": "/api/v1/retained",
    "websocket": "/ws",
    "mqtt": "/mqtt",
    "queues": "/api/v1/queues",
    "sqs": "/sqs",
    "webhooks": "/api/v1/webhooks",
    "jwks": "/.well-known/jwks.json",
    "health": "/healthz",
    "ready": "/readyz",
    "metrics": "/metrics",
}
"""Where everything is."""


async def welcome(request: Request) -> Answer:
    """Say what this is, and where to go on."""
    return json_answer({"name": "Flow-Gate", "version": __version__, "links": LINKS})


class Health:
    """Tells operators and their machines how this node is."""

    def __init__(self, gateway: Gateway, draining: Callable[[], bool]) -> None:
        self._gateway = gateway
        self._draining = draining

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/", welcome),
            Route("GET", "/healthz", self.alive, brief=True),
            Route("GET", "/readyz", self.ready, brief=True),
        ]

    async def alive(self, request: Request) -> Answer:
        return json_answer({"status": "alive"})

    async def ready(self, request: Request) -> Answer:
        if self._draining():
            raise BusUnavailable("this node is going away")
        if not self._gateway.available:
            raise BusUnavailable()
        return json_answer({"status": "ready"})
