"""The NATS client protocol as bytes, without Twisted.

One pass over what one read brought gives all its messages.  Headers stay raw: most are never looked at.
See https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias
from urllib.parse import quote

import attrs

from flowgate.errors import ProtocolViolation

Message: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes]
"""Subscription id, subject, reply subject, raw headers, payload; what is absent is empty.  A plain tuple: it is made
once per message, and this is where the time goes."""

MAX_LINE_BYTES = 256 * 1024
"""Longest control line taken from a server; an INFO that lists a large cluster is the longest there is."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message taken from a server, headers included: the most that a NATS server can be configured to pass."""

MAX_HEADER_VALUE = 256
"""Longest value that :func:`header_value` makes, in characters."""

PING = b"PING\r\n"
PONG = b"PONG\r\n"
HEADER_LINE = b"NATS/1.0\r\n"


@attrs.frozen(slots=True)
class Info:
    """The server's description of itself, as its JSON says it."""

    members: dict[str, Any]


@attrs.frozen(slots=True)
class Ping:
    """The server asks for a PONG."""


@attrs.frozen(slots=True)
class Pong:
    """The server has read everything up to our PING."""


@attrs.frozen(slots=True)
class Ok:
    """The server has accepted a line; sent in verbose mode only."""


@attrs.frozen(slots=True)
class ServerError:
    """The server refuses something; it closes the connection after most of these."""

    text: str


Control: TypeAlias = Info | Ping | Pong | Ok | ServerError
_PLAIN = re.compile(r"[!-$&-~]*")  # printable ASCII without space and '%'
_PING, _PONG, _OK = Ping(), Pong(), Ok()


class Decoder:
    """Takes a server's bytes as they come, in pieces of any size."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._held = 0
        self._needed = 0  # so many bytes must be there before looking again makes sense

    def feed(self, data: bytes) -> tuple[list[Message], list[Control]]:
        """Take what one read brought.

        :returns: the messages and the other things that are whole now, each in order.
        :raises ProtocolViolation: if the bytes are not the NATS protocol; no further call makes sense.
        """
        if self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return [], []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._held = 0
        messages: list[Message] = []
        controls: list[Control] = []
        try:
            rest = self._parse(data, messages, controls)
        except (ValueError, IndexError):
            raise ProtocolViolation("the server sent a malformed line") from None
        if rest < len(data):
            self._chunks.append(data[rest:])
            self._held = len(data) - rest
        return messages, controls

    def _parse(self, data: bytes, messages: list[Message], controls: list[Control]) -> int:
        """Parse all that is whole; return the place of the first byte that is not."""
        position, end = 0, len(data)
        find, append = data.find, messages.append
        while True:
            eol = find(b"\r\n", position)
            if eol < 0:
                if end - position > MAX_LINE_BYTES:
                    raise ProtocolViolation("the server sent an endless line")
                self._needed = 0
                return position
            first = data[position]
            if first == 0x4D and data.startswith(b"MSG ", position):  # M
                arguments = data[position + 4 : eol].split()
                start = eol + 2
                stop = start + int(arguments[-1])
                if stop + 2 > end or stop < start:
                    self._incomplete(position, start, stop)
                    return position
                count = len(arguments)
                if count == 3:
                    append((arguments[1], arguments[0], b"", b"", data[start:stop]))
                elif count == 4:
                    append((arguments[1], arguments[0], arguments[2], b"", data[start:stop]))
                else:
                    raise ProtocolViolation("the server sent a malformed MSG")
            elif first == 0x48 and data.startswith(b"HMSG ", position):  # H
                arguments = data[position + 5 : eol].split()
                start = eol + 2
                stop = start + int(arguments[-1])
                body = start + int(arguments[-2])
                if not start <= body <= stop:
                    raise ProtocolViolation("the server sent an HMSG whose headers are larger than itself")
                if stop + 2 > end:
                    self._incomplete(position, start, stop)
                    return position
                count = len(arguments)
                if count == 4:
                    append((arguments[1], arguments[0], b"", data[start:body], data[body:stop]))
                elif count == 5:
                    append((arguments[1], arguments[0], arguments[2], data[start:body], data[body:stop]))
                else:
                    raise ProtocolViolation("the server sent a malformed HMSG")
            else:
                controls.append(_control(data[position:eol]))
                position = eol + 2
                continue
            if data[stop] != 0x0D or data[stop + 1] != 0x0A:
                raise ProtocolViolation("the server sent a message that is longer than it says")
            position = stop + 2

    def _incomplete(self, position: int, start: int, stop: int) -> None:
        if not 0 <= stop - start <= MAX_MESSAGE_BYTES:
            raise ProtocolViolation("the server sent a message of an impossible size")
        self._needed = stop + 2 - position


def _control(line: bytes) -> Control:
    verb = line[:5].rstrip().upper()
    if verb == b"PING":
        return _PING
    if verb == b"PONG":
        return _PONG
    if verb == b"+OK":
        return _OK
    if verb == b"-ERR":
        return ServerError(line[5:].decode("utf-8", "replace").strip(" '"))
    if verb == b"INFO":
        members = json.loads(line[5:])
        if isinstance(members, dict):
            return Info(members)
    raise ProtocolViolation("the server sent an unknown line")


def connect(options: Mapping[str, object]) -> bytes:
    """A CONNECT line."""
    return b"CONNECT " + json.dumps(options, separators=(",", ":")).encode() + b"\r\n"


def subscribe(subject: str, sid: int) -> bytes:
    """A SUB line."""
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    """An UNSUB line."""
    return f"UNSUB {sid}\r\n".encode()


def header_value(text: str) -> str:
    """``text`` as a header's value: different texts stay different, and none ends its line.

    Headers are trimmed on their way, so spaces are escaped too; a very long text is replaced by its hash.
    """
    if not _PLAIN.fullmatch(text):
        text = quote(text, safe="", errors="surrogatepass")
    if len(text) > MAX_HEADER_VALUE:
        text = "%" + hashlib.blake2b(text.encode()).hexdigest()
    return text


def headers(pairs: Iterable[tuple[str, str]]) -> bytes:
    """A block of headers; the values must not hold line ends."""
    return HEADER_LINE + "".join(f"{name}: {value}\r\n" for name, value in pairs).encode() + b"\r\n"


def publish(subject: bytes, payload: bytes, reply: bytes = b"", head: bytes = b"") -> bytes:
    """One message: PUB, or HPUB if there are headers."""
    if reply:
        subject = b"%b %b" % (subject, reply)
    if head:
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(head), len(head) + len(payload), head, payload)
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)


def header(raw: bytes, name: bytes) -> bytes:
    """The value of the first header called ``name`` (spelt just so), or nothing."""
    start = raw.find(b"\r\n%b:" % name)
    if start < 0:
        return b""
    start += len(name) + 3
    return raw[start : raw.find(b"\r\n", start)].strip()


def status(raw: bytes) -> int:
    """The status code in a block of headers, or 0."""
    code = raw[9:12]
    return int(code) if raw.startswith(b"NATS/1.0 ") and code.isdigit() else 0


def stored_sequence(raw: bytes) -> int:
    """Sequence of a message that the stream republished or gave back, at a third of the cost of :func:`stored_at`.

    :raises ProtocolViolation: if the headers do not say so.
    """
    start = raw.find(b"\r\nNats-Sequence: ") + 17
    try:
        return int(raw[start : raw.find(b"\r\n", start)])
    except ValueError:
        raise ProtocolViolation("the server sent a stored message without its place") from None


def stored_at(raw: bytes) -> tuple[int, int]:
    """Sequence and time (nanoseconds since 1970 UTC) of a message that the stream republished or gave back.

    :raises ProtocolViolation: if the headers do not say so.
    """
    start = raw.find(b"\r\nNats-Sequence: ") + 17
    end = raw.find(b"\r\n", start)
    try:
        sequence = int(raw[start:end])
        if raw.startswith(b"\r\nNats-Time-Stamp: ", end):
            start = end + 19
            return sequence, nanoseconds(raw[start : raw.find(b"\r\n", start)])
        return sequence, nanoseconds(header(raw, b"Nats-Time-Stamp"))
    except ValueError:
        raise ProtocolViolation("the server sent a stored message without its place") from None


def nanoseconds(timestamp: bytes) -> int:
    """Read an RFC 3339 time in UTC, as NATS writes it.

    :returns: nanoseconds since 1970 UTC.
    :raises ValueError: if it is something else.
    """
    fraction = timestamp[20:-1]
    whole = _second(timestamp[:19]) * 1_000_000_000
    return whole + int(fraction.ljust(9, b"0")[:9]) if fraction else whole


@lru_cache(maxsize=64)
def _second(text: bytes) -> int:
    # b"2026-01-02T03:04:05"; cached because neighbours in a stream share it
    return calendar.timegm(
        (int(text[0:4]), int(text[5:7]), int(text[8:10]), int(text[11:13]), int(text[14:16]), int(text[17:19]))
    )
