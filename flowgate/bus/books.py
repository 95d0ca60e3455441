"""What books, their owners and their entries may be called, and how large an entry may be."""

from __future__ import annotations

import re
from typing import Final

from flowgate.errors import InvalidParameter, MessageTooLarge

MAX_VALUE: Final = 8 * 1024
"""Bytes of the largest entry."""

MAX_PAGE: Final = 1000
"""Entries of the longest page."""

_BOOK = re.compile(r"[a-z-]{1,32}\Z")
# Each is one token of a NATS subject as it stands.
_NAME = re.compile(r"[A-Za-z0-9_:-]{1,128}\Z")


def _check_book(book: str) -> None:
    if not _BOOK.match(book):
        raise InvalidParameter("a book is 1 to 32 of a-z and '-'")


def _check_name(kind: str, name: str) -> None:
    if not _NAME.match(name):
        raise InvalidParameter(f"the {kind} of an entry is 1 to 128 of A-Z, a-z, 0-9, '_', ':' and '-'")


def check_entry(book: str, owner: str, entry_id: str, value: bytes) -> None:
    """Check what is to be appended.

    :raises InvalidParameter: if a name is not allowed.
    :raises MessageTooLarge: if ``value`` has more than :data:`MAX_VALUE` bytes.
    """
    _check_book(book)
    _check_name("owner", owner)
    _check_name("id", entry_id)
    if len(value) > MAX_VALUE:
        raise MessageTooLarge(f"an entry of a book has at most {MAX_VALUE} bytes")


def check_page(book: str, owner: str, limit: int) -> None:
    """Check what is to be read; an empty ``owner`` is allowed.

    :raises InvalidParameter: if a name or ``limit`` is not.
    """
    _check_book(book)
    if owner:
        _check_name("owner", owner)
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidParameter(f"a page of a book has 1 to {MAX_PAGE} entries")
