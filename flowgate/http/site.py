"""The HTTP server of one node."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from random import random
from typing import Any
from uuid import uuid4

from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory, IReactorTime
from twisted.internet.protocol import Factory
from twisted.web.resource import IResource
from zope.interface import implementer

from flowgate.auth.accounts import Accounts
from flowgate.auth.keys import ApiKey
from flowgate.auth.tokens import TokenService
from flowgate.gateway import Gateway
from flowgate.http.admin.access import AdminAccess
from flowgate.http.admin.audit import AuditLog
from flowgate.http.admin.keys import KeyAdministration
from flowgate.http.admin.shares import ShareAdministration
from flowgate.http.admin.users import UserAdministration
from flowgate.http.answers import Route
from flowgate.http.app import Root
from flowgate.http.channel import Channel
from flowgate.http.credentials import Credentials
from flowgate.http.describing.place import MqttDoor
from flowgate.http.documents import Documents
from flowgate.http.headings import Headings
from flowgate.http.health import Health
from flowgate.http.history import HistoryPages
from flowgate.http.measuring import Requests
from flowgate.http.publish import Publishing
from flowgate.http.queues import QueueCalls
from flowgate.http.retained import RetainedMessages
from flowgate.http.subscribe import Subscribing
from flowgate.http.tokens import TokenEndpoint
from flowgate.http.topics import TopicList
from flowgate.http.wire import Heads
from flowgate.limits import Limits
from flowgate.metering import Meter
from flowgate.queues.service import Queues
from flowgate.timers import Wheel


@implementer(IProtocolNegotiationFactory)
class FlowGateSite(Factory):
    """Makes the connections of HTTP.

    :ivar resource: what answers every request.
    :ivar brief: the methods and paths of requests that wait for nothing but the bus.
    :ivar limits: what a connection may send and how long it may take.
    :ivar heads: the heads of requests that are known already.
    :ivar headings: what answers begin with.
    :ivar requests: measures them.
    """

    noisy = False

    def __init__(
        self,
        root: Root,
        limits: Limits,
        clock: IReactorTime,
        wheel: Wheel,
        now: Callable[[], float],
        requests: Requests | None = None,
    ) -> None:
        """Make a site.

        :param clock: the reactor.
        :param wheel: for time-outs.
        :param now: seconds since 1970 UTC.
        :param requests: measures requests.
        """
        self.requests = Requests(Meter()) if requests is None else requests
        self.resource = root
        self.brief = root.brief
        self.limits = limits
        self.clock = clock
        self.wheel = wheel
        self.heads = Heads()
        self.headings = Headings(now)
        self._node = uuid4().hex[:16]
        self._numbers = count(1)

    def new_id(self) -> str:
        """An identifier for a request that brought none."""
        return f"{self._node}{next(self._numbers):016x}"

    def buildProtocol(self, addr: IAddress | None) -> Channel:
        return Channel(self)

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]


def make_site(
    gateway: Gateway,
    tokens: TokenService,
    accounts: Accounts,
    queues: Queues,
    admin_token: str,
    websockets: Mapping[bytes, IResource],
    wheel: Wheel,
    clock: IReactorTime,
    now: Callable[[], float],
    draining: Callable[[], bool],
    further: Iterable[Route] = (),
    *,
    mqtt: Callable[[], MqttDoor | None] = lambda: None,
    draw: Callable[[], float] = random,
    log_requests: bool = False,
    take_token: Callable[[ApiKey], None] = lambda _: None,
) -> FlowGateSite:
    """Make the factory of HTTP connections.

    :param websockets: what becomes of a WebSocket handshake, by its path: ``/ws`` and ``/mqtt``.
    :param wheel: for time-outs and heartbeats.
    :param clock: the reactor.
    :param now: seconds since 1970 UTC, as tokens count them.
    :param draining: whether this node is going away.
    :param further: routes of other protocols over HTTP.
    :param mqtt: where MQTT is spoken over TCP, once that is known.
    :param draw: a number from 0 to 1, at random.
    :param log_requests: whether each request has a line in the log.
    :param take_token: counts a token that a key is exchanged for; raises if that is one too many.
    """
    credentials, access = Credentials(tokens), AdminAccess(admin_token)
    rooms: tuple[Any, ...] = (
        Health(gateway, draining),
        TokenEndpoint(tokens, accounts.keyring, now, take_token),
        Publishing(gateway, credentials),
        Subscribing(gateway, credentials, wheel, clock, now, draining, draw),
        HistoryPages(gateway, credentials),
        TopicList(gateway, credentials),
        RetainedMessages(gateway, credentials),
        QueueCalls(queues, credentials, gateway.allowances.of),
        UserAdministration(accounts, access),
        KeyAdministration(accounts, access),
        ShareAdministration(accounts, access),
        AuditLog(accounts.audit, access),
        Documents(gateway.limits, mqtt),
    )
    routes = {(route.method, route.path): route for room in rooms for route in room.routes()}
    routes.update(((route.method, route.path), route) for route in further)  # these know what else a path is for
    requests = Requests(gateway.meter, log=log_requests)
    return FlowGateSite(Root(list(routes.values()), websockets, draining), gateway.limits, clock, wheel, now, requests)
