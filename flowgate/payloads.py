"""Payloads and JSON: how a message's value becomes bytes, and how bytes are shown to JSON subscribers."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime, timezone

import orjson

from flowgate.errors import InvalidParameter


def from_json(value: object) -> bytes:
    """The payload for a JSON value: a string travels as its UTF-8 bytes, anything else as compact JSON.

    :raises InvalidParameter: if the value is nested too deeply.
    """
    if isinstance(value, str):
        return value.encode()
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # it writes fewer levels (254) than it reads (1024)
        raise InvalidParameter("the message is nested too deeply") from None


def members(payload: bytes) -> bytes:
    """The member ``"data"`` that shows ``payload``, with ``"encoding":"base64"`` behind it where that was needed.

    A JSON object or array is shown as such, other UTF-8 text as a string, other bytes in base64.  The result has no
    line breaks.
    """
    if payload.lstrip()[:1] in (b"{", b"["):
        try:
            orjson.loads(payload)
        except orjson.JSONDecodeError:
            pass  # not JSON after all: shown as text
        else:
            # Embedded as it is, so that numbers keep their digits.  A raw line break can only be white space between
            # tokens: inside strings JSON has it escaped (RFC 8259 section 7).
            if b"\n" in payload or b"\r" in payload:
                payload = payload.replace(b"\n", b" ").replace(b"\r", b" ")
            return b'"data":' + payload.strip()
    try:
        return b'"data":' + orjson.dumps(payload.decode())
    except UnicodeDecodeError:
        return b'"data":"' + b64encode(payload) + b'","encoding":"base64"'


def timestamp(nanoseconds: int) -> str:
    """When a message was stored, as JSON subscribers are shown it: RFC 3339, in UTC, to the millisecond.

    :param nanoseconds: since 1970 UTC.
    """
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    shown = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{shown}.{rest // 1_000_000:03d}Z"
