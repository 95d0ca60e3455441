"""The third stage: queues, and webhooks, which are queues inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from flowgate.bus.queue_logs import JetStreamQueueLogs
from flowgate.queues.declared import declare
from flowgate.queues.replica import at_once
from flowgate.queues.service import Queues
from flowgate.queues.subscribing import QueueSubscriptions
from flowgate.settings import Settings
from flowgate.webhooks.addresses import AddressPolicy
from flowgate.webhooks.model import home_of
from flowgate.webhooks.posting import Poster
from flowgate.webhooks.service import Webhooks
from flowgate.wiring.accounts import Identities
from flowgate.wiring.messages import Messages
from flowgate.wiring.undoing import Undo


@attrs.frozen
class Storing:
    """What the third stage makes."""

    queues: Queues
    webhooks: Webhooks
    poster: Poster


async def open_queues(
    reactor: Any,
    settings: Settings,
    messages: Messages,
    identities: Identities,
    master: bytes,
    now: Callable[[], float],
    undo: Undo,
) -> Storing:
    """Open queues and webhooks, and make the queues that the configuration declares.

    :param now: seconds since 1970 UTC.
    :raises StartError: if one of these is there and differs.
    """
    bus, shares = messages.bus, identities.keyring.shares
    logs = JetStreamQueueLogs(reactor, bus.link, messages.nats, replicas=settings.replicas)
    queues = Queues(
        logs,
        messages.store,
        master,
        reactor,
        now,
        connections=messages.connections,
        soon=getattr(reactor, "soon", at_once),
        meter=messages.meter,
    )
    undo("queue logs", logs.stop)
    undo("queues", queues.stop)
    await queues.start()
    subscriptions = QueueSubscriptions(
        queues,
        messages.groups,
        lambda: bus.epoch,
        reactor,
        lambda place, filter_: shares.admits(home_of(place), filter_),
    )
    shares.on_changed(subscriptions.review)
    queues.prepare_subscriptions(subscriptions.prepare)
    undo("subscriptions of queues", subscriptions.stop)
    subscriptions.start()
    await declare(queues, settings.queues)
    policy = AddressPolicy(settings.webhooks_allow)
    poster = Poster(reactor, policy)
    webhooks = Webhooks(
        queues,
        messages.store,
        master,
        poster.post,
        policy,
        reactor,
        now,
        plain=settings.webhooks_http,
        meter=messages.meter,
    )
    undo("webhooks", webhooks.stop)
    await webhooks.start()
    return Storing(queues, webhooks, poster)
