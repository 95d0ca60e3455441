"""Two gateways on one nats-server: what is published on one is received on both, once."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed

from flowgate.mqtt import packets
from tests.integration.gateway import MqttClient, RunningGateway, until
from tests.integration.two_nodes import two_nodes

CONFIG = """
[history]
messages = 20000

[[topics]]
filter = "live/#"
history = false

[[topics]]
filter = "aged/#"
history = { age = "1h" }
"""

QOS = {"HTTP": 1, "WebSocket": 0, "WebSocket with id": 1, "MQTT QoS 0": 0, "MQTT QoS 1": 1}
"""The quality of service that an MQTT subscriber at QoS 1 sees, by the way of publishing."""

WITHIN_SECONDS = 2
"""So soon what is taken away on one node is so on every node."""

Seen = tuple[str, int | None]
"""A message as a subscriber saw it, and its quality of service if it came by MQTT."""


class TwoNodesTests(SynchronousTestCase):
    """Two gateways that share nothing but nats-server and the master secret."""

    def setUp(self) -> None:
        self.server, self.nodes, self.token = two_nodes(self, CONFIG)
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)

    def publishers(self, node: RunningGateway) -> dict[str, Callable[[str, str], None]]:
        """Every way to publish on a node; called with a topic and a text."""
        websocket = self.stack.enter_context(node.websocket(self.token))
        mqtt = self.stack.enter_context(node.mqtt_client(self.token))

        def http(topic: str, text: str) -> None:
            status, answer = node.request("POST", "/api/v1/publish", {"topic": topic, "message": text}, self.token)
            self.assertEqual((status, answer["duplicate"]), (200, False))

        def acknowledged(topic: str, text: str) -> None:
            self.assertEqual(websocket.ask(action="publish", topic=topic, message=text)["action"], "ack")

        return {
            "HTTP": http,
            "WebSocket": lambda topic, text: websocket.send(action="publish", topic=topic, message=text),
            "WebSocket with id": acknowledged,
            "MQTT QoS 0": lambda topic, text: mqtt.publish(topic, text.encode()),
            "MQTT QoS 1": lambda topic, text: mqtt.publish(topic, text.encode(), 1),
        }

    def subscribers(self, topic: str) -> dict[str, Callable[[], Seen]]:
        """Subscribers of every protocol on both nodes; each a call that waits for the next message."""
        found: dict[str, Callable[[], Seen]] = {}
        enter, token = self.stack.enter_context, self.token

        def of_mqtt(client: MqttClient) -> Seen:
            (_, payload, qos), *_ = client.receive(1)
            return payload.decode(), qos

        for name, node in zip("ab", self.nodes, strict=True):
            for qos in (0, 1):
                mqtt = enter(node.mqtt_client(token))
                self.assertEqual(mqtt.subscribe(topic, qos=qos), (qos,))
                found[f"{name}: MQTT QoS {qos}"] = lambda client=mqtt: of_mqtt(client)  # type: ignore[misc]
            for since in ({}, {"since": "earliest"}):
                websocket = enter(node.websocket(token))
                websocket.subscribe(topic, **since)
                found[f"{name}: WebSocket {since}"] = lambda client=websocket: (client.frame()["data"], None)  # type: ignore[misc]
            stream = enter(node.events(token, topic))
            found[f"{name}: SSE"] = lambda stream=stream: (stream.receive(1)[0]["data"]["data"], None)  # type: ignore[misc]
        return found

    def check(self, seen: list[Seen], who: str, count: int) -> None:
        """Every publisher's messages are there once, in its order, at their quality of service."""
        numbers: dict[str, list[int]] = {}
        for text, qos in seen:
            publisher, _, number = text.partition("|")
            numbers.setdefault(publisher, []).append(int(number))
            if qos is not None:
                best = QOS[publisher.partition(": ")[2]]
                self.assertEqual(qos, best if who.endswith("QoS 1") else 0, f"{publisher} → {who}")
        for publisher, found in numbers.items():
            self.assertEqual(found, list(range(count)), f"{publisher} → {who}")

    def exchange(self, topic: str, count: int, subscribers: dict[str, Callable[[], Seen]]) -> None:
        """Publish in every way on both nodes and look at every subscriber."""
        ways = {
            f"{name}: {way}": publish
            for name, node in zip("ab", self.nodes, strict=True)
            for way, publish in self.publishers(node).items()
        }
        for number in range(count):
            for way, publish in ways.items():
                publish(topic, f"{way}|{number}")
        for who, receive in subscribers.items():
            self.check([receive() for _ in range(count * len(ways))], who, count)
        # What came twice would stand before these.
        for way in ("a: HTTP", "a: MQTT QoS 0", "b: HTTP", "b: MQTT QoS 0"):
            ways[way](topic, f"the end of {way}")
            for who, receive in subscribers.items():
                self.assertEqual(receive()[0], f"the end of {way}", f"{way} → {who}")

    def test_every_way(self) -> None:
        """Published in every way on either node, received in every way on both: once, in order."""
        for topic in ("kept/t", "live/t", "aged/t"):
            self.exchange(topic, 10, self.subscribers(topic))

    def test_many_at_once(self) -> None:
        """Many messages in few writes, at both qualities of service, reach both nodes once, in order."""
        count, at_once = 1000, 100
        for topic in ("kept/t", "live/t", "aged/t"):
            subscribers = self.subscribers(topic)
            a, b = self.nodes
            with a.mqtt_client(self.token) as one, b.mqtt_client(self.token) as two:
                for start in range(0, count, at_once):
                    for name, client in (("a", one), ("b", two)):
                        for qos in (0, 1):
                            texts = [f"{name}: MQTT QoS {qos}|{start + n}".encode() for n in range(at_once)]
                            ids = [start + n + 1 for n in range(at_once)] if qos else []
                            client.send(packets.publishes(topic, texts, qos, ids))
                for who, receive in subscribers.items():
                    self.check([receive() for _ in range(count * 4)], who, count)
            self.stack.close()

    def test_bus_restarts(self) -> None:
        """After nats-server was away, old subscribers of both nodes are served as before."""
        topic = "kept/t"
        subscribers = self.subscribers(topic)
        self.server.kill()
        for node in self.nodes:
            until(lambda node=node: node.request("GET", "/readyz")[0] == 503, "the node notices")  # type: ignore[misc]
        self.server.start()
        for node in self.nodes:
            until(lambda node=node: node.request("GET", "/readyz")[0] == 200, "the node is back")  # type: ignore[misc]
        self.exchange(topic, 5, subscribers)

    def test_accounts_apart(self) -> None:
        """Nothing of one account reaches another's subscribers on the other node."""
        a, b = self.nodes
        other = b.token("bob")
        with b.mqtt_client(other) as mqtt, b.websocket(other) as websocket:
            mqtt.subscribe("#", "+/#", "ann_shop_kept/#", "ann_shop_live/t")
            websocket.subscribe("#")
            for publish in self.publishers(a).values():
                for topic in ("kept/t", "live/t", "bob_shop_kept/t"):
                    publish(topic, "ann's")
            status, _ = b.request("POST", "/api/v1/publish", {"topic": "t", "message": "bob's"}, other)
            self.assertEqual(status, 200)
            self.assertEqual(mqtt.receive(1), [("t", b"bob's", 1)])
            self.assertEqual(websocket.frame()["data"], "bob's")

    def test_revoked_elsewhere(self) -> None:
        """A token revoked on one node ends the connections of the other."""
        a, b = self.nodes
        token: Any = b.token("ann")
        with b.mqtt_client(token) as mqtt, b.events(token, "t") as stream:
            self.assertEqual(a.request("POST", "/token/revoke", {"token": token})[0], 200)
            self.assertTrue(mqtt.closed())
            self.assertTrue(stream.ended())

    def test_accounts_elsewhere(self) -> None:
        """What is done to a key or an account on one node ends all that is open on the other within two seconds."""
        a, b = self.nodes
        changes: dict[str, tuple[Callable[[str], Any], int, str]] = {
            "rotated": (
                lambda key: a.admin("POST", f"/keys/{key}/rotate", {"overlap_seconds": 0}),
                4401,
                "invalid_token",
            ),
            "revoked": (lambda key: a.admin("DELETE", f"/keys/{key}"), 4401, "invalid_token"),
            "suspended": (
                lambda _: a.admin("POST", "/users/suspended/suspend", {"suspended": True}),
                4403,
                "account_suspended",
            ),
            "removed": (lambda _: a.admin("DELETE", "/users/removed"), 4403, "account_suspended"),
        }
        path = "/api/v1/queues/q/messages?wait=20"
        with ThreadPoolExecutor(1) as pool:
            for user, (change, close_code, code) in changes.items():
                key = b.key(user)
                token: Any = b.request("POST", "/token/", {"api_key": key})[1]["token"]
                b.request("PUT", "/api/v1/queues/q", {}, token)
                with b.mqtt_client(token) as mqtt, b.websocket(token) as websocket, b.events(token, "t") as stream:
                    poll = pool.submit(b.request, "GET", path, None, token)
                    until(lambda: self.waiting(b) == 1, "the receive waits")
                    change(key.partition(".")[0])
                    deadline = time.monotonic() + WITHIN_SECONDS

                    def left(deadline: float = deadline) -> float:
                        return max(0.01, deadline - time.monotonic())

                    mqtt.socket.settimeout(left())
                    self.assertTrue(mqtt.closed(), user)
                    self.assertTrue(stream.ended(left()), user)
                    status, answer = poll.result(left())
                    self.assertEqual((status, answer["code"]), (close_code - 4000, code), user)
                    with self.assertRaises(ConnectionClosed) as closed:
                        while True:
                            websocket.connection.recv(left())
                    assert closed.exception.rcvd is not None
                    self.assertEqual(closed.exception.rcvd.code, close_code, user)

    @staticmethod
    def waiting(node: RunningGateway) -> int:
        """How many receives wait at a node."""
        found: int = node.admin("GET", "/status")["nodes"][0]["connections"].get("queue", 0)
        return found
