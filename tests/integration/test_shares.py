"""Shares on two nodes: what one account lets another do, by every protocol, and what is left without them."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed

from flowgate.mqtt.packets import Will
from tests.integration.gateway import MqttClient, WebSocketClient, until
from tests.integration.two_nodes import two_nodes

WITHIN_SECONDS = 2
"""So soon a share that was taken back is so on every node."""

_OUT = "/api/v1/topics/ann_shop_out%2Fx/messages"

OUTSIDE = ("#", "+", "+/x", "out/#", "out/+/y", "out", "in/#", "in/a", "secret", "$SYS/#")
"""What ann does not let bob subscribe to."""


class SharesTests(SynchronousTestCase):
    """Ann lets bob read ``out/+`` and write ``in/#``."""

    def setUp(self) -> None:
        _, (self.here, self.there), self.ann = two_nodes(self)
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.here.admin("POST", "/users", {"user": "bob"})
        self.share = self.make_share()
        self.bob = self.here.token(
            "bob", "cafe", publish=["#", "ann_shop_in/#"], subscribe=["#", "ann_shop_out/+"], queues=["*"]
        )
        until(lambda: self.publish(self.bob, "ann_shop_in/first") == 200, "the share is known to the other node")

    def make_share(self) -> str:
        wish = {"owner": "ann", "app": "shop", "grantee": "bob", "publish": ["in/#"], "subscribe": ["out/+"]}
        return str(self.here.admin("POST", "/shares", wish)["id"])

    def publish(self, token: str, topic: str, message: str = "x", **more: Any) -> int:
        body = {"topic": topic, "message": message, **more}
        status, _ = self.there.request("POST", "/api/v1/publish", body, token)
        return int(status)

    def history(self, topic: str) -> int:
        return self.there.status(f"/api/v1/topics/{quote(topic, safe='')}/messages", self.bob)

    def mqtt(self, client_id: str = "", **options: Any) -> MqttClient:
        return self.stack.enter_context(self.there.mqtt_client(self.bob, client_id, **options))

    def websocket(self) -> WebSocketClient:
        return self.stack.enter_context(self.there.websocket(self.bob))

    def take_back(self) -> float:
        self.here.admin("DELETE", f"/shares/{self.share}")
        return time.monotonic() + WITHIN_SECONDS

    def test_reading_and_writing(self) -> None:
        """Under a share the other account reads and writes just what it takes in, by every protocol."""
        mqtt, websocket = self.mqtt(), self.websocket()
        stream = self.stack.enter_context(self.there.events(self.bob, "ann_shop_out/+"))
        self.assertEqual(mqtt.subscribe("ann_shop_out/+"), (1,))
        websocket.subscribe("ann_shop_out/+")
        for topic in ("out/x", "out/x/y", "secret", "in/x", "out"):
            self.assertEqual(self.publish(self.ann, topic, topic), 200)
        self.assertEqual(self.publish(self.ann, "out/end", "end"), 200)
        expected = [("ann_shop_out/x", "out/x"), ("ann_shop_out/end", "end")]
        self.assertEqual([(topic, payload.decode()) for topic, payload, _ in mqtt.receive(2)], expected)
        self.assertEqual([(one["topic"], one["data"]) for one in websocket.receive(2)], expected)
        shown = [(event["data"]["topic"], event["data"]["data"]) for event in stream.receive(2)]
        self.assertEqual(shown, expected)
        self.assertEqual((self.history("ann_shop_out/x"), self.history("ann_shop_secret")), (200, 403))

        for filter_ in OUTSIDE:
            self.assertEqual(mqtt.subscribe(f"ann_shop_{filter_}"), (0x80,), filter_)
            self.assertEqual(websocket.ask(action="subscribe", topic=f"ann_shop_{filter_}")["status"], 403, filter_)
            path = f"/api/v1/subscribe?topic={quote(f'ann_shop_{filter_}', safe='')}"
            self.assertEqual(self.there.status(path, self.bob), 403, filter_)
        reader = self.stack.enter_context(self.here.mqtt_client(self.ann))
        reader.subscribe("#")
        for topic, status in (("in/a/b", 200), ("in", 200), ("out/x", 403), ("secret", 403), ("$SYS/x", 403)):
            self.assertEqual(self.publish(self.bob, f"ann_shop_{topic}", "b"), status, topic)
            answer = websocket.ask(action="publish", topic=f"ann_shop_{topic}", message="w")
            self.assertEqual(answer.get("status", 200), status, topic)
        mqtt.publish("ann_shop_in/m", b"m", 1)
        self.assertEqual({topic for topic, _, _ in reader.receive(5)}, {"in/a/b", "in", "in/m"})

    def test_groups(self) -> None:
        """Groups of the same name in two accounts do not take messages away from each other."""
        bob = self.mqtt()
        self.assertEqual(bob.subscribe("$share/g/ann_shop_out/+"), (1,))
        anns = [self.stack.enter_context(node.mqtt_client(self.ann)) for node in (self.here, self.there)]
        for ann in anns:
            ann.subscribe("$share/g/out/+")
        for number in range(10):
            self.assertEqual(self.publish(self.ann, f"out/{number}", str(number)), 200)
        self.assertEqual(len(bob.receive(10)), 10)
        taken = until(lambda: sum(self.came(ann) for ann in anns) == 10, "all are in ann's group")
        self.assertTrue(taken)

    def came(self, client: MqttClient) -> int:
        client.flush()
        return len(client.messages)

    def test_taken_back(self) -> None:
        """What reaches where only the share let ends within two seconds on the other node, and nothing else does."""
        neighbour = self.stack.enter_context(self.there.mqtt_client(self.ann))
        neighbour.subscribe("in/will")
        carol = self.stack.enter_context(self.there.mqtt_client(self.there.token("carol")))
        mqtt, websocket = self.mqtt(will=Will("ann_shop_in/will", b"gone", 1, False)), self.websocket()
        stream = self.stack.enter_context(self.there.events(self.bob, "ann_shop_out/+"))
        mqtt.subscribe("ann_shop_out/+")
        websocket.subscribe("ann_shop_out/+")
        deadline = self.take_back()

        def left() -> float:
            return max(0.01, deadline - time.monotonic())

        mqtt.socket.settimeout(left())
        self.assertTrue(mqtt.closed())
        self.assertTrue(stream.ended(left()))
        with self.assertRaises(ConnectionClosed) as closed:
            while True:
                websocket.connection.recv(left())
        assert closed.exception.rcvd is not None
        self.assertEqual(closed.exception.rcvd.code, 4401)  # come back with a token, which may be the same one

        self.assert_nothing_is_left()
        # The will was in the other account: ann is given what came after it, and not the will.
        self.assertEqual(self.publish(self.ann, "in/will", "end"), 200)
        self.assertEqual(neighbour.receive(1), [("in/will", b"end", 1)])
        carol.flush()

    def assert_nothing_is_left(self) -> None:
        """By no protocol is anything of ann's within reach, and everything at home is."""
        for node in (self.here, self.there):
            mqtt = self.stack.enter_context(node.mqtt_client(self.bob))
            self.assertEqual(mqtt.subscribe("ann_shop_out/+", "ann_shop_out/x", "mine/#"), (0x80, 0x80, 1))
            websocket = self.stack.enter_context(node.websocket(self.bob))
            for name in ("ann_shop_out/+", "ann_shop_out/x"):
                self.assertEqual(websocket.ask(action="subscribe", topic=name)["status"], 403)
            self.assertEqual(websocket.ask(action="publish", topic="ann_shop_in/a", message=1)["status"], 403)
            self.assertEqual(websocket.ask(action="publish", topic="mine", message=1)["action"], "ack")
            self.assertEqual(node.status("/api/v1/subscribe?topic=ann_shop_out%2Fx", self.bob), 403)
        self.assertEqual(self.publish(self.bob, "ann_shop_in/a"), 403)
        self.assertEqual(self.publish(self.bob, "mine"), 200)
        for topic, status in (("ann_shop_out/x", 403), ("mine", 200)):
            self.assertEqual(self.history(topic), status)
        retained = self.there.status("/api/v1/retained?topic=ann_shop_out%2F%2B", self.bob)
        self.assertEqual(retained, 403)

    def test_what_goes_on_without_a_connection(self) -> None:
        """A queue's subscription rests without the share and goes on with a new one; a session gets nothing either."""
        self.assertEqual(self.there.request("PUT", "/api/v1/queues/q", {}, self.bob)[0], 201)
        wish = {"topic": "ann_shop_out/+"}
        self.assertEqual(self.there.request("PUT", "/api/v1/queues/q/subscriptions", wish, self.bob)[0], 201)
        session = self.mqtt("d", clean_session=False)
        session.subscribe("ann_shop_out/+", "mine")
        session.close()
        self.assertEqual(self.publish(self.ann, "out/x", "before"), 200)
        until(lambda: self.queue() == ["before"], "the message is in the queue")
        self.take_back()
        for node in (self.here, self.there):
            until(lambda node=node: node.status(_OUT, self.bob) == 403, "the share is taken back")  # type: ignore[misc]
        self.assertEqual(self.publish(self.ann, "out/x", "between"), 200)
        self.assertEqual(self.publish(self.bob, "mine", "own"), 200)
        back = self.mqtt("d", clean_session=False)
        self.assertEqual(back.receive(1), [("mine", b"own", 1)])
        self.share = self.make_share()

        def goes_on() -> bool:
            self.assertEqual(self.publish(self.ann, "out/x", "after"), 200)
            return "after" in self.queue()

        until(goes_on, "the subscription goes on")
        self.assertEqual(set(self.queue()), {"before", "after"})
        back.flush()
        self.assertEqual(back.messages, [])

    def queue(self) -> list[str]:
        """The bodies of what is in the queue."""
        status, answer = self.there.request("GET", "/api/v1/queues/q/messages/peek?limit=10", token=self.bob)
        self.assertEqual(status, 200)
        return [message["body"] for message in answer["messages"]]
