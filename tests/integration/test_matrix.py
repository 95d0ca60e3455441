"""Every way to publish, received in every way."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import EventStream, MqttClient, RunningGateway, WebSocketClient

CONFIG = '[[topics]]\nfilter = "live/#"\nhistory = false\n'

PREFIX = "ann_shop_"

Shown = tuple[object, ...]
"""What a subscriber saw: the topic, the message in the form of its protocol, and for MQTT the quality of service."""


class Publisher:
    """One way to publish.

    :ivar qos: the quality of service that an MQTT subscriber sees at QoS 1.
    :ivar stored: whether it is acknowledged, so that history has it also where it keeps no other messages.
    """

    def __init__(self, name: str, qos: int, publish: Callable[[str, Any], None], raw: bool = False) -> None:
        self.name = name
        self.qos = qos
        self.stored = bool(qos)
        self.publish = publish
        self.raw = raw


class MatrixTests(SynchronousTestCase):
    """Publisher × subscriber × forms of the name × kinds of message."""

    def setUp(self) -> None:
        self.gateway = RunningGateway(config=CONFIG)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)

    def publishers(self) -> list[Publisher]:
        gateway, token = self.gateway, self.token
        websocket = self.stack.enter_context(gateway.websocket(token))
        mqtt = self.stack.enter_context(gateway.mqtt_client(token))

        def http(topic: str, message: object) -> None:
            status, answer = gateway.request("POST", "/api/v1/publish", {"topic": topic, "message": message}, token)
            self.assertEqual((status, answer["topic"], answer["duplicate"]), (200, topic, False))

        def live(topic: str, message: object) -> None:
            websocket.send(action="publish", topic=topic, message=message)

        def acknowledged(topic: str, message: object) -> None:
            answer = websocket.ask(action="publish", topic=topic, message=message)
            self.assertEqual((answer["action"], answer["duplicate"]), ("ack", False))

        return [
            Publisher("HTTP", 1, http),
            Publisher("WebSocket", 0, live),
            Publisher("WebSocket with id", 1, acknowledged),
            Publisher("MQTT QoS 0", 0, lambda topic, payload: mqtt.publish(topic, payload), raw=True),
            Publisher("MQTT QoS 1", 1, lambda topic, payload: mqtt.publish(topic, payload, 1), raw=True),
        ]

    def subscribers(self, name: str) -> dict[str, Callable[[], Shown]]:
        """Subscribers of every protocol, in short and full form, by their names; each a call that gives the next."""
        found: dict[str, Callable[[], Shown]] = {}
        enter, gateway, token = self.stack.enter_context, self.gateway, self.token

        def of_mqtt(client: MqttClient) -> Shown:
            return client.receive(1)[0]

        def of_websocket(client: WebSocketClient) -> Shown:
            frame = client.frame()
            self.assertEqual(frame.pop("action"), "message", frame)
            return frame.pop("topic"), frame

        def of_events(stream: EventStream) -> Shown:
            (event,) = stream.receive(1)
            self.assertEqual(event["event"], "message")
            self.assertTrue(event["id"])
            return event["data"].pop("topic"), event["data"]

        for form, topic in (("short", name), ("full", PREFIX + name)):
            mqtt = enter(gateway.mqtt_client(token))
            self.assertEqual(mqtt.subscribe(topic), (1,))
            found[f"MQTT {form}"] = lambda mqtt=mqtt: of_mqtt(mqtt)  # type: ignore[misc]
            websocket = enter(gateway.websocket(token))
            websocket.subscribe(topic)
            found[f"WebSocket {form}"] = lambda websocket=websocket: of_websocket(websocket)  # type: ignore[misc]
            stream = enter(gateway.events(token, topic))
            found[f"SSE {form}"] = lambda stream=stream: of_events(stream)  # type: ignore[misc]
        return found

    def check(self, name: str) -> list[tuple[Publisher, bytes]]:
        """Publish everything to the topic ``name`` and look at every subscriber after each message; return what was
        published.  What is doubled would stand before the next message, and before the last one at the end."""
        publishers, subscribers = self.publishers(), self.subscribers(name)
        published: list[tuple[Publisher, bytes]] = []

        def one(publisher: Publisher, topic: str, message: object, payload: bytes, shown: dict[str, object]) -> None:
            publisher.publish(topic, payload if publisher.raw else message)
            published.append((publisher, payload))
            for who, receive in subscribers.items():
                at = (PREFIX if "full" in who else "") + name
                expected: Shown = (at, payload, publisher.qos) if "MQTT" in who else (at, shown)
                self.assertEqual(receive(), expected, f"{publisher.name} at {topic} → {who}, {message!r}")

        for publisher in publishers:
            for topic in (name, PREFIX + name):
                cell = f"{publisher.name} {topic}"
                for text in (f"Grüße ☃ {cell}", "", '"5"', " \t", "line\nend\r\n\u2028\x85", "\ufeff" + cell, "nul\0"):
                    one(publisher, topic, text, text.encode(), {"data": text})
                for value in ({"cell": cell, "n": [1, 2.5, None, True], "": {}}, [cell], {}, []):
                    one(publisher, topic, value, json.dumps(value, separators=(",", ":")).encode(), {"data": value})
                # Other JSON travels as its text.
                for scalar in (7, None, True):
                    text = json.dumps(scalar)
                    one(publisher, topic, scalar, text.encode(), {"data": text})
                # A text that is an object is shown as one; one that only looks so stays a text.
                text = json.dumps({"cell": cell, "n": 1.0}, indent=1)
                one(publisher, topic, text, text.encode(), {"data": json.loads(text)})
                one(publisher, topic, "{'" + cell, b"{'" + cell.encode(), {"data": "{'" + cell})
                if publisher.raw:
                    for payload in (b"\xff\xfe\x00" + cell.encode(), b"{\x80}", b"\xed\xa0\x80"):
                        data = b64encode(payload).decode()
                        one(publisher, topic, None, payload, {"data": data, "encoding": "base64"})
        one(publishers[0], name, "the end", b"the end", {"data": "the end"})
        one(publishers[3], name, "the end", b"the end", {"data": "the end"})
        return published

    def history(self, name: str) -> list[bytes]:
        """The payloads that history has."""
        path, since = f"/api/v1/topics/{name}/messages?limit=1000", "earliest"
        status, answer = self.gateway.request("GET", f"{path}&since={since}", token=self.token)
        self.assertEqual(status, 200, answer)
        ids = [int(message["id"].rpartition("-")[2]) for message in answer["messages"]]
        self.assertEqual(ids, sorted(set(ids)))
        return [repr(message["data"]).encode() for message in answer["messages"]]

    def shown(self, payloads: list[bytes]) -> list[bytes]:
        def data(payload: bytes) -> object:
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                return b64encode(payload).decode()
            try:
                return json.loads(text) if text.lstrip()[:1] in ("{", "[") else text
            except ValueError:
                return text

        return [repr(data(payload)).encode() for payload in payloads]

    def test_with_history(self) -> None:
        """On a topic with history every cell is right, and history has every message once, in order."""
        published = self.check("kept/messages")
        self.assertEqual(self.history("kept/messages"), self.shown([payload for _, payload in published]))

    def test_without_history(self) -> None:
        """On a topic without history every cell is right, and history has the acknowledged messages only."""
        published = self.check("live/messages")
        kept = [payload for publisher, payload in published if publisher.stored]
        self.assertEqual(self.history("live/messages"), self.shown(kept))

    def test_mixed(self) -> None:
        """What one publisher sends at one quality of service comes in its order to every subscriber, none twice."""
        for name in ("kept/mixed", "live/mixed"):
            publishers, subscribers = self.publishers(), self.subscribers(name)
            count = 50
            for number in range(count):
                for publisher in publishers:
                    text = f"{publisher.name}|{number}"
                    publisher.publish(name, text.encode() if publisher.raw else text)
            for who, receive in subscribers.items():
                seen: dict[str, list[int]] = {publisher.name: [] for publisher in publishers}
                for _ in range(count * len(publishers)):
                    found = receive()[1]
                    text = found.decode() if isinstance(found, bytes) else found["data"]  # type: ignore[index]
                    publisher_name, _, number_text = text.partition("|")
                    seen[publisher_name].append(int(number_text))
                for publisher_name, numbers in seen.items():
                    self.assertEqual(numbers, list(range(count)), f"{name}: {publisher_name} → {who}")
