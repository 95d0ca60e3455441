"""The fourth stage: plans, rates and the Billing Guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from flowgate.allowing import AccountAllowances
from flowgate.billing.notices import Notices
from flowgate.billing.plans import Plans
from flowgate.billing.service import Billing
from flowgate.bus.tagged import JetStreamTagged
from flowgate.rates.nodes import Rates
from flowgate.settings import Settings
from flowgate.webhooks.posting import Poster
from flowgate.wiring.accounts import Identities
from flowgate.wiring.messages import Messages
from flowgate.wiring.undoing import Undo


@attrs.frozen
class Selling:
    """What the fourth stage makes."""

    billing: Billing
    rates: Rates


async def open_selling(
    reactor: Any,
    settings: Settings,
    messages: Messages,
    identities: Identities,
    poster: Poster,
    now: Callable[[], float],
    undo: Undo,
) -> Selling:
    """Have the gateway ask for leave before it publishes.

    :param now: seconds since 1970 UTC.
    """
    keyring, gateway, connections = identities.keyring, messages.gateway, messages.connections
    by_name = {plan.name: plan for plan in settings.plans}
    plans = Plans(by_name, settings.default_plan, lambda user: getattr(keyring.user(user), "plan", ""))
    notices = Notices(connections, messages.router, gateway.turn, reactor, poster.post, settings.billing_webhook)
    billing = Billing(
        messages.records,
        identities.journal,
        JetStreamTagged(reactor, messages.bus.link),
        messages.peers,
        plans,
        reactor,
        now,
        connections=connections,
        meter=messages.meter,
        notices=notices,
        reach=lambda user: {
            (grant.namespace.user, grant.namespace.app) for key in keyring.keys(user) for grant in key.grants.publish
        },
    )
    rates = Rates(plans.limits, connections, messages.peers, reactor)
    undo("rates", rates.stop)
    rates.start()
    gateway.allowances = AccountAllowances(billing.purse, rates.pace)
    gateway.on_available = billing.bus_back
    undo("billing", billing.stop)
    await billing.start()
    return Selling(billing, rates)
