"""The calls of topics: publish, subscribe, history, what is retained."""

from __future__ import annotations

from flowgate.errors import InvalidTopic, MissingField, RateLimited, TooManyConnections, TooManySubscriptions
from flowgate.http import history, retained, subscribe
from flowgate.http.describing import shapes
from flowgate.http.describing.common import IDEMPOTENCY_KEY, PAID, QUERY_TOKEN, WITH_BODY, WITH_GRANT, WITH_KEY
from flowgate.http.describing.shapes import (
    CURSOR,
    ENCODING,
    FILTER,
    TIME,
    TOPIC,
    answer,
    flag,
    listing,
    obj,
    or_null,
    ref,
    text,
    whole,
)
from flowgate.http.describing.values import BYTES, EVENTS, JSON, TEXT, Example, Operation, Parameter, Reply, Schema
from flowgate.http.publish import MAX_TTL
from flowgate.http.topics import MOST_TOPICS, PAGE_TOPICS
from flowgate.limits import Limits

_RESULT: Schema = {
    "description": "as for one message; or what it was refused with",
    "anyOf": [ref("Published"), answer(error=ref("Problem"))],
}

_STORED = obj(
    {
        "id": CURSOR,
        "topic": {"type": "string"},
        "ts": {**TIME, "description": "when it was stored"},
        "data": {"description": "a JSON object or array as it was published, any other text as a string"},
        "encoding": ENCODING,
    },
    ("id", "topic", "data"),
    more=True,
)
_RETAINED = obj(
    {
        "topic": {"type": "string"},
        "ts": {**TIME, "description": "when it was retained"},
        "data": {"description": "as in history"},
        "encoding": ENCODING,
    },
    ("topic", "ts", "data"),
    more=True,
)

_OF_OTHER_BODIES = (
    Parameter("topic", "query", TOPIC, "where; needed with another body than JSON, and with no JSON"),
    Parameter("ttl", "query", whole("seconds after which history forgets it", 1, MAX_TTL), "likewise"),
    Parameter("retain", "query", flag("`true` or `false`", default=False), "likewise"),
)

_SINCE: Schema = {"anyOf": [CURSOR, {"const": "earliest"}]}

_LAST_EVENT_ID: Schema = {
    "type": "string",
    "description": "the last `id` of an event that came; or `earliest`",
    "pattern": r"^(earliest|[0-9a-z]{1,16}-(0|[1-9][0-9]{0,18})(\.[0-9]{1,2}\.[0-9]{1,18})?)$",
}


def operations(limits: Limits) -> tuple[Operation, ...]:
    """All of them, with the bounds of this gateway."""
    return (
        Operation(
            "POST",
            "/api/v1/publish",
            "publish",
            "Topics",
            "Publish one message",
            "The answer comes once the message is stored. Other bodies than JSON are the message as they are, and the "
            "query says the rest.",
            parameters=(IDEMPOTENCY_KEY, *_OF_OTHER_BODIES),
            bodies={
                JSON: ref("Message"),
                TEXT: {"type": "string", "description": "in UTF-8"},
                BYTES: {"description": "any bytes", "contentMediaType": BYTES},
            },
            replies={200: Reply("stored", ref("Published"))},
            refusals=(*WITH_GRANT, *WITH_BODY, *WITH_KEY, *PAID, InvalidTopic, RateLimited),
            examples={
                "hello": Example(
                    "a text",
                    200,
                    {"id": "8mu5le6q-1", "topic": "notifications", "duplicate": False},
                    body={"topic": "notifications", "message": "Hello World!"},
                ),
                "order": Example(
                    "an object, once",
                    200,
                    {"id": "8mu5le6q-2", "topic": "sales/berlin", "duplicate": False},
                    {"Idempotency-Key": "order-4711"},
                    {"topic": "sales/berlin", "message": {"item": 7}, "ttl": 3600},
                ),
                "order_again": Example(
                    "the same, repeated",
                    200,
                    {"id": "8mu5le6q-2", "topic": "sales/berlin", "duplicate": True},
                    {"Idempotency-Key": "order-4711"},
                    {"topic": "sales/berlin", "message": {"item": 7}, "ttl": 3600},
                ),
                "state": Example(
                    "to be kept as the topic's retained message",
                    200,
                    {"id": "8mu5le6q-3", "topic": "devices/1/state", "duplicate": False},
                    body={"topic": "devices/1/state", "message": {"on": True}, "retain": True},
                ),
                "reused": Example(
                    "another message under a key that was used",
                    422,
                    {
                        "type": "/docs/problems/idempotency_key_reused",
                        "title": "The key was used for another message",
                        "status": 422,
                        "detail": "The key was used for another message",
                        "code": "idempotency_key_reused",
                        "request_id": "ae01e1628f9040e40000000000000005",
                    },
                    {"Idempotency-Key": "order-4711"},
                    {"topic": "sales/berlin", "message": {"item": 70}, "ttl": 3600},
                ),
                "text": Example(
                    "a text as it is",
                    200,
                    {"id": "8mu5le6q-6", "topic": "devices/1/log", "duplicate": False},
                    {"topic": "devices/1/log", "ttl": 60},
                    "the door is open",
                    TEXT,
                ),
                "misspelt": Example(
                    "a member that there is not",
                    400,
                    {
                        "type": "/docs/problems/invalid_parameter",
                        "title": "A parameter is unknown or out of range",
                        "status": 400,
                        "detail": "unknown member 'massage'; did you mean 'message'?",
                        "code": "invalid_parameter",
                        "request_id": "ae01e1628f9040e40000000000000001",
                    },
                    body={"topic": "notifications", "message": "Hello", "massage": "World!"},
                ),
            },
        ),
        Operation(
            "POST",
            "/api/v1/publish/batch",
            "publishBatch",
            "Topics",
            f"Publish up to {limits.batch_messages:,} messages",
            "What is malformed or not permitted refuses the whole batch.",
            parameters=(IDEMPOTENCY_KEY,),
            bodies={JSON: shapes.messages_batch(limits)},
            replies={
                200: Reply("one result for each message, in order", answer(results=listing(_RESULT))),
            },
            refusals=(*WITH_GRANT, *WITH_BODY, *WITH_KEY, *PAID, InvalidTopic, RateLimited),
            examples={
                "two": Example(
                    "two messages",
                    200,
                    {
                        "results": [
                            {"id": "8mu5le6q-4", "topic": "sales/berlin", "duplicate": False},
                            {"id": "8mu5le6q-5", "topic": "sales/rome", "duplicate": False},
                        ]
                    },
                    body={
                        "messages": [
                            {"topic": "sales/berlin", "message": {"item": 8}},
                            {"topic": "sales/rome", "message": "closed today"},
                        ]
                    },
                )
            },
        ),
        Operation(
            "GET",
            "/api/v1/subscribe",
            "subscribe",
            "Topics",
            "Subscribe: a stream of Server-Sent Events",
            "It never ends by itself before the token does. The events are described in `/asyncapi.json`.",
            parameters=(
                Parameter(
                    "topic",
                    "query",
                    listing(FILTER, minItems=1, maxItems=subscribe.MAX_FILTERS),
                    "filters; repeated for several in one stream",
                    required=True,
                ),
                Parameter("last_event_id", "query", _LAST_EVENT_ID, "read on behind this event"),
                Parameter("Last-Event-ID", "header", _LAST_EVENT_ID, "the same; wins over the query"),
                Parameter(
                    "retained",
                    "query",
                    flag("`true` or `false`", default=False),
                    "whether what is retained comes first",
                ),
            ),
            replies={
                200: Reply(
                    "events until the token expires",
                    {"type": "string"},
                    EVENTS,
                    {"Flow-Last-Event-ID": "where the stream begins in history"},
                )
            },
            refusals=(*WITH_GRANT, MissingField, InvalidTopic, TooManyConnections, TooManySubscriptions),
            security=QUERY_TOKEN,
            examples={
                "all": Example(
                    "everything below `sales` that history holds",
                    200,
                    ":\n"
                    "retry: 2000\n"
                    "id: 8mu5le6q-2\n"
                    "event: message\n"
                    'data: {"topic":"sales/berlin","data":{"item":7}}\n'
                    "\n",
                    {"topic": ["sales/#"], "last_event_id": "earliest"},
                )
            },
        ),
        Operation(
            "GET",
            "/api/v1/topics",
            "listTopics",
            "Topics",
            "List the topics on which history holds messages",
            parameters=(
                Parameter("prefix", "query", text("what names begin with"), "those whose names begin so"),
                Parameter(
                    "limit", "query", whole("how many at most", 1, MOST_TOPICS, default=PAGE_TOPICS), "topics shown"
                ),
                Parameter("cursor", "query", text("`next` of the page before"), "reads on"),
            ),
            replies={
                200: Reply(
                    "the topics that the token may subscribe to, by name",
                    answer(
                        topics=listing(answer(topic=TOPIC, messages={"type": "integer", "minimum": 0})),
                        next=or_null(text("`cursor` of the next page")),
                    ),
                )
            },
            refusals=WITH_GRANT,
            examples={
                "sales": Example(
                    "those below `sales`",
                    200,
                    {
                        "topics": [{"topic": "sales/berlin", "messages": 2}, {"topic": "sales/rome", "messages": 1}],
                        "next": None,
                    },
                    {"prefix": "sales/"},
                )
            },
        ),
        Operation(
            "GET",
            "/api/v1/topics/<topic:topic>/messages",
            "history",
            "Topics",
            "Read history",
            f"A page ends at {history.PAGE_BYTES // 1048576} MiB as well. Read on with `since` set to `next` until "
            "there are no messages.",
            parameters=(
                Parameter("topic", "path", FILTER, "a filter; its slashes may stand in the path as they are"),
                Parameter("since", "query", _SINCE, "what lies behind this place; `earliest` if absent"),
                Parameter("limit", "query", shapes.PAGE_OF_MESSAGES, "messages on the page"),
            ),
            replies={200: Reply("stored messages, the oldest first", answer(messages=listing(_STORED), next=CURSOR))},
            refusals=(*WITH_GRANT, InvalidTopic),
            examples={
                "sales": Example(
                    "two messages behind a cursor",
                    200,
                    {
                        "messages": [
                            {
                                "id": "8mu5le6q-4",
                                "topic": "sales/berlin",
                                "ts": "2026-11-24T02:56:38.371Z",
                                "data": {"item": 8},
                            },
                            {
                                "id": "8mu5le6q-5",
                                "topic": "sales/rome",
                                "ts": "2026-11-24T02:56:38.372Z",
                                "data": "closed today",
                            },
                        ],
                        "next": "8mu5le6q-5",
                    },
                    {"topic": "sales/#", "since": "8mu5le6q-2", "limit": 2},
                )
            },
        ),
        Operation(
            "GET",
            "/api/v1/retained",
            "retained",
            "Topics",
            "Read what is retained",
            parameters=(
                Parameter("topic", "query", FILTER, "a filter", required=True),
                Parameter("after", "query", whole("`next` of the page before", 0, 10**18), "reads on"),
                Parameter(
                    "limit", "query", whole("how many at most", 1, retained.MOST_MESSAGES), "messages on the page"
                ),
            ),
            replies={
                200: Reply(
                    "the retained messages, in the order in which they were kept",
                    answer(messages=listing(_RETAINED), next=or_null({"type": "integer"})),
                )
            },
            refusals=(*WITH_GRANT, MissingField, InvalidTopic),
            examples={
                "states": Example(
                    "the states of all devices",
                    200,
                    {
                        "messages": [
                            {"topic": "devices/1/state", "ts": "2026-11-24T02:56:38.371Z", "data": {"on": True}}
                        ],
                        "next": None,
                    },
                    {"topic": "devices/+/state", "limit": 100},
                )
            },
        ),
    )
