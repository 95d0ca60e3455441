"""Passwords, kept as scrypt hashes (RFC 7914)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any
from unicodedata import normalize

import attrs

from flowgate.errors import InvalidParameter

SHORTEST, LONGEST = 12, 128
"""Characters of a password.  Length is what counts (NIST SP 800-63B section 5.1.1.2): nothing else is asked of it."""

_SALT_BYTES, _HASH_BYTES = 16, 32
_MOST_MEMORY = 256 * 1024 * 1024


@attrs.frozen(slots=True)
class Cost:
    """What one hash costs: about ``128 * n * r`` bytes, and that work ``p`` times (RFC 7914 section 2)."""

    n: int = 2**15
    r: int = 8
    p: int = 3

    def __attrs_post_init__(self) -> None:
        # A stored record could ask for all memory there is.
        if not (self.n > 1 and self.r > 0 and 0 < self.p <= 16 and 128 * self.n * self.r * 2 <= _MOST_MEMORY):
            raise ValueError("no cost of scrypt that is paid here")


@attrs.frozen(slots=True)
class PasswordHash:
    """What is stored of a password."""

    cost: Cost
    salt: bytes = attrs.field(repr=False)
    digest: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, password: str, cost: Cost) -> PasswordHash:
        """Hash a password: slow, so not for the reactor's thread."""
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls(cost, salt, _scrypt(password, salt, cost))

    @classmethod
    def nobodys(cls, cost: Cost) -> PasswordHash:
        """One that no password is known to fit, at once: to try it costs as much as any other."""
        return cls(cost, secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES))

    def fits(self, password: str) -> bool:
        """Whether this is the password: slow, so not for the reactor's thread."""
        return hmac.compare_digest(_scrypt(password, self.salt, self.cost), self.digest)

    def members(self) -> dict[str, object]:
        return {
            "scrypt": [self.cost.n, self.cost.r, self.cost.p],
            "salt": b64encode(self.salt).decode(),
            "digest": b64encode(self.digest).decode(),
        }

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> PasswordHash:
        """Read what :meth:`members` gave.

        :raises ValueError, TypeError, KeyError: if it is something else.
        """
        n, r, p = members["scrypt"]
        digest = b64decode(members["digest"], validate=True)
        if len(digest) != _HASH_BYTES:
            raise ValueError("no digest of ours")
        return cls(Cost(n, r, p), b64decode(members["salt"], validate=True), digest)


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    return hashlib.scrypt(
        # The same text, whichever way a keyboard composes its letters (NIST SP 800-63B section 5.1.1.2).
        normalize("NFKC", password).encode("utf-8", "surrogatepass"),
        salt=salt,
        n=cost.n,
        r=cost.r,
        p=cost.p,
        maxmem=_MOST_MEMORY,
        dklen=_HASH_BYTES,
    )


def check_password(password: str, user: str) -> None:
    """Check a new password.

    :raises InvalidParameter: if it is too short, too long, or made of the user's name or of one character.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidParameter(f"a password has {SHORTEST} to {LONGEST} characters")
    plain = password.lower()
    if len(set(plain)) < 4 or not plain.replace(user, "").strip():
        raise InvalidParameter("a password of so few different characters, or of the user's name, is guessed at once")
