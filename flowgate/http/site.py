"""The HTTP server of one node."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request as AnyRequest
from twisted.web.resource import IResource
from twisted.web.server import Site

from flowgate.auth.keys import Keyring
from flowgate.auth.tokens import TokenService
from flowgate.gateway import Gateway
from flowgate.http.admin import Administration
from flowgate.http.answers import Route
from flowgate.http.app import Root
from flowgate.http.credentials import Credentials
from flowgate.http.health import Health
from flowgate.http.history import HistoryPages
from flowgate.http.publish import Publishing
from flowgate.http.queues import QueueCalls
from flowgate.http.request import Channel, Request
from flowgate.http.retained import RetainedMessages
from flowgate.http.subscribe import Subscribing
from flowgate.http.tokens import TokenEndpoint
from flowgate.limits import Limits
from flowgate.queues.service import Queues
from flowgate.timers import Wheel


class FlowGateSite(Site):
    """Bounded connections; no access log, because tokens may stand in URLs.

    :ivar limits: what a connection may send and how long it may take.
    """

    displayTracebacks = False
    noisy = False
    protocol = Channel  # type: ignore[assignment]

    def __init__(self, resource: IResource, limits: Limits, clock: IReactorTime) -> None:
        super().__init__(resource, Request, parsePOSTFormSubmission=False, reactor=clock)
        self.limits = limits

    def startFactory(self) -> None:
        """Start no access log, and no clock for its lines."""

    def stopFactory(self) -> None:
        """There is no access log to be closed."""

    def log(self, request: AnyRequest) -> None:
        """Log nothing."""

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]


def make_site(
    gateway: Gateway,
    tokens: TokenService,
    keyring: Keyring,
    queues: Queues,
    admin_token: str,
    websockets: Mapping[bytes, IResource],
    wheel: Wheel,
    clock: IReactorTime,
    now: Callable[[], float],
    draining: Callable[[], bool],
    further: Iterable[Route] = (),
) -> FlowGateSite:
    """Make the factory of HTTP connections.

    :param websockets: what becomes of a WebSocket handshake, by its path: ``/ws`` and ``/mqtt``.
    :param clock: the reactor, for time-outs and heartbeats.
    :param now: seconds since 1970 UTC, as tokens count them.
    :param draining: whether this node is going away.
    :param further: routes of other protocols over HTTP.
    """
    credentials = Credentials(tokens)
    rooms: tuple[Any, ...] = (
        Health(gateway, draining),
        TokenEndpoint(tokens, keyring),
        Publishing(gateway, credentials),
        Subscribing(gateway, credentials, wheel, clock, now, draining),
        HistoryPages(gateway, credentials),
        RetainedMessages(gateway, credentials),
        QueueCalls(queues, credentials),
        Administration(keyring, admin_token),
    )
    routes = {(route.method, route.path): route for room in rooms for route in room.routes()}
    routes.update(((route.method, route.path), route) for route in further)  # these know what else a path is for
    return FlowGateSite(Root(list(routes.values()), websockets, draining), gateway.limits, clock)
