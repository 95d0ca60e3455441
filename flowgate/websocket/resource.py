"""The resource at ``/ws``."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

from flowgate.auth.tokens import TokenService
from flowgate.gateway import Gateway
from flowgate.timers import Wheel
from flowgate.websocket import opening
from flowgate.websocket.protocol import WebSocketFactory


def make_resource(
    gateway: Gateway, tokens: TokenService, wheel: Wheel, clock: IReactorTime, now: Callable[[], float]
) -> IResource:
    """Make the resource that turns a request into a WebSocket connection.

    :param clock: the reactor, or what stands for it in a test.
    :param now: seconds since 1970 UTC, as tokens count them.
    """
    resource: IResource = opening.Resource(WebSocketFactory(gateway, tokens, wheel, clock, now))  # type: ignore[no-untyped-call]
    return resource
