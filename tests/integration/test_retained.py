"""Retained messages over HTTP, Server-Sent Events and WebSocket, with real gateways."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import RunningGateway
from tests.integration.two_nodes import two_nodes


class RetainedTestCase(SynchronousTestCase):
    """Publishes and reads what is retained."""

    token: str

    def retain(self, node: RunningGateway, topic: str, message: Any) -> str:
        body = {"topic": topic, "message": message, "retain": True}
        status, answer = node.request("POST", "/api/v1/publish", body, self.token)
        self.assertEqual(status, 200, answer)
        return str(answer["id"])

    def kept(self, node: RunningGateway, query: str = "topic=%23") -> dict[str, Any]:
        status, answer = node.request("GET", f"/api/v1/retained?{query}", None, self.token)
        self.assertEqual(status, 200, answer)
        return {message["topic"]: message["data"] for message in answer["messages"]}


class OneNodeTests(RetainedTestCase):
    """A gateway with a nats-server of its own."""

    def setUp(self) -> None:
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def test_every_way(self) -> None:
        """What is retained by HTTP is read by HTTP, and comes first on streams and WebSockets that ask for it."""
        self.retain(self.gateway, "a/1", "one")
        self.retain(self.gateway, "a/2", {"n": 2})
        self.retain(self.gateway, "a/3", "three")
        self.retain(self.gateway, "a/3", "")
        self.assertEqual(self.kept(self.gateway), {"a/1": "one", "a/2": {"n": 2}})
        with (
            self.gateway.events(self.token, "a/+", retained=True) as stream,
            self.gateway.websocket(self.token) as client,
        ):
            client.subscribe("a/#", retained=True)
            seen = client.receive(2)
            cursor = self.retain(self.gateway, "a/1", "new")
            events = stream.receive(3)
            self.assertEqual(
                [event["data"] for event in events],
                [
                    {"topic": "a/1", "data": "one", "retained": True},
                    {"topic": "a/2", "data": {"n": 2}, "retained": True},
                    {"topic": "a/1", "data": "new"},
                ],
            )
            self.assertEqual(events[2]["id"], cursor)
            self.assertEqual([(one["data"], one["retained"]) for one in seen], [("one", True), ({"n": 2}, True)])
            self.assertEqual(client.frame(), {"action": "message", "topic": "a/1", "data": "new"})
        with self.gateway.events(self.token, "a/+", last=events[1]["id"], retained=True) as stream:
            self.assertEqual(stream.receive(1)[0]["data"], {"topic": "a/1", "data": "new"})

    def test_many(self) -> None:
        """Thousands are given, each once, to a stream and to a WebSocket."""
        names = [f"many/{number}" for number in range(3000)]
        for start in range(0, len(names), 1000):
            messages = [{"topic": name, "message": name, "retain": True} for name in names[start : start + 1000]]
            status, _ = self.gateway.request("POST", "/api/v1/publish/batch", {"messages": messages}, self.token)
            self.assertEqual(status, 200)
        with (
            self.gateway.events(self.token, "many/#", retained=True) as stream,
            self.gateway.websocket(self.token) as client,
        ):
            client.subscribe("many/+", retained=True)
            self.assertEqual([event["data"]["topic"] for event in stream.receive(3000)], names)
            self.assertEqual([frame["topic"] for frame in client.receive(3000)], names)
            self.retain(self.gateway, "many/0", "last")
            self.assertEqual(stream.receive(1)[0]["data"]["data"], "last")
            self.assertEqual(client.frame()["data"], "last")

    def test_survives_kill(self) -> None:
        """What was answered is there after kill -9 of the gateway and of nats-server."""
        self.retain(self.gateway, "a", "1")
        self.retain(self.gateway, "b", "1")
        self.retain(self.gateway, "b", "")
        self.gateway.kill()
        self.gateway.start()
        self.assertEqual(self.kept(self.gateway), {"a": "1"})


class TwoNodesTests(RetainedTestCase):
    """Two gateways that share nothing but nats-server and the master secret."""

    def setUp(self) -> None:
        self.server, self.nodes, self.token = two_nodes(self)

    def test_both_nodes(self) -> None:
        """Either node may write, and each sees what both wrote."""
        one, two = self.nodes
        self.retain(one, "a", "1")
        self.retain(two, "b", "1")
        self.retain(two, "a", "2")
        self.retain(one, "c", "1")
        self.retain(two, "c", "")
        for node in self.nodes:
            self.assertEqual(self.kept(node), {"a": "2", "b": "1"})

    def test_live_on_the_other_node(self) -> None:
        """A stream on one node gets what is retained, then what is retained anew on the other, in order and once."""
        one, two = self.nodes
        self.retain(one, "a", "0")
        with two.events(self.token, "a", retained=True) as stream, two.websocket(self.token) as client:
            client.subscribe("a", retained=True)
            for number in range(1, 6):
                self.retain(one, "a", str(number))
            self.assertEqual([event["data"]["data"] for event in stream.receive(6)], [*"012345"])
            self.assertEqual([frame["data"] for frame in client.receive(6)], [*"012345"])
