"""``/openapi.json``: the calls in the words of OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from flowgate import __version__
from flowgate.http.describing import (
    accounts,
    administration,
    dashboard,
    queues,
    service,
    signing,
    status,
    topics,
    usage,
    webhooks,
)
from flowgate.http.describing.shapes import SCHEMAS
from flowgate.http.describing.values import Operation
from flowgate.limits import Limits

_TAGS = {
    "Tokens": "API keys for tokens.",
    "Topics": "Publish, subscribe, and what was published before.",
    "Queues": "Each message is kept until one receiver has deleted it.",
    "Queue messages": "Send, receive, delete.",
    "Queues and topics": "What is published on topics can be sent to a queue.",
    "Dead letters": "Messages that were received too often.",
    "Webhooks": "What is published on topics can be sent to URLs.",
    "Usage": "What the account has used of its plan.",
    "Amazon SQS": "Unmodified SQS clients use the same queues.",
    "Administration": "For who holds the admin token.",
    "Health": "For machines that watch.",
    "Documents": "This and other descriptions.",
}

_SECURITY: dict[str, Any] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of `POST /token/`.",
    },
    "query_token": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "The same token, for clients that cannot set header fields.",
    },
    "api_key": {"type": "http", "scheme": "bearer", "description": "An API key: `<key id>.<secret>`."},
    "basic": {"type": "http", "scheme": "basic", "description": "An API key: its id and its secret."},
    "admin": {"type": "http", "scheme": "bearer", "description": "The admin token of this gateway."},
    "sqs": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "AWS Signature Version 4; access key id and secret are those of an API key.",
    },
}

_HEADERS = {
    "WWW-Authenticate": {"description": "How to say who you are (RFC 6750).", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 0}},
}

_ABOUT = """\
A messaging gateway: HTTP, Server-Sent Events, WebSocket, MQTT 3.1.1 and queues over the same topics.

JSON is UTF-8. Unknown members of a request are refused; ignore members of answers that you do not know. Every \
answer has `X-Request-Id`. `HEAD` is answered where `GET` is. Refusals are problem documents (RFC 9457) whose `code` \
stays the same. What travels by WebSocket, Server-Sent Events and MQTT is described in `/asyncapi.json`.
"""


def operations(limits: Limits) -> tuple[Operation, ...]:
    """Every call, with the bounds of this gateway."""
    return (
        *accounts.OPERATIONS,
        *administration.OPERATIONS,
        *dashboard.OPERATIONS,
        *signing.OPERATIONS,
        *status.OPERATIONS,
        *topics.operations(limits),
        *queues.OPERATIONS,
        *webhooks.OPERATIONS,
        *usage.OPERATIONS,
        *service.OPERATIONS,
    )


def document(limits: Limits) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations(limits):
        paths.setdefault(operation.template, {})[operation.method.lower()] = operation.shown()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Flow-Gate",
            "version": __version__,
            "summary": "A multi-protocol messaging gateway",
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "where this document comes from"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "webhooks": {"delivery": webhooks.DELIVERY},
        "components": {"schemas": {**SCHEMAS, **webhooks.SCHEMAS}, "securitySchemes": _SECURITY, "headers": _HEADERS},
        "externalDocs": {"url": "/docs", "description": "for people"},
    }
