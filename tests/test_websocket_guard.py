"""What a WebSocket connection is guarded by: origins, and the rate of frames."""

# mypy: disallow-untyped-calls=False
# (trial and much of twisted.web have no annotations)
from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import OriginNotAllowed
from flowgate.websocket import protocol
from flowgate.websocket.opening import Origins

from .test_websocket_frames import masked
from .test_websocket_protocol import ConnectionTestCase, message, publish, subscribe

PING = {"action": "ping"}
PONG = {"action": "pong"}


class OriginsTests(SynchronousTestCase):
    """Whose scripts may connect."""

    def allows(self, origins: list[str], origin: str | None) -> bool:
        try:
            Origins(origins).check(origin)
        except OriginNotAllowed:
            return False
        return True

    def test_all(self) -> None:
        """Without a list everybody may."""
        for origin in ("https://example.org", "null", "", None):
            self.assertTrue(self.allows([], origin))

    def test_exact(self) -> None:
        """An origin is scheme, host and port together; letters may be capitals."""
        origins = ["https://example.org", "http://localhost:3000"]
        for origin in ("https://example.org", "HTTPS://EXAMPLE.ORG", "http://localhost:3000"):
            self.assertTrue(self.allows(origins, origin))
        for origin in (
            *("http://example.org", "https://example.org:8443", "https://example.org.evil.example", "null"),
            *("https://www.example.org", "https://evil.example/https://example.org", "http://localhost:30000"),
        ):
            self.assertFalse(self.allows(origins, origin), origin)

    def test_below(self) -> None:
        """A star stands for every host below, not for the domain itself, nor for a part of a label."""
        for origin in ("https://a.example.org", "https://a.b.example.org"):
            self.assertTrue(self.allows(["https://*.example.org"], origin))
        for origin in (
            *("https://example.org", "https://.example.org", "https://evilexample.org", "http://a.example.org"),
            *("https://a.example.org:8443", "https://a.example.org.evil.example", "https://"),
        ):
            self.assertFalse(self.allows(["https://*.example.org"], origin), origin)

    def test_no_browser(self) -> None:
        """What is no browser sends no origin, and is not asked for one."""
        for origin in ("", None):
            self.assertTrue(self.allows(["https://example.org"], origin))

    def test_null(self) -> None:
        """Pages without an origin of their own have to be allowed by name."""
        self.assertTrue(self.allows(["null"], "null"))
        self.assertFalse(self.allows(["https://example.org"], "null"))


class OriginTests(ConnectionTestCase):
    """What becomes of a handshake of a page that may not connect."""

    def setUp(self) -> None:
        super().setUp()
        self.factory = self.make_factory(origins=["https://example.org"])

    def test_refused(self) -> None:
        """It succeeds and is closed with 4403; nothing is done for it, not even a look at its token."""
        self.patch(self.tokens, "verify", lambda token: 1 / 0)
        peer = self.bare().handshake("/ws?token=alice", "Origin: https://evil.example")
        self.assertEqual(peer.status, 101)
        self.assertEqual(peer.got(), [4403])
        self.assertEqual(len(self.connections), 0)
        peer.send(subscribe("t", id=1), PING)
        self.assertEqual(peer.got(), [])

    def test_allowed(self) -> None:
        """A page that may connect does, and a program does."""
        for headers in (["Origin: https://example.org"], []):
            peer = self.bare().handshake("/ws?token=alice", *headers)
            peer.send(PING)
            self.assertEqual((peer.status, peer.got()), (101, [PONG]))


class RateTests(ConnectionTestCase):
    """How many frames a client may send."""

    limits = attrs.evolve(ConnectionTestCase.limits, frames_per_second=5)

    def refused(self, answers: list[Any]) -> list[Any]:
        return [one for one in answers if one != PONG]

    def test_burst(self) -> None:
        """At once two seconds' worth of frames is taken; what comes then is refused, and nothing of it is done."""
        peer = self.peer(subscribe("t"))
        peer.send(*[publish("t", number) for number in range(12)])
        *messages, first, second, third = peer.got()
        self.assertEqual(messages, [message("t", str(number)) for number in range(9)])
        for frame in (first, second, third):
            self.assert_error(frame, "rate_limited", 429, retry_after=1)

    def test_in_the_long_run(self) -> None:
        """So many are taken each second, and a client that keeps to that is never refused."""
        peer = self.peer()
        for _ in range(60):
            peer.send(*[PING] * 5)
            self.assertEqual(peer.got(), [PONG] * 5)
            self.clock.advance(1)

    def test_back_in_time(self) -> None:
        """Who waits as long as the error says is taken again."""
        peer = self.peer()
        peer.send(*[PING] * 11)
        self.assertEqual(len(self.refused(peer.got())), 1)
        self.clock.advance(1)
        peer.send(PING)
        self.assertEqual(peer.got(), [PONG])

    def test_id(self) -> None:
        """A refused frame with an id has its one answer, also if it is malformed besides."""
        peer = self.peer()
        peer.send(*[PING] * 10, {"action": "ping", "id": "x"}, {"action": "nonsense", "id": 7}, masked(b"{"))
        answers = self.refused(peer.got())
        self.assertEqual([one.get("id") for one in answers], ["x", 7, None])
        self.assertEqual({one["code"] for one in answers}, {"rate_limited"})

    def test_other_frames(self) -> None:
        """Pings and pongs of the protocol below are not counted; messages in fragments are, once."""
        peer = self.peer()
        peer.send(*[masked(b"", first=0x89)] * 20, masked(b'{"action":', first=0x01), masked(b'"ping"}', first=0x80))
        self.assertEqual(peer.got(), ["pong"] * 20 + [PONG])
        peer.send(*[PING] * 10)
        self.assertEqual(len(self.refused(peer.got())), 1)

    def test_too_long(self) -> None:
        """A client that goes on for ten seconds, and does not pause for one, is closed with 4429."""
        peer = self.peer()
        answers = []
        for _ in range(22):
            peer.send(*[PING] * 10)
            answers += peer.got()
            self.clock.advance(0.5)
        self.assertEqual(answers[-1], 4429)
        self.assertEqual(answers[-2]["code"], "rate_limited")
        self.assertEqual(answers.count(4429), 1)
        self.assertEqual(len(self.connections), 0)

    def test_pauses(self) -> None:
        """A client that pauses is not closed, however often it is refused."""
        peer = self.peer()
        for _ in range(20):
            peer.send(*[PING] * 20)
            self.assertIn("rate_limited", {one.get("code") for one in peer.got()})
            self.clock.advance(1.5)
        self.assertFalse(peer.closed)

    def test_each_connection(self) -> None:
        """The rate of one connection is not that of another."""
        one, other = self.peer(), self.peer()
        one.send(*[PING] * 20)
        other.send(PING)
        self.assertEqual(other.got(), [PONG])

    def test_no_rate(self) -> None:
        """Without a limit nothing is refused."""
        self.gateway.limits = ConnectionTestCase.limits
        peer = self.peer()
        peer.send(*[PING] * 1000)
        self.assertEqual(peer.got(), [PONG] * 1000)

    def test_spread(self) -> None:
        """Clients of a node that goes away are asked to come back within five seconds, each at its own time."""
        drawn = iter((0.0, 0.5, 0.999))
        self.factory.draw = lambda: next(drawn)
        peers = [self.peer() for _ in range(3)]
        self.connections.end(None)
        self.settle()
        self.assertEqual([peer.got()[0]["retry_after_ms"] for peer in peers], [0, 2500, 4995])
        self.assertEqual(protocol.COME_BACK_SECONDS, 5)
