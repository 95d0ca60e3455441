"""The call that shows how the nodes are."""

from __future__ import annotations

from flowgate.http.describing.common import ADMIN, ADMIN_TOKEN
from flowgate.http.describing.shapes import answer, flag, listing, text
from flowgate.http.describing.values import Operation, Reply, Schema

_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_BY_PROTOCOL: Schema = {"type": "object", "additionalProperties": _COUNT}
_FLOW = answer(
    count={**_BY_PROTOCOL, "description": "since the start, by protocol"},
    per_second={
        "type": "object",
        "additionalProperties": {"type": "number"},
        "description": "in the last 10 s, by protocol",
    },
)
_NODE = answer(
    node=text("its name; another one after every start"),
    version=text("of the gateway"),
    uptime_seconds=_SECONDS,
    age_seconds={**_SECONDS, "description": "how long ago the node told this; 0 for the one that is asked"},
    bus=answer(
        available=flag("whether NATS is within reach"),
        congested=flag("whether publishers are held back"),
        backlog_messages={**_COUNT, "description": "messages on their way into the stream"},
        reconnects=_COUNT,
    ),
    connections={**_BY_PROTOCOL, "description": "open ones, by protocol"},
    subscriptions=_COUNT,
    sessions={**_COUNT, "description": "persistent MQTT sessions of the whole gateway"},
    messages=answer(received=_FLOW, sent=_FLOW),
    queues=answer(
        "what the queues hold that the node has open",
        open=_COUNT,
        visible=_COUNT,
        in_flight=_COUNT,
        delayed=_COUNT,
        oldest_age_seconds=_SECONDS,
    ),
    errors=answer(
        count={**_COUNT, "description": "errors in the log, since the start"},
        last=text("what the last one said; empty if there was none"),
        last_at={"type": ["number", "null"], "description": "when, in seconds since 1970 UTC"},
    ),
)

OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/admin/status",
        "status",
        "Health",
        "How every node is",
        "First the node that is asked, as it is now, then the others as they were when they last told it.",
        replies={200: Reply("the nodes", answer(nodes=listing(_NODE)))},
        refusals=ADMIN,
        security=ADMIN_TOKEN,
    ),
)
