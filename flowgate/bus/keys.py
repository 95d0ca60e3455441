"""What a bucket and a key of the store may look like."""

from __future__ import annotations

import re
from typing import Final

from flowgate.errors import InvalidParameter

MARKER_SECONDS: Final = 24 * 3600
"""How long the bus remembers that a key was removed; a watch that was away for longer compares all keys anyway."""

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_KEY = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9_.-]{0,198}[A-Za-z0-9_-])?\Z")


def check_key(bucket: str, key: str) -> None:
    """Check the names of an entry.

    :raises InvalidParameter: if the key is not 1–200 of ``[A-Za-z0-9_.-]`` without a dot at either end (two dots in
        a row are an empty NATS token, so they are refused too).
    """
    if not _BUCKET.match(bucket):
        raise InvalidParameter("a bucket is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
    if not _KEY.match(key) or ".." in key:
        raise InvalidParameter("a key is 1 to 200 of A-Z, a-z, 0-9, '_', '-' and single dots inside")
