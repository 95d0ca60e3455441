"""HTTP over TCP, TLS and Unix sockets: what in-memory transports do not show."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import Authority
from tests.integration.gateway import PATIENCE, RunningGateway, read_to_end, until

PIECE = "x" * 200_000
PIECES = 30


class ChannelTests(SynchronousTestCase):
    """One gateway that listens on all of them."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(temporary.cleanup)
        directory = Path(temporary.name)
        authority = Authority()
        certificate, key = authority.sign("gateway", host="127.0.0.1").save(directory, "server")
        self.context = ssl.create_default_context(cadata=authority.signed.pem.decode())
        self.unix = str(directory / "http.sock")
        self.gateway = RunningGateway(
            directory / "data",
            options=(
                *("--http", "tcp:0:interface=127.0.0.1"),
                *("--http", f"ssl:0:privateKey={key}:certKey={certificate}:interface=127.0.0.1"),
                *("--http", f"unix:{self.unix}"),
            ),
        )
        self.addCleanup(self.gateway.clean_up)
        self.addCleanup(self.check_log)
        self.token = "no token yet"
        self.gateway.start()
        found = json.loads((directory / "data" / "gateway.json").read_text())["http"]
        self.tls = int(found[1].rpartition(":")[2])
        self.token = self.gateway.token("ann")

    def check_log(self) -> None:
        for unwanted in ("Traceback", "Unhandled", "CRITICAL", self.token):
            self.assertNotIn(unwanted, self.gateway.log())

    def sockets(self) -> Iterator[tuple[str, Any]]:
        """A connection of each kind, with small buffers."""
        for kind in ("tcp", "tls", "unix"):
            connection = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
            connection.settimeout(PATIENCE)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            ports: dict[str, Any] = {"tcp": ("127.0.0.1", self.gateway.http), "tls": ("127.0.0.1", self.tls)}
            connection.connect(ports.get(kind, self.unix))
            if kind == "tls":
                connection = self.context.wrap_socket(connection, server_hostname="127.0.0.1")
            with connection:
                yield kind, connection

    def head(self, line: str) -> bytes:
        return f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n".encode()

    def publish(self, topic: str, message: str) -> bytes:
        body = json.dumps({"topic": topic, "message": message}).encode()
        return self.head("POST /api/v1/publish") + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def answers(self, connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
        """Read so many answers."""
        found: list[tuple[int, bytes]] = []
        data = bytearray()
        while len(found) < count:
            while (end := data.find(b"\r\n\r\n")) < 0:
                data += connection.recv(65536) or self.fail(f"closed after {len(found)} answers")
            head = bytes(data[:end])
            end += 4 + int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            while len(data) < end:
                data += connection.recv(65536) or self.fail(f"closed in answer {len(found) + 1}")
            found.append((int(head.split()[1]), bytes(data[len(head) + 4 : end])))
            del data[:end]
        self.assertEqual(data, b"")
        return found

    def test_pipelined(self) -> None:
        """Publishes that come together are stored in their order and answered in it."""
        for kind, connection in self.sockets():
            requests = [self.publish(kind, str(number)) for number in range(200)]
            connection.sendall(b"".join(requests))
            answers = self.answers(connection, 200)
            self.assertEqual({status for status, _ in answers}, {200})
            places = [int(json.loads(body)["id"].rpartition("-")[2]) for _, body in answers]
            self.assertEqual(places, sorted(places), kind)
            _, page = self.gateway.request("GET", f"/api/v1/topics/{kind}/messages?limit=200", token=self.token)
            self.assertEqual([message["data"] for message in page["messages"]], [str(number) for number in range(200)])

    def test_in_pieces(self) -> None:
        """A request that comes byte by byte is a request."""
        for _, connection in self.sockets():
            for byte in self.publish("pieces", "é"):
                connection.sendall(bytes([byte]))
            self.assertEqual(self.answers(connection, 1)[0][0], 200)

    def test_slow_reader(self) -> None:
        """Large answers reach a client that reads slowly, whole and in order, and others are served meanwhile."""
        for number in range(PIECES):
            self.assertEqual(
                self.gateway.request("POST", "/api/v1/publish", {"topic": "large", "message": PIECE}, self.token)[0],
                200,
                number,
            )
        history = self.head(f"GET /api/v1/topics/large/messages?limit={PIECES}") + b"\r\n"
        for kind, connection in self.sockets():
            connection.sendall(history * 2 + self.publish("behind", kind))
            self.assertEqual(self.gateway.request("GET", "/readyz")[0], 200)
            (_, first), (_, second), (status, _) = self.answers(connection, 3)
            self.assertEqual(first, second)
            self.assertEqual([message["data"] for message in json.loads(first)["messages"]], [PIECE] * PIECES)
            self.assertEqual(status, 200)

    def test_half_closed(self) -> None:
        """A client that ends its side is answered what it has asked for, and then the connection ends."""
        for kind, connection in self.sockets():
            if kind != "tls":  # there is no half of an end there
                connection.sendall(self.publish("half", kind) * 3)
                connection.shutdown(socket.SHUT_WR)
                self.assertEqual(read_to_end(connection).count(b"HTTP/1.1 200 OK"), 3)

    def test_half_closed_stream(self) -> None:
        """A stream of events ends with its client's side."""
        for kind, connection in self.sockets():
            if kind != "tls":
                connection.sendall(self.head("GET /api/v1/subscribe?topic=half") + b"\r\n")
                self.assertIn(b"text/event-stream", connection.recv(65536))
                connection.shutdown(socket.SHUT_WR)
                read_to_end(connection)

    def test_gone(self) -> None:
        """Clients that go without a word leave nothing behind."""

        def streams() -> float:
            return self.gateway.metric("flowgate_connections", protocol="sse")

        before = streams()
        for _, connection in self.sockets():
            connection.sendall(self.head("GET /api/v1/subscribe?topic=gone") + b"\r\n")
            connection.recv(65536)
            self.assertEqual(streams(), before + 1)
            connection.close()
            until(lambda: streams() == before, "the stream has ended")

    def test_continue(self) -> None:
        """A client that asks before it sends is told to go on."""
        body = b'{"topic":"t","message":"m"}'
        for _, connection in self.sockets():
            connection.sendall(
                self.head("POST /api/v1/publish") + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            self.assertEqual(connection.recv(65536), b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.sendall(body)
            self.assertEqual(self.answers(connection, 1)[0][0], 200)
