"""The last stage: what speaks with clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.threads import deferToThreadPool

from flowgate.dashboard.link_calls import LinkCalls
from flowgate.dashboard.site import Dashboard
from flowgate.figures import Figures
from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Route
from flowgate.http.credentials import Credentials
from flowgate.http.describing.place import MqttDoor
from flowgate.http.metrics import Metrics
from flowgate.http.operators import AdminToken
from flowgate.http.signing import SigningCalls
from flowgate.http.site import FlowGateSite, make_site
from flowgate.http.status import Status
from flowgate.http.usage import UsageCalls
from flowgate.http.webhooks import WebhookCalls
from flowgate.metrics.collecting import Exposition, GatewayCollector
from flowgate.mqtt.protocol import MqttFactory
from flowgate.mqtt.sessions import Sessions
from flowgate.mqtt.websocket import make_resource as make_mqtt_resource
from flowgate.nodes import Nodes
from flowgate.presence import Presence
from flowgate.settings import Settings
from flowgate.sqs.resource import SqsCalls
from flowgate.websocket.resource import make_resource
from flowgate.wiring.accounts import Identities
from flowgate.wiring.messages import Messages
from flowgate.wiring.queues import Storing
from flowgate.wiring.selling import Selling
from flowgate.wiring.undoing import Undo


@attrs.frozen
class Protocols:
    """What the last stage makes: the factories of connections.

    :ivar dashboard: ``None`` if there is to be none.
    """

    mqtt: MqttFactory
    site: FlowGateSite
    dashboard: Dashboard | None


async def open_protocols(
    reactor: Any,
    settings: Settings,
    messages: Messages,
    identities: Identities,
    storing: Storing,
    selling: Selling,
    admin: str,
    now: Callable[[], float],
    drain: Callable[[], object],
    draining: Callable[[], bool],
    mqtt_door: Callable[[], MqttDoor | None],
    undo: Undo,
) -> Protocols:
    """Make ready for connections; none is taken yet.

    :param admin: the administrator's token.
    :param now: seconds since 1970 UTC.
    :param drain: tells all connections to go, when the node stops.
    :param draining: whether it does.
    :param mqtt_door: where MQTT is spoken over TCP, once that is known.
    """
    gateway, peers, tokens = messages.gateway, messages.peers, identities.tokens
    sessions = Sessions(gateway, messages.records, peers, reactor, now, identities.keyring.shares.admits_topic)
    undo("MQTT sessions", sessions.stop)
    await sessions.start()
    figures = Figures(gateway, messages.router, peers, reactor)
    undo("figures", figures.stop)
    figures.start()
    presence = Presence(peers, reactor, now)
    undo("presence", presence.stop)
    presence.start()
    undo("connections", drain)
    nodes = Nodes(gateway, storing.queues, peers, messages.troubles, reactor)
    undo("status", nodes.stop)
    nodes.start()
    dashboard = None
    if settings.dashboard_enabled:
        dashboard = Dashboard(
            messages.store,
            identities.accounts,
            tokens,
            storing.queues,
            nodes,
            lambda work, *values: deferToThreadPool(reactor, reactor.getThreadPool(), work, *values),
            reactor,
            now,
            secure=settings.dashboard_secure,
            billing=selling.billing,
            limits=settings.limits,
            mqtt=mqtt_door,
        )
        undo("dashboard", dashboard.stop)
        await dashboard.start()
    mqtt = MqttFactory(gateway, tokens, sessions, messages.wheel, reactor, now)
    websockets = {
        b"/ws": make_resource(
            gateway,
            tokens,
            presence,
            messages.wheel,
            reactor,
            now,
            origins=settings.websocket_origins,
            deflate=settings.websocket_deflate,
        ),
        b"/mqtt": make_mqtt_resource(mqtt, draining, settings.websocket_origins),
    }
    site = make_site(
        gateway,
        tokens,
        identities.accounts,
        storing.queues,
        admin,
        websockets,
        messages.wheel,
        reactor,
        now,
        draining,
        _routes(settings, messages, identities, storing, selling, nodes, dashboard, admin, now),
        mqtt=mqtt_door,
        log_requests=settings.log_requests,
        take_token=selling.rates.take_token,
    )
    return Protocols(mqtt, site, dashboard)


def _routes(
    settings: Settings,
    messages: Messages,
    identities: Identities,
    storing: Storing,
    selling: Selling,
    nodes: Nodes,
    dashboard: Dashboard | None,
    admin: str,
    now: Callable[[], float],
) -> list[Route]:
    """The routes of what is not messages, tokens or queues."""
    accounts, queues, access = identities.accounts, storing.queues, AdminAccess(admin)
    credentials = Credentials(identities.tokens)
    sqs = SqsCalls(
        queues,
        identities.keyring,
        now,
        settings.sqs_account_id,
        settings.sqs_regions == "separate",
        allowance=messages.gateway.allowances.of,
    )
    exposition = Exposition(GatewayCollector(messages.gateway, queues))
    routes = [
        *sqs.routes(),
        *WebhookCalls(storing.webhooks, credentials).routes(),
        *SigningCalls(identities.signing, accounts.audit, access).routes(),
        *Metrics(exposition, AdminToken(admin), settings.metrics == "open").routes(),
        *Status(nodes, access).routes(),
        *UsageCalls(selling.billing, accounts, credentials, access).routes(),
    ]
    if dashboard is not None:
        routes += [*dashboard.routes(), *LinkCalls(dashboard.links, accounts, access).routes()]
    return routes
