"""A client of the gateway for Python programs: tokens, reconnecting and resuming are its own business.

This is the one for asyncio; for Twisted there is :mod:`flowgate.client.tx`.
"""

from flowgate.client.aio import Client, Subscription
from flowgate.client.values import Closed, Full, Gap, Message, Published, Unconfirmed, Unreachable

__all__ = [
    "Client",
    "Closed",
    "Full",
    "Gap",
    "Message",
    "Published",
    "Subscription",
    "Unconfirmed",
    "Unreachable",
]
