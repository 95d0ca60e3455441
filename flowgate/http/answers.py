"""What a handler gives back, and how it is sent."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import orjson

from flowgate.errors import MethodNotAllowed, Refused
from flowgate.http.problems import PROBLEM_JSON, problem, problem_headers
from flowgate.http.request import Request

JSON = b"application/json"

Headers = tuple[tuple[bytes, bytes], ...]


@attrs.frozen(slots=True)
class Answer:
    """A whole answer.

    :ivar content_type: ``None`` for an answer without a body.
    :ivar headers: beyond those that every answer has.
    :ivar refused: the code of the refusal that it tells of, for the count.
    """

    status: int
    body: bytes = b""
    content_type: bytes | None = JSON
    headers: Headers = ()
    refused: str = ""


Handler = Callable[..., Awaitable["Answer | None"]]
"""Takes the request and the parts of its path; gives ``None`` if it has sent the answer itself."""


@attrs.frozen(slots=True, eq=False)
class Route:
    """A method and a path (in Werkzeug's syntax) with who answers it.

    :ivar brief: whether the handler waits for nothing but the bus, and has asked it before it waits: then requests of
        one connection may be begun beside each other, and are answered also if the client has ended its side.
    :ivar protocol: under which its refusals are counted.
    """

    method: str
    path: str
    handler: Handler
    brief: bool = False
    protocol: str = "http"


def json_answer(value: object, status: int = 200, headers: Headers = ()) -> Answer:
    """An answer of JSON."""
    return Answer(status, orjson.dumps(value), JSON, headers)


def problem_answer(refusal: Refused, request_id: str) -> Answer:
    """The answer to a request that is refused."""
    body = orjson.dumps(problem(refusal, request_id), default=str)
    return Answer(refusal.status, body, PROBLEM_JSON, problem_headers(refusal), refusal.code)


def wrong_method(request: Request, allowed: str) -> Answer:
    """The answer to a method that a path does not have; ``allowed`` are those that it has (RFC 9110 section 15.5.6)."""
    answer = problem_answer(MethodNotAllowed(f"allowed here: {allowed}"), request.request_id)
    return attrs.evolve(answer, headers=((b"Allow", allowed.encode()),))


NO_CONTENT = Answer(204, content_type=None)


def send(request: Request, answer: Answer) -> None:
    """Send a whole answer, if there is still somebody who waits for it."""
    if answer.refused:
        request.refused = answer.refused
    request.answer(answer.status, answer.headers, answer.content_type, answer.body)
