"""Compressed messages: the codec, and connections that have agreed on it."""

# mypy: disallow-untyped-calls=False
# (trial and much of twisted.web have no annotations)
from __future__ import annotations

import contextlib
import json
import tracemalloc
import zlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.message import Run
from flowgate.websocket import deflate, frames, opening
from flowgate.websocket.deflate import COMPRESSED_TEXT, NotInflated

from .test_websocket_frames import masked
from .test_websocket_protocol import HOME, ConnectionTestCase, Peer, message, publish, subscribe

TAIL = b"\x00\x00\xff\xff"
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
LARGEST = 2 * 2000 + 4096


def compressed(payload: bytes, window: int = 15, level: int = 9) -> bytes:
    """As a client compresses a message that stands alone."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def inflated(frame: bytes) -> bytes:
    """The message of a compressed frame of less than 64 KiB, with the smallest window that was agreed on."""
    assert frame[0] == COMPRESSED_TEXT
    return zlib.decompressobj(-12).decompress(frame[4 if frame[1] == 126 else 2 :] + TAIL)


class CodecTests(SynchronousTestCase):
    """Messages to compressed bytes and back (RFC 7692 section 7.2)."""

    @settings(deadline=None, database=None)
    @given(st.binary(max_size=2000), st.integers(1, 20))
    def test_round_trip(self, payload: bytes, times: int) -> None:
        """What was compressed is inflated, and a window of 4 KiB is enough for it."""
        payload *= times
        wire = deflate.deflate(payload)
        self.assertEqual(deflate.inflate(wire, len(payload)), payload)
        self.assertEqual(zlib.decompressobj(-12).decompress(wire + TAIL), payload)

    def test_examples_of_the_specification(self) -> None:
        """The examples of RFC 7692 section 7.2.3 are understood: one block, no compression, a last block."""
        for wire in (
            "f2 48 cd c9 c9 07 00",
            "00 05 00 fa ff 48 65 6c 6c 6f 00",
            "f3 48 cd c9 c9 07 00 00",
            "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
        ):
            self.assertEqual(deflate.inflate(bytes.fromhex(wire), 5), b"Hello", wire)

    def test_bound(self) -> None:
        """A message of the largest size is taken, one byte more is not, wherever the compressed bytes end."""
        for pattern in (b"a", b"abc", bytes(range(256))):
            for size in range(1000, 1300, 7):
                whole = (pattern * size)[:size]
                for level in (0, 1, 9):
                    wire = compressed(whole, level=level)
                    self.assertEqual(deflate.inflate(wire, size), whole)
                    for most in (0, 1, size - 258, size - 1):
                        with self.assertRaises(NotInflated) as caught:
                            deflate.inflate(wire, most)
                        self.assertEqual(caught.exception.code, 1009)

    def test_malformed(self) -> None:
        """What is not a compressed message is told by 1007; also if something stands behind its last block."""
        for wire in (b"\xff\xff\xff", b"\x06", bytes.fromhex("f3 48 cd c9 c9 07 00 00") + b"more"):
            with self.assertRaises(NotInflated) as caught:
                deflate.inflate(wire, 1000)
            self.assertEqual(caught.exception.code, 1007)

    @settings(deadline=None, database=None)
    @given(st.binary(max_size=60), st.integers(0, 100))
    def test_any_bytes(self, wire: bytes, most: int) -> None:
        """Any bytes are a message within its bound, or are not inflated."""
        with contextlib.suppress(NotInflated):
            self.assertLessEqual(len(deflate.inflate(wire, most)), most)

    def test_frames(self) -> None:
        """Frames are compressed if that makes them smaller; short ones are not tried."""
        text = b'{"a":"' + b"x" * 500 + b'"}'
        self.assertEqual(inflated(deflate.deflated_frame(text)), text)
        self.assertLess(len(deflate.deflated_frame(text)), 40)
        noise = zlib.compress(bytes(range(256)))
        for payload in (b"a" * (deflate.LEAST - 1), noise):
            self.assertEqual(deflate.deflated_frame(payload), frames.text_frame(payload))


class _Case(ConnectionTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.factory = self.make_factory(deflate=True)

    def deflating(self, *values: Any, offer: str = OFFER) -> Peer:
        """A client that has agreed on compression."""
        peer = self.bare().handshake("/ws?token=alice", offer)
        self.assertIn(b"permessage-deflate", peer.answer)
        peer.send(*values)
        self.settle()
        peer.got()
        return peer


def squeezed(value: Any, first: int = COMPRESSED_TEXT) -> bytes:
    return masked(compressed(json.dumps(value).encode()), first=first)


class NegotiationTests(_Case):
    """Who agrees on what (RFC 7692 section 7.1)."""

    def extension(self, *headers: str) -> str | None:
        peer = self.bare().handshake("/ws?token=alice", *headers)
        self.assertEqual(peer.status, 101)
        peer.protocol.connectionLost()
        for line in peer.answer.decode().split("\r\n"):
            if line.lower().startswith("sec-websocket-extensions:"):
                return line.partition(":")[2].strip()
        return None

    def test_offers(self) -> None:
        """The first offer that can be kept is taken; a window smaller than ours is not."""
        ours = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        for offer, answer in [
            ("permessage-deflate", ours),
            ("permessage-deflate; client_max_window_bits", ours),
            ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", ours),
            ("permessage-deflate; server_max_window_bits=15", f"{ours}; server_max_window_bits=12"),
            ("permessage-deflate; server_max_window_bits=12", f"{ours}; server_max_window_bits=12"),
            ("permessage-deflate; server_max_window_bits=11", None),
            ("permessage-deflate; server_max_window_bits=9, permessage-deflate", ours),
            ("x-webkit-deflate-frame", None),
        ]:
            self.assertEqual(self.extension(f"Sec-WebSocket-Extensions: {offer}"), answer, offer)

    def test_well_formed(self) -> None:
        """An offer with a parameter that is unknown, twice there or out of range is declined, and the others stay."""
        for offers, kept in [
            ("permessage-deflate", "permessage-deflate"),
            ("Permessage-Deflate ; client_max_window_bits", "Permessage-Deflate ; client_max_window_bits"),
            ('permessage-deflate;server_max_window_bits="9"', 'permessage-deflate;server_max_window_bits="9"'),
            ("permessage-deflate; server_max_window_bits=8, permessage-deflate", "permessage-deflate"),
            ("permessage-deflate; server_max_window_bits=16", ""),
            ("permessage-deflate; server_max_window_bits", ""),
            ("permessage-deflate; client_no_context_takeover=1", ""),
            ("permessage-deflate; client_no_context_takeover; Client_no_context_takeover", ""),
            ('permessage-deflate; window="a,permessage-deflate; b"', ""),
            ("permessage-deflate; ", ""),
            ("permessage-deflated, permessage-bzip2, x; y=z, ,", ""),
        ]:
            self.assertEqual(opening.readable(offers).strip(), kept, offers)
            self.extension(f"Sec-WebSocket-Extensions: {kept}")  # or the handshake is refused

    def test_not_offered(self) -> None:
        """Who does not offer it does not get it, and may not send it."""
        self.assertIsNone(self.extension())
        peer = self.peer(subscribe("t"))
        peer.send(squeezed(publish("t", "x" * 300)))
        self.assertEqual(peer.got(), [1002])

    def test_switched_off(self) -> None:
        """As an option that is off it is not taken."""
        self.factory = self.make_factory()
        self.assertIsNone(self.extension(OFFER))


class MessageTests(_Case):
    """Messages on connections that have agreed."""

    def test_to_the_client(self) -> None:
        """A message is compressed, a short one is not."""
        peer = self.deflating(subscribe("t"))
        self.peer(publish("t", "x" * 500), publish("t", "short"))
        wire = peer.transport.value()
        self.assertLess(len(wire), 150)
        self.assertEqual(wire[0], COMPRESSED_TEXT)
        self.assertEqual(peer.got(), [message("t", "x" * 500), message("t", "short")])

    def test_once_for_all(self) -> None:
        """A message is compressed once for all subscribers of a form, and others get it as it is."""
        made: list[bytes] = []
        real = deflate.deflate

        def observe(payload: bytes) -> bytes:
            made.append(payload)
            return real(payload)

        self.patch(deflate, "deflate", observe)
        self.gateway.connections._limit = 10
        some = [self.deflating(subscribe("t")) for _ in range(3)]
        other, full = self.peer(subscribe("t")), self.deflating(subscribe("alice_shop_t"))
        self.peer(publish("t", "x" * 500))
        wires = [peer.transport.value() for peer in some]
        self.assertEqual(wires, [wires[0]] * 3)
        self.assertEqual(other.transport.value()[0], frames.TEXT)
        for peer in (*some, other):
            self.assertEqual(peer.got(), [message("t", "x" * 500)])
        self.assertEqual(full.got(), [message("alice_shop_t", "x" * 500)])
        self.assertEqual(len(made), 2)

    def test_history(self) -> None:
        """Messages of history, and retained ones, are compressed too."""
        route = self.gateway.route(self.tokens.verify("alice"), "t")
        self.gateway.publish(route, b"x" * 500, retain=True)
        self.settle()
        for options in ({"since": "earliest"}, {"since": "earliest", "meta": True}, {"retained": True}):
            peer = self.deflating()
            peer.send(subscribe("t", **options))
            self.settle()
            self.assertEqual(peer.transport.value()[0], COMPRESSED_TEXT, options)
            self.assertEqual([one["data"] for one in peer.got()], ["x" * 500])
            peer.protocol.connectionLost()

    def test_from_the_client(self) -> None:
        """Compressed frames are understood among others, in order, however they are split."""
        peer = self.deflating(subscribe("t"))
        data = squeezed(publish("t", "1" * 300)) + masked(json.dumps(publish("t", "2")).encode())
        data += squeezed(publish("t", "é" * 200)) + squeezed({"action": "ping"})
        wanted = [message("t", "1" * 300), message("t", "2"), message("t", "é" * 200), {"action": "pong"}]
        for split in range(len(data)):
            peer.raw(data[:split])
            peer.raw(data[split:])
            self.assertEqual(peer.got(), wanted)

    def test_fragments(self) -> None:
        """A compressed message in fragments is one frame of ours (RFC 7692 section 6.1)."""
        wire = compressed(json.dumps(publish("t", "abc" * 200)).encode())
        peer = self.deflating(subscribe("t"))
        for cut in (1, 5, len(wire) - 1):
            peer.send(masked(wire[:cut], first=0x41), masked(b"", first=0x89), masked(wire[cut:], first=0x80))
            self.assertEqual(peer.got(), ["pong", message("t", "abc" * 200)])

    def test_long(self) -> None:
        """A frame too long for the fast way is inflated too, and keeps no window afterwards."""
        noise = "".join(chr(33 + (index * index * 7919) % 90) for index in range(2000))
        peer = self.deflating(subscribe("t"))
        self.patch(frames, "SHORT", 10)
        peer.send(squeezed(publish("t", noise)))
        self.assertEqual(peer.got(), [message("t", noise)])
        self.assertIsNone(peer.protocol._perMessageCompress._inflater)

    def test_no_context(self) -> None:
        """A message that needs the window of one before it is refused: that was not agreed on."""
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        text = json.dumps(publish("t", "some words that come again")).encode()
        first, second = (
            (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL) for _ in range(2)
        )
        peer = self.deflating(subscribe("t"))
        peer.send(masked(first, first=COMPRESSED_TEXT))
        self.assertEqual(peer.got(), [message("t", "some words that come again")])
        peer.send(masked(second, first=COMPRESSED_TEXT))
        self.assertEqual(peer.got(), [1007])

    def test_malformed(self) -> None:
        """What cannot be inflated, or is no UTF-8 then, closes with 1007, binary with 1003, RSV2 with 1002."""
        text = json.dumps({"action": "ping"}).encode()
        for data, code in [
            (masked(b"\xff\xff\xff", first=COMPRESSED_TEXT), 1007),
            (masked(compressed(b'{"action":"\xff"}'), first=COMPRESSED_TEXT), 1007),
            (masked(compressed(b'{"action":"\xc3'), first=COMPRESSED_TEXT), 1007),
            (masked(compressed(text), first=0xC2), 1003),
            (masked(compressed(text), first=0xE1), 1002),
            (masked(b"", first=0xC9), 1002),
            (masked(text[:3], first=0x01) + masked(text[3:], first=0xC0), 1002),
        ]:
            peer = self.deflating()
            peer.send({"action": "ping"}, data)
            self.assertEqual(peer.got(), [{"action": "pong"}, code], data)
            peer.protocol.connectionLost()

    def test_bomb(self) -> None:
        """A small frame that would become large closes with 1009, and never is large."""
        zeros = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = b"".join([zeros.compress(bytes(1 << 20)) for _ in range(64)]) + zeros.flush(zlib.Z_SYNC_FLUSH)
        small = compressed(bytes(1 << 20))
        parts = [small[:10], small[10:500], small[500:]]
        for data in (
            masked(small, first=COMPRESSED_TEXT),
            masked(bomb[: LARGEST - 100], first=COMPRESSED_TEXT),
            masked(parts[0], first=0x41) + masked(parts[1], first=0x00) + masked(parts[2], first=0x80),
        ):
            peer = self.deflating()
            tracemalloc.start()
            try:
                peer.send(data)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            self.assertEqual(peer.got(), [1009])
            self.assertLess(peak, 200_000)
            peer.protocol.connectionLost()

    def test_as_large_as_allowed(self) -> None:
        """The bound is that of a frame as it would be without compression: one byte more is too much."""
        text = json.dumps(publish("t", "x" * 1999)).encode()
        for size, answers in ((LARGEST, [message("t", "x" * 1999)]), (LARGEST + 1, [1009])):
            for short in (frames.SHORT, 10):
                self.patch(frames, "SHORT", short)
                peer = self.deflating(subscribe("t"))
                peer.send(masked(compressed(text.ljust(size)), first=COMPRESSED_TEXT))
                self.assertEqual(peer.got(), answers)
                peer.protocol.connectionLost()

    def test_runs(self) -> None:
        """A run becomes one frame for each message."""
        run = Run(self.gateway.route(self.tokens.verify("alice"), "t").topic, [b"x" * 500, b"1"])
        self.assertEqual(run.topic.namespace, HOME)
        wire = frames.encode_run(run, False, deflate.deflated_frame)
        self.assertEqual(wire[0], COMPRESSED_TEXT)
        self.assertTrue(wire.endswith(frames.text_frame(b'{"action":"message","topic":"t","data":"1"}')))
