"""The codecs of the client: HTTP answers and RFC 6455."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha1

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.client import http, wire
from flowgate.client.wire import Closing, Event, Opened, Ping, Pong, Text, WebSocket
from flowgate.errors import MessageTooLarge, ProtocolViolation

NONCE = bytes(range(16))
KEY = b64encode(NONCE).decode()
ACCEPT = b64encode(sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
).encode()
REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 7\r\n"
    b'Content-Length: 26\r\nConnection: close\r\n\r\n{"code":"bus_unavailable"}'
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"


def websocket(largest: int = 1 << 20, mask: Callable[[], bytes] = lambda: b"\1\2\3\4") -> WebSocket:
    return WebSocket("example.org:8080", "/ws", "a.b.c", NONCE, mask, largest)


def opened(largest: int = 1 << 20) -> WebSocket:
    socket = websocket(largest)
    assert socket.receive(SWITCHING) == [Opened()]
    return socket


def frame(first: int, payload: bytes) -> bytes:
    """A frame of a server."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    wide = 2 if size < 1 << 16 else 8
    return bytes((first, 126 if wide == 2 else 127)) + size.to_bytes(wide, "big") + payload


def unmasked(data: bytes) -> tuple[int, bytes]:
    """First byte and payload of one whole frame of a client."""
    assert data[1] & 0x80
    size, at = data[1] & 0x7F, 2
    if size > 125:
        wide = 2 if size == 126 else 8
        size, at = int.from_bytes(data[2 : 2 + wide], "big"), 2 + wide
    mask, payload = data[at : at + 4], data[at + 4 :]
    assert len(payload) == size
    return data[0], bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class AnswerTests(SynchronousTestCase):
    """Answers of HTTP/1.1."""

    def test_every_split(self) -> None:
        """However the bytes come, the answer is the same, and comes with its last byte."""
        for data, status, body in ((REFUSED, 503, REFUSED[-26:]), (CHUNKED, 200, b"abcde")):
            for cut in range(len(data)):
                reader = http.AnswerReader()
                self.assertIsNone(reader.receive(data[:cut]), cut)
                answer = reader.receive(data[cut:])
                assert answer is not None
                self.assertEqual((answer.status, answer.body), (status, body))
            reader = http.AnswerReader()
            answers = [reader.receive(data[at : at + 1]) for at in range(len(data))]
            self.assertEqual([answer is not None for answer in answers], [False] * (len(data) - 1) + [True])

    def test_headers(self) -> None:
        """Headers are found by their names in lower case."""
        answer = http.AnswerReader().receive(REFUSED)
        assert answer is not None
        self.assertEqual(answer.headers["retry-after"], "7")

    def test_interim(self) -> None:
        """Interim answers are passed over."""
        data = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + REFUSED
        for cut in range(len(data)):
            reader = http.AnswerReader()
            answer = reader.receive(data[:cut]) or reader.receive(data[cut:])
            assert answer is not None
            self.assertEqual((answer.status, answer.headers.get("link")), (503, None))

    def test_until_the_end(self) -> None:
        """A body without a length ends with the connection; one with a length is not whole before."""
        reader = http.AnswerReader()
        self.assertIsNone(reader.end())
        self.assertIsNone(reader.receive(b"HTTP/1.0 502 Bad\r\n\r\nno"))
        answer = reader.end()
        assert answer is not None
        self.assertEqual((answer.status, answer.body), (502, b"no"))
        reader = http.AnswerReader()
        reader.receive(REFUSED[:-1])
        self.assertIsNone(reader.end())

    def test_no_answer(self) -> None:
        """What does not speak HTTP is found out."""
        for data in (b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"):
            self.assertRaises(ProtocolViolation, http.AnswerReader().receive, data)

    def test_bounds(self) -> None:
        """A head or a body without an end is not kept."""
        reader = http.AnswerReader()
        reader.receive(b"HTTP/1.1 200 OK\r\n")

        def head() -> None:
            for _ in range(http.HEAD_BYTES // 1000 + 2):
                reader.receive(b"X: " + b"y" * 995 + b"\r\n")

        self.assertRaises(ProtocolViolation, head)
        endless = http.AnswerReader()
        endless.receive(b"HTTP/1.1 200 OK\r\n\r\n")

        def body() -> None:
            for _ in range(http.BODY_BYTES // 1000 + 2):
                endless.receive(b"z" * 1000)

        self.assertRaises(ProtocolViolation, body)

    def test_request(self) -> None:
        """A request has its length; nothing in it can begin another line."""
        self.assertEqual(
            http.request("POST", "/token/", {"Host": "h"}, b"{}"),
            b"POST /token/ HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
        )
        for target, host in (("/a\r\nX: y", "h"), ("/", "h\nX: y"), ("/ä", "h")):
            self.assertRaises(ValueError, http.request, "GET", target, {"Host": host})


class HandshakeTests(SynchronousTestCase):
    """The opening handshake (RFC 6455 section 4.1)."""

    def test_request(self) -> None:
        """The request has what the RFC wants, and the token in a header, where no log has it."""
        lines = websocket().request.decode().split("\r\n")
        self.assertEqual(lines[0], "GET /ws HTTP/1.1")
        self.assertEqual(lines[-2:], ["", ""])
        self.assertCountEqual(
            lines[1:-2],
            [
                "Host: example.org:8080",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Key: {KEY}",
                "Sec-WebSocket-Version: 13",
                "Authorization: Bearer a.b.c",
            ],
        )

    def test_token_with_a_line_end(self) -> None:
        """A token cannot add a header."""
        self.assertRaises(ValueError, WebSocket, "h", "/ws", "a\r\nX: y", NONCE, lambda: b"1234")

    def test_accepted_in_pieces(self) -> None:
        """However the answer comes, with frames behind it, the events are the same."""
        data = SWITCHING + frame(0x81, b"a") + frame(0x89, b"p")
        for cut in range(len(data) + 1):
            socket = websocket()
            self.assertEqual(
                socket.receive(data[:cut]) + socket.receive(data[cut:]), [Opened(), Text(b"a"), Ping(b"p")], cut
            )

    def test_refused(self) -> None:
        """Another status comes as the answer that it is, also if the end of the connection ends it."""
        (answer,) = websocket().receive(REFUSED)
        assert isinstance(answer, http.Answer)
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "7"))
        socket = websocket()
        self.assertEqual(socket.receive(b"HTTP/1.1 401 No\r\n\r\nwhy"), [])
        (answer,) = socket.end()
        assert isinstance(answer, http.Answer)
        self.assertEqual((answer.status, answer.body), (401, b"why"))

    def test_wrong_answers(self) -> None:
        """An answer that does not prove that a WebSocket was meant is none."""
        for old, new in (
            (b"Upgrade: WebSocket", b"Upgrade: h2c"),
            (b"keep-alive, Upgrade", b"keep-alive"),
            (ACCEPT.encode(), b"x" * 28),
            (b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
            (b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"),
        ):
            self.assertRaises(ProtocolViolation, websocket().receive, SWITCHING.replace(old, new))


class FrameTests(SynchronousTestCase):
    """Frames of the gateway (RFC 6455 section 5)."""

    def test_every_split(self) -> None:
        """However the bytes come, the events are the same; control frames may come in the middle of a message."""
        data = b"".join(
            (
                frame(0x81, b""),
                frame(0x01, b"he"),
                frame(0x89, b"p" * 125),
                frame(0x00, b"l"),
                frame(0x8A, b""),
                frame(0x80, b"lo"),
                frame(0x81, b"x" * 126),
                frame(0x81, b"y" * 0x10000),
                frame(0x88, (4401).to_bytes(2, "big") + "schön".encode()),
                b"never read",
            )
        )
        expected: list[Event] = [
            Text(b""),
            Ping(b"p" * 125),
            Pong(b""),
            Text(b"hello"),
            Text(b"x" * 126),
            Text(b"y" * 0x10000),
            Closing(4401, "schön"),
        ]
        for cut in [*range(420), *range(len(data) - 40, len(data) + 1)]:
            socket = opened()
            self.assertEqual(socket.receive(data[:cut]) + socket.receive(data[cut:]), expected, cut)
        socket = opened()
        self.assertEqual([event for byte in data[:420] for event in socket.receive(bytes((byte,)))], expected[:5])

    @settings(deadline=None, database=None)
    @given(st.lists(st.binary(max_size=300), max_size=5), st.lists(st.integers(0, 2000), max_size=5))
    def test_any_fragments(self, payloads: list[bytes], cuts: list[int]) -> None:
        """Fragments are one message, wherever they and the bytes are divided."""
        data = b"".join(frame((0x01 if not index else 0) | 0x00, part) for index, part in enumerate(payloads))
        data += frame(0x80 if payloads else 0x81, b"end")
        socket = opened()
        events: list[Event] = []
        last = 0
        for cut in [*sorted(cuts), len(data)]:
            events += socket.receive(data[last:cut])
            last = max(last, cut)
        self.assertEqual(events, [Text(b"".join(payloads) + b"end")])

    def test_close_codes(self) -> None:
        """A close frame may have no code; one that may not be sent is a violation (section 7.4)."""
        self.assertEqual(opened().receive(frame(0x88, b"")), [Closing(1005, "")])
        for code in (1000, 1001, 1011, 3000, 4999):
            self.assertEqual(opened().receive(frame(0x88, code.to_bytes(2, "big"))), [Closing(code, "")])
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
            self.assertRaises(ProtocolViolation, opened().receive, frame(0x88, code.to_bytes(2, "big")))

    def test_violations(self) -> None:
        """Bytes that break the protocol are found, whatever comes behind them."""
        for name, data in (
            ("masked", b"\x81\x81abcdx"),
            ("reserved bit", b"\xc1\x01x"),
            ("opcode", frame(0x8B, b"")),
            ("data opcode", frame(0x83, b"")),
            ("binary", frame(0x82, b"x")),
            ("continuation of nothing", frame(0x80, b"x")),
            ("text in a message", frame(0x01, b"x") + frame(0x81, b"y")),
            ("fragmented ping", frame(0x09, b"")),
            ("long ping", b"\x89\x7e\x00\x7e" + b"x" * 126),
            ("length not shortest", b"\x81\x7e\x00\x7d" + b"x" * 125),
            ("length not shortest", b"\x81\x7f" + (0xFFFF).to_bytes(8, "big")),
            ("length of 64 bits", b"\x81\x7f" + (1 << 63).to_bytes(8, "big")),
            ("half a code", frame(0x88, b"x")),
            ("reason", frame(0x88, b"\x03\xe8\xff")),
        ):
            try:
                events = opened().receive(data)
            except ProtocolViolation:
                continue
            self.fail(f"{name}: {events}")

    def test_too_large(self) -> None:
        """A message beyond the bound is refused by its length, before it has come, and in fragments."""
        self.assertEqual(opened(1000).receive(frame(0x81, b"x" * 1000)), [Text(b"x" * 1000)])
        self.assertRaises(MessageTooLarge, opened(1000).receive, frame(0x81, b"x" * 1001)[:4])
        parts = frame(0x01, b"x" * 600) + frame(0x80, b"x" * 401)[:4]
        self.assertRaises(MessageTooLarge, opened(1000).receive, parts)
        small = frame(0x01, b"x" * 100) + frame(0x00, b"x" * 100) * 9 + frame(0x80, b"x")
        self.assertRaises(MessageTooLarge, opened(1000).receive, small)


class SendingTests(SynchronousTestCase):
    """Frames to the gateway."""

    def test_masked(self) -> None:
        """Every frame is whole and masked (section 5.3), with its length in the shortest form."""
        for size in (0, 1, 3, 4, 5, 125, 126, 0xFFFF, 0x10000):
            payload = bytes(index % 251 for index in range(size))
            data = opened().text(payload)
            self.assertEqual(unmasked(data), (0x81, payload))
            self.assertEqual(len(data) - size - 6, 0 if size < 126 else 2 if size < 0x10000 else 8)

    def test_fresh_masks(self) -> None:
        """Each frame has a mask of its own."""
        masks = iter((b"aaaa", b"bbbb"))
        socket = websocket(mask=lambda: next(masks))
        self.assertEqual([socket.ping()[2:6], socket.ping()[2:6]], [b"aaaa", b"bbbb"])

    def test_control_frames(self) -> None:
        """A pong has the payload of its ping; a close has its code."""
        self.assertEqual(unmasked(opened().ping()), (0x89, b""))
        self.assertEqual(unmasked(opened().pong(b"p")), (0x8A, b"p"))
        self.assertEqual(unmasked(opened().close(1002)), (0x88, b"\x03\xea"))

    def test_largest_is_what_the_gateway_sends(self) -> None:
        """The usual bound takes in the gateway's largest message, written as \\uXXXX all over."""
        from flowgate.limits import Limits

        self.assertGreater(wire.LARGEST, 6 * Limits().message_bytes + 10000)
