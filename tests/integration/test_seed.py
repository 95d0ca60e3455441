"""The snippets of the API documentation, word for word but for host, port and token."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
import re

from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import connect

from tests.integration.gateway import PATIENCE, RunningGateway
from tests.integration.programs import Program, find, run

HTTP_PUBLISH = """\
# Publish a message via HTTP
curl -X POST "https://dev.gateway.flow-gate.kingofshiba.xyz/api/v1/publish" \\
  -H "Authorization: Bearer YOUR_JWT_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '{
    "topic": "notifications",
    "message": "Hello World!"
  }'
"""

WEBSOCKET = """\
// Connect to Flow-Gate WebSocket
const ws = new WebSocket('wss://api.flow-gate.com/ws?token=YOUR_JWT_TOKEN');

// Handle connection
ws.onopen = () => {
  console.log('Connected to Flow-Gate');
  \

  // Subscribe to a topic (Short Name)
  ws.send(JSON.stringify({
    action: "subscribe",
    topic: "notifications"
  }));
};

// Handle incoming messages
ws.onmessage = (event) => {
  const data = JSON.parse(event.data);
  // data: { action: "message", topic: "notifications", data: "..." }
  console.log('Received:', data);
};

// Publish a message
function publishMessage(topic, message) {
  ws.send(JSON.stringify({
    action: "publish",
    topic: topic,
    message: message // Can be string or JSON
  }));
} // Note: Server returns no ack for WS publish by default
"""

MQTT_PUBLISH = """\
# Connect via MQTT using mosquitto
mosquitto_pub -h api.flow-gate.com -p 1883 \\
  -u "Bearer" \\
  -P "YOUR_JWT_TOKEN" \\
  -t "notifications" \\
  -m "Hello from MQTT!"
"""

MQTT_SUBSCRIBE = """\
# Subscribe to a topic
mosquitto_sub -h api.flow-gate.com -p 1883 \\
  -u "Bearer" \\
  -P "YOUR_JWT_TOKEN" \\
  -t "notifications"
"""

QUEUE_SEND = """\
# Send a message to a queue
curl -X POST "https://dev.gateway.flow-gate.kingofshiba.xyz/api/v1/queues/myqueue/messages" \\
  -H "Authorization: Bearer YOUR_JWT_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '{
    "body": "Your message content"
  }'
"""

HELLO = {"action": "message", "topic": "notifications"}


class SeedTests(SynchronousTestCase):
    """The documentation that the project was ordered from."""

    def setUp(self) -> None:
        find("curl", "mosquitto_pub", "mosquitto_sub")
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        # Get API Key; Exchange for JWT: POST /token/
        self.key = self.gateway.command("key", "create", "ann", "shop")
        status, answer = self.gateway.request("POST", "/token/", {"api_key": self.key})
        self.assertEqual(status, 200)
        self.token = answer["token"]

    def filled(self, snippet: str) -> str:
        """A snippet with this gateway's addresses and a token in it; nothing else is changed."""
        snippet = re.sub(r"https://[a-z.-]+/", f"http://127.0.0.1:{self.gateway.http}/", snippet)
        snippet = re.sub(r"wss://[a-z.-]+/", f"ws://127.0.0.1:{self.gateway.http}/", snippet)
        snippet = snippet.replace("-h api.flow-gate.com -p 1883", f"-h 127.0.0.1 -p {self.gateway.mqtt}")
        return snippet.replace("YOUR_JWT_TOKEN", self.token)

    def mosquitto_sub(self) -> Program:
        # So that its lines come at once, and what it says of its subscription can be waited for: -d, behind the last
        # word of the snippet.
        program = Program(["stdbuf", "-oL", "sh", "-c", self.filled(MQTT_SUBSCRIBE).rstrip() + " -d"])
        self.addCleanup(program.end)
        program.until(b"received SUBACK")
        return program

    @staticmethod
    def message(subscriber: Program) -> bytes:
        """The next line of mosquitto_sub that is a message."""
        while (line := subscriber.line()).startswith((b"Client ", b"Subscribed ")):
            pass
        return line

    def test_publish_and_subscribe(self) -> None:
        """HTTP publish, WebSocket and MQTT: each snippet's message comes to each subscriber."""
        url = re.search(r"new WebSocket\('([^']+)'\)", self.filled(WEBSOCKET))
        assert url is not None
        subscriber = self.mosquitto_sub()
        with connect(url[1], open_timeout=PATIENCE, close_timeout=1, proxy=None) as websocket:
            websocket.send('{"action":"subscribe","topic":"notifications"}')
            # Its own publish, of a string and of JSON: no acknowledgement comes, only the message.
            for message in ("Hello", {"is": "JSON"}):
                sent = {"action": "publish", "topic": "notifications", "message": message}
                websocket.send(json.dumps(sent, separators=(",", ":")))
                self.assertEqual(json.loads(websocket.recv(PATIENCE)), {**HELLO, "data": message})
            self.assertEqual(self.message(subscriber), b"Hello")
            self.assertEqual(self.message(subscriber), b'{"is":"JSON"}')

            status, output, _ = run(self.filled(HTTP_PUBLISH))
            self.assertEqual(status, 0)
            answer = json.loads(output)
            self.assertEqual((answer["topic"], answer["duplicate"]), ("notifications", False))
            self.assertEqual(json.loads(websocket.recv(PATIENCE)), {**HELLO, "data": "Hello World!"})
            self.assertEqual(self.message(subscriber), b"Hello World!")

            self.assertEqual(run(self.filled(MQTT_PUBLISH))[:2], (0, ""))
            self.assertEqual(json.loads(websocket.recv(PATIENCE)), {**HELLO, "data": "Hello from MQTT!"})
            self.assertEqual(self.message(subscriber), b"Hello from MQTT!")

    def test_full_name(self) -> None:
        """``userid_app_topic`` is the same topic: "when connecting via MQTT you use the full string"."""
        full = self.filled(MQTT_SUBSCRIBE).replace('"notifications"', '"ann_shop_notifications"').rstrip()
        subscriber = Program(["stdbuf", "-oL", "sh", "-c", full + " -v -d"])
        self.addCleanup(subscriber.end)
        subscriber.until(b"received SUBACK")
        self.assertEqual(run(self.filled(HTTP_PUBLISH))[0], 0)
        self.assertEqual(self.message(subscriber), b"ann_shop_notifications Hello World!")
        self.assertEqual(run(self.filled(MQTT_PUBLISH).replace("notif", "ann_shop_notif"))[0], 0)
        self.assertEqual(self.message(subscriber), b"ann_shop_notifications Hello from MQTT!")

    def test_queue(self) -> None:
        """Queue send makes the queue and stores the message."""
        status, output, _ = run(self.filled(QUEUE_SEND))
        self.assertEqual(status, 0)
        answer = json.loads(output)
        self.assertEqual(set(answer), {"id", "md5", "sequence"})
        path = "/api/v1/queues/myqueue/messages/receive"
        status, received = self.gateway.request("POST", path, {"max": 10}, self.token)
        self.assertEqual([message["body"] for message in received["messages"]], ["Your message content"])
        self.assertEqual(received["messages"][0]["id"], answer["id"])

    def test_error_codes(self) -> None:
        """The error codes of the page that are there so far: 400, 401 and 403."""
        with_status = self.filled(HTTP_PUBLISH).replace("curl", "curl -s -o /dev/null -w '%{http_code}'")
        self.assertEqual(run(with_status)[1], "200")
        self.assertEqual(run(with_status.replace('"topic"', '"topik"'))[1], "400")
        self.assertEqual(run(with_status.replace(self.token, self.token[:-3]))[1], "401")
        key = self.gateway.command("key", "create", "ann", "shop", "--publish", "other")
        token = self.gateway.command("token", key)
        self.assertEqual(run(with_status.replace(self.token, token))[1], "403")
