"""Queues as values: names, configuration, messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final

import attrs

from flowgate.errors import InvalidParameter

MAX_RECEIVE: Final = 10
MAX_WAIT: Final = 20
MAX_VISIBILITY: Final = 43_200
MAX_ATTRIBUTE_BYTES: Final = 60 * 1024
"""Of a message's attributes as ASCII JSON: the bus carries them in a header, and headers have 64 KiB together."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")
_FIFO = ".fifo"


def check_name(name: str) -> None:
    """Check the name of a queue.

    :raises InvalidParameter: if it is not 1–80 of ``[A-Za-z0-9_-]``, or is that of a FIFO queue.
    """
    if name.endswith(_FIFO) and len(name) <= 80 and _NAME.match(name[: -len(_FIFO)]):
        raise InvalidParameter("FIFO queues (names that end in .fifo) are not offered yet")
    if not _NAME.match(name):
        raise InvalidParameter("the name of a queue is 1 to 80 of A-Z, a-z, 0-9, '_' and '-'")


def check_range(name: str, value: object, least: int, most: int) -> int:
    """Check a whole number.

    :returns: ``value``.
    :raises InvalidParameter: if it is something else, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidParameter(f"{name} must be a whole number from {least} to {most}")
    return value


_RANGES: Final = {
    "visibility": (0, MAX_VISIBILITY),
    "delay": (0, 900),
    "receive_wait": (0, MAX_WAIT),
    "max_message_bytes": (1024, 1024 * 1024),
    "retention": (60, 1_209_600),
}


@attrs.frozen(slots=True)
class QueueConfig:
    """How a queue behaves; times in seconds.

    :ivar visibility: how long a received message is hidden if the receiver does not say.
    :ivar delay: how long a new message is hidden; only 0 so far.
    :ivar receive_wait: how long a receive waits if the receiver does not say.
    :ivar max_message_bytes: largest body and attributes together.
    :ivar retention: how long a message is kept.
    """

    visibility: int = 30
    delay: int = 0
    receive_wait: int = 0
    max_message_bytes: int = 1024 * 1024
    retention: int = 345_600

    @classmethod
    def parse(cls, members: Mapping[str, object]) -> QueueConfig:
        """Read a configuration; what is absent has its default.

        :raises InvalidParameter: if a member is unknown or out of range, with its name.
        """
        values = {}
        for name, value in members.items():
            if name == "type" and value == "standard":
                continue
            if name == "type" and value == "fifo":
                raise InvalidParameter("FIFO queues (type fifo) are not offered yet")
            if name == "type":
                raise InvalidParameter("type must be standard")
            if name not in _RANGES:
                raise InvalidParameter(f"{name} is not a member of a queue's configuration")
            values[name] = check_range(name, value, *_RANGES[name])
        if values.get("delay"):
            raise InvalidParameter("delay is not offered yet: it must be 0")
        return cls(**values)

    def members(self) -> dict[str, object]:
        """The configuration as JSON members, as :meth:`parse` reads it."""
        return {"type": "standard", **attrs.asdict(self)}


class Configured(Enum):
    """What became of a wish for a configuration."""

    CREATED = "created"
    SAME = "same"


@attrs.frozen(slots=True)
class QueueDescription:
    """A queue that exists.

    :ivar created_at: seconds since 1970 UTC.
    """

    name: str
    config: QueueConfig
    created_at: int


@attrs.frozen(slots=True)
class Sent:
    """A message that a queue has stored.

    :ivar md5: of the body, 32 hexadecimal digits: what SQS clients compare.
    """

    id: str
    md5: str
    sequence: int


@attrs.frozen(slots=True)
class ReceivedMessage:
    """A message as its receiver sees it.

    :ivar receipt: names this receive, for delete and change of visibility.
    :ivar receive_count: how often it was handed out, this time included.
    :ivar sent_at: when it was stored, in milliseconds since 1970 UTC.
    """

    id: str
    receipt: str
    body: str
    md5: str
    receive_count: int
    sent_at: int
    sequence: int
    attributes: dict[str, object] = attrs.field(factory=dict)
