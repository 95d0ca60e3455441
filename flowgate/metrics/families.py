"""What each metric means, and what its labels are called.

Names and units are those of Prometheus's conventions: seconds, bytes, counters end in ``_total``.  Here they stand
without ``flowgate_`` and without that ending.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs


@attrs.frozen(slots=True)
class Family:
    """Metrics of one name.

    :ivar help: what is counted or measured, for people.
    :ivar labels: the names of the labels.
    """

    help: str
    labels: tuple[str, ...] = ()


UNKNOWN: Final = Family("Not described", ("kind",))
"""Of a name that has no line below."""

COUNTERS: Final[Mapping[str, Family]] = {
    "messages_received": Family("Messages that clients published", ("protocol",)),
    "messages_sent": Family("Messages that were sent to clients", ("protocol",)),
    "messages_dropped": Family(
        "Messages that a client was not sent, or that were not taken from it, though nobody was told by a refusal",
        ("protocol", "reason"),
    ),
    "received_bytes": Family("Bytes that clients sent, framing included, without TLS", ("protocol",)),
    "sent_bytes": Family("Bytes that were sent to clients, framing included, without TLS", ("protocol",)),
    "refusals": Family("What clients asked for and were refused", ("protocol", "code")),
    "clients_cut": Family("Clients that were cut off", ("protocol", "reason")),
    "sessions_expired": Family("Persistent sessions whose client stayed away for too long", ("protocol",)),
    "retained_lost": Family("Unacknowledged messages that were not retained, though their publisher wished it"),
    "webhook_messages": Family("Attempts of webhooks, and what became of their messages", ("outcome",)),
    "queue_messages": Family("Messages of queues, over every protocol, by what was done with them", ("operation",)),
    "bus_reconnects": Family("Connections to NATS that were made after the first one"),
    "log_events": Family("Lines of the log that tell of trouble", ("level",)),
}

GAUGES: Final[Mapping[str, Family]] = {
    "build_info": Family("What runs here; always 1", ("version", "python", "twisted")),
    "connections": Family("Open connections of clients, and receives that wait at queues", ("protocol",)),
    "subscriptions": Family("Subscriptions of this node's clients to topics"),
    "sessions": Family("Persistent MQTT sessions of the whole gateway, connected or not"),
    "outbox_bytes": Family("Bytes that wait for clients that read too slowly"),
    "bus_available": Family("1 while NATS is within reach"),
    "bus_congested": Family("1 while publishers are read no further, because NATS does not keep up"),
    "bus_backlog_messages": Family("Messages on their way into the stream"),
    "bus_backlog_bytes": Family("Bytes of these"),
    "open_queues": Family("Queues that are open on this node"),
    "queue_depth": Family("Messages in the queues that are open on this node", ("application", "state")),
    "queue_bytes": Family("Bytes of the bodies of these", ("application",)),
    "queue_oldest_age_seconds": Family("Age of the oldest of these", ("application",)),
    "webhooks": Family("Webhooks that this node works for"),
    "webhook_requests": Family("Requests of webhooks under way"),
}

HISTOGRAMS: Final[Mapping[str, Family]] = {
    "publish_duration_seconds": Family(
        "From the read that brought an acknowledged publish until it was stored", ("protocol",)
    ),
    "http_request_duration_seconds": Family(
        "From a request being whole until its answer began", ("method", "route", "status")
    ),
    "bus_round_trip_seconds": Family("From a write into the stream until NATS had acknowledged it"),
    "event_loop_lag_seconds": Family("How much later than it should a timer was called"),
}
