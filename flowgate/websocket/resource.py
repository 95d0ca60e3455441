"""The resource at ``/ws``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

from flowgate.auth.tokens import TokenService
from flowgate.gateway import Gateway
from flowgate.presence import Presence
from flowgate.timers import Wheel
from flowgate.websocket import opening
from flowgate.websocket.protocol import WebSocketFactory


def make_resource(
    gateway: Gateway,
    tokens: TokenService,
    presence: Presence,
    wheel: Wheel,
    clock: IReactorTime,
    now: Callable[[], float],
    *,
    origins: Iterable[str] = (),
    deflate: bool = False,
) -> IResource:
    """Make the resource that turns a request into a WebSocket connection.

    :param clock: the reactor, or what stands for it in a test.
    :param now: seconds since 1970 UTC, as tokens count them.
    :param origins: of pages whose scripts may connect; none for all.
    :param deflate: whether compression is taken if a client offers it.
    """
    factory = WebSocketFactory(gateway, tokens, presence, wheel, clock, now, origins=origins, deflate=deflate)
    resource: IResource = opening.Resource(factory)  # type: ignore[no-untyped-call]
    return resource
