"""Our nats-server child: started, restarted, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from flowgate.bus import launcher, server
from flowgate.bus.bridge import NatsConnection
from flowgate.bus.kv import JetStreamStore
from flowgate.bus.server import NatsServer, ServerConfig, command_line, find_server
from flowgate.errors import StartError
from tests.integration.away import Away

reactor = IReactorTime(_reactor)

_GATEWAY = """
import pathlib, sys
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from flowgate.bus.server import NatsServer
server = NatsServer(reactor, pathlib.Path(sys.argv[1]))
reactor.callWhenRunning(lambda: server.start().addCallback(lambda _: print(server.pid, server.url, flush=True)))
reactor.run()
"""


class _Lines(ProcessProtocol):
    """A child process whose first line of output, and end, can be waited for."""

    def __init__(self) -> None:
        self.line: Deferred[str] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self._text = b""

    def outReceived(self, data: bytes) -> None:
        self._text += data
        if b"\n" in self._text and not self.line.called:
            self.line.callback(self._text.partition(b"\n")[0].decode())

    def processEnded(self, reason: Failure) -> None:
        if not self.line.called:
            self.line.errback(reason)
        self.ended.callback(None)


class NatsServerTests(TestCase):
    """One server in a directory of its own."""

    timeout = 40

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()

    def server(self, durability: str = "os", program: str | None = None) -> NatsServer:
        made = NatsServer(_reactor, self.directory, durability, program=program)
        self.addCleanup(made.stop)
        return made

    async def connect(self, url: str) -> NatsConnection:
        connection = NatsConnection([url])
        self.addCleanup(connection.stop)
        await connection.start()
        return connection

    async def refused(self, made: NatsServer) -> str:
        """Start ``made``, which must fail.

        :returns: the sentence for the operator.
        """
        try:
            await made.start()
        except StartError as error:
            return str(error)
        self.fail("it started")

    async def gone(self, pid: int) -> None:
        while command_line(pid):
            await deferLater(reactor, 0.01)

    def spawn(self, *command: str) -> tuple[_Lines, int]:
        protocol = _Lines()
        transport = _reactor.spawnProcess(
            protocol, command[0], command, env=os.environ, childFDs={0: "w", 1: "r", 2: 2}
        )

        def end() -> Deferred[None]:
            if not protocol.ended.called:
                transport.signalProcess("KILL")
            return protocol.ended

        self.addCleanup(end)
        return protocol, transport.pid

    def script(self, text: str) -> str:
        path = Path(self.mktemp()).absolute()
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    async def test_ready(self) -> None:
        """When the start is done, clients can connect, and JetStream stores, with either durability."""
        for durability in ("os", "fsync"):
            made = self.server(durability)
            await made.start()
            connection = await self.connect(made.url)
            store = JetStreamStore(connection)
            await store.put("FG_TEST", durability, b"x")
            self.assertIsNotNone(await store.get("FG_TEST", durability))
            await connection.stop()
            await made.stop()

    async def test_token_is_needed(self) -> None:
        """A client without the token is refused."""
        made = self.server()
        await made.start()
        token, _, address = made.url.removeprefix("nats://").partition("@")
        self.assertEqual(len(token), 48)
        stranger = NatsConnection([f"nats://{address}"])
        self.addCleanup(stranger.stop)
        waiting = stranger.start()
        waiting.addErrback(lambda _: None)
        await self.connect(made.url)
        self.assertFalse(stranger.available)
        waiting.cancel()

    async def test_files(self) -> None:
        """Everything lies in the directory; nobody else may look into it."""
        made = self.server()
        await made.start()
        names = {path.name for path in self.directory.iterdir()}
        self.assertLessEqual({"nats-server.conf", "nats-server.log", "nats-server.pid", "lock"}, names)
        self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)
        self.assertNotIn(made.url.split("@")[0][7:], (self.directory / "nats-server.log").read_text())

    async def test_stop(self) -> None:
        """After the stop the process is gone; stopping again does nothing, and it can be started anew."""
        made = self.server()
        await made.start()
        pid = made.pid
        assert pid is not None
        await made.stop()
        self.assertEqual(command_line(pid), "")
        self.assertIsNone(made.pid)
        await made.stop()
        await made.start()
        self.assertNotEqual(made.pid, None)

    async def test_stop_during_start(self) -> None:
        """A stop during the start makes the start fail, and leaves nothing."""
        made = self.server()
        failed = self.assertFailure(made.start(), StartError)
        while made.pid is None:
            await deferLater(reactor, 0)
        pid = made.pid
        await made.stop()
        await failed
        self.assertEqual(command_line(pid), "")

    async def test_restart(self) -> None:
        """A server that is killed is started again under the same URL, with what it had acknowledged."""
        made = self.server()
        await made.start()
        connection = await self.connect(made.url)
        store = JetStreamStore(connection)
        for number in range(100):
            await store.put("FG_TEST", str(number), b"%d" % number)
        url, pid = made.url, made.pid
        away = Away(made, connection)
        await away.kill()
        await away.back()
        self.assertEqual(made.url, url)
        self.assertNotEqual(made.pid, pid)
        for number in range(100):
            entry = await store.get("FG_TEST", str(number))
            self.assertEqual(entry and entry.value, b"%d" % number)

    async def test_stop_between_restarts(self) -> None:
        """A stop while a restart is due ends the matter."""
        made = self.server()
        await made.start()
        pid = made.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while made.pid == pid:
            await deferLater(reactor, 0)
        await made.stop()
        self.assertIsNone(made.pid)

    async def test_does_not_end(self) -> None:
        """A server that does not follow SIGTERM is killed."""
        self.patch(server, "GRACE_SECONDS", 0.2)
        made = self.server()
        await made.start()
        pid = made.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await made.stop()
        self.assertEqual(command_line(pid), "")

    async def test_second_gateway(self) -> None:
        """A second one in the same directory is refused and does no harm."""
        made = self.server()
        await made.start()
        pid = made.pid
        await self.assertFailure(self.server().start(), StartError)
        self.assertEqual(made.pid, pid)
        await self.connect(made.url)

    async def test_gateway_is_killed(self) -> None:
        """After kill -9 of the process that runs the server, the server ends too."""
        gateway, gateway_pid = self.spawn(sys.executable, "-c", _GATEWAY, str(self.directory))
        pid = int((await gateway.line).split()[0])
        self.assertIn("nats-server", command_line(pid))
        os.kill(gateway_pid, signal.SIGKILL)
        await gateway.ended
        await self.gone(pid)
        # And the next gateway can have the directory.
        made = self.server()
        await made.start()

    async def test_stale_server(self) -> None:
        """A nats-server that was left behind all the same is ended before the new one starts."""
        config = ServerConfig(self.directory, "os", "token")
        self.directory.mkdir()
        config.write()
        stale, stale_pid = self.spawn(find_server(os.environ["PATH"]), "-c", str(config.file))
        while not config.pid_file.exists() or config.pid_file.read_text() != str(stale_pid):
            await deferLater(reactor, 0.01)
        made = self.server()
        await made.start()
        self.assertTrue(stale.ended.called)
        self.assertNotEqual(made.pid, stale_pid)
        stale.line.addErrback(lambda _: None)

    async def test_foreign_process(self) -> None:
        """A process that only has the old process id is left alone."""
        self.directory.mkdir()
        bystander, pid = self.spawn("/bin/sh", "-c", "echo; exec cat")
        await bystander.line
        ServerConfig(self.directory, "os", "token").pid_file.write_text(str(pid))
        await self.server().start()
        self.assertFalse(bystander.ended.called)

    async def test_cannot_start(self) -> None:
        """A program that is missing, no program, too old, or ends at once is one sentence, and nothing stays locked."""
        for program, words in (
            ("/nonexistent/nats-server", "nats-server"),
            (self.script("echo nats-server: v2.10.4"), "version v2.10.4"),
            (self.script("echo hello"), "does not say its version"),
            (
                self.script('[ "$1" = --version ] && echo v2.15.1 || { echo "cannot do it" >&2; exit 3; }'),
                "cannot do it",
            ),
        ):
            sentence = await self.refused(self.server(program=program))
            self.assertIn(words, sentence)
            self.assertNotIn("\n", sentence)
        await self.server().start()

    async def test_not_ready(self) -> None:
        """A program that never becomes ready is given up and ended."""
        self.patch(server, "READY_SECONDS", 0.2)
        self.patch(server, "GRACE_SECONDS", 0.2)
        made = self.server(program=self.script('[ "$1" = --version ] && echo v2.15.1 || exec sleep 1000'))
        self.assertIn("not ready", await self.refused(made))
        self.assertIsNone(made.pid)


class LauncherTests(TestCase):
    """The two ways to bind a program to its parent's life."""

    timeout = 20

    def watched(self, shell: str) -> subprocess.Popen[str]:
        code = f"import runpy; runpy.run_path({launcher.__file__!r})['watch'](['/bin/sh', '-c', {shell!r}])"
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_watch_ends_with_input(self) -> None:
        """Without the kernel's help: the program ends when the pipe from the parent does."""
        process = self.watched("echo $$; exec sleep 1000")
        assert process.stdin is not None and process.stdout is not None
        pid = int(process.stdout.readline())
        process.stdin.close()
        process.stdin = None
        process.wait()
        self.assertEqual(command_line(pid), "")

    def test_watch_passes_sigterm_on(self) -> None:
        """Without the kernel's help: SIGTERM to the launcher ends the program."""
        process = self.watched("echo $$; exec sleep 1000")
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.terminate()
        process.wait()
        self.assertEqual(command_line(pid), "")

    def test_parent_already_gone(self) -> None:
        """With the kernel's help: a parent that died before the request counts too."""
        if sys.platform != "linux":
            raise SkipTest("Linux only")
        done = subprocess.run(
            [sys.executable, launcher.__file__, "1", "/bin/echo", "ran"], capture_output=True, check=False
        )
        self.assertEqual((done.returncode, done.stdout), (1, b""))
