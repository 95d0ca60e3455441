"""Presence as a WebSocket client sees it."""

# mypy: disallow-untyped-calls=False
# (trial and much of twisted.web have no annotations)
from __future__ import annotations

from typing import Any

from flowgate import presence

from .test_websocket_protocol import ConnectionTestCase, Peer, message, publish, subscribe


class PresenceTests(ConnectionTestCase):
    """Frames of those who ask who else is there."""

    def setUp(self) -> None:
        super().setUp()
        self.connections._limit = 10

    def here(self, topic: str = "t", **options: Any) -> tuple[Peer, str]:
        """A client that is there, and its id."""
        peer = self.peer(**options)
        peer.send(subscribe(topic, presence=True, id="p"))
        self.settle()
        (answer,) = peer.got()
        self.assertEqual((answer["action"], answer["id"], answer["topic"]), ("ack", "p", topic))
        return peer, answer["client"]

    def who(self, peer: Peer, topic: str = "t") -> tuple[int, list[str]]:
        peer.send({"action": "who", "topic": topic, "id": "w"})
        (answer,) = peer.got()
        self.assertEqual({**answer, "count": 0, "clients": 0}, {"action": "ack", "id": "w", "topic": topic} | _NONE)
        return answer["count"], [one["client"] for one in answer["clients"]]

    def test_join_and_leave(self) -> None:
        """Who is there is told of who comes and goes; the acknowledgement says who one is, and how many there are."""
        first, one = self.here()
        second, two = self.here()
        (joined,) = first.got()
        client = joined.pop("client")
        self.assertEqual(joined, {"action": "presence", "topic": "t", "event": "join", "count": 2})
        self.assertEqual((client["client"], client["user"], client["app"]), (two, "alice", "shop"))
        self.assertTrue(client["since"].endswith("Z"))
        second.protocol.connectionLost()
        self.assertEqual(first.got(), [])
        self.wait(2)
        self.assertEqual(
            first.got(), [{"action": "presence", "topic": "t", "event": "leave", "client": client, "count": 1}]
        )
        self.assertEqual(self.who(first), (1, [one]))

    def test_acknowledgement(self) -> None:
        """It comes before anything that follows, and counts oneself."""
        self.here()
        peer = self.peer()
        peer.send(subscribe("t", presence=True, id=1), publish("t", 1))
        self.settle()
        ack, live = peer.got()
        self.assertEqual((ack["count"], sorted(ack)), (2, ["action", "client", "count", "id", "topic"]))
        self.assertEqual(live, message("t", "1"))

    def test_who(self) -> None:
        """Anybody who may subscribe may ask who is there, and is not there by that."""
        asking = self.peer(subscribe("t"))
        self.assertEqual(self.who(asking), (0, []))
        _, one = self.here()
        self.assertEqual((self.who(asking), asking.got()), ((1, [one]), []))

    def test_not_permitted(self) -> None:
        """Who may not subscribe may neither ask nor be there."""
        peer = self.peer(token="alice-less")
        peer.send({"action": "who", "topic": "u", "id": 1}, subscribe("u", presence=True, id=2))
        for number, answer in enumerate(peer.got(), 1):
            self.assert_error(answer, "insufficient_scope", 403, id=number)

    def test_other_account(self) -> None:
        """Another account sees nothing, whatever it calls the filter."""
        self.here()
        for topic in ("t", "alice_shop_t"):
            bob, _ = self.here(topic, token="bob")
            self.here()
            self.assertEqual((bob.got(), self.who(bob, topic)[0]), ([], 1))

    def test_names(self) -> None:
        """Everybody is shown the filter in the form of their own."""
        short, _ = self.here()
        full, _ = self.here("alice_shop_t")
        short.got()
        self.here()
        self.assertEqual([peer.got()[0]["topic"] for peer in (short, full)], ["t", "alice_shop_t"])

    def test_unsubscribe(self) -> None:
        """Who unsubscribes leaves, and is told no more."""
        staying, _ = self.here()
        going, _ = self.here()
        going.send({"action": "unsubscribe", "topic": "t"})
        self.wait(2)
        self.here()
        self.assertEqual([one["event"] for one in staying.got()], ["join", "leave", "join"])
        self.assertEqual(going.got(), [])

    def test_changed_mind(self) -> None:
        """A subscription can get presence, or lose it, without an interruption of its messages."""
        watching, _ = self.here()
        peer = self.peer(subscribe("t"))
        self.bus.hold()
        peer.send(subscribe("t", presence=True, id=1), subscribe("t", presence=True, id=2))
        first, second = peer.got()
        self.assertEqual((first["client"], first["count"]), (second["client"], second["count"]))
        peer.send(subscribe("t", id=3))
        self.wait(2)
        self.assertEqual(peer.got(), [{"action": "ack", "id": 3, "topic": "t"}])
        self.assertEqual([one["event"] for one in watching.got()], ["join", "leave"])
        self.peer(publish("t", 1))
        self.assertEqual(peer.got(), [message("t", "1")])

    def test_other_options(self) -> None:
        """A subscription that is replaced by one with other options does not look like a leave."""
        watching, _ = self.here()
        peer, _ = self.here()
        for options in ({"since": "earliest"}, {"meta": True}, {}):
            peer.send(subscribe("t", presence=True, **options))
            self.settle()
        self.wait(3)
        self.assertEqual([one["event"] for one in watching.got()], ["join"])
        self.assertEqual(self.who(watching)[0], 2)

    def test_reconnected(self) -> None:
        """A client that comes back at once is who it was."""
        watching, _ = self.here()
        peer, one = self.here()
        watching.got()
        peer.protocol.connectionLost()
        self.clock.advance(0.5)
        _, again = self.here()
        self.wait(3)
        self.assertEqual((again, watching.got()), (one, []))

    def test_less(self) -> None:
        """A subscription that a new token does not cover leaves its room."""
        watching, _ = self.here("u")
        peer, _ = self.here("u")
        peer.send({"action": "auth", "token": "alice-less"})
        self.wait(2)
        self.assertEqual([one["event"] for one in watching.got()], ["join", "leave"])

    def test_number_alone(self) -> None:
        """When too much happens only the number is told."""
        self.patch(presence, "MAX_CHANGES", 1)
        watching, _ = self.here()
        for _ in range(3):
            self.here()
        self.assertEqual([one["event"] for one in watching.got()], ["join"])
        self.wait(1)
        self.assertEqual(watching.got(), [{"action": "presence", "topic": "t", "count": 4}])

    def test_slow(self) -> None:
        """A client that does not read is cut off by what it is told of others, as by messages."""
        self.connections._limit = 5000
        watching, _ = self.here()
        watching.protocol._outbox._bound = 65536
        watching.stall()
        for _ in range(800):
            self.here()
            self.clock.advance(0.01)
        watching.catch_up()
        self.assertEqual(watching.got()[-1], 4508)

    def test_nothing_is_left(self) -> None:
        """When all connections have gone nothing is remembered."""
        for peer in [self.here()[0] for _ in range(5)]:
            peer.protocol.connectionLost()
        self.wait(3)
        self.assertEqual((self.presence._rooms, self.presence._held, self.router._spaces), ({}, {}, {}))


_NONE: dict[str, Any] = {"count": 0, "clients": 0}
