"""An HTTP call described as a value, and that value in the words of OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from flowgate.errors import Refused

Schema = dict[str, Any]

JSON = "application/json"
PROBLEM = "application/problem+json"
FORM = "application/x-www-form-urlencoded"
EVENTS = "text/event-stream"
BYTES = "application/octet-stream"
TEXT = "text/plain"
NOBODY = "nobody"
"""In the list of who may ask: somebody of whom nothing is known."""

_PART = re.compile(r"<(?:\w+:)?(\w+)>")


@attrs.frozen(slots=True)
class Parameter:
    """A value that stands in the path, the query or a header field.

    :ivar place: ``path``, ``query`` or ``header``.
    """

    name: str
    place: str
    schema: Schema
    description: str
    required: bool = False

    def shown(self, examples: Mapping[str, object]) -> dict[str, Any]:
        """The parameter in OpenAPI's words.

        :param examples: values by the names of the examples.
        """
        shown: dict[str, Any] = {
            "name": self.name,
            "in": self.place,
            "description": self.description,
            "schema": self.schema,
        }
        if self.required or self.place == "path":
            shown["required"] = True
        if examples:
            shown["examples"] = {name: {"value": value} for name, value in examples.items()}
        return shown


@attrs.frozen(slots=True)
class Reply:
    """An answer that is no refusal.

    :ivar schema: of the body; ``None`` if there is none.
    :ivar headers: further header fields: descriptions by name.
    """

    description: str
    schema: Schema | None = None
    media_type: str = JSON
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(slots=True)
class Example:
    """A call with its answer.  In the document request and answer are found by the same name.

    :ivar parameters: values by name; what is absent is not sent.
    :ivar body: what is sent: text as it is, anything else as JSON; ``None`` for no body.
    :ivar media_type: of the body.
    :ivar answer: text as it is, anything else as JSON; ``None`` for no body.
    """

    summary: str
    status: int
    answer: object = None
    parameters: Mapping[str, object] = attrs.field(factory=dict)
    body: object = None
    media_type: str = JSON


@attrs.frozen(slots=True)
class Operation:
    """One method of one path.

    :ivar path: in Werkzeug's syntax, as the route has it.
    :ivar tag: the group that it is shown in.
    :ivar bodies: schemas of the request's body by media type; none if it takes none.
    :ivar needs_body: whether the body may not be left out.
    :ivar replies: by status.
    :ivar refusals: what it can be refused with.
    :ivar oauth: whether refusals are told in the words of RFC 6749: statuses with their descriptions.
    :ivar security: the names of the ways to say who asks, any of which does; none if nobody is asked.
    :ivar examples: by name.
    """

    method: str
    path: str
    id: str
    tag: str
    summary: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    bodies: Mapping[str, Schema] = attrs.field(factory=dict)
    needs_body: bool = True
    replies: Mapping[int, Reply] = attrs.field(factory=dict)
    refusals: tuple[type[Refused], ...] = ()
    others: Mapping[int, Reply] = attrs.field(factory=dict)
    security: tuple[str, ...] = ("token",)
    examples: Mapping[str, Example] = attrs.field(factory=dict)

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it."""
        return _PART.sub(r"{\1}", self.path)

    def shown(self) -> dict[str, Any]:
        """The operation in OpenAPI's words."""
        shown: dict[str, Any] = {
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            **({"description": self.description} if self.description else {}),
            "security": [{} if name == NOBODY else {name: []} for name in self.security],
        }
        if self.parameters:
            shown["parameters"] = [one.shown(self._values(one.name)) for one in self.parameters]
        if self.bodies:
            shown["requestBody"] = {
                "required": self.needs_body,
                "content": {kind: self._content(kind, schema) for kind, schema in self.bodies.items()},
            }
        responses = {str(status): self._answer(status, reply) for status, reply in self.replies.items()}
        responses |= {str(status): self._answer(status, reply) for status, reply in self.others.items()}
        responses |= {str(status): self._problem(status, kinds) for status, kinds in self.by_status().items()}
        shown["responses"] = {status: responses[status] for status in sorted(responses)}
        return shown

    def by_status(self) -> dict[int, dict[str, type[Refused]]]:
        """The refusals by status and code."""
        found: dict[int, dict[str, type[Refused]]] = {}
        for kind in sorted(self.refusals, key=lambda kind: (kind.status, kind.code)):
            found.setdefault(kind.status, {}).setdefault(kind.code, kind)
        return found

    def _values(self, parameter: str) -> dict[str, object]:
        return {
            name: example.parameters[parameter]
            for name, example in self.examples.items()
            if parameter in example.parameters
        }

    def _content(self, kind: str, schema: Schema) -> dict[str, Any]:
        examples = {
            name: {"summary": example.summary, "value": example.body}
            for name, example in self.examples.items()
            if example.body is not None and example.media_type == kind
        }
        return {"schema": schema, **({"examples": examples} if examples else {})}

    def _answers(self, status: int) -> dict[str, Any]:
        examples = {
            name: {"summary": example.summary, "value": example.answer}
            for name, example in self.examples.items()
            if example.status == status and example.answer is not None
        }
        return {"examples": examples} if examples else {}

    def _answer(self, status: int, reply: Reply) -> dict[str, Any]:
        shown: dict[str, Any] = {"description": reply.description}
        if reply.headers:
            shown["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in reply.headers.items()
            }
        if reply.schema is not None:
            shown["content"] = {reply.media_type: {"schema": reply.schema, **self._answers(status)}}
        return shown

    def _problem(self, status: int, kinds: Mapping[str, type[Refused]]) -> dict[str, Any]:
        schema = {
            "allOf": [
                {"$ref": "#/components/schemas/Problem"},
                {"properties": {"status": {"const": status}, "code": {"enum": list(kinds)}}},
            ]
        }
        shown: dict[str, Any] = {
            "description": "; ".join(f"`{code}`: {kind.title.lower()}" for code, kind in kinds.items()),
            "content": {PROBLEM: {"schema": schema, **self._answers(status)}},
        }
        if status == 401:
            shown["headers"] = {"WWW-Authenticate": {"$ref": "#/components/headers/WWW-Authenticate"}}
        elif any(kind.default_retry_after is not None for kind in kinds.values()):
            shown["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
        return shown
