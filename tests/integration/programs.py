"""Programs of other makers that tests talk to a gateway with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.gateway import PATIENCE


def find(*names: str) -> None:
    """:raises SkipTest: if a program is not installed."""
    for name in names:
        if shutil.which(name) is None:
            raise SkipTest(f"{name} is not installed")


class Program:
    """A program that runs; what it prints can be waited for line by line."""

    def __init__(
        self,
        command: list[str] | str,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        with_errors: bool = False,
    ) -> None:
        """Start it.

        :param command: a shell's command line if it is a text.
        :param with_errors: whether its errors are among the lines.
        """
        self.process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if with_errors else subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # so that what a shell has started ends with it
        )
        self._lines: Queue[bytes | None] = Queue()
        self._reading = Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip(b"\n"))
        self._lines.put(None)

    def line(self) -> bytes:
        """Wait for the next line."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"{self.process.args!r} prints nothing more") from None
        if line is None:
            self._lines.put(None)
            raise AssertionError(f"{self.process.args!r} has ended: {self.errors()}")
        return line

    @property
    def empty(self) -> bool:
        """Whether there is no line to be taken now."""
        return self._lines.empty()

    def until(self, mark: bytes) -> bytes:
        """Wait for a line that contains ``mark``."""
        while mark not in (line := self.line()):
            pass
        return line

    def errors(self) -> str:
        """What it wrote to its standard error, once it has ended."""
        stream = self.process.stderr
        return "" if stream is None else stream.read().decode("utf-8", "replace")

    def end(self) -> None:
        """End it if it still runs, and wait for that."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(PATIENCE)
        self._reading.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def run(
    command: list[str] | str, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a program to its end; return exit status, output and errors."""
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def check_lines(test: SynchronousTestCase, mosquitto: Callable[..., list[str]], count: int) -> None:
    """mosquitto_pub sends many lines at QoS 1, mosquitto_sub gets each once, in order, and ends by itself.

    :param mosquitto: makes the command that runs one of the two with further options.
    """
    find("mosquitto_pub", "mosquitto_sub", "stdbuf")
    options = ("-t", "lines", "-q", "1", "-C", str(count), "-d")
    subscriber = Program(["stdbuf", "-oL", *mosquitto("mosquitto_sub", *options)])
    test.addCleanup(subscriber.end)
    subscriber.until(b"received SUBACK")
    publisher = " ".join(mosquitto("mosquitto_pub", "-t", "lines", "-q", "1", "-l"))
    test.assertEqual(run(f"seq {count} | {publisher}"), (0, "", ""))
    seen: list[int] = []
    while len(seen) < count:
        line = subscriber.line()
        if line.isdigit():
            seen.append(int(line))
    test.assertEqual(seen, list(range(1, count + 1)))
    test.assertEqual(subscriber.process.wait(PATIENCE), 0)
