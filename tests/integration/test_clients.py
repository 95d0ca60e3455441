"""Clients of other makers: mosquitto's, paho-mqtt, websockets and curl."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
from queue import Queue
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.integration.gateway import PATIENCE, RunningGateway
from tests.integration.programs import Program, check_lines, find, run


class ClientTests(SynchronousTestCase):
    """Unmodified clients, as their users run them."""

    def setUp(self) -> None:
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def mosquitto(self, program: str, *arguments: str) -> list[str]:
        place = ("-h", "127.0.0.1", "-p", str(self.gateway.mqtt), "-u", "Bearer", "-P", self.token)
        return [program, *place, *arguments]

    def test_mosquitto(self) -> None:
        """mosquitto_sub with wildcards gets what mosquitto_pub publishes at QoS 0 and 1, at the lower QoS of both."""
        find("mosquitto_pub", "mosquitto_sub", "stdbuf")
        filters = ("news/#", "news/+", "+/sport", "ann_shop_news/#", "#")
        subscribers = {}
        for qos in ("0", "1"):
            for filter_ in filters:
                form = ("-t", filter_, "-q", qos, "-F", "%t %q %r %p", "-d")
                program = Program(["stdbuf", "-oL", *self.mosquitto("mosquitto_sub", *form)])
                self.addCleanup(program.end)
                subscribers[filter_, qos] = program
        for program in subscribers.values():
            self.assertIn(b"SUBACK", program.until(b"received SUBACK"))
        published = []
        for topic in ("news/sport", "news/a/b", "news", "other"):
            for qos in ("0", "1"):
                text = f"{topic} at {qos}"
                status, _, errors = run(self.mosquitto("mosquitto_pub", "-t", topic, "-q", qos, "-m", text))
                self.assertEqual((status, errors), (0, ""))
                published.append((topic, qos, text))
        matching = {
            "news/#": {"news/sport", "news/a/b", "news"},
            "news/+": {"news/sport"},
            "+/sport": {"news/sport"},
            "ann_shop_news/#": {"news/sport", "news/a/b", "news"},
            "#": {"news/sport", "news/a/b", "news", "other"},
        }
        for (filter_, own), program in subscribers.items():
            prefix = "ann_shop_" if filter_.startswith("ann") else ""
            for topic, qos, text in published:
                if topic in matching[filter_]:
                    while (line := program.line()).startswith((b"Client ", b"Subscribed ")):
                        pass
                    self.assertEqual(line.decode(), f"{prefix}{topic} {min(own, qos)} 0 {text}", (filter_, own))

    def test_mosquitto_many(self) -> None:
        """mosquitto_pub sends many lines at QoS 1, mosquitto_sub gets each once, in order, and ends by itself."""
        check_lines(self, self.mosquitto, 2000)

    def test_mosquitto_refused(self) -> None:
        """mosquitto's clients report a wrong token and a filter that is not granted; only MQTT 3.1.1 is served."""
        find("mosquitto_pub", "mosquitto_sub")
        good = self.token
        self.token = "wrong"
        status, _, errors = run(self.mosquitto("mosquitto_pub", "-t", "t", "-m", "x"))
        self.assertNotEqual(status, 0)
        self.assertIn("bad user name or password", errors)
        self.token = self.gateway.token("ann", subscribe=["a"])
        status, _, errors = run(self.mosquitto("mosquitto_sub", "-t", "b", "-E", "-W", "5"))
        self.assertIn("All subscription requests were denied", errors)
        self.token = good
        for version in ("mqttv31", "mqttv5"):
            status, _, errors = run(self.mosquitto("mosquitto_pub", "-t", "t", "-m", "x", "-V", version))
            self.assertNotEqual(status, 0, version)
        status, _, _ = run(self.mosquitto("mosquitto_pub", "-t", "t", "-m", "x", "-V", "mqttv311"))
        self.assertEqual(status, 0)

    def test_paho(self) -> None:
        """paho-mqtt subscribes, publishes at QoS 0 and 1, unsubscribes and disconnects."""
        received: Queue[tuple[str, bytes, int]] = Queue()
        events: Queue[tuple[str, Any]] = Queue()
        client = paho.Client(CallbackAPIVersion.VERSION2, "paho", protocol=paho.MQTTv311)
        client.username_pw_set("Bearer", self.token)
        client.on_message = lambda _client, _data, message: received.put(
            (message.topic, bytes(message.payload), message.qos)
        )
        client.on_connect = lambda _client, _data, flags, code, _properties: events.put(("connected", code.value))
        client.on_subscribe = lambda _client, _data, _id, codes, _properties: events.put(
            ("subscribed", [code.value for code in codes])
        )
        client.on_unsubscribe = lambda _client, _data, _id, _codes, _properties: events.put(("unsubscribed", None))
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: events.put(("gone", code.value))
        client.connect("127.0.0.1", self.gateway.mqtt, keepalive=1)
        client.loop_start()
        self.addCleanup(client.loop_stop)
        self.addCleanup(client.disconnect)
        self.assertEqual(events.get(timeout=PATIENCE), ("connected", 0))
        client.subscribe([("a/+", 1), ("b", 0)])
        self.assertEqual(events.get(timeout=PATIENCE), ("subscribed", [1, 0]))
        for topic, qos, expected in (("a/x", 0, 0), ("a/x", 1, 1), ("b", 1, 0)):
            payload = f"{topic} {qos}".encode() + b"\xff" * 300
            info = client.publish(topic, payload, qos)
            info.wait_for_publish(PATIENCE)
            self.assertEqual((info.rc, info.is_published()), (MQTTErrorCode.MQTT_ERR_SUCCESS, True))
            self.assertEqual(received.get(timeout=PATIENCE), (topic, payload, expected))
        many = [client.publish("a/many", b"%d" % number, 1) for number in range(500)]
        for info in many:
            info.wait_for_publish(PATIENCE)
        seen = [int(received.get(timeout=PATIENCE)[1]) for _ in many]
        self.assertEqual(seen, list(range(500)))
        client.unsubscribe("a/+")
        self.assertEqual(events.get(timeout=PATIENCE), ("unsubscribed", None))
        client.publish("a/x", b"not seen", 1).wait_for_publish(PATIENCE)
        client.publish("b", b"seen", 1).wait_for_publish(PATIENCE)
        self.assertEqual(received.get(timeout=PATIENCE), ("b", b"seen", 0))
        client.disconnect()
        self.assertEqual(events.get(timeout=PATIENCE), ("gone", 0))

    def test_curl(self) -> None:
        """curl -N prints events as they come, and reads on behind the last one it saw."""
        find("curl")
        base = f"http://127.0.0.1:{self.gateway.http}"

        def curl(*arguments: str) -> Program:
            program = Program(["curl", "-sN", "-H", f"Authorization: Bearer {self.token}", *arguments])
            self.addCleanup(program.end)
            return program

        stream = curl(f"{base}/api/v1/subscribe?topic=news/+&topic=b")
        self.assertEqual(stream.line(), b":")
        for topic in ("news/a", "b", "c", "news/a/b", "news/c"):
            body = json.dumps({"topic": topic, "message": {"to": topic}})
            status, output, _ = run(
                [
                    *("curl", "-s", f"{base}/api/v1/publish", "-d", body),
                    *("-H", f"Authorization: Bearer {self.token}", "-H", "Content-Type: application/json"),
                ]
            )
            self.assertEqual((status, json.loads(output)["topic"]), (0, topic))
        last = b""
        for topic in ("news/a", "b", "news/c"):
            last = last or stream.until(b"id: ")[4:]
            data = json.loads(stream.until(b"data: ")[6:])
            self.assertEqual(data, {"topic": topic, "data": {"to": topic}})
        again = curl("-H", f"Last-Event-ID: {last.decode()}", f"{base}/api/v1/subscribe?topic=news/%2B&topic=b")
        for topic in ("b", "news/c"):
            self.assertEqual(json.loads(again.until(b"data: ")[6:])["topic"], topic)

    def test_websockets(self) -> None:
        """The websockets package: token in the query or in a header, pings, fragments, a clean close."""
        url = f"ws://127.0.0.1:{self.gateway.http}/ws"
        options: dict[str, Any] = {"open_timeout": PATIENCE, "close_timeout": PATIENCE, "proxy": None}
        with (
            connect(f"{url}?token={self.token}", **options) as one,
            connect(url, additional_headers={"Authorization": f"Bearer {self.token}"}, **options) as other,
        ):
            other.send(json.dumps({"action": "subscribe", "topic": "#", "id": 1}))
            self.assertEqual(json.loads(other.recv(PATIENCE))["action"], "ack")
            self.assertTrue(one.ping("hello").wait(PATIENCE))
            text = json.dumps({"action": "publish", "topic": "t", "message": "in ☃ parts"}, ensure_ascii=False)
            one.send(text[index : index + 7] for index in range(0, len(text), 7))
            self.assertEqual(json.loads(other.recv(PATIENCE))["data"], "in ☃ parts")
            large = "x" * 200_000
            one.send(json.dumps({"action": "publish", "topic": "t", "message": large, "id": "a"}))
            self.assertEqual(json.loads(one.recv(PATIENCE))["action"], "ack")
            self.assertEqual(json.loads(other.recv(PATIENCE))["data"], large)
            one.close(1000, "done")
            closed = self.assertRaises(ConnectionClosed, one.recv, PATIENCE)
            self.assertEqual(closed.rcvd.code, 1000)
