"""The text of an API key: ``<key id>.<secret>``."""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import b32encode

_KEY = re.compile(r"(FGAK[A-Z2-7]{16})\.([A-Za-z0-9]{40})\Z")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_DIGITS = 40


def new_key_id() -> str:
    """An id for a key."""
    return "FGAK" + b32encode(secrets.token_bytes(10)).decode()


def parts_of(text: str) -> tuple[str, str]:
    """The id and the secret that ``text`` consists of; those of no key if it is none."""
    found = _KEY.match(text)
    return (found[1], found[2]) if found else ("FGAK", "")


def secret_of(master: bytes, key_id: str) -> str:
    """The secret that belongs to an id: derived from the master secret, so nothing secret is stored per key."""
    digest = hmac.digest(master, b"flowgate api key 1:" + key_id.encode(), "sha512")
    number = int.from_bytes(digest, "big")
    digits = []
    for _ in range(_SECRET_DIGITS):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(digits)
