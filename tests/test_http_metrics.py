"""``/metrics``: who may read it, and what stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from flowgate.http.answers import Route
from flowgate.http.metrics import Metrics
from flowgate.http.operators import AdminToken
from flowgate.metering import Histogram
from flowgate.metrics.collecting import MOST_APPLICATIONS, OTHERS, Exposition, GatewayCollector, depths
from flowgate.metrics.families import COUNTERS, GAUGES, HISTOGRAMS
from flowgate.metrics.lag import INTERVAL, LoopLag
from flowgate.queues.model import Outgoing
from flowgate.topics import Namespace
from tests.http_client import ADMIN_TOKEN, Answer, HttpClient, request

ROOT = Path(__file__).resolve().parents[1]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    """Every line of the page, by name and labels, as Prometheus's own parser reads it."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


class MetricsTests(SynchronousTestCase):
    """A site with metrics."""

    open_to_all = False

    def setUp(self) -> None:
        self.client = HttpClient(further=self.routes)

    def routes(self, client: HttpClient) -> list[Route]:
        exposition = Exposition(GatewayCollector(client.gateway, client.queues))
        return Metrics(exposition, AdminToken(ADMIN_TOKEN), self.open_to_all).routes()

    def ask(self, peer: Any, token: str | None = None, **headers: str) -> Answer:
        connection = self.client.connect()
        connection.transport.peerAddr = peer
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.send(request("GET", "/metrics", headers=given, token=token))
        return Answer(connection.received, "GET")

    def text(self) -> str:
        answer = self.ask(IPv4Address("TCP", "127.0.0.1", 50000))
        self.assertEqual(answer.status, 200)
        return answer.body.decode()

    def samples(self) -> Samples:
        return samples(self.text())

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples().get((f"flowgate_{name}", tuple(sorted(labels.items()))))


class AccessTests(MetricsTests):
    """Who may read."""

    def test_this_machine(self) -> None:
        """A program on this machine is not asked for a token."""
        for host in ("127.0.0.1", "127.8.8.8"):
            self.assertEqual(self.ask(IPv4Address("TCP", host, 50000)).status, 200)
        for host in ("::1", "::ffff:127.0.0.1"):
            self.assertEqual(self.ask(IPv6Address("TCP", host, 50000)).status, 200)

    def test_elsewhere(self) -> None:
        """From elsewhere, or through a socket that a proxy uses, the admin token is needed."""
        for peer in (
            IPv4Address("TCP", "192.0.2.1", 50000),
            IPv6Address("TCP", "2001:db8::1", 50000),
            UNIXAddress(None),
        ):
            self.assertEqual(self.ask(peer).status, 401)
            self.assertEqual(self.ask(peer, "good").json()["code"], "invalid_token")
            self.assertEqual(self.ask(peer, ADMIN_TOKEN).status, 200)

    def test_through_a_proxy(self) -> None:
        """What a proxy on this machine passes on comes from elsewhere."""
        peer = IPv4Address("TCP", "127.0.0.1", 50000)
        for name in ("X_Forwarded_For", "Forwarded", "X_Real_IP", "Via"):
            self.assertEqual(self.ask(peer, None, **{name: "x"}).status, 401, name)
            self.assertEqual(self.ask(peer, ADMIN_TOKEN, **{name: "x"}).status, 200, name)


class OpenTests(MetricsTests):
    """With ``metrics = "open"``."""

    open_to_all = True

    def test_everybody(self) -> None:
        """Nobody is asked for a token."""
        self.assertEqual(self.ask(IPv4Address("TCP", "192.0.2.1", 50000)).status, 200)


class PageTests(MetricsTests):
    """What is shown."""

    def test_format(self) -> None:
        """The page is in Prometheus's text format 0.0.4: each name once, with type and text, as the conventions say."""
        self.client.call("PUT", "/api/v1/queues/q")
        answer = self.ask(IPv4Address("TCP", "127.0.0.1", 50000))
        self.assertEqual(answer.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        families = list(text_string_to_metric_families(answer.body.decode()))
        names = [family.name for family in families]
        self.assertEqual(len(names), len(set(names)))
        self.assertGreater(len(names), 20)
        for family in families:
            self.assertTrue(family.documentation, family.name)
            self.assertNotEqual(family.type, "unknown", family.name)
            self.assertRegex(family.name, r"\A(flowgate|process)_[a-z_]+[a-z]\Z")
            self.assertNotRegex(family.name, "_(ms|milliseconds|kb)$")

    def test_messages(self) -> None:
        """A message is counted by protocol when it comes and when it goes; bytes are."""
        self.client.open("GET", "/api/v1/subscribe?topic=a")
        body = {"topic": "a", "message": "x" * 100}
        self.assertEqual(self.client.call("POST", "/api/v1/publish", body).status, 200)
        self.assertEqual(self.value("messages_received_total", protocol="http"), 1)
        self.assertEqual(self.value("messages_sent_total", protocol="sse"), 1)
        self.assertEqual(self.value("connections", protocol="sse"), 1)
        self.assertEqual(self.value("connections", protocol="mqtt"), 0)
        self.assertEqual(self.value("subscriptions"), 1)
        for name in ("received_bytes_total", "sent_bytes_total"):
            self.assertGreater(self.value(name, protocol="http") or 0, 200)
        self.assertEqual(self.value("publish_duration_seconds_count", protocol="http"), 1)

    def test_requests_by_route(self) -> None:
        """Requests are measured by method, route and kind of status; what is asked for is no label."""
        self.client.call("PUT", "/api/v1/queues/orders")
        self.client.call("GET", "/api/v1/queues/orders")
        self.client.call("GET", "/api/v1/queues/none")
        self.client.call("GET", "/secret-path?token=secret")
        self.client.call("POST", "/healthz")
        name, route = "http_request_duration_seconds_count", "/api/v1/queues/<name>"
        self.assertEqual(self.value(name, method="PUT", route=route, status="2xx"), 1)
        self.assertEqual(self.value(name, method="GET", route=route, status="2xx"), 1)
        self.assertEqual(self.value(name, method="GET", route=route, status="4xx"), 1)
        self.assertEqual(self.value(name, method="none", route="none", status="4xx"), 2)
        text = self.text()
        self.assertNotIn("orders", text)
        self.assertNotIn("secret", text)

    def test_time_of_a_request(self) -> None:
        """It is measured from the request to the beginning of the answer: a receive that waits takes its time."""
        self.client.call("PUT", "/api/v1/queues/q")
        waiting = self.client.open("GET", "/api/v1/queues/q/messages?wait=3")
        self.client.clock.advance(3)
        self.assertIn(b"200", waiting.received)
        labels = {"method": "GET", "route": "/api/v1/queues/<name>/messages", "status": "2xx"}
        self.assertEqual(self.value("http_request_duration_seconds_sum", **labels), 3)
        self.assertEqual(self.value("http_request_duration_seconds_bucket", le="2.5", **labels), 0)
        self.assertEqual(self.value("http_request_duration_seconds_bucket", le="5.0", **labels), 1)

    def test_refusals(self) -> None:
        """What is refused is counted by its code: problems, those of the token endpoint, unreadable requests."""
        self.client.call("GET", "/nowhere")
        self.client.call("POST", "/healthz")
        self.client.call("POST", "/api/v1/publish", {"topic": "a"})
        self.client.call("POST", "/api/v1/publish", {"topic": "a", "message": 1}, token="wrong")
        self.client.call("POST", "/token/", {}, token=None)
        self.client.connect().send(b"what?\r\n\r\n")
        for code in ("not_found", "method_not_allowed", "missing_field", "invalid_token", "missing_token"):
            self.assertEqual(self.value("refusals_total", protocol="http", code=code), 1, code)
        self.assertEqual(self.value("refusals_total", protocol="http", code="invalid_parameter"), 1)

    def test_labels_are_escaped(self) -> None:
        """A label's text cannot break the page."""
        self.client.gateway.meter.add("clients_cut", ("mqtt", 'a"b\\c\nd'), 2)
        self.assertEqual(self.value("clients_cut_total", protocol="mqtt", reason='a"b\\c\nd'), 2)

    def test_unknown_names(self) -> None:
        """A counter, gauge or histogram that is not described is shown nevertheless."""
        meter = self.client.gateway.meter
        meter.add("novelties", "x")
        meter.gauge("novelty", lambda: 7)
        meter.histogram("novelty_seconds", "x").observe(1)
        self.assertEqual(self.value("novelties_total", kind="x"), 1)
        self.assertEqual(self.value("novelty"), 7)
        self.assertEqual(self.value("novelty_seconds_count", kind="x"), 1)

    def test_histogram(self) -> None:
        """Buckets are cumulative, and the last one is that of all."""
        measured = self.client.gateway.meter.histogram("bus_round_trip_seconds", bounds=(0.1, 1.0))
        for seconds, count in ((0.05, 1), (0.1, 2), (0.5, 1), (7.0, 3)):
            measured.observe(seconds, count)
        for le, count in (("0.1", 3), ("1.0", 4), ("+Inf", 7)):
            self.assertEqual(self.value("bus_round_trip_seconds_bucket", le=le), count, le)
        self.assertEqual(self.value("bus_round_trip_seconds_count"), 7)
        self.assertAlmostEqual(self.value("bus_round_trip_seconds_sum") or 0, 0.05 + 0.2 + 0.5 + 21)

    def test_queues(self) -> None:
        """What the open queues of an application hold is shown together, and never by the queue's name."""
        for name in ("one", "two"):
            self.client.call("PUT", f"/api/v1/queues/{name}")
            self.client.call("POST", f"/api/v1/queues/{name}/messages", {"body": "x" * 10})
        self.client.call("POST", "/api/v1/queues/two/messages", {"body": "y", "delay": 60})
        self.client.call("GET", "/api/v1/queues/one/messages")
        application = "alice_shop_"
        found = {
            state: self.value("queue_depth", application=application, state=state)
            for state in ("visible", "in_flight", "delayed")
        }
        self.assertEqual(found, {"visible": 1, "in_flight": 1, "delayed": 1})
        self.assertEqual(self.value("queue_bytes", application=application), 21)
        self.assertEqual(self.value("open_queues"), 2)
        self.client.clock.advance(5)
        self.assertEqual(self.value("queue_oldest_age_seconds", application=application), 5)
        for operation, count in (("send", 3), ("receive", 1), ("delete", 0)):
            self.assertEqual(self.value("queue_messages_total", operation=operation), count)
        self.assertNotIn('"one"', self.text())

    def test_bounded_labels(self) -> None:
        """Beyond so many applications those with the fewest messages are shown together."""
        queues = self.client.queues
        for index in range(4):
            namespace = Namespace(f"user{index}", "app")
            queues.configure(namespace, "q", {})
            queues.send(namespace, "q", [Outgoing("x")] * (index + 1))
            self.client.settle()
        found = depths(queues, 2)
        self.assertEqual(
            {name: depth.visible for name, depth in found.items()}, {"user3_app_": 4, "user2_app_": 3, OTHERS: 3}
        )
        self.assertEqual(found[OTHERS].bytes, 3)
        self.assertGreater(MOST_APPLICATIONS, 10)

    def test_process(self) -> None:
        """The process itself and its build are shown."""
        self.assertGreater(self.samples()["process_resident_memory_bytes", ()], 1_000_000)
        self.assertIn("flowgate_build_info{", self.text())


class LagTests(SynchronousTestCase):
    """:class:`LoopLag`."""

    def test_lag(self) -> None:
        """It looks again and again, and measures how late it was, until it is stopped."""
        clock, measured = Clock(), Histogram((0.1, 1.0))
        lag = LoopLag(clock, measured)
        lag.start()
        clock.pump([INTERVAL, INTERVAL, INTERVAL + 0.5])
        self.assertEqual((measured.counts, measured.sum), ([2, 1, 0], 0.5))
        lag.stop()
        lag.stop()
        clock.advance(9)
        self.assertEqual((sum(measured.counts), clock.getDelayedCalls()), (3, []))


class LineTests(SynchronousTestCase):
    """The line that each request may have in the log."""

    def lines(self, log: bool) -> list[str]:
        client = HttpClient(log_requests=log)
        with capturedLogs() as logged:
            client.call("POST", "/api/v1/publish", {"topic": "a", "message": "payload"})
            client.call("GET", "/api/v1/subscribe?topic=a&token=secret", token=None)
            client.open("GET", "/api/v1/subscribe?topic=a")
            client.call("GET", f"/{'x' * 5000}", headers={"X-Request-Id": "mine"})
            client.connect().send(b"what?\r\n\r\n")
        return [formatEvent(event) for event in logged if event["log_namespace"] == "flowgate.http.measuring"]

    def test_lines(self) -> None:
        """Each has one when its answer begins: id, method, path, client, status and time; no query, no body."""
        lines = self.lines(True)
        self.assertEqual(len(lines), 5)
        self.assertRegex(
            lines[0], r"\Arequest [0-9a-f]{32}: POST /api/v1/publish from 192\.168\.1\.1: 200 after 0\.0 ms\Z"
        )
        self.assertIn("GET /api/v1/subscribe from 192.168.1.1: 401 after", lines[1])
        self.assertIn("GET /api/v1/subscribe from 192.168.1.1: 200 after", lines[2])
        self.assertIn("request mine: GET /xxx", lines[3])
        self.assertLess(len(lines[3]), 300)
        self.assertIn(": 400 after", lines[4])
        text = "".join(lines)
        for secret in ("secret", "good", "payload", "topic"):
            self.assertNotIn(secret, text)

    def test_none(self) -> None:
        """There is none unless it is asked for."""
        self.assertEqual(self.lines(False), [])


class NameTests(SynchronousTestCase):
    """Names in the source, the documentation and the dashboard."""

    def setUp(self) -> None:
        self.names = {
            *(f"flowgate_{name}_total" for name in COUNTERS),
            *(f"flowgate_{name}" for name in (*GAUGES, *HISTOGRAMS)),
        }

    def test_every_name_is_described(self) -> None:
        """Whatever the source counts, reads or measures has a line in the families, of the right kind."""
        source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "flowgate").rglob("*.py")))
        for verbs, families in (
            ("add|counter", COUNTERS),
            ("histogram", HISTOGRAMS),
            ("gauge", {**GAUGES, **COUNTERS}),
        ):
            found = set(re.findall(rf'meter\.(?:{verbs})\(\s*"(\w+)"', source))
            self.assertTrue(found)
            self.assertEqual(found - set(families), set(), verbs)

    def test_documentation(self) -> None:
        """The table of metrics in ``operations.rst`` has just the names that there are."""
        text = (ROOT / "docs" / "operations.rst").read_text(encoding="utf-8")
        self.assertEqual(set(re.findall(r"(?m)^   \* - ``(flowgate_\w+)", text)), self.names)

    def test_dashboard(self) -> None:
        """Every metric that Grafana's dashboard asks for is one of ours, or of the process, and has its labels."""
        dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
        asked = [
            target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ()) if "expr" in target
        ]
        self.assertGreater(len(asked), 15)
        shown = {name.removesuffix("_total"): family for name, family in {**COUNTERS, **GAUGES, **HISTOGRAMS}.items()}
        for expression in asked:
            for name in re.findall(r"\b(?:flowgate|process)_\w+", expression):
                plain = re.sub("_(bucket|sum|count)$", "", name)
                if name.startswith("process_"):
                    self.assertIn(plain, ("process_resident_memory_bytes", "process_cpu_seconds_total"))
                    continue
                self.assertIn(plain, self.names, expression)
                family = shown[plain.removeprefix("flowgate_").removesuffix("_total")]
                for labels in re.findall(r"\bby \(([^)]*)\)", expression):
                    known = {*family.labels, "instance", "le"}
                    self.assertEqual({one.strip() for one in labels.split(",")} - known, set(), expression)
