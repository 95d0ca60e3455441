"""Bad input on every protocol costs its sender an error or its connection, and nobody else anything."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from contextlib import ExitStack
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed

from tests.integration.gateway import PATIENCE, MqttClient, MqttRefused, RunningGateway, WebSocketClient, read_to_end
from tests.test_http_wire import REFUSED

CONFIG = "[limits]\nconnect_seconds = 1\n"

TLS_HELLO = bytes.fromhex("16030100a5010000a1030320") + bytes(157)

OPCODES = {"continuation": 0, "text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}


def frame(opcode: str | int, payload: bytes = b"", fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    """A WebSocket frame as a client sends it, or should not."""
    first = (0x80 if fin else 0) | reserved << 4 | (OPCODES[opcode] if isinstance(opcode, str) else opcode)
    size, flag = len(payload), 0x80 if mask else 0
    if size < 126:
        head = struct.pack(">BB", first, flag | size)
    elif size < 65536:
        head = struct.pack(">BBH", first, flag | 126, size)
    else:
        head = struct.pack(">BBQ", first, flag | 127, size)
    if not mask:
        return head + payload
    return head + bytes(4) + payload


def packet(first: int, body: bytes) -> bytes:
    """An MQTT packet."""
    size, length = len(body), b""
    while True:
        size, rest = divmod(size, 128)
        length += bytes([rest | 0x80 if size else rest])
        if not size:
            return bytes([first]) + length + body


def text(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


class BadInputTests(SynchronousTestCase):
    """A neighbour on every protocol receives on, whatever another client sends."""

    def setUp(self) -> None:
        self.gateway = RunningGateway(config=CONFIG)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.token = self.gateway.token("ann")
        self.neighbour = self.gateway.token("bob")
        self.watcher = self.stack.enter_context(self.gateway.mqtt_client(self.token))
        self.watcher.subscribe("#")
        self.events = self.stack.enter_context(self.gateway.events(self.neighbour, "t"))
        self.mqtt = self.stack.enter_context(self.gateway.mqtt_client(self.neighbour))
        self.mqtt.subscribe("t")
        self.websocket = self.stack.enter_context(self.gateway.websocket(self.neighbour))
        self.websocket.subscribe("t")
        self.count = 0

    def assert_neighbours(self, after: str) -> None:
        """All neighbours get the next message, and the log has nothing that it should not have."""
        self.count += 1
        message = f"after {self.count}"
        body = {"topic": "t", "message": message}
        self.assertEqual(self.gateway.request("POST", "/api/v1/publish", body, self.neighbour)[0], 200, after)
        self.assertEqual(self.events.receive(1)[0]["data"]["data"], message, after)
        self.assertEqual(self.mqtt.receive(1)[0][1], message.encode(), after)
        self.assertEqual(self.websocket.frame()["data"], message, after)

    def assert_log(self) -> None:
        log = self.gateway.log()
        for unwanted in ("Traceback", "Unhandled", "CRITICAL", self.token, self.neighbour, "smuggled"):
            self.assertNotIn(unwanted, log)

    # -- HTTP

    def raw_status(self, data: bytes) -> int:
        """The status of the first answer to ``data``; 0 if the connection is closed without one."""
        with self.gateway.raw(self.gateway.http) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            try:
                answer = connection.recv(65536)
            except ConnectionError:
                answer = b""
        return int(answer.split()[1]) if answer else 0

    def test_http_bytes(self) -> None:
        """Bytes that are no request are answered with 400 or by closing, and slow ones are given up in time."""
        head = f"Host: x\r\nAuthorization: Bearer {self.token}\r\n".encode()
        cases: dict[str, tuple[bytes, set[int]]] = {
            "garbage": (bytes(range(128, 256)) + b"\r\n\r\n", {0, 400}),
            "zeros": (bytes(100_000), {0, 400}),
            "TLS": (TLS_HELLO + b"\r\n\r\n", {0, 400}),
            "MQTT": (packet(0x10, text(b"MQTT") + b"\x04\x02\x00\x00" + text(b"")) + b"\r\n\r\n", {0, 400}),
            "one word": (b"GET\r\n\r\n", {0, 400}),
            "HTTP/0.9": (b"GET /healthz\r\n\r\n", {0, 400}),
            "other version": (b"GET /healthz HTTP/9.9\r\n" + head + b"\r\n", {0, 400, 505}),
            "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {0, 400, 505}),
            "four words": (b"GET / x HTTP/1.1\r\n" + head + b"\r\n", {0, 400}),
            "header without colon": (b"GET /healthz HTTP/1.1\r\n" + head + b"nothing\r\n\r\n", {0, 400}),
            "HTTP/0.9 with a version": (b"GET /healthz HTTP/0.9\r\n" + head + b"\r\n", {505}),
            "no Host": (b"GET /healthz HTTP/1.1\r\n\r\n", {400}),
            "two Hosts": (b"GET /healthz HTTP/1.1\r\n" + head + b"Host: x\r\n\r\n", {400}),
            "folded header": (b"GET /healthz HTTP/1.1\r\n" + head + b"A: b\r\n c\r\n\r\n", {400}),
            "LF alone": (b"GET /healthz HTTP/1.1\nHost: x\n\n", {400}),
            "control character": (b"GET /healthz HTTP/1.1\r\n" + head + b"A: \x01\r\n\r\n", {400}),
            "fragment": (b"GET /healthz#a HTTP/1.1\r\n" + head + b"\r\n", {400}),
            "small letters": (b"get /healthz HTTP/1.1\r\n" + head + b"\r\n", {405}),
            "everything": (b"OPTIONS * HTTP/1.1\r\n" + head + b"\r\n", {204}),
            "header of nothing": (b"GET /healthz HTTP/1.1\r\n" + head + b": x\r\n\r\n", {0, 400}),
            "space before colon": (b"GET /healthz HTTP/1.1\r\n" + head + b"A : x\r\n\r\n", {0, 400}),
            "NUL in a header": (b"GET /healthz HTTP/1.1\r\n" + head + b"A: x\0y\r\n\r\n", {0, 400}),
            "long line": (b"GET /" + b"a" * 100_000, {414}),
            "long header": (b"GET /healthz HTTP/1.1\r\n" + head + b"A: " + b"a" * 1_000_000, {431}),
            "endless headers": (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 100_000, {431}),
            "unknown method": (b"BREW / HTTP/1.1\r\n" + head + b"\r\n", {405}),
            "strange method": (b"G@T / HTTP/1.1\r\n" + head + b"\r\n", {0, 400, 405}),
            "path not UTF-8": (b"GET /api/v1/topics/\xff/messages HTTP/1.1\r\n" + head + b"\r\n", {400}),
            "escaped not UTF-8": (b"GET /api/v1/topics/%ff/messages HTTP/1.1\r\n" + head + b"\r\n", {400}),
            "bad escape": (b"GET /api/v1/topics/%zz/messages HTTP/1.1\r\n" + head + b"\r\n", {200, 400}),
            "NUL in a path": (b"GET /api/v1/topics/%00/messages HTTP/1.1\r\n" + head + b"\r\n", {400}),
            "query not UTF-8": (b"GET /api/v1/subscribe?topic=%ff HTTP/1.1\r\n" + head + b"\r\n", {400}),
            "host not UTF-8": (b"GET /nowhere HTTP/1.1\r\nHost: \xff\r\n\r\n", {0, 400, 404}),
            "absolute": (b"GET http://other.example/healthz HTTP/1.1\r\n" + head + b"\r\n", {0, 200, 400, 404}),
            "asterisk": (b"GET * HTTP/1.1\r\n" + head + b"\r\n", {0, 400, 404, 405}),
            "CONNECT": (b"CONNECT x:1 HTTP/1.1\r\n" + head + b"\r\n", {0, 400, 405}),
            "two tokens": (b"GET /api/v1/subscribe?topic=t HTTP/1.1\r\n" + head + head + b"\r\n", {400}),
            "token twice": (b"GET /api/v1/subscribe?topic=t&token=x HTTP/1.1\r\n" + head + b"\r\n", {400}),
            "upgrade to nothing": (
                b"GET /healthz HTTP/1.1\r\n" + head + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
                {200, 400},
            ),
        }
        for name, (data, expected) in cases.items():
            status = self.raw_status(data)
            self.assertIn(status, expected, f"{name}: {status}")
            self.assert_neighbours(name)
        self.assert_log()

    def test_slow(self) -> None:
        """Half requests of every protocol are given up after connect_seconds, also if a byte comes now and then."""
        publish = f"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n".encode()
        handshake = f"GET /ws?token={self.token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n".encode()
        halves = {
            "HTTP nothing": (self.gateway.http, b""),
            "HTTP line": (self.gateway.http, b"GET /healthz HT"),
            "HTTP headers": (self.gateway.http, publish),
            "HTTP body": (self.gateway.http, publish + b"Content-Length: 50\r\n\r\n{"),
            "WebSocket": (self.gateway.http, handshake),
            "MQTT nothing": (self.gateway.mqtt, b""),
            "MQTT CONNECT": (self.gateway.mqtt, b"\x10\x7f\x00\x04MQ"),
            "MQTT length": (self.gateway.mqtt, b"\x10\xff"),
        }
        connections = {
            name: self.stack.enter_context(self.gateway.raw(port, data)) for name, (port, data) in halves.items()
        }
        deadline = time.monotonic() + PATIENCE
        drips = {name: b"a" if "HTTP" in name or name == "WebSocket" else b"" for name in halves}
        while connections:
            for name, connection in list(connections.items()):
                self.assertLess(time.monotonic(), deadline, f"still open: {list(connections)}")
                connection.settimeout(0.05)
                try:
                    # A body is allowed more time, for its size; whatever is answered, the end comes.
                    while connection.recv(65536):
                        pass
                    del connections[name]
                except TimeoutError:
                    try:
                        connection.sendall(drips[name])
                    except ConnectionError:
                        del connections[name]
                except ConnectionError:
                    del connections[name]
        self.assert_neighbours("slow")
        self.assert_log()

    def test_http_smuggling(self) -> None:
        """A request whose length is in doubt is refused and ends its connection: nothing behind it is carried out."""
        hidden_body = b'{"topic":"smuggled","message":"smuggled"}'
        head = f"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n".encode()
        hidden = head + b"Content-Length: %d\r\n\r\n" % len(hidden_body) + hidden_body
        chunked = b"Transfer-Encoding: chunked\r\n"
        cases = {
            "CL and TE": b"Content-Length: 5\r\n" + chunked + b"\r\n0\r\n\r\n",
            "TE and CL": chunked + b"Content-Length: 4\r\n\r\n0\r\n\r\n",
            "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(hidden),
            "list of lengths": b"Content-Length: 0, %d\r\n\r\n" % len(hidden),
            "same lengths": b"Content-Length: 2, 2\r\n\r\n{}",
            "signed length": b"Content-Length: +0\r\n\r\n",
            "negative length": b"Content-Length: -1\r\n\r\n",
            "hexadecimal length": b"Content-Length: 0x0\r\n\r\n",
            "length with low lines": b"Content-Length: 0_0\r\n\r\n",
            "other digits": "Content-Length: \u0660\r\n\r\n".encode(),
            "empty length": b"Content-Length:\r\n\r\n",
            "huge length": b"Content-Length: 99999999999999999999\r\n\r\n",
            "space before the colon": b"Content-Length : 0\r\n\r\n",
            "unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "chunked twice": chunked + chunked + b"\r\n0\r\n\r\n",
            "chunked and more": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "vertical tab": b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            "negative chunk": chunked + b"\r\n-1\r\n\r\n",
            "prefixed chunk": chunked + b"\r\n0x0\r\n\r\n",
            "chunk with low lines": chunked + b"\r\n0_0\r\n\r\n",
            "chunk not ended": chunked + b"\r\n1\r\n{XX0\r\n\r\n",
            "long chunk length": chunked + b"\r\n" + b"0" * 5000 + b"\r\n\r\n",
            "endless extension": chunked + b"\r\n0;" + b"a" * 100_000 + b"\r\n\r\n",
            "endless trailer": chunked + b"\r\n0\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
        }
        streams = {name: head + rest for name, rest in cases.items()}
        # The table of test_http_wire, but for what only its small bounds refuse.
        streams |= {f"{name} (wire)": data for name, (status, data) in REFUSED.items() if status in (400, 501, 505)}
        for name, data in streams.items():
            with self.gateway.raw(self.gateway.http) as connection:
                with contextlib.suppress(OSError):
                    connection.sendall(data + hidden)
                    connection.shutdown(socket.SHUT_WR)
                answers = read_to_end(connection)
            statuses = {int(part.split()[0]) for part in answers.split(b"HTTP/1.1 ")[1:] if part[:1].isdigit()}
            self.assertFalse(statuses & {200}, (name, answers[:300]))
        self.assert_neighbours("smuggling")
        body = {"topic": "end", "message": "end"}
        self.assertEqual(self.gateway.request("POST", "/api/v1/publish", body, self.token)[0], 200)
        self.assertEqual(self.watcher.receive(1)[0][:2], ("end", b"end"))
        self.assert_log()

    def test_http_requests(self) -> None:
        """Requests of a wrong shape are answered with the status and code that say what is wrong."""
        publish, queue = "/api/v1/publish", "/api/v1/queues/q/messages"
        big = "x" * (256 * 1024)
        json_cases: list[tuple[str, object, int, str]] = [
            (publish, b"", 400, "invalid_json"),
            (publish, b"{", 400, "invalid_json"),
            (publish, b'{"topic":"a","message":"b"', 400, "invalid_json"),
            (publish, b'{"topic":"a","message":"b"}}', 400, "invalid_json"),
            (publish, b'{"topic":"a","message":NaN}', 400, "invalid_json"),
            (publish, b'{"topic":"a","message":"\xff"}', 400, "invalid_json"),
            (publish, b'{"topic":"a","message":"\\ud800"}', 400, "invalid_json"),
            (publish, b"\xff\xfe{\x00}\x00", 400, "invalid_json"),
            (publish, b"[" * 100_000, 400, "invalid_json"),
            (publish, b'{"topic":"a","message":' + b"[" * 600 + b"]" * 600 + b"}", 400, "invalid_parameter"),
            (publish, [], 400, "invalid_json"),
            (publish, "text", 400, "invalid_json"),
            (publish, 5, 400, "invalid_json"),
            (publish, {}, 400, "missing_field"),
            (publish, {"topic": "a"}, 400, "missing_field"),
            (publish, {"message": "a"}, 400, "missing_field"),
            (publish, {"topic": 5, "message": ""}, 400, "invalid_parameter"),
            (publish, {"topic": None, "message": ""}, 400, "invalid_parameter"),
            (publish, {"topic": ["a"], "message": ""}, 400, "invalid_parameter"),
            (publish, {"topic": "", "message": ""}, 400, "invalid_topic"),
            (publish, {"topic": "a\0b", "message": ""}, 400, "invalid_topic"),
            (publish, {"topic": "a/#", "message": ""}, 400, "invalid_topic"),
            (publish, {"topic": "a+", "message": ""}, 400, "invalid_topic"),
            (publish, {"topic": "x" * 513, "message": ""}, 400, "invalid_topic"),
            (publish, {"topic": "é" * 257, "message": ""}, 400, "invalid_topic"),
            (publish, {"topic": "a", "message": "", "mesage": 1}, 400, "invalid_parameter"),
            (publish, {"topic": "a", "message": "", "ttl": "5"}, 400, "invalid_parameter"),
            (publish, {"topic": "a", "message": "", "ttl": True}, 400, "invalid_parameter"),
            (publish, {"topic": "a", "message": "", "ttl": 0}, 400, "invalid_parameter"),
            (publish, {"topic": "a", "message": "", "ttl": 1.5}, 400, "invalid_parameter"),
            (publish, {"topic": "a", "message": "", "ttl": 2**70}, 400, "invalid_parameter"),
            (publish, {"topic": "a", "message": "", "retain": "yes"}, 400, "invalid_parameter"),
            (publish, {"topic": "a", "message": big + "x"}, 413, "message_too_large"),
            (publish, b" " * (9 * 1024 * 1024), 413, "message_too_large"),
            (publish + "/batch", {}, 400, "missing_field"),
            (publish + "/batch", {"messages": []}, 400, "invalid_parameter"),
            (publish + "/batch", {"messages": {}}, 400, "invalid_parameter"),
            (publish + "/batch", {"messages": [1]}, 400, "invalid_parameter"),
            (publish + "/batch", {"messages": [{"topic": "a", "message": ""}] * 1001}, 400, "invalid_parameter"),
            (publish + "/batch", {"messages": [{"topic": "a", "message": ""}, {}]}, 400, "missing_field"),
            (queue, {}, 400, "missing_field"),
            (queue, {"body": 5}, 400, "invalid_parameter"),
            (queue, {"body": "a", "attributes": []}, 400, "invalid_parameter"),
            (queue, {"body": "a", "delai": 5}, 400, "invalid_parameter"),
            (queue, {"body": "x" * (1024 * 1024 + 1)}, 413, "message_too_large"),
            ("/api/v1/queues/a%20b/messages", {"body": "x"}, 400, "invalid_parameter"),
            (f"/api/v1/queues/{'x' * 81}/messages", {"body": "x"}, 400, "invalid_parameter"),
            (queue + "/receive", {"max": 0}, 400, "invalid_parameter"),
            (queue + "/receive", {"max": 11}, 400, "invalid_parameter"),
            (queue + "/receive", {"max": "1"}, 400, "invalid_parameter"),
            (queue + "/receive", {"wait": -1}, 400, "invalid_parameter"),
            (queue + "/receive", {"visibility": 43201}, 400, "invalid_parameter"),
        ]
        for path, body, status, code in json_cases:
            found, problem = self.gateway.request("POST", path, body, self.token)
            self.assertEqual((found, problem.get("code")), (status, code), (path, str(body)[:80]))
            self.assertEqual(problem["status"], status)
        self.assert_neighbours("JSON")
        topics = "/api/v1/topics/t/messages"
        others: list[tuple[str, str, int, str]] = [
            ("GET", "/api/v1/subscribe", 400, "missing_field"),
            ("GET", "/api/v1/subscribe?topic=", 400, "invalid_topic"),
            ("GET", "/api/v1/subscribe?topic=a%23", 400, "invalid_topic"),
            ("GET", "/api/v1/subscribe?topic=a%2B", 400, "invalid_topic"),
            ("GET", "/api/v1/subscribe?topic=%23/a", 400, "invalid_topic"),
            ("GET", "/api/v1/subscribe?topic=a&topik=b", 400, "invalid_parameter"),
            ("GET", "/api/v1/subscribe?topic=a&last_event_id=5", 400, "invalid_parameter"),
            ("GET", "/api/v1/subscribe?" + "topic=a/b%d&" * 101 % tuple(range(101)), 400, "invalid_parameter"),
            ("GET", topics + "?limit=0", 400, "invalid_parameter"),
            ("GET", topics + "?limit=1001", 400, "invalid_parameter"),
            ("GET", topics + "?limit=1&limit=2", 400, "invalid_parameter"),
            ("GET", topics + "?limit=%D9%A1", 400, "invalid_parameter"),
            ("GET", topics + "?since=now", 400, "invalid_parameter"),
            ("GET", topics + "?since=a-" + "9" * 5000, 400, "invalid_parameter"),
            ("GET", topics + "?sinze=now", 400, "invalid_parameter"),
            ("GET", "/api/v1/publish", 405, "method_not_allowed"),
            ("DELETE", "/api/v1/subscribe", 405, "method_not_allowed"),
            ("GET", "/nowhere", 404, "not_found"),
            ("GET", "/api/v1/../../etc/passwd", 404, "not_found"),
            ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "not_found"),
            ("GET", "/api/v1/queues/none", 404, "not_found"),
            ("DELETE", "/api/v1/queues/none/messages/x", 404, "not_found"),
            ("DELETE", "/api/v1/queues/q/messages/never-issued", 400, "receipt_invalid"),
        ]
        self.assertEqual(self.gateway.request("PUT", "/api/v1/queues/q", {}, token=self.token)[0], 201)
        for method, path, status, code in others:
            found, problem = self.gateway.request(method, path, token=self.token)
            self.assertEqual((found, problem.get("code")), (status, code), (method, path[:80]))
        for media in ("text/html", "application/x-www-form-urlencoded", "application/jsonp", "json"):
            headers = {"Content-Type": media}
            found, problem = self.gateway.request("POST", publish, b"{}", self.token, headers)
            self.assertEqual((found, problem["code"]), (415, "unsupported_media_type"), media)
        for key in ("", "x" * 256, "\x01", "é"):
            body = {"topic": "t", "message": "t"}
            found, problem = self.gateway.request("POST", publish, body, self.token, {"Idempotency-Key": key})
            self.assertEqual((found, problem.get("code")), (400, "invalid_parameter"), key)
        for body in ({}, {"api_key": 5}, {"api_key": "x", "more": 1}, {"api_key": "x" * 100_000}, [], b"\xff"):
            found, problem = self.gateway.request("POST", "/token/", body)
            self.assertIn(found, (400, 401), body)
            self.assertIn(problem["error"], ("invalid_request", "invalid_client"))
        self.assert_neighbours("requests")
        self.assert_log()

    # -- WebSocket

    def upgraded(self) -> socket.socket:
        """A WebSocket connection without a client library."""
        head = (
            f"GET /ws?token={self.token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        connection = self.stack.enter_context(self.gateway.raw(self.gateway.http, head.encode()))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1)
        self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer)
        return connection

    def test_websocket_handshake(self) -> None:
        """A handshake that is none is answered with a status of HTTP."""
        good = {
            "Host": "x",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        changes: list[tuple[dict[str, str | None], set[int]]] = [
            ({}, {101}),
            ({"Upgrade": None}, {400, 426}),
            ({"Upgrade": "other"}, {400, 426}),
            ({"Connection": None}, {400, 426}),
            ({"Sec-WebSocket-Version": None}, {400, 426}),
            ({"Sec-WebSocket-Version": "12"}, {400, 426}),
            ({"Sec-WebSocket-Version": "x"}, {400, 426}),
            ({"Sec-WebSocket-Key": None}, {400}),
            ({"Sec-WebSocket-Key": "short"}, {400}),
            ({"Host": None}, {400}),
            ({"Host": "x:port"}, {101, 400}),
            ({"Sec-WebSocket-Protocol": "a,a"}, {101, 400}),
            ({"Sec-WebSocket-Protocol": "mqtt"}, {101, 400}),
            ({"Sec-WebSocket-Extensions": "permessage-deflate; x=\x01"}, {101, 400}),
            ({"Origin": "\x01"}, {101, 400, 403}),
            ({"Content-Length": "5"}, {0, 101, 400}),
        ]
        for method in ("POST", "PUT", "HEAD"):
            head = f"{method} /ws?token={self.token} HTTP/1.1\r\n"
            data = head + "".join(f"{name}: {value}\r\n" for name, value in good.items()) + "\r\n"
            self.assertIn(self.raw_status(data.encode()), {400, 405, 426}, method)
        for change, expected in changes:
            headers = {name: value for name, value in {**good, **change}.items() if value is not None}
            data = f"GET /ws?token={self.token} HTTP/1.1\r\n"
            data += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
            self.assertIn(self.raw_status(data.encode()), expected, change)
        for query in ("", "?token=", "?token=%ff", "?token=a&token=b", "?t=%"):
            data = f"GET /ws{query} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in good.items()) + "\r\n"
            self.assertIn(self.raw_status(data.encode()), {400, 401}, query)
        self.assert_neighbours("handshakes")
        self.assert_log()

    def test_websocket_frames(self) -> None:
        """Frames that break RFC 6455 close their connection with the code that says why."""
        good = json.dumps({"action": "ping"}).encode()
        cases: dict[str, tuple[bytes, set[int]]] = {
            "not masked": (frame("text", good, mask=False), {1002}),
            "reserved bit": (frame("text", good, reserved=4), {1002}),
            "other reserved bits": (frame("text", good, reserved=3), {1002}),
            "unknown opcode": (frame(3, good), {1002}),
            "unknown control": (frame(11, b""), {1002}),
            "fragmented control": (frame("ping", b"", fin=False), {1002}),
            "long control": (frame("ping", b"x" * 126), {1002}),
            "continuation of nothing": (frame("continuation", good), {1002}),
            "text inside of a message": (frame("text", b"{", fin=False) + frame("text", good), {1002}),
            "binary": (frame("binary", good), {1003}),
            "empty binary": (frame("binary"), {1003}),
            "fragmented binary": (frame("binary", b"x", fin=False), {1003}),
            "not UTF-8": (frame("text", b'{"action":"\xff"}'), {1007}),
            "not UTF-8 in parts": (frame("text", b"\xe2\x98", fin=False) + frame("continuation", b"x"), {1007}),
            "surrogate": (frame("text", b'"\xed\xa0\x80"'), {1007}),
            "too large": (frame("text", b" " * (600 * 1024)), {1009}),
            "large in parts": (
                frame("text", b" " * 400_000, fin=False) + frame("continuation", b" " * 400_000),
                {1009},
            ),
            "huge": (b"\x81\xff" + struct.pack(">Q", 1 << 40) + bytes(4), {1009}),
            "beyond the largest": (b"\x81\xff" + struct.pack(">Q", 1 << 63) + bytes(4), {1002, 1009}),
            "longer form than needed": (b"\x81\xfe\x00\x05" + bytes(4) + b"hello", {1002}),
            "close of one byte": (frame("close", b"\x03"), {1002}),
            "close with no code": (frame("close", struct.pack(">H", 999)), {1002}),
            "close with a reserved code": (frame("close", struct.pack(">H", 1005)), {1002}),
            "close not UTF-8": (frame("close", struct.pack(">H", 1000) + b"\xff"), {1002, 1007}),
            "garbage": (b"\xf7" * 64, {1002}),
        }
        for name, (data, expected) in cases.items():
            connection = self.upgraded()
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            # The answer to the closing handshake, so that nobody waits for it.
            connection.settimeout(PATIENCE)
            received = b""
            while len(received) < 4 and (more := connection.recv(1024)):
                received += more
            self.assertEqual(received[:1], b"\x88", name)
            self.assertIn(struct.unpack_from(">H", received, 2)[0], expected, name)
            with contextlib.suppress(ConnectionError):
                connection.sendall(frame("close", received[2:4]))
            read_to_end(connection)
            self.assert_neighbours(name)
        self.assert_log()

    def test_websocket_messages(self) -> None:
        """A frame of a wrong shape is answered with an error that says so, and echoes its id; too many close."""
        big = "x" * (256 * 1024 + 1)
        cases: list[tuple[Any, int, str]] = [
            ("", 400, "invalid_json"),
            ("{", 400, "invalid_json"),
            ("[]", 400, "invalid_json"),
            ("null", 400, "invalid_json"),
            ('{"action":NaN}', 400, "invalid_json"),
            ("[" * 10_000, 400, "invalid_json"),
            ({}, 400, "missing_field"),
            ({"action": 5}, 400, "invalid_parameter"),
            ({"action": "publsh", "topic": "a", "message": ""}, 400, "invalid_parameter"),
            ({"action": "message", "topic": "a", "data": ""}, 400, "invalid_parameter"),
            ({"action": "publish"}, 400, "missing_field"),
            ({"action": "publish", "topic": "a"}, 400, "missing_field"),
            ({"action": "publish", "topic": 5, "message": ""}, 400, "invalid_parameter"),
            ({"action": "publish", "topic": "", "message": ""}, 400, "invalid_topic"),
            ({"action": "publish", "topic": "a/#", "message": ""}, 400, "invalid_topic"),
            ({"action": "publish", "topic": "a\0", "message": ""}, 400, "invalid_topic"),
            ({"action": "publish", "topic": "x" * 513, "message": ""}, 400, "invalid_topic"),
            ({"action": "publish", "topic": "a", "message": "", "qos": 1}, 400, "invalid_parameter"),
            ({"action": "publish", "topic": "a", "message": "", "key": ""}, 400, "invalid_parameter"),
            ({"action": "publish", "topic": "a", "message": "", "key": 5}, 400, "invalid_parameter"),
            ({"action": "publish", "topic": "a", "message": big}, 413, "message_too_large"),
            ({"action": "subscribe"}, 400, "missing_field"),
            ({"action": "subscribe", "topic": "a#"}, 400, "invalid_topic"),
            ({"action": "subscribe", "topic": "a", "since": 5}, 400, "invalid_parameter"),
            ({"action": "subscribe", "topic": "a", "since": "now"}, 400, "invalid_parameter"),
            ({"action": "subscribe", "topic": "a", "meta": 1}, 400, "invalid_parameter"),
            ({"action": "unsubscribe"}, 400, "missing_field"),
            ({"action": "auth"}, 400, "missing_field"),
            ({"action": "auth", "token": "x"}, 401, "invalid_token"),
            ({"action": "auth", "token": "é"}, 401, "invalid_token"),
        ]
        with self.gateway.websocket(self.token) as client:
            for value, status, code in cases:
                name = str(value)[:80]
                client.connection.send(value if isinstance(value, str) else json.dumps(value))
                error = client.frame()
                self.assertEqual((error["action"], error["status"], error["code"]), ("error", status, code), name)
                if isinstance(value, dict):
                    error = client.ask(**value)
                    self.assertEqual((error["status"], error["code"]), (status, code), name)
                self.assertEqual(client.ask(action="ping")["action"], "ack")
                self.assertEqual(client.frame(), {"action": "pong"})
            wrong: object
            for wrong in (None, "", "x" * 129, -1, 1.5, 2**60, True, [], {}):
                client.send(action="ping", id=wrong)
                error = client.frame()
                self.assertEqual((error["code"], "id" in error), ("invalid_parameter", False), wrong)
        self.assert_neighbours("messages")
        client = self.stack.enter_context(self.gateway.websocket(self.token))
        for _ in range(100):
            with contextlib.suppress(ConnectionClosed):
                client.connection.send("{")
        self.assertEqual(self.close_code(client), 4400)
        self.assert_neighbours("many messages")
        self.assert_log()

    def close_code(self, client: WebSocketClient) -> int | None:
        try:
            while True:
                client.connection.recv(PATIENCE)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None

    # -- MQTT

    def test_mqtt_connect(self) -> None:
        """What is no CONNECT of 3.1.1 with a token is closed, where the specification says so after a CONNACK."""
        token = text(self.token.encode())
        rest = b"\x00\x00" + text(b"id") + text(b"Bearer") + token
        level4 = text(b"MQTT") + b"\x04"
        accepted = b"\x20\x02\x00\x00"
        cases: dict[str, tuple[bytes, bytes]] = {
            "garbage": (b"\xf3\xa9" * 40, b""),
            "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
            "TLS": (TLS_HELLO, b""),
            "zeros": (bytes(100), b""),
            "no CONNECT first": (b"\xc0\x00", b""),
            "PUBLISH first": (packet(0x30, text(b"t") + b"x"), b""),
            "SUBSCRIBE first": (packet(0x82, b"\x00\x01" + text(b"#") + b"\x00"), b""),
            "wrong flags": (packet(0x11, level4 + b"\xc2" + rest), b""),
            "empty": (packet(0x10, b""), b""),
            "other name": (packet(0x10, text(b"MQTX") + b"\x04\xc2" + rest), b""),
            "level 3": (packet(0x10, text(b"MQIsdp") + b"\x03\xc2" + rest), b"\x20\x02\x00\x01"),
            "MQTT level 3": (packet(0x10, text(b"MQTT") + b"\x03\xc2" + rest), b"\x20\x02\x00\x01"),
            "MQTT 5": (packet(0x10, text(b"MQTT") + b"\x05\xc2\x00\x00\x00" + rest[2:]), b"\x20\x02\x00\x01"),
            "reserved flag": (packet(0x10, level4 + b"\xc3" + rest), b""),
            "password without user": (packet(0x10, level4 + b"\x42\x00\x00" + text(b"id") + token), b""),
            "will of QoS 3": (packet(0x10, level4 + b"\xde\x00\x00" + text(b"id") + text(b"w") + text(b"")), b""),
            "will flags without a will": (packet(0x10, level4 + b"\xca" + rest), b""),
            "wildcard will": (
                packet(0x10, level4 + b"\xc6\x00\x00" + text(b"id") + text(b"#") + text(b"") + text(b"Bearer") + token),
                b"",
            ),
            "truncated": (packet(0x10, (level4 + b"\xc2" + rest)[:-10]), b""),
            "more behind it": (packet(0x10, level4 + b"\xc2" + rest + b"x"), b""),
            "client id not UTF-8": (packet(0x10, level4 + b"\xc2\x00\x00" + text(b"\xff") + rest[6:]), b""),
            "client id with NUL": (packet(0x10, level4 + b"\xc2\x00\x00" + text(b"a\0") + rest[6:]), b""),
            "no clean session, no id": (
                packet(0x10, level4 + b"\xc0\x00\x00" + text(b"") + rest[6:]),
                b"\x20\x02\x00\x02",
            ),
            "no user": (packet(0x10, level4 + b"\x02\x00\x00" + text(b"id")), b"\x20\x02\x00\x04"),
            "other user": (
                packet(0x10, level4 + b"\xc2\x00\x00" + text(b"id") + text(b"ann") + token),
                b"\x20\x02\x00\x04",
            ),
            "no password": (
                packet(0x10, level4 + b"\x82\x00\x00" + text(b"id") + text(b"Bearer")),
                b"\x20\x02\x00\x04",
            ),
            "length of five bytes": (b"\x10\xff\xff\xff\xff\x01", b""),
            "too long": (b"\x10\xff\xff\xff\x7f", b""),
            "two CONNECTs": (packet(0x10, level4 + b"\xc2" + rest) * 2, accepted),
        }
        for name, (data, answer) in cases.items():
            with self.gateway.raw(self.gateway.mqtt, data) as connection:
                self.assertEqual(read_to_end(connection), answer, name)
            self.assert_neighbours(name)
        self.assert_log()

    def test_mqtt_packets(self) -> None:
        """A malformed packet closes its connection, and what came before it was carried out."""
        cases: dict[str, bytes] = {
            "type 0": b"\x00\x00",
            "type 15": b"\xf0\x00",
            "CONNACK": b"\x20\x02\x00\x00",
            "SUBACK": b"\x90\x03\x00\x01\x00",
            "UNSUBACK": b"\xb0\x02\x00\x01",
            "PINGRESP": b"\xd0\x00",
            "PINGREQ with flags": b"\xc1\x00",
            "PINGREQ with a body": b"\xc0\x01\x00",
            "DISCONNECT with flags": b"\xe1\x00",
            "DISCONNECT with a body": b"\xe0\x01\x00",
            "PUBLISH of QoS 3": packet(0x36, text(b"t") + b"\x00\x01x"),
            "PUBLISH without topic": packet(0x30, text(b"")),
            "PUBLISH of nothing": packet(0x30, b""),
            "PUBLISH with half a topic": packet(0x30, b"\x00\x05ab"),
            "PUBLISH with a wildcard": packet(0x30, text(b"a/#") + b"x"),
            "PUBLISH with +": packet(0x32, text(b"a/+") + b"\x00\x01x"),
            "PUBLISH with NUL": packet(0x30, text(b"a\0b") + b"x"),
            "PUBLISH not UTF-8": packet(0x30, text(b"\xff") + b"x"),
            "PUBLISH surrogate": packet(0x30, text(b"\xed\xa0\x80") + b"x"),
            "PUBLISH long topic": packet(0x30, text(b"a" * 600) + b"x"),
            "PUBLISH with id 0": packet(0x32, text(b"t") + b"\x00\x00x"),
            "PUBLISH without id": packet(0x32, text(b"t")),
            "PUBLISH too large": packet(0x30, text(b"t") + bytes(256 * 1024 + 1)),
            "PUBLISH QoS 1 too large": packet(0x32, text(b"t") + b"\x00\x01" + bytes(256 * 1024 + 1)),
            "PUBLISH far too large": b"\x30\xff\xff\xff\x7f",
            "SUBSCRIBE with flags 0": packet(0x80, b"\x00\x01" + text(b"t") + b"\x00"),
            "SUBSCRIBE without filters": packet(0x82, b"\x00\x01"),
            "SUBSCRIBE without QoS": packet(0x82, b"\x00\x01" + text(b"t")),
            "SUBSCRIBE with QoS 3": packet(0x82, b"\x00\x01" + text(b"t") + b"\x03"),
            "SUBSCRIBE with options": packet(0x82, b"\x00\x01" + text(b"t") + b"\x80"),
            "SUBSCRIBE with id 0": packet(0x82, b"\x00\x00" + text(b"t") + b"\x00"),
            "SUBSCRIBE to nothing": packet(0x82, b"\x00\x01" + text(b"") + b"\x00"),
            "SUBSCRIBE to t#": packet(0x82, b"\x00\x01" + text(b"t#") + b"\x00"),
            "SUBSCRIBE to #/t": packet(0x82, b"\x00\x01" + text(b"#/t") + b"\x00"),
            "SUBSCRIBE to t+": packet(0x82, b"\x00\x01" + text(b"t+") + b"\x00"),
            "SUBSCRIBE with NUL": packet(0x82, b"\x00\x01" + text(b"\0") + b"\x00"),
            "SUBSCRIBE not UTF-8": packet(0x82, b"\x00\x01" + text(b"\xc0\x80") + b"\x00"),
            "UNSUBSCRIBE with flags 0": packet(0xA0, b"\x00\x01" + text(b"t")),
            "UNSUBSCRIBE without filters": packet(0xA2, b"\x00\x01"),
            "UNSUBSCRIBE of nothing": packet(0xA2, b"\x00\x01" + text(b"")),
            "PUBACK with flags": b"\x42\x02\x00\x01",
            "PUBACK short": b"\x40\x01\x00",
            "PUBACK long": b"\x40\x03\x00\x01\x00",
            "PUBACK of id 0": b"\x40\x02\x00\x00",
            "PUBREL with flags 0": b"\x60\x02\x00\x01",
            "PUBREC with flags": b"\x52\x02\x00\x01",
            "length of five bytes": b"\x30\x80\x80\x80\x80\x01",
        }
        for name, data in cases.items():
            with self.gateway.mqtt_client(self.token) as client:
                with contextlib.suppress(ConnectionError):
                    # The PINGREQ between them: the run of PUBLISH packets that the fault is in may be lost.
                    client.send(packet(0x30, text(b"before") + name.encode()) + b"\xc0\x00" + data)
                self.assertTrue(client.closed(), name)
            self.assertEqual(self.watcher.receive(1)[0][:2], ("before", name.encode()), name)
        self.assert_neighbours("packets")
        # What looks odd and is allowed costs nothing.
        with self.gateway.mqtt_client(self.token) as client:
            client.send(b"\x40\x02\x12\x34" + b"\x70\x02\x12\x34")
            client.send(packet(0xA2, b"\x00\x09" + text(b"never subscribed")))
            client.send(packet(0x30, text(b"split"))[:1])
            client.send(packet(0x30, text(b"split"))[1:])
            client.flush()
        self.assertEqual(self.watcher.receive(1)[0][:2], ("split", b""))
        with self.assertRaises(MqttRefused):
            MqttClient(self.gateway.mqtt, "x" * 60_000)
        self.assert_neighbours("the end")
        self.assert_log()
