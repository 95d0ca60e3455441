"""MQTT over WebSocket, as clients of other makers speak it."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
import signal
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Bare, Connack, Connect, Publish, Suback, Type
from tests.certificates import Authority
from tests.integration.gateway import PATIENCE, RunningGateway
from tests.integration.paho_exchange import exchange

LOOPBACK = "tcp:0:interface=127.0.0.1"


class Client:
    """Packets over a connection of the websockets package."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._decoder = packets.Decoder(1 << 24)
        self._waiting: list[Any] = []

    def next(self) -> Any:
        """The next packet; PUBLISH as its payload."""
        while not self._waiting:
            data = self.connection.recv(PATIENCE)
            assert isinstance(data, bytes), "a text frame"
            for packet in self._decoder.feed(data):
                self._waiting += packet.payloads() if isinstance(packet, Publish) else [packet]
        return self._waiting.pop(0)

    def subscribe(self, name: str, qos: int = 0) -> None:
        self.connection.send(packets.subscribe(1, [(name, qos)]))
        answer = self.next()
        assert answer == Suback(1, (qos,)), answer

    def close_code(self) -> int | None:
        """Read until the gateway closes; its code."""
        try:
            while True:
                self.next()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


class _Tests(SynchronousTestCase):
    options: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None

    def setUp(self) -> None:
        self.gateway = RunningGateway(options=self.options)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")
        found = json.loads((self.gateway.data / "gateway.json").read_text())
        self.port = int(found["http"][-1].rpartition(":")[2])

    @contextmanager
    def connected(self, client_id: str = "", **options: Any) -> Iterator[Client]:
        with connect(
            f"{'ws' if self.tls is None else 'wss'}://127.0.0.1:{self.port}/mqtt",
            ssl=self.tls,
            subprotocols=[Subprotocol("mqtt")],
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
            proxy=None,
            max_size=None,
            **options,
        ) as connection:
            self.assertEqual(connection.subprotocol, "mqtt")
            client = Client(connection)
            connection.send(packets.connect(Connect(client_id, user_name="Bearer", password=self.token.encode())))
            self.assertEqual(client.next(), Connack(False, 0))
            yield client

    def slow_subscriber(self) -> None:
        """Publish more than a client that does not read can be kept, then let it read."""
        with self.connected(max_queue=1) as slow, self.connected() as fast:
            for client in (slow, fast):
                client.subscribe("t")
            for number in range(100):
                fast.connection.send(packets.publishes("t", [b"%03d" % number + bytes(200_000)]))
                self.assertEqual(fast.next()[:3], b"%03d" % number)
            slow.connection.send(packets.PINGREQ)
            seen = []
            while not isinstance(found := slow.next(), Bare):
                seen.append(int(found[:3]))
            self.assertEqual(found, Bare(Type.PINGRESP))
            self.assertEqual(seen, sorted(set(seen)))
            self.assertTrue(0 < len(seen) < 100, len(seen))


class PahoTests(_Tests):
    """paho-mqtt with ``transport="websockets"``."""

    def exchange(self) -> None:
        """Publish to oneself at every QoS: small, large and many messages."""
        payloads = [bytes([size % 251]) * size for size in (0, 1, 120, 130, 5000, 70_000, 250_000)]
        exchange(self, self.port, self.token, payloads, keep_alive=2, transport="websockets", tls=self.tls)

    def test_every_qos(self) -> None:
        """Every QoS works in both directions, with payloads of every form of length."""
        self.exchange()
        self.assertNotIn("Traceback", self.gateway.log())


class TlsTests(PahoTests):
    """The same over ``wss://``."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(directory.cleanup)
        authority = Authority()
        certificate, key = authority.sign("gateway", host="127.0.0.1").save(Path(directory.name), "server")
        self.tls = ssl.create_default_context(cadata=authority.signed.pem.decode())
        tls = f"ssl:0:privateKey={key}:certKey={certificate}:interface=127.0.0.1"
        self.options = ("--http", LOOPBACK, "--http", tls)
        super().setUp()

    def test_every_qos(self) -> None:
        """Every QoS works in both directions over TLS, with payloads of every form of length."""
        self.exchange()
        self.assertNotIn("Traceback", self.gateway.log())

    def test_slow_subscriber(self) -> None:
        """A subscriber that does not read loses messages and keeps its connection, over TLS too."""
        self.slow_subscriber()


class FrameTests(_Tests):
    """The websockets package: frames cut as one likes."""

    def test_split(self) -> None:
        """[MQTT-6.0.0-2]: packets over many messages and fragments, and many packets in one frame, all arrive."""
        with self.connected() as client:
            client.subscribe("t")
            wire = packets.publishes("t", [b"a" * 50, b"b" * 5000, b"c"])
            for start in range(0, len(wire), 333):
                client.connection.send(wire[start : start + 333])
            client.connection.send([wire[start : start + 77] for start in range(0, len(wire), 77)])
            client.connection.send(wire + wire)
            for _ in range(4):
                self.assertEqual([client.next()[:1] for _ in range(3)], [b"a", b"b", b"c"])

    def test_large_frame(self) -> None:
        """A frame of many packets may be larger than any packet may be."""
        with self.connected() as client:
            client.subscribe("t")
            client.connection.send(packets.publishes("t", [b"x" * 200_000]) * 20)
            self.assertEqual([len(client.next()) for _ in range(20)], [200_000] * 20)

    def test_large_packet(self) -> None:
        """A packet that is too large closes the connection."""
        with self.connected() as client:
            client.connection.send(packets.publishes("t", [b"x" * 300_000]))
            self.assertEqual(client.close_code(), 1000)

    def test_text(self) -> None:
        """[MQTT-6.0.0-1]: a text frame closes the connection."""
        with self.connected() as client:
            client.connection.send("hello")
            self.assertEqual(client.close_code(), 1003)

    def test_refused(self) -> None:
        """[MQTT-6.0.0-3]: without the subprotocol the answer is 400; with a wrong token CONNACK 4, then the close."""
        url = f"ws://127.0.0.1:{self.gateway.http}/mqtt"
        for offered in (None, [Subprotocol("chat")]):
            refused = self.assertRaises(InvalidStatus, connect, url, subprotocols=offered, proxy=None)
            self.assertEqual(refused.response.status_code, 400)
            self.assertIn(b"mqtt", refused.response.body)
        with connect(url, subprotocols=[Subprotocol("mqtt")], proxy=None) as connection:
            client = Client(connection)
            connection.send(packets.connect(Connect("c", user_name="Bearer", password=b"wrong")))
            self.assertEqual(client.next(), Connack(False, 4))
            self.assertEqual(client.close_code(), 1000)

    def test_both_ways(self) -> None:
        """A client by TCP and one by WebSocket meet, and one takes the other's place."""
        with self.connected("same") as client, self.gateway.mqtt_client(self.token) as other:
            client.subscribe("t", 1)
            other.publish("t", b"by TCP", 1)
            self.assertEqual(client.next(), b"by TCP")
            with self.gateway.mqtt_client(self.token, "same"):
                self.assertEqual(client.close_code(), 1000)

    def test_slow_subscriber(self) -> None:
        """A subscriber that does not read loses messages and keeps its connection; the others get everything."""
        self.slow_subscriber()

    def test_stop(self) -> None:
        """A gateway that stops closes with 1001, and ends."""
        with self.connected() as client:
            assert self.gateway.process is not None
            self.gateway.process.send_signal(signal.SIGTERM)
            self.assertEqual(client.close_code(), 1001)
            self.assertEqual(self.gateway.process.wait(PATIENCE), 0)
        self.assertNotIn("Traceback", self.gateway.log())
