"""The rates of an account, on every protocol and two nodes of a real gateway."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import PATIENCE, MqttClient, MqttRefused, RunningGateway, WebSocketClient, until
from tests.integration.two_nodes import two_nodes

RATE, BURST = 200, 20

CONFIG = f"""
[plans.small]
publish_rate = {RATE}
publish_burst = {BURST}
connections = 4
subscriptions = 3
"""

HISTORY, STREAM = "/api/v1/topics/t/messages", "/api/v1/subscribe"

WARM_UP, SECONDS = 3.0, 5.0
"""The parts of two nodes take a moment to follow what is wanted of them; then it is counted for so long."""


class Offer(threading.Thread):
    """A client that offers messages at a steady rate, and notes when each was accepted."""

    def __init__(self, publish: Callable[[int], bool], per_second: float) -> None:
        super().__init__(daemon=True)
        self._publish = publish
        self._pause = 1 / per_second
        self.accepted: list[float] = []
        self.offered = 0
        self.began = 0.0
        self.failure: Exception | None = None

    def run(self) -> None:
        began = self.began = time.monotonic()
        try:
            while time.monotonic() < began + WARM_UP + SECONDS:
                if self._publish(self.offered):
                    self.accepted.append(time.monotonic())
                self.offered += 1
                time.sleep(max(0.0, began + self.offered * self._pause - time.monotonic()))  # it offers, at this rate
        except Exception as error:
            self.failure = error


class RateTests(SynchronousTestCase):
    """Five times as much is offered as the plan permits."""

    def setUp(self) -> None:
        _, (self.one, self.two), _ = two_nodes(self, CONFIG)
        self.token = self.one.token("alice")
        self.one.admin("PUT", "/users/alice/plan", {"plan": "small"})
        self.other = self.one.token("bob")
        for token in (self.token, self.other):
            until(partial(self.answered, self.two, HISTORY, token, 200), "the key is known to the other node")

    def answered(self, node: RunningGateway, path: str, token: str, status: int) -> bool:
        return node.status(path, token) == status

    def over_http(self, node: RunningGateway, token: str) -> Callable[[int], bool]:
        def publish(number: int) -> bool:
            status, _ = node.request("POST", "/api/v1/publish", {"topic": "t", "message": number}, token=token)
            self.assertIn(status, (200, 429))
            return status == 200

        return publish

    def over_websocket(self, node: RunningGateway, token: str) -> Callable[[int], bool]:
        client = WebSocketClient(node.http, token)
        self.addCleanup(client.close)

        def publish(number: int) -> bool:
            answer = client.ask(action="publish", topic="t", message=number)
            self.assertIn(answer.get("status", 429), (429,), answer)
            return bool(answer["action"] == "ack")

        return publish

    def over_mqtt(self, node: RunningGateway, token: str) -> Callable[[int], bool]:
        client = MqttClient(node.mqtt, token)
        self.addCleanup(client.close)

        def publish(number: int) -> bool:
            client.publish("t", b"%d" % number, 1)
            return True

        return publish

    def test_five_times_the_rate(self) -> None:
        """All protocols on both nodes get what the plan permits, within 5 %; another account gets everything."""
        offers = [
            Offer(self.over_http(self.one, self.token), 250),
            Offer(self.over_websocket(self.one, self.token), 250),
            Offer(self.over_websocket(self.two, self.token), 250),
            Offer(self.over_mqtt(self.two, self.token), 250),
        ]
        other = Offer(self.over_websocket(self.one, self.other), 50)
        for offer in (*offers, other):
            offer.start()
        for offer in (*offers, other):
            offer.join(PATIENCE)
            self.assertFalse(offer.is_alive())
            self.assertIsNone(offer.failure)
        began = offers[0].began + WARM_UP
        accepted = [sum(began <= moment < began + SECONDS for moment in offer.accepted) for offer in offers]
        self.assertTrue(0.95 * RATE * SECONDS <= sum(accepted) <= 1.05 * RATE * SECONDS + BURST, accepted)
        self.assertEqual(len(other.accepted), other.offered)

    def test_what_is_said(self) -> None:
        """HTTP says where a publisher stands; what is refused says for how long."""
        until(lambda: "RateLimit" in self.publish_with_headers()[1], "the plan holds")
        refused = None
        while refused is None:
            status, headers = self.publish_with_headers()
            self.assertIn(status, (200, 429))
            self.assertEqual(headers["RateLimit-Policy"], f'"publish";q={RATE};w=1')
            self.assertRegex(headers["RateLimit"], r'"publish";r=\d+;t=\d')
            refused = headers if status == 429 else None
        self.assertEqual(refused["Retry-After"], "1")

    def publish_with_headers(self) -> tuple[int, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.one.http, timeout=PATIENCE)
        with closing(connection):
            messages = [{"topic": "t", "message": number} for number in range(100)]
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            connection.request("POST", "/api/v1/publish/batch", json.dumps({"messages": messages}), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, dict(answer.getheaders())

    def test_counts(self) -> None:
        """Connections and subscriptions of both nodes are counted together."""
        clients = [WebSocketClient(node.http, self.token) for node in (self.one, self.one, self.two)]
        for client in clients:
            self.addCleanup(client.close)
        mqtt = MqttClient(self.two.mqtt, self.token)
        self.addCleanup(mqtt.close)
        for node in (self.one, self.two):
            full = partial(self.answered, node, f"{STREAM}?topic=x", self.token, 429)
            until(full, "a fifth connection is refused")
        self.assertRaises(MqttRefused, MqttClient, self.one.mqtt, self.token)

        def subscribed(client: WebSocketClient, topic: str) -> bool:
            return bool(client.ask(action="subscribe", topic=topic)["action"] == "ack")

        for client, topic in zip(clients, "abc", strict=True):
            # Streams that were tried above may be counted a moment longer.
            until(partial(subscribed, client, topic), "three subscriptions are taken")

        def refused(client: WebSocketClient) -> bool:
            """Whether one more is refused; it is within a second, when the nodes have told each other."""
            answer = client.ask(action="subscribe", topic="d")
            if answer["action"] == "error":
                self.assertEqual((answer["status"], answer["code"]), (429, "too_many_subscriptions"))
                return True
            client.ask(action="unsubscribe", topic="d")
            return False

        for client in (clients[0], clients[2]):
            until(partial(refused, client), "a fourth subscription is refused")
        self.assertEqual(mqtt.subscribe("e"), (0x80,))
