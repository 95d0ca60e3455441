"""HTTP/1.1 as bytes: what is a request, where it ends, and what is refused because that is in doubt."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import Refused
from flowgate.http.wire import CHUNK_LINE_BYTES, CHUNKED, MAX_FIELDS, BodyTooLarge, Head, Heads, Reader

MOST_HEAD = 1024
MOST_BODY = 100
LARGE = 40_000

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"

Outcome = tuple[object, ...]


def outcomes(pieces: Iterable[bytes]) -> list[Outcome]:
    """What a reader makes of bytes that come in these pieces: requests, and the refusal that ends them."""
    reader = Reader(Heads(), MOST_HEAD, MOST_BODY)
    found: list[Outcome] = []
    for piece in pieces:
        reader.feed(piece)
        while True:
            try:
                request = reader.next()
            except BodyTooLarge as refusal:
                assert reader.head is not None
                found.append((refusal.status, refusal.detail, reader.head.uri))
                continue
            except Refused as refusal:
                return [*found, (refusal.status, refusal.detail)]
            if request is None:
                break
            head, body = request
            found.append((head.method, head.uri, head.fields, head.persistent, head.expects, body))
    return found


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[place : place + 1] for place in range(len(data)))


def line(text: bytes) -> bytes:
    return text + b"\r\nHost: x\r\n\r\n"


def field(text: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: x\r\n" + text + b"\r\n\r\n"


def post(fields: bytes, rest: bytes = b"") -> bytes:
    return POST + fields + b"\r\n\r\n" + rest


TAKEN = {
    "GET": GET,
    "other method": line(b"BREW /x HTTP/1.1"),
    "method in small letters": line(b"get /x HTTP/1.1"),
    "UTF-8 in the target": line("GET /é HTTP/1.1".encode()),
    "no text in the target": line(b"GET /\xff HTTP/1.1"),
    "absolute": line(b"GET http://other.example:80/x?y HTTP/1.1"),
    "absolute without a path": line(b"GET HTTPS://other.example HTTP/1.1"),
    "absolute with a query alone": line(b"GET http://other.example?x HTTP/1.1"),
    "all": line(b"OPTIONS * HTTP/1.1"),
    "absolute and all": line(b"OPTIONS http://other.example HTTP/1.1"),
    "CONNECT": line(b"CONNECT other.example:80 HTTP/1.1"),
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "later HTTP/1": line(b"GET / HTTP/1.2"),
    "empty lines before": b"\r\n\r\n" + GET,
    "no space behind the colon": field(b"A:b"),
    "spaces around a value": field(b"A: \t b c \t"),
    "empty value": field(b"A:"),
    "tab in a value": field(b"A: b\tc"),
    "other bytes in a value": field(b"A: \x80\xff"),
    "strange but valid name": field(b"!#$%&'*+-.^_`|~0: b"),
    "field twice": field(b"A: b\r\na: c"),
    "body": post(b"Content-Length: 3", b"abc"),
    "no body": post(b"Content-Length: 0"),
    "length with zeros": post(b"Content-Length: 0003", b"abc"),
    "largest body": post(b"Content-Length: %d" % MOST_BODY, b"x" * MOST_BODY),
    "body of a GET": field(b"Content-Length: 1") + b"x",
    "two requests": GET + GET,
    "behind a body": post(b"Content-Length: 3", b"abc") + GET,
    "chunks": CHUNKS + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "largest body in chunks": CHUNKS + b"32\r\n%b\r\n" % (b"x" * 50) * 2 + b"0\r\n\r\n",
    "no chunks": CHUNKS + b"0\r\n\r\n",
    "chunk with zeros": CHUNKS + b"0003\r\nabc\r\n000\r\n\r\n",
    "chunk extensions": CHUNKS + b'3;a;b=c;d="e f"\r\nabc\r\n0;x\r\n\r\n',
    "spaces before an extension": CHUNKS + b"3 \t; a\r\nabc\r\n0\r\n\r\n",
    "trailers": CHUNKS + b"0\r\nA: b\r\nContent-Length: 7\r\n\r\n",
    "behind chunks": CHUNKS + b"1\r\na\r\n0\r\n\r\n" + GET,
    "chunked in other letters": post(b"Transfer-Encoding: ChunKed", b"0\r\n\r\n"),
    "expects": post(b"Expect: 100-Continue\r\nContent-Length: 1", b"x"),
    "last one": field(b"Connection: x, Close"),
    "upgrade with a body": post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3", b"abc") + GET,
    "upgrade with chunks": post(
        b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked", b"1\r\na\r\n0\r\n\r\n"
    )
    + GET,
    "LF in a body": post(b"Content-Length: 3", b"\n\n\n"),
}
"""Streams that are wholly good."""

REFUSED = {
    # request lines
    "garbage": (400, bytes(range(128, 256)) + b"\r\n\r\n"),
    "zeros": (400, bytes(50)),
    "TLS": (400, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(30)),
    "space first": (400, b" GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "one word": (400, line(b"GET")),
    "two words": (400, line(b"GET /")),
    "four words": (400, line(b"GET / x HTTP/1.1")),
    "two spaces": (400, line(b"GET  / HTTP/1.1")),
    "two spaces before the version": (400, line(b"GET /  HTTP/1.1")),
    "tab": (400, line(b"GET\t/ HTTP/1.1")),
    "tab in the target": (400, line(b"GET /a\tb HTTP/1.1")),
    "form feed in the target": (400, line(b"GET /a\x0cb HTTP/1.1")),
    "NUL in the target": (400, line(b"GET /a\0b HTTP/1.1")),
    "space behind the version": (400, line(b"GET / HTTP/1.1 ")),
    "fragment": (400, line(b"GET /a#b HTTP/1.1")),
    "no slash": (400, line(b"GET a HTTP/1.1")),
    "other scheme": (400, line(b"GET ftp://x/ HTTP/1.1")),
    "all": (400, line(b"GET * HTTP/1.1")),
    "strange method": (400, line(b"G@T / HTTP/1.1")),
    "no method": (400, line(b"/ HTTP/1.1")),
    "other protocol": (400, line(b"GET / RTSP/1.0")),
    "protocol in small letters": (400, line(b"GET / http/1.1")),
    "long version": (400, line(b"GET / HTTP/1.10")),
    "HTTP/2": (505, line(b"GET / HTTP/2.0")),
    "HTTP/2's preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (505, line(b"GET / HTTP/0.9")),
    # line ends
    "LF": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "LF behind the line": (400, b"GET / HTTP/1.1\nHost: x\r\n\r\n"),
    "LF behind a field": (400, field(b"A: b\nC: d")),
    "LF at the end": (400, b"GET / HTTP/1.1\r\nHost: x\r\n\n"),
    "CR in a value": (400, field(b"A: b\rc")),
    "CR CR LF": (400, field(b"A: b\r\r\nC: d")),
    "folded": (400, field(b"A: b\r\n c")),
    "folded with a tab": (400, field(b"A: b\r\n\tc")),
    "folded at once": (400, b"GET / HTTP/1.1\r\n A: b\r\nHost: x\r\n\r\n"),
    "one empty line too few": (400, b"GET / HTTP/1.1\r\r\n\r\n"),
    # fields
    "no colon": (400, field(b"nothing")),
    "no name": (400, field(b": x")),
    "space before the colon": (400, field(b"A : b")),
    "tab before the colon": (400, field(b"A\t: b")),
    "space in a name": (400, field(b"A B: c")),
    "NUL in a name": (400, field(b"A\0: b")),
    "other bytes in a name": (400, field("é: b".encode())),
    "NUL in a value": (400, field(b"A: b\0c")),
    "control character": (400, field(b"A: \x01")),
    "DEL": (400, field(b"A: \x7f")),
    "vertical tab": (400, field(b"A: b\x0bc")),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, field(b"Host: y")),
    "two Hosts of HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n"),
    # lengths
    "both lengths": (400, post(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")),
    "both lengths, the other way round": (400, post(b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n")),
    "two lengths": (400, post(b"Content-Length: 0\r\nContent-Length: 1", b"x")),
    "same lengths": (400, post(b"Content-Length: 1\r\nContent-Length: 1", b"x")),
    "list of lengths": (400, post(b"Content-Length: 1, 1", b"x")),
    "empty length": (400, post(b"Content-Length:")),
    "signed length": (400, post(b"Content-Length: +1", b"x")),
    "negative length": (400, post(b"Content-Length: -1", b"x")),
    "hexadecimal length": (400, post(b"Content-Length: 0x1", b"x")),
    "length with a point": (400, post(b"Content-Length: 1.0", b"x")),
    "length with a low line": (400, post(b"Content-Length: 1_0", b"x" * 10)),
    "length with a space": (400, post(b"Content-Length: 1 0", b"x" * 10)),
    "length of other digits": (400, post("Content-Length: \u0661".encode(), b"x")),
    "huge length": (400, post(b"Content-Length: " + b"9" * 20)),
    "length that is 0 modulo 2**64": (400, post(b"Content-Length: 18446744073709551616")),
    "HTTP/1.0 with chunks": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "unknown coding": (400, post(b"Transfer-Encoding: xchunked", b"0\r\n\r\n")),
    "chunked behind NUL": (400, post(b"Transfer-Encoding: \0chunked", b"0\r\n\r\n")),
    "chunked behind a vertical tab": (400, post(b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n")),
    "quoted": (400, post(b'Transfer-Encoding: "chunked"', b"0\r\n\r\n")),
    "empty coding": (400, post(b"Transfer-Encoding:", b"0\r\n\r\n")),
    "chunked twice": (400, post(b"Transfer-Encoding: chunked, chunked", b"0\r\n\r\n")),
    "chunked in two fields": (400, post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")),
    "chunked and more": (400, post(b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n")),
    "identity": (400, post(b"Transfer-Encoding: identity")),
    "compressed chunks": (501, post(b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n")),
    # chunks
    "no size": (400, CHUNKS + b"\r\n"),
    "no hexadecimal size": (400, CHUNKS + b"g\r\n"),
    "negative size": (400, CHUNKS + b"-1\r\n"),
    "signed size": (400, CHUNKS + b"+1\r\na\r\n"),
    "prefixed size": (400, CHUNKS + b"0x1\r\na\r\n"),
    "size with a low line": (400, CHUNKS + b"1_0\r\n"),
    "size behind a space": (400, CHUNKS + b" 1\r\na\r\n"),
    "space behind the size": (400, CHUNKS + b"1 \r\na\r\n"),
    "space in the size": (400, CHUNKS + b"1 0\r\n"),
    "long size": (400, CHUNKS + b"0" * 17 + b"\r\n\r\n"),
    "LF behind the size": (400, CHUNKS + b"1\na\r\n0\r\n\r\n"),
    "CR in an extension": (400, CHUNKS + b"1;\ra\r\na\r\n"),
    "NUL in an extension": (400, CHUNKS + b"1;\0\r\na\r\n"),
    "endless extension": (400, CHUNKS + b"1;" + b"a" * CHUNK_LINE_BYTES),
    "longer chunk": (400, CHUNKS + b"1\r\nabc\r\n0\r\n\r\n"),
    "no line end behind a chunk": (400, CHUNKS + b"1\r\naXX0\r\n\r\n"),
    "LF behind a chunk": (400, CHUNKS + b"1\r\na\n0\r\n\r\n"),
    "LF behind a trailer": (400, CHUNKS + b"0\r\nA: b\n\r\n"),
    "LF at the end of chunks": (400, CHUNKS + b"0\r\n\n"),
    "folded trailer": (400, CHUNKS + b"0\r\nA: b\r\n c\r\n\r\n"),
    "trailer without colon": (400, CHUNKS + b"0\r\nabc\r\n\r\n"),
    "space before a trailer's colon": (400, CHUNKS + b"0\r\nA : b\r\n\r\n"),
    "endless trailer": (400, CHUNKS + b"0\r\nA: " + b"b" * MOST_HEAD),
    "endless trailers": (400, CHUNKS + b"0\r\n" + b"A: b\r\n" * MOST_HEAD),
    # sizes
    "long target": (414, b"GET /" + b"a" * MOST_HEAD),
    "long field": (431, field(b"A: " + b"b" * MOST_HEAD)),
    "many fields": (431, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * MOST_HEAD),
    "endless head": (431, b"GET / HTTP/1.1\r\nA: " + b"b" * MOST_HEAD),
    "large body": (413, post(b"Content-Length: %d" % (MOST_BODY + 1), b"x" * (MOST_BODY + 1))),
    "very large body": (413, post(b"Content-Length: " + b"9" * 18)),
    "large chunk": (413, CHUNKS + b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"),
    "very large chunk": (413, CHUNKS + b"f" * 16 + b"\r\n"),
    "many chunks": (413, CHUNKS + b"32\r\n%b\r\n" % (b"x" * 50) * 3 + b"0\r\n\r\n"),
}
"""Streams whose first request is refused, and with which status."""


class TakenTests(SynchronousTestCase):
    """Requests that are good."""

    def one(self, name: str) -> tuple[Head, bytes]:
        reader = Reader(Heads(), MOST_HEAD, MOST_BODY)
        reader.feed(TAKEN[name])
        found = reader.next()
        assert found is not None
        return found

    def test_all(self) -> None:
        """None of them is refused, and nothing is left over."""
        for name, data in TAKEN.items():
            reader = Reader(Heads(), MOST_HEAD, MOST_BODY)
            reader.feed(data)
            self.assertIsNotNone(reader.next(), name)
            while reader.next() is not None:
                pass
            self.assertEqual((reader.head, reader.rest()), (None, b""), name)

    def test_line(self) -> None:
        """The method is taken as it is written; the target becomes path and query, whatever its form."""
        expected = {
            "GET": (b"GET", b"/a?b=c", b"/a"),
            "other method": (b"BREW", b"/x", b"/x"),
            "method in small letters": (b"get", b"/x", b"/x"),
            "absolute": (b"GET", b"/x?y", b"/x"),
            "absolute without a path": (b"GET", b"/", b"/"),
            "absolute with a query alone": (b"GET", b"/?x", b"/"),
            "all": (b"OPTIONS", b"*", b"*"),
            "absolute and all": (b"OPTIONS", b"*", b"*"),
            "CONNECT": (b"CONNECT", b"other.example:80", b"other.example:80"),
        }
        for name, parts in expected.items():
            head, _ = self.one(name)
            self.assertEqual((head.method, head.uri, head.path), parts, name)

    def test_fields(self) -> None:
        """Values are without the white space around them; those of one name stand together, in order."""
        self.assertEqual(self.one("spaces around a value")[0].fields[b"a"], [b"b c"])
        self.assertEqual(self.one("empty value")[0].fields[b"a"], [b""])
        self.assertEqual(self.one("tab in a value")[0].fields[b"a"], [b"b\tc"])
        self.assertEqual(self.one("other bytes in a value")[0].fields[b"a"], [b"\x80\xff"])
        self.assertEqual(self.one("field twice")[0].fields[b"a"], [b"b", b"c"])

    def test_bodies(self) -> None:
        """A body ends where its length, or its last chunk, says; extensions and trailers are no part of it."""
        expected = {
            "body": b"abc",
            "no body": b"",
            "length with zeros": b"abc",
            "chunks": b"abc0123456789",
            "no chunks": b"",
            "chunk with zeros": b"abc",
            "chunk extensions": b"abc",
            "trailers": b"",
            "upgrade with a body": b"abc",
            "upgrade with chunks": b"a",
            "LF in a body": b"\n\n\n",
        }
        for name, body in expected.items():
            self.assertEqual(self.one(name)[1], body, name)

    def test_trailers_are_no_fields(self) -> None:
        """What a trailer says changes nothing."""
        self.assertNotIn(b"a", self.one("trailers")[0].fields)

    def test_behind(self) -> None:
        """The next request begins where one has ended."""
        for name in ("two requests", "behind a body", "behind chunks", "upgrade with a body", "upgrade with chunks"):
            self.assertEqual(outcomes([TAKEN[name]])[1:], outcomes([GET]), name)

    def test_persistence(self) -> None:
        """HTTP/1.1 goes on unless it says otherwise; HTTP/1.0 ends unless it says otherwise (RFC 9112 section 9.3)."""
        cases = {
            (b"1.1", b""): True,
            (b"1.1", b"Connection: close\r\n"): False,
            (b"1.1", b"Connection: a, CLOSE , b\r\n"): False,
            (b"1.1", b"Connection: a\r\nConnection: close\r\n"): False,
            (b"1.1", b"Connection: keep-alive, close\r\n"): False,
            (b"1.0", b""): False,
            (b"1.0", b"Connection: Keep-Alive\r\n"): True,
            (b"1.0", b"Connection: keep-alive, close\r\n"): False,
        }
        for (version, fields), persistent in cases.items():
            head = Head(b"GET / HTTP/%b\r\nHost: x\r\n%b\r\n" % (version, fields))
            self.assertEqual((head.persistent, head.old), (persistent, version == b"1.0"), fields)

    def test_expectation(self) -> None:
        """Only HTTP/1.1 has 100 Continue (RFC 9110 section 10.1.1)."""
        for version, value, expects in (
            (b"1.1", b"100-continue", True),
            (b"1.1", b"100-Continue", True),
            (b"1.1", b"other", False),
            (b"1.0", b"100-continue", False),
        ):
            head = Head(b"POST / HTTP/%b\r\nHost: x\r\nExpect: %b\r\n\r\n" % (version, value))
            self.assertEqual(head.expects, expects, (version, value))

    def test_release(self) -> None:
        """No memory is kept for what was read; what waits is kept."""
        reader = Reader(Heads(), MOST_HEAD, MOST_BODY)
        reader.feed(GET)
        reader.next()
        reader.release()
        self.assertEqual(reader._data, b"")
        reader.feed(GET + GET[:5])
        reader.next()
        reader.release()
        self.assertEqual(reader.rest(), GET[:5])

    def test_length(self) -> None:
        """A head says how long its body is before that has come."""
        self.assertEqual(Head(GET).length, 0)
        self.assertEqual(Head(post(b"Content-Length: 12")).length, 12)
        self.assertEqual(Head(CHUNKS).length, CHUNKED)


class RefusedTests(SynchronousTestCase):
    """Requests that are none, or whose end is in doubt."""

    def test_all(self) -> None:
        """Each is refused with its status, at once, as the first thing."""
        for name, (status, data) in REFUSED.items():
            found = outcomes([data])
            self.assertTrue(found, name)
            self.assertEqual(found[0][0], status, name)

    def test_nothing_behind(self) -> None:
        """Nothing that comes behind a request that is refused is taken for one."""
        for name, (status, data) in REFUSED.items():
            if status != 413:  # there the end is known
                self.assertEqual(len(outcomes([data + GET * 3])), 1, name)

    def test_what_came_before(self) -> None:
        """What came before it is good."""
        for name, (status, data) in REFUSED.items():
            first, second = outcomes([GET + data])[:2]
            self.assertEqual(first, outcomes([GET])[0], name)
            self.assertEqual(second[0], status, name)

    def test_no_details_of_the_client(self) -> None:
        """A refusal repeats nothing of the request."""
        for name, (_, data) in REFUSED.items():
            self.assertNotIn("abc", str(outcomes([data])[0][1]), name)

    def test_largest_head(self) -> None:
        """The bound of heads is exact."""
        rest = MOST_HEAD - len(field(b"A: "))
        self.assertEqual(len(field(b"A: " + b"b" * rest)), MOST_HEAD)
        self.assertEqual(outcomes([field(b"A: " + b"b" * rest)])[0][0], b"GET")
        self.assertEqual(outcomes([field(b"A: " + b"b" * (rest + 1))])[0][0], 431)

    def test_number_of_fields(self) -> None:
        """So is the bound of their number."""
        self.assertEqual(len(Head(field(b"A: b\r\n" * (MAX_FIELDS - 2) + b"A: b")).fields[b"a"]), MAX_FIELDS - 1)
        with self.assertRaises(Refused) as raised:
            Head(field(b"A: b\r\n" * (MAX_FIELDS - 1) + b"A: b"))
        self.assertEqual(raised.exception.status, 431)

    def test_body_is_thrown_away(self) -> None:
        """A body that is too large is refused before it has come, and read to its end without being kept."""
        for data, ending in (
            (post(b"Content-Length: 500"), b"x" * 500),
            (CHUNKS + b"1f4\r\n", b"x" * 500 + b"\r\n0\r\n\r\n"),
        ):
            reader = Reader(Heads(), MOST_HEAD, MOST_BODY)
            reader.feed(data)
            with self.assertRaises(BodyTooLarge):
                reader.next()
            reader.feed(ending[:-1])
            self.assertIsNone(reader.next())
            self.assertEqual(reader.waiting, 0)
            reader.feed(ending[-1:] + GET)
            head, body = reader.next() or (None, None)
            assert head is not None
            self.assertEqual((head.uri, body), (b"/p", b""))
            self.assertEqual(reader.rest(), GET)
            reader.feed(TAKEN["chunks"])
            self.assertEqual((reader.next() or (None, b""))[1], b"abc0123456789")

    def test_at_once(self) -> None:
        """What no head begins with, or has anywhere, is refused before the head has ended."""
        for data in (b"\x16\x03", b" ", b"G@", b"/", GET[:21] + b"\0", GET[:21] + b"\n", GET[:21] + b"\rx"):
            self.assertEqual([found[0] for found in outcomes([data])], [400], data)
            self.assertEqual([found[0] for found in outcomes(bytewise(data))], [400], data)


class SplitTests(SynchronousTestCase):
    """However the bytes come, what they mean is the same."""

    def test_byte_by_byte(self) -> None:
        """Byte by byte."""
        for name, data in (TAKEN | {name: data for name, (_, data) in REFUSED.items()}).items():
            self.assertEqual(outcomes(bytewise(GET + data + GET)), outcomes([GET + data + GET]), name)

    def test_two_pieces(self) -> None:
        """In two pieces, cut anywhere."""
        for name, data in (TAKEN | {name: data for name, (_, data) in REFUSED.items()}).items():
            if len(data) < 200:
                whole = outcomes([data])
                for cut in range(1, len(data)):
                    self.assertEqual(outcomes([data[:cut], data[cut:]]), whole, (name, cut))

    @settings(max_examples=400, deadline=None)
    @given(
        streams=st.lists(st.sampled_from([*TAKEN.values(), *(data for _, data in REFUSED.values())]), max_size=3),
        changes=st.lists(st.tuples(st.integers(0, 400), st.sampled_from(b"\r\n \t:;,0a\0\x7f\xff")), max_size=2),
        cuts=st.lists(st.integers(0, 600), max_size=6),
    )
    def test_any(self, streams: list[bytes], changes: list[tuple[int, int]], cuts: list[int]) -> None:
        """In any pieces, also if some bytes are others."""
        data = bytearray(b"".join(streams))
        for place, byte in changes:
            if place < len(data):
                data[place] = byte
        whole = bytes(data)
        places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
        pieces = [whole[begin:end] for begin, end in pairwise(places)]
        self.assertEqual(outcomes(pieces), outcomes([whole]))
        self.assertEqual(outcomes(bytewise(whole)), outcomes([whole]))


class MemoryTests(SynchronousTestCase):
    """A body takes no more memory than its bytes, however it comes."""

    def check(self, pieces: Iterable[bytes]) -> None:
        reader = Reader(Heads(), MOST_HEAD, 1 << 20)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for piece in pieces:
            reader.feed(piece)
            self.assertIsNone(reader.next())
        self.assertLess(tracemalloc.get_traced_memory()[0], 5 * LARGE // 2)
        tracemalloc.stop()

    def test_small_chunks(self) -> None:
        """In chunks of two bytes."""
        self.check([CHUNKS, *[b"2\r\nab\r\n" * 1000] * (LARGE // 2000)])

    def test_small_pieces(self) -> None:
        """In reads of two bytes."""
        self.check([POST + b"Content-Length: 1000000\r\n\r\n", *[b"ab"] * (LARGE // 2)])


class HeadsTests(SynchronousTestCase):
    """Heads that are known already."""

    def test_known(self) -> None:
        """The same bytes are the same head."""
        heads = Heads()
        self.assertIs(heads.read(GET), heads.read(bytes(bytearray(GET))))

    def test_unknown(self) -> None:
        """Other bytes are another head, however little they differ."""
        heads = Heads()
        self.assertEqual(heads.read(GET.replace(b"/a", b"/A")).path, b"/A")
        self.assertEqual(heads.read(GET).path, b"/a")

    def test_refused_again(self) -> None:
        """What was refused is refused again."""
        heads = Heads()
        for _ in range(2):
            with self.assertRaises(Refused):
                heads.read(field(b"A : b"))

    def test_bound(self) -> None:
        """Few are kept, and no large ones."""
        heads = Heads()
        for number in range(2000):
            heads.read(line(b"GET /%d HTTP/1.1" % number))
        self.assertLessEqual(len(heads._known), 512)
        large = field(b"A: " + b"b" * 5000)
        self.assertIsNot(heads.read(large), heads.read(large))
