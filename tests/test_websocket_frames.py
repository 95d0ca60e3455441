"""Tests for :mod:`flowgate.websocket.frames`."""

# mypy: disallow-untyped-calls=False
# (trial and much of twisted.web have no annotations)
from __future__ import annotations

import json
from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate import errors
from flowgate.errors import InvalidJson, InvalidParameter, MissingField, Refused
from flowgate.message import Run
from flowgate.topics import Namespace, Topic
from flowgate.websocket import frames
from flowgate.websocket.frames import Auth, Frame, Ping, Publish, Subscribe, Unsubscribe, Who

_SETTINGS = settings(deadline=None, database=None)

TOPIC = Topic(Namespace("alice", "shop"), "news")


KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3


def opening_request(uri: str, *headers: str) -> bytes:
    """A client's opening handshake (RFC 6455 section 4.1)."""
    lines = [
        f"GET {uri} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def masked(payload: bytes, first: int = 0x81, mask: bytes = b"\x0b\xad\xca\xfe") -> bytes:
    """A client's frame (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 0x10000:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def unframed(wire: bytes) -> list[bytes]:
    """The payloads of a server's text frames."""
    payloads = []
    while wire:
        assert wire[0] == 0x81, "FIN and text"
        size, start = wire[1], 2
        if size == 126:
            size, start = int.from_bytes(wire[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(wire[2:10], "big"), 10
        payloads.append(wire[start : start + size])
        wire = wire[start + size :]
    return payloads


def shown(wire: bytes) -> list[object]:
    """The JSON values of a server's text frames."""
    return [json.loads(payload) for payload in unframed(wire)]


class ParseTests(SynchronousTestCase):
    """What clients may send, and what they may not."""

    def test_every_action(self) -> None:
        """Each frame of the protocol becomes its value."""
        table: list[tuple[str, Frame]] = [
            ('{"action":"subscribe","topic":"news"}', Subscribe("news", None, False, None)),
            (
                '{"action":"subscribe","topic":"a/#","since":"earliest","meta":true,"id":"s1"}',
                Subscribe("a/#", "earliest", True, "s1"),
            ),
            ('{"action":"subscribe","topic":"t","retained":true}', Subscribe("t", None, False, None, retained=True)),
            ('{"action":"subscribe","topic":"t","presence":true}', Subscribe("t", None, False, None, presence=True)),
            ('{"action":"who","topic":"a/#","id":"w"}', Who("a/#", "w")),
            ('{"action":"unsubscribe","topic":"news","id":0}', Unsubscribe("news", 0)),
            (
                '{"action":"publish","topic":"news","message":"Hi \\u00e9"}',
                Publish("news", "Hi é".encode(), None, None),
            ),
            (
                '{"action":"publish","topic":"t","message":{"a": [1, 2.5, null]}}',
                Publish("t", b'{"a":[1,2.5,null]}', None, None),
            ),
            ('{"action":"publish","topic":"t","message":null,"key":"k","id":7}', Publish("t", b"null", "k", 7)),
            ('{"action":"ping"}', Ping(None)),
            ('{"action":"auth","token":"abc","id":9007199254740991}', Auth("abc", 2**53 - 1)),
        ]
        for text, frame in table:
            self.assertEqual(frames.parse(text), frame)

    def assert_refused(self, kind: type[Refused], text: str, *, says: str = "") -> Refused:
        refusal: Refused = self.assertRaises(kind, frames.parse, text)
        self.assertIn(says, refusal.detail)
        return refusal

    def test_not_json(self) -> None:
        """What is not one JSON object is refused as such."""
        for text in ("", "{", "[]", '"ping"', "1", "null", "{} {}", '{"action":"ping"', "\ufeff{}"):
            self.assert_refused(InvalidJson, text)

    def test_missing(self) -> None:
        """A member that is missing is named."""
        self.assert_refused(MissingField, "{}", says="'action'")
        self.assert_refused(MissingField, '{"action":"subscribe"}', says="'topic'")
        self.assert_refused(MissingField, '{"action":"unsubscribe"}', says="'topic'")
        self.assert_refused(MissingField, '{"action":"publish","message":1}', says="'topic'")
        self.assert_refused(MissingField, '{"action":"publish","topic":"t"}', says="'message'")
        self.assert_refused(MissingField, '{"action":"auth"}', says="'token'")
        self.assert_refused(MissingField, '{"action":"who","id":1}', says="'topic'")
        self.assert_refused(MissingField, '{"action":"who","topic":"t"}', says="'id'")

    def test_wrong_types(self) -> None:
        """A member of a wrong type or size is named."""
        for member, text in [
            ("action", '{"action":1}'),
            ("topic", '{"action":"subscribe","topic":["a"]}'),
            ("topic", '{"action":"publish","topic":null,"message":1}'),
            ("since", '{"action":"subscribe","topic":"t","since":3}'),
            ("meta", '{"action":"subscribe","topic":"t","meta":1}'),
            ("retained", '{"action":"subscribe","topic":"t","retained":"yes"}'),
            ("presence", '{"action":"subscribe","topic":"t","presence":1}'),
            ("key", '{"action":"publish","topic":"t","message":1,"key":""}'),
            ("key", '{"action":"publish","topic":"t","message":1,"key":"a\\nb"}'),
            ("token", '{"action":"auth","token":{}}'),
            ("id", '{"action":"ping","id":null}'),
            ("id", '{"action":"ping","id":true}'),
            ("id", '{"action":"ping","id":-1}'),
            ("id", '{"action":"ping","id":1.0}'),
            ("id", '{"action":"ping","id":9007199254740992}'),
            ("id", '{"action":"ping","id":""}'),
            ("id", '{"action":"ping","id":"%s"}' % ("x" * 129)),
        ]:
            self.assert_refused(InvalidParameter, text, says=f"'{member}'")

    def test_unknown_member(self) -> None:
        """An unknown member is refused by name, and the one that was probably meant is offered."""
        self.assert_refused(
            InvalidParameter, '{"action":"publish","topic":"t","mesage":1}', says="'mesage'; did you mean 'message'"
        )
        self.assert_refused(InvalidParameter, '{"action":"ping","zzz":1}', says="known are action, id")

    def test_unknown_action(self) -> None:
        """An unknown action is refused by name, and the one that was probably meant is offered."""
        self.assert_refused(InvalidParameter, '{"action":"subscibe"}', says="did you mean 'subscribe'")

    def test_long_unknown_name(self) -> None:
        """However long an unknown name is, the answer to it is short."""
        refusal = self.assert_refused(InvalidParameter, '{"action":"%s"}' % ("subscribe" * 10000))
        self.assertLess(len(refusal.detail), 200)

    def test_too_deep(self) -> None:
        """A message that is nested deeper than can be written is refused."""
        deep = "[" * 500 + "]" * 500
        self.assert_refused(InvalidParameter, f'{{"action":"publish","topic":"t","message":{deep}}}', says="nested")

    def test_id_of_refused_frame(self) -> None:
        """The refusal of a frame with an id echoes it."""
        refusal = self.assert_refused(MissingField, '{"action":"subscribe","id":"s1"}')
        self.assertEqual(
            shown(frames.error(refusal)),
            [{"action": "error", "code": "missing_field", "status": 400, "detail": "'topic' is missing", "id": "s1"}],
        )

    def test_token_is_not_shown(self) -> None:
        """The representation of a frame holds no token."""
        self.assertNotIn("secret", repr(frames.parse('{"action":"auth","token":"secret"}')))

    @_SETTINGS
    @given(st.one_of(st.binary(), st.text()))
    def test_any_bytes(self, text: bytes | str) -> None:
        """Nothing but a refusal comes of text that means nothing."""
        self.assertRaises(Refused, frames.parse, text)

    @_SETTINGS
    @given(
        st.dictionaries(
            st.sampled_from(
                ["action", "id", "topic", "message", "key", "since", "meta", "retained", "presence", "token", "x"]
            ),
            st.one_of(
                st.sampled_from(["publish", "subscribe", "unsubscribe", "ping", "auth", "who", "t"]),
                st.recursive(
                    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                    max_leaves=5,
                ),
            ),
        )
    )
    def test_any_object(self, value: dict[str, object]) -> None:
        """Any JSON object is a frame or a refusal that can be told."""
        try:
            frame = frames.parse(json.dumps(value))
        except Refused as refusal:
            (answer,) = shown(frames.error(refusal))
            assert isinstance(answer, dict)
            self.assertEqual(answer["code"], refusal.code)
        else:
            self.assertEqual(frame.id, value.get("id"))


class ShortTextTests(SynchronousTestCase):
    """Text frames taken from a read without Autobahn (RFC 6455 section 5.2)."""

    def test_taken(self) -> None:
        """Whole frames are taken one behind the other, however long their length is written."""
        texts = ["", "a", "héllo", "x" * 125, "x" * 126, "y" * 4096]
        data = b"".join(masked(text.encode()) for text in texts)
        start = 0
        for text in texts:
            found = frames.short_text(data, start)
            assert found is not None
            self.assertEqual(found[0], text)
            start = found[1]
        self.assertEqual(start, len(data))
        self.assertIsNone(frames.short_text(data, start))

    def test_left(self) -> None:
        """Whatever is not a short, whole, final, masked text frame in UTF-8 is left alone."""
        for data in [
            masked(b"a", first=0x01),  # not final
            masked(b"a", first=0x80),  # continuation
            masked(b"a", first=0x82),  # binary
            masked(b"a", first=0x88),  # close
            masked(b"a", first=0x89),  # ping
            masked(b"a", first=0xC1),  # RSV1: compressed
            masked(b"x" * 4097),
            masked(b"x" * 70000),
            masked(b"\xff"),
            b"\x81\x01a",  # not masked
            b"\x81\xfe\x00\x05\x00\x00\x00\x00hello",  # length not written the shortest way
        ]:
            self.assertIsNone(frames.short_text(data, 0), data[:12])

    def test_every_split(self) -> None:
        """A part of a frame is left until the rest is there."""
        for text in ("hello", "x" * 200):
            data = masked(text.encode())
            for split in range(len(data)):
                self.assertIsNone(frames.short_text(data[:split], 0))

    @_SETTINGS
    @given(st.text(max_size=300), st.binary(min_size=4, max_size=4))
    def test_any_mask(self, text: str, mask: bytes) -> None:
        """Every text comes through every mask."""
        data = masked(text.encode(), mask=mask)
        self.assertEqual(frames.short_text(data, 0), (text, len(data)))

    @_SETTINGS
    @given(st.binary(max_size=40), st.integers(0, 40))
    def test_any_bytes(self, data: bytes, start: int) -> None:
        """No bytes raise anything."""
        frames.short_text(data, start)


class ShortFrameTests(SynchronousTestCase):
    """Binary frames taken from a read in the same way."""

    def test_taken(self) -> None:
        """Any bytes are taken, however long their length is written."""
        for payload in (b"", b"\xff\x00", bytes(range(256)) * 16):
            data = masked(payload, first=0x82)
            self.assertEqual(frames.short_frame(b"x" + data + b"y", 1, frames.BINARY), (payload, 1 + len(data)))

    def test_left(self) -> None:
        """A text frame, a part of a message, and a frame that is not whole are left alone."""
        for data in (masked(b"a"), masked(b"a", first=0x02), masked(b"a", first=0x80), masked(b"a", first=0x82)[:-1]):
            self.assertIsNone(frames.short_frame(data, 0, frames.BINARY))


class EncodeTests(SynchronousTestCase):
    """What clients are sent."""

    def test_text_frame_lengths(self) -> None:
        """The length is written the shortest way, and no frame is masked."""
        for size, head in [
            (0, b"\x81\x00"),
            (125, b"\x81\x7d"),
            (126, b"\x81\x7e\x00\x7e"),
            (65535, b"\x81\x7e\xff\xff"),
            (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ]:
            self.assertEqual(frames.text_frame(b"x" * size), head + b"x" * size)
            self.assertEqual(frames.binary_frame(b"x" * size), b"\x82" + head[1:] + b"x" * size)

    def test_message_members(self) -> None:
        """A message has exactly the members action, topic and data, in this order."""
        self.assertEqual(
            unframed(frames.encode_run(Run(TOPIC, [b"Hello World!"]), False)),
            [b'{"action":"message","topic":"news","data":"Hello World!"}'],
        )

    def test_full_name(self) -> None:
        """A client that uses full names is shown the full name."""
        self.assertEqual(
            shown(frames.encode_run(Run(TOPIC, [b"1"]), True)),
            [{"action": "message", "topic": "alice_shop_news", "data": "1"}],
        )

    def test_run(self) -> None:
        """Every message of a run is a frame of its own, whatever it holds."""
        noise = bytes(range(256))
        wire = frames.encode_run(Run(TOPIC, [b'{"a":\n[1]}', b"", noise, b"x" * 70000]), False)
        head = {"action": "message", "topic": "news"}
        self.assertEqual(
            shown(wire),
            [
                {**head, "data": {"a": [1]}},
                {**head, "data": ""},
                {**head, "data": b64encode(noise).decode(), "encoding": "base64"},
                {**head, "data": "x" * 70000},
            ],
        )

    def test_meta(self) -> None:
        """With meta, a message that history holds has its cursor and its time."""
        run = Run(TOPIC, [b"a", b"b"], sequences=[7, 9], times=[1_700_000_000_123_456_789, 1_700_000_001_000_000_000])
        self.assertEqual(
            shown(frames.encode_run_with_meta(run, False, "e1")),
            [
                {"action": "message", "topic": "news", "data": "a", "id": "e1-7", "ts": "2023-11-14T22:13:20.123Z"},
                {"action": "message", "topic": "news", "data": "b", "id": "e1-9", "ts": "2023-11-14T22:13:21.000Z"},
            ],
        )

    def test_retained(self) -> None:
        """A retained message is marked as such; with meta, it has the cursor of its reader and its time."""
        run = Run(TOPIC, [b"a"], times=[1_700_000_000_123_456_789])
        plain = {"action": "message", "topic": "news", "data": "a", "retained": True}
        self.assertEqual(shown(frames.encode_retained(run, False)), [plain])
        self.assertEqual(
            shown(frames.encode_retained(run, True, "e1-7")),
            [{**plain, "topic": "alice_shop_news", "id": "e1-7", "ts": "2023-11-14T22:13:20.123Z"}],
        )

    def test_meta_of_live_message(self) -> None:
        """With meta, a message that history does not hold has no cursor."""
        self.assertEqual(
            shown(frames.encode_run_with_meta(Run(TOPIC, [b"a"]), False, "e1")),
            [{"action": "message", "topic": "news", "data": "a"}],
        )

    def test_answers(self) -> None:
        """Acknowledgements, pongs and notices."""
        self.assertEqual(
            shown(
                frames.ack(3, topic="t", cursor="e-1", duplicate=False)
                + frames.pong()
                + frames.notice("token_expiring", expires_in=30)
            ),
            [
                {"action": "ack", "id": 3, "topic": "t", "cursor": "e-1", "duplicate": False},
                {"action": "pong"},
                {"action": "notice", "code": "token_expiring", "expires_in": 30},
            ],
        )

    def test_presence(self) -> None:
        """Who has come or gone, and how many there are; or the number alone."""
        client = {"client": "c1", "user": "alice", "app": "shop", "since": "2026-11-24T02:56:38.371Z"}
        self.assertEqual(
            shown(frames.presence("t", 2, "join", client) + frames.presence("t", 0)),
            [
                {"action": "presence", "topic": "t", "event": "join", "client": client, "count": 2},
                {"action": "presence", "topic": "t", "count": 0},
            ],
        )

    def test_error(self) -> None:
        """An error carries what HTTP would say, and when to come again."""
        self.assertEqual(
            shown(frames.error(errors.LimitReached("no more", limit=10, used=10), "x")),
            [
                {
                    "action": "error",
                    "code": "limit_reached",
                    "status": 402,
                    "detail": "no more",
                    "limit": 10,
                    "used": 10,
                    "id": "x",
                }
            ],
        )
        self.assertEqual(
            shown(frames.error(errors.BusUnavailable()))[0],
            {
                "action": "error",
                "code": "bus_unavailable",
                "status": 503,
                "detail": "The message bus is away; try again",
                "retry_after": 1,
            },
        )

    def test_every_refusal_has_a_close_code(self) -> None:
        """The table of close codes covers every refusal there is."""
        kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Refused)]
        self.assertGreater(len(kinds), 10)
        for kind in kinds:
            self.assertIn(frames.close_code(kind()), {4400, 4401, 4402, 4403, 4429, 4500}, kind)
