"""How every node is, as each is told."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate import __version__
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Route
from flowgate.http.status import Status
from flowgate.logs import Troubles
from flowgate.metering import Meter
from flowgate.nodes import SILENT_SECONDS, TELL_SECONDS, Nodes
from tests.http_client import ADMIN_TOKEN, HttpClient


class _Node:
    """One node: its gateway and what it knows of the others."""

    def __init__(self, hub: MemoryPeersHub, clock: Clock) -> None:
        self.peers = MemoryPeers(hub)
        self.troubles = Troubles(Meter(), lambda: 5.0)
        self.clock = clock
        self.client = HttpClient(further=self._routes)
        self.nodes.start()

    def _routes(self, client: HttpClient) -> list[Route]:
        self.nodes = Nodes(client.gateway, client.queues, self.peers, self.troubles, self.clock)
        return Status(self.nodes, AdminAccess(ADMIN_TOKEN)).routes()

    def others(self) -> list[dict[str, Any]]:
        return self.nodes.all()[1:]

    def rate(self) -> object:
        """Messages a second over MQTT."""
        return self.nodes.own()["messages"]["received"]["per_second"]["mqtt"]


class NodeTests(SynchronousTestCase):
    """:class:`Nodes`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = MemoryPeersHub(self.clock)
        self.ones = [_Node(self.hub, self.clock) for _ in range(2)]
        for one in self.ones:
            self.addCleanup(one.nodes.stop)

    def test_own(self) -> None:
        """A node shows what it is and does now, in values that JSON has."""
        one = self.ones[0]
        one.client.open("GET", "/api/v1/subscribe?topic=a")
        one.client.call("POST", "/api/v1/publish", {"topic": "a", "message": 1})
        one.client.call("PUT", "/api/v1/queues/q")
        one.client.call("POST", "/api/v1/queues/q/messages", {"body": "x"})
        one.troubles({"log_level": None})
        self.clock.advance(4)
        report = one.nodes.all()[0]
        self.assertEqual(json.loads(json.dumps(report)), report)
        self.assertEqual((report["node"], report["version"]), (one.peers.node, __version__))
        self.assertEqual((report["uptime_seconds"], report["age_seconds"]), (4, 0))
        self.assertEqual(report["bus"]["available"], True)
        self.assertEqual(report["connections"], {"mqtt": 0, "sse": 1, "websocket": 0})
        self.assertEqual(report["subscriptions"], 1)
        self.assertEqual(report["messages"]["received"], {"count": {"http": 1}, "per_second": {"http": 0.25}})
        self.assertEqual(report["messages"]["sent"], {"count": {"sse": 1}, "per_second": {"sse": 0.25}})
        queues = report["queues"]
        self.assertEqual((queues["open"], queues["visible"], queues["in_flight"], queues["delayed"]), (1, 1, 0, 0))
        self.assertEqual(report["errors"], {"count": 0, "last": "", "last_at": None})

    def test_rates(self) -> None:
        """Rates are those of the 10 s before the last telling, once there were so many."""
        one = self.ones[0]
        for messages in (20, 30):
            one.client.gateway.meter.add("messages_received", "mqtt", messages)
            self.clock.advance(TELL_SECONDS)
        self.assertEqual(one.rate(), 3)
        self.clock.advance(TELL_SECONDS - 1)
        self.assertEqual(one.rate(), 3)
        self.clock.advance(1)
        self.assertEqual(one.rate(), 0)

    def test_others(self) -> None:
        """A node knows how the others were when they told it, and how long ago that is."""
        one, other = self.ones
        self.clock.advance(TELL_SECONDS)
        other.client.bus.go_away()
        [report] = one.others()
        self.assertEqual((report["node"], report["bus"]["available"]), (other.peers.node, True))
        self.clock.advance(3)
        self.assertEqual(one.others()[0]["age_seconds"], 3)
        self.clock.advance(TELL_SECONDS - 3)
        self.assertEqual(one.others()[0]["bus"]["available"], False)

    def test_gone(self) -> None:
        """A node that stops in order is forgotten at once, one that is silent after a while."""
        one, other = self.ones
        third = _Node(self.hub, self.clock)
        self.clock.advance(TELL_SECONDS)
        self.assertEqual(len(one.others()), 2)
        third.nodes.stop()
        self.clock.advance(0)
        self.assertEqual([report["node"] for report in one.others()], [other.peers.node])
        other.peers.alone = True  # it tells nothing any more
        self.clock.advance(SILENT_SECONDS)
        self.assertEqual(one.others(), [])

    def test_alone(self) -> None:
        """A node that can have no others tells nothing."""
        lonely = _Node(hub := MemoryPeersHub(self.clock), self.clock)
        lonely.peers.alone = True
        listener = _Node(hub, self.clock)
        listener.peers.alone = True
        for one in (lonely, listener):
            self.addCleanup(one.nodes.stop)
        self.clock.advance(TELL_SECONDS)
        self.assertEqual(listener.others(), [])

    def test_unreadable(self) -> None:
        """What cannot be read of another node costs nothing but a line in the log."""
        stranger = MemoryPeers(self.hub)
        with capturedLogs() as logged:
            for payload in (b"", b"[]", b"{}", b'{"node":7}', b"\xff"):
                stranger.tell("status", payload)
            stranger.tell("status", b'{"node":"n"}')
            self.clock.advance(0)
        self.assertEqual({report["node"] for report in self.ones[0].others()}, {"n", self.ones[1].peers.node})
        self.assertEqual(len(logged), 5 * len(self.ones))


class StatusTests(SynchronousTestCase):
    """``/api/v1/admin/status``."""

    def setUp(self) -> None:
        clock = Clock()
        node = _Node(MemoryPeersHub(clock), clock)
        self.addCleanup(node.nodes.stop)
        self.client = node.client

    def test_shown(self) -> None:
        """The administrator is shown every node."""
        answer = self.client.call("GET", "/api/v1/admin/status", token=ADMIN_TOKEN)
        self.assertEqual(answer.status, 200)
        self.assertEqual([node["version"] for node in answer.json()["nodes"]], [__version__])

    def test_for_administrators(self) -> None:
        """Nobody else is."""
        for token, code in ((None, "missing_token"), ("good", "invalid_token"), (ADMIN_TOKEN + "x", "invalid_token")):
            answer = self.client.call("GET", "/api/v1/admin/status", token=token)
            self.assertEqual((answer.status, answer.json()["code"]), (401, code))
