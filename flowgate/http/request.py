"""Requests and their connections, with the bounds that hold before anything is read or understood."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel

from flowgate.errors import MessageTooLarge
from flowgate.http.problems import PROBLEM_JSON, problem

if TYPE_CHECKING:
    from flowgate.http.site import FlowGateSite

BODY_BYTES = 8 * 1024 * 1024
"""Largest body of a request: beyond, 413 is answered before it is read."""

BODY_RATE = 64 * 1024
"""Bytes a second at which a body has to come at least."""

IDLE_SECONDS = 60
"""How long a connection is kept open between two requests."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")


class Channel(HTTPChannel):
    """An HTTP/1.1 connection.

    twisted.web's own time-out starts anew with every byte; here a request has to be whole in time, so that a client
    that sends a byte now and then holds nothing for long.
    """

    site: FlowGateSite
    _idle = False

    def connectionMade(self) -> None:
        limits = self.site.limits
        self.totalHeadersSize = self.MAX_LENGTH = limits.requests_head_bytes
        self.timeOut = limits.connect_seconds
        super().connectionMade()

    def resetTimeout(self) -> None:
        if self._idle:
            self._idle = False
            self.setTimeout(self.site.limits.connect_seconds)

    def lineReceived(self, line: bytes) -> None:
        self.resetTimeout()  # of a next request that came together with the last one
        super().lineReceived(line)

    def requestDone(self, request: server.Request) -> None:
        self._idle = True
        super().requestDone(request)  # which may begin with the next request
        if self.persistent and self._idle:
            self.setTimeout(IDLE_SECONDS)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()


class Request(server.Request):
    """A request with an identifier, a bounded body, and no trace of itself in any log.

    :ivar gone: whether the client is no longer there to be answered.
    :ivar request_id: what ``X-Request-Id`` says, in the answer and in our log.
    """

    defaultContentType = None
    gone = False
    request_id = ""
    _size = 0
    _refused = False

    def identify(self) -> None:
        """Take the client's own request id if it is a plain one, or make one up."""
        given = self.requestHeaders.getRawHeaders(b"X-Request-Id")
        if given and _REQUEST_ID.match(given[0]):
            self.request_id = given[0].decode()
        else:
            self.request_id = uuid4().hex

    def body(self) -> bytes:
        """The whole body."""
        assert isinstance(self.content, BytesIO)
        return self.content.getvalue()

    def abort(self) -> None:
        """Close the connection without sending what waits to be sent."""
        transport: Any = self.transport
        transport.abortConnection()

    def getRequestHostname(self) -> bytes:
        # Nothing here depends on the Host header, and Klein would log a traceback for one that is not UTF-8.
        return b"localhost"

    def gotLength(self, length: int | None) -> None:
        # In memory: twisted.web would put large bodies into files outside of the data directory.
        self.content = BytesIO()
        channel: Any = self.channel
        if length is not None and length > BODY_BYTES:
            self._refuse_body()
        elif length != 0:
            size = BODY_BYTES if length is None else length
            channel.setTimeout(channel.site.limits.connect_seconds + size // BODY_RATE)

    def handleContentChunk(self, data: bytes) -> None:
        if self._refused:
            return
        self._size += len(data)
        if self._size > BODY_BYTES:
            self._refuse_body()
        else:
            super().handleContentChunk(data)

    def _refuse_body(self) -> None:
        """Answer 413 now; what still comes is thrown away, so that closing does not destroy the answer on its way."""
        self._refused = True
        self.content = BytesIO()
        self.identify()
        channel: Any = self.channel
        channel.persistent = False
        channel.setTimeout(channel.site.limits.connect_seconds)
        self.requestHeaders.removeHeader(b"Expect")
        self.method, self.uri, self.clientproto = b"POST", b"", b"HTTP/1.1"
        refusal = MessageTooLarge(f"the body of a request has at most {BODY_BYTES} bytes")
        body = orjson.dumps(problem(refusal, self.request_id))
        self.setResponseCode(413)
        for name, value in (
            (b"Content-Type", PROBLEM_JSON),
            (b"Content-Length", b"%d" % len(body)),
            (b"Connection", b"close"),
            (b"Access-Control-Allow-Origin", b"*"),
            (b"X-Request-Id", self.request_id.encode()),
        ):
            self.setHeader(name, value)
        self.write(body)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._refused:
            self.finish()
        else:
            super().requestReceived(command, path, version)

    def connectionLost(self, reason: Failure) -> None:
        self.gone = True
        super().connectionLost(reason)
