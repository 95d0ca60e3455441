"""The Billing Guard over a real nats-server, on every protocol, with two gateways, one of which is killed."""

# mypy: disable-error-code="import-untyped"
# (boto3 has no annotations)
from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from twisted.trial.unittest import SynchronousTestCase

from flowgate.mqtt import packets
from tests.integration.gateway import MqttClient, RunningGateway, until
from tests.integration.two_nodes import two_nodes

UNITS = 300
CONFIG = f"""
default_plan = "small"

[plans.small]
units = {UNITS}

[plans.prepaid]
prepaid = true

[plans.large]
units = 100000
"""


class Race:
    """Clients that publish until they are refused for good.

    :ivar accepted: how many messages were, by protocol.
    :ivar refused: the codes of refusals, by protocol.
    """

    def __init__(self) -> None:
        self.accepted: dict[str, int] = {}
        self.refused: dict[str, list[str]] = {}
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def run(self, protocol: str, publish: Callable[[], tuple[str, bool]], most: int = 400) -> None:
        """Publish again and again in a thread of its own.

        :param publish: publishes; gives an empty text, or the code of the refusal and whether it was the last word.
        """

        def work() -> None:
            accepted, refused = 0, []
            try:
                for _ in range(most):
                    code, final = publish()
                    if not code:
                        accepted += 1
                    else:
                        refused.append(code)
                        if final:
                            break
                        time.sleep(0.1)  # what a client does that is told to try again
            except BaseException as error:
                self.failures.append(error)
            with self._lock:
                self.accepted[protocol] = self.accepted.get(protocol, 0) + accepted
                self.refused.setdefault(protocol, []).extend(refused)

        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
        if self.failures:
            raise self.failures[0]


def by_http(node: RunningGateway, token: str) -> Callable[[], tuple[str, bool]]:
    def publish() -> tuple[str, bool]:
        status, answer = node.request("POST", "/api/v1/publish", {"topic": "t", "message": 1}, token)
        return ("", False) if status == 200 else (answer["code"], not answer.get("transient"))

    return publish


def by_queue(node: RunningGateway, token: str) -> Callable[[], tuple[str, bool]]:
    def publish() -> tuple[str, bool]:
        status, answer = node.request("POST", "/api/v1/queues/q/messages", {"body": "x"}, token)
        return ("", False) if status == 201 else (answer["code"], not answer.get("transient"))

    return publish


def by_websocket(node: RunningGateway, token: str) -> tuple[Callable[[], tuple[str, bool]], Callable[[], object]]:
    manager = node.websocket(token)
    client = manager.__enter__()

    def publish() -> tuple[str, bool]:
        answer = client.ask(action="publish", topic="t", message=1)
        return ("", False) if answer["action"] == "ack" else (answer["code"], not answer.get("transient"))

    return publish, lambda: manager.__exit__(None, None, None)


class MqttPublisher:
    """Publishes at QoS 1: a message is acknowledged, or there is a notice."""

    def __init__(self, node: RunningGateway, token: str, client_id: str) -> None:
        self.client = MqttClient(node.mqtt, token, client_id)
        self.client.subscribe("$SYS/notices", qos=0)
        self.number = 0

    def publish(self) -> tuple[str, bool]:
        self.number += 1
        self.client.send(packets.publishes("t", [b"1"], 1, [self.number]))
        while True:
            for name, payload, _ in self.client.messages:
                notice = json.loads(payload)
                if name == "$SYS/notices" and notice["code"] != "usage_threshold":
                    self.client.messages.clear()
                    return notice["code"], not notice.get("transient")
            self.client.messages.clear()
            for packet in self.client._packets:
                if isinstance(packet, packets.Ack):
                    self.client._packets.remove(packet)
                    return "", False
            self.client._read()


def by_sqs(node: RunningGateway, key: str) -> Callable[[], tuple[str, bool]]:
    client = boto3.client(
        "sqs",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{node.http}",
        aws_access_key_id=key.partition(".")[0],
        aws_secret_access_key=key.partition(".")[2],
        config=Config(retries={"max_attempts": 3, "mode": "standard"}),
    )
    url = client.create_queue(QueueName="q")["QueueUrl"]

    def publish() -> tuple[str, bool]:
        try:
            client.send_message(QueueUrl=url, MessageBody="x")
        except ClientError as error:
            return error.response["Error"]["Code"].rpartition(".")[2], "try again" not in str(error)
        return "", False

    return publish


class BillingTests(SynchronousTestCase):
    """Plans, units, the ledger."""

    def account(self, node: RunningGateway, user: str) -> tuple[str, str]:
        """A key and a token of a user."""
        key = node.key(user)
        status, answer = node.request("POST", "/token/", {"api_key": key})
        self.assertEqual(status, 200)
        return key, answer["token"]

    def ledger(self, node: RunningGateway, token: str) -> list[dict[str, Any]]:
        status, answer = node.request("GET", "/api/v1/usage/ledger?limit=1000", None, token)
        self.assertEqual(status, 200, answer)
        entries: list[dict[str, Any]] = answer["entries"]
        return entries

    def usage(self, node: RunningGateway, token: str) -> dict[str, Any]:
        status, answer = node.request("GET", "/api/v1/usage", None, token)
        self.assertEqual(status, 200, answer)
        found: dict[str, Any] = answer
        return found

    def stored(self, node: RunningGateway, token: str, topic: str) -> int:
        status, answer = node.request("GET", f"/api/v1/topics/{topic}/messages?limit=1000", None, token)
        self.assertEqual(status, 200, answer)
        return len(answer["messages"])

    def test_race(self) -> None:
        """Clients of every protocol race for the last units on two gateways: never more are stored than there are, and
        all of them are; the ledger says the same; who only receives is not concerned."""
        _, nodes, _ = two_nodes(self, CONFIG)
        key, token = self.account(nodes[0], "bob")
        until(lambda: nodes[1].status("/api/v1/topics/t/messages", token) == 200, "the key is known everywhere")
        self.assertEqual(nodes[0].request("PUT", "/api/v1/queues/q", {}, token)[0], 201)
        race = Race()
        closes = []
        with nodes[1].websocket(token) as watcher, nodes[0].events(token, "$SYS/usage") as events:
            for node in nodes:
                race.run("http", by_http(node, token))
                race.run("queue", by_queue(node, token))
                publish, close = by_websocket(node, token)
                closes.append(close)
                race.run("websocket", publish)
                race.run("sqs", by_sqs(node, key))
                publisher = MqttPublisher(node, token, f"p{node.http}")
                self.addCleanup(publisher.client.close)
                race.run("mqtt", publisher.publish)
            race.join()
            for close in closes:
                close()
            self.assertEqual(sum(race.accepted.values()), UNITS, race.accepted)
            for protocol, codes in race.refused.items():
                self.assertEqual(set(codes), {"OverLimit" if protocol == "sqs" else "limit_reached"}, protocol)
            self.assertTrue(all(race.accepted.values()), race.accepted)
            # Who is told on one node is told on the other, too.
            for told in (watcher.receive(2), [event["data"]["data"] for event in events.receive(2)]):
                self.assertEqual([one["threshold"] for one in told], [80, 100])
                self.assertEqual({one["limit"] for one in told}, {UNITS})
        status, answer = nodes[0].request("POST", "/api/v1/publish", {"topic": "t", "message": 1}, token)
        self.assertEqual(
            (status, answer["code"], answer["limit"], answer["used"]), (402, "limit_reached", UNITS, UNITS)
        )
        self.assertTrue(answer["resets_at"].endswith("T00:00:00.000Z"))
        self.assertEqual(nodes[0].request("POST", "/token/", {"api_key": key})[0], 200)
        for node in nodes:
            usage = self.usage(node, token)
            self.assertEqual((usage["used"], usage["remaining"], usage["limit"]), (UNITS, 0, UNITS))
        in_topics = sum(race.accepted[protocol] for protocol in ("http", "websocket", "mqtt"))
        self.assertEqual(self.stored(nodes[0], token, "t"), in_topics)
        nodes[1].stop()
        nodes[0].stop()
        nodes[0].start()
        self.assertEqual(sum(entry["units"] for entry in self.ledger(nodes[0], token)), UNITS)
        self.assertNotIn("Traceback", nodes[0].log() + nodes[1].log())

    def test_killed(self) -> None:
        """A gateway that is killed in the middle leaves nothing unpaid, and nothing is paid for twice."""
        _, nodes, _ = two_nodes(self, CONFIG)
        nodes[0].admin("POST", "/users", {"user": "carol", "plan": "large"})
        _, token = self.account(nodes[0], "carol")
        until(lambda: nodes[1].status("/api/v1/topics/t/messages", token) == 200, "the key is known everywhere")
        race = Race()
        ended = threading.Event()

        def until_killed(node: RunningGateway, name: str) -> Callable[[], tuple[str, bool]]:
            numbers = iter(range(100_000))

            def publish() -> tuple[str, bool]:
                body = {"topic": f"{name}/{next(numbers) % 7}", "message": "x"}
                status, answer = node.request("POST", "/api/v1/publish", body, token)
                if status == 0 or ended.is_set():
                    return "gone", True
                self.assertEqual(status, 200, answer)
                return "", False

            return publish

        for name, node in zip("ab", nodes, strict=True):
            for _ in range(3):
                race.run(name, until_killed(node, name), 5000)
        until(lambda: self.usage(nodes[1], token)["used"] > 200, "some are published")
        nodes[0].kill_gateway()
        before = self.usage(nodes[1], token)["used"]
        until(lambda: self.usage(nodes[1], token)["used"] > before + 50, "the other one goes on")
        ended.set()
        race.join()
        names = [f"{name}/{number}" for name in "ab" for number in range(7)]
        stored = sum(self.stored(nodes[1], token, topic.replace("/", "%2F")) for topic in names)
        self.assertGreaterEqual(stored, sum(race.accepted.values()))
        self.assertGreater(race.accepted["a"], 20)
        # As soon as it is seen to be gone, by the other one.
        until(lambda: self.usage(nodes[1], token)["used"] == stored, "what the killed one has stored is found")
        nodes[1].stop()
        nodes[1].start()
        self.assertEqual(sum(entry["units"] for entry in self.ledger(nodes[1], token)), stored)
        self.assertEqual(self.usage(nodes[1], token)["used"], stored)

    def test_alone(self) -> None:
        """A gateway alone is killed and started again; then a balance is paid in and spent, to the last unit."""
        node = RunningGateway(config=CONFIG)
        self.addCleanup(node.clean_up)
        node.start()
        node.admin("POST", "/users", {"user": "dave", "plan": "prepaid"})
        _, token = self.account(node, "dave")
        publish = by_http(node, token)
        self.assertEqual(publish(), ("insufficient_balance", True))
        for _ in range(2):
            answer = node.admin("POST", "/users/dave/balance", {"units": 40, "id": "invoice-1"})
            self.assertEqual(answer["balance"], 40)
        self.assertEqual([publish()[0] for _ in range(25)], [""] * 25)
        node.kill()
        node.start()
        self.assertEqual(self.usage(node, token)["used"], 25)
        race = Race()
        for _ in range(4):
            race.run("http", by_http(node, token))
        race.join()
        self.assertEqual(race.accepted["http"], 15)
        usage = self.usage(node, token)
        self.assertEqual((usage["used"], usage["balance"], usage["remaining"]), (40, 0, 0))
        self.assertEqual(node.admin("GET", "/users/dave/balance")["balance"], 0)
        node.stop()
        node.start()
        entries = self.ledger(node, token)
        self.assertEqual(sum(entry["balance"] for entry in entries), 0)
        self.assertEqual(sum(entry["units"] for entry in entries), 40)
