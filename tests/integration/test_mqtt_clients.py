"""Unmodified MQTT clients with persistent sessions, at every QoS: mosquitto's, paho-mqtt, aiomqtt and MQTT.js."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.gateway import PATIENCE, RunningGateway, until
from tests.integration.programs import Program, find, run

PROGRAMS = Path(__file__).with_name("mqtt_programs")

COUNT = 30
"""Messages that are published at once."""

Message = tuple[str, int, int, str]
"""What a client shows of a message: topic, QoS, RETAIN, text."""


def numbered(word: str, count: int = COUNT) -> list[str]:
    return [f"{word} {number}" for number in range(count)]


class Client(Program):
    """A client that runs.  A library may show a message before it shows that it is connected."""

    connected, subscribed = b"connected ", b"subscribed "

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        self._passed: list[bytes] = []

    def find(self, mark: bytes) -> bytes:
        """Take the first line with ``mark`` that was not taken yet; the lines before it can be taken later."""
        for index, line in enumerate(self._passed):
            if mark in line:
                return self._passed.pop(index)
        while mark not in (line := self.line()):
            self._passed.append(line)
        return line

    def connect(self) -> bool:
        """Wait until it is connected; return the session present flag, if it is shown."""
        return not self.find(self.connected).endswith(b" 0")

    def subscribe(self) -> None:
        """Wait until it is subscribed."""
        self.find(self.subscribed)

    def message(self) -> Message:
        """Wait for the next message."""
        _, topic, qos, retain, text = self.find(b"message ").decode().split(" ", 4)
        return topic, int(qos), int(retain), text

    def finish(self) -> None:
        """Wait until it ends by itself."""
        status = self.process.wait(PATIENCE)
        if status:
            raise AssertionError(f"it ended with {status}: {self.errors()}")


class MosquittoClient(Client):
    connected, subscribed = b"received CONNACK (0)", b"received SUBACK"

    def end(self) -> None:
        if self.process.poll() is None:
            # On SIGTERM it disconnects inside the signal handler, where it may wait for a lock that it holds itself.
            os.killpg(self.process.pid, signal.SIGKILL)
        super().end()


class Kind(ABC):
    """One client library, as a program.

    :ivar subscribes: whether it subscribes again whenever it connects.
    """

    subscribes = False

    @abstractmethod
    def start(self, gateway: RunningGateway, token: str, client_id: str, qos: int, **more: Any) -> Client:
        """Start the program; ``more`` as in the package of the programs."""


class Script(Kind):
    """A library with a program of ours around it."""

    def __init__(self, name: str, interpreter: str = sys.executable, web: bool = False) -> None:
        self._name = name
        self._interpreter = interpreter
        self._web = web

    def start(self, gateway: RunningGateway, token: str, client_id: str, qos: int, **more: Any) -> Client:
        url = f"ws://127.0.0.1:{gateway.http}/mqtt" if self._web else f"mqtt://127.0.0.1:{gateway.mqtt}"
        request = {"url": url, "token": token, "id": client_id, "clean": False, "qos": qos, **more}
        return Client([self._interpreter, str(PROGRAMS / self._name), json.dumps(request)])


class Mosquitto(Kind):
    """mosquitto_pub and mosquitto_sub."""

    subscribes = True

    def start(self, gateway: RunningGateway, token: str, client_id: str, qos: int, **more: Any) -> Client:
        program = "mosquitto_pub" if more.get("messages") else "mosquitto_sub"
        command = ["stdbuf", "-oL", program, "-h", "127.0.0.1", "-p", str(gateway.mqtt), "-u", "Bearer", "-P", token]
        command += ["-i", client_id, "-q", str(qos), *([] if more.get("clean") else ["-c"])]
        if "keepalive" in more:
            command += ["-k", str(more["keepalive"])]
        if "will" in more:
            will = more["will"]
            command += ["--will-topic", will["topic"], "--will-payload", will["message"]]
            command += ["--will-qos", str(will["qos"]), *(["--will-retain"] if will["retain"] else [])]
        if more.get("messages"):
            command += ["-t", more["topic"], "-l", *(["-r"] if more.get("retain") else [])]
            lines = "\n".join(more["messages"])
            return MosquittoClient(["sh", "-c", 'printf "%s\\n" "$0" | "$@"', lines, *command])
        for name in more["filters"]:
            command += ["-t", name]
        count = more.get("count", 0)
        command += ["-E"] if count == 0 else [] if count == -1 else ["-C", str(count)]
        return MosquittoClient([*command, "-d", "-F", "message %t %q %r %p"])


class MqttClientCase(SynchronousTestCase):
    """A gateway and the programs that talk to it."""

    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.gateway = RunningGateway(options=self.options)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def start(self, kind: Kind, client_id: str, qos: int, **more: Any) -> Client:
        program = kind.start(self.gateway, self.token, client_id, qos, **more)
        self.addCleanup(program.end)
        return program

    def publish(self, kind: Kind, topic: str, qos: int, messages: Sequence[str], **more: Any) -> None:
        """Publish, each acknowledged to the end, and disconnect."""
        self.start(kind, "publisher", qos, topic=topic, messages=list(messages), **more).finish()

    def receive(
        self, kind: Kind, client_id: str, qos: int, filters: Sequence[str], messages: Sequence[Message], topic: str
    ) -> None:
        """Connect to a session that is present, receive what it has, then what is published now, and disconnect."""
        now = [(topic, qos, 0, text) for text in numbered("now", 5)]
        program = self.start(kind, client_id, qos, count=len(messages) + len(now), filters=list(filters))
        self.assertTrue(program.connect(), "the session is present")
        if filters:
            program.subscribe()  # it may not be gone before that is answered
        self.publish(kind, topic, qos, [text for *_, text in now])
        self.assertEqual([program.message() for _ in range(len(messages) + len(now))], [*messages, *now])
        program.finish()


def mosquitto() -> Kind:
    find("mosquitto_pub", "mosquitto_sub", "stdbuf")
    return Mosquitto()


def mqtt_js(web: bool = False) -> Kind:
    find("node")
    if not (PROGRAMS / "node_modules" / "mqtt").is_dir():
        raise SkipTest("MQTT.js is not installed; tests/run does that where there is npm")
    return Script("with_mqttjs.cjs", "node", web)


class PersistentSessionTests(MqttClientCase):
    """Each client at each QoS: away, with messages published meanwhile, and back."""

    def check(self, kind: Kind) -> None:
        """A session keeps its subscription and its messages while its client is away and everything is killed."""
        filters = [["session/0"], ["session/1"], ["session/2"]]
        known: list[list[str]] = filters if kind.subscribes else [[], [], []]
        for qos in (0, 1, 2):
            program = self.start(kind, f"client {qos}", qos, filters=filters[qos], count=0)
            program.connect()
            program.finish()
        for qos in (0, 1, 2):
            self.publish(kind, f"session/{qos}", qos, numbered("first"))
        for qos in (1, 2):
            topic = f"session/{qos}"
            messages = [(topic, qos, 0, text) for text in numbered("first")]
            self.receive(kind, f"client {qos}", qos, known[qos], messages, topic)
            self.publish(kind, topic, qos, numbered("second"))
        self.gateway.kill()
        self.gateway.start()
        for qos in (1, 2):
            topic = f"session/{qos}"
            self.publish(kind, topic, qos, numbered("third", 5))
            messages = [(topic, qos, 0, text) for text in [*numbered("second"), *numbered("third", 5)]]
            self.receive(kind, f"client {qos}", qos, known[qos], messages, topic)

        # Nothing came twice: what would have is before these.  At QoS 0, what was published meanwhile may be lost.
        programs = [self.start(kind, f"client {qos}", qos, filters=known[qos], count=-1) for qos in (0, 1, 2)]
        for qos, program in enumerate(programs):
            self.assertTrue(program.connect(), "the session is present")
            self.publish(kind, f"session/{qos}", qos, numbered("live"))
            shown = [program.message()]
            while shown[-1][3] != f"live {COUNT - 1}":
                shown.append(program.message())
            before = [] if qos else [one for one in shown if one[3].startswith("first")]
            self.assertEqual(shown, before + [(f"session/{qos}", qos, 0, text) for text in numbered("live")])

    def test_mosquitto(self) -> None:
        """mosquitto_pub and mosquitto_sub."""
        self.check(mosquitto())

    def test_paho(self) -> None:
        """paho-mqtt."""
        self.check(Script("with_paho.py"))

    def test_paho_websocket(self) -> None:
        """paho-mqtt over WebSocket."""
        self.check(Script("with_paho.py", web=True))

    def test_aiomqtt(self) -> None:
        """aiomqtt."""
        self.check(Script("with_aiomqtt.py"))

    def test_mqtt_js(self) -> None:
        """MQTT.js."""
        self.check(mqtt_js())

    def test_mqtt_js_websocket(self) -> None:
        """MQTT.js over WebSocket, as in a browser."""
        self.check(mqtt_js(web=True))


class ReconnectTests(SynchronousTestCase):
    """Clients that stay, and connect again by themselves when the gateway is back at the same port."""

    def test_gateway_killed(self) -> None:
        """Subscribers that reconnect by themselves miss nothing at QoS 1 and 2, and at QoS 2 get nothing twice."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        gateway = RunningGateway(options=("--mqtt", f"tcp:{port}:interface=127.0.0.1"))
        self.addCleanup(gateway.clean_up)
        gateway.start()
        token = gateway.token("ann")
        kinds = {"mosquitto": mosquitto(), "paho": Script("with_paho.py"), "MQTT.js": mqtt_js()}
        programs = {}
        for name, kind in kinds.items():
            for qos in (1, 2):
                program = kind.start(gateway, token, f"{name} {qos}", qos, filters=[f"again/{qos}"], count=-1)
                self.addCleanup(program.end)
                programs[name, qos] = program
                program.subscribe()
        publisher = Script("with_paho.py")

        def publish(word: str) -> None:
            for qos in (1, 2):
                more = {"topic": f"again/{qos}", "messages": numbered(word)}
                done = publisher.start(gateway, token, "publisher", qos, **more)
                self.addCleanup(done.end)
                done.finish()

        publish("before")
        gateway.kill()
        gateway.start()
        publish("after")
        texts = [*numbered("before"), *numbered("after")]
        for (name, qos), program in programs.items():
            seen: list[str] = []
            while len(seen) < len(texts):
                text = program.message()[3]
                if qos == 2 or text not in seen:
                    seen.append(text)
            self.assertEqual(seen, texts, (name, qos))


class MoreTests(MqttClientCase):
    """Retained messages, wills, takeover and keep alive, as the clients show them."""

    def setUp(self) -> None:
        self.kind = mosquitto()
        super().setUp()

    def subscribe(self, client_id: str, *filters: str, qos: int = 2, **more: Any) -> Client:
        """Subscribe with a clean session; return when the subscription holds."""
        options = {"filters": filters, "count": -1, "clean": True, **more}
        program = self.start(self.kind, client_id, qos, **options)
        program.subscribe()
        return program

    def messages(self, program: Client, count: int) -> list[Message]:
        return [program.message() for _ in range(count)]

    def retained(self, *filters: str, qos: int = 2) -> list[Message]:
        """What a new subscriber is given at once; then comes a message that is published now."""
        program = self.subscribe("new", *filters, "barrier", qos=qos)
        self.publish(self.kind, "barrier", 2, ["barrier"])
        found = []
        while (message := program.message())[0] != "barrier":
            found.append(message)
        program.end()
        return sorted(found)

    def test_retained(self) -> None:
        """The last retained message of each topic, at its QoS, is what a new subscriber gets; also after kill -9."""
        live = self.subscribe("live", "room/#")
        for qos in (0, 1, 2):
            self.publish(self.kind, f"room/{qos}", qos, ["old", "new"], retain=True)
        # To those who are there it is a message as any other ([MQTT-3.3.1-9]).
        expected = [(f"room/{qos}", qos, 0, text) for qos in (0, 1, 2) for text in ("old", "new")]
        self.assertEqual(sorted(self.messages(live, 6)), sorted(expected))
        kept = [(f"room/{qos}", qos, 1, "new") for qos in (0, 1, 2)]
        self.assertEqual(self.retained("room/+"), kept)
        self.assertEqual(self.retained("room/#"), kept)
        self.assertEqual(self.retained("#"), kept)
        self.assertEqual(self.retained("room/1", "room/2", "nothing"), kept[1:])
        self.assertEqual(
            self.retained("room/+", qos=1), [(topic, min(1, qos), 1, text) for topic, qos, _, text in kept]
        )
        self.gateway.kill()
        self.gateway.start()
        self.assertEqual(self.retained("room/+"), kept)
        # An empty message takes it away ([MQTT-3.3.1-10]).
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.gateway.mqtt), "-u", "Bearer", "-P", self.token]
        status, _, errors = run([*command, "-t", "room/1", "-r", "-n", "-q", "1"])
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(self.retained("room/+"), [kept[0], kept[2]])

    def test_retained_by_http(self) -> None:
        """What was published over HTTP with "retain" is given to new MQTT subscribers, until an empty message."""
        for text, expected in (("on", [("lamp", 1, 1, "on")]), ("off", [("lamp", 1, 1, "off")]), ("", [])):
            body = {"topic": "lamp", "message": text, "retain": True}
            status, answer = self.gateway.request("POST", "/api/v1/publish", body, self.token)
            self.assertEqual(status, 200, answer)
            self.assertEqual(self.retained("lamp"), expected)

    def test_will(self) -> None:
        """A client that is killed leaves its will, at every QoS and retained; one that disconnects leaves none."""
        watcher = self.subscribe("watcher", "will/#")
        for qos in (0, 1, 2):
            will = {"topic": f"will/{qos}", "message": "gone", "qos": qos, "retain": qos == 1}
            polite = self.subscribe("mortal", "last", will=will, count=1)
            self.publish(self.kind, "last", 1, ["go"])
            polite.finish()
            self.subscribe("mortal", "nothing", will=will).end()
            self.assertEqual(self.messages(watcher, 1), [(f"will/{qos}", qos, 0, "gone")])
        self.assertEqual(self.retained("will/#"), [("will/1", 1, 1, "gone")])

    def test_will_of_a_killed_gateway(self) -> None:
        """A will of a client whose gateway was killed is published when the gateway is back."""
        program = self.start(self.kind, "watcher", 1, filters=["will"], count=0)
        program.finish()
        will = {"topic": "will", "message": "gone", "qos": 1, "retain": False}
        self.subscribe("mortal", "nothing", will=will)
        self.gateway.kill()
        self.gateway.start()
        self.receive(self.kind, "watcher", 1, ["will"], [("will", 1, 0, "gone")], "will")

    def test_takeover(self) -> None:
        """A second client with the same id ends the first one's connection, takes its session, and leaves its will."""
        watcher = self.subscribe("watcher", "will")
        will = {"topic": "will", "message": "taken over", "qos": 1, "retain": False}
        paho = Script("with_paho.py")
        first = self.start(paho, "same", 1, filters=["t"], count=100, will=will)
        first.subscribe()
        second = self.start(paho, "same", 1, filters=[], count=1)
        self.assertTrue(second.connect(), "the session is present")
        first.find(b"disconnected")
        self.assertEqual(self.messages(watcher, 1), [("will", 1, 0, "taken over")])
        self.publish(paho, "t", 1, ["for the second"])
        self.assertEqual(second.message(), ("t", 1, 0, "for the second"))

    def test_keep_alive(self) -> None:
        """A client that is stopped is given up after one and a half times its keep alive; one that pings is not."""
        watcher = self.subscribe("watcher", "will", keepalive=5)
        paho = Script("with_paho.py")
        will = {"topic": "will", "message": "silent", "qos": 1, "retain": False}
        alive = self.start(paho, "alive", 1, filters=["t"], count=1, keepalive=1)
        silent = self.start(paho, "silent", 1, filters=["t"], count=-1, keepalive=1, will=will)
        for program in (alive, silent):
            program.subscribe()
        silent.process.send_signal(signal.SIGSTOP)
        self.addCleanup(silent.process.send_signal, signal.SIGCONT)
        self.assertEqual(self.messages(watcher, 1), [("will", 1, 0, "silent")])
        self.publish(paho, "t", 1, ["still there"])
        self.assertEqual(alive.message(), ("t", 1, 0, "still there"))

    def test_shared(self) -> None:
        """Of three members of a group each message reaches one, and each member gets some; others get all."""
        members = [self.subscribe(f"member {number}", "$share/group/jobs/#", qos=1) for number in range(3)]
        everything = self.subscribe("everything", "jobs/#", qos=1)
        texts = numbered("job", 60)
        self.publish(self.kind, "jobs/a", 1, texts)
        self.assertEqual([one[3] for one in self.messages(everything, len(texts))], texts)
        seen: dict[int, list[str]] = {0: [], 1: [], 2: []}

        def done() -> bool:
            for number, program in enumerate(members):
                while not program.empty:
                    line = program.line()
                    if line.startswith(b"message "):
                        seen[number].append(line.decode().split(" ", 4)[4])
            return sum(map(len, seen.values())) >= len(texts)

        until(done, "all jobs are taken")
        self.assertEqual(sorted(text for taken in seen.values() for text in taken), sorted(texts))
        for taken in seen.values():
            self.assertGreater(len(taken), 5)
            self.assertEqual(taken, [text for text in texts if text in set(taken)])
