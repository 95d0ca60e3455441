"""Topics to queues through real gateways: by every protocol, while processes are killed."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from threading import Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flowgate.mqtt import packets
from tests.integration.gateway import RunningGateway, until
from tests.integration.two_nodes import two_nodes

Q = "jobs"

CONFIG = """
[[topics]]
filter = "live/#"
history = false
"""


def call(node: RunningGateway, token: str, method: str, path: str, body: Any = None) -> Any:
    """Make a call about queues; return the answer."""
    status, answer = node.request(method, f"/api/v1/queues/{path}", body, token)
    if status >= 300 or not status:
        raise AssertionError((method, path, status, answer))
    return answer


def subscribe(node: RunningGateway, token: str, *filters: str, queue: str = Q) -> None:
    """Make a queue and subscribe it."""
    call(node, token, "PUT", queue, {})
    for filter_ in filters:
        call(node, token, "PUT", f"{queue}/subscriptions", {"topic": filter_})


def receive(node: RunningGateway, token: str, queue: str = Q, wait: int = 1) -> list[dict[str, Any]]:
    """Receive messages and delete them."""
    messages: list[dict[str, Any]] = call(
        node, token, "POST", f"{queue}/messages/receive", {"max": 10, "wait": wait, "visibility": 600}
    )["messages"]
    if messages:
        receipts = [message["receipt"] for message in messages]
        call(node, token, "POST", f"{queue}/messages/delete", {"receipts": receipts})
    return messages


def drain(node: RunningGateway, token: str, count: int, queue: str = Q, patience: float = 60.0) -> list[dict[str, Any]]:
    """Receive ``count`` messages, then see that there are no more."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + patience
    while len(found) < count:
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(found)} of {count} messages within {patience:.0f} s")
        found += receive(node, token, queue)
    return found + receive(node, token, queue)


class QueueSubscriptionsTests(SynchronousTestCase):
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
            status, _ = node.request("POST", "/api/v1/publish", {"topic": topic, "message": text}, self.token)
            self.assertEqual(status, 200)

        def exactly_once(topic: str, text: str) -> None:
            mqtt.send(packets.publishes(topic, [text.encode()], 2, [77]))
            mqtt._wait(packets.Ack)
            mqtt.send(packets.acks(packets.Type.PUBREL, [77]))
            mqtt._wait(packets.Ack)

        return {
            "HTTP": http,
            "WebSocket": lambda topic, text: websocket.send(action="publish", topic=topic, message=text),
            "WebSocket with id": lambda topic, text: websocket.ask(action="publish", topic=topic, message=text),
            "MQTT QoS 0": lambda topic, text: mqtt.publish(topic, text.encode()),
            "MQTT QoS 1": lambda topic, text: mqtt.publish(topic, text.encode(), 1),
            "MQTT QoS 2": exactly_once,
        }

    def test_every_way(self) -> None:
        """What is published in any way on any node is in the queue once, with topic and id, also without history."""
        a, b = self.nodes
        subscribe(a, self.token, "kept/#", "live/#", "+/t")
        ways = {
            f"{name}: {way}": publish
            for name, node in (("a", a), ("b", b))
            for way, publish in self.publishers(node).items()
        }
        wanted = set()
        for topic in ("kept/t", "live/t"):
            for number in range(5):
                for way, publish in ways.items():
                    publish(topic, f"{way}|{number}")
                    wanted.add((topic, f"{way}|{number}"))
        found = drain(b, self.token, len(wanted))
        seen = Counter((message["attributes"]["topic"], message["body"]) for message in found)
        self.assertEqual(set(seen), wanted)
        self.assertEqual(set(seen.values()), {1})
        self.assertEqual(len({message["attributes"]["id"] for message in found}), len(wanted))
        _, answer = a.request("GET", "/api/v1/topics/kept%2Ft/messages?since=earliest&limit=100", token=self.token)
        ids = {message["id"] for message in answer["messages"]}
        self.assertTrue(ids)
        self.assertLessEqual(ids, {message["attributes"]["id"] for message in found})

    def test_from_the_answer_on(self) -> None:
        """Once the subscription is answered everything is in the queue, whatever node it is published on at once."""
        a, b = self.nodes
        call(a, self.token, "PUT", Q, {})
        for number in range(10):
            topic = f"live/{number}"
            call(a, self.token, "PUT", f"{Q}/subscriptions", {"topic": topic})
            for node in (b, a):
                status, _ = node.request("POST", "/api/v1/publish", {"topic": topic, "message": "x"}, self.token)
                self.assertEqual(status, 200)
        found = drain(a, self.token, 20)
        self.assertEqual(
            Counter(message["attributes"]["topic"] for message in found), {f"live/{n}": 2 for n in range(10)}
        )

    def test_unsubscribed(self) -> None:
        """After the end of a subscription nothing more arrives, and its consumer is gone; a new one begins anew."""
        a, b = self.nodes
        subscribe(a, self.token, "x")
        publish = self.publishers(b)["HTTP"]
        publish("x", "0")
        drain(a, self.token, 1)
        call(b, self.token, "DELETE", f"{Q}/subscriptions", {"topic": "x"})
        publish("x", "1")
        call(a, self.token, "PUT", f"{Q}/subscriptions", {"topic": "x"})
        publish("x", "2")
        self.assertEqual([message["body"] for message in drain(b, self.token, 1)], ["2"])

    def test_bytes(self) -> None:
        """Bytes that are no text arrive as base64, and empty payloads as empty bodies."""
        a, b = self.nodes
        subscribe(a, self.token, "x")
        with b.mqtt_client(self.token) as client:
            client.publish("x", b"\xff\x00", 1)
            client.publish("x", b"", 1)
        bodies = [(message.get("body"), message.get("body_base64")) for message in drain(a, self.token, 2)]
        self.assertEqual(set(bodies), {(None, "/wA="), ("", None)})

    def _killed(self, queue: str, kill: Callable[[RunningGateway], None]) -> list[dict[str, Any]]:
        """Publish through one node while the other is killed and started, again and again; what the queue has."""
        a, b = self.nodes
        subscribe(a, self.token, "kill/#", queue=queue)
        count = 0
        with b.mqtt_client(self.token) as client:
            for _ in range(3):
                for step in range(30):
                    texts = [str(number).encode() for number in range(count, count + 20)]
                    ids = list(range(1, 21))
                    client.send(packets.publishes("kill/t", texts, 1, ids))
                    acknowledged = 0
                    while acknowledged < 20:
                        acknowledged += len(client._wait(packets.Ack).packet_ids)
                    count += 20
                    if step == 10:
                        kill(a)
                    if step == 20:
                        a.start()
        found = drain(b, self.token, count, queue, 90)
        self.assertEqual(Counter(message["body"] for message in found), {str(n): 1 for n in range(count)})
        return found

    def test_killed(self) -> None:
        """While a node is killed and started, what another one takes is in the queue: none lost, none twice."""
        self._killed(Q, RunningGateway.kill_gateway)

    def test_killed_in_order(self) -> None:
        """In a FIFO queue it is in order, too."""
        found = self._killed("jobs.fifo", RunningGateway.kill_gateway)
        numbers = [int(message["body"]) for message in found]
        self.assertEqual(numbers, sorted(numbers))

    def test_all_stopped(self) -> None:
        """What was acknowledged before all nodes and nats-server were killed is in the queue afterwards, once."""
        a, b = self.nodes
        subscribe(a, self.token, "x")
        publish = self.publishers(a)["HTTP"]
        for number in range(50):
            publish("x", str(number))
        for node in self.nodes:
            node.kill_gateway()
        self.server.kill()
        self.server.start()
        b.start()
        until(lambda: b.status("/api/v1/topics/t/messages", self.token) == 200, "the key is known")
        found = drain(b, self.token, 50)
        self.assertEqual(Counter(message["body"] for message in found), {str(n): 1 for n in range(50)})

    def flood(self, node: RunningGateway, start: int, count: int, qos: int = 1, topic: str = "flood") -> None:
        """Publish many messages by MQTT, 1,000 under way."""
        at_once = 1000
        with node.mqtt_client(self.token) as client:
            for first in range(start, start + count, at_once):
                texts = [b"%d" % number for number in range(first, first + at_once)]
                client.send(packets.publishes(topic, texts, qos, list(range(1, at_once + 1)) if qos else []))
                acknowledged = 0 if qos else at_once
                while acknowledged < at_once:
                    acknowledged += len(client._wait(packets.Ack).packet_ids)
            client.flush()

    def full(self, node: RunningGateway, count: int, queue: str = Q) -> None:
        """Wait until a queue holds ``count`` messages, all different ones, in the order of FIFO queues."""

        def stats() -> int:
            visible: int = call(node, self.token, "GET", queue)["stats"]["visible"]
            self.assertLessEqual(visible, count)
            return visible

        until(lambda: stats() == count, f"{count} messages are in the queue", 90)

    def test_flood(self) -> None:
        """Publishers on all nodes that are faster than the queue are slowed down: everything arrives, once."""
        subscribe(self.nodes[0], self.token, "flood")
        count = 30_000
        threads = [
            Thread(target=self.flood, args=(node, number * count, count), daemon=True)
            for number, node in enumerate(self.nodes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        self.full(self.nodes[0], 2 * count)

    def test_flood_unacknowledged(self) -> None:
        """So they are at QoS 0."""
        a, b = self.nodes
        subscribe(a, self.token, "flood")
        self.flood(b, 0, 40_000, 0)
        self.full(a, 40_000)
        with b.websocket(self.token) as client:
            for number in range(20_000):
                client.send(action="publish", topic="flood", message=str(number))
            client.ask(action="ping")
        self.full(a, 60_000)

    def test_flood_in_order(self) -> None:
        """So they are by a FIFO queue, which has everything in order."""
        a, b = self.nodes
        subscribe(a, self.token, "flood", queue="jobs.fifo")
        count = 14_000
        self.flood(b, 0, count)
        found = drain(a, self.token, count, "jobs.fifo")
        self.assertEqual([message["body"] for message in found], [str(number) for number in range(count)])

    def test_flood_and_kill(self) -> None:
        """A node that dies in a flood costs no message that another one has acknowledged, and none is there twice."""
        a, b = self.nodes
        subscribe(a, self.token, "flood")
        count = 80_000
        thread = Thread(target=self.flood, args=(b, 0, count), daemon=True)
        thread.start()
        until(lambda: call(b, self.token, "GET", Q)["stats"]["visible"] > count // 8, "an eighth has arrived")
        a.kill_gateway()
        thread.join(90)
        self.assertFalse(thread.is_alive())
        self.full(b, count)
