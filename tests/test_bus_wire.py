"""The NATS client protocol as bytes."""

from __future__ import annotations

import contextlib
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus import wire
from flowgate.bus.wire import Control, Decoder, Info, Message, Ok, Ping, Pong, ServerError
from flowgate.errors import ProtocolViolation

STREAM = (
    b'INFO {"version":"2.15.1","max_payload":1048576}\r\n'
    b"PING\r\n"
    b"MSG a.b 1 5\r\nhello\r\n"
    b"MSG a.b 1 reply.to 0\r\n\r\n"
    b"HMSG a.c 22 22 24\r\nNATS/1.0\r\nName: x\r\n\r\n" + b"\r" + b"hi\r\n"
    b"PONG\r\n"
    b"+OK\r\n"
    b"-ERR 'Authorization Violation'\r\n"
    b"HMSG a.c 22 reply 21 29\r\nNATS/1.0\r\nName: x\r\n\r\nMSG a 1 \r\n"
)
HEAD = b"NATS/1.0\r\nName: x\r\n\r\n"
MESSAGES: list[Message] = [
    (b"1", b"a.b", b"", b"", b"hello"),
    (b"1", b"a.b", b"reply.to", b"", b""),
    (b"22", b"a.c", b"", HEAD + b"\r", b"hi"),
    (b"22", b"a.c", b"reply", HEAD, b"MSG a 1 "),
]
CONTROLS: list[Control] = [
    Info({"version": "2.15.1", "max_payload": 1048576}),
    Ping(),
    Pong(),
    Ok(),
    ServerError("Authorization Violation"),
]
PLACED = (
    b"NATS/1.0\r\nFlowgate-QoS: 2\r\nNats-Stream: S\r\nNats-Subject: a.b\r\nNats-Sequence: 42\r\n"
    b"Nats-Time-Stamp: 2026-01-02T03:04:05.00012Z\r\nNats-Last-Sequence: 7\r\n\r\n"
)


def decode(*pieces: bytes) -> tuple[list[Message], list[Control]]:
    decoder = Decoder()
    messages: list[Message] = []
    controls: list[Control] = []
    for piece in pieces:
        more_messages, more_controls = decoder.feed(piece)
        messages += more_messages
        controls += more_controls
    return messages, controls


class DecoderTests(SynchronousTestCase):
    """The server's bytes, in pieces of any size."""

    def test_everything_at_once(self) -> None:
        """One read gives everything in it."""
        self.assertEqual(decode(STREAM), (MESSAGES, CONTROLS))

    def test_every_split_in_two(self) -> None:
        """Where a read ends makes no difference."""
        for place in range(len(STREAM) + 1):
            self.assertEqual(decode(STREAM[:place], STREAM[place:]), (MESSAGES, CONTROLS), place)

    def test_byte_by_byte(self) -> None:
        """Nor does it if every byte comes alone."""
        self.assertEqual(decode(*[STREAM[i : i + 1] for i in range(len(STREAM))]), (MESSAGES, CONTROLS))

    @given(st.lists(st.integers(0, len(STREAM)), max_size=8))
    def test_any_splits(self, places: list[int]) -> None:
        """Nor do several splits."""
        edges = [0, *sorted(places), len(STREAM)]
        pieces = [STREAM[start:end] for start, end in pairwise(edges)]
        self.assertEqual(decode(*pieces), (MESSAGES, CONTROLS))

    @given(st.binary(max_size=60), st.integers(0, 60))
    def test_only_our_error(self, noise: bytes, place: int) -> None:
        """Whatever bytes come, nothing but a violation is raised."""
        spoiled = STREAM[:place] + noise + STREAM[place:]
        for data in (noise, noise + b"\r\n", spoiled):
            with contextlib.suppress(ProtocolViolation):
                decode(data)

    def test_violations(self) -> None:
        """Malformed lines are violations."""
        for line in (
            b"MSG a 1 x\r\n",
            b"MSG a 1 -5\r\n",
            b"MSG a 5\r\nhello\r\n",
            b"MSG a b c d 5\r\nhello\r\n",
            b"MSG a 1 4\r\nhello\r\n",
            b"MSG a 1 999999999999\r\n",
            b"HMSG a 1 9 5\r\n",
            b"HMSG a 1 5\r\nhello\r\n",
            b"HMSG a 1 -1 5\r\nhello\r\n",
            b"INFO {\r\n",
            b"INFO []\r\n",
            b"HELLO\r\n",
            b"\r\n",
        ):
            with self.assertRaises(ProtocolViolation, msg=repr(line)):
                decode(line)

    def test_endless_line(self) -> None:
        """A line without an end is a violation before it fills the memory."""
        decoder = Decoder()
        with self.assertRaises(ProtocolViolation):
            for _ in range(wire.MAX_LINE_BYTES // 1000 + 2):
                decoder.feed(b"x" * 1000)

    def test_large_message_in_many_reads(self) -> None:
        """A large message is put together when its last byte is there."""
        payload = bytes(range(256)) * 4096
        data = b"MSG a 1 %d\r\n%b\r\nPING\r\n" % (len(payload), payload)
        pieces = [data[start : start + 65536] for start in range(0, len(data), 65536)]
        self.assertEqual(decode(*pieces), ([(b"1", b"a", b"", b"", payload)], [Ping()]))


class EncoderTests(SynchronousTestCase):
    """What a client says."""

    def test_lines(self) -> None:
        """Each line as the protocol has it."""
        for line, expected in (
            (wire.connect({"verbose": False}), b'CONNECT {"verbose":false}\r\n'),
            (wire.subscribe("a.>", 7), b"SUB a.> 7\r\n"),
            (wire.unsubscribe(7), b"UNSUB 7\r\n"),
            (wire.publish(b"a", b"hi"), b"PUB a 2\r\nhi\r\n"),
            (wire.publish(b"a", b"", b"r"), b"PUB a r 0\r\n\r\n"),
            (wire.publish(b"a", b"hi", b"r", HEAD), b"HPUB a r 21 23\r\n" + HEAD + b"hi\r\n"),
            (wire.headers([("Name", "x")]), HEAD),
        ):
            self.assertEqual(line, expected)

    @given(st.text(max_size=20))
    def test_header_values(self, text: str) -> None:
        """No text breaks out of its header."""
        raw = wire.headers([("Nats-Msg-Id", wire.header_value(text)), ("Last", "1")])
        self.assertEqual(raw.count(b"\r\n"), 4)
        self.assertEqual(raw.count(b"\n"), 4)
        self.assertEqual(wire.header(raw, b"Last"), b"1")

    @given(st.text(max_size=8), st.text(max_size=8))
    @example("é", "%C3%A9")
    @example("a ", "a")
    def test_header_values_differ(self, one: str, other: str) -> None:
        """Different texts stay different."""
        self.assertEqual(wire.header_value(one).strip() == wire.header_value(other).strip(), one == other)


class HeaderTests(SynchronousTestCase):
    """Reading one thing out of raw headers."""

    def test_header(self) -> None:
        """A header is found by name; one that is absent is empty."""
        self.assertEqual(wire.header(PLACED, b"Nats-Subject"), b"a.b")
        self.assertEqual(wire.header(PLACED, b"Sequence"), b"")

    def test_status(self) -> None:
        """A status line has a code, ordinary headers have none."""
        self.assertEqual(wire.status(b"NATS/1.0 404 Not Found\r\n\r\n"), 404)
        self.assertEqual(wire.status(PLACED), 0)
        self.assertEqual(wire.status(b""), 0)

    def test_stored_at(self) -> None:
        """Sequence and time of a message, to the nanosecond."""
        self.assertEqual(wire.stored_at(PLACED), (42, 1767323045_000120000))
        self.assertEqual(wire.nanoseconds(b"2026-01-02T03:04:05Z"), 1767323045_000000000)
        self.assertEqual(wire.nanoseconds(b"2026-01-02T03:04:05.123456789Z"), 1767323045_123456789)

    def test_not_stored(self) -> None:
        """Headers without a place are a violation."""
        for head in (HEAD, b"", b"NATS/1.0\r\nNats-Sequence: 1\r\n\r\n", PLACED.replace(b"42", b"x")):
            with self.assertRaises(ProtocolViolation):
                wire.stored_at(head)
