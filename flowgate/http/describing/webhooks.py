"""The calls of webhooks."""

from __future__ import annotations

from typing import Any

from flowgate.errors import Conflict, InvalidTopic, NotFound, RateLimited
from flowgate.http.describing.common import WITH_BODY, WITH_GRANT, Refusals
from flowgate.http.describing.shapes import (
    CURSOR,
    ENCODING,
    FILTER,
    QUEUE,
    SECONDS,
    answer,
    listing,
    obj,
    or_null,
    ref,
    text,
    whole,
)
from flowgate.http.describing.values import JSON, Example, Operation, Parameter, Reply, Schema
from flowgate.webhooks.model import MAX_RECEIVES, MAX_URL, RECEIVES
from flowgate.webhooks.service import MAX_WEBHOOKS

_WEBHOOKS = "/api/v1/webhooks"
_WEBHOOK = f"{_WEBHOOKS}/<name>"

_NAME = Parameter("name", "path", text("1–64 of A-Z, a-z, 0-9, `_` and `-`", pattern="^[A-Za-z0-9_-]{1,64}$"), "which")
_URL = text("`https://host[:port]/path`", pattern='^https?://[!"$-~]+$', maxLength=MAX_URL)
_SECRET = text("signs what is sent; shown this once")

_MEMBERS: dict[str, Schema] = {
    "name": {"type": "string"},
    "topic": text("the filter, short or full as it was given"),
    "url": _URL,
    "dead_letter": or_null({**QUEUE, "description": "the queue that gets what cannot be delivered"}),
    "max_receives": whole("attempts for one message", 1, MAX_RECEIVES),
    "status": {"enum": ["enabled", "disabled", "removing"]},
    "created_at": SECONDS,
    "modified_at": SECONDS,
}

SCHEMAS: dict[str, Schema] = {
    "Webhook": answer("messages on matching topics are sent to the URL", **_MEMBERS),
    "SignedWebhook": {"allOf": [ref("Webhook"), answer(secret=_SECRET)]},
}

_CALL: Refusals = (*WITH_GRANT, NotFound, RateLimited, Conflict)

_SHOWN: dict[str, object] = {
    "name": "crm",
    "topic": "orders/#",
    "url": "https://hooks.example/orders",
    "dead_letter": None,
    "max_receives": RECEIVES,
    "status": "enabled",
    "created_at": 1795690800,
    "modified_at": 1795690800,
}
_WISH = {"topic": "orders/#", "url": "https://hooks.example/orders"}

OPERATIONS = (
    Operation(
        "GET",
        _WEBHOOKS,
        "listWebhooks",
        "Webhooks",
        "List webhooks",
        parameters=(
            Parameter("prefix", "query", text("what names begin with"), "those whose names begin so"),
            Parameter("limit", "query", whole("at most", 1, MAX_WEBHOOKS, default=MAX_WEBHOOKS), "on the page"),
            Parameter("cursor", "query", text("`next` of the page before"), "reads on"),
        ),
        replies={
            200: Reply(
                "the webhooks whose topics the token grants, by name",
                answer(webhooks=listing(ref("Webhook")), next=or_null(text("`cursor` of the next page"))),
            )
        },
        refusals=WITH_GRANT,
        examples={"all": Example("one webhook", 200, {"webhooks": [_SHOWN], "next": None}, {"limit": 10})},
    ),
    Operation(
        "PUT",
        _WEBHOOK,
        "configureWebhook",
        "Webhooks",
        "Make a webhook, or change it",
        "What is published on matching topics is sent to the URL, in order for each topic, signed, and again until it "
        "is taken.",
        parameters=(_NAME,),
        bodies={
            JSON: obj(
                {
                    "topic": FILTER,
                    "url": _URL,
                    "dead_letter": or_null({**QUEUE, "description": "gets what cannot be delivered"}),
                    "max_receives": or_null(whole("attempts for one message", 1, MAX_RECEIVES, default=RECEIVES)),
                },
                ("topic", "url"),
            )
        },
        replies={
            201: Reply("made, with the secret", ref("SignedWebhook")),
            200: Reply("it was there; it is changed if it was different", ref("Webhook")),
        },
        refusals=(*_CALL, *WITH_BODY, InvalidTopic),
        examples={"crm": Example("a new one", 201, {**_SHOWN, "secret": "fgwh_c2VjcmV0"}, {"name": "crm"}, _WISH)},
    ),
    Operation(
        "GET",
        _WEBHOOK,
        "describeWebhook",
        "Webhooks",
        "Describe a webhook, and how it does",
        parameters=(_NAME,),
        replies={
            200: Reply(
                "the webhook with its figures",
                {
                    "allOf": [
                        ref("Webhook"),
                        answer(
                            stats=answer(
                                waiting={"type": "integer", "minimum": 0},
                                oldest_age_seconds={"type": "number", "minimum": 0},
                            ),
                            last_failure={
                                "anyOf": [
                                    answer(at=SECONDS, reason=text("why it was not delivered")),
                                    {"type": "null"},
                                ]
                            },
                        ),
                    ]
                },
            )
        },
        refusals=_CALL,
        examples={
            "crm": Example(
                "nothing waits",
                200,
                {**_SHOWN, "stats": {"waiting": 0, "oldest_age_seconds": 0.0}, "last_failure": None},
                {"name": "crm"},
            )
        },
    ),
    Operation(
        "DELETE",
        _WEBHOOK,
        "removeWebhook",
        "Webhooks",
        "Remove a webhook, and what waits for it",
        parameters=(_NAME,),
        replies={204: Reply("it is gone")},
        refusals=_CALL,
        examples={"crm": Example("a webhook", 204, None, {"name": "crm"})},
    ),
    Operation(
        "POST",
        f"{_WEBHOOK}/secret",
        "renewSecret",
        "Webhooks",
        "Give a webhook a new secret",
        "For a day what is sent is signed with the one before as well.",
        parameters=(_NAME,),
        replies={200: Reply("the webhook with its new secret", ref("SignedWebhook"))},
        refusals=(*_CALL, *WITH_BODY),
        examples={"crm": Example("a webhook", 200, {**_SHOWN, "secret": "fgwh_YW5vdGhlcg"}, {"name": "crm"})},
    ),
)


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": "string"}}


DELIVERY: dict[str, Any] = {
    "post": {
        "operationId": "deliver",
        "tags": ["Webhooks"],
        "summary": "What a webhook's URL is sent",
        "description": "Check the signature, and answer within 10 seconds. What is not taken comes again, after pauses "
        "that grow. Messages of one topic come in order, one at a time.",
        "parameters": [
            _header("Flow-Id", "the message's place in history; the same in every attempt"),
            _header("Flow-Topic", "the topic; what is not printable ASCII is percent-encoded"),
            _header("Flow-Webhook", "the webhook's name"),
            _header("Flow-Attempt", "counts from 1"),
            _header("Flow-Timestamp", "seconds since 1970 UTC"),
            _header(
                "Flow-Signature",
                "`v1=` and the hexadecimal HMAC-SHA256, under the secret, of the timestamp, a dot and the body; after "
                "a new secret two of them for a day, separated by a comma",
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": obj(
                        {
                            "id": CURSOR,
                            "topic": text("short or full, as the webhook's filter"),
                            "data": {
                                "description": "a JSON object or array as it was published, other text as a string"
                            },
                            "encoding": ENCODING,
                        },
                        ("id", "topic", "data"),
                        more=True,
                    )
                }
            },
        },
        "responses": {
            "2XX": {"description": "taken"},
            "410": {"description": "never again: the webhook is disabled"},
            "default": {"description": "not taken; it comes again"},
        },
    }
}
"""The request to a webhook's URL, as OpenAPI's ``webhooks`` have it."""
