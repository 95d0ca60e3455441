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
    """

    status: int
    body: bytes = b""
    content_type: bytes | None = JSON
    headers: Headers = ()


Handler = Callable[..., Awaitable["Answer | None"]]
"""Takes the request and the parts of its path; gives ``None`` if it has sent the answer itself."""


@attrs.frozen(slots=True)
class Route:
    """A method and a path (in Werkzeug's syntax) with who answers it."""

    method: str
    path: str
    handler: Handler


def json_answer(value: object, status: int = 200, headers: Headers = ()) -> Answer:
    """An answer of JSON."""
    return Answer(status, orjson.dumps(value), JSON, headers)


def problem_answer(refusal: Refused, request_id: str) -> Answer:
    """The answer to a request that is refused."""
    body = orjson.dumps(problem(refusal, request_id), default=str)
    return Answer(refusal.status, body, PROBLEM_JSON, problem_headers(refusal))


def wrong_method(request: Request, allowed: str) -> Answer:
    """The answer to a method that a path does not have; ``allowed`` are those that it has (RFC 9110 section 15.5.6)."""
    answer = problem_answer(MethodNotAllowed(f"allowed here: {allowed}"), request.request_id)
    return attrs.evolve(answer, headers=((b"Allow", allowed.encode()),))


NO_CONTENT = Answer(204, content_type=None)


def prepare(request: Request, answer: Answer) -> bytes:
    """Set the status and the header of an answer; give back its body."""
    request.setResponseCode(answer.status)
    set_header = request.responseHeaders.setRawHeaders
    for name, value in answer.headers:
        set_header(name, [value])
    if answer.content_type is not None:
        set_header(b"Content-Type", [answer.content_type])
        set_header(b"Content-Length", [b"%d" % len(answer.body)])
    return answer.body


def send(request: Request, answer: Answer) -> None:
    """Send a whole answer, if there is still somebody who waits for it."""
    if not request.gone:
        request.write(prepare(request, answer))
        request.finish()
