"""The calls of queues."""

from __future__ import annotations

from typing import Any

from flowgate.errors import Conflict, InvalidTopic, NotFound, RateLimited, ReceiptInvalid
from flowgate.http.describing import shapes
from flowgate.http.describing.accounts import KEY_ID
from flowgate.http.describing.common import (
    IDEMPOTENCY_KEY,
    PAID,
    QUEUE_NAME,
    WITH_BODY,
    WITH_GRANT,
    Refusals,
)
from flowgate.http.describing.shapes import (
    ENTRY_ID,
    FILTER,
    QUEUE,
    TOKEN_128,
    answer,
    batch,
    listing,
    obj,
    or_null,
    ref,
    text,
    whole,
)
from flowgate.http.describing.values import JSON, Example, Operation, Parameter, Reply, Schema
from flowgate.http.queue_messages import MOST_SEEN, BatchEmpty, BatchIdInvalid, BatchIdRepeated, BatchTooMany
from flowgate.http.queues import Immutable
from flowgate.queues.model import (
    MAX_BATCH,
    MAX_RECEIVE,
    MAX_REDRIVE_RATE,
    MAX_VISIBILITY,
    MAX_WAIT,
    InFlightLimit,
    InvalidAttribute,
    InvalidCharacters,
    QueueFull,
    ReceiptExpired,
)
from flowgate.queues.redrive import RedriveRunning
from flowgate.queues.service import VisibilityTotal

_QUEUES = "/api/v1/queues"
_QUEUE = f"{_QUEUES}/<name>"
_MESSAGES = f"{_QUEUE}/messages"

_CALL: Refusals = (*WITH_GRANT, NotFound, RateLimited)
"""Any call of one queue: too many of them may be under way."""
_BODY: Refusals = (*_CALL, *WITH_BODY)
_BATCH: Refusals = (*_BODY, BatchEmpty, BatchTooMany, BatchIdInvalid, BatchIdRepeated)
_SEND: Refusals = (InvalidAttribute, InvalidCharacters, QueueFull, Conflict, *PAID)

_RECEIPT = text("the receipt of a receive", minLength=1)
_RECEIPT_PARAMETER = Parameter("receipt", "path", _RECEIPT, "which receive of which message")

_RECEIVED: Schema = answer(messages=listing(ref("QueueMessage"), maxItems=MAX_RECEIVE))
_RECEIVE: dict[str, Schema] = {
    "max": whole("messages at most", 1, MAX_RECEIVE, default=1),
    "wait": whole("seconds to wait for the first; the queue's own if absent", 0, MAX_WAIT),
    "visibility": whole("seconds that they are hidden; the queue's own if absent", 0, MAX_VISIBILITY),
    "attempt_id": text("FIFO: the same within 5 minutes brings the same messages", pattern=TOKEN_128),
}
_BY_QUERY = (
    QUEUE_NAME,
    *(Parameter(name, "query", schema, schema["description"]) for name, schema in _RECEIVE.items()),
)
_BATCH_ANSWER: Schema = answer(
    successful=listing(answer(id=ENTRY_ID), maxItems=MAX_BATCH), failed=listing(ref("FailedEntry"), maxItems=MAX_BATCH)
)
_TOPIC: Schema = obj({"topic": FILTER}, ("topic",))


def _config(**members: object) -> dict[str, object]:
    """A standard queue's configuration with these members, as it is shown."""
    return {
        "type": "standard",
        "visibility": 30,
        "delay": 0,
        "receive_wait": 0,
        "max_message_bytes": 1048576,
        "retention": 345600,
        "dead_letter": None,
        "dead_letter_allow": "all",
        "tags": {},
        **members,
    }


def _shown(name: str, **members: object) -> dict[str, Any]:
    return {"name": name, "config": _config(**members), "created_at": 1795690800, "modified_at": 1795690800}


_DEAD = {"queue": "orders-dead", "max_receives": 5}
_ORDERS = _shown("orders", visibility=60, dead_letter=_DEAD)
_ID = "2f7f8a4c-ebcc-481d-ba83-8f0562e36b81"
_RECEIPT_1 = "P5YlDP4S1MEymPAn-cI3PmE3cjdnNDBnMmQuNDAwLjE"
_SEQUENCE = "00000000000000001024"
_MD5 = "99a233e67156812c9681c22c78e91aaa"
_ATTRIBUTES_MD5 = "95c4c5976b9df51b2398b7f703bd0b7c"
_MESSAGE: dict[str, object] = {
    "id": _ID,
    "receipt": _RECEIPT_1,
    "body": "order 1",
    "md5": _MD5,
    "attributes": {"priority": 3},
    "md5_attributes": _ATTRIBUTES_MD5,
    "receive_count": 1,
    "sent_at": 1795690874507,
    "first_received_at": 1795690875378,
    "sequence": _SEQUENCE,
    "sender": KEY_ID,
}


_MD5_2 = "54d36152c1d36b1eb017664610ec86b6"
_SECOND: dict[str, object] = {
    "id": "2f7f8a4c-ebcc-481d-ba83-8f0562e36b82",
    "receipt": "P5YlDP4S1MEymPAn-cI3PmE3cjdnNDBnMmQuNDAxLjE",
    "body": "order 2",
    "md5": _MD5_2,
    "attributes": {},
    "receive_count": 1,
    "sent_at": 1795690874509,
    "first_received_at": 1795690875379,
    "sequence": "00000000000000001025",
    "sender": KEY_ID,
}
_REDRIVE: dict[str, object] = {
    "task": "0f8b7c6d5e4f4a3b9c2d1e0f",
    "status": "running",
    "destination": "orders",
    "max_per_second": 1,
    "started_at": 1795690900000,
    "moved": 0,
    "to_move": 0,
}

OPERATIONS = (
    Operation(
        "GET",
        _QUEUES,
        "listQueues",
        "Queues",
        "List queues",
        parameters=(
            Parameter("prefix", "query", text("what names begin with"), "those whose names begin so"),
            Parameter("limit", "query", shapes.PAGE_OF_QUEUES, "queues on the page"),
            Parameter("cursor", "query", text("`next` of the page before"), "reads on"),
        ),
        replies={
            200: Reply(
                "the queues that the token grants, by name",
                answer(queues=listing(ref("Queue")), next=or_null(text("`cursor` of the next page"))),
            )
        },
        refusals=WITH_GRANT,
        examples={
            "orders": Example(
                "those that begin with `orders`",
                200,
                {"queues": [_ORDERS, _shown("orders-dead")], "next": None},
                {"prefix": "orders"},
            )
        },
    ),
    Operation(
        "POST",
        _QUEUES,
        "makeQueue",
        "Queues",
        "Make a queue, its name in the body",
        bodies={JSON: shapes.NAMED_CONFIG_WISH},
        replies={
            201: Reply("made", ref("Queue"), headers={"Location": "the path of the queue"}),
            200: Reply("it was there with this configuration", ref("Queue")),
        },
        refusals=(*_BODY, Conflict),
        examples={"dead": Example("for dead letters", 201, _shown("orders-dead"), body={"name": "orders-dead"})},
    ),
    Operation(
        "PUT",
        _QUEUE,
        "configureQueue",
        "Queues",
        "Make a queue",
        "A queue that is there has to have this configuration, else the answer is 409.",
        parameters=(QUEUE_NAME,),
        bodies={JSON: shapes.CONFIG_WISH},
        needs_body=False,
        replies={
            201: Reply("made", ref("Queue")),
            200: Reply("it was there with this configuration", ref("Queue")),
        },
        refusals=(*_BODY, Conflict),
        examples={
            "orders": Example(
                "with a dead-letter queue",
                201,
                _ORDERS,
                {"name": "orders"},
                {"visibility": 60, "dead_letter": {"queue": "orders-dead", "max_receives": 5}},
            ),
            "differing": Example(
                "another configuration than it has",
                409,
                {
                    "type": "/docs/problems/conflict",
                    "title": "It exists already, and differs",
                    "status": 409,
                    "detail": "the queue exists with another configuration: visibility",
                    "code": "conflict",
                    "differing": ["visibility"],
                    "request_id": "ae01e1628f9040e40000000000000002",
                },
                {"name": "orders"},
                {"visibility": 90, "dead_letter": {"queue": "orders-dead", "max_receives": 5}},
            ),
        },
    ),
    Operation(
        "GET",
        _QUEUE,
        "describeQueue",
        "Queues",
        "Describe a queue and what it holds",
        parameters=(QUEUE_NAME,),
        replies={200: Reply("the queue with its figures", {"allOf": [ref("Queue"), answer(stats=ref("QueueStats"))]})},
        refusals=_CALL,
        examples={
            "orders": Example(
                "an empty queue",
                200,
                {
                    **_ORDERS,
                    "stats": {"visible": 0, "in_flight": 0, "delayed": 0, "bytes": 0, "oldest_age_seconds": 0.0},
                },
                {"name": "orders"},
            )
        },
    ),
    Operation(
        "PATCH",
        _QUEUE,
        "changeQueue",
        "Queues",
        "Change a queue's configuration",
        parameters=(QUEUE_NAME,),
        bodies={JSON: shapes.CONFIG_CHANGE},
        replies={200: Reply("the queue", ref("Queue"))},
        refusals=(*_BODY, Conflict, Immutable),
        examples={
            "tags": Example(
                "a tag more",
                200,
                _shown("orders", visibility=60, dead_letter=_DEAD, tags={"team": "sales"}),
                {"name": "orders"},
                {"tags": {"team": "sales"}},
            )
        },
    ),
    Operation(
        "DELETE",
        _QUEUE,
        "removeQueue",
        "Queues",
        "Remove a queue and its messages",
        parameters=(QUEUE_NAME,),
        replies={204: Reply("it is gone")},
        refusals=_CALL,
        examples={"orders": Example("a queue", 204, None, {"name": "orders"})},
    ),
    Operation(
        "POST",
        f"{_QUEUE}/purge",
        "purgeQueue",
        "Queues",
        "Remove all messages of a queue, those with receivers too",
        parameters=(QUEUE_NAME,),
        replies={204: Reply("they are gone")},
        refusals=_BODY,
        examples={"orders": Example("a queue", 204, None, {"name": "orders"})},
    ),
    Operation(
        "POST",
        _MESSAGES,
        "sendMessage",
        "Queue messages",
        "Send a message",
        "The answer comes once it is stored. The first message makes the queue.",
        parameters=(QUEUE_NAME, IDEMPOTENCY_KEY),
        bodies={JSON: shapes.OUTGOING},
        replies={
            201: Reply("stored", ref("Sent")),
            200: Reply("FIFO: a message with this `dedup_id` was stored before", ref("Sent")),
        },
        refusals=(*_BODY, *_SEND),
        examples={
            "order": Example(
                "a text with an attribute",
                201,
                {"id": _ID, "md5": _MD5, "md5_attributes": _ATTRIBUTES_MD5, "sequence": _SEQUENCE},
                {"name": "orders"},
                {"body": "order 1", "attributes": {"priority": 3}},
            )
        },
    ),
    Operation(
        "POST",
        f"{_MESSAGES}/batch",
        "sendMessages",
        "Queue messages",
        f"Send up to {MAX_BATCH} messages",
        "What is malformed refuses the whole batch; a message whose values are wrong fails alone.",
        parameters=(QUEUE_NAME,),
        bodies={JSON: shapes.OUTGOING_BATCH},
        replies={
            200: Reply(
                "what became of each",
                answer(
                    successful=listing(ref("SentEntry"), maxItems=MAX_BATCH),
                    failed=listing(ref("FailedEntry"), maxItems=MAX_BATCH),
                ),
            )
        },
        refusals=(*_BATCH, *_SEND),
        examples={
            "two": Example(
                "one is stored, one is not",
                200,
                {
                    "successful": [
                        {
                            "id": "a",
                            "message_id": _SECOND["id"],
                            "md5": _MD5_2,
                            "sequence": _SECOND["sequence"],
                        }
                    ],
                    "failed": [
                        {
                            "id": "b",
                            "code": "invalid_parameter",
                            "detail": "dedup_id is for FIFO queues only",
                            "sender_fault": True,
                        }
                    ],
                },
                {"name": "orders"},
                {"messages": [{"id": "a", "body": "order 2"}, {"id": "b", "body": "order 3", "dedup_id": "o3"}]},
            )
        },
    ),
    Operation(
        "POST",
        f"{_MESSAGES}/receive",
        "receiveMessages",
        "Queue messages",
        "Receive messages",
        "They are hidden from others until their visibility ends. Delete each when it is done.",
        parameters=(QUEUE_NAME,),
        bodies={JSON: obj({name: or_null(schema) for name, schema in _RECEIVE.items()})},
        needs_body=False,
        replies={200: Reply("messages, or none", _RECEIVED)},
        refusals=(*_BODY, InFlightLimit),
        examples={
            "wait": Example(
                "waiting for up to 20 seconds",
                200,
                {"messages": [_MESSAGE]},
                {"name": "orders"},
                {"max": 10, "wait": 20},
            )
        },
    ),
    Operation(
        "GET",
        f"{_MESSAGES}/receive",
        "receiveMessagesByQuery",
        "Queue messages",
        "Receive messages, without a body",
        parameters=_BY_QUERY,
        replies={200: Reply("messages, or none", _RECEIVED)},
        refusals=(*_CALL, InFlightLimit),
        examples={
            "one": Example(
                "one message",
                200,
                {"messages": [_SECOND]},
                {"name": "orders", "max": 1, "visibility": 60},
            )
        },
    ),
    Operation(
        "GET",
        _MESSAGES,
        "receiveMessagesShort",
        "Queue messages",
        "The same at a shorter path",
        parameters=_BY_QUERY,
        replies={200: Reply("messages, or none", _RECEIVED)},
        refusals=(*_CALL, InFlightLimit),
        examples={"none": Example("there is none", 200, {"messages": []}, {"name": "orders", "wait": 0})},
    ),
    Operation(
        "GET",
        f"{_MESSAGES}/peek",
        "peekMessages",
        "Queue messages",
        "Look at messages without receiving them",
        parameters=(
            QUEUE_NAME,
            Parameter("limit", "query", whole("how many at most", 1, MOST_SEEN, default=MAX_RECEIVE), "messages shown"),
        ),
        replies={
            200: Reply("the oldest that are visible, without receipts", answer(messages=listing(ref("QueueMessage"))))
        },
        refusals=_CALL,
        examples={
            "orders": Example(
                "one message",
                200,
                {
                    "messages": [
                        {
                            "id": _ID,
                            "body": "order 1",
                            "md5": _MD5,
                            "attributes": {"priority": 3},
                            "md5_attributes": _ATTRIBUTES_MD5,
                            "receive_count": 0,
                            "sent_at": 1795690874507,
                            "sequence": _SEQUENCE,
                            "sender": KEY_ID,
                        }
                    ]
                },
                {"name": "orders", "limit": 1},
            )
        },
    ),
    Operation(
        "POST",
        f"{_MESSAGES}/delete",
        "deleteMessages",
        "Queue messages",
        f"Delete up to {MAX_BATCH} messages",
        parameters=(QUEUE_NAME,),
        bodies={
            JSON: {
                "oneOf": [
                    batch("entries", {"receipt": _RECEIPT}, ("receipt",)),
                    obj({"receipts": listing(_RECEIPT, minItems=1, maxItems=MAX_BATCH)}, ("receipts",)),
                ]
            }
        },
        replies={200: Reply("what became of each; with `receipts` an id is the place in the list", _BATCH_ANSWER)},
        refusals=_BATCH,
        examples={
            "receipts": Example(
                "one message",
                200,
                {"successful": [{"id": "0"}], "failed": []},
                {"name": "orders"},
                {"receipts": [_SECOND["receipt"]]},
            )
        },
    ),
    Operation(
        "POST",
        f"{_MESSAGES}/visibility",
        "changeVisibilities",
        "Queue messages",
        f"Change how long up to {MAX_BATCH} messages are hidden",
        parameters=(QUEUE_NAME,),
        bodies={
            JSON: batch(
                "entries",
                {"receipt": _RECEIPT, "visibility": whole("seconds from now", 0, MAX_VISIBILITY)},
                ("receipt", "visibility"),
            )
        },
        replies={200: Reply("what became of each", _BATCH_ANSWER)},
        refusals=_BATCH,
        examples={
            "longer": Example(
                "two minutes more",
                200,
                {"successful": [{"id": "a"}], "failed": []},
                {"name": "orders"},
                {"entries": [{"id": "a", "receipt": _RECEIPT_1, "visibility": 120}]},
            )
        },
    ),
    Operation(
        "DELETE",
        f"{_MESSAGES}/<receipt>",
        "deleteMessage",
        "Queue messages",
        "Delete a message that was received",
        parameters=(QUEUE_NAME, _RECEIPT_PARAMETER),
        replies={204: Reply("it is gone; also a second time")},
        refusals=(*_CALL, ReceiptInvalid, ReceiptExpired),
        examples={
            "order": Example("a message", 204, None, {"name": "orders", "receipt": _RECEIPT_1}),
            "never_issued": Example(
                "a receipt that the queue never issued",
                400,
                {
                    "type": "/docs/problems/receipt_invalid",
                    "title": "The receipt was never issued by this queue",
                    "status": 400,
                    "detail": "The receipt was never issued by this queue",
                    "code": "receipt_invalid",
                    "request_id": "ae01e1628f9040e40000000000000003",
                },
                {"name": "orders", "receipt": "no-such-receipt"},
            ),
        },
    ),
    Operation(
        "PATCH",
        f"{_MESSAGES}/<receipt>",
        "changeVisibility",
        "Queue messages",
        "Change how long a received message is hidden",
        parameters=(QUEUE_NAME, _RECEIPT_PARAMETER),
        bodies={
            JSON: obj({"visibility": whole("seconds from now; 0 shows it at once", 0, MAX_VISIBILITY)}, ("visibility",))
        },
        replies={204: Reply("it is, or the message is gone")},
        refusals=(*_BODY, ReceiptInvalid, ReceiptExpired, VisibilityTotal),
        examples={
            "longer": Example(
                "a minute from now", 204, None, {"name": "orders", "receipt": _RECEIPT_1}, {"visibility": 60}
            )
        },
    ),
    Operation(
        "GET",
        f"{_QUEUE}/dead-letter-sources",
        "deadLetterSources",
        "Dead letters",
        "The queues whose dead letters a queue takes",
        parameters=(QUEUE_NAME,),
        replies={200: Reply("those that the token grants", answer(queues=listing(QUEUE)))},
        refusals=_CALL,
        examples={"dead": Example("one queue", 200, {"queues": ["orders"]}, {"name": "orders-dead"})},
    ),
    Operation(
        "POST",
        f"{_QUEUE}/redrive",
        "startRedrive",
        "Dead letters",
        "Move dead letters back, or elsewhere",
        parameters=(QUEUE_NAME,),
        bodies={
            JSON: obj(
                {
                    "destination": or_null({**QUEUE, "description": "each to where it came from, if absent"}),
                    "max_per_second": or_null(whole("as fast as it goes, if absent", 1, MAX_REDRIVE_RATE)),
                }
            )
        },
        needs_body=False,
        replies={202: Reply("it has begun", ref("Redrive"))},
        refusals=(*_BODY, RedriveRunning),
        examples={
            "orders": Example(
                "one message a second",
                202,
                _REDRIVE,
                {"name": "orders-dead"},
                {"destination": "orders", "max_per_second": 1},
            )
        },
    ),
    Operation(
        "GET",
        f"{_QUEUE}/redrive",
        "listRedrives",
        "Dead letters",
        "The last tasks that moved messages of a queue",
        parameters=(QUEUE_NAME,),
        replies={200: Reply("at most ten, the newest first", answer(tasks=listing(ref("Redrive"), maxItems=10)))},
        refusals=_CALL,
        examples={
            "tasks": Example("one task", 200, {"tasks": [{**_REDRIVE, "status": "completed"}]}, {"name": "orders-dead"})
        },
    ),
    Operation(
        "DELETE",
        f"{_QUEUE}/redrive/<task>",
        "cancelRedrive",
        "Dead letters",
        "End a task; what was moved stays moved",
        parameters=(QUEUE_NAME, Parameter("task", "path", text("the task", minLength=1), "the task")),
        replies={200: Reply("the task", ref("Redrive"))},
        refusals=_CALL,
        examples={
            "none": Example(
                "a task that there is not",
                404,
                {
                    "type": "/docs/problems/not_found",
                    "title": "No such thing here",
                    "status": 404,
                    "detail": "there is no such task that is running",
                    "code": "not_found",
                    "request_id": "ae01e1628f9040e40000000000000004",
                },
                {"name": "orders-dead", "task": "gone"},
            )
        },
    ),
    Operation(
        "PUT",
        f"{_QUEUE}/subscriptions",
        "subscribeQueue",
        "Queues and topics",
        "Send what is published on topics to a queue",
        parameters=(QUEUE_NAME,),
        bodies={JSON: _TOPIC},
        replies={201: Reply("subscribed", _TOPIC), 200: Reply("it was subscribed already", _TOPIC)},
        refusals=(*_BODY, InvalidTopic, Conflict),
        examples={
            "sales": Example("all sales", 201, {"topic": "sales/#"}, {"name": "orders"}, {"topic": "sales/#"}),
        },
    ),
    Operation(
        "GET",
        f"{_QUEUE}/subscriptions",
        "subscriptionsOfQueue",
        "Queues and topics",
        "The topics whose messages a queue gets",
        parameters=(QUEUE_NAME,),
        replies={200: Reply("the filters", answer(subscriptions=listing(answer(topic={"type": "string"}))))},
        refusals=_CALL,
        examples={"sales": Example("one filter", 200, {"subscriptions": [{"topic": "sales/#"}]}, {"name": "orders"})},
    ),
    Operation(
        "DELETE",
        f"{_QUEUE}/subscriptions",
        "unsubscribeQueue",
        "Queues and topics",
        "End a subscription",
        parameters=(QUEUE_NAME, Parameter("topic", "query", FILTER, "the filter, if it is not in the body")),
        bodies={JSON: _TOPIC},
        needs_body=False,
        replies={204: Reply("ended")},
        refusals=(*_BODY, InvalidTopic),
        examples={"sales": Example("all sales", 204, None, {"name": "orders", "topic": "sales/#"})},
    ),
)
