"""Metrics, status and the log of a real gateway that is used over every protocol."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import MqttClient, MqttRefused, RunningGateway, until
from tests.integration.two_nodes import two_nodes

PAYLOAD = "a-payload-that-nobody-logs"


class MetricsTests(SynchronousTestCase):
    """A running gateway that logs JSON, with a line for each request."""

    def start(self, *options: str) -> RunningGateway:
        gateway = RunningGateway(config='log_format = "json"\nlog_requests = true\n', options=options)
        self.addCleanup(gateway.clean_up)
        gateway.start()
        return gateway

    def use(self, gateway: RunningGateway, token: str) -> None:
        """Publish over each protocol, receive over each, and be refused over each."""
        with gateway.mqtt_client(token) as mqtt, gateway.websocket(token) as websocket:
            mqtt.subscribe("t")
            websocket.ask(action="subscribe", topic="t")
            for qos in (0, 1, 1):
                mqtt.publish("t", PAYLOAD.encode(), qos)
            mqtt.flush()
            websocket.ask(action="publish", topic="t", message=PAYLOAD)
            body = {"topic": "t", "message": PAYLOAD}
            self.assertEqual(gateway.request("POST", "/api/v1/publish", body, token)[0], 200)
            until(lambda: gateway.metric("flowgate_messages_sent_total", protocol="mqtt") == 5, "all is received")
            until(lambda: gateway.metric("flowgate_messages_sent_total", protocol="websocket") == 5, "there too")
            self.assertEqual(gateway.metric("flowgate_connections", protocol="mqtt"), 1)
            self.assertEqual(gateway.metric("flowgate_connections", protocol="websocket"), 1)
            self.assertEqual(gateway.metric("flowgate_subscriptions"), 2)
            websocket.ask(action="publish", topic="a/+", message=PAYLOAD)
        self.assertEqual(gateway.request("PUT", "/api/v1/queues/q", {}, token)[0], 201)
        self.assertEqual(gateway.request("POST", "/api/v1/queues/q/messages", {"body": PAYLOAD}, token)[0], 201)
        self.assertEqual(gateway.request("GET", f"/api/v1/subscribe?topic=t&token={token}x")[0], 401)
        with self.assertRaises(MqttRefused):
            MqttClient(gateway.mqtt, token + "x")

    def test_counts(self) -> None:
        """Whatever was done is counted, by its protocol; the log has no secrets; status says the same."""
        gateway = self.start()
        key = gateway.key("ann")
        status, answer = gateway.request("POST", "/token/", {"api_key": key})
        self.assertEqual(status, 200)
        token = answer["token"]
        self.use(gateway, token)

        received = {"http": 1, "websocket": 1, "mqtt": 3}
        for protocol, count in received.items():
            self.assertEqual(gateway.metric("flowgate_messages_received_total", protocol=protocol), count, protocol)
        for protocol, count in {"http": 1, "websocket": 1, "mqtt": 2}.items():
            name = "flowgate_publish_duration_seconds_count"
            self.assertEqual(gateway.metric(name, protocol=protocol), count, protocol)
        for protocol, code in (("http", "invalid_token"), ("websocket", "invalid_topic"), ("mqtt", "invalid_token")):
            self.assertEqual(gateway.metric("flowgate_refusals_total", protocol=protocol, code=code), 1, protocol)
        for protocol in received:
            for name in ("received", "sent"):
                self.assertGreater(gateway.metric(f"flowgate_{name}_bytes_total", protocol=protocol), 20)
        self.assertEqual(gateway.metric("flowgate_queue_depth", application="ann_shop_", state="visible"), 1)
        self.assertGreater(gateway.metric("flowgate_bus_round_trip_seconds_count"), 2)
        self.assertEqual(gateway.metric("flowgate_bus_available"), 1)
        self.assertEqual(gateway.metric("flowgate_bus_reconnects_total"), 0)
        until(lambda: gateway.metric("flowgate_event_loop_lag_seconds_count"), "the lag is measured")

        [node] = json.loads(gateway.command("status", "--json"))
        self.assertEqual(node["messages"]["received"]["count"], received)
        self.assertEqual((node["bus"]["available"], node["queues"]["visible"]), (True, 1))
        self.assertEqual(node["errors"], {"count": 0, "last": "", "last_at": None})
        self.assertIn("NATS         within reach", gateway.command("status"))

        self.assertEqual(gateway.stop(), 0)
        self.check_log(gateway.log(), key, token)

    def check_log(self, log: str, key: str, token: str) -> None:
        lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines()]
        for line in lines:
            self.assertLessEqual({"time", "level", "logger", "message"}, set(line), line)
        requests = [line for line in lines if line["logger"] == "flowgate.http.measuring"]
        [refused] = [line for line in requests if line.get("status") == 401]
        self.assertEqual((refused["method"], refused["path"]), ("GET", "/api/v1/subscribe"))
        self.assertIn(refused["request_id"], refused["message"])
        self.assertIn("Flow-Gate has stopped", [line["message"] for line in lines])
        for secret in (key.partition(".")[2], token, token.split(".")[1], PAYLOAD):
            self.assertNotIn(secret, log)

    def test_nodes(self) -> None:
        """Any node shows the others too; one that has ended in order is not shown any more."""
        _, (one, two), _ = two_nodes(self)

        def nodes() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = one.admin("GET", "/status")["nodes"]
            return found

        first, second = until(lambda: nodes() if len(nodes()) == 2 else None, "both nodes are known")
        self.assertNotEqual(first["node"], second["node"])
        self.assertEqual((first["age_seconds"], second["bus"]["available"]), (0, True))
        two.stop()
        until(lambda: len(nodes()) == 1, "the other one has gone")

    def test_log_file(self) -> None:
        """With ``--logfile`` of twistd the lines go there."""
        with TemporaryDirectory(prefix="flowgate-test-") as directory:
            file = Path(directory) / "gateway.log"
            gateway = RunningGateway(config='log_format = "json"\n')
            gateway.twistd = ("--logfile", str(file))
            self.addCleanup(gateway.clean_up)
            gateway.start()
            self.assertEqual(gateway.stop(), 0)
            self.assertEqual(gateway.log(), "")
            messages = [json.loads(line)["message"] for line in file.read_text().splitlines()]
            self.assertIn("Flow-Gate has stopped", messages)

    def test_whole_page(self) -> None:
        """The page can be read by Prometheus's own parser from the first moment on, also while NATS is away."""
        gateway = self.start()
        gateway.kill_bus()
        until(lambda: gateway.metric("flowgate_bus_available") == 0, "NATS is away")
        _, text = gateway.request("GET", "/metrics")
        self.assertGreater(len(list(text_string_to_metric_families(text.decode()))), 30)
        until(lambda: gateway.metric("flowgate_bus_reconnects_total") == 1, "NATS is back")
