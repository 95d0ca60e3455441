"""The JSON frames of our WebSocket protocol, text to values and back; the RFC 6455 framing around them, and MQTT's.

Pure: no Twisted, no clock.  What a peer sends can raise only :class:`~flowgate.errors.Refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches

import attrs
import orjson

from flowgate.errors import InvalidJson, InvalidParameter, MissingField, Refused
from flowgate.message import Run
from flowgate.payloads import from_json, members, timestamp

Id = str | int
"""How a client names a frame, to find its answer."""

MAX_ID_LENGTH = 128
"""Longest ``id`` and ``key``, in characters."""

_MAX_ID_NUMBER = 2**53 - 1  # what every JSON implementation keeps exactly (RFC 8259 section 6)

TEXT, BINARY = 0x81, 0x82
"""The first byte of a whole message: FIN set, and the opcode (RFC 6455 section 5.2)."""

SHORT = 4096
"""Largest frame, in bytes of payload, that :func:`short_frame` takes: for larger ones native unmasking is faster."""

_SHOWN = 64  # characters of an unknown name that an error repeats


@attrs.frozen(slots=True)
class Subscribe:
    """``since`` and ``meta`` make it a reader of history; ``since`` is a cursor's text or ``None``.

    ``retained`` asks for what is retained before that, ``presence`` for who else is subscribed.
    """

    topic: str
    since: str | None
    meta: bool
    id: Id | None
    retained: bool = False
    presence: bool = False


@attrs.frozen(slots=True)
class Unsubscribe:
    topic: str
    id: Id | None


@attrs.frozen(slots=True)
class Publish:
    """``key`` is the client's idempotency key, or ``None``."""

    topic: str
    payload: bytes
    key: str | None
    id: Id | None


@attrs.frozen(slots=True)
class Ping:
    id: Id | None


@attrs.frozen(slots=True)
class Auth:
    token: str = attrs.field(repr=False)
    id: Id | None


@attrs.frozen(slots=True)
class Who:
    topic: str
    id: Id


Frame = Subscribe | Unsubscribe | Publish | Ping | Auth | Who


# -- from the client


def _text(frame: Mapping[str, object], name: str) -> str:
    value = frame.get(name)
    if type(value) is not str:
        if name not in frame:
            raise MissingField(f"'{name}' is missing")
        raise InvalidParameter(f"'{name}' must be a string")
    return value


def _flag(frame: Mapping[str, object], name: str) -> bool:
    value = frame.get(name, False)
    if type(value) is not bool:
        raise InvalidParameter(f"'{name}' must be true or false")
    return value


def _subscribe(frame: Mapping[str, object], id_: Id | None) -> Frame:
    since = _text(frame, "since") if "since" in frame else None
    meta, retained, presence = _flag(frame, "meta"), _flag(frame, "retained"), _flag(frame, "presence")
    return Subscribe(_text(frame, "topic"), since, meta, id_, retained, presence)


def _unsubscribe(frame: Mapping[str, object], id_: Id | None) -> Frame:
    return Unsubscribe(_text(frame, "topic"), id_)


def _publish(frame: Mapping[str, object], id_: Id | None) -> Frame:
    topic = _text(frame, "topic")
    try:
        payload = from_json(frame["message"])
    except KeyError:
        raise MissingField("'message' is missing") from None
    except TypeError:  # orjson reads deeper than it writes
        raise InvalidParameter("'message' is nested too deeply") from None
    key = None
    if "key" in frame:
        key = _text(frame, "key")
        if not 1 <= len(key) <= MAX_ID_LENGTH or not key.isprintable():
            raise InvalidParameter(f"'key' must be 1 to {MAX_ID_LENGTH} printable characters")
    return Publish(topic, payload, key, id_)


def _ping(frame: Mapping[str, object], id_: Id | None) -> Frame:
    return Ping(id_)


def _auth(frame: Mapping[str, object], id_: Id | None) -> Frame:
    return Auth(_text(frame, "token"), id_)


def _who(frame: Mapping[str, object], id_: Id | None) -> Frame:
    if id_ is None:
        raise MissingField("'id' is missing: the answer echoes it")
    return Who(_text(frame, "topic"), id_)


_ACTIONS: dict[str, tuple[Callable[[Mapping[str, object], Id | None], Frame], frozenset[str]]] = {
    "publish": (_publish, frozenset({"action", "id", "topic", "message", "key"})),
    "subscribe": (_subscribe, frozenset({"action", "id", "topic", "since", "meta", "retained", "presence"})),
    "unsubscribe": (_unsubscribe, frozenset({"action", "id", "topic"})),
    "ping": (_ping, frozenset({"action", "id"})),
    "auth": (_auth, frozenset({"action", "id", "token"})),
    "who": (_who, frozenset({"action", "id", "topic"})),
}


def _unknown(kind: str, name: str, known: frozenset[str]) -> InvalidParameter:
    shown = name[:_SHOWN]  # bounds the search too
    near = get_close_matches(shown, sorted(known), 1)
    hint = f"did you mean '{near[0]}'?" if near else "known are " + ", ".join(sorted(known))
    return InvalidParameter(f"unknown {kind} '{shown}'; {hint}")


def _check_id(value: object) -> Id:
    if type(value) is str and 1 <= len(value) <= MAX_ID_LENGTH:
        return value
    if type(value) is int and 0 <= value <= _MAX_ID_NUMBER:
        return value
    raise InvalidParameter(f"'id' must be a string of 1 to {MAX_ID_LENGTH} characters or an integer below 2^53")


def parse(text: str | bytes) -> Frame:
    """Read one frame.

    :raises InvalidJson: if it is not a JSON object.
    :raises MissingField: if a member is missing.
    :raises InvalidParameter: if a member is unknown, or of another type or size than it has to be.

    A refusal of a frame with a good ``id`` has it among its members, so that the answer echoes it.
    """
    try:
        frame = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidJson("a frame has to be one JSON object") from None
    if type(frame) is not dict:
        raise InvalidJson("a frame has to be one JSON object")
    id_ = _check_id(frame["id"]) if "id" in frame else None
    try:
        action = _text(frame, "action")
        found = _ACTIONS.get(action)
        if found is None:
            raise _unknown("action", action, frozenset(_ACTIONS))
        read, known = found
        if not frame.keys() <= known:
            raise _unknown("member", min(frame.keys() - known), known)
        return read(frame, id_)
    except Refused as refusal:
        if id_ is not None:
            refusal.members["id"] = id_
        raise


def short_frame(data: bytes, start: int, first: int) -> tuple[bytes, int] | None:
    """Take one whole, unfragmented, masked frame of at most :data:`SHORT` bytes (RFC 6455 section 5.2).

    :param data: what was read from the connection.
    :param start: where in it a frame begins.
    :param first: :data:`TEXT` or :data:`BINARY`.
    :returns: the payload and where the next frame begins; ``None`` for whatever else it is or may become.
    """
    if len(data) < start + 6 or data[start] != first:
        return None
    size = data[start + 1] - 0x80  # the mask bit: a client has to set it (section 5.1)
    body = start + 6
    if size == 126:
        size = int.from_bytes(data[start + 2 : start + 4], "big")
        body = start + 8
        if not 126 <= size <= SHORT:
            return None
    elif not 0 <= size < 126:
        return None
    end = body + size
    if end > len(data):
        return None
    # One exclusive-or of two long integers, instead of one per byte.
    key = int.from_bytes((data[body - 4 : body] * ((size + 3) >> 2))[:size], "little")
    return (int.from_bytes(data[body:end], "little") ^ key).to_bytes(size, "little"), end


def short_text(data: bytes, start: int) -> tuple[str, int] | None:
    """Take one text frame as :func:`short_frame` does; one that is not UTF-8 is left too."""
    found = short_frame(data, start, TEXT)
    if found is None:
        return None
    try:
        return found[0].decode(), found[1]
    except UnicodeDecodeError:
        return None


# -- to the client

_HEADS = tuple(bytes((TEXT, size)) for size in range(126))


def frame(first: int, payload: bytes) -> bytes:
    """``payload`` as one frame with this first byte, not masked (RFC 6455 sections 5.1, 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 0x10000:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def text_frame(payload: bytes) -> bytes:
    """``payload`` as one text frame."""
    size = len(payload)
    return _HEADS[size] + payload if size < 126 else frame(TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """``payload`` as one binary frame."""
    return frame(BINARY, payload)


Framing = Callable[[bytes], bytes]
"""How a message becomes a frame: :func:`text_frame`, or one that compresses it before."""


def _head(run: Run, full: bool) -> bytes:
    return b'{"action":"message","topic":' + orjson.dumps(run.topic.shown(full)) + b","


def encode_run(run: Run, full: bool, framing: Framing = text_frame) -> bytes:
    """All messages of a run as text frames, ready to be sent."""
    head = _head(run, full)
    return b"".join([framing(b"%b%b}" % (head, members(payload))) for payload in run.payloads])


def encode_run_with_meta(run: Run, full: bool, epoch: str, framing: Framing = text_frame) -> bytes:
    """As :func:`encode_run`, with the ``id`` and ``ts`` of every message that history holds.

    :param epoch: of the stream that ``run.sequences`` count in.
    """
    head = _head(run, full)
    frames: list[bytes] = []
    for index, payload in enumerate(run.payloads):
        meta = b""
        if run.sequences:
            meta += b',"id":"%b-%d"' % (epoch.encode(), run.sequences[index])
        if run.times:
            meta += b',"ts":"%b"' % timestamp(run.times[index]).encode()
        frames.append(framing(b"%b%b%b}" % (head, members(payload), meta)))
    return b"".join(frames)


def encode_retained(run: Run, full: bool, cursor: str = "", framing: Framing = text_frame) -> bytes:
    """A run of retained messages as text frames.

    :param cursor: where history goes on behind them, for a subscriber that wants to know.
    """
    head = _head(run, full)
    frames: list[bytes] = []
    for index, payload in enumerate(run.payloads):
        meta = b',"retained":true'
        if cursor:
            meta += b',"id":"%b","ts":"%b"' % (cursor.encode(), timestamp(run.times[index]).encode())
        frames.append(framing(b"%b%b%b}" % (head, members(payload), meta)))
    return b"".join(frames)


def _encode(frame: dict[str, object]) -> bytes:
    return text_frame(orjson.dumps(frame, default=str))


def ack(id_: Id, **facts: object) -> bytes:
    """The one positive answer to a frame that had an ``id``."""
    return _encode({"action": "ack", "id": id_, **facts})


def pong() -> bytes:
    return _PONG


def notice(code: str, **facts: object) -> bytes:
    """Something the client should know, not asked for."""
    return _encode({"action": "notice", "code": code, **facts})


def presence(topic: str, count: int, event: str | None = None, client: Mapping[str, str] | None = None) -> bytes:
    """Somebody has come or gone; without ``event`` only how many there are now."""
    frame: dict[str, object] = {"action": "presence", "topic": topic}
    if event is not None:
        frame |= {"event": event, "client": client}
    return _encode({**frame, "count": count})


def error(refusal: Refused, id_: Id | None = None, **facts: object) -> bytes:
    """A refusal; ``code`` and ``status`` are the same as over HTTP."""
    frame: dict[str, object] = {
        "action": "error",
        "code": refusal.code,
        "status": refusal.status,
        "detail": refusal.detail,
        **refusal.members,
        **facts,
    }
    if refusal.retry_after is not None:
        frame["retry_after"] = refusal.retry_after
    if id_ is not None:
        frame["id"] = id_
    return _encode(frame)


_PONG = _encode({"action": "pong"})

NO_PONG = 4408
SLOW = 4508
GOING_AWAY = 1001
TEXT_ONLY = 1003

_CLOSE_CODES = {401: 4401, 402: 4402, 403: 4403, 429: 4429}
"""The close code for the status of a refusal that ends the connection; 4400 for every other 4xx, 4500 for 5xx."""


def close_code(refusal: Refused) -> int:
    """The close code (4400–4499 the client's doing, 4500–4599 ours) for a refusal that ends the connection."""
    return _CLOSE_CODES.get(refusal.status, 4400 if refusal.status < 500 else 4500)
