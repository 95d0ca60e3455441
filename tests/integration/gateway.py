"""A real gateway in a process of its own, and the simplest blocking clients of its protocols."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect as connect_websocket

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Connack, Connect, Publish, Suback

PATIENCE = 20.0
"""Seconds that anything here waits before it gives up."""

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Look again and again until ``condition`` gives something true; return that."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)  # between two looks at another process, which has no other way to tell
    raise AssertionError(f"not within {patience:.0f} s: {what}")


class RunningGateway:
    """``twistd -n flowgate`` on free ports of the loopback interface."""

    def __init__(self, data: Path | None = None, config: str = "", options: tuple[str, ...] = ()) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="flowgate-test-") if data is None else None
        self.data = Path(self._temporary.name) / "data" if self._temporary is not None else data or Path()
        self.environment: dict[str, str] = {}
        self.directory = ROOT
        self.twistd: tuple[str, ...] = ()
        self._options = options
        self._config = config
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process: subprocess.Popen[bytes] | None = None
        self.http = self.mqtt = 0

    def start(self) -> RunningGateway:
        """Start, and wait until it is ready."""
        location = self.data / "gateway.json"
        location.unlink(missing_ok=True)
        self.process = self.spawn()

        def ready() -> Any:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the gateway ended with status {self.process.returncode}:\n{self.log()}")
            try:
                return json.loads(location.read_text())
            except (OSError, ValueError):
                return None

        found = until(ready, "the gateway is ready")
        self.http = int(found["http"][0].rpartition(":")[2])
        self.mqtt = int(found["mqtt"][0].rpartition(":")[2])
        until(lambda: self.request("GET", "/readyz")[0] == 200, "/readyz answers 200")
        return self

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process and do not wait."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = [twistd, "-n", "--pidfile=", *self.twistd, "flowgate", "--data", str(self.data)]
        if self._config:
            self.data.parent.mkdir(parents=True, exist_ok=True)
            config = self.data.parent / "flowgate.toml"
            config.write_text(self._config)
            command += ["--config", str(config)]
        if not any(option == "--http" for option in self._options):
            command += ["--http", "tcp:0:interface=127.0.0.1"]
        if not any(option == "--mqtt" for option in self._options):
            command += ["--mqtt", "tcp:0:interface=127.0.0.1"]
        return subprocess.Popen(
            [*command, *self._options],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
        )

    def log(self) -> str:
        """Everything that the gateway has logged."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def children(self) -> list[int]:
        """The process ids of this gateway's nats-server processes, found by the data directory they work in."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"nats-server" in command and os.fsencode(str(self.data.resolve())) in command:
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """End gateway and nats-server without warning."""
        assert self.process is not None
        children = self.children()
        self.process.kill()
        for child in children:
            _kill(child)
        self.process.wait(PATIENCE)
        self.process = None
        until(lambda: not self.children(), "nats-server is gone")

    def kill_gateway(self) -> None:
        """End the gateway alone without warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process = None

    def kill_bus(self) -> None:
        """End nats-server alone without warning."""
        for child in self.children():
            _kill(child)

    def kill_and_return(self, what: str) -> None:
        """Kill ``bus``, ``gateway`` or both (``gateway and bus``), and wait until the gateway is ready again."""
        if what == "bus":
            old = self.children()
            self.kill_bus()
            until(lambda: [pid for pid in self.children() if pid not in old], "another nats-server")
            until(lambda: self.request("GET", "/readyz")[0] == 200, "/readyz answers 200")
            return
        self.http = self.mqtt = 0  # so that nobody connects to a port that is somebody else's by then
        if what == "gateway":
            self.kill_gateway()
        else:
            self.kill()
        self.start()

    def stop(self) -> int:
        """End in order; return the exit status."""
        if self.process is None:
            return 0
        self.process.terminate()
        status = self.process.wait(PATIENCE)
        self.process = None
        return status

    def clean_up(self) -> None:
        if self.process is not None:
            self.stop()
        self._log.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    # -- what it counts

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all its samples with these labels; 0 if there are none."""
        status, text = self.request("GET", "/metrics")
        assert status == 200, (status, text)
        families = text_string_to_metric_families(text.decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    # -- keys and HTTP

    def command(self, *arguments: str) -> str:
        """Run the ``flowgate`` command; return what it prints."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("flowgate")), "--data", str(self.data), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"flowgate {arguments} ended with {done.returncode}: {done.stderr}\n{self.log()}")
        return done.stdout.strip()

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        token = (self.data / "admin.token").read_text().strip()
        status, answer = self.request(method, f"/api/v1/admin{path}", body, token=token)
        assert status < 300, (status, answer)
        return answer

    def key(self, user: str, app: str = "shop", **grants: Any) -> str:
        """Make an API key."""
        answer = self.admin("POST", "/keys", {"user": user, "app": app, **grants})
        key: str = answer["key"]
        return key

    def token(self, user: str, app: str = "shop", **grants: Any) -> str:
        """Make an API key and exchange it for a token."""
        status, answer = self.request("POST", "/token/", {"api_key": self.key(user, app, **grants)})
        assert status == 200, answer
        token: str = answer["token"]
        return token

    def request(
        self, method: str, path: str, body: Any = None, token: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Make one HTTP request; return status and decoded answer (``None`` if it has none)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=PATIENCE)
        try:
            sent = dict(headers or {})
            if token is not None:
                sent["Authorization"] = f"Bearer {token}"
            data = body
            if body is not None and not isinstance(body, bytes):
                data = json.dumps(body).encode()
                sent.setdefault("Content-Type", "application/json")
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text
        except ConnectionError:
            return 0, None
        finally:
            connection.close()

    def status(self, path: str, token: str | None = None) -> int:
        """The status that a GET is answered with; an answer without an end is not waited for."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
            with connection.getresponse() as answer:
                return answer.status
        finally:
            connection.close()

    # -- clients

    @contextmanager
    def mqtt_client(self, token: str, client_id: str = "", **options: Any) -> Iterator[MqttClient]:
        client = MqttClient(self.mqtt, token, client_id, **options)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def websocket(self, token: str, **options: Any) -> Iterator[WebSocketClient]:
        client = WebSocketClient(self.http, token, **options)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def raw(self, port: int, data: bytes = b"") -> Iterator[socket.socket]:
        """A connection without a protocol, on which ``data`` has been sent."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(data)
            yield connection

    @contextmanager
    def events(
        self, token: str, *topics: str, last: str | None = None, retained: bool = False
    ) -> Iterator[EventStream]:
        stream = EventStream(self.http, token, topics, last, retained)
        try:
            yield stream
        finally:
            stream.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def read_to_end(connection: socket.socket) -> bytes:
    """Everything that comes until the peer closes the connection; fails if it does not."""
    data = b""
    try:
        while received := connection.recv(65536):
            data += received
    except ConnectionError:
        return data
    except TimeoutError:
        raise AssertionError(f"the connection is not closed; received so far: {data[:200]!r}") from None
    return data


class MqttRefused(Exception):
    """A CONNECT was answered with another return code than 0; that is its one argument."""


class MqttClient:
    """A blocking MQTT client over our own codec."""

    def __init__(self, port: int, token: str, client_id: str = "", **options: Any) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        # Nagle's algorithm would keep a small packet behind another one for 40 ms.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = packets.Decoder(1 << 24)
        self._packets: list[Any] = []
        self.messages: list[tuple[str, bytes, int]] = []
        self._next_id = 0
        self.send(packets.connect(Connect(client_id, user_name="Bearer", password=token.encode(), **options)))
        answer = self._wait(Connack)
        if answer.code:
            self.close()
            raise MqttRefused(answer.code)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _read(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the gateway closed the connection")
        for packet in self._decoder.feed(data):
            if isinstance(packet, Publish):
                name = packet.topic.decode()
                self.messages += [(name, payload, packet.qos) for payload in packet.payloads()]
                if packet.qos == 1:
                    self.send(packets.acks(packets.Type.PUBACK, packet.packet_ids))
            else:
                self._packets.append(packet)

    def _wait(self, kind: type) -> Any:
        while True:
            for index, packet in enumerate(self._packets):
                if isinstance(packet, kind):
                    return self._packets.pop(index)
            self._read()

    def subscribe(self, *filters: str, qos: int = 1) -> tuple[int, ...]:
        self._next_id += 1
        self.send(packets.subscribe(self._next_id, [(filter_, qos) for filter_ in filters]))
        codes: tuple[int, ...] = self._wait(Suback).codes
        return codes

    def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        if not qos:
            self.send(packets.publishes(topic, [payload]))
            return
        self._next_id += 1
        self.send(packets.publishes(topic, [payload], qos, [self._next_id]))
        self.acknowledged()

    def acknowledged(self) -> None:
        """Wait for the next acknowledgement."""
        self._wait(Ack)

    def receive(self, count: int) -> list[tuple[str, bytes, int]]:
        """Wait for ``count`` messages."""
        while len(self.messages) < count:
            self._read()
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def flush(self) -> None:
        """Wait until the gateway has read everything that was sent."""
        self.send(packets.PINGREQ)
        self._wait(packets.Bare)

    def closed(self) -> bool:
        """Wait for the gateway to close; ``False`` if it does not."""
        try:
            while True:
                self._read()
        except (EOFError, ConnectionError):
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.socket.close()


class WebSocketClient:
    """A blocking WebSocket client; answers to frames with an id, and messages, do not get in each other's way."""

    def __init__(self, port: int, token: str, **options: Any) -> None:
        url = f"ws://127.0.0.1:{port}/ws?token={token}"
        self.connection = connect_websocket(url, open_timeout=PATIENCE, close_timeout=1, proxy=None, **options)
        self.messages: list[Any] = []

    def send(self, **frame: Any) -> None:
        self.connection.send(json.dumps(frame))

    def frame(self) -> Any:
        """Wait for the next frame that was not taken yet."""
        return self.messages.pop(0) if self.messages else self._read()

    def _read(self) -> Any:
        return json.loads(self.connection.recv(PATIENCE))

    def ask(self, **frame: Any) -> Any:
        """Send a frame with an id and wait for its answer."""
        self.send(**frame, id="asked")
        while (answer := self._read()).get("id") != "asked":
            self.messages.append(answer)
        return answer

    def subscribe(self, topic: str, **options: Any) -> None:
        answer = self.ask(action="subscribe", topic=topic, **options)
        if answer["action"] != "ack":
            raise AssertionError(answer)

    def receive(self, count: int) -> list[Any]:
        """Wait for ``count`` frames."""
        return [self.frame() for _ in range(count)]

    def close(self) -> None:
        self.connection.close()


class EventStream:
    """A blocking reader of Server-Sent Events."""

    def __init__(
        self, port: int, token: str, topics: tuple[str, ...], last: str | None = None, retained: bool = False
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        query = "&".join(f"topic={quote(topic, safe='')}" for topic in topics) + "&retained=true" * retained
        headers = {"Authorization": f"Bearer {token}"}
        if last is not None:
            headers["Last-Event-ID"] = last
        self._connection.request("GET", f"/api/v1/subscribe?{query}", headers=headers)
        self.socket: socket.socket = self._connection.sock
        self.answer = self._connection.getresponse()
        if self.answer.status != 200:
            raise AssertionError((self.answer.status, self.answer.read()))
        self.answer.readline()  # the first comment: the stream is open

    def receive(self, count: int) -> list[dict[str, Any]]:
        """Wait for ``count`` events; each has ``event``, ``id`` and the decoded ``data``."""
        events: list[dict[str, Any]] = []
        event: dict[str, Any] = {}
        while len(events) < count:
            text = self.answer.readline().decode()
            if not text:
                raise EOFError("the gateway ended the stream")
            line = text.rstrip("\n")
            if not line:
                if event:
                    events.append(event)
                event = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = json.loads(value) if name == "data" else value
        return events

    def ended(self, patience: float = PATIENCE) -> bool:
        """Read on until the gateway ends the stream; ``False`` if it is silent for ``patience`` seconds before."""
        self.socket.settimeout(patience)
        try:
            while True:
                self.receive(1)
        except (EOFError, ConnectionError, http.client.HTTPException):
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        # Not the connection alone: the answer holds its socket open.
        self.answer.close()
        self._connection.close()
