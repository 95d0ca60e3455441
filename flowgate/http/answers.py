"""What a handler gives back, and how it is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import orjson

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


NO_CONTENT = Answer(204, content_type=None)


def send(request: Request, answer: Answer) -> None:
    """Send a whole answer, if there is still somebody who waits for it."""
    if request.gone:
        return
    request.setResponseCode(answer.status)
    set_header = request.responseHeaders.setRawHeaders
    for name, value in answer.headers:
        set_header(name, [value])
    if answer.content_type is not None:
        set_header(b"Content-Type", [answer.content_type])
        set_header(b"Content-Length", [b"%d" % len(answer.body)])
    request.write(answer.body)
    request.finish()
