"""RFC 6455 for a client: the handshake, the bytes of a connection to events, and frames to masked bytes.

Pure: randomness comes in, and the events depend on the bytes alone, not on how they were divided.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from enum import Enum
from hashlib import sha1

import attrs

from flowgate.client import http
from flowgate.errors import MessageTooLarge, ProtocolViolation

LARGEST = 16 * 1024 * 1024
"""Most bytes of one message from the gateway: more than it sends with the largest ``limits.message_bytes`` in use."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_CONTINUATION, _TEXT, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x8, 0x9, 0xA
_NO_CODE = 1005  # section 7.4.1: the close frame had none


@attrs.frozen(slots=True)
class Opened:
    """The handshake is done."""


@attrs.frozen(slots=True)
class Text:
    """A whole message; that it is UTF-8 is for its reader to find."""

    data: bytes


@attrs.frozen(slots=True)
class Ping:
    """To be answered by a pong with the same payload."""

    payload: bytes


@attrs.frozen(slots=True)
class Pong:
    payload: bytes


@attrs.frozen(slots=True)
class Closing:
    """The peer has sent its close frame; nothing comes behind it."""

    code: int
    reason: str


Event = Opened | http.Answer | Text | Ping | Pong | Closing
"""What the bytes of a connection mean; an :class:`~flowgate.client.http.Answer` is a handshake that was refused."""


class _State(Enum):
    HANDSHAKE = "the answer to the handshake is awaited"
    OPEN = "frames are exchanged"
    CLOSED = "nothing more is read"


class WebSocket:
    """One connection.

    :ivar request: the bytes to begin with.
    """

    def __init__(
        self,
        host: str,
        target: str,
        token: str,
        nonce: bytes,
        mask: Callable[[], bytes],
        largest: int = LARGEST,
    ) -> None:
        """Be ready.

        :param host: as the ``Host`` header has it.
        :param target: path and query.
        :param nonce: 16 random bytes (section 4.1).
        :param mask: makes 4 bytes that nobody can foretell (section 5.3).
        :param largest: most bytes of a message that is taken.
        :raises ValueError: if the host, the target or the token cannot stand in a request.
        """
        key = b64encode(nonce)
        self._accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest()).decode()
        self._mask = mask
        self._largest = largest
        self._state = _State.HANDSHAKE
        self._answer = http.AnswerReader()
        self._data = bytearray()
        self._parts: list[bytes] | None = None
        self._size = 0
        self.request = http.request(
            "GET",
            target,
            {
                "Host": host,
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": key.decode(),
                "Sec-WebSocket-Version": "13",
                "Authorization": f"Bearer {token}",
            },
        )

    # -- from the gateway

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes; return what they mean.

        :raises ProtocolViolation: if they break the protocol; the connection is good for nothing then.
        :raises MessageTooLarge: if a message is larger than is taken.
        """
        events: list[Event] = []
        if self._state is _State.HANDSHAKE:
            answer = self._answer.receive(data)
            if answer is None:
                return events
            data = answer.rest
            events.append(self._handshake(answer))
        if self._state is _State.OPEN:
            self._data += data
            self._read(events)
        return events

    def end(self) -> list[Event]:
        """The connection has ended; an answer may end with it."""
        answer = self._answer.end() if self._state is _State.HANDSHAKE else None
        self._state = _State.CLOSED
        return [] if answer is None else [answer]

    def _handshake(self, answer: http.Answer) -> Event:
        """Check the answer (section 4.1)."""
        if answer.status != 101:
            self._state = _State.CLOSED
            return answer
        headers = answer.headers
        connection = [token.strip().lower() for token in headers.get("connection", "").split(",")]
        if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in connection:
            raise ProtocolViolation("the handshake was answered with another protocol than WebSocket")
        if headers.get("sec-websocket-accept") != self._accept:
            raise ProtocolViolation("the handshake was answered with a wrong Sec-WebSocket-Accept")
        if "sec-websocket-extensions" in headers or "sec-websocket-protocol" in headers:
            raise ProtocolViolation("the handshake was answered with what was not asked for")
        self._state = _State.OPEN
        return Opened()

    def _read(self, events: list[Event]) -> None:
        """Take whole frames (section 5.2)."""
        data = self._data
        start = 0
        while self._state is _State.OPEN and len(data) >= start + 2:
            first, size, body = data[start], data[start + 1], start + 2
            if size & 0x80:
                raise ProtocolViolation("a frame of the gateway is masked")  # section 5.1
            if first & 0x70:
                raise ProtocolViolation("a frame has bits of extensions that were not agreed on")
            if size > 125:
                wide = 2 if size == 126 else 8
                if first & 0x08:
                    raise ProtocolViolation("a control frame is too long")  # section 5.5
                if len(data) < body + wide:
                    break
                size, shortest = int.from_bytes(data[body : body + wide], "big"), 126 if wide == 2 else 1 << 16
                body += wide
                if not shortest <= size < 1 << 63:
                    raise ProtocolViolation("the length of a frame is not in its shortest form")
                if self._size + size > self._largest:
                    raise MessageTooLarge(f"a message of the gateway is larger than {self._largest} bytes")
            if len(data) < body + size:
                break
            start = body + size
            self._frame(first, bytes(data[body:start]), events)
        del data[:start]

    def _frame(self, first: int, payload: bytes, events: list[Event]) -> None:
        final, opcode = bool(first & 0x80), first & 0x0F
        if opcode & 0x08:
            if not final:
                raise ProtocolViolation("a control frame is fragmented")  # section 5.4
            events.append(self._control(opcode, payload))
            return
        if opcode == _TEXT and self._parts is None:
            self._parts = []
        elif opcode != _CONTINUATION or self._parts is None:
            raise ProtocolViolation("a frame is neither text nor the continuation of a message")
        self._size += len(payload)
        if self._size > self._largest:
            raise MessageTooLarge(f"a message of the gateway is larger than {self._largest} bytes")
        self._parts.append(payload)
        if final:
            events.append(Text(b"".join(self._parts)))
            self._parts, self._size = None, 0

    def _control(self, opcode: int, payload: bytes) -> Event:
        if opcode == _PING:
            return Ping(payload)
        if opcode == _PONG:
            return Pong(payload)
        if opcode != _CLOSE:
            raise ProtocolViolation("a frame has an unknown opcode")
        self._state = _State.CLOSED
        if not payload:
            return Closing(_NO_CODE, "")
        code = int.from_bytes(payload[:2], "big")
        # Section 7.4: some codes are never sent, others nobody has defined.
        if len(payload) < 2 or not (1000 <= code <= 1014 or 3000 <= code < 5000) or code in (1004, 1005, 1006):
            raise ProtocolViolation("a close frame has no valid code")
        try:
            return Closing(code, payload[2:].decode())
        except UnicodeDecodeError:
            raise ProtocolViolation("the reason of a close frame is not UTF-8") from None

    # -- to the gateway

    def _masked(self, opcode: int, payload: bytes) -> bytes:
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size < 1 << 16:
            head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
        mask = self._mask()
        # One exclusive-or of two long integers, instead of one per byte.
        key = int.from_bytes((mask * ((size + 3) >> 2))[:size], "little")
        return head + mask + (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")

    def text(self, data: bytes) -> bytes:
        """A text message, which has to be UTF-8."""
        return self._masked(_TEXT, data)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping.

        :param payload: at most 125 bytes.
        """
        return self._masked(_PING, payload)

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping with this payload."""
        return self._masked(_PONG, payload)

    def close(self, code: int = 1000) -> bytes:
        """A close frame; nothing may be sent behind it."""
        return self._masked(_CLOSE, code.to_bytes(2, "big"))
