"""The resource at ``/ws``."""

from __future__ import annotations

from collections.abc import Callable

from autobahn.twisted.resource import WebSocketResource
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource
from twisted.web.server import Request

from flowgate.auth.tokens import TokenService
from flowgate.gateway import Gateway
from flowgate.timers import Wheel
from flowgate.websocket.protocol import WebSocketFactory


class _Resource(WebSocketResource):
    def render(self, request: Request) -> bytes | int:
        # Autobahn takes the connection over; twisted.web's channel would stay its producer, in the way of the outbox.
        if request.channel is not None and request.channel.transport is not None:
            request.channel.transport.unregisterProducer()  # type: ignore[attr-defined]
        rendered: bytes | int = super().render(request)  # type: ignore[no-untyped-call]
        return rendered


def make_resource(
    gateway: Gateway, tokens: TokenService, wheel: Wheel, clock: IReactorTime, now: Callable[[], float]
) -> IResource:
    """Make the resource that turns a request into a WebSocket connection.

    :param clock: the reactor, or what stands for it in a test.
    :param now: seconds since 1970 UTC, as tokens count them.
    """
    resource: IResource = _Resource(WebSocketFactory(gateway, tokens, wheel, clock, now))  # type: ignore[no-untyped-call]
    return resource
