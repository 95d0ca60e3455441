"""The bytes that the load generators send, built once and then sent many times."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from urllib.parse import quote, urlencode

MARK = b"~"
"""Stands once in every payload and nowhere in any protocol's framing: one byte, so that no read can split it."""

PAYLOAD = b"x" * 63 + MARK
"""What every message carries: 64 bytes of text."""


def _remaining_length(length: int) -> bytes:
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | 128 if length else digit)
        if not length:
            return bytes(encoded)


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _remaining_length(len(body)) + body


def mqtt_connect(client_id: str, password: str | None = None, keep_alive: int = 600, clean: bool = True) -> bytes:
    """An MQTT 3.1.1 CONNECT; with a password the user is ``Bearer``.

    :param keep_alive: seconds.
    :param clean: a clean session; else one that outlives the connection.
    """
    flags = (0x02 if clean else 0) | (0 if password is None else 0xC0)
    body = _text("MQTT") + bytes([4, flags]) + keep_alive.to_bytes(2, "big") + _text(client_id)
    if password is not None:
        body += _text("Bearer") + _text(password)
    return _packet(0x10, body)


def mqtt_subscribe(topic: str, qos: int = 0) -> bytes:
    """A SUBSCRIBE to one filter, with packet id 1."""
    return _packet(0x82, b"\x00\x01" + _text(topic) + bytes([qos]))


MQTT_DISCONNECT = b"\xe0\x00"


def mqtt_publish(
    topic: str, packet_id: int = 0, payload: bytes = PAYLOAD, qos: int | None = None, retain: bool = False
) -> bytes:
    """A PUBLISH: at QoS 0, or at QoS 1 if there is a packet id and nothing else is said."""
    identifier = packet_id.to_bytes(2, "big") if packet_id else b""
    if qos is None:
        qos = 1 if packet_id else 0
    return _packet(0x30 | qos << 1 | retain, _text(topic) + identifier + payload)


def publish_ring(topic: str, count: int, qos: int) -> bytes:
    """``count`` PUBLISH packets of one size, to be sent round and round; above QoS 0 their ids are 1 to ``count``."""
    return b"".join(mqtt_publish(topic, one if qos else 0, qos=qos) for one in range(1, count + 1))


def mixed_ring(topic: str, count: int) -> bytes:
    """``count`` PUBLISH packets at QoS 0 whose payloads have 32 to 96 bytes, 64 on average over 66 packets."""
    sizes = [32 + 25 * one % 33 for one in range(33)]
    sizes = [size for half in sizes for size in (half, 128 - half)]
    return b"".join(mqtt_publish(topic, payload=PAYLOAD.rjust(96, b"x")[-sizes[n % 66] :]) for n in range(count))


def http_request(method: str, path: str, token: str, body: object = None) -> bytes:
    """A request of HTTP/1.1 that keeps its connection; ``body`` is sent as JSON."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    data = json.dumps(body, separators=(",", ":")).encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def sse_request(topic: str, token: str) -> bytes:
    """The request that opens a stream of Server-Sent Events."""
    return http_request("GET", "/api/v1/subscribe?" + urlencode({"topic": topic}), token)


def websocket_request(token: str) -> bytes:
    """The opening handshake (RFC 6455 section 4.1)."""
    key = base64.b64encode(b"sixteen bytes ok").decode()
    return (
        f"GET /ws?token={quote(token)} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def websocket_text(message: Mapping[str, object]) -> bytes:
    """A client's text frame of less than 64 KiB; masked with zeros, which leaves the text as it is."""
    data = json.dumps(message, separators=(",", ":")).encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + data
