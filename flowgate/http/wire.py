"""HTTP/1.1 requests out of the bytes of a connection (RFC 9112).

A message is read in two steps.  Its head is awaited whole and then read at once: the request line here, the fields by
llhttp (httptools), and what llhttp lets through though its length is in doubt is refused here.  A program sends nearly
the same head each time, so heads that were read are kept and found again by their bytes.  The body is cut off by its
length, or put together from its chunks; nothing of it is given before it is whole.

So the result depends on the bytes alone, not on how they were divided.
"""

from __future__ import annotations

import re

import httptools

from flowgate.errors import InvalidParameter, MessageTooLarge, Refused

CHUNKED = -1
"""In place of the length of a body that comes in chunks."""

MAX_FIELDS = 500
"""Header fields of one request."""

CHUNK_LINE_BYTES = 1024
"""Largest line with the size of a chunk, its extensions included."""

_KEPT_HEADS = 512
_KEPT_HEAD_BYTES = 4096
_ENDLESS = 1 << 128

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(%b) ([^\x00-\x20#\x7f]+) HTTP/([0-9])\.([0-9])\r\n" % _TOKEN)
_BEGINNING = re.compile(rb"%b(?: |\Z)" % _TOKEN)
# What no head has anywhere: line ends that are only half there, which others may read in another way, and NUL.
_NOWHERE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_ABSOLUTE = re.compile(rb"https?://[^/?]*", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n\Z")
_TRAILER = re.compile(rb"%b:[^\x00-\x08\x0a-\x1f\x7f]*\r\n\Z" % _TOKEN)


class Malformed(InvalidParameter):
    """Bytes that are no request, or one whose end is in doubt."""

    title = "The request is not HTTP/1.1"


class VersionNotSupported(Malformed):
    status, code, title = 505, "version_not_supported", "The version of HTTP is not supported"


class CodingNotSupported(Malformed):
    status, code, title = 501, "coding_not_supported", "The transfer coding is not supported"


class TargetTooLong(Malformed):
    status, code, title = 414, "target_too_long", "The target of the request is too long"


class HeadTooLarge(Malformed):
    status, code, title = 431, "head_too_large", "The request line and the header fields are too large"


class BodyTooLarge(MessageTooLarge):
    """The body is larger than any that is taken."""


class Head:
    """A request without its body.

    :ivar uri: path and query, whatever the form of the request's target.
    :ivar fields: the values of the header fields by their names in lower case.
    :ivar length: the bytes of the body, or :data:`CHUNKED`.
    :ivar persistent: whether the client wants to send further requests.
    :ivar expects: whether it waits for ``100 Continue``.
    :ivar old: whether it speaks HTTP/1.0.
    :ivar media_type: the content type without parameters, in lower case; empty if there is none.
    :ivar bearer: the bearer token, once somebody has found it in the fields.
    """

    __slots__ = (
        "_count",
        "bearer",
        "expects",
        "fields",
        "length",
        "media_type",
        "method",
        "old",
        "path",
        "persistent",
        "uri",
    )

    def __init__(self, data: bytes) -> None:
        """Read a head.

        :param data: all of it, with the empty line at its end.
        :raises Refused: if it is none, or asks for what is not supported.
        """
        line = _LINE.match(data)
        if line is None:
            raise Malformed("the request line is not one of HTTP/1.1")
        method, uri, major, minor = line.groups()
        if major != b"1":
            raise VersionNotSupported("HTTP/1.1 and HTTP/1.0 are spoken here")
        self.method = method
        self.old = minor == b"0"
        self.uri = uri if uri[:1] == b"/" else _target(method, uri)
        self.path = self.uri.partition(b"?")[0]
        self.fields: dict[bytes, list[bytes]] = {}
        self._count = 0
        try:
            # llhttp knows only some methods and no UTF-8 in targets, which curl sends, and is lax about the rest.
            httptools.HttpRequestParser(self).feed_data(b"POST / HTTP/1.1\r\n" + data[line.end() :])
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserCallbackError:
            raise HeadTooLarge(f"a request has at most {MAX_FIELDS} header fields") from None
        except httptools.HttpParserError as error:
            raise Malformed(f"the header is not well-formed: {error}") from None
        hosts = self.fields.get(b"host", ())
        if len(hosts) != 1 and (hosts or not self.old):  # RFC 9112 section 3.2
            raise Malformed("a request has one Host header field")
        self.length = self._measure()
        options = _items(self.fields[b"connection"]) if b"connection" in self.fields else ()
        self.persistent = b"close" not in options and (not self.old or b"keep-alive" in options)
        self.expects = not self.old and b"expect" in self.fields and b"100-continue" in _items(self.fields[b"expect"])
        types = self.fields.get(b"content-type")
        self.media_type = types[0].partition(b";")[0].strip().lower() if types else b""
        self.bearer: str | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field from llhttp."""
        self._count += 1
        if self._count > MAX_FIELDS:
            raise ValueError
        values = self.fields.setdefault(name.lower(), [])
        values.append(value.rstrip(b" \t"))

    def _measure(self) -> int:
        """The length of the body (RFC 9112 section 6.3)."""
        lengths, codings = self.fields.get(b"content-length"), self.fields.get(b"transfer-encoding")
        if codings is None:
            if lengths is None:
                return 0
            if len(lengths) > 1 or not _LENGTH.match(lengths[0]):
                raise Malformed("Content-Length is not one decimal number")
            return int(lengths[0])
        if lengths is not None:
            raise Malformed("a request has Content-Length or Transfer-Encoding, not both")
        if self.old:
            raise Malformed("HTTP/1.0 has no Transfer-Encoding")
        names = _items(codings)
        if names == [b"chunked"]:
            return CHUNKED
        if names[-1:] == [b"chunked"] and b"chunked" not in names[:-1]:
            raise CodingNotSupported("the only transfer coding that is taken is: chunked")
        raise Malformed("Transfer-Encoding is not: chunked")


def _items(values: list[bytes]) -> list[bytes]:
    """The members of a list field, in lower case."""
    return [item.strip(b" \t").lower() for value in values for item in value.split(b",")]


def _target(method: bytes, uri: bytes) -> bytes:
    """Path and query of a target that does not begin with a slash (RFC 9112 section 3.2)."""
    if method == b"CONNECT" or (uri == b"*" and method == b"OPTIONS"):
        return uri
    absolute = _ABSOLUTE.match(uri)
    if absolute is None:
        raise Malformed("the target of the request is not a path that begins with a slash")
    rest = uri[absolute.end() :]
    if rest[:1] == b"/":
        return rest
    return b"*" if not rest and method == b"OPTIONS" else b"/" + rest


class Heads:
    """Reads heads, and knows those again that it has read lately."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, data: bytes) -> Head:
        """:raises Refused: if ``data`` is no head, or asks for what is not supported."""
        head = self._known.get(data)
        if head is None:
            head = Head(data)
            if len(data) <= _KEPT_HEAD_BYTES:
                if len(self._known) >= _KEPT_HEADS:
                    self._known.clear()
                self._known[data] = head
        return head


class _Chunks:
    """A body in chunks (RFC 9112 section 7.1): extensions and trailers are read over.

    :ivar data: the chunks, unless they are too many.
    :ivar size: their bytes.
    :ivar done: whether the last one and the trailers have come.
    """

    __slots__ = ("_end", "_left", "_line", "_room", "_trailers", "data", "done", "size")

    def __init__(self, trailers: int) -> None:
        """Expect trailers of at most so many bytes."""
        self.data = bytearray()  # one piece: as objects of their own small chunks would take many times their bytes
        self.size = 0
        self.done = False
        self._room = trailers
        self._left = 0  # bytes of the present chunk that are still to come
        self._end = 0  # bytes of the line end behind it that are still to come
        self._trailers = False
        self._line = b""  # what has come of a line

    def feed(self, data: bytes, at: int, most: int) -> int:
        """Take the bytes of ``data`` from ``at`` on, until the end of the body or a chunk that passes ``most`` bytes.

        :returns: where that is, or the end of ``data``.
        :raises Malformed: if they are no chunks.
        """
        length = len(data)
        while at < length and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self.data += piece
            elif self._end:
                if data[at] != b"\r\n"[-self._end]:
                    raise Malformed("a chunk is longer than its size says")
                at += 1
                self._end -= 1
            else:
                at = self._read_line(data, at)
                if self.size > most:
                    return at
        return at

    def _read_line(self, data: bytes, at: int) -> int:
        room = self._room if self._trailers else CHUNK_LINE_BYTES
        most = at + room - len(self._line)
        end = data.find(b"\n", at, most)
        self._line += data[at : end + 1 if end >= 0 else most]
        if end < 0:
            if len(self._line) >= room:
                raise Malformed("the size of a chunk, or a trailer, is too long")
            return len(data)
        line, self._line = self._line, b""
        if not self._trailers:
            found = _CHUNK.match(line)
            if found is None:
                raise Malformed("the size of a chunk is not a hexadecimal number")
            self._left = int(found[1], 16)
            self.size += self._left
            if self._left:
                self._end = 2
            else:
                self._trailers = True
        elif line == b"\r\n":
            self.done = True
        elif _TRAILER.match(line):
            self._room -= len(line)
        else:
            raise Malformed("a trailer is not a header field")
        return end + 1


class Reader:
    """Takes the requests of one connection out of its bytes, one after the other.

    :ivar head: the request whose body is awaited, or ``None``.
    """

    __slots__ = (
        "_at",
        "_body",
        "_chunks",
        "_data",
        "_dropping",
        "_heads",
        "_left",
        "_most_body",
        "_most_head",
        "_seen",
        "head",
    )

    def __init__(self, heads: Heads, most_head: int, most_body: int) -> None:
        """Read requests with heads and bodies of at most so many bytes."""
        self._heads = heads
        self._most_head = most_head
        self._most_body = most_body
        self._data = b""
        self._at = 0  # where in the data the next thing begins
        self._seen = 0  # how much from there on was searched for the end of a head
        self._left = 0  # bytes of a body that are still to come
        self._body = bytearray()
        self._chunks: _Chunks | None = None
        self._dropping = False
        self.head: Head | None = None

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        if self._at < len(self._data):
            self._data = self._data[self._at :] + data
        else:
            self._data = data
        self._at = 0

    @property
    def waiting(self) -> int:
        """How many bytes wait for :meth:`next`, or are the beginning of a head."""
        return len(self._data) - self._at

    def release(self) -> None:
        """Keep no memory for what was read, if nothing waits."""
        if self._at == len(self._data):
            self._data = b""
            self._at = 0

    def rest(self) -> bytes:
        """Give away what waits: it is not HTTP any more."""
        rest = self._data[self._at :]
        self._data = b""
        self._at = 0
        return rest

    def next(self) -> tuple[Head, bytes] | None:
        """The next request with its body, or ``None`` until more has come.

        :raises BodyTooLarge: once, as soon as that is known; :attr:`head` is the request, which is given without its
            body when that has come.
        :raises Refused: if what comes is no request; there is no way to read on.
        """
        head = self.head
        if head is None:
            head = self._next_head()
            if head is None:
                return None
            length = head.length
            if not length:
                return head, b""
            at = self._at
            if 0 < length <= self._most_body and at + length <= len(self._data):
                self._at = at + length
                return head, self._data[at : self._at]
            self.head = head
            if length == CHUNKED:
                self._chunks = _Chunks(self._most_head)
            else:
                self._left = length
                if length > self._most_body:
                    self._dropping = True
                    raise BodyTooLarge(f"the body of a request has at most {self._most_body} bytes")
        whole = self._take() if self._chunks is None else self._take_chunks(self._chunks)
        if not whole:
            return None
        body = bytes(self._body)
        self._body.clear()
        self._chunks = self.head = None
        self._dropping = False
        return head, body

    def _next_head(self) -> Head | None:
        data, at = self._data, self._at
        while data.startswith(b"\r\n", at):  # RFC 9112 section 2.2
            at += 2
        self._at = at
        most = self._most_head
        end = data.find(b"\r\n\r\n", at + self._seen, at + most)
        if end < 0:
            begun = data[at : at + most]
            if begun in (b"", b"\r"):
                return None
            self._check(begun, self._seen)
            if len(begun) >= most:
                if b"\n" not in begun:
                    raise TargetTooLong(f"the request line and the header fields have at most {most} bytes")
                raise HeadTooLarge(f"the request line and the header fields have at most {most} bytes")
            self._seen = max(0, len(begun) - 3)
            return None
        self._seen = 0
        self._at = end + 4
        whole = data[at : end + 4]
        try:
            return self._heads.read(whole)
        except Refused:
            self._check(whole, 0)  # it would have been said before, if the head had not come at once
            raise

    @staticmethod
    def _check(begun: bytes, at: int) -> None:
        if not _BEGINNING.match(begun) or _NOWHERE.search(begun, at):
            raise Malformed("these bytes are not the head of a request")

    def _take(self) -> bool:
        """Take what there is of a body with a length; tell whether it is whole."""
        piece = self._data[self._at : self._at + self._left]
        self._at += len(piece)
        self._left -= len(piece)
        if not self._dropping:
            self._body += piece
        return not self._left

    def _take_chunks(self, chunks: _Chunks) -> bool:
        most = _ENDLESS if self._dropping else self._most_body
        self._at = chunks.feed(self._data, self._at, most)
        if chunks.size > most:
            self._dropping = True
            self._body.clear()
            chunks.data.clear()
            raise BodyTooLarge(f"the body of a request has at most {most} bytes")
        if not self._dropping:
            self._body += chunks.data
        chunks.data.clear()
        return chunks.done
