"""Presence on two gateways with one nats-server."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

from contextlib import ExitStack

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import RunningGateway, WebSocketClient, until
from tests.integration.two_nodes import two_nodes


class PresenceTests(SynchronousTestCase):
    """Clients of one gateway, and those of another."""

    def setUp(self) -> None:
        _, (self.one, self.two), self.token = two_nodes(self)
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)

    def here(self, node: RunningGateway, token: str = "") -> tuple[WebSocketClient, str]:
        client = self.stack.enter_context(node.websocket(token or self.token))
        return client, client.ask(action="subscribe", topic="room", presence=True)["client"]

    def who(self, node: RunningGateway) -> list[str]:
        with node.websocket(self.token) as client:
            answer = client.ask(action="who", topic="room")
        found = [one["client"] for one in answer["clients"]]
        self.assertEqual(answer["count"], len(found))
        return sorted(found)

    def test_together(self) -> None:
        """Clients of both nodes are there together, and are told of each other."""
        first, one = self.here(self.one)
        until(lambda: self.who(self.two) == [one], "the other node knows the first client")
        second, two = self.here(self.two)
        joined = first.frame()
        self.assertEqual((joined["event"], joined["client"]["client"], joined["count"]), ("join", two, 2))
        self.assertEqual([self.who(node) for node in (self.one, self.two)], [sorted((one, two))] * 2)
        second.close()
        left = first.frame()
        self.assertEqual((left["event"], left["client"]["client"], left["count"]), ("leave", two, 1))

    def test_killed(self) -> None:
        """When a node is stopped its clients leave; when it is killed they do too, after a while."""
        first, one = self.here(self.one)
        until(lambda: self.who(self.two) == [one], "the other node knows the first client")
        _, two = self.here(self.two)
        self.assertEqual(first.frame()["event"], "join")
        assert self.two.process is not None
        self.two.process.kill()
        until(lambda: self.who(self.one) == [one], "the clients of the killed node have left", patience=60)
        left = first.frame()
        self.assertEqual((left["event"], left["client"]["client"]), ("leave", two))
