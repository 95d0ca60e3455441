"""What was acknowledged is there after a process was killed; what lives goes on."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from threading import Event, Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Type
from tests.integration.gateway import EventStream, RunningGateway, until


def texts(stream: EventStream, count: int) -> list[str]:
    return [event["data"]["data"] for event in stream.receive(count)]


class Acknowledgements:
    """Publishes numbers at QoS 1, many at once, in a thread, until the connection breaks."""

    def __init__(self, gateway: RunningGateway, token: str, topic: str, count: int) -> None:
        self._gateway, self._token, self._topic, self._count = gateway, token, topic, count
        self.acknowledged = 0
        self.enough = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        decoder = packets.Decoder(1 << 20)
        with self._gateway.mqtt_client(self._token) as client, contextlib.suppress(OSError):
            numbers = range(self._count)
            sending = Thread(target=self._send, args=(client, numbers))
            sending.start()
            while data := client.socket.recv(65536):
                for packet in decoder.feed(data):
                    if isinstance(packet, Ack) and packet.type == Type.PUBACK:
                        self.acknowledged += len(packet.packet_ids)
                if self.acknowledged >= 1000:
                    self.enough.set()
            sending.join()

    def _send(self, client: Any, numbers: range) -> None:
        with contextlib.suppress(OSError):
            for start in range(0, len(numbers), 100):
                some = numbers[start : start + 100]
                payloads = [b"%d" % number for number in some]
                client.send(packets.publishes(self._topic, payloads, 1, [number + 1 for number in some]))

    def join(self) -> int:
        self._thread.join()
        return self.acknowledged


class RestartTests(SynchronousTestCase):
    """Kill -9, and what is left."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(directory.cleanup)
        self.data = Path(directory.name) / "data"
        self.gateway = self.start()

    def start(self) -> RunningGateway:
        gateway = RunningGateway(self.data, config="[history]\nmessages = 50000\n")
        self.addCleanup(gateway.clean_up)
        return gateway.start()

    def queue(self, token: str, verb: str, body: dict[str, object], queue: str = "jobs") -> Any:
        status, answer = self.gateway.request("POST", f"/api/v1/queues/{queue}/messages{verb}", body, token)
        self.assertIn(status, (200, 201), answer)
        return answer

    def test_everything_killed(self) -> None:
        """Acknowledged messages, sent queue messages, keys and tokens are there after both processes were killed."""
        gateway = self.gateway
        key = gateway.key("ann")
        token = gateway.request("POST", "/token/", {"api_key": key})[1]["token"]
        revoked = gateway.token("ann")
        self.assertEqual(gateway.request("POST", "/token/revoke", {"token": revoked})[0], 200)
        published = []
        with gateway.mqtt_client(token) as client:
            for number in range(60):
                published.append(f"message {number}")
                if number % 2:
                    client.publish("t", published[-1].encode(), 1)
                else:
                    body = {"topic": "t", "message": published[-1]}
                    status, answer = gateway.request("POST", "/api/v1/publish", body, token)
                    self.assertEqual(status, 200, answer)
                if number == 30:
                    middle = answer["id"]
        for number in range(10):
            self.queue(token, "", {"body": f"job {number}"})
        deleted = self.queue(token, "/receive", {"max": 3, "visibility": 600})["messages"]
        for message in deleted:
            path = f"/api/v1/queues/jobs/messages/{message['receipt']}"
            self.assertEqual(gateway.request("DELETE", path, token=token)[0], 204)
        under_way = self.queue(token, "/receive", {"max": 2, "visibility": 600})["messages"]

        gateway.kill()
        self.gateway = gateway = self.start()

        with gateway.events(token, "t", last="earliest") as stream:
            # Nothing twice: behind the last one comes what is published now, with the key made before.
            again = gateway.request("POST", "/token/", {"api_key": key})[1]["token"]
            gateway.request("POST", "/api/v1/publish", {"topic": "t", "message": "new"}, again)
            published.append("new")
            self.assertEqual(texts(stream, 61), published)
        with gateway.events(token, "t", last=middle) as stream:
            self.assertEqual(texts(stream, 30), published[31:])
        self.assertEqual(gateway.request("GET", "/api/v1/queues/jobs", token=revoked)[0], 401)
        # A receipt from before is good, and what was in flight comes back when its receiver says so.
        path = f"/api/v1/queues/jobs/messages/{under_way[0]['receipt']}"
        self.assertEqual(gateway.request("DELETE", path, token=token)[0], 204)
        path = f"/api/v1/queues/jobs/messages/{under_way[1]['receipt']}"
        self.assertEqual(gateway.request("PATCH", path, {"visibility": 0}, token=token)[0], 204)
        left: list[str] = []
        while found := self.queue(token, "/receive", {"max": 10, "wait": 2, "visibility": 600})["messages"]:
            left += [message["body"] for message in found]
        gone = {message["body"] for message in [*deleted, under_way[0]]}
        self.assertEqual(sorted(left), sorted({f"job {number}" for number in range(10)} - gone))

    def test_killed_while_publishing(self) -> None:
        """Killed in the middle of a stream of QoS 1 messages: every acknowledged one is there, in order, once."""
        token = self.gateway.token("ann")
        publishing = Acknowledgements(self.gateway, token, "t", 40_000)
        self.assertTrue(publishing.enough.wait(20))
        self.gateway.kill()
        acknowledged = publishing.join()
        self.assertGreaterEqual(acknowledged, 1000)
        self.gateway = self.start()
        numbers: list[int] = []
        page: Any = {"next": "earliest", "messages": [{}]}
        while page["messages"]:
            path = f"/api/v1/topics/t/messages?limit=1000&since={page['next']}"
            page = self.gateway.request("GET", path, token=token)[1]
            numbers += [int(message["data"]) for message in page["messages"]]
        # A few more than were acknowledged may have been stored.
        self.assertEqual(numbers, list(range(len(numbers))))
        self.assertGreaterEqual(len(numbers), acknowledged)

    def test_gateway_killed(self) -> None:
        """A gateway that is killed leaves no nats-server behind, and a new one starts at once."""
        token = self.gateway.token("ann")
        self.assertEqual(self.gateway.request("POST", "/api/v1/publish", {"topic": "t", "message": "x"}, token)[0], 200)
        old = self.gateway.children()
        self.assertEqual(len(old), 1)
        self.gateway.kill_gateway()
        self.gateway = self.start()  # does not wait for the old nats-server's end
        until(lambda: not set(old) & set(self.gateway.children()), "the old nats-server is gone")
        with self.gateway.events(token, "t", last="earliest") as stream:
            self.assertEqual(texts(stream, 1), ["x"])
        new = self.gateway
        new.kill_gateway()
        until(lambda: not new.children(), "nats-server ends with its gateway", 5)

    def test_bus_killed(self) -> None:
        """While nats-server is away the gateway lives: 503 for what needs it, live messages go on, streams resume."""
        gateway, token = self.gateway, self.gateway.token("ann")
        process = gateway.process
        assert process is not None
        with (
            gateway.events(token, "t/#") as stream,
            gateway.mqtt_client(token) as mqtt,
            gateway.mqtt_client(token) as publisher,
            gateway.websocket(token) as websocket,
            gateway.websocket(token) as reader,
        ):
            mqtt.subscribe("t/#")
            websocket.subscribe("t/#")
            reader.subscribe("t/#", since="earliest")
            stored: list[str] = []

            def publish() -> tuple[int, Any]:
                message = f"stored {len(stored)}"
                body = {"topic": "t/stored", "message": message}
                # With a key: what was stored although the answer was lost must not be there twice.
                status, answer = gateway.request(
                    "POST", "/api/v1/publish", body, token, {"Idempotency-Key": f"key-{len(stored)}"}
                )
                self.assertIn(status, (200, 503), answer)
                if status == 200:
                    stored.append(message)
                return status, answer

            for _ in range(10):
                self.assertEqual(publish()[0], 200)
            refused, live = 0, 0
            for _ in range(3):
                gateway.kill_bus()
                away = False
                while True:
                    ready, problem = gateway.request("GET", "/readyz")
                    if ready == 200 and away:
                        break
                    if ready == 503:
                        away = True
                        self.assertEqual(problem["code"], "bus_unavailable")
                        self.assertEqual(gateway.request("GET", "/healthz")[0], 200)
                        status, answer = publish()
                        if status == 503:
                            refused += 1
                            self.assertEqual(answer["code"], "bus_unavailable")
                        publisher.publish("t/live", b"live %d" % live)
                        live += 1
                until(lambda: publish()[0] == 200, "publishing works again")
            self.assertGreater(refused, 0)
            self.assertEqual(process.poll(), None, gateway.log())
            publish()
            publisher.publish("t/live", b"live end", 1)

            lives = [*(f"live {number}" for number in range(live)), "live end"]

            def until_end(more: Any) -> list[str]:
                seen: list[str] = []
                while not seen or seen[-1] != "live end":
                    seen.append(more())
                return seen

            seen_by = {
                "SSE": until_end(lambda: texts(stream, 1)[0]),
                "MQTT": until_end(lambda: mqtt.receive(1)[0][1].decode()),
                "WebSocket": until_end(lambda: websocket.frame()["data"]),
                "WebSocket since": until_end(lambda: reader.frame()["data"]),
            }
            for who, seen in seen_by.items():
                self.assertEqual([text for text in seen if "stored" in text], stored, who)
                seen_live = [text for text in seen if "live" in text]
                if who in ("MQTT", "WebSocket"):
                    self.assertEqual(seen_live, lives, who)
                else:
                    # What was not acknowledged and on its way into history at the kill, readers of history may miss, or
                    # get from there later than what came to them directly meanwhile; nothing comes twice.
                    self.assertEqual(len(seen_live), len(set(seen_live)), who)
                    self.assertLessEqual(set(seen_live), set(lives), who)
                    self.assertGreater(len(seen_live), len(lives) - 20, who)
        with gateway.events(token, "t/stored", last="earliest") as again:
            self.assertEqual(texts(again, len(stored)), stored)
