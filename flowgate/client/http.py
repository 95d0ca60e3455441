"""HTTP/1.1 for a client: one request to bytes, and the bytes of a connection to its answer (RFC 9112)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import httptools

from flowgate.errors import ProtocolViolation

HEAD_BYTES = 64 * 1024
"""Largest head of an answer."""
BODY_BYTES = 256 * 1024
"""Largest body of an answer: a token, or the reason why there is none."""


@attrs.frozen(slots=True)
class Answer:
    """A whole answer.

    :ivar headers: by lower-case name; of a repeated one the last.
    :ivar rest: what came behind it, if the connection speaks another protocol from there on (101).
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)
    rest: bytes = attrs.field(default=b"", repr=False)


def request(method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """One request.

    :raises ValueError: if the target or a header has characters that would end its line.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    for line in lines:
        if not line.isascii() or not line.isprintable():
            raise ValueError("a request's line has characters that may not be there")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


class AnswerReader:
    """Reads the answer to one request."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._head = 0
        self._whole = self._in_body = False

    def receive(self, data: bytes) -> Answer | None:
        """Take bytes; return the answer once it is whole.

        :raises ProtocolViolation: if that is no answer, or a larger one than is taken.
        """
        rest = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._whole = True
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError:
            if not self._whole:  # what stands behind the last answer of a connection is none of our business
                raise ProtocolViolation("what answers does not speak HTTP") from None
        if not self._in_body:
            self._head += len(data)
        if not self._whole and self._head > HEAD_BYTES:
            raise ProtocolViolation("the head of an answer is too large")
        if len(self._body) > BODY_BYTES:
            raise ProtocolViolation("the body of an answer is too large")
        return self._answer(rest) if self._whole else None

    def end(self) -> Answer | None:
        """The connection has ended; return the answer if that is how its end is told (RFC 9112 section 6.3)."""
        ends = self._in_body and not {"content-length", "transfer-encoding"} & self._headers.keys()
        return self._answer(b"") if ends and not self._whole else None

    def _answer(self, rest: bytes) -> Answer:
        return Answer(self._parser.get_status_code(), self._headers, bytes(self._body), rest)

    # -- what httptools calls

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._whole:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        if not self._whole:
            self._body += data

    def on_message_complete(self) -> None:
        if self._whole or self._parser.get_status_code() in (100, 102, 103):
            # Interim answers come before the one that counts (RFC 9110 section 15.2).
            self._in_body = False
            self._headers = {} if not self._whole else self._headers
        else:
            self._whole = True
