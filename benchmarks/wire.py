"""The bytes that the load generators send, built once and then sent many times."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

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


def http_request(method: str, path: str, token: str, body: object = None, accept: str = "") -> bytes:
    """A request of HTTP/1.1 that keeps its connection; ``body`` is sent as JSON."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    if accept:
        head += f"Accept: {accept}\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    data = json.dumps(body, separators=(",", ":")).encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


class SqsRequests:
    """Requests of Amazon SQS's JSON protocol, signed (AWS Signature Version 4).

    The key that signs is derived once, and all that is the same in every request is put together once, so that a
    request costs two digests and an HMAC.  Signatures hold for 15 minutes, far longer than any job takes.

    :param api_key: id and secret with a dot between.
    :param now: seconds since 1970 UTC.
    """

    _REGION = "us-east-1"
    _TYPE = "application/x-amz-json-1.0"
    _SIGNED = "content-type;host;x-amz-date;x-amz-target"

    def __init__(self, api_key: str, host: str, now: Callable[[], float] = time.time) -> None:
        key_id, _, secret = api_key.partition(".")
        self._host = host
        self._time = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now()))
        scope = (self._time[:8], self._REGION, "sqs", "aws4_request")
        key = b"AWS4" + secret.encode()
        for part in scope:
            key = hmac.digest(key, part.encode(), "sha256")
        self._key = key
        self._to_sign = f"AWS4-HMAC-SHA256\n{self._time}\n{'/'.join(scope)}\n"
        self._authorization = (
            f"AWS4-HMAC-SHA256 Credential={key_id}/{'/'.join(scope)}, SignedHeaders={self._SIGNED}, Signature="
        )

    def request(self, operation: str, arguments: Mapping[str, object]) -> bytes:
        """A request that keeps its connection."""
        body = json.dumps(arguments, separators=(",", ":")).encode()
        target = f"AmazonSQS.{operation}"
        canonical = (
            f"POST\n/\n\ncontent-type:{self._TYPE}\nhost:{self._host}\nx-amz-date:{self._time}\n"
            f"x-amz-target:{target}\n\n{self._SIGNED}\n{hashlib.sha256(body).hexdigest()}"
        )
        to_sign = self._to_sign + hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        return (
            f"POST / HTTP/1.1\r\nHost: {self._host}\r\nX-Amz-Target: {target}\r\nContent-Type: {self._TYPE}\r\n"
            f"X-Amz-Date: {self._time}\r\nAuthorization: {self._authorization}{signature}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def sse_request(topic: str, token: str) -> bytes:
    """The request that opens a stream of Server-Sent Events."""
    return http_request("GET", "/api/v1/subscribe?" + urlencode({"topic": topic}), token, accept="text/event-stream")


def publish_request(topic: str, token: str, payload: bytes = PAYLOAD, *, nchan: bool = False) -> bytes:
    """The request that publishes one message; nchan takes the same body, and wants the channel in the query."""
    path = "/api/v1/publish?" + urlencode({"topic": topic}) if nchan else "/api/v1/publish"
    return http_request("POST", path, token, {"topic": topic, "message": payload.decode()}, "application/json")


def websocket_request(token: str, topic: str = "") -> bytes:
    """The opening handshake (RFC 6455 section 4.1).

    :param topic: named in the query, for a server that subscribes its clients by that.
    """
    key = base64.b64encode(b"sixteen bytes ok").decode()
    query = urlencode({"token": token, **({"topic": topic} if topic else {})})
    return (
        f"GET /ws?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def websocket_text(message: Mapping[str, object]) -> bytes:
    """A client's text frame of less than 64 KiB; masked with zeros, which leaves the text as it is."""
    data = json.dumps(message, separators=(",", ":")).encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + data
