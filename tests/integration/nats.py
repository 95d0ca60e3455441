"""A nats-server of a test's own: loopback, a free port, a store that goes with the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SkipTest, TestCase

_CONFIG = """
listen: "127.0.0.1:{port}"
{extra}
"""


def find_server() -> str:
    """The nats-server beside this Python, or on the PATH."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    if found is None:
        raise SkipTest("nats-server is not installed")
    return found


class NatsServer:
    """One server process; :meth:`kill` and :meth:`start` keep port and store."""

    def __init__(self, directory: Path, extra: str = "", jetstream: bool = True) -> None:
        self._directory = directory
        self._extra = extra
        self.store = directory / "store"
        if jetstream:
            self._extra += f'\njetstream: {{ store_dir: "{self.store}" }}'
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start, and wait until the port is known."""
        ports = self._directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        config = self._directory / "nats.conf"
        config.write_text(_CONFIG.format(port=self.port or -1, extra=self._extra))
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_server(), "-c", str(config), "--ports_file_dir", str(ports)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            for file in ports.glob("*.ports"):
                try:
                    listens = json.loads(file.read_text())
                except ValueError:
                    continue  # half written
                self.port = int(listens["nats"][0].rpartition(":")[2])
                return
            time.sleep(0.005)  # before the reactor runs; nothing else waits for this process
        raise AssertionError("nats-server does not start: " + (self._directory / "log").read_text()[-500:])

    def freeze(self) -> None:
        """Stop the process without ending it; return when it has stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def nats_server(test: TestCase, extra: str = "", *, jetstream: bool = True) -> NatsServer:
    """Start a server that ends with ``test``.

    :param extra: further lines of its configuration file.
    """
    directory = Path(tempfile.mkdtemp(prefix="flowgate-nats-"))
    test.addCleanup(shutil.rmtree, directory, ignore_errors=True)
    server = NatsServer(directory, extra, jetstream)
    test.addCleanup(server.kill)
    server.start()
    return server
