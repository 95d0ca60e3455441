"""The calls about the gateway itself, its documents, and where the protocol of Amazon SQS is."""

from __future__ import annotations

from flowgate import __version__
from flowgate.errors import NotFound
from flowgate.http.describing.common import ADMIN, ANY, NOBODY
from flowgate.http.describing.shapes import QUEUE, answer, text
from flowgate.http.describing.values import FORM, JSON, TEXT, Example, Operation, Parameter, Reply, Schema
from flowgate.http.health import LINKS

HTML = "text/html"

_SQS_JSON = "application/x-amz-json-1.0"

_ALIVE = answer(status={"type": "string"})
_WELCOME = answer(
    name={"const": "Flow-Gate"},
    version=text("of the gateway"),
    links={"type": "object", "additionalProperties": {"type": "string", "format": "uri-reference"}},
)
_AMAZON: Schema = {"description": "as Amazon documents it"}

_SQS_PATHS = (
    ("/", "", ()),
    ("/sqs", "At", ()),
    ("/sqs/", "Below", ()),
    ("/<int:account>/<queue>", "Queue", ("account", "queue")),
    ("/sqs/<int:account>/<queue>", "QueueAt", ("account", "queue")),
    ("/queue/<queue>", "QueueShort", ("queue",)),
)

_SQS_PARAMETERS = {
    "account": Parameter("account", "path", {"type": "integer", "minimum": 0}, "as in the queue's URL"),
    "queue": Parameter("queue", "path", QUEUE, "the queue"),
}

_SQS_FAULTS = {
    400: Reply("what Amazon's service would refuse too", _AMAZON, _SQS_JSON),
    403: Reply("no good signature, or no grant", _AMAZON, _SQS_JSON),
    500: Reply("a fault of ours", _AMAZON, _SQS_JSON),
    503: Reply("the message bus is away", _AMAZON, _SQS_JSON),
}


def _sqs() -> tuple[Operation, ...]:
    found: list[Operation] = []
    for path, name, parts in _SQS_PATHS:
        parameters = tuple(_SQS_PARAMETERS[part] for part in parts)
        for method in ("POST", "GET"):
            welcome = path == "/" and method == "GET"
            found.append(
                Operation(
                    method,
                    path,
                    f"sqs{name}{'ByQuery' if method == 'GET' else ''}",
                    "Amazon SQS",
                    "Say what this is, and where to go on" if welcome else "A call in the protocol of Amazon SQS",
                    "With `Action` in the query it is a call in the protocol of Amazon SQS." if welcome else "",
                    parameters=parameters,
                    bodies={_SQS_JSON: {"type": "object"}, FORM: {"type": "object"}} if method == "POST" else {},
                    replies={
                        200: Reply("name, version and links", _WELCOME)
                        if welcome
                        else Reply("as Amazon documents it", _AMAZON, _SQS_JSON)
                    },
                    refusals=(*(kind for kind in ANY if kind.status not in _SQS_FAULTS), NotFound),
                    others=_SQS_FAULTS,
                    security=("sqs", *(("nobody",) if welcome else ())),
                    examples={
                        "welcome": Example(
                            "what this is", 200, {"name": "Flow-Gate", "version": __version__, "links": LINKS}
                        )
                    }
                    if welcome
                    else {},
                )
            )
    return tuple(found)


OPERATIONS = (
    *_sqs(),
    Operation(
        "GET",
        "/healthz",
        "alive",
        "Health",
        "Whether the process lives",
        replies={200: Reply("it does", _ALIVE)},
        refusals=ANY,
        security=NOBODY,
        examples={"alive": Example("it lives", 200, {"status": "alive"})},
    ),
    Operation(
        "GET",
        "/readyz",
        "ready",
        "Health",
        "Whether this node takes requests",
        replies={200: Reply("it does", _ALIVE)},
        refusals=ANY,
        security=NOBODY,
        examples={"ready": Example("it is ready", 200, {"status": "ready"})},
    ),
    Operation(
        "GET",
        "/metrics",
        "metrics",
        "Health",
        "Figures for Prometheus",
        'Programs on the gateway\'s machine are not asked for the token; nobody is, with `metrics = "open"`.',
        replies={200: Reply("Prometheus's text format 0.0.4", {"type": "string"}, TEXT)},
        refusals=ADMIN,
        security=("admin", "nobody"),
    ),
    Operation(
        "GET",
        "/openapi.json",
        "openapi",
        "Documents",
        "This document",
        replies={200: Reply("OpenAPI 3.1", answer(openapi=text("the version"), info={"type": "object"}), JSON)},
        refusals=ANY,
        security=NOBODY,
    ),
    Operation(
        "GET",
        "/asyncapi.json",
        "asyncapi",
        "Documents",
        "What travels by WebSocket, Server-Sent Events and MQTT",
        replies={200: Reply("AsyncAPI 3.0", answer(asyncapi=text("the version"), info={"type": "object"}), JSON)},
        refusals=ANY,
        security=NOBODY,
    ),
    Operation(
        "GET",
        "/docs",
        "documentation",
        "Documents",
        "The documentation, for people",
        replies={200: Reply("a page", {"type": "string"}, HTML)},
        refusals=ANY,
        security=NOBODY,
    ),
    Operation(
        "GET",
        "/docs/problems/<code>",
        "explainProblem",
        "Documents",
        "What a code means, and what to do",
        parameters=(Parameter("code", "path", text("the code", minLength=1), "the code of a problem"),),
        replies={200: Reply("a page", {"type": "string"}, HTML)},
        refusals=(*ANY, NotFound),
        security=NOBODY,
    ),
)
