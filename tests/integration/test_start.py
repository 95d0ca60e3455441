"""How a gateway starts, refuses to start, and stops; and the command that talks to it."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed

import flowgate
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack
from tests.integration.gateway import PATIENCE, ROOT, MqttClient, RunningGateway, until
from tests.integration.programs import Program, run

LOOPBACK = "tcp:0:interface=127.0.0.1"


class Attempt:
    """A gateway that is expected not to start."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        data: Path | None = None,
        environment: dict[str, str] | None = None,
        command: tuple[str, ...] = (),
    ) -> None:
        """Begin.

        :param command: instead of ``twistd``.
        """
        self.data = data or directory / "data"
        standard = [] if any(option == "--http" for option in options) else ["--http", LOOPBACK]
        standard += [] if any(option == "--mqtt" for option in options) else ["--mqtt", LOOPBACK]
        given = {name: value for name, value in os.environ.items() if not name.startswith("FLOWGATE_")}
        self.process = subprocess.Popen(
            [
                *(command or (str(Path(sys.executable).with_name("twistd")),)),
                *("-n", "--pidfile=", "flowgate", "--data", str(self.data)),
                *standard,
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**given, **(environment or {})},
        )

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return exit status, what it wrote to standard error, and its log."""
        try:
            log, errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            log, errors = self.process.communicate()
            raise AssertionError(f"it does not end: {errors}\n{log}") from None
        return self.process.returncode, errors, log


def servers(data: Path) -> list[int]:
    """The nats-server processes that work for a data directory."""
    gateway = RunningGateway(data)
    try:
        return gateway.children()
    finally:
        gateway.clean_up()


class TestsWithDirectory(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name).resolve()

    def start(self, **options: Any) -> RunningGateway:
        gateway = RunningGateway(self.directory / "data", **options)
        self.addCleanup(gateway.clean_up)
        return gateway.start()


class RefusedStartTests(TestsWithDirectory):
    """What cannot work is said in one sentence."""

    def assert_refused(self, attempt: Attempt, pattern: str) -> None:
        """The attempt ended with status 1, one sentence that matches ``pattern``, and nothing left behind."""
        status, errors, log = attempt.end()
        self.assertEqual(status, 1, (errors, log))
        self.assertRegex(errors, rf"\Aflowgate: [^\n]*{pattern}[^\n]*\n\Z")
        self.assertNotIn("Traceback", errors + log)
        self.assertNotIn("Unhandled", errors + log)
        self.assertEqual(servers(attempt.data), [])

    def file(self, name: str, text: str | bytes) -> Path:
        path = self.directory / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def test_configuration(self) -> None:
        """A file, an option or a variable that is wrong is named."""
        broken: list[tuple[str | bytes, str]] = [
            ("data = ", "broken.toml is not TOML: "),
            ("[topics\n", "broken.toml is not TOML: "),
            (b'issuer = "\xff"', "broken.toml is not TOML: "),
            ('htpp = ["tcp:80"]', "broken.toml: .*'htpp'.*did you mean 'http'"),
            ("[limits]\nconections = 5", "'limits.conections'.*did you mean 'limits.connections'"),
            ("limits = 5", "limits must be a table"),
            ("[limits]\nconnections = '5'", "limits.connections must be a whole number"),
            ("durability = 'maybe'", "durability must be os or fsync"),
            ("[history]\nage = 5", "history.age must be an age"),
            ("[[topics]]\nhistory = false", r"topics\[0\].*filter is missing"),
            ("[[topics]]\nfilter = 'a#'", r"topics\[0\]"),
            ("[[topics]]\nfilter = 'a'\nhistroy = false", r"topics\[0\]: .*'histroy'.*did you mean 'history'"),
        ]
        for text, pattern in broken:
            config = self.file("broken.toml", text)
            self.assert_refused(Attempt(self.directory, "--config", str(config)), pattern)
        missing = str(self.directory / "missing.toml")
        self.assert_refused(Attempt(self.directory, "--config", missing), "missing.toml cannot be read")
        self.assert_refused(Attempt(self.directory, "--durability", "never"), "--durability must be os or fsync")
        environment = {"FLOWGATE_DURABLE": "os"}
        self.assert_refused(Attempt(self.directory, environment=environment), "FLOWGATE_DURABLE")
        environment = {"FLOWGATE_ADMIN_TOKEN": "short"}
        self.assert_refused(Attempt(self.directory, environment=environment), "admin token must be")

    def test_endpoints_and_directories(self) -> None:
        """A taken port, no endpoint, and a data directory that cannot be used, are named; so is NATS out of reach."""
        unreachable = Attempt(self.directory, "--nats", "nats://127.0.0.1:1", data=self.directory / "unreachable")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            for option in ("--http", "--mqtt"):
                self.assert_refused(Attempt(self.directory, option, endpoint), f"cannot listen on {endpoint}: .*in use")
        self.assert_refused(Attempt(self.directory, "--http", "nowhere:1"), "'nowhere:1' is no endpoint")
        self.assert_refused(Attempt(self.directory, "--mqtt", "tcp:port"), "'tcp:port' is no endpoint")
        file = self.file("file", "in the way")
        self.assert_refused(Attempt(self.directory, data=file), f"{file}.*cannot be used")
        self.assert_refused(Attempt(self.directory, data=file / "below"), f"{file}/below.*cannot be used")
        (self.directory / "half").mkdir()
        self.file("half/nats", "in the way")
        self.assert_refused(Attempt(self.directory, data=self.directory / "half"), "half/nats")
        (self.directory / "open").mkdir()
        self.file("open/master.secret", "x" * 40).chmod(0o644)
        self.assert_refused(Attempt(self.directory, data=self.directory / "open"), "master.secret.*others can read it")
        self.assert_refused(unreachable, "NATS server cannot be used")

    def test_directory_in_use(self) -> None:
        """A second gateway on the same data directory is refused, and the first one goes on."""
        gateway = self.start()
        token = gateway.token("ann")
        self.assertEqual(len(gateway.children()), 1)
        status, errors, log = Attempt(self.directory).end()
        self.assertEqual(status, 1, log)
        self.assertRegex(errors, r"\Aflowgate: [^\n]*in use by another gateway[^\n]*\n\Z")
        self.assertNotIn("Traceback", errors + log)
        self.assertEqual(len(gateway.children()), 1)
        body = {"topic": "t", "message": "x"}
        self.assertEqual(gateway.request("POST", "/api/v1/publish", body, token)[0], 200)
        gateway.command("key", "create", "ann", "shop")  # finds it still

    def test_nats_server(self) -> None:
        """A nats-server that is missing, too old, or no nats-server is named."""
        programs = self.directory / "programs"
        empty = self.directory / "empty"
        for directory in (programs, empty):
            directory.mkdir()
        # Another place for Python itself, because the program is looked for beside it.
        python = programs / "python"
        python.symlink_to(sys.executable)
        environment = {
            "PATH": str(empty),
            "PYTHONPATH": os.pathsep.join([str(Path(flowgate.__file__).parents[1]), *filter(None, sys.path)]),
        }
        command = (str(python), "-c", "from twisted.scripts.twistd import run; run()")

        def attempt() -> Attempt:
            return Attempt(self.directory, environment=environment, command=command)

        self.assert_refused(attempt(), "no nats-server was found")
        fake = empty / "nats-server"
        for text, pattern in (
            ("#!/bin/sh\necho nats-server: v2.9.0\n", "version v2.9.0; nats-server 2.14 or later is needed"),
            ("#!/bin/sh\necho hello\n", "does not say its version"),
            ("#!/bin/sh\nexit 3\n", "does not say its version"),
            ("#!/bin/sh\n[ $1 = --version ] && echo v2.15.0 && exit\necho no disk >&2; exit 3\n", "no disk"),
            ("#!/nowhere/sh\n", f"{fake} cannot be run|does not say its version"),
        ):
            fake.write_text(text)
            fake.chmod(0o755)
            self.assert_refused(attempt(), f"(?:{pattern})")


class StopTests(TestsWithDirectory):
    """SIGTERM is an ordered end."""

    def test_clients_are_told(self) -> None:
        """On SIGTERM all clients are told and closed, nats-server ends, status 0; nothing was written elsewhere."""
        elsewhere = self.directory / "cwd"
        elsewhere.mkdir()
        home = self.directory / "home"
        home.mkdir()
        temporary = self.directory / "tmp"
        temporary.mkdir()
        gateway = RunningGateway(self.directory / "data")
        self.addCleanup(gateway.clean_up)
        gateway.directory = elsewhere
        gateway.environment = {
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        }
        gateway.start()
        token = gateway.token("ann")
        large = {"body": "x" * 500_000}  # twisted.web would put it into a file
        self.assertEqual(gateway.request("POST", "/api/v1/queues/q/messages", large, token)[0], 201)
        waiting: list[int] = []

        def wait() -> None:
            body = {"wait": 20}
            waiting.append(gateway.request("POST", "/api/v1/queues/empty/messages/receive", body, token)[0])

        self.assertEqual(gateway.request("PUT", "/api/v1/queues/empty", {}, token)[0], 201)
        waiter = Thread(target=wait)
        with (
            gateway.events(token, "t") as stream,
            gateway.mqtt_client(token, will=packets.Will("t", b"will", 0, False)) as mqtt,
            gateway.websocket(token) as websocket,
            gateway.raw(gateway.http) as idle,
            gateway.raw(gateway.mqtt) as unconnected,
        ):
            websocket.subscribe("t")
            waiter.start()
            began = time.monotonic()
            assert gateway.process is not None
            gateway.process.terminate()
            # [MQTT-3.1.2-8]: the connection is closed without DISCONNECT.
            self.assertEqual(websocket.frame(), {"action": "message", "topic": "t", "data": "will"})
            self.assertEqual(websocket.frame()["code"], "going_away")
            with self.assertRaises(ConnectionClosed) as closed:
                websocket.connection.recv(PATIENCE)
            self.assertEqual(closed.exception.rcvd.code if closed.exception.rcvd else None, 1001)
            self.assertTrue(stream.ended())
            self.assertTrue(mqtt.closed())
            self.assertEqual(mqtt.messages, [])
            self.assertEqual(gateway.process.wait(PATIENCE), 0, gateway.log())
            waiter.join(PATIENCE)
            self.assertEqual([idle.recv(100), unconnected.recv(100)], [b"", b""])
        self.assertIn(waiting, ([0], [200], [503]))
        self.assertLess(time.monotonic() - began, 15)
        gateway.process = None
        self.assertEqual(gateway.children(), [])
        self.assertFalse((gateway.data / "gateway.json").exists())
        self.assertNotIn("Traceback", gateway.log())
        self.assertEqual([*elsewhere.iterdir(), *home.iterdir(), *temporary.iterdir()], [])
        self.assertEqual(gateway.data.stat().st_mode & 0o777, 0o700)
        for path in gateway.data.rglob("*"):
            if path.suffix in (".secret", ".token"):
                self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_acknowledgements_are_finished(self) -> None:
        """What was read before SIGTERM is acknowledged: exactly what is stored."""
        gateway = self.start(config="[history]\nmessages = 100000\n")
        token = gateway.token("ann")
        count = 20_000
        acknowledged = 0
        decoder = packets.Decoder(1 << 20)
        with gateway.mqtt_client(token) as client, gateway.websocket(token, max_queue=None) as websocket:
            sending = Thread(target=self.send, args=(client, count))
            sending.start()
            for number in range(50):
                websocket.send(action="publish", topic="ws", message=str(number), id=number)
            assert gateway.process is not None
            with contextlib.suppress(ConnectionError):
                while data := client.socket.recv(65536):
                    for packet in decoder.feed(data):
                        if isinstance(packet, Ack):
                            if not acknowledged:
                                gateway.process.terminate()
                            acknowledged += len(packet.packet_ids)
            sending.join()
            frames = []
            with contextlib.suppress(ConnectionClosed):
                while True:
                    frames.append(websocket.frame())
        self.assertEqual(gateway.process.wait(PATIENCE), 0, gateway.log())
        gateway.process = None
        self.assertNotIn("Traceback", gateway.log())
        self.assertGreater(acknowledged, 0)
        gateway = self.start(config="[history]\nmessages = 100000\n")
        self.assertEqual(self.history(gateway, token, "mqtt"), list(range(acknowledged)))
        acks = [frame["id"] for frame in frames if frame["action"] == "ack"]
        self.assertEqual(self.history(gateway, token, "ws"), acks)

    @staticmethod
    def send(client: MqttClient, count: int) -> None:
        with contextlib.suppress(OSError):
            for start in range(0, count, 100):
                numbers = range(start, start + 100)
                payloads = [b"%d" % number for number in numbers]
                client.send(packets.publishes("mqtt", payloads, 1, [number + 1 for number in numbers]))

    @staticmethod
    def history(gateway: RunningGateway, token: str, topic: str) -> list[int]:
        found: list[int] = []
        page: Any = {"next": "earliest", "messages": [None]}
        while page["messages"]:
            path = f"/api/v1/topics/{topic}/messages?limit=1000&since={page['next']}"
            page = gateway.request("GET", path, token=token)[1]
            found += [int(message["data"]) for message in page["messages"]]
        return found

    def test_stopped_while_starting(self) -> None:
        """SIGTERM or SIGINT in the middle of the start leaves nothing behind."""
        for number in (signal.SIGTERM, signal.SIGINT):
            gateway = RunningGateway(self.directory / "data")
            self.addCleanup(gateway.clean_up)
            process = gateway.spawn()
            until(gateway.children, "nats-server runs")
            process.send_signal(number)
            status = process.wait(PATIENCE)
            if number == signal.SIGTERM:
                self.assertEqual(status, 0, gateway.log())
            self.assertEqual(gateway.children(), [])
            self.assertNotIn("Traceback", gateway.log())
        self.start()


class CommandTests(TestsWithDirectory):
    """The ``flowgate`` command with a real gateway."""

    def flowgate(self, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        program = str(Path(sys.executable).with_name("flowgate"))
        return run([program, *arguments], cwd=self.directory, environment=environment)

    def assert_fails(self, pattern: str, *arguments: str) -> None:
        status, output, errors = self.flowgate(*arguments)
        self.assertEqual((status, output), (1, ""), (arguments, errors))
        self.assertRegex(errors, rf"\Aflowgate: [^\n]*{pattern}[^\n]*\n\Z", arguments)

    def test_command(self) -> None:
        """Keys, tokens, publish, subscribe and queues work from the command line; failures are one sentence."""
        data = ("--data", str(self.directory / "data"))
        self.assert_fails("no gateway runs with the data directory", *data, "key", "create", "ann", "shop")
        gateway = self.start()

        def good(*arguments: str, environment: dict[str, str] | None = None) -> str:
            status, output, errors = self.flowgate(*data, *arguments, environment=environment)
            self.assertEqual((status, errors), (0, ""), arguments)
            return output

        key_line = good("key", "create", "ann", "shop", "--name", "first")
        self.assertRegex(key_line, r"\AFGAK[A-Z2-7]{16}\.[A-Za-z0-9]{40}\n\Z")
        key = key_line.strip()
        token_line = good("token", key, "--ttl", "60")
        self.assertRegex(token_line, r"\A[\w-]+\.[\w-]+\.[\w-]+\n\Z")
        with gateway.mqtt_client(token_line.strip()) as client:
            client.subscribe("ann_shop_news")
            subscriber = Program(
                [str(Path(sys.executable).with_name("flowgate")), *data, "--key", key, "subscribe", "news/#"],
                environment={"PYTHONUNBUFFERED": "1"},
            )
            self.addCleanup(subscriber.end)
            cursor = r"\A[\w]+-\d+\n\Z"
            self.assertRegex(good("publish", "news", "Hello", "--key", key), cursor)
            self.assertEqual(client.receive(1), [("ann_shop_news", b"Hello", 1)])
            # The subscriber has started once it prints one of these.
            ready = False
            while not ready:
                good("publish", "news/ready", "ready", environment={"FLOWGATE_KEY": key})
                ready = not subscriber.empty
            self.assertEqual(subscriber.until(b"news/ready"), b"news/ready\tready")
            good("publish", "news/a", '{"n": 1}', "--key", key)
            self.assertEqual(subscriber.until(b"news/a"), b'news/a\t{"n": 1}')
            answer = json.loads(good("--json", "publish", "news", "x", "--key", key))
            self.assertEqual((answer["topic"], answer["duplicate"]), ("news", False))

        good("queue", "send", "jobs", "first job", "--key", key)
        good("queue", "send", "jobs", "second job", "--key", key)
        receipt, _, body = good("queue", "receive", "jobs", "--key", key).strip().partition("\t")
        self.assertEqual(body, "first job")
        self.assertTrue(receipt)
        self.assertEqual(good("queue", "receive", "jobs", "--key", key, "--delete"), "second job\n")
        stats = json.loads(good("queue", "stats", "jobs", "--key", key, "--json"))
        self.assertEqual((stats["visible"], stats["in_flight"]), (0, 1))

        narrow = good("key", "create", "ann", "shop", "--publish", "a", "--subscribe", "b/#", "--queue", "q").strip()
        self.assertEqual(len(good("key", "list").splitlines()), 2)
        self.assertEqual({one["name"] for one in json.loads(good("key", "list", "--json"))}, {"first", ""})
        for pattern, arguments in (
            ("not permit", ("publish", "b", "x", "--key", narrow)),
            ("not permit", ("subscribe", "a", "--key", narrow)),
            ("not permit", ("queue", "send", "other", "x", "--key", narrow)),
            ("wildcards", ("publish", "a/#", "x", "--key", key)),
            ("no such queue", ("queue", "stats", "none", "--key", key)),
            ("", ("token", "FGAKAAAAAAAAAAAAAAAA.x")),
            ("", ("token", key, "--ttl", "1")),
            ("an API key is needed", ("publish", "a", "x")),
            ("1 to 32 of a-z", ("key", "create", "Ann", "shop")),
            ("", ("key", "revoke", "FGAKAAAAAAAAAAAAAAAA")),
            ("", ()),
            ("tokn", ("tokn",)),
            ("--jsn", ("key", "list", "--jsn")),
            ("APP", ("key", "create", "ann")),
        ):
            self.assert_fails(pattern, *data, *arguments)
        self.assert_fails("no gateway answers", "--url", "http://127.0.0.1:1", "token", key)
        self.assert_fails("is not the URL", "--url", "ftp://x", "token", key)
        self.assertEqual(good("key", "revoke", key.partition(".")[0]), "")
        self.assert_fails("", *data, "token", key)
        with self.assertRaises(AssertionError):  # its stream has ended with its key
            subscriber.until(b"never")
        self.assertNotIn("Traceback", gateway.log())
        self.assertIsNone(re.search(re.escape(key.partition(".")[2]), gateway.log()))
