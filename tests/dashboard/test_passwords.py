"""Passwords and their hashes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.dashboard.passwords import Cost, PasswordHash, check_password
from flowgate.errors import InvalidParameter
from tests.dashboard.case import CHEAP, PASSWORD


class HashTests(SynchronousTestCase):
    """What is stored."""

    def test_fits(self) -> None:
        """The password fits, after the hash was stored and read too; no other one does."""
        stored = PasswordHash.of(PASSWORD, CHEAP)
        read = PasswordHash.from_members(stored.members())
        self.assertEqual(read, stored)
        self.assertTrue(read.fits(PASSWORD))
        for other in (PASSWORD + " ", PASSWORD.upper(), "", "\ud800"):
            self.assertFalse(read.fits(other))

    def test_composed(self) -> None:
        """A letter with an accent is the same, whether it is one character or two."""
        self.assertTrue(PasswordHash.of("ein schönes Wort", CHEAP).fits("ein scho\u0308nes Wort"))

    def test_salted(self) -> None:
        """The same password has another hash each time, and neither contains it."""
        one, other = (PasswordHash.of(PASSWORD, CHEAP) for _ in range(2))
        self.assertNotEqual(one.digest, other.digest)
        self.assertNotIn(PASSWORD, repr(one) + str(one.members()))

    def test_dear(self) -> None:
        """The hash of a new password costs what OWASP asks of scrypt with 32 MiB."""
        self.assertEqual(Cost(), Cost(2**15, 8, 3))

    def test_damaged(self) -> None:
        """A stored hash of another shape, or one that would cost too much, is refused."""
        good = PasswordHash.of(PASSWORD, CHEAP).members()
        for wrong in (
            {"scrypt": [2**25, 8, 1]},
            {"scrypt": [2, 1]},
            {"scrypt": [0, 1, 1]},
            {"digest": "AAAA"},
            {"salt": "?"},
        ):
            with self.assertRaises((ValueError, TypeError)):
                PasswordHash.from_members({**good, **wrong})


class RuleTests(SynchronousTestCase):
    """What a password may be."""

    def test_allowed(self) -> None:
        """Length is what counts: any characters, in any language, from 12 to 128."""
        for good in (PASSWORD, "пароль из слов", "a b c d e f g", "x1" * 60 + "ypqr"):
            check_password(good, "alice")

    def test_refused(self) -> None:
        """What is too short or long, or is guessed at once, is not taken."""
        for bad in ("short", "a" * 20, "abababababab", "x1y" * 43, "alicealicealice", "AliceAliceAlice"):
            with self.assertRaises(InvalidParameter):
                check_password(bad, "alice")
