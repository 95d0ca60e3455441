"""Compressed messages (permessage-deflate, RFC 7692), each one by itself.

Both sides go without context takeover.  So the bytes of a message are the same for every subscriber, and a connection
keeps no window between messages.  Pure: no Twisted, no clock.

Autobahn negotiates, and puts fragments together.  Inflating is done here, because its bound is the gateway's safety:
Autobahn's own was not kept by versions before 26.7.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

from flowgate.websocket.frames import frame, text_frame

COMPRESSED_TEXT: Final = 0xC1
"""The first byte of a whole compressed text message: FIN, RSV1, and the opcode (RFC 7692 section 6)."""

WINDOW_BITS: Final = 12
"""What is sent needs no larger window than 4 KiB; a compressor with the largest one costs ten times as much to make."""
LEAST: Final = 128
"""Bytes of a message from which on it is compressed."""

BAD_PAYLOAD: Final = 1007
TOO_BIG: Final = 1009

_LEVEL, _MEMORY = 1, 5
_TAIL = b"\x00\x00\xff\xff"  # stands behind every message, and is not sent (RFC 7692 section 7.2.1)
_CLIENT_WINDOW_BITS = 15  # what a client may use that was not told otherwise


class NotInflated(Exception):
    """A compressed message that is malformed, or becomes too large.

    :ivar code: the close code for it.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def deflate(payload: bytes) -> bytes:
    """Compress a message (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -WINDOW_BITS, _MEMORY)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def deflated_frame(payload: bytes) -> bytes:
    """``payload`` as one text frame, compressed if that makes it smaller."""
    if len(payload) >= LEAST:
        compressed = deflate(payload)
        if len(compressed) < len(payload):
            return frame(COMPRESSED_TEXT, compressed)
    return text_frame(payload)


class Inflater:
    """Inflates the parts of a message, and makes no more of them than ``most`` bytes."""

    __slots__ = ("_left", "_stream")

    def __init__(self, most: int) -> None:
        self._left = most
        self._stream = zlib.decompressobj(-_CLIENT_WINDOW_BITS)

    def inflate(self, data: bytes) -> bytes:
        """:raises NotInflated: if the message is malformed, or too large."""
        stream = self._stream
        try:
            found = stream.decompress(data, self._left + 1)  # one more than allowed: 0 would mean no bound
        except zlib.error:
            raise NotInflated(BAD_PAYLOAD, "not a compressed message") from None
        self._left -= len(found)
        if self._left < 0 or stream.unconsumed_tail:
            raise NotInflated(TOO_BIG, "the message is too large")
        return found

    def end(self) -> bytes:
        """The rest of the message.

        :raises NotInflated: if the message is malformed, or too large.
        """
        found = self.inflate(_TAIL)
        # A last block may be marked as such; nothing but an empty one stands behind it (section 7.2.3.4).
        if self._stream.unused_data.removeprefix(b"\x00") not in (b"", _TAIL):
            raise NotInflated(BAD_PAYLOAD, "something stands behind the end of the compressed data")
        return found


def inflate(data: bytes, most: int) -> bytes:
    """Inflate a whole message.

    :param most: bytes that it may have.
    :raises NotInflated: if the message is malformed, or too large.
    """
    inflater = Inflater(most)
    return inflater.inflate(data) + inflater.end()


class Messages:
    """What Autobahn has messages inflated by; in the place of its own ``PerMessageDeflate``, whose names these are."""

    EXTENSION_NAME = "permessage-deflate"

    __slots__ = ("_fail", "_inflater", "_most")

    def __init__(self, most: int, fail: Callable[[int, str], None]) -> None:
        """Be ready.

        :param most: bytes that a message may have.
        :param fail: is called with close code and reason for a message that is refused; the rest of it is empty.
        """
        self._most = most
        self._fail = fail
        self._inflater: Inflater | None = None

    def start_decompress_message(self) -> None:
        self._inflater = Inflater(self._most)

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> bytes:
        """:param max_output_len: Autobahn's bound, since 26.7; ours is the same."""
        if self._inflater is None:
            return b""
        try:
            return self._inflater.inflate(data)
        except NotInflated as error:
            self._inflater = None
            self._fail(error.code, str(error))
            return b""

    def end_decompress_message(self) -> None:
        inflater, self._inflater = self._inflater, None  # it would keep its window
        if inflater is None:
            return
        try:
            if inflater.end():
                raise NotInflated(BAD_PAYLOAD, "the compressed data ends within a block")
        except NotInflated as error:
            self._fail(error.code, str(error))
