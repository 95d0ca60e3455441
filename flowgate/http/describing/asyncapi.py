"""``/asyncapi.json``: frames, events and packets in the words of AsyncAPI 3.0."""

from __future__ import annotations

from typing import Any

from flowgate import __version__
from flowgate.http.describing.place import Place
from flowgate.http.describing.shapes import CURSOR, ENCODING, FILTER, TIME, TOPIC, flag, obj, text
from flowgate.http.describing.values import Schema
from flowgate.limits import Limits
from flowgate.websocket import frames

_NUMBER_BELOW = 2**53

_ID: Schema = {
    "description": "names the frame: it is answered by exactly one `ack` or `error` with the same id",
    "oneOf": [
        {"type": "string", "minLength": 1, "maxLength": frames.MAX_ID_LENGTH},
        {"type": "integer", "minimum": 0, "maximum": _NUMBER_BELOW - 1},
    ],
}
_VALUE: Schema = {"description": "any JSON value"}
_CLIENT: Schema = obj(
    {
        "client": text("a random name of the connection"),
        "user": text("whose token it has"),
        "app": text("the application"),
        "since": {**TIME, "description": "when it came"},
    },
    ("client", "user", "app", "since"),
    more=True,
)
_ANN = {"client": "c4b1d7", "user": "ann", "app": "shop", "since": "2026-11-24T02:56:38.371Z"}
_COUNT: Schema = {"type": "integer", "minimum": 0, "description": "how many clients there are"}
_DATA: Schema = {"description": "a JSON object or array as it was published, any other text as a string"}

Examples = dict[str, dict[str, Any]]


def _frame(
    action: str, members: dict[str, Schema], required: tuple[str, ...] = (), more: bool = False
) -> tuple[str, Schema]:
    return action, obj({"action": {"const": action}, **members}, ("action", *required), more=more)


_FROM_CLIENT: dict[str, tuple[str, Schema, Examples]] = {
    "subscribe": (
        "deliver what is published on matching topics from now on",
        _frame(
            "subscribe",
            {
                "topic": FILTER,
                "since": {"anyOf": [CURSOR, {"const": "earliest"}], "description": "first what history holds"},
                "meta": flag("whether messages carry `id` and `ts`"),
                "retained": flag("whether what is retained comes first"),
                "presence": flag("whether to be counted, and told who comes and goes"),
                "id": _ID,
            },
            ("topic",),
        )[1],
        {
            "resume": {"action": "subscribe", "topic": "sales/#", "since": "earliest", "meta": True, "id": 1},
            "silent": {"action": "subscribe", "topic": "notifications"},
            "present": {"action": "subscribe", "topic": "room/1", "presence": True, "id": 5},
            "gap": {"action": "subscribe", "topic": "orders/#", "since": "0-7", "id": "late"},
        },
    ),
    "unsubscribe": (
        "end the subscription that was made under the same filter",
        _frame("unsubscribe", {"topic": FILTER, "id": _ID}, ("topic",))[1],
        {"unsubscribe": {"action": "unsubscribe", "topic": "sales/#", "id": 3}},
    ),
    "publish": (
        "publish a message; with `id` or `key` it is stored before it is acknowledged",
        _frame(
            "publish",
            {
                "topic": TOPIC,
                "message": _VALUE,
                "key": text("the same within 5 minutes is stored once", minLength=1, maxLength=frames.MAX_ID_LENGTH),
                "id": _ID,
            },
            ("topic", "message"),
        )[1],
        {
            "publish": {
                "action": "publish",
                "topic": "sales/rome",
                "message": {"item": 9},
                "id": "p1",
                "key": "order-4712",
            },
            "silent": {"action": "publish", "topic": "notifications", "message": "Hello World!"},
            "refused": {"action": "publish", "topic": "sales/#", "message": "to everybody", "id": 2},
        },
    ),
    "ping": ("ask for a sign of life", _frame("ping", {"id": _ID})[1], {"ping": {"action": "ping"}}),
    "auth": (
        "take another token, of the same user and application, for this connection",
        _frame("auth", {"token": text("the token"), "id": _ID}, ("token",))[1],
        {"auth": {"action": "auth", "token": "YOUR_JWT_TOKEN", "id": 4}},
    ),
    "who": (
        "ask who is subscribed with `presence`",
        _frame("who", {"topic": FILTER, "id": _ID}, ("topic", "id"))[1],
        {"who": {"action": "who", "topic": "room/1", "id": 6}},
    ),
}

_FROM_GATEWAY: dict[str, tuple[str, Schema, Examples]] = {
    "message": (
        "a delivery",
        _frame(
            "message",
            {
                "topic": TOPIC,
                "data": _DATA,
                "encoding": ENCODING,
                "id": {**CURSOR, "description": "with `meta`: the place in history"},
                "ts": {**TIME, "description": "with `meta`: when it was stored"},
                "retained": {"const": True, "description": "there if it is what is kept of its topic, not new"},
            },
            ("topic", "data"),
            more=True,
        )[1],
        {
            "silent": {"action": "message", "topic": "notifications", "data": "Hello World!"},
            "publish": {
                "action": "message",
                "topic": "sales/rome",
                "data": {"item": 9},
                "id": "8mu5le6q-18",
                "ts": "2026-11-24T02:56:38.371Z",
            },
        },
    ),
    "ack": (
        "success of the frame with this id",
        _frame(
            "ack",
            {
                "id": _ID,
                "topic": text("of a subscription or a publish"),
                "cursor": {
                    **CURSOR,
                    "description": "of a publish: where it is stored; with `meta`: behind what the subscription begins",
                },
                "duplicate": flag("of a publish: whether the key had been used before"),
                "client": text("with `presence`: the name of this connection"),
                "count": _COUNT,
                "clients": {"type": "array", "items": _CLIENT, "description": "of `who`"},
            },
            ("id",),
            more=True,
        )[1],
        {
            "resume": {"action": "ack", "id": 1, "topic": "sales/#", "cursor": "8mu5le6q-0"},
            "publish": {
                "action": "ack",
                "id": "p1",
                "topic": "sales/rome",
                "cursor": "8mu5le6q-18",
                "duplicate": False,
            },
            "unsubscribe": {"action": "ack", "id": 3, "topic": "sales/#"},
            "auth": {"action": "ack", "id": 4},
            "gap": {"action": "ack", "id": "late", "topic": "orders/#"},
            "present": {"action": "ack", "id": 5, "topic": "room/1", "client": _ANN["client"], "count": 1},
            "who": {"action": "ack", "id": 6, "topic": "room/1", "count": 1, "clients": [_ANN]},
        },
    ),
    "error": (
        "a refusal; `code` and `status` are the same as over HTTP",
        _frame(
            "error",
            {
                "code": text("a word that stays the same"),
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": text("what was wrong; for people"),
                "id": _ID,
                "topic": text("of a subscription that has ended by itself"),
                "retry_after": {"type": "integer", "description": "seconds after which to try again"},
            },
            ("code", "status", "detail"),
            more=True,
        )[1],
        {
            "refused": {
                "action": "error",
                "code": "invalid_topic",
                "status": 400,
                "detail": "a topic to publish to cannot contain the wildcards '+' and '#'",
                "id": 2,
            }
        },
    ),
    "presence": (
        "a client has come or gone; when there are very many, only how many there are",
        _frame(
            "presence",
            {
                "topic": text("the filter, as it was subscribed to"),
                "event": {"enum": ["join", "leave"]},
                "client": _CLIENT,
                "count": _COUNT,
            },
            ("topic", "count"),
            more=True,
        )[1],
        {
            "joined": {
                "action": "presence",
                "topic": "room/1",
                "event": "join",
                "client": {**_ANN, "client": "d5c2e8"},
                "count": 2,
            }
        },
    ),
    "pong": ("the answer to `ping`", _frame("pong", {}, more=True)[1], {"ping": {"action": "pong"}}),
    "notice": (
        "something to know that was not asked for",
        _frame(
            "notice",
            {
                "code": text("`token_expiring`, `going_away`, `gap`, `usage_threshold`, or why it is closed"),
                "expires_in": {"type": "integer", "description": "`token_expiring`: seconds"},
                "topic": text("`gap`: the filter"),
                "retry_after_ms": {"type": "integer", "description": "`going_away`: when to come back"},
                "oldest": {**CURSOR, "description": "`gap`: from here on history is whole"},
                "threshold": {"type": "integer", "description": "`usage_threshold`: per cent of the plan's units"},
                "detail": text("for people"),
            },
            ("code",),
            more=True,
        )[1],
        {
            "gap": {"action": "notice", "code": "gap", "topic": "orders/#", "oldest": "8mu5le6q-1"},
            "going_away": {"action": "notice", "code": "going_away", "retry_after_ms": 1700},
        },
    ),
}

_EVENT_DATA = obj(
    {
        "topic": TOPIC,
        "data": _DATA,
        "encoding": ENCODING,
        "retained": {"const": True, "description": "there if it is what is kept of its topic, not new"},
    },
    ("topic", "data"),
    more=True,
)

_EVENTS: dict[str, tuple[str, Schema, Schema, Examples]] = {
    "messageEvent": (
        "a delivery; come back with the last `id` and you miss nothing that history holds",
        obj({"event": {"const": "message"}, "id": text("for `Last-Event-ID`")}, ("event", "id"), more=True),
        _EVENT_DATA,
        {"stored": {"topic": "sales/berlin", "data": {"item": 7}}},
    ),
    "gapEvent": (
        "history before `oldest` may be gone",
        obj({"event": {"const": "gap"}}, ("event",), more=True),
        obj({"oldest": CURSOR}, ("oldest",), more=True),
        {"gap": {"oldest": "8mu5le6q-1"}},
    ),
}


def _message(name: str, summary: str, payload: Schema, examples: Examples, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": name,
        "summary": summary,
        "contentType": "application/json",
        "payload": payload,
        **more,
    }
    if examples:
        headers = {"headers": {"event": "message", "id": "8mu5le6q-2"}} if name == "messageEvent" else {}
        headers = {"headers": {"event": "gap"}} if name == "gapEvent" else headers
        message["examples"] = [{"name": key, **headers, "payload": value} for key, value in examples.items()]
    return message


def _in(channel: str, message: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{channel}/messages/{message}"}


def _title(action: str) -> str:
    return action[0].upper() + action[1:]


def document(limits: Limits, place: Place) -> dict[str, Any]:
    """The whole document.

    :param place: where the reader has found it.
    """
    own = {f"client{_title(name)}": name for name in _FROM_CLIENT}
    ours = {f"gateway{_title(name)}": name for name in _FROM_GATEWAY}
    socket = {key: _message(name, *_FROM_CLIENT[name]) for key, name in own.items()} | {
        key: _message(name, *_FROM_GATEWAY[name]) for key, name in ours.items()
    }
    events = {
        name: _message(name, summary, payload, examples, headers=headers)
        for name, (summary, headers, payload, examples) in _EVENTS.items()
    }
    answers = [_in("websocket", "gatewayAck"), _in("websocket", "gatewayError")]
    operations: dict[str, Any] = {
        f"receive{_title(name)}": {
            "action": "receive",
            "channel": {"$ref": "#/channels/websocket"},
            "summary": _FROM_CLIENT[name][0],
            "messages": [_in("websocket", key)],
            "reply": {
                "channel": {"$ref": "#/channels/websocket"},
                "messages": [*answers, *([_in("websocket", "gatewayPong")] if name == "ping" else [])],
            },
        }
        for key, name in own.items()
    }
    operations |= {
        f"send{_title(name)}": {
            "action": "send",
            "channel": {"$ref": "#/channels/websocket"},
            "summary": _FROM_GATEWAY[name][0],
            "messages": [_in("websocket", f"gateway{_title(name)}")],
        }
        for name in ("message", "presence", "error", "notice")
    }
    operations["sendEvents"] = {
        "action": "send",
        "channel": {"$ref": "#/channels/events"},
        "summary": "Server-Sent Events until the token expires",
        "messages": [_in("events", name) for name in events],
    }
    mqtt = {"channel": {"$ref": "#/channels/mqtt"}, "messages": [_in("mqtt", "packet")]}
    operations["receivePackets"] = {
        "action": "receive",
        "summary": "PUBLISH of a client",
        **mqtt,
        "bindings": {"mqtt": {"qos": 2, "bindingVersion": "0.2.0"}},
    }
    operations["sendPackets"] = {"action": "send", "summary": "PUBLISH to a subscriber", **mqtt}
    security = [{"$ref": "#/components/securitySchemes/token"}]
    servers: dict[str, Any] = {
        "http": {
            "host": place.host,
            "protocol": place.scheme,
            "description": "Server-Sent Events",
            "security": security,
        },
        "websocket": {"host": place.host, "protocol": place.socket_scheme, "description": "JSON", "security": security},
        "mqttOverWebsocket": {
            "host": place.host,
            "pathname": "/mqtt",
            "protocol": place.socket_scheme,
            "description": "MQTT over WebSocket, subprotocol `mqtt`",
            "security": [{"$ref": "#/components/securitySchemes/password"}],
        },
    }
    over_tcp: list[dict[str, str]] = []
    if place.mqtt is not None:
        servers["mqtt"] = {
            "host": place.mqtt_host,
            "protocol": "secure-mqtt" if place.mqtt.secure else "mqtt",
            "protocolVersion": "3.1.1",
            "security": [{"$ref": "#/components/securitySchemes/password"}],
        }
        over_tcp.append({"$ref": "#/servers/mqtt"})
    return {
        "asyncapi": "3.0.0",
        "id": "urn:flowgate",
        "info": {
            "title": "Flow-Gate",
            "version": __version__,
            "description": "What travels by WebSocket, Server-Sent Events and MQTT. The gateway is the application: it "
            "receives what clients send. Calls over HTTP are described in `/openapi.json`.",
            "license": {"name": "MIT"},
            "externalDocs": {"url": f"{place.url}/docs", "description": "for people"},
        },
        "defaultContentType": "application/json",
        "servers": servers,
        "channels": {
            "websocket": {
                "address": "/ws",
                "title": "WebSocket",
                "description": f"Text frames of one JSON object each, at most {2 * limits.message_bytes + 4096} bytes. "
                "Answers are found by their `id`; without one, success is silent.",
                "servers": [{"$ref": "#/servers/websocket"}],
                "messages": socket,
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "query": {"type": "object", "properties": {"token": text("the token")}},
                        "bindingVersion": "0.1.0",
                    }
                },
            },
            "events": {
                "address": "/api/v1/subscribe",
                "title": "Server-Sent Events",
                "description": "Its parameters are described in `/openapi.json`.",
                "servers": [{"$ref": "#/servers/http"}],
                "messages": events,
            },
            "mqtt": {
                "address": "{topic}",
                "title": "MQTT 3.1.1",
                "description": "QoS 0, 1 and 2, retained messages, wills, persistent sessions.",
                "servers": [*over_tcp, {"$ref": "#/servers/mqttOverWebsocket"}],
                "parameters": {"topic": {"description": "a topic, short or full"}},
                "messages": {
                    "packet": {
                        "name": "packet",
                        "summary": f"any bytes, at most {limits.message_bytes}",
                        "contentType": "application/octet-stream",
                        "payload": {"type": "string"},
                        "examples": [{"name": "hello", "payload": "Hello from MQTT!"}],
                    }
                },
            },
        },
        "operations": operations,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "a token of `POST /token/`; or as `token` in the query",
                },
                "password": {"type": "userPassword", "description": "user name `Bearer`, password the token"},
            }
        },
    }
