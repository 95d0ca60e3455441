"""Unmodified clients of Server-Sent Events and WebSocket that are cut off, wherever it may be, and miss nothing."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.cutting import CuttingProxy
from tests.integration.gateway import PATIENCE, ROOT, RunningGateway
from tests.integration.programs import Program, find

PROGRAMS = Path(__file__).with_name("stream_programs")

MESSAGES: tuple[Any, ...] = (
    "plain",
    {"a": [1, {"b": None}], "ü": "☃"},
    "two\nlines\r\nand \r a third",
    "ends of lines to some: \u2028 \u2029 \x85 \x0b \x0c",
    "data: no event\n\nid: 9\n\n:\n",
    [],
    '"quoted" \\ \x00 \ufeff 🎉',
    "",
    "x" * 20_000,
    {},
)
"""What is hard to frame."""

CUTS = (0, 40, 600, 731, 1234, 2900, 20_000)
"""After how many bytes connections are cut: before the head of the answer, in it, behind it, in the midst of events."""


class StreamCase(SynchronousTestCase):
    """A gateway, and a proxy before it that cuts."""

    def setUp(self) -> None:
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")
        self.proxy = CuttingProxy(lambda: self.gateway.http)
        self.addCleanup(self.proxy.close)
        self.published: list[tuple[str, Any]] = []

    def publish(self, *messages: Any) -> None:
        """Publish, and remember what readers have to see of it."""
        for message in messages:
            status, answer = self.gateway.request(
                "POST", "/api/v1/publish", {"topic": "t", "message": message}, self.token
            )
            self.assertEqual(status, 200, answer)
            self.published.append((answer["id"], message))


class ClientTests(StreamCase):
    """Programs around libraries."""

    def start(self, name: str, **more: Any) -> Program:
        port = self.proxy.port if "count" in more else self.gateway.http
        request = json.dumps({"http": f"http://127.0.0.1:{port}", "token": self.token, "topic": "t", **more})
        if name.endswith(".cjs"):
            command = ["node", str(PROGRAMS / name), request]
        else:
            command = [sys.executable, "-m", f"tests.integration.stream_programs.{name}", request]
        program = Program(command, ROOT)
        self.addCleanup(program.end)
        return program

    def receive(self, program: Program, count: int) -> list[tuple[str, Any]]:
        """Wait for messages, with their cursors."""
        seen: list[tuple[str, Any]] = []
        while len(seen) < count:
            word, _, rest = program.line().decode().partition(" ")
            if word == "message":
                id_, _, data = rest.partition(" ")
                seen.append((id_, json.loads(data)))
            else:
                self.assertEqual((word, rest), ("open", ""))
        return seen

    def finish(self, program: Program) -> None:
        self.assertEqual(program.process.wait(PATIENCE), 0, "it ends in order")

    def check(self, name: str, library: str = "", cuts: tuple[int, ...] = CUTS) -> None:
        """Publish, receive, be cut off, come back, with a library: each message once, in order, under its cursor."""
        if library and importlib.util.find_spec(library) is None:
            raise SkipTest(f"{library} is not installed")
        rounds = 3
        reader = self.start(name, count=rounds * len(MESSAGES))
        reader.until(b"open")

        publisher = self.start(name, messages=MESSAGES)
        self.published = [(publisher.until(b"published ").decode().partition(" ")[2], one) for one in MESSAGES]
        self.finish(publisher)
        self.assertEqual(self.receive(reader, len(MESSAGES)), self.published)

        self.proxy.cut()
        self.published.clear()
        self.publish(*MESSAGES)
        self.assertEqual(self.receive(reader, len(MESSAGES)), self.published)

        # It comes back in the midst of what is published, and is cut off again and again.
        connections = self.proxy.accepted
        self.proxy.limits.extend(cuts)
        self.published.clear()
        self.publish(*MESSAGES[:5])
        self.proxy.cut()
        self.publish(*MESSAGES[5:])
        self.assertEqual(self.receive(reader, len(MESSAGES)), self.published)
        self.finish(reader)
        self.assertGreater(self.proxy.accepted, connections + max(1, len(cuts) - 3))

        late = self.start(name, since="gone-7", count=1)
        lines = [late.line() for _ in range(3)]
        self.assertEqual(sorted(line[:7] for line in lines), [b"gap", b"message", b"open"])
        self.assertLess(lines.index(b"gap"), 2, "before the first message")
        self.finish(late)

    def test_httpx_sse(self) -> None:
        """httpx-sse."""
        self.check("with_httpx", "httpx_sse")

    def test_sseclient_py(self) -> None:
        """sseclient-py over requests."""
        self.check("with_sseclient", "sseclient")

    def test_launchdarkly_eventsource(self) -> None:
        """launchdarkly-eventsource, which comes back by itself with ``Last-Event-ID``."""
        self.check("with_launchdarkly", "ld_eventsource")

    def test_websockets(self) -> None:
        """The websockets package, with its iterator over connections."""
        self.check("with_websockets")

    def check_npm(self, name: str, cuts: tuple[int, ...] = CUTS) -> None:
        find("node")
        if not (PROGRAMS / "node_modules" / name).exists():
            raise SkipTest(f"{name} is not installed: npm install in tests/integration/stream_programs")
        self.check(f"with_{name}.cjs", cuts=cuts)

    def test_ws(self) -> None:
        """ws of npm."""
        self.check_npm("ws")

    def test_eventsource(self) -> None:
        """eventsource of npm; it comes back after the seconds that the stream says, so it is not cut off as often."""
        self.check_npm("eventsource", (40, 2900))


class CurlTests(StreamCase):
    """``curl -N``, and a loop of the shell around it."""

    def test_cut(self) -> None:
        """curl tells by its exit status that it was cut off; started again with the last id it misses nothing."""
        find("curl")
        url = f"http://127.0.0.1:{self.proxy.port}/api/v1/subscribe?topic=t&last_event_id=earliest"
        self.publish(*MESSAGES)
        self.proxy.limits.extend(CUTS)
        seen: list[tuple[str, Any]] = []
        cut = 0
        while len(seen) < len(MESSAGES):
            last = ["-H", f"Last-Event-ID: {seen[-1][0]}"] if seen else []
            curl = Program(["curl", "-sN", "-H", f"Authorization: Bearer {self.token}", *last, url])
            self.addCleanup(curl.end)
            event: dict[str, str] = {}
            while len(seen) < len(MESSAGES):
                try:
                    line = curl.line().decode()
                except AssertionError:  # it has ended; what it was in the midst of is no event
                    cut += 1
                    self.assertIn(curl.process.wait(PATIENCE), (18, 52, 56))
                    break
                name, _, event[name] = line.partition(": ")
                if not line and "data" in event:
                    seen.append((event["id"], json.loads(event["data"])["data"]))
        self.assertEqual(seen, self.published)
        self.assertGreater(cut, 4)
