"""Bodies of messages: how an entry of the log carries them, and those that are kept at hand."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from typing import Final

MAX_QUEUE_BYTES: Final = 4 * 1024 * 1024
MAX_BYTES: Final = 64 * 1024 * 1024

_LENGTH = struct.Struct(">I")


def join(blobs: Sequence[bytes]) -> bytes:
    """The payload of an entry: each blob behind its length, four bytes."""
    pack = _LENGTH.pack
    return b"".join([part for blob in blobs for part in (pack(len(blob)), blob)])


def split(payload: bytes, index: int) -> bytes | None:
    """The blob number ``index`` of a payload, or ``None`` if there is none."""
    at = 0
    unpack = _LENGTH.unpack_from
    try:
        while index:
            at += 4 + unpack(payload, at)[0]
            index -= 1
        (length,) = unpack(payload, at)
    except struct.error:
        return None
    blob = payload[at + 4 : at + 4 + length]
    return blob if len(blob) == length else None


class Bodies:
    """Payloads that receivers will want soon, within bounds.

    The first come stay, until they are dropped: a queue is read from its beginning.  What there is no room for is read
    from the log.
    """

    def __init__(self, queue_bytes: int = MAX_QUEUE_BYTES, bytes_: int = MAX_BYTES) -> None:
        self._queue_bytes = queue_bytes
        self._bytes = bytes_
        self._held: dict[Hashable, dict[int, bytes]] = {}
        self._sizes: dict[Hashable, int] = {}
        self.total = 0

    def keep(self, queue: Hashable, sequence: int, payload: bytes) -> None:
        size = self._sizes.get(queue, 0) + len(payload)
        if size <= self._queue_bytes and self.total + len(payload) <= self._bytes:
            self._held.setdefault(queue, {})[sequence] = payload
            self._sizes[queue] = size
            self.total += len(payload)

    def get(self, queue: Hashable, sequence: int) -> bytes | None:
        held = self._held.get(queue)
        return None if held is None else held.get(sequence)

    def drop(self, queue: Hashable, sequence: int) -> None:
        held = self._held.get(queue)
        if held is not None:
            payload = held.pop(sequence, None)
            if payload is not None:
                self._sizes[queue] -= len(payload)
                self.total -= len(payload)

    def forget(self, queue: Hashable) -> None:
        """Drop everything of a queue."""
        self._held.pop(queue, None)
        self.total -= self._sizes.pop(queue, 0)
