"""Publishing over HTTP against real servers: idempotency keys and batches on two nodes, and after a restart."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import RunningGateway
from tests.integration.two_nodes import two_nodes

_T = TypeVar("_T")


def at_once(*calls: Callable[[], _T]) -> list[_T]:
    """Make calls at the same time, each in a thread of its own."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [under_way.result() for under_way in [pool.submit(call) for call in calls]]


def history(node: RunningGateway, token: str, topic: str = "%23") -> list[dict[str, Any]]:
    """All that history holds, read page by page."""
    found: list[dict[str, Any]] = []
    since = "earliest"
    while True:
        status, page = node.request("GET", f"/api/v1/topics/{topic}/messages?limit=1000&since={since}", token=token)
        assert status == 200, page
        if not page["messages"]:
            return found
        found += page["messages"]
        since = page["next"]


class TwoNodesPublishingTests(SynchronousTestCase):
    """Two gateways on one nats-server."""

    def setUp(self) -> None:
        self.server, self.nodes, self.token = two_nodes(self, "[history]\nmessages = 20000\n")

    def publish(self, node: RunningGateway, message: object, key: str, topic: str = "t") -> tuple[int, Any]:
        body = {"topic": topic, "message": message}
        return node.request("POST", "/api/v1/publish", body, self.token, {"Idempotency-Key": key})

    def batch(self, node: RunningGateway, messages: list[Any], key: str | None = None) -> tuple[int, Any]:
        headers = {} if key is None else {"Idempotency-Key": key}
        return node.request("POST", "/api/v1/publish/batch", {"messages": messages}, self.token, headers)

    def test_key_on_the_other_node(self) -> None:
        """A key that was used on one node is known on the other: for its message, and against any other."""
        a, b = self.nodes
        status, first = self.publish(a, 1, "k")
        self.assertEqual((status, first["duplicate"]), (200, False))
        status, again = self.publish(b, 1, "k")
        self.assertEqual((status, again["id"], again["duplicate"]), (200, first["id"], True))
        for message, topic in ((2, "t"), (1, "u")):
            status, problem = self.publish(b, message, "k", topic)
            self.assertEqual((status, problem["code"]), (422, "idempotency_key_reused"))
        self.assertEqual([one["data"] for one in history(b, self.token)], ["1"])

    def test_key_of_a_batch_on_the_other_node(self) -> None:
        """The keys of a batch are known on the other node too, place by place."""
        a, b = self.nodes
        messages: list[Any] = [{"topic": f"t/{n % 3}", "message": n, "retain": n == 7} for n in range(100)]
        _, first = self.batch(a, messages, "k")
        messages[50] = {"topic": "t/x", "message": "other"}
        messages[7]["message"] = "other"
        status, again = self.batch(b, messages, "k")
        self.assertEqual(status, 200)
        for n, (before, now) in enumerate(zip(first["results"], again["results"], strict=True)):
            if n in (7, 50):
                self.assertEqual(now["error"]["code"], "idempotency_key_reused")
            else:
                self.assertEqual((now["id"], now["duplicate"]), (before["id"], True))
        self.assertEqual(len(history(a, self.token)), 100)

    def test_race_for_a_key(self) -> None:
        """However many use a key at the same time, one message is stored; the same is never told to be another."""
        a, b = self.nodes
        for n in range(30):
            messages = [f"{n} {who}" for who in ("x", "x", "y", "y")]
            calls = [
                partial(self.publish, node, message, f"k{n}", f"t/{n}")
                for node, message in zip((a, b, a, b), messages, strict=True)
            ]
            answers = at_once(*calls)
            (stored,) = history(a, self.token, f"t/{n}")
            for message, (status, answer) in zip(messages, answers, strict=True):
                self.assertIn(status, (200, 409) if message == stored["data"] else (409, 422), answer)
                if status == 200:
                    self.assertEqual(answer["id"], stored["id"])
            new = [answer for status, answer in answers if status == 200 and not answer["duplicate"]]
            self.assertEqual(len(new), 1)

    def test_places_of_batches(self) -> None:
        """Each message of batches that two nodes store at the same time is where its answer says."""
        sizes = (1, 7, 100, 1000)
        batches = [
            [{"topic": f"t/{n % 5}", "message": f"{who}{size}/{n}"} for n in range(size)]
            for who in ("a", "b")
            for size in sizes
        ]
        nodes = [node for node in self.nodes for _ in sizes]
        answers = at_once(*(partial(self.batch, *one) for one in zip(nodes, batches, strict=True)))
        stored = {one["id"]: (one["topic"], one["data"]) for one in history(self.nodes[0], self.token)}
        told: dict[str, tuple[str, str]] = {}
        for messages, (status, answer) in zip(batches, answers, strict=True):
            self.assertEqual(status, 200)
            places = [int(one["id"].partition("-")[2]) for one in answer["results"]]
            self.assertEqual(places, sorted(places))
            for message, one in zip(messages, answer["results"], strict=True):
                told[one["id"]] = (message["topic"], message["message"])
        self.assertEqual(told, stored)
        self.assertEqual(len(stored), 2 * sum(sizes))

    def test_batches_are_delivered(self) -> None:
        """Subscribers of both nodes get the messages of a batch once, in order."""
        a, b = self.nodes
        with a.websocket(self.token) as one, b.websocket(self.token) as two:
            for client in (one, two):
                client.subscribe("t/#")
            self.batch(a, [{"topic": f"t/{n % 5}", "message": n} for n in range(500)])
            for client in (one, two):
                self.assertEqual([client.frame()["data"] for _ in range(500)], [str(n) for n in range(500)])

    def test_topics(self) -> None:
        """The list of topics is the same on both nodes, page by page."""
        a, b = self.nodes
        names = sorted([f"t/{n}/ä b" for n in range(700)] + ["$t", "a.b"])
        self.batch(a, [{"topic": name, "message": 1} for name in names])
        self.batch(b, [{"topic": "a.b", "message": 2}])
        for node in self.nodes:
            found: list[dict[str, Any]] = []
            cursor = ""
            while cursor is not None:
                query = f"limit=300&cursor={cursor}".replace(" ", "%20").replace("ä", "%C3%A4")
                status, page = node.request("GET", f"/api/v1/topics?{query}", token=self.token)
                self.assertEqual(status, 200)
                found += page["topics"]
                cursor = page["next"]
            self.assertEqual([one["topic"] for one in found], names)
            self.assertEqual({one["topic"] for one in found if one["messages"] == 2}, {"a.b"})


class RestartedPublishingTests(SynchronousTestCase):
    """A gateway with a nats-server of its own, killed and started again."""

    def test_key_after_a_kill(self) -> None:
        """After gateway and nats-server were killed a key is still that of its message."""
        gateway = RunningGateway()
        self.addCleanup(gateway.clean_up)
        gateway.start()
        token = gateway.token("ann")
        body, key = {"topic": "t", "message": 1}, {"Idempotency-Key": "k"}
        _, first = gateway.request("POST", "/api/v1/publish", body, token, key)
        gateway.kill()
        gateway.start()
        status, again = gateway.request("POST", "/api/v1/publish", body, token, key)
        self.assertEqual((status, again["id"], again["duplicate"]), (200, first["id"], True))
        status, problem = gateway.request("POST", "/api/v1/publish", {**body, "message": 2}, token, key)
        self.assertEqual((status, problem["code"]), (422, "idempotency_key_reused"))

    def test_bytes_of_every_kind(self) -> None:
        """What was published as bytes comes out of MQTT as those, and of a stream in base64."""
        gateway = RunningGateway()
        self.addCleanup(gateway.clean_up)
        gateway.start()
        token = gateway.token("ann")
        payload = bytes(range(256))
        with gateway.mqtt_client(token) as mqtt, gateway.events(token, "t") as stream:
            mqtt.subscribe("t")
            status, _ = gateway.request(
                "POST", "/api/v1/publish?topic=t", payload, token, {"Content-Type": "application/octet-stream"}
            )
            self.assertEqual(status, 200)
            self.assertEqual(mqtt.receive(1), [("t", payload, 1)])
            self.assertEqual(stream.receive(1)[0]["data"]["encoding"], "base64")
