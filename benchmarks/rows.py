"""What is measured: one row for each number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

US = "flowgate"
"""The target that the others are compared with."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    :ivar job: a job of :mod:`benchmarks.load`, or ``ready`` for what starting the server has shown already.
    :ivar unit: shown behind the title; the job's number is divided by ``scale`` to be in this unit.
    :ivar less_is_better: for times and sizes.
    :ivar protocol: what a peer has to speak: ``mqtt``, ``http`` (publishing, event streams, WebSocket) or ``sqs``.
    :ivar own: the peers cannot do this.
    :ivar kept: it is about what a server keeps for clients that come later: sessions and retained messages.
    :ivar against: the row whose numbers of the peers this row of our own is compared with.
    """

    name: str
    title: str
    unit: str
    job: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    less_is_better: bool = False
    protocol: str = "mqtt"
    own: bool = False
    kept: bool = False
    against: str | None = None
    scale: float = 1.0


def _fan(name: str, title: str, against: str | None = None, **parameters: object) -> Row:
    unit = "deliveries/s" if parameters.get("subscribers") else "messages/s"
    own = against is not None or "receive" in parameters
    return Row(name, title, unit, "fan", {"topic": "live", **parameters}, own=own, against=against)


def _http_fan(receive: str, title: str, subscribers: int) -> Row:
    name, title = f"http-{receive}-1-{subscribers}", f"HTTP publish → {title}, 1 → {subscribers}"
    parameters = {"topic": f"kept/{subscribers}", "receive": receive, "subscribers": subscribers}
    return Row(name, title, "deliveries/s", "http_fan", parameters, protocol="http")


def _slow(receive: str, title: str) -> tuple[Row, Row]:
    """What one reader that reads nothing costs, beside ten that do."""
    parameters = {"topic": f"kept/slow-{receive}", "receive": receive}
    return (
        Row(f"slow-{receive}-memory", f"{title}, a reader that reads nothing: memory", "KiB", "slow_reader",
            {**parameters, "memory": True}, less_is_better=True, own=True, scale=1024),
        Row(f"slow-{receive}-others", f"{title}, a reader that reads nothing: the others", "times as fast",
            "slow_reader", {**parameters, "memory": False}, own=True),
    )  # fmt: skip


def _queue(verb: str, title: str, shape: str) -> tuple[Row, Row]:
    """What is done with a queue, over REST and over SQS's protocol.

    :param shape: ``1`` or ``16`` clients, with ``batch-`` before it if they have ten messages in each call.
    """
    batch, _, clients = shape.rpartition("-")
    parameters = {"connections": int(clients), "batch": 10 if batch else 1}
    title += f", {clients} client{'' if clients == '1' else 's'}" + (", 10 at a time" if batch else "")
    own, theirs = f"queue-{verb}-{shape}", f"sqs-{verb}-{shape}"
    unit, job = "messages/s", f"queue_{verb}"
    return (
        Row(own, f"Queue, REST: {title}", unit, job, {"protocol": "rest", **parameters}, own=True, against=theirs),
        Row(theirs, f"Queue, SQS: {title}", unit, job, {"protocol": "sqs", **parameters}, protocol="sqs"),
    )


_QUEUES = tuple(
    row
    for verb, title, shapes in (
        ("send", "send", ("1", "16", "batch-1", "batch-16")),
        ("take", "receive, delete", ("1", "16", "batch-16")),
        ("cycle", "send, receive, delete", ("1", "16", "batch-16")),
    )
    for shape in shapes
    for row in _queue(verb, title, shape)
)
_DEEP = {"connections": 16, "messages": 200_000}


# Where many connections share the work, each gets a small share of it: a window of 50 × 110 or 50 × 220 packets.
# An event stream reads history, which keeps 1000 messages of a topic: a publisher further ahead would outrun it.
ROWS = (
    Row("ready", "From process start to ready", "ms", "ready", less_is_better=True, scale=0.001),
    Row("idle-memory", "Memory for each of 1000 idle MQTT connections", "KiB", "idle_memory", {"connections": 1000},
        less_is_better=True, scale=1024),
    _fan("qos0-1-1", "QoS 0, 1 publisher → 1 subscriber"),
    _fan("qos0-1-1-mixed", "QoS 0, 1 → 1, payloads of 32 to 96 bytes", window=3432, burst=858, mixed=True),
    _fan("qos0-1-50", "QoS 0, 1 → 50 subscribers", subscribers=50),
    _fan("qos0-50-1", "QoS 0, 50 publishers → 1", publishers=50, window=5500, burst=110),
    _fan("qos0-50-pairs", "QoS 0, 50 pairs on topics of their own", pairs=50, window=440, burst=220),
    Row("one-p50", "QoS 0, one message in flight, 1 pair: median", "µs", "round_trip",
        {"topic": "live/one", "percentile": 50}, less_is_better=True),
    Row("one-p99", "QoS 0, one message in flight, 1 pair: 99th percentile", "µs", "round_trip",
        {"topic": "live/one", "percentile": 99}, less_is_better=True),
    Row("one-50-pairs", "QoS 0, one message in flight on each of 50 pairs", "messages/s", "one_each",
        {"topic": "live", "pairs": 50}),
    Row("qos1-100", "QoS 1, publisher alone, window 100", "PUBACKs/s", "acknowledged",
        {"topic": "kept/100", "window": 100}),
    Row("qos1-1000", "QoS 1, publisher alone, window 1000", "PUBACKs/s", "acknowledged",
        {"topic": "kept/1000", "window": 1000}),
    Row("qos1-1", "QoS 1, publisher alone, one in flight", "PUBACKs/s", "acknowledged_singly", {"topic": "kept/1"}),
    Row("qos1-1-1", "QoS 1, 1 → 1", "messages/s", "relayed", {"topic": "kept/q1", "qos": 1, "window": 1000}),
    Row("qos2-100", "QoS 2, publisher alone, window 100", "PUBCOMPs/s", "acknowledged",
        {"topic": "kept/100", "window": 100, "qos": 2}),
    Row("qos2-1000", "QoS 2, publisher alone, window 1000", "PUBCOMPs/s", "acknowledged",
        {"topic": "kept/1000", "window": 1000, "qos": 2}),
    Row("qos2-1-1", "QoS 2, 1 → 1", "messages/s", "relayed", {"topic": "kept/q2", "qos": 2, "window": 1000}),
    _fan("qos0-1-1-history", "QoS 0, 1 → 1, with history", "qos0-1-1", topic="kept"),
    _fan("qos0-1-50-history", "QoS 0, 1 → 50, with history", "qos0-1-50", topic="kept", subscribers=50),
    _fan("sse-1-50", "Server-Sent Events, 1 → 50", subscribers=50, receive="sse"),
    _fan("sse-1-50-history", "Server-Sent Events, 1 → 50, with history", topic="kept", subscribers=50, receive="sse",
         window=900, burst=450),
    _fan("websocket-1-50", "WebSocket, 1 → 50", subscribers=50, receive="websocket"),
    _fan("websocket-1-50-history", "WebSocket, 1 → 50, with history", topic="kept", subscribers=50,
         receive="websocket"),
    *(_http_fan(receive, title, subscribers)
      for receive, title in (("sse", "Server-Sent Events"), ("websocket", "WebSocket"))
      for subscribers in (50, 1000)),
    *_slow("sse", "Server-Sent Events"),
    *_slow("websocket", "WebSocket"),
    Row("http-publish", "HTTP publish, 32 connections", "messages/s", "http_publish",
        {"topic": "kept/http", "connections": 32, "batch": 1}, protocol="http"),
    Row("http-publish-batch", "HTTP publish, 32 connections, batches of 100", "messages/s", "http_publish",
        {"topic": "kept/http", "connections": 32, "batch": 100}, own=True),
    Row("http-publish-batch-1000", "HTTP publish, 32 connections, batches of 1000", "messages/s", "http_publish",
        {"topic": "kept/http", "connections": 32, "batch": 1000}, own=True),
    *_QUEUES,
    Row("queue-deep", "Queue, REST: send, receive, delete, 16 clients, 200,000 deep", "messages/s", "queue_deep",
        {**_DEEP, "compared": False}, own=True),
    Row("queue-deep-ratio", "Queue, REST: an empty queue beside one 200,000 deep", "times as fast", "queue_deep",
        {**_DEEP, "compared": True}, less_is_better=True, own=True),
    Row("session-qos1-1-1", "Persistent sessions, QoS 1, 1 → 1", "messages/s", "relayed",
        {"topic": "kept/s1", "qos": 1, "window": 1000, "clean": False}, kept=True),
    Row("session-qos2-1-1", "Persistent sessions, QoS 2, 1 → 1", "messages/s", "relayed",
        {"topic": "kept/s2", "qos": 2, "window": 1000, "clean": False}, kept=True),
    Row("session-qos1-1-50", "Persistent sessions, QoS 1, 1 → 50", "deliveries/s", "relayed",
        {"topic": "kept/s50", "qos": 1, "window": 1000, "subscribers": 50, "clean": False}, kept=True),
    Row("session-drain-qos1", "Persistent session, return to 5000 queued at QoS 1", "messages/s", "drained",
        {"topic": "kept/d1", "qos": 1, "messages": 5000}, kept=True),
    Row("session-drain-qos2", "Persistent session, return to 5000 queued at QoS 2", "messages/s", "drained",
        {"topic": "kept/d2", "qos": 2, "messages": 5000}, kept=True),
    Row("session-connect", "Persistent sessions, connect and disconnect, 50 at once", "connections/s", "reconnects",
        {"topic": "kept/again", "connections": 50}, kept=True),
    Row("retained-5000", "SUBSCRIBE with a wildcard to 5000 retained messages", "messages/s", "retained",
        {"topic": "kept/retained", "messages": 5000}, kept=True),
)  # fmt: skip
"""In the order in which they are run: what wants a fresh server comes first, what leaves something behind last."""


def select(patterns: str | None) -> tuple[Row, ...]:
    """The rows that match one of the comma-separated patterns (``qos0-*``); all of them for ``None``.

    :raises ValueError: if a pattern matches none.
    """
    if patterns is None:
        return ROWS
    wanted = patterns.split(",")
    for pattern in wanted:
        if not any(fnmatchcase(row.name, pattern) for row in ROWS):
            raise ValueError(f"no row is named {pattern}; --list shows them")
    return tuple(row for row in ROWS if any(fnmatchcase(row.name, pattern) for pattern in wanted))
