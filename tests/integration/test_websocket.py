"""WebSocket clients of a real gateway."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
from contextlib import AbstractContextManager
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
