"""The secrets of an installation: given, found, or made once."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.secrets import admin_token, master_secret
from flowgate.errors import StartError


class SecretTests(SynchronousTestCase):
    """Both secrets follow the same rules."""

    def setUp(self) -> None:
        self.data = Path(self.mktemp())
        self.data.mkdir()
        self.file = self.data / "master.secret"

    def sentence(self, given: str | None = None, file: Path | None = None) -> str:
        sentence = str(self.assertRaises(StartError, master_secret, self.data, given, file))
        self.assertNotIn("\n", sentence)
        return sentence

    def test_made_once(self) -> None:
        """A secret is made at the first start and found at the next; no two are the same."""
        first = master_secret(self.data)
        self.assertEqual(master_secret(self.data), first)
        self.assertGreaterEqual(len(first), 43)  # 32 bytes in base64
        self.assertNotEqual(admin_token(self.data).encode(), first)

    def test_private(self) -> None:
        """The files are their owner's alone, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        master_secret(self.data)
        admin_token(self.data)
        for name in ("master.secret", "admin.token"):
            self.assertEqual((self.data / name).stat().st_mode & 0o777, 0o600)

    def test_whole_or_not_at_all(self) -> None:
        """What is broken off while a secret is written leaves none, and the next start makes one."""

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with mock.patch("os.fsync", full):
            self.assertIn("No space left", self.sentence())
        self.assertFalse(self.file.exists())
        master_secret(self.data)
        self.assertEqual([path.name for path in self.data.iterdir()], ["master.secret"])

    def test_given(self) -> None:
        """A secret of the operator is used as it is, and nothing is written."""
        self.assertEqual(master_secret(self.data, "g" * 32), b"g" * 32)
        self.assertEqual(list(self.data.iterdir()), [])

    def test_mounted(self) -> None:
        """A secret may stand in a file elsewhere, which others may read; nothing is written, there or here."""
        mounted = Path(self.mktemp())
        mounted.write_text("s" * 32 + "\n")
        mounted.chmod(0o444)
        self.assertEqual(master_secret(self.data, None, mounted), b"s" * 32)
        self.assertEqual(admin_token(self.data, file=mounted), "s" * 32)
        self.assertEqual(list(self.data.iterdir()), [])

    def test_wrongly_mounted(self) -> None:
        """A file that is not there or holds something else is named, and not made; a text beside it is refused."""
        mounted = Path(self.mktemp())
        self.assertIn(str(mounted), self.sentence(file=mounted))
        self.assertFalse(mounted.exists())
        mounted.write_text("hunter2")
        self.assertIn("32 to 512", self.sentence(file=mounted))
        self.assertNotIn("hunter2", self.sentence(file=mounted))
        mounted.write_text("s" * 32)
        self.assertIn(str(mounted), self.sentence("g" * 32, mounted))

    def test_weak(self) -> None:
        """A short or odd secret is refused, and not repeated."""
        for weak in ("", "hunter2", "g" * 31, "g" * 32 + "\n", "ü" * 40, "g" * 513):
            sentence = self.sentence(weak)
            self.assertIn("32 to 512", sentence)
            self.assertNotIn("hunter2", sentence)

    def test_open_to_others(self) -> None:
        """A file that others can read is refused, and named."""
        master_secret(self.data)
        for mode in (0o640, 0o604, 0o620):
            self.file.chmod(mode)
            self.assertIn(str(self.file), self.sentence())

    def test_garbage(self) -> None:
        """A file that holds something else is refused, named, and not overwritten."""
        for garbage in (b"", b"\n", b"short", b"\xff" * 64, b"a b" * 20, b"g" * 40 + b"\n" + b"g" * 40):
            self.file.write_bytes(garbage)
            self.file.chmod(0o600)
            self.assertIn(str(self.file), self.sentence())
            self.assertEqual(self.file.read_bytes(), garbage)

    def test_unusable(self) -> None:
        """A directory in its place, or no data directory, is one sentence."""
        self.file.mkdir()
        self.assertIn(str(self.file), self.sentence())
        self.data = self.data / "none"
        self.assertIn("none", self.sentence())
