"""A request and its answer.

Klein and Autobahn take a request of twisted.web, so this is one; but of what twisted.web does for each only that is
done which somebody asks for.  A whole answer is put together at once and sent by one write.
"""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote_to_bytes

import orjson
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import NO_BODY_CODES, datetimeToString
from twisted.web.http_headers import Headers

from flowgate.errors import Internal, Refused
from flowgate.http.headings import EXPOSED, GENERAL
from flowgate.http.problems import PROBLEM_JSON, problem, problem_headers
from flowgate.http.wire import Head

if TYPE_CHECKING:
    from flowgate.http.answers import Route
    from flowgate.http.channel import Channel

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
_GENERAL_NAMES = frozenset(name.lower() for name, _ in GENERAL)
_LINE_ENDS = re.compile(rb"[\r\n]+")


class Request(server.Request):
    """A request with an identifier, a whole body, and no trace of itself in any log.

    :ivar head: what was asked.
    :ivar gone: whether the client is no longer there to be answered.
    :ivar closes: whether the answer is the last one on its connection.
    :ivar cancel: called, if it is set, when the client has gone before it was answered.
    :ivar held: what waits until the requests before this one are answered.
    :ivar refusal: why it is answered without anybody being asked.
    :ivar began: when all of it had come, in the clock's seconds.
    :ivar route: who answers it, once that is found.
    :ivar refused: the code of the refusal that it is answered with.
    """

    defaultContentType = None
    channel: Channel  # type: ignore[assignment]
    cancel: Callable[[], object] | None = None
    gone = False
    refusal: Refused | None = None
    route: Route | None = None
    refused = ""
    _headers: Headers | None = None
    _id = ""
    _waiting: list[Deferred[None]] | None = None

    def __init__(self, channel: Channel, head: Head, body: bytes) -> None:
        self.channel = channel
        self.began = channel.site.clock.seconds()
        self.head = head
        self.method = head.method
        self.uri = head.uri
        self.path = head.path
        self.closes = not head.persistent
        self.held: list[bytes] = []
        self._body = body

    def seconds(self) -> float:
        """How long ago all of it had come."""
        return self.channel.site.clock.seconds() - self.began

    # -- what was asked

    @property
    def request_id(self) -> str:
        """What ``X-Request-Id`` says, in the answer and in our log: the client's own if it is a plain one."""
        if not self._id:
            given = self.head.fields.get(b"x-request-id")
            plain = given is not None and _REQUEST_ID.match(given[0])
            self._id = given[0].decode() if given and plain else self.channel.site.new_id()
        return self._id

    def body(self) -> bytes:
        """The whole body."""
        return self._body

    def values(self, name: bytes) -> Sequence[bytes]:
        """The values of a header field, by its name in lower case."""
        return self.head.fields.get(name, ())

    def getRequestHostname(self) -> bytes:
        # Nothing here depends on the Host header, and Klein would log a traceback for one that is not UTF-8.
        return b"localhost"

    @cached_property
    def requestHeaders(self) -> Headers:  # type: ignore[override]
        headers = Headers()
        for name, values in self.head.fields.items():
            headers.setRawHeaders(name, values)
        return headers

    @cached_property
    def content(self) -> BytesIO:  # type: ignore[override]
        return BytesIO(self._body)

    @cached_property
    def args(self) -> dict[bytes, list[bytes]]:  # type: ignore[override]
        return parse_qs(self.uri.partition(b"?")[2], keep_blank_values=True)

    @cached_property
    def received_cookies(self) -> dict[bytes, bytes]:  # type: ignore[override]
        pairs = [pair.partition(b"=") for value in self.values(b"cookie") for pair in value.split(b";")]
        return {name.strip(): value for name, equals, value in pairs if equals}

    @cached_property
    def cookies(self) -> list[bytes]:  # type: ignore[override]
        return []

    @cached_property
    def prepath(self) -> list[bytes]:  # type: ignore[override]
        return []

    @cached_property
    def postpath(self) -> list[bytes]:  # type: ignore[override]
        return [unquote_to_bytes(segment) for segment in self.path[1:].split(b"/")]

    @cached_property
    def client(self) -> Any:
        return self.channel.getPeer()

    @property
    def address(self) -> str:
        """Where it comes from; empty for a Unix socket.  Not what a header says: whoever asks could write that."""
        return str(getattr(self.client, "host", ""))

    @cached_property
    def host(self) -> Any:
        return self.channel.getHost()

    @cached_property
    def _adapterCache(self) -> dict[str, object]:  # type: ignore[override]
        return {}

    @property
    def transport(self) -> Any:  # type: ignore[override]
        return self.channel.transport

    @property
    def site(self) -> Any:  # type: ignore[override]
        return self.channel.site

    @property
    def clientproto(self) -> bytes:  # type: ignore[override]
        return b"HTTP/1.0" if self.head.old else b"HTTP/1.1"

    # -- the answer

    def answer(
        self, status: int, fields: Sequence[tuple[bytes, bytes]], content_type: bytes | None, body: bytes
    ) -> None:
        """Send a whole answer, if there is still somebody who waits for it.

        :param content_type: ``None`` if there is no body.
        """
        if self.gone or self.finished:
            return
        lines = b""
        for name, value in fields:
            if name.lower() in _GENERAL_NAMES:
                break
            if b"\n" in value or b"\r" in value:
                value = _LINE_ENDS.sub(b" ", value)
            lines += b"%b: %b\r\n" % (name, value)
        else:
            if self._headers is None and not self.startedWriting:
                self._answer(status, lines, content_type, body)
                return
        self.setResponseCode(status)
        for name, value in fields:
            self.setHeader(name, value)
        if content_type is not None:
            self.setHeader(b"Content-Type", content_type)
        if status not in NO_BODY_CODES and (content_type is not None or self.method != b"HEAD"):
            self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()

    def _answer(self, status: int, lines: bytes, content_type: bytes | None, body: bytes) -> None:
        head, channel = self.head, self.channel
        if self.closes:
            lines += b"Connection: close\r\n"
        elif head.old:
            lines += b"Connection: keep-alive\r\n"
        if b"origin" in head.fields:
            lines += b"Access-Control-Expose-Headers: %b\r\n" % EXPOSED
        heading = channel.site.headings.get(status, head.old)
        if content_type is not None:
            ending = b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (content_type, len(body))
        elif status in NO_BODY_CODES or self.method == b"HEAD":
            ending = b"\r\n"
        else:
            ending = b"Content-Length: 0\r\n\r\n"
        if self.method == b"HEAD":
            body = b""
        self.startedWriting = 1
        self.code = status
        channel.site.requests.answered(self, status)
        self._end(b"%bX-Request-Id: %b\r\n%b%b%b" % (heading, self.request_id.encode(), lines, ending, body))

    def refuse(self, refusal: Refused) -> None:
        """Answer with the problem that a refusal is."""
        self.refused = refusal.code
        body = orjson.dumps(problem(refusal, self.request_id), default=str)
        self.answer(refusal.status, problem_headers(refusal), PROBLEM_JSON, body)

    def close_after(self) -> None:
        """Let this be the last request of its connection."""
        self.closes = True
        self.channel.persistent = False

    @property
    def responseHeaders(self) -> Headers:  # type: ignore[override]
        headers = self._headers
        if headers is None:
            headers = self._headers = Headers()
            for name, value in GENERAL:
                headers.setRawHeaders(name, [value])
            headers.setRawHeaders(b"X-Request-Id", [self.request_id.encode()])
            if b"origin" in self.head.fields:
                headers.setRawHeaders(b"Access-Control-Expose-Headers", [EXPOSED])
        return headers

    def write(self, data: bytes) -> None:
        """Send a part of the answer, with the head before the first one."""
        if self.finished:
            raise RuntimeError("a part of an answer comes after its end")
        if self.gone:
            return
        head = b""
        if not self.startedWriting:
            self.startedWriting = 1
            head = self._begin()
        if not data or self.method == b"HEAD" or self.code in NO_BODY_CODES:
            data = head
        elif self.chunked:
            data = b"%b%x\r\n%b\r\n" % (head, len(data), data)
        elif head:
            data = head + data
        if data:
            self.channel.send(self, data)

    def _begin(self) -> bytes:
        """The head of an answer that comes in parts, or that has header fields of its own."""
        self.channel.site.requests.answered(self, self.code)
        headers = self.responseHeaders
        if not headers.hasHeader(b"Content-Length") and self.method != b"HEAD" and self.code not in NO_BODY_CODES:
            if self.head.old:
                self.close_after()  # the end of the connection is the end of the answer
            else:
                headers.setRawHeaders(b"Transfer-Encoding", [b"chunked"])
                self.chunked = 1
        if self.closes:
            headers.setRawHeaders(b"Connection", [b"close"])
        elif self.head.old:
            headers.setRawHeaders(b"Connection", [b"keep-alive"])
        if self.lastModified is not None:
            headers.setRawHeaders(b"Last-Modified", [datetimeToString(self.lastModified)])
        if self.etag is not None:
            headers.setRawHeaders(b"ETag", [self.etag])
        if self.cookies:
            headers.setRawHeaders(b"Set-Cookie", self.cookies)
        headings = self.channel.site.headings
        headings.get(self.code, self.head.old)
        lines = [b"%b %d %b" % (self.clientproto, self.code, self.code_message), b"Date: %b" % headings.date]
        lines += [b"%b: %b" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def finish(self) -> None:
        """The answer is complete; whoever comes too late with that is not heard."""
        if self.finished or self.gone:
            return
        if not self.startedWriting:
            self.write(b"")
        self._end(b"0\r\n\r\n" if self.chunked else b"")

    def _end(self, data: bytes) -> None:
        """Send the last part of the answer."""
        self.finished = 1
        self.cancel = None
        self.channel.finish(self, data)
        waiting, self._waiting = self._waiting, None
        for deferred in waiting or ():
            deferred.callback(None)

    def processingFailed(self, reason: Failure) -> Failure:
        self._log.failure("request {request_id} failed", reason, request_id=self.request_id)
        if self.startedWriting:
            self.abort()
        else:
            self._headers = None
            self.refuse(Internal())
        return reason

    # -- the connection

    def notifyFinish(self) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(deferred)
        return deferred

    def abort(self) -> None:
        """Close the connection without sending what waits to be sent."""
        self.channel.abort()

    def connectionLost(self, reason: Failure) -> None:
        """Called by the channel: the client has gone."""
        self.gone = True
        waiting, self._waiting = self._waiting, None
        for deferred in waiting or ():
            deferred.errback(reason)
        cancel, self.cancel = self.cancel, None
        if cancel is not None:
            cancel()
