"""The stream that holds the topics: made, brought up to date, looked at."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import attrs

from flowgate.bus.link import Link, decode_json
from flowgate.bus.wire import nanoseconds
from flowgate.errors import BusUnavailable, StartError

LEAST_VERSION = (2, 14)
"""The first nats-server with fast batch publish."""

_NO_SUCH_STREAM = 10059
_NAME_IN_USE = 10058
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


@attrs.frozen(slots=True)
class StreamSettings:
    """What the stream keeps.

    :ivar name: of the stream.
    :ivar per_topic: messages kept per topic, acknowledged and unacknowledged ones counted apart.
    :ivar max_age: seconds.
    :ivar replicas: servers that hold each message.
    :ivar duplicate_window: seconds within which a message id is stored once.
    :ivar republish: whether the server passes on what it stored, for nodes that share it.
    """

    name: str = "FG_TOPICS"
    per_topic: int = 1000
    max_age: int = 24 * 3600
    replicas: int = 1
    duplicate_window: int = 300
    republish: bool = True

    def config(self) -> dict[str, Any]:
        """The stream's configuration as the JetStream API writes it."""
        second = 1_000_000_000
        return {
            "name": self.name,
            "subjects": ["fg.log.>", "fg.live.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": self.max_age * second,
            "max_msgs_per_subject": self.per_topic,
            "num_replicas": self.replicas,
            "duplicate_window": min(self.duplicate_window, self.max_age) * second,
            "allow_direct": True,
            "allow_msg_ttl": True,
            "allow_batched": True,
            "republish": {"src": "fg.log.>", "dest": "fg.out.>"} if self.republish else None,
        }


@attrs.frozen(slots=True)
class StreamState:
    """What the stream holds now.

    :ivar epoch: names the making of the stream.
    :ivar first: the oldest sequence that is still there; one behind the last if nothing is.
    :ivar last: the newest sequence that was given.
    :ivar aged: whether the stream is old enough for messages to have gone by their age.
    """

    epoch: str
    first: int
    last: int
    aged: bool


def check_version(info_version: object) -> None:
    """Check what a server says of its version.

    :raises StartError: if it is older than :data:`LEAST_VERSION`.
    """
    text = str(info_version or "unknown")
    parts = text.lstrip("v").split(".")
    try:
        found = (int(parts[0]), int(parts[1]))
    except (ValueError, IndexError):
        found = (0, 0)
    if found < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise StartError(f"nats-server {least} or later is needed, and the one found is {text}")


def epoch_of(created: str) -> str:
    """A short name for a moment of making."""
    number = int.from_bytes(hashlib.blake2b(created.encode(), digest_size=5).digest(), "big")
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return digits


async def _ask(link: Link, verb: str, settings: StreamSettings, body: object) -> dict[str, Any]:
    payload = b"" if body is None else json.dumps(body).encode()
    return decode_json(await link.request(f"$JS.API.STREAM.{verb}.{settings.name}", payload))


def _error(answer: dict[str, Any]) -> int:
    error: dict[str, Any] | None = answer.get("error")
    return int(error.get("err_code") or error.get("code") or -1) if isinstance(error, dict) else 0


def _reason(answer: dict[str, Any]) -> str:
    return str(answer["error"].get("description", "unknown error"))


async def ensure_stream(link: Link, settings: StreamSettings) -> StreamState:
    """Make the stream, or give it the settings if it exists.

    :raises BusUnavailable: if JetStream does not answer, or not now.
    :raises StartError: if the server refuses what we need.
    """
    config = settings.config()
    answer = await _ask(link, "INFO", settings, None)
    if _error(answer) == _NO_SUCH_STREAM:
        answer = await _ask(link, "CREATE", settings, config)
        if _error(answer) == _NAME_IN_USE:  # another node was faster, with other settings
            answer = await _ask(link, "INFO", settings, None)
    if not _error(answer):
        present = answer["config"]
        if any(present.get(key) != value for key, value in config.items()):
            answer = await _ask(link, "UPDATE", settings, {**present, **config})
    if _error(answer):
        text = f"the stream {settings.name} cannot be made: {_reason(answer)}"
        # 503 is about now, not about what we ask
        raise BusUnavailable(text) if answer["error"].get("code") == 503 else StartError(text)
    if config.get("allow_batched") and not answer["config"].get("allow_batched"):
        raise StartError(f"the stream {settings.name} does not take fast batches: the nats-server is too old")
    return _state(answer)


def _state(answer: dict[str, Any]) -> StreamState:
    state = answer["state"]
    created = answer["created"]
    age = nanoseconds(answer["ts"].encode()) - nanoseconds(created.encode())
    aged = age >= int(answer["config"]["max_age"]) > 0
    return StreamState(epoch_of(created), state["first_seq"], state["last_seq"], aged)


async def stream_info(link: Link, settings: StreamSettings) -> StreamState:
    """What the stream holds now, as its leader knows it.

    :raises BusUnavailable: if JetStream does not answer.
    """
    answer = await _ask(link, "INFO", settings, None)
    if _error(answer):
        raise BusUnavailable(f"the stream {settings.name} cannot be read: {_reason(answer)}")
    return _state(answer)


async def full_subjects(link: Link, settings: StreamSettings, subject: str) -> list[str]:
    """The subjects under ``subject`` that hold as many messages as they may, so that older ones may be gone.

    :raises BusUnavailable: if JetStream does not answer.
    """
    full: list[str] = []
    offset = 0
    while True:
        answer = await _ask(link, "INFO", settings, {"subjects_filter": subject, "offset": offset})
        if _error(answer):
            raise BusUnavailable(f"the stream {settings.name} cannot be read: {_reason(answer)}")
        subjects = answer["state"].get("subjects") or {}
        full += [name for name, count in subjects.items() if count >= settings.per_topic]
        offset += len(subjects)
        if not subjects or offset >= int(answer.get("total", 0)):
            return full
