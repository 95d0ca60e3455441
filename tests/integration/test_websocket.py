"""WebSocket clients of a real gateway."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.integration.gateway import PATIENCE, RunningGateway, until


class WebSocketTests(SynchronousTestCase):
    """What only a whole gateway shows."""

    def setUp(self) -> None:
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()

    def connect(self, token: str, **options: Any) -> AbstractContextManager[ClientConnection]:
        url = f"ws://127.0.0.1:{self.gateway.http}/ws?token={token}"
        connected: AbstractContextManager[ClientConnection] = connect(
            url, open_timeout=PATIENCE, close_timeout=PATIENCE, **options
        )
        return connected

    def ask(self, client: ClientConnection, **frame: Any) -> Any:
        """Send a frame with an id; return its answer, and fail on anything before it."""
        client.send(json.dumps({**frame, "id": "q"}))
        answer = self.receive(client)
        self.assertEqual(answer.get("id"), "q", answer)
        return answer

    def receive(self, client: ClientConnection) -> Any:
        return json.loads(client.recv(timeout=PATIENCE))

    def test_live_and_stored(self) -> None:
        """What is published without and with an id comes to a subscriber, once, in the form it subscribed with."""
        token = self.gateway.token("ann")
        with self.connect(token) as subscriber, self.connect(token) as publisher:
            self.ask(subscriber, action="subscribe", topic="ann_shop_news")
            publisher.send(json.dumps({"action": "publish", "topic": "news", "message": "live"}))
            answer = self.ask(publisher, action="publish", topic="news", message={"stored": True})
            self.assertEqual((answer["action"], answer["duplicate"]), ("ack", False))
            self.ask(publisher, action="publish", topic="news", message=["last"])
            head = {"action": "message", "topic": "ann_shop_news"}
            self.assertEqual(
                [self.receive(subscriber) for _ in range(3)],
                [{**head, "data": "live"}, {**head, "data": {"stored": True}}, {**head, "data": ["last"]}],
            )

    def test_history(self) -> None:
        """A cursor from an acknowledgement leads to exactly what was stored behind it, then to what follows."""
        token = self.gateway.token("ben")
        with self.connect(token) as client:
            first = self.ask(client, action="publish", topic="t", message="1")
            second = self.ask(client, action="publish", topic="t", message="2", key="two")
            again = self.ask(client, action="publish", topic="t", message="2", key="two")
            self.assertEqual((again["cursor"], again["duplicate"]), (second["cursor"], True))
            client.send(json.dumps({"action": "subscribe", "topic": "t", "since": first["cursor"], "meta": True}))
            message = self.receive(client)
            self.assertEqual((message["data"], message["id"]), ("2", second["cursor"]))
            client.send(json.dumps({"action": "publish", "topic": "t", "message": "3", "key": "three"}))
            self.assertEqual(self.receive(client)["data"], "3")

    def test_publish_behind_subscribe(self) -> None:
        """A stored publish right behind a subscribe is seen by it, by readers of history too."""
        kinds: tuple[dict[str, object], ...] = ({}, {"meta": True}, {"since": "earliest"})
        for number, options in enumerate(kinds):
            token = self.gateway.token(f"cat-{number}")
            with self.connect(token) as client:
                client.send(json.dumps({"action": "subscribe", "topic": "t", **options}))
                client.send(json.dumps({"action": "publish", "topic": "t", "message": "seen", "key": "k"}))
                self.assertEqual(self.receive(client)["data"], "seen")

    def test_refused(self) -> None:
        """A wrong token is answered with 401, and a browser is closed with 4401."""
        refused = self.assertRaises(InvalidStatus, self.connect, "wrong")
        self.assertEqual(refused.response.status_code, 401)
        with self.connect("wrong", origin="https://example.org") as client:
            closed = self.assertRaises(ConnectionClosed, client.recv, PATIENCE)
        self.assertEqual(closed.rcvd.code, 4401)

    def test_no_token_in_log(self) -> None:
        """The gateway's log holds no token."""
        token = self.gateway.token("dan")
        with self.connect(token) as client:
            self.assertTrue(client.ping().wait(PATIENCE))
        self.assertNotIn(token, self.gateway.log())
        self.assertNotIn("Traceback", self.gateway.log())

    def test_slow_subscriber(self) -> None:
        """A subscriber that does not read is cut off with 4508; the others get everything."""
        token = self.gateway.token("eve")
        with self.connect(token, max_queue=1) as slow, self.connect(token) as fast:
            for client in (slow, fast):
                self.ask(client, action="subscribe", topic="t")
            for _ in range(100):
                fast.send(json.dumps({"action": "publish", "topic": "t", "message": "x" * 200_000}))
                self.assertEqual(len(self.receive(fast)["data"]), 200_000)
            until(lambda: "cut off" in self.gateway.log(), "the slow subscriber is cut off")
            with self.assertRaises(ConnectionClosed) as caught:
                while True:
                    slow.recv(PATIENCE)
            self.assertEqual(caught.exception.rcvd.code if caught.exception.rcvd else None, 4508)


class GuardedTests(SynchronousTestCase):
    """A gateway with compression, origins and a rate."""

    def setUp(self) -> None:
        config = """
[websocket]
deflate = true
origins = ["https://example.org"]

[limits]
frames_per_second = 50
"""
        self.gateway = RunningGateway(config=config)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def memory(self) -> int:
        """The most bytes that the gateway has had in memory."""
        assert self.gateway.process is not None
        status = Path(f"/proc/{self.gateway.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def test_compression(self) -> None:
        """A client that compresses, and one that does not, understand each other; a long message goes both ways."""
        long = [{"number": number, "name": f"name {number}"} for number in range(2000)]
        with (
            self.gateway.websocket(self.token, compression="deflate") as one,
            self.gateway.websocket(self.token, compression=None) as other,
        ):
            self.assertEqual([one.name for one in one.connection.protocol.extensions], ["permessage-deflate"])
            self.assertEqual(other.connection.protocol.extensions, [])
            for client in (one, other):
                client.subscribe("t")
            for client in (one, other):
                for message in (long, "short"):
                    client.send(action="publish", topic="t", message=message)
                    for receiver in (one, other):
                        self.assertEqual(receiver.frame()["data"], message)

    def test_bomb(self) -> None:
        """What would become far too large is refused with 1009, and the gateway does not grow by it."""
        before = self.memory()
        for _ in range(5):
            with self.gateway.websocket(self.token, compression="deflate") as client:
                client.connection.send(" " * (64 << 20))
                closed = self.assertRaises(ConnectionClosed, client.connection.recv, PATIENCE)
                self.assertEqual(closed.rcvd.code, 1009)
        self.assertLess(self.memory() - before, 8 << 20)

    def test_origin(self) -> None:
        """A page of another origin is closed with 4403, one of an allowed origin is not."""
        with self.gateway.websocket(self.token, origin="https://evil.example") as client:
            closed = self.assertRaises(ConnectionClosed, client.connection.recv, PATIENCE)
        self.assertEqual(closed.rcvd.code, 4403)
        with self.gateway.websocket(self.token, origin="https://example.org") as client:
            self.assertEqual(client.ask(action="ping")["action"], "ack")

    def test_rate(self) -> None:
        """Frames beyond the rate are refused, the others are answered."""
        with self.gateway.websocket(self.token) as client:
            for _ in range(200):
                client.send(action="ping")
            answers = [client.frame() for _ in range(200)]
        taken = [one for one in answers if one == {"action": "pong"}]
        self.assertTrue(100 <= len(taken) < 200, len(taken))
        self.assertEqual({one["code"] for one in answers if one["action"] == "error"}, {"rate_limited"})
