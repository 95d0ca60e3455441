"""JSON Schemas of what the calls take and give, with the bounds that the code itself checks."""

from __future__ import annotations

from typing import Any

import attrs

from flowgate.http.describing.values import Schema
from flowgate.http.history import MOST_MESSAGES
from flowgate.http.publish import MAX_TTL
from flowgate.http.queue_values import MESSAGE
from flowgate.http.queues import MOST_QUEUES
from flowgate.limits import Limits
from flowgate.queues.model import (
    MAX_ATTRIBUTES,
    MAX_BATCH,
    MAX_REDRIVE_RATE,
    MAX_TAGS,
    RANGES,
    QueueConfig,
)
from flowgate.topics import MAX_NAME_BYTES


def obj(
    properties: dict[str, Schema], required: tuple[str, ...] = (), more: bool = False, description: str = ""
) -> Schema:
    """An object.

    :param more: whether it may have further members: answers may, requests may not.
    """
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    if not more:
        schema["additionalProperties"] = False
    if description:
        schema["description"] = description
    return schema


def answer(description: str = "", /, **properties: Schema) -> Schema:
    """An object of an answer that always has these members; clients ignore those that they do not know."""
    return obj(properties, tuple(properties), more=True, description=description)


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def whole(description: str, least: int, most: int, **more: Any) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "description": description, **more}


def flag(description: str, **more: Any) -> Schema:
    return {"type": "boolean", "description": description, **more}


def listing(items: Schema, description: str = "", **more: Any) -> Schema:
    return {"type": "array", "items": items, **({"description": description} if description else {}), **more}


def or_null(schema: Schema) -> Schema:
    """The same, or null, which says as much as leaving it out."""
    return {**schema, "type": [schema["type"], "null"]}


CURSOR = text("a place in history: `<epoch>-<sequence>`", pattern="^[0-9a-z]{1,16}-(0|[1-9][0-9]{0,18})$")
TIME = text("in UTC, RFC 3339", format="date-time")
SECONDS = {"type": "integer", "description": "seconds since 1970 UTC"}
MILLISECONDS = {"type": "integer", "description": "milliseconds since 1970 UTC"}
ENCODING = {"const": "base64", "description": "there if the payload is not UTF-8: `data` is its base64"}

LABEL = "^[a-z0-9-]{1,32}$"
TOPIC = text(
    f"a topic, short or full: 1 to {MAX_NAME_BYTES} bytes of UTF-8 without NUL, `+` and `#`",
    minLength=1,
    maxLength=MAX_NAME_BYTES,
    pattern="^[^+#\\u0000]+$",
)
FILTER = text(
    "a topic filter, short or full; `+` stands for one level, `#` for all that follow",
    minLength=1,
    maxLength=MAX_NAME_BYTES,
    pattern="^[^\\u0000]+$",
)
QUEUE = text(
    "1 to 80 of A-Z, a-z, 0-9, `_` and `-`; that of a FIFO queue ends in `.fifo`",
    minLength=1,
    maxLength=80,
    pattern=r"^[A-Za-z0-9_-]+(\.fifo)?$",
)
TOKEN_128 = r"^[!-~]{1,128}$"
QUEUE_GRANT = text(
    "a queue's name, or the beginning of names followed by `*`; with `send:`, `receive:` or `manage:` before it for "
    "that alone",
    pattern=r"^((send|receive|manage):)?([A-Za-z0-9_-]{1,80}(\.fifo)?|[A-Za-z0-9_.-]{0,80}\*)$",
)

_DEFAULTS = {field.name: field.default for field in attrs.fields(QueueConfig)}

_CONFIG_TEXTS = {
    "visibility": "seconds that a received message is hidden, if the receive does not say",
    "delay": "seconds that a new message is hidden, if the message does not say",
    "receive_wait": "seconds that a receive waits, if it does not say",
    "max_message_bytes": "largest body and attributes together",
    "retention": "seconds that a message is kept",
}

_ALLOW: Schema = {
    "description": "whose dead letters the queue takes",
    "anyOf": [{"enum": ["all", "none"]}, listing(QUEUE, minItems=1, maxItems=10)],
}
_DEAD_LETTER = obj(
    {"queue": QUEUE, "max_receives": whole("a receive beyond so many moves the message", 1, 1000, default=10)},
    ("queue",),
    description="where messages go that were received too often",
)
_SCOPE = {"enum": ["queue", "group"]}
_TAGS: Schema = {
    "type": "object",
    "description": "the owner's notes",
    "maxProperties": MAX_TAGS,
    "propertyNames": {"minLength": 1, "maxLength": 128},
    "additionalProperties": {"type": "string", "maxLength": 256},
}
_AWS: Schema = {
    "type": "object",
    "description": "attributes of SQS that mean something at Amazon only; kept and shown",
    "maxProperties": 16,
    "propertyNames": {"minLength": 1, "maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 64 * 1024},
}

_CONFIG: dict[str, Schema] = {
    "type": {"enum": ["standard", "fifo"], "description": "`fifo` if, and only if, the name ends in `.fifo`"},
    **{
        name: whole(_CONFIG_TEXTS[name], least, most, default=_DEFAULTS[name]) for name, (least, most) in RANGES.items()
    },
    "dead_letter": {"anyOf": [_DEAD_LETTER, {"type": "null"}]},
    "dead_letter_allow": _ALLOW,
    "content_dedup": flag("FIFO: the SHA-256 of the body stands for an absent `dedup_id`"),
    "dedup_scope": {**_SCOPE, "description": "FIFO: where a `dedup_id` is one of a kind"},
    "throughput_limit": {**_SCOPE, "description": "FIFO: kept for SQS clients; it limits nothing"},
    "tags": _TAGS,
    "aws": _AWS,
}


def _settable(members: dict[str, Schema]) -> dict[str, Schema]:
    """The members as a request may have them: null stands for the default."""
    return {
        name: or_null(schema)
        if isinstance(schema.get("type"), str)
        else schema
        if name == "dead_letter"
        else {"anyOf": [schema, {"type": "null"}]}
        for name, schema in members.items()
    }


CONFIG_WISH = obj(_settable(_CONFIG), description="what is absent or null has its default")
CONFIG_CHANGE = obj(
    {
        **_settable(_CONFIG),
        "tags": or_null({**_TAGS, "additionalProperties": {"type": ["string", "null"], "maxLength": 256}}),
    },
    description="what is absent stays; null stands for the default, and in `tags` takes one away",
)
NAMED_CONFIG_WISH = obj({"name": QUEUE, **_settable(_CONFIG)}, ("name",))

_ATTRIBUTES: Schema = {
    "type": ["object", "null"],
    "description": "texts, numbers, or `{type, value}` for every type that SQS knows",
    "maxProperties": MAX_ATTRIBUTES,
    "propertyNames": {"pattern": "^[A-Za-z0-9_.-]{1,256}$"},
    "additionalProperties": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "number", "minimum": -(2**53), "maximum": 2**53},
            obj(
                {
                    "type": text("`String`, `Number` or `Binary`, perhaps with a label behind a dot"),
                    "value": text("a binary one is base64"),
                },
                ("type", "value"),
            ),
        ]
    },
}

_OUTGOING: dict[str, Schema] = {
    "body": text("a text of the characters that XML 1.0 allows", minLength=1),
    "body_base64": text("bytes in base64, instead of `body`", contentEncoding="base64"),
    "attributes": _ATTRIBUTES,
    "delay": or_null(whole("seconds until it is visible; on a FIFO queue only 0", *RANGES["delay"])),
    "group": or_null(text("needed on a FIFO queue", pattern=TOKEN_128)),
    "dedup_id": or_null(text("FIFO: what has the same within 5 minutes is stored once", pattern=TOKEN_128)),
}
assert tuple(sorted(_OUTGOING)) == tuple(sorted(MESSAGE))
_ONE_BODY = [{"required": ["body"]}, {"required": ["body_base64"]}]

OUTGOING = {**obj(_OUTGOING), "oneOf": _ONE_BODY}

ENTRY_ID = text("names the entry in the answer; not repeated", pattern="^[A-Za-z0-9_-]{1,80}$")


def batch(member: str, entry: dict[str, Schema], required: tuple[str, ...], **more: Any) -> Schema:
    """The body of a batch of at most ten entries."""
    entries = listing({**obj({"id": ENTRY_ID, **entry}, ("id", *required)), **more}, minItems=1, maxItems=MAX_BATCH)
    return obj({member: entries}, (member,))


OUTGOING_BATCH = batch("messages", _OUTGOING, (), oneOf=_ONE_BODY)

_DIGEST = text("32 hexadecimal digits", pattern="^[0-9a-f]{32}$")
_SEQUENCE = text("20 digits, growing within the queue", pattern="^[0-9]{20}$")

_SENT = {
    "md5": {**_DIGEST, "description": "of the body"},
    "md5_attributes": {**_DIGEST, "description": "of the attributes, if there are any"},
    "sequence": _SEQUENCE,
    "duplicate": {"const": True, "description": "there if it repeats a message that is stored"},
}

USER: dict[str, Schema] = {
    "user": text("the name", pattern=LABEL),
    "created_at": SECONDS,
    "suspended": {"type": "boolean"},
    "plan": text("the name of the plan; empty for the default one"),
}

SCHEMAS: dict[str, Schema] = {
    "Problem": obj(
        {
            "type": text("where the code is explained", format="uri-reference"),
            "title": text("what the code means"),
            "status": {"type": "integer"},
            "detail": text("what was wrong; for people, and may change"),
            "code": text("a word that stays the same on every protocol", pattern="^[a-z0-9_]+$"),
            "request_id": text("as in the header `X-Request-Id`"),
        },
        ("type", "title", "status", "detail", "code", "request_id"),
        more=True,
        description="RFC 9457",
    ),
    "OAuthError": obj(
        {
            "error": {
                "enum": [
                    "invalid_request",
                    "invalid_client",
                    "unauthorized_client",
                    "invalid_scope",
                    "unsupported_grant_type",
                    "temporarily_unavailable",
                    "server_error",
                ]
            },
            "error_description": text("what was wrong; for people, and may change"),
            "code": text("the code of the same refusal on other calls"),
            "request_id": text("as in the header `X-Request-Id`"),
        },
        ("error", "error_description", "code", "request_id"),
        more=True,
        description="RFC 6749 section 5.2, with our own code beside it",
    ),
    "Message": {
        **obj(
            {
                "topic": TOPIC,
                "message": {"description": "any JSON value; a string travels as its UTF-8 bytes, the rest as JSON"},
                "ttl": or_null(whole("seconds after which history forgets it", 1, MAX_TTL)),
                "retain": flag("whether it is kept as the topic's retained message as well", default=False),
            },
            ("topic", "message"),
        ),
    },
    "Published": answer(
        id={**CURSOR, "description": "the message's place in history"},
        topic=text("as the request has it"),
        duplicate=flag("whether the same `Idempotency-Key` had been used before: this is its first message"),
    ),
    "QueueConfig": obj(
        _CONFIG,
        tuple(name for name in _CONFIG if name not in ("content_dedup", "dedup_scope", "throughput_limit", "aws")),
        more=True,
    ),
    "Queue": answer(name=QUEUE, config=ref("QueueConfig"), created_at=SECONDS, modified_at=SECONDS),
    "QueueStats": answer(
        visible={"type": "integer", "minimum": 0},
        in_flight={"type": "integer", "minimum": 0},
        delayed={"type": "integer", "minimum": 0},
        bytes={"type": "integer", "minimum": 0},
        oldest_age_seconds={"type": "number", "minimum": 0},
    ),
    "Sent": obj({"id": text("a UUID", format="uuid"), **_SENT}, ("id", "md5", "sequence"), more=True),
    "SentEntry": obj(
        {"id": ENTRY_ID, "message_id": text("a UUID", format="uuid"), **_SENT},
        ("id", "message_id", "md5", "sequence"),
        more=True,
    ),
    "FailedEntry": answer(
        id=text("the entry"),
        code=text("as in a problem"),
        detail=text("what was wrong; for people"),
        sender_fault=flag("whether sending it again as it is would be in vain"),
    ),
    "QueueMessage": obj(
        {
            "id": text("a UUID", format="uuid"),
            "receipt": text("names this receive; delete and visibility take it"),
            "body": text("as it was sent"),
            "body_base64": text("bytes, instead of `body`", contentEncoding="base64"),
            "md5": {**_DIGEST, "description": "of the body"},
            "attributes": {"type": "object"},
            "md5_attributes": {**_DIGEST, "description": "of the attributes"},
            "receive_count": {"type": "integer", "minimum": 0},
            "sent_at": MILLISECONDS,
            "first_received_at": MILLISECONDS,
            "sequence": _SEQUENCE,
            "sender": text("the API key that it was sent with"),
            "group": text("as it was sent"),
            "dedup_id": text("as it was sent, or the content's"),
            "trace": text("the `AWSTraceHeader` of an SQS client"),
            "dead_letter_source": text("on a dead-letter queue: where it comes from"),
        },
        ("id", "md5", "attributes", "receive_count", "sent_at", "sequence"),
        more=True,
    ),
    "Redrive": obj(
        {
            "task": text("names the task"),
            "status": {"enum": ["running", "completed", "cancelling", "cancelled", "failed"]},
            "destination": {"type": ["string", "null"]},
            "max_per_second": or_null(whole("messages a second", 1, MAX_REDRIVE_RATE)),
            "started_at": MILLISECONDS,
            "moved": {"type": "integer", "minimum": 0},
            "to_move": {"type": "integer", "minimum": 0},
            "failure": text("why it failed"),
        },
        ("task", "status", "destination", "max_per_second", "started_at", "moved", "to_move"),
        more=True,
    ),
    "ApiKey": answer(
        id=text("the public part of the key", pattern="^FGAK[A-Z2-7]{16}$"),
        user=text("its user", pattern=LABEL),
        app=text("its application", pattern=LABEL),
        name=text("what it was called"),
        publish=listing({"type": "string"}, "filters, full names"),
        subscribe=listing({"type": "string"}, "filters, full names"),
        queues=listing({"type": "string"}),
        created_at=SECONDS,
        expires_at={"type": ["integer", "null"]},
        last_used_at={"type": ["integer", "null"], "description": "at most a minute too early"},
        disabled=flag("whether it was revoked"),
        successor={"type": ["string", "null"], "description": "the id of the key that it was rotated to"},
    ),
    "User": answer(**USER),
    "Share": answer(
        id=text("names the share", pattern="^FGSH[0-9A-F]{16}$"),
        owner=text("whose topics they are", pattern=LABEL),
        app=text("the owner's application", pattern=LABEL),
        grantee=text("whose keys may use them", pattern=LABEL),
        grantee_app={"type": ["string", "null"], "description": "the application whose keys may; null for all"},
        publish=listing({"type": "string"}, "filters, full names"),
        subscribe=listing({"type": "string"}, "filters, full names"),
        name=text("what it is for"),
        created_at=SECONDS,
    ),
    "AuditEntry": answer(
        sequence={"type": "integer", "description": "its place in the log"},
        at=TIME,
        actor={"enum": ["admin", "user", "key", "gateway"], "description": "`admin` is who holds the admin token"},
        actor_name={"type": ["string", "null"], "description": "the user's name, or the key's id"},
        address={"type": ["string", "null"], "description": "where the request came from"},
        request_id={"type": ["string", "null"]},
        action=text("for example `key.create`"),
        subject=text("on what: the id of a key or a share, the name of a user"),
        user={"type": ["string", "null"], "description": "the account that it is about"},
        refused={"type": ["string", "null"], "description": "the code of what it was refused with, if it was"},
        detail={"type": "object", "description": "what else there is to say; never a secret"},
        left_out=listing({"type": "string"}, "members of `detail` that were too long"),
    ),
}


def messages_batch(limits: Limits) -> Schema:
    """The body of a batch publish."""
    return obj({"messages": listing(ref("Message"), minItems=1, maxItems=limits.batch_messages)}, ("messages",))


PAGE_OF_MESSAGES = whole("how many at most", 1, MOST_MESSAGES, default=100)
PAGE_OF_QUEUES = whole("how many at most", 1, MOST_QUEUES, default=100)
