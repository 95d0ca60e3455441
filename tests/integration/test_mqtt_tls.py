"""MQTT over TLS, with and without certificates of clients."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
import signal
import socket
import ssl
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Bare, Connack, Connect, Publish, Type
from tests.certificates import DAY, Authority, Signed
from tests.integration.gateway import PATIENCE, MqttClient, RunningGateway, until
from tests.integration.paho_exchange import exchange
from tests.integration.programs import Program, check_lines, find, run


class _Tests(SynchronousTestCase):
    config = ""
    """Further lines of the configuration; ``{ca}`` stands for the file of the clients' authority."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        authority, self.devices = Authority(), Authority("devices")
        certificate, key = authority.sign("gateway", host="127.0.0.1").save(self.directory, "server")
        self.ca = self.directory / "ca.pem"
        self.ca.write_bytes(authority.signed.pem)
        clients = self.directory / "devices.pem"
        clients.write_bytes(self.devices.signed.pem)
        self.gateway = RunningGateway(
            self.directory / "data",
            self.config.format(ca=clients),
            (
                *("--mqtt", f"ssl:0:privateKey={key}:certKey={certificate}:interface=127.0.0.1"),
                *("--mqtt", "tcp:0:interface=127.0.0.1"),
            ),
        )
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def context(self, shown: Signed | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if shown is not None:
            context.load_cert_chain(*map(str, shown.save(self.directory, "shown")))
        return context

    def mosquitto(self, program: str, *arguments: str, shown: Signed | None = None, token: str = "") -> list[str]:
        command = [program, "-h", "127.0.0.1", "-p", str(self.gateway.mqtt), "--cafile", str(self.ca)]
        if token:
            command += ["-u", "Bearer", "-P", token]
        if shown is not None:
            certificate, key = shown.save(self.directory, "shown")
            command += ["--cert", str(certificate), "--key", str(key)]
        return [*command, *arguments]

    def connect(self, shown: Signed | None = None, token: str | None = None, **options: Any) -> tuple[Any, Any]:
        """Connect; return the connection and the first packet.

        :raises OSError: if the gateway ends the handshake.
        """
        plain = socket.create_connection(("127.0.0.1", self.gateway.mqtt), PATIENCE)
        self.addCleanup(plain.close)
        connection = self.context(shown).wrap_socket(plain, server_hostname="127.0.0.1")
        self.addCleanup(connection.close)
        if token is not None:
            options |= {"user_name": "Bearer", "password": token.encode()}
        connection.sendall(packets.connect(Connect("c", **options)))
        return connection, self.receive(connection)

    def receive(self, connection: ssl.SSLSocket) -> Any:
        """The next packet, or ``None`` if the gateway has closed."""
        data = connection.recv(65536)
        return next(packets.Decoder(1 << 20).feed(data)) if data else None


class TlsTests(_Tests):
    """``--mqtt ssl:…``, with tokens."""

    def test_mosquitto(self) -> None:
        """mosquitto_sub gets what mosquitto_pub publishes at every QoS."""
        find("mosquitto_pub", "mosquitto_sub", "stdbuf")
        form = ("-t", "t", "-q", "2", "-F", "%q %p", "-d")
        subscriber = Program(["stdbuf", "-oL", *self.mosquitto("mosquitto_sub", *form, token=self.token)])
        self.addCleanup(subscriber.end)
        subscriber.until(b"received SUBACK")
        for qos in ("0", "1", "2"):
            publish = self.mosquitto("mosquitto_pub", "-t", "t", "-q", qos, "-m", "hello", token=self.token)
            self.assertEqual(run(publish), (0, "", ""))
            self.assertEqual(subscriber.until(qos.encode() + b" "), qos.encode() + b" hello")

    def test_mosquitto_many(self) -> None:
        """[MQTT-7.1.1-1]: thousands of lines at QoS 1 arrive in order, each once."""
        check_lines(self, partial(self.mosquitto, token=self.token), 3000)

    def test_paho(self) -> None:
        """paho-mqtt exchanges large and many messages at every QoS, and lives by its keep alive."""
        payloads = (b"", b"x" * 20_000, bytes(250_000))
        exchange(self, self.gateway.mqtt, self.token, payloads, keep_alive=1, tls=self.context())

    def test_keep_alive(self) -> None:
        """[MQTT-3.1.2-24]: a silent client is closed after one and a half keep alives, over TLS too."""
        connection, answer = self.connect(token=self.token, keep_alive=1)
        self.assertEqual(answer, Connack(False, 0))
        self.assertTrue(_ended(connection))

    def test_slow_subscriber(self) -> None:
        """A subscriber that does not read loses messages and keeps its connection; the others get everything."""
        slow, _ = self.connect(token=self.token)
        slow.sendall(packets.subscribe(1, [("t", 0)]))
        self.receive(slow)
        found = json.loads((self.gateway.data / "gateway.json").read_text())
        fast = MqttClient(int(found["mqtt"][1].rpartition(":")[2]), self.token)
        self.addCleanup(fast.close)
        fast.subscribe("t", qos=0)
        for number in range(100):
            fast.publish("t", b"%03d" % number + bytes(200_000))
            self.assertEqual(fast.receive(1)[0][1][:3], b"%03d" % number)
        slow.sendall(packets.PINGREQ)
        seen: list[int] = []
        decoder = packets.Decoder(1 << 20)
        while True:
            came = list(decoder.feed(slow.recv(65536)))
            seen += [int(one[:3]) for packet in came if isinstance(packet, Publish) for one in packet.payloads()]
            if Bare(Type.PINGRESP) in came:
                break
        self.assertEqual(seen, sorted(set(seen)))
        self.assertTrue(0 < len(seen) < 100, len(seen))

    def test_stop(self) -> None:
        """A gateway that stops closes its TLS connections in order, and ends."""
        connection, _ = self.connect(token=self.token)
        assert self.gateway.process is not None
        self.gateway.process.send_signal(signal.SIGTERM)
        self.assertEqual(connection.recv(1), b"")  # by TLS's own close, or this would raise
        self.assertEqual(self.gateway.process.wait(PATIENCE), 0)
        self.assertNotIn("Traceback", self.gateway.log())

    def test_not_asked(self) -> None:
        """Without an authority for clients a certificate changes nothing: a token is needed."""
        key_id = self.gateway.key("ann").partition(".")[0]
        _, answer = self.connect(self.devices.sign(key_id))
        self.assertEqual(answer, Connack(False, 4))


class CertificateTests(_Tests):
    """``mqtt_client_ca``."""

    config = 'mqtt_client_ca = "{ca}"\n'

    def setUp(self) -> None:
        super().setUp()
        self.key_id = self.gateway.key("ann", publish=["a/#"], subscribe=["a/#"]).partition(".")[0]

    def test_mosquitto(self) -> None:
        """mosquitto's clients need no token with a certificate, and may do what its key may."""
        find("mosquitto_pub", "mosquitto_sub", "stdbuf")
        shown = self.devices.sign(self.key_id)
        form = ("-t", "a/b", "-t", "b", "-q", "1", "-F", "%t %p", "-d")
        subscriber = Program(["stdbuf", "-oL", *self.mosquitto("mosquitto_sub", *form, shown=shown)])
        self.addCleanup(subscriber.end)
        self.assertIn(b"1, 128", subscriber.until(b"Subscribed ") + b" ")
        for topic in ("b", "a/b"):
            status, _, _ = run(self.mosquitto("mosquitto_pub", "-t", topic, "-q", "1", "-m", topic, shown=shown))
            self.assertEqual(status == 0, topic == "a/b", topic)
        self.assertEqual(subscriber.until(b"a/b a/b"), b"a/b a/b")

    def test_token(self) -> None:
        """Without a certificate a token does; with one it has to be of the same key."""
        self.assertEqual(self.connect(token=self.token)[1], Connack(False, 0))
        shown = self.devices.sign(self.key_id)
        self.assertEqual(self.connect(shown, self.token)[1], Connack(False, 5))
        key = self.gateway.key("ann")
        _, answer = self.gateway.request("POST", "/token/", {"api_key": key})
        shown = self.devices.sign(key.partition(".")[0])
        self.assertEqual(self.connect(shown, answer["token"])[1], Connack(False, 0))
        self.assertEqual(self.connect(shown, "wrong")[1], Connack(False, 4))
        self.assertEqual(self.connect()[1], Connack(False, 4))

    def test_revoked(self) -> None:
        """Revoking the key ends its connections, and refuses its certificates from then on."""
        shown = self.devices.sign(self.key_id)
        connection, answer = self.connect(shown)
        self.assertEqual(answer, Connack(False, 0))
        self.gateway.admin("DELETE", f"/keys/{self.key_id}")
        self.assertTrue(_ended(connection))
        self.assertEqual(self.connect(shown)[1], Connack(False, 5))

    def test_unknown_key(self) -> None:
        """A certificate that names no key of ours is refused."""
        for name in ("FGAK" + "A" * 16, "ann"):
            self.assertEqual(self.connect(self.devices.sign(name))[1], Connack(False, 4))

    def test_expires(self) -> None:
        """The connection ends when the certificate expires."""
        connection, answer = self.connect(self.devices.sign(self.key_id, life=DAY / 86400 * 4))
        self.assertEqual(answer, Connack(False, 0))
        self.assertTrue(_ended(connection))

    def test_another_authority(self) -> None:
        """A certificate of another authority, or one that has expired, fails the handshake; the log says why."""
        for shown, error in (
            (Authority("devices").sign(self.key_id), "error 7 "),  # a signature that is not the authority's
            (Authority("others").sign(self.key_id), "error 20 "),
            (self.devices.sign(self.key_id, life=-DAY), "error 10 "),
        ):
            self.assertRaises(OSError, self.connect, shown)
            until(lambda error=error: error in self.gateway.log(), "the log says why")  # type: ignore[misc]
        self.assertNotIn("Traceback", self.gateway.log())


class RequiredTests(_Tests):
    """``mqtt_client_cert_required``."""

    config = 'mqtt_client_ca = "{ca}"\nmqtt_client_cert_required = true\n'

    def test_required(self) -> None:
        """Without a certificate the handshake fails, token or not; with one no token is needed."""
        self.assertRaises(OSError, self.connect, None, self.token)
        key_id = self.gateway.key("ann").partition(".")[0]
        self.assertEqual(self.connect(self.devices.sign(key_id))[1], Connack(False, 0))


def _ended(connection: ssl.SSLSocket) -> bool:
    """Wait for the gateway to end the connection, in whatever way."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
